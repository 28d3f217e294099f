//! The connected session: one function per packet the client may send. What only a server sends, and what violates
//! the protocol, ends the connection with the reason code of the specification.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{
    Auth, Delivery, Disconnect, MessageProperties, Packet, PacketId, Publish, PublishTopic, QoS, ReasonCode, SubAck,
    Subscribe, SubscribeEntry, TopicFilter, TopicName, Unsubscribe,
};

use crate::inbound::{Arrival, Inbound, Once, Released, Token};
use crate::outbound::{Outbound, Resend};
use crate::position::is_shared;
use crate::progress::{Durability, Progress, Save};
use crate::{Parameters, Time};

/// Something that happened.
#[derive(Debug)]
pub enum Input<M> {
    /// The client sent a packet.
    Packet(Packet),
    /// A [`Publication`] with this token was stored (`Ok` with the reason code to acknowledge with), or was not and never
    /// will be (`Err`). Where nobody knows, an `Err` whose reason PUBACK cannot carry ends the connection, so that the
    /// client publishes again and a QoS 2 message is looked for.
    Stored(Token, Result<ReasonCode, ReasonCode>),
    /// A [`SubscribeRequest`] was carried out: a reason code an entry, in order.
    Subscribed(PacketId, Vec<ReasonCode>),
    /// An [`UnsubscribeRequest`] was carried out.
    Unsubscribed(PacketId, Vec<ReasonCode>),
    /// A QoS 1 or 2 message, with its log sequence, is to be delivered. Only while [`Session::window_room`] is above
    /// zero.
    Deliver(QoS, u64, M),
    /// The message with this packet id, of an [`Output::Transmit`] or a [`Resend::Publish`], is not sent: it is lost, or the
    /// client cannot take it. That counts as delivered [MQTT-3.1.2-25].
    Unsendable(PacketId),
    /// The progress was saved up to and with this version; see [`Session::progress`].
    Saved(u64),
    /// Time went by; see [`Session::deadline`].
    Time,
}

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<M> {
    /// Send this packet.
    Send(Packet),
    /// Publish for the client.
    Publish(Publication),
    /// Send the message in a PUBLISH with this QoS and packet id.
    Transmit(QoS, PacketId, M),
    /// The client has acknowledged this QoS 1 message of a shared subscription: nobody else is to get it. One at QoS 2 is
    /// this session's from the moment of its [`Output::Transmit`].
    Settled(PacketId),
    /// Subscribe, then tell [`Input::Subscribed`].
    Subscribe(SubscribeRequest),
    /// Unsubscribe, then tell [`Input::Unsubscribed`].
    Unsubscribe(UnsubscribeRequest),
    /// End the connection. Nothing follows.
    Close(Close),
}

/// A message of the client on its way to its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Names it for [`Input::Stored`]; `None` at QoS 0, where nobody waits.
    pub token: Option<Token>,
    /// At QoS 2: how it is kept from being stored twice.
    pub once: Option<Once>,
    /// Topic name, aliases resolved.
    pub topic: TopicName,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Payload.
    pub payload: Bytes,
    /// Message properties.
    pub properties: Option<Box<MessageProperties>>,
}

/// A SUBSCRIBE to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// Answer with this packet id.
    pub packet_id: PacketId,
    /// Subscription Identifier of all entries.
    pub subscription_id: Option<NonZeroU32>,
    /// The entries, in order.
    pub entries: Vec<SubscribeEntry>,
}

/// An UNSUBSCRIBE to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubscribeRequest {
    /// Answer with this packet id.
    pub packet_id: PacketId,
    /// The filters, in order; `Err` is text that is no filter.
    pub filters: Vec<Result<TopicFilter, ByteString>>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client said DISCONNECT. `with_will`: publish the will all the same (reason 0x04).
    ByClient {
        /// Whether the will is published.
        with_will: bool,
    },
    /// We end it: DISCONNECT with this reason in MQTT 5, a closed connection in 3.x. The will is published.
    ByServer(ReasonCode),
}

/// An output that waits until the progress it depends on is saved.
#[derive(Debug)]
struct Held<M> {
    needs: u64,
    output: Output<M>,
}

/// How many publishes wait, by topic: what the client publishes there later waits behind them.
///
/// Only a session that lasts holds publishes, those at QoS 2, each until one save of its progress; so this costs those
/// who publish at one QoS, or whose session ends with its connection, nothing but a look whether it is empty.
#[derive(Debug, Default)]
struct HeldPublishes {
    of_topics: HashMap<TopicName, usize>,
    all: usize,
}

impl HeldPublishes {
    fn begin(&mut self, topic: &TopicName) {
        *self.of_topics.entry(topic.clone()).or_default() += 1;
        self.all += 1;
    }

    fn end(&mut self, topic: &TopicName) {
        self.all -= 1;
        if let Some(count) = self.of_topics.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                self.of_topics.remove(topic);
            }
        }
    }

    fn has(&self, topic: &TopicName) -> bool {
        !self.of_topics.is_empty() && self.of_topics.contains_key(topic)
    }
}

/// One connected client.
#[derive(Debug)]
pub struct Session<M> {
    parameters: Parameters,
    durability: Durability,
    inbound: Inbound,
    outbound: Outbound,
    held: VecDeque<Held<M>>,
    held_publishes: HeldPublishes,
    /// Acknowledgements among what is held.
    held_answers: usize,
    log_sequence: u64,
    aliases: HashMap<NonZeroU16, TopicName>,
    last_heard: Time,
    is_closed: bool,
}

impl<M> Session<M> {
    /// A session whose CONNECT was accepted at `now`, and which goes on from `progress`, which is saved: progress that
    /// another sidecar handed over has to be saved before, since what it says is acted upon at once. `epoch` is higher
    /// than that of any connection before.
    #[must_use]
    pub fn new(now: Time, parameters: Parameters, epoch: u64, progress: &Progress) -> Self {
        Self {
            durability: Durability::new(parameters.session_expiry_s > 0),
            inbound: Inbound::resume(epoch, &progress.received),
            outbound: Outbound::resume(parameters.window, progress.cursors.clone(), &progress.in_flight),
            parameters,
            held: VecDeque::new(),
            held_publishes: HeldPublishes::default(),
            held_answers: 0,
            log_sequence: 0,
            aliases: HashMap::new(),
            last_heard: now,
            is_closed: false,
        }
    }

    /// What the client publishes at QoS 2 from now on is called in the log what this secret makes of it; see
    /// [`MessageId::key`](crate::MessageId).
    pub const fn name_with(&mut self, key: u32) {
        self.inbound.key = key;
    }

    /// What was agreed at CONNECT.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whether another packet of the client may be read now: false while as many of its publishes wait to be stored, or
    /// for the progress to be saved, as it may have unacknowledged, or as many acknowledgements wait for that.
    #[must_use]
    pub fn takes_packets(&self) -> bool {
        let maximum = usize::from(self.parameters.receive_maximum);
        // No more packet ids can be in use; PUBREL, which is four bytes, has no other limit.
        let answers = maximum + usize::from(self.parameters.window);
        // QoS 0 behind QoS 2 on its topic has no other limit.
        self.inbound.storing() < maximum && self.held_publishes.all < maximum && self.held_answers <= answers
    }

    /// Whether a publish of the client waits to be stored, or to be acknowledged behind one that does.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.inbound.storing() > 0
    }

    /// Whether an acknowledgement will be sent as soon as something is stored or saved.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.inbound.storing() > 0 || !self.held.is_empty()
    }

    /// How many QoS 1 and 2 messages the client takes now.
    #[must_use]
    pub fn window_room(&self) -> usize {
        self.outbound.room()
    }

    /// What of the last connection is to be repeated next, as far as the window goes; before that nothing new is
    /// delivered. PUBLISH is repeated with DUP [MQTT-3.3.1-1] and its old packet id [MQTT-4.4.0-1].
    pub fn next_resend(&mut self) -> Option<Resend> {
        self.outbound.next_resend()
    }

    /// The connection is over, and what waited for the progress to be saved does not happen. What shared subscriptions have
    /// given goes to other members: what was sent at QoS 1, and what was not sent yet. What was sent at QoS 2 stays and is
    /// finished with this session [MQTT-4.8.2-4]. Returns those at QoS 2 that were not sent: what is saved may say that they
    /// are the session's, until the progress is saved once more.
    pub fn leave(&mut self) -> Vec<M> {
        let mut withdrawn = Vec::new();
        (self.held_publishes, self.held_answers) = (HeldPublishes::default(), 0);
        for held in std::mem::take(&mut self.held) {
            match held.output {
                Output::Transmit(_, packet_id, message) if self.outbound.withdraw(packet_id, &mut self.durability) => {
                    withdrawn.push(message);
                }
                Output::Publish(Publication { token: Some(token), .. }) => self.not_published(token),
                _ => {}
            }
        }
        self.is_closed = true;
        withdrawn
    }

    /// Messages at QoS 2 that have a packet id and wait until that is saved.
    pub fn held(&self) -> impl Iterator<Item = (PacketId, &M)> {
        self.held.iter().filter_map(|held| match &held.output {
            Output::Transmit(_, packet_id, message) => Some((*packet_id, message)),
            _ => None,
        })
    }

    /// Nothing of a [`Publication`] with this token went anywhere, and nothing will: should the client repeat it on another
    /// connection, it is new. What this connection answers is to be told all the same.
    pub fn not_published(&mut self, token: Token) {
        self.inbound.not_published(token, &mut self.durability);
    }

    /// What is saved of the progress is to be saved again, when there is time.
    pub fn save_again(&mut self) {
        self.durability.change();
    }

    /// The log stands at this sequence: what is published from now on is above.
    pub fn log_stands_at(&mut self, sequence: u64) {
        self.log_sequence = self.log_sequence.max(sequence);
    }

    /// Nothing up to this place in its log is owed beyond what was delivered.
    pub fn has_read_up_to(&mut self, position: u64) {
        self.outbound.cursors.raise(position);
    }

    /// The progress to save, and its version for [`Input::Saved`].
    #[must_use]
    pub fn progress(&self) -> (u64, Progress) {
        let progress = Progress {
            cursors: self.outbound.cursors.clone(),
            in_flight: self.outbound.states(),
            received: self.inbound.states(),
        };
        (self.durability.version(), progress)
    }

    /// How soon the progress has to be saved.
    #[must_use]
    pub fn save(&self) -> Save {
        if !self.held.is_empty() {
            Save::Now
        } else if self.durability.unsaved() > 0 {
            Save::Lazily
        } else {
            Save::No
        }
    }

    /// Changes of the progress that are not saved.
    #[must_use]
    pub const fn unsaved(&self) -> u64 {
        self.durability.unsaved()
    }

    /// Whether the session outlives its connection.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        self.durability.is_durable()
    }

    /// How many acknowledgements named a packet id that was not in flight.
    #[must_use]
    pub const fn unknown_acks(&self) -> u64 {
        self.outbound.unknown_acks
    }

    /// When to call with [`Input::Time`] at the latest: one and a half times the keep alive after the last packet
    /// [MQTT-3.1.2-22].
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.parameters.keep_alive_s {
            0 => None,
            s => Some(self.last_heard.plus_ms(u64::from(s) * 1500)),
        }
    }

    /// Takes one input and appends what is to be done. After [`Output::Close`] everything is ignored.
    pub fn handle(&mut self, now: Time, input: Input<M>, out: &mut Vec<Output<M>>) {
        if self.is_closed {
            return;
        }
        match input {
            Input::Packet(packet) => {
                self.last_heard = now;
                self.packet(packet, out);
            }
            Input::Stored(token, result) => {
                self.inbound.stored(token, result);
                self.release(out);
            }
            Input::Subscribed(packet_id, reasons) => {
                out.push(Output::Send(Packet::SubAck(SubAck { packet_id, reasons, properties: None })));
            }
            Input::Unsubscribed(packet_id, reasons) => {
                out.push(Output::Send(Packet::UnsubAck(SubAck { packet_id, reasons, properties: None })));
            }
            Input::Deliver(qos, sequence, message) => self.deliver(qos, sequence, message, out),
            Input::Unsendable(packet_id) => {
                if let Some((needs, packet)) = self.outbound.unsendable(packet_id, &mut self.durability) {
                    self.hold(needs, Output::Send(packet), out);
                }
            }
            Input::Saved(version) => {
                self.durability.save(version);
                self.let_go(out);
            }
            Input::Time => {
                if self.deadline().is_some_and(|deadline| deadline <= now) {
                    self.close(ReasonCode::KeepAliveTimeout, out);
                }
            }
        }
    }

    fn packet(&mut self, packet: Packet, out: &mut Vec<Output<M>>) {
        match packet {
            Packet::Publish(publish) => self.publish(publish, out),
            Packet::PubAck(a) => {
                if self.outbound.puback(a.packet_id, &mut self.durability) {
                    out.push(Output::Settled(a.packet_id));
                }
            }
            Packet::PubRec(a) => {
                let version = self.parameters.version;
                if let Some((needs, packet)) =
                    self.outbound.pubrec(a.packet_id, a.reason, version, &mut self.durability)
                {
                    self.hold(needs, Output::Send(packet), out);
                }
            }
            Packet::PubRel(a) => {
                let packet = self.inbound.pubrel(a.packet_id, &mut self.durability);
                // PUBCOMP lets the client use the packet id again, so that it was released is saved before; also when it
                // is not this PUBREL that released it, but one before it that is not saved yet.
                self.hold(self.durability.version(), Output::Send(packet), out);
            }
            Packet::PubComp(a) => self.outbound.pubcomp(a.packet_id, &mut self.durability),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, out),
            Packet::Unsubscribe(Unsubscribe { packet_id, filters, .. }) => {
                out.push(Output::Unsubscribe(UnsubscribeRequest { packet_id, filters }));
            }
            Packet::PingReq => out.push(Output::Send(Packet::PingResp)),
            Packet::Disconnect(disconnect) => self.disconnect(&disconnect, out),
            Packet::Auth(auth) => self.auth(&auth, out),
            // [MQTT-3.1.0-2] and packets that only a server sends.
            Packet::Connect(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.close(ReasonCode::ProtocolError, out)
            }
        }
    }

    fn publish(&mut self, publish: Publish, out: &mut Vec<Output<M>>) {
        let topic = match self.resolve(publish.topic) {
            Ok(topic) => topic,
            Err(reason) => return self.close(reason, out),
        };
        let before = self.durability.version();
        let (qos, token, once) = match publish.delivery {
            Delivery::AtMostOnce => (QoS::AtMostOnce, None, None),
            delivery @ (Delivery::AtLeastOnce(_) | Delivery::ExactlyOnce(_)) => {
                let limit = self.parameters.strict.then_some(usize::from(self.parameters.receive_maximum));
                match self.inbound.arrive(delivery, self.log_sequence, limit, &mut self.durability) {
                    Arrival::Store(token, once) => (delivery.qos(), Some(token), once),
                    Arrival::Wait => return,
                    Arrival::Again(packet) => return out.push(Output::Send(packet)),
                    // [MQTT-3.3.4-7]
                    Arrival::TooMany => return self.close(ReasonCode::ReceiveMaximumExceeded, out),
                }
            }
        };
        let publication = Publication {
            token,
            once,
            topic,
            qos,
            retain: publish.retain,
            payload: publish.payload,
            properties: publish.properties,
        };
        let after = self.durability.version();
        // That it was received is saved before it is stored, so that it is never stored twice.
        self.hold_publish(if after > before { after } else { 0 }, publication, out);
    }

    /// Lets a publish happen once `needs` is saved, and not before what the client published there earlier.
    ///
    /// **Invariant:** the publishes of a client to one topic leave the session in the order in which they came, whatever
    /// their QoS. [MQTT-4.6.0-6] asks for it within a QoS; across QoS it is what decides which value stays retained.
    fn hold_publish(&mut self, needs: u64, publication: Publication, out: &mut Vec<Output<M>>) {
        if self.durability.permits(needs) && !self.held_publishes.has(&publication.topic) {
            return out.push(Output::Publish(publication));
        }
        self.held_publishes.begin(&publication.topic);
        self.held.push_back(Held { needs, output: Output::Publish(publication) });
    }

    fn deliver(&mut self, qos: QoS, sequence: u64, message: M, out: &mut Vec<Output<M>>) {
        let Some(id) = self.outbound.send(qos, sequence) else { return };
        // Of a QoS 1 message of a shared subscription nothing is saved.
        let is_saved = qos == QoS::ExactlyOnce || !is_shared(sequence);
        let version = if is_saved { self.durability.change() } else { 0 };
        // A QoS 2 packet id is saved before the client sees it: whatever happens, the message keeps it.
        let needs = if qos == QoS::ExactlyOnce { version } else { 0 };
        self.hold(needs, Output::Transmit(qos, id, message), out);
    }

    /// Lets an output happen once `needs` is saved; 0 is now.
    fn hold(&mut self, needs: u64, output: Output<M>, out: &mut Vec<Output<M>>) {
        if self.durability.permits(needs) {
            out.push(output);
        } else {
            self.held_answers += usize::from(matches!(output, Output::Send(_)));
            self.held.push_back(Held { needs, output });
        }
    }

    /// Lets happen what waited for what is saved now.
    fn let_go(&mut self, out: &mut Vec<Output<M>>) {
        while self.held.front().is_some_and(|held| self.durability.permits(held.needs)) {
            let Some(Held { output, .. }) = self.held.pop_front() else { return };
            match &output {
                Output::Publish(publication) => self.held_publishes.end(&publication.topic),
                Output::Send(_) => self.held_answers -= 1,
                _ => {}
            }
            out.push(output);
        }
    }

    /// The topic name that a PUBLISH means [MQTT 5, 3.3.2.3.4].
    fn resolve(&mut self, topic: PublishTopic) -> Result<TopicName, ReasonCode> {
        match topic {
            PublishTopic::Name(name) => Ok(name),
            // [MQTT-3.3.2-9]
            PublishTopic::Define(_, alias) | PublishTopic::Alias(alias)
                if alias.get() > self.parameters.topic_alias_maximum =>
            {
                Err(ReasonCode::TopicAliasInvalid)
            }
            PublishTopic::Define(name, alias) => {
                self.aliases.insert(alias, name.detached());
                Ok(name)
            }
            // No topic name and no mapping [MQTT 5, 3.3.4].
            PublishTopic::Alias(alias) => self.aliases.get(&alias).cloned().ok_or(ReasonCode::ProtocolError),
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe, out: &mut Vec<Output<M>>) {
        let mut entries = subscribe.entries;
        if self.parameters.bridge {
            for entry in &mut entries {
                entry.options.no_local = true;
                entry.options.retain_as_published = true;
            }
        }
        out.push(Output::Subscribe(SubscribeRequest {
            packet_id: subscribe.packet_id,
            subscription_id: subscribe.subscription_id,
            entries,
        }));
    }

    fn disconnect(&mut self, disconnect: &Disconnect, out: &mut Vec<Output<M>>) {
        // A session that was to end with its connection cannot be given an expiry now [MQTT 5, 3.14.2.2.2].
        if self.parameters.asked_session_expiry_s == 0 && disconnect.session_expiry_interval_s.is_some_and(|s| s > 0) {
            return self.close(ReasonCode::ProtocolError, out);
        }
        if let Some(s) = disconnect.session_expiry_interval_s {
            self.parameters.session_expiry_s = s.min(self.parameters.max_session_expiry_s);
        }
        self.is_closed = true;
        let with_will = disconnect.reason != ReasonCode::Success;
        out.push(Output::Close(Close::ByClient { with_will }));
    }

    /// No authentication method was agreed on, so no AUTH may come [MQTT-4.12.0-7].
    fn auth(&mut self, _auth: &Auth, out: &mut Vec<Output<M>>) {
        self.close(ReasonCode::ProtocolError, out);
    }

    /// Sends every acknowledgement whose turn it is.
    fn release(&mut self, out: &mut Vec<Output<M>>) {
        while let Some(released) = self.inbound.release(self.parameters.version, &mut self.durability) {
            match released {
                Released::Ack(packet) => out.push(Output::Send(packet)),
                Released::Unsayable(reason) => return self.close(reason, out),
            }
        }
    }

    fn close(&mut self, reason: ReasonCode, out: &mut Vec<Output<M>>) {
        self.is_closed = true;
        out.push(Output::Close(Close::ByServer(reason)));
    }
}
