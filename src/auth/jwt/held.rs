//! What is kept of a user who is connected: its claims, and how it came. With them it is judged again when its account changes,
//! and no signature is verified a second time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt_access::Principal;
use mqtt_access::jwt::{Circumstances, Listener, Proof, Refusal, UserJwt};

use super::known::{Current, InUse};
use crate::auth::time;

/// A user who was accepted.
pub(super) struct Held {
    user: UserJwt,
    listener: Listener,
    peer: Option<IpAddr>,
    has_trusted_proxy: bool,
    /// It has shown that it has its key.
    is_proven: bool,
    /// The version of the account that it was judged by last.
    judged_by: AtomicU64,
    /// Its account is in use as long as this is here.
    _in_use: InUse,
}

impl Held {
    /// A user who was accepted under these circumstances.
    pub(super) fn new(user: UserJwt, given: &Circumstances<'_>, by: Current) -> Self {
        Self {
            user,
            listener: given.listener,
            peer: given.peer,
            has_trusted_proxy: given.has_trusted_proxy,
            is_proven: !matches!(given.proof, Proof::None),
            judged_by: AtomicU64::new(by.version),
            _in_use: by.in_use,
        }
    }

    /// Whether nothing has changed since it was judged last.
    pub(super) fn is_judged(&self, current: &Current) -> bool {
        self.judged_by.load(Ordering::Relaxed) == current.version
    }

    /// What it is by what the account is now.
    pub(super) fn judge(&self, current: &Current) -> Result<Principal, Refusal> {
        self.judged_by.store(current.version, Ordering::Relaxed);
        let given = Circumstances {
            now: time::now(),
            listener: self.listener,
            peer: self.peer,
            has_trusted_proxy: self.has_trusted_proxy,
            proof: if self.is_proven { Proof::Earlier } else { Proof::None },
        };
        self.user.judge(&current.account, &current.operators, &given)
    }
}
