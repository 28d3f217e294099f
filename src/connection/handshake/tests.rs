//! The door in memory: a pipe for a socket, and whoever judges is made up.

use std::future::pending;

use bytes::{Bytes, BytesMut};
use mqtt_codec::{Auth, ConnectProperties, Role, Secret};
use mqtt_session::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::*;
use crate::auth::{Again, Anyone, Judging};
use crate::listener::{Entrance, Protocol};

const PATIENCE: Patience = Patience { client: Duration::from_secs(5), judge: Duration::from_secs(2) };

fn door(authenticator: impl Authenticator + 'static) -> Door {
    let decoder = DecoderOptions { role: Role::Server, ..DecoderOptions::default() };
    Door { decoder, patience: PATIENCE, authenticator: Arc::new(authenticator), metrics: Metrics::new() }
}

fn peer() -> Peer {
    Peer::new(([192, 0, 2, 1], 1883).into(), Arc::new(Entrance::plain("test", Protocol::Mqtt)))
}

fn bytes_of(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    mqtt_codec::encode(packet, Version::V5, &mut bytes).unwrap();
    bytes
}

fn connect(method: Option<&'static str>) -> Packet {
    let properties =
        ConnectProperties { authentication_method: method.map(Into::into), ..ConnectProperties::default() };
    Packet::Connect(Box::new(Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "c".into(),
        will: None,
        username: Some("user".into()),
        password: Some(Secret::from(&b"pw"[..])),
        properties,
    }))
}

fn auth(data: &[u8]) -> Packet {
    Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        authentication_method: Some("M".into()),
        authentication_data: Some(Secret::from(data)),
        properties: None,
    })
}

/// What the client reads next.
async fn read(client: &mut DuplexStream) -> Packet {
    let options = DecoderOptions { role: Role::Client, version: Some(Version::V5), ..DecoderOptions::default() };
    let (mut decoder, mut bytes) = (Decoder::new(options), BytesMut::new());
    loop {
        if let Some(packet) = decoder.decode(&mut bytes).unwrap() {
            return packet;
        }
        assert!(client.read_buf(&mut bytes).await.unwrap() > 0, "closed");
    }
}

/// Goes through the door, and writes what it leaves to be written.
async fn go_through(door: &Door, server: DuplexStream) -> Option<Greeted> {
    let mut io = Io::new(server);
    let greeted = greet(&mut io, door, &peer()).await;
    let _ = io.finish().await;
    greeted
}

/// Challenges each client once, with what it gave as its password.
struct Curious;

impl Authenticator for Curious {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, _peer: &'a Peer) -> Judging<'a> {
        let password = credentials.connect.password.as_ref().map_or(&[][..], Secret::expose);
        let verdict = match (credentials.round, credentials.data) {
            (0, _) => Verdict::Challenge(Bytes::copy_from_slice(password)),
            (_, Some(data)) if data.expose() == b"right" => {
                Verdict::Accepted(Arc::new(Principal::all()), Some(Bytes::from_static(b"me")))
            }
            _ => Verdict::Refused(ReasonCode::NotAuthorized),
        };
        Box::pin(async move { verdict })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        unreachable!("nobody is connected")
    }

    fn judge_again(&self, _principal: &Principal, _client_id: &str) -> Again {
        unreachable!("nobody is connected")
    }
}

/// Does not know, for ever.
struct Undecided;

impl Authenticator for Undecided {
    fn judge<'a>(&'a self, _credentials: Credentials<'a>, _peer: &'a Peer) -> Judging<'a> {
        Box::pin(pending())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        unreachable!("nobody is connected")
    }

    fn judge_again(&self, _principal: &Principal, _client_id: &str) -> Again {
        unreachable!("nobody is connected")
    }
}

#[tokio::test]
async fn anybody_is_let_in_and_what_was_sent_behind_connect_stays() {
    let (mut client, server) = tokio::io::duplex(4096);
    let mut sent = bytes_of(&connect(None));
    sent.extend_from_slice(&bytes_of(&Packet::PingReq));
    client.write_all(&sent).await.unwrap();
    let mut io = Io::new(server);
    let greeted = greet(&mut io, &door(Anyone::new(Metrics::new())), &peer()).await.unwrap();
    assert_eq!(&*greeted.welcome.connect.client_id, "c");
    assert_eq!(greeted.welcome.connect.password, None);
    assert_eq!(io.input, bytes_of(&Packet::PingReq));
}

#[tokio::test]
async fn mqtt_4_12_0_1_a_method_that_nobody_offers_is_refused() {
    let (mut client, server) = tokio::io::duplex(4096);
    client.write_all(&bytes_of(&connect(Some("SCRAM-SHA-1")))).await.unwrap();
    assert!(go_through(&door(Anyone::new(Metrics::new())), server).await.is_none());
    let Packet::ConnAck(connack) = read(&mut client).await else { panic!() };
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
}

#[tokio::test]
async fn who_is_asked_is_let_in_for_the_right_answer_only() {
    for (answer, is_right) in [(&b"right"[..], true), (b"wrong", false)] {
        let (mut client, server) = tokio::io::duplex(4096);
        let door = door(Curious);
        let talk = async {
            client.write_all(&bytes_of(&connect(Some("M")))).await.unwrap();
            assert_eq!(read(&mut client).await, auth(b"pw"));
            client.write_all(&bytes_of(&auth(answer))).await.unwrap();
            client
        };
        let (greeted, mut client) = tokio::join!(go_through(&door, server), talk);
        assert_eq!(greeted.as_ref().map(|g| g.welcome.data.clone()), is_right.then(|| Some(Bytes::from_static(b"me"))));
        if !is_right {
            let Packet::ConnAck(connack) = read(&mut client).await else { panic!() };
            assert_eq!(connack.reason, ReasonCode::NotAuthorized);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_does_not_decide_is_not_waited_for_and_neither_is_a_client_that_says_nothing() {
    let (mut client, server) = tokio::io::duplex(4096);
    client.write_all(&bytes_of(&connect(None))).await.unwrap();
    assert!(go_through(&door(Undecided), server).await.is_none());
    let Packet::ConnAck(connack) = read(&mut client).await else { panic!() };
    assert_eq!(connack.reason, ReasonCode::ServerUnavailable);

    let (mut silent, server) = tokio::io::duplex(4096);
    assert!(go_through(&door(Undecided), server).await.is_none());
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0, "nothing is said to who said nothing");
}

#[tokio::test]
async fn who_leaves_before_the_verdict_is_not_judged() {
    let (mut client, server) = tokio::io::duplex(4096);
    client.write_all(&bytes_of(&connect(None))).await.unwrap();
    drop(client);
    assert!(go_through(&door(Undecided), server).await.is_none());
}
