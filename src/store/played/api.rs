//! What is asked of JetStream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::streams::{PlayedStream, StoredSaid, refusal, time};
use super::{Said, State};

const NO_STREAM: u32 = 10059;
const NO_MESSAGE: u32 = 10037;
const NO_CONSUMER: u32 = 10014;

impl State {
    /// The answer, if there is one.
    pub(super) fn ask(&mut self, verb: &str, said: &Said) -> Option<String> {
        let body: Value = serde_json::from_slice(&said.payload).unwrap_or_default();
        let words: Vec<&str> = verb.split('.').collect();
        let answer = match words[..] {
            ["INFO"] => Ok(json!({ "memory": 0, "storage": 0, "streams": 0, "consumers": 0, "limits": {} })),
            ["STREAM", "LIST"] => Ok(self.list()),
            ["STREAM", "CREATE", name] => {
                let now_ms = self.now_ms();
                let stream = self.streams.entry(name.to_owned()).or_insert_with(|| PlayedStream::new(body, now_ms));
                Ok(stream.info(&Value::Null))
            }
            ["STREAM", "INFO", name] => self.on(name, |stream| Ok(stream.info(&body["subjects_filter"]))),
            ["STREAM", "PURGE", name] => self.on(name, |stream| {
                stream.purge(&body);
                Ok(json!({ "success": true, "purged": 0 }))
            }),
            ["STREAM", "MSG", "GET", name] => self.on(name, |stream| stream.get(&body)),
            ["CONSUMER", "MSG", "NEXT", stream, consumer] => {
                self.pull(stream, consumer, said.reply.as_deref()?, &body);
                return None;
            }
            ["CONSUMER", "CREATE", stream, consumer, ..] => {
                self.make_consumer(stream, consumer, &body["config"]).ok_or(NO_STREAM)
            }
            ["CONSUMER", "INFO", stream, consumer] => self.on(stream, |stream| {
                stream.consumers.get(consumer).map(|consumer| consumer.info(stream)).ok_or(NO_CONSUMER)
            }),
            ["CONSUMER", "DELETE", stream, consumer] => self.on(stream, |stream| {
                stream.consumers.remove(consumer).map(|_| json!({ "success": true })).ok_or(NO_CONSUMER)
            }),
            _ => Err(NO_CONSUMER),
        };
        Some(match answer {
            Ok(mut answer) => {
                answer["ts"] = time(self.now_ms()).into();
                answer.to_string()
            }
            Err(code) => refusal(code),
        })
    }

    fn on(&mut self, name: &str, ask: impl FnOnce(&mut PlayedStream) -> Result<Value, u32>) -> Result<Value, u32> {
        self.streams.get_mut(name).map_or(Err(NO_STREAM), ask)
    }

    fn list(&self) -> Value {
        let now = time(self.now_ms());
        let info = |stream: &PlayedStream| {
            let mut info = stream.info(&Value::Null);
            info["ts"] = now.clone().into();
            info
        };
        let streams: Vec<Value> = self.streams.values().map(info).collect();
        json!({ "total": streams.len(), "offset": 0, "limit": 256, "streams": streams })
    }
}

impl PlayedStream {
    fn info(&self, subjects: &Value) -> Value {
        let mut state = json!({
            "messages": self.messages.len(),
            "bytes": self.bytes(),
            "first_seq": self.first(),
            "last_seq": self.last,
            "consumer_count": self.consumers.len(),
        });
        let mut total = 0;
        if let Some(filter) = subjects.as_str() {
            let mut counts = serde_json::Map::new();
            for stored in self.messages.values().filter(|stored| proto_map::matches(filter, &stored.said.subject)) {
                let count = counts.entry(stored.said.subject.clone()).or_insert(0.into());
                *count = (count.as_u64().unwrap_or(0) + 1).into();
            }
            total = counts.len();
            state["subjects"] = counts.into();
        }
        json!({ "config": self.config, "created": time(self.created_ms), "state": state, "total": total })
    }

    fn purge(&mut self, body: &Value) {
        let (filter, below) = (body["filter"].as_str().unwrap_or(">"), body["seq"].as_u64().unwrap_or(u64::MAX));
        self.messages
            .retain(|sequence, stored| *sequence >= below || !proto_map::matches(filter, &stored.said.subject));
    }

    fn get(&self, body: &Value) -> Result<Value, u32> {
        let from = body["seq"].as_u64().unwrap_or(0);
        let found = match (body["last_by_subj"].as_str(), body["next_by_subj"].as_str()) {
            (Some(subject), _) => self.messages.get_key_value(&self.last_of(subject)),
            (None, Some(filter)) => {
                let mut behind = self.messages.range(from..);
                behind.find(|(_, stored)| proto_map::matches(filter, &stored.said.subject))
            }
            (None, None) => self.messages.get_key_value(&from),
        };
        let (sequence, StoredSaid { said, at_ms }) = found.ok_or(NO_MESSAGE)?;
        let lines: String = said.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let block = if lines.is_empty() { String::new() } else { format!("NATS/1.0\r\n{lines}\r\n") };
        let (hdrs, data) = (BASE64.encode(block), BASE64.encode(&said.payload));
        let message =
            json!({ "subject": said.subject, "seq": sequence, "hdrs": hdrs, "data": data, "time": time(*at_ms) });
        Ok(json!({ "message": message }))
    }
}
