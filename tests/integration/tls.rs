//! Listeners with TLS, with the programs that others have written: mosquitto's clients, openssl, paho.

use std::path::PathBuf;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::harness::{Finished, MosquittoSub, NatsServer, PATIENCE, PROGRAM, Sidecar, SidecarBuilder};
use crate::harness::{eventually, mosquitto_pub, python, run, unique};

/// An authority, and a folder of files with what it issues.
struct Pki {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// With its own certificate in `ca.pem`, and one for localhost in `server.pem` and `server.key`.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "our authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let pki = Self { dir, issuer: Issuer::new(params, key) };
        pki.put("ca.pem", &cert.pem());
        pki.issue("server", CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap());
        pki
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, name: &str, text: &str) {
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

/// What `openssl s_client` says with these arguments; it ends after the handshake.
async fn s_client(port: u16, args: &[&str]) -> Finished {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-verify_return_error"]).args(args);
    run(command, PATIENCE).await
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
    assert_eq!(sidecar.metric("mqtt_tls_failed_total{reason=\"not_tls\"}").await, 1.0);
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
