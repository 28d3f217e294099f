//! What can go wrong between us and NATS, each error said in one line with what to do about it.

use std::time::Duration;

use super::needs::Needs;

/// Why a [`Store`](crate::store::Store) could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A server URL cannot be parsed.
    #[error(
        "NATS URL {url:?} cannot be used: {reason}; write it as nats://host:4222, tls://host:4222, ws://… or wss://…"
    )]
    Url {
        /// The URL as configured, without its password.
        url: String,
        /// What the parser says.
        reason: String,
    },
    /// A credentials, seed or certificate file cannot be used.
    #[error("the NATS credentials cannot be used: {reason}; check nats.creds, nats.nkey_seed_file or nats.tls")]
    Credentials {
        /// Which file and why.
        reason: String,
    },
    /// The server refused who we are.
    #[error(
        "NATS refused our credentials at {urls}; check nats.creds, user, token or nkey, and that the user may connect with connection type STANDARD"
    )]
    Authorization {
        /// Where we tried.
        urls: String,
    },
    /// TLS could not be agreed on.
    #[error("no TLS connection to NATS at {urls}: {reason}; check nats.tls.ca_file and the server's certificate")]
    Tls {
        /// Where we tried.
        urls: String,
        /// What rustls says.
        reason: String,
    },
    /// No server answered within the time that was given.
    #[error("no NATS server answered at {urls} within {} s ({reason}); start nats-server or correct nats.urls", within.as_secs())]
    Unreachable {
        /// Where we tried.
        urls: String,
        /// The last error.
        reason: String,
        /// The time that was given.
        within: Duration,
    },
    /// The server is older than what we need.
    #[error("nats-server {found} is too old; nats-mqtt needs 2.12 or newer, please upgrade the server")]
    ServerTooOld {
        /// Version that the server says it is.
        found: String,
    },
    /// The server runs without JetStream.
    #[error(
        "JetStream is not enabled on this nats-server; start it with -js or put `jetstream {{ store_dir: … }}` into its configuration"
    )]
    JetStreamDisabled,
    /// The server has JetStream, our account has not.
    #[error(
        "JetStream is not enabled for this NATS account ({reason}); with nsc: nsc edit account NAME --js-disk-storage 10G --js-mem-storage 1G"
    )]
    JetStreamDisabledForAccount {
        /// What the server says.
        reason: String,
    },
    /// The server does not let us use a subject that we cannot do without.
    #[error("the NATS user is not allowed to {what}; {needs}, besides the subjects of devices")]
    Permission {
        /// What was refused, for instance `publish to "$JS.API.INFO"`.
        what: String,
        /// What it has to be allowed.
        needs: Needs,
    },
    /// The account's limits do not allow what we must create.
    #[error(
        "JetStream refuses to create {stream}: {reason} (error {code}); raise the account's JetStream limits or lower jetstream.log.max_bytes and jetstream.replicas"
    )]
    Refused {
        /// The stream.
        stream: String,
        /// JetStream's error code.
        code: u32,
        /// JetStream's text.
        reason: String,
    },
    /// A stream of our name exists, and it is not ours.
    #[error("stream {stream} exists with another configuration: {}; change it, delete it, or choose another jetstream.prefix", differences.join(", "))]
    ForeignStream {
        /// The stream.
        stream: String,
        /// What differs, one sentence part each.
        differences: Vec<String>,
    },
    /// Sidecars that have their leases in another account serve this one.
    #[error(
        "the account is served by sidecars whose own account ([nats]) is {other}, and not {home} as here; give all sidecars of an account the same, or, when no other serves it any more, delete the key home of its bucket MQTT_keys"
    )]
    OtherHome {
        /// Where those have their leases.
        other: String,
        /// Where we have ours.
        home: String,
    },
    /// What we have for an account is for another one.
    #[error(
        "the credentials given for account {wanted} are those of account {found}; name it so, or give those of {wanted}"
    )]
    OtherAccount {
        /// Where we are.
        found: String,
        /// Where we should be.
        wanted: String,
    },
    /// The server does not say which account our credentials are for.
    #[error(
        "nats-server does not say which account these credentials are for; allow the user to publish to $SYS.REQ.USER.INFO"
    )]
    Nameless,
    /// JetStream does not answer; it may in a while.
    #[error(
        "JetStream does not answer ({reason}); is the cluster without a leader, the server still starting, or without storage for the limits of this account? Its log says so"
    )]
    Unavailable {
        /// The last error.
        reason: String,
    },
}

impl OpenError {
    /// Whether it says that there is no JetStream for the account.
    pub(super) const fn says_no_jetstream(&self) -> bool {
        matches!(self, Self::JetStreamDisabled | Self::JetStreamDisabledForAccount { .. })
    }

    /// Whether only a change of configuration can help, so that trying again is useless (exit code 78).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Url { .. }
            | Self::Credentials { .. }
            | Self::Authorization { .. }
            | Self::Tls { .. }
            | Self::ServerTooOld { .. }
            | Self::JetStreamDisabled
            | Self::JetStreamDisabledForAccount { .. }
            | Self::Permission { .. }
            | Self::Refused { .. }
            | Self::ForeignStream { .. }
            | Self::OtherHome { .. }
            | Self::OtherAccount { .. }
            | Self::Nameless => true,
            Self::Unreachable { .. } | Self::Unavailable { .. } => false,
        }
    }
}

/// NATS or JetStream cannot answer now; the same call may succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("NATS is not available: {reason}")]
pub struct Unavailable {
    /// What happened.
    pub reason: String,
}

impl Unavailable {
    pub(crate) fn new(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// Why a state was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Somebody else has written since: what the writer knows is out of date, and it is not the owner any more.
    #[error("somebody else has written since")]
    Fenced,
    /// Larger than NATS takes.
    #[error("larger than NATS takes")]
    TooLarge,
    /// JetStream did not take it in time, or refuses it. It may be stored all the same, even a while later.
    #[error("NATS is not available: {reason}")]
    Unavailable {
        /// What happened last.
        reason: String,
    },
}

/// Why a message was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// No stream captures the subject, and that did not change within `put_timeout`, or `no_stream_timeout`.
    #[error("no stream takes this subject")]
    NoStream,
    /// A limit of the stream or of the account is reached, or the server sheds load.
    #[error("JetStream has no room: {text} (error {code})")]
    Full {
        /// JetStream's error code.
        code: u32,
        /// JetStream's text.
        text: String,
    },
    /// Larger than the server or the stream takes.
    #[error("the message is larger than NATS takes")]
    TooLarge,
    /// No acknowledgement within `put_timeout`; the message may be stored all the same.
    #[error("JetStream did not acknowledge in time")]
    Unavailable,
    /// Nobody wants it any more, so it was not sent again; what was sent before may be stored all the same.
    #[error("the message is not wanted any more")]
    Withdrawn,
    /// JetStream says no for another reason, an expected sequence that is not there for instance.
    #[error("JetStream refused the message: {text} (error {code})")]
    Rejected {
        /// JetStream's error code.
        code: u32,
        /// JetStream's text.
        text: String,
    },
    /// A header or the subject cannot be sent.
    #[error("the message cannot be written as a NATS message: {what}")]
    Invalid {
        /// Which part.
        what: &'static str,
    },
}
