//! What can be wrong with bytes, and who is to blame.

/// The server's bytes cannot be followed any further: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A control line without an end within [`Limits::control_line_max`](crate::Limits::control_line_max).
    #[error("a control line is longer than {max} bytes")]
    ControlLineTooLong {
        /// The limit.
        max: usize,
    },
    /// A line that begins with no operation that a server sends.
    #[error("a line is no operation of the NATS protocol")]
    UnknownOperation,
    /// A message whose length is not there or is no number.
    #[error("the length of a message cannot be read")]
    NoLength,
    /// The bytes of a message are not followed by CR LF.
    #[error("a message does not end where it should")]
    NoEnd,
}

/// Why one message was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skipped {
    /// Its control line has too few or too many arguments, no subscription id, or a header block longer than the message.
    Arguments,
    /// It is larger than [`Limits::message_max`](crate::Limits::message_max), or its header block than
    /// [`Limits::header_block_max`](crate::Limits::header_block_max).
    TooLarge,
}

/// What was to be sent cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Empty, or with a space, tab, CR or LF, which would end the argument.
    #[error("a subject that NATS cannot carry")]
    Subject,
    /// Empty, or with a colon, CR or LF, which would end the name.
    #[error("a header name that NATS cannot carry")]
    HeaderName,
    /// With a CR or LF, which would end the line.
    #[error("a header value that NATS cannot carry")]
    HeaderValue,
    /// Subject and reply subject together are beyond what a control line may hold.
    #[error("subjects beyond what a control line of NATS may hold")]
    ControlLineTooLong,
}
