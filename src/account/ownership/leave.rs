//! A connection has ended: its session is put in order.

use std::net::IpAddr;
use std::sync::Arc;

use mqtt_ownership::{Amend, AmendOutcome, Leave, LeaveOutcome, Revision, Step};

use super::driver::{Driver, In};
use super::record::{Message, Rest, state_of};
use crate::account::Account;
use crate::account::control::Control;
use crate::account::ownership::owned_session::{OwnedSession, SessionWrite};
use crate::metrics::WillCause;
use crate::store::{Arrival, ProgressRecord, SessionRecord, StoredWill, WriteError};

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

/// What became of a [`SessionWrite`].
pub(crate) struct SessionWritten {
    /// The revision of the record now.
    pub(crate) revision: Revision,
    /// Pages that are not written, or nobody knows.
    pub(crate) unwritten: Vec<u32>,
    /// The record is to be written before anything else: an attempt to write a page may arrive again.
    pub(crate) is_fence_due: bool,
    /// Why something is not written.
    pub(crate) result: Result<(), SessionError>,
}

/// What of a session could not be written, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionError {
    /// The record.
    Record(WriteError),
    /// A page.
    Page(WriteError),
}

impl Account {
    /// Writes, when it is its turn, until it is done, or somebody else owns the session. Returns whether it is done.
    pub(crate) async fn leave_session(self: &Arc<Self>, control: &Control, end: LeaveEnd) -> bool {
        let (expiry_s, cause) = (end.expiry_s, end.will.unwrap_or(WillCause::ConnectionLost));
        let will = end.owned.record.will.as_deref().map_or(0, StoredWill::whole_size);
        let turn = self.turns.of_connection(end.remote, will).await;
        let outcome = Box::pin(self.run_leave(control, end, cause)).await;
        drop(turn);
        if matches!(outcome, LeaveOutcome::Done | LeaveOutcome::Later(..)) {
            control.disown();
        }
        match outcome {
            LeaveOutcome::Done => true,
            LeaveOutcome::Later(state, revision) => {
                self.finish_later(control.client_id.clone(), state, revision, cause);
                true
            }
            // Who owns the session now, or has adopted it, takes care of the rest.
            LeaveOutcome::Theirs => {
                control.withdraw();
                if expiry_s > 0 {
                    self.hold_handover(control).await;
                }
                false
            }
            LeaveOutcome::TooLarge => false,
        }
    }

    async fn run_leave(
        self: &Arc<Self>,
        control: &Control,
        end: LeaveEnd,
        cause: WillCause,
    ) -> LeaveOutcome<Message, Rest> {
        let LeaveEnd { owned, progress, expiry_s, will, .. } = end;
        let mut record = owned.record();
        record.expiry_s = expiry_s;
        let mut driver = Driver::new(self, &control.client_id, cause).finishing(&record);
        driver.leave(Leave::new(state_of(record), owned.revision, progress, will.is_some())).await
    }

    /// Writes what has changed of a session that is ours, one after the other; the record in `tries`.
    pub(crate) async fn write_session(self: &Arc<Self>, write: SessionWrite, tries: usize) -> SessionWritten {
        let SessionWrite { client_id, first_epoch, mut revision, record, pages, .. } = write;
        let mut unwritten: Vec<u32> = pages.iter().map(|(number, _)| *number).collect();
        let mut is_fence_due = false;
        if let Some(record) = record {
            match self.amend_session(record, revision, tries).await {
                Ok(written) => revision = written,
                Err(error) => {
                    let result = Err(SessionError::Record(error));
                    return SessionWritten { revision, unwritten, is_fence_due: true, result };
                }
            }
        }
        for (number, page) in pages {
            match self.store.sessions().put_page(&client_id, first_epoch.0, number, &page, revision.0).await {
                Ok(arrival) => {
                    is_fence_due |= arrival == Arrival::Again;
                    unwritten.retain(|unwritten| *unwritten != number);
                }
                // It may still arrive, after a later one. A record written anew is a fence that keeps it out.
                Err(error) => {
                    let result = Err(SessionError::Page(error));
                    return SessionWritten { revision, unwritten, is_fence_due: true, result };
                }
            }
        }
        SessionWritten { revision, unwritten, is_fence_due, result: Ok(()) }
    }

    /// Writes the record of a session that is ours. Returns its revision.
    ///
    /// # Errors
    /// Somebody else owns the session, the record is too large, or JetStream does not take it within `tries`.
    pub(crate) async fn amend_session(
        self: &Arc<Self>,
        record: SessionRecord,
        revision: Revision,
        tries: usize,
    ) -> Result<Revision, WriteError> {
        let client_id = bytestring::ByteString::from(record.client_id.as_str());
        let mut machine: Amend<Message, Rest> = Amend::new(state_of(record), revision);
        let mut driver = Driver::new(self, &client_id, WillCause::TakenOver);
        let mut next: Step<Message, Rest, ProgressRecord, AmendOutcome> = machine.begin();
        let mut failures = 0;
        loop {
            match next {
                Step::Done(AmendOutcome::Written(revision)) => return Ok(revision),
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
