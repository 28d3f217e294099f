//! What is beside the records of sessions and done with: wills, and the pages of sessions that are over.
//!
//! **Invariant:** what waits to be removed has a limit. Whoever comes and goes with large wills waits for it; a CONNECT does not, and
//! what it has no room for is found by a sweep, as is what could not be removed.

use bytestring::ByteString;
use futures_util::{StreamExt as _, stream};
use mqtt_ownership::Epoch;
use tokio::sync::mpsc;

use crate::store::{Sessions, Store, Unavailable, WillNumber};

/// How many wait to be removed.
const WAITING_MAX: usize = 256;
/// How many are removed at a time.
const AT_A_TIME: usize = 8;

/// Something of a client that is done with.
#[derive(Debug)]
pub(in crate::account) enum Remain {
    /// Wills, by their numbers.
    Wills(Vec<WillNumber>),
    /// The pages of the session that began in this epoch.
    Pages(Epoch),
}

/// Removes what is done with.
#[derive(Debug)]
pub(in crate::account) struct Remains(mpsc::Sender<(ByteString, Remain)>);

impl Remains {
    pub(in crate::account) fn start(store: &Store) -> Self {
        let (tx, rx) = mpsc::channel(WAITING_MAX);
        let waiting = stream::unfold(rx, async |mut rx| rx.recv().await.map(|remain| (remain, rx)));
        let of_all = store.sessions().clone();
        let remove = move |(client_id, remain): (ByteString, Remain)| {
            let sessions = of_all.clone();
            async move {
                if let Err(error) = removed(&sessions, &client_id, &remain).await {
                    tracing::debug!(client_id = &*client_id, ?remain, %error, "left to the next sweep");
                }
            }
        };
        store.tasks().spawn(waiting.for_each_concurrent(AT_A_TIME, remove));
        Self(tx)
    }

    /// Has something removed, when there is room for it.
    pub(super) async fn remove(&self, client_id: &ByteString, remain: Remain) {
        // Nobody is there to remove it when the account closes.
        let _ = self.0.send((client_id.clone(), remain)).await;
    }

    /// Has something removed, if there is room for it.
    pub(super) fn try_remove(&self, client_id: &ByteString, remain: Remain) {
        if self.0.try_send((client_id.clone(), remain)).is_err() {
            tracing::debug!(client_id = &**client_id, "there is too much to be removed: left to the next sweep");
        }
    }
}

async fn removed(sessions: &Sessions, client_id: &str, remain: &Remain) -> Result<(), Unavailable> {
    match remain {
        Remain::Wills(numbers) => sessions.remove_wills(client_id, numbers).await,
        Remain::Pages(first_epoch) => sessions.remove_pages(client_id, first_epoch.0).await.map(drop),
    }
}
