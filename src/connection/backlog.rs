//! What the log has lost and the session is still owed: read from its backlog, a page at a time, when the client has room
//! for it, and delivered before the log goes on. The feed stays behind meanwhile, so nothing comes live.
//!
//! Only what is older than the beginning of the log comes from here: what the log has, it has all of.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_session::{Position, Sequence};
use tokio::io::{AsyncRead, AsyncWrite};

use super::parts::Page;
use super::{Connection, output_low};
use crate::account::grant::{self, Audience, MessageFacts, Permits as _, Terms};
use crate::account::{Account, Outgoing, message_of_backlog};
use crate::store::{BacklogReader, LogEntry};

/// How long to wait before a backlog is read again that could not be.
const RETRY: Duration = Duration::from_millis(500);

/// Reads the next page, from the beginning without a reader.
async fn fetch(
    account: Arc<Account>,
    client_id: ByteString,
    after: Sequence,
    mut reader: Option<Box<BacklogReader>>,
) -> Page {
    loop {
        let read = async {
            if reader.is_none() {
                reader = account.store().backlog().read(&client_id, after.0).await?.map(Box::new);
            }
            match &mut reader {
                Some(reader) => reader.page().await,
                None => Ok(Vec::new()),
            }
        };
        match read.await {
            Ok(page) => return Page(reader, page),
            Err(error) => tracing::warn!(client_id = &*client_id, %error, "the backlog cannot be read yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// The session is behind, from this place on: has it brought up, from its backlog where the log that is always there has
    /// lost it. `is_drained`: nothing older is queued.
    pub(super) fn catch_up(&mut self, place: Position, is_drained: bool) {
        if place.log() != 0 {
            return self.account.catch_up(place, &self.inbox);
        }
        let next = place.sequence();
        if self.backlog.until.is_some() {
            return;
        }
        match self.inbox.log_begins_above(next) {
            Some(_) if !is_drained => {}
            Some(first) => {
                self.backlog.until = Some(first);
                self.fetch_backlog(next.before(), None);
            }
            None => self.account.catch_up(place, &self.inbox),
        }
    }

    fn fetch_backlog(&mut self, after: Sequence, reader: Option<Box<BacklogReader>>) {
        let (account, client_id) = (Arc::clone(&self.account), self.control.client_id.clone());
        self.backlog.fetching = Some(Box::pin(fetch(account, client_id, after, reader)));
    }

    /// Delivers what was read of the backlog, as far as there is room.
    pub(super) fn fill_backlog(&mut self) {
        let Some(until) = self.backlog.until.filter(|_| self.backlog.fetching.is_none()) else { return };
        while self.io.output.len() < output_low() && self.session.window_room() > 0 && self.copies.is_empty() {
            match self.backlog.pop() {
                Some(entry) if Sequence(entry.sequence) < until => {
                    if let Some(outgoing) = self.owed_copy(&entry) {
                        self.deliver(Position::in_main_log(Sequence(entry.sequence)), outgoing);
                    }
                }
                None if !self.backlog.is_last => {
                    let reader = self.backlog.reader.take();
                    return self.fetch_backlog(Sequence(0), reader);
                }
                // What the log has as well comes from the log.
                Some(_) | None => return self.end_backlog(until),
            }
        }
    }

    /// Everything up to the beginning of the log is delivered.
    fn end_backlog(&mut self, until: Sequence) {
        let reading = std::mem::take(&mut self.backlog);
        self.backlog.is_left = reading.is_left;
        if reading.reader.is_some() {
            self.backlog.is_left.store(true, Ordering::Relaxed);
        }
        self.session.has_read_up_to(Position::in_main_log(until.before()));
        self.inbox.with_feed(0, |feed| feed.fall_behind(until));
    }

    /// A message of the backlog as the session gets it now: `None` when none of its subscriptions takes it any more.
    fn owed_copy(&self, entry: &LogEntry) -> Option<Outgoing> {
        let message = message_of_backlog(entry, self.account.options.nats_headers)?;
        let is_own = message.publisher.as_ref() == Some(&self.control.client_id);
        let all = self.owned.iter().flat_map(|owned| owned.subscriptions.iter());
        let matching = all.filter(|(filter, _)| !filter.is_shared() && filter.matches(&message.topic));
        let rights = &*self.inbox.rights;
        let terms = matching.filter_map(|(filter, stored)| {
            let leads = rights.leads(filter);
            let is_due = stored.since < entry.sequence;
            Some(Terms { is_due, leads, ..Terms::of_stored(stored, stored.qos_at(entry.sequence))? })
        });
        let facts = MessageFacts { is_own, audience: Audience::DurableOnly, ..MessageFacts::of(&message) };
        let grants = grant::grants(terms, &facts, self.account.options.copies_overlapping, rights);
        // What is sent at QoS 0 is for those who are there when it comes.
        let mut stored = grants.into_iter().filter(|grant| grant.qos > QoS::AtMostOnce);
        let (grant, others) = (stored.next()?, stored.collect());
        Some(Outgoing { message: Arc::new(message), grant, others, share: None })
    }
}
