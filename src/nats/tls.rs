//! TLS towards a server, with rustls on ring.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::ConnectError;
use super::options::TlsFiles;

/// Agrees on TLS with the server of this name.
pub(crate) async fn wrap<S>(stream: S, name: &str, files: &TlsFiles) -> Result<TlsStream<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let files = files.clone();
    // Reads files.
    let config = tokio::task::spawn_blocking(move || config(&files)).await;
    let config = config.map_err(|error| ConnectError::Tls(error.to_string()))?.map_err(ConnectError::Tls)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| ConnectError::Tls(error.to_string()))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|error| {
        // What rustls says is said inside an I/O error; the network's own errors pass by.
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>());
        if is_tls { ConnectError::Tls(error.to_string()) } else { error.into() }
    })
}

fn config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(files.ca.as_deref())?);
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let certificates = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
            builder.with_client_auth_cert(certificates, key).map_err(|error| named(cert, &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| named(file, &error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if let (0, Some(error)) = (added, found.errors.first()) {
                return Err(format!("the certificates of the system cannot be read: {error}"));
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| named(file, &error))?;
    if all.is_empty() { Err(format!("{}: there is no certificate in it", file.display())) } else { Ok(all) }
}

fn named(file: &Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
