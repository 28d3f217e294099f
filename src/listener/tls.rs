//! TLS of a listener: from an accepted socket to a stream that is encrypted. rustls with ring; TLS 1.2 and 1.3. Whoever does not
//! get through costs one place among the handshakes, one deadline for everything up to CONNECT, and one line of the log.
//!
//! - `setup`: what TLS goes by, from the configuration and `files`, which says what is wrong with one.
//! - `follow`: whether files are others than before; `revoked`: certificates that are; `terms`: until when they count; `published`:
//!   what of that counts beyond the listener.
//! - `names`: whom the certificate of a client names; `failure`: why a handshake failed.

mod failure;
mod files;
mod follow;
mod names;
mod published;
mod revoked;
mod setup;
mod terms;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::Certificate;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error, HandshakeKind, ServerConnection};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::socket::Prompt;
use super::stream::Stream;
use super::{Entrance, Peer, Protocol};
use crate::config::ListenerTlsConfig;
use crate::metrics::{Metrics, TlsFailure};
use failure::Failed;
pub use files::TlsFileError;
use follow::Seen;
pub(super) use published::Published;
pub use revoked::Revocations;
use setup::Setup;
pub use setup::TlsError;
use terms::Told;

/// Encrypted bytes that wait to be sent, at most: what is behind them waits where it is counted.
const BUFFERED_MAX: usize = 32 * 1024;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long somebody whose handshake failed may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read of it meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

/// TLS of one listener.
pub(super) struct Tls {
    entrance: Arc<Entrance>,
    config: ListenerTlsConfig,
    /// The files as they were at first.
    seen: Seen,
    /// As they were read last.
    setup: RwLock<Arc<Setup>>,
    revocations: Arc<Revocations>,
    /// From accept to CONNECT.
    within: Duration,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads what is in the files. Nothing is different for anybody yet.
    pub(super) fn new(
        entrance: Arc<Entrance>,
        config: &ListenerTlsConfig,
        within: Duration,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
    ) -> Result<Self, TlsError> {
        // What changes while it is read is for the first look to notice.
        let seen = Seen::now(config);
        let setup = Setup::read(config, entrance.protocol, None)?;
        let (config, setup) = (config.clone(), RwLock::new(Arc::new(setup)));
        Ok(Self { entrance, config, seen, setup, revocations, within, metrics })
    }

    /// The listener runs: what it has read counts beyond it, until what this returns is dropped.
    pub(super) fn publish(&self) -> Published {
        let published = Published::new(&self.entrance.name, &self.revocations, &self.metrics);
        published.say(&self.setup());
        published
    }

    fn take(&self, setup: Setup, published: &Published) {
        let setup = Arc::new(setup);
        *self.setup.write() = Arc::clone(&setup);
        // Behind it: whoever has come in by the setup before is judged again now.
        published.say(&setup);
    }

    /// Says what has ended or is about to.
    fn warn_of(&self, told: &mut Told) {
        let setup = self.setup();
        let due = told.due(&setup.terms, UnixTime::now().as_secs());
        due.iter().for_each(|warning| warn!(listener = &*self.entrance.name, "tls: {warning}"));
    }

    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setup.read())
    }

    /// Looks at the files again and again. What is new in them counts for whoever comes then; what cannot be used leaves
    /// everything as it was. Never ends.
    pub(super) async fn follow(self: Arc<Self>, published: Published) {
        let (mut taken, mut wrong) = (self.seen.clone(), None);
        let mut told = Told::default();
        loop {
            self.warn_of(&mut told);
            tokio::time::sleep(LOOK_EVERY).await;
            let (seen, read) = self.look(&taken).await;
            match read {
                None => wrong = None,
                Some(Ok(setup)) => {
                    self.take(setup, &published);
                    info!(listener = &*self.entrance.name, "the files of TLS were read again");
                    (taken, wrong) = (seen, None);
                }
                // Files that go together are replaced one after the other: a second look tells.
                Some(Err(_)) if wrong.as_ref() != Some(&seen) => wrong = Some(seen),
                Some(Err(error)) => {
                    warn!(listener = &*self.entrance.name, "TLS goes on as it was: {error}");
                    (taken, wrong) = (seen, None);
                }
            }
        }
    }

    /// How the files are, and what is in them where that is not as it was.
    async fn look(self: &Arc<Self>, taken: &Seen) -> (Seen, Option<Result<Setup, TlsError>>) {
        let (tls, taken) = (Arc::clone(self), taken.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let seen = Seen::now(&tls.config);
            if seen == taken {
                return (seen, None);
            }
            let before = tls.setup();
            // A ticket says that somebody was verified.
            let keeps_tickets = seen.trusts_as(&taken);
            let read = Setup::read(&tls.config, tls.entrance.protocol, keeps_tickets.then_some(&*before));
            (seen, Some(read))
        });
        match looking.await {
            Ok(found) => found,
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// Shakes hands, unless somebody else has to have the place. What fails is told here.
    pub(super) async fn accept(&self, stream: Prompt, peer: &mut Peer) -> Option<Stream> {
        let (deadline, setup) = (peer.since + self.within, self.setup());
        let shaken = tokio::select! {
            biased;
            () = peer.handshake.evicted() => return None,
            shaken = timeout_at(deadline, handshake(stream, &setup)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                // What a proxy has said stands where nothing else is known.
                peer.account = setup.account_of(session.server_name()).or(peer.account.take());
                let shown = session.peer_certificates().and_then(|chain| self.named_by(chain, peer));
                peer.certificate = shown.or(peer.certificate.take());
                return Some(Stream::Tls(stream));
            }
            Ok(Err(Refused::Silent)) => {
                debug!(remote = %peer.addr, listener = &*peer.entrance.name, "closed without a byte");
            }
            Ok(Err(Refused::Failed(failed, stream))) => {
                self.tell(peer, &failed);
                if let Some(stream) = stream {
                    tokio::select! {
                        () = peer.handshake.evicted() => {}
                        () = linger(stream) => {}
                    }
                }
            }
            Err(_) => self.tell(peer, &Failed::new(TlsFailure::Timeout, "no TLS handshake in time")),
        }
        None
    }

    /// Whom the certificate of a client names.
    fn named_by(&self, chain: &[CertificateDer<'_>], peer: &Peer) -> Option<Box<Certificate>> {
        let Some(named) = names::named_by(chain.first()?) else {
            info!(remote = %peer.addr, listener = &*peer.entrance.name, "a certificate names nobody: it cannot be read");
            return None;
        };
        let may_be_revoked = self.config.crl_file.is_some();
        Some(Box::new(if may_be_revoked { named.with_chain(revoked::ids_of(chain)) } else { named }))
    }

    fn tell(&self, peer: &Peer, failed: &Failed) {
        self.metrics.tls_failed(failed.failure);
        let (reason, words) = (failed.failure.text(), &failed.words);
        info!(remote = %peer.addr, listener = &*peer.entrance.name, reason, "no TLS connection: {words}");
    }
}

/// Why there is no TLS connection.
enum Refused {
    /// It left without a byte, as health checks do.
    Silent,
    /// The handshake failed; the peer may still read why.
    Failed(Failed, Option<Stream>),
}

/// Shakes hands. Until the first byte is there, nothing of TLS is in memory.
async fn handshake(stream: Prompt, setup: &Setup) -> Result<Box<TlsStream<Prompt>>, Refused> {
    match stream.first_byte().await {
        Ok(Some(HANDSHAKE)) => {}
        Ok(Some(first)) => return Err(Refused::Failed(Failed::not_tls(first), Some(Stream::Plain(stream)))),
        Ok(None) | Err(_) => return Err(Refused::Silent),
    }
    let accept = setup.acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFERED_MAX)));
    match Box::pin(accept.into_fallible()).await {
        Ok(stream) => match judge_again(setup, stream.get_ref().1) {
            Ok(()) => Ok(Box::new(stream)),
            Err(error) => Err(Refused::Failed(Failed::of_certificate(&error), Some(Stream::Tls(Box::new(stream))))),
        },
        Err((error, stream)) => {
            let failed = Failed::of(&error);
            let is_there = failed.failure != TlsFailure::Closed;
            Err(Refused::Failed(failed, is_there.then_some(Stream::Plain(stream))))
        }
    }
}

/// Judges the certificate once more of a client that has come back by a ticket: TLS believes what was verified then.
fn judge_again(setup: &Setup, session: &ServerConnection) -> Result<(), CertificateError> {
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let Some(verifier) = setup.verifier.as_ref().filter(|_| is_resumed) else { return Ok(()) };
    let Some((certificate, chain)) = session.peer_certificates().and_then(<[_]>::split_first) else { return Ok(()) };
    match verifier.verify_client_cert(certificate, chain, UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(Error::InvalidCertificate(error)) => Err(error),
        Err(_) => Err(CertificateError::ApplicationVerificationFailure),
    }
}

/// Type of a record that begins a handshake.
const HANDSHAKE: u8 = 22;

/// Lets the peer read the alert: closing a socket that has something unread resets it, and what was sent may be lost by that.
async fn linger(mut stream: Stream) {
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
    Setup::read(config, protocol, None).map(|_| ())
}

#[cfg(test)]
mod authority;
#[cfg(test)]
mod tests;
