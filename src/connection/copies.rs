//! A message that several subscriptions of the client take, where each gets a copy (`mqtt.overlapping = "each"`): which copies
//! there are, and that they are sent together.
//!
//! **Invariant:** the copies of one message get their packet ids in one turn, so that what is saved has all of them in flight,
//! or has not read the message: a crash leaves nobody with some of them. When the window has no room for all, the message
//! waits, and what is behind it; when it never will have, one copy with all identifiers is sent, as by default.

use std::sync::Arc;

use mqtt_codec::PacketId;
use mqtt_session::Position;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::account::{Outgoing, grant};
use crate::store::StoredSubscription;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Delivers a message that is stored at this place.
    pub(super) fn deliver(&mut self, place: Position, outgoing: Outgoing) {
        if !self.copies.is_empty() {
            return self.copies.push_back((place, outgoing));
        }
        if outgoing.others.is_empty() {
            return self.deliver_copy(place, outgoing);
        }
        let count = 1 + outgoing.others.len();
        if count > usize::from(self.session.parameters().window) {
            self.deliver_copy(place, merged(outgoing));
        } else if count > self.session.window_room() {
            self.copies.push_back((place, outgoing));
        } else {
            self.deliver_copies(place, outgoing);
        }
    }

    fn deliver_copies(&mut self, place: Position, mut outgoing: Outgoing) {
        let others = std::mem::take(&mut outgoing.others);
        let message = Arc::clone(&outgoing.message);
        self.deliver_copy(place, outgoing);
        for grant in others {
            let message = Arc::clone(&message);
            self.deliver_copy(place, Outgoing { message, grant, others: Box::default(), share: None });
        }
    }

    /// Delivers what has waited for room, as far as there is some.
    pub(super) fn fill_copies(&mut self) {
        while let Some((_, first)) = self.copies.front() {
            let count = (1 + first.others.len()).min(usize::from(self.session.parameters().window));
            if count > self.session.window_room() {
                return;
            }
            let mut waiting = std::mem::take(&mut self.copies);
            if let Some((place, outgoing)) = waiting.pop_front() {
                self.deliver(place, outgoing);
            }
            waiting.append(&mut self.copies);
            self.copies = waiting;
        }
    }

    /// A message is sent with this packet id: for which subscription is saved, so that it is sent again for that one.
    pub(super) fn note_copy(&mut self, packet_id: PacketId, outgoing: &Outgoing) {
        let is_copy = self.account.options.copies_overlapping && outgoing.share.is_none();
        if let Some(owned) = self.owned.as_mut().filter(|_| is_copy) {
            match *outgoing.grant.ids.as_slice() {
                [id] => _ = owned.sent_for.insert(packet_id, id),
                _ => _ = owned.sent_for.remove(&packet_id),
            }
        }
    }

    /// Whether a message that is sent again with this packet id is sent for one of the subscriptions that it matches.
    pub(super) fn is_sent_for(&self, packet_id: PacketId, stored: &StoredSubscription) -> bool {
        let sent_for = || self.owned.as_ref().and_then(|owned| owned.sent_for.get(&packet_id)).map(|id| id.get());
        !self.account.options.copies_overlapping || stored.id == sent_for()
    }
}

/// One copy with everything.
fn merged(outgoing: Outgoing) -> Outgoing {
    let Outgoing { message, grant, others, share } = outgoing;
    let merged = grant::merged(std::iter::once(&grant).chain(&others));
    Outgoing { message, grant: merged.unwrap_or(grant), others: Box::default(), share }
}
