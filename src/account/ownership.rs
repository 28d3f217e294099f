//! The one driver of the machines that decide who owns a session (crate `mqtt-ownership`): it does what they say, awaits
//! the store, and feeds the answers back. It holds the only pauses between tries.
//!
//! - `claim`: a CONNECT; `orphaned_connects`: those that were given up and may have left a record
//! - `leave`: the end of a connection; `failover`: sessions whose connection is gone, and wills that wait
//! - `handover`: between two owners; `wills`: how one is published
//! - `record`: between a record as it is stored and what of it decides
//!
//! And what is around it: `lifecycle`, a session from CONNECT to the end, with `turns`; `owned_session`, `paged`, `parts`,
//! `records`: what its owner has of it; `leases` and `our_lease`; `nodes_gone`, with `heard` and `dividing`: the sessions of who is
//! gone; `displaced`; `versions`; `doubt`.

mod claim;
pub(in crate::account) mod displaced;
pub(in crate::account) mod dividing;
pub(in crate::account) mod doubt;
mod failover;
mod handover;
pub(in crate::account) mod heard;
pub(in crate::account) mod leases;
mod leave;
pub(in crate::account) mod lifecycle;
pub(in crate::account) mod nodes_gone;
mod orphaned_connects;
pub(in crate::account) mod our_lease;
pub(in crate::account) mod owned_session;
pub(in crate::account) mod paged;
pub(in crate::account) mod parts;
mod reclaim;
mod record;
pub(in crate::account) mod records;
pub(in crate::account) mod remains;
pub(in crate::account) mod turns;
pub(in crate::account) mod versions;
pub(in crate::account) mod will_room;
mod wills;

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_ownership::{Input, Now, Output, Revision, ServerTime, WillOutcome};

pub(in crate::account) use self::claim::{Abandoned, Ask, Claimed};
pub(crate) use self::claim::{PeerSocket, Refusal, Told};
pub(crate) use self::leave::{LeaveEnd, SessionError, SessionWritten};
pub(in crate::account) use self::orphaned_connects::OrphanedConnects;
use self::record::{Message, Rest, State, messages, state_of};
pub(in crate::account) use self::record::{record_of, wills_beside};
use self::remains::Remain;
use crate::account::Account;
use crate::metrics::WillCause;
use crate::store::{
    Arrival, Beside, Loaded, ProgressRecord, RECORD_VERSION, SessionRecord, Sessions, StoredWill, WriteError,
};

/// The shortest pause before something is tried again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(8);

type In = Input<Message, Rest, ProgressRecord>;
type Out = Output<Message, Rest, ProgressRecord>;

/// Does what machines say about one session.
struct Driver<'a> {
    account: &'a Arc<Account>,
    client_id: &'a ByteString,
    /// Why wills are published.
    cause: WillCause,
    /// Whether the session has pages, should it end.
    beside: Beside,
    /// Wills beside the record, to be removed behind the first record that does not name them, or behind its end.
    wills: Vec<u64>,
    pause: Duration,
    has_failed: bool,
}

impl<'a> Driver<'a> {
    const fn new(account: &'a Arc<Account>, client_id: &'a ByteString, cause: WillCause) -> Self {
        Self {
            account,
            client_id,
            cause,
            beside: Beside::Perhaps,
            wills: Vec::new(),
            pause: PAUSE_MIN,
            has_failed: false,
        }
    }

    /// The same of a session that is over with its connection, or so far: what its record, as it is now, has beside it is
    /// removed when it is of no use any more.
    fn finishing(self, record: &SessionRecord) -> Self {
        Self { beside: Beside::pages(record.pages), wills: record.wills_beside().collect(), ..self }
    }

    /// Does one thing, after a pause when the last one failed.
    async fn perform(&mut self, output: Out) -> In {
        let is_again =
            matches!(output, Output::Load { again: true } | Output::PublishWill { again: true, .. }) || self.has_failed;
        if is_again {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else {
            self.pause = PAUSE_MIN;
        }
        let named = match &output {
            Output::Put { state, .. } => wills_beside(state),
            // Of a session that is over.
            _ => Vec::new(),
        };
        // The machine and its driver wait for it, and need not be as large as the largest of what there is to do.
        let input = Box::pin(self.carry_out(output)).await;
        if matches!(input, Input::Written(_)) {
            let done: Vec<u64> = self.wills.extract_if(.., |number| !named.contains(number)).collect();
            if !done.is_empty() {
                self.account.remains.remove(self.client_id, Remain::Wills(done)).await;
            }
        }
        let is_failure = |outcome: &WillOutcome| *outcome != WillOutcome::Done;
        self.has_failed = match &input {
            Input::NotNow => true,
            Input::WillPublished(outcome) => is_failure(outcome),
            _ => false,
        };
        input
    }

    async fn carry_out(&self, output: Out) -> In {
        let sessions = self.account.store.sessions();
        match output {
            Output::Load { .. } => match sessions.load(self.client_id).await {
                Ok(Loaded { newer: Some(version), .. }) => {
                    let (client_id, known) = (&**self.client_id, RECORD_VERSION);
                    tracing::error!(client_id, version, known, "the session was written by a newer version");
                    Input::TooNew
                }
                Ok(Loaded { record, sequence, .. }) => Input::Loaded(record.map(state_of), Revision(sequence)),
                Err(error) => self.not_now(&error),
            },
            Output::Trace => match sessions.trace(self.client_id).await {
                Ok(trace) => Input::Traced(trace),
                Err(error) => self.not_now(&error),
            },
            Output::Put { state, expected } => {
                let ttl_s = state.ttl_s(self.account.session_time().earliest);
                if let Err(error) = self.put_wills(&state).await {
                    return self.refused(&error);
                }
                let name = |will: &StoredWill, epoch| self.account.name_will(self.client_id, will, epoch);
                let record = record_of(*state, &name);
                match sessions.put_record(&record, expected.0, ttl_s).await {
                    Ok(sequence) => Input::Written(Revision(sequence)),
                    Err(error) => self.refused(&error),
                }
            }
            Output::PutProgress { progress, fence, ttl_s } => self.put_progress(sessions, progress, fence, ttl_s).await,
            Output::End(fence) => match sessions.end(self.client_id, fence.0, self.beside).await {
                Ok(()) => Input::Written(fence),
                Err(error) => self.refused(&error),
            },
            Output::AskNodes { nodes, before, last } => {
                let handed = self.account.ask_old_owners(self.client_id, &nodes, before).await;
                match handed {
                    Some(progress) if progress.epoch != last.0 => {
                        let saved = sessions.load_progress(self.client_id).await;
                        let is_newer = saved.is_ok_and(|saved| saved.is_some_and(|saved| saved.epoch > progress.epoch));
                        Input::HandedOver((!is_newer).then_some(progress))
                    }
                    handed => Input::HandedOver(handed),
                }
            }
            Output::PublishWill { will, epoch, .. } => {
                let outcome = self.account.publish_will(self.client_id, &will, epoch.0, self.cause).await;
                Input::WillPublished(outcome)
            }
            Output::Wait(until) => {
                tokio::time::sleep(until.since(self.account.session_time().earliest)).await;
                Input::Time
            }
        }
    }

    /// Stores the wills that a record is to name.
    async fn put_wills(&self, state: &State) -> Result<(), WriteError> {
        for whole in messages(state).filter_map(Message::whole) {
            if !whole.is_stored() {
                self.account.store.sessions().put_will(self.client_id, whole.number, &whole.will).await?;
                whole.set_stored();
            }
        }
        Ok(())
    }

    async fn put_progress(
        &self,
        sessions: &Sessions,
        progress: Option<ProgressRecord>,
        fence: Revision,
        ttl_s: Option<u32>,
    ) -> In {
        let progress = match progress {
            Some(progress) => progress,
            None => match sessions.load_progress(self.client_id).await {
                Ok(Some(progress)) => progress,
                Ok(None) => return Input::ProgressSaved { again: false },
                Err(error) => return self.not_now(&error),
            },
        };
        match sessions.put_progress(self.client_id, &progress, fence.0, ttl_s).await {
            Ok(arrival) => Input::ProgressSaved { again: arrival == Arrival::Again },
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &WriteError) -> In {
        match error {
            WriteError::Fenced => Input::Fenced,
            WriteError::TooLarge => {
                tracing::error!(client_id = &**self.client_id, "a session is too large to be kept");
                Input::TooLarge
            }
            WriteError::Unavailable { .. } => self.not_now(error),
        }
    }

    fn not_now(&self, error: &dyn std::fmt::Display) -> In {
        tracing::debug!(client_id = &**self.client_id, %error, "a session waits for JetStream");
        Input::NotNow
    }
}

impl Account {
    /// The server's time, for machines. It is known before any session is owned.
    fn session_time(&self) -> Now {
        let clock = self.store.clock();
        let earliest_ms = clock.earliest_ms();
        Now {
            earliest: ServerTime(earliest_ms),
            certain: ServerTime(clock.certain_ms()),
            stamp: ServerTime(clock.now_ms().unwrap_or(earliest_ms)),
        }
    }
}
