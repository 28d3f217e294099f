//! Why a connection ends, in words, for clients that want them.

use mqtt_codec::{ReasonCode, ReasonProperties};

use super::Connection;

impl<S> Connection<S> {
    /// The Reason String of our DISCONNECT. A client that has said Request Problem Information 0 gets none: only CONNACK and
    /// DISCONNECT might have one then, and nothing else of ours has any [MQTT-3.1.2-29].
    pub(super) fn reason_string(&self, reason: ReasonCode) -> Option<Box<ReasonProperties>> {
        if self.session.parameters().omit_problem_information {
            return None;
        }
        let text = match self.violation {
            Some(violation) => violation.to_string().into(),
            None => explained(reason)?.into(),
        };
        Some(Box::new(ReasonProperties { reason_string: Some(text), user_properties: Vec::new() }))
    }
}

/// What the reason code alone does not say; `None` where it says all.
const fn explained(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::SessionTakenOver => "another connection has this client identifier now",
        ReasonCode::KeepAliveTimeout => "nothing came for one and a half times the keep alive",
        ReasonCode::ServerShuttingDown => "this server ends; connect again, perhaps to another one",
        ReasonCode::UseAnotherServer | ReasonCode::ServerMoved => "this server ends; connect to the one it names",
        ReasonCode::ServerBusy => "the state of the session cannot be kept at the moment; connect again",
        ReasonCode::QuotaExceeded => "the session has become larger than can be kept",
        ReasonCode::ReceiveMaximumExceeded => "more publishes are unacknowledged than CONNACK allows",
        ReasonCode::TopicAliasInvalid => "the topic alias is above the maximum of CONNACK",
        _ => return None,
    })
}
