//! The streams of the account, whoever made them: which there are, and when that may have changed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::account_room::AccountRoom;
use super::api::{Api, StreamState};
use super::error::Unavailable;
use super::found_stream::FoundStream;
use super::growth::{self, Growth};
use super::time::rfc3339_ms;
use crate::nats::{PublishError, Subscriber};

/// Streams are looked at this often, also when nobody said that something changed: an advisory can be lost.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Advisories that come together are one.
const SETTLE: Duration = Duration::from_millis(20);
/// Where JetStream says that a stream was created, updated or deleted.
const ADVISORIES: [&str; 3] = ["CREATED", "UPDATED", "DELETED"];
/// How long to wait before the advisories are subscribed to again.
const RETRY: Duration = Duration::from_secs(1);

/// Answers of STREAM.LIST, a page at a time.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    streams: Option<Vec<Listed>>,
    /// Streams whose server did not answer in time.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Listed {
    config: serde_json::Value,
    #[serde(default)]
    created: String,
    #[serde(default)]
    state: StreamState,
    /// When this was said.
    #[serde(default)]
    ts: String,
}

/// The streams of the account.
#[derive(Clone, Debug)]
pub struct Streams {
    api: Api,
    changes: watch::Receiver<u64>,
    growth: Growth,
}

impl Streams {
    pub(super) fn start(api: Api) -> Self {
        let (tx, changes) = watch::channel(0);
        if !api.is_absent {
            api.link.tasks.spawn(notice(api.clone(), tx));
        }
        Self { api, changes, growth: Growth::new() }
    }

    /// All streams; `None` while JetStream does not know of some what they are.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn list(&self) -> Result<Option<Vec<FoundStream>>, Unavailable> {
        let (mut found, asked) = (Vec::new(), Instant::now());
        loop {
            let request = json!({ "offset": found.len() }).to_string();
            let sent = Instant::now();
            let page: Page = self.api.unless_lost(self.api.call("STREAM.LIST", request)).await?;
            if page.missing.is_some_and(|missing| !missing.is_empty()) {
                return Ok(None);
            }
            let listed = page.streams.unwrap_or_default();
            if let Some(stamp_ms) = listed.first().and_then(|listed| rfc3339_ms(&listed.ts)) {
                self.api.link.clock.observe(sent, stamp_ms);
            }
            let is_last = listed.is_empty();
            found.extend(listed.into_iter().filter_map(FoundStream::of));
            if is_last || found.len() >= page.total {
                self.tell_rooms(&found, asked).await;
                return Ok(Some(found));
            }
        }
    }

    /// Which streams are there, and have room, is known from the list, and of the account only when one has refused something.
    async fn tell_rooms(&self, found: &[FoundStream], asked: Instant) {
        let rooms = &self.api.rooms;
        let account = match rooms.asks_for_account() {
            true => self.api.unless_lost(self.api.call::<AccountRoom>("INFO", "")).await.ok(),
            false => None,
        };
        rooms.listed(found, account.as_ref(), asked);
        if self.growth.is_due(found) {
            // Nobody waits for it.
            self.api.link.tasks.spawn(growth::grow(self.api.clone(), growth::short(found)));
        }
    }

    /// Changes whenever a stream may have been created, updated or deleted. Without JetStream it ends at once.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The first sequence of a stream that was stored at this time or later, in milliseconds since the epoch.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn sequence_at(&self, stream: &str, time_ms: u64) -> Result<u64, Unavailable> {
        Ok(self.api.unless_lost(self.api.sequence_at(stream, time_ms)).await?)
    }
}

impl FoundStream {
    fn of(listed: Listed) -> Option<Self> {
        Some(Self {
            name: listed.config["name"].as_str()?.to_owned(),
            created_ms: rfc3339_ms(&listed.created)?,
            last_sequence: listed.state.last_seq,
            bytes: listed.state.bytes,
            messages: listed.state.messages,
            config: listed.config,
        })
    }
}

/// Says when something may have changed: by advisory, by reconnect, and every now and then.
async fn notice(api: Api, tx: watch::Sender<u64>) {
    let mut link = api.link.state.clone();
    loop {
        let mut several = Vec::new();
        match advisories(&api) {
            Ok(mut advisories) => loop {
                let wait = tokio::time::timeout_at(Instant::now() + LOOK_EVERY, advisories.next());
                tokio::select! {
                    () = tx.closed() => return,
                    advisory = wait => {
                        if matches!(advisory, Ok(None)) {
                            break;
                        }
                    }
                    _ = link.changed() => {}
                }
                tokio::time::sleep(SETTLE).await;
                advisories.receive_now(&mut several, usize::MAX);
                several.clear();
                tx.send_modify(|count| *count += 1);
            },
            Err(failure) => tracing::warn!(%failure, "changes of streams cannot be followed"),
        }
        if tx.is_closed() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn advisories(api: &Api) -> Result<Subscriber, PublishError> {
    let subjects = ADVISORIES.map(|what| format!("$JS.EVENT.ADVISORY.STREAM.{what}.>"));
    api.link.client.subscribe_all(&subjects.each_ref().map(String::as_str), api.link.queue_limits())
}
