//! Networks of addresses, as lists of CIDRs.

use std::net::IpAddr;
use std::str::FromStr;

use mqtt_access::Network;
use serde::{Deserialize, Deserializer, de};

/// A list of networks, such as `["10.0.0.0/8", "2001:db8::/32"]`; an address alone is the network of just that one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// There is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| network(text)).collect::<Result<_, _>>().map(Self).map_err(de::Error::custom)
    }
}

fn network(text: &str) -> Result<Network, String> {
    let whole = IpAddr::from_str(text).map(|addr| format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 }));
    let network = whole.as_deref().unwrap_or(text).parse();
    network.map_err(|_| format!("{text:?} is not a network: write one as in \"10.0.0.0/8\" or \"2001:db8::/32\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_single_addresses() {
        let list = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"];
        let networks = Networks(list.iter().map(|text| network(text).unwrap()).collect());
        for (addr, expected) in [
            ("10.1.2.3", true),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::9", true),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(networks.contains(addr.parse().unwrap()), expected, "{addr}");
        }
        for text in ["", "10.0.0.0/33", "example.org", "10.0.0.0 /8", "10.0.0.1:80"] {
            assert!(network(text).unwrap_err().contains("is not a network"), "{text}");
        }
    }
}
