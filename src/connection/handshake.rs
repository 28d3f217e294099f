//! From a new byte stream to a client that is known, and to what it gets. Whoever does not get there costs a bounded time and a
//! bounded buffer, and no account.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{
    ConnAck, ConnAckProperties, Connect, Decoder, DecoderOptions, Disconnect, Packet, ReasonCode, Version, Violation,
};
use mqtt_session::{
    Handshake, HandshakeInput, HandshakeStep, Limits, Negotiated, NoAnswer, Patience, Time, Unwelcome, Verdict,
    Welcome, negotiate,
};
use proto_map::session_name;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use super::io::Io;
use crate::account::{Account, Attached, Event, EventConnect, PeerSocket, Refusal, Rights, Told, protocol};
use crate::auth::{Authenticator, Principal};
use crate::listener::{Entrance, Foreign, Peer, Refused};
use crate::metrics::{BanKind, Counts, Metrics};
use crate::overload::{Deed, PROCESS};

/// A CONNECT that is not complete with so many bytes is not waited for when memory is short.
const CONNECT_SMALL: usize = 16 * 1024;

/// When a client that is refused because there is too much to do is asked to come back: after so many seconds, and as many more at most.
const RETRY_S: (u64, u64) = (10, 20);

/// What stands before every account: it is enough to find out who a client is.
pub(crate) struct Door {
    /// How its packets are read, but for what its listener says.
    pub(crate) decoder: DecoderOptions,
    /// How long it may take, and whoever judges it.
    pub(crate) patience: Patience,
    /// Who judges it.
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Counts what comes of it.
    pub(crate) metrics: Arc<Metrics>,
}

/// A client that is known.
pub(crate) struct Greeted {
    pub(crate) decoder: Decoder,
    pub(crate) welcome: Welcome<Arc<Principal>>,
}

/// Why a connection did not get past the door.
enum Failed {
    /// It closed without a word, as health checks do.
    Silent,
    /// It closed in the middle of a packet, or did not send one in time.
    Lost(&'static str),
    /// What it sent is not MQTT.
    Violation(Violation),
    /// It was refused with this, which may be this large.
    Refused(Version, u32, Box<ConnAck>),
    /// The same by whoever judged it, who has said so in the log.
    Judged(Version, u32, Box<ConnAck>),
}

impl Failed {
    fn unwelcome(Unwelcome { connect, connack }: Unwelcome, is_told: bool) -> Self {
        let (version, max, connack) = (connect.version, client_max_packet_size(&connect), Box::new(connack));
        if is_told { Self::Judged(version, max, connack) } else { Self::Refused(version, max, connack) }
    }
}

/// Finds out who a client is. What fails is answered, logged and counted here.
pub(crate) async fn greet<S>(io: &mut Io<S>, door: &Door, peer: &Peer) -> Option<Greeted>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Entrance { versions, strict, .. } = *peer.entrance;
    // Topics have to be within the limit with those of the mount point.
    let mounted = peer.entrance.mount.as_ref().map_or(0, |mount| mount.levels());
    let max_topic_levels = door.decoder.max_topic_levels.saturating_sub(mounted);
    let mut decoder = Decoder::new(DecoderOptions { versions, strict, max_topic_levels, ..door.decoder });
    let exchanged = tokio::select! {
        biased;
        exchanged = exchange(io, &mut decoder, door, peer) => exchanged,
        () = peer.handshake.evicted() => {
            tell_evicted(peer, "before its CONNECT");
            return None;
        }
    };
    match exchanged {
        Ok(welcome) => Some(Greeted { decoder, welcome }),
        Err(failed) => {
            strike(peer, &failed);
            answer(io, &door.metrics, peer, failed, decoder.version());
            None
        }
    }
}

/// Drives the handshake: reads what it waits for, and has judged what it wants judged.
async fn exchange<S>(
    io: &mut Io<S>,
    decoder: &mut Decoder,
    door: &Door,
    peer: &Peer,
) -> Result<Welcome<Arc<Principal>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // What TLS and HTTP took counts.
    let began = peer.since;
    let mut handshake = Handshake::new(Time(0), door.patience);
    let mut step = HandshakeStep::Wait;
    let mut is_told = false;
    loop {
        let deadline = began + Duration::from_millis(handshake.deadline().unwrap_or_default().0);
        let input = match step {
            HandshakeStep::Wait => timeout_at(deadline, next_packet(io, decoder)).await,
            HandshakeStep::Send(auth) => {
                // A method that was read can be written.
                let _ = mqtt_codec::encode(&Packet::Auth(auth), Version::V5, io.output.tail());
                timeout_at(deadline, next_packet(io, decoder)).await
            }
            HandshakeStep::Judge => timeout_at(deadline, judged(io, &handshake, door, peer)).await,
            HandshakeStep::Accept(welcome) => return Ok(*welcome),
            HandshakeStep::Refuse(mut unwelcome) => {
                if unwelcome.connack.reason == ReasonCode::ServerBusy && PROCESS.refuses() {
                    unwelcome.connack.properties.reason_string = Some(busy(peer));
                }
                return Err(Failed::unwelcome(*unwelcome, is_told));
            }
            HandshakeStep::Close(why) => return Err(Failed::Lost(text_of(why))),
        };
        let mut input = input.unwrap_or(Ok(HandshakeInput::Time))?;
        if let (HandshakeInput::Packet(packet), Some(mount)) = (&mut input, &peer.entrance.mount) {
            mount.enter(packet).map_err(Failed::Violation)?;
        }
        is_told = matches!(input, HandshakeInput::Verdict(Verdict::Refused(_)));
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        step = handshake.handle(Time(elapsed), input);
    }
}

const fn text_of(why: NoAnswer) -> &'static str {
    match why {
        NoAnswer::NoConnect => "no CONNECT in time",
        NoAnswer::NotConnect => "the first packet was not CONNECT",
        NoAnswer::Disconnected => "it left when it was asked who it is",
        NoAnswer::NoAuth => "no AUTH in time",
    }
}

/// What a client is told that is refused because there is too much to do. Not all of them come back at the same time.
fn busy(peer: &Peer) -> ByteString {
    format!("the server is busy: try again in {} seconds", RETRY_S.0 + peer.place % RETRY_S.1).into()
}

/// The verdict on what the client has said, unless it goes away first.
async fn judged<S>(
    io: &mut Io<S>,
    handshake: &Handshake,
    door: &Door,
    peer: &Peer,
) -> Result<HandshakeInput<Arc<Principal>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Some(credentials) = handshake.credentials() else { return Ok(HandshakeInput::Time) };
    if PROCESS.refuses() {
        // Before anybody is asked who it is.
        PROCESS.did(Deed::Refused);
        return Ok(HandshakeInput::Verdict(Verdict::Refused(ReasonCode::ServerBusy)));
    }
    if let Some(reason) = refused_at_the_door(peer) {
        return Ok(HandshakeInput::Verdict(Verdict::Refused(reason)));
    }
    tokio::select! {
        biased;
        verdict = door.authenticator.judge(credentials, peer) => Ok(HandshakeInput::Verdict(verdict)),
        () = poll_fn(|cx| io.poll_gone(cx)) => Err(Failed::Lost("closed before it was known")),
    }
}

/// What somebody is told who is refused whoever it is.
fn refused_at_the_door(peer: &Peer) -> Option<ReasonCode> {
    match peer.refused {
        // Counted, and in the log, since it was accepted.
        Some(Refused::Limit(limit)) => Some(limit.reason_code()),
        Some(Refused::Banned) => Some(ReasonCode::Banned),
        // Its address may be known better by now.
        None if peer.addr.ip().is_some_and(|ip| peer.entrance.bans.is_address_banned(ip)) => {
            peer.entrance.bans.refused(BanKind::Address);
            Some(ReasonCode::Banned)
        }
        None => None,
    }
}

/// Whoever fails too often is banned, by its address.
fn strike(peer: &Peer, failed: &Failed) {
    let Some(ip) = peer.addr.ip() else { return };
    match failed {
        Failed::Judged(_, _, connack) => {
            if let ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized = connack.reason {
                peer.entrance.bans.failed_login(ip);
            }
        }
        Failed::Violation(_) => peer.entrance.bans.violated(ip),
        Failed::Silent | Failed::Lost(_) | Failed::Refused(..) => {}
    }
}

async fn next_packet<S>(io: &mut Io<S>, decoder: &mut Decoder) -> Result<HandshakeInput<Arc<Principal>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if let Some(packet) = decoder.decode(&mut io.input).map_err(Failed::Violation)? {
            return Ok(HandshakeInput::Packet(packet));
        }
        let read = poll_fn(|cx| {
            while io.has_output() && io.poll_write(cx).is_ready() {}
            io.poll_read(cx)
        });
        match read.await {
            Ok(0) | Err(_) if io.input.is_empty() && decoder.version().is_none() => return Err(Failed::Silent),
            Ok(0) | Err(_) => return Err(Failed::Lost("closed before its CONNECT was complete")),
            Ok(_) => {}
        }
        io.hold(0);
        if io.input.len() > CONNECT_SMALL && PROCESS.budget.is_short() {
            PROCESS.did(Deed::Refused);
            return Err(Failed::Lost("no memory for its CONNECT"));
        }
    }
}

/// What the CONNECT of a client that is known gets of its account, as far as nobody else has to be asked [MQTT-3.1.4-2]. What is
/// refused is answered, logged and counted here.
pub(super) fn negotiated<S>(
    io: &mut Io<S>,
    account: &Arc<Account>,
    peer: &Peer,
    welcome: &Welcome<Arc<Principal>>,
    rights: &Arc<Rights>,
) -> Option<Negotiated>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match offered(welcome, account, peer, rights) {
        Ok(negotiated) => Some(negotiated),
        Err(connack) => {
            refuse_known(io, &account.metrics, peer, welcome, connack, None);
            None
        }
    }
}

fn offered(
    welcome: &Welcome<Arc<Principal>>,
    account: &Arc<Account>,
    peer: &Peer,
    rights: &Arc<Rights>,
) -> Result<Negotiated, Box<ConnAck>> {
    let connect = &welcome.connect;
    let limits = Limits { strict: peer.entrance.strict, ..rights.limits(&account.options.limits) };
    let mut negotiated = negotiate(connect, &limits, || assigned_id(account))?;
    if let Some(mount) = &peer.entrance.mount {
        negotiated.client_id = session_name(Some(mount), &negotiated.client_id);
    }
    let properties = &mut negotiated.connack.properties;
    // [MQTT-4.12.0-5]
    properties.authentication_method.clone_from(&connect.properties.authentication_method);
    properties.authentication_data.clone_from(&welcome.data);
    let is_too_large = |len| len > client_max_packet_size(connect) as usize;
    let connack = Packet::ConnAck(Box::new(negotiated.connack.clone()));
    if mqtt_codec::encoded_len(&connack, connect.version).is_ok_and(is_too_large) {
        // What it says has to be known, and no packet may be larger than the client wants [MQTT-3.1.2-24].
        return Err(Box::new(refusal(ReasonCode::PacketTooLarge)));
    }
    account.judge_will(connect, &negotiated.client_id, rights).map_err(|reason| Box::new(refusal(reason)))?;
    Ok(negotiated)
}

/// Refuses a client that is known. `why`: what its reason code does not say.
pub(super) fn refuse_known<S>(
    io: &mut Io<S>,
    metrics: &Counts,
    peer: &Peer,
    welcome: &Welcome<Arc<Principal>>,
    connack: Box<ConnAck>,
    why: Option<&str>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Welcome { connect, principal, .. } = welcome;
    tracing::info!(
        client_id = &*connect.client_id,
        account = principal.account.as_str(),
        user = principal.user.owner(),
        remote = %peer.addr,
        listener = &*peer.entrance.name,
        reason_code = ?connack.reason,
        why,
        "refused"
    );
    send_limited(io, metrics, connect.version, client_max_packet_size(connect), connack);
}

/// A refusal that says where to go instead, if there is such a place.
pub(super) fn refusal_of(account: &Account, reason: ReasonCode) -> ConnAck {
    let mut connack = refusal(reason);
    connack.properties.server_reference = account.server_reference(reason);
    connack
}

fn client_max_packet_size(connect: &Connect) -> u32 {
    connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get)
}

/// Refuses a CONNECT that was accepted as far as it goes.
pub(super) fn refuse<S>(io: &mut Io<S>, account: &Account, connect: &Connect, refused: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Refusal { reason, told } = refused;
    let (version, max) = (connect.version, client_max_packet_size(connect));
    account.metrics.connect(reason);
    let session_present = match told {
        Told::ConnAck => {
            let connack = Packet::ConnAck(Box::new(refusal_of(account, reason)));
            // What is too large for the client is not sent [MQTT-3.1.2-24].
            let _ = mqtt_codec::encode_limited(&connack, version, max, io.output.tail());
            return;
        }
        Told::Nothing => return,
        Told::Connected { is_present } => is_present,
    };
    // No CONNACK can say that somebody newer has come: it was connected, for no time at all.
    send_connack(io, version, ConnAck { session_present, ..refusal(ReasonCode::Success) });
    if version.is_v5() {
        let mut disconnect = Disconnect::new(reason);
        disconnect.server_reference = account.server_reference(reason);
        let _ = mqtt_codec::encode_limited(&Packet::Disconnect(disconnect), version, max, io.output.tail());
    }
}

/// An identifier for a client that has none: unique among all sidecars.
fn assigned_id(account: &Account) -> ByteString {
    ByteString::from(format!("auto-{}-{}", account.process, account.next_session_id().0))
}

/// Leaves the answer in the output and tells the operator. `known`: the version of the client, when its CONNECT got that
/// far. One of 3.x that breaks the rules [MQTT-3.1.4-1] is told nothing, since no return code says so
/// [MQTT-3.2.2-6 of 3.1.1].
fn answer<S>(io: &mut Io<S>, metrics: &Counts, peer: &Peer, failed: Failed, known: Option<Version>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let remote = peer.addr;
    let listener = &*peer.entrance.name;
    match failed {
        Failed::Silent => tracing::debug!(%remote, listener, "closed without a packet"),
        Failed::Lost(why) => tell_lost(metrics, peer, why),
        Failed::Violation(violation) => {
            metrics.connect(violation.reason_code());
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
            tracing::info!(%remote, listener, reason_code = ?connack.reason, "refused");
            send_limited(io, metrics, version, max, connack);
        }
        Failed::Judged(version, max, connack) => send_limited(io, metrics, version, max, connack),
    }
}

/// A connection is lost that has not been answered.
pub(super) fn tell_lost(metrics: &Counts, peer: &Peer, why: &str) {
    metrics.connect(ReasonCode::UnspecifiedError);
    tracing::info!(remote = %peer.addr, listener = &*peer.entrance.name, "{why}");
}

/// A connection is closed for the place that it has among those that are not connected.
pub(super) fn tell_evicted(peer: &Peer, when: &str) {
    tracing::debug!(remote = %peer.addr, listener = &*peer.entrance.name, "closed {when}: others wait");
}

fn send_limited<S>(io: &mut Io<S>, metrics: &Counts, version: Version, max: u32, connack: Box<ConnAck>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    metrics.connect(connack.reason);
    // What is too large for the client is not sent [MQTT-3.1.2-24].
    let _ = mqtt_codec::encode_limited(&Packet::ConnAck(connack), version, max, io.output.tail());
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
pub(super) fn tell_connected(
    account: &Account,
    connect: &Connect,
    negotiated: &Negotiated,
    attached: &Attached,
    peer: &Peer,
) {
    tracing::debug!(
        client_id = &*negotiated.client_id,
        remote = %peer.addr,
        listener = &*peer.entrance.name,
        protocol = protocol(connect.version),
        clean_start = connect.clean_start,
        session_present = attached.is_present,
        session_expiry_s = negotiated.parameters.session_expiry_s,
        keep_alive_s = negotiated.parameters.keep_alive_s,
        "connected"
    );
    account.events.tell(&negotiated.client_id, account.node(), || {
        Event::Connect(EventConnect {
            remote: peer.addr,
            listener: peer.entrance.name.to_string(),
            protocol: protocol(connect.version),
            username: connect.username.as_ref().map(ToString::to_string),
            user: attached.control.inbox().rights.user(),
            clean_start: connect.clean_start,
            session_present: attached.is_present,
            session_expiry_s: negotiated.parameters.session_expiry_s,
            keep_alive_s: negotiated.parameters.keep_alive_s,
        })
    });
}

#[cfg(test)]
mod tests;
