//! A log in memory.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::MemoryServer;
use super::link::{Link, LinkState, WRITE_WITHIN};
use crate::store::api::StoredMessageBody;
use crate::store::entry::LogEntry;
use crate::store::error::{PutError, Unavailable};
use crate::store::message_log::MessageLog;
use crate::store::publisher::{Put, PutTarget, Stored};
use crate::store::rfc3339;

/// How long the log knows the id of a message.
const DUPLICATES_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
struct Message {
    sequence: u64,
    subject: ByteString,
    entry: LogEntry,
    id: Option<String>,
    stored: Instant,
    ends: Option<Instant>,
}

/// What the log has.
#[derive(Debug, Default)]
pub(super) struct Messages(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    last: u64,
}

/// See the module. What is submitted is stored one after the other.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    messages: Arc<Messages>,
    link: Arc<Link>,
    puts: mpsc::UnboundedSender<(Put, Instant)>,
}

impl MemoryLog {
    pub(super) fn start(server: MemoryServer, messages: Arc<Messages>, link: Arc<Link>) -> Self {
        let (puts, mut waiting) = mpsc::unbounded_channel();
        let (stored, up) = (Arc::clone(&messages), Arc::clone(&link));
        tokio::spawn(async move {
            while let Some((put, deadline)) = waiting.recv().await {
                let put: Put = put;
                let outcome = stored.put(&server, &up, &put, deadline).await;
                put.sink.stored(put.token, outcome);
                put.sink.flush();
            }
        });
        Self { messages, link, puts }
    }
}

impl MessageLog for MemoryLog {
    type Permit = ();

    async fn permit(&self, _bytes: usize) {}

    fn submit(&self, _permit: (), put: Put) {
        let _ = self.puts.send((put, Instant::now() + WRITE_WITHIN));
    }

    async fn find(&self, subject: &str, after: u64, message_id: &str) -> Result<Option<u64>, Unavailable> {
        self.link.reads().await?;
        let state = self.messages.current();
        if after > state.last {
            return Err(Unavailable::new("there is nothing there yet"));
        }
        let is_it = |message: &&Message| {
            message.sequence > after && message.subject == subject && message.id.as_deref() == Some(message_id)
        };
        Ok(state.messages.iter().find(is_it).map(|message| message.sequence))
    }

    async fn get_many(&self, sequences: &[u64]) -> Result<Vec<LogEntry>, Unavailable> {
        self.link.reads().await?;
        let state = self.messages.current();
        if sequences.iter().any(|sequence| *sequence > state.last) {
            return Err(Unavailable::new("there is nothing there yet"));
        }
        let entry = |sequence: &u64| state.messages.iter().find(|m| m.sequence == *sequence).map(|m| m.entry.clone());
        Ok(sequences.iter().filter_map(entry).collect())
    }

    async fn last_sequence(&self) -> Result<u64, Unavailable> {
        self.link.reads().await?;
        Ok(self.messages.current().last)
    }
}

impl Messages {
    fn current(&self) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.0.lock();
        let now = Instant::now();
        state.messages.retain(|message| message.ends.is_none_or(|ends| ends > now));
        state
    }

    async fn put(&self, server: &MemoryServer, link: &Link, put: &Put, deadline: Instant) -> Result<Stored, PutError> {
        link.pass();
        loop {
            if put.guard.as_ref().is_some_and(|guard| !guard.is_wanted()) {
                return Err(PutError::Withdrawn);
            }
            match link.state() {
                LinkState::Up => return self.store(server, put),
                LinkState::Deaf => _ = self.store(server, put),
                LinkState::Down | LinkState::Held => {}
            }
            if !link.comes_up_by(deadline).await {
                return Err(PutError::Unavailable);
            }
        }
    }

    fn store(&self, server: &MemoryServer, put: &Put) -> Result<Stored, PutError> {
        let (PutTarget::Log(subject) | PutTarget::Retained { subject, .. } | PutTarget::Attached { subject, .. }) =
            &put.target;
        let id = put.headers.iter().find(|(name, _)| name == proto_map::name::NATS_MSG_ID);
        let id = id.map(|(_, id)| id.to_string());
        let mut state = self.current();
        let is_known =
            |message: &&Message| id.is_some() && message.id == id && message.stored.elapsed() < DUPLICATES_WITHIN;
        if let Some(known) = state.messages.iter().find(is_known) {
            return Ok(Stored { sequence: known.sequence, duplicate: true });
        }
        let last_of_subject = state.messages.iter().rev().find(|message| message.subject == *subject);
        if put.expected_last.is_some_and(|expected| expected != last_of_subject.map_or(0, |last| last.sequence)) {
            return Err(PutError::Rejected { code: 10071, text: "wrong last sequence".to_owned() });
        }
        state.last += 1;
        let sequence = state.last;
        let ends = put.ttl_s.map(|ttl_s| Instant::now() + Duration::from_secs(ttl_s.into()));
        let entry = entry(subject, sequence, put, server.now_ms()).ok_or(PutError::Invalid { what: "an entry" })?;
        let (subject, stored) = (subject.clone(), Instant::now());
        state.messages.push(Message { sequence, subject, entry, id, stored, ends });
        Ok(Stored { sequence, duplicate: false })
    }
}

/// What is read of a message.
fn entry(subject: &str, sequence: u64, put: &Put, now_ms: u64) -> Option<LogEntry> {
    let lines: String = put.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let block = format!("NATS/1.0\r\n{lines}\r\n");
    let stored = StoredMessageBody {
        subject: subject.to_owned(),
        seq: sequence,
        hdrs: Some(BASE64.encode(block)),
        data: Some(BASE64.encode(&put.payload)),
        time: rfc3339(now_ms),
    };
    LogEntry::of_stored(stored, "")
}
