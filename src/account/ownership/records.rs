//! Between what the session engine and the codec know, and what of it is written into a session's record.

use std::num::NonZeroU32;

use mqtt_codec::{
    Connect, MessageProperties, PacketId, QoS, RetainHandling, SubscriptionOptions, TopicFilter, TopicName, Version,
    Will,
};
use mqtt_ownership::Epoch;
use mqtt_session::{
    Cursors, InFlightState, MessageId, MessageNumber, Once, Position, Progress, Publication, ReceivedState, Sequence,
};

use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::logs::Logs;
use crate::account::delivery::router::NewSubscription;
use crate::account::delivery::subscriptions::{Before, Gates};
use crate::account::ownership::owned_session::{Claims, SentFor};
use crate::account::shared::NewShare;
use crate::store::{
    InFlightRecord, InFlightRecordState, ProgressRecord, ReceivedRecord, Rest, StoredSubscription, StoredWill,
    WillState,
};

/// The number of a will among the QoS 2 messages of its epoch: above all of them.
pub(crate) const WILL_NUMBER: MessageNumber = MessageNumber(u64::MAX);

/// How a version is written into a record.
pub(crate) const fn protocol(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}

/// The progress of a session as it is stored.
pub(crate) fn progress_record(
    epoch: Epoch,
    progress: &Progress,
    claims: &Claims,
    sent_for: &SentFor,
    logs: &Logs,
) -> ProgressRecord {
    let in_flight = progress.in_flight.iter().map(|m| {
        let (sequence, log) = logs.name_of(m.position);
        InFlightRecord {
            packet_id: m.packet_id.get(),
            sequence: sequence.0,
            log,
            qos: m.qos as u8,
            ack: claims.get(&m.packet_id).map(ToString::to_string),
            subscription: sent_for.get(&m.packet_id).map(|id| id.get()),
            state: if m.is_released { InFlightRecordState::Released } else { InFlightRecordState::Sent },
        }
    });
    let received = progress.received.iter().map(|r| ReceivedRecord {
        packet_id: r.packet_id.get(),
        epoch: r.message.epoch.0,
        number: r.message.number.0,
        key: r.message.key,
        after: r.after.0,
    });
    ProgressRecord {
        epoch: epoch.0,
        cursor: progress.cursors.get(0).unwrap_or_default().0,
        cursors: logs.names_of(&progress.cursors),
        in_flight: in_flight.collect(),
        received: received.collect(),
        ..ProgressRecord::default()
    }
}

/// The stored progress of a session. What no session of ours can have written is left out.
pub(crate) fn progress(record: &ProgressRecord, logs: &Logs) -> Progress {
    let in_flight = record.in_flight.iter().filter_map(|m| {
        Some(InFlightState {
            packet_id: PacketId::new(m.packet_id)?,
            position: logs.place_of(Sequence(m.sequence), m.log.as_deref()),
            qos: QoS::try_from(m.qos).ok()?,
            is_released: m.state == InFlightRecordState::Released,
        })
    });
    let received = record.received.iter().filter_map(|r| {
        Some(ReceivedState {
            packet_id: PacketId::new(r.packet_id)?,
            message: MessageId { epoch: Epoch(r.epoch), number: MessageNumber(r.number), key: r.key },
            after: Sequence(r.after),
        })
    });
    let mut cursors = logs.places_of(&record.cursors);
    cursors.raise(Position::in_main_log(Sequence(record.cursor)));
    Progress { cursors, in_flight: in_flight.collect(), received: received.collect() }
}

/// The claims that are in a stored progress.
pub(crate) fn claims(record: &ProgressRecord, logs: &Logs) -> Claims {
    // A log that was made anew has other messages at these sequences.
    let is_there = |m: &InFlightRecord| m.log.as_ref().is_none_or(|log| logs.knows(std::iter::once(log)));
    let claim = |m: &InFlightRecord| Some((PacketId::new(m.packet_id)?, m.ack.as_deref()?.into()));
    record.in_flight.iter().filter(|m| is_there(m)).filter_map(claim).collect()
}

/// Which subscriptions messages were sent for, in a stored progress.
pub(crate) fn sent_for(record: &ProgressRecord) -> SentFor {
    let sent_for = |m: &InFlightRecord| Some((PacketId::new(m.packet_id)?, NonZeroU32::new(m.subscription?)?));
    record.in_flight.iter().filter_map(sent_for).collect()
}

/// A subscription as it is stored. `after`: the places that it begins after.
pub(crate) fn stored_subscription(s: &NewSubscription, after: &Cursors, logs: &Logs) -> StoredSubscription {
    StoredSubscription {
        filter: s.filter.as_str().to_owned(),
        qos: s.options.qos as u8,
        no_local: s.options.no_local,
        retain_as_published: s.options.retain_as_published,
        retain_handling: s.options.retain_handling as u8,
        id: s.subscription_id.map(NonZeroU32::get),
        since: after.get(0).unwrap_or_default().0,
        since_in: logs.names_of(after),
        retained: None,
        before: None,
        rest: Rest::new(),
    }
}

/// The places that a stored subscription begins after.
pub(crate) fn begins_after(stored: &StoredSubscription, logs: &Logs) -> Cursors {
    let mut places = logs.places_of(&stored.since_in);
    places.raise(Position::in_main_log(Sequence(stored.since)));
    places
}

/// The same of a shared one, which has no place in the log of its own.
pub(crate) fn stored_share(s: &NewShare, after: Sequence) -> StoredSubscription {
    StoredSubscription {
        filter: s.filter.as_str().to_owned(),
        qos: s.options.qos as u8,
        no_local: false,
        retain_as_published: s.options.retain_as_published,
        retain_handling: s.options.retain_handling as u8,
        id: s.subscription_id.map(NonZeroU32::get),
        since: after.0,
        since_in: std::collections::BTreeMap::new(),
        retained: None,
        before: None,
        rest: Rest::new(),
    }
}

/// A shared subscription that is stored. `None` when it is none.
pub(crate) fn share(stored: &StoredSubscription) -> Option<NewShare> {
    let filter = TopicFilter::new(stored.filter.as_str()).ok().filter(TopicFilter::is_shared)?;
    Some(NewShare { filter, options: options(stored)?, subscription_id: stored.id.and_then(NonZeroU32::new) })
}

pub(in crate::account) fn options(stored: &StoredSubscription) -> Option<SubscriptionOptions> {
    Some(SubscriptionOptions {
        qos: QoS::try_from(stored.qos).ok()?,
        no_local: stored.no_local,
        retain_as_published: stored.retain_as_published,
        retain_handling: RetainHandling::try_from(stored.retain_handling).ok()?,
    })
}

/// A stored subscription, without the retained messages that came with it. `None` when it is none.
pub(crate) fn subscription(
    stored: &StoredSubscription,
    order: impl FnOnce(&TopicFilter) -> Option<SubscriptionOrder>,
    logs: &Logs,
) -> Option<NewSubscription> {
    let filter = TopicFilter::new(stored.filter.as_str()).ok()?;
    Some(NewSubscription {
        order: order(&filter)?,
        logs: logs.overlapping(&filter),
        filter,
        options: options(stored)?,
        subscription_id: stored.id.and_then(NonZeroU32::new),
        is_owed_retained: false,
        before: stored.before.as_ref().and_then(|before| {
            let mut until = logs.places_of(&before.up_to_in);
            until.raise(Position::in_main_log(Sequence(before.up_to)));
            Some(Before { qos: QoS::try_from(before.qos).ok()?, until: Gates::new(&until) })
        }),
    })
}

/// The will of a CONNECT as it is stored, not yet due. `log_sequence`: where the log stood at the CONNECT.
pub(crate) fn stored_will(connect: &Connect, log_sequence: Sequence) -> Option<StoredWill> {
    let Will { topic, payload, qos, retain, delay_interval_s, properties } = connect.will.as_deref()?;
    let MessageProperties {
        payload_is_utf8,
        message_expiry_interval_s,
        content_type,
        response_topic,
        correlation_data,
        user_properties,
    } = properties.as_deref().cloned().unwrap_or_default();
    Some(StoredWill {
        topic: topic.as_str().to_owned(),
        payload: payload.clone(),
        qos: *qos as u8,
        retain: *retain,
        delay_s: *delay_interval_s,
        payload_is_utf8,
        message_expiry_s: message_expiry_interval_s,
        content_type: content_type.map(|text| text.to_string()),
        response_topic: response_topic.map(|topic| topic.as_str().to_owned()),
        correlation_data,
        user_properties: user_properties.into_iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        state: WillState::Armed,
        due_at_ms: None,
        since: log_sequence.0,
        body: None,
        body_size: 0,
        by: None,
        rest: Rest::new(),
    })
}

/// The publish that a will is. `None` when it has no topic, which no will of ours lacks.
pub(crate) fn will_publication(will: &StoredWill, epoch: Epoch) -> Option<Publication> {
    let properties = MessageProperties {
        payload_is_utf8: will.payload_is_utf8,
        message_expiry_interval_s: will.message_expiry_s,
        content_type: will.content_type.as_deref().map(Into::into),
        response_topic: will.response_topic.as_deref().and_then(|t| TopicName::new(t).ok()),
        correlation_data: will.correlation_data.clone(),
        // [MQTT-3.1.3-10]
        user_properties: will.user_properties.iter().map(|(n, v)| (n.as_str().into(), v.as_str().into())).collect(),
    };
    let maybe_above = match &will.state {
        WillState::Armed => None,
        WillState::Firing { after, .. } => Some(Sequence(*after)),
    };
    let qos = QoS::try_from(will.qos).unwrap_or_default();
    Some(Publication {
        token: None,
        once: (qos != QoS::AtMostOnce)
            .then_some(Once { message: MessageId { epoch, number: WILL_NUMBER, key: 0 }, maybe_above }),
        topic: TopicName::new(will.topic.as_str()).ok()?,
        qos,
        // [MQTT-3.1.2-14, -15]
        retain: will.retain,
        payload: will.payload.clone(),
        properties: (properties != MessageProperties::default()).then(|| Box::new(properties)),
    })
}
