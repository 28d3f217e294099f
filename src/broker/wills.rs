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
use mqtt_codec::Version;

use super::clock::now_ms;
use super::mailbox::{Mailbox, Wakes};
use super::publishing::Publishing;
use super::records::{self, WILL_NUMBER};
use super::Broker;
use crate::metrics::WillCause;
use crate::store::{SessionRecord, StoredWill, WillState, WriteError};

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
    pub(crate) fn mark_firing(&self, will: &mut StoredWill, client_key: &str, epoch: u64) {
        let id = format!("{client_key}.{epoch}.{WILL_NUMBER}");
        will.state = WillState::Firing { id, after: self.router.tail_sequence() };
        will.due_at_ms = None;
    }

    /// Publishes a will whose mark is in the record. `epoch`: that of the connection that it was the will of.
    pub(crate) async fn publish_will(self: &Arc<Self>, client_id: &str, will: &StoredWill, epoch: u64, cause: WillCause) {
        let Some(publication) = records::will_publication(will, epoch) else { return };
        self.metrics.will(cause);
        let client_id = ByteString::from(client_id);
        let key = self.client_key(&client_id);
        let limits = self.options.mailbox;
        let mailbox = Arc::new(Mailbox::new(self.next_session_id(), client_id, Version::V5, u32::MAX, limits));
        let mut publishing = Publishing::new(Arc::clone(self), Arc::clone(&mailbox), key);
        if let Err(refusal) = publishing.publish(publication, &mut Wakes::default()) {
            let (publication, refused) = *refusal;
            let client_id = mailbox.client_id.escape_debug().to_string();
            let topic = publication.topic.as_str().escape_debug().to_string();
            tracing::info!(client_id, topic, ?refused, "a will was refused");
        }
        if !publishing.settle(self, &mailbox, None).await {
            tracing::warn!(client_id = &*mailbox.client_id, "a will could not be stored");
        }
    }

    /// Publishes the will of a session at its time, unless the session has another owner by then.
    pub(crate) fn schedule_will(self: &Arc<Self>, client_id: String, epoch: u64, in_ms: u64) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(in_ms)).await;
            loop {
                match broker.fire_scheduled(&client_id, epoch).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(client_id, %error, "a will waits for JetStream"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    async fn fire_scheduled(self: &Arc<Self>, client_id: &str, epoch: u64) -> Result<(), WriteError> {
        let loaded = self.store.sessions().load(client_id).await.map_err(|e| WriteError::Unavailable { reason: e.reason })?;
        let Some(record) = loaded.record.filter(|r| r.epoch == epoch && !r.connected && r.will.is_some()) else {
            return Ok(());
        };
        match self.fire(record, loaded.sequence, WillCause::ConnectionLost).await {
            // A new connection of the session was faster.
            Err(WriteError::Fenced) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Publishes the will of a record whose session is not connected: marks it, publishes it, and takes it out of the
    /// record. Returns the record and its sequence.
    pub(crate) async fn fire(
        self: &Arc<Self>,
        mut record: SessionRecord,
        mut sequence: u64,
        cause: WillCause,
    ) -> Result<(SessionRecord, u64), WriteError> {
        let sessions = self.store.sessions();
        let client_id = ByteString::from(record.client_id.as_str());
        let (epoch, ttl_s) = (record.epoch, Self::ttl(&record));
        let Some(mut will) = record.will.take() else { return Ok((record, sequence)) };
        if will.state == WillState::Armed {
            self.mark_firing(&mut will, &self.client_key(&client_id).unwrap_or_default(), epoch);
            record.will = Some(will.clone());
            sequence = sessions.put_record(&record, sequence, ttl_s).await?;
            // This process has just marked it, so nobody else has published it.
            will.state = WillState::Armed;
        }
        self.publish_will(&record.client_id, &will, epoch, cause).await;
        record.will = None;
        record.owner = None;
        sequence = sessions.put_record(&record, sequence, ttl_s).await?;
        Ok((record, sequence))
    }

    /// How long the progress of a session that is not connected stays, in seconds: longer than its record.
    pub(crate) fn progress_ttl(record: &SessionRecord) -> Option<u32> {
        const LONGER_S: u32 = 60;
        Self::ttl(record).map(|s| s.saturating_add(LONGER_S))
    }

    /// How long the record of a session that is not connected stays, in seconds.
    pub(crate) fn ttl(record: &SessionRecord) -> Option<u32> {
        if record.connected {
            return None;
        }
        let ended_ms = record.disconnected_at_ms.unwrap_or_else(now_ms);
        let gone_s = u32::try_from(now_ms().saturating_sub(ended_ms) / 1000).unwrap_or(u32::MAX);
        // A record stays until its wills are published, which may be due at the end of the session only.
        let for_wills_s = if record.will.is_some() || !record.last_wills.is_empty() { WILL_PATIENCE_S } else { 0 };
        match record.expiry_s {
            crate::store::NEVER => None,
            s => Some(s.saturating_sub(gone_s).saturating_add(for_wills_s).max(1)),
        }
    }
}
