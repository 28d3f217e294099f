//! What a subscriber gets of a message: whether anything, at which QoS, with which RETAIN flag and Subscription Identifiers,
//! and in how many copies. One rule for what comes live, by a scan, from a backlog, again, retained or shared.
//!
//! Plain data in, plain data out: no lock, no inbox, no clock. Whoever asks has found out that the filter matches, whether
//! the message is behind the SUBSCRIBE, and whose it is.
//!
//! **Invariant:** what a client may not receive is withheld here and nowhere else. A filter with wildcards can be wider than
//! what its client is allowed, so that is judged of each message, whichever way it comes: see [`Permits`].

use std::num::NonZeroU32;

use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter, TopicName};
use proto_map::MountPoint;

use crate::account::delivery::message::Message;
use crate::store::StoredSubscription;

/// What a client may receive.
pub(crate) trait Permits {
    /// Whether it may receive what is published to this topic, whatever its filters match. Permissions are about subjects: of
    /// those who have any, the topic is mapped as it is at PUBLISH.
    fn may_receive(&self, topic: &TopicName) -> bool;

    /// The part of the topics that it sees as all of them.
    fn mount(&self) -> Option<&MountPoint> {
        None
    }

    /// Whether a filter begins with a wildcard for it, and for nobody else; see [`Terms::leads`].
    fn leads(&self, filter: &TopicFilter) -> bool {
        self.mount().is_some_and(|mount| mount.leads_with_wildcard(filter))
    }
}

/// A client that may receive what its filters match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Everybody;

impl Permits for Everybody {
    fn may_receive(&self, _: &TopicName) -> bool {
        true
    }
}

/// What one subscription asks for, with regard to one message that its filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Maximum QoS: of one that was replaced by another, that of the one which the message is for.
    pub(crate) qos: QoS,
    /// Retain As Published.
    pub(crate) retain_as_published: bool,
    /// No Local.
    pub(crate) no_local: bool,
    /// Subscription Identifier.
    pub(crate) id: Option<NonZeroU32>,
    /// The message is behind the SUBSCRIBE, and has not come with it.
    pub(crate) is_due: bool,
    /// The filter begins with a wildcard behind the mount point of its client, for whom it matches no topic that begins with `$`
    /// there [MQTT-4.7.2-1].
    pub(crate) leads: bool,
}

impl Terms {
    /// Those of a subscription that the message is for.
    pub(crate) const fn new(options: SubscriptionOptions, id: Option<NonZeroU32>) -> Self {
        let SubscriptionOptions { qos, retain_as_published, no_local, .. } = options;
        Self { qos, retain_as_published, no_local, id, is_due: true, leads: false }
    }

    /// Those of a stored subscription, at this QoS.
    pub(crate) fn of_stored(stored: &StoredSubscription, qos: u8) -> Option<Self> {
        let StoredSubscription { retain_as_published, no_local, id, .. } = *stored;
        let (qos, id) = (QoS::try_from(qos).ok()?, id.and_then(NonZeroU32::new));
        Some(Self { qos, retain_as_published, no_local, id, is_due: true, leads: false })
    }
}

/// Which sessions a copy of a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All that match.
    Everyone,
    /// Those whose subscriptions are of QoS 0: the others get it from a log.
    Qos0Only,
    /// Those with a subscription above QoS 0: the others had it on core NATS, or were not there to have it.
    DurableOnly,
}

impl Audience {
    /// Whether a copy is for a session whose highest matching QoS is this.
    fn includes(self, highest: QoS) -> bool {
        match self {
            Self::Everyone => true,
            Self::Qos0Only => highest == QoS::AtMostOnce,
            Self::DurableOnly => highest > QoS::AtMostOnce,
        }
    }
}

/// What of a message decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageFacts<'a> {
    /// Its topic.
    pub(crate) topic: &'a TopicName,
    /// QoS at which it was published.
    pub(crate) qos: QoS,
    /// RETAIN flag with which it was published.
    pub(crate) retain: bool,
    /// It comes because of a SUBSCRIBE, and not of a PUBLISH.
    pub(crate) is_retained: bool,
    /// The session that it is for has published it.
    pub(crate) is_own: bool,
    /// Whom this copy of it is for.
    pub(crate) audience: Audience,
}

impl<'a> MessageFacts<'a> {
    /// Those of a message that was published by somebody else, and is for everyone.
    pub(crate) const fn of(message: &'a Message) -> Self {
        let (is_retained, is_own, audience) = (false, false, Audience::Everyone);
        Self { topic: &message.topic, qos: message.qos, retain: message.retain, is_retained, is_own, audience }
    }
}

/// A copy of a message as a session gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// QoS to send it at.
    pub(crate) qos: QoS,
    /// RETAIN flag to send.
    pub(crate) retain: bool,
    /// Identifiers of the subscriptions that it is for.
    pub(crate) ids: SubscriptionIds,
}

/// Subscription Identifiers. One or none, as mostly, costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionIds {
    /// At most one.
    One(Option<NonZeroU32>),
    /// Two or more.
    Many(Box<[NonZeroU32]>),
}

impl SubscriptionIds {
    /// All of them.
    pub(crate) fn as_slice(&self) -> &[NonZeroU32] {
        match self {
            Self::One(id) => id.as_slice(),
            Self::Many(ids) => ids,
        }
    }
}

impl FromIterator<NonZeroU32> for SubscriptionIds {
    fn from_iter<T: IntoIterator<Item = NonZeroU32>>(ids: T) -> Self {
        let mut ids = ids.into_iter();
        match (ids.next(), ids.next()) {
            (Some(first), Some(second)) => Self::Many([first, second].into_iter().chain(ids).collect()),
            (one, _) => Self::One(one),
        }
    }
}

/// What a session gets of a message by the one subscription of it that matches; `None`: nothing.
#[inline]
pub(crate) fn grant(terms: &Terms, message: &MessageFacts<'_>, permits: &impl Permits) -> Option<Grant> {
    let is_for = message.audience.includes(terms.qos)
        && takes(terms, message)
        && permits.may_receive(message.topic)
        && !is_hidden(terms, message, permits);
    is_for.then(|| copy(terms, message))
}

/// What a session gets of a message by all subscriptions of it that match: one copy [MQTT-3.3.4-2], or with `is_each` one for
/// each of them [MQTT-3.3.4-5], those at QoS 0 first.
pub(crate) fn grants(
    all: impl Iterator<Item = Terms>,
    message: &MessageFacts<'_>,
    is_each: bool,
    permits: &impl Permits,
) -> Vec<Grant> {
    // Which copy is for a session is said by all that match, also by those that it is not for: otherwise it could get both.
    let mut highest = QoS::AtMostOnce;
    let all = all.filter(|terms| !is_hidden(terms, message, permits)).inspect(|terms| highest = highest.max(terms.qos));
    let mut copies: Vec<Grant> = all.filter(|terms| takes(terms, message)).map(|terms| copy(&terms, message)).collect();
    if copies.is_empty() || !message.audience.includes(highest) || !permits.may_receive(message.topic) {
        return Vec::new();
    }
    if is_each {
        copies.sort_by_key(|copy| copy.qos > QoS::AtMostOnce);
        return copies;
    }
    let one = merged(&copies);
    copies.clear();
    copies.extend(one);
    copies
}

/// How a message is sent again that a session had in flight at this QoS, for those of its subscriptions that it matches now. It
/// is sent also when they are gone [MQTT-4.4.0-1], but not to a client that may not receive it any more.
pub(crate) fn grant_again(
    qos: QoS,
    all: impl Iterator<Item = Terms>,
    message: &MessageFacts<'_>,
    permits: &impl Permits,
) -> Option<Grant> {
    if !permits.may_receive(message.topic) {
        return None;
    }
    let copies: Vec<Grant> = all.filter(|terms| takes(terms, message)).map(|terms| copy(&terms, message)).collect();
    let nobody = Grant { qos, retain: message.is_retained, ids: SubscriptionIds::One(None) };
    Some(merged(&copies).map_or(nobody, |merged| Grant { qos, ..merged }))
}

/// One copy for several subscriptions: at the highest QoS of them [MQTT-3.3.4-2], with the identifiers of all [MQTT-3.3.4-3, -4],
/// and with RETAIN when one of them wants it.
pub(crate) fn merged<'a>(copies: impl IntoIterator<Item = &'a Grant, IntoIter: Clone>) -> Option<Grant> {
    let copies = copies.into_iter();
    let qos = copies.clone().map(|copy| copy.qos).max()?;
    let retain = copies.clone().any(|copy| copy.retain);
    let ids = copies.flat_map(|copy| copy.ids.as_slice()).copied().collect();
    Some(Grant { qos, retain, ids })
}

/// Whether a message is for a subscription: No Local keeps away what the client has published itself [MQTT-3.8.3-3].
const fn takes(terms: &Terms, message: &MessageFacts<'_>) -> bool {
    terms.is_due && !(terms.no_local && message.is_own)
}

/// Whether a message is none that the filter matches for its client.
#[inline]
fn is_hidden(terms: &Terms, message: &MessageFacts<'_>, permits: &impl Permits) -> bool {
    terms.leads && permits.mount().is_some_and(|mount| mount.is_dollar(message.topic))
}

/// The copy for one subscription: not above the QoS at which the message was published [MQTT-3.8.4-8], also of a shared one
/// [MQTT-4.8.2-3], and with the RETAIN flag that it wants [MQTT-3.3.1-12, -13], or that is always there on what a SUBSCRIBE
/// brings [MQTT-3.3.1-8 of 3.1.1].
#[inline]
fn copy(terms: &Terms, message: &MessageFacts<'_>) -> Grant {
    Grant {
        qos: message.qos.min(terms.qos),
        retain: message.is_retained || message.retain && terms.retain_as_published,
        ids: SubscriptionIds::One(terms.id),
    }
}

#[cfg(test)]
mod tests;
