//! Sessions that fell behind the tail of a log are brought up from it. One scan at a time serves all that wait when it
//! begins, reading the log once for all of them; who waits later gets the next scan. A scan is paced by its readers:
//! when nobody has room it pulls nothing.
//!
//! `scans`: what runs; here: who waits for it.
//!
//! **Invariant:** a scan that waits for its last reader is woken by whatever ends that: room, the end of the session, its
//! log, or of what it was owed there, and somebody else who waits for a scan.

mod scans;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::account::delivery::inbox::Inbox;

/// Sessions that wait for a scan.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    waiting: Mutex<Vec<Arc<Inbox>>>,
    wake: Notify,
    has_ended: AtomicBool,
}

impl CatchUp {
    /// Has a session that is behind brought up. Asking twice does no harm.
    pub(crate) fn ask(&self, inbox: &Arc<Inbox>) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|m| m.id == inbox.id) {
            waiting.push(Arc::clone(inbox));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// The log is gone: nobody is brought up any more.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Waits until a scan that serves this session alone is in somebody's way: others wait for one, or the log is gone.
    async fn others(&self, served: &Inbox) {
        loop {
            let woken = self.wake.notified();
            let is_other = |inbox: &Arc<Inbox>| inbox.id != served.id;
            if self.has_ended.load(Ordering::Acquire) || self.waiting.lock().iter().any(is_other) {
                return;
            }
            woken.await;
        }
    }
}
