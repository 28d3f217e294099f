//! What shared subscriptions give at QoS 2 to a session that outlives its connection. When its packet id is saved it is the
//! session's. Then the group's consumer is told, and only when that has confirmed it the client gets it: so what the client
//! got comes to nobody else, whatever dies.

use std::sync::Arc;

use mqtt_codec::{PacketId, QoS};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::parts::Claimed;
use crate::account::{Claims, Outgoing};

impl<S> Connection<S> {
    /// The claims as they are to be saved: also of what waits for that.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = self.owned.as_ref().map(|owned| owned.claims.clone()).unwrap_or_default();
        claims.extend(self.session.held().filter_map(|(id, outgoing)| Some((id, outgoing.share.as_ref()?.ack()?))));
        claims
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// A message is saved as the session's: its consumer is told. Gives it back when there is none to tell.
    pub(super) fn claim(&mut self, packet_id: PacketId, outgoing: Outgoing) -> Option<Outgoing> {
        let ack = outgoing.share.as_ref().and_then(|share| {
            share.keep();
            share.ack()
        });
        let (Some(ack), Some(owned)) = (ack, &mut self.owned) else { return Some(outgoing) };
        owned.claims.insert(packet_id, ack);
        self.claimed.push((packet_id, outgoing));
        None
    }

    /// Starts to tell consumers; one after the other as they come together.
    pub(super) fn start_confirming(&mut self) {
        if self.confirming.is_some() || self.claimed.is_empty() {
            return;
        }
        let claimed = std::mem::take(&mut self.claimed);
        let claims = self.owned.iter().flat_map(|owned| claimed.iter().filter_map(|(id, _)| owned.claims.get(id)));
        let acks: Vec<_> = claims.cloned().collect();
        let account = Arc::clone(&self.account);
        self.confirming = Some(Box::pin(async move {
            account.confirm_shared(&acks).await;
            claimed
        }));
    }

    /// The consumers know: the client gets the messages.
    pub(super) fn confirmed(&mut self, claimed: Claimed) {
        self.confirming = None;
        for (packet_id, outgoing) in claimed {
            if let Some(owned) = &mut self.owned {
                owned.claims.remove(&packet_id);
            }
            if let Some(share) = &outgoing.share {
                share.settled();
            }
            self.write(false, QoS::ExactlyOnce, Some(packet_id), &outgoing);
        }
    }
}
