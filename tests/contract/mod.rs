//! What the three seams of the store promise, one promise a test: `SessionStore`, `MessageLog` and `Peers`. Run over memory by the
//! unit tests of `src/store/memory`, and over JetStream by `tests/integration/store_contract.rs`.

mod log;
mod peers;
mod sessions;

use std::time::Duration;

use nats_mqtt::store::{MessageLog, Peers, SessionStore};

pub(crate) use self::log::*;
pub(crate) use self::peers::*;
pub(crate) use self::sessions::*;

/// How long something may take that has to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one sidecar has.
pub(crate) struct Side<B: Bench> {
    pub(crate) sessions: B::Sessions,
    pub(crate) log: B::Log,
    pub(crate) peers: B::Peers,
}

/// Two sidecars on one store, and what can happen to the link of one of them.
pub(crate) trait Bench: Sized {
    type Sessions: SessionStore;
    type Log: MessageLog;
    type Peers: Peers;

    async fn start() -> Self;

    /// The one whose link holds.
    fn near(&self) -> &Side<Self>;

    /// The one whose link does not.
    fn far(&self) -> &Side<Self>;

    /// What `far` sends arrives, and it hears nothing.
    fn lose_answers(&self);

    /// Writes of sessions by `far` stay on their way, until [`Self::release`].
    fn hold(&self);

    /// Waits until one does.
    async fn has_held(&self);

    /// What is on its way arrives now, and has when this returns.
    async fn release(&self);

    /// Nothing passes.
    fn stall(&self);

    /// The link of `far` is as new.
    fn mend(&self);
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, so).await.is_ok(), "not in time: {what}");
}

/// A test for each promise, over a [`Bench`].
macro_rules! each_promise {
    ($test:meta, $bench:ty, $($promise:ident),+) => {
        $(
            #[$test]
            async fn $promise() {
                contract::$promise(<$bench as contract::Bench>::start().await).await;
            }
        )+
    };
}

pub(crate) use each_promise;
