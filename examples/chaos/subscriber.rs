//! A durable subscriber. It is a receiver as the specification has it: what comes at QoS 2 counts when its packet id is
//! new, and is forgotten with PUBREL. It subscribes again when it comes back, as most libraries do, and stays away at times.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use mqtt_codec::{
    Ack, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, SubscribeEntry, SubscriptionOptions, TopicFilter,
};
use tokio::time::Instant;

use crate::harness::{Client, Ended, Options, shown};
use crate::random::Random;
use crate::stage::{Stage, version};
use crate::trace::Trace;
use crate::witness::count;
use crate::witness::delivery::Arrival;

/// How long a subscriber waits for SUBACK at the start.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Subscriber {
    n: usize,
    qos: u8,
    random: Random,
    stage: Stage,
    trace: Trace,
    /// Received at QoS 2 and not released.
    open: HashSet<PacketId>,
    /// Its session was lost, and the new one is not known to have its subscriptions.
    is_anew: bool,
}

/// A SUBSCRIBE to these filters.
pub(crate) fn subscribe(packet_id: PacketId, filters: &[(&str, u8)]) -> Packet {
    let entry = |(filter, qos): &(&str, u8)| {
        let qos = QoS::try_from(*qos).expect("a QoS");
        let options = SubscriptionOptions { qos, ..Default::default() };
        SubscribeEntry { filter: Ok(TopicFilter::new(*filter).expect("a filter")), options }
    };
    let subscription_id: Option<NonZeroU32> = None;
    let entries = filters.iter().map(entry).collect();
    Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties: Vec::new(), entries })
}

impl Subscriber {
    /// Connects and subscribes, while nothing happens yet.
    pub(crate) async fn start(n: usize, qos: u8, random: Random, stage: Stage) -> Self {
        let number = stage.witness.deliveries.lock().add_subscriber(qos);
        debug_assert_eq!(number, n);
        let trace = stage.witness.traces.of(&format!("subscriber {n}"));
        let mut subscriber = Self { n, qos, random, stage, trace, open: HashSet::new(), is_anew: false };
        while !subscriber.is_subscribed().await {}
        subscriber
    }

    async fn is_subscribed(&mut self) -> bool {
        let Some(mut client) = self.connect().await else { return false };
        self.subscribe(&mut client);
        let deadline = Instant::now() + PATIENCE;
        let has_all = loop {
            match client.packet(deadline).await {
                Ok(Packet::SubAck(suback)) => break suback.reasons.iter().all(|reason| !reason.is_error()),
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        self.stage.leave(client, &mut self.random, &self.trace).await;
        has_all
    }

    async fn connect(&mut self) -> Option<Client> {
        let options = Options::new(version(self.n), &format!("subscriber {}", self.n));
        self.stage.connect(options, &mut self.random, &self.trace).await
    }

    fn subscribe(&mut self, client: &mut Client) {
        self.trace.event("subscribes");
        let id = client.packet_id();
        client.write(&subscribe(id, &[("chaos/#", self.qos), ("chaos-will/#", 2)]));
    }

    pub(crate) async fn run(mut self) {
        while !*self.stage.over.borrow() {
            let Some(mut client) = self.connect().await else { continue };
            self.stage.witness.returned(&format!("subscriber {}", self.n), client.connack.session_present);
            self.stage.witness.deliveries.lock().connected(self.n);
            if !client.connack.session_present {
                self.open.clear();
                self.is_anew = true;
            }
            // Else nothing more would come of it, and one mistake would be many.
            if self.is_anew || self.random.one_in(2) {
                self.subscribe(&mut client);
            }
            self.receive(&mut client).await;
            self.stage.leave(client, &mut self.random, &self.trace).await;
            if self.random.one_in(5) && !self.stage.is_closing() {
                let long = if self.random.one_in(5) { 40_000 } else { 5_000 };
                tokio::time::sleep(self.random.ms(500, long)).await;
            }
        }
    }

    /// Receives for a while.
    async fn receive(&mut self, client: &mut Client) {
        let end = Instant::now() + self.random.ms(200, 8_000);
        let is_slow = self.random.one_in(4);
        loop {
            let now = Instant::now();
            if *self.stage.over.borrow() || (now >= end && !self.stage.is_closing()) {
                return;
            }
            match client.packet(now + Duration::from_millis(100)).await {
                Ok(packet) => self.take(client, packet),
                Err(Ended::Silent) => {}
                Err(Ended::Closed) => return self.trace.event("was closed"),
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
                    count(&self.stage.witness.counters.dups);
                }
                let Some(id) = publish.packet_id() else { return };
                self.trace.packet(format!("got #{} {}", id.get(), shown(&publish)));
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
                self.trace.packet(format!("got pubrel #{}", ack.packet_id.get()));
                self.open.remove(&ack.packet_id);
                client.write(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Disconnect(disconnect) => self.trace.event(format!("got DISCONNECT {:?}", disconnect.reason)),
            Packet::SubAck(suback) => {
                self.trace.event(format!("got SUBACK {:?}", suback.reasons));
                if std::mem::take(&mut self.is_anew) {
                    self.stage.witness.deliveries.lock().begin_anew(self.n);
                }
            }
            _ => {}
        }
    }

    fn got(&self, publish: &Publish) {
        let topic = publish.topic_name().expect("no alias was allowed").as_str();
        let number = std::str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok()).expect("a number");
        let mut levels = topic.split('/');
        let is_retained = publish.retain;
        let witness = &self.stage.witness;
        match (levels.next(), levels.next().and_then(|n| n.parse().ok()), levels.next().and_then(|n| n.parse().ok())) {
            (Some("chaos"), Some(publisher), Some(topic)) => {
                witness.got(self.n, Arrival { publisher, topic, number, is_retained });
            }
            // A retained will comes again with each SUBSCRIBE.
            (Some("chaos-will"), Some(_), _) if is_retained => witness.got_will_state(self.n, number),
            (Some("chaos-will"), Some(_), _) => witness.got_will(self.n, number, publish.qos() as u8),
            _ => panic!("{topic}"),
        }
    }
}
