//! What becomes of what one publisher publishes, on its way back to it, and whether it may publish at all: a connection, or
//! whoever publishes a will or an answer. Whoever publishes knows nothing else of a connection.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytestring::ByteString;
use mqtt_codec::{ReasonCode, Version};
use mqtt_ownership::Epoch;
use mqtt_session::Token;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::job::PutToken;
use crate::account::session_id::SessionId;
use crate::store::{PutError, PutGuard, Stored, StoredSink};

/// The answer to a publish: what the session is told.
pub(crate) type PublishOutcome = (Token, Result<ReasonCode, ReasonCode>);

/// What is taken out at once.
#[derive(Debug, Default)]
pub(super) struct Completed {
    /// What the store has dealt with.
    pub(super) stored: Vec<(PutToken, Result<Stored, PutError>)>,
    /// Answers that something else than the store decided.
    pub(super) reported: Vec<PublishOutcome>,
}

impl Completed {
    /// Gives back memory that is not used.
    pub(super) fn release(&mut self) {
        self.stored.shrink_to_fit();
        self.reported.shrink_to_fit();
    }
}

/// The completions of one publisher.
#[derive(Debug)]
pub(crate) struct Completions {
    /// Names the session.
    pub(crate) id: SessionId,
    /// Its client id.
    pub(crate) client_id: ByteString,
    version: Version,
    /// Wakes whoever follows what is published.
    wake: Arc<Notify>,
    completed: Mutex<Completed>,
    /// Something is there: who looks for it and finds nothing takes no lock.
    is_filled: AtomicBool,
    /// Epoch of the connection in its session's record; 0 without one.
    epoch: AtomicU64,
    /// See [`Completions::withdraw`].
    is_withdrawn: AtomicBool,
    /// See [`Completions::has_failed`].
    has_failed: AtomicBool,
}

impl Completions {
    /// Of a publisher that nothing else wakes.
    pub(crate) fn new(id: SessionId, client_id: ByteString, version: Version) -> Self {
        Self::waking(id, client_id, version, Arc::default())
    }

    /// Of a connection, which is woken for other things as well.
    pub(in crate::account) fn waking(
        id: SessionId,
        client_id: ByteString,
        version: Version,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            id,
            client_id,
            version,
            wake,
            completed: Mutex::default(),
            is_filled: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            is_withdrawn: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Waits until something is there.
    pub(super) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.wake.notified()
    }

    /// Takes what is there, in exchange for what is empty.
    pub(super) fn take(&self, completed: &mut Completed) {
        if self.is_filled.load(Ordering::Acquire) {
            let mut filled = self.completed.lock();
            mem::swap(completed, &mut *filled);
            self.is_filled.store(false, Ordering::Release);
        }
    }

    /// Reports the outcome of a publish that something else than the store decided.
    pub(in crate::account) fn report(&self, token: Token, result: Result<ReasonCode, ReasonCode>) {
        self.fill(|completed| completed.reported.push((token, result)));
        self.wake.notify_one();
    }

    fn fill(&self, fill: impl FnOnce(&mut Completed)) {
        let mut completed = self.completed.lock();
        fill(&mut completed);
        self.is_filled.store(true, Ordering::Release);
    }

    /// Gives back memory that is not used.
    pub(super) fn release(&self) {
        self.completed.lock().release();
    }

    /// Epoch of the connection in its session's record; 0 without one.
    pub(in crate::account) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// The session has a record of ours, with this epoch.
    pub(in crate::account) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// The epoch of the connection has ended: its client is elsewhere, or its sidecar may own nothing any more. What it has
    /// published and nobody has acknowledged is withdrawn: it is neither sent for the first time nor repeated, and what is
    /// on the wire is recognised where it arrives (see `retained_writer`, `ended_epochs`). A client that has left and has not
    /// come back keeps what it has published, and so does one that comes back here, since it is let in behind that.
    pub(in crate::account) fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether [`Completions::withdraw`] was called.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Ordering::Acquire)
    }

    /// Whether a publish has ended so that its client repeats it. **Invariant:** what a client has published behind it is not
    /// stored before that: it is neither sent for the first time nor repeated, and the connection ends.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Whether a publish above QoS 0 that ends so ends the connection: no acknowledgement can say it, and the client repeats
    /// what it has published. What moves to another log is tried there first.
    fn ends_with(&self, error: &PutError) -> bool {
        match error {
            // It was not known here until now that the epoch of the connection has ended.
            PutError::Unavailable | PutError::Withdrawn => true,
            PutError::NoStream => false,
            _ => !self.version.is_v5(),
        }
    }

    fn complete(&self, token: PutToken, result: Result<Stored, PutError>, is_end: impl FnOnce(&PutError) -> bool) {
        if result.as_ref().is_err_and(is_end) {
            self.has_failed.store(true, Ordering::Release);
            self.wake.notify_one();
        }
        self.fill(|completed| completed.stored.push((token, result)));
    }
}

impl PutGuard for Completions {
    fn is_wanted(&self) -> bool {
        !self.is_withdrawn() && !self.has_failed()
    }
}

impl StoredSink for Completions {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        self.complete(PutToken(token), result, |error| self.ends_with(error));
    }

    fn flush(&self) {
        self.wake.notify_one();
    }
}

/// The same for publishes at QoS 0: that one could not be stored ends nothing.
#[derive(Debug)]
pub(super) struct Unanswered(pub(super) Arc<Completions>);

impl StoredSink for Unanswered {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        self.0.complete(PutToken(token), result, |error| *error == PutError::Withdrawn);
    }

    fn flush(&self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completions(version: Version) -> Completions {
        Completions::new(SessionId(1), "c".into(), version)
    }

    fn taken(completions: &Completions) -> (Vec<u64>, Vec<Token>) {
        let mut completed = Completed::default();
        completions.take(&mut completed);
        let stored = completed.stored.iter().map(|(token, _)| token.0).collect();
        (stored, completed.reported.iter().map(|(token, _)| *token).collect())
    }

    #[test]
    fn what_is_completed_is_taken_once_and_in_its_order() {
        let completions = completions(Version::V5);
        let done = || Ok(Stored { sequence: 1, duplicate: false });
        completions.stored(7, done());
        completions.stored(5, done());
        completions.report(3, Ok(ReasonCode::Success));
        assert_eq!(taken(&completions), (vec![7, 5], vec![3]));
        assert_eq!(taken(&completions), (vec![], vec![]));
        completions.stored(8, done());
        assert_eq!(taken(&completions), (vec![8], vec![]));
    }

    #[tokio::test]
    async fn nothing_is_missed_by_one_who_takes_while_others_complete() {
        const EACH: u64 = 20_000;
        let completions = Arc::new(completions(Version::V5));
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                let completions = Arc::clone(&completions);
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        completions.stored(2 * number + thread, Err(PutError::NoStream));
                        completions.flush();
                    }
                })
            })
            .collect();
        let mut all = Vec::new();
        while all.len() < 2 * EACH as usize {
            completions.notified().await;
            all.extend(taken(&completions).0);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..2 * EACH));
    }

    #[test]
    fn a_publish_that_no_acknowledgement_can_tell_of_fails_its_connection() {
        let full = || PutError::Full { code: 10_077, text: String::new() };
        for (version, error, above_qos0, at_qos0) in [
            (Version::V5, PutError::Unavailable, true, false),
            (Version::V5, PutError::Withdrawn, true, true),
            (Version::V5, PutError::NoStream, false, false),
            (Version::V5, PutError::TooLarge, false, false),
            (Version::V5, full(), false, false),
            (Version::V311, PutError::NoStream, false, false),
            (Version::V311, full(), true, false),
        ] {
            let (one, other) = (completions(version), Arc::new(completions(version)));
            one.stored(0, Err(error.clone()));
            Unanswered(Arc::clone(&other)).stored(0, Err(error.clone()));
            assert_eq!((one.has_failed(), other.has_failed()), (above_qos0, at_qos0), "{version:?} {error:?}");
            assert_eq!(one.is_wanted(), !above_qos0, "nothing behind it is stored");
        }
    }
}
