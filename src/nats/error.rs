//! What can go wrong on a link.

use nats_wire::EncodeError;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name of the server has no address.
    #[error("the address of {host} is not known: {reason}")]
    Dns { host: String, reason: String },
    /// The network says no, or the server ended the connection.
    #[error("{0}")]
    Io(String),
    /// Nobody answered in time.
    #[error("no answer in time")]
    TimedOut,
    /// TLS could not be agreed on.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server refuses who we are.
    #[error("authorization violation")]
    Authorization,
    /// We do not know who we are.
    #[error("{0}")]
    Credentials(String),
    /// The server does not speak as a nats-server does, or refuses us for another reason.
    #[error("{0}")]
    Protocol(String),
}

impl ConnectError {
    /// Another server of the cluster would say the same.
    pub(super) fn is_same_everywhere(&self) -> bool {
        matches!(self, Self::Authorization | Self::Credentials(_))
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Why a message was not handed over. None of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// There is no connection now.
    #[error("not connected")]
    Disconnected,
    /// Too much waits for the socket.
    #[error("the queue to NATS is full")]
    Full,
    /// Larger than the server takes.
    #[error("larger than NATS takes")]
    TooLarge,
    /// It cannot be written.
    #[error(transparent)]
    Invalid(#[from] EncodeError),
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestFailure {
    /// Nobody listened, so nobody has it.
    #[error("no responders")]
    NoResponders,
    /// Nobody serves the subject now, whoever else listens to it; somebody may have when it was sent.
    #[error("no answer, and nobody is there to give one")]
    Unserved,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection was lost before the answer.
    #[error("the connection was lost")]
    Lost,
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] PublishError),
}
