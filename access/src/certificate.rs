//! Whom a client certificate names. What has verified it and read these out of it is not here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identity of a certificate: it begins with dns:, email:, uri:, subject: or cn:")]
pub struct NotAnIdentity;

/// One name in a certificate, with its kind: a DNS name is not an e-mail address of the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateIdentity {
    /// `email:`, a Subject Alternative Name.
    Email(String),
    /// `dns:`, a Subject Alternative Name, in lower case.
    Dns(String),
    /// `uri:`, a Subject Alternative Name.
    Uri(String),
    /// `subject:`, the whole subject as RFC 2253 writes it.
    Subject(String),
    /// `cn:`, the common name of the subject.
    CommonName(String),
}

impl CertificateIdentity {
    /// A DNS name. Case does not count in it.
    #[must_use]
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// The name without its kind.
    #[must_use]
    pub fn value(&self) -> &str {
        let (Self::Email(value) | Self::Dns(value) | Self::Uri(value) | Self::Subject(value) | Self::CommonName(value)) =
            self;
        value
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Email(_) => "email",
            Self::Dns(_) => "dns",
            Self::Uri(_) => "uri",
            Self::Subject(_) => "subject",
            Self::CommonName(_) => "cn",
        }
    }
}

impl FromStr for CertificateIdentity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, value) = text.split_once(':').ok_or(NotAnIdentity)?;
        if value.is_empty() {
            return Err(NotAnIdentity);
        }
        let named = value.to_owned();
        Ok(match kind {
            "email" => Self::Email(named),
            "dns" => Self::dns(value),
            "uri" => Self::Uri(named),
            "subject" => Self::Subject(named),
            "cn" => Self::CommonName(named),
            _ => return Err(NotAnIdentity),
        })
    }
}

impl fmt::Display for CertificateIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.value())
    }
}

/// What a list of revoked certificates calls one by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateId {
    /// The subject of whoever has signed it, as DER.
    pub issuer: Box<[u8]>,
    /// Its serial number, as DER has it.
    pub serial: Box<[u8]>,
}

/// A client certificate that was verified, as whom it names, in the order in which nats-server looks (`verify_and_map`):
/// e-mail, DNS and URI of the Subject Alternative Names, then the subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    identities: Vec<CertificateIdentity>,
    chain: Option<Arc<[CertificateId]>>,
}

impl Certificate {
    /// Of identities in any order.
    #[must_use]
    pub fn new(mut identities: Vec<CertificateIdentity>) -> Self {
        // The kinds are declared in that order; within one, the certificate's own holds.
        identities.sort_by_key(|identity| match identity {
            CertificateIdentity::Email(_) => 0,
            CertificateIdentity::Dns(_) => 1,
            CertificateIdentity::Uri(_) => 2,
            CertificateIdentity::Subject(_) => 3,
            CertificateIdentity::CommonName(_) => 4,
        });
        Self { identities, chain: None }
    }

    /// With what it, and those behind it, may be revoked by.
    #[must_use]
    pub fn with_chain(self, chain: Arc<[CertificateId]>) -> Self {
        Self { chain: Some(chain), ..self }
    }

    /// What it, and those behind it, may be revoked by, where that is looked at.
    #[must_use]
    pub const fn chain(&self) -> Option<&Arc<[CertificateId]>> {
        self.chain.as_ref()
    }

    /// Its identities, the first one first.
    #[must_use]
    pub fn identities(&self) -> &[CertificateIdentity] {
        &self.identities
    }

    /// Whether one of them is this one.
    #[must_use]
    pub fn is(&self, identity: &CertificateIdentity) -> bool {
        self.identities.contains(identity)
    }

    /// Whether one of them, of any kind, is a user's name.
    #[must_use]
    pub fn names(&self, user: &str) -> bool {
        !user.is_empty() && self.identities.iter().any(|identity| identity.value() == user)
    }
}

#[cfg(test)]
mod tests {
    use super::{Certificate, CertificateIdentity};

    fn identity(text: &str) -> CertificateIdentity {
        text.parse().unwrap()
    }

    #[test]
    fn identities_have_kinds() {
        for text in ["dns:lamp.example", "email:a@B.example", "uri:spiffe://x/y", "subject:CN=a,O=b", "cn:lamp"] {
            assert_eq!(identity(text).to_string(), text);
        }
        assert_eq!(identity("dns:Lamp.Example"), identity("dns:lamp.example"));
        assert_ne!(identity("cn:Lamp"), identity("cn:lamp"));
        assert_ne!(identity("cn:lamp"), identity("dns:lamp"));
        for text in ["", "lamp", "dns:", ":lamp", "DNS:lamp", "ip:10.0.0.1"] {
            assert!(text.parse::<CertificateIdentity>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_looked_at_in_nats_servers_order() {
        let all = ["cn:lamp", "uri:u", "dns:b", "subject:CN=lamp", "dns:a", "email:e"].map(identity);
        let certificate = Certificate::new(all.to_vec());
        let order: Vec<String> = certificate.identities().iter().map(ToString::to_string).collect();
        assert_eq!(order, ["email:e", "dns:b", "dns:a", "uri:u", "subject:CN=lamp", "cn:lamp"]);
        assert!(certificate.is(&identity("dns:A")) && !certificate.is(&identity("dns:e")));
        assert!(certificate.names("lamp") && !certificate.names("LAMP") && !certificate.names(""));
    }
}
