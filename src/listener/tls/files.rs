//! What TLS needs, read from the files of a listener. Each file that is wrong is one line that says what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, InconsistentKeys};

use super::failure::told_of;

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}: {what}", file.display())]
pub struct TlsFileError {
    /// The key that names it.
    key: &'static str,
    file: PathBuf,
    what: String,
}

impl TlsFileError {
    pub(super) fn new(key: &'static str, file: &Path, what: impl fmt::Display) -> Self {
        Self { key, file: file.to_owned(), what: what.to_string() }
    }
}

/// What does the cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate with its chain and its key, from files that these keys name.
pub(super) fn certified_key(
    (of_cert, of_key): (&'static str, &'static str),
    cert: &Path,
    key: &Path,
) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let chain = certificates(of_cert, cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsFileError::new(of_key, key, "there is no private key in it (one with a passphrase is of no use)")
        }
        other => TlsFileError::new(of_key, key, told(&other)),
    })?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsFileError::new(of_key, key, format!("it is not the key of the certificate in {}", cert.display()))
        }
        rustls::Error::InvalidCertificate(error) => {
            TlsFileError::new(of_cert, cert, format!("the certificate cannot be used: {}", told_of(&error)))
        }
        error => TlsFileError::new(of_key, key, format!("the key cannot be used: {error}")),
    })?;
    Ok(Arc::new(certified))
}

/// All certificates of a file; at least one.
pub(super) fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| TlsFileError::new(key, file, told(&error)))?;
    if all.is_empty() {
        return Err(TlsFileError::new(key, file, "there is no certificate in it"));
    }
    Ok(all)
}

/// All lists of revoked certificates of a file; at least one.
pub(super) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFileError> {
    let all = CertificateRevocationListDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| TlsFileError::new("crl_file", file, told(&error)))?;
    if all.is_empty() {
        return Err(TlsFileError::new("crl_file", file, "there is no list of revoked certificates (X509 CRL) in it"));
    }
    Ok(all)
}

/// What is wrong with a file, without anything of what is in it: that may be a key.
fn told(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is nothing of PEM in it".to_owned(),
        _ => "it is no PEM: a section is cut off, or not Base64".to_owned(),
    }
}
