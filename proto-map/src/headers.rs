//! Properties of a message ⇄ headers. What has its default value is not written, so a plain message has no headers;
//! what is read can be anything that a NATS client sends, and never fails. How user properties travel is in
//! `user_properties`.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{MessageProperties, QoS, TopicName};

use crate::HeaderError;
pub use crate::header_names::{HEADER_BLOCK_MAX, Headers, name};
use crate::header_names::{has_prefix, is_header_value};
use crate::user_properties;
use crate::{duration, percent};

/// What a message travels in: that decides what need not be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Core NATS: QoS 0 unless said otherwise.
    Core,
    /// A stream without times to live: QoS 1 unless said otherwise.
    Stream,
    /// A stream that allows a time to live per message, where the writer makes `Nats-TTL` of the expiry interval. QoS
    /// 1 unless said otherwise.
    StreamWithTtl,
    /// A stream that somebody else has on natural subjects: as high as the subscription allows unless said otherwise,
    /// because what is in a stream gets through.
    Attached {
        /// It allows a time to live per message.
        ttl: bool,
    },
}

impl Carrier {
    /// Whether nobody but sidecars writes there.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Stream | Self::StreamWithTtl)
    }

    /// Whether `Nats-TTL` says the expiry interval.
    #[must_use]
    pub const fn has_ttl(self) -> bool {
        matches!(self, Self::StreamWithTtl | Self::Attached { ttl: true })
    }
}

/// A message without topic and payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// QoS of the publish.
    pub qos: QoS,
    /// The message was retained: its sequence in the bucket of retained messages.
    pub retained_seq: Option<u64>,
    /// The topic, where the subject is escaped; see [`crate::Mapped::escaped`]. Never read back: the subject is the
    /// truth, also after somebody forwarded the message with its headers.
    pub original_topic: Option<TopicName>,
    /// The copy of a stored message on its natural subject; see [`crate::log_marker`].
    pub log_marker: Option<ByteString>,
    /// It was published on core NATS and copied into the log from there.
    pub is_ingested: bool,
    /// Client id of the publisher, where No Local needs it [MQTT-3.8.3-3] or the operator wants it.
    pub publisher: Option<ByteString>,
    /// The properties; `None` when there are none.
    pub properties: Option<Box<MessageProperties>>,
}

/// How headers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// What the message came in.
    pub carrier: Carrier,
    /// `Nats-*` headers become user properties.
    pub nats_headers: bool,
    /// A sidecar has written it. What decides about more than the message itself, [`name::RETAIN`] and [`name::INGESTED`], is
    /// passed over otherwise.
    pub is_genuine: bool,
}

/// Whether a header of this name is about nothing but its message, so that it stays when somebody's message is copied to where
/// sidecars alone write: all but those of NATS, and of ours what says a property.
#[must_use]
pub fn is_about_itself(header: &str) -> bool {
    const PROPERTIES: [&str; 8] = [
        name::ENCODED_CONTENT_TYPE,
        name::TOPIC,
        name::PAYLOAD_FORMAT,
        name::RESPONSE_TOPIC,
        name::CORRELATION_DATA,
        name::EXPIRY,
        name::CLIENT,
        name::USER_PROPERTIES,
    ];
    !has_prefix(header, "Nats-") && (!has_prefix(header, "Mqtt-") || PROPERTIES.contains(&header))
}

const fn default_qos(carrier: Carrier, is_log_copy: bool) -> QoS {
    match carrier {
        Carrier::Core if !is_log_copy => QoS::AtMostOnce,
        Carrier::Attached { .. } => QoS::ExactlyOnce,
        _ => QoS::AtLeastOnce,
    }
}

/// The headers of a message, of which its properties can be read as they were [MQTT-3.3.2-4, -15, -16, -17, -20]. Nothing is
/// allocated when it has none.
///
/// # Errors
/// [`HeaderError::TooLarge`] beyond [`HEADER_BLOCK_MAX`].
pub fn to_headers(envelope: &Envelope, carrier: Carrier) -> Result<Headers, HeaderError> {
    let mut headers = Headers::new();
    if envelope.qos != default_qos(carrier, envelope.log_marker.is_some()) {
        let digit = match envelope.qos {
            QoS::AtMostOnce => "0",
            QoS::AtLeastOnce => "1",
            QoS::ExactlyOnce => "2",
        };
        push(&mut headers, name::QOS, ByteString::from_static(digit));
    }
    if let Some(seq) = envelope.retained_seq {
        push(&mut headers, name::RETAIN, seq.to_string().into());
    }
    if let Some(topic) = &envelope.original_topic {
        push(&mut headers, name::TOPIC, encoded_value(topic.as_str()));
    }
    if let Some(marker) = &envelope.log_marker {
        push(&mut headers, name::LOG, marker.clone());
    }
    if envelope.is_ingested {
        push(&mut headers, name::INGESTED, ByteString::from_static("1"));
    }
    if let Some(client_id) = &envelope.publisher {
        push(&mut headers, name::CLIENT, encoded_value(client_id));
    }
    if let Some(properties) = &envelope.properties {
        push_properties(&mut headers, properties, carrier);
    }
    let len = block_len(&headers);
    if len > HEADER_BLOCK_MAX {
        return Err(HeaderError::TooLarge { len, max: HEADER_BLOCK_MAX });
    }
    Ok(headers)
}

fn push(headers: &mut Headers, name: &'static str, value: ByteString) {
    headers.push((ByteString::from_static(name), value));
}

fn encoded_value(text: &str) -> ByteString {
    let mut out = String::with_capacity(text.len());
    percent::push_value(&mut out, text);
    out.into()
}

fn push_properties(headers: &mut Headers, properties: &MessageProperties, carrier: Carrier) {
    if let Some(is_utf8) = properties.payload_is_utf8 {
        push(headers, name::PAYLOAD_FORMAT, ByteString::from_static(if is_utf8 { "1" } else { "0" }));
    }
    if let Some(seconds) = properties.message_expiry_interval_s {
        // `Nats-TTL` cannot say 0.
        if !carrier.has_ttl() || seconds == 0 {
            push(headers, name::EXPIRY, seconds.to_string().into());
        }
    }
    match &properties.content_type {
        Some(text) if is_header_value(text) => push(headers, name::CONTENT_TYPE, text.clone()),
        Some(text) => push(headers, name::ENCODED_CONTENT_TYPE, encoded_value(text)),
        None => {}
    }
    if let Some(topic) = &properties.response_topic {
        push(headers, name::RESPONSE_TOPIC, encoded_value(topic.as_str()));
    }
    if let Some(data) = &properties.correlation_data {
        let mut out = String::with_capacity(data.len());
        percent::push_bytes(&mut out, data, &[]);
        push(headers, name::CORRELATION_DATA, out.into());
    }
    user_properties::push(headers, &properties.user_properties);
}

/// Bytes of the header block on the wire: `NATS/1.0`, a line for each, an empty line.
fn block_len(headers: &Headers) -> usize {
    if headers.is_empty() {
        return 0;
    }
    12 + headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
}

/// What the headers of a message say. Values that mean nothing are ignored, and headers that mean nothing to us become
/// user properties, except `Mqtt-*` ones. Nothing is allocated when there are none.
pub fn from_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>, options: ReadOptions) -> Envelope {
    let mut reader = Reader::default();
    for (name, value) in headers {
        reader.read(name, value, options);
    }
    reader.finish(options)
}

/// What has been read so far. Of a header that comes twice the first one counts.
#[derive(Default)]
struct Reader<'a> {
    qos: Option<QoS>,
    retained_seq: Option<u64>,
    log_marker: Option<ByteString>,
    publisher: Option<ByteString>,
    is_ingested: bool,
    properties: MessageProperties,
    encoded_content_type: Option<ByteString>,
    ttl_s: Option<u32>,
    list: Option<&'a str>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, name: &'a str, value: &'a str, options: ReadOptions) {
        if has_prefix(name, "Mqtt-") {
            let decides = matches!(name, name::RETAIN | name::INGESTED);
            if options.is_genuine || !decides {
                self.read_ours(name, value);
            }
        } else if has_prefix(name, "Nats-") {
            if name == name::NATS_TTL {
                set(&mut self.ttl_s, duration::whole_seconds(value));
            }
            if options.nats_headers {
                self.add_user_property(name, value);
            }
        } else if name.eq_ignore_ascii_case(name::CONTENT_TYPE) {
            set(&mut self.properties.content_type, text(value));
        } else {
            self.add_user_property(name, value);
        }
    }

    fn read_ours(&mut self, name: &str, value: &'a str) {
        let properties = &mut self.properties;
        match name {
            name::QOS => set(&mut self.qos, qos(value)),
            name::RETAIN => set(&mut self.retained_seq, value.parse().ok()),
            name::LOG => set(&mut self.log_marker, Some(value.into())),
            name::INGESTED => self.is_ingested = true,
            name::CLIENT => set(&mut self.publisher, percent::decode_text(value).map(ByteString::from)),
            name::USER_PROPERTIES => set(&mut self.list, Some(value)),
            name::EXPIRY => set(&mut properties.message_expiry_interval_s, value.parse().ok()),
            name::CORRELATION_DATA => {
                let data = percent::decode(value);
                // Binary data has at most 65,535 bytes [MQTT 5, 1.5.6].
                let fits = u16::try_from(data.len()).is_ok();
                set(&mut properties.correlation_data, fits.then(|| Bytes::from(data.into_owned())));
            }
            name::RESPONSE_TOPIC => {
                let topic = percent::decode_text(value).and_then(|topic| TopicName::new(topic).ok());
                set(&mut properties.response_topic, topic);
            }
            name::ENCODED_CONTENT_TYPE => {
                set(&mut self.encoded_content_type, percent::decode_text(value).map(ByteString::from));
            }
            name::PAYLOAD_FORMAT => {
                let is_utf8 = match value {
                    "0" => Some(false),
                    "1" => Some(true),
                    _ => None,
                };
                set(&mut properties.payload_is_utf8, is_utf8);
            }
            _ => {}
        }
    }

    fn add_user_property(&mut self, name: &str, value: &str) {
        if let (Some(name), Some(value)) = (text(name), text(value)) {
            self.properties.user_properties.push((name, value));
        }
    }

    fn finish(mut self, options: ReadOptions) -> Envelope {
        let properties = &mut self.properties;
        if self.list.is_some() {
            properties.user_properties =
                user_properties::read(std::mem::take(&mut properties.user_properties), self.list);
        }
        properties.message_expiry_interval_s = properties.message_expiry_interval_s.or(self.ttl_s);
        properties.content_type = self.encoded_content_type.or_else(|| properties.content_type.take());
        let has_properties = *properties != MessageProperties::default();
        Envelope {
            qos: self.qos.unwrap_or(default_qos(options.carrier, self.log_marker.is_some())),
            retained_seq: self.retained_seq,
            original_topic: None,
            log_marker: self.log_marker,
            publisher: self.publisher,
            is_ingested: self.is_ingested,
            properties: has_properties.then(|| Box::new(self.properties)),
        }
    }
}

/// Keeps the first value that means something.
fn set<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

fn qos(value: &str) -> Option<QoS> {
    match value {
        "0" => Some(QoS::AtMostOnce),
        "1" => Some(QoS::AtLeastOnce),
        "2" => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

/// Text that an MQTT string can hold [MQTT 5, 1.5.4].
fn text(value: &str) -> Option<ByteString> {
    (!value.contains('\0') && u16::try_from(value.len()).is_ok()).then(|| value.into())
}
