//! What of a connection is written to JetStream: its subscriptions at SUBSCRIBE and UNSUBSCRIBE, those that are in the
//! record with that and others with the page that they are in (`account::paged`), and its progress whenever something waits
//! for it and otherwise lazily. One write at a time, each fenced: whoever lost the session to another connection writes
//! nothing more.

use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{PacketId, QoS, ReasonCode, TopicName};
use mqtt_ownership::Epoch;
use mqtt_session::{Input, Position, Resend, Save};
use tokio::io::{AsyncRead, AsyncWrite};

use super::parts::{Answered, LAZY_AGE, Written};
use super::{Connection, OUTPUT_LOW, output_low};
use crate::account::grant::{Everybody, MessageFacts, Permits as _, Terms, grant_again};
use crate::account::{Message, Outgoing, SessionError, SessionWritten, progress_record};
use crate::metrics::DropReason;
use crate::overload::PROCESS;
use crate::store::{Arrival, WriteError};

/// Changes that are saved without anybody waiting for them.
const LAZY_CHANGES: u64 = 128;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Starts the next write, when one is due and none is under way.
    pub(super) fn start_write(&mut self) {
        if self.writing.is_some() || self.is_unwritable {
            return;
        }
        let sessions = self.account.store.sessions().clone();
        if self.is_write_due() {
            let Some(owned) = &mut self.owned else { return };
            let now = Instant::now();
            if self.record_pace.due_at(now).is_some() {
                return;
            }
            let is_fence_due = std::mem::take(&mut self.is_record_dirty);
            let write = owned.begin_write(is_fence_due, |owed| !self.retained.is_done(owed));
            self.record_pace.spend(write.len, now);
            let (answers, account) = (self.answers_after_record.len(), Arc::clone(&self.account));
            self.writing = Some(Box::pin(async move {
                Written::Session(Box::pin(account.write_session(write, TRIES)).await, answers)
            }));
        } else if self.is_save_due() {
            self.pass_what_is_read();
            let claims = self.claims();
            let Some(owned) = &self.owned else { return };
            let (version, progress) = self.session.progress();
            let (fence, client_id) = (owned.revision, self.control.client_id.clone());
            let mut progress =
                progress_record(Epoch(owned.record.epoch), &progress, &claims, &owned.sent_for, &self.account.logs);
            progress.retained = self.retained.begin_save();
            progress.rest.clone_from(&owned.progress_rest);
            self.unsaved_since = None;
            let (is_left, account) = (self.backlog.is_left(), Arc::clone(&self.account));
            self.writing = Some(Box::pin(async move {
                let saved = sessions.put_progress(&client_id, &progress, fence.0, None).await;
                if let (Ok(_), Some(is_left)) = (&saved, is_left) {
                    account.leave_backlog(&client_id, progress, is_left);
                }
                Written::Progress(saved.map(|arrival| (version, arrival)))
            }));
        }
    }

    /// Whether something of the session, beside its progress, is not in JetStream as it is here.
    pub(super) fn is_write_due(&self) -> bool {
        self.is_record_dirty || self.owned.as_ref().is_some_and(|owned| owned.subscriptions.is_changed())
    }

    fn is_save_due(&mut self) -> bool {
        match self.session.save() {
            Save::No => false,
            Save::Now => true,
            Save::Lazily => {
                let since = *self.unsaved_since.get_or_insert_with(Instant::now);
                self.session.unsaved() >= LAZY_CHANGES || since.elapsed() >= LAZY_AGE
            }
        }
    }

    /// A live session with nothing queued has read as far as the tail of a log: what did not match need not be read again.
    pub(super) fn pass_what_is_read(&mut self) {
        if !self.copies.is_empty() {
            return;
        }
        for place in self.account.read_up_to(&self.inbox).iter() {
            self.session.has_read_up_to(place);
        }
    }

    pub(super) fn written(&mut self, written: Written) {
        self.writing = None;
        match written {
            Written::Session(written, answers) => self.session_written(written, answers),
            Written::Progress(Ok((version, arrival))) => {
                self.is_record_dirty |= arrival == Arrival::Again;
                self.retained.end_save();
                self.tell(Input::Saved(version));
            }
            // It may still arrive, after a later one. A record written anew is a fence that keeps it out.
            Written::Progress(Err(WriteError::Unavailable { .. })) => self.is_record_dirty = true,
            Written::Progress(Err(error)) => self.cannot_write(&error),
        }
    }

    fn session_written(&mut self, written: SessionWritten, answers: usize) {
        let SessionWritten { revision, unwritten, is_fence_due, result } = written;
        let Some(owned) = &mut self.owned else { return };
        owned.revision = revision;
        match result {
            Ok(()) => {
                self.is_record_dirty |= is_fence_due;
                // Behind the last change those are answered as well that came while it was written.
                let is_all = !owned.subscriptions.is_changed();
                let answers = if is_all { self.answers_after_record.len() } else { answers };
                for answer in self.answers_after_record.drain(..answers).collect::<Vec<_>>() {
                    self.tell(answer.into());
                }
            }
            // The record of a session that ends with its connection says what it wants, and nobody waits for it.
            Err(SessionError::Record(error) | SessionError::Page(error))
                if !self.session.is_durable() && error != WriteError::Fenced =>
            {
                if matches!(error, WriteError::Unavailable { .. }) {
                    owned.subscriptions.not_written(unwritten);
                    self.is_record_dirty = true;
                }
            }
            Err(SessionError::Page(WriteError::Unavailable { .. })) => {
                owned.subscriptions.not_written(unwritten);
                self.is_record_dirty = true;
            }
            Err(SessionError::Record(error) | SessionError::Page(error)) => self.cannot_write(&error),
        }
    }

    fn cannot_write(&mut self, error: &WriteError) {
        if *error == WriteError::Fenced {
            self.control.withdraw();
        }
        self.is_unwritable = true;
        self.end_by_order(unwritable(error));
    }

    /// Answers now, or once what is answered is written. A SUBSCRIBE of what is there as it is, as clients
    /// repeat it with every connection, writes nothing.
    pub(super) fn answer_after_record(&mut self, answer: Answered) {
        let is_unwritten = self.is_write_due() || !self.answers_after_record.is_empty();
        if self.session.is_durable() && self.owned.is_some() && is_unwritten {
            self.answers_after_record.push_back(answer);
        } else {
            self.tell(answer.into());
        }
    }

    /// Starts to fetch what of the last connection is to be repeated, as far as the window goes, a piece at a time: what a client
    /// does not take is not fetched.
    pub(super) fn start_resends(&mut self) {
        if self.resending.fetching.is_some() || !self.delivers() || self.io.output.len() >= output_low() {
            return;
        }
        let count = self.resending.piece.count(PROCESS.budget.is_short());
        let resends: Vec<Resend> = std::iter::from_fn(|| self.session.next_resend()).take(count).collect();
        if resends.is_empty() {
            return;
        }
        let (account, client_id) = (Arc::clone(&self.account), self.control.client_id.clone());
        // What a consumer does not know may come to somebody else as long as it does not.
        let claims = self.owned.iter().map(|owned| &owned.claims);
        let acks: Vec<_> = claims.flat_map(|c| resends.iter().filter_map(|r| c.get(&r.packet_id()).cloned())).collect();
        self.resending.fetching = Some(Box::pin(async move {
            account.confirm_shared(&acks).await;
            account.fetch_resends(&client_id, resends).await
        }));
    }

    /// Repeats: PUBLISH with DUP and PUBREL, in their old order.
    pub(super) fn fetched(&mut self, fetched: Vec<(Resend, Option<Arc<Message>>)>) {
        self.resending.fetching = None;
        let bytes = fetched.iter().flat_map(|(_, message)| message).map(|message| message.weight()).sum();
        self.resending.piece.took(fetched.len(), bytes, OUTPUT_LOW);
        for (resend, message) in fetched {
            if let Some(owned) = &mut self.owned {
                owned.claims.remove(&resend.packet_id());
            }
            match (resend, message) {
                (Resend::PubRel(packet_id), _) => {
                    let ack = mqtt_codec::Ack::new(packet_id, ReasonCode::Success);
                    self.send(&mqtt_codec::Packet::PubRel(ack));
                }
                (Resend::Publish(qos, packet_id, place), Some(message)) => {
                    match self.as_subscribed(qos, message, packet_id, place) {
                        Some(outgoing) => self.repeat(qos, packet_id, &outgoing),
                        // It was open when the message was sent.
                        None => {
                            self.account.metrics.dropped(DropReason::NotAuthorized, 1);
                            self.tell(Input::Unsendable(packet_id));
                        }
                    }
                }
                // A newer one has its place, which the client gets as well.
                (Resend::Publish(_, packet_id, _), None) if resend.retained().is_some() => {
                    self.tell(Input::Unsendable(packet_id));
                }
                (Resend::Publish(_, packet_id, place), None) => {
                    tracing::warn!(
                        client_id = &*self.control.client_id,
                        sequence = place.0,
                        "the log has lost a message in flight"
                    );
                    self.account.metrics.dropped(DropReason::LogDiscarded, 1);
                    self.tell(Input::Unsendable(packet_id));
                }
            }
        }
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Whether the client may have a message that it had in flight: by itself, or as a member of a group that it is in.
    fn may_have_again(&self, topic: &TopicName, is_shared: bool) -> bool {
        let rights = &self.inbox.rights;
        let groups = self.owned.iter().flat_map(|owned| owned.subscriptions.iter()).filter_map(|(f, _)| f.shared());
        let mut matching = groups.filter(|_| is_shared).filter(|shared| shared.filter.matches(topic)).peekable();
        match matching.peek() {
            None => rights.may_receive(topic),
            Some(_) => matching.any(|shared| rights.in_group(&shared.name).may_receive(topic)),
        }
    }

    /// A message that is sent again, for the subscriptions that it matches now, shared ones or others; `None` when the client
    /// may not have it any more.
    fn as_subscribed(&self, qos: QoS, message: Arc<Message>, packet_id: PacketId, place: Position) -> Option<Outgoing> {
        let topic = &message.topic;
        if self.account.is_closed(topic) {
            return None;
        }
        let (is_retained, is_shared) = (place.is_retained(), place.is_shared());
        let is_own = message.publisher.as_ref() == Some(&self.control.client_id);
        let all = self.owned.iter().flat_map(|owned| owned.subscriptions.iter());
        let matching = all.filter(|(f, _)| f.is_shared() == is_shared && f.matches(topic)).map(|(_, s)| s);
        if !self.may_have_again(topic, is_shared) {
            return None;
        }
        let matching = matching.filter(|s| is_shared || self.is_sent_for(packet_id, s));
        let facts = MessageFacts { is_retained, is_own, ..MessageFacts::of(&message) };
        let terms = matching.filter_map(|stored| Terms::of_stored(stored, stored.qos));
        let grant = grant_again(qos, terms, &facts, &Everybody)?;
        Some(Outgoing { message, grant, others: Box::default(), share: None })
    }
}

/// Tries that a write is given that JetStream cannot do now.
const TRIES: usize = 10;

/// Why a connection ends whose session cannot be written.
fn unwritable(error: &WriteError) -> ReasonCode {
    match error {
        WriteError::Fenced => ReasonCode::SessionTakenOver,
        WriteError::TooLarge => ReasonCode::QuotaExceeded,
        WriteError::Unavailable { .. } => ReasonCode::ServerBusy,
    }
}
