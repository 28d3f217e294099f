//! From CONNECT to the end of a session, as JetStream sees it. Every connected client has a record, and the order of its
//! versions is the order of its owners:
//!
//! 1. the session is claimed (`ownership`): the next epoch is written with ourselves as the owner, the old owner hands
//!    over, and the will of the old connection, if it is due, is published;
//! 2. its progress is read, and its subscriptions stand again;
//! 3. at the end of the connection the record is written without an owner, or ends with the session (`ownership`).
//!
//! Without JetStream a session without a will that ends with its connection goes on without a record; others are refused:
//! what CONNACK accepts, a session to go on with or a will, is known to others by then.
//!
//! In an account that has no JetStream all sessions end with their connections: `without_record`.

mod subscriptions;
mod without_record;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_codec::{Connect, ReasonCode, TopicFilter};
use mqtt_ownership::{Epoch, Stop};
use mqtt_session::{Cursors, Negotiated, Position, Progress, Sequence};

use crate::account::control::{Control, Order};
use crate::account::delivery::retained::RetainedCursor;
use crate::account::ownership::owned_session::{Claims, OwnedSession, SentFor};
use crate::account::ownership::paged::PagedSubscriptions;
use crate::account::ownership::records;
use crate::account::ownership::remains::Remain;
use crate::account::ownership::{Abandoned, Ask, Claimed, PeerSocket, Refusal, record_of, wills_beside};
use crate::account::registry::{Entered, Remote};
use crate::account::rights::Rights;
use crate::account::{Account, TAKEOVER_PATIENCE};
use crate::metrics::{Limit, TakenBy};
use crate::network::PeerAddr;
use crate::store::{Beside, ProgressRecord, Rest, RetainedProgress, SERVERS_DIFFER_MS, Unavailable, WillNumber};

/// How long a CONNECT that needs a record may wait for JetStream.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits for the connection to NATS, and for our lease, before that.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// The same of one that can do without.
const PATIENCE_CLEAN: Duration = Duration::from_secs(2);

/// How long after a CONNECT without JetStream a record is asked for.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);

/// A client that may send its first packet.
pub(crate) struct Attached {
    /// Where it is reached.
    pub(crate) control: Arc<Control>,
    /// The session was there before.
    pub(crate) is_present: bool,
    /// Epoch of the connection.
    pub(crate) epoch: Epoch,
    /// Where it goes on.
    pub(crate) progress: Progress,
    /// How far it is in the retained messages that it is owed.
    pub(crate) retained: RetainedProgress,
    /// Filters that it is subscribed to.
    pub(crate) filters: HashSet<TopicFilter>,
    /// What it holds in JetStream; `None` without JetStream.
    pub(crate) owned: Option<Box<OwnedSession>>,
}

impl Attached {
    /// One that nothing is written of, and that was not there before.
    fn without_record(control: Arc<Control>, epoch: Epoch) -> Self {
        control.set_answered();
        let (retained, filters, owned) = (RetainedProgress::default(), HashSet::new(), None);
        Self { control, is_present: false, epoch, progress: Progress::default(), retained, filters, owned }
    }
}

/// A record that was written with ourselves as the owner.
struct Claim {
    owned: Box<OwnedSession>,
    is_present: bool,
    progress: Progress,
    retained: RetainedProgress,
    /// The session that it takes the place of had pages, and began in this epoch.
    leaves_pages_of: Option<Epoch>,
    /// Wills of connections before that are done with.
    leaves_wills: Vec<WillNumber>,
}

impl Account {
    /// Makes a client the owner of its session. The newcomer wins, always [MQTT-3.1.4-3].
    ///
    /// # Errors
    /// What the CONNACK says that refuses it.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        negotiated: &Negotiated,
        connect: &Connect,
        peer: Remote,
        socket: &mut dyn PeerSocket,
        rights: Arc<Rights>,
    ) -> Result<Attached, Refusal> {
        let (parameters, came) = (&negotiated.parameters, Instant::now());
        // [MQTT-3.1.3-8], [MQTT-3.1.3-9 of 3.1.1]
        if self.client_key(&negotiated.client_id).is_none() {
            return Err(ReasonCode::ClientIdentifierNotValid.into());
        }
        let lasts = parameters.session_expiry_s > 0;
        if lasts && !self.census.has_room_for(&negotiated.client_id, self.options.quotas.sessions) {
            return Err(self.refusals.refuse(Limit::Sessions, &negotiated.client_id).into());
        }
        // Nobody knows of the will of a client that has no record.
        let needs_record = parameters.session_expiry_s > 0 || connect.will.is_some();
        if needs_record && self.store.has_jetstream() {
            self.may_own_sessions().await;
        }
        let control = Arc::new(
            Control::new(
                self.next_session_id(),
                negotiated.client_id.clone(),
                parameters.version,
                parameters.client_max_packet_size,
                rights,
                self.options.inbox,
            )
            .taken_at(peer.place)
            .come_by(peer.closing)
            .coming_from(peer.addr.ip()),
        );
        let registered = Registered::new(self, &control);
        if !self.store.has_jetstream() {
            return Box::pin(self.attach_unrecorded(registered, connect, socket)).await;
        }
        self.end_local_owner(&control, connect, socket).await?;
        let ask = Ask { negotiated, connect, remote: peer.addr, came: None };
        // Behind the registry: whoever loses the lease or drains tells all that are in there.
        let claimed = match self.node().filter(|_| *self.store.connected().borrow()) {
            Some(node) => self.claim_in_turn(&node, ask, &control, socket, needs_record).await,
            None => {
                let (refusal, unsaved) = (ReasonCode::ServerUnavailable.into(), None);
                Err(Abandoned { refusal, unsaved, is_late: true, why: Stop::Cancelled })
            }
        };
        registered.settle();
        match claimed {
            Ok(claim) => {
                if let Some(first_epoch) = claim.leaves_pages_of {
                    self.remains.try_remove(&control.client_id, Remain::Pages(first_epoch));
                }
                if !claim.leaves_wills.is_empty() {
                    self.remains.try_remove(&control.client_id, Remain::Wills(claim.leaves_wills.clone()));
                }
                Ok(self.enter(control, claim))
            }
            Err(Abandoned { is_late: true, .. }) if !needs_record => {
                self.claim_later(negotiated.clone(), connect.clone(), peer.addr, Arc::clone(&control), came);
                Ok(Attached::without_record(control, Epoch(self.store.clock().earliest().0)))
            }
            Err(Abandoned { refusal, unsaved, .. }) => {
                tracing::info!(client_id = &*control.client_id, ?refusal, "a session is not opened");
                self.forward_handover(control, unsaved);
                Err(refusal)
            }
        }
    }

    /// Opens the session when it is its turn. One that waits for that for too long, or behind too many, is not opened.
    async fn claim_in_turn(
        self: &Arc<Self>,
        node: &str,
        ask: Ask<'_>,
        control: &Arc<Control>,
        socket: &mut dyn PeerSocket,
        needs_record: bool,
    ) -> Result<Claim, Abandoned> {
        let patience = if needs_record { PATIENCE } else { PATIENCE_CLEAN };
        let turn_until = tokio::time::Instant::now() + patience;
        let refused = |refusal, is_late| Abandoned { refusal, unsaved: None, is_late, why: Stop::Cancelled };
        let will = records::stored_will(ask.connect, Sequence(0)).map_or(0, |will| will.size());
        let turn = tokio::select! {
            biased;
            turn = tokio::time::timeout_at(turn_until, self.turns.of_connect(ask.remote.counted_by(), will)) => turn,
            // Nothing is written yet, so nothing is drained.
            order = control.ordered(None) => return Err(refused(self.gives_way(order, ask.connect), false)),
            // Nobody hears what it is told.
            () = std::future::poll_fn(|cx| socket.poll_gone(cx)) => {
                return Err(refused(ReasonCode::ServerUnavailable.into(), false));
            }
        };
        let Ok(Some(_turn)) = turn else {
            let busy = || self.refusals.refuse(Limit::OpeningSize, &control.client_id);
            return Err(refused(if needs_record { busy() } else { ReasonCode::ServerBusy }.into(), true));
        };
        // Who has waited long is not to be given up for that, with a record that is written.
        let deadline = turn_until.max(tokio::time::Instant::now() + patience / 2);
        Box::pin(self.claim_and_resume(node, ask, control, socket, deadline)).await
    }

    async fn claim_and_resume(
        self: &Arc<Self>,
        node: &str,
        ask: Ask<'_>,
        control: &Arc<Control>,
        socket: &mut dyn PeerSocket,
        deadline: tokio::time::Instant,
    ) -> Result<Claim, Abandoned> {
        let claimed = self.claim(node, ask, control, socket, deadline).await?;
        let left = claimed.left.clone();
        let (why, order) = tokio::select! {
            resumed = tokio::time::timeout_at(deadline, self.resume(claimed, &control.inbox().rights)) => match resumed {
                Ok(Ok(claim)) => return Ok(claim),
                Ok(Err(error)) => {
                    tracing::warn!(client_id = &*control.client_id, %error, "a session cannot be opened");
                    (Stop::Cancelled, None)
                }
                Err(_) => (Stop::Cancelled, None),
            },
            order = control.ordered(Some(Order::Drain)) => match order {
                Order::Close(ReasonCode::SessionTakenOver) => (Stop::Preempted, Some(order)),
                Order::Close(_) | Order::Drain => (Stop::Cancelled, Some(order)),
            },
        };
        Err(self.give_up_claimed(control, left, why, order))
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
        remote: PeerAddr,
        control: Arc<Control>,
        came: Instant,
    ) {
        let account = Arc::clone(self);
        self.store.tasks().spawn(async move {
            while !control.is_closed() {
                tokio::time::sleep(CLAIM_AGAIN).await;
                let Some(node) = account.node().filter(|_| *account.store.connected().borrow()) else { continue };
                // A session that ends with its connection is handed over nothing.
                let ask = Ask { negotiated: &negotiated, connect: &connect, remote, came: Some(came) };
                let _turn = account.turns.of_connection(remote.counted_by(), 0).await;
                if control.is_closed() {
                    return;
                }
                // A record that is begun with is taken back, should the connection end meanwhile.
                let _errand = account.duties.errands.begin();
                let deadline = tokio::time::Instant::now() + PATIENCE;
                let claimed = match account.claim(&node, ask, &control, &mut Unwatched, deadline).await {
                    Ok(claimed) => claimed,
                    Err(Abandoned { is_late: true, .. }) => continue,
                    Err(Abandoned { why: Stop::TooNew, .. }) => {
                        return control.order(Order::Close(ReasonCode::ImplementationSpecificError));
                    }
                    Err(Abandoned { why: Stop::OfAnother, .. }) => {
                        return control.order(Order::Close(ReasonCode::NotAuthorized));
                    }
                    Err(_) => return control.give_way(),
                };
                let revision = claimed.revision;
                let mut record =
                    record_of(claimed.state, &|will, epoch| account.name_will(&control.client_id, will, epoch));
                record.accepted = true;
                let subscriptions = PagedSubscriptions::with_pages(record.pages);
                let (claims, progress_rest) = (Claims::default(), Rest::new());
                let sent_for = SentFor::default();
                let owned = Box::new(OwnedSession { record, revision, subscriptions, claims, sent_for, progress_rest });
                if control.give(owned) {
                    return;
                }
                // The connection has ended meanwhile.
                let ended = account.store.sessions().end(&control.client_id, revision.0, Beside::Perhaps).await;
                tracing::debug!(client_id = &*control.client_id, ?ended, "a record that came too late");
            }
        });
    }

    /// Whoever has the client id on this sidecar ends first, and leaves its will and its progress in order; unless it came
    /// later than we did.
    ///
    /// **Invariant:** of those who wait for a client id only the newest waits, and for no longer than its peer is there.
    async fn end_local_owner(
        &self,
        control: &Arc<Control>,
        connect: &Connect,
        socket: &mut dyn PeerSocket,
    ) -> Result<(), Refusal> {
        let old = match self.registry.enter(control, || socket.is_gone()) {
            Entered::Alone => return Ok(()),
            Entered::Behind(old) => old,
            Entered::GivesWay => return Err(self.gives_way(Order::Close(ReasonCode::SessionTakenOver), connect)),
            Entered::Foreign => return Err(self.refuse_user(control)),
            Entered::Draining => return Err(self.drain_refusal().into()),
        };
        tracing::info!(client_id = &*control.client_id, "taken over by a new connection");
        self.registry.note_takeover(old.last().and_then(|last| last.remote()), control);
        let taken = old.iter().filter(|old| old.take_over()).count();
        (0..taken).for_each(|_| self.metrics.takeover(TakenBy::Local));
        let all_ended = async {
            for old in &old {
                old.ended().await;
            }
        };
        tokio::select! {
            biased;
            ended = tokio::time::timeout(TAKEOVER_PATIENCE, all_ended) => if ended.is_err() {
                tracing::warn!(client_id = &*control.client_id, "the old connection takes long to end; going on without it");
                old.iter().for_each(|old| old.withdraw());
            },
            order = control.ordered(Some(Order::Drain)) => return Err(self.gives_way(order, connect)),
            // Nobody hears what it is told.
            () = std::future::poll_fn(|cx| socket.poll_gone(cx)) => return Err(ReasonCode::ServerUnavailable.into()),
        }
        Ok(())
    }

    /// The session is ours: its progress is read.
    async fn resume(self: &Arc<Self>, claimed: Box<Claimed>, rights: &Rights) -> Result<Claim, Unavailable> {
        let Claimed { state, revision, is_present, progress: handed_over, left } = *claimed;
        let found = left.found.map(|(found, _)| found);
        let leaves_pages_of = found.as_ref().filter(|found| !is_present && found.rest.pages() > 0);
        let leaves_pages_of = leaves_pages_of.map(|found| found.first_epoch);
        let mut leaves_wills = found.as_ref().map(wills_beside).unwrap_or_default();
        let named = wills_beside(&state);
        leaves_wills.retain(|number| !named.contains(number));
        let client_id = state.rest.client_id().to_owned();
        let mut record = record_of(state, &|will, epoch| self.name_will(&client_id, will, epoch));
        if !is_present && found.as_ref().is_some_and(|found| found.expiry_s > 0) {
            self.forget_backlog(&record.client_id);
        }
        let was_there_ms = found.as_ref().map_or(0, |found| found.disconnected_at.unwrap_or(found.since).0);
        let (mut subscriptions, revision) = self.subscriptions_of(&mut record, revision, rights).await?;
        let (mut claims, mut sent_for) = (Claims::default(), SentFor::default());
        let (mut retained, mut progress_rest) = (RetainedProgress::default(), Rest::new());
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
            let since = subscriptions.values().map(|s| s.since);
            let is_of_other_log =
                self.is_beyond(since.chain(stored.iter().map(|progress| progress.cursor)).max().map(Sequence)).await?;
            if is_of_other_log {
                tracing::warn!(
                    client_id,
                    "a session has read in a log that is gone; it begins with the one that is there"
                );
                subscriptions.change(|s| {
                    (s.since, s.before) = (0, None);
                    true
                });
            }
            let mut progress = self.progress_of(stored.as_ref(), &subscriptions, was_there_ms).await?;
            if is_of_other_log {
                progress.log_restarted(Sequence(1));
            }
            if let Some(stored) = stored {
                claims = records::claims(&stored, &self.logs);
                sent_for = records::sent_for(&stored);
                (retained, progress_rest) = (stored.retained, stored.rest);
            }
            subscriptions.change(|s| {
                let before = s.since_in.len();
                s.since_in.retain(|log, _| self.logs.knows(std::iter::once(log)));
                s.since_in.len() < before
            });
            progress
        } else {
            Progress {
                cursors: [Position::in_main_log(self.tail_sequence())].into_iter().collect(),
                ..Progress::default()
            }
        };
        let owned = Box::new(OwnedSession { record, revision, subscriptions, claims, sent_for, progress_rest });
        Ok(Claim { owned, is_present, progress, retained, leaves_pages_of, leaves_wills })
    }

    /// Whether a place is beyond the end of the log that is always there: that of one that was there before.
    async fn is_beyond(&self, place: Option<Sequence>) -> Result<bool, Unavailable> {
        match place.filter(|place| *place > self.tail_sequence()) {
            // Another sidecar may have read more than we have.
            Some(place) => Ok(place.0 > self.logs.main().log.last_sequence().await?),
            None => Ok(false),
        }
    }

    /// Where a session goes on. One that never saved its progress has got nothing since its subscriptions began.
    async fn progress_of(
        &self,
        stored: Option<&ProgressRecord>,
        subscriptions: &PagedSubscriptions,
        was_there_ms: u64,
    ) -> Result<Progress, Unavailable> {
        let named = subscriptions.values().flat_map(|s| s.since_in.keys());
        if !self.logs.knows(named.chain(stored.iter().flat_map(|progress| progress.cursors.keys()))) {
            // It may be newer than what we know, or gone.
            self.follower.look_soon(&self.store).await?;
        }
        let mut progress = match stored {
            Some(stored) => records::progress(stored, &self.logs),
            None => {
                let first = subscriptions.values().map(|s| Sequence(s.since)).min();
                let cursor = first.unwrap_or_else(|| self.tail_sequence());
                Progress { cursors: [Position::in_main_log(cursor)].into_iter().collect(), ..Progress::default() }
            }
        };
        let places = self.places_in_other_logs(subscriptions, &progress.cursors, was_there_ms).await?;
        places.iter().for_each(|place| {
            progress.cursors.raise(place);
        });
        Ok(progress)
    }

    /// Where a session begins in the logs beside the first in which it has no cursor: where its subscriptions begin there,
    /// or, in one that became a log of its topics later, at the time when it was connected last.
    async fn places_in_other_logs(
        &self,
        subscriptions: &PagedSubscriptions,
        cursors: &Cursors,
        was_there_ms: u64,
    ) -> Result<Cursors, Unavailable> {
        let mut begins: HashMap<u16, Option<Sequence>> = HashMap::new();
        for (filter, stored) in subscriptions.iter().filter(|(_, s)| s.qos > 0 || s.before.is_some()) {
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
                    let from_ms = was_there_ms.saturating_sub(SERVERS_DIFFER_MS);
                    self.store.streams().sequence_at(log.log.stream(), from_ms).await.map(Sequence)?.before()
                }
            };
            places.raise(log.position(sequence));
        }
        Ok(places)
    }

    /// Enters a session that is ours: its subscriptions stand, and it is behind by what it is owed.
    fn enter(&self, control: Arc<Control>, claim: Claim) -> Attached {
        let Claim { mut owned, is_present, progress, retained, .. } = claim;
        // From now on nobody brings back what it found, as its next record says.
        owned.record.accepted = true;
        if owned.record.expiry_s > 0 {
            control.inbox().expect_backlog();
        }
        let mut filters = HashSet::new();
        if is_present {
            for place in progress.cursors.iter() {
                control.inbox().with_feed(place.log(), |feed| feed.fall_behind(place.sequence().next()));
            }
            for (filter, stored) in owned.subscriptions.iter() {
                if let Some(share) = records::share(stored) {
                    self.shares.restore(control.inbox(), &share);
                    filters.insert(filter.clone());
                    continue;
                }
                let order = |filter: &TopicFilter| self.acquire(filter).ok();
                if let Some(restored) = records::subscription(stored, order, &self.logs) {
                    let after = records::begins_after(stored, &self.logs);
                    self.router_of(filter).restore(control.inbox(), &after, &restored);
                    if let Some(ingest) = &self.ingest {
                        ingest.wants.subscribed(control.id, filter, restored.options.qos);
                    }
                    filters.insert(filter.clone());
                }
            }
        }
        if let Some(next) = control.inbox().restarts_at(0) {
            // While it was entered: what its record says of places is about the log before.
            control.inbox().with_feed(0, |feed| feed.fall_behind(next));
            self.router.lower_gates(0, next.before(), |session| session == control.id);
        }
        control.inbox().owe_retained(RetainedCursor::resume_all(owned.subscriptions.values(), &retained));
        let epoch = Epoch(owned.record.epoch);
        control.set_answered();
        Attached { control, is_present, epoch, progress, retained, filters, owned: Some(owned) }
    }

    /// What a CONNECT is told that was ordered to end before it was answered. One that has nothing and leaves nothing was
    /// connected, for no time at all.
    fn gives_way(&self, order: Order, connect: &Connect) -> Refusal {
        let leaves_nothing = connect.clean_start && connect.will.is_none();
        match order {
            Order::Close(ReasonCode::SessionTakenOver) if leaves_nothing => Refusal::taken_over(false),
            Order::Close(_) => ReasonCode::ServerBusy.into(),
            Order::Drain => self.drain_refusal().into(),
        }
    }

    /// The connection is over, and everything it published is settled.
    pub(crate) fn detach(&self, control: &Arc<Control>) {
        self.registry.leave(control);
        self.unrecorded.leave(control.id);
        control.end();
    }
}

/// The socket of a client that has its answer.
struct Unwatched;

impl PeerSocket for Unwatched {
    fn poll_gone(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::task::Poll::Pending
    }
}

/// A connection in the registry that has yet to become one: should it end before, in a panic, it leaves no entry behind.
struct Registered<'a> {
    account: &'a Account,
    control: &'a Arc<Control>,
    is_settled: bool,
}

impl<'a> Registered<'a> {
    const fn new(account: &'a Account, control: &'a Arc<Control>) -> Self {
        Self { account, control, is_settled: false }
    }

    /// What follows takes care of the entry.
    fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.account.detach(self.control);
        }
    }
}
