//! What the NATS user has to be allowed.

use std::fmt;

/// Where JetStream is asked.
pub(super) const API: &str = "$JS.API.>";

/// What the NATS user has to be allowed, besides what devices use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

impl Needs {
    /// `buckets`: the subjects of those that are ours.
    pub(super) fn new(names: &proto_map::Names, inbox_prefix: &str, buckets: Vec<String>) -> Self {
        let (ours, inboxes) = (format!("{}.>", names.subject_prefix()), format!("{inbox_prefix}.>"));
        let publish = [API.to_owned(), "$JS.ACK.>".to_owned(), inboxes.clone(), ours.clone()];
        Self {
            publish: publish.into_iter().chain(buckets).collect(),
            subscribe: vec![inboxes, "$JS.EVENT.ADVISORY.STREAM.>".to_owned(), ours],
        }
    }
}

/// What to allow, as a part of a sentence.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (publish, subscribe) = (self.publish.join(" "), self.subscribe.join(" "));
        write!(f, "allow it to publish {publish} and to subscribe {subscribe}")
    }
}
