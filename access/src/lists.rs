//! Permissions as they are written: in a JWT, in the answer of `$SYS.REQ.USER.INFO`, in a configuration. What follows from
//! them is in `permissions`.

use serde::{Deserialize, Serialize};

use crate::reply::ResponseLimits;

/// What of one direction is allowed and denied. An entry is a subject with wildcards; for subscriptions it can be followed by
/// a space and the name of a queue group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectLists {
    /// Nothing else is allowed. Without this list everything is; what an empty one means, nats-server decides for each
    /// direction: no publish is allowed, and every subscription is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Denied, whatever is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}

impl SubjectLists {
    /// Lists of an allow and a deny; an empty one is as if it were not there.
    #[must_use]
    pub fn new(allow: &[&str], deny: &[&str]) -> Self {
        let list = |list: &[&str]| {
            (!list.is_empty()).then(|| list.iter().map(|entry| String::from(*entry)).collect::<Vec<_>>())
        };
        Self { allow: list(allow), deny: list(deny) }
    }

    /// The entries of allow, if there are any.
    #[must_use]
    pub fn allowed(&self) -> &[String] {
        self.allow.as_deref().unwrap_or_default()
    }

    /// The entries of deny, if there are any.
    #[must_use]
    pub fn denied(&self) -> &[String] {
        self.deny.as_deref().unwrap_or_default()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allowed().is_empty() && self.denied().is_empty()
    }
}

/// Permissions of a user, by the names that a JWT has for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionLists {
    /// What may be published.
    #[serde(default, rename = "pub")]
    pub publish: SubjectLists,
    /// What may be subscribed to.
    #[serde(default, rename = "sub")]
    pub subscribe: SubjectLists,
    /// Replies are allowed to whoever asked.
    #[serde(default, rename = "resp", skip_serializing_if = "Option::is_none")]
    pub responses: Option<ResponseLimits>,
}

impl PermissionLists {
    /// Whether nothing is said. The account's default permissions apply to such a user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.subscribe.is_empty() && self.responses.is_none()
    }
}
