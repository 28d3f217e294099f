//! What a client offers to prove who it is.

use mqtt_access::UnixTime;
use mqtt_access::jwt::{Circumstances, Listener, OwnLimits, Proof, UserJwt};
use mqtt_codec::Connect;
use zeroize::Zeroizing;

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

    /// For nats-server, which takes of it what it needs.
    pub(super) fn login(&self) -> Login {
        let mut login = Login::default();
        login.user.clone_from(&self.user);
        if let Some(password) = &self.password {
            login.password = Some(String::clone(password));
            login.token = Some(String::clone(password));
            login.jwt = self.is_jwt.then(|| String::clone(password));
        }
        login
    }

    fn jwt(&self, circumstances: &Circumstances<'_>) -> Option<UserJwt> {
        let text = self.password.as_ref().filter(|_| self.is_jwt)?;
        UserJwt::decode(text, circumstances).ok()
    }

    /// What a JWT says of what nats-server does not see: it sees our address, and a connection that is none of MQTT. One that
    /// cannot be read says nothing here, and nats-server refuses it.
    pub(super) fn own_limits(&self, peer: &Peer, now: UnixTime) -> Result<Option<OwnLimits>, AuthStep> {
        let listener = match peer.entrance.protocol {
            Protocol::Mqtt => Listener::Mqtt,
            Protocol::Ws => Listener::MqttWs,
        };
        let address = peer.addr.ip();
        let circumstances =
            Circumstances { now, listener, peer: address, has_trusted_proxy: false, proof: Proof::None };
        let Some(jwt) = self.jwt(&circumstances) else { return Ok(None) };
        match jwt.own_limits(&circumstances) {
            Ok(own) => Ok(Some(own)),
            Err(refusal) => {
                tracing::info!(remote = %peer.addr, "its JWT does not let it in: {refusal}");
                Err(AuthStep::NatsJwt)
            }
        }
    }

    /// Says in the log why nats-server may have refused it, where that can be seen.
    pub(super) fn tell_why_refused(&self, now: UnixTime) {
        let listener = Listener::Mqtt;
        let circumstances = Circumstances { now, listener, peer: None, has_trusted_proxy: false, proof: Proof::None };
        if self.jwt(&circumstances).is_some_and(|jwt| !jwt.may_connect_to_nats()) {
            tracing::info!(
                "a JWT for connections of MQTT only cannot be tried on nats-server: add the connection type STANDARD to it"
            );
        }
    }
}
