//! A frame that is encoded once says the same as a packet that is encoded for one subscriber.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};
use mqtt_codec::*;
use proptest::{collection::vec, option, prelude::*};

use crate::{
    arbitrary::{cases, message_properties, packet_id, payload, subscription_id, topic_name, version},
    bytes_text::{decode_one, options},
};

/// A message and one subscriber of it.
#[derive(Clone, Debug)]
struct Delivered {
    version: Version,
    topic: TopicName,
    properties: Option<Box<MessageProperties>>,
    payload: Bytes,
    dup: bool,
    retain: bool,
    delivery: Delivery,
    expiry_s: Option<u32>,
    ids: Vec<NonZeroU32>,
}

prop_compose! {
    fn delivered()(
        version in version(), topic in topic_name(), properties in message_properties(), payload in payload(),
        dup in any::<bool>(), retain in any::<bool>(), id in packet_id(), qos in 0_u8..3,
        expiry_s in option::of(any::<u32>()), ids in vec(subscription_id(), 0..40),
    ) -> Delivered {
        let delivery = match qos {
            0 => Delivery::AtMostOnce,
            1 => Delivery::AtLeastOnce(id),
            _ => Delivery::ExactlyOnce(id),
        };
        let dup = dup && qos > 0;
        Delivered { version, topic, properties, payload, dup, retain, delivery, expiry_s, ids }
    }
}

impl Delivered {
    fn frame(&self) -> PublishFrame {
        let with_packet_id = self.delivery.packet_id().is_some();
        PublishFrame::new(self.version, with_packet_id, &self.topic, self.properties.as_deref(), &self.payload).unwrap()
    }

    fn packet(&self, ids: &[NonZeroU32]) -> Packet {
        let is_v5 = self.version.is_v5();
        let mut properties = self.properties.clone().filter(|_| is_v5);
        if let (Some(MessageProperties { message_expiry_interval_s: Some(old), .. }), Some(new)) =
            (properties.as_deref_mut(), self.expiry_s)
        {
            *old = new;
        }
        Packet::Publish(Publish {
            dup: self.dup,
            delivery: self.delivery,
            retain: self.retain,
            topic: PublishTopic::Name(self.topic.clone()),
            subscription_ids: if is_v5 { ids.to_vec() } else { Vec::new() },
            properties,
            payload: self.payload.clone(),
        })
    }

    fn written(&self, frame: &PublishFrame, ids: &[NonZeroU32], out: &mut BytesMut) {
        let (qos, id) = (self.delivery.qos(), self.delivery.packet_id());
        if ids.is_empty() {
            frame.write(self.dup, qos, self.retain, id, self.expiry_s, out).unwrap();
        } else {
            frame.write_with_subscription_ids(self.dup, qos, self.retain, id, self.expiry_s, ids, out).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(cases(3_000))]

    /// Its topic is a name and never an alias [MQTT-3.1.2-26, -27], [MQTT-3.3.2-11].
    #[test]
    fn a_written_frame_is_the_packet(delivered in delivered(), before in vec(any::<u8>(), 0..9)) {
        let frame = delivered.frame();
        for ids in [&[][..], &delivered.ids] {
            let mut out = BytesMut::from(&before[..]);
            delivered.written(&frame, ids, &mut out);
            prop_assert_eq!(&out[..before.len()], &before[..]);
            out.extend_from_slice(frame.tail().map_or(&[][..], |tail| tail));
            let bytes = out.split_off(before.len());
            prop_assert_eq!(bytes.len(), frame.len_with_subscription_ids(ids));
            let options = DecoderOptions { max_topic_levels: 200, ..options(Role::Client, delivered.version) };
            prop_assert_eq!(decode_one(options, &bytes), Ok(delivered.packet(ids)));
        }
        prop_assert_eq!(frame.len(), frame.len_with_subscription_ids(&[]));
        prop_assert_eq!(frame.tail().is_some(), delivered.payload.len() >= PAYLOAD_COPY_MAX);
    }
}

fn small(version: Version, with_packet_id: bool) -> PublishFrame {
    let topic = TopicName::new("a").unwrap();
    PublishFrame::new(version, with_packet_id, &topic, None, &Bytes::from_static(b"x")).unwrap()
}

#[test]
fn a_frame_refuses_what_does_not_belong_to_it() {
    let id = PacketId::new(1);
    for (frame, qos, id) in [
        (small(Version::V5, false), QoS::AtLeastOnce, id),
        (small(Version::V5, false), QoS::AtMostOnce, id),
        (small(Version::V311, true), QoS::AtMostOnce, None),
        (small(Version::V311, true), QoS::ExactlyOnce, None),
    ] {
        let mut out = BytesMut::new();
        assert_eq!(frame.write(false, qos, false, id, None, &mut out), Err(EncodeError::PacketId));
        assert!(out.is_empty());
    }
}

/// [MQTT-3.3.1-2], [MQTT-4.3.1-1]
#[test]
fn a_frame_of_qos_0_never_says_dup() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut out = BytesMut::new();
        small(version, false).write(true, QoS::AtMostOnce, false, None, None, &mut out).unwrap();
        assert_eq!(out[0], 0x30, "{version}");
        let mut out = BytesMut::new();
        small(version, true).write(true, QoS::AtLeastOnce, false, PacketId::new(1), None, &mut out).unwrap();
        assert_eq!(out[0], 0x3A, "{version}");
    }
}

#[test]
fn an_identifier_that_cannot_be_written_is_refused() {
    let mut out = BytesMut::new();
    let ids = [NonZeroU32::new(268_435_456).unwrap()];
    let result = small(Version::V5, false).write_with_subscription_ids(
        false,
        QoS::AtMostOnce,
        false,
        None,
        None,
        &ids,
        &mut out,
    );
    assert_eq!(result, Err(EncodeError::SubscriptionId(268_435_456)));
    assert!(out.is_empty());
}

#[test]
fn a_large_payload_is_the_tail_and_not_copied() {
    let payload = Bytes::from(vec![7; PAYLOAD_COPY_MAX]);
    let topic = TopicName::new("a").unwrap();
    let frame = PublishFrame::new(Version::V311, false, &topic, None, &payload).unwrap();
    assert_eq!(frame.tail().unwrap().as_ptr(), payload.as_ptr());
    let mut out = BytesMut::new();
    frame.write(false, QoS::AtMostOnce, true, None, None, &mut out).unwrap();
    assert_eq!(&out[..], [0x31, 0x83, 0x20, 0, 1, b'a']);
    assert_eq!(frame.len(), out.len() + payload.len());
}
