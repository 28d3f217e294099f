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
    /// Authorities that certificates of clients are signed by, as PEM.
    pub ca_file: Option<PathBuf>,
    /// What those authorities have revoked, as PEM.
    pub crl_file: Option<PathBuf>,
    /// What the authority of our certificate says of it (OCSP, DER), which clients that ask for it are given.
    pub ocsp_file: Option<PathBuf>,
    /// Whether clients are asked for a certificate. Default `none`.
    pub client_certificate: ClientCertificate,
    /// Certificates for other names.
    pub sni: Vec<SniConfig>,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// No.
    #[default]
    None,
    /// Yes, and whoever has none goes on without.
    Optional,
    /// Yes, and whoever has none does not get in.
    Required,
}

/// A certificate for clients that ask for one of these names (SNI).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SniConfig {
    /// The names; `*.example.org` is every name with one label more.
    pub names: Vec<String>,
    /// The certificate with its chain, as PEM.
    pub cert_file: PathBuf,
    /// Its key, as PEM.
    pub key_file: PathBuf,
    /// What its authority says of it (OCSP, DER).
    pub ocsp_file: Option<PathBuf>,
    /// Stands in place of the listener's `auth.account`.
    pub account: Option<String>,
}

impl ListenerTlsConfig {
    /// Looks whether everything is named that is needed. What is in the files, reading them tells.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_pairs()?;
        let asks = self.client_certificate != ClientCertificate::None;
        match (asks, &self.ca_file, &self.crl_file) {
            (true, None, _) => Err("client_certificate needs ca_file: who has signed those of clients".to_owned()),
            (false, Some(_), _) => Err(r#"ca_file has no meaning while no client is asked for a certificate: write client_certificate = "optional" or "required""#.to_owned()),
            (false, _, Some(_)) => Err("crl_file has no meaning while no client is asked for a certificate: write client_certificate and ca_file".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_pairs(&self) -> Result<(), String> {
        let own = [("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        let of_names =
            self.sni.iter().flat_map(|sni| [("sni.cert_file", &sni.cert_file), ("sni.key_file", &sni.key_file)]);
        for (key, file) in own.into_iter().chain(of_names) {
            if file.as_os_str().is_empty() {
                return Err(format!("{key} is missing: a certificate and its key are needed, each a file of PEM"));
            }
        }
        if self.sni.iter().any(|sni| sni.account.as_ref().is_some_and(String::is_empty)) {
            return Err("sni.account is empty: name an account, or leave it out".to_owned());
        }
        check_hosts(self.sni.iter().map(|sni| &*sni.names))
    }
}

/// Looks whether these are names of hosts, each of them once.
pub(super) fn check_hosts<'a>(all: impl Iterator<Item = &'a [String]>) -> Result<(), String> {
    let mut seen = Vec::new();
    for names in all {
        if names.is_empty() {
            return Err(r#"sni.names is missing: write the names that it is for, as in ["t2.example"]"#.to_owned());
        }
        for name in names {
            let plain = name.strip_prefix("*.").unwrap_or(name);
            let is_name = !plain.is_empty()
                && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            if !is_name {
                return Err(format!("sni.names: {name:?} is no host name, nor \"*.\" and one"));
            }
            let name = name.to_ascii_lowercase();
            if seen.contains(&name) {
                return Err(format!("sni.names: {name:?} stands there twice"));
            }
            seen.push(name);
        }
    }
    Ok(())
}
