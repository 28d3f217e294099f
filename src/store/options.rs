//! What the store is told when it is opened: servers, credentials, TLS, limits. Parsing of configuration files is not here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto_map::{Names, SpecOptions, StreamSpec};

use super::outage::Outage;

/// Everything that [`Store::open`](crate::store::Store::open) needs.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where NATS is and who we are.
    pub nats: NatsOptions,
    /// What we keep in JetStream.
    pub assets: AssetOptions,
    /// Limits of the publish path.
    pub publisher: PublisherLimits,
    /// Limits of the QoS 0 path.
    pub core: CoreLimits,
    /// Give up when no server answers for this long; `None`: try for ever, with a log line every few seconds.
    pub connect_timeout: Option<Duration>,
}

/// The streams of one account.
#[derive(Clone, Debug)]
pub struct AssetOptions {
    /// Names of everything that we create.
    pub names: Names,
    /// Limits of streams and buckets; its `replicas` are not used.
    pub specs: SpecOptions,
    /// Streams of the logs beside the one that is always there, each with its replicas, when it has a number of its own.
    pub declared: Vec<(StreamSpec, Option<u8>)>,
    /// Replicas of each stream; `None`: min(3, servers of the cluster), as JetStream lets us find out.
    pub replicas: Option<u8>,
}

/// Where NATS is and who we are.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Server URLs; user, password or token inside them are used when `credentials` is [`Credentials::None`].
    pub urls: Vec<String>,
    /// Who we are.
    pub credentials: Credentials,
    /// TLS, beyond what `tls://` says.
    pub tls: TlsOptions,
    /// Connection names on the server are this, a dash, and what the connection is for.
    pub name: String,
    /// First token of reply subjects, for accounts that restrict `_INBOX`.
    pub inbox_prefix: String,
    /// Stay with the servers in `urls`, ignoring the ones that a cluster announces.
    pub ignore_discovered_servers: bool,
    /// What is said of it when connections are lost; a copy of these options shares it.
    pub outage: Outage,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials: Credentials::None,
            tls: TlsOptions::default(),
            name: "nats-mqtt".to_owned(),
            inbox_prefix: "_INBOX".to_owned(),
            ignore_discovered_servers: false,
            outage: Outage::default(),
        }
    }
}

/// TLS towards NATS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Refuse servers without TLS.
    pub required: bool,
    /// Handshake before the server's INFO.
    pub first: bool,
    /// PEM file with the authorities to trust, besides those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert: Option<PathBuf>,
    /// PEM file with our key.
    pub key: Option<PathBuf>,
}

/// Who we are. Files are read again at every connect, so that they can be rotated.
#[derive(Clone, Default)]
pub enum Credentials {
    /// What the URL says, or nobody.
    #[default]
    None,
    /// A user name and a password.
    UserPassword {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A file that holds the seed of a user NKey.
    NkeyFile(PathBuf),
    /// A `.creds` file: user JWT and seed.
    CredsFile(PathBuf),
    /// Somebody else answers, for instance with a JWT minted for this connection.
    Identity(Arc<dyn Identity>),
}

impl fmt::Debug for Credentials {
    // Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::UserPassword { user, .. } => write!(f, "UserPassword({user:?})"),
            Self::Token(_) => f.write_str("Token"),
            Self::NkeyFile(path) => write!(f, "NkeyFile({path:?})"),
            Self::CredsFile(path) => write!(f, "CredsFile({path:?})"),
            Self::Identity(_) => f.write_str("Identity"),
        }
    }
}

/// Answers a server that asks who we are.
pub trait Identity: Send + Sync {
    /// What to put into CONNECT, given the nonce of the server's INFO. The error is a text for the log.
    fn answer(&self, nonce: &[u8]) -> Result<IdentityAnswer, String>;
}

/// A user JWT and the proof that we hold its key.
#[derive(Clone, Debug)]
pub struct IdentityAnswer {
    /// The user JWT.
    pub jwt: String,
    /// Signature of the nonce by the user's key; empty for a bearer token.
    pub signature: Vec<u8>,
}

/// Limits of the publish path.
#[derive(Clone, Debug)]
pub struct PublisherLimits {
    /// Messages without an acknowledgement; [`Publisher::permit`](crate::store::Publisher::permit) waits at it.
    pub in_flight_max: usize,
    /// Bytes without an acknowledgement; likewise.
    pub in_flight_bytes_max: usize,
    /// A connection on which nothing is answered for this long is given up for another one. (When a message is looked for and
    /// sent again follows from measured round trips.)
    pub ack_timeout: Duration,
    /// A message without an acknowledgement for this long, over all attempts, fails.
    pub put_timeout: Duration,
    /// The same for one that is to go into a stream of somebody else, and the last answer was that there is none: the stream may
    /// be deleted, where one of ours would be made again.
    pub no_stream_timeout: Duration,
}

impl Default for PublisherLimits {
    fn default() -> Self {
        Self {
            in_flight_max: 4096,
            in_flight_bytes_max: 64 * 1024 * 1024,
            ack_timeout: Duration::from_secs(5),
            // As long as clients stay connected without JetStream: see `LeaseTimes::give_up_after`.
            put_timeout: Duration::from_secs(60),
            no_stream_timeout: Duration::from_secs(20),
        }
    }
}

/// Limits of the QoS 0 path.
#[derive(Clone, Debug)]
pub struct CoreLimits {
    /// Messages between us and the socket; beyond it `publish` drops and `publish_wait` waits.
    pub queued_max: usize,
    /// Messages of one subscription between the socket and us; beyond it they are dropped and counted.
    pub subscription_queued_max: usize,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self { queued_max: 4096, subscription_queued_max: 65_536 }
    }
}
