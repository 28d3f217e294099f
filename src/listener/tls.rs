//! TLS of a listener: from an accepted socket to a stream that is encrypted. rustls with ring; TLS 1.2 and 1.3. Whoever does not
//! get through costs one place among the handshakes, one deadline for everything up to CONNECT, and one line of the log.
//!
//! - `setup`: what TLS goes by, from the configuration and `files`, which says what is wrong with one.
//! - `names`: whom the certificate of a client names; `failure`: why a handshake failed.

mod failure;
mod files;
mod names;
mod setup;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::Certificate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error, HandshakeKind, ServerConnection};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::socket::Prompt;
use super::stream::Stream;
use super::{Peer, Protocol};
use crate::config::ListenerTlsConfig;
use crate::metrics::{Metrics, TlsFailure};
use failure::Failed;
pub use files::TlsFileError;
use setup::Setup;
pub use setup::TlsError;

/// Encrypted bytes that wait to be sent, at most: what is behind them waits where it is counted.
const BUFFERED_MAX: usize = 32 * 1024;

/// How long somebody whose handshake failed may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read of it meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

/// TLS of one listener.
pub(super) struct Tls {
    setup: Setup,
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
        Ok(Self { setup: Setup::read(config, protocol)?, within, metrics })
    }

    /// Shakes hands, unless somebody else has to have the place. What fails is told here.
    pub(super) async fn accept(&self, stream: Prompt, peer: &mut Peer) -> Option<Stream> {
        let deadline = peer.since + self.within;
        let shaken = tokio::select! {
            biased;
            () = peer.handshake.evicted() => return None,
            shaken = timeout_at(deadline, self.handshake(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                peer.account = self.setup.account_of(session.server_name());
                peer.certificate = session.peer_certificates().and_then(|chain| named_by(chain, peer));
                return Some(Stream::Tls(Box::new(stream)));
            }
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

    /// Judges the certificate once more of a client that has come back by a ticket: TLS believes what was verified then.
    fn judge_again(&self, session: &ServerConnection) -> Result<(), CertificateError> {
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let Some(verifier) = self.setup.verifier.as_ref().filter(|_| is_resumed) else { return Ok(()) };
        let Some((certificate, chain)) = session.peer_certificates().and_then(<[_]>::split_first) else {
            return Ok(());
        };
        match verifier.verify_client_cert(certificate, chain, UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(error),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure),
        }
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
        let accept = self.setup.acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFERED_MAX)));
        match Box::pin(accept.into_fallible()).await {
            Ok(mut stream) => match self.judge_again(stream.get_ref().1) {
                Ok(()) => Ok(stream),
                Err(error) => {
                    let _ = timeout(LINGER, stream.shutdown()).await;
                    Err(Some(Failed::of_certificate(&error)))
                }
            },
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

/// Whom the certificate of a client names.
fn named_by(chain: &[CertificateDer<'_>], peer: &Peer) -> Option<Box<Certificate>> {
    let named = names::named_by(chain.first()?);
    if named.is_none() {
        info!(remote = %peer.addr, listener = &*peer.listener, "a certificate names nobody: it cannot be read");
    }
    named.map(Box::new)
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
    Setup::read(config, protocol).map(|_| ())
}

#[cfg(test)]
mod authority;
#[cfg(test)]
mod tests;
