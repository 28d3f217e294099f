//! Packets of ntex-mqtt as our own, and our own without what ntex-mqtt cannot say.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::*;
use ntex_codec::Decoder as _;
use ntex_mqtt::{v3::codec as v3, v5::codec as v5};

/// The packet that ntex-mqtt reads, `None` when it refuses the bytes or waits for more.
pub(crate) fn ntex_decode(version: Version, bytes: &[u8]) -> Option<Packet> {
    let mut src = ntex_bytes::BytesMut::copy_from_slice(bytes);
    if version.is_v5() {
        match v5::Codec::new().decode(&mut src).ok()?? {
            v5::Decoded::Packet(packet, _) => from_v5(packet),
            v5::Decoded::Publish(publish, payload, _) => publish_v5(publish, &payload),
            v5::Decoded::PayloadChunk(..) => None,
        }
    } else {
        match v3::Codec::new().decode(&mut src).ok()?? {
            v3::Decoded::Packet(packet, _) => from_v3(packet),
            v3::Decoded::Publish(publish, payload, _) => publish_v3(publish, &payload),
            v3::Decoded::PayloadChunk(..) => None,
        }
    }
}

/// The packet as ntex-mqtt can say it.
pub(crate) fn as_ntex_says(mut packet: Packet) -> Packet {
    match &mut packet {
        Packet::Connect(connect) => {
            let properties = &mut connect.properties;
            properties.session_expiry_interval_s = properties.session_expiry_interval_s.filter(|seconds| *seconds != 0);
            properties.request_problem_information = properties.request_problem_information.filter(|is_on| !is_on);
        }
        Packet::ConnAck(connack) => {
            let properties = &mut connack.properties;
            properties.receive_maximum = properties.receive_maximum.filter(|maximum| *maximum != NonZeroU16::MAX);
            properties.topic_alias_maximum = properties.topic_alias_maximum.filter(|maximum| *maximum != 0);
            for flag in [
                &mut properties.retain_available,
                &mut properties.wildcard_subscription_available,
                &mut properties.subscription_identifiers_available,
                &mut properties.shared_subscription_available,
            ] {
                *flag = flag.filter(|is_available| !is_available);
            }
        }
        Packet::Publish(publish) => {
            if let Some(properties) = &mut publish.properties {
                properties.payload_is_utf8 = properties.payload_is_utf8.filter(|is_utf8| *is_utf8);
                if properties.is_empty() {
                    publish.properties = None;
                }
            }
        }
        _ => {}
    }
    packet
}

fn text(text: ntex_bytes::ByteString) -> ByteString {
    ByteString::from(&text[..])
}

fn texts(pairs: Vec<(ntex_bytes::ByteString, ntex_bytes::ByteString)>) -> UserProperties {
    pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn bytes(bytes: ntex_bytes::Bytes) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

fn secret(bytes: ntex_bytes::Bytes) -> Secret {
    Secret::from(&*bytes)
}

fn topic(name: ntex_bytes::ByteString) -> Option<TopicName> {
    TopicName::new(text(name)).ok()
}

fn filter(filter: ntex_bytes::ByteString) -> Result<TopicFilter, ByteString> {
    TopicFilter::new(text(filter.clone())).map_err(|_| text(filter))
}

fn reason(code: impl Into<u8>) -> ReasonCode {
    ReasonCode::from_u8(code.into()).unwrap()
}

fn qos(qos: ntex_mqtt::QoS) -> QoS {
    QoS::try_from(u8::from(qos)).unwrap()
}

fn delivery(level: ntex_mqtt::QoS, id: Option<NonZeroU16>) -> Delivery {
    Delivery::new(qos(level), id.map(PacketId)).unwrap()
}

fn reasons(
    reason_string: Option<ntex_bytes::ByteString>,
    user_properties: Vec<(ntex_bytes::ByteString, ntex_bytes::ByteString)>,
) -> Option<Box<ReasonProperties>> {
    let properties =
        ReasonProperties { reason_string: reason_string.map(text), user_properties: texts(user_properties) };
    Some(Box::new(properties)).filter(|properties| **properties != ReasonProperties::default())
}

/// Topics that are none are not comparable, so such a packet counts as refused.
fn publish_v3(packet: v3::Publish, payload: &[u8]) -> Option<Packet> {
    Some(Packet::Publish(Publish {
        dup: packet.dup && packet.packet_id.is_some(),
        delivery: delivery(packet.qos, packet.packet_id),
        retain: packet.retain,
        topic: PublishTopic::Name(topic(packet.topic)?),
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(payload),
    }))
}

fn publish_v5(packet: v5::Publish, payload: &[u8]) -> Option<Packet> {
    let properties = packet.properties;
    let message = MessageProperties {
        payload_is_utf8: Some(true).filter(|_| properties.is_utf8_payload),
        message_expiry_interval_s: properties.message_expiry_interval.map(NonZeroU32::get),
        content_type: properties.content_type.map(text),
        response_topic: match properties.response_topic {
            Some(name) => Some(topic(name)?),
            None => None,
        },
        correlation_data: properties.correlation_data.map(bytes),
        user_properties: texts(properties.user_properties),
    };
    let name = if packet.topic.is_empty() { None } else { Some(topic(packet.topic)?) };
    Some(Packet::Publish(Publish {
        dup: packet.dup && packet.packet_id.is_some(),
        delivery: delivery(packet.qos, packet.packet_id),
        retain: packet.retain,
        topic: match (name, properties.topic_alias) {
            (Some(name), None) => PublishTopic::Name(name),
            (Some(name), Some(alias)) => PublishTopic::Define(name, alias),
            (None, alias) => PublishTopic::Alias(alias?),
        },
        subscription_ids: properties.subscription_ids,
        properties: Some(Box::new(message)).filter(|message| !message.is_empty()),
        payload: Bytes::copy_from_slice(payload),
    }))
}

fn from_v3(packet: v3::Packet) -> Option<Packet> {
    let ack = |id| Ack::new(PacketId(id), ReasonCode::Success);
    Some(match packet {
        v3::Packet::Connect(connect) => connect_v3(*connect)?,
        v3::Packet::ConnectAck(connack) => Packet::ConnAck(Box::new(ConnAck {
            session_present: connack.session_present,
            reason: ReasonCode::from_connect_return_code(connack.return_code.into())?,
            properties: ConnAckProperties::default(),
        })),
        v3::Packet::PublishAck { packet_id } => Packet::PubAck(ack(packet_id)),
        v3::Packet::PublishReceived { packet_id } => Packet::PubRec(ack(packet_id)),
        v3::Packet::PublishRelease { packet_id } => Packet::PubRel(ack(packet_id)),
        v3::Packet::PublishComplete { packet_id } => Packet::PubComp(ack(packet_id)),
        v3::Packet::Subscribe { packet_id, topic_filters } => {
            let entries = topic_filters.into_iter().map(|(text, level)| SubscribeEntry {
                filter: filter(text),
                options: SubscriptionOptions { qos: qos(level), ..SubscriptionOptions::default() },
            });
            Packet::Subscribe(Subscribe {
                packet_id: PacketId(packet_id),
                subscription_id: None,
                user_properties: Vec::new(),
                entries: entries.collect(),
            })
        }
        v3::Packet::SubscribeAck { packet_id, status } => {
            let reasons = status.into_iter().map(|code| match code {
                v3::SubscribeReturnCode::Success(level) => reason(qos(level)),
                v3::SubscribeReturnCode::Failure => ReasonCode::UnspecifiedError,
            });
            Packet::SubAck(SubAck { packet_id: PacketId(packet_id), reasons: reasons.collect(), properties: None })
        }
        v3::Packet::Unsubscribe { packet_id, topic_filters } => Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId(packet_id),
            user_properties: Vec::new(),
            filters: topic_filters.into_iter().map(filter).collect(),
        }),
        v3::Packet::UnsubscribeAck { packet_id } => {
            Packet::UnsubAck(SubAck { packet_id: PacketId(packet_id), reasons: Vec::new(), properties: None })
        }
        v3::Packet::PingRequest => Packet::PingReq,
        v3::Packet::PingResponse => Packet::PingResp,
        v3::Packet::Disconnect => Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
    })
}

fn connect_v3(connect: v3::Connect) -> Option<Packet> {
    let will = match connect.last_will {
        Some(will) => Some(Box::new(Will {
            topic: topic(will.topic)?,
            payload: bytes(will.message),
            qos: qos(will.qos),
            retain: will.retain,
            delay_interval_s: 0,
            properties: None,
        })),
        None => None,
    };
    Some(Packet::Connect(Box::new(Connect {
        version: Version::V311,
        bridge: false,
        clean_start: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        client_id: text(connect.client_id),
        will,
        username: connect.username.map(text),
        password: connect.password.map(secret),
        properties: ConnectProperties::default(),
    })))
}

fn will_v5(will: v5::LastWill) -> Option<Will> {
    let message = MessageProperties {
        payload_is_utf8: will.is_utf8_payload,
        message_expiry_interval_s: will.message_expiry_interval.map(NonZeroU32::get),
        content_type: will.content_type.map(text),
        response_topic: match will.response_topic {
            Some(name) => Some(topic(name)?),
            None => None,
        },
        correlation_data: will.correlation_data.map(bytes),
        user_properties: texts(will.user_properties),
    };
    Some(Will {
        topic: topic(will.topic)?,
        payload: bytes(will.message),
        qos: qos(will.qos),
        retain: will.retain,
        delay_interval_s: will.will_delay_interval_sec.unwrap_or(0),
        properties: Some(Box::new(message)).filter(|message| !message.is_empty()),
    })
}

fn connect_v5(connect: v5::Connect) -> Option<Packet> {
    let will = match connect.last_will {
        Some(will) => Some(Box::new(will_v5(will)?)),
        None => None,
    };
    let properties = ConnectProperties {
        session_expiry_interval_s: Some(connect.session_expiry_interval_secs).filter(|seconds| *seconds != 0),
        receive_maximum: connect.receive_max,
        maximum_packet_size: connect.max_packet_size,
        topic_alias_maximum: connect.topic_alias_max,
        request_response_information: connect.request_response_info,
        request_problem_information: Some(connect.request_problem_info).filter(|is_on| !is_on),
        user_properties: texts(connect.user_properties),
        authentication_method: connect.auth_method.map(text),
        authentication_data: connect.auth_data.map(secret),
    };
    Some(Packet::Connect(Box::new(Connect {
        version: Version::V5,
        bridge: false,
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        client_id: text(connect.client_id),
        will,
        username: connect.username.map(text),
        password: connect.password.map(secret),
        properties,
    })))
}

fn connack_v5(connack: v5::ConnectAck) -> Packet {
    let unless_true = |flag: bool| Some(flag).filter(|flag| !flag);
    let properties = ConnAckProperties {
        session_expiry_interval_s: connack.session_expiry_interval_secs,
        receive_maximum: Some(connack.receive_max).filter(|maximum| *maximum != NonZeroU16::MAX),
        maximum_qos: Some(qos(connack.max_qos)).filter(|qos| *qos != QoS::ExactlyOnce),
        retain_available: unless_true(connack.retain_available),
        maximum_packet_size: connack.max_packet_size.and_then(NonZeroU32::new),
        assigned_client_id: connack.assigned_client_id.map(text),
        topic_alias_maximum: Some(connack.topic_alias_max).filter(|maximum| *maximum != 0),
        reason_string: connack.reason_string.map(text),
        user_properties: texts(connack.user_properties),
        wildcard_subscription_available: unless_true(connack.wildcard_subscription_available),
        subscription_identifiers_available: unless_true(connack.subscription_identifiers_available),
        shared_subscription_available: unless_true(connack.shared_subscription_available),
        server_keep_alive_s: connack.server_keepalive_sec,
        response_information: connack.response_info.map(text),
        server_reference: connack.server_reference.map(text),
        authentication_method: connack.auth_method.map(text),
        authentication_data: connack.auth_data.map(bytes),
    };
    let (session_present, reason) = (connack.session_present, reason(connack.reason_code));
    Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
}

fn subscribe_v5(packet: v5::Subscribe) -> Packet {
    let entries = packet.topic_filters.into_iter().map(|(text, options)| SubscribeEntry {
        filter: filter(text),
        options: SubscriptionOptions {
            qos: qos(options.qos),
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: RetainHandling::try_from(u8::from(options.retain_handling)).unwrap(),
        },
    });
    Packet::Subscribe(Subscribe {
        packet_id: PacketId(packet.packet_id),
        subscription_id: packet.id,
        user_properties: texts(packet.user_properties),
        entries: entries.collect(),
    })
}

fn from_v5(packet: v5::Packet) -> Option<Packet> {
    let ack = |ack: v5::PublishAck| Ack {
        packet_id: PacketId(ack.packet_id),
        reason: reason(ack.reason_code),
        properties: reasons(ack.reason_string, ack.properties),
    };
    let ack2 = |ack: v5::PublishAck2| Ack {
        packet_id: PacketId(ack.packet_id),
        reason: reason(ack.reason_code),
        properties: reasons(ack.reason_string, ack.properties),
    };
    Some(match packet {
        v5::Packet::Connect(connect) => connect_v5(*connect)?,
        v5::Packet::ConnectAck(connack) => connack_v5(*connack),
        v5::Packet::PublishAck(packet) => Packet::PubAck(ack(packet)),
        v5::Packet::PublishReceived(packet) => Packet::PubRec(ack(packet)),
        v5::Packet::PublishRelease(packet) => Packet::PubRel(ack2(packet)),
        v5::Packet::PublishComplete(packet) => Packet::PubComp(ack2(packet)),
        v5::Packet::Subscribe(packet) => subscribe_v5(packet),
        v5::Packet::SubscribeAck(packet) => Packet::SubAck(SubAck {
            packet_id: PacketId(packet.packet_id),
            reasons: packet.status.into_iter().map(reason).collect(),
            properties: reasons(packet.reason_string, packet.properties),
        }),
        v5::Packet::Unsubscribe(packet) => Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId(packet.packet_id),
            user_properties: texts(packet.user_properties),
            filters: packet.topic_filters.into_iter().map(filter).collect(),
        }),
        v5::Packet::UnsubscribeAck(packet) => Packet::UnsubAck(SubAck {
            packet_id: PacketId(packet.packet_id),
            reasons: packet.status.into_iter().map(reason).collect(),
            properties: reasons(packet.reason_string, packet.properties),
        }),
        v5::Packet::PingRequest => Packet::PingReq,
        v5::Packet::PingResponse => Packet::PingResp,
        v5::Packet::Disconnect(packet) => Packet::Disconnect(Disconnect {
            reason: reason(packet.reason_code),
            session_expiry_interval_s: packet.session_expiry_interval_secs,
            server_reference: packet.server_reference.map(text),
            properties: reasons(packet.reason_string, packet.user_properties),
        }),
        v5::Packet::Auth(packet) => Packet::Auth(Auth {
            reason: reason(packet.reason_code),
            authentication_method: packet.auth_method.map(text),
            authentication_data: packet.auth_data.map(secret),
            properties: reasons(packet.reason_string, packet.user_properties),
        }),
    })
}
