//! From a new byte stream to an accepted CONNECT. Whoever does not get there costs a bounded time and a bounded buffer.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytestring::ByteString;
use mqtt_codec::{
    ConnAck, ConnAckProperties, Connect, Decoder, DecoderOptions, Disconnect, Packet, ReasonCode, Role, Version,
    Violation,
};
use mqtt_session::{Negotiated, negotiate};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Io;
use crate::broker::{Attached, Broker, Event, EventConnect, Refusal, Told, protocol};
use crate::listener::{Foreign, Peer};

/// A connection whose CONNECT was accepted.
pub(crate) struct Greeted {
    pub(crate) decoder: Decoder,
    pub(crate) connect: Box<Connect>,
    pub(crate) negotiated: Negotiated,
}

/// Why a connection did not get to its CONNECT.
enum Failed {
    /// It closed without a word, as health checks do.
    Silent,
    /// It closed in the middle of a packet, or did not send one in time.
    Lost(&'static str),
    /// What it sent is not MQTT.
    Violation(Violation),
    /// It was refused with this, which may be this large.
    Refused(Version, u32, Box<ConnAck>),
}

/// Waits for CONNECT and decides what it gets. What fails is answered, logged and counted here.
pub(crate) async fn greet<S>(io: &mut Io<S>, broker: &Arc<Broker>, peer: &Peer) -> Option<Greeted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut decoder = Decoder::new(DecoderOptions {
        role: Role::Server,
        version: None,
        max_packet_size: broker.options.limits.max_packet_size.get(),
        strict: broker.options.limits.strict,
        max_topic_levels: broker.options.max_topic_levels,
    });
    let first = tokio::time::timeout(broker.options.connect_timeout, first_packet(io, &mut decoder));
    let first = tokio::select! {
        biased;
        first = first => first,
        () = peer.handshake.evicted() => {
            tracing::debug!(remote = %peer.addr, listener = &*peer.listener, "closed before its CONNECT: others wait");
            return None;
        }
    };
    let failed = match first {
        Err(_) => Failed::Lost("no CONNECT in time"),
        Ok(Err(failed)) => failed,
        Ok(Ok(connect)) => match judge(&connect, broker) {
            Ok(negotiated) => return Some(Greeted { decoder, connect, negotiated }),
            Err(connack) => Failed::Refused(connect.version, client_max_packet_size(&connect), connack),
        },
    };
    answer(io, broker, peer, failed, decoder.version());
    None
}

/// What a CONNECT gets, as far as nobody else has to be asked.
fn judge(connect: &Connect, broker: &Arc<Broker>) -> Result<Negotiated, Box<ConnAck>> {
    let negotiated = negotiate(connect, &broker.options.limits, || assigned_id(broker))?;
    let is_too_large = |len| len > client_max_packet_size(connect) as usize;
    let connack = Packet::ConnAck(Box::new(negotiated.connack.clone()));
    if mqtt_codec::encoded_len(&connack, connect.version).is_ok_and(is_too_large) {
        // What it says has to be known, and no packet may be larger than the client wants [MQTT-3.1.2-24].
        return Err(Box::new(refusal(ReasonCode::PacketTooLarge)));
    }
    broker.judge_will(connect, &negotiated.client_id).map_err(|reason| Box::new(refusal(reason)))?;
    Ok(negotiated)
}

fn client_max_packet_size(connect: &Connect) -> u32 {
    connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get)
}

async fn first_packet<S>(io: &mut Io<S>, decoder: &mut Decoder) -> Result<Box<Connect>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match decoder.decode(&mut io.input) {
            Ok(Some(Packet::Connect(connect))) => return Ok(connect),
            // The decoder lets no other packet be the first one [MQTT-3.1.0-1].
            Ok(Some(_)) => return Err(Failed::Lost("the first packet was not CONNECT")),
            Ok(None) => {}
            Err(violation) => return Err(Failed::Violation(violation)),
        }
        match poll_fn(|cx| io.poll_read(cx)).await {
            Ok(0) | Err(_) if io.input.is_empty() => return Err(Failed::Silent),
            Ok(0) | Err(_) => return Err(Failed::Lost("closed before its CONNECT was complete")),
            Ok(_) => {}
        }
    }
}

/// Refuses a CONNECT that was accepted as far as it goes.
pub(super) fn refuse<S>(io: &mut Io<S>, broker: &Broker, version: Version, refused: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Refusal { reason, told } = refused;
    broker.metrics.connect(reason);
    let session_present = match told {
        Told::ConnAck => return send_refusal(io, version, reason),
        Told::Nothing => return,
        Told::Connected { is_present } => is_present,
    };
    // No CONNACK can say that somebody newer has come: it was connected, for no time at all.
    send_connack(io, version, ConnAck { session_present, ..refusal(ReasonCode::Success) });
    if version.is_v5() {
        // A DISCONNECT without properties always fits.
        let _ = mqtt_codec::encode(&Packet::Disconnect(Disconnect::new(reason)), version, io.output.tail());
    }
}

/// An identifier for a client that has none: unique among all sidecars.
fn assigned_id(broker: &Broker) -> ByteString {
    ByteString::from(format!("auto-{}-{}", broker.process, broker.next_session_id()))
}

/// Leaves the answer in the output and tells the operator. `known`: the version of the client, when its CONNECT got that
/// far.
fn answer<S>(io: &mut Io<S>, broker: &Broker, peer: &Peer, failed: Failed, known: Option<Version>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let remote = peer.addr;
    let listener = &*peer.listener;
    match failed {
        Failed::Silent => tracing::debug!(%remote, listener, "closed without a packet"),
        Failed::Lost(why) => {
            broker.metrics.connect(ReasonCode::UnspecifiedError);
            tracing::info!(%remote, listener, "{why}");
        }
        Failed::Violation(violation) => {
            broker.metrics.connect(violation.reason_code());
            tracing::info!(%remote, listener, clause = violation.clause(), "refused: {violation}");
            let foreign = match violation {
                Violation::HttpRequest => Some(Foreign::Http),
                Violation::TlsClientHello => Some(Foreign::Tls),
                _ => None,
            };
            if let Some(foreign) = foreign {
                io.output.tail().extend_from_slice(foreign.answer());
            } else if let Some(version) = violation.connack_version().or(known.filter(|version| version.is_v5())) {
                send_refusal(io, version, violation.reason_code());
            }
        }
        Failed::Refused(version, max, connack) => {
            broker.metrics.connect(connack.reason);
            tracing::info!(%remote, listener, reason_code = ?connack.reason, "refused");
            // What is too large for the client is not sent [MQTT-3.1.2-24].
            let _ = mqtt_codec::encode_limited(&Packet::ConnAck(connack), version, max, io.output.tail());
        }
    }
}

fn send_refusal<S>(io: &mut Io<S>, version: Version, reason: ReasonCode)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_connack(io, version, refusal(reason));
}

fn send_connack<S>(io: &mut Io<S>, version: Version, connack: ConnAck)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A CONNACK without properties always fits.
    let _ = mqtt_codec::encode(&Packet::ConnAck(Box::new(connack)), version, io.output.tail());
}

fn refusal(reason: ReasonCode) -> ConnAck {
    ConnAck { session_present: false, reason, properties: ConnAckProperties::default() }
}

/// A client was accepted.
pub(super) fn tell_connected(broker: &Broker, greeted: &Greeted, attached: &Attached, peer: &Peer) {
    let Greeted { connect, negotiated, .. } = greeted;
    tracing::debug!(
        client_id = &*negotiated.client_id,
        remote = %peer.addr,
        listener = &*peer.listener,
        protocol = protocol(connect.version),
        clean_start = connect.clean_start,
        session_present = attached.is_present,
        session_expiry_s = negotiated.parameters.session_expiry_s,
        keep_alive_s = negotiated.parameters.keep_alive_s,
        "connected"
    );
    broker.events.tell(&negotiated.client_id, broker.node(), || {
        Event::Connect(EventConnect {
            remote: peer.addr,
            listener: peer.listener.to_string(),
            protocol: protocol(connect.version),
            username: connect.username.as_ref().map(ToString::to_string),
            clean_start: connect.clean_start,
            session_present: attached.is_present,
            session_expiry_s: negotiated.parameters.session_expiry_s,
            keep_alive_s: negotiated.parameters.keep_alive_s,
        })
    });
}
