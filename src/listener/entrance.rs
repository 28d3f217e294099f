//! What a listener asks of those who come by it.

use std::fmt;
use std::sync::Arc;

use mqtt_codec::{Version, Versions};
use proto_map::MountPoint;

use super::admission::LimitsInForce;
use crate::bans::Bans;
use crate::config::{ClientCertificate, Config, ListenerAuth, ListenerConfig, ListenerKind};
use crate::shutdown::ShutdownSignal;

/// What a listener asks of those who come by it. Made once, when it is opened, and shared by all of them: whoever needs to know
/// a setting of the listener of a client finds it here.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Name of the listener, for the log field `listener`.
    pub name: Box<str>,
    /// What it speaks, for the log field `protocol`.
    pub protocol: Protocol,
    /// It speaks it over TLS.
    pub is_tls: bool,
    /// Whether they are asked for a certificate.
    pub client_certificate: ClientCertificate,
    /// The versions that they may speak.
    pub versions: Versions,
    /// They are held to the letter where the lenient reading would let them go on.
    pub strict: bool,
    /// The part of the topics that they see as all of them.
    pub mount: Option<Arc<MountPoint>>,
    /// How it is found out who they are.
    pub auth: ListenerAuth,
    /// Triggered when the listener is gone while the process goes on: those who came by it are let go. What a listener becomes by
    /// another configuration has the same one.
    pub closing: ShutdownSignal,
    /// How many may come and how much each may send, which can change.
    pub limits: Arc<LimitsInForce>,
    /// Who may not connect, wherever.
    pub(crate) bans: Arc<Bans>,
}

impl Entrance {
    /// Of a listener of this configuration, with its mount point, at which nobody is banned.
    #[must_use]
    pub fn new(config: &Config, listener: &ListenerConfig, mount: Option<Arc<MountPoint>>) -> Self {
        Self {
            name: listener.name.as_str().into(),
            protocol: listener.kind.into(),
            is_tls: listener.tls.is_some(),
            client_certificate: listener.tls.as_ref().map(|tls| tls.client_certificate).unwrap_or_default(),
            versions: listener.versions.iter().copied().map(Version::from).collect(),
            strict: listener.strict.unwrap_or(config.mqtt.strict),
            mount,
            auth: ListenerAuth::new(&config.auth, &listener.auth),
            closing: ShutdownSignal::new(),
            limits: Arc::new(LimitsInForce::new(listener.limits.over(&config.limits))),
            bans: Bans::none(),
        }
    }

    /// One that asks for nothing.
    #[cfg(test)]
    pub(crate) fn plain(name: &str, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            protocol,
            is_tls: false,
            client_certificate: ClientCertificate::None,
            versions: Versions::ALL,
            strict: false,
            mount: None,
            auth: ListenerAuth::default(),
            closing: ShutdownSignal::new(),
            limits: Arc::default(),
            bans: Bans::none(),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT on the stream itself.
    Mqtt,
    /// MQTT in WebSocket frames.
    Ws,
}

impl Protocol {
    /// `mqtt` or `ws`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Ws => "ws",
        }
    }
}

impl From<ListenerKind> for Protocol {
    fn from(kind: ListenerKind) -> Self {
        match kind {
            ListenerKind::Tcp | ListenerKind::Unix => Self::Mqtt,
            ListenerKind::Ws => Self::Ws,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
