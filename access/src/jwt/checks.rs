//! What the claims of a user or an account have to be, whoever signed them: nats-server validates them so before anything
//! else.

use super::claims::{Grants, Sources};
use crate::lists::{PermissionLists, SubjectLists};
use crate::network::Network;
use crate::time::UnixTime;
use crate::window::TimeWindows;

/// When a JWT counts, by its own claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Valid,
    Expired,
    NotYet,
}

/// Compares seconds, 0 being none. nats-server accepts a JWT in the second in which it expires, and ends the connection at
/// once; here it is expired.
pub(super) fn validity(expires: i64, not_before: i64, now: UnixTime) -> Validity {
    if expires > 0 && now.as_secs() >= expires {
        Validity::Expired
    } else if not_before > 0 && not_before > now.as_secs() {
        Validity::NotYet
    } else {
        Validity::Valid
    }
}

/// Whether networks, hours and permissions of a user can be understood.
pub(super) fn are_grants_valid(grants: &Grants) -> bool {
    are_permissions_valid(&grants.permissions()) && networks(grants).is_some() && windows(grants).is_some()
}

/// The networks that a user may come from; none at all is anywhere.
pub(super) fn networks(grants: &Grants) -> Option<Vec<Network>> {
    let Sources(networks) = grants.src.clone().unwrap_or_default();
    networks.iter().map(|network| network.parse().ok()).collect()
}

/// The hours of a user.
pub(super) fn windows(grants: &Grants) -> Option<TimeWindows> {
    TimeWindows::new(grants.times.as_deref().unwrap_or_default(), &grants.times_location).ok()
}

/// Whether all entries are subjects, those of subscriptions with a queue or without.
pub(super) fn are_permissions_valid(lists: &PermissionLists) -> bool {
    let all = |lists: &SubjectLists, queue: bool| {
        lists.allowed().iter().chain(lists.denied()).all(|entry| is_entry_valid(entry, queue))
    };
    all(&lists.publish, false) && all(&lists.subscribe, true)
}

/// As the library that makes JWTs has it: a little less than a subject has to be, and separated by one space.
fn is_entry_valid(entry: &str, with_queue: bool) -> bool {
    let is_subject = |part: &str| !part.is_empty() && part.split('.').all(|token| !token.is_empty());
    let parts: Vec<&str> = entry.split(' ').collect();
    parts.len() <= 1 + usize::from(with_queue) && parts.iter().all(|part| is_subject(part))
}
