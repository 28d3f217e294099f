//! Whether the NATS user may use the subjects that we cannot do without. nats-server refuses a publish or a subscription
//! by an error line that belongs to nothing, so all of them are tried at the start, before anything depends on them.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::connection::Link;
use super::error::OpenError;
use crate::nats::{Outbound, PublishError};

/// The last token of what is tried.
const TRIED: &str = "nats-mqtt-check";
/// Where JetStream is asked.
const API: &str = "$JS.API.>";

/// What the NATS user has to be allowed, besides what devices use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl Needs {
    pub(super) fn new(names: &proto_map::Names, inbox_prefix: &str) -> Self {
        let (ours, inboxes) = (format!("{}.>", names.subject_prefix()), format!("{inbox_prefix}.>"));
        let buckets =
            [names.retained_subjects(), names.sessions_subjects(), names.nodes_subjects(), names.keys_subjects()];
        let publish = [API.to_owned(), "$JS.ACK.>".to_owned(), inboxes.clone(), ours.clone()];
        Self {
            publish: publish.into_iter().chain(buckets).collect(),
            subscribe: vec![inboxes, "$JS.EVENT.ADVISORY.STREAM.>".to_owned(), ours],
        }
    }

    /// Tries them. What is refused is known when the server has answered something else on this connection.
    pub(super) async fn try_all(&self, link: &Link) -> Result<(), PublishError> {
        // No stream of this name stores it.
        let nowhere = [(ByteString::from_static("Nats-Expected-Stream"), ByteString::from_static(TRIED))];
        let one_of = |subjects: &str| subjects.replace('>', TRIED);
        // What asks JetStream is tried by asking it.
        for subjects in self.publish.iter().filter(|subjects| *subjects != API) {
            let (subject, payload) = (one_of(subjects), Bytes::new());
            let message = Outbound { headers: &nowhere, ..Outbound::plain(&subject, &payload) };
            let _ = link.client.publish(&message).await;
        }
        for subjects in &self.subscribe {
            drop(link.client.subscribe(&one_of(subjects), link.queue_limits())?);
        }
        Ok(())
    }

    /// What the server has refused on this connection.
    pub(super) fn refused_on(&self, link: &Link) -> Option<OpenError> {
        let text = link.take_violation()?;
        let what = text.trim_start_matches(|c: char| c != 'f').trim_start_matches("for ").to_owned();
        Some(OpenError::Permission { what, needs: self.clone() })
    }
}

/// What to allow, as a part of a sentence.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (publish, subscribe) = (self.publish.join(" "), self.subscribe.join(" "));
        write!(f, "allow it to publish {publish} and to subscribe {subscribe}")
    }
}
