//! A subscriber to everything at QoS 0, which stands beside: what it costs must not touch the others.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Ended, Options};
use crate::random::Random;
use crate::stage::{Opened, Stage};
use crate::subscriber::subscribe;

pub(crate) async fn stand_beside(mut random: Random, stage: Stage) {
    let trace = stage.witness.traces.of("wildcard");
    while !*stage.over.borrow() {
        let sidecar = stage.any_sidecar(&mut random);
        match stage.open(sidecar, Options::v5("wildcard"), &trace, Duration::from_secs(15)).await {
            Opened::Accepted(client) => read(client, &stage).await,
            _ => tokio::time::sleep(random.ms(100, 1_000)).await,
        }
    }
}

async fn read(mut client: Box<Client>, stage: &Stage) {
    let id = client.packet_id();
    client.write(&subscribe(id, &[("#", 0)]));
    while !*stage.over.borrow() {
        if client.packet(Instant::now() + Duration::from_secs(1)).await == Err(Ended::Closed) {
            return;
        }
    }
}
