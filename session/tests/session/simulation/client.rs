//! A client that keeps to the letter of MQTT: repeats on reconnect only, in order and with DUP; remembers packet ids as a
//! receiver of QoS 2 does; never has more unacknowledged publishes than the server takes. It publishes and subscribes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mqtt_codec::{Ack, Delivery, Packet, PacketId, Publish, PublishTopic, QoS, ReasonCode, TopicName, Version};

use super::log::{Letter, Log};
use super::random::Random;
use super::witness::{Got, Outcome, Witness};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Published,
    Released,
}

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    id: PacketId,
    letter: Letter,
    state: State,
    /// A PUBLISH of it left on this connection.
    is_active: bool,
}

/// What a client is, for the whole run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Character {
    pub(crate) version: Version,
    /// Its session outlives its connections.
    pub(crate) is_durable: bool,
    /// Topics below this are subscribed; 0 for none.
    pub(crate) topics: u8,
    /// QoS of its subscription.
    pub(crate) qos: QoS,
    /// It does something once in so many chances.
    pub(crate) laziness: usize,
    /// Publishes that it is going to make.
    pub(crate) publishes: u64,
    /// The packet id that its session used last before the run: packet ids wrap early.
    pub(crate) last_id: Option<PacketId>,
    /// It repeats QoS 2 packets while connected, as devices of 3.1 do on a timer. (Of QoS 1 that would not be safe: a
    /// second PUBACK may come when the packet id is in use again.)
    pub(crate) is_repeating: bool,
}

impl Character {
    /// `is_refusing`: the log may refuse its messages. It does not repeat then, since what is refused may not be the
    /// second time.
    pub(crate) fn drawn(random: &mut Random, is_refusing: bool) -> Self {
        let is_durable = !random.once_in(6);
        Self {
            version: if random.once_in(2) { Version::V5 } else { Version::V311 },
            is_durable,
            topics: if is_durable { random.below(5) as u8 } else { 0 },
            qos: if random.once_in(4) { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
            laziness: 1 + random.below(4),
            publishes: random.below(40) as u64,
            last_id: PacketId::new(65535 - random.below(20) as u16).filter(|_| is_durable && random.once_in(2)),
            is_repeating: !is_refusing && random.once_in(3),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) character: Character,
    /// Epoch of its connection, as the world names it.
    epoch: u64,
    send_maximum: usize,
    receive_maximum: usize,
    number: u64,
    outgoing: VecDeque<Outgoing>,
    /// To be repeated before anything new.
    resends: VecDeque<PacketId>,
    /// QoS 2 packet ids that came and were not released.
    kept: BTreeMap<PacketId, u64>,
    /// PUBLISH came on this connection and is not acknowledged in full.
    outstanding: BTreeMap<PacketId, u64>,
    /// PUBREL came on this connection for the newest use of this id.
    released: BTreeSet<PacketId>,
    answers: VecDeque<Packet>,
}

/// Packet ids a client uses: few, so that each is used again soon.
const IDS: u16 = 9;

impl Client {
    pub(crate) fn new(index: usize, character: Character) -> Self {
        Self {
            index,
            character,
            epoch: 0,
            send_maximum: 0,
            receive_maximum: 0,
            number: 0,
            outgoing: VecDeque::new(),
            resends: VecDeque::new(),
            kept: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            released: BTreeSet::new(),
            answers: VecDeque::new(),
        }
    }

    pub(crate) fn wants(&self, letter: &Letter) -> bool {
        letter.topic < self.character.topics
    }

    /// QoS at which it gets a message [MQTT-3.8.4-8].
    pub(crate) fn qos_of(&self, letter: &Letter) -> QoS {
        letter.qos.min(self.character.qos)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.number == self.character.publishes && self.outgoing.is_empty() && self.answers.is_empty()
    }

    /// A new connection of the session: both sides remember.
    pub(crate) fn connected(&mut self, epoch: u64, send_maximum: u16, receive_maximum: u16) {
        self.epoch = epoch;
        self.send_maximum = usize::from(send_maximum);
        self.receive_maximum = usize::from(receive_maximum);
        self.outstanding.clear();
        self.released.clear();
        self.answers.clear();
        for outgoing in &mut self.outgoing {
            outgoing.is_active = false;
        }
        self.resends = self.outgoing.iter().map(|o| o.id).collect();
    }

    /// The connection is gone; with it the session, unless it is durable.
    pub(crate) fn disconnected(&mut self, witness: &mut Witness) {
        self.answers.clear();
        if !self.character.is_durable {
            for outgoing in self.outgoing.drain(..) {
                witness.ended(outgoing.letter, Outcome::Unknown);
            }
            self.kept.clear();
        }
    }

    /// The next packet it sends as a publisher, if it may.
    pub(crate) fn publish(&mut self, random: &mut Random) -> Option<Packet> {
        if self.character.is_repeating && random.once_in(5) {
            return self.repeat(random);
        }
        let may_publish = self.outgoing.iter().filter(|o| o.is_active).count() < self.send_maximum;
        if let Some(id) = self.resends.front().copied() {
            let outgoing = self.outgoing.iter_mut().find(|o| o.id == id)?;
            if outgoing.state == State::Published && !may_publish {
                return None;
            }
            self.resends.pop_front();
            if outgoing.state == State::Released {
                return Some(Packet::PubRel(Ack::new(id, ReasonCode::Success)));
            }
            outgoing.is_active = true;
            return Some(Packet::Publish(publish(id, outgoing.letter, true)));
        }
        if !may_publish || self.number == self.character.publishes {
            return None;
        }
        let id = (1..=IDS).filter_map(PacketId::new).find(|id| self.outgoing.iter().all(|o| o.id != *id))?;
        let qos = if random.once_in(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let topic = random.below(4) as u8;
        let letter = Letter { publisher: self.index, number: self.number, topic, qos };
        self.number += 1;
        self.outgoing.push_back(Outgoing { id, letter, state: State::Published, is_active: true });
        Some(Packet::Publish(publish(id, letter, false)))
    }

    /// A QoS 2 packet that it has sent already on this connection.
    fn repeat(&self, random: &mut Random) -> Option<Packet> {
        let waits =
            |o: &Outgoing| self.answers.iter().any(|answer| matches!(answer, Packet::PubRel(a) if a.packet_id == o.id));
        let sent = |o: &&Outgoing| o.letter.qos == QoS::ExactlyOnce && o.is_active && !waits(o);
        let all: Vec<&Outgoing> = self.outgoing.iter().filter(sent).collect();
        let outgoing = all.get(random.below(all.len().max(1)))?;
        Some(match outgoing.state {
            State::Published => Packet::Publish(publish(outgoing.id, outgoing.letter, true)),
            State::Released => Packet::PubRel(Ack::new(outgoing.id, ReasonCode::Success)),
        })
    }

    /// Whether an acknowledgement says no, as far as this client can read it.
    fn says_no(&self, ack: &Ack) -> bool {
        self.character.version.is_v5() && ack.reason.is_error()
    }

    /// The next acknowledgement it sends, if one is due.
    pub(crate) fn answer(&mut self) -> Option<Packet> {
        let answer = self.answers.pop_front()?;
        match &answer {
            Packet::PubAck(a) | Packet::PubComp(a) => {
                self.outstanding.remove(&a.packet_id);
            }
            Packet::PubRec(a) if a.reason.is_error() => {
                self.outstanding.remove(&a.packet_id);
            }
            _ => {}
        }
        Some(answer)
    }

    /// A packet of the server came.
    pub(crate) fn receive(&mut self, packet: &Packet, log: &Log, random: &mut Random, witness: &mut Witness) {
        match packet {
            Packet::Publish(publish) => self.get(publish, log, random, witness),
            Packet::PubRel(a) => {
                assert!(self.released.insert(a.packet_id), "client {}: PUBREL {} twice", self.index, a.packet_id);
                self.kept.remove(&a.packet_id);
                self.answers.push_back(Packet::PubComp(Ack::new(a.packet_id, ReasonCode::Success)));
            }
            Packet::PubAck(a) => self.ended(a, QoS::AtLeastOnce, State::Published, witness),
            Packet::PubComp(a) => self.ended(a, QoS::ExactlyOnce, State::Released, witness),
            Packet::PubRec(a) if self.says_no(a) => self.ended(a, QoS::ExactlyOnce, State::Published, witness),
            Packet::PubRec(a) => self.received(a),
            other => panic!("client {}: unexpected {other:?}", self.index),
        }
    }

    fn received(&mut self, ack: &Ack) {
        let is_it = |o: &&mut Outgoing| o.id == ack.packet_id && o.is_active && o.letter.qos == QoS::ExactlyOnce;
        match self.outgoing.iter_mut().find(is_it) {
            Some(outgoing) if outgoing.state == State::Published => {
                outgoing.state = State::Released;
                self.answers.push_back(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => assert!(self.character.is_repeating, "client {}: PUBREC for nothing: {ack:?}", self.index),
        }
    }

    fn ended(&mut self, ack: &Ack, qos: QoS, state: State, witness: &mut Witness) {
        let is_it = |o: &Outgoing| {
            o.id == ack.packet_id
                && o.letter.qos == qos
                && o.state == state
                && (o.is_active || state == State::Released)
        };
        let Some(at) = self.outgoing.iter().position(is_it) else {
            let is_answer_again = self.character.is_repeating && state == State::Released;
            assert!(is_answer_again, "client {}: an acknowledgement of nothing: {ack:?}", self.index);
            return;
        };
        let outgoing = self.outgoing.remove(at).unwrap();
        // A server that does not know the id any more has forgotten a release whose PUBCOMP was lost.
        let is_refused = self.says_no(ack) && state == State::Published;
        witness.ended(outgoing.letter, if is_refused { Outcome::Refused } else { Outcome::Acknowledged });
    }

    fn get(&mut self, publish: &Publish, log: &Log, random: &mut Random, witness: &mut Witness) {
        let sequence = u64::from_be_bytes(publish.payload[..].try_into().unwrap());
        let letter = log.ever(sequence).expect("only what is in the log is sent").letter;
        let (client, qos) = (self.index, publish.qos());
        let got = Got { client, epoch: self.epoch, sequence, qos, dup: publish.dup };
        let id = publish.packet_id().expect("QoS 0 is not in the log");
        assert!(self.wants(&letter), "nobody asked for {got:?}");
        assert_eq!(qos, self.qos_of(&letter), "{got:?}");
        witness.sees(got);
        self.released.remove(&id);
        // [MQTT-2.2.1-4], [MQTT-3.3.4-9]
        let before = self.outstanding.insert(id, sequence);
        assert_eq!(before, None, "packet id {id} is in flight twice: {got:?}");
        assert!(self.outstanding.len() <= self.receive_maximum, "more in flight than asked for: {got:?}");
        let mut reason = ReasonCode::Success;
        match self.kept.get(&id) {
            Some(known) if qos == QoS::ExactlyOnce => {
                assert_eq!(*known, sequence, "packet id {id} is used again before PUBREL: {got:?}");
                assert!(got.dup, "{got:?}");
            }
            _ if qos == QoS::ExactlyOnce && self.character.version == Version::V5 && random.once_in(30) => {
                reason = ReasonCode::QuotaExceeded;
                witness.refuses(client, sequence);
            }
            _ => {
                witness.takes(got, letter);
                if qos == QoS::ExactlyOnce {
                    self.kept.insert(id, sequence);
                }
            }
        }
        let ack = Ack::new(id, reason);
        self.answers.push_back(if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) });
    }
}

/// A PUBLISH that carries its letter in topic and payload.
fn publish(id: PacketId, letter: Letter, dup: bool) -> Publish {
    let text = format!("{}.{}", letter.publisher, letter.number);
    Publish {
        dup,
        delivery: Delivery::new(letter.qos, Some(id)).unwrap(),
        retain: false,
        topic: PublishTopic::Name(TopicName::new(format!("t/{}", letter.topic)).unwrap()),
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(text),
    }
}

/// The letter of a publication.
pub(crate) fn letter(publication: &mqtt_session::Publication) -> Letter {
    let text = std::str::from_utf8(&publication.payload).unwrap();
    let (publisher, number) = text.split_once('.').unwrap();
    Letter {
        publisher: publisher.parse().unwrap(),
        number: number.parse().unwrap(),
        topic: publication.topic.as_str().strip_prefix("t/").unwrap().parse().unwrap(),
        qos: publication.qos,
    }
}

/// A PUBLISH to a client that carries the sequence of its message.
pub(crate) fn delivery(qos: QoS, id: PacketId, sequence: u64, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        delivery: Delivery::new(qos, Some(id)).unwrap(),
        retain: false,
        topic: PublishTopic::Name(TopicName::new("t".to_owned()).unwrap()),
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(&sequence.to_be_bytes()),
    })
}
