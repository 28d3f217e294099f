//! The keys that the sidecars of an account share, in a bucket of their own that nobody else is to read. The first sidecar
//! makes one by compare-and-swap; who deletes the value has it replaced: a new key is made in front of those that are known,
//! which stay for what they have signed. What keys are for is [`proto_map::KeyRing`]'s.
//!
//! ```text
//!   no value, nothing known  ─▶ a key, used at once
//!   no value, no stream       ─▶ what is known is written again: it was lost, and nobody wants another one
//!   a marker in its place    ─▶ a new key in front, used when everybody has it ([`KNOWN_AFTER_MS`])
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};
use proto_map::{ACCOUNT_KEY_LEN, AccountKey, KNOWN_AFTER_MS, KeyId, KeyRing};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::bucket::{Bucket, Fence, Last, Value, Write};
use super::clock::ServerClock;
use super::error::{OpenError, Unavailable, WriteError};
use super::sessions::instant;

/// Version of what is written here.
const KEYS_VERSION: u32 = 1;
/// How often the keys are looked at: well within [`KNOWN_AFTER_MS`].
const LOOK_EVERY: Duration = Duration::from_millis(KNOWN_AFTER_MS / 3);
/// How soon again when JetStream did not answer, and at most how often when somebody names a key that is not known.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Keys that are kept, the one in use included, and for how long after they were replaced, milliseconds. What they have
/// named is not recognised any more then.
const KEYS_MAX: usize = 8;
const KEPT_FOR_MS: u64 = 60 * 24 * 3600 * 1000;

/// The keys of an account.
#[derive(Clone, Debug)]
pub struct Keys {
    shared: Arc<Shared>,
    /// They are made of those of another account.
    derived: Option<Arc<Derived>>,
}

/// The keys of an account in which nothing is kept.
#[derive(Debug)]
struct Derived {
    account: String,
    /// What they were made of last, with them.
    made: Mutex<Option<(Arc<KeyRing>, Arc<KeyRing>)>>,
}

impl Derived {
    fn of(&self, ring: Arc<KeyRing>) -> Arc<KeyRing> {
        let mut made = self.made.lock();
        if let Some((_, ours)) = made.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &ring)) {
            return Arc::clone(ours);
        }
        let ours = Arc::new(ring.for_account(&self.account));
        *made = Some((ring, Arc::clone(&ours)));
        ours
    }
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    subject: ByteString,
    ring: RwLock<Arc<KeyRing>>,
    /// Somebody has named a key that is not known.
    wanted: Notify,
}

/// What is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The newest first.
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: String,
    #[serde(rename = "made_at", with = "instant")]
    made_at_ms: u64,
    secret: String,
}

/// What is found in the place of the keys.
enum Found {
    Ring(KeyRing),
    /// There is none, or it cannot be read: what the next write has to expect, and whether somebody has deleted it.
    None {
        sequence: u64,
        was_deleted: bool,
    },
}

impl Keys {
    /// Reads the keys, or makes the first one, and looks at them now and then until the last handle is dropped.
    pub(super) async fn open(bucket: Bucket, subject: ByteString) -> Result<Self, OpenError> {
        let ring = load(&bucket, &subject, None).await;
        let ring = ring.map_err(|Unavailable { reason }| OpenError::Unavailable { reason })?;
        let shared = Arc::new(Shared { bucket, subject, ring: RwLock::new(Arc::new(ring)), wanted: Notify::new() });
        shared.bucket.api.link.tasks.spawn(keep(Arc::downgrade(&shared)));
        Ok(Self { shared, derived: None })
    }

    /// Those of another account, in which nothing can be kept: whoever has these has the same ones.
    #[must_use]
    pub(super) fn for_account(&self, account: &str) -> Self {
        let derived = Derived { account: account.to_owned(), made: Mutex::default() };
        Self { shared: Arc::clone(&self.shared), derived: Some(Arc::new(derived)) }
    }

    /// A key that nobody else knows.
    #[cfg(test)]
    pub(super) fn unstored(bucket: Bucket, subject: ByteString) -> Self {
        let ring = RwLock::new(Arc::new(with_new_key(None, new_key(0))));
        Self { shared: Arc::new(Shared { bucket, subject, ring, wanted: Notify::new() }), derived: None }
    }

    /// The keys as they are known.
    #[must_use]
    pub fn ring(&self) -> Arc<KeyRing> {
        let ring = Arc::clone(&self.shared.ring.read());
        match &self.derived {
            Some(derived) => derived.of(ring),
            None => ring,
        }
    }

    /// The time by the server's clock, milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock().earliest().0
    }

    /// The clock of the server where they are kept.
    pub(super) fn clock(&self) -> &ServerClock {
        &self.shared.bucket.api.link.clock
    }

    /// Somebody has named a key that is not known: it is looked for.
    pub(super) fn look_again(&self) {
        self.shared.wanted.notify_one();
    }
}

async fn keep(shared: Weak<Shared>) {
    let mut pause = LOOK_EVERY;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let wanted = tokio::time::timeout(pause, strong.wanted.notified()).await.is_ok();
        drop(strong);
        let Some(strong) = shared.upgrade() else { return };
        pause = if strong.refresh().await { LOOK_EVERY } else { LOOK_AGAIN };
        if wanted {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Shared {
    async fn refresh(&self) -> bool {
        let known = Arc::clone(&self.ring.read());
        match load(&self.bucket, &self.subject, Some(&known)).await {
            Ok(ring) => {
                if ring != *known {
                    tracing::info!(newest = %ring.keys().next().map(|key| key.id().to_string()).unwrap_or_default(),
                        "the account has other keys");
                    *self.ring.write() = Arc::new(ring);
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the keys of the account cannot be read");
                false
            }
        }
    }
}

/// The keys that are stored. When there are none, some are made, unless another sidecar is faster.
async fn load(bucket: &Bucket, subject: &ByteString, known: Option<&KeyRing>) -> Result<KeyRing, Unavailable> {
    loop {
        let (sequence, was_deleted) = match found(bucket.last(subject).await?)? {
            Found::Ring(ring) => return Ok(ring),
            Found::None { sequence, was_deleted } => (sequence, was_deleted),
        };
        let ring = match known {
            Some(known) if !was_deleted => known.clone(),
            known => with_new_key(known, new_key(bucket.api.link.clock.earliest().0)),
        };
        let value = Value::Put(written(&ring)?.into());
        let write = Write { subject, value, fence: Fence::Own(sequence), ttl_s: None };
        match bucket.write(&write).await {
            Ok(_) => {
                tracing::info!(keys = ring.keys().count(), "the keys of the account are written");
                return Ok(ring);
            }
            // Another one was faster: they are there now.
            Err(WriteError::Fenced) => {}
            Err(error) => return Err(Unavailable::new(error)),
        }
    }
}

fn found(last: Option<Last>) -> Result<Found, Unavailable> {
    let Some(last) = last else { return Ok(Found::None { sequence: 0, was_deleted: false }) };
    let sequence = last.sequence;
    let Some(value) = last.value() else { return Ok(Found::None { sequence, was_deleted: true }) };
    match parsed(value) {
        Ok(Some(ring)) => Ok(Found::Ring(ring)),
        Ok(None) => {
            tracing::error!("what is stored as the keys of the account cannot be read; others are made");
            Ok(Found::None { sequence, was_deleted: true })
        }
        Err(version) => {
            Err(Unavailable::new(format!("the keys of the account have version {version}, which is newer")))
        }
    }
}

/// `Err` with the version when a newer sidecar has written it.
fn parsed(value: &[u8]) -> Result<Option<KeyRing>, u32> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice(value) {
        Ok(Version { version }) if version > KEYS_VERSION => return Err(version),
        Ok(_) => {}
        Err(_) => return Ok(None),
    }
    let Ok(stored) = serde_json::from_slice::<Stored>(value) else { return Ok(None) };
    let key = |key: StoredKey| {
        let secret: [u8; ACCOUNT_KEY_LEN] = BASE64.decode(key.secret).ok()?.try_into().ok()?;
        Some(AccountKey::new(KeyId::parse(&key.id)?, key.made_at_ms, secret))
    };
    Ok(KeyRing::new(stored.keys.into_iter().filter_map(key)))
}

fn written(ring: &KeyRing) -> Result<Vec<u8>, Unavailable> {
    let key = |key: &AccountKey| StoredKey {
        id: key.id().to_string(),
        made_at_ms: key.made_at_ms(),
        secret: BASE64.encode(key.secret()),
    };
    let stored = Stored { version: KEYS_VERSION, keys: ring.keys().map(key).collect() };
    serde_json::to_vec(&stored).map_err(Unavailable::new)
}

fn new_key(made_at_ms: u64) -> AccountKey {
    let id = loop {
        if let Some(id) = KeyId::new(rand::random()) {
            break id;
        }
    };
    AccountKey::new(id, made_at_ms, rand::random())
}

/// A new key in front of those that are known, as far as they are kept.
fn with_new_key(known: Option<&KeyRing>, new: AccountKey) -> KeyRing {
    let now_ms = new.made_at_ms();
    let mut replaced_at_ms = now_ms;
    let mut older = Vec::new();
    for key in known.into_iter().flat_map(KeyRing::keys).take(KEYS_MAX - 1) {
        if replaced_at_ms.saturating_add(KEPT_FOR_MS) <= now_ms {
            break;
        }
        replaced_at_ms = key.made_at_ms();
        older.push(key.clone());
    }
    KeyRing::of(new, older)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32, made_at_ms: u64) -> AccountKey {
        AccountKey::new(KeyId::new(number).unwrap(), made_at_ms, [7; ACCOUNT_KEY_LEN])
    }

    fn ids(ring: &KeyRing) -> Vec<u32> {
        ring.keys().map(|key| key.id().get()).collect()
    }

    #[test]
    fn keys_come_back_as_they_were_written_and_a_newer_version_is_left_alone() {
        let ring = KeyRing::new([key(9, 2_000), key(4, 1_000)]).unwrap();
        let json = written(&ring).unwrap();
        assert_eq!(parsed(&json), Ok(Some(ring)));
        assert_eq!(parsed(br#"{"version":2,"keys":"otherwise"}"#), Err(2));
        for nothing in [&b""[..], b"{}", br#"{"version":1,"keys":[]}"#, br#"{"version":1,"keys":[{"id":"x"}]}"#] {
            assert_eq!(parsed(nothing), Ok(None));
        }
    }

    #[test]
    fn a_new_key_leaves_those_before_it_as_long_as_they_are_kept() {
        assert_eq!(ids(&with_new_key(None, key(1, 0))), [1]);
        let two = with_new_key(Some(&KeyRing::new([key(1, 0)]).unwrap()), key(2, 10));
        assert_eq!(ids(&two), [2, 1]);
        // The first was replaced when the second was made.
        assert_eq!(ids(&with_new_key(Some(&two), key(3, 9 + KEPT_FOR_MS))), [3, 2, 1]);
        assert_eq!(ids(&with_new_key(Some(&two), key(3, 10 + KEPT_FOR_MS))), [3, 2]);
        let many = (1..20).fold(KeyRing::new([key(100, 0)]).unwrap(), |ring, n| with_new_key(Some(&ring), key(n, 0)));
        assert_eq!(ids(&many), [19, 18, 17, 16, 15, 14, 13, 12]);
    }
}
