//! Streams that account or server had no room for: they are made smaller than configured, and grow when there is room for them.
//!
//! With what limit one was made, and with what it should have been, stands in its metadata. One whose limit is another by now was
//! edited by its operator, and is left alone.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account_room::AccountRoom;
use super::api::{Api, ApiFailure};
use super::found_stream::FoundStream;
use super::shortage::Shortage;

/// Key of the metadata, see [`Short`].
pub(super) const SHORT_KEY: &str = "nats-mqtt.short";

/// How often it is tried at most.
const TRIED_EVERY: Duration = Duration::from_secs(300);

/// The first time is this much later at most: sidecars that start at once do not try at once.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// A limit of a stream that is lower than what was configured, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    /// What it was made with.
    pub(super) made: u64,
    /// What it should have been made with.
    pub(super) wanted: u64,
}

impl Short {
    /// What stands in the metadata of a stream, if it still has the limit that it was given.
    fn of(config: &Value) -> Option<Self> {
        let (made, wanted) = config["metadata"][SHORT_KEY].as_str()?.split_once(" of ")?;
        let short = Self { made: made.parse().ok()?, wanted: wanted.parse().ok()? };
        (config["max_bytes"].as_u64() == Some(short.made) && short.made < short.wanted).then_some(short)
    }

    pub(super) fn text(self) -> String {
        format!("{} of {}", self.made, self.wanted)
    }

    /// The limit that it could have where so much is `left` of the account for streams, if that is known and not refused: all that
    /// was configured, or at least twice as much as now, so that what is left for others is not eaten up little by little.
    fn larger(self, left: Option<u64>) -> Option<u64> {
        let possible = left.map_or(u64::MAX, |left| self.made.saturating_add(left / 2));
        self.worth_it(self.wanted.min(possible))
    }

    /// What to try when that was refused.
    fn less(self, refused: u64) -> Option<u64> {
        self.worth_it(refused / 2)
    }

    fn worth_it(self, bytes: u64) -> Option<u64> {
        (bytes == self.wanted || bytes >= self.made.saturating_mul(2)).then_some(bytes)
    }
}

/// Tries it now and then. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    due_at: Arc<Mutex<Instant>>,
}

impl Growth {
    pub(super) fn new() -> Self {
        let first = FIRST_WITHIN.mul_f64(rand::random());
        Self { due_at: Arc::new(Mutex::new(Instant::now() + first)) }
    }

    /// Whether it is time to try, which it then is not for a while.
    pub(super) fn is_due(&self, found: &[FoundStream]) -> bool {
        let now = Instant::now();
        let mut due_at = self.due_at.lock();
        let is_due = now >= *due_at && found.iter().any(|found| Short::of(&found.config).is_some());
        if is_due {
            *due_at = now + TRIED_EVERY;
        }
        is_due
    }
}

/// Gives streams that are short what there is room for. What fails is tried again some time.
pub(super) async fn grow(api: Api, found: Vec<String>) {
    for stream in found {
        if let Err(failure) = grow_one(&api, &stream).await {
            tracing::warn!(stream, %failure, "the stream is smaller than configured, and whether it can grow is not known");
        }
    }
}

/// The streams that are short.
pub(super) fn short(found: &[FoundStream]) -> Vec<String> {
    found.iter().filter(|found| Short::of(&found.config).is_some()).map(|found| found.name.clone()).collect()
}

async fn grow_one(api: &Api, stream: &str) -> Result<(), ApiFailure> {
    // As it is now: another sidecar may have been faster.
    let config = api.stream_info(stream).await?.config;
    let Some(short) = Short::of(&config) else { return Ok(()) };
    let replicas = config["num_replicas"].as_u64().and_then(|count| u8::try_from(count).ok()).unwrap_or(1);
    let left = api.call::<AccountRoom>("INFO", "").await?.for_replicas(replicas);
    let mut next = short.larger(left);
    while let Some(bytes) = next {
        let update = grown(&config, short, bytes).to_string();
        match api.call::<IgnoredAny>(&format!("STREAM.UPDATE.{stream}"), update).await {
            Ok(_) => {
                let wanted = short.wanted;
                tracing::info!(stream, bytes, wanted, "there is more room: the stream may be larger now");
                return Ok(());
            }
            Err(failure) if Shortage::is_of_room(&failure) => next = short.less(bytes),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// The configuration with another limit.
fn grown(config: &Value, short: Short, bytes: u64) -> Value {
    let mut config = config.clone();
    config["max_bytes"] = json!(bytes);
    if let Some(metadata) = config["metadata"].as_object_mut() {
        if bytes < short.wanted {
            metadata.insert(SHORT_KEY.to_owned(), json!(Short { made: bytes, ..short }.text()));
        } else {
            metadata.remove(SHORT_KEY);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn config(max_bytes: u64, metadata: &str) -> Value {
        json!({ "max_bytes": max_bytes, "metadata": { SHORT_KEY: metadata, "other": "x" } })
    }

    #[test]
    fn a_stream_is_short_while_it_has_the_limit_that_it_was_made_with() {
        let short = Short { made: 100, wanted: 400 };
        assert_eq!(Short::of(&config(100, &short.text())), Some(short));
        assert_eq!(Short::of(&config(200, &short.text())), None, "its operator has edited it");
        assert_eq!(Short::of(&config(100, "anything")), None);
        assert_eq!(Short::of(&json!({ "max_bytes": 100, "metadata": {} })), None);
    }

    #[test]
    fn it_grows_to_all_of_it_or_to_twice_as_much_and_leaves_half_to_others() {
        let short = Short { made: 512 * MIB, wanted: 4096 * MIB };
        for (left, larger) in [
            (Some(0), None),
            (Some(256 * MIB), None),
            (Some(1024 * MIB), Some(1024 * MIB)),
            (Some(4096 * MIB), Some(2560 * MIB)),
            (Some(100_000 * MIB), Some(4096 * MIB)),
            (None, Some(4096 * MIB)),
        ] {
            assert_eq!(short.larger(left), larger, "{left:?}");
        }
        assert_eq!(short.less(4096 * MIB), Some(2048 * MIB));
        assert_eq!(short.less(1500 * MIB), None);
        let almost = Short { made: 4000 * MIB, wanted: 4096 * MIB };
        assert_eq!(almost.larger(Some(192 * MIB)), Some(4096 * MIB), "the rest of it");
    }

    #[test]
    fn what_else_is_configured_stays_and_what_is_whole_is_not_short_any_more() {
        let short = Short { made: 100, wanted: 400 };
        let half = grown(&config(100, &short.text()), short, 200);
        assert_eq!(Short::of(&half), Some(Short { made: 200, wanted: 400 }));
        let whole = grown(&half, short, 400);
        assert_eq!(whole, json!({ "max_bytes": 400, "metadata": { "other": "x" } }));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_soon_and_then_now_and_then() {
        let found = |max_bytes| FoundStream {
            name: "S".to_owned(),
            created_ms: 1,
            config: config(max_bytes, "100 of 400"),
            last_sequence: 0,
            bytes: 0,
            messages: 0,
        };
        let growth = Growth::new();
        tokio::time::sleep(FIRST_WITHIN).await;
        assert!(!growth.is_due(&[found(300)]), "none is short");
        assert!(growth.is_due(&[found(300), found(100)]));
        assert_eq!(short(&[found(300), found(100)]), ["S"]);
        assert!(!growth.is_due(&[found(100)]));
        tokio::time::sleep(TRIED_EVERY).await;
        assert!(growth.is_due(&[found(100)]));
    }
}
