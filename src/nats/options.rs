//! What a link is told.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroize as _;

use super::counts::LinkCounts;
use super::error::ConnectError;
use super::url::ServerUrl;
use crate::tasks::Tasks;

/// What goes into CONNECT to say who we are.
#[derive(Clone, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) jwt: Option<String>,
    /// Public key.
    pub(crate) nkey: Option<String>,
    /// Of the server's nonce.
    pub(crate) signature: Option<Vec<u8>>,
}

impl Drop for Login {
    fn drop(&mut self) {
        for secret in [&mut self.password, &mut self.token, &mut self.jwt] {
            secret.zeroize();
        }
    }
}

impl fmt::Debug for Login {
    // Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// TLS towards the server. Files are read again at every connect.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    pub(crate) required: bool,
    /// Before the server says INFO.
    pub(crate) first: bool,
    /// Authorities to trust instead of those of the system.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// What happens on a link.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// It stands.
    Connected,
    /// It does not stand any more, for this reason.
    Disconnected(&'a str),
    /// An attempt to connect again has failed.
    NotConnected(&'a ConnectError),
    /// The server says so, without quotes.
    ServerError(&'a str),
    /// The server is about to shut down.
    LameDuck,
    /// A message for us was dropped, because too many wait.
    Overflow,
}

/// Makes what goes into CONNECT from the server's nonce; the error is a text for the log.
pub(crate) type Identify = dyn Fn(&[u8]) -> Result<Login, String> + Send + Sync;

/// Everything that a link needs to know.
#[derive(Clone)]
pub(crate) struct LinkOptions {
    pub(crate) servers: Arc<Vec<ServerUrl>>,
    pub(crate) ignore_discovered_servers: bool,
    pub(crate) tls: TlsFiles,
    /// Name of the connection on the server.
    pub(crate) name: String,
    /// Do not send our own messages back to us.
    pub(crate) no_echo: bool,
    /// Connect again for ever when the connection is lost; otherwise the link has ended then.
    pub(crate) reconnects: bool,
    /// Messages that wait for the socket.
    pub(crate) queue_max: usize,
    pub(crate) inbox_prefix: String,
    pub(crate) identify: Arc<Identify>,
    /// Called from the link's task; must not block.
    pub(crate) on_event: Arc<dyn Fn(Event<'_>) + Send + Sync>,
    pub(crate) counts: LinkCounts,
    /// Where its task runs.
    pub(crate) tasks: Tasks,
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions").field("name", &self.name).finish_non_exhaustive()
    }
}
