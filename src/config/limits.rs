//! `[limits]`, and `limits` of a listener: how many may connect, how often, and how much each may send.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::units::{ByteRate, ByteSize, Rate};
use crate::rate::Allowance;

/// `[limits]`, for all listeners together, and `limits` of one. What is absent from that of a listener is as in `[limits]`; 0
/// there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Connections. In `[limits]` 0 (default) is what the limit of open files leaves. That of a listener counts beside it.
    pub connections: Option<u32>,
    /// Connections of one address, of IPv6 one network of 64 bits. Default: no limit, since a plant or a carrier may have all its
    /// devices behind one. Those of a listener that has its own are counted there only.
    pub connections_per_address: Option<u32>,
    /// Connections of one user of an account. Default: no limit.
    pub connections_per_user: Option<u32>,
    /// Connections that are taken in a second. Default: no limit.
    pub connection_rate: Option<Rate>,
    /// How many of them may come at once. Default: what a second brings.
    pub connection_burst: Option<u32>,
    /// The same of one address, of IPv6 one network of 64 bits. Default: no limit.
    pub connection_rate_per_address: Option<Rate>,
    /// How many of them may come at once. Default: what a second brings.
    pub connection_burst_per_address: Option<u32>,
    /// Messages that one client may publish in a second; what is beyond is read later. Default: no limit.
    pub message_rate: Option<Rate>,
    /// How many of them may come at once. Default: what a second brings.
    pub message_burst: Option<u32>,
    /// Bytes that one client may send in a second; what is beyond is read later. Default: no limit.
    pub byte_rate: Option<ByteRate>,
    /// How many of them may come at once. Default: what a second brings.
    pub byte_burst: Option<ByteSize>,
    /// Messages that all clients of one user may publish in a second together; what is beyond is read later. Default: no limit. This
    /// and what follows is of all listeners, and none has one of its own.
    pub message_rate_per_user: Option<Rate>,
    /// How many of them may come at once. Default: what a second brings.
    pub message_burst_per_user: Option<u32>,
    /// Bytes that all clients of one user may send in a second together. Default: no limit.
    pub byte_rate_per_user: Option<ByteRate>,
    /// How many of them may come at once. Default: what a second brings.
    pub byte_burst_per_user: Option<ByteSize>,
    /// Messages that all clients of one account may publish in a second together. Default: no limit.
    pub message_rate_per_account: Option<Rate>,
    /// How many of them may come at once. Default: what a second brings.
    pub message_burst_per_account: Option<u32>,
    /// Bytes that all clients of one account may send in a second together. Default: no limit.
    pub byte_rate_per_account: Option<ByteRate>,
    /// How many of them may come at once. Default: what a second brings.
    pub byte_burst_per_account: Option<ByteSize>,
}

/// Rates that several clients share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommonLimits {
    /// Messages and bytes of all clients of one user.
    pub of_user: [Option<Allowance>; 2],
    /// Messages and bytes of all clients of one account.
    pub of_account: [Option<Allowance>; 2],
}

/// What counts: nothing is absent any more, and `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// See [`LimitsConfig::connections`].
    pub connections: Option<u32>,
    /// See [`LimitsConfig::connections_per_address`].
    pub connections_per_address: Option<u32>,
    /// See [`LimitsConfig::connections_per_user`].
    pub connections_per_user: Option<u32>,
    /// See [`LimitsConfig::connection_rate`].
    pub connection_rate: Option<Allowance>,
    /// See [`LimitsConfig::connection_rate_per_address`].
    pub connection_rate_per_address: Option<Allowance>,
    /// See [`LimitsConfig::message_rate`].
    pub message_rate: Option<Allowance>,
    /// See [`LimitsConfig::byte_rate`].
    pub byte_rate: Option<Allowance>,
    /// What the listener counts by itself.
    pub scopes: Scopes,
}

/// What a listener counts by itself, since it has a limit or a burst of its own; everything else is counted of all listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Connections of an address.
    pub per_address: bool,
    /// Connections that are taken.
    pub rate: bool,
    /// The same of an address.
    pub rate_per_address: bool,
}

/// A rate and a burst as they are written.
type Written = (Option<u64>, Option<u64>);

impl LimitsConfig {
    /// What counts at a listener that says this, beside `[limits]`.
    #[must_use]
    pub fn over(&self, all: &Self) -> Limits {
        let count = |own: Option<u32>, all: Option<u32>| own.or(all).filter(|most| *most > 0);
        let [connection, per_address, message, byte] = self.rates();
        let [of_all, per_address_of_all, message_of_all, byte_of_all] = all.rates();
        Limits {
            connections: self.connections.filter(|most| *most > 0),
            connections_per_address: count(self.connections_per_address, all.connections_per_address),
            connections_per_user: count(self.connections_per_user, all.connections_per_user),
            connection_rate: allowance(connection, of_all),
            connection_rate_per_address: allowance(per_address, per_address_of_all),
            message_rate: allowance(message, message_of_all),
            byte_rate: allowance(byte, byte_of_all),
            scopes: Scopes {
                per_address: self.connections_per_address.is_some(),
                // A burst of its own needs a bucket of its own.
                rate: connection.0.or(connection.1).is_some(),
                rate_per_address: per_address.0.or(per_address.1).is_some(),
            },
        }
    }

    /// The rates that several clients share.
    #[must_use]
    pub fn common(&self) -> CommonLimits {
        let [user_messages, user_bytes, messages, bytes] =
            self.common_rates().map(|written| allowance(written, (None, None)));
        CommonLimits { of_user: [user_messages, user_bytes], of_account: [messages, bytes] }
    }

    fn common_rates(&self) -> [Written; 4] {
        let messages = |rate: Option<Rate>, burst: Option<u32>| (rate.map(|Rate(rate)| rate), burst.map(u64::from));
        let bytes = |rate: Option<ByteRate>, burst: Option<ByteSize>| {
            (rate.map(|ByteRate(rate)| rate), burst.map(|ByteSize(bytes)| bytes))
        };
        [
            messages(self.message_rate_per_user, self.message_burst_per_user),
            bytes(self.byte_rate_per_user, self.byte_burst_per_user),
            messages(self.message_rate_per_account, self.message_burst_per_account),
            bytes(self.byte_rate_per_account, self.byte_burst_per_account),
        ]
    }

    fn rates(&self) -> [Written; 4] {
        let rate = |rate: Option<Rate>| rate.map(|Rate(rate)| rate);
        [
            (rate(self.connection_rate), self.connection_burst.map(u64::from)),
            (rate(self.connection_rate_per_address), self.connection_burst_per_address.map(u64::from)),
            (rate(self.message_rate), self.message_burst.map(u64::from)),
            (self.byte_rate.map(|ByteRate(rate)| rate), self.byte_burst.map(|ByteSize(bytes)| bytes)),
        ]
    }

    /// Looks whether bursts are those of something. `all`: what `[limits]` says, for that of a listener.
    pub(super) fn check(&self, all: &Self) -> Result<(), String> {
        const NAMES: [(&str, &str); 8] = [
            ("connection_burst", "connection_rate"),
            ("connection_burst_per_address", "connection_rate_per_address"),
            ("message_burst", "message_rate"),
            ("byte_burst", "byte_rate"),
            ("message_burst_per_user", "message_rate_per_user"),
            ("byte_burst_per_user", "byte_rate_per_user"),
            ("message_burst_per_account", "message_rate_per_account"),
            ("byte_burst_per_account", "byte_rate_per_account"),
        ];
        let of = |config: &Self| config.rates().into_iter().chain(config.common_rates());
        for (((rate, burst), (rate_of_all, _)), (key, of)) in of(self).zip(of(all)).zip(NAMES) {
            match burst {
                Some(0) => {
                    return Err(format!("{key} = 0 would let nothing through: write 1 or more, or leave it out"));
                }
                Some(_) if rate.or(rate_of_all).unwrap_or(0) == 0 => {
                    return Err(format!("{key} has no meaning without {of}: write that as well"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks whether a listener has what is of all of them only.
    pub(super) fn check_own(&self) -> Result<(), String> {
        let has = self.common_rates().iter().any(|(rate, burst)| rate.or(*burst).is_some());
        let why = "what all clients of a user or an account share is of all listeners: write what ends in _per_user or _per_account, but for connections_per_user, in [limits]";
        if has { Err(why.to_owned()) } else { Ok(()) }
    }
}

/// A burst is that of the rate that it stands beside, or of the one that counts where there is none.
fn allowance((own, own_burst): Written, (all, burst_of_all): Written) -> Option<Allowance> {
    let (rate, burst) = match own {
        Some(rate) => (rate, own_burst),
        None => (all?, own_burst.or(burst_of_all)),
    };
    Some(Allowance::new(NonZeroU64::new(rate)?, burst.and_then(NonZeroU64::new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(rate: Option<u64>, burst: Option<u32>) -> LimitsConfig {
        LimitsConfig { message_rate: rate.map(Rate), message_burst: burst, ..LimitsConfig::default() }
    }

    #[test]
    fn what_a_listener_does_not_say_is_as_for_all() {
        for (own, all, expected) in [
            (messages(None, None), messages(None, None), None),
            (messages(None, None), messages(Some(50), None), Some((50, 50))),
            (messages(None, None), messages(Some(50), Some(200)), Some((50, 200))),
            (messages(Some(10), None), messages(Some(50), Some(200)), Some((10, 10))),
            (messages(Some(10), Some(5)), messages(Some(50), Some(200)), Some((10, 5))),
            (messages(None, Some(5)), messages(Some(50), Some(200)), Some((50, 5))),
            (messages(Some(0), None), messages(Some(50), None), None),
            (messages(Some(10), None), messages(Some(0), None), Some((10, 10))),
        ] {
            let found = own.over(&all).message_rate.map(|rate| (rate.per_second.get(), rate.burst.get()));
            assert_eq!(found, expected, "{own:?} over {all:?}");
        }
        let all = LimitsConfig { connections: Some(9), connections_per_user: Some(3), ..LimitsConfig::default() };
        let own = LimitsConfig { connections_per_user: Some(0), ..LimitsConfig::default() };
        assert_eq!(own.over(&all), Limits::default(), "0 is no limit, and that of all is not that of each");
        assert_eq!(LimitsConfig::default().over(&all).connections_per_user, Some(3));
    }

    #[test]
    fn what_clients_share_is_of_all_listeners() {
        let all = LimitsConfig {
            message_rate_per_user: Some(Rate(5)),
            message_burst_per_user: Some(7),
            byte_rate_per_account: Some(ByteRate(9)),
            byte_rate_per_user: Some(ByteRate(0)),
            ..LimitsConfig::default()
        };
        let shown = |of: [Option<Allowance>; 2]| of.map(|of| of.map(|of| (of.per_second.get(), of.burst.get())));
        let CommonLimits { of_user, of_account } = all.common();
        assert_eq!((shown(of_user), shown(of_account)), ([Some((5, 7)), None], [None, Some((9, 9))]));
        assert_eq!((all.check(&LimitsConfig::default()), LimitsConfig::default().check_own()), (Ok(()), Ok(())));
        assert!(all.check_own().is_err());
        let burst = LimitsConfig { byte_burst_per_account: Some(ByteSize(1)), ..LimitsConfig::default() };
        assert!(burst.check(&LimitsConfig::default()).unwrap_err().contains("byte_burst_per_account"));
    }

    #[test]
    fn a_burst_needs_a_rate() {
        let none = LimitsConfig::default();
        assert_eq!(messages(Some(1), Some(1)).check(&none), Ok(()));
        assert_eq!(messages(None, Some(1)).check(&messages(Some(1), None)), Ok(()));
        for wrong in [messages(None, Some(1)), messages(Some(0), Some(1)), messages(Some(1), Some(0))] {
            assert!(wrong.check(&none).unwrap_err().contains("message_burst"), "{wrong:?}");
        }
    }
}
