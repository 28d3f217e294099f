//! nats-server reads the names of fields in any case, and of several the last. What we would not read is refused, so that no
//! `"Exp"` is there for it and not for us.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Every name of a field that is read in any JWT.
const KNOWN: [&str; 47] = [
    "accounts",
    "alg",
    "allow",
    "allowed_accounts",
    "allowed_connection_types",
    "auth_users",
    "authorization",
    "bearer_token",
    "conn",
    "data",
    "default_permissions",
    "deny",
    "disallow_bearer",
    "disk_storage",
    "end",
    "exp",
    "iat",
    "iss",
    "issuer_account",
    "key",
    "kind",
    "limits",
    "max",
    "mem_storage",
    "name",
    "nats",
    "nbf",
    "payload",
    "proxy_required",
    "pub",
    "resp",
    "revocations",
    "role",
    "signing_keys",
    "src",
    "start",
    "strict_signing_key_usage",
    "sub",
    "subs",
    "system_account",
    "tags",
    "template",
    "tiered_limits",
    "times",
    "times_location",
    "typ",
    "type",
];

/// Fields whose own fields have names of somebody's choice, or are not read.
const NOT_READ: [&str; 5] = ["exports", "imports", "mappings", "revocations", "trace"];

/// JSON in which each name that we know is in lower case.
pub(super) struct KnownKeys;

impl<'de> Deserialize<'de> for KnownKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KnownKeysVisitor)
    }
}

struct KnownKeysVisitor;

impl<'de> Visitor<'de> for KnownKeysVisitor {
    type Value = KnownKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KnownKeys, A::Error> {
        while let Some(Name(key)) = map.next_key()? {
            if is_known_in_another_case(&key) {
                return Err(A::Error::custom("a field in another case"));
            }
            if NOT_READ.contains(&&*key) {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value::<KnownKeys>()?;
            }
        }
        Ok(KnownKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<KnownKeys, A::Error> {
        while seq.next_element::<KnownKeys>()?.is_some() {}
        Ok(KnownKeys)
    }

    fn visit_bool<E>(self, _: bool) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }

    fn visit_i64<E>(self, _: i64) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }

    fn visit_u64<E>(self, _: u64) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }

    fn visit_f64<E>(self, _: f64) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }

    fn visit_str<E>(self, _: &str) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }

    fn visit_unit<E>(self) -> Result<KnownKeys, E> {
        Ok(KnownKeys)
    }
}

/// The name of a field, which is not copied unless there is an escape in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn is_known_in_another_case(key: &str) -> bool {
    if key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return false;
    }
    let folded = folded(key);
    folded != key && KNOWN.contains(&folded.as_str())
}

/// Lower case, with the two letters beyond ASCII that Go takes for one within it.
fn folded(key: &str) -> String {
    key.replace('\u{17f}', "s").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, KnownKeys};

    #[test]
    fn fields_in_another_case() {
        for (json, expected) in [
            (r#"{"exp":1,"nats":{"pub":{"allow":["Exp"]}},"Unknown":{"x":[1,2.5,null,true]}}"#, true),
            (r#"{"Exp":1}"#, false),
            (r#"{"nats":{"PUB":{}}}"#, false),
            (r#"{"x":[{"Deny":1}]}"#, false),
            ("{\"\u{17f}rc\":1}", false),
            ("{\"\u{212a}ey\":1}", false),
            (r#"{"\u0045xp":1}"#, false),
            // Subjects and keys are what somebody has called them.
            (r#"{"mappings":{"Data":[{"Key":1}]},"revocations":{"NAME":1}}"#, true),
        ] {
            assert_eq!(serde_json::from_str::<KnownKeys>(json).is_ok(), expected, "{json}");
        }
        assert!(KNOWN.is_sorted());
    }
}
