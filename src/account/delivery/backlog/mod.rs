//! The one writer of the account that copies what sessions are owed before the log loses it. It lags: nothing is copied
//! while it lies in the newer half of what the log can hold, so that a session that comes back in time costs nothing.
//!
//! A pass copies the log from the saved position up to a horizon for all sessions together, reading it once, and saves
//! the position when every copy is acknowledged. A writer that dies in a pass has saved nothing of it: the next one looks
//! where each backlog ends and goes on from there. Two writers that overlap, because one of them does not know yet that
//! it has lost the lead, make copies too many, which readers pass over.
//!
//! - `horizon`: up to where; `plan`: what, for whom; `oldest`: what gave way to it
//! - `copying`: from the log into backlogs; `sweeping`: what nobody needs any more
//!
//! How a session reads its backlog is in `connection::backlog`.

mod copying;
mod failure;
mod horizon;
mod oldest;
mod plan;
mod sweeping;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;

use self::copying::copy;
use self::failure::Failure;
use self::horizon::Search;
use self::oldest::Uncounted;
use self::plan::{BacklogPlan, is_read};
use self::sweeping::{Besides, sweep};
use crate::account::Account;
use crate::account::delivery::message::Message;
use crate::account::lead::{Lead, Term};
use crate::account::publish::convert;
use crate::metrics::DropReason;
use crate::store::{BacklogPosition, LogEntry, LogInfo, ProgressRecord, PutError, Unavailable};

/// How often the log is looked at: the faster the less it holds, so that it cannot be filled between two looks.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The same while nothing comes into it as far as the tail says, which may be behind.
const LOOK_IDLE: Duration = Duration::from_secs(30);

/// Bytes that a log may get in a second, for [`LOOK_MIN`] and [`LOOK_MAX`].
const BYTES_PER_MS: u64 = 64 * 1024;

/// How long to wait after something failed.
const RETRY: Duration = Duration::from_millis(500);

/// How often backlogs are looked for that nobody is owed any more, while there are passes and while there are none.
const SWEEP: Duration = Duration::from_secs(60);
const SWEEP_IDLE: Duration = Duration::from_secs(600);

impl Account {
    /// Keeps the backlog while we lead, until the account is left.
    pub(in crate::account) async fn keep_backlog(account: Weak<Self>, lead: Lead) {
        let writers = account.clone();
        Self::lead(account, lead, "backlog", |term| Box::pin(Writer::new(writers.clone(), term).run())).await;
    }

    /// Messages that the log does not have any more, from the backlog of a client, as far as they are there.
    pub(crate) async fn find_in_backlog(&self, client_id: &str, mut sequences: HashSet<Sequence>) -> Vec<LogEntry> {
        let mut found = Vec::new();
        loop {
            match self.read_backlog(client_id, &mut sequences, &mut found).await {
                Ok(()) => return found,
                Err(error) => tracing::warn!(%error, "a backlog cannot be read yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn read_backlog(
        &self,
        client_id: &str,
        wanted: &mut HashSet<Sequence>,
        found: &mut Vec<LogEntry>,
    ) -> Result<(), Unavailable> {
        let Some(lowest) = wanted.iter().min() else { return Ok(()) };
        let Some(mut reader) = self.store.backlog().read(client_id, lowest.0 - 1).await? else { return Ok(()) };
        loop {
            let page = reader.page().await?;
            let Some(last) = page.last().map(|entry| Sequence(entry.sequence)) else { return Ok(()) };
            found.extend(page.into_iter().filter(|entry| wanted.remove(&Sequence(entry.sequence))));
            // The backlog is in the order of the log.
            if wanted.iter().all(|sequence| *sequence <= last) {
                return Ok(());
            }
        }
    }

    /// The session of a client is over, and its backlog with it, as far as it goes now.
    pub(crate) fn forget_backlog(&self, client_id: &str) {
        self.tidy_backlog(client_id, |_| true, Arc::default());
    }

    /// A session has read its backlog and saved this progress: what it does not need any more is removed. `is_left` says
    /// so until there was nothing to be removed, because a pass that is under way may still make copies.
    pub(crate) fn leave_backlog(&self, client_id: &str, saved: ProgressRecord, is_left: Arc<AtomicBool>) {
        self.tidy_backlog(client_id, move |end| is_read(&saved, end), is_left);
    }

    fn tidy_backlog(
        &self,
        client_id: &str,
        is_unwanted: impl FnOnce(Sequence) -> bool + Send + 'static,
        is_left: Arc<AtomicBool>,
    ) {
        let (backlog, client_id) = (self.store.backlog().clone(), client_id.to_owned());
        self.store.tasks().spawn(async move {
            let tidy = async {
                match backlog.end(&client_id).await? {
                    None => is_left.store(false, Ordering::Relaxed),
                    Some(end) if is_unwanted(end.log_sequence) => {
                        backlog.purge(&client_id, end.stream_sequence).await?
                    }
                    Some(_) => {}
                }
                Ok::<_, Unavailable>(())
            };
            if let Err(error) = tidy.await {
                tracing::debug!(client_id, %error, "a backlog is left to the next sweep");
            }
        });
    }
}

/// The writer, in one term.
struct Writer {
    account: Weak<Account>,
    term: Term,
    position: Option<SavedPosition>,
    /// Copies above the position may be there already: of a pass that did not end.
    is_doubtful: bool,
    swept_at: Instant,
    /// What sessions have left beside their records.
    besides: Besides,
    /// The first message above the position and when it was stored, once it is known.
    oldest: Option<(Sequence, u64)>,
    overtaken: Sequence,
    uncounted: Uncounted,
}

/// Where the writer is, as it is stored.
struct SavedPosition {
    stored: BacklogPosition,
    /// What the next save expects.
    expected: u64,
}

impl Writer {
    fn new(account: Weak<Account>, term: Term) -> Self {
        let swept_at = Instant::now();
        let (position, oldest, besides, overtaken, uncounted) = Default::default();
        Self { account, term, position, is_doubtful: true, swept_at, besides, oldest, overtaken, uncounted }
    }

    /// Runs until the account is gone.
    async fn run(mut self) {
        loop {
            let Some(account) = self.account.upgrade() else { return };
            let seen = account.tail_sequence();
            match self.turn(&account).await {
                Ok(None) => {}
                Ok(Some(look)) => {
                    drop(account);
                    self.wait(seen, look).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the backlog waits");
                    self.is_doubtful = true;
                    self.position = None;
                    if let Failure::Put(PutError::NoStream) = error {
                        account.store.backlog().make_again().await;
                    }
                    drop(account);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until the log is to be looked at again: soon when it gets messages, and now and then for their age. What is beside
    /// records is looked at meanwhile, which asks nobody.
    async fn wait(&mut self, seen: Sequence, look: Look) {
        let until = Instant::now() + look.at_last;
        loop {
            tokio::time::sleep(look.pause.min(look.at_last)).await;
            let Some(account) = self.account.upgrade() else { return };
            if account.tail_sequence() != seen || Instant::now() >= until {
                return;
            }
            self.besides.look(&account);
        }
    }

    /// Looks at the log, and copies what is due. Returns when to look again; `None` when more may be due already.
    async fn turn(&mut self, account: &Arc<Account>) -> Result<Option<Look>, Failure> {
        self.besides.look(account);
        let log = account.store.backlog().log_info().await?;
        let position = self.position(account, &log).await?;
        let first = Sequence(log.first);
        if first > position.next() && position > self.overtaken && log.messages > 0 {
            self.overtaken = first;
            tracing::warn!(
                position = position.0,
                first = first.0,
                "the log was discarded faster than the backlog was written"
            );
        }
        let Some(horizon) = self.horizon(account, &log, position).await? else {
            if self.swept_at.elapsed() >= SWEEP_IDLE {
                self.swept_at = Instant::now();
                let ends = account.store.backlog().ends().await?;
                if !ends.is_empty() {
                    sweep(account, &account.store.sessions().states().await?, &ends).await;
                }
            }
            return Ok(Some(Look::of(&log)));
        };
        self.pass(account, position, horizon, Sequence(log.last)).await?;
        Ok(None)
    }

    /// Up to where the log is copied.
    async fn position(&mut self, account: &Account, log: &LogInfo) -> Result<Sequence, Failure> {
        if self.position.is_none() {
            let (stored, expected) = account.store.backlog().position().await?;
            self.position = Some(SavedPosition { stored, expected });
        }
        let Some(SavedPosition { stored, expected }) = &mut self.position else { return Ok(Sequence(0)) };
        if stored.log != log.created {
            let is_first = stored.log.is_empty();
            *stored = BacklogPosition { log: log.created.clone(), term: self.term.0, ..BacklogPosition::default() };
            if !is_first {
                tracing::error!("the log is another one: what it had is lost to sessions that were away");
                // Copies of that one say nothing about this one; and which ones they are is known before there are others.
                let ends = account.store.backlog().ends().await?;
                stored.copies_after = ends.values().map(|end| end.stream_sequence).max().unwrap_or_default();
                *expected = account.store.backlog().save_position(stored, *expected).await?;
            }
        }
        Ok(Sequence(stored.position))
    }

    /// Up to where the log is to be copied now, if at all.
    async fn horizon(
        &mut self,
        account: &Account,
        log: &LogInfo,
        position: Sequence,
    ) -> Result<Option<Sequence>, Failure> {
        let (first, last) = (Sequence(log.first), Sequence(log.last));
        let by_room = horizon::by_room(log, position);
        if by_room.is_some() {
            return Ok(by_room);
        }
        let max_age = log.max_age_ms.filter(|_| last > position).map(Duration::from_millis);
        let Some(max_age) = max_age else { return Ok(None) };
        let backlog = account.store.backlog();
        if self.oldest.is_none_or(|(sequence, _)| sequence <= position || sequence < first) {
            self.oldest = backlog.log_time(position.next()).await?;
        }
        // Too early costs a copy, too late a message.
        let Some(now) = account.store.clock().now() else { return Ok(None) };
        let Some((_, stored_ms)) = self.oldest else { return Ok(None) };
        if !horizon::is_due_by_age(max_age, now.since(ServerTime(stored_ms))) {
            return Ok(None);
        }
        let until = now.before(horizon::age_of_horizon(max_age));
        let mut search = Search::new(position.max(first.before()), last, until);
        loop {
            match search.next() {
                Ok(asked) => {
                    let message = backlog.log_time(asked).await?;
                    search.answer(asked, message.map(|(sequence, stored_ms)| (sequence, ServerTime(stored_ms))));
                }
                Err(found) => return Ok((found > position).then_some(found)),
            }
        }
    }

    /// Copies what lies above the position, up to and with the horizon, for everyone who is owed it.
    async fn pass(
        &mut self,
        account: &Arc<Account>,
        position: Sequence,
        horizon: Sequence,
        last: Sequence,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let store = &account.store;
        let is_sweep = self.is_doubtful || self.swept_at.elapsed() >= SWEEP;
        // First the ends, then the sessions: a backlog without a session is one of a session that is over.
        let mut ends = if is_sweep { store.backlog().ends().await? } else { HashMap::new() };
        let states = store.sessions().states().await?;
        if is_sweep {
            self.swept_at = Instant::now();
            sweep(account, &states, &ends).await;
        }
        let copies_after = self.position.as_ref().map_or(0, |saved| saved.stored.copies_after);
        ends.retain(|_, end| end.log_sequence <= last && end.stream_sequence > copies_after);
        let lost = self.uncounted.settle(&ends);
        if lost > 0 {
            tracing::warn!(lost, "JetStream has refused copies for sessions that are away, and taken later ones");
            account.metrics.dropped(DropReason::QueueFull, lost);
        }
        let owed = BacklogPlan::of(&states, &ends, position, horizon, store.clock().certain());
        drop((states, ends));
        let copies = match owed.from() {
            Some(from) => {
                self.uncounted.begin(store.backlog()).await?;
                copy(account, &owed, from, horizon, &mut self.uncounted).await?
            }
            None => 0,
        };
        let gave_way = self.uncounted.count(store.backlog()).await?;
        account.metrics.dropped(DropReason::QueueFull, gave_way);
        let Some(SavedPosition { stored, expected }) = &mut self.position else { return Ok(()) };
        stored.position = horizon.0;
        stored.term = self.term.0;
        *expected = store.backlog().save_position(stored, *expected).await?;
        self.is_doubtful = false;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(above = position.0, up_to = horizon.0, copies, ms, "the log is copied into backlogs");
        Ok(())
    }
}

/// The message that an entry of a backlog is, unless it is none.
pub(crate) fn message_of_backlog(entry: &LogEntry, nats_headers: bool) -> Option<Message> {
    convert::from_log(entry, convert::STORED, nats_headers, None).ok()
}

/// How long a log may be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// While it gets messages.
    pause: Duration,
    /// In any case: what it has grows old, and the tail may not see what it gets.
    at_last: Duration,
}

impl Look {
    fn of(log: &LogInfo) -> Self {
        let until_full = |bytes: u64| Duration::from_millis(bytes / 4 / BYTES_PER_MS);
        let until_old = |ms: u64| Duration::from_millis(ms / 16);
        // How fast a limit of messages is reached nothing says.
        let most = if log.max_messages.is_some() { LOOK_MAX } else { LOOK_IDLE };
        let full = log.max_bytes.map_or(most, until_full).min(most);
        let old = log.max_age_ms.map_or(LOOK_IDLE, until_old);
        Self { pause: full.clamp(LOOK_MIN, LOOK_MAX), at_last: full.max(LOOK_MAX).min(old).clamp(LOOK_MIN, LOOK_IDLE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_looked_at_before_it_can_be_full_or_what_it_has_is_old() {
        let look = |max_bytes, max_age_ms| Look::of(&LogInfo { max_bytes, max_age_ms, ..LogInfo::default() });
        let of = |pause, at_last| Look { pause, at_last };
        let (gib, hour_ms) = (1 << 30, 3_600_000);
        assert_eq!(look(None, None), of(LOOK_MAX, LOOK_IDLE));
        assert_eq!(look(Some(4 * gib), Some(24 * hour_ms)), of(LOOK_MAX, Duration::from_millis(16_384)));
        assert_eq!(look(Some(64 * gib), Some(24 * hour_ms)), of(LOOK_MAX, LOOK_IDLE));
        assert_eq!(look(Some(4 * gib), Some(16_000)), of(LOOK_MAX, Duration::from_secs(1)));
        assert_eq!(look(Some(1 << 20), None), of(LOOK_MIN, LOOK_MAX));
        let log = LogInfo { max_messages: Some(1_000), ..LogInfo::default() };
        assert_eq!(Look::of(&log), of(LOOK_MAX, LOOK_MAX));
    }
}
