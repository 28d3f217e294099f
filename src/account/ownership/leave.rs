//! A connection has ended: its session is put in order.

use std::net::IpAddr;
use std::sync::Arc;

use mqtt_ownership::{Amend, AmendOutcome, Leave, LeaveOutcome, Revision, Step};

use super::record::{Message, Rest, state_of};
use super::{Driver, In};
use crate::account::delivery::mailbox::Mailbox;
use crate::account::{Account, OwnedSession};
use crate::metrics::WillCause;
use crate::store::{ProgressRecord, SessionRecord, StoredWill, WriteError};

/// What a connection that ends leaves of its session.
pub(crate) struct LeaveEnd {
    /// Its record, as it was written last.
    pub(crate) owned: Box<OwnedSession>,
    /// Its progress.
    pub(crate) progress: ProgressRecord,
    /// The Session Expiry Interval that its client has said last, seconds.
    pub(crate) expiry_s: u32,
    /// Why its will is published; `None` when it is not.
    pub(crate) will: Option<WillCause>,
    /// Where its client was.
    pub(crate) remote: IpAddr,
}

impl Account {
    /// Writes, when it is its turn, until it is done, or somebody else owns the session. Returns whether it is done.
    pub(crate) async fn leave_session(self: &Arc<Self>, mailbox: &Mailbox, end: LeaveEnd) -> bool {
        let (expiry_s, cause) = (end.expiry_s, end.will.unwrap_or(WillCause::ConnectionLost));
        let will = end.owned.record.will.as_ref().map_or(0, StoredWill::size);
        let turn = self.turns.of_connection(end.remote, will).await;
        let outcome = Box::pin(self.run_leave(mailbox, end, cause)).await;
        drop(turn);
        match outcome {
            LeaveOutcome::Done => true,
            LeaveOutcome::Later(state, revision) => {
                self.finish_later(mailbox.client_id.clone(), state, revision, cause);
                true
            }
            // Who owns the session now, or has adopted it, takes care of the rest.
            LeaveOutcome::Theirs => {
                mailbox.withdraw();
                if expiry_s > 0 {
                    self.hold_handover(mailbox).await;
                }
                false
            }
            LeaveOutcome::TooLarge => false,
        }
    }

    async fn run_leave(
        self: &Arc<Self>,
        mailbox: &Mailbox,
        end: LeaveEnd,
        cause: WillCause,
    ) -> LeaveOutcome<Message, Rest> {
        let LeaveEnd { owned, progress, expiry_s, will, .. } = end;
        let mut record = owned.record();
        record.expiry_s = expiry_s;
        let mut machine = Leave::new(state_of(record), Revision(owned.sequence), progress, will.is_some());
        let mut driver = Driver::new(self, &mailbox.client_id, cause);
        let mut next = machine.begin(self.session_time());
        loop {
            match next {
                Step::Do(output) => {
                    let input = driver.perform(output).await;
                    next = machine.handle(self.session_time(), input);
                }
                // Nothing that this machine is told here has this for an answer.
                Step::Wait => return LeaveOutcome::TooLarge,
                Step::Done(outcome) => return outcome,
            }
        }
    }

    /// Writes the record of a session that is ours. Returns its sequence.
    ///
    /// # Errors
    /// Somebody else owns the session, the record is too large, or JetStream does not take it within `tries`.
    pub(crate) async fn amend_session(
        self: &Arc<Self>,
        record: SessionRecord,
        sequence: u64,
        tries: usize,
    ) -> Result<u64, WriteError> {
        let client_id = bytestring::ByteString::from(record.client_id.as_str());
        let mut machine: Amend<Message, Rest> = Amend::new(state_of(record), Revision(sequence));
        let mut driver = Driver::new(self, &client_id, WillCause::TakenOver);
        let mut next: Step<Message, Rest, ProgressRecord, AmendOutcome> = machine.begin();
        let mut failures = 0;
        loop {
            match next {
                Step::Done(AmendOutcome::Written(revision)) => return Ok(revision.0),
                Step::Done(AmendOutcome::Theirs) => return Err(WriteError::Fenced),
                Step::Done(AmendOutcome::TooLarge) => return Err(WriteError::TooLarge),
                Step::Wait => return Err(WriteError::Unavailable { reason: "nothing is to be done".to_owned() }),
                Step::Do(output) => {
                    let input = driver.perform(output).await;
                    failures += usize::from(matches!(input, In::NotNow));
                    if failures >= tries {
                        return Err(WriteError::Unavailable { reason: "no answer in time".to_owned() });
                    }
                    next = machine.handle(input);
                }
            }
        }
    }
}
