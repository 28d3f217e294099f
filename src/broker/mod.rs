//! One account's sessions on this sidecar.
//!
//! # Layout
//!
//! - [`Broker`]: attach, subscribe, unsubscribe, detach
//! - `registry`: who is connected; `mailbox`: where a connection is reached
//! - `router`, `subscriptions`, `interest`: from a message to its subscribers, and to core NATS what they want
//! - `publishing`: from a connection to JetStream and core NATS
//! - `catch_up`: sessions behind the tail; `retained`: retained messages at SUBSCRIBE
//! - `message`, `segments`, `convert`: messages, their bytes for clients, their form in NATS
//!
//! Deliberately absent: packets and the socket (`connection`), the state machine of a session (crate `mqtt-session`),
//! and how JetStream is spoken to (`store`).

mod catch_up;
mod clock;
mod convert;
mod interest;
mod mailbox;
mod message;
mod publishing;
mod registry;
mod retained;
mod router;
mod segments;
mod subscribing;
mod subscriptions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mqtt_codec::ReasonCode;
use mqtt_session::{Limits, Negotiated};
use proto_map::{ClosedTrees, Names};

pub(crate) use clock::now_ms;
pub use mailbox::MailboxLimits;
pub(crate) use mailbox::{Mail, Mailbox, Order, Outgoing, Wakes};
pub(crate) use publishing::{Answer, Publishing, Refused, Wanted};
pub(crate) use retained::RetainedCursor;
pub(crate) use segments::Segments;
pub(crate) use subscribing::Subscribed;

use crate::metrics::{Metrics, SessionState};
use crate::store::{CoreMessage, CoreSink};
use crate::store::{LogPosition, LogSink, Tail};
use crate::store::{Store, Unavailable};
use catch_up::CatchUp;
use interest::Interest;
use registry::Registry;
use router::Router;

/// How long a newcomer waits for the connection that has its client id to end.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);

/// What a client of MQTT 3.x, which cannot be told, gets for a publish that is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// An acknowledgement; the message is dropped.
    Drop,
    /// A closed connection.
    Disconnect,
}

/// How the broker treats its clients.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// What clients are offered.
    pub limits: Limits,
    /// Limits of what waits for one client.
    pub mailbox: MailboxLimits,
    /// Levels that a topic may have.
    pub max_topic_levels: u16,
    /// How long a connection may take to its CONNECT.
    pub connect_timeout: Duration,
    /// See [`DeniedPublish`].
    pub denied_publish: DeniedPublish,
    /// Every stored message says which client published it.
    pub client_id_header: bool,
}

/// The broker of one account.
pub struct Broker {
    pub(crate) options: BrokerOptions,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) catch_up: CatchUp,
    /// Names of what we keep in NATS.
    pub(crate) names: Names,
    /// Names this process among all sidecars, also before and after it.
    pub(crate) node: String,
    router: Arc<Router>,
    interest: Interest,
    registry: Registry,
    next_session: AtomicU64,
    _tail: Tail,
}

/// Receives core NATS messages from the moment the store is open, for the router that is made later.
#[derive(Debug, Default)]
pub struct CoreInlet(std::sync::OnceLock<Arc<Router>>);

impl CoreSink for CoreInlet {
    fn message(&self, subscription_id: u64, message: CoreMessage) {
        if let Some(router) = self.0.get() {
            router.message(subscription_id, message);
        }
    }

    fn flush(&self) {
        if let Some(router) = self.0.get() {
            CoreSink::flush(&**router);
        }
    }
}

impl Broker {
    /// Starts to read the log. `inlet` is the sink that the store was opened with.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn start(
        options: BrokerOptions,
        store: Store,
        inlet: &CoreInlet,
        names: Names,
        closed: ClosedTrees,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Unavailable> {
        let index = Arc::clone(store.retained().index());
        let router = Arc::new(Router::new(index, closed, Arc::clone(&metrics)));
        let tail = store.log().tail(LogPosition::New, Arc::clone(&router) as Arc<dyn LogSink>).await?;
        router.starts_at(tail.start_position());
        // Only the first router is set; there is one broker for each store.
        let _ = inlet.0.set(Arc::clone(&router));
        let broker = Arc::new(Self {
            interest: Interest::new(store.core().clone()),
            options,
            store,
            metrics,
            catch_up: CatchUp::default(),
            names,
            node: format!("{:08x}", rand::random::<u32>()),
            router,
            registry: Registry::default(),
            next_session: AtomicU64::new(1),
            _tail: tail,
        });
        let scans = Arc::clone(&broker);
        tokio::spawn(async move { scans.catch_up.run(scans.store.log().clone(), &scans.router).await });
        Ok(broker)
    }

    /// Where its messages are stored.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// A number that no other session of this process has.
    pub(crate) fn next_session_id(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives a client its mailbox. Whoever had its client id is ended first: the newcomer wins [MQTT-3.1.4-3].
    pub(crate) async fn attach(&self, negotiated: &Negotiated) -> Arc<Mailbox> {
        let parameters = &negotiated.parameters;
        let mailbox = Arc::new(Mailbox::new(
            self.next_session_id(),
            negotiated.client_id.clone(),
            parameters.version,
            parameters.client_max_packet_size,
            self.options.mailbox,
        ));
        self.metrics.session(None, Some(SessionState::Live));
        if let Some(old) = self.registry.enter(&mailbox) {
            tracing::info!(client_id = &*old.client_id.escape_debug().to_string(), "taken over by a new connection");
            old.order(Order::Close(ReasonCode::SessionTakenOver));
            // Its will leaves before anything of the newcomer does.
            if tokio::time::timeout(TAKEOVER_PATIENCE, old.ended()).await.is_err() {
                tracing::warn!(client_id = &*old.client_id, "the old connection takes long to end; going on without it");
            }
        }
        mailbox
    }

    /// The connection is over, and everything it published is settled.
    pub(crate) fn detach(&self, mailbox: &Arc<Mailbox>) {
        self.registry.leave(mailbox);
        mailbox.end();
        self.metrics.session(Some(SessionState::Live), None);
    }

    /// The next retained messages of a cursor; returns whether more may follow.
    pub(crate) fn retained_page(&self, cursor: &mut RetainedCursor, out: &mut Vec<Outgoing>) -> bool {
        let closed = self.router.closed();
        cursor.page(self.store.retained().index(), |topic| closed.hides_topic_from_wildcard(topic), out)
    }

    /// Ends all connections: each finishes what is in flight, gets Server shutting down and is closed. Returns when the
    /// last one is gone.
    pub async fn drain(&self) {
        for mailbox in self.registry.everyone() {
            mailbox.order(Order::Drain);
        }
        self.registry.empty().await;
    }

    /// Connected clients.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.registry.everyone().len()
    }
}
