//! What one sidecar does for all of the account: whoever has the lead. There is one lead for all of it, so that an account that is
//! open costs one lease beside that of the process, and a refresh of it.

use std::sync::{Arc, Weak};

use crate::account::Account;
use crate::store::{Candidacy, Store};

/// What the lead is in.
const NAME: &str = "duties";

/// The lead, or the candidacy for it, which all have who do something with it. The last of them gives it up.
#[derive(Clone, Debug)]
pub(in crate::account) struct Lead(Arc<Candidacy>);

impl Lead {
    /// Stands for it.
    pub(in crate::account) fn campaign(store: &Store) -> Self {
        Self(Arc::new(store.nodes().campaign(NAME)))
    }

    /// The terms in which we lead.
    pub(in crate::account) fn candidacy(&self) -> &Candidacy {
        &self.0
    }

    /// One of those who have it needs it no more.
    pub(in crate::account) async fn give_up(self) {
        if let Some(candidacy) = Arc::into_inner(self.0) {
            candidacy.resign().await;
        }
    }
}

impl Account {
    /// Runs `work` in every term in which we lead, until the account is left. The work is dropped when the lead is lost.
    pub(in crate::account) async fn lead<W: Future<Output = ()>>(
        account: Weak<Self>,
        lead: Lead,
        name: &str,
        work: impl Fn(u64) -> W,
    ) {
        let Some(strong) = account.upgrade() else { return };
        let mut leaving = strong.is_leaving.subscribe();
        drop((strong, account));
        let mut term = lead.candidacy().term();
        let is_over = async { leaving.wait_for(|leaving| *leaving).await.map(|_| ()) };
        let led = async {
            loop {
                let Ok(Some(number)) = term.wait_for(Option::is_some).await.map(|term| *term) else { return };
                tracing::info!(term = number, "this sidecar keeps the {name}");
                let is_lost = term.wait_for(|term| *term != Some(number));
                tokio::select! {
                    _ = is_lost => tracing::info!(term = number, "another sidecar keeps the {name}"),
                    () = work(number) => return,
                }
            }
        };
        tokio::select! {
            _ = is_over => {}
            () = led => {}
        }
        lead.give_up().await;
    }
}
