//! Who comes and goes and what they subscribe to, as JSON on core NATS, `$NMQ.event.<kind>.<client>`, and how the sidecar is,
//! `$NMQ.event.overload.<node>`: for whoever listens,
//! and for streams of the user. Events wait in one queue, and what does not fit is dropped and counted: no client ever
//! waits for them. The truth about who is connected is in the records of sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::{Names, client_of};
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use crate::metrics::AccountMetrics;
use crate::network::PeerAddr;
use crate::store::{CoreNats, ServerClock, Store, rfc3339};

/// Events that wait to be sent; above, they are dropped.
const QUEUE_MAX: usize = 16_384;

/// Something that a client did.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Event {
    /// It is connected.
    Connect(Connect),
    /// It is not connected any more.
    Disconnect(Disconnect),
    /// It has subscribed, or changed subscriptions.
    Subscribe {
        /// What was granted.
        subscriptions: Vec<Subscription>,
    },
    /// It has ended subscriptions.
    Unsubscribe {
        /// Their filters.
        filters: Vec<String>,
    },
    /// The sidecar takes in less than before, or more again.
    Overload(Overload),
}

/// How much the sidecar takes in from now on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overload {
    /// From 0, everything, to 3.
    pub(crate) level: u8,
    /// What that means.
    pub(crate) state: &'static str,
    /// The level before.
    pub(crate) before: u8,
    /// What has asked for it: `memory`, `event_loop`, `publish_latency` or `open_files`.
    pub(crate) why: &'static str,
    /// Bytes of memory in use, and that may be.
    pub(crate) memory_used: u64,
    pub(crate) memory_limit: u64,
}

/// A client that is connected.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connect {
    /// Address of the client.
    pub(crate) remote: PeerAddr,
    /// Name of the listener.
    pub(crate) listener: String,
    /// Version of MQTT.
    pub(crate) protocol: &'static str,
    /// User name, if it gave one; nobody may have looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    /// Who it has proven to be: the user's name, or its NKey. `None` in mode `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// It asked for a new session.
    pub(crate) clean_start: bool,
    /// Its session was there before.
    pub(crate) session_present: bool,
    /// How long its session outlives the connection, in seconds.
    pub(crate) session_expiry_s: u32,
    /// Keep alive that holds, in seconds; 0 for none.
    pub(crate) keep_alive_s: u16,
}

/// A client that is not connected any more.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disconnect {
    /// Address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<PeerAddr>,
    /// Why: `client`, `connection_lost`, `keep_alive`, `taken_over`, `server` or `node_lost`.
    pub(crate) cause: &'static str,
    /// Reason code of the DISCONNECT, sent by either side or meant, where MQTT 3.x has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason_code: Option<u8>,
    /// How long it was connected.
    #[serde(rename = "connected_ms", serialize_with = "in_ms", skip_serializing_if = "Option::is_none")]
    pub(crate) connected: Option<Duration>,
}

/// A length of time in milliseconds.
fn in_ms<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()).serialize(serializer)
}

/// A subscription that was granted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Subscription {
    /// Its filter.
    pub(crate) filter: String,
    /// Its QoS.
    pub(crate) qos: u8,
}

impl Event {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Disconnect(_) => "disconnect",
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Overload(_) => "overload",
        }
    }
}

/// An event in the queue.
struct Queued {
    at_ms: u64,
    node: Option<Arc<str>>,
    client_id: ByteString,
    event: Event,
}

/// An event as it is sent.
#[derive(Serialize)]
struct Told<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    /// Of the listener that it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_point: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    client_id: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

impl<'a> Told<'a> {
    fn new(at_ms: u64, node: Option<&'a str>, session_name: &'a str, event: &'a Event) -> Self {
        let (mount_point, client_id) = client_of(session_name);
        Self { time: rfc3339(at_ms), node, mount_point, client_id, event }
    }
}

/// Where events are left.
#[derive(Debug)]
pub(crate) struct Events(Option<Queue>);

#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<Queued>,
    clock: ServerClock,
    metrics: Arc<AccountMetrics>,
}

impl Events {
    /// Nobody is told.
    pub(in crate::account) const fn off() -> Self {
        Self(None)
    }

    /// Sends what is left here until this is dropped.
    pub(in crate::account) fn start(store: &Store, names: Names, metrics: Arc<AccountMetrics>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        store.tasks().spawn(send(receiver, store.core().clone(), names, Arc::clone(&metrics)));
        Self(Some(Queue { sender, clock: store.clock().clone(), metrics }))
    }

    /// Leaves an event, or drops it. `node`: whose client it is, or was.
    pub(crate) fn tell(&self, client_id: &ByteString, node: Option<Arc<str>>, event: impl FnOnce() -> Event) {
        let Some(Queue { sender, clock, metrics }) = &self.0 else { return };
        match sender.try_reserve() {
            Ok(slot) => {
                let at_ms = clock.earliest().0;
                slot.send(Queued { at_ms, node, client_id: client_id.clone(), event: event() });
            }
            Err(_) => metrics.events_dropped(1),
        }
    }

    /// The same of something that a sidecar did.
    pub(crate) fn tell_of_node(&self, node: Option<Arc<str>>, event: impl FnOnce() -> Event) {
        // No client has an empty client id.
        self.tell(&ByteString::new(), node, event);
    }

    /// Waits until what was left here is on its way, at the end of the process.
    pub(crate) async fn drained(&self, patience: Duration) {
        let Some(Queue { sender, .. }) = &self.0 else { return };
        // All slots are free when all events are taken out.
        let _ = tokio::time::timeout(patience, sender.reserve_many(QUEUE_MAX)).await;
    }
}

async fn send(mut queue: mpsc::Receiver<Queued>, core: CoreNats, names: Names, metrics: Arc<AccountMetrics>) {
    while let Some(Queued { at_ms, node, client_id, event }) = queue.recv().await {
        let told = Told::new(at_ms, node.as_deref(), &client_id, &event);
        let of: &str = if client_id.is_empty() { node.as_deref().unwrap_or("-") } else { &client_id };
        let (Ok(subject), Ok(json)) = (names.event_subject(event.kind(), of), serde_json::to_vec(&told)) else {
            metrics.events_dropped(1);
            continue;
        };
        if core.publish_wait(&subject, None, &Vec::new(), Bytes::from(json)).await.is_err() {
            metrics.events_dropped(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_makes_nobody_wait() {
        let process = Metrics::new();
        let metrics = process.account();
        let (sender, mut receiver) = mpsc::channel(2);
        let events = Events(Some(Queue { sender, clock: ServerClock::default(), metrics: Arc::clone(&metrics) }));
        let client_id = ByteString::from_static("c");
        for _ in 0..5 {
            events.tell(&client_id, None, || Event::Unsubscribe { filters: vec!["a".to_owned()] });
        }
        assert!(process.render().contains("mqtt_events_dropped_total 3\n"), "{}", process.render());
        let queued = receiver.recv().await.unwrap();
        let told = |name: &str| serde_json::to_string(&Told::new(0, Some("n"), name, &queued.event)).unwrap();
        assert!(told("site7/\0c").contains(r#""mount_point":"site7/","client_id":"c""#), "{}", told("site7/\0c"));
        assert_eq!(
            told(&queued.client_id),
            r#"{"time":"1970-01-01T00:00:00.000Z","node":"n","client_id":"c","type":"unsubscribe","filters":["a"]}"#
        );
    }
}
