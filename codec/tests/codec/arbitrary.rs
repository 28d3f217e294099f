//! Packets at random, each one that its version can say and its sender may send.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::*;
use proptest::{collection::vec, option, prelude::*, test_runner::FileFailurePersistence};

pub(crate) const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// A failing seed is printed and written to the file, which is replayed first from then on.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/codec/failed-seeds.txt");
    ProptestConfig { cases, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&VERSIONS[..])
}

pub(crate) fn sender() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

fn text() -> impl Strategy<Value = ByteString> {
    prop_oneof![
        4 => "[a-z0-9 /.$*>+#é漢🦀\u{1}\u{7f}-]{0,12}",
        1 => vec(prop::char::range('\u{1}', char::MAX), 0..200).prop_map(String::from_iter),
    ]
    .prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn secret() -> impl Strategy<Value = Secret> {
    vec(any::<u8>(), 0..40).prop_map(Secret::from)
}

pub(crate) fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..40),
        2 => vec(any::<u8>(), 100..300),
        1 => (4000_usize..5000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
    .prop_map(Bytes::from)
}

pub(crate) fn topic_name() -> impl Strategy<Value = TopicName> {
    prop_oneof![9 => "[a-z0-9 /.$*>é漢\u{7f}]{1,20}", 1 => "[a-z/]{120,140}"]
        .prop_map(|text| TopicName::new(text).unwrap())
        .prop_filter("levels", |topic| topic.levels().count() <= 128)
}

fn filter() -> impl Strategy<Value = Result<TopicFilter, ByteString>> {
    let level = prop_oneof![3 => "[a-z.$é ]{0,4}", 1 => Just("+".to_owned())];
    (vec(level, 1..5), any::<bool>(), prop_oneof![4 => Just(""), 1 => Just("$share/g/"), 1 => Just("$queue/")])
        .prop_map(|(levels, hash, share)| {
            let text = format!("{share}{}{}", levels.join("/"), if hash { "/#" } else { "" });
            TopicFilter::new(text.clone()).map_err(|_| ByteString::from(text))
        })
}

fn qos() -> impl Strategy<Value = QoS> {
    (0_u8..3).prop_map(|qos| QoS::try_from(qos).unwrap())
}

pub(crate) fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>().prop_map(PacketId)
}

pub(crate) fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1_u32..300, 1_u32..=268_435_455].prop_map(|id| NonZeroU32::new(id).unwrap())
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..4)
}

prop_compose! {
    pub(crate) fn message_properties()(
        payload_is_utf8 in option::of(any::<bool>()),
        message_expiry_interval_s in option::of(any::<u32>()),
        content_type in option::of(text()),
        response_topic in option::of(topic_name()),
        correlation_data in option::of(binary()),
        user_properties in user_properties(),
    ) -> Option<Box<MessageProperties>> {
        let properties = MessageProperties {
            payload_is_utf8, message_expiry_interval_s, content_type, response_topic, correlation_data, user_properties,
        };
        if properties.is_empty() { None } else { Some(Box::new(properties)) }
    }
}

fn reason_properties() -> impl Strategy<Value = Option<Box<ReasonProperties>>> {
    (option::of(text()), user_properties()).prop_map(|(reason_string, user_properties)| {
        let properties = ReasonProperties { reason_string, user_properties };
        if properties == ReasonProperties::default() { None } else { Some(Box::new(properties)) }
    })
}

fn reason(packet: PacketType, sender: Role) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<_> =
        (0..=255).filter_map(ReasonCode::from_u8).filter(|code| code.is_allowed_in(packet, sender)).collect();
    prop::sample::select(codes)
}

prop_compose! {
    fn will()(
        topic in topic_name(), payload in binary(), qos in qos(), retain in any::<bool>(),
        delay_interval_s in prop_oneof![Just(0), any::<u32>()], properties in message_properties(),
    ) -> Will {
        Will { topic, payload, qos, retain, delay_interval_s, properties }
    }
}

prop_compose! {
    fn connect_properties()(
        session_expiry_interval_s in option::of(any::<u32>()),
        receive_maximum in option::of(any::<NonZeroU16>()),
        maximum_packet_size in option::of(any::<NonZeroU32>()),
        topic_alias_maximum in any::<u16>(),
        request_response_information in any::<bool>(),
        request_problem_information in option::of(any::<bool>()),
        user_properties in user_properties(),
        method in option::of((text(), option::of(secret()))),
    ) -> ConnectProperties {
        let (authentication_method, authentication_data) = method.map_or((None, None), |(method, data)| (Some(method), data));
        ConnectProperties {
            session_expiry_interval_s, receive_maximum, maximum_packet_size, topic_alias_maximum,
            request_response_information, request_problem_information, user_properties, authentication_method,
            authentication_data,
        }
    }
}

prop_compose! {
    fn any_connect()(
        bridge in any::<bool>(), clean_start in any::<bool>(), keep_alive_s in any::<u16>(), client_id in text(),
        will in option::of(will().boxed()), username in option::of(text()), password in option::of(secret()),
        properties in connect_properties(), version in version(),
    ) -> Connect {
        let will = will.map(Box::new);
        Connect { version, bridge, clean_start, keep_alive_s, client_id, will, username, password, properties }
    }
}

/// A CONNECT that the version can say.
pub(crate) fn connect(version: Version) -> BoxedStrategy<Packet> {
    let any = any_connect().boxed();
    any.prop_map(move |mut connect| {
        connect.version = version;
        if version.is_v5() {
            connect.bridge = false;
        } else {
            connect.properties = ConnectProperties::default();
            if connect.username.is_none() {
                connect.password = None;
            }
            if let Some(will) = &mut connect.will {
                will.delay_interval_s = 0;
                will.properties = None;
            }
        }
        Packet::Connect(Box::new(connect))
    })
    .boxed()
}

prop_compose! {
    fn connack_texts()(
        assigned_client_id in option::of(text()), reason_string in option::of(text()),
        user_properties in user_properties(), response_information in option::of(text()),
        server_reference in option::of(text()), method in option::of((text(), option::of(binary()))),
    ) -> ConnAckProperties {
        let (authentication_method, authentication_data) = method.map_or((None, None), |(method, data)| (Some(method), data));
        ConnAckProperties {
            assigned_client_id, reason_string, user_properties, response_information, server_reference,
            authentication_method, authentication_data, ..ConnAckProperties::default()
        }
    }
}

prop_compose! {
    fn connack_properties()(
        texts in connack_texts(),
        session_expiry_interval_s in option::of(any::<u32>()),
        receive_maximum in option::of(any::<NonZeroU16>()),
        maximum_qos in option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        maximum_packet_size in option::of(any::<NonZeroU32>()),
        topic_alias_maximum in option::of(any::<u16>()),
        server_keep_alive_s in option::of(any::<u16>()),
        flags in any::<[Option<bool>; 4]>(),
    ) -> ConnAckProperties {
        ConnAckProperties {
            session_expiry_interval_s, receive_maximum, maximum_qos, maximum_packet_size, topic_alias_maximum,
            server_keep_alive_s,
            retain_available: flags[0],
            wildcard_subscription_available: flags[1],
            subscription_identifiers_available: flags[2],
            shared_subscription_available: flags[3],
            ..texts
        }
    }
}

fn connack(version: Version) -> impl Strategy<Value = Packet> {
    (any::<bool>(), reason(PacketType::ConnAck, Role::Server), connack_properties().boxed()).prop_map(
        move |(session_present, reason, properties)| {
            let reason = if version.is_v5() {
                reason
            } else {
                ReasonCode::from_connect_return_code(reason.connect_return_code()).unwrap()
            };
            Packet::ConnAck(Box::new(ConnAck {
                session_present: session_present && !reason.is_error() && version != Version::V31,
                reason,
                properties: if version.is_v5() { properties } else { ConnAckProperties::default() },
            }))
        },
    )
}

prop_compose! {
    fn any_publish()(
        dup in any::<bool>(), qos in qos(), id in packet_id(), retain in any::<bool>(), topic in topic_name(),
        alias in option::of(any::<NonZeroU16>()), by_alias in any::<bool>(),
        subscription_ids in vec(subscription_id(), 0..3), properties in option::weighted(0.5, message_properties()),
        payload in payload(),
    ) -> Publish {
        let topic = match alias {
            None => PublishTopic::Name(topic),
            Some(alias) if by_alias => PublishTopic::Alias(alias),
            Some(alias) => PublishTopic::Define(topic, alias),
        };
        Publish {
            dup: dup && qos != QoS::AtMostOnce,
            delivery: Delivery::new(qos, Some(id).filter(|_| qos != QoS::AtMostOnce)).unwrap(),
            retain, topic, subscription_ids, properties: properties.flatten(), payload,
        }
    }
}

pub(crate) fn publish(version: Version, sender: Role) -> BoxedStrategy<Packet> {
    (any_publish().boxed(), topic_name())
        .prop_map(move |(mut publish, name)| {
            if !version.is_v5() {
                publish.topic = PublishTopic::Name(name);
                publish.properties = None;
            }
            if !version.is_v5() || sender == Role::Client {
                publish.subscription_ids.clear();
            }
            Packet::Publish(publish)
        })
        .boxed()
}

fn ack(packet: PacketType, version: Version, sender: Role) -> impl Strategy<Value = Packet> {
    (packet_id(), reason(packet, sender), reason_properties()).prop_map(move |(packet_id, reason, properties)| {
        let ack = if version.is_v5() {
            Ack { packet_id, reason, properties }
        } else {
            Ack::new(packet_id, ReasonCode::Success)
        };
        match packet {
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        }
    })
}

prop_compose! {
    fn options()(
        qos in qos(), no_local in any::<bool>(), retain_as_published in any::<bool>(), handling in 0_u8..3,
    ) -> SubscriptionOptions {
        let retain_handling = RetainHandling::try_from(handling).unwrap();
        SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
    }
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet> {
    (packet_id(), option::of(subscription_id()), user_properties(), vec((filter(), options()), 1..6)).prop_map(
        move |(packet_id, subscription_id, user_properties, entries)| {
            let entries = entries.into_iter().map(|(filter, mut options)| {
                if !version.is_v5() {
                    options = SubscriptionOptions { qos: options.qos, ..SubscriptionOptions::default() };
                }
                options.no_local &= !filter.as_ref().is_ok_and(TopicFilter::is_shared);
                SubscribeEntry { filter, options }
            });
            let is_v5 = version.is_v5();
            Packet::Subscribe(Subscribe {
                packet_id,
                subscription_id: subscription_id.filter(|_| is_v5),
                user_properties: if is_v5 { user_properties } else { Vec::new() },
                entries: entries.collect(),
            })
        },
    )
}

fn suback(packet: PacketType, version: Version) -> impl Strategy<Value = Packet> {
    (packet_id(), vec(reason(packet, Role::Server), 1..6), reason_properties()).prop_map(
        move |(packet_id, mut reasons, mut properties)| {
            if !version.is_v5() {
                properties = None;
                for reason in &mut reasons {
                    if reason.is_error() {
                        *reason = ReasonCode::UnspecifiedError;
                    }
                }
            }
            if packet == PacketType::SubAck {
                return Packet::SubAck(SubAck { packet_id, reasons, properties });
            }
            if !version.is_v5() {
                reasons.clear();
            }
            Packet::UnsubAck(SubAck { packet_id, reasons, properties })
        },
    )
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Packet> {
    (packet_id(), user_properties(), vec(filter(), 1..6)).prop_map(move |(packet_id, user_properties, filters)| {
        let user_properties = if version.is_v5() { user_properties } else { Vec::new() };
        Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters })
    })
}

fn disconnect(version: Version, sender: Role) -> impl Strategy<Value = Packet> {
    (reason(PacketType::Disconnect, sender), option::of(any::<u32>()), option::of(text()), reason_properties())
        .prop_map(move |(reason, session_expiry_interval_s, server_reference, properties)| {
            Packet::Disconnect(if version.is_v5() {
                let session_expiry_interval_s = session_expiry_interval_s.filter(|_| sender == Role::Client);
                Disconnect { reason, session_expiry_interval_s, server_reference, properties }
            } else {
                Disconnect::new(ReasonCode::Success)
            })
        })
}

fn auth(sender: Role) -> impl Strategy<Value = Packet> {
    (reason(PacketType::Auth, sender), text(), option::of(secret()), reason_properties()).prop_map(
        |(reason, method, authentication_data, properties)| {
            Packet::Auth(Auth { reason, authentication_method: Some(method), authentication_data, properties })
        },
    )
}

/// Any packet but CONNECT.
pub(crate) fn packet(version: Version, sender: Role) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        4 => publish(version, sender),
        1 => ack(PacketType::PubAck, version, sender),
        1 => ack(PacketType::PubRec, version, sender),
        1 => ack(PacketType::PubRel, version, sender),
        1 => ack(PacketType::PubComp, version, sender),
    ];
    let own = match sender {
        Role::Client => {
            prop_oneof![subscribe(version), unsubscribe(version), Just(Packet::PingReq), disconnect(version, sender),]
                .boxed()
        }
        Role::Server => prop_oneof![
            connack(version),
            suback(PacketType::SubAck, version),
            suback(PacketType::UnsubAck, version),
            Just(Packet::PingResp),
        ]
        .boxed(),
    };
    let v5 = prop_oneof![auth(sender), disconnect(version, sender)];
    if version.is_v5() { prop_oneof![both, own, v5].boxed() } else { prop_oneof![both, own].boxed() }
}
