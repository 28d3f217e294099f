//! A well-behaved device beside the hostile one: one connection that pings, one that publishes to itself at QoS 1 and 2, and
//! one that comes and goes.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use mqtt_codec::{Packet, ReasonCode};

use crate::harness::{Client, Options, msg};
use crate::world::percentile;

/// Between two pings, two messages, and two CONNECTs.
const PAUSE: Duration = Duration::from_millis(50);

/// How long something may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it fared.
#[derive(Debug, Default)]
pub(crate) struct Fared {
    pub(crate) pings: Vec<Duration>,
    pub(crate) slowest_connect: Duration,
    /// Messages that were acknowledged.
    pub(crate) sent: usize,
    /// Those of them that did not come, or came twice at QoS 2.
    pub(crate) lost: usize,
    pub(crate) was_closed: bool,
}

impl Fared {
    /// Of the round trips of pings.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.pings, percent)
    }

    /// Whether it has nothing to complain of.
    pub(crate) fn is_well(&self, p99_max: Duration) -> bool {
        let is_quick = !self.pings.is_empty() && self.percentile(99) < p99_max && self.slowest_connect < 2 * p99_max;
        is_quick && self.lost == 0 && self.sent > 0 && !self.was_closed
    }
}

/// One that lives there.
pub(crate) struct Neighbour {
    end: watch::Sender<bool>,
    pinging: JoinHandle<Option<Vec<Duration>>>,
    talking: JoinHandle<Option<(usize, usize)>>,
    coming: JoinHandle<Option<Duration>>,
}

impl Neighbour {
    pub(crate) async fn move_in(port: u16) -> Self {
        let (end, ends) = watch::channel(false);
        let id = format!("neighbour-{:x}", rand::random::<u64>());
        let pinging = Client::connect(port, Options::v5(&format!("{id}-pings")).keep_alive(5)).await;
        let mut talking = Client::connect(port, Options::v5(&id).keep_alive(5)).await;
        talking.subscribe(&format!("{id}/#"), 2).await;
        Self {
            pinging: tokio::spawn(ping(pinging, ends.clone())),
            talking: tokio::spawn(talk(talking, id.clone(), ends.clone())),
            coming: tokio::spawn(come_and_go(port, id, ends)),
            end,
        }
    }

    /// Ends, and tells how it was. Who has panicked was closed.
    pub(crate) async fn move_out(self) -> Fared {
        self.end.send_replace(true);
        let (pings, talked, slowest) = (self.pinging.await, self.talking.await, self.coming.await);
        let (pings, talked, slowest) = (pings.ok().flatten(), talked.ok().flatten(), slowest.ok().flatten());
        let was_closed = pings.is_none() || talked.is_none() || slowest.is_none();
        let (sent, lost) = talked.unwrap_or_default();
        Fared { pings: pings.unwrap_or_default(), slowest_connect: slowest.unwrap_or(PATIENCE), sent, lost, was_closed }
    }
}

fn is_over(end: &watch::Receiver<bool>) -> bool {
    *end.borrow()
}

/// `None`: it was closed.
async fn ping(mut client: Client, end: watch::Receiver<bool>) -> Option<Vec<Duration>> {
    let mut pings = Vec::new();
    while !is_over(&end) {
        let since = Instant::now();
        client.write(&Packet::PingReq);
        let answer = client.packet(since + PATIENCE).await.ok()?;
        matches!(answer, Packet::PingResp).then_some(())?;
        pings.push(since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Some(pings)
}

/// Messages that were sent, and those that were lost or came twice.
async fn talk(mut client: Client, id: String, end: watch::Receiver<bool>) -> Option<(usize, usize)> {
    let (mut sent, mut came, mut lost) = (0_usize, HashSet::new(), 0);
    while !is_over(&end) {
        let qos = 1 + (sent % 2) as u8;
        let reason = client.publish(msg(&format!("{id}/{sent}"), sent.to_string()).qos(qos)).await;
        if reason.is_error() {
            lost += 1;
        }
        sent += 1;
        tokio::time::sleep(PAUSE).await;
    }
    let until = Instant::now() + PATIENCE;
    while came.len() < sent {
        let publish = client.try_receive(until.saturating_duration_since(Instant::now())).await;
        let Ok(publish) = publish else { break };
        let is_new = came.insert(publish.payload.clone());
        lost += usize::from(!is_new && publish.qos() as u8 == 2);
    }
    client.disconnect(ReasonCode::Success).await;
    Some((sent, lost + sent - came.len()))
}

/// The slowest CONNECT, with a session that lasts.
async fn come_and_go(port: u16, id: String, end: watch::Receiver<bool>) -> Option<Duration> {
    let mut slowest = Duration::ZERO;
    while !is_over(&end) {
        let since = Instant::now();
        let mut options = Options::v5(&format!("{id}-comes"));
        options.connect.properties.session_expiry_interval_s = Some(5);
        let client = Client::try_open(port, options).await.ok()?;
        if client.connack.reason.is_error() {
            return None;
        }
        slowest = slowest.max(since.elapsed());
        client.disconnect(ReasonCode::Success).await;
        tokio::time::sleep(PAUSE).await;
    }
    Some(slowest)
}
