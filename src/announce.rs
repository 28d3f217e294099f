//! The one line that says that everything listens, and where: what a person wants to see, and scripts wait for.

use std::net::SocketAddr;

use tracing::info;

use crate::listener::{Bound, Protocol};

/// Logs `ready: MQTT on …, WebSocket on …, NATS at …, admin on …`, and answers it.
pub fn ready(bound: &[Bound], nats: &[String], admin: Option<SocketAddr>) -> String {
    let line = ready_line(bound, nats, admin);
    info!("{line}");
    line
}

/// The text of it. Credentials in URLs are left out.
#[must_use]
pub fn ready_line(bound: &[Bound], nats: &[String], admin: Option<SocketAddr>) -> String {
    let mut parts = Vec::new();
    for (protocol, title) in [(Protocol::Mqtt, "MQTT on"), (Protocol::Ws, "WebSocket on")] {
        let addrs: Vec<String> =
            bound.iter().filter(|bound| bound.entrance.protocol == protocol).map(address).collect();
        if !addrs.is_empty() {
            parts.push(format!("{title} {}", addrs.join(" and ")));
        }
    }
    let urls: Vec<String> = nats.iter().map(|url| without_credentials(url)).collect();
    parts.push(format!("NATS at {}", urls.join(" and ")));
    if let Some(addr) = admin {
        parts.push(format!("admin on http://{addr}"));
    }
    format!("ready: {}", parts.join(", "))
}

fn address(bound: &Bound) -> String {
    format!("{}{}", bound.to, if bound.entrance.is_tls { " with TLS" } else { "" })
}

fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::listener::{BoundTo, Entrance};

    #[test]
    fn the_line_names_every_address_and_no_password() {
        let bound = |name: &str, protocol, addr: &str| Bound {
            entrance: Arc::new(Entrance { is_tls: name == "wss", ..Entrance::plain(name, protocol) }),
            to: BoundTo::Ip(addr.parse().unwrap()),
        };
        let listeners = [
            bound("tcp", Protocol::Mqtt, "127.0.0.1:1883"),
            bound("lan", Protocol::Mqtt, "127.0.0.1:1884"),
            bound("ws", Protocol::Ws, "[::1]:8083"),
            bound("wss", Protocol::Ws, "[::1]:8084"),
        ];
        let nats = ["nats://u:p@ss@127.0.0.1:4222".to_owned(), "b:4222".to_owned()];
        assert_eq!(
            ready_line(&listeners, &nats, Some("127.0.0.1:8228".parse().unwrap())),
            "ready: MQTT on 127.0.0.1:1883 and 127.0.0.1:1884, WebSocket on [::1]:8083 and [::1]:8084 with TLS, \
             NATS at nats://127.0.0.1:4222 and b:4222, admin on http://127.0.0.1:8228"
        );
        assert_eq!(ready_line(&[], &nats[1..], None), "ready: NATS at b:4222");
    }
}
