//! From CONNECT to its answer, as far as nobody but the client and whoever knows users takes part.
//!
//! ```text
//!             CONNECT                     Accepted ──▶ Accept
//!   ── wait ──────────▶ Judge ── verdict ─ Refused ───▶ Refuse
//!                         ▲                Challenge ─▶ AUTH 0x18 ── wait ─┐
//!                         └─────────────────── AUTH 0x18 ──────────────────┘
//! ```
//!
//! Two clocks run: the client's, while we wait for it, and the judge's, while it is asked. Nobody pays for the other.

use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{Auth, ConnAck, ConnAckProperties, Connect, Packet, ReasonCode, Secret};

use crate::Time;

/// How often a client may be asked once more in one handshake. What is known takes one (a nonce) or two (SCRAM).
pub const CHALLENGES_MAX: u8 = 8;

/// How long each side may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the client in all: from the beginning until its last packet of the handshake is there.
    pub client: Duration,
    /// For a verdict.
    pub judge: Duration,
}

/// A handshake. `P` is who the client turned out to be.
///
/// It is fed with [`Self::handle`], each time with what its last [`HandshakeStep`] waits for, or with the time.
#[derive(Debug)]
pub struct Handshake {
    phase: Phase,
    patience: Patience,
    /// When the wait that is under way began.
    since: Time,
    /// What the client may still take.
    left: Duration,
    challenges: u8,
}

#[derive(Debug)]
enum Phase {
    /// CONNECT is awaited.
    Begun,
    /// A verdict is awaited, on the CONNECT and on what the client answered last, if it was asked.
    Judged {
        connect: Box<Connect>,
        answer: Option<Answer>,
    },
    /// AUTH is awaited.
    Challenged {
        connect: Box<Connect>,
        challenge: Bytes,
    },
    Over,
}

/// What a client has answered to a challenge.
#[derive(Debug)]
struct Answer {
    challenge: Bytes,
    data: Secret,
}

/// Something that happened.
#[derive(Debug)]
pub enum HandshakeInput<P> {
    /// The client sent a packet.
    Packet(Packet),
    /// The judge has answered [`HandshakeStep::Judge`].
    Verdict(Verdict<P>),
    /// Time went by; see [`Handshake::deadline`].
    Time,
}

/// What whoever knows users says of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<P> {
    /// It is this one. With data for CONNACK, in an exchange that proves the server as well.
    Accepted(P, Option<Bytes>),
    /// It is to prove more, by an answer to this [MQTT-4.12.0-2]. Only for a client that named an authentication method.
    Challenge(Bytes),
    /// It is refused, with a reason code that CONNACK can carry, and the connection ends [MQTT-4.12.0-4].
    Refused(ReasonCode),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum HandshakeStep<P> {
    /// Wait for what was awaited before.
    Wait,
    /// Ask who this is by [`Handshake::credentials`], and tell [`HandshakeInput::Verdict`]. Nothing of the client is read
    /// meanwhile.
    Judge,
    /// Send AUTH, and read what the client answers.
    Send(Auth),
    /// The client is who it says. Everything else about its CONNECT is for [`negotiate`](crate::negotiate()).
    Accept(Box<Welcome<P>>),
    /// Send CONNACK and close.
    Refuse(Box<Unwelcome>),
    /// Close without a word [MQTT-3.1.4-1].
    Close(NoAnswer),
}

/// A client that is who it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Welcome<P> {
    /// Its CONNECT, without password and authentication data: nobody needs them any more.
    pub connect: Box<Connect>,
    /// Who it is.
    pub principal: P,
    /// Authentication data for CONNACK.
    pub data: Option<Bytes>,
}

/// A client that is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Unwelcome {
    /// Its CONNECT, without password and authentication data.
    pub connect: Box<Connect>,
    /// What it is told.
    pub connack: ConnAck,
}

/// Why a handshake ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// CONNECT did not come in time.
    NoConnect,
    /// Something else came first [MQTT-3.1.0-1].
    NotConnect,
    /// It was asked for more and said DISCONNECT.
    Disconnected,
    /// It was asked for more and did not answer in time.
    NoAuth,
}

/// What a client says about who it is.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// Its CONNECT, with the authentication method if it names one.
    pub connect: &'a Connect,
    /// Authentication data: of CONNECT, or of the last AUTH.
    pub data: Option<&'a Secret>,
    /// The challenge that it answers, as the judge has made it in this exchange and for nobody else.
    pub challenge: Option<&'a [u8]>,
    /// How many challenges it has answered.
    pub round: u8,
}

impl Handshake {
    /// A handshake that begins now.
    #[must_use]
    pub const fn new(now: Time, patience: Patience) -> Self {
        Self { phase: Phase::Begun, patience, since: now, left: patience.client, challenges: 0 }
    }

    /// When [`HandshakeInput::Time`] is due; `None` when it is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Begun | Phase::Challenged { .. } => Some(self.since.plus(self.left)),
            Phase::Judged { .. } => Some(self.since.plus(self.patience.judge)),
            Phase::Over => None,
        }
    }

    /// What is to be judged; `None` unless a verdict is awaited.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials<'_>> {
        let Phase::Judged { connect, answer } = &self.phase else { return None };
        Some(Credentials {
            connect,
            data: answer.as_ref().map(|answer| &answer.data).or(connect.properties.authentication_data.as_ref()),
            challenge: answer.as_ref().map(|answer| &*answer.challenge),
            round: self.challenges,
        })
    }

    /// Takes what happened and says what is to be done.
    pub fn handle<P>(&mut self, now: Time, input: HandshakeInput<P>) -> HandshakeStep<P> {
        match (std::mem::replace(&mut self.phase, Phase::Over), input) {
            (phase, HandshakeInput::Time) => self.look_at_clock(phase, now),
            (Phase::Begun, HandshakeInput::Packet(Packet::Connect(connect))) => self.judge(connect, None, now),
            (Phase::Begun, HandshakeInput::Packet(_)) => HandshakeStep::Close(NoAnswer::NotConnect),
            (Phase::Challenged { connect, challenge }, HandshakeInput::Packet(packet)) => {
                self.answered(connect, challenge, packet, now)
            }
            (Phase::Judged { connect, .. }, HandshakeInput::Verdict(verdict)) => self.judged(connect, verdict, now),
            // Whoever names a method waits for CONNACK with everything else [MQTT-3.1.2-30]; and nothing of the others is read.
            (Phase::Judged { connect, .. }, HandshakeInput::Packet(_)) => refuse(connect, ReasonCode::ProtocolError),
            // A verdict that nobody waits for comes too late.
            (phase, HandshakeInput::Verdict(_)) => {
                self.phase = phase;
                HandshakeStep::Wait
            }
            (Phase::Over, HandshakeInput::Packet(_)) => HandshakeStep::Wait,
        }
    }

    fn look_at_clock<P>(&mut self, phase: Phase, now: Time) -> HandshakeStep<P> {
        self.phase = phase;
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return HandshakeStep::Wait;
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Begun => HandshakeStep::Close(NoAnswer::NoConnect),
            Phase::Challenged { .. } => HandshakeStep::Close(NoAnswer::NoAuth),
            Phase::Judged { connect, .. } => refuse(connect, ReasonCode::ServerUnavailable),
            Phase::Over => HandshakeStep::Wait,
        }
    }

    fn judge<P>(&mut self, connect: Box<Connect>, answer: Option<Answer>, now: Time) -> HandshakeStep<P> {
        self.left = self.left.saturating_sub(now.since(self.since));
        self.since = now;
        self.phase = Phase::Judged { connect, answer };
        HandshakeStep::Judge
    }

    /// The client sent a packet where an AUTH is awaited, which has to go on with the method of CONNECT [MQTT-4.12.0-5].
    fn answered<P>(&mut self, connect: Box<Connect>, challenge: Bytes, packet: Packet, now: Time) -> HandshakeStep<P> {
        match packet {
            Packet::Auth(auth)
                if auth.reason == ReasonCode::ContinueAuthentication
                    && auth.authentication_method == connect.properties.authentication_method =>
            {
                let data = auth.authentication_data.unwrap_or_else(|| Secret::from(Vec::new()));
                self.judge(connect, Some(Answer { challenge, data }), now)
            }
            Packet::Disconnect(_) => HandshakeStep::Close(NoAnswer::Disconnected),
            _ => refuse(connect, ReasonCode::ProtocolError),
        }
    }

    fn judged<P>(&mut self, connect: Box<Connect>, verdict: Verdict<P>, now: Time) -> HandshakeStep<P> {
        match verdict {
            Verdict::Accepted(principal, data) => {
                HandshakeStep::Accept(Box::new(Welcome { connect: without_secrets(connect), principal, data }))
            }
            Verdict::Refused(reason) => refuse(connect, reason),
            Verdict::Challenge(_) if self.challenges >= CHALLENGES_MAX => refuse(connect, ReasonCode::NotAuthorized),
            Verdict::Challenge(data) => {
                // Who did not name a method cannot be asked [MQTT-4.12.0-6].
                let Some(method) = connect.properties.authentication_method.clone() else {
                    return refuse(connect, ReasonCode::NotAuthorized);
                };
                self.challenges += 1;
                self.since = now;
                self.phase = Phase::Challenged { connect, challenge: data.clone() };
                HandshakeStep::Send(Auth {
                    reason: ReasonCode::ContinueAuthentication,
                    authentication_method: Some(method),
                    authentication_data: Some(Secret::from(data)),
                    properties: None,
                })
            }
        }
    }
}

fn without_secrets(mut connect: Box<Connect>) -> Box<Connect> {
    connect.password = None;
    connect.properties.authentication_data = None;
    connect
}

fn refuse<P>(connect: Box<Connect>, reason: ReasonCode) -> HandshakeStep<P> {
    let connack = ConnAck { session_present: false, reason, properties: ConnAckProperties::default() };
    HandshakeStep::Refuse(Box::new(Unwelcome { connect: without_secrets(connect), connack }))
}
