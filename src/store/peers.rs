//! The other sidecars of an account, as each of them sees them: the third of three seams, see ADR 18.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::core::RequestError;
use super::error::Unavailable;
use super::nodes::{LeaseView, NodeInfo};

/// The sidecars of an account: who is there, by leases, and what they ask each other.
///
/// # The promise
///
/// **A lease** is taken by name, also from somebody who has it: that one finds it lost. It is kept, by refreshes, until it is
/// released or dropped or lost. Its holder, by its own clock, is in doubt before anybody else can see that it has ended,
/// whether the process ran meanwhile or not; whenever somebody may have seen that, it is held behind another gap, or lost. A
/// lease that is dropped ends with its time to live, and one that is released ends at once.
///
/// **A lease proves nothing about a session**: that is the record's, see [`SessionStore`](super::SessionStore). It says only when
/// others may take without asking.
///
/// **[`Self::is_gone`]** is true only when there is no lease for certain, at some moment after the call; false may be out of
/// date. [`Self::alive`] is what somebody knows who may not have heard of the last ones.
///
/// **[`Unavailable`].** Nobody answered: of [`Self::acquire`], the lease may have been taken all the same, and then ends with its
/// time to live, or when it is acquired again. Of the others it says nothing.
///
/// **A request** is answered by a sidecar that serves the name or not at all. [`RequestError::Nobody`]: nobody serves it now,
/// so nobody works on it. [`RequestError::TimedOut`] and [`RequestError::Unavailable`]: somebody may have worked on it, or may
/// yet, so what is asked has to bear to be asked twice, and late. Requests are in no order.
pub trait Peers: Send + Sync {
    /// A lease that is kept. Dropped without [`Self::release`] it expires, as when the process is killed.
    type Lease: Send + Sync;
    /// A name being served; it ends when this is dropped.
    type Served: Send + Sync;

    /// Takes the lease of a node and keeps it. `mqtt`: where it listens.
    fn acquire(&self, node: &str, mqtt: Vec<String>) -> impl Future<Output = Result<Self::Lease, Unavailable>> + Send;

    /// What is known of a lease.
    fn view(&self, lease: &Self::Lease) -> LeaseView;

    /// Gives a lease back, so that the others need not wait for its end. That of somebody else of this name is left alone.
    fn release(&self, lease: Self::Lease) -> impl Future<Output = ()> + Send;

    /// The nodes that have a lease, as they were at some moment after the call or later.
    fn alive(&self) -> impl Future<Output = Result<Vec<NodeInfo>, Unavailable>> + Send;

    /// Whether a node has no lease for certain.
    fn is_gone(&self, node: &str) -> impl Future<Output = Result<bool, Unavailable>> + Send;

    /// Serves requests to a node: what `handler` returns is the answer, `None` is none. When this returns, they are heard.
    fn serve<F, Fut>(&self, node: &str, handler: F) -> impl Future<Output = Result<Self::Served, Unavailable>> + Send
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Bytes>> + Send + 'static;

    /// Asks a node, and waits so long.
    fn ask(
        &self,
        node: &str,
        request: Bytes,
        within: Duration,
    ) -> impl Future<Output = Result<Bytes, RequestError>> + Send;
}
