//! The accounts that have MQTT sessions, in a bucket of the home account: whoever starts, or sees another sidecar end, learns from
//! it where something may be owed to devices that are not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto_map::Names;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::account_jwts::{AccountJwt, AccountJwts, LastJwt};
use super::api::Api;
use super::bucket::{Bucket, Content, Fence, Value, Write};
use super::entry::LogEntry;
use super::error::{Unavailable, WriteError};
use super::reader::{Pace, Progress, Reader, Source};

/// Version of what is written here.
const ENTRY_VERSION: u32 = 1;
const BATCH_MAX: usize = 512;
const MISSING_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Debug)]
pub struct Accounts {
    bucket: Bucket,
    readers: Api,
    names: Names,
    listed: watch::Sender<Listed>,
    jwts: AccountJwts,
}

/// The accounts that are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The bucket has been read to its end.
    pub is_complete: bool,
    /// By their names, with the revision of the entry.
    pub accounts: Arc<BTreeMap<String, u64>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
}

impl Accounts {
    /// Follows the list for as long as the links of the bucket are there.
    pub(super) fn start(bucket: Bucket, readers: Api, names: Names) -> Self {
        let jwts = AccountJwts::start(bucket.clone(), names.clone());
        let accounts = Self { bucket, readers, names, listed: watch::Sender::default(), jwts };
        let (tasks, followed) = (accounts.bucket.api.link.tasks.clone(), accounts.clone());
        tasks.spawn(async move { followed.follow().await });
        accounts
    }

    /// Those that are listed, as far as we have heard.
    pub fn listed(&self) -> watch::Receiver<Listed> {
        self.listed.subscribe()
    }

    /// Puts an account on the list, or says once more that it is there, so that nobody who thought otherwise before takes it off.
    ///
    /// # Errors
    /// When JetStream does not answer, or the name is too long.
    pub async fn list(&self, account: &str) -> Result<(), Unavailable> {
        let subject = self.names.account_entry(account).map_err(Unavailable::new)?;
        let value = serde_json::to_vec(&Entry { version: ENTRY_VERSION }).map_err(Unavailable::new)?;
        let write = Write { subject: &subject, value: Value::Put(value.into()), fence: Fence::None, ttl_s: None };
        self.bucket.write(&write).await.map(|_| ()).map_err(Unavailable::new)
    }

    /// Takes an account off the list, unless somebody has said since this revision that it is there. Returns whether it is off.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn unlist(&self, account: &str, revision: u64) -> Result<bool, Unavailable> {
        let subject = self.names.account_entry(account).map_err(Unavailable::new)?;
        let write = Write { subject: &subject, value: Value::Deleted, fence: Fence::Own(revision), ttl_s: None };
        match self.bucket.write(&write).await {
            Ok(_) => Ok(true),
            Err(WriteError::Fenced) => Ok(false),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    /// Which JWT of an account has counted, here or elsewhere, when that is read until then.
    pub async fn last_jwt(&self, account: &str, until: Instant) -> LastJwt {
        self.jwts.last(account, until).await
    }

    /// This JWT of an account counts now: it is written down, if it is newer than the last, and nobody waits for that.
    pub fn keep_jwt(&self, account: &str, jwt: AccountJwt) {
        self.jwts.keep(account, jwt);
    }

    fn reader(&self) -> Reader {
        let subjects = self.names.accounts_subjects();
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(subjects.trim_end_matches('>')),
            purpose: "accounts",
            last_per_subject: true,
            pace: Pace { batch: BATCH_MAX, bytes: 2 << 20, overlap: true },
        };
        Reader::new(self.readers.clone(), self.readers.link.clone(), source, 1)
    }

    async fn follow(&self) {
        let mut reader = self.reader();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut known = BTreeMap::new();
        loop {
            match reader.next(&mut batch, BATCH_MAX).await {
                Ok(Progress::SnapshotBegins { .. }) => known.clear(),
                Ok(Progress::StreamMissing) => {
                    self.bucket.make_again().await;
                    tokio::time::sleep(MISSING_PAUSE).await;
                }
                Ok(Progress::Restarted { .. } | Progress::Read) => {}
                // The reader has paused already.
                Err(_) => continue,
            }
            batch.drain(..).for_each(|entry| self.note(entry, &mut known));
            if reader.is_caught_up() {
                self.jwts.set_read();
                let listed = Listed { is_complete: true, accounts: Arc::new(known.clone()) };
                self.listed.send_if_modified(|now| {
                    *now != listed && {
                        *now = listed;
                        true
                    }
                });
            }
        }
    }

    fn note(&self, entry: LogEntry, known: &mut BTreeMap<String, u64>) {
        let (sequence, account) = (entry.sequence, self.names.strip_account_entry(entry.stream_subject()));
        let subject = entry.stream_subject().to_owned();
        let content = Content::of(&entry.headers.unwrap_or_default(), entry.payload);
        let Some(account) = account else { return self.jwts.note(&subject, &content) };
        match content {
            // Whatever it says, also to a later version: it is listed.
            Content::Value(_) => drop(known.insert(account, sequence)),
            Content::Expired | Content::Deleted | Content::Cleaned => drop(known.remove(&account)),
        }
    }
}
