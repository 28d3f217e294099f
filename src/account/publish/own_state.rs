//! What a bridge says of its own connection is published here and nowhere else, see [`BridgeStates`].
//!
//! [`BridgeStates`]: crate::account::sys::bridge_state::BridgeStates

use bytes::Bytes;
use mqtt_codec::{ReasonCode, TopicName};
use mqtt_session::Publication;

use super::Publishing;
use super::job::Refused;
use crate::account::delivery::inbox::Wakes;
use crate::account::delivery::message::Message;
use crate::account::rights::Rights;
use crate::account::sys::bridge_state;
use crate::metrics::Limit;

impl Publishing {
    /// Takes out of a publish what a bridge says of itself. Returns what is to be published, if anything is.
    ///
    /// # Errors
    /// It says too much, or too many do.
    pub(super) fn tell_own_state(
        &mut self,
        publication: Publication,
        wakes: &mut Wakes,
    ) -> Result<Option<Publication>, Box<(Publication, Refused)>> {
        if !self.is_own_state(&publication.topic) {
            return Ok(Some(publication));
        }
        let may_tell = |rights: &std::sync::Arc<Rights>| {
            let mapped = proto_map::map_topic(&publication.topic, proto_map::MAX_SUBJECT_LEN);
            mapped.is_ok_and(|mapped| rights.may_publish(&mapped.subject))
        };
        if !self.rights().is_none_or(may_tell) {
            return Err(Box::new((publication, Refused::Denied)));
        }
        let sys = &self.account.sys;
        if let Err(refused) = sys.bridges.admit(&self.completions.client_id, &publication) {
            if refused == Refused::NoRoom {
                self.account.refusals.refuse(Limit::BridgeStates, &self.completions.client_id);
            }
            return Err(Box::new((publication, refused)));
        }
        // Copies: what is kept must not keep the buffer that it was read in.
        let mut message =
            Message::new(publication.topic.to_owned_copy(), Bytes::copy_from_slice(&publication.payload), None);
        message.retain = publication.retain;
        message.since = self.account.store.clock().latest();
        sys.tell(&mut message, self.completions.id, wakes);
        self.answered(publication.token, Ok(ReasonCode::Success));
        Ok(None)
    }

    /// The same of a will, which is published later.
    pub(super) fn judge_own_state(&self, publication: &Publication) -> Option<Result<(), Refused>> {
        self.is_own_state(&publication.topic).then(|| bridge_state::judge(publication))
    }

    fn is_own_state(&self, topic: &TopicName) -> bool {
        bridge_state::is_own_state(topic, &self.completions.client_id, self.account.router.closed())
    }
}
