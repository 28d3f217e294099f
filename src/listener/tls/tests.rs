//! Real sockets on localhost, with rustls as the client.

use std::net::SocketAddr;
use std::path::PathBuf;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::authority::{Authority, Files, Issued};
use super::*;
use crate::config::{ClientCertificate, Config, Duration as ConfigDuration, ListenerChange, ListenerConfig, SniConfig};
use crate::listener::tests::Running;

/// What `openssl x509 -req` has made.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBHTCBxAIUFIPGBHhX424IEkYSagGv4paDf7IwCgYIKoZIzj0EAwIwFDESMBAG\n\
    A1UEAwwJbG9jYWxob3N0MB4XDTI2MTEyOTExNTcxOVoXDTI2MTIwOTExNTcxOVow\n\
    DzENMAsGA1UEAwwEbGFtcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCMAWuFi\n\
    NVylbVxgwiPSvHl3/JRn4Gpez/y2WmZ73m03Ix0+uc+v3UkdAYxFOzWywHJ4VitQ\n\
    zauf+AA/KvXzL94wCgYIKoZIzj0EAwIDSAAwRQIhAPvorK7Blkj2OTH78ZeQ/oEN\n\
    Vsb9vGr2BZi/2oCJVJGXAiBsPVdvSPzRF6f7HWEz1yB8Pa+XSKs4r2Ea5j6WTWqD\n\
    EA==\n\
    -----END CERTIFICATE-----\n";

/// How a client comes.
struct Caller {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Caller {
    fn new(roots: RootCertStore, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Self {
        let builder = ClientConfig::builder_with_provider(files::provider()).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), name: "localhost".try_into().unwrap() }
    }

    /// One that shows a certificate.
    fn with(authority: &Authority, shown: &Issued, version: &'static SupportedProtocolVersion) -> Self {
        let builder =
            ClientConfig::builder_with_provider(files::provider()).with_protocol_versions(&[version]).unwrap();
        let chain = CertificateDer::pem_slice_iter(shown.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let config = builder.with_root_certificates(authority.roots()).with_client_auth_cert(chain, key).unwrap();
        Self { config: Arc::new(config), name: "localhost".try_into().unwrap() }
    }

    /// Whether it gets in, and the connection with it.
    async fn gets_in(&self, addr: SocketAddr) -> Option<client::TlsStream<TcpStream>> {
        let mut stream = self.call(addr).await.ok()?;
        // With TLS 1.3 what the server thinks of a certificate comes behind the handshake.
        stream.write_all(b"?").await.ok()?;
        stream.flush().await.ok()?;
        stream.read_exact(&mut [0]).await.ok()?;
        Some(stream)
    }

    async fn call(&self, addr: SocketAddr) -> io::Result<client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }
}

/// Says this, and is told the same.
async fn echoed(stream: &mut client::TlsStream<TcpStream>, said: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = vec![0; said.len()];
    let (written, read) = tokio::join!(
        async {
            writer.write_all(said).await?;
            writer.flush().await
        },
        reader.read_exact(&mut heard)
    );
    written.unwrap();
    read.unwrap();
    assert!(heard == said);
}

fn tls_of((cert_file, key_file): (PathBuf, PathBuf)) -> ListenerTlsConfig {
    ListenerTlsConfig { cert_file, key_file, ..ListenerTlsConfig::default() }
}

/// Both listeners with TLS.
async fn running(tls: ListenerTlsConfig, change: impl FnOnce(&mut Config)) -> Running {
    let set = |config: &mut Config| {
        config.listeners.tcp[0].tls = Some(tls.clone());
        config.listeners.ws[0].tls = Some(tls);
        change(config);
    };
    Running::with(set, true).await
}

fn failures(running: &Running, reason: &str) -> bool {
    running.metrics.render().contains(&format!("\nmqtt_tls_failed_total{{reason=\"{reason}\"}} 1\n"))
}

/// Waits until one failure of this kind was counted.
async fn failed(running: &Running, reason: &str) {
    let counted = async {
        while !failures(running, reason) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let is_counted = timeout(Duration::from_secs(10), counted).await;
    assert!(is_counted.is_ok(), "{reason}: {}", running.metrics.render());
}

#[tokio::test]
async fn bytes_go_both_ways_in_both_versions_and_come_back_by_ticket() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let mut running = running(tls_of(files.put_server(&authority.issue("localhost"))), |_| ()).await;
    for (version, is) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let caller = Caller::new(authority.roots(), &[version], &["mqtt"]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = caller.call(running.addr(Protocol::Mqtt)).await.unwrap();
            echoed(&mut stream, b"hello").await;
            // More than fits into all buffers together.
            echoed(&mut stream, &vec![7; 3_000_000]).await;
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(is));
            assert_eq!(session.alpn_protocol(), Some(&b"mqtt"[..]));
            assert_eq!(session.handshake_kind(), Some(kind), "{is:?}");
            stream.shutdown().await.unwrap();
            // `close_notify`, and not a bare end, which would be an error here.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            running.ended.recv().await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let mut running = running(tls_of(files.put_server(&authority.issue("localhost"))), |_| ()).await;
    let mut stream =
        Caller::new(authority.roots(), ALL_VERSIONS, &[]).call(running.addr(Protocol::Mqtt)).await.unwrap();
    echoed(&mut stream, b"hello").await;
    stream.into_inner().0.shutdown().await.unwrap();
    running.ended.recv().await.unwrap().unwrap();
}

#[tokio::test]
async fn websocket_comes_over_tls() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let running = running(tls_of(files.put_server(&authority.issue("localhost"))), |_| ()).await;
    // As browsers offer it.
    let caller = Caller::new(authority.roots(), ALL_VERSIONS, &["h2", "http/1.1"]);
    let stream = caller.call(running.addr(Protocol::Ws)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut ws, _) = client_async("wss://localhost/mqtt", stream).await.unwrap();
    ws.send(Message::binary(vec![1; 200_000])).await.unwrap();
    let mut heard = 0;
    while heard < 200_000 {
        heard += ws.next().await.unwrap().unwrap().len();
    }
    ws.close(None).await.unwrap();
    while ws.next().await.is_some_and(|message| message.is_ok()) {}
}

#[tokio::test]
async fn what_fails_is_counted_by_its_reason() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let tls = || tls_of(files.put_server(&authority.issue("localhost")));
    let running = running(tls(), |_| ()).await;
    let addr = running.addr(Protocol::Mqtt);
    let say = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let mut plain = say(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a").await;
    assert_eq!(plain.read(&mut [0]).await.unwrap(), 0, "it is closed and not reset");
    failed(&running, "not_tls").await;
    let mut half = say(&[22, 3, 1, 0, 200, 1]).await;
    half.shutdown().await.unwrap();
    failed(&running, "closed").await;
    let stranger = Caller::new(Authority::new("other").roots(), ALL_VERSIONS, &[]);
    stranger.call(addr).await.unwrap_err();
    failed(&running, "refused_by_peer").await;
    let error = Caller::new(authority.roots(), ALL_VERSIONS, &["h2"]).call(addr).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    failed(&running, "nothing_shared").await;
    let mut broken = say(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await;
    broken.read_to_end(&mut Vec::new()).await.unwrap();
    failed(&running, "protocol").await;
    // A health check is no failure.
    TcpStream::connect(addr).await.unwrap().shutdown().await.unwrap();
    let mut stream = Caller::new(authority.roots(), ALL_VERSIONS, &[]).call(addr).await.unwrap();
    echoed(&mut stream, b"still there").await;
    assert!(failures(&running, "closed"));
}

#[tokio::test]
async fn whoever_does_not_shake_hands_has_one_deadline_and_one_place() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let change = |config: &mut Config| {
        config.mqtt.connect_timeout = ConfigDuration(Duration::from_millis(400));
        config.listeners.max_handshakes = 1;
    };
    let running = running(tls_of(files.put_server(&authority.issue("localhost"))), change).await;
    let addr = running.addr(Protocol::Mqtt);
    let mut evicted = TcpStream::connect(addr).await.unwrap();
    evicted.write_all(&[22, 3, 1, 0, 200]).await.unwrap();
    let mut silent = TcpStream::connect(addr).await.unwrap();
    // It had something unread, so it may be reset.
    assert_eq!(evicted.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    failed(&running, "timeout").await;
}

#[test]
fn what_is_wrong_with_a_file_is_one_line() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let Issued { cert, key } = authority.issue("localhost");
    let other = authority.issue("localhost");
    let [cert, key] = [files.put("cert", &cert), files.put("key", &key)];
    let other_key = files.put("other", &other.key);
    let cut = files.put("cut", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
    let odd = files.put("odd", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n");
    let empty = files.put("empty", "");
    let missing = files.path("missing");
    let said = |cert: &PathBuf, key: &PathBuf| {
        let checked = check(&tls_of((cert.clone(), key.clone())), Protocol::Mqtt);
        let said = checked.err().map_or(String::new(), |error| error.to_string());
        said.replace(files.root().to_str().unwrap(), "DIR")
    };
    assert_eq!(said(&cert, &key), "");
    assert_eq!(said(&missing, &key), "cert_file: DIR/missing: No such file or directory (os error 2)");
    assert_eq!(said(&empty, &key), "cert_file: DIR/empty: there is no certificate in it");
    assert_eq!(said(&key, &key), "cert_file: DIR/key: there is no certificate in it");
    assert!(
        said(&odd, &key).starts_with("cert_file: DIR/odd: the certificate cannot be used: "),
        "{}",
        said(&odd, &key)
    );
    let first = files.put("first", VERSION_1);
    let expected = "cert_file: DIR/first: the certificate cannot be used: it is of X.509 version 1, as `openssl x509 -req` makes it \
        without -extfile: version 3 is needed";
    assert_eq!(said(&first, &key), expected);
    assert_eq!(said(&cert, &missing), "key_file: DIR/missing: No such file or directory (os error 2)");
    assert_eq!(
        said(&cert, &cert),
        "key_file: DIR/cert: there is no private key in it (one with a passphrase is of no use)"
    );
    assert_eq!(said(&cert, &other_key), "key_file: DIR/other: it is not the key of the certificate in DIR/cert");
    assert_eq!(said(&cert, &cut), "key_file: DIR/cut: it is no PEM: a section is cut off, or not Base64");
}

/// One that asks clients for certificates of this authority.
fn asking(authority: &Authority, files: &Files, client_certificate: ClientCertificate) -> ListenerTlsConfig {
    let ca_file = Some(files.put("ca.pem", &authority.pem));
    ListenerTlsConfig { ca_file, client_certificate, ..tls_of(files.put_server(&authority.issue("localhost"))) }
}

#[tokio::test]
async fn who_shows_no_certificate_or_a_wrong_one_does_not_get_in_where_one_is_required() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let crl_file = Some(files.put("crl.pem", &authority.revoke(&[7, 9])));
    let tls = ListenerTlsConfig { crl_file, ..asking(&authority, &files, ClientCertificate::Required) };
    for version in [&TLS12, &TLS13] {
        let running = running(tls.clone(), |_| ()).await;
        let addr = running.addr(Protocol::Mqtt);
        let right = authority.issue_client("lamp", 8);
        assert!(Caller::with(&authority, &right, version).gets_in(addr).await.is_some());
        assert_eq!(*running.came.lock(), ["- subject:CN=lamp cn:lamp"]);
        assert!(Caller::new(authority.roots(), &[version], &[]).gets_in(addr).await.is_none());
        failed(&running, "certificate_missing").await;
        let expired = authority.issue_with(|params| {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        });
        assert!(Caller::with(&authority, &expired, version).gets_in(addr).await.is_none());
        failed(&running, "certificate_expired").await;
        assert!(Caller::with(&authority, &authority.issue_client("lamp", 9), version).gets_in(addr).await.is_none());
        failed(&running, "certificate_revoked").await;
        let stranger = Authority::new("other").issue_client("lamp", 8);
        assert!(Caller::with(&authority, &stranger, version).gets_in(addr).await.is_none());
        failed(&running, "unknown_authority").await;
        assert_eq!(running.came.lock().len(), 1);
    }
}

#[tokio::test]
async fn a_list_counts_for_the_whole_chain_when_it_is_late_and_for_no_other_authority() {
    let (root, files) = (Authority::new("root"), Files::new());
    let [factory, workshop] = [("factory", 1), ("workshop", 2)].map(|(name, serial)| root.below(name, serial));
    let chained = |authority: &Authority, serial: u64| {
        let Issued { cert, key } = authority.issue_client("lamp", serial);
        Issued { cert: format!("{cert}{}", authority.pem), key }
    };
    // Late by years, and the workshop has no list.
    let lists = [root.revoke_until(&[1], 2024), factory.revoke(&[])].concat();
    let crl_file = Some(files.put("crl.pem", &lists));
    let tls = ListenerTlsConfig { crl_file, ..asking(&root, &files, ClientCertificate::Required) };
    let running = running(tls, |_| ()).await;
    let addr = running.addr(Protocol::Mqtt);
    assert!(Caller::with(&root, &chained(&workshop, 9), &TLS13).gets_in(addr).await.is_some());
    assert!(Caller::with(&root, &chained(&factory, 9), &TLS13).gets_in(addr).await.is_none());
    failed(&running, "certificate_revoked").await;
    // Those between have to come with it.
    assert!(Caller::with(&root, &workshop.issue_client("lamp", 9), &TLS13).gets_in(addr).await.is_none());
    failed(&running, "unknown_authority").await;
}

#[tokio::test]
async fn a_certificate_that_is_optional_counts_when_it_is_shown_and_has_to_be_right() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let running = running(asking(&authority, &files, ClientCertificate::Optional), |_| ()).await;
    let addr = running.addr(Protocol::Mqtt);
    assert!(Caller::new(authority.roots(), ALL_VERSIONS, &[]).gets_in(addr).await.is_some());
    let caller = Caller::with(&authority, &authority.issue_client("lamp", 8), &TLS13);
    assert!(caller.gets_in(addr).await.is_some());
    // By a ticket, with the same certificate.
    let stream = caller.gets_in(addr).await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let lamp = "- subject:CN=lamp cn:lamp";
    assert_eq!(*running.came.lock(), ["- ", lamp, lamp]);
    let stranger = Authority::new("ours").issue_client("lamp", 8);
    assert!(Caller::with(&authority, &stranger, &TLS13).gets_in(addr).await.is_none());
    assert_eq!(running.came.lock().len(), 3);
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_certificate_and_account() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let sni = |name: &str, account: Option<&str>| {
        let issued = authority.issue(name);
        SniConfig {
            names: vec![name.to_uppercase()],
            cert_file: files.put(&format!("{name}.pem"), &issued.cert),
            key_file: files.put(&format!("{name}.key"), &issued.key),
            ocsp_file: None,
            account: account.map(Into::into),
        }
    };
    let names = vec![sni("t2.example", Some("T2")), sni("*.t3.example", None)];
    let tls = ListenerTlsConfig { sni: names, ..tls_of(files.put_server(&authority.issue("localhost"))) };
    let running = running(tls, |_| ()).await;
    for (name, certified) in [
        ("localhost", true),
        ("t2.example", true),
        ("a.t3.example", true),
        ("t3.example", false),
        ("a.b.t3.example", false),
        ("t2.example.org", false),
    ] {
        let name = name.try_into().unwrap();
        let caller = Caller { name, ..Caller::new(authority.roots(), ALL_VERSIONS, &[]) };
        assert_eq!(caller.gets_in(running.addr(Protocol::Mqtt)).await.is_some(), certified, "{:?}", caller.name);
    }
    assert_eq!(*running.came.lock(), ["- ", "T2 ", "- "]);
}

#[test]
fn what_is_wrong_with_the_files_for_clients_is_one_line() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let usual = asking(&authority, &files, ClientCertificate::Optional);
    let no_list = files.put("none.pem", &authority.pem);
    let odd = files.put("odd", "-----BEGIN X509 CRL-----\nc2VjcmV0\n-----END X509 CRL-----\n");
    let said = |tls: ListenerTlsConfig| {
        let said = check(&tls, Protocol::Mqtt).unwrap_err().to_string();
        said.replace(files.root().to_str().unwrap(), "DIR")
    };
    let missing = Some(files.path("missing"));
    assert_eq!(
        said(ListenerTlsConfig { ca_file: missing.clone(), ..usual.clone() }),
        "ca_file: DIR/missing: No such file or directory (os error 2)"
    );
    assert_eq!(
        said(ListenerTlsConfig { crl_file: Some(no_list), ..usual.clone() }),
        "crl_file: DIR/none.pem: there is no list of revoked certificates (X509 CRL) in it"
    );
    let no_response = said(ListenerTlsConfig { ocsp_file: Some(odd.clone()), ..usual.clone() });
    assert!(no_response.starts_with("ocsp_file: DIR/odd: no OCSP response in DER"), "{no_response}");
    let odd = said(ListenerTlsConfig { crl_file: Some(odd), ..usual.clone() });
    assert!(odd.starts_with("crl_file: DIR/odd: "), "{odd}");
    let sni = vec![SniConfig { cert_file: files.path("missing"), ..SniConfig::default() }];
    assert_eq!(
        said(ListenerTlsConfig { sni, ..usual }),
        "sni.cert_file: DIR/missing: No such file or directory (os error 2)"
    );
}

/// Waits for something that a look at the files brings.
async fn in_the_end(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn files_that_are_replaced_count_for_who_comes_then_and_bad_ones_do_not() {
    let (before, after, files) = (Authority::new("before"), Authority::new("after"), Files::new());
    let running = running(tls_of(files.put_server(&before.issue("localhost"))), |_| ()).await;
    let addr = running.addr(Protocol::Mqtt);
    let by = |authority: &Authority| Caller::new(authority.roots(), ALL_VERSIONS, &[]);
    let mut old = by(&before).gets_in(addr).await.unwrap();
    files.put_server(&after.issue("localhost"));
    in_the_end("the new certificate is shown", async || by(&after).gets_in(addr).await.is_some()).await;
    echoed(&mut old, b"still there").await;
    // Whoever has a ticket goes on with it: it is the same listener.
    files.put("server.pem", "");
    let keeper = by(&after);
    for _ in 0..2 {
        assert!(keeper.gets_in(addr).await.is_some());
    }
    files.put_server(&before.issue("localhost"));
    in_the_end("the next one is shown", async || by(&before).gets_in(addr).await.is_some()).await;
    let resumed = keeper.gets_in(addr).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    echoed(&mut old, b"and still").await;
}

#[tokio::test]
async fn what_is_prepared_counts_for_nobody_before_it_runs_and_what_has_stopped_no_more() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let plain = tls_of(files.put_server(&authority.issue("localhost")));
    let mut running = running(plain.clone(), |_| ()).await;
    let crl_file = Some(files.put("crl.pem", &authority.revoke(&[7])));
    let revoking = ListenerTlsConfig { crl_file, ..asking(&authority, &files, ClientCertificate::Optional) };
    let of = |name: &str, tls: &ListenerTlsConfig, running: &Running| ListenerConfig {
        name: name.to_owned(),
        tls: Some(tls.clone()),
        ..running.config.listeners.tcp[0].clone()
    };
    let shown = |running: &Running, name: &str| {
        running.metrics.render().contains(&format!("mqtt_tls_valid_until_seconds{{listener=\"{name}\""))
    };
    let listeners = [of("tcp", &plain, &running), of("renamed", &revoking, &running), of("again", &plain, &running)];
    let change =
        |from: usize| [ListenerChange::Change(Box::new((listeners[from].clone(), listeners[from + 1].clone())))];
    let counts =
        |running: &Running| [!running.revocations.is_empty(), shown(running, "tcp"), shown(running, "renamed")];
    let prepared = running.listening.prepare(&running.config, &change(0)).await.unwrap();
    assert_eq!(counts(&running), [false, true, false], "it is only prepared");
    drop(prepared);
    assert_eq!(counts(&running), [false, true, false], "it has come to nothing");
    let prepared = running.listening.prepare(&running.config, &change(0)).await.unwrap();
    running.listening.take(prepared);
    assert!(!running.revocations.is_empty() && shown(&running, "renamed"));
    in_the_end("the one before has stopped", async || counts(&running) == [true, false, true]).await;
    let prepared = running.listening.prepare(&running.config, &change(1)).await.unwrap();
    running.listening.take(prepared);
    in_the_end("its lists count no more", async || counts(&running) == [false, false, false]).await;
    assert!(shown(&running, "again"));
}

#[tokio::test]
async fn a_certificate_that_is_revoked_later_does_not_come_back_by_a_ticket() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let crl_file = Some(files.put("crl.pem", &authority.revoke(&[])));
    let tls = ListenerTlsConfig { crl_file, ..asking(&authority, &files, ClientCertificate::Required) };
    let running = running(tls, |_| ()).await;
    let addr = running.addr(Protocol::Mqtt);
    for version in [&TLS12, &TLS13] {
        let (revoked, other) = match version.version {
            ProtocolVersion::TLSv1_2 => (1, 2),
            _ => (3, 4),
        };
        let lamp = Caller::with(&authority, &authority.issue_client("lamp", revoked), version);
        let door = Caller::with(&authority, &authority.issue_client("door", other), version);
        for caller in [&lamp, &door] {
            assert!(caller.gets_in(addr).await.is_some());
            let stream = caller.gets_in(addr).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        }
        let mut changes = running.revocations.changes();
        files.put("crl.pem", &authority.revoke(&[1, revoked]));
        timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
        assert!(lamp.gets_in(addr).await.is_none());
        let stream = door.gets_in(addr).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "tickets of before are not taken");
    }
}
