//! A client that is connected says once more who it is.

use bytes::Bytes;
use mqtt_codec::{Auth, Packet, ReasonCode, Secret};
use mqtt_ownership::Epoch;
use mqtt_session::{CHALLENGES_MAX, Close, Input, Output, Progress, Session, Time, Verdict};

use crate::script::V5;

/// Where a message is stored, to these tests.
type Place = u64;

struct Client(Session<Place>);

impl Client {
    /// Whose CONNECT named a method.
    fn new() -> Self {
        let parameters = V5.authenticated_by("NKEY").parameters();
        Self(Session::new(Time(0), parameters, Epoch(1), &Progress::default()))
    }

    fn tell(&mut self, input: Input<Place>) -> Vec<Output<Place>> {
        let mut out = Vec::new();
        self.0.handle(Time(1), input, &mut out);
        out
    }

    fn says(&mut self, reason: ReasonCode, data: &'static [u8]) -> Vec<Output<Place>> {
        self.tell(Input::Packet(Packet::Auth(auth(reason, "NKEY", data))))
    }

    fn judged(&mut self, verdict: Verdict<()>) -> Vec<Output<Place>> {
        self.tell(Input::Authenticated(verdict))
    }

    fn challenged(&mut self) -> Vec<Output<Place>> {
        self.judged(Verdict::Challenge(Bytes::from_static(b"nonce")))
    }
}

fn auth(reason: ReasonCode, method: &'static str, data: &'static [u8]) -> Auth {
    let authentication_data = (!data.is_empty()).then(|| Secret::from(data));
    Auth { reason, authentication_method: Some(method.into()), authentication_data, properties: None }
}

fn closed(reason: ReasonCode) -> Vec<Output<Place>> {
    vec![Output::Close(Close::ByServer(reason))]
}

fn sent(auth: Auth) -> Vec<Output<Place>> {
    vec![Output::Send(Packet::Auth(auth))]
}

#[test]
fn it_is_the_exchange_of_connect_again_as_often_as_the_client_likes() {
    use ReasonCode::{ContinueAuthentication, ReAuthenticate, Success};
    let mut client = Client::new();
    for _ in 0..2 {
        let asked = client.says(ReAuthenticate, b"jwt");
        let [Output::Authenticate(evidence)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(evidence.data.as_ref().map(Secret::expose), Some(&b"jwt"[..]));
        assert_eq!((evidence.challenge.as_deref(), evidence.round), (None, 0));
        assert_eq!(client.challenged(), sent(auth(ContinueAuthentication, "NKEY", b"nonce")));
        // Everything else goes on.
        assert_eq!(client.tell(Input::Packet(Packet::PingReq)), [Output::Send(Packet::PingResp)]);
        let asked = client.says(ContinueAuthentication, b"signed");
        let [Output::Authenticate(evidence)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(evidence.data.as_ref().map(Secret::expose), Some(&b"signed"[..]));
        assert_eq!((evidence.challenge.as_deref(), evidence.round), (Some(&b"nonce"[..]), 1));
        assert_eq!(client.judged(Verdict::Accepted((), None)), sent(auth(Success, "NKEY", b"")));
    }
}

#[test]
fn mqtt_4_12_1_2_one_that_fails_ends_the_connection() {
    let mut client = Client::new();
    client.says(ReasonCode::ReAuthenticate, b"jwt");
    assert_eq!(client.judged(Verdict::Refused(ReasonCode::BadUserNameOrPassword)), closed(ReasonCode::NotAuthorized));
    assert_eq!(client.says(ReasonCode::ReAuthenticate, b"jwt"), [], "it is over");
    let mut client = Client::new();
    client.says(ReasonCode::ReAuthenticate, b"jwt");
    for _ in 0..CHALLENGES_MAX {
        client.challenged();
        client.says(ReasonCode::ContinueAuthentication, b"signed");
    }
    assert_eq!(client.challenged(), closed(ReasonCode::NotAuthorized));
}

/// [MQTT-4.12.0-5], [MQTT-4.12.0-7], [MQTT-4.12.1-1]
#[test]
fn what_is_no_step_of_it_ends_the_connection() {
    use ReasonCode::{ContinueAuthentication, ProtocolError, ReAuthenticate, Success};
    for reason in [ContinueAuthentication, Success] {
        assert_eq!(Client::new().says(reason, b"x"), closed(ProtocolError), "{reason:?}");
    }
    for (method, data) in [("OTHER", &b"x"[..]), ("nkey", b"x")] {
        let packet = Packet::Auth(auth(ReAuthenticate, method, data));
        assert_eq!(Client::new().tell(Input::Packet(packet)), closed(ProtocolError), "{method}");
    }
    let mut twice = Client::new();
    twice.says(ReAuthenticate, b"x");
    assert_eq!(twice.says(ReAuthenticate, b"x"), closed(ProtocolError));
    let mut again = Client::new();
    again.says(ReAuthenticate, b"x");
    again.challenged();
    assert_eq!(again.says(ReAuthenticate, b"x"), closed(ProtocolError));
}
