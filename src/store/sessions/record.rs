//! What is stored of a session, as JSON that a person can read.
//!
//! **Invariant:** sidecars of several versions write the same records. A field that a newer one has added is kept by an older
//! one that writes the record, wherever it was added ([`Rest`]). What an older one must not touch has a higher
//! [`RECORD_VERSION`], and is left alone by it as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::texts::{instant, maybe_instant};
use super::version::{RECORD_VERSION, Rest, Versioned};
use super::will::{StoredWill, WillNumber};

/// An expiry that never comes, seconds [MQTT 5, 3.1.2.11.2].
pub const NEVER: u32 = u32::MAX;

/// A session: who has it, and what it is subscribed to. Its key is made of the client identifier [MQTT-3.1.3-2]. Retained
/// messages are no part of it [MQTT-3.1.2-7 of 3.1.1].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRecord {
    /// [`RECORD_VERSION`] of whoever wrote it.
    pub version: u32,
    /// Client identifier; of a listener with a mount point, what `proto_map::session_name` makes of both.
    pub client_id: String,
    /// Grows with every connect.
    pub epoch: u64,
    /// The epoch in which the session began: progress of an older one is not its own.
    #[serde(default)]
    pub first_epoch: u64,
    /// The node that the client is, or was last, connected to.
    pub owner: Option<String>,
    /// Whether the client is connected.
    pub connected: bool,
    /// When this connection began, or the last one; milliseconds since the epoch.
    #[serde(rename = "since", with = "instant")]
    pub since_ms: u64,
    /// Protocol version, such as `5.0`.
    pub protocol: String,
    /// Address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The user that it belongs to; without one it is the account's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How it was found out who that is, by the name in the configuration; versions before have not written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_mode: Option<String>,
    /// Session Expiry Interval, seconds; [`NEVER`].
    pub expiry_s: u32,
    /// When the client left; milliseconds since the epoch.
    #[serde(rename = "disconnected_at", with = "maybe_instant", skip_serializing_if = "Option::is_none")]
    pub disconnected_at_ms: Option<u64>,
    /// Subscriptions, as many as are small; the others are in pages beside it.
    pub subscriptions: Vec<StoredSubscription>,
    /// How many pages it has. They are numbered from 1 on, and one that was made stays until the session ends.
    #[serde(skip_serializing_if = "is_default")]
    pub pages: u32,
    /// The last CONNECT was accepted, as the first write behind that says: nobody brings back what it found, and the pages of a
    /// session before are of no use.
    #[serde(skip_serializing_if = "is_default")]
    pub accepted: bool,
    /// The will that is still to be published; most have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will: Option<Box<StoredWill>>,
    /// Wills of connections before that are being published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_wills: Vec<LastWill>,
    /// Nodes that may have connections from before which nobody has asked for their progress yet; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handover_from: Vec<String>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

impl Versioned for SessionRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Versioned for ProgressRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

/// Subscriptions of a session beside its record, a page of them: it is written whenever one of them changes, and nothing else
/// is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageRecord {
    /// [`RECORD_VERSION`] of whoever wrote it.
    pub version: u32,
    /// Subscriptions.
    pub subscriptions: Vec<StoredSubscription>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

impl Default for PageRecord {
    fn default() -> Self {
        Self { version: RECORD_VERSION, subscriptions: Vec::new(), rest: Rest::new() }
    }
}

impl Versioned for PageRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

impl SessionRecord {
    /// Whether the session has ended, by what the record itself says; `now_ms` in milliseconds since the epoch. A record can
    /// outlive its session, for the sake of a will, or because nats-server has lost its time to live.
    #[must_use]
    pub fn has_expired(&self, now_ms: u64) -> bool {
        let ended_ms = self.disconnected_at_ms.filter(|_| !self.connected && self.expiry_s != NEVER);
        ended_ms.is_some_and(|ms| ms.saturating_add(u64::from(self.expiry_s) * 1000) <= now_ms)
    }

    /// Whether a newer version wrote it, for itself.
    #[must_use]
    pub const fn is_too_new(&self) -> bool {
        self.version > RECORD_VERSION
    }

    /// Whether the will of the connection with this epoch is being published, and is not known to be.
    #[must_use]
    pub fn owes_will_of(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.will.is_some() || self.last_wills.iter().any(|last| last.epoch == epoch)
    }

    /// The numbers of its wills that are beside it.
    pub fn wills_beside(&self) -> impl Iterator<Item = WillNumber> {
        let former = self.last_wills.iter().map(|last| &last.will);
        self.will.as_deref().into_iter().chain(former).filter_map(|will| will.body)
    }

    /// Whether a will of its is not published yet.
    #[must_use]
    pub fn has_will(&self) -> bool {
        self.will.is_some() || !self.last_wills.is_empty()
    }
}

/// The will of a connection that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWill {
    /// Epoch of the connection.
    pub epoch: u64,
    /// The will, being published.
    pub will: StoredWill,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

impl Default for SessionRecord {
    fn default() -> Self {
        Self {
            version: RECORD_VERSION,
            client_id: String::new(),
            epoch: 0,
            first_epoch: 0,
            owner: None,
            connected: false,
            since_ms: 0,
            protocol: String::new(),
            remote: None,
            user: None,
            user_mode: None,
            expiry_s: 0,
            disconnected_at_ms: None,
            subscriptions: Vec::new(),
            pages: 0,
            accepted: false,
            will: None,
            last_wills: Vec::new(),
            handover_from: Vec::new(),
            rest: Rest::new(),
        }
    }
}

/// One subscription of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredSubscription {
    /// Topic filter.
    pub filter: String,
    /// Maximum QoS.
    pub qos: u8,
    /// No Local.
    #[serde(skip_serializing_if = "is_default")]
    pub no_local: bool,
    /// Retain As Published.
    #[serde(skip_serializing_if = "is_default")]
    pub retain_as_published: bool,
    /// Retain Handling.
    #[serde(skip_serializing_if = "is_default")]
    pub retain_handling: u8,
    /// Subscription Identifier.
    #[serde(skip_serializing_if = "is_default")]
    pub id: Option<u32>,
    /// Last sequence of the log before it: it gets what comes after.
    pub since: u64,
    /// The same in other logs, by stream and when that was created.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub since_in: SequencesInLogs,
    /// The retained messages that it is owed, until [`ProgressRecord`] says that it has got them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<StoredRetained>,
    /// It was above QoS 0, and is owed what there was then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<StoredBefore>>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

impl StoredSubscription {
    /// Bytes that it takes in a record.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        let mut counted = Counted(0);
        // Counting does not fail, and a comma follows.
        let _ = serde_json::to_writer(&mut counted, self);
        counted.0 + 1
    }

    /// The QoS at which it takes a message of the log that is always there.
    #[must_use]
    pub fn qos_at(&self, sequence: u64) -> u8 {
        self.before.as_ref().filter(|before| sequence <= before.up_to).map_or(self.qos, |before| before.qos)
    }
}

/// Sequences in logs beside the one that is always there, by stream and when that was created.
pub type SequencesInLogs = BTreeMap<String, u64>;

/// What a subscription was before it was replaced by one at QoS 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredBefore {
    /// Maximum QoS.
    pub qos: u8,
    /// Last sequence of the log then.
    pub up_to: u64,
    /// The same in other logs, by stream and when that was created.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub up_to_in: SequencesInLogs,
}

/// Counts what is written.
struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The retained messages that a SUBSCRIBE brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRetained {
    /// Its number among those of the session, ascending: they are sent in this order.
    pub number: u64,
    /// The last sequence of the bucket then. What came later comes from the log.
    pub up_to: u64,
}

/// How far a session is in the retained messages that its subscriptions are owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetainedProgress {
    /// Of the last subscription that was begun with; those with lower numbers are done.
    pub number: u64,
    /// The last topic of it that was sent; `None` when it is done as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What has its default is not written, so that ten thousand subscriptions fit into a record.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How far a session is in the log, and what is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressRecord {
    /// [`RECORD_VERSION`] of whoever wrote it.
    pub version: u32,
    /// Epoch of the session that wrote it.
    pub epoch: u64,
    /// Everything in the log up to here is acknowledged or in flight.
    pub cursor: u64,
    /// The same in other logs, by stream and when that was created.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: SequencesInLogs,
    /// How far it is in the retained messages that it is owed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retained: RetainedProgress,
    /// Sent and not acknowledged in full, in the order in which it was sent.
    pub in_flight: Vec<InFlightRecord>,
    /// QoS 2 messages from the client that are not released, in the order in which they came.
    pub received: Vec<ReceivedRecord>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

impl Default for ProgressRecord {
    fn default() -> Self {
        Self {
            version: RECORD_VERSION,
            epoch: 0,
            cursor: 0,
            cursors: BTreeMap::new(),
            retained: RetainedProgress::default(),
            in_flight: Vec::new(),
            received: Vec::new(),
            rest: Rest::new(),
        }
    }
}

/// A message that was sent and is not acknowledged in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightRecord {
    /// Packet identifier.
    pub packet_id: u16,
    /// Sequence in the log.
    pub sequence: u64,
    /// Which log, by stream and when that was created; `None` for the one that is always there, and `retained` when it is no
    /// log but the bucket of retained messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// QoS at which it was sent.
    pub qos: u8,
    /// Of a message of a shared subscription at QoS 2: where its consumer is told that it is this session's, as long as it may
    /// not know. Until then it was not sent either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<String>,
    /// The Subscription Identifier of the one subscription that it was sent for, where each gets a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<u32>,
    /// What is repeated.
    #[serde(default)]
    pub state: InFlightRecordState,
}

/// What of a message in flight is repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InFlightRecordState {
    /// The PUBLISH.
    #[default]
    Sent,
    /// The PUBREL.
    Released,
}

/// A QoS 2 message from the client that is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedRecord {
    /// Packet identifier.
    pub packet_id: u16,
    /// Epoch of the session that received it.
    pub epoch: u64,
    /// Its number within the epoch.
    pub number: u64,
    /// Which key of the account makes its message id; zero: none, of a version before there were any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: u32,
    /// Last sequence of the log before it was stored.
    pub after: u64,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::super::will::{StoredPublisher, WillState};
    use super::*;

    fn full() -> SessionRecord {
        let by = StoredPublisher {
            mode: Some("jwt".to_owned()),
            user: "pump".to_owned(),
            tags: Some(vec!["site:x".to_owned()]),
            denied: true,
            ..StoredPublisher::default()
        };
        SessionRecord {
            client_id: "pump/7 é".to_owned(),
            epoch: 7,
            owner: Some("node-a".to_owned()),
            connected: true,
            since_ms: 1_767_323_045_678,
            protocol: "5.0".to_owned(),
            remote: Some("10.0.0.7:50112".to_owned()),
            expiry_s: NEVER,
            disconnected_at_ms: Some(951_782_400_000),
            subscriptions: vec![StoredSubscription {
                filter: "a/#".to_owned(),
                qos: 2,
                id: Some(268_435_455),
                since: u64::MAX,
                ..StoredSubscription::default()
            }],
            will: Some(Box::new(StoredWill {
                topic: "gone".to_owned(),
                payload: Bytes::from_static(&[0, 255, 1]),
                delay_s: 5,
                payload_is_utf8: Some(false),
                correlation_data: Some(Bytes::from_static(&[254])),
                user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
                state: WillState::Firing { id: "x.7".to_owned(), after: 41 },
                due_at_ms: Some(1_767_323_050_000),
                by: Some(Box::new(by)),
                ..StoredWill::default()
            })),
            ..SessionRecord::default()
        }
    }

    #[test]
    fn a_record_survives_and_a_person_can_read_it() {
        let json = serde_json::to_value(full()).unwrap();
        assert_eq!(json["since"], "2026-01-02T03:04:05.678Z");
        assert_eq!(json["disconnected_at"], "2000-02-29T00:00:00.000Z");
        assert_eq!(json["will"]["payload"], "AP8B");
        assert_eq!(json["will"]["state"]["firing"]["after"], 41);
        assert_eq!(json["will"]["by"], json!({ "mode": "jwt", "user": "pump", "tags": ["site:x"], "denied": true }));
        assert_eq!(serde_json::from_value::<SessionRecord>(json).unwrap(), full());
    }

    #[test]
    fn what_a_newer_version_adds_survives_what_an_older_one_writes() {
        let mut json = serde_json::to_value(full()).unwrap();
        json["colour"] = json!({ "hue": 3 });
        json["will"]["mood"] = 3.into();
        json["will"]["by"]["voice"] = json!({ "low": true });
        json["will"]["state"]["firing"]["after"] = u64::MAX.into();
        json["subscriptions"][0]["taste"] = json!(["sweet", null]);
        json["last_wills"] = json!([{ "epoch": 6, "will": json["will"], "place": "here" }]);
        let mut record: SessionRecord = serde_json::from_value(json.clone()).unwrap();
        record.epoch += 1;
        json["epoch"] = record.epoch.into();
        assert_eq!(serde_json::to_value(&record).unwrap(), json);

        let mut json = serde_json::to_value(ProgressRecord::default()).unwrap();
        json["speed"] = 7.into();
        let progress: ProgressRecord = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&progress).unwrap(), json);
    }

    #[test]
    fn what_an_older_version_lacks_has_its_default() {
        let sparse: SessionRecord =
            serde_json::from_str(r#"{"client_id":"c","epoch":3,"disconnected_at":null}"#).unwrap();
        assert_eq!((sparse.epoch, sparse.disconnected_at_ms, sparse.will), (3, None, None));
        let progress: ProgressRecord = serde_json::from_str(
            r#"{"cursor":5,"in_flight":[{"packet_id":5,"sequence":2,"qos":2,"state":"released"}]}"#,
        )
        .unwrap();
        assert_eq!(progress.in_flight[0].state, InFlightRecordState::Released);
    }
}
