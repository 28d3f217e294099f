//! What a client offers to prove who it is.

use mqtt_access::UnixTime;
use mqtt_access::jwt::{Circumstances, JwtError, Listener, OwnLimits, Proof, Refusal, UserJwt};
use mqtt_codec::Connect;
use zeroize::Zeroizing;

use super::super::refusals::step_of;
use super::super::shape::JwtShape;
use crate::listener::{Peer, Protocol};
use crate::metrics::AuthStep;
use crate::nats::Login;

/// User name and password of a CONNECT, or neither. The password may be a token or a JWT: nats-server knows.
#[derive(Clone)]
pub(super) struct Offered {
    pub(super) user: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    is_jwt: bool,
}

impl Offered {
    /// What a CONNECT has. A password that is no text is none of nats-server.
    pub(super) fn of(connect: &Connect) -> Option<Self> {
        let password = match &connect.password {
            Some(password) => Some(Zeroizing::new(std::str::from_utf8(password.expose()).ok()?.to_owned())),
            None => None,
        };
        let is_jwt = password
            .as_ref()
            .is_some_and(|password| JwtShape::of(password.as_bytes()).is_some_and(|shape| shape.is_of_nats()));
        Some(Self { user: connect.username.as_deref().map(str::to_owned), password, is_jwt })
    }

    /// For nats-server, which takes of it what it needs. Beside the JWT of a user there is no name: it is not looked at, whoever has
    /// the JWT may give any, and nats-server would say that the user is called so.
    pub(super) fn login(&self, now: UnixTime) -> Login {
        let mut login = Login::default();
        if matches!(self.jwt(&anywhere(now)), Ok(None)) {
            login.user.clone_from(&self.user);
        }
        if let Some(password) = &self.password {
            login.password = Some(String::clone(password));
            login.token = Some(String::clone(password));
            login.jwt = self.is_jwt.then(|| String::clone(password));
        }
        login
    }

    /// The JWT, where it is one. One of NATS that we cannot read may be one that nats-server can, and what it says of its limits
    /// would not count: it is refused.
    fn jwt(&self, circumstances: &Circumstances<'_>) -> Result<Option<UserJwt>, Refusal> {
        let Some(text) = self.password.as_ref().filter(|_| self.is_jwt) else { return Ok(None) };
        match UserJwt::decode(text, circumstances) {
            Ok(jwt) => Ok(Some(jwt)),
            // It is no user's for nats-server either, but may be one for an auth callout.
            Err(Refusal::Jwt(JwtError::Kind)) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// What a JWT says of what nats-server does not see: it sees our address, and a connection that is none of MQTT.
    pub(super) fn own_limits(&self, peer: &Peer, now: UnixTime) -> Result<Option<OwnLimits>, AuthStep> {
        let listener = match peer.entrance.protocol {
            Protocol::Mqtt => Listener::Mqtt,
            Protocol::Ws => Listener::MqttWs,
        };
        let address = peer.addr.ip();
        let circumstances =
            Circumstances { now, listener, peer: address, has_trusted_proxy: false, proof: Proof::None };
        let Some(jwt) = self.jwt(&circumstances).map_err(step_of)? else { return Ok(None) };
        match jwt.own_limits(&circumstances) {
            Ok(own) => Ok(Some(own)),
            Err(refusal) => {
                tracing::info!(remote = %peer.addr, "its JWT does not let it in: {refusal}");
                Err(AuthStep::NatsJwt)
            }
        }
    }

    /// Until when its JWT counts, if it is one: it does now.
    pub(super) fn expires(&self, now: UnixTime) -> Result<Option<UnixTime>, AuthStep> {
        let jwt = self.jwt(&anywhere(now)).map_err(step_of)?;
        Ok(jwt.and_then(|jwt| jwt.expires()))
    }

    /// Says in the log why nats-server may have refused it, where that can be seen.
    pub(super) fn tell_why_refused(&self, now: UnixTime) {
        if self.jwt(&anywhere(now)).is_ok_and(|jwt| jwt.is_some_and(|jwt| !jwt.may_connect_to_nats())) {
            tracing::info!(
                "a JWT for connections of MQTT only cannot be tried on nats-server: add the connection type STANDARD to it"
            );
        }
    }
}

/// What is enough to read a JWT.
const fn anywhere(now: UnixTime) -> Circumstances<'static> {
    Circumstances { now, listener: Listener::Mqtt, peer: None, has_trusted_proxy: false, proof: Proof::None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mqtt_codec::Version;
    use nkeys::KeyPair;
    use serde_json::json;

    use super::*;
    use crate::auth::now;
    use crate::listener::Entrance;
    use crate::mint::{World, sign, sign_with};

    fn own(password: &str) -> Result<Option<OwnLimits>, &'static str> {
        let connect = Connect { password: Some(password.as_bytes().into()), ..Connect::new(Version::V5, "c") };
        let peer = Peer::new(([10, 1, 2, 3], 1883).into(), Arc::new(Entrance::plain("a", Protocol::Mqtt)));
        Offered::of(&connect).unwrap().own_limits(&peer, now()).map_err(AuthStep::text)
    }

    /// A user who may come from elsewhere.
    fn elsewhere() -> World {
        World::numbered(0, 0, now().as_secs()).over_user(&json!({ "nats": { "src": ["192.0.2.0/24"] } }))
    }

    #[test]
    fn the_limits_of_a_jwt_are_its_own_however_it_is_written() {
        let jwt = elsewhere().user_jwt();
        assert_eq!(own(&jwt).unwrap_err(), "nats_jwt");
        assert_eq!(own(&format!("{jwt}\n")).unwrap_err(), "nats_jwt");
        // Go takes them for the same: bits that are none of the last byte, and ends of lines.
        let (front, last) = jwt.split_at(jwt.len() - 1);
        let spare = match last {
            "A" => "B",
            "Q" => "R",
            "g" => "h",
            _ => "x",
        };
        for written in [format!("{front}{spare}"), format!("{front}\n{last}"), format!("{front}\r{last}\n")] {
            assert_eq!(own(&written).unwrap_err(), "jwt_malformed", "{written:?}");
        }
        let (header, rest) = jwt.split_once('.').unwrap();
        let (front, last) = header.split_at(5);
        assert!(own(&format!("{front}\n{last}.{rest}")).is_err());
    }

    #[test]
    fn beside_the_jwt_of_a_user_a_name_is_not_said() {
        let user = |password: &str| {
            let (username, password) = (Some("pump".into()), Some(password.as_bytes().into()));
            let connect = Connect { username, password, ..Connect::new(Version::V5, "c") };
            Offered::of(&connect).unwrap().login(now()).user.clone()
        };
        let expired = elsewhere().over_user(&json!({ "exp": 1 })).user_jwt();
        for jwt in [elsewhere().user_jwt(), expired] {
            assert_eq!(user(&jwt), None, "{jwt}");
        }
        // An auth callout may want it beside what is none.
        let generic = elsewhere().over_user(&json!({ "nats": { "type": "generic" } })).user_jwt();
        for password in ["light", &generic] {
            assert_eq!(user(password).as_deref(), Some("pump"), "{password}");
        }
    }

    #[test]
    fn a_jwt_of_nats_that_cannot_be_read_lets_nobody_in() {
        let world = elsewhere();
        let with = |over: serde_json::Value| elsewhere().over_user(&over).user_jwt();
        for (jwt, step) in [
            (with(json!({ "type": "user", "nats": { "type": null, "version": null } })), "jwt_version"),
            (with(json!({ "nats": { "src": null, "Src": ["10.0.0.0/8"] } })), "jwt_claims"),
            (with(json!({ "exp": 1 })), "expired"),
            (with(json!({ "nats": { "times": [{ "start": "x", "end": "y" }] } })), "claims"),
            (sign(&world.user_claims, &KeyPair::new_account()), "jwt_signature"),
            (
                sign_with(r#"{"typ":"x","alg":"ed25519"}"#, &world.user_claims.to_string(), &world.account),
                "jwt_algorithm",
            ),
            (
                sign_with(r#"{"typ":"JWT","Alg":"ed25519"}"#, &world.user_claims.to_string(), &world.account),
                "jwt_algorithm",
            ),
        ] {
            assert_eq!(own(&jwt).unwrap_err(), step, "{jwt}");
        }
    }

    #[test]
    fn what_is_no_jwt_of_nats_has_no_limits_of_its_own() {
        let other = sign_with(r#"{"typ":"JWT","alg":"EdDSA"}"#, "{}", &KeyPair::new_account());
        let generic = elsewhere().over_user(&json!({ "nats": { "type": "generic" } })).user_jwt();
        let of_provider =
            sign_with(r#"{"typ":"JWT","alg":"Ed25519"}"#, r#"{"iss":"https://id"}"#, &KeyPair::new_account());
        for password in ["", "light", "a.b.c", &other, &generic, &of_provider] {
            assert!(own(password).unwrap().is_none(), "{password}");
        }
        let near = elsewhere().over_user(&json!({ "nats": { "src": ["10.0.0.0/8"], "tags": ["site:a"] } }));
        let own = own(&near.user_jwt()).unwrap().unwrap();
        assert_eq!((own.networks.len(), &*own.tags), (1, &["site:a".to_owned()][..]));
    }
}
