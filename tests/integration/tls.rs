//! Listeners with TLS, with the programs that others have written: mosquitto's clients, openssl, paho.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use mqtt_codec::ReasonCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::auth_file::hash;
use crate::harness::{Client, Finished, MosquittoSub, NatsServer, PATIENCE, PROGRAM, Sidecar, SidecarBuilder};
use crate::harness::{Options, eventually, mosquitto_pub, msg, python, run, unique};

mod replaced;

/// An authority, and a folder of files with what it issues.
pub(crate) struct Pki {
    pub(crate) dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// With its own certificate in `ca.pem`, and one for localhost in `server.pem` and `server.key`.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "our authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let pki = Self { dir, issuer: Issuer::new(params, key) };
        pki.put("ca.pem", &cert.pem());
        pki.put("ca.key", &pki.issuer.key().serialize_pem());
        pki.issue("server", CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap());
        pki
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// Issues a certificate, into `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().unwrap();
        self.put(&format!("{name}.pem"), &params.signed_by(&key, &self.issuer).unwrap().pem());
        self.put(&format!("{name}.key"), &key.serialize_pem());
    }

    /// Issues one for a client, by name and serial number.
    pub(crate) fn issue_client(&self, name: &str, serial: u64) {
        let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        if name == "old" {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        self.issue(name, params);
    }

    /// Puts a list of revoked certificates into `revoked.crl`.
    fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.put("revoked.crl", &list.signed_by(&self.issuer).unwrap().pem().unwrap());
    }

    /// What the authority says of the certificate of `server.pem` for as many minutes, in `server.ocsp`.
    async fn say(&self, status: &str, minutes: &str) {
        let openssl = async |args: &[&str]| {
            let mut command = Command::new("openssl");
            let finished = run(
                {
                    command.current_dir(self.dir.path()).args(args);
                    command
                },
                PATIENCE,
            )
            .await;
            assert_eq!(finished.code, 0, "{}", finished.stderr);
            finished.stdout
        };
        let serial = openssl(&["x509", "-in", "server.pem", "-noout", "-serial"]).await;
        let serial = serial.trim().trim_start_matches("serial=");
        let revoked = if status == "R" { "240101000000Z" } else { "" };
        self.put("index.txt", &format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=server\n"));
        let from =
            ["-index", "index.txt", "-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem", "-issuer", "ca.pem"];
        let to = ["-cert", "server.pem", "-respout", "new.ocsp", "-nmin", minutes];
        openssl(&[&["ocsp"], &from[..], &to].concat()).await;
        std::fs::rename(self.path("new.ocsp"), self.path("server.ocsp")).unwrap();
    }

    /// Has what the authority says end in the past: openssl makes no such response. Nobody here looks at its signature.
    fn expire(&self) {
        const NEXT_UPDATE: [u8; 4] = [0xa0, 0x11, 0x18, 0x0f];
        let mut response = std::fs::read(self.path("server.ocsp")).unwrap();
        let at = response.windows(4).position(|bytes| bytes == NEXT_UPDATE).unwrap() + 4;
        response[at..at + 4].copy_from_slice(b"2020");
        std::fs::write(self.path("new.ocsp"), response).unwrap();
        std::fs::rename(self.path("new.ocsp"), self.path("server.ocsp")).unwrap();
    }

    /// Keys of `tls` with which clients are asked for a certificate.
    fn asking(&self, how: &str) -> String {
        self.revoke(&[7]);
        let (ca, crl) = (self.path("ca.pem"), self.path("revoked.crl"));
        format!("ca_file = {ca:?}\ncrl_file = {crl:?}\nclient_certificate = {how:?}")
    }

    /// What `mosquitto_pub` says with the certificate of this name, or none.
    async fn publish(&self, sidecar: &Sidecar, name: Option<&str>, more: &[&str]) -> i32 {
        let ca = self.path("ca.pem");
        let shown = name.map(|name| [self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))]);
        let shown = shown.iter().flat_map(|[cert, key]| ["--cert", &**cert, "--key", &**key]);
        let args =
            ["--cafile", &*ca, "-t", "t", "-m", "x", "-q", "1"].into_iter().chain(shown).chain(more.iter().copied());
        mosquitto_pub(sidecar.mqtt_port, &args.collect::<Vec<_>>(), String::new()).await.code
    }

    /// A configuration in which both listeners have these keys of `tls` besides certificate and key.
    fn config(&self, more: &str, rest: &str) -> PathBuf {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        let tls = format!("cert_file = {cert:?}\nkey_file = {key:?}\n{more}\n");
        self.put("nats-mqtt.toml", &format!("[listeners.tcp.tls]\n{tls}\n[listeners.ws.tls]\n{tls}\n{rest}\n"));
        self.dir.path().join("nats-mqtt.toml")
    }

    /// A sidecar with that configuration.
    async fn start(&self, nats: &NatsServer, more: &str, rest: &str) -> Sidecar {
        let config = self.config(more, rest);
        let sidecar = SidecarBuilder::new("tls", &["--nats", &nats.url(), "-c", config.to_str().unwrap()]);
        sidecar.start().await
    }
}

/// How clients come that trust the authority, with the certificate of this name.
fn connector(pki: &Pki, name: Option<&str>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(pki.path(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(pki.path(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// A port for clients without TLS: what they say goes to a sidecar with TLS and the certificate of this name.
async fn tunnel(pki: &Pki, sidecar: &Sidecar, name: Option<&str>) -> u16 {
    let (connector, to) = (connector(pki, name), sidecar.mqtt_port);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let stream = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                if let Ok(mut stream) = connector.connect("localhost".try_into().unwrap(), stream).await {
                    let _ = tokio::io::copy_bidirectional(&mut plain, &mut stream).await;
                }
            });
        }
    });
    port
}

/// What `openssl s_client` says with these arguments; it ends after the handshake.
async fn s_client(port: u16, args: &[&str]) -> Finished {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-verify_return_error"]).args(args);
    run(command, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_status_of_the_certificate_is_given_it() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    pki.say("V", "60").await;
    let sidecar = pki.start(&nats, &format!("ocsp_file = {:?}", pki.path("server.ocsp")), "").await;
    let ca = pki.path("ca.pem");
    let status = async || s_client(sidecar.mqtt_port, &["-status", "-CAfile", &ca]).await.stdout;
    let said = status().await;
    assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
    let until = sidecar.metric("mqtt_tls_valid_until_seconds{listener=\"tcp\",file=\"ocsp_file\"}").await;
    assert!(until > 1.7e9, "{until}");
    // A new one is sent as soon as it is there, and one that has expired is not.
    pki.say("R", "60").await;
    eventually("a new response", async || status().await.contains("Cert Status: revoked")).await;
    pki.expire();
    eventually("a new response", async || status().await.contains("OCSP response: no response sent")).await;
    eventually("its end is told", async || sidecar.log().contains("the response has expired")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_speaks_mqtt_over_tls() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let sidecar = pki.start(&nats, "", "").await;
    let (ca, topic) = (pki.path("ca.pem"), unique("tls"));
    let tls = ["--cafile", &*ca];
    let mut sub = MosquittoSub::start(sidecar.mqtt_port, &[&tls[..], &["-t", &topic, "-q", "1"]].concat()).await;
    let large = "x".repeat(500_000);
    for payload in ["small", &large] {
        let args = [&tls[..], &["-t", &topic, "-q", "1", "-s"]].concat();
        let published = mosquitto_pub(sidecar.mqtt_port, &args, payload.to_owned()).await;
        assert_eq!(published.code, 0, "{}", published.stderr);
        assert!(sub.next().await == format!("{topic} {payload}"));
    }
    // Without TLS.
    let plain = mosquitto_pub(sidecar.mqtt_port, &["-t", &topic, "-m", "plain"], String::new()).await;
    assert_ne!(plain.code, 0);
    eventually("it is in the log", async || {
        sidecar.log().contains("no TLS connection: the peer speaks MQTT without TLS on a TLS port")
    })
    .await;
    has_failed(&sidecar, "not_tls").await;
    assert!(sidecar.log().contains("with TLS, WebSocket on "), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_gets_the_versions_and_names_that_there_are_and_no_others() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let sidecar = pki.start(&nats, "", "").await;
    let ca = pki.path("ca.pem");
    for (port, args, expected) in [
        (sidecar.mqtt_port, ["-tls1_2", "-alpn", "mqtt"], ["TLSv1.2", "ALPN protocol: mqtt"]),
        (sidecar.mqtt_port, ["-tls1_3", "-alpn", "mqtt"], ["TLSv1.3", "ALPN protocol: mqtt"]),
        (sidecar.ws_port, ["-tls1_3", "-alpn", "h2,http/1.1"], ["TLSv1.3", "ALPN protocol: http/1.1"]),
    ] {
        let said = s_client(port, &[&["-CAfile", &*ca], &args[..]].concat()).await;
        assert_eq!(said.code, 0, "{args:?} {}", said.stderr);
        assert!(expected.iter().all(|text| said.stdout.contains(text)), "{args:?} {}", said.stdout);
    }
    for args in [["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1_2", "-cipher", "AES128-SHA"]] {
        let said = s_client(sidecar.mqtt_port, &[&["-CAfile", &*ca], &args[..]].concat()).await;
        assert_ne!(said.code, 0, "{args:?} {}", said.stdout);
    }
    // By the right authority and for another name it is refused by openssl.
    let said = s_client(sidecar.mqtt_port, &["-CAfile", &ca, "-verify_hostname", "elsewhere.example"]).await;
    assert_ne!(said.code, 0);
}

/// All that openssl can offer is offered alone, without what needs a shared secret.
#[tokio::test(flavor = "multi_thread")]
async fn these_ciphers_are_taken_and_no_others() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let sidecar = pki.start(&nats, "", "").await;
    let ca = pki.path("ca.pem");
    let mut list = Command::new("openssl");
    list.args(["ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:!PSK:!SRP:@SECLEVEL=0"]);
    let known = run(list, PATIENCE).await.stdout;
    let known: Vec<&str> = known.trim().split(':').collect();
    assert!(known.len() > 40 && known.contains(&"AES128-SHA"), "{known:?}");
    let mut taken = Vec::new();
    for some in known.chunks(8) {
        let offers = some.iter().map(async |cipher| {
            let level = format!("{cipher}:@SECLEVEL=0");
            (s_client(sidecar.mqtt_port, &["-CAfile", &ca, "-tls1_2", "-cipher", &level]).await.code == 0)
                .then_some(*cipher)
        });
        taken.extend(futures_util::future::join_all(offers).await.into_iter().flatten());
    }
    taken.sort_unstable();
    // Of a key on an elliptic curve.
    let expected = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"];
    assert_eq!(taken, expected);
    for (suite, is_taken) in [
        ("TLS_AES_128_GCM_SHA256", true),
        ("TLS_AES_256_GCM_SHA384", true),
        ("TLS_CHACHA20_POLY1305_SHA256", true),
        ("TLS_AES_128_CCM_SHA256", false),
        ("TLS_AES_128_CCM_8_SHA256", false),
    ] {
        let said = s_client(sidecar.mqtt_port, &["-CAfile", &ca, "-tls1_3", "-ciphersuites", suite]).await;
        assert_eq!(said.code == 0, is_taken, "{suite} {}", said.stderr);
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(sidecar.mqtt_port, &["-CAfile", &ca, version, "-cipher", "ALL:@SECLEVEL=0"]).await;
        assert_ne!(said.code, 0, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_speaks_mqtt_over_wss() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let sidecar = pki.start(&nats, "", "").await;
    for (version, qos, size) in [("5", 1, 10), ("3.1.1", 2, 300_000)] {
        let (topic, ca) = (format!("{}/x", unique("wss")), pki.path("ca.pem"));
        let port = sidecar.ws_port.to_string();
        let args = [&port, "/mqtt", version, &qos.to_string(), &topic, &size.to_string(), &ca];
        let got = python("websocket.py", &args).await;
        assert_eq!(got.trim(), format!("{topic} qos{qos} same {size}"), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_one_line_of_check_and_of_the_start() {
    let pki = Pki::new();
    let other = KeyPair::generate().unwrap();
    pki.put("server.key", &other.serialize_pem());
    let config = pki.config("", "");
    for subcommand in [&["check", "--offline"][..], &["check"], &[]] {
        let mut command = Command::new(PROGRAM);
        command.args(subcommand).arg("-c").arg(&config);
        let said = run(command, PATIENCE).await;
        assert_eq!(said.code, 78, "{subcommand:?} {}", said.stderr);
        let expected = format!(
            "listener tcp: tls: key_file: {}: it is not the key of the certificate in {}",
            pki.path("server.key"),
            pki.path("server.pem")
        );
        assert!(said.stderr.lines().any(|line| line.ends_with(&expected)), "{subcommand:?} {}", said.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_enough_or_bound_as_the_configuration_says() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    pki.issue_client("lamp", 1);
    pki.issue_client("door", 2);
    let users = format!(
        "[[users]]\nname = \"lamp\"\npassword = {:?}\ncertificate = \"dns:lamp.example\"\n\
         [[users]]\nname = \"hall\"\npassword = {:?}\ncertificate = \"subject:CN=door\"\n",
        hash("light"),
        hash("open")
    );
    let auth = |certificate: &str| format!("[auth]\nmode = \"file\"\ncertificate = {certificate:?}\n{users}");
    let enough = pki.start(&nats, &pki.asking("optional"), &auth("enough")).await;
    // 5 is 3.1.1's "not authorized".
    for (shown, more, code) in [
        (Some("lamp"), &[][..], 0),
        (Some("door"), &[], 0),
        (None, &[], 5),
        (Some("lamp"), &["-u", "hall", "-P", "open"], 5),
        (None, &["-u", "hall", "-P", "open"], 0),
    ] {
        assert_eq!(pki.publish(&enough, shown, more).await, code, "enough {shown:?} {more:?}");
    }
    let bound = pki.start(&nats, &pki.asking("optional"), &auth("bind")).await;
    for (shown, more, code) in [
        (Some("lamp"), &["-u", "lamp", "-P", "light"][..], 0),
        (Some("door"), &["-u", "hall", "-P", "open"], 0),
        (Some("lamp"), &["-u", "hall", "-P", "open"], 5),
        (None, &["-u", "lamp", "-P", "light"], 5),
        (Some("lamp"), &[], 5),
    ] {
        assert_eq!(pki.publish(&bound, shown, more).await, code, "bind {shown:?} {more:?}");
    }
}

/// Waits until a handshake is counted that has failed for this reason. The peer hears of it before.
async fn has_failed(sidecar: &Sidecar, reason: &str) {
    let series = format!("mqtt_tls_failed_total{{reason={reason:?}}}");
    eventually(&series, async || sidecar.metric(&series).await >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_an_expired_and_no_certificate_do_not_get_in() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    for (name, serial) in [("right", 1), ("revoked", 7), ("old", 2)] {
        pki.issue_client(name, serial);
    }
    let sidecar = pki.start(&nats, &pki.asking("required"), "").await;
    assert_eq!(pki.publish(&sidecar, Some("right"), &[]).await, 0);
    for (shown, reason) in
        [(Some("revoked"), "certificate_revoked"), (Some("old"), "certificate_expired"), (None, "certificate_missing")]
    {
        assert_ne!(pki.publish(&sidecar, shown, &[]).await, 0, "{reason}");
        has_failed(&sidecar, reason).await;
    }
    let ca = pki.path("ca.pem");
    // Over wss as well. TLS 1.2 says it before the handshake is over.
    for (shown, is_right) in [(Some("right"), true), (Some("revoked"), false), (Some("old"), false), (None, false)] {
        let files = shown.map(|name| [pki.path(&format!("{name}.pem")), pki.path(&format!("{name}.key"))]);
        let files = files.iter().flat_map(|[cert, key]| ["-cert", &**cert, "-key", &**key]);
        let args: Vec<&str> = ["-CAfile", &*ca, "-tls1_2"].into_iter().chain(files).collect();
        assert_eq!(s_client(sidecar.ws_port, &args).await.code == 0, is_right, "{shown:?}");
    }
    let log = sidecar.log();
    for words in ["peer is revoked", "peer has expired", "has shown no certificate, and one is required"] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_while_it_is_connected_is_disconnected() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    for (name, serial) in [("lamp", 1), ("door", 2)] {
        pki.issue_client(name, serial);
    }
    let sidecar = pki.start(&nats, &pki.asking("required"), "").await;
    let through_lamp = tunnel(&pki, &sidecar, Some("lamp")).await;
    let mut lamp = Client::connect(through_lamp, Options::v5("lamp")).await;
    let mut old_lamp = Client::connect(through_lamp, Options::v311("old-lamp")).await;
    let mut door = Client::connect(tunnel(&pki, &sidecar, Some("door")).await, Options::v5("door")).await;
    pki.revoke(&[7, 1]);
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(old_lamp.closed().await, None);
    door.ping().await;
    // Until its own listener has read the list it is refused as those are who were connected: by CONNACK.
    eventually("TLS refuses it", async || match Client::try_open(through_lamp, Options::v5("lamp")).await {
        Ok(client) if client.connack.reason.is_error() => false,
        Ok(_) => panic!("it was let in"),
        Err(_) => true,
    })
    .await;
    has_failed(&sidecar, "certificate_revoked").await;
    let line = "step=\"certificate_revoked\"";
    assert!(sidecar.log().contains(line), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_kinds_that_openssl_writes_can_be_used() {
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let kinds: [&[&str]; 4] = [
        &["genrsa", "-traditional", "2048"],
        &["genrsa", "2048"],
        &["ecparam", "-name", "secp384r1", "-genkey", "-noout"],
        &["genpkey", "-algorithm", "ed25519"],
    ];
    let mut sidecar = None;
    for kind in kinds {
        let mut command = Command::new("openssl");
        command.args(kind);
        let key = run(command, PATIENCE).await;
        assert_eq!(key.code, 0, "{kind:?} {}", key.stderr);
        pki.put("server.key", &key.stdout);
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-days",
            "2",
        ]);
        command.args(["-key", &pki.path("server.key")]);
        let cert = run(command, PATIENCE).await;
        assert_eq!(cert.code, 0, "{kind:?} {}", cert.stderr);
        pki.put("server.pem", &cert.stdout);
        let sidecar = match &sidecar {
            None => sidecar.insert(pki.start(&nats, "", "").await),
            Some(sidecar) => sidecar,
        };
        let shown = pki.path("server.pem");
        eventually("it is used", async || {
            s_client(sidecar.mqtt_port, &["-CAfile", &shown, "-verify_hostname", "localhost"]).await.code == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_everything_and_the_last_word() {
    const COUNT: usize = 300;
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let mut sidecar = pki.start(&nats, "", "").await;
    let through = tunnel(&pki, &sidecar, None).await;
    let topic = unique("slow");
    let mut slow = Client::connect(through, Options::v5("slow")).await;
    slow.subscribe(&topic, 1).await;
    let mut publisher = Client::connect(through, Options::v5("publisher")).await;
    for number in 0..COUNT {
        // More than the sockets and TLS on the way hold together.
        let published = publisher.publish(msg(&topic, format!("{number:>60000}")).qos(1)).await;
        assert!(!published.is_error(), "{published:?}");
    }
    for number in 0..COUNT {
        assert_eq!(String::from_utf8_lossy(&slow.receive().await.payload).trim(), number.to_string());
    }
    sidecar.terminate();
    for client in [&mut slow, &mut publisher] {
        assert_eq!(client.closed().await, Some(ReasonCode::ServerShuttingDown));
    }
    assert!(sidecar.ended().await.success());
}
