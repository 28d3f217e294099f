//! Whether a stream that somebody else has can be the log of its subjects.

use bytestring::ByteString;
use serde_json::Value;

use crate::closed::ClosedTrees;
use crate::spec::MAPPING_KEY;

/// What a stream is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It is the log of these subjects, which can have wildcards.
    Log {
        /// The subjects.
        subjects: Vec<ByteString>,
        /// It allows a time to live per message.
        ttl: bool,
    },
    /// It has nothing that devices can publish to: a bucket, a mirror, or one of a deployment of ours.
    Nothing,
    /// Devices could publish to it, but it cannot be a log, for this reason, a phrase for a log line.
    Refused(&'static str),
}

/// What the stream with this configuration, as the JetStream API gives it, is to us.
#[must_use]
pub fn attachment(config: &Value, closed: &ClosedTrees) -> Attachment {
    let is_open = |subject: &&str| {
        let first = subject.split('.').next().unwrap_or_default();
        // A wildcard at the first level does not see closed trees, and devices do not see them through it.
        !closed.is_closed_subject(subject) && !first.is_empty()
    };
    let subjects = config["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let subjects: Vec<ByteString> = subjects.filter(is_open).map(ByteString::from).collect();
    if subjects.is_empty() || config["metadata"].get(MAPPING_KEY).is_some() {
        return Attachment::Nothing;
    }
    let is_set = |field: &str| config[field].as_bool().unwrap_or(false);
    let has = |field: &str| !config[field].is_null();
    let refusal = match config["retention"].as_str().unwrap_or("limits") {
        "workqueue" => Some("a work queue hands each message to one consumer"),
        "interest" => Some("with interest retention messages go when its consumers have them"),
        _ if has("mirror") => Some("it is a mirror, and cannot be published to"),
        _ if has("subject_transform") => Some("it stores under other subjects (subject_transform)"),
        _ if is_set("no_ack") => Some("it does not acknowledge (no_ack)"),
        _ if is_set("sealed") => Some("it is sealed"),
        _ => None,
    };
    match refusal {
        Some(reason) => Attachment::Refused(reason),
        None => Attachment::Log { subjects, ttl: is_set("allow_msg_ttl") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_is_attached_unless_it_cannot_be_a_log() {
        let log = |subjects: &[&str], ttl| Attachment::Log {
            subjects: subjects.iter().map(|s| ByteString::from(*s)).collect(),
            ttl,
        };
        let closed = ClosedTrees::default();
        for (config, expected) in [
            (json!({"subjects": ["orders.>", "one"]}), log(&["orders.>", "one"], false)),
            (json!({"subjects": ["a"], "retention": "limits", "allow_msg_ttl": true}), log(&["a"], true)),
            (json!({"subjects": ["a", "$KV.b.>", "$NMQ.x"]}), log(&["a"], false)),
            (json!({"subjects": ["$KV.b.>"]}), Attachment::Nothing),
            (json!({"sources": [{"name": "x"}]}), Attachment::Nothing),
            (json!({"mirror": {"name": "x"}}), Attachment::Nothing),
            (json!({"subjects": ["$OTHER.log.>"], "metadata": {"nats-mqtt.mapping": "1"}}), Attachment::Nothing),
            (json!({"subjects": ["a"], "sources": [{"name": "x"}]}), log(&["a"], false)),
        ] {
            assert_eq!(attachment(&config, &closed), expected, "{config}");
        }
        for refused in [
            json!({"subjects": ["a"], "retention": "workqueue"}),
            json!({"subjects": ["a"], "retention": "interest"}),
            json!({"subjects": [">"], "no_ack": true}),
            json!({"subjects": ["a"], "sealed": true}),
            json!({"subjects": ["a"], "subject_transform": {"src": "a", "dest": "b"}}),
        ] {
            assert!(matches!(attachment(&refused, &closed), Attachment::Refused(_)), "{refused}");
        }
    }
}
