//! Messages from the inbox to the socket: as many as the window and the output take.

use std::sync::Arc;

use mqtt_codec::{PacketId, QoS};
use mqtt_ownership::ServerTime;
use mqtt_session::{Input, Position};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, output_low};
use crate::account::Outgoing;
use crate::metrics::DropReason;

/// Messages that are taken out of the inbox at once.
const BATCH: usize = 128;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Moves messages from the inbox to the output, until one of them has no more.
    pub(super) fn fill_output(&mut self) {
        while self.delivers() && self.io.output.len() < output_low() {
            // What is repeated comes before anything new.
            let is_repeating = self.resending.fetching.is_some();
            if !is_repeating {
                self.fill_copies();
            }
            let is_waiting = is_repeating || !self.copies.is_empty();
            if !is_waiting {
                self.fill_retained();
                self.fill_shared();
                self.fill_backlog();
            }
            let room = if is_waiting || !self.copies.is_empty() { 0 } else { self.room_for_own().min(BATCH) };
            let mut messages = std::mem::take(&mut self.messages);
            let [copies, bytes] =
                self.inbox.take_messages(&mut self.io.output, room, &mut messages, &mut self.catching_up);
            self.counts.delivered[0] += copies;
            self.counts.payload_bytes[1] += bytes;
            let count = messages.len();
            for (place, outgoing) in messages.drain(..) {
                self.deliver(place, outgoing);
            }
            self.messages = messages;
            while let Some(place) = self.catching_up.pop() {
                if room > 0 {
                    self.catch_up(place, count < room && self.copies.is_empty());
                }
            }
            if count == 0 {
                return;
            }
        }
    }

    /// Retained messages come first: they are older than anything live.
    fn fill_retained(&mut self) {
        self.retained.add(self.inbox.take_retained());
        while self.io.output.len() < output_low() {
            let has_room = self.session.window_room() > 0;
            let is_next = |next: &Outgoing| has_room || next.grant.qos == QoS::AtMostOnce;
            if !self.retained.front(&self.account, &self.inbox.rights).is_some_and(is_next) {
                break;
            }
            if let Some(outgoing) = self.retained.take() {
                let place = Position::of_retained(outgoing.message.retained_at.unwrap_or_default());
                self.deliver(place, outgoing);
            }
        }
        if self.retained.is_unsaved() && self.session.is_durable() && self.session.unsaved() == 0 {
            self.session.save_again();
        }
    }

    /// What shared subscriptions gave: the window had room for it.
    fn fill_shared(&mut self) {
        while self.io.output.len() < output_low() && self.session.window_room() > 0 {
            let Some((place, outgoing)) = self.mail.shared.pop_front() else { return };
            self.deliver(place, outgoing);
        }
    }

    /// The room of the window for what the session reads by itself. One place is left to shared subscriptions when they
    /// have none: a session that is behind would never get anything of them.
    fn room_for_own(&self) -> usize {
        let room = self.session.window_room();
        let keeps = self.inbox.is_sharing() && self.shares.is_empty() && self.session.parameters().window > 1;
        room.saturating_sub(usize::from(keeps))
    }

    /// Tells shared subscriptions how many messages the client takes.
    pub(super) fn offer_share_room(&self) {
        let takes = self.resending.fetching.is_none() && self.remainder.is_none() && self.end.is_none();
        let room = if takes && self.io.output.len() < output_low() { self.session.window_room() } else { 0 };
        self.inbox.offer_share_room(room.saturating_sub(self.mail.shared.len()));
    }

    /// The client has acknowledged a message of a shared subscription.
    pub(super) fn settled(&mut self, packet_id: PacketId) {
        if let Some(share) = self.shares.remove(&packet_id) {
            share.done();
        }
    }

    /// Delivers a message that is stored at this place, once.
    pub(super) fn deliver_copy(&mut self, place: Position, outgoing: Outgoing) {
        match outgoing.grant.qos {
            QoS::AtMostOnce => self.write(false, QoS::AtMostOnce, None, &outgoing),
            qos if self.is_deliverable(&outgoing) => self.tell(Input::Deliver(qos, place, outgoing)),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                if let Some(share) = &outgoing.share {
                    share.done();
                }
            }
        }
    }

    /// The server's time, at the earliest.
    fn server_time(&self) -> ServerTime {
        self.account.store().clock().earliest()
    }

    /// A message that has expired, or that the client cannot take, is passed over before it gets a packet id
    /// [MQTT-3.1.2-25], [MQTT-3.3.2-5].
    fn is_deliverable(&self, outgoing: &Outgoing) -> bool {
        if outgoing.message.expiry(self.server_time()).is_err() {
            self.account.metrics.dropped(DropReason::Expired, 1);
            return false;
        }
        let fits = self.fits(outgoing);
        if !fits {
            self.account.metrics.dropped(DropReason::TooLarge, 1);
        }
        fits
    }

    /// Whether a QoS 1 or 2 message is no larger than the client of this connection takes [MQTT-3.1.2-24].
    fn fits(&self, outgoing: &Outgoing) -> bool {
        let max = self.session.parameters().client_max_packet_size as usize;
        let frame = self.inbox.frame(&outgoing.message, true);
        frame.is_some_and(|frame| frame.len_with_subscription_ids(outgoing.grant.ids.as_slice()) <= max)
    }

    /// Sends a QoS 1 or 2 message for the first time, so without DUP [MQTT-3.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2], whatever its
    /// publisher said [MQTT-3.3.1-3].
    pub(super) fn transmit(&mut self, qos: QoS, packet_id: PacketId, outgoing: Outgoing) {
        let is_claim = qos == QoS::ExactlyOnce && outgoing.share.is_some() && self.session.is_durable();
        let now = if is_claim { self.claim(packet_id, outgoing) } else { Some(outgoing) };
        let Some(outgoing) = now else { return };
        match &outgoing.share {
            // From now on it is this session's, and nothing of that is saved [MQTT-4.8.2-5].
            Some(share) if qos == QoS::ExactlyOnce => share.done(),
            Some(share) => {
                self.shares.insert(packet_id, share.clone());
            }
            None => {}
        }
        self.note_copy(packet_id, &outgoing);
        self.write(false, qos, Some(packet_id), &outgoing);
    }

    /// Sends a message again, with DUP and its old packet id [MQTT-3.3.1-1]. One that has become too large, since the client
    /// takes less than on its last connection, counts as delivered [MQTT-3.1.2-25].
    pub(super) fn repeat(&mut self, qos: QoS, packet_id: PacketId, outgoing: &Outgoing) {
        if self.fits(outgoing) {
            self.write(true, qos, Some(packet_id), outgoing);
        } else {
            self.give_up(Some(packet_id), DropReason::TooLarge);
        }
    }

    pub(super) fn write(&mut self, dup: bool, qos: QoS, packet_id: Option<PacketId>, outgoing: &Outgoing) {
        let message = Arc::clone(&outgoing.message);
        let Some(frame) = self.inbox.frame(&message, packet_id.is_some()) else {
            return self.give_up(packet_id, DropReason::TooLarge);
        };
        let expiry_s = match message.expiry(self.server_time()) {
            Ok(left_s) => left_s,
            // What was sent does not expire any more [MQTT-4.3.3-7].
            Err(_) if dup => Some(0),
            Err(_) => return self.give_up(packet_id, DropReason::Expired),
        };
        let max = self.session.parameters().client_max_packet_size as usize;
        let ids = outgoing.grant.ids.as_slice();
        if packet_id.is_none() && frame.len_with_subscription_ids(ids) > max {
            return self.account.metrics.dropped(DropReason::TooLarge, 1);
        }
        let tail = self.io.output.tail();
        let written =
            frame.write_with_subscription_ids(dup, qos, outgoing.grant.retain, packet_id, expiry_s, ids, tail);
        if let Err(error) = written {
            let (client_id, remote) = (&*self.control.client_id, self.remote);
            tracing::warn!(client_id, %remote, %error, "a message was not sent");
            return self.give_up(packet_id, DropReason::TooLarge);
        }
        if let Some(payload) = frame.tail() {
            self.io.output.push(payload.clone());
        }
        self.inbox.remember_request(&message);
        self.counts.delivered[qos as usize] += 1;
        self.counts.payload_bytes[1] += message.payload.len() as u64;
    }

    /// A message is not sent after all; its place in the window is free again.
    fn give_up(&mut self, packet_id: Option<PacketId>, reason: DropReason) {
        self.account.metrics.dropped(reason, 1);
        if let Some(packet_id) = packet_id {
            self.settled(packet_id);
            self.tell(Input::Unsendable(packet_id));
        }
    }
}
