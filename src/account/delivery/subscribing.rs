//! SUBSCRIBE and UNSUBSCRIBE. A subscription is made in three steps, so that a retained message that is published
//! meanwhile comes exactly once, on whichever sidecar:
//!
//! 1. its NATS subscription stands at the server;
//! 2. the last sequence of each log that can have messages for it is read, and then the retained index is brought up to its bucket;
//! 3. at one instant, with the tails held, it enters the subscriptions: what the index holds then comes as retained,
//!    what it does not hold comes live.
//!
//! Packets that came in one burst share the steps. Without JetStream the second step is skipped: QoS 0 goes on.
//!
//! - `planning`: which of them may be made
//!
//! Shared subscriptions are made beside these, with neither retained messages nor a place in the log of their own: see
//! `share`.

mod planning;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{PacketId, QoS, ReasonCode, TopicFilter};
use mqtt_session::{Cursors, Sequence};

use crate::account::control::Control;
use crate::account::delivery::inbox::Inbox;
use crate::account::delivery::retained::{RetainedCursor, finding};
use crate::account::delivery::router::{Made, NewSubscription};
use crate::account::interop::durable_interest::unshared;
use crate::account::ownership::records;
use crate::account::rights::{Rights, RightsVersion};
use crate::account::session_id::SessionId;
use crate::account::shared::{NewShare, NotJoined};
use crate::account::{Account, RETRY};
use crate::store::StoredSubscription;
pub(crate) use planning::RecordRoom;

/// How long a SUBSCRIBE waits for NATS and JetStream before it goes on without them.
const PATIENCE: Duration = Duration::from_secs(4);

/// Subscriptions that enter at one instant, with the tails held; others have their turn before the next ones do.
const MADE_AT_ONCE: usize = 512;

/// A subscription to be made; whether the client did not have it before.
#[derive(Clone, Debug)]
enum New {
    Ordinary(NewSubscription, bool),
    Shared(NewShare, bool),
}

impl New {
    const fn filter(&self) -> &TopicFilter {
        match self {
            Self::Ordinary(new, _) => &new.filter,
            Self::Shared(new, _) => &new.filter,
        }
    }

    const fn is_new(&self) -> bool {
        match self {
            Self::Ordinary(_, is_new) | Self::Shared(_, is_new) => *is_new,
        }
    }
}

/// SUBSCRIBE packets whose filters were checked and whose NATS subscriptions are on their way.
#[derive(Debug)]
pub(crate) struct Planned {
    packets: Vec<(PacketId, Vec<Result<New, ReasonCode>>)>,
    /// What nobody in the account wanted above QoS 0 before.
    wishes: Vec<TopicFilter>,
    /// The rights by which they were checked.
    judged_by: RightsVersion,
}

/// What came of SUBSCRIBE packets.
#[derive(Debug)]
pub(crate) struct Subscribed {
    /// The reason codes of each packet.
    pub(crate) reasons: Vec<(PacketId, Vec<ReasonCode>)>,
    /// The retained messages that the client is owed.
    pub(crate) retained: Vec<RetainedCursor>,
    /// The subscriptions that were made, as they are stored.
    pub(crate) made: Vec<(TopicFilter, StoredSubscription)>,
    /// Filters that the client does not have after all.
    pub(crate) failed: Vec<TopicFilter>,
    /// Filters that it had before, and may not have any more: its rights have changed meanwhile.
    pub(crate) denied: HashSet<TopicFilter>,
    /// The same of filters that it did not have before: they were never granted.
    pub(crate) never_granted: Vec<TopicFilter>,
}

impl Planned {
    fn granted(&self) -> impl Iterator<Item = &NewSubscription> {
        self.packets.iter().flat_map(|(_, entries)| entries).filter_map(|entry| match entry {
            Ok(New::Ordinary(new, _)) => Some(new),
            _ => None,
        })
    }

    /// What is being made.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.packets.iter().flat_map(|(_, entries)| entries).flatten().map(New::filter)
    }

    /// What of it the client did not have before.
    fn new_filters(&self) -> impl Iterator<Item = &TopicFilter> {
        let entries = self.packets.iter().flat_map(|(_, entries)| entries).flatten();
        entries.filter(|new| new.is_new()).map(New::filter)
    }

    /// Why each is not made, as far as that is known.
    #[cfg(test)]
    fn reasons(&self) -> Vec<Option<ReasonCode>> {
        let entries = self.packets.iter().flat_map(|(_, entries)| entries);
        entries.map(|entry| entry.as_ref().err().copied()).collect()
    }

    /// Whether the client has a No Local subscription from now on.
    pub(crate) fn has_no_local(&self) -> bool {
        self.granted().any(|s| s.options.no_local)
    }
}

impl Account {
    /// Makes the subscriptions; see the top of this file.
    pub(crate) async fn subscribe(&self, inbox: &Arc<Inbox>, planned: Planned) -> Subscribed {
        let (sys, new): (Vec<_>, Vec<_>) = planned.granted().cloned().partition(|s| self.sys.serves(&s.filter));
        let (mut retained, mut made, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (new, is_sys) in [(new, false), (sys, true)] {
            if new.is_empty() {
                continue;
            }
            let ends = if is_sys {
                Cursors::default()
            } else {
                tokio::join!(self.settle(&new), self.announce(&planned.wishes)).0
            };
            for new in new.chunks(MADE_AT_ONCE) {
                let cursors = self.make(inbox, &ends, new, is_sys, &mut made);
                retained.extend(cursors.await);
                tokio::task::yield_now().await;
            }
        }
        // One for each filter, in their order [MQTT-3.8.4-6], [MQTT-3.9.3-1].
        let mut reasons: Vec<(PacketId, Vec<ReasonCode>)> = Vec::with_capacity(planned.packets.len());
        for (id, entries) in &planned.packets {
            let granted = entries.iter().map(|entry| async {
                match entry {
                    Ok(New::Ordinary(new, _)) => granted_reason(new.options.qos),
                    // There is one of these futures for each filter of a packet, and few are shared.
                    Ok(New::Shared(new, _)) => Box::pin(self.share(inbox, new)).await,
                    Err(reason) => *reason,
                }
            });
            let granted = futures_util::future::join_all(granted).await;
            for (entry, reason) in entries.iter().zip(&granted) {
                match entry {
                    Ok(New::Shared(new, _)) if !reason.is_error() => {
                        let since = self.tail_sequence();
                        made.push((new.filter.clone(), records::stored_share(new, since)));
                    }
                    Ok(New::Shared(new, true)) => failed.push(new.filter.clone()),
                    _ => {}
                }
            }
            reasons.push((*id, granted));
        }
        let mut denied = self.denied(&inbox.rights, &planned, &mut reasons);
        failed.iter().for_each(|filter| _ = denied.remove(filter));
        made.retain(|(filter, _)| !denied.contains(filter));
        retained.retain(|cursor| !denied.contains(&cursor.filter));
        let never_granted = planned.new_filters().filter_map(|filter| denied.take(filter)).collect();
        Subscribed { reasons, retained, made, failed, denied, never_granted }
    }

    /// Which of what was to be made the client may not have any more, as SUBACK says then. Nothing is awaited behind it: whatever
    /// changes from now on is for its connection to judge, which leaves none of them alone then.
    fn denied(
        &self,
        rights: &Rights,
        planned: &Planned,
        reasons: &mut [(PacketId, Vec<ReasonCode>)],
    ) -> HashSet<TopicFilter> {
        let mut denied = HashSet::new();
        if rights.version() == planned.judged_by {
            return denied;
        }
        let entries = planned.packets.iter().flat_map(|(_, entries)| entries);
        for (entry, reason) in entries.zip(reasons.iter_mut().flat_map(|(_, reasons)| reasons)) {
            if let Ok(new) = entry
                && let Err(why) = self.judge(new.filter(), rights)
            {
                // One that stood before is there, whatever has become of the one in its place.
                *reason = if reason.is_error() { *reason } else { why };
                denied.insert(new.filter().clone());
            }
        }
        denied
    }

    /// The third step. Returns what of the retained messages the client is owed.
    async fn make(
        &self,
        inbox: &Arc<Inbox>,
        ends: &Cursors,
        new: &[NewSubscription],
        is_sys: bool,
        made: &mut Vec<(TopicFilter, StoredSubscription)>,
    ) -> Vec<RetainedCursor> {
        let (router, index) =
            if is_sys { (&self.sys.router, &self.sys.index) } else { (&*self.router, self.store.retained().index()) };
        let Made { seen, after } = router.subscribe(inbox, ends, new);
        let stored = |s: &NewSubscription, after| records::stored_subscription(s, after, &self.logs);
        made.extend(new.iter().zip(&after).map(|(s, after)| (s.filter.clone(), stored(s, after))));
        let owed = new.iter().filter(|s| s.is_owed_retained).cloned();
        let cursors: Vec<_> = owed.map(|s| RetainedCursor::new(s, seen, is_sys)).collect();
        finding::owed(cursors, index, self.router.closed(), seen, self.store.clock().earliest()).await
    }

    /// Has the sidecar that copies messages of NATS hear what is wanted.
    async fn announce(&self, wishes: &[TopicFilter]) {
        if let Some(ingest) = self.ingest.as_ref().filter(|_| *self.store.connected().borrow()) {
            ingest.announce(wishes).await;
        }
    }

    /// Makes a session a member of a shared subscription. What stands in SUBACK.
    async fn share(&self, inbox: &Arc<Inbox>, new: &NewShare) -> ReasonCode {
        let (client_id, filter) = (&*inbox.client_id, new.filter.as_str().escape_debug().to_string());
        let joined = async {
            loop {
                match self.shares.join(inbox, new).await {
                    Ok(()) => return Ok(()),
                    Err(NotJoined::Over(limit)) => return Err(self.refusals.refuse(limit, client_id)),
                    Err(NotJoined::Unavailable(error)) => {
                        tracing::warn!(client_id, filter, %error, "a shared subscription waits for JetStream");
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        match tokio::time::timeout(PATIENCE, joined).await {
            Ok(Err(reason)) => reason,
            Ok(Ok(())) => {
                if let Some(wish) = unshared(&new.filter).filter(|_| new.options.qos > QoS::AtMostOnce) {
                    self.announce(&[wish]).await;
                }
                granted_reason(new.options.qos)
            }
            Err(_) => ReasonCode::ImplementationSpecificError,
        }
    }

    /// The first two steps. Returns the ends of the logs, as far as they can be known.
    async fn settle(&self, new: &[NewSubscription]) -> Cursors {
        if !*self.store.connected().borrow() {
            return Cursors::default();
        }
        let steps = async {
            let is_there = *self.store.jetstream_available().borrow();
            let ends = async { if is_there { self.ends_of_logs(new).await } else { Cursors::default() } };
            let (flushed, ends) = tokio::join!(self.store.core().flush(), ends);
            if let Err(error) = flushed {
                tracing::warn!(%error, "a subscription is not confirmed by NATS");
            }
            if !is_there {
                return ends;
            }
            // In this order: a message is in the bucket before it is in a log, so what the end of a log keeps from coming
            // live is in the index.
            if let Err(error) = self.store.retained().bring_up_to_date().await {
                tracing::warn!(%error, "retained messages may not be the newest");
            }
            ends
        };
        tokio::time::timeout(PATIENCE, steps).await.unwrap_or_else(|_| {
            tracing::warn!("JetStream does not answer; a subscription goes on without it");
            Cursors::default()
        })
    }

    /// The ends of the logs that can have messages for these subscriptions. One that does not answer has none.
    async fn ends_of_logs(&self, new: &[NewSubscription]) -> Cursors {
        let mut numbers: Vec<u16> = new.iter().flat_map(|s| &s.logs).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let end = |number| async move {
            let log = self.logs.get(number)?;
            log.log.last_sequence().await.ok().map(|sequence| log.position(Sequence(sequence)))
        };
        let ends = futures_util::future::join_all(numbers.into_iter().map(end)).await;
        ends.into_iter().flatten().collect()
    }

    /// Ends subscriptions: those of exactly these filters [MQTT-3.10.4-1], [MQTT-3.10.4-6]. Returns a reason code for each, in
    /// their order [MQTT-3.11.3-1].
    pub(crate) fn unsubscribe(
        &self,
        inbox: &Inbox,
        filters: &mut HashSet<TopicFilter>,
        unwanted: &[Result<TopicFilter, ByteString>],
    ) -> Vec<ReasonCode> {
        let end = |filter: &Result<TopicFilter, ByteString>| match filter {
            Err(_) => ReasonCode::TopicFilterInvalid,
            Ok(filter) if !filters.remove(filter) => ReasonCode::NoSubscriptionExisted,
            Ok(filter) if filter.is_shared() => {
                self.shares.withdraw(filter, inbox.id);
                ReasonCode::Success
            }
            Ok(filter) => {
                self.end_subscription(filter, inbox.id);
                ReasonCode::Success
            }
        };
        unwanted.iter().map(end).collect()
    }

    /// Ends what a connection that is over was subscribed to. It gets nothing from now on.
    pub(crate) fn forget_subscriptions(&self, control: &Control, filters: impl Iterator<Item = TopicFilter>) {
        control.close();
        let (shared, others): (Vec<TopicFilter>, Vec<TopicFilter>) = filters.partition(TopicFilter::is_shared);
        self.shares.leave(control.id, shared.iter());
        for filter in others {
            self.end_subscription(&filter, control.id);
        }
    }

    fn end_subscription(&self, filter: &TopicFilter, session: SessionId) {
        self.leave(filter, session);
        if let Some(ingest) = &self.ingest {
            ingest.wants.unsubscribed(session, filter);
        }
    }
}

/// [MQTT-3.8.4-7]
const fn granted_reason(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
