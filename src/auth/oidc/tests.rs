//! Tokens without an identity provider on the network: a secret is shared with it.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_access::Mode;
use mqtt_codec::{Connect, ReasonCode, Version};
use ring::hmac;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Overrides};
use crate::listener::{Entrance, Protocol};
use crate::metrics::Metrics;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Keys come from this address.
fn fetching(url: &str) -> OidcUsers {
    let text = format!(
        "[auth.oidc]\nissuer = \"https://id\"\naudience = \"mqtt\"\njwks_url = \"{url}\"\n[[auth.oidc.roles]]\nmatch = {{ sub = \"lamp\" }}\nuser = \"{{{{sub}}}}\"\n"
    );
    let config = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap();
    OidcUsers::new(config.auth.oidc.as_ref().unwrap(), Refusals::new(Metrics::new()))
}

fn users(roles: &str) -> OidcUsers {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(SECRET.as_bytes()).unwrap();
    let text =
        format!("[auth.oidc]\nissuer = \"https://id\"\naudience = \"mqtt\"\nsecret_file = {:?}\n{roles}", file.path());
    let config = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap();
    OidcUsers::new(config.auth.oidc.as_ref().unwrap(), Refusals::new(Metrics::new()))
}

/// A key pair of a provider, its set of keys, and a token that it has signed.
fn signed_with_ed25519(kid: &str) -> (String, String) {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": "EdDSA" }] }).to_string();
    let header = json!({ "alg": "EdDSA", "kid": kid }).to_string();
    let claims = json!({ "iss": "https://id", "aud": "mqtt", "exp": now().as_secs() + 600, "sub": "lamp" }).to_string();
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    (keys, format!("{signed}.{signature}"))
}

fn token(claims: &Value) -> String {
    let mut all = json!({ "iss": "https://id", "aud": "mqtt", "exp": now().as_secs() + 600 });
    for (key, value) in claims.as_object().unwrap() {
        all[key] = value.clone();
    }
    let [header, claims] = [r#"{"alg":"HS256"}"#.to_owned(), all.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn connect(client_id: &str, password: Option<&str>, method: Option<(&'static str, Option<&str>)>) -> Connect {
    let mut connect = Connect::new(Version::V5, client_id);
    connect.password = password.map(|password| password.as_bytes().into());
    if let Some((method, data)) = method {
        connect.properties.authentication_method = Some(method.into());
        connect.properties.authentication_data = data.map(|data| data.as_bytes().into());
    }
    connect
}

async fn judge(users: &OidcUsers, connect: &Connect) -> Result<Arc<Principal>, ReasonCode> {
    let peer = Peer::new(([192, 0, 2, 1], 1883).into(), Arc::new(Entrance::plain("test", Protocol::Mqtt)));
    let data = connect.properties.authentication_data.as_ref();
    match users.judge(Credentials { connect, data, challenge: None, round: 0 }, &peer).await {
        Verdict::Accepted(principal, None) => Ok(principal),
        Verdict::Refused(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

const ROLES: &str = r#"
[[auth.oidc.roles]]
match = { "realm.roles" = ["lamp", "bulb"], active = true }
user = "{{claim.realm.name}}"
account = "{{claim.tenant}}"
accounts = ["T1", "T2"]
permissions = { publish = { allow = ["dev.{{sub}}.{{claim.sites}}.>"] }, subscribe = { allow = ["cmd.{{client_id}}"] } }
tags = ["mqtt:max-qos=1"]

[[auth.oidc.roles]]
match = { sub = "hub" }
"#;

#[tokio::test(start_paused = true)]
async fn the_first_role_that_matches_says_who_that_is() {
    let users = users(ROLES);
    let lamp = json!({
        "sub": "esp.1", "realm": { "roles": ["x", "lamp"], "name": "Lamp #1" }, "active": true, "tenant": "T1",
        "sites": ["a", "b"],
    });
    let principal = judge(&users, &connect("c/1".replace('/', ".").as_str(), Some(&token(&lamp)), None)).await.unwrap();
    assert_eq!((&*principal.user.name, principal.account.as_str()), ("Lamp #1", "T1"));
    assert_eq!(principal.permissions.lists().publish.allowed(), ["dev.esp//1.a.>", "dev.esp//1.b.>"]);
    assert_eq!(principal.permissions.lists().subscribe.allowed(), ["cmd.c//1"]);
    assert_eq!((principal.rules.max_qos, principal.origin.mode), (Some(1), Mode::Oidc));
    assert!(principal.expires.is_some_and(|expires| expires > now()));
    let mut wild = lamp.clone();
    (wild["sub"], wild["sites"]) = (json!("*"), json!(">"));
    let wild = judge(&users, &connect("c", Some(&token(&wild)), None)).await.unwrap();
    assert!(!wild.permissions.is_publish_allowed("dev.a.b.c"), "{:?}", wild.permissions.lists().publish);
    let hub = judge(&users, &connect("c", Some(&token(&json!({ "sub": "hub" }))), None)).await.unwrap();
    assert_eq!((&*hub.user.name, hub.account.is_empty()), ("hub", true));
    for (changed, expected) in [
        (json!({ "active": false }), ReasonCode::NotAuthorized),
        (json!({ "active": "true" }), ReasonCode::NotAuthorized),
        (json!({ "realm": { "roles": "lamp", "name": "n" } }), ReasonCode::Success),
        (json!({ "realm": { "roles": ["lamps"], "name": "n" } }), ReasonCode::NotAuthorized),
        // Never a wildcard, never two tokens, and never left out.
        (json!({ "sub": "+" }), ReasonCode::NotAuthorized),
        (json!({ "sub": "a/b" }), ReasonCode::NotAuthorized),
        (json!({ "sub": "" }), ReasonCode::NotAuthorized),
        (json!({ "sites": ["a", "#"] }), ReasonCode::NotAuthorized),
        (json!({ "sites": [] }), ReasonCode::NotAuthorized),
        (json!({ "sites": null }), ReasonCode::NotAuthorized),
        (json!({ "sites": 7 }), ReasonCode::Success),
        (json!({ "tenant": "T3" }), ReasonCode::NotAuthorized),
        (json!({ "tenant": "{{claim.tenant}}" }), ReasonCode::NotAuthorized),
        (json!({ "realm": { "roles": "lamp", "name": "" } }), ReasonCode::NotAuthorized),
    ] {
        let mut claims = lamp.clone();
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let reason = judge(&users, &connect("c", Some(&token(&claims)), None)).await.err();
        assert_eq!(reason.unwrap_or(ReasonCode::Success), expected, "{changed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_as_a_password_or_by_the_method_of_mqtt_5() {
    use ReasonCode::{BadAuthenticationMethod, BadUserNameOrPassword, NotAuthorized, Success};
    let users = users(ROLES);
    let hub = token(&json!({ "sub": "hub" }));
    let late = token(&json!({ "sub": "hub", "exp": now().as_secs() - 1 }));
    let forged = format!("{}x", hub.strip_suffix(|_: char| true).unwrap());
    for (password, method, expected) in [
        (Some(&*hub), None, Success),
        (None, Some(("OAUTH2-JWT", Some(&*hub))), Success),
        (Some(&*hub), Some(("OAUTH2-JWT", None)), NotAuthorized),
        (Some(&*hub), Some(("SCRAM-SHA-1", Some(&*hub))), BadAuthenticationMethod),
        (None, None, NotAuthorized),
        (Some("hunter2"), None, BadUserNameOrPassword),
        (Some(&*forged), None, BadUserNameOrPassword),
        (Some(&*late), None, NotAuthorized),
    ] {
        let reason = judge(&users, &connect("c", password, method)).await.err().unwrap_or(Success);
        assert_eq!(reason, expected, "{password:?} {method:?}");
    }
}

#[tokio::test]
async fn who_has_keys_fetched_and_leaves_keeps_nobody_from_them() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let provider = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let users = Arc::new(fetching(&format!("http://{}/keys", provider.local_addr().unwrap())));
    let following = tokio::spawn({
        let users = Arc::clone(&users);
        async move { users.follow().await }
    });
    let (keys, token) = signed_with_ed25519("one");
    let connect = connect("c", Some(&token), None);
    // The first client leaves when its keys are being fetched.
    let (mut asked, _) = tokio::select! {
        asked = provider.accept() => asked.unwrap(),
        judged = judge(&users, &connect) => panic!("{judged:?} without keys"),
    };
    let second = judge(&users, &connect);
    let answered = async {
        let mut request = [0; 1024];
        assert!(asked.read(&mut request).await.unwrap() > 0);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}", keys.len());
        asked.write_all(answer.as_bytes()).await.unwrap();
    };
    let (judged, ()) = tokio::join!(second, answered);
    assert_eq!(judged.map(|principal| principal.user.name.clone()), Ok("lamp".to_owned()));
    following.abort();
}
