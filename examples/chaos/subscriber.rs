//! A durable subscriber. It is a receiver as the specification has it: what comes at QoS 2 counts when its packet id is
//! new, and is forgotten with PUBREL.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt_codec::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};
use tokio::time::Instant;

use crate::Stage;
use crate::harness::{Client, Ended, Options};
use crate::publisher::{connect, leave};
use crate::random::Random;

pub(crate) struct Subscriber {
    n: usize,
    random: Random,
    stage: Stage,
    /// Received at QoS 2 and not released.
    open: HashSet<PacketId>,
}

impl Subscriber {
    /// Connects and subscribes, while nothing is killed yet.
    pub(crate) async fn start(n: usize, qos: u8, mut random: Random, stage: Stage) -> Self {
        stage.checker.subscriber(qos);
        let mut client = loop {
            if let Some(client) = connect(options(n), &mut random, &stage).await {
                break client;
            }
        };
        client.subscribe("chaos/#", qos).await;
        client.subscribe("chaos-will/#", 2).await;
        leave(client, &mut random).await;
        Self { n, random, stage, open: HashSet::new() }
    }

    pub(crate) async fn run(mut self) {
        while !*self.stage.over.borrow() {
            let Some(mut client) = connect(options(self.n), &mut self.random, &self.stage).await else { continue };
            if !client.connack.session_present {
                self.stage.checker.mistake("session lost", format!("subscriber {}", self.n));
                self.open.clear();
            }
            self.receive(&mut client).await;
            leave(client, &mut self.random).await;
            // Sometimes it stays away for a while.
            if self.random.one_in(5) && !*self.stage.closing.borrow() {
                tokio::time::sleep(self.random.ms(500, 5_000)).await;
            }
        }
    }

    /// Receives for a while.
    async fn receive(&mut self, client: &mut Client) {
        let end = Instant::now() + self.random.ms(200, 6_000);
        let is_slow = self.random.one_in(4);
        loop {
            let now = Instant::now();
            if *self.stage.over.borrow() || (now >= end && !*self.stage.closing.borrow()) {
                return;
            }
            match client.packet(now + Duration::from_millis(100)).await {
                Ok(packet) => self.take(client, packet),
                Err(Ended::Silent) => {}
                Err(Ended::Closed) => return,
            }
            if is_slow && self.random.one_in(20) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn take(&mut self, client: &mut Client, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                if publish.dup {
                    self.stage.checker.repeated.fetch_add(1, Ordering::Relaxed);
                }
                let Some(id) = publish.packet_id() else { return };
                let ack = Ack::new(id, ReasonCode::Success);
                if publish.qos() == QoS::AtLeastOnce {
                    self.got(&publish);
                    client.write(&Packet::PubAck(ack));
                } else {
                    if self.open.insert(id) {
                        self.got(&publish);
                    }
                    client.write(&Packet::PubRec(ack));
                }
            }
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id);
                client.write(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => {}
        }
    }

    fn got(&self, publish: &Publish) {
        let topic = publish.topic_name().expect("no alias was allowed").as_str();
        let number = std::str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok()).expect("a number");
        let mut levels = topic.split('/');
        match (levels.next(), levels.next().and_then(|n| n.parse().ok()), levels.next().and_then(|n| n.parse().ok())) {
            (Some("chaos"), Some(publisher), Some(topic)) => self.stage.checker.got(self.n, publisher, topic, number),
            (Some("chaos-will"), Some(_), _) => self.stage.checker.got_will(self.n, number, publish.qos() as u8),
            _ => panic!("{topic}"),
        }
    }
}

fn options(n: usize) -> Options {
    Options::v5(&format!("subscriber {n}"))
}
