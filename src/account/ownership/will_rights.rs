//! By what a will is judged once more when it is published: by the rights of its connection, when that ends here now; else by what
//! its user may do by now, as far as that is known here; else by what its record says, which is how it was when its
//! connection was judged last.
//!
//! **Invariant:** a will is published, also of a user who is gone, unless its topic is not allowed any more.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_access::{Mode, Principal, Publisher};
use mqtt_codec::TopicName;
use mqtt_ownership::Epoch;

use crate::account::Account;
use crate::account::publish::Refused;
use crate::account::rights::{Rights, RightsOptions};
use crate::store::{Rest, StoredPublisher, StoredWill};

/// How long it may take to find out what a user may do by now.
const KNOWN_WITHIN: Duration = Duration::from_secs(4);

impl Account {
    /// What is stored of whoever publishes a will. `None` where everybody may publish everything.
    pub(crate) fn will_publisher(&self, topic: &str, rights: &Rights) -> Option<Box<StoredPublisher>> {
        let (principal, denied) = (rights.principal(), self.is_will_denied(topic, rights));
        if principal.origin.mode == Mode::None && !denied {
            return None;
        }
        let mut stored = Publisher::new(&principal).map(stored_publisher).unwrap_or_default();
        stored.denied = denied;
        Some(Box::new(stored))
    }

    /// Whether an answer answers a request shows when it is published.
    fn is_will_denied(&self, topic: &str, rights: &Rights) -> bool {
        let topic = TopicName::new(topic).ok().filter(|topic| !self.requests.is_reply_topic(topic));
        let mapped = topic.and_then(|topic| proto_map::map_topic(&topic, proto_map::MAX_SUBJECT_LEN).ok());
        mapped.is_some_and(|mapped| !rights.may_publish(&mapped.subject))
    }

    /// The rights by which a will is published; `None`: nothing is known against it. See the module.
    ///
    /// # Errors
    /// It was not allowed any more when its connection was judged last.
    pub(super) async fn will_rights(
        &self,
        client_id: &ByteString,
        will: &StoredWill,
        epoch: Epoch,
    ) -> Result<Option<Arc<Rights>>, Refused> {
        let control = self.registry.find_before(client_id, epoch.next()).filter(|control| control.epoch() == epoch);
        if let Some(control) = control {
            return Ok(Some(Arc::clone(&control.inbox().rights)));
        }
        let Some(by) = &will.by else { return Ok(None) };
        let permissions = match publisher_of(by) {
            Some(publisher) => {
                let looking = self.options.publishers.permissions_of(&publisher, client_id);
                tokio::time::timeout(KNOWN_WITHIN, looking).await.ok().flatten()
            }
            None => None,
        };
        match permissions {
            Some(permissions) => {
                let principal = Principal { permissions, ..Principal::all() };
                Ok(Some(Arc::new(Rights::new(Arc::new(principal), RightsOptions::default()))))
            }
            None if by.denied => Err(Refused::Denied),
            None => Ok(None),
        }
    }
}

fn stored_publisher(publisher: Publisher) -> StoredPublisher {
    let Publisher { mode, account, user, key, issuer, tags, has_own_permissions } = publisher;
    let (mode, denied, rest) = (Some(mode.as_str().to_owned()), false, Rest::new());
    StoredPublisher { mode, account, user, key, issuer, tags, has_own_permissions, denied, rest }
}

/// `None`: that is not kept, or a newer version has written it.
fn publisher_of(stored: &StoredPublisher) -> Option<Publisher> {
    let StoredPublisher { account, user, key, issuer, tags, has_own_permissions, .. } = stored.clone();
    let mode = Mode::named(stored.mode.as_deref()?)?;
    Some(Publisher { mode, account, user, key, issuer, tags, has_own_permissions })
}
