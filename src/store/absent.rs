//! That an account has no JetStream: how it is known, and how it is noticed that it has.
//!
//! **Invariant:** that there is no JetStream is what JetStream itself says, twice, while it answers in the account of the sidecars.
//! That nobody answers in time says nothing.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::api::Api;
use super::api_errors::ApiErrors;
use super::error::OpenError;
use super::home::{self, Leases};
use super::keys::Keys;
use super::nodes::Nodes;

/// How long to wait before it is asked again whether there is none.
const ASKED_AGAIN: Duration = Duration::from_millis(300);

/// How often it is looked whether JetStream is there by now.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks whether JetStream is there by now.
pub(super) struct Absent(Api);

/// What there is of an account whose sidecars have their leases in another one.
#[derive(Clone, Copy)]
pub(super) struct Elsewhere<'a> {
    pub(super) account: &'a str,
    pub(super) nodes: &'a Nodes,
    pub(super) keys: &'a Keys,
}

impl Absent {
    /// Of the account that this asks. That there is still none is an answer, and no fault.
    pub(super) fn new(mut api: Api) -> Self {
        api.link.errors = ApiErrors::default();
        Self(api)
    }

    /// Waits until JetStream is there.
    pub(super) async fn ends(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.0.call::<IgnoredAny>("INFO", "").await.is_ok() {
                return;
            }
        }
    }
}

impl<'a> Elsewhere<'a> {
    /// `None`: they have them there.
    pub(super) fn of(leases: &'a Leases) -> Option<Self> {
        match leases {
            Leases::In { account, nodes, keys, .. } => Some(Self { account, nodes, keys }),
            Leases::Here | Leases::ForOthers => None,
        }
    }

    /// Makes sure that an account has no JetStream, of which that was said, and that it is the one that it has to be.
    pub(super) async fn confirm(self, api: &Api) -> Result<(), OpenError> {
        home::is_in(api, self.account).await?;
        tokio::time::sleep(ASKED_AGAIN).await;
        let unavailable = |reason: String| OpenError::Unavailable { reason };
        // A server without JetStream of a cluster whose others are away says so as well.
        self.nodes.has_jetstream().await.map_err(|error| unavailable(error.reason))?;
        match api.call::<IgnoredAny>("INFO", "").await {
            Err(failure) if failure.says_none() => Ok(()),
            Err(failure) => Err(unavailable(failure.to_string())),
            Ok(_) => Err(unavailable("it has JetStream after all".to_owned())),
        }
    }
}
