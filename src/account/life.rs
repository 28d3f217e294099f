//! The life of an account on this sidecar: it is opened, drained and closed.
//!
//! ```text
//! open ─▶ NATS and what is stored ─▶ parts (`starting`) ─▶ duties: lease, backlog, puts, ingest, $SYS; without JetStream: takeovers, $SYS
//! drain ─▶ connections leave, errands are done ─▶ events are told ─▶ the lead of ingest ─▶ the lease ─▶ backlog and puts
//! close ─▶ nothing of it runs
//! ```
//!
//! **Invariant:** an account owns what runs for it, its connections to NATS included (`tasks`). A close cuts whatever is under
//! way; what must not be cut is finished in the drain before: the last writes of sessions, wills that are being published, the
//! lease. An account lives until it is closed, and not until nobody holds it: what runs may hold it.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::ReasonCode;
use proto_map::ClosedTrees;

use crate::account::control::{Control, Order};
use crate::account::lead::Lead;
use crate::account::membership::Membership;
use crate::account::ownership::versions;
use crate::account::publish::size_refusals::HEADER_ROOM;
use crate::account::starting::CoreInlet;
use crate::account::{Account, AccountOptions, redirect};
use crate::metrics::{Metrics, Vitals};
use crate::store::{CoreSink, Leases, OpenError, Retained, Store, StoreOptions};
use crate::tasks::Tasks;

/// How long to wait before NATS is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long events that were left may take to be sent.
const EVENTS: Duration = Duration::from_secs(1);

/// How long the last things may take.
const LAST: Duration = Duration::from_secs(6);

/// How long it may take until nothing goes by the lease.
const LET_GO: Duration = Duration::from_secs(2);

/// Packets may be so large, whatever the server takes, bytes.
const PACKET_MIN: usize = 1024;

/// What an account is to be.
#[derive(Clone, Debug)]
pub struct AccountSpec {
    /// Where NATS is, and what is kept there.
    pub store: StoreOptions,
    /// Where the sidecars have their leases.
    pub leases: Leases,
    /// How its clients are treated.
    pub options: AccountOptions,
    /// Packets may be as large as what the server takes, and not as `options` say.
    pub fits_packets_to_nats: bool,
    /// Trees of subjects that are closed to devices.
    pub closed: ClosedTrees,
    /// How often clients are told about this sidecar; zero: never.
    pub sys_interval: Duration,
}

impl Account {
    /// Brings an account to life: when this returns, its clients can come. What only time can mend is waited for; dropped before,
    /// it leaves nothing behind.
    ///
    /// # Errors
    /// NATS cannot be used as it is: see [`OpenError::is_configuration`].
    pub async fn open(spec: AccountSpec, metrics: &Arc<Metrics>) -> Result<Arc<Self>, OpenError> {
        let account = Box::pin(Self::open_as(spec, metrics, None)).await?;
        account.tasks().spawn(versions::say_other_versions(Arc::downgrade(&account)));
        Ok(account)
    }

    /// The same for one whose sidecars have their leases elsewhere.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub(crate) async fn open_tenant(
        spec: AccountSpec,
        metrics: &Arc<Metrics>,
        membership: Arc<Membership>,
    ) -> Result<Arc<Self>, OpenError> {
        Box::pin(Self::open_as(spec, metrics, Some(membership))).await
    }

    async fn open_as(
        spec: AccountSpec,
        metrics: &Arc<Metrics>,
        membership: Option<Arc<Membership>>,
    ) -> Result<Arc<Self>, OpenError> {
        let AccountSpec { store, leases, mut options, fits_packets_to_nats, closed, sys_interval } = spec;
        let (names, inlet) = (store.assets.names.clone(), Arc::new(CoreInlet::default()));
        let store = Box::pin(open_store(store, &leases, &inlet)).await?;
        if fits_packets_to_nats {
            options.limits.max_packet_size = largest_packet(store.server_max_payload());
        }
        if !store.has_jetstream() {
            options.ingests = false;
            options.rights.stores_nothing = true;
        }
        let account = Box::pin(Self::start(options, store, &inlet, names, closed, metrics.account(), membership)).await;
        account.show_metrics();
        account.begin_duties(sys_interval);
        Ok(account)
    }

    /// The leases of the sidecars, and ours among them.
    pub(crate) const fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Whether nobody has a session, here or elsewhere, as far as the records have been read.
    pub(crate) fn has_no_sessions(&self) -> bool {
        !self.has_jetstream() || self.census.is_empty()
    }

    /// Whether the account has JetStream. Without it its sessions end with their connections, and nobody who is away is owed
    /// anything.
    pub(crate) const fn has_jetstream(&self) -> bool {
        self.store.has_jetstream()
    }

    /// Waits until an account that was opened without JetStream has it: it is to be opened anew.
    pub(crate) async fn jetstream_comes(&self) {
        self.store.jetstream_comes().await;
    }

    /// The largest packet that a client may send.
    pub(crate) const fn max_packet_size(&self) -> NonZeroU32 {
        self.options.limits.max_packet_size
    }

    /// Whatever runs for it runs there.
    pub(crate) const fn tasks(&self) -> &Tasks {
        self.store.tasks()
    }

    fn begin_duties(self: &Arc<Self>, sys_interval: Duration) {
        if !sys_interval.is_zero() {
            self.tasks().spawn(Self::tell_sys(Arc::downgrade(self), sys_interval));
        }
        if self.has_jetstream() {
            self.begin_duties_of_sessions();
        } else {
            self.tasks().spawn(Self::serve_takeovers(Arc::downgrade(self), Arc::clone(&self.membership)));
        }
    }

    /// What is owed to sessions that are stored.
    fn begin_duties_of_sessions(self: &Arc<Self>) {
        let account = || Arc::downgrade(self);
        let tasks = self.tasks();
        tasks.spawn(Self::go_by_lease(account(), Arc::clone(&self.membership)));
        let lead = Lead::campaign(&self.store);
        self.begin_led(Self::keep_backlog(account(), lead.clone()));
        self.begin_led(Self::carry_puts(account(), lead.clone()));
        self.begin_led(Self::keep_ingest(account(), lead));
        tasks.spawn(warm_retained(self.store.retained().clone()));
    }

    /// Begins with something that whoever leads does. A drain waits for it.
    fn begin_led(&self, work: impl Future<Output = ()> + Send + 'static) {
        let led = self.duties.led.begin();
        self.tasks().spawn(async move {
            work.await;
            drop(led);
        });
    }

    /// What only it knows is shown with its metrics for as long as it is there.
    fn show_metrics(self: &Arc<Self>) {
        self.metrics.js_api_errors(self.store.api_errors());
        self.metrics.link_counts(self.store.link_counts());
        let account = Arc::downgrade(self);
        self.metrics.read_vitals(move || Some(account.upgrade()?.read_metrics()));
    }

    /// Reads how it is, and brings the gauges up to date that nobody pushes.
    fn read_metrics(&self) -> Vitals {
        self.read_gauges();
        self.metrics.nats_connected(*self.store.connected().borrow());
        self.vitals()
    }

    /// Waits for our lease, not for long: who connects before would be told that persistent sessions are not to be had.
    pub async fn wait_for_lease(&self, within: Duration) {
        let mut has_lease = self.has_lease();
        let _ = tokio::time::timeout(within, has_lease.wait_for(|has| *has)).await;
    }

    /// Lets its clients go, all at once, and gives back what it holds, so that others need not wait for the end of that. Connections
    /// finish what is in flight, are told that the server ends and are closed; whoever is left after `within` is cut by the close.
    pub async fn drain(&self, within: Duration) {
        self.order_all_to_leave();
        self.wind_down(within).await;
        self.membership.leave().await;
    }

    /// Nobody comes in any more. Those who are there, in no order.
    pub(crate) fn close_door(&self) -> Vec<Arc<Control>> {
        self.registry.close()
    }

    /// Gives back what it holds but for the lease when its clients, who were ordered to leave or will be, have left.
    pub(crate) async fn wind_down(&self, within: Duration) {
        if tokio::time::timeout(within, self.clients_gone()).await.is_err() {
            tracing::warn!("some connections did not finish in {} s and are cut", within.as_secs());
        }
        self.say_last_words().await;
    }

    /// Why clients that are drained leave, as DISCONNECT says it. Whose account is only opened anew comes back here.
    pub(crate) fn drain_reason(&self) -> ReasonCode {
        if self.is_retiring() { ReasonCode::ServerShuttingDown } else { self.options.redirect.reason() }
    }

    /// The same for those whose CONNECT is refused for it.
    pub(crate) fn drain_refusal(&self) -> ReasonCode {
        redirect::of_connack(self.drain_reason())
    }

    /// The Server Reference of a CONNACK or DISCONNECT with this reason.
    pub(crate) fn server_reference(&self, reason: ReasonCode) -> Option<ByteString> {
        self.options.redirect.reference(reason)
    }

    /// The same for one that is closed while the process goes on: however long it takes, nothing is left that only the end of our
    /// lease would have others see to.
    pub(crate) async fn retire(&self) {
        self.is_retiring.store(true, Ordering::Release);
        self.order_all_to_leave();
        self.clients_gone().await;
        self.duties.waiting.done().await;
        self.say_last_words().await;
    }

    /// Whether it is being closed while the process goes on.
    pub(crate) fn is_retiring(&self) -> bool {
        self.is_retiring.load(Ordering::Acquire)
    }

    /// Waits until nothing of sessions of ours waits for its time: a will that is due later is ours to publish.
    pub(crate) async fn has_nothing_due(&self) {
        self.duties.waiting.done().await;
    }

    /// Something waits for its time, until what this returns is dropped.
    #[cfg(test)]
    pub(crate) fn has_something_due(&self) -> crate::tasks::Errand {
        self.duties.waiting.begin()
    }

    async fn say_last_words(&self) {
        self.events.drained(EVENTS).await;
        // It gives up the lead, so that the others need not wait for its end; before the lease, so that a new leader can ask what
        // is left.
        self.is_leaving.send_replace(true);
        let _ = tokio::time::timeout(LAST, self.duties.led.done()).await;
        self.let_go().await;
    }

    fn order_all_to_leave(&self) {
        self.close_door().iter().for_each(|control| control.order(Order::Drain));
    }

    async fn clients_gone(&self) {
        self.registry.empty().await;
        self.shares.ended().await;
        // Wills of those who have left, and what an old owner has handed over.
        self.duties.errands.done().await;
    }

    /// Goes by the lease no more; after the last connection.
    async fn let_go(&self) {
        if self.is_closing.send_replace(true) || !*self.has_lease.borrow() {
            return;
        }
        let mut has_lease = self.has_lease.subscribe();
        let _ = tokio::time::timeout(LET_GO, has_lease.wait_for(|has| !has)).await;
    }

    /// Ends it: when this returns, no task of it runs, no connection of a client or to NATS is open, and JetStream has no
    /// consumer of its readers. Without a drain before it is as when the process is killed, to the other sidecars. Once more is
    /// nothing.
    pub async fn close(&self) {
        self.registry.close();
        self.store.close().await;
        // Nobody reads them any more when it is gone.
        self.metrics.note(&self.vitals());
    }

    /// Copies messages of NATS while we lead, until a drain.
    async fn keep_ingest(account: Weak<Self>, lead: Lead) {
        let Some(strong) = account.upgrade() else { return };
        let Some(ingest) = strong.ingest.clone() else { return };
        let leaving = strong.is_leaving.subscribe();
        drop(strong);
        ingest.keep(lead, leaving).await;
    }
}

/// The largest packet when a message of the server may have so many bytes.
fn largest_packet(max_payload: usize) -> NonZeroU32 {
    let size = max_payload.saturating_sub(HEADER_ROOM).max(PACKET_MIN);
    u32::try_from(size).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// Opens the store; what only time can mend is tried again.
async fn open_store(options: StoreOptions, leases: &Leases, inlet: &Arc<CoreInlet>) -> Result<Store, OpenError> {
    loop {
        match Box::pin(Store::open_with(options.clone(), leases.clone(), Arc::clone(inlet) as Arc<dyn CoreSink>)).await
        {
            Err(error) if !error.is_configuration() => {
                tracing::warn!(%error, "waiting");
                tokio::time::sleep(RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// Reads the retained messages once, so that it is said when they cannot be read; from then on each SUBSCRIBE sees to it.
async fn warm_retained(retained: Retained) {
    while let Err(error) = retained.bring_up_to_date().await {
        tracing::warn!(%error, "the retained messages cannot be read yet");
        tokio::time::sleep(RETRY).await;
    }
}
