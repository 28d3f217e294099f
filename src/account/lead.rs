//! The lead in all that one sidecar does for an account. There is one for all of it, so that an account that is open costs one lease
//! beside that of the process, and a refresh of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{Candidacy, Store};

/// What the lead is in.
const NAME: &str = "duties";

/// The lead, or the candidacy for it, which all have who do something with it. The last of them gives it up.
#[derive(Clone, Debug)]
pub(in crate::account) struct Lead(Arc<Candidacy>);

/// A term of whoever has the lead. A later one is higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::account) struct Term(pub(in crate::account) u64);

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
