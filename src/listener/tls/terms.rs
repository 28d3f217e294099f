//! Until when what is in the files of a listener counts, and when an operator is to be told: what has expired goes on, since a device that
//! gets in is worth more than a date, but nobody should have to find out by its being refused elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::CertificateRevocationListDer;
use x509_cert::crl::CertificateList;
use x509_cert::der::{self, Decode};

/// So long before its end it is said of a certificate of ours, which somebody has to see to: those that are renewed by a program are so a
/// month before.
const SOON_S: u64 = 14 * 24 * 60 * 60;

/// Something in a file that counts until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// The key that names the file.
    pub(super) key: &'static str,
    file: PathBuf,
    kind: Kind,
    /// Seconds since 1970.
    pub(super) until_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Certificate,
    RevocationList,
    Ocsp,
}

impl Term {
    /// That of a certificate of ours. One that cannot be read says nothing.
    pub(super) fn of_certificate(key: &'static str, file: &Path, certificate: &[u8]) -> Option<Self> {
        let validity = x509_cert::Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
        let until_s = validity.not_after.to_unix_duration().as_secs();
        Some(Self { key, file: file.to_owned(), kind: Kind::Certificate, until_s })
    }

    /// That of the list among these which is to be followed first.
    pub(super) fn of_lists(file: &Path, lists: &[CertificateRevocationListDer<'_>]) -> Option<Self> {
        let next = |list: &CertificateRevocationListDer<'_>| {
            let next = CertificateList::from_der(list).ok()?.tbs_cert_list.next_update?;
            Some(next.to_unix_duration().as_secs())
        };
        let until_s = lists.iter().filter_map(next).min()?;
        Some(Self { key: "crl_file", file: file.to_owned(), kind: Kind::RevocationList, until_s })
    }

    /// That of an OCSP response.
    pub(super) fn of_ocsp(key: &'static str, file: &Path, until_s: u64) -> Self {
        Self { key, file: file.to_owned(), kind: Kind::Ocsp, until_s }
    }

    fn stage(&self, now_s: u64) -> Stage {
        match self.kind {
            _ if self.until_s <= now_s => Stage::Over,
            Kind::Certificate if self.until_s <= now_s.saturating_add(SOON_S) => Stage::Soon,
            _ => Stage::Fine,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Fine,
    Soon,
    Over,
}

/// What was said of the terms of a listener, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(Term, Stage)>);

impl Told {
    /// What is to be said now. Terms that were replaced are begun anew.
    pub(super) fn due<'t>(&mut self, terms: &'t [Term], now_s: u64) -> Vec<Warning<'t>> {
        let said = |term: &Term, told: &Self| told.0.iter().find(|(other, _)| other == term).map(|(_, stage)| *stage);
        let stages: Vec<_> = terms.iter().map(|term| (term.clone(), term.stage(now_s))).collect();
        let all = terms.iter().zip(&stages);
        let due = all.filter(|(term, (_, stage))| *stage > said(term, self).unwrap_or_default());
        let due = due.map(|(term, (_, stage))| Warning { term, is_over: *stage == Stage::Over, now_s }).collect();
        self.0 = stages;
        due
    }
}

/// What an operator is to see to.
#[derive(Debug)]
pub(super) struct Warning<'t> {
    term: &'t Term,
    is_over: bool,
    now_s: u64,
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Term { key, file, kind, until_s } = self.term;
        write!(f, "{key}: {}: ", file.display())?;
        let days = until_s.saturating_sub(self.now_s) / (24 * 60 * 60);
        match (kind, self.is_over) {
            (Kind::Certificate, true) => {
                f.write_str("the certificate has expired: clients refuse it, put a new one in its place")
            }
            (Kind::Certificate, false) => {
                write!(f, "the certificate expires in {days} days: put a new one in its place")
            }
            (Kind::RevocationList, _) => {
                f.write_str("a list has expired: what it revokes still is, newer revocations are missing")
            }
            (Kind::Ocsp, _) => f.write_str("the response has expired: it is not sent any more"),
        }
    }
}

/// Until when an OCSP response counts, out of a file in DER. `None`: it does not say.
pub(super) fn ocsp_until_s(response: &[u8]) -> Result<Option<u64>, String> {
    use x509_ocsp::{BasicOcspResponse, OcspResponse, OcspResponseStatus};
    let cannot = |error: der::Error| format!("no OCSP response in DER: {error}");
    let response = OcspResponse::from_der(response).map_err(cannot)?;
    let bytes = match (response.response_status, response.response_bytes) {
        (OcspResponseStatus::Successful, Some(bytes)) => bytes.response,
        (status, _) => return Err(format!("the responder has refused: {status:?}")),
    };
    let basic = BasicOcspResponse::from_der(bytes.as_bytes()).map_err(cannot)?;
    let next = basic.tbs_response_data.responses.iter().filter_map(|one| one.next_update);
    Ok(next.map(|time| time.0.to_unix_duration().as_secs()).min())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(kind: Kind, until_s: u64) -> Term {
        Term { key: "cert_file", file: "server.pem".into(), kind, until_s }
    }

    fn said(told: &mut Told, terms: &[Term], now_s: u64) -> Vec<String> {
        told.due(terms, now_s).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_is_said_once_and_again_of_what_takes_its_place() {
        let (mut told, end) = (Told::default(), 100 * SOON_S);
        let terms = [term(Kind::Certificate, end), term(Kind::RevocationList, end)];
        assert!(said(&mut told, &terms, end - SOON_S - 1).is_empty());
        let soon = said(&mut told, &terms, end - SOON_S);
        assert_eq!(soon, ["cert_file: server.pem: the certificate expires in 14 days: put a new one in its place"]);
        assert!(said(&mut told, &terms, end - 1).is_empty());
        assert_eq!(said(&mut told, &terms, end).len(), 2);
        assert!(said(&mut told, &terms, end + SOON_S).is_empty());
        let renewed = [term(Kind::Certificate, end + SOON_S), term(Kind::RevocationList, end)];
        assert_eq!(said(&mut told, &renewed, end + 1).len(), 1, "of the new one, that it ends soon too");
    }

    #[test]
    fn a_clock_before_1970_or_a_date_without_end_says_nothing() {
        let terms = [term(Kind::Certificate, u64::MAX), term(Kind::Ocsp, u64::MAX)];
        for now_s in [0, u64::MAX - 1 - SOON_S] {
            assert!(said(&mut Told::default(), &terms, now_s).is_empty());
        }
    }

    #[test]
    fn what_is_no_ocsp_response_is_refused() {
        assert!(ocsp_until_s(b"").unwrap_err().contains("no OCSP response"));
        // unauthorized (6), without more.
        let refused = ocsp_until_s(&[0x30, 0x03, 0x0a, 0x01, 0x06]).unwrap_err();
        assert!(refused.contains("refused"), "{refused}");
    }
}
