//! The beginning of a connection: its CONNECT, its session, and CONNACK.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{ConnAck, Decoder, Packet, PacketType, ReasonCode, Version};
use mqtt_session::{Negotiated, Session, Time};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::ahead::Ahead;
use super::handshake::{self, Door, Greeted};
use super::io::{self, Io};
use super::pace::Pace;
use super::parts::{Claimed, Counts, Life, Reading};
use super::retained::Owed;
use crate::account::{Attached, Broker, Mail, Publishing, Remote, Wakes};
use crate::listener::Peer;
use crate::metrics::{ConnectionGuard, Direction};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// From a new byte stream to a connection whose client may send its first packet. `None`: it was closed.
    pub(super) async fn begin(stream: S, mut peer: Peer, door: Arc<Door>, broker: Arc<Broker>) -> Option<Box<Self>> {
        let mut io = Io::new(stream);
        door.metrics.socket();
        // Whoever is refused is heard no more, and the connection ends [MQTT-3.1.4-6], [MQTT-3.2.2-7], [MQTT-4.13.2-1].
        let Some(Greeted { decoder, welcome }) = handshake::greet(&mut io, &door, &peer).await else {
            io::close_socket(io, &door.metrics).await;
            return None;
        };
        let Some(negotiated) = handshake::negotiated(&mut io, &broker, &peer, &welcome) else {
            io::close_socket(io, &door.metrics).await;
            return None;
        };
        peer.handshake.complete();
        let counted = broker.metrics.connection();
        let connect = welcome.connect;
        let remote = Remote { addr: peer.addr, place: peer.place };
        // A job of its own: a socket that says nothing does without.
        match Box::pin(broker.attach(&negotiated, &connect, remote, &mut io)).await {
            Ok(attached) => {
                handshake::tell_connected(&broker, &connect, &negotiated, &attached, &peer);
                Some(Self::new(io, broker, (peer.addr, counted), (decoder, negotiated), attached))
            }
            Err(refusal) => {
                handshake::refuse(&mut io, &broker, connect.version, refusal);
                io::close_socket(io, &broker.metrics).await;
                None
            }
        }
    }

    /// Sends CONNACK, before anything else and never again [MQTT-3.1.4-5], [MQTT-3.2.0-1, -2].
    fn new(
        mut io: Io<S>,
        broker: Arc<Broker>,
        (remote, counted): (SocketAddr, ConnectionGuard),
        (decoder, negotiated): (Decoder, Negotiated),
        attached: Attached,
    ) -> Box<Self> {
        let Attached { mailbox, is_present, epoch, progress, retained, filters, owned } = attached;
        let retained = Owed::resume(retained, owned.iter().flat_map(|owned| owned.subscriptions.values()));
        let version = negotiated.parameters.version;
        // [MQTT-3.2.2-2, -3]
        let connack = ConnAck { session_present: is_present, ..negotiated.connack };
        accept(&mut io, &broker, version, connack);
        let tells_publisher = owned.iter().flat_map(|owned| owned.subscriptions.values()).any(|s| s.no_local);
        let client_key = owned.as_ref().and_then(|_| broker.client_key(&mailbox.client_id));
        let mut publishing = Publishing::new(Arc::clone(&broker), Arc::clone(&mailbox), client_key);
        publishing.tells_publisher = tells_publisher;
        let mut session = Session::new(Time::default(), negotiated.parameters, epoch, &progress);
        let held = broker.metrics.held_outputs();
        let keys = broker.store.keys();
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
            broker,
            mailbox,
            filters,
            shares: HashMap::new(),
            remote,
            started: Instant::now(),
            _counted: counted,
            subscribes: Vec::new(),
            subscribing: None,
            waiting: None,
            owned,
            writing: None,
            is_unwritable: false,
            is_record_dirty: false,
            record_pace: Pace::new(Instant::now()),
            answers_after_record: VecDeque::new(),
            unsaved_since: None,
            resending: None,
            claimed: Claimed::new(),
            confirming: None,
            backlog: Reading::default(),
            retained,
            yielding: None,
            held,
            outputs: Vec::new(),
            wakes: Wakes::default(),
            mail: Mail::default(),
            answers: Vec::new(),
            messages: Vec::new(),
            copies: VecDeque::new(),
            behind: Vec::new(),
            counts: Counts::default(),
            violation: None,
            is_through: false,
            remainder: None,
            end: None,
        })
    }
}

/// Sends CONNACK.
fn accept<S>(io: &mut Io<S>, broker: &Broker, version: Version, connack: ConnAck) {
    // A CONNACK of ours is small and has no text of the client but its assigned id.
    let _ = mqtt_codec::encode(&Packet::ConnAck(Box::new(connack)), version, io.output.tail());
    broker.metrics.connect(ReasonCode::Success);
    broker.metrics.packets(Direction::In, PacketType::Connect, 1);
    broker.metrics.packets(Direction::Out, PacketType::ConnAck, 1);
}
