//! How a refusal is told: to the client with a reason code, to the operator with the step at which it was refused.

use std::sync::Arc;

use mqtt_codec::{Connect, ReasonCode};

use crate::listener::Peer;
use crate::metrics::{AuthStep, Metrics};

/// Refusals are counted, and in the log, each with the step at which it was refused. What the client has as a secret is not.
#[derive(Debug)]
pub(crate) struct Refusals(Arc<Metrics>);

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }

    /// A client is refused at a step. What CONNACK says.
    pub(crate) fn tell(&self, connect: &Connect, peer: &Peer, step: AuthStep) -> ReasonCode {
        self.0.auth_refused(step);
        let reason = reason_of(step);
        tracing::info!(
            client_id = &*connect.client_id,
            user = connect.username.as_deref().unwrap_or_default(),
            remote = %peer.addr,
            listener = &*peer.listener,
            step = step.text(),
            reason_code = ?reason,
            "refused"
        );
        reason
    }
}

/// What a client is told; it learns no more than it has to know.
const fn reason_of(step: AuthStep) -> ReasonCode {
    match step {
        AuthStep::Method => ReasonCode::BadAuthenticationMethod,
        AuthStep::UnknownUser
        | AuthStep::WrongPassword
        | AuthStep::JwtTooLong
        | AuthStep::JwtMalformed
        | AuthStep::JwtAlgorithm
        | AuthStep::JwtClaims
        | AuthStep::JwtVersion
        | AuthStep::JwtKind
        | AuthStep::JwtKey
        | AuthStep::JwtSignature => ReasonCode::BadUserNameOrPassword,
        AuthStep::ClientId => ReasonCode::ClientIdentifierNotValid,
        AuthStep::Busy | AuthStep::ResolverUnreachable => ReasonCode::ServerUnavailable,
        _ => ReasonCode::NotAuthorized,
    }
}

/// With which reason a connection ends whose principal would be refused at this step by now.
pub(crate) const fn ending_of(step: AuthStep) -> ReasonCode {
    match step {
        AuthStep::Expired | AuthStep::AccountExpired | AuthStep::TimeWindow => ReasonCode::MaximumConnectTime,
        _ => ReasonCode::AdministrativeAction,
    }
}
