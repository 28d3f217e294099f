//! From CONNECT to the end of a session, as JetStream sees it. Every connected client has a record, and the order of its
//! versions is the order of its owners:
//!
//! 1. the record is read at the leader, and the next epoch is written with ourselves as the owner, compared with what
//!    was read;
//! 2. the old owner, if it is alive, ends its connection and hands over what it had in memory;
//! 3. the will of the old connection, if it is due, is published;
//! 4. at the end of the connection the record is written without an owner, or ends with the session.
//!
//! Without JetStream a session without a will that ends with its connection goes on without a record; others are refused:
//! what CONNACK accepts, a session to go on with or a will, is known to others by then.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mqtt_codec::{Connect, ReasonCode, TopicFilter};
use mqtt_session::{Cursors, Negotiated, Progress, log_of, sequence_of};

use super::handover::HandedOver;
use super::mailbox::{Mailbox, Order};
use super::retained::RetainedCursor;
use super::wills::{Due, due};
use super::{Broker, Claims, TAKEOVER_PATIENCE, records};
use crate::listener::Peer;
use crate::metrics::WillCause;
use crate::store::{
    LastWill, ProgressRecord, RECORD_VERSION, Rest, RetainedProgress, SERVERS_DIFFER_MS, ServerClock, SessionRecord,
    StoredSubscription, Unavailable, WillState, WriteError,
};

/// How long a CONNECT that needs a record may wait for JetStream.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits for the connection to NATS, and for our lease, before that.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// The same of one that can do without.
const PATIENCE_CLEAN: Duration = Duration::from_secs(2);

/// How often a CONNECT tries to become the owner against others that want the same client id.
const CLAIMS: usize = 50;

/// How long after a CONNECT without JetStream a record is asked for.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);

/// What a connection holds of its session in JetStream.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    /// The record as it was written last, but for its subscriptions.
    pub(crate) record: SessionRecord,
    /// Its sequence: the fence of every write.
    pub(crate) sequence: u64,
    /// The subscriptions, of a session that outlives its connection.
    pub(crate) subscriptions: HashMap<TopicFilter, StoredSubscription>,
    /// What its progress says of shared subscriptions, and they may not know.
    pub(crate) claims: Claims,
    /// What a newer version has added to its progress.
    pub(crate) progress_rest: Rest,
}

impl Owned {
    /// The record as it is to be written.
    pub(crate) fn record(&self) -> SessionRecord {
        let mut record = self.record.clone();
        record.subscriptions = self.subscriptions.values().cloned().collect();
        record.subscriptions.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
        record
    }
}

/// A client that may send its first packet.
pub(crate) struct Attached {
    /// Where it is reached.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The session was there before.
    pub(crate) is_present: bool,
    /// Epoch of the connection.
    pub(crate) epoch: u64,
    /// Where it goes on.
    pub(crate) progress: Progress,
    /// How far it is in the retained messages that it is owed.
    pub(crate) retained: RetainedProgress,
    /// Filters that it is subscribed to.
    pub(crate) filters: HashSet<TopicFilter>,
    /// What it holds in JetStream; `None` without JetStream.
    pub(crate) owned: Option<Owned>,
}

/// What has become of a CONNECT so far, should it be given up.
#[derive(Debug, Default)]
struct Attempt {
    /// The epoch of a record that may be written; 0 before.
    epoch: AtomicU64,
    /// Somebody newer wants the client id. A record that is written is followed by the handover all the same: nobody else
    /// knows of the owner before.
    is_given_up: AtomicBool,
    /// The session is one of a newer version.
    is_too_new: AtomicBool,
    /// When the client came, if that is longer ago: whoever came later keeps the client id.
    came: Option<Instant>,
    handed: HandedOver,
}

impl Attempt {
    /// Gives up when somebody who came later is connected elsewhere.
    fn yield_to(&self, owner: Option<&SessionRecord>, node: &str, clock: &ServerClock) {
        let came_ms = self.came.map(|came| clock.ago_ms(came.elapsed()));
        let is_newer = |record: &SessionRecord| {
            record.connected
                && record.owner.as_deref() != Some(node)
                && came_ms.is_some_and(|came_ms| record.since_ms > came_ms)
        };
        if owner.is_some_and(is_newer) {
            self.is_given_up.store(true, Ordering::Relaxed);
        }
    }

    fn go_on(&self) -> Result<(), Unavailable> {
        if self.is_given_up.load(Ordering::Relaxed) {
            return Err(unavailable("somebody newer wants the client id"));
        }
        Ok(())
    }
}

/// A record that was written with ourselves as the owner.
struct Claim {
    owned: Owned,
    is_present: bool,
    progress: Progress,
    retained: RetainedProgress,
}

impl Broker {
    /// Makes a client the owner of its session. The newcomer wins, always [MQTT-3.1.4-3].
    ///
    /// # Errors
    /// The reason code of the CONNACK that refuses it.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        negotiated: &Negotiated,
        connect: &Connect,
        peer: &Peer,
    ) -> Result<Attached, ReasonCode> {
        let (parameters, came) = (&negotiated.parameters, Instant::now());
        if self.client_key(&negotiated.client_id).is_none() {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        let mailbox = Arc::new(Mailbox::new(
            self.next_session_id(),
            negotiated.client_id.clone(),
            parameters.version,
            parameters.client_max_packet_size,
            self.options.mailbox,
        ));
        // Nobody knows of the will of a client that has no record.
        let needs_record = parameters.session_expiry_s > 0 || connect.will.is_some();
        if needs_record {
            self.may_own_sessions().await;
        }
        let attempt = Attempt::default();
        let claimed = match self.node().filter(|_| *self.store.connected().borrow()) {
            Some(node) => {
                let patience = if needs_record { PATIENCE } else { PATIENCE_CLEAN };
                let claim = async {
                    self.end_local_owner(&mailbox).await;
                    let claim = self.claim(&node, negotiated, connect, peer.addr, &mailbox, &attempt);
                    tokio::time::timeout(patience, claim).await
                };
                tokio::pin!(claim);
                let claimed = tokio::select! {
                    claimed = &mut claim => claimed,
                    () = mailbox.ordered() => {
                        // Somebody newer wants the client id, and waits for us to be gone.
                        attempt.is_given_up.store(true, Ordering::Relaxed);
                        let _ = claim.await;
                        if attempt.epoch.load(Ordering::Relaxed) > 0 {
                            self.abandon(Arc::clone(&node), &mailbox.client_id, None);
                        }
                        self.pass_on(Arc::clone(&mailbox), &attempt.handed);
                        return Err(ReasonCode::SessionTakenOver);
                    }
                };
                let claimed = claimed.unwrap_or_else(|_| Err(unavailable("no answer in time")));
                if let (Err(_), epoch @ 1..) = (&claimed, attempt.epoch.load(Ordering::Relaxed)) {
                    self.abandon(Arc::clone(&node), &mailbox.client_id, Some(epoch));
                }
                claimed
            }
            None => {
                self.end_local_owner(&mailbox).await;
                Err(unavailable("JetStream is away"))
            }
        };
        match claimed {
            Ok(claim) => Ok(self.enter(mailbox, claim)),
            Err(error) if needs_record || attempt.is_too_new.load(Ordering::Relaxed) => {
                tracing::warn!(client_id = &*mailbox.client_id, %error, "a session cannot be opened");
                self.pass_on(mailbox, &attempt.handed);
                Err(ReasonCode::ServerUnavailable)
            }
            Err(_) => {
                self.claim_later(negotiated.clone(), connect.clone(), peer.addr, Arc::clone(&mailbox), came);
                let (is_present, epoch, progress) = (false, self.store.clock().earliest_ms(), Progress::default());
                let (retained, filters, owned) = (RetainedProgress::default(), HashSet::new(), None);
                Ok(Attached { mailbox, is_present, epoch, progress, retained, filters, owned })
            }
        }
    }

    /// Waits for NATS and our lease, not for long: a server that has just been started again spares the device a round of its
    /// own patience.
    async fn may_own_sessions(&self) {
        let (mut connected, mut leased) = (self.store.connected(), self.has_lease());
        let is_there = async {
            let _ = connected.wait_for(|connected| *connected).await;
            let _ = leased.wait_for(|leased| *leased).await;
        };
        let _ = tokio::time::timeout(RECONNECT_PATIENCE, is_there).await;
    }

    /// A session without a will that ends with its connection went on without a record. It gets one when JetStream is there,
    /// so that its client id can be taken over.
    fn claim_later(
        self: &Arc<Self>,
        negotiated: Negotiated,
        connect: Connect,
        remote: SocketAddr,
        mailbox: Arc<Mailbox>,
        came: Instant,
    ) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            while !mailbox.is_closed() {
                tokio::time::sleep(CLAIM_AGAIN).await;
                let Some(node) = broker.node().filter(|_| *broker.store.connected().borrow()) else { continue };
                // A session that ends with its connection is handed over nothing.
                let attempt = Attempt { came: Some(came), ..Attempt::default() };
                let claimed = broker.claim(&node, &negotiated, &connect, remote, &mailbox, &attempt).await;
                let Ok(claim) = claimed else {
                    if attempt.epoch.load(Ordering::Relaxed) > 0 {
                        broker.abandon(node, &mailbox.client_id, None);
                    }
                    if attempt.is_too_new.load(Ordering::Relaxed) {
                        return mailbox.order(Order::Close(ReasonCode::ImplementationSpecificError));
                    }
                    if attempt.is_given_up.load(Ordering::Relaxed) {
                        return mailbox.order(Order::Close(ReasonCode::SessionTakenOver));
                    }
                    continue;
                };
                if mailbox.give(claim.owned.clone()) {
                    return;
                }
                // The connection has ended meanwhile.
                let Owned { record, sequence, .. } = claim.owned;
                let ended = broker.store.sessions().end(&record.client_id, sequence).await;
                tracing::debug!(client_id = record.client_id, ?ended, "a record that came too late");
            }
        });
    }

    /// Whoever has the client id on this sidecar ends first, and leaves its will and its progress in order.
    async fn end_local_owner(&self, mailbox: &Arc<Mailbox>) {
        let Some(old) = self.registry.enter(mailbox) else { return };
        tracing::info!(client_id = &*old.client_id, "taken over by a new connection");
        old.order(Order::Close(ReasonCode::SessionTakenOver));
        if tokio::time::timeout(TAKEOVER_PATIENCE, old.ended()).await.is_err() {
            tracing::warn!(client_id = &*old.client_id, "the old connection takes long to end; going on without it");
        }
    }

    /// Writes a record with ourselves as the owner.
    async fn claim(
        self: &Arc<Self>,
        node: &str,
        negotiated: &Negotiated,
        connect: &Connect,
        remote: SocketAddr,
        mailbox: &Mailbox,
        attempt: &Attempt,
    ) -> Result<Claim, Unavailable> {
        let (sessions, clock) = (self.store.sessions(), self.store.clock());
        if clock.now_ms().is_none() {
            return Err(unavailable("the time of the server is not known"));
        }
        for _ in 0..CLAIMS {
            let loaded = sessions.load(&negotiated.client_id).await?;
            attempt.yield_to(loaded.record.as_ref(), node, self.store.clock());
            attempt.go_on()?;
            if let Some(version) = loaded.newer {
                let client_id = &*negotiated.client_id;
                tracing::error!(
                    client_id,
                    version,
                    known = RECORD_VERSION,
                    "the session was written by a newer version"
                );
                attempt.is_too_new.store(true, Ordering::Relaxed);
                return Err(unavailable("the session was written by a newer version, and is left alone"));
            }
            let old = match loaded.record {
                // A record of the past is none.
                Some(old) if old.connected && sessions.is_of_the_past(&old, loaded.sequence).await? => None,
                old => old,
            };
            let is_going_on = |old: &&SessionRecord| old.expiry_s > 0 && !old.has_expired(clock.earliest_ms());
            let resumed = old.as_ref().filter(|_| !connect.clean_start).filter(is_going_on);
            let record = self.new_record(node, negotiated, connect, remote, old.as_ref(), resumed.is_some());
            attempt.epoch.store(record.epoch, Ordering::Relaxed);
            match sessions.put_record(&record, loaded.sequence, None).await {
                Ok(sequence) => {
                    // From now on whoever comes later asks us to hand over.
                    mailbox.set_epoch(record.epoch);
                    return self.claimed(record, sequence, old, attempt).await;
                }
                Err(WriteError::Fenced) => {}
                Err(WriteError::TooLarge) => return Err(unavailable("the record is too large")),
                Err(WriteError::Unavailable { reason }) => return Err(Unavailable { reason }),
            }
        }
        Err(unavailable("too many connections want this client id"))
    }

    fn new_record(
        &self,
        node: &str,
        negotiated: &Negotiated,
        connect: &Connect,
        remote: SocketAddr,
        old: Option<&SessionRecord>,
        is_resumed: bool,
    ) -> SessionRecord {
        // Message ids are made of epochs, so an epoch never comes twice, not even after its session was forgotten, or when
        // what nats-server has is an older record than the last one. What is stored in it is looked for from its time on.
        let now_ms = self.store.clock().earliest_ms();
        let epoch = old.map_or(0, |old| old.epoch + 1).max(now_ms);
        let resumed = old.filter(|_| is_resumed);
        SessionRecord {
            client_id: negotiated.client_id.to_string(),
            epoch,
            first_epoch: resumed.map_or(epoch, |old| old.first_epoch),
            owner: Some(node.to_owned()),
            connected: true,
            since_ms: now_ms,
            protocol: records::protocol(connect.version).to_owned(),
            remote: Some(remote.to_string()),
            expiry_s: negotiated.parameters.session_expiry_s,
            disconnected_at_ms: None,
            subscriptions: resumed.map(|old| old.subscriptions.clone()).unwrap_or_default(),
            will: records::stored_will(connect, self.tail_sequence()),
            last_wills: old.map(|old| self.last_wills(old, is_resumed)).unwrap_or_default(),
            handover_from: old.map(|old| Self::handover_from(old, node)).unwrap_or_default(),
            rest: resumed.map(|old| old.rest.clone()).unwrap_or_default(),
            ..SessionRecord::default()
        }
    }

    /// The wills of connections before, marked as being published: those whose publication was not finished, and that
    /// of the last one when the new connection makes it due. That is a will without delay, of a client that did not say
    /// goodbye, or any of a session that ends now; others are cancelled [MQTT-3.1.3-9].
    fn last_wills(&self, old: &SessionRecord, is_resumed: bool) -> Vec<LastWill> {
        let mut wills = old.last_wills.clone();
        let Some(mut will) = old.will.clone().filter(|_| !self.was_refused(old)) else { return wills };
        let is_due = !is_resumed || (old.connected && due(&will, old.expiry_s) == Due::Now);
        if will.state == WillState::Armed {
            if !is_due {
                return wills;
            }
            self.mark_firing(&mut will, &old.client_id, old.epoch);
        }
        wills.push(LastWill { epoch: old.epoch, will, rest: Rest::new() });
        wills
    }

    /// The record is ours: the old owner hands over, the old will is published, and the progress is read.
    async fn claimed(
        self: &Arc<Self>,
        mut record: SessionRecord,
        mut sequence: u64,
        old: Option<SessionRecord>,
        attempt: &Attempt,
    ) -> Result<Claim, Unavailable> {
        let is_present = old.is_some() && record.first_epoch < record.epoch;
        let (handed_over, may_come_again) = self.take_over(&record, sequence, is_present, &attempt.handed).await?;
        record.handover_from.clear();
        attempt.go_on()?;
        if !is_present && old.as_ref().is_some_and(|old| old.expiry_s > 0) {
            self.forget_backlog(&record.client_id);
        }
        self.publish_last_wills(&mut record, &mut sequence).await?;
        let mut subscriptions = self.still_granted(&record.client_id, std::mem::take(&mut record.subscriptions));
        let (mut claims, mut retained, mut progress_rest) =
            (Claims::default(), RetainedProgress::default(), Rest::new());
        let progress = if is_present {
            let stored = match handed_over {
                Some(progress) => Some(progress),
                None => self.store.sessions().load_progress(&record.client_id).await?,
            };
            let stored = stored.filter(|progress| progress.epoch >= record.first_epoch);
            if subscriptions.values().any(|s| s.retained.is_some()) {
                // As much as was there when they were made.
                self.store.retained().bring_up_to_date().await?;
            }
            let progress = self.progress_of(stored.as_ref(), &subscriptions, old.as_ref()).await?;
            if let Some(stored) = stored {
                claims = records::claims(&stored, &self.logs);
                (retained, progress_rest) = (stored.retained, stored.rest);
            }
            for subscription in subscriptions.values_mut() {
                subscription.since_in.retain(|log, _| self.logs.knows(std::iter::once(log)));
            }
            progress
        } else {
            Progress { cursors: [self.tail_sequence()].into_iter().collect(), ..Progress::default() }
        };
        let mut owned = Owned { record, sequence, subscriptions, claims, progress_rest };
        if may_come_again {
            // Not behind what this connection saves: a new record shuts it out.
            match self.store.sessions().put_record(&owned.record(), sequence, None).await {
                Ok(written) => owned.sequence = written,
                Err(WriteError::Unavailable { reason }) => return Err(Unavailable { reason }),
                Err(WriteError::Fenced | WriteError::TooLarge) => {}
            }
        }
        Ok(Claim { owned, is_present, progress, retained })
    }

    /// The subscriptions of a session that it may have today. **Invariant:** what SUBSCRIBE refuses does not come by a session
    /// that has it from before: not live, not from a log, the backlog or the retained messages.
    fn still_granted(
        &self,
        client_id: &str,
        stored: Vec<StoredSubscription>,
    ) -> HashMap<TopicFilter, StoredSubscription> {
        let mut granted = HashMap::with_capacity(stored.len());
        for stored in stored {
            let Ok(filter) = TopicFilter::new(stored.filter.as_str()) else { continue };
            match self.judge(&filter) {
                Ok(()) => {
                    granted.insert(filter, stored);
                }
                Err(reason) => {
                    let filter = filter.as_str().escape_debug().to_string();
                    tracing::warn!(
                        client_id,
                        filter,
                        ?reason,
                        "a subscription of a session is refused today, and is gone"
                    );
                }
            }
        }
        granted
    }

    /// Publishes the wills of connections before that are due, and writes that it is done.
    async fn publish_last_wills(
        self: &Arc<Self>,
        record: &mut SessionRecord,
        sequence: &mut u64,
    ) -> Result<(), Unavailable> {
        let last_wills = std::mem::take(&mut record.last_wills);
        for last in &last_wills {
            if !self.publish_will(&record.client_id, &last.will, last.epoch, WillCause::TakenOver).await {
                return Err(unavailable("a will is not stored yet"));
            }
        }
        if last_wills.is_empty() {
            return Ok(());
        }
        match self.store.sessions().put_record(record, *sequence, None).await {
            Ok(written) => *sequence = written,
            Err(WriteError::Unavailable { reason }) => return Err(Unavailable { reason }),
            // Whoever took the session over meanwhile goes on with it; our connection ends at its first write.
            Err(WriteError::Fenced | WriteError::TooLarge) => {}
        }
        Ok(())
    }

    /// Where a session goes on. One that never saved its progress has got nothing since its subscriptions began.
    async fn progress_of(
        &self,
        stored: Option<&ProgressRecord>,
        subscriptions: &HashMap<TopicFilter, StoredSubscription>,
        old: Option<&SessionRecord>,
    ) -> Result<Progress, Unavailable> {
        let named = subscriptions.values().flat_map(|s| s.since_in.keys());
        if !self.logs.knows(named.chain(stored.iter().flat_map(|progress| progress.cursors.keys()))) {
            // It may be newer than what we know, or gone.
            self.follower.look_soon(&self.store).await?;
        }
        let mut progress = match stored {
            Some(stored) => records::progress(stored, &self.logs),
            None => {
                let first = subscriptions.values().map(|s| s.since).min();
                let cursor = first.unwrap_or_else(|| self.tail_sequence());
                Progress { cursors: [cursor].into_iter().collect(), ..Progress::default() }
            }
        };
        let places = self.places_in_other_logs(subscriptions, &progress.cursors, old).await?;
        places.iter().for_each(|place| {
            progress.cursors.raise(place);
        });
        Ok(progress)
    }

    /// Where a session begins in the logs beside the first in which it has no cursor: where its subscriptions begin there,
    /// or, in one that became a log of its topics later, at the time when it was connected last.
    async fn places_in_other_logs(
        &self,
        subscriptions: &HashMap<TopicFilter, StoredSubscription>,
        cursors: &Cursors,
        old: Option<&SessionRecord>,
    ) -> Result<Cursors, Unavailable> {
        let mut begins: HashMap<u16, Option<u64>> = HashMap::new();
        for (filter, stored) in subscriptions.iter().filter(|(_, s)| s.qos > 0) {
            let since = records::begins_after(stored, &self.logs);
            for log in self.logs.overlapping(filter).into_iter().filter(|log| cursors.get(*log).is_none()) {
                // One subscription that does not say where it begins decides.
                let begin = begins.entry(log).or_insert_with(|| since.get(log));
                *begin = begin.zip(since.get(log)).map(|(a, b)| a.min(b));
            }
        }
        let mut places = Cursors::default();
        for (number, begin) in begins {
            let Some(log) = self.logs.get(number) else { continue };
            let sequence = match begin {
                Some(sequence) => sequence,
                None => {
                    let since_ms = old.map_or(0, |old| old.disconnected_at_ms.unwrap_or(old.since_ms));
                    let from_ms = since_ms.saturating_sub(SERVERS_DIFFER_MS);
                    self.store.streams().sequence_at(log.log.stream(), from_ms).await?.saturating_sub(1)
                }
            };
            places.raise(log.position(sequence));
        }
        Ok(places)
    }

    /// Enters a session that is ours: its subscriptions stand, and it is behind by what it is owed.
    fn enter(&self, mailbox: Arc<Mailbox>, claim: Claim) -> Attached {
        let Claim { owned, is_present, progress, retained } = claim;
        if owned.record.expiry_s > 0 {
            mailbox.expect_backlog();
        }
        let mut filters = HashSet::new();
        if is_present {
            for place in progress.cursors.iter() {
                mailbox.with_feed(log_of(place), |feed| feed.fall_behind(sequence_of(place) + 1));
            }
            for (filter, stored) in &owned.subscriptions {
                if let Some(share) = records::share(stored) {
                    self.shares.restore(&mailbox, &share);
                    filters.insert(filter.clone());
                    continue;
                }
                let order = |filter: &TopicFilter| self.acquire(filter).ok();
                if let Some(restored) = records::subscription(stored, order, &self.logs) {
                    let after = records::begins_after(stored, &self.logs);
                    self.router_of(filter).restore(&mailbox, &after, &restored);
                    if let Some(ingest) = &self.ingest {
                        ingest.wants.subscribed(mailbox.id, filter, restored.options.qos);
                    }
                    filters.insert(filter.clone());
                }
            }
        }
        mailbox.owe_retained(RetainedCursor::resume_all(owned.subscriptions.values(), &retained));
        let epoch = owned.record.epoch;
        Attached { mailbox, is_present, epoch, progress, retained, filters, owned: Some(owned) }
    }

    /// The connection is over, and everything it published is settled.
    pub(crate) fn detach(&self, mailbox: &Arc<Mailbox>) {
        self.registry.leave(mailbox);
        mailbox.end();
    }
}

fn unavailable(reason: &str) -> Unavailable {
    Unavailable { reason: reason.to_owned() }
}
