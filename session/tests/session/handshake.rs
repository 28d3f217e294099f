//! From CONNECT to its answer: each line of a table is one handshake.

use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{Auth, ConnectProperties, Disconnect, Packet, ReasonCode, Secret};
use mqtt_session::{
    CHALLENGES_MAX, Handshake, HandshakeInput, HandshakeStep, NoAnswer, Patience, Time, Verdict, Welcome,
};

use crate::script::connect;

const PATIENCE: Patience = Patience { client: Duration::from_secs(5), judge: Duration::from_secs(2) };

/// Who a client is, to these tests.
type Principal = &'static str;

fn asks_with(method: Option<&'static str>) -> HandshakeInput<Principal> {
    let properties = ConnectProperties {
        authentication_method: method.map(Into::into),
        authentication_data: method.map(|_| Secret::from(&b"first"[..])),
        ..ConnectProperties::default()
    };
    let password = Some(Secret::from(&b"pw"[..]));
    HandshakeInput::Packet(Packet::Connect(Box::new(mqtt_codec::Connect { properties, password, ..connect() })))
}

fn auth(reason: ReasonCode, method: &'static str, data: &'static [u8]) -> Auth {
    Auth {
        reason,
        authentication_method: Some(method.into()),
        authentication_data: Some(Secret::from(data)),
        properties: None,
    }
}

fn answers(method: &'static str, data: &'static [u8]) -> HandshakeInput<Principal> {
    HandshakeInput::Packet(Packet::Auth(auth(ReasonCode::ContinueAuthentication, method, data)))
}

fn accepts() -> HandshakeInput<Principal> {
    HandshakeInput::Verdict(Verdict::Accepted("pump", None))
}

fn challenges() -> HandshakeInput<Principal> {
    HandshakeInput::Verdict(Verdict::Challenge(Bytes::from_static(b"nonce")))
}

/// A handshake whose client has asked with this method at time 0.
fn asked(method: Option<&'static str>) -> Handshake {
    let mut handshake = Handshake::new(Time(0), PATIENCE);
    assert_eq!(handshake.handle(Time(0), asks_with(method)), HandshakeStep::Judge);
    handshake
}

/// What a refusal says.
fn refusal(step: HandshakeStep<Principal>) -> ReasonCode {
    let HandshakeStep::Refuse(unwelcome) = step else { panic!("no refusal: {step:?}") };
    assert!(unwelcome.connect.password.is_none());
    unwelcome.connack.reason
}

#[test]
fn a_password_is_judged_and_forgotten() {
    let mut handshake = asked(None);
    let credentials = handshake.credentials().unwrap();
    assert_eq!(credentials.connect.password.as_ref().map(Secret::expose), Some(&b"pw"[..]));
    assert!(credentials.data.is_none() && credentials.challenge.is_none());
    let HandshakeStep::Accept(welcome) = handshake.handle(Time(1), accepts()) else { panic!() };
    let Welcome { connect, principal, data } = *welcome;
    assert_eq!((&*connect.client_id, principal, data), ("c", "pump", None));
    assert_eq!(connect.password, None);
    assert!(handshake.deadline().is_none() && handshake.credentials().is_none());
    assert_eq!(handshake.handle(Time(9_999), HandshakeInput::<Principal>::Time), HandshakeStep::Wait);
}

#[test]
fn mqtt_4_12_0_4_who_cannot_be_judged_is_refused_with_what_the_judge_says() {
    for reason in [ReasonCode::BadAuthenticationMethod, ReasonCode::BadUserNameOrPassword, ReasonCode::NotAuthorized] {
        let refused = asked(Some("SCRAM")).handle(Time(1), HandshakeInput::Verdict(Verdict::Refused(reason)));
        assert_eq!(refusal(refused), reason);
    }
}

#[test]
fn mqtt_4_12_0_2_a_challenge_is_an_auth_with_the_method_of_connect_and_its_answer_is_judged() {
    let mut handshake = asked(Some("NKEY"));
    assert_eq!(handshake.credentials().unwrap().data.map(Secret::expose), Some(&b"first"[..]));
    let HandshakeStep::Send(sent) = handshake.handle(Time(1), challenges()) else { panic!() };
    assert_eq!(sent, auth(ReasonCode::ContinueAuthentication, "NKEY", b"nonce"));
    assert_eq!(handshake.handle(Time(2), answers("NKEY", b"signed")), HandshakeStep::Judge);
    let credentials = handshake.credentials().unwrap();
    assert_eq!((credentials.data.map(Secret::expose), credentials.round), (Some(&b"signed"[..]), 1));
    assert_eq!(credentials.challenge, Some(&b"nonce"[..]));
    assert!(matches!(handshake.handle(Time(3), accepts()), HandshakeStep::Accept(_)));
}

#[test]
fn mqtt_4_12_0_5_an_answer_has_to_go_on_with_what_was_begun() {
    let publish = Packet::PingReq;
    let wrong = [
        answers("OTHER", b"signed"),
        HandshakeInput::Packet(Packet::Auth(auth(ReasonCode::ReAuthenticate, "NKEY", b"signed"))),
        // [MQTT-3.1.2-30]
        HandshakeInput::Packet(publish),
    ];
    for answer in wrong {
        let mut handshake = asked(Some("NKEY"));
        handshake.handle(Time(1), challenges());
        assert_eq!(refusal(handshake.handle(Time(2), answer)), ReasonCode::ProtocolError);
    }
    let mut handshake = asked(Some("NKEY"));
    handshake.handle(Time(1), challenges());
    let disconnect = HandshakeInput::<Principal>::Packet(Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    assert_eq!(handshake.handle(Time(2), disconnect), HandshakeStep::Close(NoAnswer::Disconnected));
}

#[test]
fn mqtt_4_12_0_6_who_names_no_method_is_not_asked() {
    assert_eq!(refusal(asked(None).handle(Time(1), challenges())), ReasonCode::NotAuthorized);
}

#[test]
fn mqtt_3_1_0_1_what_is_not_connect_is_not_answered() {
    let mut handshake = Handshake::new(Time(0), PATIENCE);
    let step = handshake.handle(Time(1), HandshakeInput::<Principal>::Packet(Packet::PingReq));
    assert_eq!(step, HandshakeStep::Close(NoAnswer::NotConnect));
}

#[test]
fn a_client_is_asked_only_so_often() {
    let mut handshake = asked(Some("NKEY"));
    for _ in 0..CHALLENGES_MAX {
        assert!(matches!(handshake.handle(Time(1), challenges()), HandshakeStep::Send(_)));
        assert_eq!(handshake.handle(Time(1), answers("NKEY", b"x")), HandshakeStep::Judge);
    }
    assert_eq!(refusal(handshake.handle(Time(1), challenges())), ReasonCode::NotAuthorized);
}

#[test]
fn nobody_pays_for_the_time_that_the_other_side_takes() {
    let mut handshake = Handshake::new(Time(0), PATIENCE);
    assert_eq!(handshake.deadline(), Some(Time(5_000)));
    handshake.handle(Time(1_000), asks_with(Some("NKEY")));
    assert_eq!(handshake.deadline(), Some(Time(3_000)), "the judge has two seconds");
    handshake.handle(Time(2_900), challenges());
    assert_eq!(handshake.deadline(), Some(Time(6_900)), "of its five seconds the client has taken one");
    assert_eq!(handshake.handle(Time(6_899), HandshakeInput::<Principal>::Time), HandshakeStep::Wait);
    let late = handshake.handle(Time(6_900), HandshakeInput::<Principal>::Time);
    assert_eq!(late, HandshakeStep::Close(NoAnswer::NoAuth));
}

#[test]
fn a_client_that_says_nothing_is_closed_and_a_judge_that_says_nothing_is_our_fault() {
    let mut silent = Handshake::new(Time(7), PATIENCE);
    let step = silent.handle(Time(5_007), HandshakeInput::<Principal>::Time);
    assert_eq!(step, HandshakeStep::Close(NoAnswer::NoConnect));
    let mut handshake = asked(None);
    assert_eq!(refusal(handshake.handle(Time(2_000), HandshakeInput::Time)), ReasonCode::ServerUnavailable);
    assert_eq!(handshake.handle(Time(2_001), accepts()), HandshakeStep::Wait, "the verdict comes too late");
}
