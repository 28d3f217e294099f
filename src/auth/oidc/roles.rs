//! What a token makes of a client: the first role that it matches.

use std::sync::Arc;

use mqtt_access::oidc::OidcToken;
use mqtt_access::template::{RoleValues, Token, expand_text, operations, operations_of};
use mqtt_access::{AccountId, DeviceRules, Mode, Origin, Permissions, User};
use serde_json::Value;

use crate::auth::Principal;
use crate::config::{OidcRole, Wanted, token_of_level};
use crate::metrics::AuthStep;

/// Values of one claim that a template takes; a token with more matches no template that asks for it.
const VALUES_MAX: usize = 64;

/// Characters of a user's name.
const NAME_LEN_MAX: usize = 1024;

/// The roles that are configured.
pub(super) struct Roles(Vec<(OidcRole, DeviceRules)>);

impl Roles {
    pub(super) fn new(roles: &[OidcRole]) -> Self {
        // What cannot be read was refused with the configuration.
        Self(roles.iter().map(|role| (role.clone(), DeviceRules::new(&role.tags).unwrap_or_default())).collect())
    }

    /// Who a client is with a token that counts, until that expires.
    pub(super) fn principal(&self, token: &OidcToken<'_>, client_id: &str) -> Result<Principal, AuthStep> {
        let mut all = self.0.iter();
        let (role, rules) = all.find(|(role, _)| does_match(role, token)).ok_or(AuthStep::OidcRole)?;
        let text = |template: &str| {
            let value = |operation: &str| match operation {
                "client_id" => Some(client_id.to_owned()),
                operation => text_of(token.claim(claim_of(operation)?)?),
            };
            expand_text(template, value).map_err(|_| AuthStep::Template)
        };
        let (name, account) = (text(&role.user)?, text(&role.account)?);
        let is_name = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
        if !is_name {
            return Err(AuthStep::Template);
        }
        if !operations_of(&role.account).is_empty() && !role.accounts.contains(&account) {
            return Err(AuthStep::Account);
        }
        let permissions = permissions(role, token, &name, client_id).ok_or(AuthStep::Template)?;
        Ok(Principal {
            account: AccountId::new(&account),
            account_name: account,
            user: User { name, ..User::default() },
            permissions: Arc::new(permissions),
            tags: role.tags.clone(),
            rules: rules.clone(),
            origin: Origin::of(Mode::Oidc),
            ..Principal::all()
        })
    }
}

/// Whether every claim of a role is, or has in it, what it has to be.
fn does_match(role: &OidcRole, token: &OidcToken<'_>) -> bool {
    role.matches.iter().all(|(name, wanted)| match token.claim(name) {
        Some(Value::Array(several)) => several.iter().any(|value| is_wanted(value, wanted)),
        Some(value) => is_wanted(value, wanted),
        None => false,
    })
}

fn is_wanted(value: &Value, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Flag(flag) => value.as_bool() == Some(*flag),
        Wanted::Number(number) => value.as_i64() == Some(*number),
        Wanted::Text(text) => value.as_str() == Some(text),
        Wanted::OneOf(several) => value.as_str().is_some_and(|value| several.iter().any(|one| one == value)),
    }
}

/// The claim that an operation asks for.
fn claim_of(operation: &str) -> Option<&str> {
    if operation == "sub" { Some(operation) } else { operation.strip_prefix("claim.") }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// What a client may do. Who chose a value chooses one token of a subject with it, and no wildcard.
fn permissions(role: &OidcRole, token: &OidcToken<'_>, name: &str, client_id: &str) -> Option<Permissions> {
    let lists = role.permission_lists();
    let mut values = RoleValues::new().with_tags(&role.tags);
    for operation in operations(&lists) {
        let tokens = match operation {
            "client_id" | "client-id()" => vec![token_of_level(client_id).ok()?],
            "name()" => vec![token_of_level(name).ok()?],
            operation => match claim_of(operation) {
                Some(claim) => tokens(token.claim(claim)?)?,
                // A tag, which has its value.
                None => Vec::new(),
            },
        };
        values = tokens.into_iter().fold(values, |values, value| values.with(operation, value));
    }
    Permissions::new(values.expand(&lists).ok()?).ok()
}

/// The tokens of a claim: one, or several of a list, each of which can be one.
fn tokens(value: &Value) -> Option<Vec<Token>> {
    let one = |value: &Value| token_of_level(&text_of(value)?).ok();
    match value {
        Value::Array(several) if several.len() <= VALUES_MAX => several.iter().map(one).collect(),
        Value::Array(_) => None,
        value => Some(vec![one(value)?]),
    }
}
