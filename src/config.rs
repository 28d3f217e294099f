//! The configuration: one struct of structs, one per table of the file, every key with a default. Precedence is
//! flag, then environment, then file, then default.
//!
//! # Layout
//! - `nats`, `accounts`, `listeners`, `listener_tls`, `limits`, `bans`, `proxy_protocol`, `unix_socket`, `auth`, `jwt`, `oidc`, `users`, `mqtt`, `requests`, `jetstream`, `drain`: the larger tables; the small ones
//!   are below.
//! - `units`: sizes, durations, addresses, secrets, levels; `networks`: those of proxies; `origin`: those of pages in browsers.
//! - `error`: what is wrong, and where.
//! - `tree`: the configuration as values that know where they were written; `de` gives them their types.
//! - `load`: puts the sources over each other, reads secrets from their files, checks what one key cannot check alone.
//!
//! Nothing here connects or listens. Values that follow from the server (0 = automatic) are settled by the app.

mod accounts;
mod auth;
mod bans;
mod de;
mod drain;
mod error;
mod jetstream;
mod jwt;
mod limits;
mod listener_tls;
mod listeners;
mod load;
mod mqtt;
mod nats;
mod networks;
mod oidc;
mod origin;
mod plan;
mod proxy_protocol;
mod requests;
mod source;
mod tree;
mod units;
mod unix_socket;
mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

pub use accounts::AccountConfig;
pub use auth::{AuthConfig, AuthMode, CertificateUse, ListenerAuthConfig, SessionOwner, WideFilters};
pub(crate) use bans::read_network;
pub use bans::{BanConfig, BanRule, BansConfig};
pub use drain::DrainConfig;
pub use error::ConfigError;
pub use jetstream::{BacklogLimits, DeclaredLogConfig, Ingest, JetStreamConfig, LogLimits, LogStorage};
pub use jwt::{JwtConfig, ResolverConfig, read_operator, read_signing_key};
pub use limits::{CommonLimits, Limits, LimitsConfig, Scopes};
pub use listener_tls::{ClientCertificate, ListenerTlsConfig, SniConfig};
pub use listeners::{ListenerAuth, ListenerConfig, ListenerKind, ListenersConfig, MqttVersion};
pub use load::Overrides;
pub use mqtt::{Discard, MqttConfig, OnDeniedPublish, Overlapping, RootWildcard};
pub use nats::{NatsAuth, NatsConfig, NatsTlsConfig};
pub use networks::Networks;
pub use oidc::{OidcConfig, OidcRole, Wanted};
pub use origin::Origin;
pub use plan::{ListenerChange, Plan};
pub use proxy_protocol::{ProxyIdentity, ProxyProtocolConfig, ProxySniConfig};
pub use requests::RequestsConfig;
pub use source::ConfigSource;
pub use units::{BindAddr, ByteRate, ByteSize, Duration, Rate, Secret, parse_level};
pub use unix_socket::{FileMode, UnixSocketConfig};
pub use users::{
    PermissionsConfig, SubjectsConfig, USERS_FILE_SIZE_MAX, UserConfig, check_names, read_users, token_of_level,
};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[nats]`: which nats-server, and as whom.
    pub nats: NatsConfig,
    /// `[accounts.NAME]`: our ways into accounts beside that one.
    pub accounts: BTreeMap<String, AccountConfig>,
    /// `[listeners]`: where devices connect.
    pub listeners: ListenersConfig,
    /// `[limits]`: how many may connect, and how much each may send.
    pub limits: LimitsConfig,
    /// `[bans]`: who may not connect.
    pub bans: BansConfig,
    /// `[admin]`: health and metrics.
    pub admin: AdminConfig,
    /// `[auth]`: who a device is.
    pub auth: AuthConfig,
    /// `[[users]]`: whom mode `file` knows.
    pub users: Vec<UserConfig>,
    /// `[mqtt]`: limits and habits of the protocol.
    pub mqtt: MqttConfig,
    /// `[publish]`: what messages say on NATS.
    pub publish: PublishConfig,
    /// `[requests]`: request and reply between MQTT and NATS.
    pub requests: RequestsConfig,
    /// `[jetstream]`: names and limits of what is stored.
    pub jetstream: JetStreamConfig,
    /// `[events]`: what NATS is told about clients.
    pub events: EventsConfig,
    /// `[overload]`: how much the process may carry.
    pub overload: OverloadConfig,
    /// `[log]`: what is written to stderr.
    pub log: LogConfig,
    /// `[drain]`: how clients are let go.
    pub drain: DrainConfig,
    /// `[embedded]`: a nats-server of our own as a child process.
    pub embedded: EmbeddedConfig,
    /// Trees of NATS subjects that are closed to devices and are opened by this list, by their first token:
    /// `["$SRV"]`. Empty by default.
    pub open_trees: Vec<String>,
    /// What was written of all this, to say which keys are others than before.
    #[serde(skip)]
    written: tree::Written,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served; `""` turns them off. Default `127.0.0.1:8228`.
    #[serde(deserialize_with = "units::bind_or_off")]
    pub bind: Option<BindAddr>,
    /// A Unix socket on which this process is told to read its configuration again (`nats-mqtt reload`), and says what that would do
    /// (`nats-mqtt check`). Whoever may write to it may; its mode is 0600. Default: none.
    pub socket: Option<PathBuf>,
    /// The configuration is read again when its file changes, within a second or two. Default `false`: SIGHUP or `nats-mqtt reload`.
    pub watch: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { bind: Some(BindAddr::new("127.0.0.1", 8228)), socket: None, watch: false }
    }
}

/// `[events]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct EventsConfig {
    /// Publish on core NATS who connects, disconnects, subscribes and unsubscribes. Default `true`.
    pub enabled: bool,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[overload]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OverloadConfig {
    /// Memory that the process may take; 0 (default): what its control group may, or else what the machine has.
    pub memory: ByteSize,
}

/// `[publish]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PublishConfig {
    /// Every message has the client id of its publisher in the header `Mqtt-Client`. Default `false`.
    pub client_id_header: bool,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Text for people or JSON for machines. Default `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, also per module: `info,nats_mqtt::store=debug`. The variable
    /// `RUST_LOG` wins over it. Default `info`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[embedded]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct EmbeddedConfig {
    /// Start a nats-server and use it in place of `nats.urls`. Default `false`.
    pub enabled: bool,
    /// Where it keeps its streams. Default `./data/nats`.
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1; 0 lets the system choose. Default 4222.
    pub port: u16,
    /// The program. Default: `$NATS_SERVER`, then `nats-server` in `$PATH`, then `./.tools/bin/nats-server`.
    pub server: Option<PathBuf>,
    /// How long it may take until it accepts connections, recovery of its streams included. Default 60 s.
    pub start_timeout: Duration,
    /// How long it may take to stop before it is killed. Default 10 s.
    pub stop_timeout: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            data_dir: PathBuf::from("./data/nats"),
            port: 4222,
            server: None,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests;
