//! How much a client may have, and what is said of it when it wants more.
//!
//! **Invariant:** whatever a client can make grow has a limit here or in the configuration of what holds it, and who meets it
//! is told by a reason code, counted, and named in the log together with the key that moves the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt_codec::ReasonCode;

use crate::account::clock::uptime;
use crate::metrics::{AccountMetrics, Limit};

/// How often it is said in the log that a limit was met; in between at debug.
const SAID_EVERY_MS: u64 = 3_600_000;

/// How much clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// Topic filters of one SUBSCRIBE.
    pub filters_per_packet: usize,
    /// Bytes of a topic filter without the share name.
    pub filter_length: usize,
    /// Bytes that the subscriptions of a session take in its record.
    pub session_size: usize,
    /// Sessions of the account that outlive their connections.
    pub sessions: usize,
    /// Bytes of a will, its properties included.
    pub will_size: usize,
    /// Bytes that sessions take which are being opened or left.
    pub opening_size: usize,
    /// Retained messages of the account.
    pub retained_messages: usize,
    /// Bytes of them: topics, headers and payloads.
    pub retained_bytes: usize,
    /// Bytes of the payload of one.
    pub retained_size: usize,
    /// Groups of shared subscriptions, above QoS 0, of the account.
    pub groups: usize,
    /// Groups of shared subscriptions that one client is a member of.
    pub groups_per_client: usize,
    /// Bytes of a share name.
    pub share_name_length: usize,
}

impl Limit {
    /// The key of the configuration.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Subscriptions => "mqtt.max_subscriptions",
            Self::UserSubscriptions => "`subs` of the user or of its account",
            Self::Accounts => "nats.max_accounts",
            Self::AccountConnections => "`conn` of the account",
            Self::FiltersPerPacket => "mqtt.max_filters_per_packet",
            Self::FilterLength => "mqtt.max_filter_length",
            Self::SessionSize => "mqtt.max_session_size",
            Self::Sessions => "mqtt.max_sessions",
            Self::WillSize => "mqtt.max_will_size",
            Self::OpeningSize => "mqtt.max_opening_size",
            Self::RetainedMessages => "mqtt.max_retained_messages",
            Self::RetainedBytes => "mqtt.max_retained_bytes",
            Self::RetainedSize => "mqtt.max_retained_size",
            Self::Groups => "jetstream.shared.max_groups",
            Self::Consumers => "max_consumers of a stream (1,000 unless nats-server is told otherwise)",
            Self::GroupsPerClient => "jetstream.shared.max_groups_per_client",
            Self::ShareNameLength => "jetstream.shared.max_name_length",
            Self::TopicLevels => "mqtt.max_topic_levels",
            Self::PacketSize => "mqtt.max_packet_size",
            Self::MessageSize => "max_payload of nats-server, or max_msg_size of a stream",
            Self::BridgeStates => "the number of clients that say something below $SYS/broker/connection",
            Self::Connections => "limits.connections",
            Self::ListenerConnections => "limits.connections of the listener",
            Self::ConnectionsPerAddress => "limits.connections_per_address",
            Self::ConnectionsPerUser => "limits.connections_per_user, or `mqtt:connections` of the user,",
            Self::ConnectionRate => "limits.connection_rate",
            Self::ConnectionRatePerAddress => "limits.connection_rate_per_address",
            Self::Bans => "the number of bans in force",
            Self::MessageRate => "limits.message_rate, or `mqtt:msg-rate` of the user,",
            Self::ByteRate => "limits.byte_rate, or `mqtt:byte-rate` of the user,",
            Self::MessageRatePerUser => "limits.message_rate_per_user",
            Self::ByteRatePerUser => "limits.byte_rate_per_user",
            Self::MessageRatePerAccount => "limits.message_rate_per_account",
            Self::ByteRatePerAccount => "limits.byte_rate_per_account",
            Self::Handshakes => "listeners.max_handshakes",
        }
    }

    /// What the client is told.
    pub(crate) const fn reason_code(self) -> ReasonCode {
        match self {
            Self::FilterLength | Self::ShareNameLength | Self::TopicLevels => ReasonCode::TopicFilterInvalid,
            Self::PacketSize => ReasonCode::PacketTooLarge,
            // It may come again, unlike what is too much of something.
            Self::Handshakes | Self::OpeningSize => ReasonCode::ServerBusy,
            Self::ConnectionRate | Self::ConnectionRatePerAddress => ReasonCode::ConnectionRateExceeded,
            // Nobody is told; what is beyond is read later.
            Self::MessageRate
            | Self::ByteRate
            | Self::MessageRatePerUser
            | Self::ByteRatePerUser
            | Self::MessageRatePerAccount
            | Self::ByteRatePerAccount => ReasonCode::MessageRateTooHigh,
            Self::Subscriptions
            | Self::UserSubscriptions
            | Self::Accounts
            | Self::AccountConnections
            | Self::Connections
            | Self::ListenerConnections
            | Self::ConnectionsPerAddress
            | Self::ConnectionsPerUser
            | Self::Bans
            | Self::FiltersPerPacket
            | Self::SessionSize
            | Self::Sessions
            | Self::WillSize
            | Self::RetainedMessages
            | Self::RetainedBytes
            | Self::RetainedSize
            | Self::Groups
            | Self::Consumers
            | Self::GroupsPerClient
            | Self::MessageSize
            | Self::BridgeStates => ReasonCode::QuotaExceeded,
        }
    }
}

/// Says that limits were met.
#[derive(Debug)]
pub(crate) struct Refusals {
    metrics: Arc<AccountMetrics>,
    /// When it was said of each; 0: never.
    said_at_ms: [AtomicU64; Limit::COUNT],
}

impl Refusals {
    pub(in crate::account) fn new(metrics: Arc<AccountMetrics>) -> Self {
        Self { metrics, said_at_ms: [const { AtomicU64::new(0) }; Limit::COUNT] }
    }

    /// A client was refused something because of a limit. Returns the reason code for it.
    pub(crate) fn refuse(&self, limit: Limit, client_id: &str) -> ReasonCode {
        self.metrics.over_limit(limit);
        let (key, reason_code) = (limit.key(), limit.reason_code());
        let client_id = client_id.escape_debug().to_string();
        if self.is_to_be_said(limit) {
            tracing::warn!(
                client_id,
                ?reason_code,
                "refused: {key} is reached; raise it if this client is right (mqtt_over_limit_total counts on, and this \
                 is said once an hour)"
            );
        } else {
            tracing::debug!(client_id, ?reason_code, "refused: {key} is reached");
        }
        reason_code
    }

    /// A client sends faster than it may: what is beyond is read later.
    pub(crate) fn hold_back(&self, limit: Limit, client_id: &str) {
        self.metrics.over_limit(limit);
        let (key, client_id) = (limit.key(), client_id.escape_debug().to_string());
        if self.is_to_be_said(limit) {
            tracing::warn!(
                client_id,
                "held back: {key} is reached, and what is beyond is read later; raise it if this client is right \
                 (mqtt_over_limit_total counts on, and this is said once an hour)"
            );
        } else {
            tracing::debug!(client_id, "held back: {key} is reached");
        }
    }

    fn is_to_be_said(&self, limit: Limit) -> bool {
        let Some(said) = self.said_at_ms.get(limit as usize) else { return false };
        // Never 0, which is "never".
        let now = uptime().0 + 1;
        let last = said.load(Ordering::Relaxed);
        (last == 0 || now.saturating_sub(last) >= SAID_EVERY_MS)
            && said.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_limit_is_counted_each_time_and_named_once() {
        let process = Metrics::new();
        let metrics = process.account();
        let refusals = Refusals::new(Arc::clone(&metrics));
        assert!(refusals.is_to_be_said(Limit::Subscriptions));
        assert!(!refusals.is_to_be_said(Limit::Subscriptions));
        assert!(refusals.is_to_be_said(Limit::SessionSize), "another limit is other news");
        for _ in 0..3 {
            assert_eq!(refusals.refuse(Limit::FilterLength, "c"), ReasonCode::TopicFilterInvalid);
        }
        assert!(process.render().contains("mqtt_over_limit_total{limit=\"filter_length\"} 3"));
    }
}
