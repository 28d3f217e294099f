//! Wills, each published exactly once, whoever dies meanwhile. A will that is due is marked in the record of its
//! session before it is published, with its message id and the position of the log; whoever finds the mark looks in the
//! log first. The mark is written by compare-and-swap, so of all who would publish a will one does.
//!
//! ```text
//! Armed -> (due) Firing{id, after} -> in the log -> gone from the record
//! Armed, due_at -> (cancelled by a new connection of the session) -> gone
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{QoS, ReasonCode, Version};
use proto_map::MessageName;

use super::Broker;
use super::mailbox::{Mailbox, Wakes};
use super::publishing::Publishing;
use super::records::{self, WILL_NUMBER};
use crate::metrics::WillCause;
use crate::store::{LastWill, Rest, SessionRecord, StoredWill, Unavailable, WillState, WriteError};

/// How long to wait before a write is tried again that JetStream did not take.
const RETRY: Duration = Duration::from_secs(1);

/// How long a record waits for its will to be published, in seconds, after the session has expired.
const WILL_PATIENCE_S: u32 = 600;

/// When the will of a session that is not connected any more is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Now.
    Now,
    /// In this many milliseconds.
    InMs(u64),
}

/// When a will is due after the connection ended: after its delay, or with the end of the session [MQTT-3.1.3-9].
pub(crate) const fn due(will: &StoredWill, expiry_s: u32) -> Due {
    let delay_s = if will.delay_s < expiry_s { will.delay_s } else { expiry_s };
    if delay_s == 0 { Due::Now } else { Due::InMs(delay_s as u64 * 1000) }
}

impl Broker {
    /// Marks a will as being published.
    pub(crate) fn mark_firing(&self, will: &mut StoredWill, client_id: &str, epoch: u64) {
        let is_id = |(name, value): &&(String, String)| name == proto_map::name::NATS_MSG_ID && !value.is_empty();
        let name = match will.user_properties.iter().find(is_id) {
            Some((_, id)) => MessageName::ById { client_id, id },
            None => MessageName::OfSession { client_id, epoch, number: WILL_NUMBER },
        };
        let keys = self.store.keys();
        let id = keys.ring().at(keys.now_ms()).message_id(name).to_string();
        // From the CONNECT on: a record can come back that JetStream had deleted, when its server was killed.
        will.state = WillState::Firing { id, after: will.since };
        will.due_at_ms = None;
    }

    /// Publishes a will whose mark is in the record. `epoch`: that of the connection that it was the will of. False when it
    /// may not be stored: it is to be tried again. A will that is refused is done with.
    pub(crate) async fn publish_will(
        self: &Arc<Self>,
        client_id: &str,
        will: &StoredWill,
        epoch: u64,
        cause: WillCause,
    ) -> bool {
        let Some(mut publication) = records::will_publication(will, epoch) else { return true };
        let is_stored = publication.qos != QoS::AtMostOnce;
        publication.token = is_stored.then_some(0);
        let client_id = ByteString::from(client_id);
        let key = self.client_key(&client_id);
        let limits = self.options.mailbox;
        let mailbox = Arc::new(Mailbox::new(self.next_session_id(), client_id, Version::V5, u32::MAX, limits));
        let mut publishing = Publishing::of_will(Arc::clone(self), Arc::clone(&mailbox), key, epoch);
        if let WillState::Firing { id, .. } = &will.state {
            publishing.name_as(id);
        }
        if let Err(refusal) = publishing.publish(publication, &mut Wakes::default()) {
            let (publication, refused) = *refusal;
            let topic = publication.topic.as_str();
            tracing::info!(client_id = &*mailbox.client_id, topic, ?refused, "a will was refused");
            return true;
        }
        let answers = publishing.settle(self, &mailbox, None).await;
        // Nothing acknowledges a will at QoS 0. When we die before its mark is gone, it is published again.
        let is_done = !is_stored || answers.is_some_and(|answers| answers.iter().any(|(_, result)| is_final(result)));
        if is_done {
            self.metrics.will(cause);
        } else {
            tracing::warn!(client_id = &*mailbox.client_id, "a will could not be stored yet");
        }
        is_done
    }

    /// Puts a session in order that is not connected: its wills are published, each at its time, and it ends if it was to
    /// end with its connection. Tried until it is done, or the session has another owner.
    pub(crate) fn put_in_order(self: &Arc<Self>, client_id: String, epoch: u64, in_ms: u64, cause: WillCause) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(in_ms)).await;
            let Ok(_room) = Arc::clone(&broker.ordering).acquire_owned().await else { return };
            broker.put_in_order_now(&client_id, epoch, cause).await;
        });
    }

    /// The same now, for whoever has room for it.
    pub(super) async fn put_in_order_now(self: &Arc<Self>, client_id: &str, epoch: u64, cause: WillCause) {
        loop {
            match self.try_put_in_order(client_id, epoch, cause).await {
                // A new connection of the session was faster, and takes care of the rest.
                Ok(()) | Err(WriteError::Fenced) => return,
                Err(error) => tracing::debug!(client_id, %error, "a session waits for JetStream to be put in order"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_put_in_order(
        self: &Arc<Self>,
        client_id: &str,
        epoch: u64,
        cause: WillCause,
    ) -> Result<(), WriteError> {
        let unavailable = |error: Unavailable| WriteError::Unavailable { reason: error.reason };
        let loaded = self.store.sessions().load(client_id).await.map_err(unavailable)?;
        let Some(record) = loaded.record.filter(|r| r.epoch == epoch && !r.connected) else { return Ok(()) };
        self.finish_session(record, loaded.sequence, cause).await
    }

    /// Publishes the wills of a session that is not connected, and ends it if it was to end with its connection.
    pub(super) async fn finish_session(
        self: &Arc<Self>,
        record: SessionRecord,
        sequence: u64,
        cause: WillCause,
    ) -> Result<(), WriteError> {
        let (record, sequence) = self.fire(record, sequence, cause).await?;
        if record.expiry_s == 0 {
            self.store.sessions().end(&record.client_id, sequence).await?;
        }
        Ok(())
    }

    /// Publishes the wills of a record whose session is not connected: marks the one that is due, publishes all, and takes
    /// them out of the record. Returns the record and its sequence.
    pub(crate) async fn fire(
        self: &Arc<Self>,
        mut record: SessionRecord,
        mut sequence: u64,
        cause: WillCause,
    ) -> Result<(SessionRecord, u64), WriteError> {
        let sessions = self.store.sessions();
        let client_id = ByteString::from(record.client_id.as_str());
        let (epoch, ttl_s) = (record.epoch, self.ttl(&record));
        if let Some(mut will) = record.will.take() {
            if will.state == WillState::Armed {
                self.mark_firing(&mut will, &client_id, epoch);
                record.will = Some(will.clone());
                sequence = sessions.put_record(&record, sequence, ttl_s).await?;
            }
            record.will = None;
            record.last_wills.push(LastWill { epoch, will, rest: Rest::new() });
        }
        for last in &record.last_wills {
            if !self.publish_will(&client_id, &last.will, last.epoch, cause).await {
                return Err(WriteError::Unavailable { reason: "a will is not stored yet".to_owned() });
            }
        }
        record.last_wills.clear();
        record.owner = None;
        sequence = sessions.put_record(&record, sequence, self.ttl(&record)).await?;
        Ok((record, sequence))
    }

    /// How long the progress of a session that is not connected stays, in seconds: longer than its record.
    pub(crate) fn progress_ttl(&self, record: &SessionRecord) -> Option<u32> {
        const LONGER_S: u32 = 5;
        self.ttl(record).map(|s| s.saturating_add(LONGER_S))
    }

    /// How long the record of a session that is not connected stays, in seconds.
    pub(crate) fn ttl(&self, record: &SessionRecord) -> Option<u32> {
        if record.connected {
            return None;
        }
        let now_ms = self.store.clock().earliest_ms();
        let gone_ms = record.disconnected_at_ms.map_or(0, |ended_ms| now_ms.saturating_sub(ended_ms));
        let gone_s = u32::try_from(gone_ms / 1000).unwrap_or(u32::MAX);
        // A record stays until its wills are published, which may be due at the end of the session only.
        let for_wills_s = if record.has_will() { WILL_PATIENCE_S } else { 0 };
        match record.expiry_s {
            crate::store::NEVER => None,
            s => Some(s.saturating_sub(gone_s).saturating_add(for_wills_s).max(1)),
        }
    }
}

/// Whether a will is done with: stored, or refused for good.
fn is_final(result: &Result<ReasonCode, ReasonCode>) -> bool {
    !matches!(result, Err(ReasonCode::ServerBusy))
}
