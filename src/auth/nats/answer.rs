//! What nats-server says of a user, and what that makes of a client.

use std::sync::Arc;

use mqtt_access::jwt::OwnLimits;
use mqtt_access::{
    AccountId, Mode, Origin, PermissionLists, Permissions, ResponseLimits, SubjectLists, UnixTime, User,
};
use serde::Deserialize;

use crate::auth::Principal;
use crate::metrics::AuthStep;

/// What stands in the place of a token that nobody is to see.
const REDACTED: &str = "[REDACTED]";

/// An answer to `$SYS.REQ.USER.INFO`.
#[derive(Debug)]
pub(super) struct Answer {
    account: AccountId,
    said: Said,
}

#[derive(Deserialize)]
struct Envelope {
    data: Said,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    user: String,
    user_name: String,
    account_name: String,
    permissions: Option<SaidPermissions>,
    /// What remains, nanoseconds, of whole seconds: 0 without an end, and in the last second too.
    expires: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaidPermissions {
    publish: Option<SubjectLists>,
    subscribe: Option<SubjectLists>,
    responses: Option<ResponseLimits>,
}

impl Answer {
    /// Reads what came by a link of an account.
    pub(super) fn new(account: AccountId, json: &[u8]) -> Option<Self> {
        let Envelope { data } = serde_json::from_slice(json).ok()?;
        Some(Self { account, said: data })
    }

    /// Who a client is of whom this was said; `own`: what its JWT says besides.
    pub(super) fn principal(self, own: Option<OwnLimits>, now: UnixTime) -> Result<Principal, AuthStep> {
        let Self { account, said } = self;
        let SaidPermissions { publish, subscribe, responses } = said.permissions.unwrap_or_default();
        let lists = PermissionLists {
            publish: sorted(publish.unwrap_or_default()),
            subscribe: sorted(subscribe.unwrap_or_default()),
            responses,
        };
        let permissions = Permissions::new(lists).map_err(|_| AuthStep::NatsAnswer)?;
        let remains = (said.expires != 0)
            .then(|| UnixTime::from_millis(now.as_millis().saturating_add(said.expires / 1_000_000)));
        let expires = ends(remains, own.as_ref().and_then(|own| own.expires));
        if expires.is_some_and(|expires| expires <= now) {
            return Err(AuthStep::Expired);
        }
        let mut principal = Principal {
            account,
            account_name: said.account_name,
            user: user(said.user, said.user_name),
            permissions: Arc::new(permissions),
            expires,
            origin: Origin::of(Mode::Nats),
            ..Principal::all()
        };
        if let Some(OwnLimits { networks, windows, tags, rules, .. }) = own {
            (principal.networks, principal.windows) = (networks, windows);
            (principal.tags, principal.rules) = (tags, rules);
        }
        Ok(principal)
    }
}

/// When it ends that ends then by what nats-server says remains, and by its own JWT. That is the same when there is less than a second
/// between them: nats-server has left out what is no whole second, and the JWT says it.
fn ends(remains: Option<UnixTime>, own: Option<UnixTime>) -> Option<UnixTime> {
    let left_out = |remains: UnixTime, own: UnixTime| own.as_millis().saturating_sub(remains.as_millis());
    match (remains, own) {
        (Some(remains), Some(own)) if (0..1000).contains(&left_out(remains, own)) => Some(own),
        (remains, own) => [remains, own].into_iter().flatten().min(),
    }
}

/// In an order of their own: nats-server has none, and what it says twice is to be the same.
fn sorted(mut lists: SubjectLists) -> SubjectLists {
    for list in [&mut lists.allow, &mut lists.deny].into_iter().flatten() {
        list.sort_unstable();
    }
    lists
}

/// Of a user with a JWT it is the key that is called user; of one with a token nothing is said.
fn user(user: String, name: String) -> User {
    let is_key = user.len() == 56 && user.starts_with('U') && user.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if user == REDACTED {
        User::default()
    } else if is_key && !name.is_empty() {
        User { name, key: Some(user), ..User::default() }
    } else {
        User { name: user, ..User::default() }
    }
}

#[cfg(test)]
mod tests {
    use mqtt_access::DeviceRules;

    use super::*;

    fn principal(json: &str) -> Option<Principal> {
        let now = UnixTime::from_secs(1000);
        Answer::new(AccountId::new("T1"), json.as_bytes())?.principal(None, now).ok()
    }

    #[test]
    fn what_nats_server_says_becomes_a_principal_of_the_account_of_the_link() {
        let said = r#"{"server":{},"data":{"user":"lim","account":"OTHER","account_name":"A","expires":1500000000,
            "permissions":{"publish":{"allow":["dev.\u003e"],"deny":["dev.x"]},"subscribe":{"allow":["j q"]},
            "responses":{"max":3,"ttl":10000000000}}}}"#;
        let lim = principal(said).unwrap();
        assert_eq!((lim.account.as_str(), &*lim.user.name, lim.origin.mode), ("T1", "lim", Mode::Nats));
        assert!(lim.permissions.is_publish_allowed("dev.a") && !lim.permissions.is_publish_allowed("dev.x"));
        assert!(lim.permissions.subscribe("j", Some("q")).is_granted());
        assert!(!lim.permissions.subscribe("j", None).is_granted());
        assert_eq!(lim.permissions.response_limits().map(|limits| limits.max), Some(3));
        assert_eq!(lim.expires, Some(UnixTime::from_millis(1_001_500)));
        let free = principal(r#"{"data":{"user":"a"}}"#).unwrap();
        assert_eq!((free.expires, free.permissions.is_publish_allowed("any")), (None, true));
    }

    #[test]
    fn a_jwt_ends_when_it_says_also_when_nats_server_does_not() {
        let now = UnixTime::from_secs(1000);
        let expires = |said: &str, own: Option<i64>| {
            let own = OwnLimits {
                networks: Vec::new(),
                windows: Principal::all().windows,
                tags: Vec::new(),
                rules: DeviceRules::default(),
                expires: own.map(UnixTime::from_millis),
            };
            let said = format!("{{\"data\":{{{said}}}}}");
            let principal = Answer::new(AccountId::new("T1"), said.as_bytes()).unwrap().principal(Some(own), now);
            principal.map(|principal| principal.expires.map(|expires| expires.as_millis()))
        };
        // In the last second nats-server says nothing of it.
        for (said, own, expected) in [
            ("", None, None),
            ("", Some(1_000_500), Some(1_000_500)),
            (r#""expires":5000000000"#, None, Some(1_005_000)),
            // It leaves out what is no whole second.
            (r#""expires":5000000000"#, Some(1_005_400), Some(1_005_400)),
            (r#""expires":5000000000"#, Some(1_006_000), Some(1_005_000)),
            (r#""expires":5000000000"#, Some(1_003_000), Some(1_003_000)),
        ] {
            assert_eq!(expires(said, own).unwrap(), expected, "{said} {own:?}");
        }
        for (said, own) in [("", Some(1_000_000)), (r#""expires":-1000000000"#, None)] {
            assert_eq!(expires(said, own).unwrap_err(), AuthStep::Expired, "{said} {own:?}");
        }
    }

    #[test]
    fn what_is_said_in_another_order_is_the_same() {
        let lists = |subjects: &str| {
            let said =
                format!(r#"{{"data":{{"permissions":{{"publish":{{"allow":[{subjects}],"deny":[{subjects}]}}}}}}}}"#);
            principal(&said).unwrap().permissions.lists().clone()
        };
        assert_eq!(lists(r#""a","b""#), lists(r#""b","a""#));
    }

    #[test]
    fn names_of_users() {
        let key = format!("U{}", "A".repeat(55));
        for (said, name, has_key) in [
            (r#"{"user":"a","user_name":"b"}"#.to_owned(), "a", false),
            (r#"{"user":"[REDACTED]"}"#.to_owned(), "", false),
            (format!(r#"{{"user":"{key}","user_name":"lamp"}}"#), "lamp", true),
            (format!(r#"{{"user":"{key}"}}"#), &key, false),
        ] {
            let user = principal(&format!("{{\"data\":{said}}}")).unwrap().user;
            assert_eq!((&*user.name, user.key.is_some()), (name, has_key), "{said}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_understood_lets_nobody_in() {
        for json in ["", "{}", "[]", r#"{"error":{"code":500}}"#, r#"{"data":{"user":1}}"#] {
            assert!(principal(json).is_none(), "{json}");
        }
        assert!(principal(r#"{"data":{"permissions":{"publish":{"deny":["a..b"]}}}}"#).is_none());
    }
}
