//! Whether a publication can be published at all. A PUBLISH is judged when it comes, a will with its CONNECT: what NATS will
//! never take is refused while somebody is there to be told.
//!
//! **Invariant:** a will that is accepted can be published when its time comes, as far as the message itself decides that:
//! its topic, its headers and its size are judged by the code that publishes, with all that is added later.

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;
use mqtt_codec::{Connect, QoS, ReasonCode};
use mqtt_ownership::{Epoch, ServerTime};
use mqtt_session::{Publication, Sequence};
use proto_map::Headers;

use super::Publishing;
use super::completions::Completions;
use super::job::{Job, PutToken, Refused, Stage, Unstorable};
use crate::account::ownership::records;
use crate::account::publish::convert;
use crate::account::rights::Rights;
use crate::account::{Account, DeniedPublish, TooLarge};
use crate::metrics::{DropReason, Limit};

/// Longest header block that JetStream stores, in bytes.
const STORED_HEADERS_MAX: usize = 65_535;

/// Room for what is added to the headers of a message when it is sent: a time to live, what makes a deletion of it, marks.
const ADDED_HEADERS: usize = 512;

/// Room in a session's record beside its will, in bytes: client id, address, some subscriptions.
const RECORD_ROOM: usize = 16 * 1024;

impl Account {
    /// Judges the will of a CONNECT as the same PUBLISH is judged.
    ///
    /// # Errors
    /// The reason code of the CONNACK that refuses it: in MQTT 5 that of the PUBLISH, in 3.x "not authorized".
    pub(crate) fn judge_will(
        self: &Arc<Self>,
        connect: &Connect,
        client_id: &ByteString,
        rights: &Arc<Rights>,
    ) -> Result<(), ReasonCode> {
        if connect.will.is_some() && rights.principal().rules.will_denied {
            return Err(ReasonCode::NotAuthorized);
        }
        let Some(will) = records::stored_will(connect, Sequence(0)) else { return Ok(()) };
        if will.size() > self.options.quotas.will_size {
            let reason = self.refusals.refuse(Limit::WillSize, client_id);
            return Err(if connect.version.is_v5() { reason } else { ReasonCode::NotAuthorized });
        }
        // Of the longest epoch.
        let Some(publication) = records::will_publication(&will, Epoch(u64::MAX)) else { return Ok(()) };
        // Without a key the client id is refused.
        let Some(key) = self.client_key(client_id) else { return Ok(()) };
        let completions = Arc::new(Completions::new(self.next_session_id(), client_id.clone(), connect.version));
        let judged =
            Publishing::new(Arc::clone(self), completions, Some(key)).by(Arc::clone(rights)).judge(&publication);
        let record_len = serde_json::to_vec(&will).map_or(usize::MAX, |json| json.len() + RECORD_ROOM);
        let refused = match judged {
            Ok(()) if record_len <= self.store.core().max_payload() => return Ok(()),
            Ok(()) => Refused::TooLarge,
            // It is dropped without a word then, as the PUBLISH is, by whoever publishes it. What its client may not do not
            // everybody knows who may publish it.
            Err(Refused::Closed) if !connect.version.is_v5() && self.drops_denied() => return Ok(()),
            Err(refused) => refused,
        };
        if refused == Refused::TooLarge {
            self.tell_size_refusal(client_id, TooLarge::Message(publication.payload.len() + ADDED_HEADERS));
        }
        let (client_id, topic) = (client_id.escape_debug().to_string(), will.topic.escape_debug().to_string());
        tracing::info!(client_id, topic, reason_code = ?refused.reason_code(), why = refused.why(), "a will was refused");
        Err(if connect.version.is_v5() { refused.reason_code() } else { ReasonCode::NotAuthorized })
    }

    fn drops_denied(&self) -> bool {
        self.options.denied_publish == DeniedPublish::Drop
    }
}

impl Refused {
    /// What it means, for the log.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Closed => "its topic is in a tree that is closed to devices; open_trees opens parts of some",
            Self::Denied => "its client may not publish that",
            Self::Unstored(_) => "its account has no JetStream: it takes QoS 0 without RETAIN only",
            Self::Late => "it answers a request whose time is over",
            Self::Unmappable(_) => "NATS has no subject for its topic",
            Self::TooLarge => "NATS takes no message or headers of its size",
            Self::OverPayload => "its payload is larger than its user or account may send",
            Self::OverLimit => "a limit of what is retained is reached: mqtt.max_retained_messages, _bytes or _size",
            Self::NoRoom => "there are as many of its kind as there may be",
        }
    }

    /// Which count it belongs to.
    pub(crate) const fn drop_reason(self) -> DropReason {
        match self {
            Self::Closed | Self::Denied | Self::Unstored(_) | Self::Late | Self::Unmappable(_) => {
                DropReason::NotAuthorized
            }
            Self::TooLarge | Self::OverPayload => DropReason::TooLarge,
            Self::NoRoom | Self::OverLimit => DropReason::QueueFull,
        }
    }

    /// How a client is told.
    pub(crate) const fn reason_code(self) -> ReasonCode {
        match self {
            Self::Closed | Self::Denied => ReasonCode::NotAuthorized,
            Self::Late => ReasonCode::TopicNameInvalid,
            Self::Unmappable(reason) | Self::Unstored(reason) => reason,
            Self::TooLarge | Self::OverPayload | Self::NoRoom | Self::OverLimit => ReasonCode::QuotaExceeded,
        }
    }
}

impl Publishing {
    /// Judges a publication that is published later, if at all.
    fn judge(&mut self, publication: &Publication) -> Result<(), Refused> {
        if self.rights().is_some_and(|rights| !rights.may_send(publication.payload.len())) {
            return Err(Refused::OverPayload);
        }
        if self.account.requests.is_reply_topic(&publication.topic) {
            // Whether it answers a request shows when it is published; an answer is never retained.
            return if publication.retain { Err(Refused::Closed) } else { Ok(()) };
        }
        let response_topic = publication.properties.as_deref().and_then(|p| p.response_topic.as_ref());
        if response_topic.is_some_and(|topic| self.account.router.closed().is_closed_topic(topic)) {
            return Err(Refused::Closed);
        }
        if let Some(judged) = self.judge_own_state(publication) {
            return judged;
        }
        self.may_publish(publication)?;
        let route = self.route_of(&publication.topic)?;
        let stages = [(Stage::Log, publication.qos > QoS::AtMostOnce), (Stage::Bucket, publication.retain)];
        let retained_at = publication.retain.then_some(Sequence::MAX);
        for (stage, _) in stages.into_iter().filter(|(_, is_stored)| *is_stored) {
            let (publication, route) = (publication.clone(), route.clone());
            let (since, began, maybe_above, logged_at) = (ServerTime(0), Instant::now(), None, None);
            let job = Job { publication, route, retained_at, since, began, stage, maybe_above, logged_at };
            let put = self.put(&job, PutToken(0)).map_err(|_: Unstorable| Refused::TooLarge)?;
            self.judge_size(&put.headers, put.payload.len(), STORED_HEADERS_MAX)?;
        }
        let (client, id) = (self.named_publisher(), self.own_id(publication));
        let headers = convert::live_headers(publication, retained_at, route.is_escaped, true, client, id);
        let headers = headers.map_err(|_| Refused::TooLarge)?;
        self.judge_size(&headers, publication.payload.len(), usize::MAX)
    }

    fn judge_size(&self, headers: &Headers, payload_len: usize, headers_max: usize) -> Result<(), Refused> {
        let lines = headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        let headers_len = lines.sum::<usize>() + ADDED_HEADERS;
        if headers_len > headers_max || headers_len + payload_len > self.account.store.core().max_payload() {
            return Err(Refused::TooLarge);
        }
        Ok(())
    }
}
