//! What the JWTs of NATS say of operators, accounts and users. Fields that nobody here asks for are not read.
//!
//! What is left out, empty and 0 are different things in places, as they are for nats-server; so lists and limits are
//! `Option`s.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::lists::{PermissionLists, SubjectLists};
use crate::reply::ResponseLimits;
use crate::window::TimeRange;

/// What a user has, or a scope gives to its users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Grants {
    #[serde(default, rename = "pub")]
    publish: SubjectLists,
    #[serde(default, rename = "sub")]
    subscribe: SubjectLists,
    #[serde(default, rename = "resp")]
    responses: Option<ResponseLimits>,
    #[serde(default)]
    pub(super) src: Option<Sources>,
    #[serde(default)]
    pub(super) times: Option<Vec<TimeRange>>,
    #[serde(default)]
    pub(super) times_location: String,
    #[serde(default)]
    pub(super) subs: Option<i64>,
    #[serde(default)]
    pub(super) data: Option<i64>,
    #[serde(default)]
    pub(super) payload: Option<i64>,
    #[serde(default)]
    pub(super) bearer_token: bool,
    #[serde(default)]
    pub(super) proxy_required: bool,
    #[serde(default)]
    pub(super) allowed_connection_types: Option<Vec<String>>,
}

impl Grants {
    pub(super) fn permissions(&self) -> PermissionLists {
        PermissionLists { publish: self.publish.clone(), subscribe: self.subscribe.clone(), responses: self.responses }
    }

    pub(super) fn set_permissions(&mut self, lists: PermissionLists) {
        (self.publish, self.subscribe, self.responses) = (lists.publish, lists.subscribe, lists.responses);
    }

    /// Whether nothing is said at all, as it has to be for a user of a scope. A limit of 0 is what one that is left out is.
    pub(super) fn is_empty(&self) -> bool {
        let none = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
        let plain = Self { subs: none(self.subs), data: none(self.data), payload: none(self.payload), ..self.clone() };
        plain == Self::default()
    }
}

/// Networks: a list, or one text with commas in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            List(Vec<String>),
            Text(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::List(list) => list,
            Written::Text(text) => {
                let parts = text.split(',').map(|part| part.trim().to_lowercase());
                parts.filter(|part| !part.is_empty()).collect()
            }
        }))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct UserNats {
    #[serde(flatten)]
    pub(super) grants: Grants,
    #[serde(default)]
    pub(super) issuer_account: String,
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct AccountNats {
    #[serde(default)]
    pub(super) limits: LimitsNats,
    #[serde(default)]
    pub(super) signing_keys: Option<Vec<SigningKey>>,
    #[serde(default)]
    pub(super) revocations: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    pub(super) default_permissions: PermissionLists,
    #[serde(default)]
    pub(super) authorization: Authorization,
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
}

/// Limits of an account. One that is left out is 0, and so nothing is allowed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitsNats {
    pub(super) subs: i64,
    pub(super) payload: i64,
    pub(super) conn: i64,
    pub(super) disallow_bearer: bool,
    pub(super) mem_storage: i64,
    pub(super) disk_storage: i64,
    pub(super) tiered_limits: Option<BTreeMap<String, TierNats>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TierNats {
    pub(super) mem_storage: i64,
    pub(super) disk_storage: i64,
}

/// A key that may sign users for the account.
#[derive(Debug)]
pub(super) enum SigningKey {
    Plain(String),
    Scoped(Scope),
}

/// A key whose users have what its template says, and nothing of their own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Scope {
    pub(super) key: String,
    #[serde(default)]
    pub(super) role: String,
    #[serde(default)]
    pub(super) template: Grants,
}

impl<'de> Deserialize<'de> for SigningKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Tagged {
            kind: String,
            #[serde(flatten)]
            scope: Scope,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Plain(String),
            Scoped(Box<Tagged>),
        }
        match Written::deserialize(deserializer)? {
            Written::Plain(key) => Ok(Self::Plain(key)),
            Written::Scoped(tagged) if tagged.kind == "user_scope" => Ok(Self::Scoped(tagged.scope)),
            Written::Scoped(_) => Err(D::Error::custom("unknown kind of scope")),
        }
    }
}

/// Of an account that leaves it to an auth callout who its users are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authorization {
    pub(super) auth_users: Option<Vec<String>>,
    pub(super) allowed_accounts: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperatorNats {
    pub(super) signing_keys: Option<Vec<String>>,
    pub(super) system_account: String,
    pub(super) strict_signing_key_usage: bool,
}

/// Accounts that are to be deleted.
#[derive(Debug, Deserialize)]
pub(super) struct DeletionNats {
    pub(super) accounts: Vec<String>,
}
