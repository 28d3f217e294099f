//! Whether the streams that we write into are there and have room.
//!
//! It is known from what is heard anyway: the answers to what is written, and the list of streams that every sidecar reads when
//! one changes and twice a minute. A lease is written every few seconds, so an account that is full is noticed although no
//! device publishes.
//!
//! **Invariant:** a stream that has refused something for lack of room is full until it takes as much, or a look finds that
//! there is room for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::account_room::AccountRoom;
use super::found_stream::FoundStream;

/// JetStream errors: account or server have no room.
const OF_ACCOUNT: [u32; 5] = [10002, 10023, 10028, 10047, 10120];
/// JetStream error: the stream could not store it, for what its text says.
const STORE_FAILED: u32 = 10077;

/// Whether an error is about room that is missing, and not about one message or one subject.
fn is_lack_of_room(code: u32, text: &str) -> bool {
    let is_of_stream = code == STORE_FAILED && text.contains("exceeded") && !text.contains("per subject");
    is_of_stream || OF_ACCOUNT.contains(&code)
}

/// The streams of an account, by name. Clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Those that are ours and have to be there.
    ours: Vec<String>,
    all: Mutex<BTreeMap<Arc<str>, Arc<Room>>>,
}

impl Rooms {
    /// `ours`: the streams that have to be there.
    pub(crate) fn new(ours: Vec<String>) -> Self {
        Self(Arc::new(Shared { ours, all: Mutex::default() }))
    }

    /// The room of one stream.
    pub(crate) fn of(&self, stream: &str) -> Arc<Room> {
        let mut all = self.0.all.lock();
        if let Some(room) = all.get(stream) {
            return Arc::clone(room);
        }
        let is_ours = self.0.ours.iter().any(|ours| ours == stream);
        let room = Arc::new(Room { is_ours, is_refusing: AtomicBool::new(false), state: Mutex::default() });
        all.insert(Arc::from(stream), Arc::clone(&room));
        room
    }

    /// Whether a stream has refused something that only the account knows the reason of.
    pub(crate) fn asks_for_account(&self) -> bool {
        self.0.all.lock().values().any(|room| room.state.lock().refused.as_ref().is_some_and(|r| r.is_of_account))
    }

    /// All streams were listed, by a request that was sent at `asked`; and what the account said, if it was asked.
    pub(crate) fn listed(&self, found: &[FoundStream], account: Option<&AccountRoom>, asked: Instant) {
        for ours in &self.0.ours {
            let _ = self.of(ours);
        }
        let all: Vec<_> = self.0.all.lock().iter().map(|(name, room)| (Arc::clone(name), Arc::clone(room))).collect();
        for (name, room) in all {
            room.listed(found.iter().find(|found| found.name == *name), account, asked);
        }
    }

    /// The streams that are ours and were not in the list.
    pub(crate) fn missing(&self) -> Vec<Arc<str>> {
        let all = self.0.all.lock();
        let is_missing = |room: &Room| room.is_ours && room.state.lock().listed.is_none();
        all.iter().filter(|(_, room)| is_missing(room)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// How each stream is that is ours or that was written into.
    pub(crate) fn all(&self) -> Vec<StreamRoom> {
        let all = self.0.all.lock();
        all.iter().map(|(name, room)| room.seen(name)).collect()
    }
}

/// What is known of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRoom {
    /// Its name.
    pub stream: Arc<str>,
    /// It is one of ours.
    pub is_ours: bool,
    /// Bytes that it has, as it was listed last.
    pub bytes: Option<u64>,
    /// Bytes that it may have; `None` without a limit of its own.
    pub bytes_max: Option<u64>,
    /// Why it takes nothing more, if so.
    pub full: Option<String>,
}

/// The room of one stream.
#[derive(Debug)]
pub(crate) struct Room {
    is_ours: bool,
    /// A hint, so that who is answered a hundred thousand times a second takes no lock for it.
    is_refusing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listed: Option<Listed>,
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    bytes: u64,
    bytes_max: Option<u64>,
    messages: u64,
    messages_max: Option<u64>,
    /// What is full gives up nothing for what is new.
    keeps_old: bool,
    replicas: u8,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    /// What found no room.
    bytes: u64,
    is_of_account: bool,
    why: String,
}

impl Room {
    /// A message of so many bytes, about, was refused with an error of JetStream.
    pub(crate) fn refused(&self, code: u32, text: &str, bytes: usize) {
        if !is_lack_of_room(code, text) {
            return;
        }
        let (is_of_account, why) = (OF_ACCOUNT.contains(&code), format!("{text} (error {code})"));
        let refused = Refused { at: Instant::now(), bytes: bytes as u64, is_of_account, why };
        self.state.lock().refused = Some(refused);
        self.is_refusing.store(true, Ordering::Release);
    }

    /// One of so many bytes was stored.
    pub(crate) fn taken(&self, bytes: impl FnOnce() -> usize) {
        if self.is_refusing.load(Ordering::Acquire) {
            let bytes = bytes() as u64;
            self.clear(|refused| bytes >= refused.bytes);
        }
    }

    fn listed(&self, found: Option<&FoundStream>, account: Option<&AccountRoom>, asked: Instant) {
        let listed = found.map(Listed::of);
        self.state.lock().listed = listed;
        let Some(listed) = listed else { return };
        self.clear(|refused| {
            let is_of_stream = !refused.is_of_account;
            let account_has_room = |account: &AccountRoom| {
                account.free_for_replicas(listed.replicas).is_none_or(|free| free > refused.bytes)
            };
            let has_room =
                listed.has_room_for(refused.bytes) && (is_of_stream || account.is_some_and(account_has_room));
            refused.at < asked && has_room
        });
    }

    fn clear(&self, is_over: impl FnOnce(&Refused) -> bool) {
        let mut state = self.state.lock();
        if state.refused.as_ref().is_some_and(is_over) {
            state.refused = None;
            self.is_refusing.store(false, Ordering::Release);
        }
    }

    fn seen(&self, stream: &Arc<str>) -> StreamRoom {
        let state = self.state.lock();
        let listed = state.listed;
        let at_limit = || listed.filter(|listed| !listed.has_room_for(0)).map(|_| "its limit is reached".to_owned());
        StreamRoom {
            stream: Arc::clone(stream),
            is_ours: self.is_ours,
            bytes: listed.map(|listed| listed.bytes),
            bytes_max: listed.and_then(|listed| listed.bytes_max),
            full: state.refused.as_ref().map(|refused| refused.why.clone()).or_else(at_limit),
        }
    }
}

impl Listed {
    fn of(found: &FoundStream) -> Self {
        let config = &found.config;
        let limit = |name: &str| config[name].as_i64().and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0);
        Self {
            bytes: found.bytes,
            bytes_max: limit("max_bytes"),
            messages: found.messages,
            messages_max: limit("max_msgs"),
            keeps_old: config["discard"] == "new",
            replicas: config["num_replicas"].as_u64().and_then(|n| u8::try_from(n).ok()).unwrap_or(1),
        }
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        let is_below = |have: u64, max: Option<u64>| max.is_none_or(|max| have < max);
        !self.keeps_old
            || is_below(self.bytes.saturating_add(bytes), self.bytes_max) && is_below(self.messages, self.messages_max)
    }
}

impl fmt::Display for StreamRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stream, self.full.as_deref().unwrap_or("has room"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn list(rooms: &Rooms, bytes: u64, config: &Value, asked: Instant) {
        list_with(rooms, bytes, config, None, asked);
    }

    fn list_with(rooms: &Rooms, bytes: u64, config: &Value, account: Option<&AccountRoom>, asked: Instant) {
        let (name, config) = ("LOG".to_owned(), config.clone());
        let found = FoundStream { name, created_ms: 1, config, last_sequence: 1, bytes, messages: 1 };
        rooms.listed(&[found], account, asked);
    }

    fn full(rooms: &Rooms) -> Option<String> {
        rooms.all().into_iter().find(|room| &*room.stream == "LOG").unwrap().full
    }

    #[test]
    fn a_refusal_counts_until_as_much_is_taken() {
        let rooms = Rooms::new(vec!["LOG".to_owned()]);
        let room = rooms.of("LOG");
        room.taken(|| 10);
        assert_eq!(full(&rooms), None);
        room.refused(10077, "maximum bytes exceeded", 500);
        assert!(full(&rooms).unwrap().contains("maximum bytes exceeded"));
        room.taken(|| 20);
        assert!(full(&rooms).is_some(), "a smaller one found room");
        room.taken(|| 500);
        assert_eq!(full(&rooms), None);
    }

    #[test]
    fn what_is_about_one_message_or_one_subject_is_no_lack_of_room() {
        let rooms = Rooms::new(vec!["LOG".to_owned()]);
        for (code, text) in [
            (10054, "message size exceeds maximum allowed"),
            (10071, "wrong last sequence: 5"),
            (10077, "maximum messages per subject exceeded"),
            (10077, "store is closed"),
            (10167, "too many requests"),
        ] {
            rooms.of("LOG").refused(code, text, 1);
            assert_eq!(full(&rooms), None, "{text}");
        }
    }

    #[test]
    fn a_look_ends_a_refusal_when_there_is_room_for_what_was_refused() {
        let (rooms, config) = (Rooms::new(vec!["LOG".to_owned()]), json!({ "discard": "new", "max_bytes": 1_000 }));
        rooms.of("LOG").refused(10077, "maximum bytes exceeded", 500);
        let later = Instant::now() + Duration::from_secs(1);
        list(&rooms, 900, &config, later);
        assert!(full(&rooms).is_some(), "not yet");
        list(&rooms, 100, &config, Instant::now() - Duration::from_secs(1));
        assert!(full(&rooms).is_some(), "it was asked before the refusal");
        list(&rooms, 100, &config, later);
        assert_eq!(full(&rooms), None);
    }

    #[test]
    fn a_stream_that_keeps_what_is_old_is_full_at_its_limit_and_another_one_never() {
        let (rooms, now) = (Rooms::new(vec!["LOG".to_owned()]), Instant::now());
        list(&rooms, 1_000, &json!({ "discard": "new", "max_bytes": 1_000 }), now);
        assert_eq!(full(&rooms).as_deref(), Some("its limit is reached"));
        list(&rooms, 1_000, &json!({ "discard": "old", "max_bytes": 1_000 }), now);
        assert_eq!(full(&rooms), None);
        list(&rooms, 1_000, &json!({ "discard": "new", "max_bytes": -1 }), now);
        assert_eq!(full(&rooms), None);
    }

    #[test]
    fn an_account_that_is_full_is_asked_whether_it_is_still() {
        let (rooms, config) = (Rooms::new(vec!["LOG".to_owned()]), json!({ "discard": "old", "num_replicas": 1 }));
        assert!(!rooms.asks_for_account());
        rooms.of("LOG").refused(10047, "insufficient storage resources available", 100);
        assert!(rooms.asks_for_account());
        let account = |storage: u64| -> AccountRoom {
            serde_json::from_value(json!({ "storage": storage, "limits": { "max_storage": 1_000 } })).unwrap()
        };
        let later = Instant::now() + Duration::from_secs(1);
        list_with(&rooms, 0, &config, Some(&account(950)), later);
        assert!(full(&rooms).is_some());
        list_with(&rooms, 0, &config, Some(&account(10)), later);
        assert_eq!(full(&rooms), None);
    }

    #[test]
    fn what_is_ours_and_not_listed_is_missing() {
        let rooms = Rooms::new(vec!["LOG".to_owned(), "KV".to_owned()]);
        let _ = rooms.of("DEV");
        list(&rooms, 0, &json!({}), Instant::now());
        assert_eq!(rooms.missing(), [Arc::from("KV")]);
    }
}
