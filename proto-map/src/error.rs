//! Why something has no place in NATS, and which reason code says so to an MQTT 5 client.

use mqtt_codec::ReasonCode;

/// A topic, subject or name that cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The result would be longer than the limit, both in bytes.
    #[error("its counterpart has {len} bytes, more than {max}")]
    TooLong {
        /// Bytes the result would have.
        len: usize,
        /// Bytes it can have.
        max: usize,
    },
    /// Not a subject, or one with wildcards where none can be.
    #[error("it is not a NATS subject without wildcards")]
    InvalidSubject,
    /// A name or prefix has characters that JetStream does not take there.
    #[error("a name can have letters, digits, `-` and `_`, and a subject prefix `$` besides")]
    InvalidName,
}

impl MapError {
    /// The reason code for PUBACK, PUBREC or DISCONNECT [MQTT 5, 2.4]. In a SUBACK it is 0x8F instead.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::TooLong { .. } | Self::InvalidSubject => ReasonCode::TopicNameInvalid,
            Self::InvalidName => ReasonCode::ImplementationSpecificError,
        }
    }
}

/// A message whose properties do not fit into the headers of NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The header block would be longer than the server takes, both in bytes.
    #[error("its properties make a header block of {len} bytes, more than {max}")]
    TooLarge {
        /// Bytes the header block would have.
        len: usize,
        /// Bytes it can have.
        max: usize,
    },
}

impl HeaderError {
    /// The reason code for PUBACK, PUBREC or DISCONNECT [MQTT 5, 2.4].
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::TooLarge { .. } => ReasonCode::QuotaExceeded,
        }
    }
}
