//! TLS towards brokers that are to speak it: an authority, a certificate for them, and clients that trust it.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Who the broker is, and how clients connect.
pub(crate) struct Encryption {
    certificate: String,
    key: String,
    connector: TlsConnector,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encryption")
    }
}

impl Encryption {
    /// A new authority, and a certificate of it for this machine (P-256). Clients resume the TLS of an earlier connection where
    /// they may, or begin anew each time.
    pub(crate) fn new(resumes: bool) -> Result<Self, String> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|e| e.to_string())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = || KeyPair::generate().map_err(|e| e.to_string());
        let authority = CertifiedIssuer::self_signed(params, own()?).map_err(|e| e.to_string())?;
        let key = own()?;
        let server = CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()]).map_err(|e| e.to_string())?;
        let certificate = server.signed_by(&key, &authority).map_err(|e| e.to_string())?;
        let mut trusted = RootCertStore::empty();
        trusted.add(authority.der().clone()).map_err(|e| e.to_string())?;
        let mut config = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Self {
            certificate: certificate.pem() + &authority.pem(),
            key: key.serialize_pem(),
            connector: Arc::new(config).into(),
        })
    }

    /// The certificate of a broker with its chain, and its key, as PEM.
    pub(crate) fn of_broker(&self) -> (&str, &str) {
        (&self.certificate, &self.key)
    }

    async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST)), stream).await
    }
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Of a socket that is connected.
    pub(crate) async fn new(socket: TcpStream, encryption: Option<&Encryption>) -> io::Result<Self> {
        Ok(match encryption {
            None => Self::Plain(socket),
            Some(encryption) => Self::Tls(Box::new(encryption.connect(socket).await?)),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
