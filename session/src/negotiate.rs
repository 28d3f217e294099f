//! What a CONNECT asks for and what it gets. Identity and the session store are not looked at here.

use std::num::{NonZeroU16, NonZeroU32};

use bytestring::ByteString;
use mqtt_codec::{ConnAck, ConnAckProperties, Connect, QoS, ReasonCode, Version};

/// What the server offers, from its configuration.
#[derive(Clone, Debug)]
pub struct Limits {
    /// QoS 1 and 2 publishes of one client that may be unacknowledged.
    pub receive_maximum: NonZeroU16,
    /// QoS 1 and 2 messages sent to one client that may be unacknowledged, unless the client asks for fewer.
    pub window: NonZeroU16,
    /// Topic aliases a client may define.
    pub topic_alias_maximum: u16,
    /// Largest packet a client may send, in bytes.
    pub max_packet_size: NonZeroU32,
    /// Longest session expiry, in seconds; `u32::MAX` is "never".
    pub max_session_expiry_s: u32,
    /// How long a session of MQTT 3.x without clean session outlives its connection, in seconds.
    pub session_expiry_v3_s: u32,
    /// Longest keep alive in seconds for MQTT 5, 0 for no cap. 3.x has no way to be told, so it is never capped there.
    pub max_keep_alive_s: u16,
    /// Shared subscriptions are served.
    pub shared_subscriptions: bool,
    /// Highest QoS of what the client publishes.
    pub max_qos: QoS,
    /// The client may have messages retained.
    pub retain_available: bool,
    /// Hold clients to the letter where the lenient reading would let them go on.
    pub strict: bool,
}

/// What one connection works with.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Version of the protocol.
    pub version: Version,
    /// Keep alive in seconds, 0 for none.
    pub keep_alive_s: u16,
    /// How many unacknowledged publishes the client may have.
    pub receive_maximum: u16,
    /// How many unacknowledged deliveries the client may have.
    pub window: u16,
    /// How many topic aliases the client may define.
    pub topic_alias_maximum: u16,
    /// Largest packet to send, in bytes; `u32::MAX` when the client has no limit.
    pub client_max_packet_size: u32,
    /// The session expiry that the client asked for, in seconds.
    pub asked_session_expiry_s: u32,
    /// How long the session outlives the connection, in seconds. DISCONNECT can change it.
    pub session_expiry_s: u32,
    /// The longest that DISCONNECT can change it to.
    pub max_session_expiry_s: u32,
    /// The client said Request Problem Information 0: no reason strings or user properties but in PUBLISH, CONNACK and
    /// DISCONNECT [MQTT-3.1.2-29].
    pub omit_problem_information: bool,
    /// The client is a bridge: its subscriptions have No Local and Retain As Published.
    pub bridge: bool,
    /// See [`Limits::strict`].
    pub strict: bool,
    /// The Maximum QoS that CONNACK says. In 3.x nobody is told, and a PUBLISH above it is judged when it is published.
    pub max_qos: QoS,
    /// The Retain Available that CONNACK says, in the same way.
    pub retain_available: bool,
    /// The authentication method of CONNECT: by it, and by no other one, the client can be judged again.
    pub authentication_method: Option<ByteString>,
}

/// A CONNECT that was accepted.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// The client identifier, assigned when the client gave none.
    pub client_id: ByteString,
    /// What the connection works with.
    pub parameters: Parameters,
    /// The CONNACK to send, with Session Present still false.
    pub connack: ConnAck,
}

/// Decides what `connect` gets. `assign` makes a client identifier where the client left it to the server.
///
/// # Errors
///
/// The CONNACK that refuses it: an empty client identifier without a clean session in 3.x [MQTT-3.1.3-8 of 3.1.1], a will that
/// the client may not have published [MQTT-3.2.2-12, -13].
pub fn negotiate(
    connect: &Connect,
    limits: &Limits,
    assign: impl FnOnce() -> ByteString,
) -> Result<Negotiated, Box<ConnAck>> {
    let v5 = connect.version == Version::V5;
    if connect.client_id.is_empty() && !connect.clean_start && !v5 {
        return Err(Box::new(refusal(ReasonCode::ClientIdentifierNotValid)));
    }
    if let Some(reason) = connect.will.as_ref().and_then(|will| unsupported(will.qos, will.retain, limits)) {
        // In 3.x it is "not authorized".
        return Err(Box::new(refusal(if v5 { reason } else { ReasonCode::NotAuthorized })));
    }
    // [MQTT-3.1.3-6, -7], [MQTT-3.2.2-16]; any other client identifier is taken as it is [MQTT-3.1.3-5].
    let assigned = connect.client_id.is_empty().then(assign);
    let keep_alive_s = match limits.max_keep_alive_s {
        cap if v5 && cap > 0 && (connect.keep_alive_s == 0 || connect.keep_alive_s > cap) => cap,
        // [MQTT-3.2.2-22]
        _ => connect.keep_alive_s,
    };
    let asked = asked_session_expiry(connect, limits);
    let session_expiry_s = asked.min(limits.max_session_expiry_s);
    let parameters = Parameters {
        version: connect.version,
        keep_alive_s,
        receive_maximum: limits.receive_maximum.get(),
        // [MQTT-4.9.0-1]
        window: connect
            .properties
            .receive_maximum
            .map_or(limits.window.get(), NonZeroU16::get)
            .min(limits.window.get()),
        topic_alias_maximum: if v5 { limits.topic_alias_maximum } else { 0 },
        client_max_packet_size: connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
        asked_session_expiry_s: asked,
        session_expiry_s,
        max_session_expiry_s: limits.max_session_expiry_s,
        omit_problem_information: connect.properties.request_problem_information == Some(false),
        bridge: connect.bridge,
        strict: limits.strict,
        max_qos: if v5 { limits.max_qos } else { QoS::ExactlyOnce },
        retain_available: limits.retain_available || !v5,
        // A copy: what it is a part of may be large.
        authentication_method: connect.properties.authentication_method.as_deref().map(ByteString::from),
    };
    // Response Information is for nobody [MQTT-3.1.2-28], and nothing is asked of a client that is not in the specification
    // [MQTT-7.0.0-2].
    let properties = if v5 {
        ConnAckProperties {
            session_expiry_interval_s: (asked != session_expiry_s).then_some(session_expiry_s),
            receive_maximum: Some(limits.receive_maximum),
            maximum_packet_size: Some(limits.max_packet_size),
            assigned_client_id: assigned.clone(),
            topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
            // [MQTT-3.2.2-9]
            maximum_qos: (limits.max_qos < QoS::ExactlyOnce).then_some(limits.max_qos),
            retain_available: (!limits.retain_available).then_some(false),
            shared_subscription_available: (!limits.shared_subscriptions).then_some(false),
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            ..ConnAckProperties::default()
        }
    } else {
        ConnAckProperties::default()
    };
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    Ok(Negotiated { client_id: assigned.unwrap_or_else(|| ByteString::from(&*connect.client_id)), parameters, connack })
}

/// A CONNACK that refuses [MQTT-3.2.2-6].
fn refusal(reason: ReasonCode) -> ConnAck {
    ConnAck { session_present: false, reason, properties: ConnAckProperties::default() }
}

/// Why a message with this QoS and RETAIN flag is not supported, if it is not.
fn unsupported(qos: QoS, retain: bool, limits: &Limits) -> Option<ReasonCode> {
    if qos > limits.max_qos {
        return Some(ReasonCode::QoSNotSupported);
    }
    (retain && !limits.retain_available).then_some(ReasonCode::RetainNotSupported)
}

/// Session expiry in seconds as asked: a clean session of 3.x ends with its connection, another one when we say.
fn asked_session_expiry(connect: &Connect, limits: &Limits) -> u32 {
    match connect.version {
        Version::V5 => connect.properties.session_expiry_interval_s.unwrap_or(0),
        Version::V31 | Version::V311 if connect.clean_start => 0,
        Version::V31 | Version::V311 => limits.session_expiry_v3_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mqtt_codec::{TopicName, Will};

    fn limits() -> Limits {
        Limits {
            receive_maximum: NonZeroU16::new(128).unwrap(),
            window: NonZeroU16::new(128).unwrap(),
            topic_alias_maximum: 32,
            max_packet_size: NonZeroU32::new(1_000_000).unwrap(),
            max_session_expiry_s: 3600,
            session_expiry_v3_s: 7 * 24 * 3600,
            max_keep_alive_s: 600,
            shared_subscriptions: false,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            strict: false,
        }
    }

    fn connect(version: Version) -> Connect {
        Connect { keep_alive_s: 60, ..Connect::new(version, "dev") }
    }

    fn assigned() -> ByteString {
        ByteString::from_static("auto-1")
    }

    /// [MQTT-3.1.3-6, -7]
    #[test]
    fn mqtt_311_3_1_3_8_an_empty_id_without_clean_session_is_refused_in_3x_only() {
        for (version, refused) in [(Version::V31, true), (Version::V311, true), (Version::V5, false)] {
            let mut c = connect(version);
            c.client_id = ByteString::new();
            c.clean_start = false;
            match negotiate(&c, &limits(), assigned) {
                Err(connack) => {
                    assert!(refused, "{version:?}");
                    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
                }
                Ok(n) => {
                    assert!(!refused, "{version:?}");
                    assert_eq!(&*n.client_id, "auto-1");
                    assert_eq!(n.connack.properties.assigned_client_id, Some(assigned()));
                }
            }
        }
    }

    /// [MQTT-3.1.3-5]
    #[test]
    fn an_id_of_letters_and_digits_is_taken_as_it_is() {
        for version in [Version::V31, Version::V311, Version::V5] {
            for id in ["0", "abcdefghijklmnopqrstuvw", "XYZ0123456789"] {
                let mut c = connect(version);
                c.client_id = ByteString::from_static(id);
                let n = negotiate(&c, &limits(), assigned).unwrap();
                assert_eq!((&*n.client_id, n.connack.properties.assigned_client_id), (id, None), "{version:?}");
            }
        }
    }

    /// [MQTT-3.1.2-28], [MQTT-4.12.0-6]
    #[test]
    fn nothing_is_told_that_was_not_asked_for() {
        for request_response_information in [false, true] {
            let mut c = connect(Version::V5);
            c.properties.request_response_information = request_response_information;
            let properties = negotiate(&c, &limits(), assigned).unwrap().connack.properties;
            assert_eq!(properties.response_information, None);
            assert_eq!((properties.authentication_method, properties.authentication_data), (None, None));
        }
    }

    /// [MQTT-3.2.2-22]
    #[test]
    fn keep_alive_is_capped_for_mqtt_5_and_never_for_3x() {
        for (version, asked, got, told) in [
            (Version::V5, 0, 600, Some(600)),
            (Version::V5, 65535, 600, Some(600)),
            (Version::V5, 60, 60, None),
            (Version::V311, 0, 0, None),
            (Version::V311, 65535, 65535, None),
        ] {
            let mut c = connect(version);
            c.keep_alive_s = asked;
            let n = negotiate(&c, &limits(), assigned).unwrap();
            assert_eq!(n.parameters.keep_alive_s, got);
            assert_eq!(n.connack.properties.server_keep_alive_s, told);
        }
    }

    /// [MQTT-4.9.0-1]
    #[test]
    fn the_window_is_what_the_client_asks_for_up_to_ours() {
        for (asked, got) in [(None, 128), (Some(1), 1), (Some(5), 5), (Some(1000), 128)] {
            let mut c = connect(Version::V5);
            c.properties.receive_maximum = asked.and_then(NonZeroU16::new);
            assert_eq!(negotiate(&c, &limits(), assigned).unwrap().parameters.window, got);
        }
    }

    #[test]
    fn session_expiry_is_capped_and_the_client_is_told() {
        let mut c = connect(Version::V5);
        c.properties.session_expiry_interval_s = Some(u32::MAX);
        let n = negotiate(&c, &limits(), assigned).unwrap();
        assert_eq!(n.parameters.session_expiry_s, 3600);
        assert_eq!(n.connack.properties.session_expiry_interval_s, Some(3600));
        let n = negotiate(&connect(Version::V311), &limits(), assigned).unwrap();
        assert_eq!(n.parameters.session_expiry_s, 0);
    }

    /// [MQTT-3.2.2-9], [MQTT-3.2.2-12], [MQTT-3.2.2-13]
    #[test]
    fn what_a_client_may_not_publish_is_said_and_a_will_of_that_kind_is_refused() {
        let no_retain = Limits { retain_available: false, ..limits() };
        let qos = |max_qos| Limits { max_qos, ..limits() };
        let (v5, v311, denied) = (Version::V5, Version::V311, Some(ReasonCode::NotAuthorized));
        let not_supported = Some(ReasonCode::QoSNotSupported);
        for (version, limits, will, refused, told) in [
            (v5, limits(), Some((QoS::ExactlyOnce, true)), None, (None, None)),
            (v5, qos(QoS::AtMostOnce), None, None, (Some(QoS::AtMostOnce), None)),
            (v5, qos(QoS::AtLeastOnce), Some((QoS::AtLeastOnce, true)), None, (Some(QoS::AtLeastOnce), None)),
            (v5, qos(QoS::AtLeastOnce), Some((QoS::ExactlyOnce, false)), not_supported, (None, None)),
            (v5, no_retain.clone(), Some((QoS::ExactlyOnce, false)), None, (None, Some(false))),
            (v5, no_retain.clone(), Some((QoS::AtMostOnce, true)), Some(ReasonCode::RetainNotSupported), (None, None)),
            (v311, qos(QoS::AtMostOnce), Some((QoS::AtLeastOnce, false)), denied, (None, None)),
            (v311, no_retain.clone(), Some((QoS::AtMostOnce, true)), denied, (None, None)),
            (v311, no_retain, None, None, (None, None)),
        ] {
            let mut c = connect(version);
            c.will = will.map(|(qos, retain)| {
                Box::new(Will {
                    topic: TopicName::new("w").unwrap(),
                    payload: Bytes::new(),
                    qos,
                    retain,
                    delay_interval_s: 0,
                    properties: None,
                })
            });
            match negotiate(&c, &limits, assigned) {
                Err(connack) => assert_eq!(Some(connack.reason), refused, "{version:?} {will:?}"),
                Ok(n) => {
                    let properties = n.connack.properties;
                    assert_eq!((properties.maximum_qos, properties.retain_available), told, "{version:?} {will:?}");
                    assert_eq!(refused, None, "{version:?} {will:?}");
                    assert!(
                        version.is_v5() || n.parameters.max_qos == QoS::ExactlyOnce && n.parameters.retain_available
                    );
                }
            }
        }
    }
}
