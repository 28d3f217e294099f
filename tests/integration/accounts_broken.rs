//! A tenant whose streams have lost their quorum, and another one on the same sidecar.

use std::time::Duration;

use futures_util::future::join_all;
use mqtt_codec::ReasonCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::accounts::{ACCOUNTS, Tenants, nats, of};
use crate::harness::cluster::Cluster;
use crate::harness::{Client, NatsServer, Options, Sidecar, heavy, js_api, msg, stream_info};

/// How many messages are timed.
const TIMED: usize = 1_000;

/// How long streams may take to move to other servers.
const MOVED_WITHIN: Duration = Duration::from_secs(60);

/// Moves all streams of an account to servers with a tag.
async fn place(server: &NatsServer, user: &str, password: &str, tag: &str, servers: &[&str]) {
    let nats = nats(server, user, password).await;
    let listed = js_api(&nats, "STREAM.LIST", &Value::Null).await;
    let streams: Vec<Value> = listed["streams"].as_array().unwrap().iter().map(|info| info["config"].clone()).collect();
    let name_of = |config: &Value| config["name"].as_str().unwrap().to_owned();
    for mut config in streams.clone() {
        config["placement"] = json!({ "cluster": "c", "tags": [tag] });
        let updated = js_api(&nats, &format!("STREAM.UPDATE.{}", name_of(&config)), &config).await;
        assert!(updated["error"].is_null(), "{updated}");
    }
    for name in streams.iter().map(name_of) {
        let moved = async {
            while !is_at(&stream_info(&nats, &name).await, servers) {
                pause().await
            }
        };
        assert!(tokio::time::timeout(MOVED_WITHIN, moved).await.is_ok(), "{name} does not move");
    }
}

/// Whether a stream has all its replicas at these servers.
fn is_at(info: &Value, servers: &[&str]) -> bool {
    let replicas = info["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
    let is_there = |server: &Value| servers.iter().any(|wanted| server == wanted);
    let are_there = replicas.iter().all(|replica| is_there(&replica["name"]) && replica["current"] == true);
    replicas.len() == 2 && are_there && is_there(&info["cluster"]["leader"])
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// How long it takes from each PUBLISH to its PUBACK, and to its subscriber, sorted.
async fn timed([publisher, subscriber]: &mut [Client; 2], topic: &str) -> [Vec<Duration>; 2] {
    let (mut acked, mut received) = (Vec::new(), Vec::new());
    for number in 0..TIMED {
        let began = Instant::now();
        assert_eq!(publisher.publish(msg(topic, number.to_string()).qos(1)).await, ReasonCode::Success);
        acked.push(began.elapsed());
        assert_eq!(subscriber.receive().await.payload, number.to_string());
        received.push(began.elapsed());
    }
    acked.sort_unstable();
    received.sort_unstable();
    [acked, received]
}

fn tell(when: &str, timed: &[Vec<Duration>; 2]) {
    let of = |sorted: &Vec<Duration>| format!("p50 {:?}, p99 {:?}", sorted[TIMED / 2], sorted[TIMED * 99 / 100]);
    println!("{when}: PUBACK {}; delivery {}", of(&timed[0]), of(&timed[1]));
}

/// A publisher and a subscriber of the sound tenant.
async fn pair(sidecar: &Sidecar, topic: &str) -> [Client; 2] {
    let publisher = sidecar.connect(of("b", Options::v5(&format!("publisher-{topic}")).durable(60))).await;
    let mut subscriber = sidecar.connect(of("b", Options::v5(&format!("subscriber-{topic}")).durable(60))).await;
    subscriber.subscribe(topic, 1).await;
    [publisher, subscriber]
}

/// Devices with messages that nothing acknowledges, for as long as the tenant has no quorum.
async fn insist(sidecar: &Sidecar) -> Vec<Client> {
    let insists = async |number: u32| {
        let mut device = sidecar.connect(of("a", Options::v5(&format!("insists-{number}")))).await;
        for message in 0..20 {
            device.start_publish(&msg(&format!("lost/{message}"), "x").qos(1));
        }
        device.flush().await;
        device
    };
    join_all((0..20).map(insists)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_quorum_leaves_the_other_as_it_was() {
    let _turn = heavy().await;
    let tags = ["a", "a", "a, b", "b", "b"];
    let cluster = Cluster::start_with(5, |number| format!("server_tags: [{}]\n{ACCOUNTS}", tags[number]));
    let (first, second) = (&cluster.servers[0], &cluster.servers[1]);
    let tenants = Tenants::new("");
    let urls = format!("{},{}", first.url(), second.url());
    let sidecar = tenants.sidecar_of("tenants", &urls).await;
    // Without a device of the other tenant: what the servers themselves lose by those that are killed is seen there.
    let other_sidecar = tenants.sidecar_of("apart", &urls).await;
    let mut broken = sidecar.connect(of("a", Options::v5("broken").durable(60))).await;
    broken.subscribe("own", 1).await;
    let (mut beside, mut apart) = (pair(&sidecar, "beside").await, pair(&other_sidecar, "apart").await);
    tokio::join!(
        place(first, "home", "h", "a", &["n0", "n1", "n2"]),
        place(first, "two", "pw2", "a", &["n0", "n1", "n2"]),
        place(first, "one", "pw1", "b", &["n2", "n3", "n4"]),
    );
    assert_eq!(broken.publish(msg("own", "before").qos(1)).await, ReasonCode::Success);
    tell("warming up", &timed(&mut beside, "beside").await);
    tell("both tenants are sound", &timed(&mut beside, "beside").await);
    tell("both are sound, apart", &timed(&mut apart, "apart").await);

    let Cluster { servers } = cluster;
    let mut servers = servers.into_iter();
    let sound: Vec<NatsServer> = servers.by_ref().take(3).collect();
    // They are killed.
    drop(servers);
    let devices = insist(&sidecar).await;
    tell("one has no quorum", &timed(&mut beside, "beside").await);
    tell("one has no quorum, apart", &timed(&mut apart, "apart").await);
    // Devices of the other come and go, with sessions that are stored.
    let late = sidecar.connect(of("b", Options::v5("late").durable(60))).await;
    late.disconnect(ReasonCode::Success).await;
    assert!(sidecar.connect(of("b", Options::v5("late").durable(60))).await.is_resumed());
    assert!(sidecar.answers("/readyz", 200).await);
    for mut device in devices {
        device.ping().await;
        assert!(!device.has_ack(), "nothing is acknowledged that is not stored");
    }
    // QoS 0 of the tenant itself goes on.
    broken.publish(msg("own", "live")).await;
    broken.receive_until("live").await;
    drop(sound);
}
