//! More than a sidecar can carry: it stays alive, and so does everybody who is well-behaved.

use std::time::Duration;

use mqtt_codec::{QoS, ReasonCode, Version};
use serde_json::Value;
use tokio::sync::watch;

use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, eventually, heavy, msg};

/// Memory that the sidecar may take in the storms, MiB.
const MEMORY_MIB: u64 = 112;

/// Clients that read nothing. With what each could have of its own they would take more than all of that.
const SILENT: usize = 60;

const LOUD: usize = 4;

/// Messages of each loud one.
const MESSAGES: usize = 3_000;

async fn small(nats: &NatsServer) -> Sidecar {
    let builder = SidecarBuilder::of(nats, "sidecar").set("OVERLOAD__MEMORY", &format!("{MEMORY_MIB}MiB"));
    builder.start().await
}

/// Looks at the memory of a sidecar until it is told to end; returns the most that it took, MiB.
fn most_memory(sidecar: &Sidecar, mut end: watch::Receiver<bool>) -> tokio::task::JoinHandle<u64> {
    let status = format!("/proc/{}/status", sidecar.pid());
    tokio::spawn(async move {
        let mut most_kib = 0;
        loop {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            most_kib = most_kib.max(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0));
            // A look every now and then: what it looks at goes up and does not come down at once.
            if tokio::time::timeout(Duration::from_millis(20), end.changed()).await.is_ok() {
                return most_kib / 1_024;
            }
        }
    })
}

/// Subscribers that never read.
async fn silent_readers(sidecar: &Sidecar, filter: &str, qos: u8) -> Vec<Client> {
    let mut readers = Vec::new();
    for n in 0..SILENT {
        let mut reader = sidecar.connect(Options::v311(&format!("silent-{n}")).receive_buffer(4_096)).await;
        reader.subscribe(filter, qos).await;
        readers.push(reader);
    }
    readers
}

/// Publishes from several clients at the same time.
async fn storm(sidecar: &Sidecar, topic: &str, qos: u8, size: usize) {
    let mut loud = Vec::new();
    for n in 0..LOUD {
        loud.push(sidecar.v311(&format!("loud-{n}")).await);
    }
    let storms = loud.into_iter().map(|mut client| async move {
        let message = || msg(topic, vec![b'.'; size]).qos(qos);
        client.publish_all((0..MESSAGES).map(|_| message()), 100, |_| {}).await;
        client.ping().await;
    });
    futures_util::future::join_all(storms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_and_loud_publishers_leave_it_alive_and_everybody_else_unharmed() {
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = small(&nats).await;
    let mut neighbour = sidecar.v5("neighbour").await;
    neighbour.subscribe("neighbour/+", 1).await;
    let (end, ends) = watch::channel(false);
    let watching = most_memory(&sidecar, ends);
    let readers = silent_readers(&sidecar, "storm/0", 0).await;
    let talking = async {
        for n in 0..50 {
            assert_eq!(neighbour.publish(msg("neighbour/1", n.to_string()).qos(1)).await, ReasonCode::Success);
            assert_eq!(neighbour.receive_shown().await, format!("neighbour/1 {n} qos1"));
        }
        // Who comes now is let in, or told to come back.
        let newcomer = Client::open(sidecar.mqtt_port, Options::v5("newcomer")).await;
        assert!(matches!(newcomer.connack.reason, ReasonCode::Success | ReasonCode::ServerBusy));
    };
    tokio::join!(storm(&sidecar, "storm/0", 0, 3_000), talking);
    end.send_replace(true);
    let most = watching.await.unwrap();
    assert!(most < MEMORY_MIB, "{most} MiB of {MEMORY_MIB}");
    assert!(sidecar.metric("mqtt_overload_total{action=\"lane_dropped\"}").await > 0.0, "{most} MiB");
    assert!(sidecar.metric("mqtt_lease_age_seconds").await < 10.0);
    drop(readers);
    eventually("nothing waits any more", async || sidecar.metric("mqtt_waiting_bytes").await < 2_000_000.0).await;
    // Also when the allocator has kept the memory.
    eventually("everything is as it was", async || sidecar.metric("mqtt_overload_level").await == 0.0).await;
    sidecar.v5("late").await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_qos_1_get_everything_when_there_was_no_memory_for_it() {
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = small(&nats).await;
    let (end, ends) = watch::channel(false);
    let watching = most_memory(&sidecar, ends);
    let mut readers = silent_readers(&sidecar, "storm/1", 1).await;
    storm(&sidecar, "storm/1", 1, 1_000).await;
    let mut reader = readers.swap_remove(7);
    for n in 0..LOUD * MESSAGES {
        let message = reader.receive().await;
        assert_eq!((message.qos(), message.payload.len(), message.dup), (QoS::AtLeastOnce, 1_000, false), "{n}");
    }
    end.send_replace(true);
    let most = watching.await.unwrap();
    assert!(most < MEMORY_MIB, "{most} MiB of {MEMORY_MIB}");
}

/// What `memory` is set to here is less than any sidecar takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_memory_says_so_and_when_to_come_back() {
    let nats = NatsServer::start();
    let mut events = Watch::new(&nats.client().await, "$NMQ.event.overload.>").await;
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("OVERLOAD__MEMORY", "8MiB").start().await;
    for level in 1..=3 {
        let message = events.next().await;
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(
            (&event["type"], &event["level"], &event["why"]),
            (&"overload".into(), &level.into(), &"memory".into())
        );
        assert_eq!(event["before"], level - 1);
        assert!(event.get("client_id").is_none() && event["node"].is_string(), "{event}");
        assert!(event["memory_used"].as_u64() > event["memory_limit"].as_u64(), "{event}");
    }
    assert_eq!(sidecar.metric("mqtt_overload_level").await, 3.0);
    let refused = Client::open(sidecar.mqtt_port, Options::v5("five")).await.connack;
    assert_eq!(refused.reason, ReasonCode::ServerBusy);
    let said = refused.properties.reason_string.unwrap();
    assert!(said.starts_with("the server is busy: try again in ") && said.ends_with(" seconds"), "{said}");
    let tight = Options::v5("tight").maximum_packet_size(20);
    let refused = Client::open(sidecar.mqtt_port, tight).await.connack;
    assert_eq!((refused.reason, refused.properties.reason_string), (ReasonCode::ServerBusy, None));
    let refused = Client::open(sidecar.mqtt_port, Options::new(Version::V311, "three")).await.connack;
    assert_eq!(refused.reason, ReasonCode::ServerUnavailable, "return code 3");
    assert_eq!(sidecar.metric("mqtt_overload_total{action=\"connect_refused\"}").await, 3.0);
    assert_eq!(sidecar.metric("mqtt_connect_total{result=\"server_busy\"}").await, 3.0);
    assert_eq!(sidecar.log().matches("overload: ").count(), 3, "a line for each change");
}
