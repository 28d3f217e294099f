//! What NATS answers, on its way to the Response Topics: published as a client would, one after the other, whoever asked.

use std::pin::pin;
use std::sync::Arc;

use bytestring::ByteString;
use mqtt_codec::{MessageProperties, Version};
use mqtt_session::Publication;
use proto_map::{Carrier, ReadOptions};
use tokio::sync::mpsc;

use super::Arrived;
use crate::account::Account;
use crate::account::delivery::inbox::Wakes;
use crate::account::publish::Publishing;
use crate::account::publish::completions::Completions;

/// By these headers services tell what went wrong. They are for whoever asked, so they become user properties like others.
const SERVICE_PREFIX: &str = "Nats-Service-";

/// Publishes answers as they arrive, for ever.
pub(in crate::account) async fn run(account: Arc<Account>, mut arrived: mpsc::Receiver<Arrived>) {
    let completions = Arc::new(Completions::new(account.next_session_id(), ByteString::new(), Version::V5));
    let mut publishing = Publishing::new(Arc::clone(&account), completions, None);
    let (mut answers, mut wakes) = (Vec::new(), Wakes::default());
    let mut looking = pin!(account.requests.look_at_pending());
    loop {
        let is_free = !publishing.is_waiting() && publishing.has_room();
        tokio::select! {
            next = arrived.recv(), if is_free => {
                let Some(arrived) = next else { return };
                let publication = arrived.publication(account.options.nats_headers);
                if let Err(refusal) = publishing.publish(publication, &mut wakes) {
                    let (publication, refused) = *refusal;
                    tracing::info!(topic = publication.topic.as_str(), why = refused.why(), "an answer was refused");
                }
            }
            () = publishing.progress(&mut wakes) => {}
            () = &mut looking => {}
        }
        publishing.complete(&mut answers, &mut wakes, |_| ());
        answers.clear();
        wakes.wake_all();
        publishing.begin_wait();
    }
}

impl Arrived {
    /// What is published on the Response Topic: at the QoS of the request and with its correlation data.
    fn publication(self, nats_headers: bool) -> Publication {
        let Self { question, core } = self;
        let headers = || core.headers.iter().flatten().map(|(name, value)| (&**name, &**value));
        let read = ReadOptions { carrier: Carrier::Core, nats_headers, is_genuine: false };
        let mut properties: MessageProperties =
            proto_map::from_headers(headers(), read).properties.map(|properties| *properties).unwrap_or_default();
        if !nats_headers {
            let of_service = headers().filter(|(name, _)| name.starts_with(SERVICE_PREFIX));
            properties.user_properties.extend(of_service.map(|(name, value)| (name.into(), value.into())));
        }
        // The conversation is over: an answer to the answer would go nowhere.
        properties.response_topic = None;
        properties.correlation_data = question.correlation_data;
        Publication {
            token: None,
            once: None,
            topic: question.response_topic,
            qos: question.qos,
            retain: false,
            payload: core.payload,
            properties: (properties != MessageProperties::default()).then(|| Box::new(properties)),
        }
    }
}
