//! `[listeners]`: where devices connect. Each kind is one table, several named tables, or an array of tables; here
//! they all become a list.

use std::path::PathBuf;

use mqtt_codec::Version;
use proto_map::{MountPoint, MountPointError};
use serde::{Deserialize, Deserializer};

use super::{
    AuthConfig, AuthMode, BindAddr, CertificateUse, ClientCertificate, FileMode, LimitsConfig, ListenerAuthConfig,
    ListenerTlsConfig, Networks, Origin, ProxyProtocolConfig, UnixSocketConfig,
    tree::{Node, Value},
    units,
};

/// Tables of a listener, so no names for listeners.
const TABLES: [&str; 4] = ["auth", "tls", "limits", "proxy_protocol"];

/// `[listeners]`. When the file has this table, a kind that is absent from it is off; without the table (default)
/// there is one of each kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ListenersConfig {
    /// `[listeners.tcp]`: plain MQTT.
    #[serde(deserialize_with = "tcp")]
    pub tcp: Vec<ListenerConfig>,
    /// `[listeners.ws]`: MQTT over WebSocket.
    #[serde(deserialize_with = "ws")]
    pub ws: Vec<ListenerConfig>,
    /// `[listeners.unix]`: plain MQTT on sockets of the file system; none without it.
    #[serde(deserialize_with = "unix")]
    pub unix: Vec<ListenerConfig>,
    /// The older name of `limits.connections`.
    pub max_connections: Option<u32>,
    /// The older name of `limits.connections_per_address`.
    pub max_connections_per_address: Option<u32>,
    /// Connections of all listeners together that have not completed CONNECT; for a further one the oldest of the address that has
    /// most is closed. Default 2,048.
    pub max_handshakes: u32,
}

/// `[listeners.tcp]`, `[listeners.ws]`, `[listeners.unix]`: one listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ListenerConfig {
    /// Name in logs and metrics: `tcp`, the name of its table, or `tcp-1`, `tcp-2`.
    pub name: String,
    /// What it is, by the table that it stands in.
    #[serde(skip)]
    pub kind: ListenerKind,
    /// Where to listen; `""` turns it off. Default `0.0.0.0:1883`, of WebSocket `0.0.0.0:8083`.
    #[serde(deserialize_with = "units::bind_or_off")]
    pub bind: Option<BindAddr>,
    /// WebSocket: paths that are MQTT; others are answered 404. Default `/mqtt` and `/`.
    pub paths: Vec<String>,
    /// WebSocket: where pages may be from that browsers have; absent: from everywhere. Clients that are no browsers do not say where
    /// they are from, and may.
    pub allowed_origins: Option<Vec<Origin>>,
    /// WebSocket: whose `X-Forwarded-For` counts.
    pub trusted_forwarders: Networks,
    /// Unix: where the socket is.
    pub path: PathBuf,
    /// Unix: the permissions of the socket. Default `0660`.
    pub mode: FileMode,
    /// Unix: the group of the socket; absent: that of the process.
    pub group: Option<String>,
    /// Versions of MQTT that are spoken. Default all.
    pub versions: Vec<MqttVersion>,
    /// In place of `mqtt.strict`.
    pub strict: Option<bool>,
    /// In front of every topic of its devices, which do not see it: `site7/`. Default none.
    pub mount_point: Option<String>,
    /// In place of `[auth]`.
    pub auth: ListenerAuthConfig,
    /// With it, MQTT or WebSocket over TLS.
    pub tls: Option<ListenerTlsConfig>,
    /// With it, connections come from proxies, which say of each whose it is.
    pub proxy_protocol: Option<ProxyProtocolConfig>,
    /// Limits of its own; what is absent is as in `[limits]`.
    pub limits: LimitsConfig,
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum MqttVersion {
    /// 3.1.
    #[serde(rename = "3.1")]
    V31,
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// 5.0.
    #[serde(rename = "5")]
    V5,
}

impl MqttVersion {
    const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];
}

impl From<MqttVersion> for Version {
    fn from(version: MqttVersion) -> Self {
        match version {
            MqttVersion::V31 => Self::V31,
            MqttVersion::V311 => Self::V311,
            MqttVersion::V5 => Self::V5,
        }
    }
}

/// What a listener is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// `[listeners.tcp]`: plain MQTT.
    #[default]
    Tcp,
    /// `[listeners.ws]`: MQTT over WebSocket.
    Ws,
    /// `[listeners.unix]`: plain MQTT on a socket of the file system.
    Unix,
}

impl ListenerKind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Tcp, Self::Ws, Self::Unix];

    /// Its table in `[listeners]`.
    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Unix => "unix",
        }
    }

    /// Its key, for what is wrong with one of its listeners.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Tcp => "listeners.tcp",
            Self::Ws => "listeners.ws",
            Self::Unix => "listeners.unix",
        }
    }

    /// Where one listens that does not say it.
    const fn bind(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("0.0.0.0:1883"),
            Self::Ws => Some("0.0.0.0:8083"),
            Self::Unix => None,
        }
    }

    /// Keys of [`ListenerConfig`] that have no meaning for it.
    const fn without(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["paths", "allowed_origins", "trusted_forwarders", "path", "mode", "group"],
            Self::Ws => &["path", "mode", "group"],
            Self::Unix => &["bind", "tls", "paths", "allowed_origins", "trusted_forwarders"],
        }
    }

    fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<ListenerConfig>, D::Error> {
        let mut listeners = Vec::<ListenerConfig>::deserialize(deserializer)?;
        listeners.iter_mut().for_each(|listener| listener.kind = self);
        Ok(listeners)
    }
}

fn tcp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ListenerConfig>, D::Error> {
    ListenerKind::Tcp.read(deserializer)
}

fn ws<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ListenerConfig>, D::Error> {
    ListenerKind::Ws.read(deserializer)
}

fn unix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ListenerConfig>, D::Error> {
    ListenerKind::Unix.read(deserializer)
}

/// What counts at one listener: its own, or else what `[auth]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerAuth {
    /// How devices are identified.
    pub mode: AuthMode,
    /// The account of those who bring none.
    pub account: Option<String>,
    /// What client certificates are good for.
    pub certificate: CertificateUse,
}

impl ListenerAuth {
    /// Of a listener that says this.
    #[must_use]
    pub fn new(auth: &AuthConfig, own: &ListenerAuthConfig) -> Self {
        Self {
            mode: own.mode.unwrap_or(auth.mode),
            account: own.account.clone(),
            certificate: own.certificate.unwrap_or(auth.certificate),
        }
    }
}

impl ListenersConfig {
    /// All of them, TCP first.
    pub fn all(&self) -> impl Iterator<Item = &ListenerConfig> {
        self.tcp.iter().chain(&self.ws).chain(&self.unix)
    }

    /// Looks whether listeners that differ in who they let in can be told apart, and what is in each.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (index, listener) in self.all().enumerate() {
            let (key, name) = (listener.kind.key(), &listener.name);
            let mut before = self.all().take(index).filter(|other| other.kind == listener.kind && other.name == *name);
            if before.any(|other| other.auth != listener.auth) {
                return Err((
                    key,
                    format!("two listeners are called {name:?}, and their auth differs: name them apart"),
                ));
            }
            listener.check().map_err(|why| (key, why))?;
        }
        Ok(())
    }
}

impl ListenerConfig {
    /// Its mount point, where our own subjects begin with this prefix.
    ///
    /// # Errors
    /// The text is none.
    pub(crate) fn mount(&self, subject_prefix: &str) -> Result<Option<MountPoint>, MountPointError> {
        let text = self.mount_point.as_deref().filter(|text| !text.is_empty());
        text.map(|text| MountPoint::new(text, subject_prefix)).transpose()
    }

    /// Where it is, by which it is known while its other settings change; `None`: it is turned off.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        match self.kind {
            ListenerKind::Unix => Some(self.path.display().to_string()),
            ListenerKind::Tcp | ListenerKind::Ws => self.bind.as_ref().map(ToString::to_string),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.versions.is_empty() {
            let all = r#"versions = ["3.1", "3.1.1", "5"]"#;
            return Err(format!("{} speaks no version of MQTT: write {all}, or some of them", self.name));
        }
        if self.auth.account.as_ref().is_some_and(String::is_empty) {
            return Err("auth.account is empty: name an account, or leave it out".to_owned());
        }
        if let Some(socket) = self.unix_socket() {
            socket.check().map_err(|why| format!("{}: {why}", self.name))?;
        }
        let tls = self.tls.as_ref().map_or(Ok(()), ListenerTlsConfig::check);
        tls.map_err(|why| format!("tls of {}: {why}", self.name))?;
        let asks = self.tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None);
        let proxied =
            self.proxy_protocol.as_ref().map_or(Ok(()), |proxied| proxied.check(self.kind == ListenerKind::Unix, asks));
        proxied.map_err(|why| format!("proxy_protocol of {}: {why}", self.name))
    }

    /// The socket of one of `[listeners.unix]`.
    #[must_use]
    pub fn unix_socket(&self) -> Option<UnixSocketConfig> {
        let socket = || UnixSocketConfig { path: self.path.clone(), mode: self.mode, group: self.group.clone() };
        (self.kind == ListenerKind::Unix).then(socket)
    }
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self {
            tcp: Vec::new(),
            ws: Vec::new(),
            unix: Vec::new(),
            max_connections: None,
            max_connections_per_address: None,
            max_handshakes: 2_048,
        }
    }
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: ListenerKind::default(),
            bind: None,
            paths: vec!["/mqtt".to_owned(), "/".to_owned()],
            allowed_origins: None,
            trusted_forwarders: Networks::default(),
            path: PathBuf::new(),
            mode: FileMode::default(),
            group: None,
            versions: MqttVersion::ALL.to_vec(),
            strict: None,
            mount_point: None,
            auth: ListenerAuthConfig::default(),
            tls: None,
            proxy_protocol: None,
            limits: LimitsConfig::default(),
        }
    }
}

/// Makes the `listeners` table and what precedence says about it: when nobody wrote it, one of each kind.
pub(super) fn complete(root: &mut Node) {
    let written = root.get("listeners").is_some();
    if !written {
        root.insert("listeners", Node::table("listeners", root.origin.clone()));
    }
    let Some(listeners) = root.get_mut("listeners") else { return };
    for kind in ListenerKind::ALL {
        let table = kind.table();
        if listeners.get(table).is_none() {
            let path = listeners.path_of(table);
            let mut node = Node::table(&path, listeners.origin.clone());
            if written || kind.bind().is_none() {
                node.value = Value::List(Vec::new());
            }
            listeners.insert(table, node);
        }
    }
}

/// Turns every way of writing the listeners of one kind into a list of tables that have names.
pub(super) fn normalise(root: &mut Node) {
    for kind in ListenerKind::ALL {
        let Some(node) = root.get_mut("listeners").and_then(|listeners| listeners.get_mut(kind.table())) else {
            continue;
        };
        let origin = node.origin.clone();
        let value = std::mem::replace(&mut node.value, Value::List(Vec::new()));
        let named = match value {
            Value::List(elements) => elements
                .into_iter()
                .enumerate()
                .map(|(index, element)| (format!("{}-{}", kind.table(), index + 1), element))
                .collect(),
            Value::Table(entries) if is_named_set(&entries) => entries.into_iter().collect(),
            single => vec![(kind.table().to_owned(), Node::new(single, origin, node.path.clone()))],
        };
        node.value = Value::List(named.into_iter().map(|(name, node)| of_kind(kind, &name, node)).collect());
    }
}

/// Tables only, and none that a listener has: `[listeners.tcp.lan]`, `[listeners.tcp.wan]`.
fn is_named_set(entries: &std::collections::BTreeMap<String, Node>) -> bool {
    let is_name =
        |(key, entry): (&String, &Node)| matches!(entry.value, Value::Table(_)) && !TABLES.contains(&key.as_str());
    !entries.is_empty() && entries.iter().all(is_name)
}

/// A table, as that of a listener of this kind: with what depends on the kind and was not written.
pub(super) fn of_kind(kind: ListenerKind, name: &str, mut node: Node) -> Node {
    node.without = kind.without();
    for (key, usual) in [("name", Some(name)), ("bind", kind.bind())] {
        let Some(usual) = usual else { continue };
        if matches!(node.value, Value::Table(_)) && node.get(key).is_none() {
            let (path, origin) = (node.path_of(key), node.origin.clone());
            node.insert(key, Node::text(&path, origin, usual));
        }
    }
    node
}
