//! Mode `oidc`, with an identity provider of our own: tokens in CONNECT, keys that are changed, and one that cannot be asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_codec::{ReasonCode, Version};
use parking_lot::Mutex;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, msg};

/// A key of the provider.
struct Key {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Key {
    fn new(id: &'static str, seed: u8) -> Self {
        Self { id, pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    fn jwk(&self) -> Value {
        let public = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": public })
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.id });
        let [header, claims] = [header, claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes())))
    }
}

/// An identity provider: what it answers to anybody who asks for its keys, and how often that was.
struct Provider {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let provider = Self { url, answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (Arc::clone(&provider.answer), Arc::clone(&provider.asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
                assert!(request.starts_with(b"GET /keys HTTP/1.1\r\n"), "{request:?}");
                asked.fetch_add(1, Ordering::Relaxed);
                let text = answer.lock().clone();
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        provider
    }

    fn answer(&self, status: &str, body: &str) {
        *self.answer.lock() =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }

    fn has(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answer("200 OK", &json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn lamp() -> Value {
    json!({ "iss": "https://id", "aud": ["mqtt", "x"], "exp": now() + 600, "sub": "lamp", "groups": ["lamps"] })
}

async fn guarded(nats: &NatsServer, provider: &Provider) -> (Sidecar, TempDir) {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("nats-mqtt.toml");
    let text = format!(
        "[auth]\nmode = \"oidc\"\n[auth.oidc]\nissuer = \"https://id\"\naudience = \"mqtt\"\njwks_url = {:?}\n\
         [[auth.oidc.roles]]\nmatch = {{ groups = \"lamps\" }}\n\
         permissions = {{ publish = {{ allow = [\"dev.{{{{sub}}}}.>\"] }} }}\n",
        provider.url
    );
    std::fs::write(&config, text).unwrap();
    let args = ["--nats", &nats.url(), "-c", config.to_str().unwrap()];
    (SidecarBuilder::new("guarded", &args).start().await, dir)
}

/// With a token as the password; each from an address of its own.
fn with(version: Version, token: &str) -> Options {
    static FROM: AtomicUsize = AtomicUsize::new(2);
    let from = FROM.fetch_add(1, Ordering::Relaxed);
    let mut options = Options::new(version, &format!("c{from}")).from(u8::try_from(from).unwrap());
    options.connect.username = Some(format!("ignored-{from}").into());
    options.connect.password = Some(token.as_bytes().into());
    options
}

async fn answer(sidecar: &Sidecar, options: Options) -> ReasonCode {
    Client::open(sidecar.mqtt_port, options).await.connack.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_let_devices_in_and_the_others_are_told_why_not() {
    use ReasonCode::{BadUserNameOrPassword, NotAuthorized, Success};
    let (nats, provider, key) = (NatsServer::start(), Provider::start().await, Key::new("1", 1));
    provider.has(&[&key]);
    let (sidecar, _dir) = guarded(&nats, &provider).await;
    let changed = |name: &str, value: Value| {
        let mut claims = lamp();
        claims[name] = value;
        key.token(&claims)
    };
    for (token, expected, step) in [
        (key.token(&lamp()), Success, ""),
        (Key::new("1", 2).token(&lamp()), BadUserNameOrPassword, "oidc_signature"),
        (Key::new("2", 2).token(&lamp()), BadUserNameOrPassword, "oidc_key"),
        ("hunter2".to_owned(), BadUserNameOrPassword, "oidc_token"),
        (changed("iss", json!("https://other")), NotAuthorized, "oidc_issuer"),
        (changed("aud", json!("other")), NotAuthorized, "oidc_audience"),
        (changed("exp", json!(now() - 1)), NotAuthorized, "oidc_time"),
        (changed("nbf", json!(now() + 120)), NotAuthorized, "oidc_time"),
        (changed("groups", json!(["hubs"])), NotAuthorized, "oidc_role"),
        (changed("sub", json!("a/b")), NotAuthorized, "template"),
    ] {
        for version in [Version::V311, Version::V5] {
            assert_eq!(answer(&sidecar, with(version, &token)).await, expected, "{version:?} {step}");
        }
        let refused = sidecar.metric(&format!("mqtt_auth_refused_total{{step=\"{step}\"}}")).await;
        assert!(step.is_empty() || refused >= 2.0, "{step}");
        assert!(!sidecar.log().contains(&token), "{step}");
    }
    let mut options = Options::v5("by-method").anonymous();
    options.connect.properties.authentication_method = Some("OAUTH2-JWT".into());
    options.connect.properties.authentication_data = Some(key.token(&lamp()).as_bytes().into());
    let mut client = Client::open(sidecar.mqtt_port, options).await;
    assert_eq!(client.connack.reason, Success);
    assert_eq!(client.connack.properties.authentication_method.as_deref(), Some("OAUTH2-JWT"));
    assert_eq!(client.publish(msg("dev/lamp/x", "1").qos(1)).await, Success);
    assert_eq!(client.publish(msg("dev/other/x", "1").qos(1)).await, NotAuthorized);
    assert_eq!(provider.asked(), 1, "what is made up does not have it asked again within half a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_had_let_nobody_in_until_they_can() {
    let (nats, provider, key) = (NatsServer::start(), Provider::start().await, Key::new("1", 1));
    let (sidecar, _dir) = guarded(&nats, &provider).await;
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300 * 1024));
    let elsewhere = Provider::start().await;
    elsewhere.has(&[&key]);
    for (asked, (status, body)) in [
        ("500 Internal Server Error", "{}"),
        ("200 OK", "{}"),
        ("200 OK", &*huge),
        (&*format!("302 Found\r\nLocation: {}", elsewhere.url), ""),
    ]
    .into_iter()
    .enumerate()
    {
        provider.answer(status, body);
        // It is tried again after a second.
        crate::harness::eventually("it was asked again", async || {
            let reason = answer(&sidecar, with(Version::V5, &key.token(&lamp()))).await;
            assert_eq!(reason, ReasonCode::ServerUnavailable, "{status}");
            provider.asked() > asked
        })
        .await;
    }
    assert_eq!(elsewhere.asked(), 0, "no redirects");
    provider.has(&[&key]);
    crate::harness::eventually("it gets in", async || {
        answer(&sidecar, with(Version::V5, &key.token(&lamp()))).await == ReasonCode::Success
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_goes_when_its_token_expires() {
    let (nats, provider, key) = (NatsServer::start(), Provider::start().await, Key::new("1", 1));
    provider.has(&[&key]);
    let (sidecar, _dir) = guarded(&nats, &provider).await;
    let mut claims = lamp();
    // A second may be over in a moment.
    claims["exp"] = json!(now() + 2);
    let mut lamp = Client::open(sidecar.mqtt_port, with(Version::V5, &key.token(&claims))).await;
    assert_eq!(lamp.connack.reason, ReasonCode::Success);
    assert_eq!(lamp.closed().await, Some(ReasonCode::MaximumConnectTime));
}
