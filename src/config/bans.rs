//! `[bans]`: who may not connect, and what makes it so.

use mqtt_access::Network;
use serde::{Deserialize, Deserializer, de};

use super::Duration;

/// `[bans]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BansConfig {
    /// Bans are shared with other sidecars, by a bucket of the account of `[nats]`. Default `true`.
    pub shared: bool,
    /// `[bans.flapping]`: a client id that connects too often, after it has logged in.
    pub flapping: BanRule,
    /// `[bans.failed_logins]`: an address from which too many log in who may not.
    pub failed_logins: BanRule,
    /// `[bans.violations]`: an address from which the protocol is broken too often.
    pub violations: BanRule,
    /// `[[bans.list]]`: those whom an operator has banned.
    pub list: Vec<BanConfig>,
}

impl Default for BansConfig {
    fn default() -> Self {
        let (flapping, failed_logins, violations) = Default::default();
        Self { shared: true, flapping, failed_logins, violations, list: Vec::new() }
    }
}

/// When something has happened too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BanRule {
    /// So many times. 0 (default): never.
    pub count: u32,
    /// Within this time. Default 60 s.
    pub window: Duration,
    /// How long the ban is then. Default 10 minutes.
    pub duration: Duration,
}

impl Default for BanRule {
    fn default() -> Self {
        Self { count: 0, window: Duration::from_secs(60), duration: Duration::from_secs(600) }
    }
}

/// One of `[[bans.list]]`: exactly one of address, client id and user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BanConfig {
    /// An address, or a network such as `192.0.2.0/24`.
    #[serde(deserialize_with = "network")]
    pub address: Option<Network>,
    /// A client identifier.
    pub client_id: Option<String>,
    /// A user by its name, or by its NKey when it has none.
    pub user: Option<String>,
    /// The account of the client or user. Default: that of `[nats]`.
    pub account: String,
    /// How long, from the start on, or from a reload that has changed `[bans]`. Default: without end.
    pub duration: Option<Duration>,
}

impl BansConfig {
    /// What no key can check alone. Answers the key and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let rules = [
            ("bans.flapping", &self.flapping),
            ("bans.failed_logins", &self.failed_logins),
            ("bans.violations", &self.violations),
        ];
        for (key, rule) in rules {
            for (name, duration) in [("window", rule.window), ("duration", rule.duration)] {
                if duration.get() < std::time::Duration::from_secs(1) {
                    return Err((key, format!("{name} is too short: write \"1s\" or more")));
                }
            }
        }
        for ban in &self.list {
            let named = [ban.address.is_some(), ban.client_id.is_some(), ban.user.is_some()];
            if named.iter().filter(|is_named| **is_named).count() != 1 {
                return Err((
                    "bans.list",
                    "a ban is of exactly one of address, client_id and user: write one".to_owned(),
                ));
            }
            if [&ban.client_id, &ban.user].into_iter().flatten().any(String::is_empty) {
                return Err(("bans.list", "client_id or user is empty: write whom the ban is of".to_owned()));
            }
            if ban.address.is_some() && !ban.account.is_empty() {
                return Err(("bans.list", "an address is banned from all accounts: leave account out".to_owned()));
            }
        }
        Ok(())
    }
}

fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Network>, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_network(&text).map(Some).ok_or_else(|| {
        de::Error::custom(format!("{text:?} is no address: write one, or a network such as \"192.0.2.0/24\""))
    })
}

/// An address, or a network.
pub(crate) fn read_network(text: &str) -> Option<Network> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Some(Network::of(address, if address.to_canonical().is_ipv4() { 32 } else { 128 }));
    }
    // As every other network with these addresses.
    text.parse::<Network>().ok().map(|network| Network::of(network.address(), network.prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_of_one_thing() {
        let ban = BanConfig::default;
        let address = read_network("192.0.2.7");
        let some = || Some("x".to_owned());
        for (ban, is_right) in [
            (BanConfig { address, ..ban() }, true),
            (BanConfig { client_id: some(), account: "T1".to_owned(), ..ban() }, true),
            (BanConfig { user: some(), ..ban() }, true),
            (ban(), false),
            (BanConfig { address, user: some(), ..ban() }, false),
            (BanConfig { client_id: some(), user: some(), ..ban() }, false),
            (BanConfig { client_id: Some(String::new()), ..ban() }, false),
            (BanConfig { address, account: "T1".to_owned(), ..ban() }, false),
        ] {
            let config = BansConfig { list: vec![ban.clone()], ..BansConfig::default() };
            assert_eq!(config.check().is_ok(), is_right, "{ban:?}");
        }
        let short = BanRule { window: Duration::default(), ..BanRule::default() };
        assert!(BansConfig { violations: short, ..BansConfig::default() }.check().is_err());
    }

    #[test]
    fn addresses_and_networks() {
        for (text, expected) in [
            ("192.0.2.7", Some("192.0.2.7/32")),
            ("192.0.2.7/24", Some("192.0.2.0/24")),
            ("::ffff:192.0.2.7", Some("192.0.2.7/32")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("2001:db8::1/64", Some("2001:db8::/64")),
            ("192.0.2.0/33", None),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(read_network(text).map(|network| network.to_string()).as_deref(), expected, "{text}");
        }
    }
}
