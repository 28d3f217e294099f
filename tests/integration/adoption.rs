//! The sessions of sidecars that are gone, thousands of them: those that are left divide them, each will comes once, and one
//! that stands still keeps nobody's will back. The records are planted here, as their sidecar would have left them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::Client as Nats;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::sessions::record;
use crate::harness::{Client, NatsServer, Sidecar, eventually, msg, shown};

const COUNT: usize = 2_000;
/// Well within the lease of one that stands still.
const WITHIN: Duration = Duration::from_secs(20);

/// Plants sessions whose clients are connected to a sidecar that is gone, each with a will.
async fn plant(nats: &Nats, batch: &str) {
    let payload = BASE64.encode("gone");
    for n in 0..COUNT {
        let id = format!("{batch}-{n}");
        let will = json!({ "topic": format!("will/{id}"), "payload": payload, "qos": 1 });
        let record = json!({ "version": 1, "client_id": id, "epoch": 1, "first_epoch": 1, "owner": "gone", "connected": true,
            "expiry_s": 3600, "since": "2026-01-01T00:00:00.000Z", "protocol": "5.0", "subscriptions": [], "will": will });
        nats.publish(format!("$KV.MQTT_sessions.{id}"), record.to_string().into()).await.unwrap();
    }
    let last = format!("{batch}-{}", COUNT - 1);
    eventually("all are planted", async || record(nats, &last).await.is_some()).await;
}

/// The will of each comes, once.
async fn expect_wills(watcher: &mut Client, batch: &str) -> Duration {
    let began = Instant::now();
    let mut seen = HashSet::new();
    while seen.len() < COUNT {
        let left = WITHIN.saturating_sub(began.elapsed());
        let will = match watcher.try_receive(left).await {
            Ok(will) => shown(&will),
            Err(ended) => panic!("{ended:?}: {} of {COUNT} wills came within {WITHIN:?}", seen.len()),
        };
        assert!(will.starts_with(&format!("will/{batch}-")), "{will}");
        assert!(seen.insert(will.clone()), "{will} came twice");
    }
    began.elapsed()
}

async fn adopted(sidecar: &Sidecar) -> usize {
    sidecar.metric("mqtt_sessions_adopted_total").await as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_divide_the_sessions_of_one_that_is_gone_and_do_what_one_that_stands_still_does_not() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut sidecars = Vec::new();
    for name in ["first", "second", "b", "c"] {
        sidecars.push(Sidecar::start(&server, name).await);
    }
    let [first, second, b, c] = &mut sidecars[..] else { unreachable!() };
    let mut watcher = b.v5("watch").await;
    watcher.subscribe("will/#", 1).await;

    plant(&nats, "divided").await;
    // It has no sessions of its own, but a lease, and whoever sees that go looks.
    first.stop().await;
    expect_wills(&mut watcher, "divided").await;
    let mut counts = [0; 3];
    eventually("all are through", async || {
        counts = [adopted(second).await, adopted(b).await, adopted(c).await];
        counts.iter().sum::<usize>() == COUNT
    })
    .await;
    assert!(counts.iter().all(|count| *count > COUNT / 6), "each does about a third: {counts:?}");

    // Before there is anything to do: what it had begun with it would finish when it goes on.
    c.signal(Signal::STOP);
    plant(&nats, "stands-still").await;
    second.stop().await;
    expect_wills(&mut watcher, "stands-still").await;
    // The other may have begun with some, and has finished them.
    eventually("the one that is left does it", async || adopted(b).await - counts[1] > COUNT * 9 / 10).await;
    c.signal(Signal::CONT);
    b.v5("pub").await.publish(msg("will/stands-still-last", "x").qos(1)).await;
    assert_eq!(watcher.receive_shown().await, "will/stands-still-last x qos1", "nothing came twice");
}
