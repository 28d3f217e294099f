//! Loading: the sources over each other, secrets from their files, and the checks that need more than one key.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use super::{
    AccountConfig, AuthMode, BindAddr, Config, ConfigError, LimitsConfig, ListenerKind, listeners, nats,
    tree::{self, Node, Origin, Value, Written},
    unix_socket::check_path,
    users,
};

/// Variables that begin with this set keys: `NATS_MQTT__LISTENERS__TCP__BIND`.
const ENV_PREFIX: &str = "NATS_MQTT__";

/// Bytes that the subscriptions of a session may take: more than that, with what grows in place, is not read.
const SESSION_SIZE_MAX: u64 = 16 << 20;

/// What the command line sets. Empty fields leave the configuration as it is.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--nats`: replaces `nats.urls`.
    pub nats: Vec<String>,
    /// `--creds`: replaces `nats.creds`.
    pub creds: Option<String>,
    /// `--listen`: replaces the TCP listeners, and turns the others off.
    pub listen: Option<String>,
    /// `--listen-ws`: replaces the WebSocket listeners, and turns the others off.
    pub listen_ws: Option<String>,
    /// `--admin`: replaces `admin.bind`.
    pub admin: Option<String>,
    /// `--log-level`: replaces `log.level`.
    pub log_level: Option<String>,
    /// `--embedded`: `embedded.enabled`.
    pub embedded: bool,
    /// `--embedded-data`: replaces `embedded.data_dir`.
    pub embedded_data: Option<String>,
    /// `--embedded-port`: replaces `embedded.port`.
    pub embedded_port: Option<u16>,
}

impl Config {
    /// Reads the file, if there is one, and lays the process environment and the command line over it.
    ///
    /// # Errors
    /// The file cannot be read or understood, a key is unknown or has a value that it cannot have, a secret's file
    /// cannot be read, or keys contradict each other.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => {
                let file = path.display().to_string();
                match std::fs::read_to_string(path) {
                    Ok(text) => Some((file, text)),
                    Err(source) => return Err(ConfigError::Read { file, source }),
                }
            }
            None => None,
        };
        Self::assemble(text.as_ref().map(|(file, text)| (file.as_str(), text.as_str())), &environment(), overrides)
    }

    /// The same from values in memory: `file` is a name and a text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn assemble(
        file: Option<(&str, &str)>,
        environment: &[(String, String)],
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let variables =
            |wanted: &str| environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let mut root = match file {
            Some((name, text)) => tree::parse(name, text, &variables)?,
            None => Node::table("", Origin::Default),
        };
        listeners::complete(&mut root);
        apply_environment(&mut root, environment)?;
        apply_overrides(&mut root, overrides)?;
        listeners::normalise(&mut root);
        apply_listen(&mut root, overrides);
        let mut config = Self::deserialize(&root)?;
        config.written = Written::of(&root);
        read_secrets(&mut config, &root)?;
        read_users(&mut config, &root)?;
        read_oidc(&mut config, &root)?;
        config.limits.connections = config.limits.connections.or(config.listeners.max_connections);
        let per_address = &mut config.limits.connections_per_address;
        *per_address = per_address.or(config.listeners.max_connections_per_address);
        config.check().map_err(|(key, message)| {
            let origin = root.origin_of(key).unwrap_or(&Origin::Default);
            ConfigError::invalid(origin, key, message)
        })?;
        Ok(config)
    }

    /// What no key can check alone. Answers the key and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        self.check_nats()?;
        self.check_auth()?;
        self.check_mounts()?;
        self.check_limits()?;
        self.bans.check()?;
        self.check_sockets()?;
        self.check_jetstream()?;
        self.drain.check()?;
        if self.mqtt.receive_maximum == 0 {
            return Err(("mqtt.receive_maximum", "0 would accept no message: write 1 or more".into()));
        }
        if self.mqtt.window == 0 {
            return Err(("mqtt.window", "0 would deliver no message: write 1 or more".into()));
        }
        if self.mqtt.session_queue == 0 {
            return Err(("mqtt.session_queue", "0 would keep no message: write 1 or more".into()));
        }
        if self.mqtt.connect_timeout.get().is_zero() {
            return Err((
                "mqtt.connect_timeout",
                "0 would refuse every device: write a duration such as \"10s\"".into(),
            ));
        }
        if self.mqtt.max_topic_levels == 0 {
            return Err(("mqtt.max_topic_levels", "0 would refuse every topic: write 1 or more".into()));
        }
        if self.mqtt.max_packet_size.bytes() > 268_435_460 {
            return Err(("mqtt.max_packet_size", "MQTT has no packet larger than 268,435,460 bytes".into()));
        }
        if self.mqtt.max_session_size.bytes() > SESSION_SIZE_MAX {
            return Err(("mqtt.max_session_size", "no session is read that is larger than 16 MiB".into()));
        }
        if self.listeners.max_handshakes == 0 {
            return Err(("listeners.max_handshakes", "0 would accept nobody: write 1 or more".into()));
        }
        if let Some(path) = self.listeners.ws.iter().flat_map(|ws| &ws.paths).find(|path| !path.starts_with('/')) {
            return Err(("listeners.ws.paths", format!("{path:?} is not a path: it begins with \"/\"")));
        }
        if super::units::parse_level(&self.log.level).is_none() {
            let message = format!("{:?} is not a level: write error, warn, info, debug or trace", self.log.level);
            return Err(("log.level", message));
        }
        Ok(())
    }

    /// Looks whether every socket can be, and belongs to one.
    fn check_sockets(&self) -> Result<(), (&'static str, String)> {
        let control = self.admin.socket.as_deref().map_or(Ok(()), check_path);
        control.map_err(|message| ("admin.socket", message))?;
        let listeners = self.listeners.all().map(|it| (it.kind.key(), format!("listener {}", it.name), &it.bind));
        let admin = ("admin.bind", "admin.bind".to_owned(), &self.admin.bind);
        let mut claimed = HashMap::new();
        for (key, who, bind) in listeners.chain([admin]) {
            let Some(name) = bind.as_ref().and_then(BindAddr::passed) else { continue };
            if let Some(other) = claimed.insert(name, who.clone()) {
                let message =
                    format!("systemd:{name} is one socket, and {other} and {who} both name it: give each its own");
                return Err((key, message));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), (&'static str, String)> {
        self.limits.check(&LimitsConfig::default()).map_err(|message| ("limits", message))?;
        let mut listeners = self.listeners.all();
        listeners.try_for_each(|listener| {
            let checked = listener.limits.check_own().and_then(|()| listener.limits.check(&self.limits));
            checked.map_err(|message| (listener.kind.key(), format!("limits of {}: {message}", listener.name)))
        })
    }

    fn check_auth(&self) -> Result<(), (&'static str, String)> {
        self.listeners.check()?;
        self.check_mode("auth.mode", self.auth.mode)?;
        let mut modes = self.listeners.all().filter_map(|listener| Some((listener.kind.key(), listener.auth.mode?)));
        modes.try_for_each(|(key, mode)| self.check_mode(key, mode))
    }

    fn check_mounts(&self) -> Result<(), (&'static str, String)> {
        for listener in self.listeners.all() {
            let (key, name) = (listener.kind.key(), &listener.name);
            let mount = listener.mount(&self.jetstream.subject_prefix);
            let mount = mount.map_err(|error| (key, format!("mount_point of {name}: {error}")))?;
            if mount.is_some_and(|mount| mount.levels() >= self.mqtt.max_topic_levels) {
                let message = format!("mount_point of {name} leaves no level of mqtt.max_topic_levels to topics");
                return Err((key, message));
            }
        }
        Ok(())
    }

    /// Looks whether anybody can get in by a mode.
    fn check_mode(&self, key: &'static str, mode: AuthMode) -> Result<(), (&'static str, String)> {
        let auth = &self.auth;
        match mode {
            AuthMode::None => Ok(()),
            AuthMode::File => users::check_names(self.users.iter().chain(&auth.file_users), auth.anonymous)
                .map_err(|message| (key, message)),
            AuthMode::Nats if auth.recheck.get() < std::time::Duration::from_secs(1) => {
                Err(("auth.recheck", "write \"1s\" or more".to_owned()))
            }
            AuthMode::Nats => Ok(()),
            AuthMode::Jwt => auth.jwt.check(),
            AuthMode::Oidc if auth.oidc.is_none() => {
                Err((key, "mode \"oidc\" needs [auth.oidc]: write issuer, audience, jwks_url and a role".to_owned()))
            }
            AuthMode::Oidc => Ok(()),
        }
    }

    fn check_nats(&self) -> Result<(), (&'static str, String)> {
        let nats = &self.nats;
        if nats.max_accounts == 0 {
            return Err(("nats.max_accounts", "0 would refuse every account but ours: write 1 or more".into()));
        }
        if nats.urls.is_empty() {
            return Err((
                "nats.urls",
                "no server is named: write at least one, as in \"nats://127.0.0.1:4222\"".into(),
            ));
        }
        if let Some(url) = nats.urls.iter().find(|url| !is_server_url(url)) {
            return Err(("nats.urls", format!("{url:?} is not the address of a server: write nats://HOST:PORT")));
        }
        nats.identity().check().map_err(|(key, message)| match key {
            "user" => ("nats.user", message),
            "creds" => ("nats.creds", message),
            _ => ("nats", message),
        })?;
        let tls = &nats.tls;
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return Err(("nats.tls", "cert_file and key_file go together: give both or neither".into()));
        }
        for (key, file) in [
            ("nats.tls.ca_file", &tls.ca_file),
            ("nats.tls.cert_file", &tls.cert_file),
            ("nats.tls.key_file", &tls.key_file),
        ] {
            if let Some(file) = file.as_ref().filter(|file| !file.is_file()) {
                return Err((key, format!("there is no file {}", file.display())));
            }
        }
        Ok(())
    }

    fn check_jetstream(&self) -> Result<(), (&'static str, String)> {
        let jetstream = &self.jetstream;
        let is_name =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !is_name(&jetstream.prefix) {
            return Err(("jetstream.prefix", "names of streams are made of A-Z, a-z, 0-9, \"-\" and \"_\"".into()));
        }
        if !is_name(jetstream.subject_prefix.strip_prefix('$').unwrap_or(&jetstream.subject_prefix)) {
            return Err(("jetstream.subject_prefix", "write one token, as in \"$NMQ\"".into()));
        }
        if jetstream.replicas > 5 {
            return Err(("jetstream.replicas", "JetStream keeps 5 replicas at most; 0 chooses".into()));
        }
        for log in &jetstream.logs {
            if !is_name(&log.name) {
                return Err((
                    "jetstream.logs",
                    format!("{:?} is no name: it is made of A-Z, a-z, 0-9, \"-\" and \"_\"", log.name),
                ));
            }
            let is_filter = |topic: &String| mqtt_codec::TopicFilter::new(topic.as_str()).is_ok_and(|f| !f.is_shared());
            if let Some(topic) = log.topics.iter().find(|topic| !is_filter(topic)) {
                return Err(("jetstream.logs", format!("{topic:?} is no topic filter, as in \"tele/#\"")));
            }
            if log.topics.is_empty() {
                return Err((
                    "jetstream.logs",
                    format!("the log {:?} has no topics: write them, as in topics = [\"tele/#\"]", log.name),
                ));
            }
            if log.replicas > 5 {
                return Err(("jetstream.logs", "JetStream keeps 5 replicas at most; 0 chooses".into()));
            }
        }
        if jetstream.publish_inflight == 0 {
            return Err(("jetstream.publish_inflight", "0 would publish nothing: write 1 or more".into()));
        }
        let shared = &jetstream.shared;
        for (key, duration) in [
            ("jetstream.shared.ack_wait", shared.ack_wait),
            ("jetstream.shared.inactive_threshold", shared.inactive_threshold),
            ("jetstream.shared.unheld_threshold", shared.unheld_threshold),
        ] {
            if duration.get() < std::time::Duration::from_secs(1) {
                return Err((key, "write \"1s\" or more".into()));
            }
        }
        Ok(())
    }
}

/// The variables of this process.
pub(super) fn environment() -> Vec<(String, String)> {
    let variable = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(variable).collect()
}

fn apply_environment(root: &mut Node, environment: &[(String, String)]) -> Result<(), ConfigError> {
    for (name, value) in environment {
        let Some(key) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key = key.to_ascii_lowercase();
        let keys: Vec<&str> = key.split("__").collect();
        root.set(&keys, &Origin::Env(name.clone()), value)?;
    }
    Ok(())
}

fn apply_overrides(root: &mut Node, overrides: &Overrides) -> Result<(), ConfigError> {
    let port = overrides.embedded_port.map(|port| port.to_string());
    let embedded = (overrides.embedded).then(|| "true".to_owned());
    for (keys, flag, value) in [
        (["nats", "creds"], "--creds", &overrides.creds),
        (["admin", "bind"], "--admin", &overrides.admin),
        (["log", "level"], "--log-level", &overrides.log_level),
        (["embedded", "enabled"], "--embedded", &embedded),
        (["embedded", "data_dir"], "--embedded-data", &overrides.embedded_data),
        (["embedded", "port"], "--embedded-port", &port),
    ] {
        if let Some(value) = value {
            root.set(&keys, &Origin::Flag(flag), value)?;
        }
    }
    if !overrides.nats.is_empty() {
        root.set(&["nats", "urls"], &Origin::Flag("--nats"), "")?;
        if let Some(node) = root.get_mut("nats").and_then(|nats| nats.get_mut("urls")) {
            let urls = overrides.nats.iter().flat_map(|urls| urls.split(',')).map(str::trim);
            let element = |url| Node::text(&node.path, node.origin.clone(), url);
            node.value = Value::List(urls.map(element).collect());
        }
    }
    Ok(())
}

/// `--listen` and `--listen-ws`: what they name listens, and nothing else does. Other keys of the first configured
/// listener of that kind stay.
fn apply_listen(root: &mut Node, overrides: &Overrides) {
    if overrides.listen.is_none() && overrides.listen_ws.is_none() {
        return;
    }
    for (kind, flag, address) in
        [(ListenerKind::Tcp, "--listen", &overrides.listen), (ListenerKind::Ws, "--listen-ws", &overrides.listen_ws)]
    {
        let listeners = root.get_mut("listeners");
        let Some(node) = listeners.and_then(|listeners| listeners.get_mut(kind.table())) else { continue };
        let Value::List(elements) = &mut node.value else { continue };
        elements.truncate(usize::from(address.is_some()));
        let Some(address) = address else { continue };
        let origin = Origin::Flag(flag);
        if elements.is_empty() {
            elements.push(listeners::of_kind(kind, kind.table(), Node::table(&node.path, origin.clone())));
        }
        for element in elements {
            let path = element.path_of("bind");
            element.insert("bind", Node::text(&path, origin.clone(), address));
        }
    }
}

fn read_secrets(config: &mut Config, root: &Node) -> Result<(), ConfigError> {
    let nats = &mut config.nats;
    for (key, file, secret) in [
        ("nats.password_file", &nats.password_file, &mut nats.password),
        ("nats.token_file", &nats.token_file, &mut nats.token),
        ("nats.nkey_seed_file", &nats.nkey_seed_file, &mut nats.nkey_seed),
    ] {
        let Some(file) = file else { continue };
        let invalid = |message| ConfigError::invalid(root.origin_of(key).unwrap_or(&Origin::Default), key, message);
        nats::first_line(file, secret).map_err(invalid)?;
    }
    let complete = |(name, account): (&String, &mut AccountConfig)| account.complete(&format!("accounts.{name}"), root);
    config.accounts.iter_mut().try_for_each(complete)
}

/// Reads the file of users, and looks whether all users are right, whatever the mode is.
fn read_users(config: &mut Config, root: &Node) -> Result<(), ConfigError> {
    users::check(&config.users, root, &[])?;
    if let Some(file) = &config.auth.users_file {
        config.auth.file_users = users::read_users(file, &config.users)?;
    }
    Ok(())
}

/// Looks whether what is said of the identity provider is right, and reads its keys where they are in a file.
fn read_oidc(config: &mut Config, root: &Node) -> Result<(), ConfigError> {
    let Some(oidc) = &mut config.auth.oidc else { return Ok(()) };
    oidc.check().and_then(|()| oidc.read_keys()).map_err(|(key, message)| {
        let path = if key.is_empty() { "auth.oidc".to_owned() } else { format!("auth.oidc.{key}") };
        let origin = [&*path, "auth.oidc"].iter().find_map(|path| root.origin_of(path));
        ConfigError::invalid(origin.unwrap_or(&Origin::Default), &path, message)
    })
}

/// A first look, so that a typo meets its line; the NATS client parses the address.
fn is_server_url(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let may_have_path = matches!(scheme, "ws" | "wss");
    let is_host = !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || (c == '/' && !may_have_path));
    (may_have_path || matches!(scheme, "nats" | "tls")) && is_host
}
