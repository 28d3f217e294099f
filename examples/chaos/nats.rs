//! A NATS client of the witness's own, past all relays: what JetStream holds, who leads, and who is to step down.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto_map::{Names, subject_of};
use serde_json::{Value, json};

use mqtt_codec::TopicName;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A client of all servers.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    client: async_nats::Client,
    names: Names,
}

/// A message as a stream has it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: String,
    /// When, in milliseconds.
    pub(crate) time: u64,
}

impl Nats {
    pub(crate) async fn connect(urls: &[String]) -> Self {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect().name("witness");
        let client = options.connect(urls).await.expect("a client that connects sooner or later");
        Self { client, names: Names::default() }
    }

    async fn ask(&self, what: &str, body: &Value) -> Option<Value> {
        let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = self.client.request(format!("$JS.API.{what}"), payload.into());
        let answer = tokio::time::timeout(PATIENCE, request).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    /// All streams, sorted.
    pub(crate) async fn streams(&self) -> Option<Vec<String>> {
        let answer = self.ask("STREAM.NAMES", &Value::Null).await?;
        let names = answer["streams"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned);
        let mut names: Vec<String> = names.collect();
        names.sort();
        Some(names)
    }

    /// The name of the server that leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> Option<String> {
        let info = self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        info["cluster"]["leader"].as_str().map(str::to_owned)
    }

    /// Has the leader of a stream step down; whether it said that it does.
    pub(crate) async fn step_down(&self, stream: &str) -> bool {
        let answer = self.ask(&format!("STREAM.LEADER.STEPDOWN.{stream}"), &Value::Null).await;
        answer.is_some_and(|answer| answer["success"] == true)
    }

    /// The last message of a subject; nothing when there is none. An error when JetStream does not answer.
    async fn last(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ()> {
        let get = json!({ "last_by_subj": subject });
        let mut answer = self.ask(&format!("STREAM.MSG.GET.{stream}"), &get).await.ok_or(())?;
        let message = answer["message"].take();
        if message.is_null() {
            return if answer["error"]["code"] == 404 { Ok(None) } else { Err(()) };
        }
        let bytes = |key: &str| message[key].as_str().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
        let time = message["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok()).ok_or(())?;
        let time = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let headers = String::from_utf8_lossy(&bytes("hdrs")).into_owned();
        Ok(Some(Stored { payload: bytes("data"), headers, time }))
    }

    fn subject(topic: &str) -> proto_map::Subject {
        subject_of(&TopicName::new(topic).expect("a topic name")).expect("a subject")
    }

    /// What the bucket retains for a topic.
    pub(crate) async fn retained(&self, topic: &str) -> Result<Option<Vec<u8>>, ()> {
        let subject = self.names.retained_subject(&Self::subject(topic)).expect("a key");
        let last = self.last(&self.names.retained_stream(), &subject).await?;
        let is_value = |stored: &Stored| !stored.headers.contains("KV-Operation:") && !stored.payload.is_empty();
        Ok(last.filter(is_value).map(|stored| stored.payload))
    }

    /// When the last message of a topic was stored in the log.
    pub(crate) async fn logged_at(&self, topic: &str) -> Result<Option<u64>, ()> {
        let subject = self.names.log_subject(&Self::subject(topic));
        Ok(self.last(&self.names.log_stream(), &subject).await?.map(|stored| stored.time))
    }

    /// How many messages each topic below a first level has in the log, by the number that ends its name.
    pub(crate) async fn logged(&self, first: &str) -> Option<std::collections::HashMap<usize, u64>> {
        let filter = format!("{}{first}.>", self.names.log_subjects().trim_end_matches('>'));
        let mut logged = std::collections::HashMap::new();
        let mut offset = 0;
        loop {
            let request = json!({ "subjects_filter": filter, "offset": offset });
            let info = self.ask(&format!("STREAM.INFO.{}", self.names.log_stream()), &request).await?;
            if !info["error"].is_null() {
                return None;
            }
            let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
            offset += subjects.len();
            for (subject, times) in &subjects {
                if let Some(n) = subject.rsplit('.').next().and_then(|n| n.parse().ok()) {
                    logged.insert(n, times.as_u64().unwrap_or(0));
                }
            }
            if subjects.is_empty() || offset as u64 >= info["total"].as_u64().unwrap_or(0) {
                return Some(logged);
            }
        }
    }

    /// The record of a session as it stands there, for people.
    pub(crate) async fn record(&self, client_id: &str) -> String {
        let subject = self.names.session_record(client_id).expect("a key");
        match self.last(&self.names.sessions_stream(), &subject).await {
            Ok(Some(stored)) => format!("{} of {}", String::from_utf8_lossy(&stored.payload), stored.time),
            Ok(None) => "none".to_owned(),
            Err(()) => "no answer".to_owned(),
        }
    }

    /// Records of sessions that were to end with their connection, of clients whose id begins with `prefix`.
    pub(crate) async fn leftovers(&self, prefix: &str) -> Option<Vec<String>> {
        let stream = self.names.sessions_stream();
        let request = json!({ "subjects_filter": self.names.sessions_subjects() });
        let info = self.ask(&format!("STREAM.INFO.{stream}"), &request).await?;
        let mut left = Vec::new();
        for subject in info["state"]["subjects"].as_object()?.keys() {
            let Ok(Some(stored)) = self.last(&stream, subject).await else { continue };
            if let Ok(record) = serde_json::from_slice::<Value>(&stored.payload)
                && record["client_id"].as_str().is_some_and(|id| id.starts_with(prefix))
                && record["expiry_s"] == 0
            {
                left.push(format!("{subject}: {record}"));
            }
        }
        Some(left)
    }
}
