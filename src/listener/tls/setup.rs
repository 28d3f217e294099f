//! From the configuration of a listener, and what is in its files, to what TLS goes by.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use super::super::entrance::Protocol;
use super::super::names::Names;
use super::files::{self, Certified, Own, TlsFileError};
use super::revoked::Lists;
use super::terms::Term;
use crate::config::{ClientCertificate, ListenerTlsConfig};

/// TLS cannot be set up with what a listener says.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// Something else.
    #[error("{0}")]
    Other(#[from] rustls::Error),
}

/// What TLS goes by.
pub(super) struct Setup {
    pub(super) acceptor: TlsAcceptor,
    /// Judges certificates of clients, where they are asked for one.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    certificates: Arc<Certificates>,
    /// What is revoked, by lists that count here.
    pub(super) revoked: Option<Arc<Lists>>,
    tickets: Arc<dyn ProducesTickets>,
    /// What in the files ends some time.
    pub(super) terms: Vec<Term>,
}

impl Setup {
    /// Reads the files. Tickets of `before` are taken, if there is one: whoever has such a one was verified by what still counts.
    pub(super) fn read(
        config: &ListenerTlsConfig,
        protocol: Protocol,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let (certificates, mut terms) = Certificates::read(config)?;
        let certificates = Arc::new(certificates);
        let lists = config.crl_file.as_deref().map(files::revocation_lists).transpose()?;
        let revoked = match (&config.crl_file, &lists) {
            (Some(file), Some(lists)) => Some(Arc::new(Lists::read(lists).map_err(|error| {
                TlsFileError::new("crl_file", file, format!("a list of revoked certificates cannot be read: {error}"))
            })?)),
            _ => None,
        };
        let of_lists = config.crl_file.as_deref().zip(lists.as_deref());
        terms.extend(of_lists.and_then(|(file, lists)| Term::of_lists(file, lists)));
        let verifier = verifier(config, lists)?;
        let builder = ServerConfig::builder_with_provider(files::provider()).with_safe_default_protocol_versions()?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(&certificates);
        let mut server = builder.with_cert_resolver(resolver);
        let spoken: &[u8] = match protocol {
            Protocol::Mqtt => b"mqtt",
            Protocol::Ws => b"http/1.1",
        };
        server.alpn_protocols = vec![spoken.to_vec()];
        let tickets = before.map_or_else(Ticketer::new, |before| Ok(Arc::clone(&before.tickets)))?;
        server.ticketer = Arc::clone(&tickets);
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), verifier, certificates, revoked, tickets, terms })
    }

    /// The account of a name that a client has asked for.
    pub(super) fn account_of(&self, name: Option<&str>) -> Option<Arc<str>> {
        self.certificates.by_name.of(name?)?.account.clone()
    }
}

fn verifier(
    config: &ListenerTlsConfig,
    lists: Option<Vec<CertificateRevocationListDer<'static>>>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (Some(ca), true) = (&config.ca_file, config.client_certificate != ClientCertificate::None) else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in files::certificates("ca_file", ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsFileError::new("ca_file", ca, format!("a certificate cannot be used: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), files::provider());
    if let Some(lists) = lists {
        // An authority without a list in the file has revoked nothing.
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    if config.client_certificate == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    let named = config.crl_file.as_ref().map_or(("ca_file", ca), |file| ("crl_file", file));
    let built = builder.build().map_err(|error| TlsFileError::new(named.0, named.1, error))?;
    Ok(Some(built))
}

/// Our certificates, by the names that clients ask for.
#[derive(Debug)]
struct Certificates {
    usual: Certified,
    by_name: Names<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    key: Certified,
    account: Option<Arc<str>>,
}

impl Certificates {
    /// With what in the files ends some time.
    fn read(config: &ListenerTlsConfig) -> Result<(Self, Vec<Term>), TlsFileError> {
        let own = Own {
            cert: ("cert_file", &config.cert_file),
            key: ("key_file", &config.key_file),
            ocsp: ("ocsp_file", config.ocsp_file.as_deref()),
        };
        let (usual, mut terms) = files::certified(&own)?;
        let mut by_name = Vec::new();
        for sni in &config.sni {
            let own = Own {
                cert: ("sni.cert_file", &sni.cert_file),
                key: ("sni.key_file", &sni.key_file),
                ocsp: ("sni.ocsp_file", sni.ocsp_file.as_deref()),
            };
            let (key, of_name) = files::certified(&own)?;
            terms.extend(of_name);
            let named = Named { key, account: sni.account.as_deref().map(Arc::from) };
            by_name.extend(sni.names.iter().map(|name| (name.as_str(), named.clone())));
        }
        Ok((Self { usual, by_name: by_name.into_iter().collect() }, terms))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.by_name.of(name));
        Some(Arc::clone(named.map_or(&self.usual, |named| &named.key).at(UnixTime::now().as_secs())))
    }
}
