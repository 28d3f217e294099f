//! Between a sidecar and its memory.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::error::Unavailable;

/// How long something is tried, as over JetStream.
pub(super) const WRITE_WITHIN: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It arrives and is answered.
    Up,
    /// Nothing arrives, and it is known that it does not.
    Down,
    /// It arrives and nobody hears the answer.
    Deaf,
    /// Writes are on their way until they are released, and nobody hears of them.
    Held,
}

/// The link of one sidecar.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Sender<LinkState>,
    /// What it becomes, and before which thing that is asked of it.
    breaks: Mutex<Option<(usize, LinkState)>>,
}

impl Default for Link {
    fn default() -> Self {
        Self { state: watch::Sender::new(LinkState::Up), breaks: Mutex::default() }
    }
}

impl Link {
    pub(crate) fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }

    /// Lets so many things pass, and breaks then.
    pub(crate) fn break_after(&self, passes: usize, state: LinkState) {
        *self.breaks.lock() = Some((passes, state));
    }

    /// Waits until it has broken.
    pub(crate) async fn has_broken(&self) {
        let _ = self.state.subscribe().wait_for(|state| *state != LinkState::Up).await;
    }

    /// Does not break any more. Whether it would have.
    pub(crate) fn spare(&self) -> bool {
        self.breaks.lock().take().is_some()
    }

    /// Something is asked of it.
    pub(super) fn pass(&self) {
        let mut breaks = self.breaks.lock();
        match &mut *breaks {
            Some((0, state)) => {
                self.set(*state);
                *breaks = None;
            }
            Some((passes, _)) => *passes -= 1,
            None => {}
        }
    }

    pub(super) fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Waits until it is up. Whether it is, in time.
    pub(super) async fn comes_up_by(&self, deadline: Instant) -> bool {
        let mut state = self.state.subscribe();
        tokio::time::timeout_at(deadline, state.wait_for(|state| *state == LinkState::Up)).await.is_ok()
    }

    /// Waits until something can be read.
    pub(super) async fn reads(&self) -> Result<(), Unavailable> {
        self.pass();
        if self.comes_up_by(Instant::now() + READ_WITHIN).await { Ok(()) } else { Err(Unavailable::new("no answer")) }
    }
}
