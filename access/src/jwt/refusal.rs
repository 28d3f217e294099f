//! Why a user is refused: one reason for each step.

use super::encoded::JwtError;

/// The step at which a user JWT is refused. Its text and its label say nothing of the JWT, so that a log can have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is no user JWT.
    #[error("user JWT: {0}")]
    Jwt(JwtError),
    /// It is for connections through a proxy that we trust.
    #[error("the user has to come through a trusted proxy")]
    ProxyRequired,
    /// It has expired.
    #[error("the user JWT has expired")]
    Expired,
    /// It does not count yet.
    #[error("the user JWT is not valid yet")]
    NotYetValid,
    /// Permissions, networks or hours that cannot be understood.
    #[error("permissions, networks or hours of the user JWT cannot be understood")]
    Claims,
    /// Its account is not the key of one.
    #[error("`issuer_account` of the user JWT is not the key of an account")]
    IssuerAccount,
    /// The account is not among those that may connect.
    #[error("the account is not among those that may connect")]
    AccountNotPinned,
    /// The account that was found is another one.
    #[error("the account JWT is that of another account")]
    AccountMismatch,
    /// No operator of ours signed the account.
    #[error("the account JWT is not signed by a trusted operator")]
    AccountUntrusted,
    /// The account has no such signing key, or its identity key may not sign.
    #[error("the user JWT is not signed by its account or one of its signing keys")]
    Issuer,
    /// A user of a scope has permissions or limits of its own.
    #[error("a user of a scoped signing key has permissions or limits of its own")]
    ScopedUserNotEmpty,
    /// The scope's template cannot be expanded for the user.
    #[error("the template of the scoped signing key has no meaning for this user")]
    ScopeTemplate,
    /// The account has expired.
    #[error("the account JWT has expired")]
    AccountExpired,
    /// The account leaves it to an auth callout who its users are.
    #[error("the account leaves its users to an auth callout")]
    AuthCallout,
    /// The account wants no bearers.
    #[error("the account does not allow bearer JWTs")]
    BearerDisallowed,
    /// It is not for this kind of listener.
    #[error("the user may not connect with MQTT on this listener")]
    ConnectionType,
    /// It is no bearer, and nothing proves that who presents it has its key.
    #[error("the user JWT is not a bearer JWT, and its key was not proven")]
    SignatureMissing,
    /// The proof is somebody else's.
    #[error("the signature of the nonce is not that of the user")]
    SignatureWrong,
    /// The user, or all users until then, are revoked.
    #[error("the user is revoked")]
    Revoked,
    /// It may not come from there.
    #[error("the user may not connect from this address")]
    SourceAddress,
    /// Not at this time of the day.
    #[error("the user may not connect at this time")]
    TimeWindow,
    /// A deny that cannot be understood.
    #[error("the permissions have a deny that cannot be understood")]
    Permissions,
    /// A tag of ours that cannot be understood.
    #[error("the user has an `mqtt:` tag that cannot be understood")]
    Tags,
}

impl Refusal {
    /// The label of a metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Jwt(JwtError::TooLong) => "jwt_too_long",
            Self::Jwt(JwtError::Malformed) => "jwt_malformed",
            Self::Jwt(JwtError::Algorithm) => "jwt_algorithm",
            Self::Jwt(JwtError::Claims) => "jwt_claims",
            Self::Jwt(JwtError::Version) => "jwt_version",
            Self::Jwt(JwtError::Kind) => "jwt_kind",
            Self::Jwt(JwtError::Key) => "jwt_key",
            Self::Jwt(JwtError::Signature) => "jwt_signature",
            Self::ProxyRequired => "proxy_required",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Claims => "claims",
            Self::IssuerAccount => "issuer_account",
            Self::AccountNotPinned => "account_not_pinned",
            Self::AccountMismatch => "account_mismatch",
            Self::AccountUntrusted => "account_untrusted",
            Self::Issuer => "issuer",
            Self::ScopedUserNotEmpty => "scoped_user_not_empty",
            Self::ScopeTemplate => "scope_template",
            Self::AccountExpired => "account_expired",
            Self::AuthCallout => "auth_callout",
            Self::BearerDisallowed => "bearer_disallowed",
            Self::ConnectionType => "connection_type",
            Self::SignatureMissing => "signature_missing",
            Self::SignatureWrong => "signature_wrong",
            Self::Revoked => "revoked",
            Self::SourceAddress => "source_address",
            Self::TimeWindow => "time_window",
            Self::Permissions => "permissions",
            Self::Tags => "tags",
        }
    }
}

impl From<JwtError> for Refusal {
    fn from(error: JwtError) -> Self {
        Self::Jwt(error)
    }
}
