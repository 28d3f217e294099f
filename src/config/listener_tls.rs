//! `[listeners.….tls]`: with it a listener is TLS.

use std::path::PathBuf;

use serde::Deserialize;

/// `tls` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenerTlsConfig {
    /// Our certificate, and behind it those that lead to an authority, as PEM.
    pub cert_file: PathBuf,
    /// The key of the certificate, as PEM, without a passphrase.
    pub key_file: PathBuf,
}

impl ListenerTlsConfig {
    /// Looks whether everything is named that is needed. What is in the files, reading them tells.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, file) in [("cert_file", &self.cert_file), ("key_file", &self.key_file)] {
            if file.as_os_str().is_empty() {
                return Err(format!("{key} is missing: a certificate and its key are needed, each a file of PEM"));
            }
        }
        Ok(())
    }
}
