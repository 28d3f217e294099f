//! A durable publisher. What is not acknowledged in full it sends again on its next connection, wherever that is. It does
//! not wait for long at times, and sends in bursts at others.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Ended, Options, msg};
use crate::outbox::Outbox;
use crate::random::Random;
use crate::stage::{Stage, version};
use crate::trace::Trace;

/// Topics of each publisher. The last one is retained.
const TOPICS: usize = 3;

/// The topic of a message by its number.
pub(crate) fn topic_of(number: usize) -> usize {
    number % TOPICS
}

pub(crate) struct Publisher {
    n: usize,
    qos: u8,
    rate: u32,
    random: Random,
    stage: Stage,
    trace: Trace,
    outbox: Outbox,
    was_connected: bool,
}

/// How it publishes on one connection.
struct Manner {
    /// Messages that are sent at once.
    burst: usize,
    /// From one burst to the next.
    interval: Duration,
    /// Messages that are not acknowledged in full.
    window: usize,
    /// How long it waits for an acknowledgement.
    patience: Duration,
    end: Instant,
}

impl Publisher {
    pub(crate) fn new(n: usize, qos: u8, rate: u32, random: Random, stage: Stage) -> Self {
        let number = stage.witness.deliveries.lock().add_publisher(qos);
        debug_assert_eq!(number, n);
        let trace = stage.witness.traces.of(&format!("publisher {n}"));
        let outbox = Outbox::new(trace.clone());
        Self { n, qos, rate: rate.max(1), random, stage, trace, outbox, was_connected: false }
    }

    pub(crate) async fn run(mut self) {
        while !self.is_done() {
            let options = Options::new(version(self.n), &format!("publisher {}", self.n));
            let Some(mut client) = self.stage.connect(options, &mut self.random, &self.trace).await else { continue };
            if self.was_connected {
                self.stage.witness.returned(&format!("publisher {}", self.n), client.connack.session_present);
            }
            self.was_connected = true;
            self.publish(&mut client).await;
            self.stage.leave(client, &mut self.random, &self.trace).await;
        }
    }

    fn is_done(&self) -> bool {
        self.stage.is_closing() && self.outbox.is_empty()
    }

    fn manner(&mut self) -> Manner {
        let random = &mut self.random;
        let burst = [1, 1, 20, 60][random.below(4)];
        let window = [1, 16, 64][random.below(3)].max(burst);
        let interval = Duration::from_secs(1) * burst as u32 / self.rate;
        let patience = if random.one_in(2) { random.ms(300, 3_000) } else { Duration::from_secs(30) };
        let end = Instant::now() + random.ms(200, 8_000);
        Manner { burst, interval, window, patience, end }
    }

    /// Publishes for a while.
    async fn publish(&mut self, client: &mut Client) {
        let Manner { burst, interval, window, patience, end } = self.manner();
        self.outbox.send_again(client);
        let (mut next, mut heard) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            let is_closing = self.stage.is_closing();
            if self.is_done() || (now >= end && !is_closing) {
                return;
            }
            if self.outbox.is_empty() {
                heard = now;
            } else if now >= heard + patience.max(if is_closing { Duration::from_secs(30) } else { Duration::ZERO }) {
                return self.trace.event("has waited for long enough");
            }
            if now >= next && !is_closing {
                next = now + interval;
                (0..burst).for_each(|_| self.send(client, window));
            }
            match client.packet(next.min(now + Duration::from_millis(50))).await {
                Ok(packet) => {
                    if let Some((number, fate)) = self.outbox.take(client, &packet) {
                        heard = Instant::now();
                        self.stage.witness.settled(self.n, number, fate);
                    }
                }
                Err(Ended::Silent) => {}
                Err(Ended::Closed) => return self.trace.event("was closed"),
            }
        }
    }

    fn send(&mut self, client: &mut Client, window: usize) {
        if self.outbox.len() >= window {
            return;
        }
        let number = self.stage.witness.deliveries.lock().sent(self.n);
        let topic = topic_of(number);
        let message = msg(&format!("chaos/{}/{topic}", self.n), number.to_string()).qos(self.qos);
        let message = if topic == TOPICS - 1 { message.retained() } else { message };
        self.outbox.send(client, message, number);
    }
}
