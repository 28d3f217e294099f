//! A durable publisher. What is not acknowledged in full it sends again on its next connection, wherever that is.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt_codec::{Ack, Disconnect, Packet, PacketId, Publish, ReasonCode};
use tokio::time::Instant;

use crate::Stage;
use crate::checker::Fate;
use crate::harness::{Client, Ended, Options, msg};
use crate::random::Random;

/// Messages that are not acknowledged in full.
const WINDOW: usize = 16;
/// Topics of each publisher.
const TOPICS: usize = 3;

struct InFlight {
    id: PacketId,
    number: usize,
    is_released: bool,
}

pub(crate) struct Publisher {
    n: usize,
    qos: u8,
    interval: Duration,
    random: Random,
    stage: Stage,
    in_flight: VecDeque<InFlight>,
    next_id: u16,
    was_connected: bool,
}

impl Publisher {
    pub(crate) fn new(n: usize, qos: u8, rate: u32, random: Random, stage: Stage) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { n, qos, interval, random, stage, in_flight: VecDeque::new(), next_id: 0, was_connected: false }
    }

    pub(crate) async fn run(mut self) {
        while !self.is_done() {
            let options = Options::v5(&format!("publisher {}", self.n));
            let Some(mut client) = connect(options, &mut self.random, &self.stage).await else { continue };
            if self.was_connected && !client.connack.session_present {
                self.stage.checker.mistake("session lost", format!("publisher {}", self.n));
            }
            self.was_connected = true;
            self.publish(&mut client).await;
            leave(client, &mut self.random).await;
        }
    }

    fn is_done(&self) -> bool {
        *self.stage.closing.borrow() && self.in_flight.is_empty()
    }

    /// Publishes for a while.
    async fn publish(&mut self, client: &mut Client) {
        for m in &self.in_flight {
            client.write(&if m.is_released { pubrel(m.id) } else { self.packet(m, true) });
        }
        let end = Instant::now() + self.random.ms(200, 6_000);
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if self.is_done() || (now >= end && !*self.stage.closing.borrow()) {
                return;
            }
            let is_full = self.in_flight.len() >= WINDOW || *self.stage.closing.borrow();
            if now >= next && !is_full {
                next = now + self.interval;
                let id = self.free_id();
                let number = self.stage.checker.sent(self.n);
                let m = InFlight { id, number, is_released: false };
                client.write(&self.packet(&m, false));
                self.in_flight.push_back(m);
            }
            let until = if is_full { now + Duration::from_millis(20) } else { next };
            match client.packet(until).await {
                Ok(packet) => self.acknowledged(client, packet),
                Err(Ended::Silent) => {}
                Err(Ended::Closed) => return,
            }
        }
    }

    fn packet(&self, m: &InFlight, dup: bool) -> Packet {
        let topic = format!("chaos/{}/{}", self.n, m.number % TOPICS);
        let message = msg(&topic, m.number.to_string()).qos(self.qos);
        Packet::Publish(Publish { dup, ..message.packet(Some(m.id)) })
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if let Some(id) = PacketId::new(self.next_id)
                && self.in_flight.iter().all(|m| m.id != id)
            {
                return id;
            }
        }
    }

    fn acknowledged(&mut self, client: &mut Client, packet: Packet) {
        let (id, is_over, reason) = match &packet {
            Packet::PubAck(ack) => (ack.packet_id, true, ack.reason),
            Packet::PubRec(ack) => (ack.packet_id, ack.reason.is_error(), ack.reason),
            Packet::PubComp(ack) => (ack.packet_id, true, ReasonCode::Success),
            _ => return,
        };
        let Some(index) = self.in_flight.iter().position(|m| m.id == id) else { return };
        let fate = if reason.is_error() { Fate::Refused } else { Fate::Acknowledged };
        self.stage.checker.settled(self.n, self.in_flight[index].number, fate);
        if is_over {
            self.in_flight.remove(index);
        } else {
            self.in_flight[index].is_released = true;
            client.write(&pubrel(id));
        }
    }
}

fn pubrel(id: PacketId) -> Packet {
    Packet::PubRel(Ack::new(id, ReasonCode::Success))
}

/// Connects to one of the sidecars, with a session that goes on.
pub(crate) async fn connect(mut options: Options, random: &mut Random, stage: &Stage) -> Option<Client> {
    options.connect.clean_start = false;
    options.connect.properties.session_expiry_interval_s = Some(3_600);
    let port = stage.ports[random.below(2)];
    match Client::try_open(port, options).await {
        Ok(client) if client.connack.reason == ReasonCode::Success => {
            stage.checker.connects.fetch_add(1, Ordering::Relaxed);
            return Some(client);
        }
        Ok(_) => _ = stage.checker.refused_connects.fetch_add(1, Ordering::Relaxed),
        Err(_) => {}
    }
    tokio::time::sleep(random.ms(20, 200)).await;
    None
}

/// Ends a connection in one of the ways in which connections end.
pub(crate) async fn leave(mut client: Client, random: &mut Random) {
    match random.below(4) {
        0 => client.reset(),
        1 => drop(client),
        // The next connection takes this one over.
        2 => _ = tokio::spawn(async move { client.closed_within(Duration::from_secs(5)).await }),
        _ => {
            let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
            let reason = ReasonCode::Success;
            client.write(&Packet::Disconnect(Disconnect {
                reason,
                session_expiry_interval_s,
                server_reference,
                properties,
            }));
            client.closed_within(Duration::from_secs(1)).await;
        }
    }
}

impl Client {
    /// Waits until the server closes; whether it did. What comes meanwhile is not acknowledged.
    pub(crate) async fn closed_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.packet(deadline).await {
                Ok(_) => {}
                Err(ended) => return ended == Ended::Closed,
            }
        }
    }
}
