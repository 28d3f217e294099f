//! A client that publishes retained messages and moves while they are under way: `old` is not acknowledged, it goes to
//! another sidecar, sends `old` again with DUP, and then `new`. Each round has a topic of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::harness::{Client, Ended, Message, Options, msg};
use crate::nats::Nats;
use crate::outbox::Outbox;
use crate::random::Random;
use crate::reader;
use crate::stage::{Stage, version};
use crate::trace::Trace;
use crate::witness::count;
use crate::witness::delivery::Fate;

pub(crate) struct Mover {
    line: usize,
    random: Random,
    stage: Stage,
    trace: Trace,
    outbox: Outbox,
    nats: Nats,
    readers: Arc<Semaphore>,
    was_connected: bool,
}

impl Mover {
    pub(crate) fn new(line: usize, random: Random, stage: Stage, nats: Nats, readers: Arc<Semaphore>) -> Self {
        let trace = stage.witness.traces.of(&format!("mover {line}"));
        let outbox = Outbox::new(trace.clone());
        Self { line, random, stage, trace, outbox, nats, readers, was_connected: false }
    }

    pub(crate) async fn run(mut self) {
        let mut round = 0;
        while !self.stage.is_closing() {
            let topic = format!("chaos-retained/{}/{round}", self.line);
            self.round(&topic).await;
            reader::watch(topic, format!("mover {}", self.line), &self.stage, &self.nats, &self.readers);
            round += 1;
        }
    }

    /// The values of a topic: each at a QoS of its own; a deletion may be the last.
    fn values(&mut self, topic: &str) -> Vec<Message> {
        let count = 2 + self.random.below(3);
        let mut values = Vec::new();
        for number in 0..count {
            let is_last = number + 1 == count;
            let payload = if is_last && self.random.one_in(6) { String::new() } else { number.to_string() };
            let qos = if !is_last && number > 0 && self.random.one_in(4) { 0 } else { 1 + self.random.below(2) as u8 };
            values.push(msg(topic, payload).qos(qos).retained());
        }
        values.reverse();
        values
    }

    async fn round(&mut self, topic: &str) {
        // The next one is the last in the list.
        let mut left = self.values(topic);
        let mut is_first = true;
        while !left.is_empty() || !self.outbox.is_empty() {
            let options = Options::new(version(self.line), &format!("mover {}", self.line));
            let Some(mut client) = self.stage.connect(options, &mut self.random, &self.trace).await else { continue };
            if self.was_connected {
                self.stage.witness.returned(&format!("mover {}", self.line), client.connack.session_present);
            }
            self.was_connected = true;
            self.outbox.send_again(&mut client);
            let some = if is_first { 1 } else { left.len() };
            for message in left.split_off(left.len() - some).into_iter().rev() {
                self.send(&mut client, topic, message);
            }
            let patience = match (is_first, self.stage.is_closing()) {
                (true, _) => self.random.ms(0, 400),
                (false, true) => Duration::from_secs(30),
                (false, false) => self.random.ms(200, 8_000),
            };
            is_first = false;
            self.wait(&mut client, topic, patience).await;
            count(&self.stage.witness.counters.moves);
            self.stage.leave(client, &mut self.random, &self.trace).await;
        }
    }

    fn send(&mut self, client: &mut Client, topic: &str, message: Message) {
        let mut retained = self.stage.witness.retained.lock();
        let number = retained.entry(topic.to_owned()).or_default().sent(message.payload.is_empty());
        drop(retained);
        self.outbox.send(client, message, number);
    }

    /// Waits until all is acknowledged, for so long.
    async fn wait(&mut self, client: &mut Client, topic: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        // What is to be sent is sent, however impatient.
        let _ = tokio::time::timeout(Duration::from_secs(1), client.flush()).await;
        while !self.outbox.is_empty() {
            match client.packet(deadline).await {
                Ok(packet) => {
                    if let Some((number, Fate::Acknowledged)) = self.outbox.take(client, &packet)
                        && let Some(retained) = self.stage.witness.retained.lock().get_mut(topic)
                    {
                        retained.acknowledged(number);
                    }
                }
                Err(Ended::Silent) => return self.trace.event("has waited for long enough"),
                Err(Ended::Closed) => return self.trace.event("was closed"),
            }
        }
    }
}
