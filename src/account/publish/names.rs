//! What a message is called, and whose it says it is.

use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_session::{MessageId, Publication};
use proto_map::{Headers, KeyId, MessageName, Subject};

use super::Publishing;
use super::job::PutToken;
use crate::account::publish::convert;

impl Publishing {
    /// The `Nats-Msg-Id` of a message, which nobody outside can guess: made of the id that the publisher gives it, or at QoS 2
    /// of its place in the session, so that it is stored once even if the connection to NATS breaks between the message and
    /// its acknowledgement, and is found by whichever sidecar recovers it.
    ///
    /// **Invariant:** what is one message has one id: the key that makes it is what the session's progress says.
    pub(super) fn message_id(&self, token: PutToken, publication: &Publication) -> Option<ByteString> {
        if self.given_id.is_some() {
            return self.given_id.clone();
        }
        let of_session = publication.once.map(|once| once.message);
        if let (Some(MessageId { epoch, number, key: 0 }), Some(client)) = (of_session, &self.client_key) {
            // Received by a version that had no key.
            return Some(ByteString::from(format!("{client}.{}.{}", epoch.0, number.0)));
        }
        let keys = self.account.store.keys();
        let ring = keys.ring();
        // A key that is gone cannot say what the message was called; it is another one then.
        let named = of_session.and_then(|message| KeyId::new(message.key)).and_then(|id| ring.get(id));
        let key = || named.unwrap_or_else(|| ring.at(keys.now_ms()));
        let client_id = &*self.completions.client_id;
        let (process, connection) = (self.account.process.as_str(), self.completions.id.0);
        let name = match (convert::own_id(publication), of_session) {
            (Some(id), _) => MessageName::ById { client_id, id },
            (None, Some(MessageId { epoch, number, .. })) if self.client_key.is_some() => {
                MessageName::OfSession { client_id, epoch: epoch.0, number: number.0 }
            }
            (None, _) if publication.qos == QoS::ExactlyOnce => {
                MessageName::OfConnection { process, connection, number: token.0 }
            }
            (None, _) => return None,
        };
        Some(key().message_id(name))
    }

    /// What the id that the publisher gives its message is in JetStream.
    pub(super) fn own_id(&self, publication: &Publication) -> Option<ByteString> {
        let id = convert::own_id(publication)?;
        let keys = self.account.store.keys();
        let name = MessageName::ById { client_id: &self.completions.client_id, id };
        Some(keys.ring().at(keys.now_ms()).message_id(name))
    }

    /// Marks a message that goes where others write too, and says more than they may.
    pub(super) fn mark(&self, subject: &Subject, headers: &mut Headers, payload: &[u8]) {
        let keys = self.account.store.keys();
        keys.ring().mark(keys.now_ms(), subject.as_str(), headers, payload);
    }

    pub(super) fn publisher(&self) -> Option<ByteString> {
        self.tells_publisher.then(|| self.completions.client_id.clone()).or_else(|| self.named_publisher())
    }

    /// The client id, when every message is to say it.
    pub(in crate::account) fn named_publisher(&self) -> Option<ByteString> {
        self.account.options.client_id_header.then(|| self.completions.client_id.clone())
    }
}
