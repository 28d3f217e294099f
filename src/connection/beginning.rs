//! The beginning of a connection: its CONNECT, its session, and CONNACK.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{ConnAck, Decoder, Packet, PacketType, ReasonCode, Version};
use mqtt_ownership::ArrivalPlace;
use mqtt_session::{Negotiated, Session, Time};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::ahead::Ahead;
use super::arriving::Arrived;
use super::handshake;
use super::identity::Identity;
use super::io::{self, Io};
use super::pace::Pace;
use super::parts::{Claimed, Counts, Life, Reading, Resending};
use super::reads::Reads;
use super::retained::PendingRetained;
use super::rights::judge_again;
use crate::account::{Account, Attached, Control, Mail, Order, Publishing, Remote, Rights, Wakes};
use crate::accounts::Stay;
use crate::listener::{Entrance, Peer};
use crate::metrics::{ConnectionGuard, Direction};
use crate::network::PeerAddr;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// From a client in its account to a connection whose client may send its first packet. `None`: it was closed.
    pub(super) async fn begin(arrived: Box<Arrived<S>>) -> Option<Box<Self>> {
        let Arrived { mut io, mut decoder, mut peer, door, stay, welcome, judged_in } = *arrived;
        let account = Arc::clone(stay.account());
        let rights = Rights::new(Arc::clone(&welcome.principal), account.options.rights);
        let rights = Arc::new(rights.within(peer.entrance.mount.clone()));
        let Some(negotiated) = handshake::negotiated(&mut io, &account, &peer, &welcome, &rights) else {
            io::close_socket(io, &door.metrics).await;
            return None;
        };
        if let Some(max) = negotiated.connack.properties.maximum_packet_size {
            // What it is told holds: of a user, that may be less than of others [MQTT-3.2.2.3.6].
            decoder.set_max_packet_size(max.get());
        }
        peer.handshake.complete();
        let counted = account.metrics.connection();
        let connect = welcome.connect;
        let remote =
            Remote { addr: peer.addr, place: ArrivalPlace(peer.place), closing: peer.entrance.closing.clone() };
        // A job of its own: a socket that says nothing does without.
        match Box::pin(account.attach(&negotiated, &connect, remote, &mut io, rights)).await {
            Ok(attached) => {
                if *door.authenticator.changes().borrow() != judged_in {
                    // Whoever was judged again did not see it.
                    judge_again(&*door.authenticator, &attached.control);
                }
                if attached.control.has_no_listener() {
                    // Whoever lets its clients go did not see it.
                    attached.control.order(Order::Drain);
                }
                handshake::tell_connected(&account, &connect, &negotiated, &attached, &peer);
                let counted = (peer.addr, counted, Arc::clone(&peer.entrance));
                heed_bans(&peer, &stay, &attached.control);
                let identity = Identity::of(&connect, Arc::clone(&door), peer);
                let mut connection = Self::new(io, (account, stay), counted, (decoder, negotiated), attached);
                connection.identity = identity;
                connection.look_for_rates();
                connection.look_for_ending();
                Some(connection)
            }
            Err(refusal) => {
                handshake::refuse(&mut io, &account, &connect, refusal);
                io::close_socket(io, &account.metrics).await;
                None
            }
        }
    }

    /// Sends CONNACK, before anything else and never again [MQTT-3.1.4-5], [MQTT-3.2.0-1, -2].
    fn new(
        mut io: Io<S>,
        (account, stay): (Arc<Account>, Stay),
        (remote, counted, entrance): (PeerAddr, ConnectionGuard, Arc<Entrance>),
        (decoder, negotiated): (Decoder, Negotiated),
        attached: Attached,
    ) -> Box<Self> {
        let Attached { control, is_present, epoch, progress, retained, filters, owned } = attached;
        let retained = PendingRetained::resume(retained, owned.iter().flat_map(|owned| owned.subscriptions.values()));
        let version = negotiated.parameters.version;
        // [MQTT-3.2.2-2, -3]
        let connack = ConnAck { session_present: is_present, ..negotiated.connack };
        accept(&mut io, &account, version, connack);
        let client_key = owned.as_ref().and_then(|_| account.client_key(&control.client_id));
        let mut publishing = Publishing::new(Arc::clone(&account), Arc::clone(control.completions()), client_key)
            .answering(control.inbox().open_requests())
            .by(Arc::clone(&control.inbox().rights));
        publishing.tells_publisher = owned.iter().flat_map(|owned| owned.subscriptions.values()).any(|s| s.no_local);
        let mut session = Session::new(Time::default(), negotiated.parameters, epoch, &progress);
        let held = account.metrics.held_outputs();
        let keys = account.store.keys();
        session.name_with(keys.ring().at(keys.now_ms()).id().get());
        if is_present {
            // What is saved was given a time to live when the client left.
            session.save_again();
        }
        Box::new(Self {
            io,
            decoder,
            ahead: Ahead::default(),
            life: Life::default(),
            has_written: false,
            version,
            session,
            publishing,
            account,
            inbox: Arc::clone(control.inbox()),
            control,
            filters,
            shares: HashMap::new(),
            remote,
            started: Instant::now(),
            stay,
            _counted: counted,
            reads: Reads::default(),
            subscribes: Vec::new(),
            subscribing: None,
            making: Box::default(),
            owned,
            writing: None,
            is_unwritable: false,
            is_record_dirty: false,
            record_pace: Pace::new(Instant::now()),
            answers_after_record: VecDeque::new(),
            unsaved_since: None,
            resending: Resending::default(),
            claimed: Claimed::new(),
            confirming: None,
            backlog: Reading::default(),
            retained,
            yielding: None,
            rates: None,
            entrance,
            identity: None,
            held,
            outputs: Vec::new(),
            wakes: Wakes::default(),
            mail: Mail::default(),
            answers: Vec::new(),
            messages: Vec::new(),
            copies: VecDeque::new(),
            catching_up: Vec::new(),
            counts: Counts::default(),
            violation: None,
            is_through: false,
            remainder: None,
            end: None,
        })
    }
}

/// Counts a client that has logged in, and ends it when it was banned for that, or meanwhile: whoever was looked for then was not
/// there yet.
fn heed_bans(peer: &Peer, stay: &Stay, control: &Control) {
    let (bans, principal) = (&peer.entrance.bans, control.inbox().rights.principal());
    let account = stay.account_of_ban(&principal.account);
    bans.connected(&account, principal.user.owner(), &control.client_id, peer.addr.ip());
    if let Some(kind) = bans.judge(peer.addr.ip(), &account, principal.user.owner(), &control.client_id) {
        bans.refused(kind);
        control.order(Order::Close(ReasonCode::AdministrativeAction));
    }
}

/// Sends CONNACK.
fn accept<S>(io: &mut Io<S>, account: &Account, version: Version, connack: ConnAck) {
    // A CONNACK of ours is small and has no text of the client but its assigned id.
    let _ = mqtt_codec::encode(&Packet::ConnAck(Box::new(connack)), version, io.output.tail());
    account.metrics.connect(ReasonCode::Success);
    account.metrics.packets(Direction::In, PacketType::Connect, 1);
    account.metrics.packets(Direction::Out, PacketType::ConnAck, 1);
}
