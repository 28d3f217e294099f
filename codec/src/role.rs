//! The two sides of a connection.

/// A side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The server.
    Server,
    /// The client.
    Client,
}
