//! The one driver of the machines that decide who owns a session (crate `mqtt-ownership`): it does what they say, awaits
//! the store, and feeds the answers back. It holds the only pauses between tries.
//!
//! - `driver`: that one, over `host`: what it needs of whom it works for, which is an account, or a test over memory
//! - `claim`: a CONNECT; `orphaned_connects`: those that were given up and may have left a record
//! - `leave`: the end of a connection; `failover`: sessions whose connection is gone, and wills that wait
//! - `handover`: between two owners; `wills`: how one is published, by `will_rights`
//! - `record`: between a record as it is stored and what of it decides
//!
//! And what is around it: `lifecycle`, a session from CONNECT to the end, with `turns`; `owned_session`, `paged`, `parts`,
//! `records`: what its owner has of it; `unrecorded`: those that are written nowhere; `leases` and `our_lease`; `nodes_gone`, with `heard` and `dividing`: the sessions of who is
//! gone; `displaced`; `versions`; `doubt`.

mod claim;
pub(in crate::account) mod displaced;
pub(crate) mod dividing;
pub(in crate::account) mod doubt;
mod driver;
#[cfg(test)]
mod driver_tests;
mod failover;
mod handover;
pub(in crate::account) mod heard;
mod host;
pub(in crate::account) mod leases;
mod leave;
pub(in crate::account) mod lifecycle;
pub(in crate::account) mod nodes_gone;
mod orphaned_connects;
pub(in crate::account) mod our_lease;
pub(in crate::account) mod owned_session;
pub(in crate::account) mod paged;
pub(in crate::account) mod parts;
mod reclaim;
mod record;
pub(in crate::account) mod records;
pub(in crate::account) mod remains;
pub(in crate::account) mod turns;
pub(in crate::account) mod unrecorded;
pub(in crate::account) mod versions;
mod will_rights;
pub(in crate::account) mod will_room;
mod wills;

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_ownership::{Epoch, Now, Will, WillOutcome};

pub(in crate::account) use self::claim::{Abandoned, Ask, Claimed};
pub(crate) use self::claim::{PeerSocket, Refusal, Told};
use self::host::Host;
pub(crate) use self::leave::{LeaveEnd, SessionError, SessionWritten};
pub(in crate::account) use self::orphaned_connects::OrphanedConnects;
use self::record::{Message, State};
pub(in crate::account) use self::record::{record_of, wills_beside};
use self::remains::Remain;
use crate::account::Account;
use crate::metrics::WillCause;
use crate::store::{NatsPeers, Sessions, StoredWill};

impl Account {
    /// The server's time, for machines. It is known before any session is owned.
    fn session_time(&self) -> Now {
        let clock = self.store.clock();
        let earliest = clock.earliest();
        Now { earliest, certain: clock.certain(), stamp: clock.now().unwrap_or(earliest) }
    }
}

impl Host for Arc<Account> {
    type Sessions = Sessions;
    type Peers = NatsPeers;

    fn sessions(&self) -> &Sessions {
        self.store.sessions()
    }

    fn peers(&self) -> &NatsPeers {
        self.store.peers()
    }

    fn now(&self) -> Now {
        self.session_time()
    }

    fn seen(&self, client_id: &str, record: Option<State>) -> Option<State> {
        Account::seen(self, client_id, record)
    }

    fn name_will(&self, client_id: &str, will: &StoredWill, epoch: Epoch) -> String {
        Account::name_will(self, client_id, will, epoch)
    }

    async fn publish_will(
        &self,
        client_id: &ByteString,
        will: &Will<Message>,
        epoch: Epoch,
        cause: WillCause,
    ) -> WillOutcome {
        Account::publish_will(self, client_id, will, epoch, cause).await
    }

    async fn remove(&self, client_id: &ByteString, remain: Remain) {
        self.remains.remove(client_id, remain).await;
    }
}
