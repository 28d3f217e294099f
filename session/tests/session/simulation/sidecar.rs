//! One connection as a sidecar serves it: a session, its feed, and what is on its way to the client and to JetStream. It
//! does what the session says and nothing else, as `connection.rs` of the sidecar does.

use std::collections::VecDeque;

use mqtt_codec::{Ack, Packet, QoS, ReasonCode};
use mqtt_session::{Close, Feed, FeedState, Input, Output, Position, Resend, Sequence, Session, Time, Token};

use super::client::{delivery, letter};
use super::log::{Letter, Log, Name};
use super::witness::Witness;

/// Packets that wait for a client that does not read; above it nothing new is taken for it.
const OUTPUT_LOW: usize = 3;

/// Size of the PUBLISH that a message of the log is sent in.
const fn packet_size(sequence: u64) -> u32 {
    if sequence.is_multiple_of(3) { 2 * PACKET_SIZE } else { PACKET_SIZE }
}

/// Size of most packets.
pub(crate) const PACKET_SIZE: u32 = 100;

/// A publish on its way to the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    pub(crate) token: Token,
    pub(crate) letter: Letter,
    pub(crate) name: Option<Name>,
    /// To be looked for above this sequence first.
    pub(crate) look_above: Option<u64>,
}

/// A completion on its way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) put: Put,
    pub(crate) result: Result<ReasonCode, ReasonCode>,
    pub(crate) since: u64,
    /// It was in the log already, so it is never sent again.
    pub(crate) was_found: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) node: usize,
    pub(crate) epoch: u64,
    pub(crate) session: Session<u64>,
    pub(crate) feed: Feed<u64>,
    pub(crate) to_client: VecDeque<Packet>,
    pub(crate) from_client: VecDeque<Packet>,
    pub(crate) puts: VecDeque<Put>,
    pub(crate) completions: Vec<Completion>,
    /// When the client went away, which the sidecar sees later.
    pub(crate) left_at: Option<u64>,
    /// Nothing happens any more but the last save.
    pub(crate) is_over: bool,
    pub(crate) is_saving: bool,
    pub(crate) close: Option<Close>,
    /// In flight at most: the window, or what the last connection left.
    pub(crate) in_flight_max: usize,
}

impl Connection {
    pub(crate) fn tell(&mut self, input: Input<u64>) {
        let mut outputs = Vec::new();
        self.session.handle(Time(0), input, &mut outputs);
        for output in outputs {
            assert_eq!(self.close, None, "something follows the end: {output:?}");
            match output {
                Output::Send(packet) => self.to_client.push_back(packet),
                Output::Transmit(qos, id, sequence) => self.to_client.push_back(delivery(qos, id, sequence, false)),
                Output::Publish(publication) => self.puts.push_back(Put {
                    token: publication.token.unwrap(),
                    letter: letter(&publication),
                    name: publication.once.map(|once| (self.client, once.message)),
                    look_above: publication.once.and_then(|once| once.maybe_above).map(|above| above.0),
                }),
                Output::Close(close) => {
                    self.close = Some(close);
                    self.is_over = true;
                }
                Output::Subscribe(_) | Output::Unsubscribe(_) | Output::Settled(_) => panic!("nobody subscribed"),
                Output::Authenticate(_) => panic!("nobody named a method"),
            }
        }
        self.check_limits();
    }

    fn check_limits(&self) {
        let waiting = self.puts.len() + self.completions.len();
        assert!(waiting <= usize::from(self.session.parameters().receive_maximum), "{waiting} publishes wait");
        let in_flight = self.session.progress().1.in_flight.len();
        assert!(in_flight <= self.in_flight_max, "{in_flight} in flight, {} allowed", self.in_flight_max);
    }

    /// Handles the next packet of the client, if the session takes one.
    pub(crate) fn read(&mut self) {
        if self.session.takes_packets()
            && let Some(packet) = self.from_client.pop_front()
        {
            self.tell(Input::Packet(packet));
        }
    }

    /// Sends what may be sent: first what is to be repeated, then what the feed has.
    pub(crate) fn fill(&mut self, log: &Log, qos_of: impl Fn(&Letter) -> QoS, witness: &mut Witness) {
        while self.to_client.len() < OUTPUT_LOW && !self.is_over {
            // The session has no room for anything new before everything is repeated.
            if self.session.window_room() > 0
                && let Some((Sequence(sequence), message)) = self.feed.pop()
            {
                assert_eq!(sequence, message);
                if self.is_too_large(sequence) {
                    witness.passes_over(self.client, sequence);
                    continue;
                }
                witness.sends(self.client, self.epoch, sequence);
                let qos = qos_of(&log.ever(sequence).unwrap().letter);
                self.tell(Input::Deliver(qos, Position::in_main_log(Sequence(sequence)), message));
            } else if let Some(resend) = self.session.next_resend() {
                self.resend(resend, log, witness);
            } else {
                return;
            }
        }
    }

    fn resend(&mut self, resend: Resend, log: &Log, witness: &mut Witness) {
        match resend {
            Resend::PubRel(id) => self.to_client.push_back(Packet::PubRel(Ack::new(id, ReasonCode::Success))),
            // As if it had been delivered [MQTT-3.1.2-25].
            Resend::Publish(_, id, place) if self.is_too_large(place.sequence().0) => {
                witness.passes_over(self.client, place.sequence().0);
                self.tell(Input::Unsendable(id));
            }
            Resend::Publish(qos, id, place) if log.get(place.sequence().0).is_some() => {
                let sequence = place.sequence().0;
                witness.sends(self.client, self.epoch, sequence);
                self.to_client.push_back(delivery(qos, id, sequence, true));
            }
            Resend::Publish(_, id, _) => self.tell(Input::Unsendable(id)),
        }
    }

    /// Whether the client takes no packet of this size on this connection. On its next one it may.
    fn is_too_large(&self, sequence: u64) -> bool {
        packet_size(sequence) > self.session.parameters().client_max_packet_size
    }

    /// A live session with nothing queued has read as far as the tail.
    pub(crate) fn pass_what_is_read(&mut self, tail: u64) {
        if let FeedState::Live { after } = self.feed.state()
            && self.feed.is_empty()
        {
            self.session.has_read_up_to(Position::in_main_log(after.max(Sequence(tail))));
        }
    }

    /// Whether a scan should begin for it.
    pub(crate) fn wants_scan(&self) -> bool {
        !self.is_over && matches!(self.feed.state(), FeedState::Behind { .. }) && self.session.window_room() > 0
    }

    pub(crate) fn is_scanned(&self) -> bool {
        matches!(self.feed.state(), FeedState::Scanning { .. } | FeedState::Attaching { .. })
    }

    /// Whether nothing is on its way to or from the client.
    pub(crate) fn is_idle(&self) -> bool {
        let on_its_way = [self.to_client.len(), self.from_client.len(), self.puts.len(), self.completions.len()];
        on_its_way == [0; 4]
            && self.session.progress().1.in_flight.is_empty()
            && self.session.unsaved() == 0
            && !self.is_saving
            && self.feed.is_empty()
            && matches!(self.feed.state(), FeedState::Live { .. })
    }
}
