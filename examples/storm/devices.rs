//! Devices that behave: each publishes to itself at QoS 1, once a second, and sees how long that takes.

use std::time::Duration;

use mqtt_codec::ReasonCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::PASSWORD;
use crate::harness::{Client, Options, msg};
use crate::world::percentile;

/// Between two messages of a device.
const EVERY: Duration = Duration::from_secs(1);

/// How long something may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// How they fared.
#[derive(Debug, Default)]
pub(crate) struct Fared {
    /// From the publish of each message to its delivery.
    pub(crate) round_trips: Vec<Duration>,
    /// Messages that did not come.
    pub(crate) lost: usize,
    /// Devices whose connection was closed.
    pub(crate) cut: usize,
}

impl Fared {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.round_trips, percent)
    }

    /// Whether they have nothing to complain of.
    pub(crate) fn is_well(&self, p99_max: Duration) -> bool {
        !self.round_trips.is_empty() && self.percentile(99) < p99_max && self.lost == 0 && self.cut == 0
    }
}

/// All of them.
pub(crate) struct Devices {
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Fared>>,
}

impl Devices {
    pub(crate) async fn come(port: u16, count: usize) -> Self {
        let (end, ends) = watch::channel(false);
        let mut tasks = Vec::with_capacity(count);
        for number in 0..count {
            let id = format!("device-{number}");
            let mut options = Options::v5(&id).keep_alive(10).password(PASSWORD);
            options.connect.username = Some("device".into());
            let mut client = Client::connect(port, options).await;
            client.subscribe(&format!("{id}/#"), 1).await;
            tasks.push(tokio::spawn(live(client, id, ends.clone())));
        }
        Self { end, tasks }
    }

    pub(crate) async fn leave(self) -> Fared {
        self.end.send_replace(true);
        let mut all = Fared::default();
        for task in self.tasks {
            // Who has panicked was cut off.
            let fared = task.await.unwrap_or(Fared { cut: 1, ..Fared::default() });
            all.round_trips.extend(fared.round_trips);
            all.lost += fared.lost;
            all.cut += fared.cut;
        }
        all
    }
}

async fn live(mut client: Client, id: String, mut end: watch::Receiver<bool>) -> Fared {
    let mut fared = Fared::default();
    // They do not all speak in the same moment.
    let first = EVERY.mul_f64(f64::from(rand::random::<u8>()) / 256.0);
    let mut ticks = tokio::time::interval_at(Instant::now() + first, EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = end.changed() => break,
        }
        let since = Instant::now();
        client.start_publish(&msg(&format!("{id}/state"), "on").qos(1));
        match client.try_receive(PATIENCE).await {
            Ok(_) => fared.round_trips.push(since.elapsed()),
            Err(crate::harness::Ended::Closed) => {
                fared.cut += 1;
                return fared;
            }
            Err(_) => fared.lost += 1,
        }
    }
    client.disconnect(ReasonCode::Success).await;
    fared
}
