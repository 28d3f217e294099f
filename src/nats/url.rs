//! Where a server is: `nats://user:password@host:4222`.

use std::fmt;
use std::str::FromStr;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// TCP, and TLS when the server wants it.
    Nats,
    /// TCP with TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket with TLS.
    Wss,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        let all = [("nats", Self::Nats), ("tls", Self::Tls), ("ws", Self::Ws), ("wss", Self::Wss)];
        all.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, scheme)| scheme)
    }

    const fn port(self) -> u16 {
        match self {
            Self::Nats | Self::Tls => 4222,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    pub(super) const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// A server. Shown without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    pub(super) scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// What a WebSocket is opened at.
    pub(super) path: String,
    user: Option<String>,
    password: Option<String>,
}

impl ServerUrl {
    /// User name, or token when there is no password.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Another server of the cluster, `host:port`, spoken to as this one is.
    pub(super) fn neighbour(&self, address: &str) -> Option<Self> {
        let (host, port) = split_port(address, self.scheme.port()).ok()?;
        Some(Self { scheme: self.scheme, host, port, path: self.path.clone(), user: None, password: None })
    }

    /// Whether both are the same place.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// Whether the host is a number, which few certificates are for.
    pub(super) fn is_numeric(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.scheme.text(), self.host, self.port)
    }
}

impl FromStr for ServerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Scheme::of(scheme).ok_or("its scheme is none of NATS")?, rest),
            None => (Scheme::Nats, text),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let (host, port) = split_port(address, scheme.port())?;
        let (user, password) = match login
            .map(|login| login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p))))
        {
            Some((user, password)) if !user.is_empty() => (Some(decoded(user)?), password.map(decoded).transpose()?),
            _ => (None, None),
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        Ok(Self { scheme, host, port, path, user, password })
    }
}

fn split_port(address: &str, default: u16) -> Result<(String, u16), &'static str> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or("a bracket is not closed")?;
            (
                host,
                if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or("the port is no number")?) },
            )
        }
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err("an IPv6 address stands in brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() || host.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        return Err("it has no host");
    }
    let port = match port {
        None | Some("") => default,
        Some(port) => port.parse().map_err(|_| "the port is no number")?,
    };
    Ok((host.to_owned(), port))
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String, &'static str> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &behind[2..];
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(out).map_err(|_| "user or password is no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_perhaps_a_user() {
        let read = |text: &str| {
            let url: ServerUrl = text.parse().unwrap();
            let login = (url.user().unwrap_or("-").to_owned(), url.password().unwrap_or("-").to_owned());
            (url.to_string(), login.0, login.1)
        };
        let want = |url: &str, user: &str, password: &str| (url.to_owned(), user.to_owned(), password.to_owned());
        assert_eq!(read("nats://h"), want("nats://h:4222", "-", "-"));
        assert_eq!(read("h:1"), want("nats://h:1", "-", "-"));
        assert_eq!(read("TLS://u:p%40%2f%@h:1/"), want("tls://h:1", "u", "p@/%"));
        assert_eq!(read("nats://token@[::1]:5"), want("nats://[::1]:5", "token", "-"));
        assert_eq!(read("ws://h"), want("ws://h:80", "-", "-"));
        assert_eq!(read("wss://h/nats?x=1"), want("wss://h:443", "-", "-"));
        for bad in ["", "nats://", "http://h", "nats://h:x", "nats://:4222", "::1", "nats://[::1", "nats://h:99999"] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_neighbour_is_spoken_to_the_same_way_and_has_no_password() {
        let url: ServerUrl = "tls://u:p@h:1".parse().unwrap();
        let neighbour = url.neighbour("10.0.0.1:2").unwrap();
        assert_eq!((neighbour.to_string(), neighbour.user()), ("tls://10.0.0.1:2".to_owned(), None));
        assert!(neighbour.is_numeric() && !url.is_numeric());
        assert!(url.neighbour("x:y").is_none());
    }
}
