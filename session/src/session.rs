//! The connected session: one function per packet the client may send. What only a server sends, and what violates
//! the protocol, ends the connection with the reason code of the specification.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use mqtt_codec::{
    Auth, Delivery, Disconnect, Packet, PacketId, Publish, PublishTopic, QoS, ReasonCode, SubAck, Subscribe, TopicName,
    Unsubscribe,
};
use mqtt_ownership::Epoch;

use crate::exchange::{Close, Input, Left, Output, Publication, SubscribeRequest, UnsubscribeRequest};
use crate::handshake::Verdict;
use crate::held::{GatedOutput, HeldPublishes};
use crate::inbound::{Arrival, Inbound, Once, Released, Token};
use crate::outbound::{Outbound, Resend};
use crate::position::{Position, Sequence};
use crate::progress::{Durability, Progress, ProgressVersion, Save};
use crate::reauthentication::Reauthentication;
use crate::{Parameters, Time};

/// One connected client.
#[derive(Debug)]
pub struct Session<M> {
    parameters: Parameters,
    durability: Durability,
    inbound: Inbound,
    outbound: Outbound,
    held: VecDeque<GatedOutput<M>>,
    held_publishes: HeldPublishes,
    /// Acknowledgements among what is held.
    held_answers: usize,
    log_sequence: Sequence,
    /// Of this connection: nothing of a progress is in here [MQTT-3.3.2-7].
    aliases: HashMap<NonZeroU16, TopicName>,
    last_heard: Time,
    reauthentication: Reauthentication,
    is_closed: bool,
}

impl<M> Session<M> {
    /// A session whose CONNECT was accepted at `now`, and which goes on from `progress`, which is saved: progress that
    /// another sidecar handed over has to be saved before, since what it says is acted upon at once. `epoch` is higher
    /// than that of any connection before.
    #[must_use]
    pub fn new(now: Time, parameters: Parameters, epoch: Epoch, progress: &Progress) -> Self {
        Self {
            durability: Durability::new(parameters.session_expiry_s > 0),
            inbound: Inbound::resume(epoch, &progress.received),
            outbound: Outbound::resume(parameters.window, progress.cursors.clone(), &progress.in_flight),
            parameters,
            held: VecDeque::new(),
            held_publishes: HeldPublishes::default(),
            held_answers: 0,
            log_sequence: Sequence(0),
            aliases: HashMap::new(),
            last_heard: now,
            reauthentication: Reauthentication::default(),
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
        let is_storing_less = self.inbound.storing() < usize::from(self.parameters.receive_maximum);
        is_storing_less && self.takes_qos0() && self.takes_answered()
    }

    /// Whether a publish at QoS 0 may be read now, also while [`Self::takes_packets`] says no: it counts only when it has to
    /// wait for one at QoS 2.
    #[must_use]
    pub fn takes_qos0(&self) -> bool {
        self.held_publishes.all < usize::from(self.parameters.receive_maximum)
    }

    /// Whether PUBREC and PUBREL may be read now, also while [`Self::takes_packets`] says no: their answers may have to wait.
    #[must_use]
    pub fn takes_answered(&self) -> bool {
        // No more packet ids can be in use; PUBREL, which is four bytes, has no other limit.
        self.held_answers <= usize::from(self.parameters.receive_maximum) + usize::from(self.parameters.window)
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

    /// The connection is over, and what waited for the progress to be saved does not happen: the client repeats it. What it
    /// does not repeat, because it only waited behind that, is left to be published. What shared subscriptions have given goes
    /// to other members: what was sent at QoS 1, and what was not sent yet. What was sent at QoS 2 stays and is finished with
    /// this session [MQTT-4.8.2-4].
    pub fn leave(&mut self) -> Left<M> {
        let mut left = Left { withdrawn: Vec::new(), publications: Vec::new() };
        (self.held_publishes, self.held_answers) = (HeldPublishes::default(), 0);
        for held in std::mem::take(&mut self.held) {
            match held.output {
                Output::Transmit(_, packet_id, message) if self.outbound.withdraw(packet_id, &mut self.durability) => {
                    left.withdrawn.push(message);
                }
                Output::Publish(Publication {
                    token: Some(token), once: Some(Once { maybe_above: None, .. }), ..
                }) => {
                    self.not_published(token);
                }
                // One that an earlier connection has received may be stored already.
                Output::Publish(Publication { once: Some(_), .. }) => {}
                Output::Publish(publication) => left.publications.push(publication),
                _ => {}
            }
        }
        self.is_closed = true;
        left
    }

    /// How many outputs wait until the progress is saved.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.held.len()
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
    pub fn log_stands_at(&mut self, sequence: Sequence) {
        self.log_sequence = self.log_sequence.max(sequence);
    }

    /// A log was made anew, or has lost its end, and goes on with the sequence `next`.
    pub fn log_restarted(&mut self, log: u16, next: Sequence) {
        if log == 0 {
            self.log_sequence = self.log_sequence.min(next.before());
            self.inbound.log_restarted(next);
        }
        self.outbound.log_restarted(log, next);
        self.durability.change();
    }

    /// Nothing up to this place in its log is owed beyond what was delivered.
    pub fn has_read_up_to(&mut self, position: Position) {
        self.outbound.cursors.raise(position);
    }

    /// The progress to save, and its version for [`Input::Saved`].
    #[must_use]
    pub fn progress(&self) -> (ProgressVersion, Progress) {
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

    /// When to call with [`Input::Time`] at the latest: one and a half times the keep alive after the client was heard last
    /// [MQTT-3.1.2-22]. Whatever came counts, when it came: a packet takes as long as the link is slow, and is handled when we
    /// can.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.parameters.keep_alive_s {
            0 => None,
            s => Some(self.last_heard.plus(Duration::from_millis(u64::from(s) * 1500))),
        }
    }

    /// Takes one input and appends what is to be done. After [`Output::Close`] everything is ignored.
    pub fn handle(&mut self, now: Time, input: Input<M>, out: &mut Vec<Output<M>>) {
        if self.is_closed {
            return;
        }
        match input {
            Input::Heard => self.last_heard = now,
            Input::Packet(packet) => self.packet(packet, out),
            Input::Stored(token, result) => {
                self.inbound.stored(token, result);
                self.release(out);
            }
            // [MQTT-2.2.1-6], [MQTT-3.8.4-1, -2]
            Input::Subscribed(packet_id, reasons) => {
                out.push(Output::Send(Packet::SubAck(SubAck { packet_id, reasons, properties: None })));
            }
            // [MQTT-3.10.4-4, -5]
            Input::Unsubscribed(packet_id, reasons) => {
                out.push(Output::Send(Packet::UnsubAck(SubAck { packet_id, reasons, properties: None })));
            }
            Input::Deliver(qos, position, message) => self.deliver(qos, position, message, out),
            Input::Unsendable(packet_id) => {
                if let Some((needs, packet)) = self.outbound.unsendable(packet_id, &mut self.durability) {
                    self.hold(needs, Output::Send(packet), out);
                }
            }
            Input::Saved(version) => {
                self.durability.save(version);
                self.release_saved(out);
            }
            Input::Authenticated(verdict) => self.authenticated(verdict, out),
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
            // [MQTT-3.12.4-1], whatever the window holds back [MQTT-3.3.4-10], [MQTT-4.9.0-3].
            Packet::PingReq => out.push(Output::Send(Packet::PingResp)),
            Packet::Disconnect(disconnect) => self.disconnect(&disconnect, out),
            Packet::Auth(auth) => self.auth(auth, out),
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
        // [MQTT 5, 3.2.2.3.4, 3.2.2.3.5]
        if publish.delivery.qos() > self.parameters.max_qos {
            return self.close(ReasonCode::QoSNotSupported, out);
        }
        if publish.retain && !self.parameters.retain_available {
            return self.close(ReasonCode::RetainNotSupported, out);
        }
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
        self.hold_publish(if after > before { after } else { ProgressVersion::UNCHANGED }, publication, out);
    }

    /// Lets a publish happen once `needs` is saved, and not before what the client published there earlier.
    ///
    /// **Invariant:** the publishes of a client to one topic leave the session in the order in which they came, whatever
    /// their QoS. [MQTT-4.6.0-6] asks for it within a QoS; across QoS it is what decides which value stays retained.
    fn hold_publish(&mut self, needs: ProgressVersion, publication: Publication, out: &mut Vec<Output<M>>) {
        if self.durability.permits(needs) && !self.held_publishes.has(&publication.topic) {
            return out.push(Output::Publish(publication));
        }
        self.held_publishes.begin(&publication.topic);
        self.held.push_back(GatedOutput { needs, output: Output::Publish(publication) });
    }

    fn deliver(&mut self, qos: QoS, position: Position, message: M, out: &mut Vec<Output<M>>) {
        let Some(id) = self.outbound.send(qos, position) else { return };
        // Of a QoS 1 message of a shared subscription nothing is saved.
        let is_saved = qos == QoS::ExactlyOnce || !position.is_shared();
        let version = if is_saved { self.durability.change() } else { ProgressVersion::UNCHANGED };
        // A QoS 2 packet id is saved before the client sees it: whatever happens, the message keeps it.
        let needs = if qos == QoS::ExactlyOnce { version } else { ProgressVersion::UNCHANGED };
        self.hold(needs, Output::Transmit(qos, id, message), out);
    }

    /// Lets an output happen once `needs` is saved; [`ProgressVersion::UNCHANGED`] is now.
    fn hold(&mut self, needs: ProgressVersion, output: Output<M>, out: &mut Vec<Output<M>>) {
        if self.durability.permits(needs) {
            out.push(output);
        } else {
            self.held_answers += usize::from(matches!(output, Output::Send(_)));
            self.held.push_back(GatedOutput { needs, output });
        }
    }

    /// Lets happen what waited for what is saved now.
    fn release_saved(&mut self, out: &mut Vec<Output<M>>) {
        while self.held.front().is_some_and(|held| self.durability.permits(held.needs)) {
            let Some(GatedOutput { output, .. }) = self.held.pop_front() else { return };
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
            // [MQTT-3.3.2-9], [MQTT-3.2.2-17, -18]; any other one is taken [MQTT-3.3.2-12].
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

    fn auth(&mut self, auth: Auth, out: &mut Vec<Output<M>>) {
        match self.reauthentication.take(auth, self.parameters.authentication_method.as_ref()) {
            Ok(evidence) => out.push(Output::Authenticate(evidence)),
            Err(reason) => self.close(reason, out),
        }
    }

    fn authenticated(&mut self, verdict: Verdict<()>, out: &mut Vec<Output<M>>) {
        // Who named no method was not judged again.
        let Some(method) = &self.parameters.authentication_method else { return };
        match self.reauthentication.judged(verdict, method) {
            Ok(auth) => out.push(Output::Send(Packet::Auth(auth))),
            Err(reason) => self.close(reason, out),
        }
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
