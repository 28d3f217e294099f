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
use super::terms::{self, Term};

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

/// Where a certificate is, and the keys that say so.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) cert: (&'static str, &'a Path),
    pub(super) key: (&'static str, &'a Path),
    pub(super) ocsp: (&'static str, Option<&'a Path>),
}

/// A certificate with its chain and its key.
#[derive(Clone, Debug)]
pub(super) struct Certified {
    plain: Arc<CertifiedKey>,
    stapled: Option<Stapled>,
}

/// The same with what its authority says of it.
#[derive(Clone, Debug)]
struct Stapled {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    until_s: Option<u64>,
}

impl Certified {
    /// As it is shown at a time. With an old response clients would take the certificate for one that may be revoked: it is left out.
    pub(super) fn at(&self, now_s: u64) -> &Arc<CertifiedKey> {
        let counts = |stapled: &&Stapled| stapled.until_s.is_none_or(|until_s| until_s > now_s);
        self.stapled.as_ref().filter(counts).map_or(&self.plain, |stapled| &stapled.key)
    }
}

/// What is in the files of a certificate, with what ends some time.
pub(super) fn certified(own: &Own<'_>) -> Result<(Certified, Vec<Term>), TlsFileError> {
    let ((of_cert, cert), (of_key, key), (of_ocsp, ocsp)) = (own.cert, own.key, own.ocsp);
    let chain = certificates(of_cert, cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsFileError::new(of_key, key, "there is no private key in it (one with a passphrase is of no use)")
        }
        other => TlsFileError::new(of_key, key, told(&other)),
    })?;
    let plain = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsFileError::new(of_key, key, format!("it is not the key of the certificate in {}", cert.display()))
        }
        rustls::Error::InvalidCertificate(error) => {
            TlsFileError::new(of_cert, cert, format!("the certificate cannot be used: {}", told_of(&error)))
        }
        error => TlsFileError::new(of_key, key, format!("the key cannot be used: {error}")),
    })?;
    let first = plain.cert.first();
    let mut terms: Vec<_> = first.and_then(|first| Term::of_certificate(of_cert, cert, first)).into_iter().collect();
    let mut stapled = None;
    if let Some(file) = ocsp {
        let wrong = |what: String| TlsFileError::new(of_ocsp, file, what);
        let response = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let until_s = terms::ocsp_until_s(&response).map_err(wrong)?;
        terms.extend(until_s.map(|until_s| Term::of_ocsp(of_ocsp, file, until_s)));
        let key = Arc::new(CertifiedKey { ocsp: Some(response), ..plain.clone() });
        stapled = Some(Stapled { key, until_s });
    }
    Ok((Certified { plain: Arc::new(plain), stapled }, terms))
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

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;

    use super::*;

    #[test]
    fn a_response_is_shown_until_its_second_and_no_longer() {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let plain = CertifiedKey::new(Vec::new(), key);
        let shown = |until_s: Option<u64>, now_s: u64| {
            let key = Arc::new(CertifiedKey { ocsp: Some(b"good".to_vec()), ..plain.clone() });
            let certified = Certified { plain: Arc::new(plain.clone()), stapled: Some(Stapled { key, until_s }) };
            certified.at(now_s).ocsp.is_some()
        };
        assert!(shown(Some(100), 99) && shown(None, u64::MAX));
        assert!(!shown(Some(100), 100) && !shown(Some(100), u64::MAX));
    }
}
