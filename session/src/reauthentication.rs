//! Re-authentication of a client that is connected: the exchange of its CONNECT once more, with the same method, while everything
//! else goes on [MQTT 5, 4.12.1].
//!
//! ```text
//!            AUTH 0x19            Accepted ──▶ AUTH 0x00, idle
//!   ── idle ──────────▶ judged ── Refused ───▶ DISCONNECT 0x87
//!                         ▲       Challenge ─▶ AUTH 0x18 ── challenged ─┐
//!                         └──────────────── AUTH 0x18 ──────────────────┘
//! ```
//!
//! No clock runs: until the client has proven something else it is who it was, and no longer than that one may be connected.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Auth, ReasonCode, Secret};

use crate::handshake::{CHALLENGES_MAX, Verdict};

/// What a client says about who it is, once more.
#[derive(Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Authentication data of its AUTH.
    pub data: Option<Secret>,
    /// The challenge that it answers.
    pub challenge: Option<Bytes>,
    /// How many challenges it has answered.
    pub round: u8,
}

/// How far an exchange is.
#[derive(Debug)]
enum Phase {
    /// A verdict is awaited.
    Judged { round: u8 },
    /// AUTH is awaited.
    Challenged { round: u8, challenge: Bytes },
}

/// The exchange that is under way, if one is. Most clients have none.
#[derive(Debug, Default)]
pub(crate) struct Reauthentication(Option<Box<Phase>>);

impl Reauthentication {
    /// The client sent AUTH. What is to be judged, or with which reason its connection ends.
    pub(crate) fn take(&mut self, auth: Auth, method: Option<&ByteString>) -> Result<Evidence, ReasonCode> {
        // Without a method in CONNECT no AUTH may come [MQTT-4.12.0-7], and none with another method [MQTT-4.12.1-1].
        if method.is_none() || auth.authentication_method.as_ref() != method {
            return Err(ReasonCode::ProtocolError);
        }
        let (challenge, round) = match (self.0.take().map(|phase| *phase), auth.reason) {
            (None, ReasonCode::ReAuthenticate) => (None, 0),
            (Some(Phase::Challenged { round, challenge }), ReasonCode::ContinueAuthentication) => {
                (Some(challenge), round + 1)
            }
            _ => return Err(ReasonCode::ProtocolError),
        };
        self.0 = Some(Box::new(Phase::Judged { round }));
        Ok(Evidence { data: auth.authentication_data, challenge, round })
    }

    /// The judge has answered. What the client is sent, or with which reason its connection ends [MQTT-4.12.1-2].
    pub(crate) fn judged(&mut self, verdict: Verdict<()>, method: &ByteString) -> Result<Auth, ReasonCode> {
        let Some(Phase::Judged { round }) = self.0.take().map(|phase| *phase) else {
            return Err(ReasonCode::NotAuthorized);
        };
        let (reason, data) = match verdict {
            Verdict::Accepted((), data) => (ReasonCode::Success, data),
            Verdict::Challenge(challenge) if round < CHALLENGES_MAX => {
                self.0 = Some(Box::new(Phase::Challenged { round, challenge: challenge.clone() }));
                (ReasonCode::ContinueAuthentication, Some(challenge))
            }
            Verdict::Challenge(_) | Verdict::Refused(_) => return Err(ReasonCode::NotAuthorized),
        };
        Ok(Auth {
            reason,
            authentication_method: Some(method.clone()),
            authentication_data: data.map(Secret::from),
            properties: None,
        })
    }
}
