//! Its connections: lines and payloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Said, State};

const INFO: &str = r#"INFO {"server_id":"S","version":"2.12.1","max_payload":1048576,"headers":true,"jetstream":true}"#;

/// One connection. It ends when this is dropped.
pub(super) struct Peer {
    pub(super) name: String,
    no_echo: bool,
    subscriptions: BTreeMap<u64, (String, Option<String>)>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    reading: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Serves a connection.
pub(super) fn welcome(state: &Arc<Mutex<State>>, stream: DuplexStream) {
    let (read, mut write) = tokio::io::split(stream);
    let (out, mut waiting) = mpsc::unbounded_channel::<Vec<u8>>();
    let _ = out.send(format!("{INFO}\r\n").into_bytes());
    tokio::spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut locked = state.lock();
    locked.last_peer += 1;
    let (number, served) = (locked.last_peer, Arc::downgrade(state));
    let reading = tokio::spawn(async move {
        let mut reader = BufReader::new(read);
        while let Some(operation) = operation(&mut reader).await {
            let Some(state) = served.upgrade() else { return };
            state.lock().operate(number, operation);
        }
        if let Some(state) = served.upgrade() {
            let peer = state.lock().peers.remove(&number);
            drop(peer);
        }
    });
    let (name, no_echo, subscriptions) = Default::default();
    locked.peers.insert(number, Peer { name, no_echo, subscriptions, out, reading });
}

/// What a client says.
enum Operation {
    Connect(serde_json::Value),
    Ping,
    Subscribe(u64, String, Option<String>),
    Unsubscribe(u64),
    Publish(Said),
    Nothing,
}

async fn operation(reader: &mut BufReader<ReadHalf<DuplexStream>>) -> Option<Operation> {
    let mut line = String::new();
    if reader.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let (verb, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
    let words: Vec<&str> = rest.split(' ').collect();
    Some(match (verb, &words[..]) {
        ("CONNECT", _) => Operation::Connect(serde_json::from_str(rest).ok()?),
        ("PING", _) => Operation::Ping,
        ("SUB", [subject, sid]) => Operation::Subscribe(sid.parse().ok()?, (*subject).to_owned(), None),
        ("SUB", [subject, queue, sid]) => {
            Operation::Subscribe(sid.parse().ok()?, (*subject).to_owned(), Some((*queue).to_owned()))
        }
        ("UNSUB", [sid, ..]) => Operation::Unsubscribe(sid.parse().ok()?),
        ("PUB", [subject, reply @ .., len]) => {
            let payload = payload(reader, len.parse().ok()?).await?;
            let (subject, reply) = ((*subject).to_owned(), reply.first().map(|reply| (*reply).to_owned()));
            Operation::Publish(Said { subject, reply, payload, ..Said::default() })
        }
        ("HPUB", [subject, reply @ .., headers_len, len]) => {
            let all = payload(reader, len.parse().ok()?).await?;
            let headers_len: usize = headers_len.parse().ok()?;
            let block = all.slice(..headers_len);
            let payload = all.slice(block.len()..);
            let lines = std::str::from_utf8(&block).ok()?.split("\r\n").skip(1);
            let headers = lines.filter_map(|line| line.split_once(':'));
            let headers = headers.map(|(name, value)| (name.to_owned(), value.trim_start().to_owned())).collect();
            let (subject, reply) = ((*subject).to_owned(), reply.first().map(|reply| (*reply).to_owned()));
            Operation::Publish(Said { subject, reply, headers, payload, from: 0 })
        }
        _ => Operation::Nothing,
    })
}

async fn payload(reader: &mut BufReader<ReadHalf<DuplexStream>>, len: usize) -> Option<Bytes> {
    let mut payload = vec![0; len + 2];
    reader.read_exact(&mut payload).await.ok()?;
    payload.truncate(len);
    Some(payload.into())
}

impl State {
    fn operate(&mut self, number: u64, operation: Operation) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        match operation {
            Operation::Connect(options) => {
                peer.name = options["name"].as_str().unwrap_or_default().to_owned();
                peer.no_echo = options["echo"] == false;
                if self.shut.is_some_and(|name| peer.name.ends_with(name)) {
                    self.peers.remove(&number);
                }
            }
            Operation::Ping => _ = peer.out.send(b"PONG\r\n".to_vec()),
            Operation::Subscribe(sid, subject, queue) => _ = peer.subscriptions.insert(sid, (subject, queue)),
            Operation::Unsubscribe(sid) => _ = peer.subscriptions.remove(&sid),
            Operation::Publish(said) => self.hear(&Said { from: number, ..said }),
            Operation::Nothing => {}
        }
    }

    /// Gives a message to whoever is subscribed to where it goes. Whether anybody is.
    pub(super) fn route(&mut self, to: &str, said: &Said, reply: Option<&str>) -> bool {
        let mut is_heard = false;
        let mut groups = Vec::new();
        for (number, peer) in &self.peers {
            if peer.no_echo && *number == said.from {
                continue;
            }
            for (sid, (subject, queue)) in &peer.subscriptions {
                if !proto_map::matches(subject, to) {
                    continue;
                }
                if let Some(queue) = queue {
                    let group = (subject.clone(), queue.clone());
                    if groups.contains(&group) {
                        continue;
                    }
                    groups.push(group);
                }
                is_heard = true;
                let _ = peer.out.send(message(said, *sid, reply));
            }
        }
        is_heard
    }
}

/// A message as a client is told. A header without a name is the status.
fn message(said: &Said, sid: u64, reply: Option<&str>) -> Vec<u8> {
    let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
    let Said { subject, headers, payload, .. } = said;
    if headers.is_empty() {
        let head = format!("MSG {subject} {sid} {reply}{}\r\n", payload.len());
        return [head.as_bytes(), payload, b"\r\n"].concat();
    }
    let mut block = "NATS/1.0".to_owned();
    if let Some((_, status)) = headers.iter().find(|(name, _)| name.is_empty()) {
        block += &format!(" {status}");
    }
    block += "\r\n";
    for (name, value) in headers.iter().filter(|(name, _)| !name.is_empty()) {
        block += &format!("{name}: {value}\r\n");
    }
    block += "\r\n";
    let head = format!("HMSG {subject} {sid} {reply}{} {}\r\n", block.len(), block.len() + payload.len());
    [head.as_bytes(), block.as_bytes(), payload, b"\r\n"].concat()
}
