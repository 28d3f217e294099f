//! `[listeners]`: where devices connect. Each kind is one table, several named tables, or an array of tables; here
//! they all become a list.

use serde::Deserialize;

use super::{
    AuthConfig, AuthMode, BindAddr, CertificateUse, ListenerAuthConfig, ListenerTlsConfig,
    tree::{Node, Value},
    units,
};

/// The kinds of listeners, by their key.
pub(super) const KINDS: [&str; 2] = ["tcp", "ws"];

/// Tables of a listener, so no names for listeners.
const TABLES: [&str; 4] = ["auth", "tls", "limits", "proxy_protocol"];

/// `[listeners]`. When the file has this table, a kind that is absent from it is off; without the table (default)
/// there is one of each kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ListenersConfig {
    /// `[listeners.tcp]`: plain MQTT.
    pub tcp: Vec<TcpListenerConfig>,
    /// `[listeners.ws]`: MQTT over WebSocket.
    pub ws: Vec<WsListenerConfig>,
    /// Connections of all listeners together; the next one is closed at once. 0 (default): what the limit of open
    /// files leaves.
    pub max_connections: u32,
    /// Connections of one address, of IPv6 one network of 64 bits; the next one is closed at once. 0 (default): no limit, since
    /// a plant or a carrier may have all its devices behind one.
    pub max_connections_per_address: u32,
    /// Connections of all listeners together that have not completed CONNECT; for a further one the oldest of the address that has
    /// most is closed. Default 2,048.
    pub max_handshakes: u32,
}

/// `[listeners.tcp]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TcpListenerConfig {
    /// Name in logs and metrics: `tcp`, the name of its table, or `tcp-1`, `tcp-2`.
    pub name: String,
    /// Where to listen; `""` turns it off. Default `0.0.0.0:1883`.
    #[serde(deserialize_with = "units::bind_or_off")]
    pub bind: Option<BindAddr>,
    /// In place of `[auth]`.
    pub auth: ListenerAuthConfig,
    /// With it, MQTT over TLS.
    pub tls: Option<ListenerTlsConfig>,
}

/// `[listeners.ws]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct WsListenerConfig {
    /// Name in logs and metrics.
    pub name: String,
    /// Where to listen; `""` turns it off. Default `0.0.0.0:8083`.
    #[serde(deserialize_with = "units::bind_or_off")]
    pub bind: Option<BindAddr>,
    /// Paths that are MQTT; others are answered 404. Default `/mqtt` and `/`.
    pub paths: Vec<String>,
    /// In place of `[auth]`.
    pub auth: ListenerAuthConfig,
    /// With it, WebSocket over TLS.
    pub tls: Option<ListenerTlsConfig>,
}

/// What counts at one listener: its own, or else what `[auth]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What each listener says about who devices are, with its key and name.
    pub fn auths(&self) -> impl Iterator<Item = (&'static str, &str, &ListenerAuthConfig)> {
        let tcp = self.tcp.iter().map(|tcp| ("listeners.tcp", &*tcp.name, &tcp.auth));
        tcp.chain(self.ws.iter().map(|ws| ("listeners.ws", &*ws.name, &ws.auth)))
    }

    /// The `tls` of those that have one, with the key and name of the listener.
    pub fn tls(&self) -> impl Iterator<Item = (&'static str, &str, &ListenerTlsConfig)> {
        let tcp = self.tcp.iter().map(|tcp| ("listeners.tcp", &*tcp.name, &tcp.tls));
        let all = tcp.chain(self.ws.iter().map(|ws| ("listeners.ws", &*ws.name, &ws.tls)));
        all.filter_map(|(key, name, tls)| Some((key, name, tls.as_ref()?)))
    }

    /// Looks whether listeners that differ in who they let in can be told apart.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (index, (key, name, auth)) in self.auths().enumerate() {
            let mut before = self.auths().take(index);
            if before.any(|(other, same, differs)| other == key && same == name && differs != auth) {
                return Err((
                    key,
                    format!("two listeners are called {name:?}, and their auth differs: name them apart"),
                ));
            }
            if auth.account.as_ref().is_some_and(String::is_empty) {
                return Err((key, "auth.account is empty: name an account, or leave it out".to_owned()));
            }
        }
        self.tls().try_for_each(|(key, name, tls)| tls.check().map_err(|why| (key, format!("tls of {name}: {why}"))))
    }
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self {
            tcp: vec![TcpListenerConfig::default()],
            ws: vec![WsListenerConfig::default()],
            max_connections: 0,
            max_connections_per_address: 0,
            max_handshakes: 2_048,
        }
    }
}

impl Default for TcpListenerConfig {
    fn default() -> Self {
        Self {
            name: "tcp".to_owned(),
            bind: Some(BindAddr::new("0.0.0.0", 1883)),
            auth: ListenerAuthConfig::default(),
            tls: None,
        }
    }
}

impl Default for WsListenerConfig {
    fn default() -> Self {
        Self {
            name: "ws".to_owned(),
            bind: Some(BindAddr::new("0.0.0.0", 8083)),
            paths: vec!["/mqtt".to_owned(), "/".to_owned()],
            auth: ListenerAuthConfig::default(),
            tls: None,
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
    for kind in KINDS {
        if listeners.get(kind).is_none() {
            let path = listeners.path_of(kind);
            let mut node = Node::table(&path, listeners.origin.clone());
            if written {
                node.value = Value::List(Vec::new());
            }
            listeners.insert(kind, node);
        }
    }
}

/// Turns every way of writing the listeners of one kind into a list of tables that have names.
pub(super) fn normalise(root: &mut Node) {
    for kind in KINDS {
        let Some(node) = root.get_mut("listeners").and_then(|listeners| listeners.get_mut(kind)) else {
            continue;
        };
        let origin = node.origin.clone();
        let value = std::mem::replace(&mut node.value, Value::List(Vec::new()));
        let named = match value {
            Value::List(elements) => elements
                .into_iter()
                .enumerate()
                .map(|(index, element)| (format!("{kind}-{}", index + 1), element))
                .collect(),
            Value::Table(entries) if is_named_set(&entries) => entries.into_iter().collect(),
            single => vec![(kind.to_owned(), Node { value: single, origin, path: node.path.clone() })],
        };
        node.value = Value::List(named.into_iter().map(with_name).collect());
    }
}

/// Tables only, and none that a listener has: `[listeners.tcp.lan]`, `[listeners.tcp.wan]`.
fn is_named_set(entries: &std::collections::BTreeMap<String, Node>) -> bool {
    let is_name =
        |(key, entry): (&String, &Node)| matches!(entry.value, Value::Table(_)) && !TABLES.contains(&key.as_str());
    !entries.is_empty() && entries.iter().all(is_name)
}

fn with_name((name, mut node): (String, Node)) -> Node {
    if matches!(node.value, Value::Table(_)) && node.get("name").is_none() {
        let path = node.path_of("name");
        let name = Node::text(&path, node.origin.clone(), &name);
        node.insert("name", name);
    }
    node
}
