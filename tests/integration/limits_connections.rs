//! Who finds too many before it: connections of all, of a listener, an address and a user, and how many come in a second.

use mqtt_codec::ReasonCode;
use tempfile::TempDir;

use crate::auth_file::hash;
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, eventually};

async fn answer(sidecar: &Sidecar, options: Options) -> ReasonCode {
    Client::open(sidecar.mqtt_port, options).await.connack.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_than_there_may_be_is_told_so_and_comes_in_when_there_is_room() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("LISTENERS__TCP__LIMITS__CONNECTIONS", "2");
    let sidecar = builder.set("LIMITS__CONNECTIONS_PER_ADDRESS", "1").start().await;
    let first = sidecar.connect(Options::v5("first").from(2)).await;
    assert_eq!(answer(&sidecar, Options::v5("same address").from(2)).await, ReasonCode::QuotaExceeded);
    let _second = sidecar.connect(Options::v5("second").from(3)).await;
    assert_eq!(answer(&sidecar, Options::v5("third").from(4)).await, ReasonCode::QuotaExceeded);
    assert_eq!(answer(&sidecar, Options::v311("third").from(4)).await, ReasonCode::ServerUnavailable, "code 3");
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"listener_connections\"}").await > 1.5);
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"connections_per_address\"}").await > 0.5);
    assert!(sidecar.metric("mqtt_connect_total{result=\"quota_exceeded\"}").await > 2.5);
    first.goodbye().await;
    eventually("there is room", async || answer(&sidecar, Options::v5("third").from(4)).await == ReasonCode::Success)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_often_is_told_so_and_keeps_nobody_out() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("LIMITS__CONNECTION_RATE_PER_ADDRESS", "1/s");
    let sidecar = builder.set("LIMITS__CONNECTION_BURST_PER_ADDRESS", "3").start().await;
    let mut answers = Vec::new();
    for number in 0..10 {
        answers.push(answer(&sidecar, Options::v5(&format!("storm-{number}")).from(2)).await);
    }
    assert_eq!(answers.get(..3), Some(&[ReasonCode::Success; 3][..]));
    let refused = answers.iter().filter(|reason| **reason == ReasonCode::ConnectionRateExceeded).count();
    assert!(refused > 2, "{answers:?}");
    sidecar.connect(Options::v5("calm").from(3)).await.ping().await;
    eventually("it may again", async || answer(&sidecar, Options::v311("storm").from(2)).await == ReasonCode::Success)
        .await;
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"connection_rate_per_address\"}").await > 2.5);
    assert_eq!(sidecar.log().matches("limits.connection_rate_per_address is reached").count(), 1, "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_connections_and_a_tag_may_give_it_more() {
    let server = NatsServer::start();
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("nats-mqtt.toml");
    let user = |name: &str, tags: &str| format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\n{tags}\n", hash("x"));
    let users = user("lamp", "") + &user("hub", "tags = [\"mqtt:connections=2\"]");
    std::fs::write(&config, format!("[auth]\nmode = \"file\"\n[limits]\nconnections_per_user = 1\n{users}")).unwrap();
    let args = ["--nats", &server.url(), "-c", config.to_str().unwrap()];
    let sidecar = SidecarBuilder::new("sidecar", &args).start().await;
    let options = |id: &str, user: &str| {
        let mut options = Options::v5(id).password("x");
        options.connect.username = Some(user.into());
        options
    };
    let lamp = sidecar.connect(options("lamp-1", "lamp")).await;
    assert_eq!(answer(&sidecar, options("lamp-2", "lamp")).await, ReasonCode::QuotaExceeded);
    // Whoever takes its own session over is none more.
    let again = sidecar.connect(options("lamp-1", "lamp")).await;
    assert_eq!(answer(&sidecar, options("lamp-2", "lamp")).await, ReasonCode::QuotaExceeded);
    let _hub = (sidecar.connect(options("hub-1", "hub")).await, sidecar.connect(options("hub-2", "hub")).await);
    assert_eq!(answer(&sidecar, options("hub-3", "hub")).await, ReasonCode::QuotaExceeded);
    drop((lamp, again));
    eventually("it is gone", async || answer(&sidecar, options("lamp-2", "lamp")).await == ReasonCode::Success).await;
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"connections_per_user\"}").await > 2.5);
}
