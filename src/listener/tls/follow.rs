//! The files of a listener, looked at again and again: what is new in them counts for those who come.

use std::path::PathBuf;

use crate::config::ListenerTlsConfig;
use crate::stamp::Stamp;

/// The files as they were at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Certificates and keys of ours.
    own: Vec<Stamp>,
    /// Authorities and their lists.
    of_clients: Vec<Stamp>,
}

impl Seen {
    /// Looks at them.
    pub(super) fn now(config: &ListenerTlsConfig) -> Self {
        let own = [&config.cert_file, &config.key_file];
        let of_names =
            config.sni.iter().flat_map(|sni| [&sni.cert_file, &sni.key_file].into_iter().chain(&sni.ocsp_file));
        let of_names = of_names.chain(&config.ocsp_file);
        let of_clients = config.ca_file.iter().chain(&config.crl_file);
        let stamp = |file: &PathBuf| Stamp::of(file);
        Self { own: own.into_iter().chain(of_names).map(stamp).collect(), of_clients: of_clients.map(stamp).collect() }
    }

    /// Whether who may come in is judged as before.
    pub(super) fn trusts_as(&self, other: &Self) -> bool {
        self.of_clients == other.of_clients
    }
}
