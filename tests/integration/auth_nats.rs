//! Mode `nats`: users of nats-server's configuration, a token, nobody, and an auth callout, each as nats-server has it.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use mqtt_codec::{ReasonCode, Version};
use nkeys::KeyPair;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, NatsServer, Options, PROGRAM, Sidecar, SidecarBuilder, eventually, msg, run, settle};

/// Users of two accounts; we are "side" in A.
const ACCOUNTS: &str = r#"
accounts {
  A {
    jetstream: enabled
    users: [
      { user: side, password: side }
      { user: lamp, password: light, permissions: {
        publish: { allow: ["dev.>", "$SYS.REQ.USER.INFO"], deny: "dev.x" }, subscribe: { allow: "cmd.>" } } }
      { user: mute, password: light, permissions: { publish: { allow: "dev.>" } } }
      { user: mqtt, password: light, allowed_connection_types: ["MQTT"] }
      { user: nobody, password: unknown, permissions: { subscribe: { deny: ">" } } }
    ]
  }
  B { jetstream: enabled, users: [ { user: sideb, password: sideb }, { user: other, password: light } ] }
}
no_auth_user: nobody
"#;

fn as_user(nats: &NatsServer, user: &str) -> String {
    nats.url().replace("nats://", &format!("nats://{user}@"))
}

/// A client of nats-server as a user whose password is its name.
async fn nats_client(nats: &NatsServer, user: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
    options.connect(nats.url()).await.unwrap()
}

/// A sidecar in mode `nats`, whose configuration has these lines in `[auth]`.
async fn guarded(nats: &NatsServer, us: &str, auth: &str) -> (Sidecar, TempDir) {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("nats-mqtt.toml");
    std::fs::write(&config, format!("[auth]\nmode = \"nats\"\n{auth}\n")).unwrap();
    let args = ["--nats", &as_user(nats, us), "-c", config.to_str().unwrap()];
    (SidecarBuilder::new("guarded", &args).start().await, dir)
}

fn with(mut options: Options, name: Option<&str>, password: Option<&str>) -> Options {
    options.connect.username = name.map(Into::into);
    options.connect.password = password.map(|password| password.as_bytes().into());
    options
}

async fn answer(sidecar: &Sidecar, options: Options) -> ReasonCode {
    Client::open(sidecar.mqtt_port, options).await.connack.reason
}

async fn refused(sidecar: &Sidecar, step: &str) -> f64 {
    sidecar.metric(&format!("mqtt_auth_refused_total{{step=\"{step}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_nats_server_get_in_with_its_permissions_and_the_others_are_told_why_not() {
    use ReasonCode::{BadUserNameOrPassword, NotAuthorized, ServerUnavailable, Success};
    let nats = NatsServer::start_with(true, ACCOUNTS);
    let (sidecar, _dir) = guarded(&nats, "side:side", "anonymous = true").await;
    let mut from = 1;
    for (name, password, expected) in [
        (Some("lamp"), Some("light"), Success),
        (Some("lamp"), Some("dark"), BadUserNameOrPassword),
        (Some("lamp"), None, BadUserNameOrPassword),
        // What nobody may ask cannot be answered, and a user of MQTT only is refused as a wrong password is.
        (Some("mute"), Some("light"), NotAuthorized),
        (Some("mqtt"), Some("light"), BadUserNameOrPassword),
        // Of an account that no link of ours is in.
        (Some("other"), Some("light"), ServerUnavailable),
        (None, None, Success),
    ] {
        for version in [Version::V311, Version::V5] {
            from += 1;
            let options = with(Options::new(version, &format!("c{from}")).from(from), name, password);
            assert_eq!(answer(&sidecar, options).await, expected, "{version:?} {name:?} {password:?}");
        }
    }
    for (step, count) in [("nats_refused", 6.0), ("nats_question", 2.0), ("nats_no_answer", 2.0)] {
        assert_eq!(refused(&sidecar, step).await, count, "{step}");
    }
    let mut lamp = Client::connect(sidecar.mqtt_port, with(Options::v5("lamp"), Some("lamp"), Some("light"))).await;
    assert_eq!(lamp.publish(msg("dev/a", "1").qos(1)).await, Success);
    assert_eq!(lamp.publish(msg("dev/x", "1").qos(1)).await, NotAuthorized);
    assert_eq!(lamp.asks_for("cmd/#", 0).await, Success);
    assert_eq!(lamp.asks_for("other", 0).await, NotAuthorized);
    let mut nobody = Client::connect(sidecar.mqtt_port, Options::v5("nobody").anonymous()).await;
    assert_eq!(nobody.asks_for("cmd/a", 0).await, NotAuthorized);
    let log = sidecar.log();
    assert!(log.contains("may not publish to $SYS.REQ.USER.INFO") && log.contains("account=\"B\""), "{log}");
    assert!(!log.contains("dark"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_that_hears_the_answer_says_which_account_it_is() {
    let nats = NatsServer::start_with(true, ACCOUNTS);
    let more = "[accounts.B]\nuser = \"sideb\"\npassword = \"sideb\"";
    let (sidecar, _dir) = guarded(&nats, "side:side", more).await;
    let connect = async |name: &str| {
        Client::connect(sidecar.mqtt_port, with(Options::v5("same"), Some(name), Some("light"))).await
    };
    // The same client id in two accounts, and each hears what is published in its own.
    let (mut lamp, mut other) = (connect("lamp").await, connect("other").await);
    lamp.subscribe("cmd/#", 1).await;
    other.subscribe("cmd/#", 1).await;
    for (user, text) in [("side", "a"), ("sideb", "b")] {
        let publisher = nats_client(&nats, user).await;
        publisher.publish("cmd.x", text.into()).await.unwrap();
        settle(&publisher).await;
    }
    assert_eq!((&*lamp.receive().await.payload, &*other.receive().await.payload), (&b"a"[..], &b"b"[..]));
    lamp.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_a_password_with_any_name_or_none() {
    let nats = NatsServer::start_with(true, "authorization { token: secret }");
    let (sidecar, _dir) = guarded(&nats, "secret", "").await;
    for (from, name, password, expected) in [
        (2, None, Some("secret"), ReasonCode::Success),
        (3, Some("lamp"), Some("secret"), ReasonCode::Success),
        (4, Some("lamp"), Some("other"), ReasonCode::BadUserNameOrPassword),
        (5, None, None, ReasonCode::NotAuthorized),
    ] {
        let options = with(Options::v5("c").from(from), name, password);
        assert_eq!(answer(&sidecar, options).await, expected, "{name:?} {password:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_in_nats_servers_place_lets_nobody_in() {
    let nats = NatsServer::start_with(true, ACCOUNTS);
    let (sidecar, _dir) = guarded(&nats, "side:side", "").await;
    let forger = nats_client(&nats, "side").await;
    let mut questions = forger.subscribe("$SYS.REQ.USER.INFO").await.unwrap();
    settle(&forger).await;
    let answering = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let forged = json!({ "data": { "user": "lamp", "account": "A" } });
            forger.publish(question.reply.unwrap(), forged.to_string().into()).await.unwrap();
        }
    });
    let lamp = with(Options::v5("lamp"), Some("lamp"), Some("light"));
    assert_eq!(answer(&sidecar, lamp).await, ReasonCode::NotAuthorized);
    assert_eq!(refused(&sidecar, "nats_answers").await, 1.0);
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_judged_is_told_so_and_who_is_connected_stays() {
    let mut nats = NatsServer::start_with(true, ACCOUNTS);
    let (sidecar, _dir) = guarded(&nats, "side:side", "recheck = \"1s\"\ncache = \"0s\"").await;
    let mut lamp = Client::connect(sidecar.mqtt_port, with(Options::v5("lamp"), Some("lamp"), Some("light"))).await;
    nats.kill();
    let other = with(Options::v5("other"), Some("lamp"), Some("light"));
    assert_eq!(answer(&sidecar, other).await, ReasonCode::ServerUnavailable);
    // It was asked about the one that is connected, too.
    eventually("it was asked again", async || sidecar.log().matches("could not be asked").count() > 2).await;
    lamp.ping().await;
    assert_eq!(refused(&sidecar, "nats_unreachable").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_that_would_be_is_asked_of_nats_server() {
    let nats = NatsServer::start_with(true, ACCOUNTS);
    let dir = TempDir::new().unwrap();
    let [config, right, wrong] = ["nats-mqtt.toml", "right", "wrong"].map(|name| dir.path().join(name));
    std::fs::write(&config, "[auth]\nmode = \"nats\"\n").unwrap();
    std::fs::write(&right, "light\n").unwrap();
    std::fs::write(&wrong, "dark\n").unwrap();
    let test = async |password: &std::path::Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["auth", "test", "--user", "lamp", "--nats", &as_user(&nats, "side:side"), "-c"]).arg(&config);
        command.arg("--password-file").arg(password);
        run(command, Duration::from_secs(30)).await
    };
    let said = test(&right).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    // nats-server says the subjects in any order.
    for expected in ["user      lamp", "$SYS.REQ.USER.INFO", "dev.>", "; not dev.x"] {
        assert!(said.stdout.contains(expected), "{expected}: {}", said.stdout);
    }
    let said = test(&wrong).await;
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("refused at step nats_refused"), "{}", said.stderr);
}

/// What an auth callout says: for each user its password, and what its JWT has under `nats`, and `exp`.
type Users = Arc<Mutex<HashMap<&'static str, (&'static str, Value)>>>;

fn sign(claims: &Value, key: &KeyPair) -> String {
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
}

/// The answer of an auth callout to a request (ADR-26).
fn judged(request: &[u8], issuer: &KeyPair, users: &Users) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(request.split(|byte| *byte == b'.').nth(1)?).ok()?;
    let request: Value = serde_json::from_slice(&claims).ok()?;
    let request = &request["nats"];
    let (user, issuer_key) = (request["user_nkey"].clone(), issuer.public_key());
    let name = request["connect_opts"]["user"].as_str()?;
    let known = users.lock();
    let (password, nats) = known.get(name).filter(|(password, _)| request["connect_opts"]["pass"] == *password)?;
    let _ = password;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut claims = json!({ "iss": issuer_key, "sub": user, "aud": "A", "name": name, "iat": now, "exp": now + 3600, "nats": nats });
    for (key, value) in [
        ("type", json!("user")),
        ("version", json!(2)),
        ("subs", json!(-1)),
        ("data", json!(-1)),
        ("payload", json!(-1)),
    ] {
        claims["nats"][key] = value;
    }
    let answer = json!({
        "iss": issuer_key, "sub": user, "aud": request["server_id"]["id"], "iat": now,
        "nats": { "jwt": sign(&claims, issuer), "type": "authorization_response", "version": 2 },
    });
    Some(sign(&answer, issuer))
}

/// A nats-server that leaves it to a callout who its users are, and what the callout knows.
async fn with_callout() -> (NatsServer, Users, tokio::task::JoinHandle<()>) {
    let issuer = KeyPair::new_account();
    let config = format!(
        r#"accounts {{
          A {{ jetstream: enabled, users: [ {{ user: side, password: side }} ] }}
          AUTH {{ users: [ {{ user: auth, password: auth }} ] }}
        }}
        authorization {{ auth_callout {{ issuer: {}, account: AUTH, auth_users: [ auth, side ] }} }}"#,
        issuer.public_key()
    );
    let nats = NatsServer::start_with(true, &config);
    let users = Users::default();
    let service = nats_client(&nats, "auth").await;
    let mut requests = service.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    settle(&service).await;
    let known = Arc::clone(&users);
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let answer = judged(&request.payload, &issuer, &known).unwrap_or_default();
            service.publish(request.reply.unwrap(), answer.into()).await.unwrap();
        }
    });
    (nats, users, answering)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_an_auth_callout_get_in_and_feel_what_it_says_later() {
    let (nats, users, answering) = with_callout().await;
    let (sidecar, _dir) = guarded(&nats, "side:side", "recheck = \"1s\"\ncache = \"0s\"").await;
    let lamp = |permissions: Value| ("light", permissions);
    users.lock().insert("lamp", lamp(json!({ "sub": { "allow": ["cmd.>", "more.>"] } })));
    users.lock().insert("hall", lamp(json!({})));
    let connect = async |name: &str, password: &str| {
        let options = with(Options::v5(name).from(name.len() as u8), Some(name), Some(password));
        Client::open(sidecar.mqtt_port, options).await
    };
    assert_eq!(connect("lamp", "dark").await.connack.reason, ReasonCode::BadUserNameOrPassword);
    let (mut one, mut hall) = (connect("lamp", "light").await, connect("hall", "light").await);
    assert_eq!(one.connack.reason, ReasonCode::Success);
    assert_eq!(
        (one.asks_for("cmd/a", 0).await, one.asks_for("more/a", 0).await),
        (ReasonCode::Success, ReasonCode::Success)
    );
    assert_eq!(one.asks_for("other", 0).await, ReasonCode::NotAuthorized);
    // It may have less now: the subscription ends, the connection does not.
    users.lock().insert("lamp", lamp(json!({ "sub": { "allow": ["cmd.>"] } })));
    eventually("it has less", async || sidecar.log().contains("a subscription has ended")).await;
    assert_eq!(
        (one.asks_for("cmd/b", 0).await, one.asks_for("more/a", 0).await),
        (ReasonCode::Success, ReasonCode::NotAuthorized)
    );
    // It is gone, and the other one is not.
    users.lock().remove("lamp");
    assert_eq!(one.closed().await, Some(ReasonCode::AdministrativeAction));
    hall.ping().await;
    assert_eq!(connect("lamp", "light").await.connack.reason, ReasonCode::BadUserNameOrPassword);
    answering.abort();
}
