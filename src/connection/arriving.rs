//! From a new byte stream to a client that is known and has entered its account. Until then nothing of it runs for an account.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_access::Limit;
use mqtt_codec::{Decoder, ReasonCode};
use mqtt_session::Welcome;
use proto_map::session_name;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::handshake::{self, Door, Greeted};
use super::io::{self, Io};
use crate::account::PeerSocket as _;
use crate::accounts::{Accounts, NotServed, Stay};
use crate::auth::{JUDGED_WITHIN, Principal};
use crate::listener::Peer;
use crate::metrics::BanKind;

/// Why a client is refused that has waited for its account as long as for anything.
const STILL_OPENING: &str = "its account is still being opened";

/// A client that is known, in its account.
pub(super) struct Arrived<S> {
    pub(super) io: Io<S>,
    pub(super) decoder: Decoder,
    pub(super) peer: Peer,
    pub(super) door: Arc<Door>,
    pub(super) stay: Stay,
    pub(super) welcome: Welcome<Arc<Principal>>,
    /// Who clients are may have changed since.
    pub(super) judged_in: u64,
}

impl<S> Arrived<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// `None`: it was closed.
    pub(super) async fn from(stream: S, peer: Peer, door: Arc<Door>, accounts: Arc<Accounts>) -> Option<Box<Self>> {
        let mut io = Io::new(stream);
        let judged_in = *door.authenticator.changes().borrow();
        door.metrics.socket();
        // Whoever is refused is heard no more, and the connection ends [MQTT-3.1.4-6], [MQTT-3.2.2-7], [MQTT-4.13.2-1].
        let Some(Greeted { decoder, welcome }) = handshake::greet(&mut io, &door, &peer).await else {
            io::close_socket(io, &door.metrics).await;
            return None;
        };
        match enter(&mut io, &peer, &accounts, &welcome).await {
            Ok(stay) => Some(Box::new(Self { io, decoder, peer, door, stay, welcome, judged_in })),
            Err(Outside::Refused(reason, why)) => {
                let connack = Box::new(handshake::refusal_of(accounts.home(), reason));
                handshake::refuse_known(&mut io, &door.metrics, &peer, &welcome, connack, why.as_deref());
                io::close_socket(io, &door.metrics).await;
                None
            }
            Err(Outside::Gone) => {
                handshake::tell_lost(&door.metrics, &peer, "closed before its account was open");
                None
            }
            Err(Outside::Evicted) => {
                handshake::tell_evicted(&peer, "before its account was open");
                None
            }
        }
    }
}

/// Whether a client that is known is banned.
fn banned(peer: &Peer, accounts: &Accounts, principal: &Principal, session_name: &ByteString) -> Option<BanKind> {
    let account = accounts.account_of_ban(&principal.account);
    peer.entrance.bans.of_client(&account, principal.user.owner(), session_name, peer.addr.ip())
}

/// Why a client did not get into its account.
enum Outside {
    /// It is told; and what the log says besides.
    Refused(ReasonCode, Option<String>),
    /// It has left.
    Gone,
    /// Others wait for its place among those that are not connected yet.
    Evicted,
}

/// Enters the account of a client.
async fn enter<S>(
    io: &mut Io<S>,
    peer: &Peer,
    accounts: &Arc<Accounts>,
    welcome: &Welcome<Arc<Principal>>,
) -> Result<Stay, Outside>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let principal = &welcome.principal;
    let name = session_name(peer.entrance.mount.as_deref(), &welcome.connect.client_id);
    if let Some(kind) = banned(peer, accounts, principal, &name) {
        peer.entrance.bans.refused(kind);
        return Err(Outside::Refused(ReasonCode::Banned, None));
    }
    let configured =
        peer.entrance.limits.get().connections_per_user.map_or(Limit::Unlimited, |most| Limit::Max(most.into()));
    let most = principal.rules.connections.unwrap_or(configured);
    let entering = accounts.enter_as(principal, &name, most);
    tokio::select! {
        biased;
        entered = timeout(JUDGED_WITHIN, entering) => match entered {
            Ok(Ok(stay)) => Ok(stay),
            Ok(Err(why)) => Err(Outside::Refused(reason_of(&why, accounts), Some(why.to_string()))),
            Err(_) => Err(Outside::Refused(ReasonCode::ServerUnavailable, Some(STILL_OPENING.to_owned()))),
        },
        () = peer.handshake.evicted() => Err(Outside::Evicted),
        () = std::future::poll_fn(|cx| io.poll_gone(cx)) => Err(Outside::Gone),
    }
}

/// What a client is told whose account does not serve it.
fn reason_of(why: &NotServed, accounts: &Accounts) -> ReasonCode {
    match why {
        NotServed::TooMany | NotServed::Full | NotServed::FullOfUser => ReasonCode::QuotaExceeded,
        NotServed::Ending => accounts.home().drain_refusal(),
        NotServed::Refused(_) => ReasonCode::ServerUnavailable,
    }
}
