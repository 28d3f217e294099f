//! An election: whoever holds the key leads.
//!
//! A term is named by the sequence at which the lead was taken, so that later terms have higher numbers. Like every lease
//! it is a promise, not a proof: what a leader writes has to be fenced besides.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::lease::{Keeper, Told};
use super::{Nodes, Shared};
use crate::store::bucket::new_write_id;

impl Nodes {
    /// Stands for the lead in something that one sidecar of the account does at a time, until what this returns is dropped.
    /// `name` is made of letters, digits, `-` and `_`.
    pub fn campaign(&self, name: &str) -> Candidacy {
        Candidacy::start(Arc::clone(&self.shared), name)
    }
}

/// A candidacy for the lead in something. It goes on until this is dropped: who has lost the lead stands again.
#[derive(Debug)]
pub struct Candidacy {
    term: watch::Receiver<Option<u64>>,
    resign: Option<oneshot::Sender<()>>,
    preempt: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Candidacy {
    pub(super) fn start(shared: Arc<Shared>, name: &str) -> Self {
        let subject = shared.lead_subject(name);
        let (tx, term) = watch::channel(None);
        let (resign, resigned) = oneshot::channel();
        let preempt = Arc::new(Notify::new());
        let challenged = Arc::clone(&preempt);
        let tasks = shared.bucket.api.link.tasks.clone();
        let task = tasks.spawn(async move {
            // For whoever looks at the bucket; nobody reads it.
            let since_ms = shared.bucket.api.link.clock.earliest().0;
            let value = format!(r#"{{"since":"{}"}}"#, crate::store::time::rfc3339(since_ms));
            let keeper = Keeper::new(&shared, subject, Told::Same(value.into()), &new_write_id()).of_lead();
            Box::pin(run(keeper, shared, tx, resigned, challenged)).await;
        });
        Self { term, resign: Some(resign), preempt, task }
    }

    /// The term in which we lead, if we do.
    pub fn term(&self) -> watch::Receiver<Option<u64>> {
        self.term.clone()
    }

    /// Takes the lead, although its lease has not ended: whoever held it is known to be gone.
    pub fn preempt(&self) {
        self.preempt.notify_one();
    }

    /// Gives up the lead or the candidacy, so that the others need not wait.
    pub async fn resign(mut self) {
        if let Some(resign) = self.resign.take() {
            let _ = resign.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        // Nobody is told: without a runtime at hand nothing can be sent, and the lease ends by itself.
        self.task.abort();
    }
}

async fn run(
    keeper: Keeper,
    shared: Arc<Shared>,
    term: watch::Sender<Option<u64>>,
    mut resigned: oneshot::Receiver<()>,
    challenged: Arc<Notify>,
) {
    let mut by_force = false;
    loop {
        let taken = tokio::select! {
            taken = keeper.take(std::mem::take(&mut by_force)) => taken,
            _ = &mut resigned => return,
        };
        if let Ok(Some(grip)) = taken
            && grip.state().is_held()
        {
            let held = Mutex::new(grip.clone());
            term.send_replace(Some(grip.sequence()));
            let is_over = tokio::select! {
                () = keeper.keep(grip, |grip| held.lock().clone_from(grip)) => false,
                _ = &mut resigned => true,
            };
            term.send_replace(None);
            if is_over {
                keeper.release(&held.into_inner()).await;
                return;
            }
        }
        // Not all candidates at once, and often enough to take over soon after the lease ends.
        let pause = shared.times.refresh_every.mul_f64(0.25 + 0.25 * rand::random::<f64>());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = challenged.notified() => by_force = true,
            _ = &mut resigned => return,
        }
    }
}
