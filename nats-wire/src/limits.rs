//! What a decoder is ready to hold.

/// Sizes beyond which nothing is buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A control line, without its end, in bytes. Beyond it the stream of bytes cannot be followed: [`FrameError`](crate::FrameError).
    /// INFO is one, with the addresses of every server of the cluster in it; the line of a message holds two subjects, of
    /// which nats-server takes 4,096 bytes unless it is told otherwise.
    pub control_line_max: usize,
    /// The header block of one message, in bytes; the message is skipped beyond it.
    pub header_block_max: usize,
    /// A message, header block and payload, in bytes; it is skipped beyond it. nats-server allows 64 MiB at most.
    pub message_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { control_line_max: 1 << 20, header_block_max: 4 << 20, message_max: 65 << 20 }
    }
}
