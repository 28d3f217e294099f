//! What the driver of a session needs of whom it works for.

use std::future::Future;

use bytestring::ByteString;
use mqtt_ownership::{Epoch, Now, Will, WillOutcome};

use super::record::{Message, State};
use super::remains::Remain;
use crate::metrics::WillCause;
use crate::store::{Peers, SessionStore, StoredWill};

/// An account as the driver sees it: where sessions are stored, who else is there, what time it is, and who publishes wills.
pub(super) trait Host: Send + Sync {
    type Sessions: SessionStore;
    type Peers: Peers;

    fn sessions(&self) -> &Self::Sessions;

    fn peers(&self) -> &Self::Peers;

    /// The server's time, for machines.
    fn now(&self) -> Now;

    /// A record as a new owner sees it: one of a CONNECT that was given up here as what was there before.
    fn seen(&self, client_id: &str, record: Option<State>) -> Option<State>;

    /// The message id of a will, by the epoch of its connection.
    fn name_will(&self, client_id: &str, will: &StoredWill, epoch: Epoch) -> String;

    /// Publishes a will that is marked in its record. Whoever finds the mark looks in the log first, so once more does nothing.
    fn publish_will(
        &self,
        client_id: &ByteString,
        will: &Will<Message>,
        epoch: Epoch,
        cause: WillCause,
    ) -> impl Future<Output = WillOutcome> + Send;

    /// Has something removed that is done with.
    fn remove(&self, client_id: &ByteString, remain: Remain) -> impl Future<Output = ()> + Send;
}
