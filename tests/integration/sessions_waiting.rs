//! Those who wait for a client id whose connection takes long to end: only the newest waits, and no longer than its peer is
//! there.

use std::time::Duration;

use mqtt_codec::Version;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};

use crate::harness::{Client, NatsServer, Options, PATIENCE, Sidecar, msg, unique};

/// Sooner than a connection gives up the wait for the one before.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_wait_for_a_client_id_only_the_newest_does() {
    const WAITING: usize = 30;
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "waiting").await;
    let id = unique("w");
    let options = || Options::new(Version::V5, &id).durable(3_600);
    let mut old = sidecar.connect(options()).await;
    old.subscribe(&id, 1).await;
    // It has something under way that JetStream does not answer, so it takes its time to end.
    server.pause();
    old.start_publish(&msg(&id, "under way").qos(1));
    old.flush().await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(Client::send_connect(sidecar.mqtt_port, options()).await);
    }
    let last = waiting.pop().expect("one");
    let began = Instant::now();
    let mut open = 0;
    for mut socket in waiting {
        let left = SOON.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        let mut answer = Vec::new();
        open += usize::from(timeout(left, socket.read_to_end(&mut answer)).await.is_err());
    }
    assert_eq!(open, 0, "of {} that somebody newer came behind", WAITING - 1);
    drop(last);
    server.go_on();
    let again = timeout(PATIENCE, Client::open(sidecar.mqtt_port, options())).await.expect("an answer");
    assert!(again.is_resumed(), "{:?}", again.connack);
}
