//! The end of a connection: the last packet, the will, and what is still on its way to JetStream, which is not given up
//! because the client left.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, ReasonCode, Version};
use mqtt_ownership::Epoch;
use mqtt_session::Publication;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::io::{Io, close_socket};
use super::parts::{End, Eventual, Written};
use crate::account::{Account, Control, LeaveEnd, SessionWritten, Share, progress_record};
use crate::metrics::{Counts, DisconnectReason, WillCause};
use crate::store::ProgressRecord;

/// How long a connection stays open whose client has said goodbye, until its will is taken back. Longer than a leader takes
/// to be elected.
const TAKE_BACK: Duration = Duration::from_secs(30);

/// Tries that the record is given as a fence of the last pages.
const TRIES: usize = 2;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Ends the connection: when this returns, what it published is settled, and its session is in JetStream or over.
    pub(super) async fn finish(mut self: Box<Self>, end: End) {
        self.log_end(end);
        self.tell_disconnected(end);
        // Behind a CONNACK that accepted [MQTT-3.14.0-1]; nothing is sent behind it [MQTT-3.14.4-1], and the connection is
        // closed [MQTT-3.14.4-2].
        if let End::ByServer(reason) = end
            && self.version == Version::V5
        {
            let (session_expiry_interval_s, server_reference) = (None, self.account.server_reference(reason));
            let properties = self.reason_string(reason);
            self.send(&Packet::Disconnect(Disconnect {
                reason,
                session_expiry_interval_s,
                server_reference,
                properties,
            }));
        }
        self.inbox.take_restarts().into_iter().for_each(|restart| self.log_restarted(restart));
        self.pass_what_is_read();
        let left = self.session.leave();
        // What is saved may say that these are the session's, until it is saved once more without them.
        let doubtful: Vec<Share> = left.withdrawn.into_iter().filter_map(|m| m.share).collect();
        doubtful.iter().for_each(Share::doubt);
        self.publish_left(left.publications);
        let claims = self.claims();
        let (_, progress) = self.session.progress();
        let last_progress = self.owned.as_ref().map(|owned| ProgressRecord {
            retained: self.retained.progress(),
            rest: owned.progress_rest.clone(),
            ..progress_record(Epoch(owned.record.epoch), &progress, &claims, &owned.sent_for, &self.account.logs)
        });
        self.control.hand_over(last_progress.clone().filter(|_| self.session.is_durable()));
        self.account.forget_subscriptions(&self.control, self.filters.drain());
        self.wakes.wake_all();
        let is_fence_due = self.is_record_dirty;
        let (expiry_s, remote) = (self.session.parameters().session_expiry_s, self.remote.counted_by());
        let (writing, owned) = (self.writing.take(), self.owned.take());
        // What is not needed any more stays in its place until the end, as does what is.
        let (io, account, control) = (self.io, &self.account, &self.control);
        let publishing = &mut self.publishing;
        let settle = async {
            if publishing.settle().await.is_none() {
                tracing::warn!(client_id = &*control.client_id, "publishes of a client that left were given up");
            }
            control.set_settled();
        };
        let last = owned.zip(last_progress).map(|(owned, progress)| {
            let leave = LeaveEnd { owned, progress, expiry_s, will: will_cause(end), remote };
            Box::new(LastWrite { account, control, leave, writing, is_fence_due })
        });
        let is_saved = match last {
            Some(last) if last.takes_back_a_will() => {
                let write = Box::pin(last.write());
                tokio::join!(settle, close_behind(write, io, &account.metrics)).1
            }
            // A will comes behind what the client has published [MQTT-3.1.2-8].
            Some(mut last) => {
                tokio::join!(close_socket(io, &account.metrics), settle, last.finish_writing());
                last.write().await
            }
            None => {
                tokio::join!(close_socket(io, &account.metrics), settle);
                Box::pin(account.leave_unrecorded(control, will_cause(end))).await;
                true
            }
        };
        // When somebody else owns the session now, what it saves decides, when they come again.
        doubtful.iter().for_each(if is_saved { Share::give_back } else { Share::settled });
        account.detach(control);
    }

    /// What the client published behind something that waited, and does not repeat. Where its epoch has ended it may have
    /// published something newer elsewhere, and where a publish has failed nothing goes before that.
    fn publish_left(&mut self, publications: Vec<Publication>) {
        let completions = self.control.completions();
        if completions.is_withdrawn() || completions.has_failed() {
            return;
        }
        for publication in publications {
            // Nobody is left to be told of a refusal.
            let _ = self.publishing.publish(publication, &mut self.wakes);
        }
    }

    fn log_end(&self, end: End) {
        let client_id = self.control.client_id.escape_debug().to_string();
        let remote = self.remote;
        let reason = match end {
            End::ByClient { .. } => DisconnectReason::Client,
            End::Lost => DisconnectReason::ConnectionLost,
            End::ByServer(reason) => DisconnectReason::Server(reason),
        };
        tracing::debug!(client_id, %remote, ?reason, "disconnected");
        self.account.metrics.disconnect(reason);
    }
}

/// Writes, and closes behind that: who waits for the connection to be closed knows that its will is off. A client that does
/// not wait loses nothing by it, and JetStream may be away for long, so the write goes on behind the closed socket then.
async fn close_behind<S>(mut write: impl Future<Output = bool> + Unpin, io: Io<S>, metrics: &Counts) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let written = tokio::time::timeout(TAKE_BACK, &mut write).await;
    close_socket(io, metrics).await;
    match written {
        Ok(is_saved) => is_saved,
        Err(_) => write.await,
    }
}

/// The last writes of a connection: its progress, its will, and its record without an owner, or the end of the session.
struct LastWrite<'a> {
    account: &'a Arc<Account>,
    control: &'a Control,
    leave: LeaveEnd,
    /// A write that is under way: there is one at a time, so it goes first.
    writing: Option<Eventual<Written>>,
    /// The record is to be written before a page is.
    is_fence_due: bool,
}

impl LastWrite<'_> {
    /// A client that said goodbye has no will any more [MQTT-3.14.4-3]. Until that is written, whoever finds us dead
    /// publishes it.
    const fn takes_back_a_will(&self) -> bool {
        self.leave.will.is_none() && self.leave.owned.record.will.is_some()
    }

    async fn finish_writing(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Written::Session(written, _) = writing.await
        {
            self.session_written(written);
        }
    }

    fn session_written(&mut self, SessionWritten { revision, unwritten, is_fence_due, .. }: SessionWritten) {
        self.leave.owned.revision = revision;
        self.leave.owned.subscriptions.not_written(unwritten);
        self.is_fence_due |= is_fence_due;
    }

    /// Writes the pages that have changed; what is in the record goes with that. What cannot be written was not answered, or
    /// is known by other signs when the session goes on.
    async fn write_pages(&mut self) {
        let write = self.leave.owned.begin_write(self.is_fence_due, |_| true);
        let written = Box::pin(self.account.write_session(write, TRIES)).await;
        self.session_written(written);
    }

    /// Returns whether it is done, and not somebody else's.
    async fn write(mut self: Box<Self>) -> bool {
        self.finish_writing().await;
        // Jobs of their own: most connections end without one, and what comes before can take long.
        if self.leave.expiry_s > 0 && self.leave.owned.subscriptions.has_changed_pages() {
            Box::pin(self.write_pages()).await;
        }
        Box::pin(self.account.leave_session(self.control, self.leave)).await
    }
}

/// Why the will is published; `None` when it is not [MQTT-3.1.2-10].
fn will_cause(end: End) -> Option<WillCause> {
    match end {
        End::ByClient { with_will: false } => None,
        End::ByClient { with_will: true } => Some(WillCause::Requested),
        End::Lost => Some(WillCause::ConnectionLost),
        End::ByServer(ReasonCode::KeepAliveTimeout) => Some(WillCause::KeepAlive),
        End::ByServer(ReasonCode::SessionTakenOver) => Some(WillCause::TakenOver),
        End::ByServer(_) => Some(WillCause::ServerClosed),
    }
}
