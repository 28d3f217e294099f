//! `[listeners.….proxy_protocol]`: the proxies before a listener.

use serde::Deserialize;

use super::Networks;
use super::listener_tls::check_hosts;

/// `proxy_protocol` of a listener: with it every connection begins with a header of the PROXY protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProxyProtocolConfig {
    /// The addresses of the proxies. Nobody else gets in by this listener.
    pub trusted: Networks,
    /// What a proxy says of certificates of clients that counts. Default `none`.
    pub identity: ProxyIdentity,
    /// Accounts, by the host that clients have asked the proxy for.
    pub sni: Vec<ProxySniConfig>,
}

/// Which identity of a client is taken from a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyIdentity {
    /// None.
    #[default]
    None,
    /// The common name of a client certificate that the proxy has verified.
    Cn,
}

/// The account of clients that ask for one of these names (`PP2_TYPE_AUTHORITY`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProxySniConfig {
    /// The names; `*.example.org` is every name with one label more.
    pub names: Vec<String>,
    /// Stands in place of the listener's `auth.account`.
    pub account: String,
}

impl ProxyProtocolConfig {
    /// Looks whether it can be so, at a listener that is a Unix socket or asks clients for certificates itself, or not.
    pub(super) fn check(&self, is_unix: bool, asks: bool) -> Result<(), String> {
        match (is_unix, self.trusted.is_empty()) {
            (false, true) => {
                return Err(
                    r#"trusted is missing: write the addresses of the proxies, as in ["10.0.0.0/8"]"#.to_owned()
                );
            }
            (true, false) => {
                return Err(
                    "trusted has no meaning at a Unix socket: whoever may open it is trusted, as mode and group say"
                        .to_owned(),
                );
            }
            _ => {}
        }
        if asks && self.identity != ProxyIdentity::None {
            return Err(
                "identity and client_certificate of tls exclude each other: one certificate says who a client is"
                    .to_owned(),
            );
        }
        if self.sni.iter().any(|sni| sni.account.is_empty()) {
            return Err("sni.account is missing: name the account of these names".to_owned());
        }
        check_hosts(self.sni.iter().map(|sni| &*sni.names))
    }
}
