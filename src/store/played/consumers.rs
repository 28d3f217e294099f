//! Who reads streams: pull consumers without acknowledgements.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::streams::PlayedStream;
use super::{Said, State};
use crate::store::time::rfc3339_ms;

/// A consumer.
#[derive(Default)]
pub(super) struct PlayedConsumer {
    filters: Vec<String>,
    is_headers_only: bool,
    /// What comes first.
    snapshot: VecDeque<u64>,
    /// What comes then.
    next: u64,
    given: u64,
    pulls: VecDeque<Pull>,
}

/// What was asked for.
struct Pull {
    number: u64,
    reply: String,
    left: u64,
}

impl PlayedConsumer {
    fn new(config: &Value, stream: &PlayedStream) -> Self {
        let filters = config["filter_subjects"].as_array().into_iter().flatten().chain([&config["filter_subject"]]);
        let filters: Vec<String> = filters.filter_map(Value::as_str).map(str::to_owned).collect();
        let is_headers_only = config["headers_only"] == true;
        let mut consumer = Self { filters, is_headers_only, next: stream.last + 1, ..Self::default() };
        match config["deliver_policy"].as_str() {
            Some("by_start_sequence") => consumer.next = config["opt_start_seq"].as_u64().unwrap_or(1),
            Some("by_start_time") => {
                let since_ms = config["opt_start_time"].as_str().and_then(rfc3339_ms).unwrap_or(0);
                let at = stream.messages.iter().find(|(_, stored)| stored.at_ms >= since_ms);
                consumer.next = at.map_or(stream.last + 1, |(sequence, _)| *sequence);
            }
            _ => {
                let subjects: BTreeSet<&str> = stream.messages.values().map(|s| s.said.subject.as_str()).collect();
                let wanted = subjects.into_iter().filter(|subject| consumer.takes(subject));
                let last: BTreeSet<u64> = wanted.map(|subject| stream.last_of(subject)).collect();
                consumer.snapshot = last.into_iter().collect();
            }
        }
        consumer
    }

    fn takes(&self, subject: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| proto_map::matches(filter, subject))
    }

    fn pending(&self, stream: &PlayedStream) -> usize {
        let snapshot = self.snapshot.iter().filter(|sequence| stream.messages.contains_key(sequence));
        let behind = stream.messages.range(self.next..).filter(|(_, stored)| self.takes(&stored.said.subject));
        snapshot.count() + behind.count()
    }

    fn pop(&mut self, stream: &PlayedStream) -> Option<u64> {
        while let Some(sequence) = self.snapshot.pop_front() {
            if stream.messages.contains_key(&sequence) {
                return Some(sequence);
            }
        }
        let mut behind = stream.messages.range(self.next..);
        let (sequence, _) = behind.find(|(_, stored)| self.takes(&stored.said.subject))?;
        self.next = sequence + 1;
        Some(*sequence)
    }

    pub(super) fn info(&self, stream: &PlayedStream) -> Value {
        let delivered = json!({ "consumer_seq": self.given, "stream_seq": self.next.saturating_sub(1) });
        json!({ "delivered": delivered, "num_pending": self.pending(stream) })
    }
}

impl State {
    pub(super) fn make_consumer(&mut self, stream: &str, name: &str, config: &Value) -> Option<Value> {
        let stream = self.streams.get_mut(stream)?;
        let consumer = PlayedConsumer::new(config, stream);
        let info = consumer.info(stream);
        stream.consumers.insert(name.to_owned(), consumer);
        Some(info)
    }

    /// Somebody asks for messages.
    pub(super) fn pull(&mut self, stream: &str, name: &str, reply: &str, body: &Value) {
        self.last_pull += 1;
        let (number, me) = (self.last_pull, self.me.clone());
        let consumer = self.streams.get_mut(stream).and_then(|stream| stream.consumers.get_mut(name));
        let Some(consumer) = consumer else { return self.say_status(reply, "503", &[]) };
        let left = body["batch"].as_u64().unwrap_or(1);
        consumer.pulls.push_back(Pull { number, reply: reply.to_owned(), left });
        let within = |key: &str| Duration::from_nanos(body[key].as_u64().unwrap_or(1_000_000_000));
        let (until, heartbeat) = (Instant::now() + within("expires"), within("idle_heartbeat"));
        let (stream, name) = (stream.to_owned(), name.to_owned());
        self.give(&stream);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(heartbeat).await;
                let Some(state) = me.upgrade() else { return };
                if !state.lock().beat(&stream, &name, number, Instant::now() >= until) {
                    return;
                }
            }
        });
    }

    /// Says that a pull is alive, or that it is over. Whether it goes on.
    fn beat(&mut self, stream: &str, name: &str, number: u64, is_over: bool) -> bool {
        let consumer = self.streams.get_mut(stream).and_then(|stream| stream.consumers.get_mut(name));
        let Some(consumer) = consumer else { return false };
        let Some(index) = consumer.pulls.iter().position(|pull| pull.number == number) else { return false };
        let (reply, left) = (consumer.pulls[index].reply.clone(), consumer.pulls[index].left);
        let given = consumer.given.to_string();
        if is_over {
            consumer.pulls.remove(index);
            self.say_status(&reply, "408 Request Timeout", &[("Nats-Pending-Messages", left.to_string())]);
        } else {
            self.say_status(&reply, "100 Idle Heartbeat", &[("Nats-Last-Consumer", given)]);
        }
        !is_over
    }

    /// Gives readers of a stream what there is for them.
    pub(super) fn give(&mut self, name: &str) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        let mut given = Vec::new();
        let mut consumers = std::mem::take(&mut stream.consumers);
        for (consumer_name, consumer) in &mut consumers {
            while let Some(pull) = consumer.pulls.front_mut() {
                let (reply, is_last) = (pull.reply.clone(), pull.left <= 1);
                let Some(sequence) = consumer.pop(stream) else { break };
                match consumer.pulls.front_mut() {
                    Some(pull) if !is_last => pull.left -= 1,
                    _ => _ = consumer.pulls.pop_front(),
                }
                consumer.given += 1;
                let (stored, pending) = (&stream.messages[&sequence], consumer.pending(stream));
                let (count, ns) = (consumer.given, stored.at_ms * 1_000_000);
                let ack = format!("$JS.ACK.{name}.{consumer_name}.1.{sequence}.{count}.{ns}.{pending}");
                let payload = if consumer.is_headers_only { Default::default() } else { stored.said.payload.clone() };
                given.push((reply, ack, Said { payload, from: 0, ..stored.said.clone() }));
            }
        }
        stream.consumers = consumers;
        for (to, ack, said) in given {
            self.route(&to, &said, Some(&ack));
        }
    }
}
