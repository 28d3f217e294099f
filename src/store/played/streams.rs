//! What streams hold.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::consumers::PlayedConsumer;
use super::{PlayedServer, Said, State};
use crate::store::rfc3339;

/// A stream.
pub(super) struct PlayedStream {
    pub(super) config: Value,
    pub(super) created_ms: u64,
    pub(super) last: u64,
    pub(super) messages: BTreeMap<u64, StoredSaid>,
    ids: HashMap<String, u64>,
    pub(super) consumers: BTreeMap<String, PlayedConsumer>,
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StoredSaid {
    pub(crate) said: Said,
    pub(crate) at_ms: u64,
}

impl StoredSaid {
    fn bytes(&self) -> u64 {
        let headers = self.said.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        (self.said.subject.len() + self.said.payload.len() + headers.sum::<usize>()) as u64
    }
}

impl PlayedStream {
    pub(super) fn new(config: Value, created_ms: u64) -> Self {
        let (last, messages, ids, consumers) = Default::default();
        Self { config, created_ms, last, messages, ids, consumers }
    }

    fn captures(&self, subject: &str) -> bool {
        let subjects = self.config["subjects"].as_array().into_iter().flatten();
        subjects.filter_map(Value::as_str).any(|filter| proto_map::matches(filter, subject))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.messages.values().map(StoredSaid::bytes).sum()
    }

    pub(super) fn first(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.last + 1)
    }

    pub(super) fn last_of(&self, subject: &str) -> u64 {
        let of_subject = self.messages.iter().rev().find(|(_, stored)| stored.said.subject == subject);
        of_subject.map_or(0, |(sequence, _)| *sequence)
    }

    /// Stores a message. What is answered.
    fn put(&mut self, said: &Said, now_ms: u64) -> Result<Value, u32> {
        let id = said.header("Nats-Msg-Id").unwrap_or_default();
        let stream = &self.config["name"];
        if let Some(known) = self.ids.get(id).filter(|_| !id.is_empty()) {
            return Ok(json!({ "stream": stream, "seq": known, "duplicate": true }));
        }
        if let Some(expected) = said.header("Nats-Expected-Last-Subject-Sequence") {
            let subject = said.header("Nats-Expected-Last-Subject-Sequence-Subject").unwrap_or(&said.subject);
            if expected.parse() != Ok(self.last_of(subject)) {
                return Err(10071);
            }
        }
        if said.header("Nats-Rollup") == Some("sub") {
            self.messages.retain(|_, stored| stored.said.subject != said.subject);
        }
        self.last += 1;
        if !id.is_empty() {
            self.ids.insert(id.to_owned(), self.last);
        }
        let answer = json!({ "stream": stream, "seq": self.last });
        self.messages.insert(self.last, StoredSaid { said: said.clone(), at_ms: now_ms });
        if let Some(each) = self.config["max_msgs_per_subject"].as_u64().filter(|each| *each > 0) {
            let of_subject = self.messages.iter().filter(|(_, stored)| stored.said.subject == said.subject);
            let all: Vec<u64> = of_subject.map(|(sequence, _)| *sequence).collect();
            let too_many = all.len().saturating_sub(usize::try_from(each).unwrap_or(usize::MAX));
            all[..too_many].iter().for_each(|sequence| _ = self.messages.remove(sequence));
        }
        Ok(answer)
    }
}

/// JetStream's answer that is an error.
pub(super) fn refusal(err_code: u32) -> String {
    let code = if matches!(err_code, 10059 | 10037 | 10014) { 404 } else { 400 };
    json!({ "error": { "code": code, "err_code": err_code, "description": "as the test says" } }).to_string()
}

impl State {
    /// Stores a message where it belongs. The answer; `None`: no stream has its subject.
    pub(super) fn store(&mut self, said: &Said) -> Option<String> {
        let now_ms = self.now_ms();
        let (name, stream) = self.streams.iter_mut().find(|(_, stream)| stream.captures(&said.subject))?;
        let name = name.clone();
        if said.header("Nats-Expected-Stream").is_some_and(|expected| expected != name) {
            return Some(refusal(10060));
        }
        let answer = match stream.put(said, now_ms) {
            Ok(answer) => answer.to_string(),
            Err(code) => refusal(code),
        };
        self.give(&name);
        Some(answer)
    }
}

impl PlayedServer {
    /// Makes a stream, which is not ours.
    pub(crate) fn make_stream(&self, config: Value) {
        let mut state = self.state.lock();
        let (name, now_ms) = (config["name"].as_str().unwrap_or_default().to_owned(), state.now_ms());
        state.streams.insert(name.clone(), PlayedStream::new(config, now_ms));
        drop(state);
        self.publish(&format!("$JS.EVENT.ADVISORY.STREAM.CREATED.{name}"), &[], "{}");
    }

    /// A stream is so much older, and so are its messages.
    pub(crate) fn age(&self, stream: &str, by_ms: u64) {
        if let Some(stream) = self.state.lock().streams.get_mut(stream) {
            stream.created_ms -= by_ms;
            stream.messages.values_mut().for_each(|stored| stored.at_ms -= by_ms);
        }
    }

    /// Somebody deletes a stream.
    pub(crate) fn delete_stream(&self, name: &str) {
        self.state.lock().streams.remove(name);
        self.publish(&format!("$JS.EVENT.ADVISORY.STREAM.DELETED.{name}"), &[], "{}");
    }

    /// The messages of a stream, by their sequences.
    pub(crate) fn messages(&self, stream: &str) -> Vec<(u64, Said)> {
        let state = self.state.lock();
        let messages = state.streams.get(stream).into_iter().flat_map(|stream| &stream.messages);
        messages.map(|(sequence, stored)| (*sequence, stored.said.clone())).collect()
    }

    /// A stream has lost what is below a sequence.
    pub(crate) fn discard(&self, stream: &str, below: u64) {
        if let Some(stream) = self.state.lock().streams.get_mut(stream) {
            stream.messages.retain(|sequence, _| *sequence >= below);
        }
    }

    /// Changes what a stream says of itself.
    pub(crate) fn configure(&self, stream: &str, key: &str, value: Value) {
        if let Some(stream) = self.state.lock().streams.get_mut(stream) {
            stream.config[key] = value;
        }
    }
}

/// A time of the server.
pub(super) fn time(ms: u64) -> String {
    rfc3339(ms)
}
