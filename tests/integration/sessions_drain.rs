//! Clients that connect while a sidecar drains: they are told that it ends, and nothing of theirs is left behind.

use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};

use crate::harness::relay::Relay;
use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, msg, unique};

const LONG: u32 = 3600;

/// What comes from NATS is so late that CONNECTs are under way when the drain begins.
const LATE: Duration = Duration::from_millis(100);

/// What a client was told: the reason code of CONNACK, and of DISCONNECT behind it.
async fn told(port: u16, options: Options) -> Result<(ReasonCode, Option<ReasonCode>), Ended> {
    let mut client = Client::try_open(port, options).await?;
    let connack = client.connack.reason;
    Ok((connack, client.closed().await))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_a_sidecar_drains_is_told_that_it_ends() {
    const CLIENTS: usize = 20;
    let server = NatsServer::start();
    let relay = Relay::start(server.url()).await;
    let watching = Sidecar::start(&server, "watching").await;
    let t = unique("drain");
    let mut watcher = watching.v5(&unique("watch")).await;
    watcher.subscribe(&format!("{t}/#"), 1).await;
    let mut draining = SidecarBuilder::new("draining", &["--nats", &relay.url()]).start().await;
    relay.delay(LATE);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let version = if n % 2 == 0 { Version::V5 } else { Version::V311 };
        let will = msg(&format!("{t}/{n}"), "gone").qos(1);
        let options = Options::new(version, &unique("dr")).durable(LONG).will(will);
        clients.push((version, tokio::spawn(told(draining.mqtt_port, options))));
        tokio::time::sleep(LATE / 5).await;
        if n == CLIENTS / 2 {
            draining.terminate();
        }
    }
    let (mut wrong, mut refused, mut drained) = (Vec::new(), Vec::new(), 0);
    for (n, (version, client)) in clients.into_iter().enumerate() {
        match client.await.unwrap() {
            Ok((ReasonCode::Success, Some(ReasonCode::ServerShuttingDown))) => drained += 1,
            Ok((ReasonCode::Success, None)) if version == Version::V311 => drained += 1,
            Ok((ReasonCode::ServerUnavailable, None)) => refused.push(format!("{t}/{n} gone qos1")),
            // It came when nothing was accepted any more.
            Err(Ended::Closed) => {}
            other => wrong.push(format!("{n}: {other:?}")),
        }
    }
    draining.ended().await;
    println!("{drained} drained, {} refused", refused.len());
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(drained + refused.len() > CLIENTS / 2, "{drained} drained, {} refused", refused.len());
    let mut publisher = watching.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/end"), "end").qos(1)).await;
    let wills = watcher.shown_until("end").await;
    let of_refused: Vec<_> = wills.iter().filter(|will| refused.contains(will)).collect();
    assert!(of_refused.is_empty(), "the wills of CONNECTs that were refused: {of_refused:?}");
}
