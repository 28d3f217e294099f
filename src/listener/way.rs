//! The way from a socket to a byte stream of which it is known who is at its end: PROXY protocol, TLS, WebSocket, as far as a
//! listener has them, in that order. Whoever falls off it has been told, and is in the log and in the metrics.

use std::sync::Arc;

use tracing::debug;

use super::proxied::Proxied;
use super::reception::{Reception, Taken};
use super::stream::Stream;
use super::tls::Tls;
use super::upgrade::{Upgrade, Upgraded};
use super::{Peer, WsStream};
use crate::network::PeerAddr;
use crate::overload::{Deed, PROCESS};

/// What stands between the socket of a listener and what it serves.
pub(super) struct Way {
    pub(super) reception: Reception,
    /// For listeners behind proxies.
    pub(super) proxied: Option<Proxied>,
    /// For listeners with TLS.
    pub(super) tls: Option<Arc<Tls>>,
    /// For WebSocket listeners.
    pub(super) upgrade: Option<Upgrade>,
}

impl Way {
    /// Takes somebody in, unless a limit is reached.
    pub(super) fn take(&self, addr: PeerAddr) -> Option<(Peer, Taken)> {
        self.reception.take(addr, self.is_of_others(addr))
    }

    /// Whether the connections from there are those of others, whose addresses count.
    fn is_of_others(&self, addr: PeerAddr) -> bool {
        match &self.proxied {
            Some(proxied) => proxied.trusts(addr),
            None => self.upgrade.as_ref().is_some_and(|upgrade| upgrade.trusts(addr)),
        }
    }

    /// Hears what a proxy says of the connection.
    async fn introduced(&self, stream: &mut Stream, peer: &mut Peer, taken: &mut Taken) -> bool {
        let Some(proxied) = &self.proxied else { return true };
        let before = peer.addr;
        if !proxied.accept(stream, peer).await {
            return false;
        }
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.trusts(peer.addr)) {
            // Who speaks HTTP for others behind the proxy says it later.
            return true;
        }
        match peer.addr == before {
            // A connection of the proxy's own is nobody else's.
            true => self.reception.take_as_own(peer, taken),
            false => self.reception.take_as(peer, taken),
        }
    }

    /// The stream of a connection with all that is encrypted taken off.
    pub(super) async fn opened(&self, mut stream: Stream, peer: &mut Peer, taken: &mut Taken) -> Option<Stream> {
        if !self.introduced(&mut stream, peer, taken).await {
            return None;
        }
        match (&self.tls, stream) {
            // Nobody new is let in, and a handshake costs as much for who is refused as for others.
            (Some(_), Stream::Plain(_)) if PROCESS.refuses() => {
                PROCESS.did(Deed::Closed);
                None
            }
            (Some(tls), Stream::Plain(stream)) => tls.accept(stream, peer).await,
            (_, stream) => Some(stream),
        }
    }

    /// The stream of a connection that has become a WebSocket.
    pub(super) async fn upgraded(
        &self,
        upgrade: &Upgrade,
        stream: Stream,
        peer: &mut Peer,
        taken: &mut Taken,
    ) -> Option<WsStream<Stream>> {
        let upgraded = tokio::select! {
            biased;
            () = peer.handshake.evicted() => return None,
            upgraded = upgrade.accept(stream, peer) => upgraded,
        };
        match upgraded {
            Ok(Upgraded { stream, forwarded }) => {
                let is_of_others = upgrade.trusts(peer.addr);
                if let Some(client) = forwarded {
                    debug!(remote = %peer.addr, listener = &*peer.entrance.name, %client, "forwarded");
                    peer.addr = client.into();
                }
                (!is_of_others || self.reception.take_as(peer, taken)).then_some(stream)
            }
            Err(error) => {
                debug!(remote = %peer.addr, listener = &*peer.entrance.name, %error, "no WebSocket connection");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
