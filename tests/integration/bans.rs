//! Who is banned does not get in, and does not stay: by the configuration, by the bucket, and by rules.

use mqtt_codec::ReasonCode;
use tempfile::TempDir;

use crate::auth_file::hash;
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, eventually, js_api, msg};

/// Who is banned while its session is being opened may be closed without an answer: then it asks again.
async fn answer(sidecar: &Sidecar, options: Options) -> ReasonCode {
    for _ in 0..3 {
        if let Ok(client) = Client::try_open(sidecar.mqtt_port, options.clone()).await {
            return client.connack.reason;
        }
    }
    Client::open(sidecar.mqtt_port, options).await.connack.reason
}

/// What `nats kv put` and `nats kv del` do, once the bucket is there.
async fn put(nats: &async_nats::Client, key: &str, value: &str) {
    eventually("the bucket is there", async || {
        let info = js_api(nats, "STREAM.INFO.KV_MQTT_bans", &serde_json::json!({})).await;
        info["error"].is_null()
    })
    .await;
    put_now(nats, key, value).await;
    nats.flush().await.unwrap();
}

async fn put_now(nats: &async_nats::Client, key: &str, value: &str) {
    nats.publish(format!("$KV.MQTT_bans.{key}"), value.to_owned().into()).await.unwrap();
}

async fn delete(nats: &async_nats::Client, key: &str) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    nats.publish_with_headers(format!("$KV.MQTT_bans.{key}"), headers, "".into()).await.unwrap();
    nats.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_configuration_bans_is_told_so() {
    let server = NatsServer::start();
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("nats-mqtt.toml");
    let list = "[[bans.list]]\naddress = \"127.0.0.7\"\n[[bans.list]]\nclient_id = \"lamp\"\n";
    std::fs::write(&config, list).unwrap();
    let args = ["--nats", &server.url(), "-c", config.to_str().unwrap()];
    let sidecar = SidecarBuilder::new("sidecar", &args).open().start().await;
    assert_eq!(answer(&sidecar, Options::v5("lamp")).await, ReasonCode::Banned);
    assert_eq!(answer(&sidecar, Options::v311("lamp")).await, ReasonCode::NotAuthorized, "code 5");
    assert_eq!(answer(&sidecar, Options::v5("other").from(7)).await, ReasonCode::Banned);
    assert_eq!(answer(&sidecar, Options::v5("other").from(8)).await, ReasonCode::Success);
    assert!(sidecar.metric("mqtt_bans_refused_total{kind=\"client\"}").await > 1.5);
    assert!(sidecar.metric("mqtt_bans_refused_total{kind=\"address\"}").await > 0.5);
    assert!((sidecar.metric("mqtt_bans{kind=\"address\"}").await - 1.0).abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_in_the_bucket_ends_who_is_connected_wherever_and_a_deletion_lets_it_in_again() {
    let server = NatsServer::start();
    let (mut a, b) = (Sidecar::start(&server, "a").await, Sidecar::start(&server, "b").await);
    let nats = server.client().await;
    let mut watcher = b.v5("watcher").await;
    watcher.subscribe("will", 1).await;
    let mut lamp = a.connect(Options::v5("la mp").will(msg("will", "gone").qos(1))).await;
    let mut far = b.connect(Options::v5("far").from(9)).await;
    put(&nats, "client.la=20mp", r#"{"reason":"noisy"}"#).await;
    put(&nats, "address.127.0.0.9/32", "").await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(far.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(watcher.receive_shown().await, "will gone qos1");
    for sidecar in [&a, &b] {
        eventually("it is known everywhere", async || {
            answer(sidecar, Options::v5("la mp")).await == ReasonCode::Banned
                && answer(sidecar, Options::v5("x").from(9)).await == ReasonCode::Banned
        })
        .await;
    }
    // A sidecar that starts knows it as well.
    a.restart().await;
    eventually("after a restart", async || answer(&a, Options::v5("la mp")).await == ReasonCode::Banned).await;
    delete(&nats, "client.la=20mp").await;
    delete(&nats, "address.127.0.0.9/32").await;
    for sidecar in [&a, &b] {
        eventually("it may come again", async || {
            answer(sidecar, Options::v5("la mp")).await == ReasonCode::Success
                && answer(sidecar, Options::v5("x").from(9)).await == ReasonCode::Success
        })
        .await;
    }
    put(&nats, "nonsense.x", "").await;
    eventually("a key that says nothing is told", async || a.log().contains("says nothing")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_too_often_is_banned_everywhere_for_a_while() {
    let server = NatsServer::start();
    let builder = |name| {
        let builder = SidecarBuilder::of(&server, name).set("BANS__FLAPPING__COUNT", "5");
        builder.set("BANS__FLAPPING__DURATION", "4s")
    };
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    let mut neighbour = a.v5("neighbour").await;
    for _ in 0..4 {
        assert_eq!(answer(&a, Options::v5("flaps")).await, ReasonCode::Success);
    }
    // The fifth gets in, and is disconnected for it.
    let mut fifth = a.connect(Options::v5("flaps")).await;
    assert_eq!(fifth.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(answer(&a, Options::v5("flaps")).await, ReasonCode::Banned);
    eventually("the other one knows", async || answer(&b, Options::v5("flaps")).await == ReasonCode::Banned).await;
    neighbour.ping().await;
    eventually("it is over", async || answer(&a, Options::v5("flaps")).await == ReasonCode::Success).await;
    eventually("everywhere", async || answer(&b, Options::v5("flaps")).await == ReasonCode::Success).await;
    assert!(a.metric("mqtt_bans_made_total{cause=\"flapping\"}").await > 0.5);
    assert!(a.log().contains("client flaps"), "{}", a.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_breaks_the_protocol_again_and_again_is_banned_and_its_neighbours_are_not() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("BANS__VIOLATIONS__COUNT", "3");
    let sidecar = builder.set("BANS__SHARED", "false").start().await;
    for _ in 0..3 {
        let mut bad = sidecar.connect(Options::v5("bad").from(5)).await;
        // No packet has this type.
        bad.write_raw(&[0, 0]);
        bad.flush().await;
        assert_eq!(bad.closed().await, Some(ReasonCode::MalformedPacket));
    }
    assert_eq!(answer(&sidecar, Options::v5("good").from(5)).await, ReasonCode::Banned);
    assert_eq!(answer(&sidecar, Options::v5("good").from(6)).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_takes_no_ban_away_and_what_is_made_meanwhile_is_written_later() {
    let mut server = NatsServer::start();
    let builder = |name| SidecarBuilder::of(&server, name).set("BANS__FLAPPING__COUNT", "3");
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    let nats = server.client().await;
    put(&nats, "client.old", "").await;
    eventually("it is known", async || answer(&a, Options::v5("old")).await == ReasonCode::Banned).await;
    server.kill();
    let clean = || Options::v5("new");
    for _ in 0..3 {
        answer(&a, clean()).await;
    }
    assert_eq!(answer(&a, clean()).await, ReasonCode::Banned);
    assert_eq!(answer(&a, Options::v5("old")).await, ReasonCode::Banned);
    server.restart();
    eventually("the other one learns of it", async || answer(&b, clean()).await == ReasonCode::Banned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_no_key_has_room_for_keeps_no_other_from_being_shared() {
    let server = NatsServer::start();
    let (dir, eve) = (TempDir::new().unwrap(), "e".repeat(200));
    let rule = "[bans]\nflapping = { count = 3 }";
    let a = with_users(&server, &dir, rule, &[&eve, "adam"]).await;
    let b = with_users(&server, &dir, rule, &[&eve, "adam"]).await;
    // Its session has room in a key; its ban has the user beside it.
    let long = "l".repeat(3_800);
    let (of_eve, of_adam) = (|| user(&long, &eve, "right"), || user("short", "adam", "right"));
    for options in [&of_eve as &dyn Fn() -> Options, &of_adam] {
        for _ in 0..3 {
            answer(&a, options()).await;
        }
        assert_eq!(answer(&a, options()).await, ReasonCode::Banned);
    }
    eventually("the other one knows", async || answer(&b, of_adam()).await == ReasonCode::Banned).await;
    eventually("it is said", async || a.log().contains("longer than a key of NATS may be")).await;
    assert_eq!(answer(&a, of_eve()).await, ReasonCode::Banned, "here it counts on");
    assert_eq!(answer(&b, of_eve()).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_before_it_is_known_who_is_banned() {
    let server = NatsServer::start();
    let mut sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    // The last of many.
    for number in 0..3_000 {
        put_now(&nats, &format!("client.{number}"), "").await;
    }
    put(&nats, "client.lamp", "").await;
    eventually("it is known", async || answer(&sidecar, Options::v5("lamp")).await == ReasonCode::Banned).await;
    for _ in 0..3 {
        sidecar.restart().await;
        assert_eq!(answer(&sidecar, Options::v5("lamp")).await, ReasonCode::Banned);
    }
    assert!(!sidecar.log().contains("let in before"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_an_operator_has_made_in_a_way_of_his_own_is_read_all_the_same() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let config = serde_json::json!({
        "name": "KV_MQTT_bans", "subjects": ["$KV.MQTT_bans.>"], "max_msgs_per_subject": 5, "allow_direct": true
    });
    let made = js_api(&nats, "STREAM.CREATE.KV_MQTT_bans", &config).await;
    assert!(made["error"].is_null(), "{made}");
    put(&nats, "client.lamp", "").await;
    let sidecar = Sidecar::start(&server, "sidecar").await;
    assert_eq!(answer(&sidecar, Options::v5("lamp")).await, ReasonCode::Banned);
    delete(&nats, "client.lamp").await;
    put(&nats, "client.hub", "").await;
    eventually("it is followed", async || {
        answer(&sidecar, Options::v5("lamp")).await == ReasonCode::Success
            && answer(&sidecar, Options::v5("hub")).await == ReasonCode::Banned
    })
    .await;
    assert_eq!(sidecar.log().matches("not as it has to be").count(), 1, "{}", sidecar.log());
}

/// A sidecar that knows users by their passwords, all "right".
async fn with_users(server: &NatsServer, dir: &TempDir, more: &str, users: &[&str]) -> Sidecar {
    let config = dir.path().join("nats-mqtt.toml");
    let user = |name: &&str| format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\n", hash("right"));
    let users: String = users.iter().map(user).collect();
    std::fs::write(&config, format!("[auth]\nmode = \"file\"\n{more}\n{users}")).unwrap();
    SidecarBuilder::new("sidecar", &["--nats", &server.url(), "-c", config.to_str().unwrap()]).start().await
}

fn user(id: &str, name: &str, password: &str) -> Options {
    let mut options = Options::v5(id).password(password);
    options.connect.username = Some(name.into());
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_from_which_too_many_fail_to_log_in_is_banned_whatever_its_passwords_are() {
    let (server, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let sidecar = with_users(&server, &dir, "[bans]\nfailed_logins = { count = 3 }", &["eve", "adam"]).await;
    let mut before = sidecar.connect(user("before", "adam", "right").from(5)).await;
    for number in 0..3 {
        let options = user(&format!("guess-{number}"), "eve", &number.to_string()).from(5);
        assert_eq!(answer(&sidecar, options).await, ReasonCode::BadUserNameOrPassword);
    }
    assert_eq!(answer(&sidecar, user("eve", "eve", "right").from(5)).await, ReasonCode::Banned);
    assert_eq!(before.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(answer(&sidecar, user("eve", "eve", "right").from(6)).await, ReasonCode::Success);
    // That it is refused makes nothing of it worse.
    for _ in 0..5 {
        assert_eq!(answer(&sidecar, user("eve", "eve", "wrong").from(5)).await, ReasonCode::Banned);
    }
    assert!((sidecar.metric("mqtt_bans_made_total{cause=\"failed_logins\"}").await - 1.0).abs() < 0.1);
    let nats = server.client().await;
    delete(&nats, "address.127.0.0.5").await;
    eventually("it may come again", async || {
        answer(&sidecar, user("eve", "eve", "right").from(5)).await == ReasonCode::Success
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_an_operator_bans_is_disconnected_and_refused_whatever_its_client_ids_are() {
    let (server, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let sidecar = with_users(&server, &dir, "", &["eve", "adam"]).await;
    let nats = server.client().await;
    let mut of_eve = Vec::new();
    for id in ["one", "two"] {
        of_eve.push(sidecar.connect(user(id, "eve", "right")).await);
    }
    let mut of_adam = sidecar.connect(user("three", "adam", "right")).await;
    put(&nats, "user.eve", r#"{"duration_s":3600,"reason":"floods"}"#).await;
    for client in &mut of_eve {
        assert_eq!(client.closed().await, Some(ReasonCode::AdministrativeAction));
    }
    assert_eq!(answer(&sidecar, user("one", "eve", "right")).await, ReasonCode::Banned);
    assert_eq!(answer(&sidecar, user("four", "eve", "right")).await, ReasonCode::Banned);
    of_adam.ping().await;
    assert_eq!(answer(&sidecar, user("five", "adam", "right")).await, ReasonCode::Success);
    assert!(sidecar.metric("mqtt_bans_refused_total{kind=\"user\"}").await > 3.5);
    assert!((sidecar.metric("mqtt_bans{kind=\"user\"}").await - 1.0).abs() < 0.1);
    delete(&nats, "user.eve").await;
    eventually("it may come again", async || {
        answer(&sidecar, user("one", "eve", "right")).await == ReasonCode::Success
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_client_id_of_another_one_again_and_again_is_banned_and_the_other_one_is_not() {
    let server = NatsServer::start();
    let builder = |name| SidecarBuilder::of(&server, name).set("BANS__FLAPPING__COUNT", "4");
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    for _ in 0..4 {
        assert_eq!(answer(&a, Options::v5("lamp").from(5)).await, ReasonCode::Success);
    }
    for sidecar in [&a, &b] {
        eventually("the other one knows", async || {
            answer(sidecar, Options::v5("lamp").from(5)).await == ReasonCode::Banned
        })
        .await;
        let mut lamp = sidecar.connect(Options::v5("lamp").from(6)).await;
        lamp.ping().await;
    }
}
