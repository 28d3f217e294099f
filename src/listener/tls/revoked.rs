//! Certificates of clients that are revoked, for whoever judges those again who are connected.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use mqtt_access::CertificateId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::crl::CertificateList;
use x509_cert::der::{self, Decode, Encode};

/// Serial numbers, by the authority that has revoked them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lists(HashMap<Box<[u8]>, HashSet<Box<[u8]>>>);

impl Lists {
    /// Out of lists as they are in files.
    pub(super) fn read(lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, der::Error> {
        let mut read = Self::default();
        for list in lists {
            let list = CertificateList::from_der(list)?.tbs_cert_list;
            let revoked = read.0.entry(list.issuer.to_der()?.into()).or_default();
            let all = list.revoked_certificates.iter().flatten();
            revoked.extend(all.map(|one| Box::<[u8]>::from(one.serial_number.as_bytes())));
        }
        Ok(read)
    }

    fn has(&self, id: &CertificateId) -> bool {
        self.0.get(&id.issuer).is_some_and(|serials| serials.contains(&id.serial))
    }
}

/// What lists would call these certificates by. One that cannot be read is in none.
pub(super) fn ids_of(chain: &[CertificateDer<'_>]) -> Arc<[CertificateId]> {
    let id = |der: &CertificateDer<'_>| {
        let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
        let issuer = certificate.issuer.to_der().ok()?.into();
        Some(CertificateId { issuer, serial: certificate.serial_number.as_bytes().into() })
    };
    chain.iter().filter_map(id).collect()
}

/// What is revoked, of all listeners.
#[derive(Debug, Default)]
pub struct Revocations {
    /// By the TLS that has read it.
    of_tls: Mutex<HashMap<u64, Arc<Lists>>>,
    changes: watch::Sender<u64>,
}

impl Revocations {
    /// Takes what is revoked by one TLS now.
    pub(super) fn put(&self, tls: u64, lists: Arc<Lists>) {
        let mut of_tls = self.of_tls.lock();
        if of_tls.get(&tls) == Some(&lists) {
            return;
        }
        of_tls.insert(tls, lists);
        drop(of_tls);
        self.changes.send_modify(|version| *version += 1);
    }

    /// Nobody comes by that TLS any more.
    pub(super) fn forget(&self, tls: u64) {
        self.of_tls.lock().remove(&tls);
    }

    /// Whether nothing is revoked.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of_tls.lock().is_empty()
    }

    #[cfg(test)]
    pub(crate) fn put_one(&self, id: &CertificateId) {
        let one = [(id.issuer.clone(), [id.serial.clone()].into_iter().collect())];
        self.put(u64::MAX, Arc::new(Lists(one.into_iter().collect())));
    }

    /// Whether one of these is revoked.
    #[must_use]
    pub fn has_one_of(&self, certificates: &[CertificateId]) -> bool {
        let of_tls = self.of_tls.lock();
        certificates.iter().any(|id| of_tls.values().any(|lists| lists.has(id)))
    }

    /// Changes whenever something may be revoked that was not.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
