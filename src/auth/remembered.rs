//! Passwords that were right a moment ago, so that a client that comes back costs no hash. Only those that were right: a wrong
//! one costs its hash each time.
//!
//! **Invariant:** no password is here, and nothing that could be compared with one outside of this process: only numbers under a
//! random key of it.

use std::hash::Hasher;
use std::time::Duration;

use foldhash::HashMap;
use mqtt_codec::Secret;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::time::Instant;

/// How many are remembered. For what is beyond, the password is hashed again.
const REMEMBERED_MAX: usize = 65_536;

/// Those that are to be forgotten are looked for at most so often when there is no room.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Passwords that were right.
pub(super) struct Remembered {
    keep: Duration,
    key: (u64, u64),
    known: Mutex<Known>,
}

/// A user and a password, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u128);

#[derive(Default)]
struct Known {
    /// Until when.
    until: HashMap<Fingerprint, Instant>,
    swept: Option<Instant>,
}

impl Remembered {
    /// Nothing yet; each for so long.
    pub(super) fn new(keep: Duration) -> Self {
        Self { keep, key: (rand::random(), rand::random()), known: Mutex::default() }
    }

    /// The number of a user and a password, among users of this version: what was right before a change says nothing after it.
    pub(super) fn fingerprint(&self, version: u64, name: &str, password: &Secret) -> Fingerprint {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write(&version.to_le_bytes());
        hasher.write(&(name.len() as u64).to_le_bytes());
        hasher.write(name.as_bytes());
        hasher.write(password.expose());
        Fingerprint(hasher.finish128().as_u128())
    }

    /// Whether it was right a moment ago.
    pub(super) fn has(&self, fingerprint: Fingerprint) -> bool {
        self.known.lock().until.get(&fingerprint).is_some_and(|until| Instant::now() < *until)
    }

    /// It was right.
    pub(super) fn keep(&self, fingerprint: Fingerprint) {
        if self.keep.is_zero() {
            return;
        }
        let (mut known, now) = (self.known.lock(), Instant::now());
        let is_full = |known: &Known| known.until.len() >= REMEMBERED_MAX && !known.until.contains_key(&fingerprint);
        if is_full(&known) && known.swept.is_none_or(|swept| now - swept >= SWEEP_EVERY) {
            known.swept = Some(now);
            known.until.retain(|_, until| now < *until);
        }
        if !is_full(&known) {
            known.until.insert(fingerprint, now + self.keep);
        }
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.known.lock().until = HashMap::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_was_right_is_remembered_for_a_while_and_for_its_user_and_version_only() {
        let remembered = Remembered::new(KEEP);
        let of = |version, name, password: &str| remembered.fingerprint(version, name, &password.as_bytes().into());
        remembered.keep(of(1, "lamp", "light"));
        assert!(remembered.has(of(1, "lamp", "light")));
        for other in [of(2, "lamp", "light"), of(1, "lamp", "lighT"), of(1, "lampl", "ight"), of(1, "", "lamplight")] {
            assert!(!remembered.has(other));
        }
        tokio::time::advance(KEEP).await;
        assert!(!remembered.has(of(1, "lamp", "light")));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_what_is_remembered_and_old_ones_make_room() {
        let remembered = Remembered::new(KEEP);
        for number in 0..=REMEMBERED_MAX as u128 {
            remembered.keep(Fingerprint(number));
        }
        assert_eq!(remembered.known.lock().until.len(), REMEMBERED_MAX);
        assert!(!remembered.has(Fingerprint(REMEMBERED_MAX as u128)));
        tokio::time::advance(KEEP).await;
        remembered.keep(Fingerprint(u128::MAX));
        assert_eq!(remembered.known.lock().until.len(), 1);
        remembered.clear();
        assert!(!remembered.has(Fingerprint(u128::MAX)));
    }

    #[tokio::test]
    async fn nothing_is_remembered_for_no_time_and_no_two_processes_agree() {
        let (one, other) = (Remembered::new(Duration::ZERO), Remembered::new(KEEP));
        let of = |remembered: &Remembered| remembered.fingerprint(1, "lamp", &b"light"[..].into());
        one.keep(of(&one));
        assert!(!one.has(of(&one)));
        assert_ne!(of(&one), of(&other));
    }
}
