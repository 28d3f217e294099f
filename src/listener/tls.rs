//! TLS of a listener: from an accepted socket to a stream that is encrypted. rustls with ring; TLS 1.2 and 1.3. Whoever does not
//! get through costs one place among the handshakes, one deadline for everything up to CONNECT, and one line of the log.
//!
//! - `files`: what is read, and what is wrong with it; `failure`: why a handshake failed.

mod failure;
mod files;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::socket::Prompt;
use super::stream::Stream;
use super::{Peer, Protocol};
use crate::config::ListenerTlsConfig;
use crate::metrics::{Metrics, TlsFailure};
use failure::Failed;
pub use files::TlsFileError;

/// Encrypted bytes that wait to be sent, at most: what is behind them waits where it is counted.
const BUFFERED_MAX: usize = 32 * 1024;

/// How long somebody whose handshake failed may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read of it meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

/// TLS cannot be set up with what a listener says.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// Something else.
    #[error("{0}")]
    Other(#[from] tokio_rustls::rustls::Error),
}

/// TLS of one listener.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// From accept to CONNECT.
    within: Duration,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads what is in the files.
    pub(super) fn new(
        config: &ListenerTlsConfig,
        protocol: Protocol,
        within: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server_config(config, protocol)?)), within, metrics })
    }

    /// Shakes hands, unless somebody else has to have the place. What fails is told here.
    pub(super) async fn accept(&self, stream: Prompt, peer: &Peer) -> Option<Stream> {
        let deadline = peer.since + self.within;
        let shaken = tokio::select! {
            biased;
            () = peer.handshake.evicted() => return None,
            shaken = timeout_at(deadline, self.handshake(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream))),
            Ok(Err(None)) => debug!(remote = %peer.addr, listener = &*peer.listener, "closed without a byte"),
            Ok(Err(Some(failed))) => self.tell(peer, &failed),
            Err(_) => self.tell(peer, &Failed::new(TlsFailure::Timeout, "no TLS handshake in time")),
        }
        None
    }

    fn tell(&self, peer: &Peer, failed: &Failed) {
        self.metrics.tls_failed(failed.failure);
        let (reason, words) = (failed.failure.text(), &failed.words);
        info!(remote = %peer.addr, listener = &*peer.listener, reason, "no TLS connection: {words}");
    }

    /// `Err(None)`: it left without a byte, as health checks do. Until the first one is there, nothing of TLS is in memory.
    async fn handshake(&self, stream: Prompt) -> Result<TlsStream<Prompt>, Option<Failed>> {
        match stream.first_byte().await {
            Ok(Some(HANDSHAKE)) => {}
            Ok(Some(first)) => {
                let failed = Failed::not_tls(first);
                linger(stream).await;
                return Err(Some(failed));
            }
            Ok(None) | Err(_) => return Err(None),
        }
        let accept = self.acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFERED_MAX)));
        match Box::pin(accept.into_fallible()).await {
            Ok(stream) => Ok(stream),
            Err((error, stream)) => {
                let failed = Failed::of(&error);
                if failed.failure != TlsFailure::Closed {
                    linger(stream).await;
                }
                Err(Some(failed))
            }
        }
    }
}

/// Type of a record that begins a handshake.
const HANDSHAKE: u8 = 22;

/// Lets the peer read the alert: closing a socket that has something unread resets it, and what was sent may be lost by that.
async fn linger(mut stream: Prompt) {
    let lingering = async {
        stream.shutdown().await?;
        let mut room = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut room).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it.
    let _ = timeout(LINGER, lingering).await;
}

/// Looks whether TLS can be set up.
///
/// # Errors
/// It cannot.
pub(super) fn check(config: &ListenerTlsConfig, protocol: Protocol) -> Result<(), TlsError> {
    server_config(config, protocol).map(|_| ())
}

fn server_config(config: &ListenerTlsConfig, protocol: Protocol) -> Result<ServerConfig, TlsError> {
    let key = files::certified_key(&config.cert_file, &config.key_file)?;
    let builder = ServerConfig::builder_with_provider(files::provider()).with_safe_default_protocol_versions()?;
    let resolver = Arc::new(SingleCertAndKey::from(Arc::unwrap_or_clone(key)));
    let mut server = builder.with_no_client_auth().with_cert_resolver(resolver);
    let spoken: &[u8] = match protocol {
        Protocol::Mqtt => b"mqtt",
        Protocol::Ws => b"http/1.1",
    };
    server.alpn_protocols = vec![spoken.to_vec()];
    server.ticketer = Ticketer::new()?;
    Ok(server)
}

#[cfg(test)]
mod authority;
#[cfg(test)]
mod tests;
