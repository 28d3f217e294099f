//! Mode `jwt` without sockets: verdicts, proofs, files that change, and who is judged again.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mqtt_codec::{Connect, ConnectProperties, ReasonCode, Version};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::listener::Entrance;
use crate::mint::World;
use crate::network::PeerAddr;

/// JWTs that count at this time.
fn world() -> World {
    World::numbered(0, 0, time::now().as_secs())
}

/// A world in files, and who knows it.
struct Guarded {
    dir: TempDir,
    users: JwtUsers,
}

impl Guarded {
    fn new(world: &World) -> Self {
        let dir = TempDir::new().unwrap();
        let operator = dir.path().join("O.jwt");
        std::fs::write(&operator, world.operator_jwt()).unwrap();
        let folder = dir.path().join("jwt");
        std::fs::create_dir(&folder).unwrap();
        put(&folder, world);
        let config =
            JwtConfig { operator: Some(operator), resolver: ResolverConfig::Path(folder), ..JwtConfig::default() };
        Self { users: JwtUsers::new(&config, NatsOptions::default(), Metrics::new()), dir }
    }

    /// The account is this one from now on.
    fn update(&self, world: &World) {
        put(&self.dir.path().join("jwt"), world);
        self.users.look();
    }

    async fn judge(&self, connect: &Connect, answer: Option<(&[u8], &[u8])>) -> Verdict<Arc<Principal>> {
        let signature = answer.map(|(_, signature)| mqtt_codec::Secret::from(signature));
        let credentials = Credentials {
            connect,
            data: signature.as_ref().or(connect.properties.authentication_data.as_ref()),
            challenge: answer.map(|(nonce, _)| nonce),
            round: u8::from(answer.is_some()),
        };
        self.users.judge(credentials, &peer(Protocol::Mqtt)).await
    }

    /// What a client with this JWT as its password is.
    async fn login(&self, jwt: &str) -> Result<Arc<Principal>, ReasonCode> {
        match self.judge(&with_password(jwt), None).await {
            Verdict::Accepted(principal, None) => Ok(principal),
            Verdict::Refused(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    /// At which step a user is refused.
    async fn step(&self, world: &World) -> Option<&'static str> {
        self.step_of(world, &peer(Protocol::Mqtt)).await
    }

    /// The same of one who comes from somewhere else.
    async fn step_of(&self, world: &World, peer: &Peer) -> Option<&'static str> {
        let connect = with_password(&world.user_jwt());
        let credentials = Credentials { connect: &connect, data: None, challenge: None, round: 0 };
        self.users.identified(&credentials, peer).await.err().map(|refused| refused.step.text())
    }
}

fn refusal(verdict: Verdict<Arc<Principal>>) -> Option<ReasonCode> {
    match verdict {
        Verdict::Refused(reason) => Some(reason),
        Verdict::Accepted(..) | Verdict::Challenge(_) => None,
    }
}

fn put(folder: &Path, world: &World) {
    let new = folder.join("new");
    std::fs::write(&new, world.account_jwt()).unwrap();
    std::fs::rename(new, folder.join(format!("{}.jwt", world.account.public_key()))).unwrap();
}

fn peer(protocol: Protocol) -> Peer {
    Peer::new(([10, 1, 2, 3], 1883).into(), Arc::new(Entrance::plain("test", protocol)))
}

fn connect(properties: ConnectProperties, password: Option<&str>) -> Connect {
    Connect {
        username: Some("whoever".into()),
        password: password.map(|password| password.as_bytes().into()),
        properties,
        ..Connect::new(Version::V5, "lamp-1")
    }
}

fn with_password(jwt: &str) -> Connect {
    connect(ConnectProperties::default(), Some(jwt))
}

fn with_method(method: &'static str, data: &str) -> Connect {
    let properties = ConnectProperties {
        authentication_method: Some(method.into()),
        authentication_data: Some(data.as_bytes().into()),
        ..ConnectProperties::default()
    };
    connect(properties, None)
}

fn nats(over: Value) -> Value {
    json!({ "nats": over })
}

fn revoked(user: &str, at: i64) -> Value {
    nats(json!({ "revocations": { user: at } }))
}

#[tokio::test(start_paused = true)]
async fn a_process_of_this_machine_is_in_no_network() {
    let guarded = Guarded::new(&world());
    let process = Peer { addr: PeerAddr::Unix { uid: 0, pid: 1 }, ..peer(Protocol::Mqtt) };
    for (over, expected) in [(json!({}), None), (nats(json!({ "src": ["0.0.0.0/0", "::/0"] })), Some("source_address"))]
    {
        assert_eq!(guarded.step_of(&world().over_user(&over), &process).await, expected, "{over}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_of_the_chain_refuses_by_its_name() {
    let now_s = time::now().as_secs();
    let guarded = Guarded::new(&world());
    let principal = guarded.login(&world().user_jwt()).await.unwrap();
    assert_eq!(principal.account.as_str(), world().account.public_key());
    assert_eq!((&*principal.user.name, &*principal.account_name), ("lamp", "Tenant"));
    for (over, expected) in [
        (json!({ "exp": now_s - 1 }), "expired"),
        (json!({ "nbf": now_s + 60 }), "not_yet_valid"),
        (json!({ "sub": "U" }), "jwt_key"),
        (nats(json!({ "type": "account" })), "jwt_kind"),
        (nats(json!({ "pub": { "allow": ["a..b"] } })), "claims"),
        (nats(json!({ "issuer_account": world().user.public_key() })), "issuer_account"),
        (nats(json!({ "issuer_account": world().stranger.public_key() })), "account_unknown"),
        (json!({ "iss": world().stranger.public_key() }), "account_unknown"),
        (
            json!({ "iss": world().stranger.public_key(), "nats": { "issuer_account": world().account.public_key() } }),
            "issuer",
        ),
        (nats(json!({ "bearer_token": false })), "signature_missing"),
        (nats(json!({ "allowed_connection_types": ["MQTT_WS"] })), "connection_type"),
        (nats(json!({ "allowed_connection_types": ["mqtt"] })), ""),
        (nats(json!({ "src": ["192.0.2.0/24"] })), "source_address"),
        (nats(json!({ "src": ["10.1.0.0/16"] })), ""),
        (nats(json!({ "times": [{ "start": "00:00:00", "end": "00:00:00" }] })), "time_window"),
        (nats(json!({ "tags": ["mqtt:client-id=name"] })), ""),
        (json!({ "name": "pump", "nats": { "tags": ["mqtt:client-id=name"] } }), "client_id"),
        (nats(json!({ "tags": ["mqtt:max-qos=9"] })), "tags"),
    ] {
        let step = guarded.step(&world().over_user(&over)).await;
        assert_eq!(step.unwrap_or_default(), expected, "{over}");
    }
    assert_eq!(circumstances(&peer(Protocol::Ws), Proof::None).listener, Listener::MqttWs);
    let scoped = guarded.login(&world().with_scope().user_jwt()).await.unwrap();
    assert_eq!(scoped.permissions.lists().publish.allowed(), ["dev.lamp.>"]);
    for (jwt, expected) in [
        ("", ReasonCode::BadUserNameOrPassword),
        ("light", ReasonCode::BadUserNameOrPassword),
        (&*world().account_jwt(), ReasonCode::BadUserNameOrPassword),
        (&*world().over_user(&nats(json!({ "bearer_token": false }))).user_jwt(), ReasonCode::NotAuthorized),
    ] {
        assert_eq!(guarded.login(jwt).await.unwrap_err(), expected, "{jwt}");
    }
    let nothing = connect(ConnectProperties::default(), None);
    assert_eq!(refusal(guarded.judge(&nothing, None).await), Some(ReasonCode::NotAuthorized));
}

#[tokio::test(start_paused = true)]
async fn who_is_no_bearer_signs_a_nonce_of_its_own() {
    let guarded = Guarded::new(&world());
    let world = world().over_user(&nats(json!({ "bearer_token": false })));
    let connect = with_method("NATS-NKEY", &world.user_jwt());
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let Verdict::Challenge(nonce) = guarded.judge(&connect, None).await else { panic!("no challenge") };
        assert_eq!(nonce.len(), 32);
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    let sign = |key: &KeyPair, client_id: &str, nonce: &[u8]| {
        key.sign(&[b"mqtt-nkey-v1\0", client_id.as_bytes(), b"\0", nonce].concat()).unwrap()
    };
    let (right, nonce) = (&world.user, &*nonces[0]);
    for (signature, expected) in [
        (sign(right, "lamp-1", nonce), true),
        (sign(right, "lamp-2", nonce), false),
        (sign(right, "lamp-1", &nonces[1]), false),
        (sign(&KeyPair::new_user(), "lamp-1", nonce), false),
        // What a nats-server has signed.
        (right.sign(nonce).unwrap(), false),
        (Vec::new(), false),
    ] {
        let verdict = guarded.judge(&connect, Some((nonce, &signature))).await;
        assert_eq!(matches!(verdict, Verdict::Accepted(_, None)), expected);
        assert_eq!(refusal(verdict), (!expected).then_some(ReasonCode::NotAuthorized));
    }
    // What is no user JWT is not asked, nor is who has another method.
    let verdict = guarded.judge(&with_method("NATS-NKEY", "x"), None).await;
    assert_eq!(refusal(verdict), Some(ReasonCode::BadUserNameOrPassword));
    let verdict = guarded.judge(&with_method("SCRAM-SHA-256", &world.user_jwt()), None).await;
    assert_eq!(refusal(verdict), Some(ReasonCode::BadAuthenticationMethod));
}

#[tokio::test(start_paused = true)]
async fn who_is_connected_is_judged_again_when_its_account_changes() {
    let now_s = time::now().as_secs();
    let updated = |over: &Value| world().over_account(&json!({ "iat": now_s })).over_account(over);
    let foreign = world().foreign_operator.public_key();
    let user = world().user.public_key();
    for (over, expected) in [
        (json!({ "name": "Tenant" }), "same"),
        (json!({ "iss": foreign, "nats": { "revocations": { "*": now_s } } }), "same"),
        (json!({ "nats": { "limits": { "conn": 1 } } }), "changed"),
        (json!({ "nats": { "default_permissions": { "pub": { "deny": ["x"] } } } }), "changed"),
        (revoked(&user, now_s), "revoked"),
        (revoked("*", now_s), "revoked"),
        (revoked("*", now_s - 2000), "same"),
        (json!({ "nats": { "limits": { "disallow_bearer": true } } }), "bearer_disallowed"),
    ] {
        let guarded = Guarded::new(&world());
        let principal = guarded.login(&world().user_jwt()).await.unwrap();
        assert!(matches!(guarded.users.judge_again(&principal, "lamp-1"), Again::Same));
        guarded.update(&updated(&over));
        let again = match guarded.users.judge_again(&principal, "lamp-1") {
            Again::Same => "same",
            Again::Changed(now) => {
                assert!(matches!(guarded.users.judge_again(&now, "lamp-1"), Again::Same), "it is judged once");
                "changed"
            }
            Again::Gone(step) => step.text(),
        };
        assert_eq!(again, expected, "{over}");
    }
    // The key that signed it is gone.
    let guarded = Guarded::new(&world());
    let principal = guarded.login(&world().with_signing_key().user_jwt()).await.unwrap();
    guarded.update(&updated(&nats(json!({ "signing_keys": [] }))));
    assert!(matches!(guarded.users.judge_again(&principal, "lamp-1"), Again::Gone(AuthStep::Issuer)));
    let file = guarded.dir.path().join("jwt").join(format!("{}.jwt", world().account.public_key()));
    std::fs::remove_file(file).unwrap();
    guarded.users.look();
    assert!(guarded.users.known.get(principal.account.as_str()).is_some(), "it may be on its way");
    guarded.users.look();
    assert!(matches!(guarded.users.judge_again(&principal, "lamp-1"), Again::Gone(AuthStep::AccountUnknown)));
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_replaced_between_the_start_and_the_first_look_is_noticed() {
    let guarded = Guarded::new(&world());
    let before = guarded.users.known.operators_version();
    let aside = guarded.dir.path().join("aside");
    std::fs::write(&aside, World::numbered(1, 0, time::now().as_secs()).operator_jwt()).unwrap();
    std::fs::rename(&aside, guarded.dir.path().join("O.jwt")).unwrap();
    tokio::select! {
        () = guarded.users.look_again_and_again() => panic!("it ended"),
        () = tokio::time::sleep(2 * LOOK_EVERY) => {}
    }
    assert_ne!(guarded.users.known.operators_version(), before);
}

#[tokio::test(start_paused = true)]
async fn accounts_are_found_in_a_store_of_nsc_and_in_the_configuration_of_a_server() {
    let dir = TempDir::new().unwrap();
    let worlds = [0, 1].map(|number| World::numbered(0, number, time::now().as_secs()));
    let store = dir.path().join("ACME");
    for (name, world) in ["T1", "T2"].iter().zip(&worlds) {
        let folder = store.join("accounts").join(name);
        std::fs::create_dir_all(folder.join("users")).unwrap();
        std::fs::write(folder.join(format!("{name}.jwt")), world.account_jwt()).unwrap();
        std::fs::write(folder.join("users/lamp.jwt"), world.user_jwt()).unwrap();
    }
    std::fs::write(store.join("ACME.jwt"), worlds[0].operator_jwt()).unwrap();
    let preload = worlds.iter().map(|world| format!("  {}: {}\n", world.account.public_key(), world.account_jwt()));
    let server =
        format!("operator: {}\nresolver_preload: {{\n{}}}\n", worlds[0].operator_jwt(), preload.collect::<String>());
    let file = dir.path().join("server.conf");
    std::fs::write(&file, server).unwrap();
    for path in [store.clone(), file] {
        let known = Known::default();
        let mut files = Files::new(path.clone());
        files.look(&known);
        assert!(known.get(&worlds[0].account.public_key()).is_none(), "no operator is known yet");
        let operator = read_operator(&store.join("ACME.jwt")).unwrap();
        known.set_operators(OperatorSource::Server, vec![operator]);
        files.look(&known);
        for world in &worlds {
            assert!(known.get(&world.account.public_key()).is_some(), "{}", path.display());
        }
    }
}

#[test]
fn accounts_of_what_cannot_be_read_stay() {
    let dir = TempDir::new().unwrap();
    let worlds = [0, 1].map(|number| World::numbered(0, number, time::now().as_secs()));
    let [first, second] = ["T1", "T2"].map(|name| dir.path().join("accounts").join(name).join("A.jwt"));
    for (path, world) in [&first, &second].into_iter().zip(&worlds) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, world.account_jwt()).unwrap();
    }
    let known = Known::default();
    let operator = dir.path().join("O.jwt");
    std::fs::write(&operator, worlds[0].operator_jwt()).unwrap();
    known.set_operators(OperatorSource::Server, vec![read_operator(&operator).unwrap()]);
    let mut files = Files::new(dir.path().join("accounts"));
    let mut look = || {
        (0..3).for_each(|_| files.look(&known));
        [0, 1].map(|number: usize| known.get(&worlds[number].account.public_key()).is_some())
    };
    assert_eq!(look(), [true, true]);
    // A link that leads to itself is there, and nobody can read it.
    std::fs::remove_file(&first).unwrap();
    std::os::unix::fs::symlink("A.jwt", &first).unwrap();
    assert_eq!(look(), [true, true]);
    std::fs::remove_file(&first).unwrap();
    let folder = second.parent().unwrap();
    std::fs::set_permissions(folder, Permissions::from_mode(0o0)).unwrap();
    // Root can read everything.
    if std::fs::read_dir(folder).is_err() {
        assert_eq!(look(), [false, true], "of the other one everybody knows that it is gone");
    }
    std::fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(look(), [false, true]);
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(look(), [false, false]);
}

#[tokio::test(start_paused = true)]
async fn without_anybody_to_ask_nobody_is_let_in() {
    let dir = TempDir::new().unwrap();
    let (operator, creds) = (dir.path().join("O.jwt"), dir.path().join("sys.creds"));
    std::fs::write(&operator, world().operator_jwt()).unwrap();
    let config = JwtConfig { operator: Some(operator), system_creds: Some(creds), ..JwtConfig::default() };
    let guarded = Guarded { dir, users: JwtUsers::new(&config, NatsOptions::default(), Metrics::new()) };
    assert_eq!(guarded.login(&world().user_jwt()).await.unwrap_err(), ReasonCode::ServerUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_not_connected_may_do_what_the_scope_of_its_key_says_now() {
    let now_s = time::now().as_secs();
    let guarded = Guarded::new(&world());
    let principal = guarded.login(&world().with_scope().user_jwt()).await.unwrap();
    let kept = Publisher::new(&principal).unwrap();
    let may = async |kept: &Publisher| {
        let permissions = guarded.users.permissions_of(kept, "lamp-1").await;
        permissions.map(|permissions| permissions.is_publish_allowed("dev.lamp.x"))
    };
    assert_eq!(may(&kept).await, Some(true));
    let changed = world().over_account(&revoked("*", now_s)).over_account(&json!({ "iat": now_s }));
    guarded.update(&changed.over_template(&json!({ "pub": { "allow": ["news.>"] } })));
    assert_eq!(may(&kept).await, Some(false), "also of a user who is revoked");
    for account in ["", "T1", "*", &world().stranger.public_key()] {
        assert_eq!(may(&Publisher { account: account.to_owned(), ..kept.clone() }).await, None, "{account}");
    }
}

/// What a dead sidecar leaves may be thousands of wills, each of which asks for the same account.
#[tokio::test(start_paused = true)]
async fn while_nobody_answers_nobody_is_asked_for_users_who_are_not_there() {
    let dir = TempDir::new().unwrap();
    let creds = dir.path().join("sys.creds");
    let config = JwtConfig { system_creds: Some(creds), ..JwtConfig::default() };
    let users = JwtUsers::new(&config, NatsOptions::default(), Metrics::new());
    let account = world().account.public_key();
    let kept = Publisher { account, issuer: Some(world().scoped.public_key()), ..Publisher::default() };
    let waited = async || {
        let began = Instant::now();
        assert!(users.permissions_of(&kept, "c").await.is_none());
        began.elapsed()
    };
    assert!(waited().await > Duration::ZERO);
    assert_eq!(waited().await, Duration::ZERO);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(waited().await > Duration::ZERO, "it is asked again");
}
