//! Does what machines say about one session, and tells them what came of it.

use std::time::Duration;

use bytestring::ByteString;
use mqtt_ownership::{Failover, FailoverOutcome, Input, Leave, LeaveOutcome, Output, Revision, Step, WillOutcome};

use super::handover::ask_old_owners;
use super::host::Host;
use super::record::{Message, Rest, State, messages, record_of, state_of, wills_beside};
use super::remains::Remain;
use crate::metrics::WillCause;
use crate::store::{
    Arrival, Beside, Loaded, ProgressRecord, RECORD_VERSION, SessionRecord, SessionStore, StoredWill, WillNumber,
    WriteError,
};

/// The shortest pause before something is tried again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(8);

pub(super) type In = Input<Message, Rest, ProgressRecord>;
pub(super) type Out = Output<Message, Rest, ProgressRecord>;
/// What is next for a session whose connection is gone.
pub(super) type FailoverStep = Step<Message, Rest, ProgressRecord, FailoverOutcome>;

/// Does what machines say about one session.
pub(super) struct Driver<'a, H> {
    pub(super) host: &'a H,
    client_id: &'a ByteString,
    /// Why wills are published.
    cause: WillCause,
    /// Whether the session has pages, should it end.
    beside: Beside,
    /// Wills beside the record, to be removed behind the first record that does not name them, or behind its end.
    pub(super) wills: Vec<WillNumber>,
    pause: Duration,
    has_failed: bool,
}

impl<'a, H: Host> Driver<'a, H> {
    pub(super) const fn new(host: &'a H, client_id: &'a ByteString, cause: WillCause) -> Self {
        Self { host, client_id, cause, beside: Beside::Perhaps, wills: Vec::new(), pause: PAUSE_MIN, has_failed: false }
    }

    /// The same of a session that is over with its connection, or so far: what its record, as it is now, has beside it is
    /// removed when it is of no use any more.
    pub(super) fn finishing(self, record: &SessionRecord) -> Self {
        Self { beside: Beside::pages(record.pages), wills: record.wills_beside().collect(), ..self }
    }

    /// Does one thing, after a pause when the last one failed.
    pub(super) async fn perform(&mut self, output: Out) -> In {
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
            let done: Vec<WillNumber> = self.wills.extract_if(.., |number| !named.contains(number)).collect();
            if !done.is_empty() {
                self.host.remove(self.client_id, Remain::Wills(done)).await;
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
        let sessions = self.host.sessions();
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
                let ttl_s = state.ttl_s(self.host.now().earliest);
                if let Err(error) = self.put_wills(&state).await {
                    return self.refused(&error);
                }
                let name = |will: &StoredWill, epoch| self.host.name_will(self.client_id, will, epoch);
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
                let handed = ask_old_owners(self.host.peers(), self.client_id, &nodes, before).await;
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
                let outcome = self.host.publish_will(self.client_id, &will, epoch, self.cause).await;
                Input::WillPublished(outcome)
            }
            Output::Wait(until) => {
                tokio::time::sleep(until.since(self.host.now().earliest)).await;
                Input::Time
            }
        }
    }

    /// Stores the wills that a record is to name.
    async fn put_wills(&self, state: &State) -> Result<(), WriteError> {
        for whole in messages(state).filter_map(Message::whole) {
            if !whole.is_stored() {
                self.host.sessions().put_will(self.client_id, whole.number, &whole.will).await?;
                whole.set_stored();
            }
        }
        Ok(())
    }

    async fn put_progress(
        &self,
        sessions: &H::Sessions,
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

    /// Writes what a connection that ends leaves, until it is done or somebody else's.
    pub(super) async fn leave(
        &mut self,
        mut machine: Leave<Message, Rest, ProgressRecord>,
    ) -> LeaveOutcome<Message, Rest> {
        let mut next = machine.begin(self.host.now());
        loop {
            match next {
                Step::Do(output) => {
                    let input = self.perform(output).await;
                    next = machine.handle(self.host.now(), input);
                }
                // Nothing that this machine is told here has this for an answer.
                Step::Wait => return LeaveOutcome::TooLarge,
                Step::Done(outcome) => return outcome,
            }
        }
    }

    /// Does one thing for a session whose connection is gone, and says what is next.
    pub(super) async fn fail_over(&mut self, machine: &mut Failover<Message, Rest>, output: Out) -> FailoverStep {
        let input = self.perform(output).await;
        machine.handle(self.host.now(), input)
    }
}
