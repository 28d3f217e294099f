//! What one client may do, as it is now: by its principal, which can change while it is connected.
//!
//! Permissions are about NATS subjects, so topics and filters are judged as what they are mapped to. Closed trees are beside
//! this, and stay closed whatever is allowed.
//!
//! **Invariant:** everything that is published for a client is judged by [`Rights::may_publish`], everything that it is subscribed
//! to by [`Rights::judge_filter`], and every message on its way to it by [`Permits`], wherever it comes from.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytestring::ByteString;
use mqtt_access::{Limit, Permissions, Principal, ReplyBudget, SubscribeVerdict, UnixTime};
use mqtt_codec::{QoS, ReasonCode, TopicFilter, TopicName};
use mqtt_ownership::ServerTime;
use mqtt_session::Limits;
use parking_lot::{Mutex, RwLock};
use proto_map::{ClosedTrees, MountPoint, Subject, SubjectFilter};

use crate::account::delivery::grant::Permits;
use crate::account::publish::size_refusals::HEADER_ROOM;
use crate::account::session_user::SessionUser;

/// Requests of which it is known how often one client has answered them.
const REPLIES_MAX: usize = 64;

/// Changes whenever rights do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RightsVersion(u64);

/// The rights of one client.
#[derive(Debug)]
pub(crate) struct Rights {
    principal: RwLock<Arc<Principal>>,
    /// Raised whenever they change.
    version: AtomicU64,
    /// Some messages that filters match are not for it: most clients have no such limit, and each message asks.
    limits_receiving: AtomicBool,
    /// It may not publish at each QoS, with RETAIN, or at each size; the same.
    limits_kinds: AtomicBool,
    options: RightsOptions,
    /// The part of the topics that it sees as all of them.
    mount: Option<Arc<MountPoint>>,
    /// What is left of the replies to requests that were answered last.
    replies: Mutex<VecDeque<(Subject, ReplyBudget)>>,
}

/// How an operator has rights judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RightsOptions {
    /// A filter that is wider than what a client may have is granted, and brings what it may have.
    pub filters_wide: bool,
    /// A session is of the whole account, and not of the user that made it.
    pub shares_sessions: bool,
    /// The account has no JetStream: QoS 0 alone, nothing is retained, and no session outlives its connection.
    pub stores_nothing: bool,
}

impl Rights {
    /// Those of a principal.
    pub(crate) fn new(principal: Arc<Principal>, options: RightsOptions) -> Self {
        let limits_receiving = AtomicBool::new(limits_receiving(&principal.permissions));
        let limits_kinds = AtomicBool::new(options.stores_nothing || limits_kinds(&principal));
        Self {
            principal: RwLock::new(principal),
            version: AtomicU64::new(0),
            limits_receiving,
            limits_kinds,
            options,
            mount: None,
            replies: Mutex::default(),
        }
    }

    /// The same of a client that sees this part of the topics as all of them.
    pub(crate) fn within(self, mount: Option<Arc<MountPoint>>) -> Self {
        if mount.is_some() {
            self.limits_receiving.store(true, Ordering::SeqCst);
        }
        Self { mount, ..self }
    }

    /// The part of the topics that it sees as all of them.
    pub(crate) const fn mount(&self) -> Option<&Arc<MountPoint>> {
        self.mount.as_ref()
    }

    /// Of whoever may do everything.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self::new(Arc::new(Principal::all()), RightsOptions::default())
    }

    /// Who it is.
    pub(crate) fn principal(&self) -> Arc<Principal> {
        Arc::clone(&self.principal.read())
    }

    /// Who it is: the name of its user, or the NKey of one without a name; `None` where nobody has to say.
    pub(crate) fn user(&self) -> Option<String> {
        Some(self.principal.read().user.owner().to_owned()).filter(|user| !user.is_empty())
    }

    /// The user that its sessions belong to; `None` when they are the account's.
    pub(crate) fn owner(&self) -> Option<SessionUser> {
        if self.options.shares_sessions { None } else { SessionUser::of(&self.principal.read()) }
    }

    /// Whether it may have a session that belongs to this user: one that is the account's is everybody's, and one of a user
    /// is nobody else's, also not of whom nobody has asked who he is.
    pub(crate) fn may_own(&self, user: Option<&SessionUser>) -> bool {
        self.options.shares_sessions || user.is_none() || may_have(self.owner().as_ref(), user)
    }

    /// From now on it is this one, if it is still the one that was judged: says whether it was. `of_inbox`: says of its inbox what
    /// [`Rights::limits_receiving`] does of it.
    ///
    /// **Invariant:** a change is one step: of several at a time each finds what the one before has made, with the flags that
    /// belong to it, and one that was decided by something else holds nothing up.
    pub(crate) fn change(&self, judged: &Arc<Principal>, principal: Arc<Principal>, of_inbox: &AtomicBool) -> bool {
        let mut is = self.principal.write();
        if !Arc::ptr_eq(&is, judged) {
            return false;
        }
        let limits_receiving = self.mount.is_some() || limits_receiving(&principal.permissions);
        let limits = [
            (&self.limits_receiving, limits_receiving),
            (of_inbox, limits_receiving),
            (&self.limits_kinds, self.options.stores_nothing || limits_kinds(&principal)),
        ];
        // Between the two it may have less than either says, and not more.
        limits.iter().for_each(|(flag, has_some)| _ = flag.fetch_or(*has_some, Ordering::SeqCst));
        *is = principal;
        limits.iter().for_each(|(flag, has_some)| flag.store(*has_some, Ordering::SeqCst));
        self.version.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Does something if it is still the one that was judged, and lets it be nobody else meanwhile: says whether it was.
    pub(crate) fn while_is(&self, judged: &Arc<Principal>, act: impl FnOnce()) -> bool {
        let is = self.principal.read();
        let is_still = Arc::ptr_eq(&is, judged);
        if is_still {
            act();
        }
        is_still
    }

    /// What was answered under another version is to be asked again.
    pub(crate) fn version(&self) -> RightsVersion {
        RightsVersion(self.version.load(Ordering::SeqCst))
    }

    /// Whether there is anything that it may not receive.
    pub(crate) fn limits_receiving(&self) -> bool {
        self.limits_receiving.load(Ordering::SeqCst)
    }

    /// Whether it may publish on a subject.
    pub(crate) fn may_publish(&self, subject: &Subject) -> bool {
        self.principal.read().permissions.is_publish_allowed(subject.as_str())
    }

    /// Whether it may answer a request on its reply subject, which counts: one that it may publish on, or any when replies are
    /// allowed, so many for so long from the first one on.
    pub(crate) fn take_reply(&self, subject: &Subject, now: ServerTime) -> bool {
        let principal = self.principal.read();
        if principal.permissions.is_publish_allowed(subject.as_str()) {
            return true;
        }
        let Some(limits) = principal.permissions.response_limits() else { return false };
        let now = UnixTime::from_millis(i64::try_from(now.0).unwrap_or(i64::MAX));
        let mut replies = self.replies.lock();
        let place = match replies.iter().position(|(of, _)| of == subject) {
            Some(place) => place,
            None => {
                if replies.len() == REPLIES_MAX {
                    replies.pop_front();
                }
                replies.push_back((subject.clone(), ReplyBudget::new(limits, now)));
                replies.len() - 1
            }
        };
        replies.get_mut(place).is_some_and(|(_, budget)| budget.take(now))
    }

    /// Whether it may publish at a QoS, and with RETAIN.
    pub(crate) fn may_publish_as(&self, qos: QoS, retain: bool) -> bool {
        if !self.limits_kinds.load(Ordering::SeqCst) {
            return true;
        }
        let principal = self.principal.read();
        qos <= self.max_qos_of(&principal)
            && !(retain && (self.options.stores_nothing || principal.rules.retain_denied))
    }

    /// Whether a message of its own may have so large a payload, in bytes.
    pub(crate) fn may_send(&self, payload_len: usize) -> bool {
        !self.limits_kinds.load(Ordering::SeqCst)
            || !self.principal.read().limits.payload.is_exceeded(u64::try_from(payload_len).unwrap_or(u64::MAX))
    }

    /// Whether it may have one more subscription, when it has so many.
    pub(crate) fn may_subscribe_beside(&self, count: usize) -> bool {
        !self.principal.read().limits.subscriptions.is_reached(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// What it is offered, of what everybody is.
    pub(crate) fn limits(&self, limits: &Limits) -> Limits {
        let principal = self.principal.read();
        let rules = &principal.rules;
        Limits {
            max_qos: limits.max_qos.min(self.max_qos_of(&principal)),
            retain_available: limits.retain_available && !rules.retain_denied && !self.options.stores_nothing,
            shared_subscriptions: limits.shared_subscriptions && !rules.share_denied,
            max_packet_size: limits.max_packet_size.min(packet_size_of(principal.limits.payload)),
            max_session_expiry_s: match rules.session_expiry_s_max {
                _ if self.options.stores_nothing => 0,
                max => limits.max_session_expiry_s.min(max.unwrap_or(u32::MAX)),
            },
            ..limits.clone()
        }
    }

    /// The highest QoS of a subscription.
    pub(crate) fn max_qos(&self) -> QoS {
        self.max_qos_of(&self.principal.read())
    }

    fn max_qos_of(&self, principal: &Principal) -> QoS {
        if self.options.stores_nothing { QoS::AtMostOnce } else { max_qos(principal) }
    }

    /// Whether it may have a subscription.
    ///
    /// # Errors
    /// The reason code of SUBACK.
    pub(crate) fn judge_filter(&self, filter: &TopicFilter, closed: &ClosedTrees) -> Result<(), ReasonCode> {
        let principal = self.principal.read();
        if filter.is_shared() && principal.rules.share_denied {
            // As CONNACK has said.
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if !limits_receiving(&principal.permissions) {
            return Ok(());
        }
        let subjects = closed.subjects_of(filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let group = filter.shared().map(|shared| proto_map::queue_group(&shared.name));
        let is_granted = |subject: &SubjectFilter| {
            let verdict = principal.permissions.subscribe(subject.as_str(), group.as_deref());
            verdict.is_granted() || self.options.filters_wide && verdict == SubscribeVerdict::TooWide
        };
        // `a/#` is `a.>` and `a`, and has the second where that is allowed.
        let is_parent_of = |subject: &SubjectFilter, other: &SubjectFilter| {
            other.as_str().strip_suffix(".>").is_some_and(|parent| parent == subject.as_str())
        };
        let is_parent = |subject: &SubjectFilter| subjects.iter().any(|other| is_parent_of(subject, other));
        match subjects.iter().all(|subject| is_parent(subject) || is_granted(subject)) {
            true => Ok(()),
            false => Err(ReasonCode::NotAuthorized),
        }
    }

    /// The same client as a member of a group with this share name.
    pub(crate) fn in_group(&self, name: &str) -> impl Permits {
        InGroup { rights: self, queue: proto_map::queue_group(name) }
    }

    fn receives(&self, topic: &TopicName, group: Option<&str>) -> bool {
        if !self.limits_receiving.load(Ordering::SeqCst) {
            return true;
        }
        if self.mount.as_ref().is_some_and(|mount| !mount.has(topic)) {
            return false;
        }
        let principal = self.principal.read();
        if !limits_receiving(&principal.permissions) {
            return true;
        }
        let Ok(mapped) = proto_map::map_topic(topic, proto_map::MAX_SUBJECT_LEN) else { return false };
        principal.permissions.is_receive_allowed(mapped.subject.as_str(), group)
    }
}

impl Permits for Rights {
    fn may_receive(&self, topic: &TopicName) -> bool {
        self.receives(topic, None)
    }

    fn mount(&self) -> Option<&MountPoint> {
        self.mount.as_deref()
    }
}

struct InGroup<'a> {
    rights: &'a Rights,
    queue: ByteString,
}

impl Permits for InGroup<'_> {
    fn may_receive(&self, topic: &TopicName) -> bool {
        self.rights.receives(topic, Some(&self.queue))
    }

    fn mount(&self) -> Option<&MountPoint> {
        self.rights.mount.as_deref()
    }
}

/// Whether a session that belongs to `of` may become one of `who`; `None`: the account's.
pub(crate) fn may_have(who: Option<&SessionUser>, of: Option<&SessionUser>) -> bool {
    of.is_none_or(|of| who.is_some_and(|who| who.is(of)))
}

fn max_qos(principal: &Principal) -> QoS {
    principal.rules.max_qos.and_then(|qos| QoS::try_from(qos).ok()).unwrap_or(QoS::ExactlyOnce)
}

/// Whether a client may not publish at each QoS, with RETAIN, or at each size.
fn limits_kinds(principal: &Principal) -> bool {
    max_qos(principal) < QoS::ExactlyOnce
        || principal.rules.retain_denied
        || principal.limits.payload != Limit::Unlimited
}

/// The largest packet of a client whose payloads have a limit: what comes with a payload has room beside it.
fn packet_size_of(payload: Limit) -> NonZeroU32 {
    let Limit::Max(bytes) = payload else { return NonZeroU32::MAX };
    let size = bytes.saturating_add(u64::try_from(HEADER_ROOM).unwrap_or(u64::MAX));
    u32::try_from(size).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// Whether there is anything that a client may not receive.
fn limits_receiving(permissions: &Permissions) -> bool {
    !permissions.lists().subscribe.is_empty()
}

#[cfg(test)]
mod tests;
