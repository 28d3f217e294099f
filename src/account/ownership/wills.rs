//! How a will is published whose mark is in the record of its session. Whoever finds the mark looks in the log first.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_codec::{QoS, ReasonCode, Version};
use mqtt_ownership::{Epoch, Will, WillOutcome};
use proto_map::MessageName;

use super::record::{Message, stored_will};
use crate::account::Account;
use crate::account::delivery::inbox::Wakes;
use crate::account::ownership::records;
use crate::account::ownership::records::WILL_NUMBER;
use crate::account::publish::completions::Completions;
use crate::account::publish::{Publishing, Refused};
use crate::account::rights::Rights;
use crate::metrics::WillCause;
use crate::store::{StoredWill, Unavailable, WillState};

impl Account {
    /// A will with what of it is beside the record; `None` when that is not there.
    async fn whole_will(
        &self,
        client_id: &str,
        message: &Message,
        stored: StoredWill,
    ) -> Result<Option<StoredWill>, Unavailable> {
        let whole = match (stored.body, message.whole()) {
            (None, _) => return Ok(Some(stored)),
            (Some(_), Some(whole)) => Some(whole.will.clone()),
            (Some(number), None) => self.store.sessions().load_will(client_id, number).await?,
        };
        Ok(whole.map(|whole| stored.with_body(whole)))
    }

    /// The message id of a will, by the epoch of its connection.
    pub(in crate::account) fn name_will(&self, client_id: &str, will: &StoredWill, epoch: Epoch) -> String {
        let is_id = |(name, value): &&(String, String)| name == proto_map::name::NATS_MSG_ID && !value.is_empty();
        let name = match will.user_properties.iter().find(is_id) {
            Some((_, id)) => MessageName::ById { client_id, id },
            None => MessageName::OfSession { client_id, epoch: epoch.0, number: WILL_NUMBER.0 },
        };
        let keys = self.store.keys();
        keys.ring().at(keys.now_ms()).message_id(name).to_string()
    }

    /// Publishes a will. `epoch`: that of the connection that it was the will of.
    pub(super) async fn publish_will(
        self: &Arc<Self>,
        client_id: &ByteString,
        will: &Will<Message>,
        epoch: Epoch,
        cause: WillCause,
    ) -> WillOutcome {
        let name = |will: &StoredWill, epoch| self.name_will(client_id, will, epoch);
        let stored = stored_will(will.clone(), &name, epoch);
        let is_read = stored.body.is_some() && will.message.whole().is_none();
        let _room = if is_read { Some(self.will_room.enter(stored.whole_size()).await) } else { None };
        let stored = match self.whole_will(client_id, &will.message, stored).await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                tracing::error!(client_id = &**client_id, "a will is gone that the record of its session names");
                return WillOutcome::Done;
            }
            Err(error) => {
                tracing::debug!(client_id = &**client_id, %error, "a will waits for JetStream");
                return WillOutcome::NotNow;
            }
        };
        let rights = match self.will_rights(client_id, &stored, epoch).await {
            Ok(rights) => rights,
            Err(refused) => return self.drop_will(client_id, &stored.topic, refused),
        };
        self.send_will(client_id, &stored, (epoch, rights), cause).await
    }

    /// Publishes a will that is in memory, as whoever has these rights may.
    pub(super) async fn send_will(
        self: &Arc<Self>,
        client_id: &ByteString,
        stored: &StoredWill,
        (epoch, rights): (Epoch, Option<Arc<Rights>>),
        cause: WillCause,
    ) -> WillOutcome {
        let key = self.client_key(client_id);
        let Some(mut publication) = records::will_publication(stored, epoch) else { return WillOutcome::Done };
        let is_stored = publication.qos != QoS::AtMostOnce;
        publication.token = is_stored.then_some(0);
        let completions = Arc::new(Completions::new(self.next_session_id(), client_id.clone(), Version::V5));
        let mut publishing = Publishing::of_will(Arc::clone(self), completions, key, epoch);
        if let Some(rights) = rights {
            publishing = publishing.by(rights);
        }
        if let WillState::Firing { id, .. } = &stored.state {
            publishing.name_as(id);
        }
        if let Err(refusal) = publishing.publish(publication, &mut Wakes::default()) {
            let (publication, refused) = *refusal;
            return self.drop_will(client_id, publication.topic.as_str(), refused);
        }
        let answers = publishing.settle().await;
        // Nothing acknowledges a will at QoS 0. When we die before its mark is gone, it is published again.
        let outcome = match answers.as_ref().and_then(|answers| answers.first()) {
            _ if !is_stored && answers.is_some() => WillOutcome::Done,
            Some((_, Ok(_))) => WillOutcome::Done,
            Some((_, Err(ReasonCode::ServerBusy))) | None => WillOutcome::NotNow,
            // A stream without a leader looks like none, and a full one may have room later.
            Some((_, Err(_))) => WillOutcome::Refused,
        };
        if outcome == WillOutcome::Done {
            self.metrics.will(cause);
        } else {
            tracing::warn!(client_id = &**client_id, ?outcome, "a will could not be stored yet");
        }
        outcome
    }

    /// It is not published, and that is all.
    fn drop_will(&self, client_id: &ByteString, topic: &str, refused: Refused) -> WillOutcome {
        let (client_id, topic) = (client_id.escape_debug().to_string(), topic.escape_debug().to_string());
        tracing::info!(client_id, topic, why = refused.why(), "a will was refused");
        self.metrics.dropped(refused.drop_reason(), 1);
        WillOutcome::Done
    }
}
