//! Who may not connect, in a bucket of the home account that all its sidecars read, and an operator writes as well: `nats kv put
//! MQTT_bans client.lamp ''`. A ban ends with its value, by the time to live that we give it, and by the duration that it has from
//! when the server stored it: nobody's clock counts but the server's.
//!
//! The bucket need not be there: an account that has no room for it, or does not let us make it, has bans of each sidecar alone.
//! Then it is tried again.

use std::sync::Arc;
use std::time::Duration;

use proto_map::{BanSubject, Names, StreamSpec};
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::assets::Assets;
use super::bucket::{Bucket, Content, Fence, Last, Value, Write};
use super::clock::ServerClock;
use super::entry::LogEntry;
use super::error::{OpenError, Unavailable};
use super::reader::{Pace, Progress, Reader, Source};

/// Version of what is written here.
const ENTRY_VERSION: u32 = 1;
const BATCH_MAX: usize = 512;
const MISSING_PAUSE: Duration = Duration::from_secs(5);

/// The longest time to live that is given, seconds: ten years.
const TTL_MAX_S: u64 = 315_360_000;

/// The bucket of bans.
#[derive(Clone, Debug)]
pub struct Bans {
    bucket: Bucket,
    readers: Api,
    names: Names,
    assets: Assets,
    spec: Arc<StreamSpec>,
    clock: ServerClock,
}

/// What has become of a ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanNews {
    /// What follows is everything that there is, up to [`BanNews::Complete`].
    Begins,
    /// Somebody is banned.
    Banned {
        /// Whom it is of.
        whom: BanSubject,
        /// For so long from now; `None`: for ever.
        left: Option<Duration>,
        /// By a rule of a sidecar, not by a person.
        is_by_rule: bool,
    },
    /// Somebody is not banned any more.
    Ended(BanSubject),
    /// Everything was read.
    Complete,
    /// There is no bucket, and so nothing to read yet.
    Missing,
}

/// Why a ban was not written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// Whom it is of is longer than a key may be: it never will be.
    #[error("whom it is of is longer than a key of NATS may be")]
    TooLong,
    /// JetStream does not take it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// As it is stored. An operator may leave out everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Entry {
    version: u32,
    /// From when it was stored.
    duration_s: Option<u64>,
    /// Why, for people.
    reason: Option<String>,
    /// A sidecar has written it, by a rule.
    by_rule: bool,
}

impl Bans {
    pub(super) fn new(bucket: Bucket, readers: Api, names: Names, assets: Assets, spec: StreamSpec) -> Self {
        let clock = readers.link.clock.clone();
        Self { bucket, readers, names, assets, spec: Arc::new(spec), clock }
    }

    /// Makes sure that the bucket is there.
    ///
    /// # Errors
    /// It is not, and cannot be made.
    pub async fn ensure(&self) -> Result<(), OpenError> {
        self.assets.ensure(&self.spec).await.map(drop)
    }

    /// Writes a ban of a rule down, unless there is one of the same that ends no sooner, an operator's or another sidecar's.
    ///
    /// # Errors
    /// See [`BanError`].
    pub async fn put(&self, whom: &BanSubject, left: Duration, reason: &str) -> Result<(), BanError> {
        let subject = self.names.ban(whom).map_err(|_| BanError::TooLong)?;
        let last = self.bucket.last(&subject).await?;
        let is_there = |last: &Last| last.value().is_some_and(|value| self.covers(value, last.stored_at_ms, left));
        if last.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        let seconds = left.as_secs().clamp(1, TTL_MAX_S);
        let (duration_s, reason) = (Some(seconds), Some(reason.to_owned()));
        let entry = Entry { version: ENTRY_VERSION, duration_s, reason, by_rule: true };
        let value = Value::Put(serde_json::to_vec(&entry).map_err(Unavailable::new)?.into());
        let ttl_s = u32::try_from(seconds).ok();
        // Who has written since knows better; then it is looked at again.
        let fence = Fence::Own(last.map_or(0, |last| last.sequence));
        let write = Write { subject: &subject, value, fence, ttl_s };
        self.bucket.write(&write).await.map(drop).map_err(|error| Unavailable::new(error).into())
    }

    /// Whether a ban that is there lasts as long as another one would.
    fn covers(&self, value: &[u8], stored_at_ms: u64, left: Duration) -> bool {
        let there = read(value).unwrap_or_default().duration_s;
        there.is_none_or(|seconds| self.left(seconds, stored_at_ms) >= left)
    }

    /// What is left of so many seconds.
    fn left(&self, seconds: u64, stored_at_ms: u64) -> Duration {
        let passed = Duration::from_millis(self.clock.earliest().0.saturating_sub(stored_at_ms));
        Duration::from_secs(seconds).saturating_sub(passed)
    }

    /// Reads the bucket, and what is written there from then on.
    pub fn follow(&self) -> BansReader {
        let subjects = self.names.bans_subjects();
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(subjects.trim_end_matches('>')),
            purpose: "bans",
            last_per_subject: true,
            pace: Pace { batch: BATCH_MAX, bytes: 2 << 20, overlap: true },
        };
        let reader = Reader::new(self.readers.clone(), self.readers.link.clone(), source, 1);
        BansReader { bans: self.clone(), reader, is_snapshot: true, is_missing: false }
    }

    fn news(&self, entry: LogEntry) -> Option<BanNews> {
        let Some(whom) = self.names.strip_ban(entry.stream_subject()) else {
            let key = entry.stream_subject().escape_debug().to_string();
            tracing::warn!(key, "a key in the bucket of bans says nothing: write address.…, client.… or user.…");
            return None;
        };
        let stored_at_ms = entry.stored_at_ms;
        let value = match Content::of(&entry.headers.unwrap_or_default(), entry.payload) {
            Content::Value(value) => value,
            Content::Expired | Content::Deleted | Content::Cleaned => return Some(BanNews::Ended(whom)),
        };
        let entry = read(&value).unwrap_or_else(|| {
            tracing::warn!(?whom, "what is written of a ban cannot be read: it has no end, until it is deleted");
            Entry::default()
        });
        let (left, is_by_rule) = (entry.duration_s.map(|seconds| self.left(seconds, stored_at_ms)), entry.by_rule);
        let is_over = left.is_some_and(|left| left.is_zero());
        Some(if is_over { BanNews::Ended(whom) } else { BanNews::Banned { whom, left, is_by_rule } })
    }
}

/// Nothing at all says nothing.
fn read(value: &[u8]) -> Option<Entry> {
    if value.iter().all(u8::is_ascii_whitespace) {
        return Some(Entry::default());
    }
    serde_json::from_slice(value).ok()
}

/// The bucket being read.
pub struct BansReader {
    bans: Bans,
    reader: Reader,
    is_snapshot: bool,
    is_missing: bool,
}

impl BansReader {
    /// What is new, in its order; perhaps nothing. Waits for more, and comes back now and then. A bucket that is gone is made again.
    pub async fn next(&mut self) -> Vec<BanNews> {
        if std::mem::take(&mut self.is_missing) {
            tokio::time::sleep(MISSING_PAUSE).await;
            self.bans.bucket.make_again().await;
        }
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut news = Vec::new();
        match self.reader.next(&mut batch, BATCH_MAX).await {
            Ok(Progress::SnapshotBegins { .. }) => {
                self.is_snapshot = true;
                news.push(BanNews::Begins);
            }
            Ok(Progress::StreamMissing) => {
                self.is_missing = true;
                return vec![BanNews::Missing];
            }
            Ok(Progress::Restarted { .. } | Progress::Read) => {}
            // The reader has paused already.
            Err(_) => return news,
        }
        news.extend(batch.into_iter().filter_map(|entry| self.bans.news(entry)));
        if self.is_snapshot && self.reader.is_caught_up() {
            self.is_snapshot = false;
            news.push(BanNews::Complete);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_leaves_out_is_not_said_and_what_a_later_version_adds_is_left_alone() {
        let entry =
            |duration_s, reason: Option<&str>| Entry { duration_s, reason: reason.map(Into::into), ..Entry::default() };
        for (text, expected) in [
            ("", Some(entry(None, None))),
            (" \n", Some(entry(None, None))),
            ("{}", Some(entry(None, None))),
            (r#"{"duration_s":600}"#, Some(entry(Some(600), None))),
            (r#"{"reason":"noisy","colour":3}"#, Some(entry(None, Some("noisy")))),
            (r#"{"duration_s":"10m"}"#, None),
            (r#"{"duration_s":-1}"#, None),
            ("forever", None),
        ] {
            assert_eq!(read(text.as_bytes()), expected, "{text}");
        }
    }
}
