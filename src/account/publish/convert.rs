//! Between messages and what NATS holds of them: subject, headers, payload. The mapping itself is `proto_map`'s.

use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_ownership::ServerTime;
use mqtt_session::{Publication, Sequence};
use proto_map::{Carrier, Envelope, HeaderError, Headers, MapError, MessageName, ReadOptions, Subject, name};

use crate::account::delivery::message::Message;
use crate::account::publish::ended_epochs::PublisherEpoch;
use crate::store::CoreMessage;
use crate::store::Keys;
use crate::store::KvUpdate;
use crate::store::LogEntry;
use crate::store::{RetainedEntry, RetainedMessage};

/// Log and bucket have times to live per message.
pub(crate) const STORED: Carrier = Carrier::StreamWithTtl;

/// How long a log of ours keeps what has expired: a client to which it was sent may be away for so long and gets it again.
const KEPT_AFTER_EXPIRY_S: u32 = 3_600;

/// Room in the header block of an ingested message for what we add: two headers, and the topic to answer on.
const INGESTED_HEADERS_MIN: usize = 512;

fn envelope(publication: &Publication) -> Envelope {
    Envelope { qos: publication.qos, properties: publication.properties.clone(), ..Envelope::default() }
}

/// Headers in a log with this carrier. `retained_at`: sequence in the bucket, when it is retained. `message_id` de-duplicates.
/// `epoch`: see [`PublisherEpoch`].
pub(crate) fn log_headers(
    publication: &Publication,
    retained_at: Option<Sequence>,
    publisher: Option<ByteString>,
    message_id: Option<ByteString>,
    epoch: Option<ByteString>,
    carrier: Carrier,
) -> Result<Headers, HeaderError> {
    let envelope =
        Envelope { retained_seq: retained_at.map(|sequence| sequence.0), publisher, ..envelope(publication) };
    let mut headers = with_id(proto_map::to_headers(&envelope, carrier)?, message_id);
    headers.extend(epoch.map(|epoch| (ByteString::from_static(name::EPOCH), epoch)));
    Ok(headers)
}

/// How long a message with this Message Expiry Interval lives in a log with this carrier, in seconds; `None`: as long as any
/// other.
///
/// What was sent is sent again on the next connection also when it has expired [MQTT-4.3.3-7]. So a log of ours keeps it beyond
/// that, and a header says when it expires for those that it was not sent to.
pub(crate) fn lifetime_s(carrier: Carrier, expiry_s: Option<u32>, headers: &mut Headers) -> Option<u32> {
    let expiry_s = expiry_s.filter(|_| carrier.has_ttl())?;
    if !carrier.is_ours() {
        // JetStream knows no time to live below a second; what expires at once is not kept for long.
        return Some(expiry_s.max(1));
    }
    if !headers.iter().any(|(header, _)| **header == *name::EXPIRY) {
        headers.push((ByteString::from_static(name::EXPIRY), expiry_s.to_string().into()));
    }
    Some(expiry_s.saturating_add(KEPT_AFTER_EXPIRY_S))
}

/// Which connection of which client published what lies in a log, when it says so, and how it says it.
pub(crate) fn publisher_epoch(entry: &LogEntry) -> Option<(PublisherEpoch, &str)> {
    let mut headers = entry.headers.iter().flatten();
    let (_, text) = headers.find(|(header, _)| **header == *name::EPOCH)?;
    Some((PublisherEpoch::of_text(text)?, text))
}

/// With a message id, before which there is none: JetStream goes by the first one.
fn with_id(mut headers: Headers, message_id: Option<ByteString>) -> Headers {
    headers.extend(message_id.map(|id| (ByteString::from_static(name::NATS_MSG_ID), id)));
    headers
}

/// The id that a publisher gives its message.
pub(crate) fn own_id(publication: &Publication) -> Option<&str> {
    proto_map::own_message_id(&publication.properties.as_ref()?.user_properties)
}

/// Headers in the log of a message that was published on core NATS, and its time to live there, in seconds. Whoever publishes
/// on core NATS chooses them: what decides about more than the message stays out, where only sidecars say it, and what would
/// tell JetStream something about another stream. So does what a stream cannot hold: the message is worth more than its headers.
pub(crate) fn ingested_headers(message: &CoreMessage, keys: &Keys) -> (Headers, Option<u32>) {
    let headers = message.headers.as_ref();
    let envelope = read(headers, Carrier::Attached { ttl: false }, false, false);
    let is_kept = |name: &str| proto_map::is_about_itself(name);
    let mut len = INGESTED_HEADERS_MIN;
    let mut fits = |(name, value): &&(ByteString, ByteString)| {
        let line = name.len() + value.len() + 4;
        let fits = len + line < proto_map::HEADER_BLOCK_MAX;
        len += if fits { line } else { 0 };
        fits
    };
    let kept = headers.into_iter().flatten().filter(|(name, _)| is_kept(name));
    let copied = kept.filter(|header| fits(header)).cloned().collect();
    let has_id = headers.is_some_and(|all| all.iter().any(|(name, id)| *name == *name::NATS_MSG_ID && !id.is_empty()));
    let id = headers.filter(|_| has_id).map(|headers| {
        let (subject, payload) = (&*message.subject, &*message.payload);
        keys.ring().at(keys.now_ms()).message_id(MessageName::Core { subject, headers, payload })
    });
    let mut copied = with_id(copied, id);
    copied.push((ByteString::from_static(name::INGESTED), ByteString::from_static("1")));
    // As high as a subscription allows, unless it says otherwise itself.
    let qos = if envelope.qos == QoS::AtLeastOnce { "1" } else { "2" };
    copied.push((ByteString::from_static(name::QOS), ByteString::from_static(qos)));
    let expiry = envelope.properties.and_then(|p| p.message_expiry_interval_s);
    (copied, expiry.map(|s| s.max(1)))
}

/// Headers in the retained bucket, of a message or of its deletion. They say that it came over MQTT.
pub(crate) fn retained_headers(
    publication: &Publication,
    is_delete: bool,
    message_id: Option<ByteString>,
) -> Result<Headers, HeaderError> {
    let mut headers = match is_delete {
        true => Headers::new(),
        false => with_id(proto_map::to_headers(&envelope(publication), STORED)?, message_id),
    };
    headers.push((ByteString::from_static(name::ORIGIN), ByteString::from_static("mqtt")));
    Ok(headers)
}

/// What a NATS client has put into the retained bucket, as an envelope for the log. It has QoS 1 unless it says otherwise.
pub(crate) fn put_envelope(put: &KvUpdate) -> Envelope {
    let envelope = match &put.message {
        Some(message) => read(message.headers.as_ref(), STORED, false, false),
        None => Envelope { qos: QoS::AtLeastOnce, ..Envelope::default() },
    };
    Envelope { retained_seq: Some(put.sequence), publisher: None, log_marker: None, ..envelope }
}

/// Headers of what has this envelope in a log with this carrier. `message_id` de-duplicates.
pub(crate) fn log_headers_of(
    envelope: &Envelope,
    message_id: ByteString,
    carrier: Carrier,
) -> Result<Headers, HeaderError> {
    Ok(with_id(proto_map::to_headers(envelope, carrier)?, Some(message_id)))
}

/// Headers of its copy on its natural subject.
pub(crate) fn natural_headers_of(
    envelope: Envelope,
    subject: &Subject,
    log_sequence: Sequence,
) -> Result<Headers, HeaderError> {
    let log_marker = Some(proto_map::log_marker(log_sequence.0, subject.as_str()));
    let topic = proto_map::topic_of(subject.as_str()).ok();
    let original_topic = topic
        .filter(|topic| proto_map::map_topic(topic, proto_map::MAX_SUBJECT_LEN).is_ok_and(|mapped| mapped.escaped));
    let qos = QoS::AtLeastOnce;
    proto_map::to_headers(&Envelope { qos, log_marker, original_topic, retained_seq: None, ..envelope }, Carrier::Core)
}

/// Headers of a QoS 0 message on core NATS: none, for a plain one. `says_qos`: somebody would take it for a message of NATS,
/// which goes as high as a subscription allows.
pub(crate) fn live_headers(
    publication: &Publication,
    retained_at: Option<Sequence>,
    is_escaped: bool,
    says_qos: bool,
    publisher: Option<ByteString>,
    message_id: Option<ByteString>,
) -> Result<Headers, HeaderError> {
    // Whoever reads this on NATS sees the topic as the device wrote it.
    let original_topic = is_escaped.then(|| publication.topic.clone());
    let envelope = Envelope {
        retained_seq: retained_at.map(|sequence| sequence.0),
        original_topic,
        publisher,
        ..envelope(publication)
    };
    let mut headers = with_id(proto_map::to_headers(&envelope, Carrier::Core)?, message_id);
    if says_qos {
        headers.push((ByteString::from_static(name::QOS), ByteString::from_static("0")));
    }
    Ok(headers)
}

/// Headers of the copy that a stored message has on its natural subject: the marker, for a plain one.
pub(crate) fn natural_headers(
    publication: &Publication,
    subject: &Subject,
    log_sequence: Sequence,
    is_escaped: bool,
    publisher: Option<ByteString>,
    message_id: Option<ByteString>,
) -> Result<Headers, HeaderError> {
    let log_marker = Some(proto_map::log_marker(log_sequence.0, subject.as_str()));
    let original_topic = is_escaped.then(|| publication.topic.clone());
    // One marker and no more: that it is in the log says all that there is to say of its QoS.
    let qos = QoS::AtLeastOnce;
    let envelope = Envelope { qos, log_marker, original_topic, publisher, ..envelope(publication) };
    Ok(with_id(proto_map::to_headers(&envelope, Carrier::Core)?, message_id))
}

/// Whether a message on core NATS is one that JetStream hands to a consumer: it goes to the consumer's inbox, where `>` hears
/// it, and says that it is on its natural subject.
pub(crate) fn is_delivery(message: &CoreMessage) -> bool {
    message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."))
}

/// Whether a message on core NATS is the copy of one that a log brings.
pub(crate) fn is_stored_copy(message: &CoreMessage) -> bool {
    is_copy(message.headers.as_ref(), &message.subject)
}

fn is_copy(headers: Option<&Headers>, subject: &str) -> bool {
    headers
        .into_iter()
        .flatten()
        .any(|(header, value)| **header == *name::LOG && proto_map::is_log_copy(value, subject))
}

/// Whether these are the headers of a client's publish at QoS 0.
pub(crate) fn is_at_most_once(headers: Option<&Headers>) -> bool {
    headers.into_iter().flatten().any(|(header, value)| **header == *name::QOS && **value == *"0")
}

/// The QoS at which a client has published what came on core NATS. What goes into a stream of somebody else says it unless it
/// is 2; what goes nowhere, unless it is 0.
pub(crate) fn published_qos(headers: Option<&Headers>, is_captured: impl FnOnce() -> bool) -> QoS {
    let said = headers.into_iter().flatten().find(|(header, _)| **header == *name::QOS);
    match said.map(|(_, value)| &**value) {
        Some("0") => QoS::AtMostOnce,
        Some("1") => QoS::AtLeastOnce,
        Some(_) => QoS::ExactlyOnce,
        None if is_captured() => QoS::ExactlyOnce,
        None => QoS::AtMostOnce,
    }
}

/// Whether what a stream has captured has come to everybody another way: it is the copy of a stored message, or the publish
/// of a client at QoS 0.
pub(crate) fn has_come_live(entry: &LogEntry) -> bool {
    is_copy(entry.headers.as_ref(), entry.subject()) || is_at_most_once(entry.headers.as_ref())
}

/// `nats_headers`: `Nats-*` headers become user properties; see [`AccountOptions`](crate::account::AccountOptions). `is_genuine`: see
/// [`ReadOptions`].
fn read(headers: Option<&Headers>, carrier: Carrier, nats_headers: bool, is_genuine: bool) -> Envelope {
    let headers = headers.into_iter().flatten().map(|(name, value)| (&**name, &**value));
    proto_map::from_headers(headers, ReadOptions { carrier, nats_headers, is_genuine })
}

/// Whether a message that came where others write too has the mark of a sidecar. Most have none, which costs a look.
fn is_marked(keys: &Keys, subject: &str, headers: Option<&Headers>, payload: &[u8]) -> bool {
    let marked = headers.filter(|headers| headers.iter().any(|(header, _)| *header == *name::MAC));
    marked.is_some_and(|headers| keys.ring().is_marked(subject, headers, payload))
}

fn message(topic: mqtt_codec::TopicName, payload: bytes::Bytes, mut envelope: Envelope, since: ServerTime) -> Message {
    let message = Message::new(topic, payload, envelope.properties.take());
    enveloped(message, envelope, since)
}

/// With what an envelope says beside the properties.
fn enveloped(mut message: Message, envelope: Envelope, since: ServerTime) -> Message {
    message.qos = envelope.qos;
    message.retain = envelope.retained_seq.is_some();
    message.retained_at = envelope.retained_seq.map(Sequence);
    message.publisher = envelope.publisher;
    message.is_ingested = envelope.is_ingested;
    message.since = since;
    message
}

/// The message that an entry of a log with this carrier is. `keys`: where others write too, what a sidecar has written there
/// is known by them.
pub(crate) fn from_log(
    entry: &LogEntry,
    carrier: Carrier,
    nats_headers: bool,
    keys: Option<&Keys>,
) -> Result<Message, MapError> {
    let topic = proto_map::topic_of(entry.subject())?;
    let headers = entry.headers.as_ref();
    let is_genuine =
        carrier.is_ours() || keys.is_some_and(|keys| is_marked(keys, entry.subject(), headers, &entry.payload));
    let envelope = read(headers, carrier, nats_headers, is_genuine);
    Ok(message(topic, entry.payload.clone(), envelope, ServerTime(entry.stored_at_ms)))
}

/// The message that came over core NATS. It is QoS 0 whatever it says: nothing has stored it.
/// `since`: the server's time at the latest, so that it does not expire early.
pub(crate) fn from_core(
    core: &CoreMessage,
    since: ServerTime,
    nats_headers: bool,
    keys: &Keys,
) -> Result<Message, MapError> {
    let topic = proto_map::topic_of(&core.subject)?;
    let headers = core.headers.as_ref();
    let is_genuine = is_marked(keys, &core.subject, headers, &core.payload);
    let envelope = Envelope { qos: QoS::AtMostOnce, ..read(headers, Carrier::Core, nats_headers, is_genuine) };
    Ok(message(topic, core.payload.clone(), envelope, since))
}

/// The message that a retained entry is.
pub(crate) fn from_retained(entry: &RetainedEntry, nats_headers: bool) -> Message {
    // NATS clients write there, too.
    let mut envelope = read(entry.message.headers.as_ref(), STORED, nats_headers, false);
    let stored = &entry.message;
    let (topic, payload, properties) = (entry.topic.clone(), stored.payload.clone(), envelope.properties.take());
    let message = Message::of_kept(topic, payload, &entry.lent, properties);
    let mut message = enveloped(message, envelope, ServerTime(stored.stored_at_ms));
    message.retain = true;
    message.retained_at = Some(Sequence(entry.sequence));
    message
}

/// What the index keeps of a retained message that came live and was published at this QoS; `None` when it deletes.
pub(crate) fn retained_of(message: &Message, qos: QoS) -> Option<RetainedMessage> {
    if message.payload.is_empty() {
        return None;
    }
    let envelope = Envelope { qos, properties: message.properties.clone(), ..Envelope::default() };
    let headers = proto_map::to_headers(&envelope, Carrier::Stream).ok()?;
    let lives_ms = message.properties.as_ref().and_then(|p| p.message_expiry_interval_s).map(|s| u64::from(s) * 1000);
    Some(RetainedMessage {
        headers: (!headers.is_empty()).then_some(headers),
        payload: message.payload.clone(),
        stored_at_ms: message.since.0,
        expires_at_ms: lives_ms.map(|ms| message.since.0.saturating_add(ms)),
    })
}

#[cfg(test)]
mod tests;
