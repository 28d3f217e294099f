//! Mode `jwt`: an operator with a full resolver, an account of devices, and what happens to who is connected when it changes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use futures_util::future::join_all;
use mqtt_codec::{Auth, Packet, QoS, ReasonCode, Version};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Client, NatsServer, Options, PROGRAM, Sidecar, SidecarBuilder, Socket, Watch, eventually, msg, run,
};
use crate::mint::{World, sign};

/// More than any test takes, in seconds.
const LONG: i64 = 3600;

pub(crate) fn now_s() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// An account with JetStream, as its operator signs it: that of the sidecar itself.
pub(crate) fn world(over: &Value) -> World {
    numbered(0, over)
}

/// Another account of the operator, with keys of its own.
pub(crate) fn tenant() -> World {
    let world = World::numbered(0, 1, now_s());
    let signing_keys = json!({ "name": "T1", "nats": { "signing_keys": [world.account_signing.public_key()] } });
    numbered(1, &signing_keys)
}

fn numbered(account: u16, over: &Value) -> World {
    let storage = json!({
        "nats": { "limits": { "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1 } },
    });
    World::numbered(0, account, now_s()).over_account(&storage).over_account(over)
}

pub(crate) fn creds(user: &KeyPair, jwt: &str) -> String {
    let seed = user.seed().unwrap();
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// A user that may do everything in an account.
pub(crate) fn user_of(account: &KeyPair) -> (KeyPair, String) {
    let user = KeyPair::new_user();
    let claims = json!({
        "iat": now_s(), "iss": account.public_key(), "sub": user.public_key(), "name": "program",
        "nats": { "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 },
    });
    let jwt = sign(&claims, account);
    (user, jwt)
}

/// An operator's nats-server, and a sidecar in the account of its devices.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) nats: NatsServer,
    pub(crate) sidecar: Sidecar,
    system: async_nats::Client,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::configured(|dir| {
            let (system, key) = (dir.join("sys.creds"), dir.join("tenant.nk"));
            format!("[auth]\nmode = \"jwt\"\n[auth.jwt]\nsystem_creds = {system:?}\nsigning_keys = [{key:?}]\n")
        })
        .await
    }

    /// With this as the configuration of the sidecar, which may name files that are in the folder.
    pub(crate) async fn configured(config: impl FnOnce(&Path) -> String) -> Self {
        let (dir, home, system) = (TempDir::new().unwrap(), world(&json!({})), KeyPair::new_account());
        let mut system_claims = World::numbered(0, 0, now_s()).account_claims;
        system_claims["sub"] = json!(system.public_key());
        system_claims["name"] = json!("SYS");
        let preload = [(&home.account, home.account_jwt()), (&system, sign(&system_claims, &home.operator))];
        let preload = preload.map(|(key, jwt)| format!("  {}: {jwt}\n", key.public_key())).concat();
        let nats = NatsServer::start_with(
            true,
            &format!(
                "operator: {}\nsystem_account: {}\nresolver {{ type: full, dir: jwt, allow_delete: true, timeout: \"1.9s\" }}\nresolver_preload: {{\n{preload}}}\n",
                home.operator_jwt(),
                system.public_key()
            ),
        );
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (user, jwt) = user_of(&home.account);
        let home_creds = file("home.creds", &creds(&user, &jwt));
        let (user, jwt) = user_of(&system);
        let system_creds = file("sys.creds", &creds(&user, &jwt));
        file("tenant.nk", &tenant().account_signing.seed().unwrap());
        let config = file("nats-mqtt.toml", &config(dir.path()));
        let (config, home_creds) = (config.to_str().unwrap(), home_creds.to_str().unwrap());
        let args = ["--nats", &nats.url(), "--creds", home_creds, "-c", config];
        let sidecar = SidecarBuilder::new("jwt", &args).start().await;
        let options = async_nats::ConnectOptions::with_credentials_file(system_creds).await.unwrap();
        let system = options.connect(nats.url()).await.unwrap();
        Self { dir, nats, sidecar, system }
    }

    /// Another sidecar with the same configuration.
    pub(crate) async fn another(&self) -> Sidecar {
        let (config, creds) = (self.dir.path().join("nats-mqtt.toml"), self.dir.path().join("home.creds"));
        let (config, creds) = (config.to_str().unwrap(), creds.to_str().unwrap());
        SidecarBuilder::new("another", &["--nats", &self.nats.url(), "--creds", creds, "-c", config]).start().await
    }

    /// Pushes an account, as `nsc push` does.
    pub(crate) async fn push(&self, world: &World) {
        let jwt = world.account_jwt();
        self.system.request("$SYS.REQ.CLAIMS.UPDATE", jwt.into()).await.unwrap();
    }

    pub(crate) async fn answer(&self, options: Options) -> ReasonCode {
        Client::open(self.sidecar.mqtt_port, options).await.connack.reason
    }

    pub(crate) async fn refused(&self, step: &str) -> f64 {
        self.sidecar.metric(&format!("mqtt_auth_refused_total{{step=\"{step}\"}}")).await
    }
}

/// A device of an account that may do everything: its JWT, and its NKey.
pub(crate) fn device_of(world: World, name: &str) -> (String, String) {
    let key = KeyPair::new_user().public_key();
    let user = world.over_user(&json!({ "name": name, "sub": key, "exp": now_s() + LONG }));
    (user.user_jwt(), key)
}

/// A device that may do everything, with a key of its own.
pub(crate) fn device(name: &str, over: &Value) -> (String, String) {
    let key = KeyPair::new_user();
    let world = world(&json!({})).over_user(&json!({ "name": name, "sub": key.public_key(), "exp": now_s() + LONG }));
    (world.over_user(over).user_jwt(), key.seed().unwrap())
}

pub(crate) fn id_of(seed: &str) -> String {
    KeyPair::from_seed(seed).unwrap().public_key()
}

const NO_BEARER: fn() -> Value = || json!({ "nats": { "bearer_token": false } });

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_in_by_a_jwt_and_what_the_others_are_told() {
    use ReasonCode::{BadAuthenticationMethod, BadUserNameOrPassword, NotAuthorized, ServerUnavailable, Success};
    let mut site = Site::start().await;
    let (bearer, seed) = device("lamp", &json!({}));
    let (proves, proves_seed) = device("pump", &NO_BEARER());
    let stranger = |key: &KeyPair| device("lamp", &json!({ "nats": { "issuer_account": key.public_key() } })).0;
    let unknown = stranger(&KeyPair::new_account());
    let mut other_method = Options::v5("other").nkey(&proves, &proves_seed);
    other_method.connect.properties.authentication_method = Some("NKEY".into());
    let mut from = 1;
    for (options, expected, step) in [
        (Options::v5("bearer").password(&bearer), Success, ""),
        (Options::v311("bearer-3").password(&bearer), Success, ""),
        (Options::v5("proven").nkey(&proves, &proves_seed), Success, ""),
        (Options::v5("bearer-proven").nkey(&bearer, &seed), Success, ""),
        (Options::v5("unproven").password(&proves), NotAuthorized, "signature_missing"),
        (Options::v5("wrong").nkey(&proves, &seed), NotAuthorized, "signature_wrong"),
        (other_method, BadAuthenticationMethod, "method"),
        (Options::v5("garbage").password("light"), BadUserNameOrPassword, "jwt_malformed"),
        (Options::v311("garbage-3").password("light"), BadUserNameOrPassword, "jwt_malformed"),
        (Options::v5("nothing").anonymous(), NotAuthorized, "no_credentials"),
        (Options::v5("unknown").password(&unknown), NotAuthorized, "account_unknown"),
        (Options::v5("expired").password(&device("x", &json!({ "exp": now_s() })).0), NotAuthorized, "expired"),
    ] {
        from += 1;
        let before = if step.is_empty() { 0.0 } else { site.refused(step).await };
        let reason = site.answer(options.clone().from(from)).await;
        assert_eq!(reason, expected, "{}", options.connect.client_id);
        assert!(step.is_empty() || site.refused(step).await == before + 1.0, "{step}");
    }
    let log = site.sidecar.log();
    for secret in [&bearer, &proves, &seed, &unknown] {
        assert!(!log.contains(&**secret), "a secret is in the log");
    }
    // What is known stays known while nobody can be asked, and nothing else is.
    site.nats.kill();
    let another = stranger(&KeyPair::new_account());
    for version in [Version::V5, Version::V311] {
        let options = Options::new(version, "unreachable").from(99).password(&another);
        assert_eq!(site.answer(options).await, ServerUnavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_gone_within_a_second_and_its_will_is_published() {
    let site = Site::start().await;
    let (watcher, _) = device("watcher", &json!({}));
    let mut watcher = site.sidecar.connect(Options::v5("watcher").password(&watcher)).await;
    watcher.subscribe("wills/#", 1).await;
    let (jwt, seed) = device("lamp", &json!({}));
    let will = || msg("wills/lamp", "gone");
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&jwt).will(will())).await;
    let mut old = site.sidecar.connect(Options::v311("old").password(&jwt)).await;
    let pushed = Instant::now();
    let revoked = json!({ "iat": now_s(), "nats": { "revocations": { id_of(&seed): now_s() } } });
    site.push(&world(&revoked)).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    let took = pushed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(old.closed().await, None);
    assert_eq!(watcher.receive().await.payload, "gone");
    let again = site.answer(Options::v5("lamp").password(&jwt).from(2)).await;
    assert_eq!((again, site.refused("revoked").await), (ReasonCode::NotAuthorized, 1.0));
    watcher.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expires_is_told_so_unless_it_says_in_time_who_it_is() {
    let site = Site::start().await;
    let key = KeyPair::new_user();
    let (id, seed) = (key.public_key(), key.seed().unwrap());
    let until = |at: i64| {
        let over = json!({ "sub": id, "exp": at, "nats": { "bearer_token": false } });
        device("lamp", &over).0
    };
    let soon = now_s() + 3;
    let (short, long) = (until(soon), until(now_s() + LONG));
    let mut ends = site.sidecar.connect(Options::v5("ends").nkey(&short, &seed)).await;
    let mut goes_on = site.sidecar.connect(Options::v5("goes-on").nkey(&short, &seed)).await;
    goes_on.subscribe("a", 1).await;
    authenticate(&mut goes_on, &long, &seed).await;
    let said = goes_on.other(|packet| matches!(packet, Packet::Auth(_))).await;
    assert!(matches!(said, Packet::Auth(auth) if auth.reason == ReasonCode::Success));
    assert_eq!(ends.closed().await, Some(ReasonCode::MaximumConnectTime));
    assert!(now_s() >= soon);
    goes_on.publish(msg("a", "still here").qos(1)).await;
    assert_eq!(goes_on.receive().await.payload, "still here");
    // Another user is somebody else.
    let (other, other_seed) = device("lamp", &NO_BEARER());
    authenticate(&mut goes_on, &other, &other_seed).await;
    assert_eq!(goes_on.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(site.refused("other_user").await, 1.0);
    let mut fails = site.sidecar.connect(Options::v5("fails").nkey(&long, &seed)).await;
    authenticate(&mut fails, &long, &other_seed).await;
    assert_eq!(fails.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(site.refused("signature_wrong").await, 1.0);
}

/// Says once more who it is, as far as the answer to the nonce.
async fn authenticate(client: &mut Client, jwt: &str, seed: &str) {
    client.write(&Packet::Auth(Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: Some("NATS-NKEY".into()),
        authentication_data: Some(jwt.as_bytes().into()),
        properties: None,
    }));
    let Packet::Auth(asked) = client.other(|packet| matches!(packet, Packet::Auth(_))).await else { unreachable!() };
    client.answer(&asked, seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_changes_takes_subscriptions_and_a_foreign_operator_takes_nothing() {
    let site = Site::start().await;
    let role = |allowed: Value| {
        let template = json!({ "pub": { "allow": [">"] }, "sub": { "allow": allowed }, "bearer_token": true, "allowed_connection_types": null });
        world(&json!({ "iat": now_s() })).over_template(&template)
    };
    site.push(&role(json!(["cmd.>", "news.>"]))).await;
    let jwt = world(&json!({})).with_scope().user_jwt();
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&jwt)).await;
    for filter in ["cmd/#", "news/#"] {
        lamp.subscribe(filter, 1).await;
    }
    let foreign = world(&json!({ "iat": now_s() + 1 }))
        .over_account(&json!({ "iss": World::new().foreign_operator.public_key() }));
    site.push(&foreign.over_account(&json!({ "nats": { "revocations": { "*": now_s() + LONG } } }))).await;
    let said = "an account JWT does not count, and the one before it stays: not signed by a trusted operator";
    eventually("it was looked at", async || site.sidecar.log().contains(said)).await;
    lamp.publish(msg("news/a", "one").qos(1)).await;
    assert_eq!(lamp.receive().await.payload, "one");
    site.push(&role(json!(["cmd.>"]))).await;
    let ended = "a subscription has ended that its client may not have any more";
    eventually("it ended", async || site.sidecar.log().contains(ended)).await;
    lamp.publish(msg("news/a", "two").qos(1)).await;
    lamp.publish(msg("cmd/a", "three").qos(1)).await;
    assert_eq!(lamp.receive().await.payload, "three");
    assert_eq!(lamp.asks_for("news/#", 1).await, ReasonCode::NotAuthorized);
    assert_eq!(site.sidecar.log().matches(said).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_of_an_operator_know_nothing_of_each_other() {
    let site = Site::start().await;
    let tenant = tenant();
    site.push(&tenant).await;
    let of = [device("lamp", &json!({})).0, tenant.user_jwt()];
    let mut lamps = Vec::new();
    for jwt in &of {
        lamps.push(site.sidecar.connect(Options::v5("lamp").password(jwt)).await);
    }
    for lamp in &mut lamps {
        lamp.subscribe("a/#", 1).await;
    }
    for (lamp, text) in lamps.iter_mut().zip(["home", "tenant"]) {
        lamp.publish(msg("a/b", text).qos(1)).await;
    }
    for (lamp, text) in lamps.iter_mut().zip(["home", "tenant"]) {
        lamp.publish(msg("a/b", "the end").qos(1)).await;
        let got = lamp.shown_until("the end").await;
        assert!(got.len() == 1 && got[0].contains(text), "{text}: {got:?}");
    }
    // One that we have no way into is refused, and the log says what to do.
    let stranger = World::numbered(0, 2, now_s());
    site.push(&stranger).await;
    let reason = site.answer(Options::v5("lamp").password(&stranger.user_jwt()).from(2)).await;
    assert_eq!(reason, ReasonCode::ServerUnavailable);
    assert!(site.sidecar.log().contains("into auth.jwt.signing_keys, or put"), "{}", site.sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_nats_was_away_is_felt_when_it_is_back() {
    let mut site = Site::start().await;
    let tenant = tenant();
    site.push(&tenant).await;
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&tenant.user_jwt())).await;
    let id = tenant.account.public_key();
    site.nats.kill();
    lamp.ping().await;
    let revoked = tenant.over_account(&json!({ "iat": now_s(), "nats": { "revocations": { "*": now_s() } } }));
    std::fs::write(site.nats.dir().join("jwt").join(format!("{id}.jwt")), revoked.account_jwt()).unwrap();
    site.nats.restart();
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert!(site.sidecar.log().contains("step=\"revoked\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_a_user_hold() {
    let site = Site::start().await;
    let (jwt, _) = device("lamp", &json!({ "nats": { "subs": 1, "payload": 4 } }));
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&jwt)).await;
    assert!(lamp.connack.properties.maximum_packet_size.is_some_and(|size| size.get() < 16 * 1024));
    lamp.subscribe("a", 1).await;
    assert_eq!(lamp.asks_for("b", 1).await, ReasonCode::QuotaExceeded);
    lamp.subscribe("a", 0).await;
    assert_eq!(lamp.publish(msg("a", "12345").qos(1)).await, ReasonCode::QuotaExceeded);
    assert_eq!(lamp.publish(msg("a", "1234").qos(1)).await, ReasonCode::Success);
    assert_eq!(lamp.receive().await.payload, "1234");
    // What it was told that a packet may not exceed ends the connection.
    lamp.publish(msg("a", vec![b'x'; 16 * 1024])).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::PacketTooLarge));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_of_a_connect_names_whoever_was_proven() {
    let site = Site::start().await;
    let home = async_nats::ConnectOptions::with_credentials_file(site.dir.path().join("home.creds")).await.unwrap();
    let mut events = Watch::new(&home.connect(site.nats.url()).await.unwrap(), "$NMQ.event.connect.*").await;
    let (jwt, _) = device("lamp", &json!({}));
    let _lamp = site.sidecar.connect(Options::v5("c").password(&jwt)).await;
    let event: Value = serde_json::from_slice(&events.next().await.payload).unwrap();
    assert_eq!((&event["username"], &event["user"]), (&json!("whoever"), &json!("lamp")));
}

/// What a CONNECT over WebSocket is answered.
async fn answer_over_websocket(sidecar: &Sidecar, options: Options) -> u8 {
    let mut socket = Socket::open_websocket(sidecar.ws_port).await;
    let mut bytes = BytesMut::new();
    let version = options.connect.version;
    mqtt_codec::encode(&Packet::Connect(Box::new(options.connect)), version, &mut bytes).unwrap();
    socket.send(&bytes).await;
    // A binary frame, and in it CONNACK: type, length, Session Present, reason code.
    let frame = socket.read(6).await;
    assert_eq!((frame[0], frame[2]), (0x82, 0x20), "{frame:?}");
    frame[5]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_connect_over_websocket_alone_does_not_over_tcp_and_the_other_way_round() {
    let site = Site::start().await;
    for (kind, over_tcp, over_websocket) in [
        ("MQTT_WS", ReasonCode::NotAuthorized, ReasonCode::Success),
        ("MQTT", ReasonCode::Success, ReasonCode::NotAuthorized),
    ] {
        let (jwt, _) = device(kind, &json!({ "nats": { "allowed_connection_types": [kind] } }));
        assert_eq!(site.answer(Options::v5("by-tcp").password(&jwt)).await, over_tcp, "{kind}");
        let options = Options::v5("by-ws").password(&jwt);
        assert_eq!(answer_over_websocket(&site.sidecar, options).await, over_websocket as u8, "{kind}");
    }
    assert_eq!(site.refused("connection_type").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_hours_of_its_user() {
    const OPEN_S: u64 = 3;
    let site = Site::start().await;
    let hour_of = |time_s: u64| {
        let of_day = time_s % 86_400;
        format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
    };
    let now = u64::try_from(now_s()).unwrap();
    let hours = json!([{ "start": hour_of(now - 60), "end": hour_of(now + OPEN_S) }]);
    let (jwt, _) = device("lamp", &json!({ "nats": { "times": hours } }));
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&jwt)).await;
    let mut old = site.sidecar.connect(Options::v311("old").password(&jwt)).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::MaximumConnectTime));
    assert_eq!(old.closed().await, None);
    assert_eq!(site.answer(Options::v5("lamp").password(&jwt)).await, ReasonCode::NotAuthorized);
    assert_eq!(site.refused("time_window").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_takes_one_verification_and_its_account_none() {
    const DEVICES: u32 = 30;
    let site = Site::start().await;
    let connect = async |number: u32| {
        let (jwt, _) = device(&format!("lamp-{number}"), &json!({}));
        site.sidecar.connect(Options::v5(&format!("lamp-{number}")).password(&jwt)).await
    };
    let mut devices = vec![connect(0).await];
    let before = site.sidecar.metric("mqtt_auth_signatures_total").await;
    for number in 1..=DEVICES {
        devices.push(connect(number).await);
    }
    let verified = site.sidecar.metric("mqtt_auth_signatures_total").await - before;
    // The account is looked up again now and then.
    assert!((f64::from(DEVICES)..f64::from(DEVICES + 5)).contains(&verified), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_as_many_devices_as_it_allows() {
    let site = Site::start().await;
    // As many as the connections that the sidecar itself has there.
    let tenant = tenant().over_account(&json!({ "nats": { "limits": { "conn": 6 } } }));
    site.push(&tenant).await;
    let of = |id: &str| Options::v5(id).password(&tenant.user_jwt());
    let mut devices = Vec::new();
    for number in 0..6 {
        devices.push(site.sidecar.connect(of(&format!("c{number}"))).await);
    }
    assert_eq!(site.answer(of("c6")).await, ReasonCode::QuotaExceeded);
    let counted = site.sidecar.metric("mqtt_over_limit_total{limit=\"account_connections\"}").await;
    assert_eq!(counted, 1.0);
    // Who comes back is no further one; and who leaves makes room.
    devices.push(site.sidecar.connect(of("c0")).await);
    assert_eq!(devices.remove(0).closed().await, Some(ReasonCode::SessionTakenOver));
    devices.remove(0).disconnect(ReasonCode::Success).await;
    eventually("a place is free", async || site.answer(of("c7")).await == ReasonCode::Success).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_deleted_by_its_operator_and_by_nobody_else() {
    let site = Site::start().await;
    let tenant = tenant();
    site.push(&tenant).await;
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", tenant.account.public_key());
    let mut lookups = Watch::new(&site.system, &subject).await;
    // Many who need an account that is not known yet ask for it once.
    let others =
        (0..8).map(|number| site.sidecar.connect(Options::v5(&format!("c{number}")).password(&tenant.user_jwt())));
    let others = join_all(others).await;
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&tenant.user_jwt())).await;
    site.system.publish(subject, "the end".into()).await.unwrap();
    assert_eq!([lookups.next().await.payload, lookups.next().await.payload], ["", "the end"]);
    drop(others);
    let delete = async |key: &KeyPair| {
        let claims = json!({ "iat": now_s(), "iss": key.public_key(), "sub": key.public_key(), "nats": { "accounts": [tenant.account.public_key()], "type": "generic", "version": 2 } });
        site.system.request("$SYS.REQ.CLAIMS.DELETE", sign(&claims, key).into()).await.unwrap();
    };
    delete(&tenant.foreign_operator).await;
    let said = "a deletion of accounts does not count";
    eventually("it was looked at", async || site.sidecar.log().contains(said)).await;
    lamp.ping().await;
    delete(&tenant.operator).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    let again = site.answer(Options::v5("lamp").password(&tenant.user_jwt()).from(2)).await;
    assert_eq!((again, site.refused("account_unknown").await), (ReasonCode::NotAuthorized, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_that_would_be_is_said_and_whether_we_get_into_its_account_ourselves() {
    let site = Site::start().await;
    let (key, config) = (site.dir.path().join("tenant.nk"), site.dir.path().join("nats-mqtt.toml"));
    let (jwt, _) = device("lamp", &json!({ "nats": { "pub": { "allow": ["dev.>"] }, "tags": ["site:x"] } }));
    let (proves, _) = device("pump", &NO_BEARER());
    let test = async |jwt: &str| {
        let file = site.dir.path().join("jwt.txt");
        std::fs::write(&file, format!("{jwt}\n")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["auth", "test", "--user", "", "--client-id", "c", "--nats", &site.nats.url(), "-c"]).arg(&config);
        command.arg("--password-file").arg(file);
        run(command, Duration::from_secs(30)).await
    };
    let line = |said: &str, key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().to_owned()
    };
    let said = test(&jwt).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let account = world(&json!({})).account.public_key();
    for (key, expected) in [
        ("user", "lamp"),
        ("account", &*format!("Tenant ({account})")),
        ("publish", "dev.>"),
        ("subscribe", "everything"),
        ("tags", "site:x"),
    ] {
        assert_eq!(line(&said.stdout, key), expected, "{}", said.stdout);
    }
    assert!(line(&said.stdout, "way").contains("there is no way into account"), "{}", said.stdout);
    // With a signing key of the account we are a user of our own making.
    std::fs::write(&key, world(&json!({})).account_signing.seed().unwrap()).unwrap();
    let said = test(&proves).await;
    assert_eq!(line(&said.stdout, "way"), "there is one into the account", "{}{}", said.stdout, said.stderr);
    assert!(line(&said.stdout, "proof").contains("NATS-NKEY"), "{}", said.stdout);
    let said = test(&world(&json!({})).account_jwt()).await;
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("refused at step jwt_"), "{}", said.stderr);
}

/// The sidecar that finds them knows nobody of the account when it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_judged_again_by_what_the_scope_of_its_user_says_when_it_is_published() {
    let mut site = Site::start().await;
    let role = |allowed: Value, over: Value| {
        let template =
            json!({ "pub": { "allow": allowed }, "sub": {}, "bearer_token": true, "allowed_connection_types": null });
        world(&json!({ "iat": now_s() })).over_account(&over).over_template(&template)
    };
    site.push(&role(json!(["{{name()}}.>"]), json!({}))).await;
    let home = async_nats::ConnectOptions::with_credentials_file(site.dir.path().join("home.creds")).await.unwrap();
    let home = home.connect(site.nats.url()).await.unwrap();
    let mut wills = Watch::new(&home, "*.will").await;
    let mut ids = Vec::new();
    let mut devices = Vec::new();
    for name in ["lamp", "pump"] {
        let key = KeyPair::new_user();
        let user = world(&json!({})).with_scope().over_user(&json!({ "name": name, "sub": key.public_key() }));
        let will = msg(&format!("{name}/will"), "gone").qos(1);
        devices.push(site.sidecar.connect(Options::v5(name).password(&user.user_jwt()).will(will)).await);
        ids.push(key.public_key());
    }
    let other = site.another().await;
    site.sidecar.kill();
    site.push(&role(json!(["pump.>"]), json!({ "nats": { "revocations": { &ids[1]: now_s() } } }))).await;
    let will = wills.next_within(Duration::from_secs(60)).await;
    assert_eq!((will.subject.as_str(), &will.payload[..]), ("pump.will", &b"gone"[..]), "of a user who is revoked");
    let dropped = "mqtt_messages_dropped_total{reason=\"not_authorized\"}";
    eventually("the other one is dropped", async || other.metric(dropped).await == 1.0).await;
    home.publish("end.will", "end".into()).await.unwrap();
    assert_eq!(wills.next().await.subject.as_str(), "end.will");
    drop(devices);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_jetstream_is_served_at_qos_0() {
    let site = Site::start().await;
    let world = World::numbered(0, 1, now_s());
    let signing_keys = json!({ "name": "T1", "nats": { "signing_keys": [world.account_signing.public_key()] } });
    let tenant = world.over_account(&signing_keys);
    site.push(&tenant).await;
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&tenant.user_jwt())).await;
    assert_eq!(lamp.connack.properties.maximum_qos, Some(QoS::AtMostOnce));
    assert_eq!(lamp.asks_for("a/#", 1).await, ReasonCode::Success);
    lamp.publish(msg("a/b", "live")).await;
    assert_eq!(lamp.receive_shown().await, "a/b live qos0");
}
