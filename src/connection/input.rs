//! What the client sends, from the buffer to the session, and the end of that.
//!
//! **Invariant:** what was received is handled. A write that fails, the end of the stream and an order to end are the end of
//! what we send or of what comes, never of what has come: packets that are in our buffer or in the kernel's are decoded and
//! handled in their order, DISCONNECT included, and only then the connection ends. Its will follows from what was handled.
//!
//! ```text
//! Open ── write error, end of stream ─▶ Remainder (until the stream is over, and all is answered) ─▶ Lost
//!   │ ─── order to end ───────────────▶ Remainder (until nothing is there to be read) ────────────▶ ByServer
//!   └──── DISCONNECT, a violation, keep alive ─▶ over          (DISCONNECT in a remainder ends it as well)
//! ```
//!
//! **Invariant:** a remainder has an end that nobody else decides: neither a peer that takes nothing of what is written, nor a
//! store that does not answer, keeps a connection that is to end.
//!
//! What cannot be handled yet waits in `ahead`, where what need not wait overtakes it.
//!
//! After a reset only the kernel's receive buffer is left: Linux hands it out, other systems may have discarded it, and what
//! was still on its way is lost in any case. No acknowledgement was received for it, so at QoS 1 and 2 it is the client's.

use std::time::Duration;

use mqtt_codec::{Delivery, Packet, Publish, PublishTopic, ReasonCode, Violation};
use mqtt_session::Input;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::ahead::Received;
use super::parts::{End, Remainder};
use super::{Connection, SUBSCRIBE_BATCH, SUBSCRIBE_FILTERS, output_high};
use crate::account::TooLarge;
use crate::metrics::{Direction, DropReason, Limit};

/// How long the rest is handled of a client that is gone, while JetStream takes its time.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// How long a goodbye waits for the answers to what came before it, and for rates.
pub(super) const GOODBYE_WITHIN: Duration = Duration::from_secs(5);

/// The same when we end the connection, for which somebody waits.
const ORDERED_WITHIN: Duration = Duration::from_secs(1);

/// How long a client that is let go may take to read what we have for it, while what it has published is answered. With what closing
/// its socket takes, less than a drain waits for the last client.
pub(crate) const LET_GO_WITHIN: Duration = Duration::from_secs(6);

/// Bytes that are read of the rest: more than a kernel keeps for a socket.
const REST_MAX: usize = 16 * 1024 * 1024;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Whether packets of the client are handled now, in their turn.
    pub(super) fn takes_packets(&self) -> bool {
        !self.publishing.is_waiting()
            && self.subscribing.is_none()
            && self.end.is_none()
            && self.io.output.len() < output_high()
            && self.session.takes_packets()
            && self.publishing.has_room()
    }

    /// Whether a packet need not wait, whatever waits before it.
    fn passes(&self, packet: &Packet) -> bool {
        match packet {
            Packet::PingReq | Packet::PubAck(_) | Packet::PubComp(_) => true,
            // They are answered, and the answer may have to wait for a save.
            Packet::PubRec(_) | Packet::PubRel(_) => {
                self.io.output.len() < output_high() && self.session.takes_answered()
            }
            Packet::Publish(Publish {
                topic: PublishTopic::Name(topic),
                delivery: Delivery::AtMostOnce,
                retain: false,
                ..
            }) => {
                self.subscribing.is_none()
                    && self.subscribes.is_empty()
                    && self.ahead.lets_pass(topic)
                    && self.io.output.len() < output_high()
                    && self.session.takes_qos0()
                    && self.takes_message()
                    && self.publishing.takes_live(topic)
            }
            _ => false,
        }
    }

    /// Whether what is next is handled now.
    fn takes(&self, received: &Received) -> bool {
        match received {
            Ok(packet @ (Packet::PubRec(_) | Packet::PubRel(_))) => self.passes(packet),
            Ok(Packet::PingReq | Packet::PubAck(_) | Packet::PubComp(_)) => true,
            // Those that come in a burst are carried out together.
            Ok(Packet::Subscribe(_)) => self.takes_packets() && self.continues_subscribes(),
            // Nothing is answered behind it, and what waits to be saved would not be published.
            Ok(Packet::Disconnect(_)) => {
                self.takes_packets() && self.subscribes.is_empty() && !self.session.is_storing()
            }
            Ok(Packet::Publish(_)) => self.takes_packets() && self.subscribes.is_empty() && self.takes_message(),
            Ok(_) | Err(_) => self.takes_packets() && self.subscribes.is_empty(),
        }
    }

    /// Whether another SUBSCRIBE of a burst is carried out with those that are there.
    fn continues_subscribes(&self) -> bool {
        let filters = self.subscribes.iter().map(|subscribe| subscribe.entries.len());
        self.subscribes.len() < SUBSCRIBE_BATCH && filters.sum::<usize>() < SUBSCRIBE_FILTERS
    }

    /// Whether the socket is read now.
    pub(super) fn takes_input(&self) -> bool {
        let is_read = self.remainder.as_ref().is_some_and(|rest| rest.is_read || rest.bytes == 0);
        !self.io.is_over
            && !is_read
            && self.end.is_none()
            && self.ahead.has_room()
            && self.readable() > 0
            && self.reads.not_before().is_none()
    }

    /// Handles the packets that are there, as far as they are taken now.
    pub(super) fn handle_input(&mut self) {
        if self.session.is_durable() {
            self.session.log_stands_at(self.account.tail_sequence());
        }
        self.answer_pings();
        self.begin_turn_of_rates();
        loop {
            self.is_through = self.handle_packets();
            self.start_subscribes();
            self.tell_answers();
            let is_next_taken = || self.ahead.front().is_some_and(|next| self.takes(next));
            if self.is_through || self.end.is_some() || !is_next_taken() {
                break;
            }
        }
        // What came before a goodbye is not answered yet.
        let is_goodbye = matches!(self.ahead.front(), Some(Ok(Packet::Disconnect(_))));
        if is_goodbye && self.remainder.is_none() && self.session.is_storing() {
            self.begin_remainder(End::Lost, GOODBYE_WITHIN);
        }
    }

    /// Returns whether no complete packet is left.
    fn handle_packets(&mut self) -> bool {
        self.handle_ahead();
        while self.end.is_none() && self.ahead.has_room() {
            let before = self.io.input.len();
            let received = match self.decoder.decode(&mut self.io.input) {
                Ok(Some(packet)) => {
                    self.account.metrics.packets(Direction::In, packet.packet_type(), 1);
                    self.entered(packet)
                }
                Ok(None) => return self.ahead.is_empty(),
                Err(violation) => Err(violation),
            };
            let is_next = self.ahead.is_empty() && self.takes(&received);
            match received {
                Ok(packet) if is_next || self.passes(&packet) => self.tell_packet(packet),
                Err(violation) if is_next => self.violated(violation),
                received => self.ahead.push(received, before - self.io.input.len()),
            }
        }
        false
    }

    /// A packet with full topics.
    fn entered(&self, mut packet: Packet) -> Received {
        match self.inbox.mount_point() {
            None => Ok(packet),
            Some(mount) => mount.enter(&mut packet).map(|()| packet),
        }
    }

    /// Handles what has waited and need not any more.
    fn handle_ahead(&mut self) {
        while self.end.is_none() && self.ahead.front().is_some_and(|next| self.takes(next)) {
            match self.ahead.pop() {
                Some(Ok(packet)) => self.tell_packet(packet),
                Some(Err(violation)) => self.violated(violation),
                None => return,
            }
        }
    }

    fn tell_packet(&mut self, packet: Packet) {
        self.spend_message(&packet);
        self.tell(Input::Packet(packet));
    }

    /// The connection ends [MQTT-4.13.1-1].
    fn violated(&mut self, violation: Violation) {
        let (client_id, remote) = (&self.control.client_id, self.remote);
        tracing::info!(client_id = &**client_id, %remote, clause = violation.clause(), "{violation}");
        if let Violation::PacketTooLarge { size, .. } = violation {
            self.account.tell_size_refusal(client_id, TooLarge::Packet(size as usize));
        }
        if let Violation::TopicLevels(_) = violation {
            self.account.refusals.refuse(Limit::TopicLevels, client_id);
        }
        if let Some(ip) = remote.ip() {
            self.entrance.bans.violated(ip);
        }
        self.end = Some(End::ByServer(violation.reason_code()));
        self.violation = Some(violation);
    }

    /// The client is gone, as far as writing or reading tells.
    pub(super) fn lose(&mut self) {
        self.begin_remainder(End::Lost, GONE_WITHIN);
    }

    /// We end the connection.
    pub(super) fn end_by_order(&mut self, reason: ReasonCode) {
        self.begin_remainder(End::ByServer(reason), ORDERED_WITHIN);
    }

    fn begin_remainder(&mut self, end: End, within: Duration) {
        self.reads.end();
        let now = Instant::now();
        let (until, over) = (now + within, now + within.max(LET_GO_WITHIN));
        match &mut self.remainder {
            None => self.remainder = Some(Remainder { end, until: Some(until), over, bytes: REST_MAX, is_read: false }),
            Some(rest) => {
                rest.until = rest.until.map(|old| old.min(until));
                rest.over = rest.over.min(over);
                if rest.is_draining() && end != End::Lost {
                    rest.end = end;
                }
            }
        }
    }

    /// Bytes were read, perhaps of the remainder.
    pub(super) fn count_read(&mut self, bytes: usize) {
        if let Some(rest) = &mut self.remainder {
            rest.bytes = rest.bytes.saturating_sub(bytes);
        }
        self.spend_bytes(bytes);
    }

    /// Nothing is there to be read now. Where we end the connection, what comes later comes too late; returns whether that is
    /// news.
    pub(super) fn close_reading(&mut self) -> bool {
        let is_ours = |rest: &&mut Remainder| rest.end != End::Lost && !rest.is_read;
        self.remainder.as_mut().filter(is_ours).is_some_and(|rest| {
            rest.is_read = true;
            true
        })
    }

    /// Whether the client may get messages: while it can be expected to acknowledge them.
    pub(super) fn delivers(&self) -> bool {
        self.end.is_none() && self.remainder.as_ref().is_none_or(Remainder::is_draining)
    }

    /// When the remainder is given up, or else the connection.
    pub(super) fn remainder_until(&self) -> Option<Instant> {
        self.remainder.as_ref().map(|rest| rest.until.unwrap_or(rest.over))
    }

    /// How the connection ends, once it does.
    pub(super) fn ended(&mut self) -> Option<End> {
        let Some(rest) = self.remainder.as_ref().filter(|_| self.end.is_none()) else { return self.end };
        let end = rest.end;
        let is_read = self.io.is_over || rest.is_read || rest.bytes == 0;
        let is_handled = rest.until.is_none() || is_read && self.is_through && self.takes_packets();
        let (is_waiting, is_settled) = match end {
            // Somebody may still read the answers.
            End::Lost => (false, self.is_all_answered()),
            _ if rest.is_draining() => (true, self.publishing.is_idle() && !self.io.has_output()),
            End::ByServer(_) | End::ByClient { .. } => (false, true),
        };
        if is_handled && is_settled {
            return Some(end);
        }
        let (now, over) = (Instant::now(), rest.over);
        if now < rest.until.unwrap_or(over) {
            return None;
        }
        self.give_up_rest();
        self.end.or_else(|| (is_settled || !is_waiting || over <= now).then_some(end))
    }

    fn is_all_answered(&self) -> bool {
        self.publishing.is_idle() && !self.session.is_storing() && self.answers_after_record.is_empty()
    }

    /// The next packet of those that were not handled, if there is one.
    fn next_unhandled(&mut self) -> Option<Packet> {
        match self.ahead.pop() {
            Some(received) => received.ok(),
            None => self.decoder.decode(&mut self.io.input).ok().flatten(),
        }
    }

    /// Time is up. What is left is not handled; a client that has said goodbye has done so all the same.
    fn give_up_rest(&mut self) {
        if let Some(rest) = &mut self.remainder {
            (rest.until, rest.is_read) = (None, true);
        }
        let mut given_up = 0_u64;
        while let Some(packet) = self.next_unhandled() {
            if let Packet::Disconnect(_) = packet {
                self.tell(Input::Packet(packet));
                break;
            }
            given_up += u64::from(matches!(packet, Packet::Publish(_)));
        }
        if given_up > 0 {
            self.account.metrics.dropped(DropReason::NatsUnavailable, given_up);
            let client_id = &*self.control.client_id;
            tracing::warn!(client_id, given_up, "publishes of a connection that has ended were given up");
        }
    }
}
