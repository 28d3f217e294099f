//! The small types that configuration values are parsed into: sizes, rates, durations, addresses, secrets, levels. What is valid
//! here is valid for good; nothing downstream parses text again.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// A number of bytes: `65536`, `64KiB`, `1MB`, `4GiB`. `KB`, `MB`, `GB` are powers of 1,000; `KiB`, `MiB`, `GiB` of 1,024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes for sizes of things in memory; saturates where `usize` is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bytesize::ByteSize(self.0).display().iec())
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim()
            .parse::<bytesize::ByteSize>()
            .map(|size| Self(size.0))
            .map_err(|_| format!("{text:?} is not a size: write a number and a unit, as in \"1MB\" or \"4GiB\""))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"1MB\" or \"4GiB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How often something may happen: `500/s`. `0` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = of_a_second(text).and_then(|count| count.parse().ok());
        count
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a rate: write a number for each second, as in \"500/s\""))
    }
}

/// How many bytes may come: `100KiB/s`. `0` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size = of_a_second(text).and_then(|size| size.parse().ok());
        size.map(|ByteSize(bytes)| Self(bytes))
            .ok_or_else(|| format!("{text:?} is not a rate: write a size for each second, as in \"100KiB/s\""))
    }
}

/// What stands before `/s`; `0` needs none.
fn of_a_second(text: &str) -> Option<&str> {
    let text = text.trim();
    if text == "0" { Some(text) } else { text.strip_suffix("/s").map(str::trim) }
}

/// Reads a rate, of which a bare number is `0` only: any other one would be a guess.
struct RateVisitor<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> de::Visitor<'_> for RateVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a rate such as {:?}", self.1)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        if value == 0 {
            return "0".parse().map_err(E::custom);
        }
        Err(E::custom(format!("{value} does not say how often: write \"{value}/s\" if seconds are meant")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RateVisitor(std::marker::PhantomData, "500/s"))
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RateVisitor(std::marker::PhantomData, "100KiB/s"))
    }
}

/// A span of time: `500ms`, `30s`, `1h 30m`, `7d`. A bare `0` is accepted, any other bare number is not, because its
/// unit would be a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    /// The span as the standard library's type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "0" {
            return Ok(Self::default());
        }
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| format!("{text:?} is not a duration: write a number and a unit, as in \"30s\" or \"1h 30m\""))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\" or \"1h 30m\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Duration, E> {
                if value == 0 {
                    return Ok(Duration::default());
                }
                Err(E::custom(format!("{value} has no unit: write \"{value}s\" if seconds are meant")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Where to listen: `0.0.0.0:1883`, `[::]:1883`, `localhost:1883`, or `:1883` for every IPv4 interface. Port 0 lets
/// the system choose. `systemd:NAME` is a socket that the service manager has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindAddr {
    /// Host name or IP address, IPv6 without its brackets; or `systemd:NAME`.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl BindAddr {
    /// An address from its two parts.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// The name of a socket that the service manager has opened.
    #[must_use]
    pub fn passed(&self) -> Option<&str> {
        self.host.strip_prefix(PASSED)
    }
}

/// Before the name of a socket of the service manager. No host has a colon but an address of IPv6, which has no such letters.
const PASSED: &str = "systemd:";

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed().is_some() {
            f.write_str(&self.host)
        } else if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for BindAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl FromStr for BindAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        if let Some(name) = text.strip_prefix(PASSED) {
            // What FileDescriptorName= takes.
            let is_name = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            return is_name.then(|| Self::new(text, 0)).ok_or_else(|| {
                format!(
                    "{text:?} names no socket: write the FileDescriptorName= of a socket unit, as in \"systemd:field\""
                )
            });
        }
        let wrong = || format!("{text:?} is not an address to listen on: write HOST:PORT, as in \"0.0.0.0:1883\"");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if host.chars().any(|c| c.is_whitespace() || matches!(c, ':' | '/' | '[' | ']')) {
            return Err(wrong());
        }
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        Ok(Self::new(host, port))
    }
}

impl<'de> Deserialize<'de> for BindAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// For fields where `""` turns the thing off.
pub(super) fn bind_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BindAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(de::Error::custom)
}

/// A password, token or seed. Shows itself to nobody: `Debug` prints dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Reads `info` or `info,nats_mqtt::store=debug`; `None` when it is neither.
#[must_use]
pub fn parse_level(text: &str) -> Option<Targets> {
    // A bare word that is no level would be read as the name of a module with every level on.
    let words = || text.split(',').map(str::trim);
    let known = words().all(|word| word.contains('=') || (!word.is_empty() && word.parse::<LevelFilter>().is_ok()));
    if known { words().collect::<Vec<_>>().join(",").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in
            [("0", 0), ("65536", 65_536), ("1MB", 1_000_000), ("1MiB", 1 << 20), ("4GiB", 4 << 30), ("64 KiB", 65_536)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert!("many".parse::<ByteSize>().is_err());
        assert!("-1".parse::<ByteSize>().is_err());
    }

    #[test]
    fn rates_are_of_a_second() {
        for (text, rate) in [("500/s", 500), ("1 /s", 1), ("0", 0), ("0/s", 0)] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
        for text in ["500", "500/m", "/s", "-1/s", "1.5/s", "1KiB/s", "s", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for (text, rate) in [("100KiB/s", 102_400), ("1MB/s", 1_000_000), ("64/s", 64), ("0", 0)] {
            assert_eq!(text.parse(), Ok(ByteRate(rate)), "{text}");
        }
        for text in ["100KiB", "100KiB/m", "fast/s", ""] {
            assert!(text.parse::<ByteRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, secs) in [("30s", 30), ("1h 30m", 5_400), ("7d", 604_800), ("0", 0), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Duration::from_secs(secs)), "{text}");
        }
        assert!("30".parse::<Duration>().is_err());
        assert!("-1s".parse::<Duration>().is_err());
    }

    #[test]
    fn addresses_are_host_and_port() {
        for (text, shown) in [
            ("0.0.0.0:1883", "0.0.0.0:1883"),
            ("[::1]:1883", "[::1]:1883"),
            (":1883", "0.0.0.0:1883"),
            ("localhost:0", "localhost:0"),
            ("systemd:field", "systemd:field"),
        ] {
            assert_eq!(text.parse::<BindAddr>().map(|a| a.to_string()), Ok(shown.to_owned()));
        }
        for text in
            ["1883", "host", "host:99999", "http://host:80", "::1:1883", "", "systemd:", "systemd:a b", "systemd:a:b"]
        {
            assert!(text.parse::<BindAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert!(!format!("{:?}", Secret::new("hunter2".into())).contains("hunter2"));
    }

    #[test]
    fn levels_are_words_also_per_module() {
        for text in ["info", "debug", "INFO", "off", "warn,nats_mqtt::store=debug", "info, nats_mqtt=trace"] {
            assert!(parse_level(text).is_some(), "{text}");
        }
        for text in ["loud", "", "info,loud", "a=loud"] {
            assert!(parse_level(text).is_none(), "{text}");
        }
    }
}
