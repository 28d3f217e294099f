//! A PUBLISH that is encoded once and written to many subscribers. What differs between them is patched into the
//! copy: first byte, packet identifier, expiry interval; subscription identifiers are put in between.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};

use crate::{
    EncodeError, MessageProperties, PacketId, Property, QoS, TopicName, Version,
    form::{Form, section, varint},
    packet::{MessageSection, publish_flags},
    sink::{Length, Sink, VARINT_MAX, varint_len},
};

/// A payload of fewer bytes is copied into each subscriber's output; a longer one is sent from where it is.
pub const PAYLOAD_COPY_MAX: usize = 4096;

/// A PUBLISH in the bytes of one version, for QoS 0 or for QoS 1 and 2.
///
/// ```text
/// fixed header | topic | [packet id] | property length | properties | [payload]     then: [tail]
///              body    packet_id     section           properties   payload
/// ```
#[derive(Clone, Debug)]
pub struct PublishFrame {
    /// The packet, without the payload when that is the tail.
    head: Bytes,
    /// The payload when it is not copied.
    tail: Option<Bytes>,
    /// Where what follows the fixed header begins.
    body: usize,
    packet_id: Option<usize>,
    expiry: Option<usize>,
    properties: Option<Section>,
}

/// Where the properties are; MQTT 3.x has none.
#[derive(Clone, Copy, Debug)]
struct Section {
    /// Where their length stands.
    length_at: usize,
    begin: usize,
    end: usize,
}

impl PublishFrame {
    /// Encodes the message. `with_packet_id`: for QoS 1 and 2. MQTT 3.x ignores the properties.
    ///
    /// # Errors
    /// When a property cannot be written or the packet is larger than MQTT's own limit.
    pub fn new(
        version: Version,
        with_packet_id: bool,
        topic: &TopicName,
        properties: Option<&MessageProperties>,
        payload: &Bytes,
    ) -> Result<Self, EncodeError> {
        let is_copied = payload.len() < PAYLOAD_COPY_MAX;
        // No subscriber gets an alias, whatever it would take [MQTT-3.1.2-26, -27], [MQTT-3.3.2-11].
        let message = MessageSection { properties, topic_alias: None, subscription_ids: &[] };
        let form = Form::of(version);
        let mut section_len = Length::default();
        if version.is_v5() {
            section(&message, form, &mut section_len)?;
        }
        let before_section = 2 + topic.len() + if with_packet_id { 2 } else { 0 };
        let remaining = varint(before_section + section_len.0 + payload.len())?;
        let body = 1 + varint_len(remaining);
        let section_at = body + before_section;
        let head_len = section_at + section_len.0 + if is_copied { payload.len() } else { 0 };

        let mut head = BytesMut::with_capacity(head_len);
        head.u8(FIRST_BYTE);
        head.varint(remaining);
        head.string(topic)?;
        if with_packet_id {
            head.u16(0);
        }
        if version.is_v5() {
            section(&message, form, &mut head)?;
        }
        let end = head.len();
        if is_copied {
            head.put(payload);
        }
        let properties =
            version.is_v5().then(|| Section { length_at: section_at, begin: begin_of(&head, section_at), end });
        Ok(Self {
            expiry: properties.and_then(|section| expiry_at(&head, section)),
            head: head.freeze(),
            tail: if is_copied { None } else { Some(payload.clone()) },
            body,
            packet_id: with_packet_id.then(|| section_at - 2),
            properties,
        })
    }

    /// Size of the whole packet in bytes, the tail included. The packet has no subscription identifiers: see
    /// [`PublishFrame::len_with_subscription_ids`].
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail_len()
    }

    /// Size of the whole packet in bytes, the tail included, with these subscription identifiers.
    #[must_use]
    pub fn len_with_subscription_ids(&self, ids: &[NonZeroU32]) -> usize {
        match self.properties {
            Some(section) if !ids.is_empty() => {
                let lengths = Lengths::new(self, section, ids);
                1 + varint_len(lengths.remaining) + lengths.remaining as usize
            }
            _ => self.len(),
        }
    }

    /// The payload, when it is not copied: it must follow on the wire what [`PublishFrame::write`] appended.
    #[must_use]
    pub fn tail(&self) -> Option<&Bytes> {
        self.tail.as_ref()
    }

    /// Whether it is a frame for QoS 1 and 2.
    #[must_use]
    pub fn has_packet_id(&self) -> bool {
        self.packet_id.is_some()
    }

    /// Appends the packet, without the tail. `expiry_s` replaces the Message Expiry Interval of a message that has
    /// one, in seconds that remain [MQTT-3.3.2-6]; `None` leaves it.
    ///
    /// # Errors
    /// When QoS, packet identifier and this frame do not belong together; then nothing is appended.
    #[inline]
    pub fn write(
        &self,
        dup: bool,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
        expiry_s: Option<u32>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let first = self.first_byte(dup, qos, retain, packet_id)?;
        let start = out.len();
        out.extend_from_slice(&self.head);
        patch(out, start, [first]);
        self.patch_fields(start, 0, packet_id, expiry_s, out);
        Ok(())
    }

    /// Appends the packet with subscription identifiers, without the tail. MQTT 3.x ignores the identifiers.
    ///
    /// # Errors
    /// As [`PublishFrame::write`], and for an identifier above 268,435,455.
    #[allow(clippy::too_many_arguments, reason = "the fields of a packet that are a subscriber's own")]
    pub fn write_with_subscription_ids(
        &self,
        dup: bool,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
        expiry_s: Option<u32>,
        ids: &[NonZeroU32],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let Some(section) = self.properties.filter(|_| !ids.is_empty()) else {
            return self.write(dup, qos, retain, packet_id, expiry_s, out);
        };
        let first = self.first_byte(dup, qos, retain, packet_id)?;
        if let Some(id) = ids.iter().find(|id| id.get() > VARINT_MAX) {
            return Err(EncodeError::SubscriptionId(id.get()));
        }
        let lengths = Lengths::new(self, section, ids);
        varint(lengths.remaining as usize)?;
        let part = |from: usize, to: usize| self.head.get(from..to).unwrap_or_default();

        out.reserve(1 + varint_len(lengths.remaining) + lengths.remaining as usize - self.tail_len());
        let start = out.len();
        out.u8(first);
        out.varint(lengths.remaining);
        let body = out.len() - start;
        out.put(part(self.body, section.length_at));
        out.varint(lengths.properties);
        let begin = out.len() - start;
        out.put(part(section.begin, section.end));
        for id in ids {
            out.u8(Property::SubscriptionIdentifier as u8);
            out.varint(id.get());
        }
        out.put(part(section.end, self.head.len()));
        // Both only grow, but by different lengths of their length fields.
        self.patch_fields(start, body - self.body, packet_id, None, out);
        self.patch_fields(start, begin - section.begin, None, expiry_s, out);
        Ok(())
    }

    fn tail_len(&self) -> usize {
        self.tail.as_ref().map_or(0, Bytes::len)
    }

    #[inline]
    fn first_byte(&self, dup: bool, qos: QoS, retain: bool, packet_id: Option<PacketId>) -> Result<u8, EncodeError> {
        let needs_id = qos != QoS::AtMostOnce;
        if packet_id.is_some() != needs_id || self.packet_id.is_some() != needs_id {
            return Err(EncodeError::PacketId);
        }
        // [MQTT-3.3.1-2], [MQTT-4.3.1-1]: DUP is for QoS 1 and 2.
        Ok(FIRST_BYTE | publish_flags(dup && needs_id, qos, retain))
    }

    /// Fields of the packet that begins at `start` and stand `shift` bytes after where they stand in the frame.
    #[inline]
    fn patch_fields(
        &self,
        start: usize,
        shift: usize,
        packet_id: Option<PacketId>,
        expiry_s: Option<u32>,
        out: &mut BytesMut,
    ) {
        if let (Some(at), Some(id)) = (self.packet_id, packet_id) {
            patch(out, start + shift + at, id.get().to_be_bytes());
        }
        if let (Some(at), Some(seconds)) = (self.expiry, expiry_s) {
            patch(out, start + shift + at, seconds.to_be_bytes());
        }
    }
}

/// A PUBLISH with QoS 0 and no flags.
const FIRST_BYTE: u8 = 0x30;

/// The two lengths of a packet with subscription identifiers.
struct Lengths {
    remaining: u32,
    properties: u32,
}

impl Lengths {
    fn new(frame: &PublishFrame, section: Section, ids: &[NonZeroU32]) -> Self {
        let added: usize = ids.iter().map(|id| 1 + varint_len(id.get())).sum();
        let properties = section.end - section.begin + added;
        let length_field = varint_len(saturated(properties));
        let remaining = frame.len() - frame.body - (section.begin - section.length_at) + length_field + added;
        Self { remaining: saturated(remaining), properties: saturated(properties) }
    }
}

/// Lengths beyond what MQTT can say stay too large to be said.
fn saturated(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Where the properties begin whose length stands at `length_at`.
fn begin_of(head: &[u8], length_at: usize) -> usize {
    let length = head.get(length_at..).unwrap_or_default();
    length_at + 1 + length.iter().take_while(|byte| **byte & 0x80 != 0).count()
}

/// Where the value of the Message Expiry Interval stands: `MessageProperties` writes it first.
fn expiry_at(head: &[u8], section: Section) -> Option<usize> {
    let first = head.get(section.begin..section.end)?.first()?;
    (*first == Property::MessageExpiryInterval as u8).then_some(section.begin + 1)
}

#[inline]
fn patch<const N: usize>(out: &mut BytesMut, at: usize, bytes: [u8; N]) {
    if let Some(field) = out.get_mut(at..at + N) {
        field.copy_from_slice(&bytes);
    }
}
