//! Listeners behind proxies: headers of both versions as bytes, and HAProxy, which ends TLS and says whose certificates it has
//! verified. Where there is no HAProxy those tests are skipped, with a line that says so; `make tools` fetches it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use mqtt_codec::ReasonCode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::auth_file::hash;
use crate::harness::{
    Client, NatsServer, Options, Process, Sidecar, SidecarBuilder, eventually, free_port, mosquitto_pub, msg,
};
use crate::tls::Pki;

/// From 203.0.113.7:4711.
const TEXT: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 1883\r\n";

/// A header of version 2 from 203.0.113.7:4711, with what stands behind the addresses.
fn binary(command: u8, more: &[u8]) -> Vec<u8> {
    let behind = [&[203, 0, 113, 7, 198, 51, 100, 1, 0x12, 0x67, 7, 0x5B][..], more].concat();
    let len = u16::try_from(behind.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &len, &behind].concat()
}

/// That the client has shown the certificate of a lamp, and what verifying it came to.
fn certified(verify: u8) -> Vec<u8> {
    binary(0x21, &[&[0x20, 0, 12, 7, 0, 0, 0, verify, 0x22, 0, 4][..], b"lamp"].concat())
}

/// A port for clients: what they say goes to a sidecar behind this header.
async fn proxy(to: u16, header: impl Into<Vec<u8>>) -> u16 {
    let header = header.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let header = header.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                server.write_all(&header).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

/// A sidecar behind proxies on 127.0.0.1, with more keys of `proxy_protocol` and more of a configuration.
async fn start(nats: &NatsServer, dir: &Path, keys: &str, rest: &str) -> Sidecar {
    let config = dir.join("proxied.toml");
    let text = format!("[listeners.tcp.proxy_protocol]\ntrusted = [\"127.0.0.1/32\"]\n{keys}\n{rest}\n");
    std::fs::write(&config, text).unwrap();
    let builder = SidecarBuilder::new("proxied", &["--nats", &nats.url(), "-c", config.to_str().unwrap()]);
    builder.open().set("LOG__LEVEL", "debug").start().await
}

fn anonymous(id: &str) -> Options {
    Options::v5(id).anonymous()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_known_by_what_its_proxy_says() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let sidecar = start(&nats, dir.path(), "", "[listeners]\nmax_connections_per_address = 2").await;
    let text = proxy(sidecar.mqtt_port, TEXT).await;
    let mut first = Client::connect(text, anonymous("first")).await;
    let mut second = Client::connect(proxy(sidecar.mqtt_port, binary(0x21, b"")).await, anonymous("second")).await;
    second.subscribe("lamps/+", 1).await;
    first.publish(msg("lamps/1", "x".repeat(100_000)).qos(1)).await;
    assert_eq!(second.receive().await.payload.len(), 100_000);
    let log = sidecar.log();
    for id in ["first", "second"] {
        let line = format!("connected client_id=\"{id}\" remote=203.0.113.7:4711");
        assert!(log.contains(&line), "{line}: {log}");
    }
    // Two of one address, and nobody else of that proxy is held back.
    assert_eq!(Client::open(text, anonymous("third")).await.connack.reason, ReasonCode::QuotaExceeded);
    let other = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 1883\r\n".to_vec();
    Client::connect(proxy(sidecar.mqtt_port, other).await, anonymous("fourth")).await.ping().await;
    assert_eq!(sidecar.metric("mqtt_over_limit_total{limit=\"connections_per_address\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_proxy_is_closed_with_a_line_and_health_checks_are_quiet() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let sidecar = start(&nats, dir.path(), "", "").await;
    let told = |line: &str| sidecar.log().contains(line);
    assert!(Client::try_open(sidecar.mqtt_port, anonymous("stranger").from(9)).await.is_err());
    eventually("it is told", async || told("it is not in proxy_protocol.trusted")).await;
    assert!(Client::try_open(sidecar.mqtt_port, anonymous("direct")).await.is_err());
    eventually("it is told", async || told("closed: there is no PROXY header")).await;
    // What is told of connections, beside what a sidecar says of itself.
    let told_of = || sidecar.log().lines().filter(|line| line.contains(" remote=") && !line.contains("DEBUG")).count();
    let before = told_of();
    for header in [&b""[..], &binary(0x20, b""), b"PROXY UNKNOWN\r\n"] {
        let mut check = TcpStream::connect(("127.0.0.1", sidecar.mqtt_port)).await.unwrap();
        check.write_all(header).await.unwrap();
        check.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut check, &mut rest).await.unwrap();
    }
    assert_eq!(told_of(), before, "{}", sidecar.log());
    for (reason, count) in [("untrusted", 1.0), ("absent", 1.0), ("closed", 0.0), ("malformed", 0.0)] {
        let series = format!("mqtt_proxy_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(sidecar.metric(&series).await, count, "{series}");
    }
    // One that is served says what it has to say.
    Client::connect(proxy(sidecar.mqtt_port, binary(0x20, b"")).await, anonymous("local")).await.ping().await;
}

/// Users whose certificates a proxy has verified.
fn lamps() -> String {
    format!(
        "[auth]\nmode = \"file\"\ncertificate = \"enough\"\n[[users]]\nname = \"lamp\"\npassword = {:?}\ncertificate = \"cn:lamp\"\n",
        hash("light")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_counts_that_the_proxy_says_it_has_verified() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let sidecar = start(&nats, dir.path(), "identity = \"cn\"", &lamps()).await;
    let answer = async |header: Vec<u8>| {
        let port = proxy(sidecar.mqtt_port, header).await;
        Client::open(port, anonymous("lamp-1")).await.connack.reason
    };
    assert_eq!(answer(certified(0)).await, ReasonCode::Success);
    for header in [certified(10), binary(0x21, b""), TEXT.to_vec(), binary(0x20, &certified(0)[28..])] {
        assert_eq!(answer(header).await, ReasonCode::NotAuthorized);
    }
    let none = start(&nats, dir.path(), "", &lamps()).await;
    let port = proxy(none.mqtt_port, certified(0)).await;
    assert_eq!(Client::open(port, anonymous("lamp-1")).await.connack.reason, ReasonCode::NotAuthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_stands_before_tls() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let (cert, key, ca) = (pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem"));
    let tls = format!("[listeners.tcp.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    let sidecar = start(&nats, pki.dir.path(), "", &tls).await;
    let args = ["--cafile", &*ca, "-t", "t", "-m", "x", "-q", "1", "-i", "behind"];
    let published = mosquitto_pub(proxy(sidecar.mqtt_port, TEXT).await, &args, String::new()).await;
    assert_eq!(published.code, 0, "{published:?}");
    assert!(sidecar.log().contains("connected client_id=\"behind\" remote=203.0.113.7:4711"), "{}", sidecar.log());
    assert_ne!(mosquitto_pub(sidecar.mqtt_port, &args, String::new()).await.code, 0);
}

/// Where HAProxy is unpacked or installed: the directory that has its `usr`.
fn haproxy_root() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/haproxy");
    [fetched, PathBuf::from("/")].into_iter().find(|root| root.join("usr/sbin/haproxy").is_file())
}

/// HAProxy before a sidecar, with a port for each way to say who a client is.
struct HaProxy {
    _process: Process,
    ports: [u16; 3],
}

impl HaProxy {
    /// `None`: there is none, which is said.
    async fn start(test: &str, pki: &Pki, to: u16) -> Option<Self> {
        let Some(root) = haproxy_root() else {
            let line = format!("skipped: {test}: there is no HAProxy; `make tools` fetches it\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let read = |name: &str| std::fs::read_to_string(pki.path(name)).unwrap();
        pki.put("haproxy.pem", &[read("server.pem"), read("server.key")].concat());
        let (cert, ca) = (pki.path("haproxy.pem"), pki.path("ca.pem"));
        let ways = [
            "send-proxy-v2-ssl-cn check check-send-proxy inter 100ms",
            "send-proxy-v2 proxy-v2-options ssl,cert-cn,crc32c,authority,unique-id",
            "send-proxy",
        ];
        let ports = [free_port(), free_port(), free_port()];
        let mut config =
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n".to_owned();
        for (index, (way, port)) in ways.iter().zip(ports).enumerate() {
            config += &format!(
                "frontend f{index}\n bind 127.0.0.1:{port} ssl crt {cert} ca-file {ca} verify optional\n default_backend b{index}\n\
                 backend b{index}\n server sidecar 127.0.0.1:{to} {way}\n"
            );
        }
        pki.put("haproxy.cfg", &config);
        let mut command = Command::new(root.join("usr/sbin/haproxy"));
        command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        command.args(["-db", "-f", &pki.path("haproxy.cfg")]);
        let process = Process::spawn("haproxy", &mut command, &pki.dir.path().join("haproxy.log"));
        for port in ports {
            eventually("haproxy listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        }
        Some(Self { _process: process, ports })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_says_whose_certificate_it_has_verified() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    for (name, serial) in [("lamp", 1), ("door", 2)] {
        pki.issue_client(name, serial);
    }
    let sidecar = start(&nats, pki.dir.path(), "identity = \"cn\"", &lamps()).await;
    let test = "haproxy_says_whose_certificate_it_has_verified";
    let Some(haproxy) = HaProxy::start(test, &pki, sidecar.mqtt_port).await else { return };
    let publish = async |port: u16, name: Option<&str>, more: &[&str]| {
        let ca = pki.path("ca.pem");
        let shown = name.map(|name| [pki.path(&format!("{name}.pem")), pki.path(&format!("{name}.key"))]);
        let shown = shown.iter().flat_map(|[cert, key]| ["--cert", &**cert, "--key", &**key]);
        let args = ["--cafile", &*ca, "-t", "t", "-m", "x", "-q", "1"].into_iter().chain(shown);
        mosquitto_pub(port, &args.chain(more.iter().copied()).collect::<Vec<_>>(), String::new()).await.code
    };
    let [ssl_cn, options, text] = haproxy.ports;
    for port in [ssl_cn, options] {
        assert_eq!(publish(port, Some("lamp"), &[]).await, 0, "{}", sidecar.log());
        // 5 is 3.1.1's "not authorized".
        assert_eq!(publish(port, Some("door"), &[]).await, 5);
        assert_eq!(publish(port, None, &[]).await, 5);
        assert_eq!(publish(port, None, &["-u", "lamp", "-P", "light"]).await, 0);
    }
    // Version 1 says nothing of certificates.
    assert_eq!(publish(text, Some("lamp"), &[]).await, 5);
    assert_eq!(publish(text, None, &["-u", "lamp", "-P", "light"]).await, 0);
    // It looks ten times in a second whether the sidecar is there.
    let metrics = sidecar.get("/metrics").await.1;
    let refused = metrics.lines().filter(|line| line.starts_with("mqtt_proxy_refused_total"));
    assert!(refused.clone().count() == 5 && refused.clone().all(|line| line.ends_with(" 0")), "{metrics}");
    let checks = sidecar.log().lines().filter(|line| line.contains("is_local=true")).count();
    assert!(checks > 0, "{}", sidecar.log());
}
