//! What nats-server has said a moment ago, and of whom it is connected: by credentials and listener, under a keyed hash. What it
//! refused is not here.
//!
//! **Invariant:** credentials are held for those who are connected by them, and overwritten when the last one has gone.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use mqtt_access::jwt::OwnLimits;
use mqtt_access::{Ticket, UnixTime};
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::time::now;
use super::offered::Offered;
use crate::auth::{Again, Principal};
use crate::listener::Peer;
use crate::metrics::AuthStep;

/// Credentials that are known at once. Beyond that those are forgotten by which nobody is connected; when there are none, who is not
/// known is refused with 0x88.
const KNOWN_MAX: usize = 131_072;

/// Those that are to be forgotten are looked for at most so often when there is no room.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Two ends of one user that are not further apart are the same: each is reckoned from what remains.
const SAME_END_MS: i64 = 1_000;

/// Credentials at a listener, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u128);

/// What is known.
pub(super) struct Known {
    keep: Duration,
    recheck: Duration,
    key: (u64, u64),
    table: Mutex<Table>,
    /// Somebody has come.
    pub(super) has_come: Notify,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Fingerprint, Entry>,
    swept: Option<Instant>,
}

struct Entry {
    /// Of those who are connected.
    offered: Option<Offered>,
    principal: Arc<Principal>,
    ticket: Arc<Ticket>,
    /// The answer counts until then.
    until: Instant,
    /// It is asked again then, if anybody is connected by it.
    due: Instant,
    /// nats-server does not take it any more.
    is_refused: bool,
}

impl Entry {
    /// Whether anybody is connected by it: all copies of its principals hold the ticket.
    fn is_in_use(&self) -> bool {
        // This one, and that in its own principal.
        Arc::strong_count(&self.ticket) > 2 || Arc::strong_count(&self.principal) > 1
    }
}

impl Known {
    /// Each answer counts for `keep`; who is connected is asked about within `recheck`.
    pub(super) fn new(keep: Duration, recheck: Duration) -> Self {
        let key = (rand::random(), rand::random());
        Self { keep, recheck, key, table: Mutex::default(), has_come: Notify::new() }
    }

    /// The number of credentials at a listener.
    pub(super) fn fingerprint(&self, peer: &Peer, offered: &Offered) -> Fingerprint {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        let (listener, protocol) = (Some(&*peer.entrance.name), Some(peer.entrance.protocol.as_str()));
        let password = offered.password.as_ref().map(|password| password.as_str());
        for part in [listener, protocol, offered.user.as_deref(), password] {
            // One that is not there is not one that is empty.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.write(&length.to_le_bytes());
            hasher.write(part.unwrap_or_default().as_bytes());
        }
        Fingerprint(hasher.finish128().as_u128())
    }

    /// Who somebody is by what was said a moment ago.
    pub(super) fn get(&self, fingerprint: Fingerprint, offered: &Offered) -> Option<Arc<Principal>> {
        let mut table = self.table.lock();
        let entry = table.entries.get_mut(&fingerprint)?;
        let has_ended = entry.principal.expires.is_some_and(|expires| expires <= now());
        if entry.is_refused || has_ended || Instant::now() >= entry.until {
            return None;
        }
        entry.offered.get_or_insert_with(|| offered.clone());
        Some(Arc::clone(&entry.principal))
    }

    /// nats-server has said who somebody is; with whether that is another one for those who are connected by the same. `None`:
    /// there is no room.
    pub(super) fn keep(
        &self,
        fingerprint: Fingerprint,
        offered: &Offered,
        principal: Principal,
    ) -> Option<(Arc<Principal>, bool)> {
        let (mut table, now) = (self.table.lock(), Instant::now());
        let before = table.entries.get(&fingerprint);
        let ticket = before.map_or_else(|| Arc::new(Ticket(fingerprint.0)), |before| Arc::clone(&before.ticket));
        let is_another = before.is_some_and(|before| before.is_in_use() && !is_same(&before.principal, &principal));
        if before.is_none() && !table.has_room(now) {
            return None;
        }
        let mut principal = principal;
        principal.origin.ticket = Some(Arc::clone(&ticket));
        let principal = Arc::new(principal);
        let entry = Entry {
            offered: Some(offered.clone()),
            principal: Arc::clone(&principal),
            ticket,
            until: now + self.keep,
            due: self.next_due(now),
            is_refused: false,
        };
        table.entries.insert(fingerprint, entry);
        drop(table);
        self.has_come.notify_one();
        Some((principal, is_another))
    }

    /// What the JWT says by which somebody is known, if it is one; `expires`: until when.
    pub(super) fn own_limits(&self, fingerprint: Fingerprint, expires: Option<UnixTime>) -> Option<OwnLimits> {
        let table = self.table.lock();
        let Principal { networks, windows, tags, rules, .. } = &*table.entries.get(&fingerprint)?.principal;
        let (networks, windows) = (networks.clone(), windows.clone());
        Some(OwnLimits { networks, windows, tags: tags.clone(), rules: rules.clone(), expires })
    }

    /// nats-server does not take these credentials any more.
    pub(super) fn refuse(&self, fingerprint: Fingerprint) {
        if let Some(entry) = self.table.lock().entries.get_mut(&fingerprint) {
            entry.is_refused = true;
        }
    }

    /// What has become of somebody who is connected.
    pub(super) fn judge_again(&self, principal: &Principal) -> Again {
        let table = self.table.lock();
        let ticket = principal.origin.ticket.as_ref();
        let entry = ticket.and_then(|ticket| table.entries.get(&Fingerprint(ticket.0)));
        match entry {
            Some(entry) if entry.is_refused => Again::Gone(AuthStep::NatsRefused),
            Some(entry) if !is_same(&entry.principal, principal) => Again::Changed(Arc::clone(&entry.principal)),
            _ => Again::Same,
        }
    }

    /// Whom nats-server is to be asked about, at most `max`; forgets what nobody needs any more. With whether anything is left.
    pub(super) fn take_due(&self, max: usize) -> (Vec<(Fingerprint, Offered)>, bool) {
        let (mut table, now) = (self.table.lock(), Instant::now());
        table.sweep(now);
        let mut due = Vec::new();
        for (fingerprint, entry) in &mut table.entries {
            if now < entry.due || entry.is_refused || due.len() >= max {
                continue;
            }
            if let Some(offered) = &entry.offered {
                due.push((*fingerprint, offered.clone()));
                entry.due = self.next_due(now);
            }
        }
        (due, !table.entries.is_empty())
    }

    /// Spread, so that those who have come together are not asked about together.
    fn next_due(&self, now: Instant) -> Instant {
        now + self.recheck.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

impl Table {
    fn has_room(&mut self, now: Instant) -> bool {
        if self.entries.len() < KNOWN_MAX {
            return true;
        }
        if self.swept.is_none_or(|swept| now - swept >= SWEEP_EVERY) {
            self.entries.retain(|_, entry| entry.is_in_use());
            self.swept = Some(now);
        }
        self.entries.len() < KNOWN_MAX
    }

    /// Forgets answers that do not count any more, and credentials by which nobody is connected.
    fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let is_in_use = entry.is_in_use();
            if !is_in_use {
                entry.offered = None;
            }
            is_in_use || (!entry.is_refused && now < entry.until)
        });
    }
}

/// Whether one may do what the other may, for as long.
fn is_same(one: &Principal, other: &Principal) -> bool {
    let is_end_same = match (one.expires, other.expires) {
        (Some(one), Some(other)) => one.as_millis().abs_diff(other.as_millis()) <= SAME_END_MS.unsigned_abs(),
        (one, other) => one == other,
    };
    is_end_same
        && one.account == other.account
        && one.user == other.user
        && one.permissions.lists() == other.permissions.lists()
}

#[cfg(test)]
mod tests;
