//! `nats-mqtt topic`: the mapping between topics and subjects, for people who write NATS programs or permissions.

use clap::Subcommand;
use mqtt_codec::{TopicFilter, TopicName};
use proto_map::{ClosedTrees, DEFAULT_SUBJECT_PREFIX};

use super::failure::{FAILED, Failure, USAGE, say};

#[derive(Debug, Subcommand)]
pub(super) enum Topic {
    /// Show the subject of a topic, or the subjects of a topic filter
    Map {
        /// Topic or topic filter
        #[arg(value_name = "TOPIC")]
        topic: String,
    },
    /// Show the topic of a subject
    Unmap {
        /// NATS subject, without wildcards
        #[arg(value_name = "SUBJECT")]
        subject: String,
    },
}

pub(super) fn topic(what: &Topic) -> Result<(), Failure> {
    let lines = match what {
        Topic::Map { topic } => map(topic)?,
        Topic::Unmap { subject } => unmap(subject)?,
    };
    for (key, value) in lines {
        say(&format!("{key:<8} {value}"));
    }
    Ok(())
}

type Lines = Vec<(&'static str, String)>;

fn map(text: &str) -> Result<Lines, Failure> {
    let filter =
        TopicFilter::new(text).map_err(|error| Failure::new(USAGE, format!("{text:?} is no topic: {error}")))?;
    let too_long = |error| Failure::new(FAILED, format!("{text:?} has no subject: {error}"));
    let closed = ClosedTrees::new(DEFAULT_SUBJECT_PREFIX, &[]);
    let mut lines = Lines::new();
    let is_closed = if filter.has_wildcards() || filter.is_shared() {
        if let Some(shared) = filter.shared() {
            lines.push(("share", shared.name.to_string()));
        }
        let subjects = proto_map::subjects_of(&filter).map_err(too_long)?;
        lines.extend(subjects.iter().map(|subject| ("filter", subject.to_string())));
        closed.filter_is_closed(&filter)
    } else {
        let topic =
            TopicName::new(text).map_err(|error| Failure::new(USAGE, format!("{text:?} is no topic: {error}")))?;
        lines.push(("subject", proto_map::subject_of(&topic).map_err(too_long)?.to_string()));
        closed.is_closed_topic(&topic)
    };
    if is_closed {
        lines.push(("closed", "to devices, unless open_trees names its tree".to_owned()));
    }
    Ok(lines)
}

fn unmap(subject: &str) -> Result<Lines, Failure> {
    let topic = proto_map::topic_of(subject)
        .map_err(|error| Failure::new(USAGE, format!("{subject:?} has no topic: {error}")))?;
    let closed = ClosedTrees::new(DEFAULT_SUBJECT_PREFIX, &[]).is_closed_topic(&topic);
    let mut lines = vec![("topic", topic.as_str().to_owned())];
    if closed {
        lines.push(("closed", "to devices, unless open_trees names its tree".to_owned()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: Result<Lines, Failure>) -> String {
        match lines {
            Ok(lines) => lines.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join("; "),
            Err(failure) => format!("{}", failure.code),
        }
    }

    #[test]
    fn topics_filters_and_shares_are_mapped() {
        for (topic, expected) in [
            ("foo/bar", "subject foo.bar"),
            ("foo//bar", "subject foo./.bar"),
            ("foo/#", "filter foo.>; filter foo"),
            ("a/+/c", "filter a.*.c"),
            ("$share/g/a/+", "share g; filter a.*"),
            ("$JS/API/INFO", "subject $JS.API.INFO; closed to devices, unless open_trees names its tree"),
            ("a/#/b", "2"),
            ("", "2"),
        ] {
            assert_eq!(shown(map(topic)), expected, "{topic}");
        }
    }

    #[test]
    fn subjects_are_mapped_back() {
        for (subject, expected) in
            [("foo.bar", "topic foo/bar"), ("foo./.bar", "topic foo//bar"), ("foo.*", "2"), ("", "2")]
        {
            assert_eq!(shown(unmap(subject)), expected, "{subject}");
        }
    }
}
