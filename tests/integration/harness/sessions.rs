//! Persistent sessions: how clients ask for them, what JetStream holds of them, and signals that stop a sidecar short
//! of killing it.

use std::collections::BTreeMap;

use base64::Engine as _;
use mqtt_codec::{Ack, Disconnect, Packet, PacketId, PacketType, Publish, ReasonCode, Version};
use proto_map::Names;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Client, Message, Options, PATIENCE, Sidecar, js_api, shown};

impl Options {
    /// Goes on with the session if there is one; it ends `expiry_s` seconds after the connection, which only MQTT 5 can say.
    pub(crate) fn durable(mut self, expiry_s: u32) -> Self {
        self.connect.clean_start = false;
        self.expiry(expiry_s)
    }

    /// Begins a session that ends `expiry_s` seconds after the connection.
    pub(crate) fn expiry(mut self, expiry_s: u32) -> Self {
        if self.connect.version == Version::V5 {
            self.connect.properties.session_expiry_interval_s = Some(expiry_s);
        }
        self
    }

    /// The will is `message`, published so many seconds after the end of the connection.
    pub(crate) fn delayed_will(self, message: Message, delay_s: u32) -> Self {
        let mut options = self.will(message);
        if let Some(will) = &mut options.connect.will {
            will.delay_interval_s = delay_s;
        }
        options
    }
}

impl Client {
    /// Whether CONNACK said that the session goes on.
    pub(crate) fn is_resumed(&self) -> bool {
        self.connack.session_present
    }

    /// The next packet of a type; nothing is acknowledged for the test.
    pub(crate) async fn next_of(&mut self, wanted: PacketType) -> Packet {
        self.other(|packet| packet.packet_type() == wanted).await
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) async fn ack(&mut self, make: fn(Ack) -> Packet, id: PacketId) {
        self.write(&make(Ack::new(id, ReasonCode::Success)));
        self.flush().await;
    }

    /// Sends a PUBLISH with this packet id, perhaps as a repetition.
    pub(crate) async fn send_publish(&mut self, message: &Message, id: PacketId, dup: bool) {
        self.write(&Packet::Publish(Publish { dup, ..message.packet(Some(id)) }));
        self.flush().await;
    }

    /// Sends DISCONNECT with a new session expiry; the server's DISCONNECT, if it sends one.
    pub(crate) async fn disconnect_expiring(mut self, expiry_s: u32) -> Option<ReasonCode> {
        let (reason, server_reference, properties) = (ReasonCode::Success, None, None);
        let session_expiry_interval_s = Some(expiry_s);
        self.write(&Packet::Disconnect(Disconnect { reason, session_expiry_interval_s, server_reference, properties }));
        self.flush().await;
        self.closed().await
    }

    /// Sends DISCONNECT and waits until the server has closed.
    pub(crate) async fn goodbye(self) {
        self.disconnect(ReasonCode::Success).await;
    }

    /// The next packet as text: a PUBLISH as [`shown`] with its packet id, others by name and packet id.
    pub(crate) async fn next_shown(&mut self) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let id = |id: Option<PacketId>| id.map_or(String::new(), |id| format!(" #{}", id.get()));
        match self.packet(deadline).await {
            Ok(Packet::Publish(publish)) => shown(&publish) + &id(publish.packet_id()),
            Ok(Packet::PubRel(ack)) => format!("pubrel #{}", ack.packet_id.get()),
            Ok(packet) => format!("{packet:?}"),
            Err(ended) => format!("{ended:?}"),
        }
    }
}

impl Sidecar {
    /// Sends a signal: SIGSTOP and SIGCONT make a sidecar that is cut off from everything for a while.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signal a child");
    }
}

/// A packet id.
pub(crate) fn pid(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

/// The session record of a client with its sequence, as JetStream holds it.
pub(crate) async fn record(nats: &async_nats::Client, client_id: &str) -> Option<(u64, Value)> {
    value(nats, &Names::default().session_record(client_id).expect("a key")).await
}

/// The same of its progress.
pub(crate) async fn progress(nats: &async_nats::Client, client_id: &str) -> Option<(u64, Value)> {
    value(nats, &Names::default().session_progress(client_id).expect("a key")).await
}

/// What is under keys beside the record and the progress of a client: `kind` is `subs` or `will`; by the rest of the key.
pub(crate) async fn beside(nats: &async_nats::Client, client_id: &str, kind: &str) -> BTreeMap<String, Value> {
    let names = Names::default();
    let root = format!("{}.{kind}.", names.session_record(client_id).expect("a key"));
    let what = format!("STREAM.INFO.{}", names.sessions_stream());
    let info = js_api(nats, &what, &json!({ "subjects_filter": format!("{root}>") })).await;
    let mut beside = BTreeMap::new();
    for subject in info["state"]["subjects"].as_object().into_iter().flatten().map(|(subject, _)| subject) {
        if let Some((_, value)) = value(nats, subject).await {
            beside.insert(subject.trim_start_matches(&root).to_owned(), value);
        }
    }
    beside
}

/// The subscriptions of a session, those in its record and those beside it.
pub(crate) async fn subscriptions(nats: &async_nats::Client, client_id: &str) -> Vec<Value> {
    let (_, record) = record(nats, client_id).await.expect("a record");
    let own = format!("{}.", record["first_epoch"]);
    let pages = beside(nats, client_id, "subs").await;
    let pages = pages.into_iter().filter(|(key, _)| key.starts_with(&own)).map(|(_, page)| page);
    let in_each = [record].into_iter().chain(pages);
    in_each.flat_map(|part| part["subscriptions"].as_array().cloned().unwrap_or_default()).collect()
}

async fn value(nats: &async_nats::Client, subject: &str) -> Option<(u64, Value)> {
    let names = Names::default();
    let what = format!("STREAM.MSG.GET.{}", names.sessions_stream());
    let answer = js_api(nats, &what, &json!({ "last_by_subj": subject })).await;
    let message = answer.get("message")?;
    let data = base64::engine::general_purpose::STANDARD.decode(message["data"].as_str().unwrap_or_default());
    let data = data.expect("base64");
    // A marker has no value.
    let value = (!data.is_empty()).then(|| serde_json::from_slice(&data).expect("a record is JSON"))?;
    Some((message["seq"].as_u64().expect("a sequence"), value))
}
