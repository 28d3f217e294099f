//! The one writer of the account that copies what sessions are owed before the log loses it. It lags: nothing is copied
//! while it lies in the newer half of what the log can hold, so that a session that comes back in time costs nothing.
//!
//! A pass copies the log from the saved position up to a horizon for all sessions together, reading it once, and saves
//! the position when every copy is acknowledged. A writer that dies in a pass has saved nothing of it: the next one looks
//! where each backlog ends and goes on from there. Two writers that overlap, because one of them does not know yet that
//! it has lost the lead, make copies too many, which readers pass over.
//!
//! - `horizon`: up to where; `plan`: what, for whom; `oldest`: what gave way to it
//!
//! How a session reads its backlog is in `connection::backlog`.

mod horizon;
mod oldest;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::horizon::Search;
use self::plan::{BacklogPlan, is_consumed, is_read};
use crate::account::Account;
use crate::account::delivery::message::Message;
use crate::account::publish::convert;
use crate::metrics::DropReason;
use crate::store::{
    BacklogEnd, BacklogPosition, LogEntry, LogInfo, ProgressRecord, Put, PutError, SessionState, Stored, StoredSink,
    Unavailable, WriteError,
};

/// Copies that are not acknowledged yet: a part of what the publisher takes, so that clients do not wait for them.
const IN_FLIGHT_MAX: u32 = 128;

/// How often the log is looked at: the faster the less it holds, so that it cannot be filled between two looks.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Bytes that a log may get in a second, for [`LOOK_MIN`] and [`LOOK_MAX`].
const BYTES_PER_MS: u64 = 64 * 1024;

/// How long to wait after something failed.
const RETRY: Duration = Duration::from_millis(500);

/// How often backlogs are looked for that nobody is owed any more, while there are passes and while there are none; and
/// how many are removed then.
const SWEEP: Duration = Duration::from_secs(60);
const SWEEP_IDLE: Duration = Duration::from_secs(600);
const SWEEP_MAX: usize = 1_000;
const SWEEP_AT_ONCE: usize = 16;

/// JetStream error: a limit is reached that refuses what is new.
const STORE_FAILED: u32 = 10077;

impl Account {
    /// Stands for the lead in keeping the backlog, and keeps it while it leads, until the account closes.
    pub(crate) async fn keep_backlog(account: Weak<Self>) {
        let writers = account.clone();
        Self::campaign(account, "backlog", |term| Writer::new(writers.clone(), term).run()).await;
    }

    /// Messages that the log does not have any more, from the backlog of a client, as far as they are there.
    pub(crate) async fn find_in_backlog(&self, client_id: &str, mut sequences: HashSet<u64>) -> Vec<LogEntry> {
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
        wanted: &mut HashSet<u64>,
        found: &mut Vec<LogEntry>,
    ) -> Result<(), Unavailable> {
        let Some(lowest) = wanted.iter().min() else { return Ok(()) };
        let Some(mut reader) = self.store.backlog().read(client_id, lowest - 1).await? else { return Ok(()) };
        loop {
            let page = reader.page().await?;
            let Some(last) = page.last().map(|entry| entry.sequence) else { return Ok(()) };
            found.extend(page.into_iter().filter(|entry| wanted.remove(&entry.sequence)));
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
        is_unwanted: impl FnOnce(u64) -> bool + Send + 'static,
        is_left: Arc<AtomicBool>,
    ) {
        let (backlog, client_id) = (self.store.backlog().clone(), client_id.to_owned());
        tokio::spawn(async move {
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
    term: u64,
    position: Option<Position>,
    /// Copies above the position may be there already: of a pass that did not end.
    is_doubtful: bool,
    swept_at: Instant,
    /// When pages of subscriptions were looked for that nobody has any more.
    pages_swept_at: Option<Instant>,
    /// The first message above the position and when it was stored, once it is known.
    oldest: Option<(u64, u64)>,
    overtaken: u64,
}

/// Where the writer is, as it is stored.
struct Position {
    stored: BacklogPosition,
    /// What the next save expects.
    expected: u64,
}

/// Why a pass did not end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("a copy was not stored: {0}")]
    Put(#[from] PutError),
    #[error("the position was not saved: {0}")]
    Write(#[from] WriteError),
}

impl Writer {
    fn new(account: Weak<Account>, term: u64) -> Self {
        let swept_at = Instant::now();
        let (position, oldest, pages_swept_at) = (None, None, None);
        Self { account, term, position, is_doubtful: true, swept_at, pages_swept_at, oldest, overtaken: 0 }
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

    /// Waits until the log is to be looked at again: soon when it gets messages, and now and then for their age.
    async fn wait(&self, seen: u64, look: Look) {
        let until = Instant::now() + look.at_last;
        loop {
            tokio::time::sleep(look.pause.min(look.at_last)).await;
            let is_growing = self.account.upgrade().is_none_or(|account| account.tail_sequence() != seen);
            if is_growing || Instant::now() >= until {
                return;
            }
        }
    }

    /// Looks at the log, and copies what is due. Returns when to look again; `None` when more may be due already.
    async fn turn(&mut self, account: &Arc<Account>) -> Result<Option<Look>, Failure> {
        Box::pin(self.sweep_pages(account)).await;
        let log = account.store.backlog().log_info().await?;
        let position = self.position(account, &log).await?;
        if log.first > position + 1 && position > self.overtaken && log.messages > 0 {
            self.overtaken = log.first;
            tracing::warn!(position, first = log.first, "the log was discarded faster than the backlog was written");
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
        self.pass(account, position, horizon, log.last).await?;
        Ok(None)
    }

    /// Removes the pages of sessions that are over, when one is, and now and then for those of which nobody has heard.
    async fn sweep_pages(&mut self, account: &Account) {
        let leaves_pages = account.census.take_leaves_pages();
        if !leaves_pages && self.pages_swept_at.is_some_and(|at| at.elapsed() < SWEEP_IDLE) {
            return;
        }
        match account.store.sessions().sweep().await {
            Ok(removed) => {
                self.pages_swept_at = Some(Instant::now());
                tracing::debug!(removed, "pages of sessions that are over");
            }
            Err(error) => {
                self.pages_swept_at = None;
                tracing::debug!(%error, "pages of sessions that are over are left to the next sweep");
            }
        }
    }

    /// Up to where the log is copied.
    async fn position(&mut self, account: &Account, log: &LogInfo) -> Result<u64, Failure> {
        if self.position.is_none() {
            let (stored, expected) = account.store.backlog().position().await?;
            self.position = Some(Position { stored, expected });
        }
        let Some(Position { stored, .. }) = &mut self.position else { return Ok(0) };
        if stored.log != log.created {
            if !stored.log.is_empty() {
                tracing::error!("the log is another one: what it had is lost to sessions that were away");
            }
            *stored = BacklogPosition { log: log.created.clone(), position: 0, term: self.term };
        }
        Ok(stored.position)
    }

    /// Up to where the log is to be copied now, if at all.
    async fn horizon(&mut self, account: &Account, log: &LogInfo, position: u64) -> Result<Option<u64>, Failure> {
        let by_room = horizon::by_room(log, position);
        if by_room.is_some() {
            return Ok(by_room);
        }
        let Some(max_age_ms) = log.max_age_ms.filter(|_| log.last > position) else { return Ok(None) };
        let backlog = account.store.backlog();
        if self.oldest.is_none_or(|(sequence, _)| sequence <= position || sequence < log.first) {
            self.oldest = backlog.log_time(position + 1).await?;
        }
        // Too early costs a copy, too late a message.
        let Some(now_ms) = account.store.clock().now_ms() else { return Ok(None) };
        let Some((_, stored_ms)) = self.oldest else { return Ok(None) };
        if !horizon::is_due_by_age(max_age_ms, now_ms.saturating_sub(stored_ms)) {
            return Ok(None);
        }
        let until_ms = now_ms.saturating_sub(horizon::age_of_horizon_ms(max_age_ms));
        let mut search = Search::new(position.max(log.first.saturating_sub(1)), log.last, until_ms);
        loop {
            match search.next() {
                Ok(asked) => search.answer(asked, backlog.log_time(asked).await?),
                Err(found) => return Ok((found > position).then_some(found)),
            }
        }
    }

    /// Copies what lies above the position, up to and with the horizon, for everyone who is owed it.
    async fn pass(&mut self, account: &Arc<Account>, position: u64, horizon: u64, last: u64) -> Result<(), Failure> {
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
        // Copies of a log that was there before say nothing about this one.
        ends.retain(|_, end| end.log_sequence <= last);
        let owed = BacklogPlan::of(&states, &ends, position, horizon, store.clock().certain_ms());
        drop((states, ends));
        let copies = match owed.from() {
            Some(from) => {
                let before = store.backlog().lengths().await?;
                let copies = copy(account, &owed, from, horizon).await?;
                if let Some(before) = before {
                    oldest::count(account, &owed, &before, &copies).await?;
                }
                copies.values().sum()
            }
            None => 0_u64,
        };
        let Some(Position { stored, expected }) = &mut self.position else { return Ok(()) };
        stored.position = horizon;
        stored.term = self.term;
        *expected = store.backlog().save_position(stored, *expected).await?;
        self.is_doubtful = false;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(above = position, up_to = horizon, copies, ms, "the log is copied into backlogs");
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
    /// In any case: what it has grows old.
    at_last: Duration,
}

impl Look {
    fn of(log: &LogInfo) -> Self {
        let until_full = |bytes: u64| Duration::from_millis(bytes / 4 / BYTES_PER_MS);
        let until_old = |ms: u64| Duration::from_millis(ms / 16);
        Self {
            pause: log.max_bytes.map_or(LOOK_MAX, until_full).clamp(LOOK_MIN, LOOK_MAX),
            at_last: log.max_age_ms.map_or(LOOK_MAX, until_old).clamp(LOOK_MIN, LOOK_MAX),
        }
    }
}

/// Removes backlogs that nobody is owed any more. What fails here is found again.
async fn sweep(account: &Account, states: &HashMap<String, SessionState>, ends: &HashMap<String, BacklogEnd>) {
    let now_ms = account.store.clock().certain_ms();
    let is_wanted = |client_id: &str, end: &BacklogEnd| match states.get(client_id) {
        Some(SessionState { record, .. }) if record.is_too_new() => true,
        Some(SessionState { record, .. }) if record.expiry_s == 0 || record.has_expired(now_ms) => false,
        Some(state) => !is_consumed(state, end.log_sequence),
        None => false,
    };
    let unwanted = ends.iter().filter(|(client_id, end)| !is_wanted(client_id, end)).take(SWEEP_MAX);
    let (sessions, backlog) = (account.store.sessions(), account.store.backlog());
    let removed = stream::iter(unwanted).for_each_concurrent(SWEEP_AT_ONCE, |(client_id, end)| async move {
        let remove = async {
            if !states.contains_key(client_id) {
                sessions.clean_up(client_id).await?;
            }
            backlog.purge(client_id, end.stream_sequence).await
        };
        if let Err(error) = remove.await {
            tracing::debug!(client_id, %error, "a backlog that is not wanted is still there");
        }
    });
    removed.await;
}

/// Reads the log from a sequence up to the horizon, and copies what is owed. Returns how many copies were made, by debtor,
/// when all are acknowledged.
async fn copy(
    account: &Arc<Account>,
    owed: &BacklogPlan,
    from: u64,
    horizon: u64,
) -> Result<HashMap<u64, u64>, Failure> {
    let mut scan = account.store.log().scan(from);
    let copies = Arc::new(Copies::default());
    let mut recipients = Vec::new();
    while scan.position() <= horizon {
        let batch = scan.next().await?;
        for entry in batch.iter().take_while(|entry| entry.sequence <= horizon) {
            let Some((ttl_s, is_hidden, message)) = live(account, entry) else { continue };
            owed.matching(entry.sequence, &message, is_hidden, &mut recipients);
            for recipient in &recipients {
                copies.put(account, entry, *recipient, owed.client_id(*recipient), ttl_s).await?;
            }
        }
        if scan.is_caught_up() {
            break;
        }
    }
    copies.all(account).await
}

/// A message of the log with what is left of its life, in seconds, unless nobody is to have it.
fn live(account: &Account, entry: &LogEntry) -> Option<(Option<u32>, bool, Message)> {
    let closed = account.router.closed();
    if closed.is_closed_subject(entry.subject()) {
        return None;
    }
    let message = convert::from_log(entry, convert::STORED, false, None).ok()?;
    match message.expiry(account.store.clock().earliest_ms()) {
        Ok(Some(0)) | Err(_) => None,
        Ok(ttl_s) => Some((ttl_s, closed.hides_topic_from_wildcard(&message.topic), message)),
    }
}

/// Copies under way, and what became of them.
#[derive(Debug)]
struct Copies {
    room: Semaphore,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    /// By debtor.
    stored: HashMap<u64, u64>,
    /// Sessions whose queue takes nothing more, and what was dropped for that.
    full: HashSet<u64>,
    queue_full: u64,
    too_large: u64,
    failed: Option<PutError>,
}

impl Default for Copies {
    fn default() -> Self {
        Self { room: Semaphore::new(IN_FLIGHT_MAX as usize), outcome: Mutex::default() }
    }
}

impl Copies {
    /// Hands over one copy, when there is room. Fails when one before it has.
    async fn put(
        self: &Arc<Self>,
        account: &Account,
        entry: &LogEntry,
        recipient: u32,
        client_id: &str,
        ttl_s: Option<u32>,
    ) -> Result<(), PutError> {
        let token = u64::from(recipient);
        {
            let mut outcome = self.outcome.lock();
            if let Some(error) = outcome.failed.clone() {
                return Err(error);
            }
            if outcome.full.contains(&token) {
                outcome.queue_full += 1;
                return Ok(());
            }
        }
        let Some((target, headers)) = account.store.backlog().copy_of(entry, client_id) else { return Ok(()) };
        let bytes = entry.payload.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let publisher = account.store.publisher();
        // Never closed, so an error cannot occur.
        if let Ok(room) = self.room.acquire().await {
            room.forget();
        }
        let permit = publisher.permit(bytes).await;
        let sink = Arc::clone(self) as Arc<dyn StoredSink>;
        let payload = entry.payload.clone();
        publisher
            .submit(permit, Put { target, headers, payload, ttl_s, expected_last: None, guard: None, sink, token });
        Ok(())
    }

    /// Waits until all are acknowledged. Returns how many were stored, by debtor.
    async fn all(&self, account: &Account) -> Result<HashMap<u64, u64>, Failure> {
        let _all = self.room.acquire_many(IN_FLIGHT_MAX).await;
        let mut outcome = self.outcome.lock();
        if let Some(error) = outcome.failed.clone() {
            return Err(error.into());
        }
        for (reason, count) in [(DropReason::QueueFull, outcome.queue_full), (DropReason::TooLarge, outcome.too_large)]
        {
            if count > 0 {
                account.metrics.dropped(reason, count);
            }
        }
        Ok(std::mem::take(&mut outcome.stored))
    }
}

impl StoredSink for Copies {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        let mut outcome = self.outcome.lock();
        match result {
            Ok(_) => *outcome.stored.entry(token).or_default() += 1,
            Err(PutError::Full { code: STORE_FAILED, .. }) => {
                outcome.full.insert(token);
                outcome.queue_full += 1;
            }
            // No other attempt would be better.
            Err(PutError::TooLarge | PutError::Invalid { .. }) => outcome.too_large += 1,
            Err(error) => outcome.failed = Some(error),
        }
        drop(outcome);
        self.room.add_permits(1);
    }

    fn flush(&self) {}
}
