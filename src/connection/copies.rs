//! A message that several subscriptions of the client take, where each gets a copy (`mqtt.overlapping = "each"`): which copies
//! there are, and that they are sent together.
//!
//! **Invariant:** the copies of one message get their packet ids in one turn, so that what is saved has all of them in flight,
//! or has not read the message: a crash leaves nobody with some of them. When the window has no room for all, the message
//! waits, and what is behind it; when it never will have, one copy with all identifiers is sent, as by default.

use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt_codec::{PacketId, QoS};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::account::{Message, Outgoing, SubscriptionCopy};
use crate::store::StoredSubscription;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Delivers a message that is stored at this place.
    pub(super) fn deliver(&mut self, place: u64, outgoing: Outgoing) {
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

    fn deliver_copies(&mut self, place: u64, mut outgoing: Outgoing) {
        let others = std::mem::take(&mut outgoing.others);
        let message = Arc::clone(&outgoing.message);
        self.deliver_copy(place, outgoing);
        for SubscriptionCopy { qos, retain, subscription_id } in others {
            let (message, subscription_ids) = (Arc::clone(&message), subscription_id.as_slice().into());
            let others = Box::default();
            self.deliver_copy(place, Outgoing { message, retain, qos, subscription_ids, others, share: None });
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
            match *outgoing.subscription_ids {
                [id] => _ = owned.sent_for.insert(packet_id, id),
                _ => _ = owned.sent_for.remove(&packet_id),
            }
        }
    }

    /// Of the subscriptions that a message which is sent again matches, those that it is sent for.
    pub(super) fn sent_for<'a>(
        &self,
        packet_id: PacketId,
        matching: Vec<&'a StoredSubscription>,
    ) -> Vec<&'a StoredSubscription> {
        if !self.account.options.copies_overlapping {
            return matching;
        }
        let id = self.owned.as_ref().and_then(|owned| owned.sent_for.get(&packet_id)).map(|id| id.get());
        matching.into_iter().filter(|stored| stored.id == id).collect()
    }
}

/// What these subscriptions get, at QoS 1 or 2, of a message that the log had at `sequence`; `None` when they get nothing.
pub(super) fn outgoing_for(
    message: Message,
    sequence: u64,
    matching: &[&StoredSubscription],
    copies_overlapping: bool,
) -> Option<Outgoing> {
    let copy = |stored: &&StoredSubscription| {
        Some(SubscriptionCopy {
            qos: message.qos.min(QoS::try_from(stored.qos_at(sequence)).ok()?),
            retain: message.retain && stored.retain_as_published,
            subscription_id: stored.id.and_then(NonZeroU32::new),
        })
    };
    let mut copies: Vec<SubscriptionCopy> =
        matching.iter().filter_map(copy).filter(|copy| copy.qos > QoS::AtMostOnce).collect();
    let first = (!copies.is_empty()).then(|| copies.remove(0))?;
    let SubscriptionCopy { qos, retain, subscription_id } = first;
    let outgoing = Outgoing {
        message: Arc::new(message),
        retain,
        qos,
        subscription_ids: subscription_id.as_slice().into(),
        others: copies.into(),
        share: None,
    };
    Some(if copies_overlapping { outgoing } else { merged(outgoing) })
}

/// One copy with everything.
fn merged(mut outgoing: Outgoing) -> Outgoing {
    let mut ids = outgoing.subscription_ids.into_vec();
    for SubscriptionCopy { qos, retain, subscription_id } in std::mem::take(&mut outgoing.others) {
        outgoing.qos = outgoing.qos.max(qos);
        outgoing.retain |= retain;
        ids.extend(subscription_id);
    }
    outgoing.subscription_ids = ids.into();
    outgoing
}
