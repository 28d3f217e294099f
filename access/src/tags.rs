//! Tags of ours: what a user may do in MQTT that NATS has no permission for. They are in a user's tags, beside others.
//!
//! nsc writes tags in lower case, and so are these.

use crate::limit::Limit;

/// Begins every tag of ours.
const PREFIX: &str = "mqtt:";

/// What may stand between a user's name and the rest of a client id.
const SEPARATORS: [char; 5] = ['-', '_', '.', ':', '/'];

/// What the tags of a user say. Several of the same kind: the stricter one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRules {
    /// `mqtt:max-qos=0|1`: the highest QoS, of publishes and subscriptions.
    pub max_qos: Option<u8>,
    /// `mqtt:retain=deny`: no message is retained.
    pub retain_denied: bool,
    /// `mqtt:share=deny`: no shared subscription.
    pub share_denied: bool,
    /// `mqtt:will=deny`: no will.
    pub will_denied: bool,
    /// `mqtt:session-expiry=SECONDS`: the longest Session Expiry Interval.
    pub session_expiry_s_max: Option<u32>,
    /// `mqtt:client-id=name`: see [`DeviceRules::is_client_id_allowed`].
    pub client_id_is_name: bool,
    /// `mqtt:msg-rate=NUMBER|none`: messages that it may publish in a second, in place of what is configured.
    pub message_rate: Option<Limit>,
    /// `mqtt:byte-rate=BYTES|none`: bytes that it may send in a second, in place of what is configured.
    pub byte_rate: Option<Limit>,
    /// `mqtt:connections=NUMBER|none`: connections that the user may have, in place of what is configured.
    pub connections: Option<Limit>,
    /// Tags that begin with `mqtt:` and are not known, such as `mqtt:colour=red`: something for a log line.
    pub unknown: Vec<String>,
}

/// A tag of ours with a value that it cannot have. It is never left out, since it was meant to forbid something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{tag}` is not what this tag can say")]
pub struct InvalidTag {
    /// The tag.
    pub tag: String,
}

impl DeviceRules {
    /// Reads them out of all tags of a user.
    ///
    /// # Errors
    /// A tag that is known has a value that is not.
    pub fn new(tags: &[String]) -> Result<Self, InvalidTag> {
        let mut rules = Self::default();
        for tag in tags {
            let Some(ours) = tag.strip_prefix(PREFIX) else { continue };
            let (key, value) = ours.split_once('=').unwrap_or((ours, ""));
            if !rules.take(key, value).ok_or_else(|| InvalidTag { tag: tag.clone() })? {
                rules.unknown.push(tag.clone());
            }
        }
        Ok(rules)
    }

    /// `None` for a wrong value, `false` for an unknown key.
    fn take(&mut self, key: &str, value: &str) -> Option<bool> {
        let is = |expected: &str| (value == expected).then_some(true);
        match key {
            "max-qos" => {
                let qos: u8 = is("0").map(|_| 0).or_else(|| is("1").map(|_| 1))?;
                self.max_qos = Some(self.max_qos.map_or(qos, |other| other.min(qos)));
            }
            "retain" => self.retain_denied = is("deny")?,
            "share" => self.share_denied = is("deny")?,
            "will" => self.will_denied = is("deny")?,
            "session-expiry" => {
                let seconds = u32::try_from(number(value)?).ok()?;
                self.session_expiry_s_max = Some(self.session_expiry_s_max.map_or(seconds, |other| other.min(seconds)));
            }
            "msg-rate" => stricter(&mut self.message_rate, limit(value)?),
            "byte-rate" => stricter(&mut self.byte_rate, limit(value)?),
            "connections" => stricter(&mut self.connections, limit(value)?),
            "client-id" => self.client_id_is_name = is("name")?,
            _ => return Some(false),
        }
        Some(true)
    }

    /// Whether a user of this name may have a client id: with `mqtt:client-id=name` it is the name, or begins with it and one
    /// of `-`, `_`, `.`, `:`, `/`. A user without a name has no client id then.
    #[must_use]
    pub fn is_client_id_allowed(&self, client_id: &str, name: &str) -> bool {
        let begins = |rest: &str| rest.is_empty() || rest.starts_with(SEPARATORS);
        !self.client_id_is_name || (!name.is_empty() && client_id.strip_prefix(name).is_some_and(begins))
    }
}

/// Digits, and nothing else.
fn number(value: &str) -> Option<u64> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok())?
}

/// A number that is not 0, with which nothing would go on, or none.
fn limit(value: &str) -> Option<Limit> {
    if value == "none" { Some(Limit::Unlimited) } else { number(value).filter(|most| *most > 0).map(Limit::Max) }
}

fn stricter(limit: &mut Option<Limit>, other: Limit) {
    *limit = Some(limit.map_or(other, |limit| limit.min(other)));
}

#[cfg(test)]
mod tests {
    use super::{DeviceRules, Limit};

    fn rules(tags: &[&str]) -> Option<DeviceRules> {
        DeviceRules::new(&tags.iter().map(|tag| String::from(*tag)).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn what_tags_say() {
        let none = DeviceRules::default();
        let table = [
            (vec![], none.clone()),
            (vec!["site:berlin", "mqttx:max-qos=0", "max-qos=0"], none.clone()),
            (vec!["mqtt:max-qos=0"], DeviceRules { max_qos: Some(0), ..none.clone() }),
            (vec!["mqtt:max-qos=0", "mqtt:max-qos=1"], DeviceRules { max_qos: Some(0), ..none.clone() }),
            (vec!["mqtt:max-qos=1"], DeviceRules { max_qos: Some(1), ..none.clone() }),
            (vec!["mqtt:retain=deny"], DeviceRules { retain_denied: true, ..none.clone() }),
            (vec!["mqtt:share=deny"], DeviceRules { share_denied: true, ..none.clone() }),
            (vec!["mqtt:will=deny"], DeviceRules { will_denied: true, ..none.clone() }),
            (vec!["mqtt:session-expiry=0"], DeviceRules { session_expiry_s_max: Some(0), ..none.clone() }),
            (
                vec!["mqtt:session-expiry=60", "mqtt:session-expiry=3600"],
                DeviceRules { session_expiry_s_max: Some(60), ..none.clone() },
            ),
            (vec!["mqtt:msg-rate=100"], DeviceRules { message_rate: Some(Limit::Max(100)), ..none.clone() }),
            (vec!["mqtt:msg-rate=none"], DeviceRules { message_rate: Some(Limit::Unlimited), ..none.clone() }),
            (
                vec!["mqtt:msg-rate=none", "mqtt:msg-rate=100", "mqtt:msg-rate=200", "mqtt:byte-rate=65536"],
                DeviceRules {
                    message_rate: Some(Limit::Max(100)),
                    byte_rate: Some(Limit::Max(65_536)),
                    ..none.clone()
                },
            ),
            (vec!["mqtt:connections=1"], DeviceRules { connections: Some(Limit::Max(1)), ..none.clone() }),
            (vec!["mqtt:client-id=name"], DeviceRules { client_id_is_name: true, ..none.clone() }),
            (vec!["mqtt:colour=red"], DeviceRules { unknown: vec!["mqtt:colour=red".into()], ..none.clone() }),
            (vec!["mqtt:new"], DeviceRules { unknown: vec!["mqtt:new".into()], ..none }),
        ];
        for (tags, expected) in table {
            assert_eq!(rules(&tags), Some(expected), "{tags:?}");
        }
    }

    #[test]
    fn a_wrong_value_is_not_left_out() {
        for tag in [
            "mqtt:max-qos=2",
            "mqtt:max-qos=",
            "mqtt:max-qos",
            "mqtt:max-qos=00",
            "mqtt:retain=allow",
            "mqtt:retain=Deny",
            "mqtt:share",
            "mqtt:will=no",
            "mqtt:session-expiry=",
            "mqtt:session-expiry=-1",
            "mqtt:session-expiry=+1",
            "mqtt:session-expiry=1h",
            "mqtt:session-expiry=4294967296",
            "mqtt:client-id=any",
            "mqtt:msg-rate=0",
            "mqtt:msg-rate=100/s",
            "mqtt:msg-rate=-1",
            "mqtt:byte-rate=64KiB",
            "mqtt:connections=",
        ] {
            assert_eq!(rules(&["site:x", tag]), None, "{tag}");
        }
    }

    #[test]
    fn client_ids_that_go_with_a_name() {
        let bound = DeviceRules { client_id_is_name: true, ..DeviceRules::default() };
        for id in ["lamp", "lamp-1", "lamp_1", "lamp.1", "lamp:1", "lamp/1", "lamp-"] {
            assert!(bound.is_client_id_allowed(id, "lamp"), "{id}");
        }
        for id in ["", "lam", "lamp1", "lamps", "Lamp", "x-lamp", "lamp 1"] {
            assert!(!bound.is_client_id_allowed(id, "lamp"), "{id}");
        }
        assert!(!bound.is_client_id_allowed("", "") && !bound.is_client_id_allowed("-x", ""));
        assert!(DeviceRules::default().is_client_id_allowed("anything", "lamp"));
    }
}
