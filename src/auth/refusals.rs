//! How a refusal is told: to the client with a reason code, to the operator with the step at which it was refused.

use std::sync::Arc;

use mqtt_access::jwt::{JwtError, Refusal};
use mqtt_codec::{Connect, ReasonCode};

use crate::listener::Peer;
use crate::metrics::{AuthStep, Metrics};

/// Refusals are counted, and in the log, each with the step at which it was refused. What the client has as a secret is not.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(Arc<Metrics>);

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }

    /// A client is refused at a step. What CONNACK says.
    pub(crate) fn report(&self, connect: &Connect, peer: &Peer, step: AuthStep) -> ReasonCode {
        self.report_as(connect, peer, step, step)
    }

    /// The same of one that is told what it would be at another step.
    pub(crate) fn report_as(&self, connect: &Connect, peer: &Peer, step: AuthStep, told: AuthStep) -> ReasonCode {
        let reason = reason_of(told);
        self.tell(connect, peer, (step, reason), (connect.username.as_deref().unwrap_or_default(), None));
        reason
    }

    /// The same of one that is known as this user: its name, and its key if it has one.
    pub(crate) fn report_of(
        &self,
        connect: &Connect,
        peer: &Peer,
        step: AuthStep,
        user: (&str, Option<&str>),
    ) -> ReasonCode {
        let reason = reason_of(step);
        self.tell(connect, peer, (step, reason), user);
        reason
    }

    fn tell(
        &self,
        connect: &Connect,
        peer: &Peer,
        (step, reason): (AuthStep, ReasonCode),
        (user, key): (&str, Option<&str>),
    ) {
        self.0.auth_refused(step);
        tracing::info!(
            client_id = &*connect.client_id,
            user,
            key,
            remote = %peer.addr,
            listener = &*peer.entrance.name,
            step = step.text(),
            reason_code = ?reason,
            "refused"
        );
    }
}

/// What a client is told; it learns no more than it has to know.
const fn reason_of(step: AuthStep) -> ReasonCode {
    match step {
        AuthStep::Method => ReasonCode::BadAuthenticationMethod,
        AuthStep::UnknownUser
        | AuthStep::WrongPassword
        | AuthStep::NatsRefused
        | AuthStep::OidcToken
        | AuthStep::OidcKey
        | AuthStep::OidcSignature
        | AuthStep::JwtTooLong
        | AuthStep::JwtMalformed
        | AuthStep::JwtAlgorithm
        | AuthStep::JwtClaims
        | AuthStep::JwtVersion
        | AuthStep::JwtKind
        | AuthStep::JwtKey
        | AuthStep::JwtSignature => ReasonCode::BadUserNameOrPassword,
        AuthStep::ClientId => ReasonCode::ClientIdentifierNotValid,
        AuthStep::Busy
        | AuthStep::ResolverUnreachable
        | AuthStep::NatsUnreachable
        | AuthStep::NatsNoAnswer
        | AuthStep::OidcUnreachable => ReasonCode::ServerUnavailable,
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

/// The step of a refusal of the JWT chain.
pub(super) const fn step_of(refusal: Refusal) -> AuthStep {
    match refusal {
        Refusal::Jwt(JwtError::TooLong) => AuthStep::JwtTooLong,
        Refusal::Jwt(JwtError::Malformed) => AuthStep::JwtMalformed,
        Refusal::Jwt(JwtError::Algorithm) => AuthStep::JwtAlgorithm,
        Refusal::Jwt(JwtError::Claims) => AuthStep::JwtClaims,
        Refusal::Jwt(JwtError::Version) => AuthStep::JwtVersion,
        Refusal::Jwt(JwtError::Kind) => AuthStep::JwtKind,
        Refusal::Jwt(JwtError::Key) => AuthStep::JwtKey,
        Refusal::Jwt(JwtError::Signature) => AuthStep::JwtSignature,
        Refusal::ProxyRequired => AuthStep::ProxyRequired,
        Refusal::Expired => AuthStep::Expired,
        Refusal::NotYetValid => AuthStep::NotYetValid,
        Refusal::Claims => AuthStep::Claims,
        Refusal::IssuerAccount => AuthStep::IssuerAccount,
        Refusal::AccountNotPinned => AuthStep::AccountNotPinned,
        Refusal::AccountMismatch => AuthStep::AccountMismatch,
        Refusal::AccountUntrusted => AuthStep::AccountUntrusted,
        Refusal::Issuer => AuthStep::Issuer,
        Refusal::ScopedUserNotEmpty => AuthStep::ScopedUserNotEmpty,
        Refusal::ScopeTemplate => AuthStep::ScopeTemplate,
        Refusal::AccountExpired => AuthStep::AccountExpired,
        Refusal::AuthCallout => AuthStep::AuthCallout,
        Refusal::BearerDisallowed => AuthStep::BearerDisallowed,
        Refusal::ConnectionType => AuthStep::ConnectionType,
        Refusal::SignatureMissing => AuthStep::SignatureMissing,
        Refusal::SignatureWrong => AuthStep::SignatureWrong,
        Refusal::Revoked => AuthStep::Revoked,
        Refusal::SourceAddress => AuthStep::SourceAddress,
        Refusal::TimeWindow => AuthStep::TimeWindow,
        Refusal::Permissions => AuthStep::Permissions,
        Refusal::Tags => AuthStep::Tags,
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusal, step_of};

    #[test]
    fn a_step_of_the_chain_has_the_name_that_it_has_there() {
        use mqtt_access::jwt::JwtError::*;
        let of_jwt = [TooLong, Malformed, Algorithm, Claims, Version, Kind, Key, Signature].map(Refusal::Jwt);
        let others = [
            Refusal::ProxyRequired,
            Refusal::Expired,
            Refusal::NotYetValid,
            Refusal::Claims,
            Refusal::IssuerAccount,
            Refusal::AccountNotPinned,
            Refusal::AccountMismatch,
            Refusal::AccountUntrusted,
            Refusal::Issuer,
            Refusal::ScopedUserNotEmpty,
            Refusal::ScopeTemplate,
            Refusal::AccountExpired,
            Refusal::AuthCallout,
            Refusal::BearerDisallowed,
            Refusal::ConnectionType,
            Refusal::SignatureMissing,
            Refusal::SignatureWrong,
            Refusal::Revoked,
            Refusal::SourceAddress,
            Refusal::TimeWindow,
            Refusal::Permissions,
            Refusal::Tags,
        ];
        for refusal in of_jwt.into_iter().chain(others) {
            assert_eq!(step_of(refusal).text(), refusal.label());
        }
    }
}
