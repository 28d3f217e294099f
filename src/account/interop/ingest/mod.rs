//! Messages that NATS clients publish and no stream captures are copied into the log, where somebody wants them above QoS 0,
//! so that sessions get them at their QoS and also when they are offline.
//!
//! One sidecar of the account does it, so that the order of a publisher is kept. The others hear the same messages and keep
//! what they do not see in the log ([`standby`]); when the leader is gone, which they notice because nobody answers in its
//! place, one of them stores what is left and goes on. What nobody hears is lost: core NATS promises no more.
//!
//! - [`subject_aggregator`]: what is subscribed to on NATS for that
//! - [`leader_handoff`]: how a leader begins, with what the last one has left
//! - [`terms`]: who of several that believe to lead does

mod leader_handoff;
mod standby;
mod subject_aggregator;
mod terms;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::TopicFilter;
use parking_lot::Mutex;
use proto_map::{ClosedTrees, Names};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use self::standby::Standby;
use self::subject_aggregator::{Change, SubjectAggregator};
use self::terms::Terms;
use crate::account::delivery::core_subscriptions::CoreSubscriptionId;
use crate::account::delivery::logs::{Logs, Owner};
use crate::account::interop::durable_interest::{DurableInterest, WantsSink};
use crate::account::lead::{Lead, Term};
use crate::account::publish::convert;
use crate::account::requests::Requests;
use crate::metrics::{AccountMetrics, DropReason};
use crate::overload::PROCESS;
use crate::store::{
    Candidacy, CoreMessage, CoreNats, Keys, Nodes, Publisher, Put, PutError, PutTarget, RequestError, Store, Stored,
    StoredSink,
};
use crate::tasks::Tasks;

/// Set in the ids of its NATS subscriptions.
const OURS: u64 = 1 << 63;

/// Whether a NATS subscription is one of those.
pub(crate) const fn is_ours(id: CoreSubscriptionId) -> bool {
    id.0 & OURS != 0
}

/// Copies that are not acknowledged yet: a part of what the publisher takes, so that clients do not wait for them.
const IN_FLIGHT_MAX: u32 = 128;

/// Messages that wait to be stored, and their bytes. What is beyond is dropped and counted.
const QUEUE_MAX: usize = 16_384;
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// How often those who stand by ask whether the leader is there, and how often nobody has to answer in a row.
const ASK_EVERY: Duration = Duration::from_millis(250);
const SILENCES: u32 = 2;

/// How long an answer may take. Who does not answer in time is slow, which is no reason to take over.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long a SUBSCRIBE waits for the leader to hear of it.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(1);

/// After so long the records of sessions say what was announced.
const RECORDS_SAY: Duration = Duration::from_secs(5);

/// How long a sidecar that ends waits for what it has heard to be stored.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Copies messages of NATS into the log.
pub(crate) struct Ingest {
    /// What is wanted.
    pub(crate) wants: Arc<DurableInterest>,
    cover: Arc<Covered>,
    closed: ClosedTrees,
    logs: Arc<Logs>,
    core: CoreNats,
    publisher: Publisher,
    requests: Arc<Requests>,
    metrics: Arc<AccountMetrics>,
    /// Answered by the leader.
    place: String,
    /// Where a new leader says so.
    news: String,
    /// Where everybody hears what others want.
    wishes: String,
    /// Begins where nodes are asked what is left.
    left: String,
    nodes: Nodes,
    keys: Keys,
    state: Mutex<State>,
    /// Places for copies that are not acknowledged yet.
    in_flight: Arc<Semaphore>,
    wake: Notify,
    tasks: Tasks,
}

#[derive(Default)]
struct State {
    terms: Terms,
    standby: Standby,
    queue: VecDeque<CoreMessage>,
    queued_bytes: usize,
}

/// The NATS subscriptions.
struct Covered {
    cover: Mutex<SubjectAggregator>,
    core: CoreNats,
}

impl Covered {
    fn carry_out(&self, change: Change) {
        for (subject, id) in change.subscribe {
            self.core.subscribe(&subject, None, OURS | id.0);
        }
        for id in change.unsubscribe {
            self.core.unsubscribe(OURS | id.0);
        }
    }
}

impl WantsSink for Arc<Covered> {
    fn wanted(&self, filter: &TopicFilter) {
        let mut cover = self.cover.lock();
        let change = cover.add(filter);
        self.carry_out(change);
    }

    fn unwanted(&self, filter: &TopicFilter) {
        let mut cover = self.cover.lock();
        let change = cover.remove(filter);
        self.carry_out(change);
    }
}

/// Told what became of a copy.
struct Copied {
    metrics: Arc<AccountMetrics>,
    _permit: OwnedSemaphorePermit,
}

impl StoredSink for Copied {
    fn stored(&self, _token: u64, result: Result<Stored, PutError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "a message of NATS was not copied into the log");
            self.metrics.dropped(DropReason::NatsUnavailable, 1);
        }
    }

    fn flush(&self) {}
}

impl Ingest {
    /// Nothing is wanted yet.
    pub(crate) fn new(
        logs: Arc<Logs>,
        store: &Store,
        closed: ClosedTrees,
        names: &Names,
        requests: Arc<Requests>,
        metrics: Arc<AccountMetrics>,
    ) -> Self {
        let (core, publisher, nodes) = (store.core().clone(), store.publisher().clone(), store.nodes().clone());
        let cover = Arc::new(Covered { cover: Mutex::new(SubjectAggregator::new(closed.clone())), core: core.clone() });
        let wants = Arc::new(DurableInterest::new(closed.clone(), Box::new(Arc::clone(&cover))));
        let [place, news, wishes, left] =
            ["leader", "news", "wishes", "left"].map(|name| format!("{}.ingest.{name}", names.subject_prefix()));
        let (state, wake) = (Mutex::default(), Notify::new());
        Self {
            wants,
            cover,
            closed,
            logs,
            core,
            publisher,
            requests,
            metrics,
            place,
            news,
            wishes,
            left,
            nodes,
            keys: store.keys().clone(),
            state,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            wake,
            tasks: store.tasks().clone(),
        }
    }

    /// A message of one of its NATS subscriptions.
    pub(crate) fn message(&self, subscription_id: CoreSubscriptionId, message: CoreMessage) {
        let subject = &*message.subject;
        if self.closed.is_closed_subject(subject)
            || convert::is_at_most_once(message.headers.as_ref())
            || convert::is_stored_copy(&message)
            || self.logs.is_captured(subject)
        {
            return;
        }
        let Ok(topic) = proto_map::topic_of(subject) else { return };
        let is_hidden = self.closed.hides_topic_from_wildcard(&topic);
        let id = CoreSubscriptionId(subscription_id.0 & !OURS);
        if !self.cover.cover.lock().counts(id, subject, &topic, is_hidden) || !self.wants.matches(&topic) {
            return;
        }
        let mut state = self.state.lock();
        if !state.terms.is_leading() {
            return state.standby.push(message, Instant::now());
        }
        if !state.queue(message) {
            self.metrics.dropped(DropReason::QueueFull, 1);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A copy was seen in the log.
    pub(crate) fn seen(&self, subject: &str, payload: &[u8]) {
        let mut state = self.state.lock();
        if !state.terms.is_leading() {
            state.standby.stored(subject, payload, Instant::now());
        }
    }

    /// Stores what is queued, for ever.
    async fn store(&self) {
        loop {
            // The place comes first: what is taken out of the queue is under way, for whoever waits for that.
            let Ok(place) = Arc::clone(&self.in_flight).acquire_owned().await else { return };
            let Some(message) = self.next() else {
                drop(place);
                self.wake.notified().await;
                continue;
            };
            let permit = self.publisher.permit(message.weight()).await;
            match self.put(message, place) {
                Some(put) => self.publisher.submit(permit, put),
                None => self.metrics.dropped(DropReason::TooLarge, 1),
            }
        }
    }

    fn next(&self) -> Option<CoreMessage> {
        let mut state = self.state.lock();
        let message = state.queue.pop_front()?;
        state.queued_bytes -= message.weight();
        Some(message)
    }

    /// The copy of a message, as it goes into its log.
    fn put(&self, message: CoreMessage, place: OwnedSemaphorePermit) -> Option<Put> {
        let log = self.logs.owner_of(&message.subject);
        let response_topic = self.requests.response_topic_header(&message);
        let (mut headers, ttl_s) = convert::ingested_headers(&message, &self.keys);
        let natural = proto_map::Subject::new(message.subject).ok()?;
        let subject = log.subject(&natural);
        let target = match &log.owner {
            Owner::Ours { .. } if log.number == 0 => PutTarget::Log(subject),
            _ => PutTarget::Attached { stream: ByteString::from(log.log.stream()), subject },
        };
        headers.extend(response_topic);
        let ttl_s = convert::lifetime_s(log.carrier(), ttl_s, &mut headers);
        let sink = Arc::new(Copied { metrics: Arc::clone(&self.metrics), _permit: place });
        Some(Put { target, headers, payload: message.payload, ttl_s, expected_last: None, guard: None, sink, token: 0 })
    }

    /// Leads no more. What is not stored yet is kept until somebody has stored it.
    fn stand_by(&self) {
        let mut state = self.state.lock();
        state.terms.stop();
        state.queued_bytes = 0;
        for message in std::mem::take(&mut state.queue) {
            state.standby.push(message, Instant::now());
        }
    }

    /// Copies messages of NATS while we lead, until we are `leaving`.
    pub(in crate::account) async fn keep(self: Arc<Self>, lead: Lead, mut leaving: watch::Receiver<bool>) {
        let is_over = async {
            let _ = leaving.wait_for(|leaving| *leaving).await;
            // What nobody else may have heard is stored first, by the leader or by us.
            let _ = tokio::time::timeout(LEAVE_WITHIN, self.is_through()).await;
        };
        tokio::select! {
            _ = is_over => {}
            () = take_turns(&self, lead.candidacy()) => {}
            () = self.store() => {}
        }
        lead.give_up().await;
    }

    /// Waits until nobody answers in the leader's place, and nobody says that it has come.
    async fn leader_is_gone(&self) {
        let (mut silences, mut known) = (0, self.state.lock().terms.newest());
        while silences < SILENCES {
            tokio::time::sleep(ASK_EVERY).await;
            let newest = self.state.lock().terms.newest();
            if newest != known {
                (silences, known) = (0, newest);
            }
            match self.core.request(&self.place, Bytes::new(), ANSWER_WITHIN).await {
                Err(RequestError::Nobody) => silences += 1,
                Ok(_) | Err(RequestError::TimedOut | RequestError::Unavailable(_)) => silences = 0,
            }
        }
    }

    /// Waits until everything that was heard is stored.
    async fn is_through(&self) {
        while !self.state.lock().is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.publisher.drain().await;
    }

    /// Tells the others what is wanted here that nobody wanted before, so that they know of it when their clients publish, and
    /// waits until the leader hears what is published from now on. Without an answer the records of the sessions say so later.
    pub(crate) async fn announce(&self, filters: &[TopicFilter]) {
        if filters.is_empty() {
            return;
        }
        let texts: Vec<&str> = filters.iter().map(TopicFilter::as_str).collect();
        let wishes = Bytes::from(serde_json::to_vec(&texts).unwrap_or_default());
        let _ = self.core.tell(&self.wishes, wishes.clone());
        if self.state.lock().terms.is_leading() {
            return;
        }
        if let Err(error) = self.core.request(&self.place, wishes, ANNOUNCE_WITHIN).await {
            tracing::debug!(%error, "what is wanted here is not announced");
        }
    }

    /// Hears what another sidecar wants, until its records have said so. Whoever asks without a wish asks whether we are there.
    async fn hear_wishes(self: &Arc<Self>, wishes: &[u8]) -> Option<Bytes> {
        if self.note_wishes(wishes) {
            self.core.flush().await.ok()?;
        }
        Some(Bytes::new())
    }

    /// Wants what others want, until their records have said so. Returns whether that is anything.
    fn note_wishes(&self, wishes: &[u8]) -> bool {
        let texts: Vec<String> = serde_json::from_slice(wishes).unwrap_or_default();
        let filters: Vec<TopicFilter> = texts.into_iter().filter_map(|text| TopicFilter::new(text).ok()).collect();
        if filters.is_empty() {
            return false;
        }
        self.wants.announced(&filters);
        let wants = Arc::clone(&self.wants);
        self.tasks.spawn(async move {
            tokio::time::sleep(RECORDS_SAY).await;
            wants.forget(&filters);
        });
        true
    }

    /// Tells whoever believes to lead that we do.
    fn tell(&self, term: Term) {
        let text = Bytes::from(term.0.to_string());
        // Who does not hear it finds out when it refreshes its lease.
        let _ = self.core.tell(&self.news, text);
    }

    /// Somebody leads in a term.
    fn heard(&self, term: Term) {
        let is_over = self.state.lock().terms.hear(term, Instant::now());
        if is_over {
            self.stand_by();
        }
    }

    /// Waits until no copy is under way. Those of a leader that stands by no more become none.
    async fn nothing_is_in_flight(&self) {
        let _ = self.in_flight.acquire_many(IN_FLIGHT_MAX).await;
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.standby.is_empty()
    }

    fn queue(&mut self, message: CoreMessage) -> bool {
        let size = message.weight();
        if self.queue.len() >= QUEUE_MAX || self.queued_bytes + size > PROCESS.at_most(QUEUE_BYTES_MAX) {
            return false;
        }
        self.queued_bytes += size;
        self.queue.push_back(message);
        true
    }
}

async fn take_turns(ingest: &Arc<Ingest>, candidacy: &Candidacy) {
    let listener = Arc::clone(ingest);
    let hear = move |news: Bytes| {
        if let Some(term) = std::str::from_utf8(&news).ok().and_then(|text| text.parse().ok()).map(Term) {
            listener.heard(term);
        }
        std::future::ready(None)
    };
    let _news = match ingest.core.serve(&ingest.news, hear).await {
        Ok(news) => Some(news),
        Err(error) => {
            tracing::warn!(%error, "news of the other sidecars are not heard");
            None
        }
    };
    let wisher = Arc::clone(ingest);
    let note = move |wishes: Bytes| {
        wisher.note_wishes(&wishes);
        std::future::ready(None)
    };
    let _wishes = ingest.core.serve(&ingest.wishes, note).await;
    let mut term = candidacy.term();
    loop {
        let Some(number) = *term.borrow_and_update() else {
            tokio::select! {
                changed = term.changed() => if changed.is_err() { return },
                () = ingest.leader_is_gone() => candidacy.preempt(),
            }
            continue;
        };
        let leader = Arc::clone(ingest);
        let answer = move |filters: Bytes| {
            let leader = Arc::clone(&leader);
            async move { leader.hear_wishes(&filters).await }
        };
        let _served = ingest.core.serve(&ingest.place, answer).await;
        ingest.heard(Term(number));
        ingest.tell(Term(number));
        let is_lost = term.wait_for(|term| *term != Some(number));
        tokio::select! {
            _ = is_lost => {}
            () = async { ingest.lead(Term(number)).await; std::future::pending().await } => {}
        }
        ingest.stand_by();
    }
}
