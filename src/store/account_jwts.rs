//! Which account JWTs have counted, beside the list of accounts: of each account that was used here the newest one, by when it was
//! issued and its hash, so that an older one does not count after a restart. An entry keeps no account on the list.
//!
//! **Invariant:** what is written is newer than what was there. A write that fails is tried again, and nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use proto_map::Names;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::bucket::{Bucket, Content, Fence, Value, Write};
use super::error::{Unavailable, WriteError};

/// Version of what is written here.
const ENTRY_VERSION: u32 = 1;

/// Accounts of which it is known; of what is beyond it is not, with a log line.
const JWTS_MAX: usize = 65_536;

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// An account JWT that has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountJwt {
    /// When it was issued, seconds since the epoch.
    pub issued_at_s: i64,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
}

/// What is known of the JWT of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastJwt {
    /// It could not be read yet.
    Unread,
    /// None has counted.
    None,
    /// This one has.
    Known(AccountJwt),
}

/// As it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    iat: i64,
    sha256: String,
    /// What a newer version has added.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct AccountJwts {
    bucket: Bucket,
    names: Names,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<HashMap<String, AccountJwt>>,
    /// The bucket has been read to its end.
    is_read: watch::Sender<bool>,
    /// To be written.
    unwritten: Mutex<BTreeMap<String, AccountJwt>>,
    wake: Notify,
}

impl AccountJwts {
    /// Writes for as long as the link of the bucket is there.
    pub(super) fn start(bucket: Bucket, names: Names) -> Self {
        let jwts = Self { bucket, names, shared: Arc::default() };
        let (tasks, writer) = (jwts.bucket.api.link.tasks.clone(), jwts.clone());
        tasks.spawn(async move { writer.write().await });
        jwts
    }

    /// What has counted of an account, when that is read until then.
    pub(super) async fn last(&self, account: &str, until: Instant) -> LastJwt {
        let mut is_read = self.shared.is_read.subscribe();
        match tokio::time::timeout_at(until, is_read.wait_for(|is_read| *is_read)).await {
            Ok(Ok(_)) => self.shared.known.lock().get(account).cloned().map_or(LastJwt::None, LastJwt::Known),
            _ => LastJwt::Unread,
        }
    }

    /// This one counts now.
    pub(super) fn keep(&self, account: &str, jwt: AccountJwt) {
        if self.shared.known.lock().get(account).is_some_and(|known| known.issued_at_s >= jwt.issued_at_s) {
            return;
        }
        self.shared.unwritten.lock().insert(account.to_owned(), jwt);
        self.shared.wake.notify_one();
    }

    /// Everything has been read.
    pub(super) fn set_read(&self) {
        self.shared.is_read.send_if_modified(|is_read| !std::mem::replace(is_read, true));
    }

    /// Somebody has written an entry. Those that are gone count for who starts after that.
    pub(super) fn note(&self, subject: &str, content: &Content) {
        let (Some(account), Content::Value(value)) = (self.names.strip_account_jwt(subject), content) else { return };
        let Some((_, jwt)) = read(value) else {
            return tracing::warn!(account, "what is kept of the JWT of this account cannot be read");
        };
        let mut known = self.shared.known.lock();
        if known.len() >= JWTS_MAX && !known.contains_key(&account) {
            return tracing::warn!(
                account,
                "of the JWTs of more accounts than {JWTS_MAX} it is not known which was the last"
            );
        }
        known.insert(account, jwt);
    }

    async fn write(&self) {
        let mut is_told = false;
        loop {
            let next =
                self.shared.unwritten.lock().first_key_value().map(|(account, jwt)| (account.clone(), jwt.clone()));
            let Some((account, jwt)) = next else {
                self.shared.wake.notified().await;
                continue;
            };
            match self.put(&account, &jwt).await {
                Ok(()) => {
                    is_told = false;
                    let mut unwritten = self.shared.unwritten.lock();
                    // A newer one may have come.
                    if unwritten.get(&account) == Some(&jwt) {
                        unwritten.remove(&account);
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(account, %error, "which JWT of the account counts cannot be written down yet");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Writes one, unless there is one that is as new.
    async fn put(&self, account: &str, jwt: &AccountJwt) -> Result<(), Unavailable> {
        let subject = self.names.account_jwt(account).map_err(Unavailable::new)?;
        loop {
            let last = self.bucket.last(&subject).await?;
            let rest = match last.as_ref().and_then(|last| last.value()).map(|value| read(value)) {
                None => BTreeMap::new(),
                Some(Some((entry, before))) if before.issued_at_s < jwt.issued_at_s => entry.rest,
                // As new, or of a version that we cannot read.
                Some(_) => return Ok(()),
            };
            let entry = Entry { version: ENTRY_VERSION, iat: jwt.issued_at_s, sha256: hex(&jwt.digest), rest };
            let value = Value::Put(serde_json::to_vec(&entry).map_err(Unavailable::new)?.into());
            let fence = Fence::Own(last.map_or(0, |last| last.sequence));
            match self.bucket.write(&Write { subject: &subject, value, fence, ttl_s: None }).await {
                Ok(_) => return Ok(()),
                // Somebody else has one as well.
                Err(WriteError::Fenced) => {}
                Err(error) => return Err(Unavailable::new(error)),
            }
        }
    }
}

fn read(value: &[u8]) -> Option<(Entry, AccountJwt)> {
    let entry: Entry = serde_json::from_slice(value).ok().filter(|entry: &Entry| entry.version <= ENTRY_VERSION)?;
    let jwt = AccountJwt { issued_at_s: entry.iat, digest: of_hex(&entry.sha256)? };
    Some((entry, jwt))
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_what_is_none_is_not_read() {
        let mut digest = [0; 32];
        (digest[0], digest[31]) = (1, 0xAB);
        let text = hex(&digest);
        assert!(text.starts_with("0100") && text.ends_with("ab"));
        let with = |over: serde_json::Value| {
            let mut entry = json!({ "version": 1, "iat": 1_700_000_000, "sha256": text, "colour": 3 });
            entry.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
            read(entry.to_string().as_bytes())
        };
        let (entry, jwt) = with(json!({})).unwrap();
        assert_eq!(jwt, AccountJwt { issued_at_s: 1_700_000_000, digest });
        let again = serde_json::to_vec(&Entry { iat: 1_700_000_001, ..entry }).unwrap();
        let (again, jwt) = read(&again).unwrap();
        assert_eq!((jwt.issued_at_s, &again.rest["colour"]), (1_700_000_001, &json!(3)), "nothing is lost");
        for wrong in [
            json!({ "version": 2 }),
            json!({ "iat": "now" }),
            json!({ "sha256": "ab" }),
            json!({ "sha256": "é".repeat(32) }),
            json!({ "sha256": "+1".repeat(32) }),
        ] {
            assert!(with(wrong.clone()).is_none(), "{wrong}");
        }
        assert!(read(b"").is_none());
    }
}
