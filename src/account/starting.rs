//! How an account is put together, from the lowest part to the highest.
//!
//! A start waits for JetStream as it waits for nats-server itself: a leader that is not there now, or an answer that was
//! lost, is no reason to end.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mqtt_session::Sequence;
use proto_map::{ClosedTrees, Names};
use tokio::sync::{Semaphore, watch};

use crate::account::census::Census;
#[cfg(test)]
use crate::account::control::Control;
use crate::account::delivery::catch_up::CatchUp;
use crate::account::delivery::core_subscriptions::{CoreSubscriptionId, CoreSubscriptions};
use crate::account::delivery::logs::{FRESH_FOR, Follower, Logs};
use crate::account::delivery::router::{LogTail, Reading, Router};
use crate::account::duties::Duties;
use crate::account::events::Events;
use crate::account::interop::durable_interest::DurableInterest;
use crate::account::interop::ingest;
use crate::account::interop::ingest::Ingest;
use crate::account::membership::Membership;
use crate::account::ownership::OrphanedConnects;
use crate::account::ownership::displaced::Displaced;
use crate::account::ownership::nodes_gone;
use crate::account::ownership::our_lease::OurLease;
use crate::account::ownership::remains::Remains;
use crate::account::ownership::turns::Turns;
use crate::account::ownership::unrecorded::Unrecorded;
use crate::account::ownership::will_room::WillRoom;
use crate::account::publish::convert;
use crate::account::publish::retained_writer::RetainedWriter;
use crate::account::publish::size_refusals::SizeRefusals;
use crate::account::quotas::Refusals;
use crate::account::registry::Registry;
use crate::account::requests;
use crate::account::requests::Requests;
use crate::account::shared::{Claimants, Shares};
use crate::account::sys::Sys;
use crate::account::{Account, AccountOptions};
use crate::metrics::AccountMetrics;
use crate::store::{CoreMessage, CoreSink, FollowFrom, LogPosition, SessionsSink, Store, Tail, Unavailable};

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Asks until there is an answer.
async fn answered<T, F: Future<Output = Result<T, Unavailable>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(%error, "waiting for JetStream"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Receives core NATS messages from the moment the store is open, for the router that is made later.
#[derive(Debug, Default)]
pub(crate) struct CoreInlet(OnceLock<Inlets>);

struct Inlets {
    router: Arc<Router>,
    ingest: Option<Arc<Ingest>>,
    requests: Arc<Requests>,
}

impl std::fmt::Debug for Inlets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inlets")
    }
}

impl CoreSink for CoreInlet {
    fn message(&self, subscription_id: u64, message: CoreMessage) {
        let Some(Inlets { router, ingest, requests }) = self.0.get() else { return };
        if convert::is_delivery(&message) {
            return;
        }
        let id = CoreSubscriptionId(subscription_id);
        if id == requests::REPLIES_ID {
            requests.arrived(message);
        } else if id == requests::OTHERS_ID {
            requests.arrived_for_others(message);
        } else if !ingest::is_ours(id) {
            router.message(subscription_id, message);
        } else if let Some(ingest) = ingest {
            ingest.message(id, message);
        }
    }

    fn is_captured(&self, subject: &str) -> bool {
        self.0.get().is_some_and(|inlets| inlets.requests.is_captured(subject))
    }

    fn flush(&self) {
        if let Some(Inlets { router, .. }) = self.0.get() {
            CoreSink::flush(&**router);
        }
    }
}

/// Where messages go on this sidecar.
struct Routing {
    requests: Arc<Requests>,
    arrived: requests::Inlet,
    logs: Arc<Logs>,
    ingest: Option<Arc<Ingest>>,
    router: Arc<Router>,
    sys: Sys,
}

impl Routing {
    fn new(
        options: &AccountOptions,
        store: &Store,
        names: &Names,
        closed: &ClosedTrees,
        metrics: &Arc<AccountMetrics>,
    ) -> Self {
        let (requests, arrived) = Requests::start(options.requests, store, names, closed, metrics);
        let logs = Arc::new(Logs::new(store.log().clone(), names));
        let ingest = options.ingests.then(|| {
            let (logs, requests, metrics) = (Arc::clone(&logs), Arc::clone(&requests), Arc::clone(metrics));
            Arc::new(Ingest::new(logs, store, closed.clone(), names, requests, metrics))
        });
        let (clock, keys) = (store.clock().clone(), store.keys().clone());
        let reading = Reading { nats_headers: options.nats_headers, clock, keys };
        let router = Arc::new(Router::new(
            Arc::clone(&logs),
            Arc::clone(store.retained().index()),
            closed.clone(),
            ingest.clone(),
            reading.clone(),
            Arc::clone(&requests),
            Arc::clone(metrics),
        ));
        router.copy_overlapping(options.copies_overlapping);
        let reading = Reading { nats_headers: false, ..reading };
        let sys = Sys::new(Arc::clone(&logs), closed.clone(), Arc::clone(&requests), reading, Arc::clone(metrics));
        sys.router.copy_overlapping(options.copies_overlapping);
        Self { requests, arrived, logs, ingest, router, sys }
    }

    fn follower(
        &self,
        options: &AccountOptions,
        names: &Names,
        closed: ClosedTrees,
        registry: &Arc<Registry>,
    ) -> Arc<Follower> {
        Arc::new(Follower {
            logs: Arc::clone(&self.logs),
            router: Arc::clone(&self.router),
            requests: Arc::clone(&self.requests),
            closed,
            names: names.clone(),
            ignored: options.ignored_streams.clone(),
            registry: Arc::clone(registry),
        })
    }
}

/// What there is before JetStream is asked for anything.
struct Parts {
    routing: Routing,
    registry: Arc<Registry>,
    follower: Arc<Follower>,
}

impl Parts {
    fn new(
        options: &AccountOptions,
        store: &Store,
        names: &Names,
        closed: ClosedTrees,
        metrics: &Arc<AccountMetrics>,
    ) -> Self {
        let (routing, registry) =
            (Routing::new(options, store, names, &closed, metrics), Arc::new(Registry::default()));
        let follower = routing.follower(options, names, closed, &registry);
        Self { routing, registry, follower }
    }

    /// Where the tail of the main log leaves what it reads.
    fn sink(&self) -> Arc<LogTail> {
        let Routing { router, logs, .. } = &self.routing;
        Arc::new(LogTail::new(Arc::clone(router), Arc::clone(logs.main()), Arc::clone(&self.registry)))
    }
}

/// Who follows the records of sessions, one behind the other.
fn followers(wants: Option<Arc<DurableInterest>>) -> (Arc<Census>, Arc<Claimants>) {
    let census = Arc::new(Census::new(wants.map(|wants| wants as Arc<dyn SessionsSink>)));
    let claimants = Claimants::new(Some(Arc::clone(&census) as Arc<dyn SessionsSink>));
    (census, Arc::new(claimants))
}

impl Account {
    /// Starts to read the log, when JetStream answers. `inlet` is the sink that the store was opened with.
    pub(in crate::account) async fn start(
        options: AccountOptions,
        store: Store,
        inlet: &CoreInlet,
        names: Names,
        closed: ClosedTrees,
        metrics: Arc<AccountMetrics>,
        membership: Option<Arc<Membership>>,
    ) -> Arc<Self> {
        let parts = Parts::new(&options, &store, &names, closed, &metrics);
        if !store.has_jetstream() {
            parts.routing.requests.get_key(store.reply_keys()).await;
            let membership = membership.unwrap_or_else(|| Membership::begin(&store));
            return Self::assemble(options, (store, membership), inlet, names, metrics, parts, None);
        }
        let main = Arc::clone(parts.routing.logs.main());
        answered(async || store.kv_updates().begin().await).await;
        // Before the first client: what was asked through other sidecars can be answered here.
        parts.routing.requests.get_key(store.reply_keys()).await;
        let tail = answered(async || store.log().tail(LogPosition::New, parts.sink()).await).await;
        main.starts_at(Sequence(tail.start_position()));
        answered(async || parts.follower.look(&store, true).await).await;
        let membership = membership.unwrap_or_else(|| Membership::begin(&store));
        Self::assemble(options, (store, membership), inlet, names, metrics, parts, Some(tail))
    }

    /// Puts the parts together. It waits for nothing.
    fn assemble(
        options: AccountOptions,
        (store, membership): (Store, Arc<Membership>),
        inlet: &CoreInlet,
        names: Names,
        metrics: Arc<AccountMetrics>,
        parts: Parts,
        tail: Option<Tail>,
    ) -> Arc<Self> {
        let Parts { routing, registry, follower } = parts;
        let Routing { requests, arrived, logs, ingest, router, sys } = routing;
        let (first, wants) = (Arc::clone(logs.main()), ingest.as_ref().map(|ingest| Arc::clone(&ingest.wants)));
        let (census, claimants) = followers(wants.clone());
        let shares = Shares::start(
            &store,
            Arc::clone(&claimants),
            (options.share_times, options.quotas.groups),
            Arc::clone(&logs),
            Arc::clone(&router),
            wants,
            Arc::clone(&metrics),
        );
        let inlets = Inlets { router: Arc::clone(&router), ingest: ingest.clone(), requests: Arc::clone(&requests) };
        // Only the first router is set; there is one account for each store.
        let _ = inlet.0.set(inlets);
        let displaced = Displaced::new(Arc::clone(&registry), Arc::clone(&metrics), claimants);
        let has_jetstream = store.has_jetstream();
        let records = has_jetstream.then(|| store.sessions().follow(FollowFrom::Everything, Arc::new(displaced)));
        // Without JetStream nobody's session can be somebody else's.
        let is_occupied = if has_jetstream { registry.is_occupied() } else { watch::channel(false).1 };
        let events = options.tells_events.then(|| Events::start(&store, names.clone(), Arc::clone(&metrics)));
        let account = Arc::new(Self {
            retained_writer: RetainedWriter::start(&store, is_occupied),
            remains: Remains::start(&store),
            sys,
            events: events.unwrap_or_else(Events::off),
            interest: CoreSubscriptions::new(store.core().clone(), router.closed().clone()),
            shares,
            store,
            logs,
            names,
            process: format!("{:016x}", rand::random::<u64>()),
            lease: OurLease::default(),
            membership,
            has_lease: watch::Sender::new(false),
            is_closing: watch::Sender::new(false),
            is_leaving: watch::Sender::new(false),
            is_retiring: AtomicBool::new(false),
            duties: Duties::default(),
            router,
            requests,
            follower: Arc::clone(&follower),
            registry,
            orphans: OrphanedConnects::default(),
            size_refusals: SizeRefusals::default(),
            census,
            refusals: Refusals::new(Arc::clone(&metrics)),
            ordering: Arc::new(Semaphore::new(nodes_gone::ORDERING_MAX)),
            turns: Turns::new(options.quotas.opening_size, Arc::clone(&metrics)),
            will_room: WillRoom::new(options.quotas.opening_size, Arc::clone(&metrics)),
            next_session: AtomicU64::new(1),
            ingest,
            metrics,
            options,
            unrecorded: Unrecorded::default(),
            _tail: tail,
            records,
        });
        CatchUp::start(account.store.tasks(), first, Arc::clone(&account.router));
        if has_jetstream {
            account.store.tasks().spawn(follow_streams(follower, Arc::downgrade(&account)));
        }
        account.serve_requests(arrived);
        account
    }
}

#[cfg(test)]
impl Account {
    /// One that NATS has never answered. A session that needs no record is served by it as by any other.
    pub(crate) async fn unconnected(
        options: AccountOptions,
        store: Store,
        names: Names,
        closed: ClosedTrees,
        metrics: Arc<AccountMetrics>,
    ) -> Arc<Self> {
        let parts = Parts::new(&options, &store, &names, closed, &metrics);
        let tail = store.log().tail(LogPosition::Sequence(1), parts.sink()).await;
        let membership = Membership::begin(&store);
        let tail = tail.expect("nothing is asked");
        Self::assemble(options, (store, membership), &CoreInlet::default(), names, metrics, parts, Some(tail))
    }

    /// The connection of a client, as everybody but itself knows it.
    pub(crate) fn control_of(&self, client_id: &str) -> Option<Arc<Control>> {
        self.registry.find(client_id)
    }
}

/// Follows the streams as they change, for ever.
async fn follow_streams(follower: Arc<Follower>, account: Weak<Account>) {
    let Some(mut changes) = account.upgrade().map(|account| account.store.streams().changes()) else { return };
    while changes.changed().await.is_ok() {
        loop {
            let Some(account) = account.upgrade() else { return };
            let Err(error) = follower.look(&account.store, false).await else { break };
            tracing::warn!(%error, "the streams of the account cannot be looked at");
            drop(account);
            tokio::time::sleep(FRESH_FOR).await;
        }
    }
}
