//! Whether the NATS user may use the subjects that we cannot do without. nats-server refuses a publish or a subscription
//! by an error line that belongs to nothing, so all of them are tried at the start, before anything depends on them.

use bytes::Bytes;
use bytestring::ByteString;

use super::connection::Link;
use super::error::OpenError;
use super::needs::{API, Needs};
use crate::nats::{Outbound, PublishError};

/// The last token of what is tried.
const TRIED: &str = "nats-mqtt-check";
impl Needs {
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
