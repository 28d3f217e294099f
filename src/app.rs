//! From a configuration to a running sidecar and back down: the order in which things start and end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto_map::ClosedTrees;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::account::{Account, CoreInlet, HEADER_ROOM};
use crate::admin::{self, AdminError};
use crate::announce;
use crate::config::Config;
use crate::connection::{self, Door};
use crate::listener::{self, ListenerError, Peer, Serve};
use crate::metrics::{Metrics, Vitals};
use crate::readiness::{Condition, Readiness, Standing};
use crate::shutdown::ShutdownSignal;
use crate::store::CoreSink;
use crate::store::{OpenError, Store, StoreOptions};

mod options;

/// How long connections may take to finish what is in flight.
const DRAIN: Duration = Duration::from_secs(15);

/// How long to wait for the first lease before serving without.
const LEASE: Duration = Duration::from_secs(5);

/// How long the last things may take.
const LAST: Duration = Duration::from_secs(6);

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long `check` waits for a NATS server.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Says how one condition of readiness stands.
type Look = fn(&Account) -> Standing;

/// What readiness is made of, in the order in which it is told; behind these come the listeners and the drain.
const CONDITIONS: [(&str, Look); 7] = [
    ("nats", Account::links_stand),
    ("assets", Account::assets_are_there),
    ("lease", Account::lease_is_held),
    ("retained", Account::retained_is_warm),
    ("tails", Account::tails_read),
    ("publishing", Account::publishes_are_answered),
    ("streams", Account::streams_have_room),
];

/// The process cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The admin listener cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// NATS cannot be used.
    #[error(transparent)]
    Nats(#[from] OpenError),
    /// A name in the configuration cannot be used in NATS.
    #[error("jetstream.prefix or jetstream.subject_prefix cannot be used: {0}")]
    Names(#[from] proto_map::MapError),
}

impl AppError {
    /// Whether only a change of the configuration, here or on nats-server, can help: exit code 78.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Nats(error) => error.is_configuration(),
            Self::Names(_) => true,
            Self::Listener(_) | Self::Admin(_) => false,
        }
    }
}

/// Runs until shutdown is triggered and everything has drained.
///
/// # Errors
/// A listener cannot be opened, or NATS cannot be used as it is.
pub async fn run(mut config: Config, shutdown: ShutdownSignal) -> Result<(), AppError> {
    tokio::spawn(crate::logging::tell_left_out());
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    metrics.readiness(&readiness);
    let conditions = CONDITIONS.map(|(name, look)| (readiness.condition(name), look));
    let listeners = readiness.condition("listeners");
    let admin = match &config.admin.bind {
        Some(bind) => Some(admin::spawn(bind, readiness.clone(), Arc::clone(&metrics)).await?),
        None => None,
    };
    let started = Box::pin(start(&mut config, &metrics));
    let Some(account) = until(&shutdown, started).await.transpose()? else { return Ok(()) };
    conditions.iter().for_each(|(condition, look)| ask(condition, &account, *look));
    tokio::spawn(Account::keep_lease(Arc::downgrade(&account), Vec::new()));
    let backlog = tokio::spawn(Account::keep_backlog(Arc::downgrade(&account)));
    let puts = tokio::spawn(Account::carry_puts(Arc::downgrade(&account)));
    let ingest = tokio::spawn(Account::keep_ingest(Arc::downgrade(&account)));
    let mut has_lease = account.has_lease();
    // Who connects now would be told that persistent sessions are not to be had.
    let _ = until(&shutdown, tokio::time::timeout(LEASE, has_lease.wait_for(|has| *has))).await;
    metrics.js_api_errors(account.store().api_errors());
    metrics.link_counts(account.store().link_counts());
    tokio::spawn(warm_retained(Arc::clone(&account)));
    metrics.read_vitals(read_vitals(&account));
    let sys_interval = config.mqtt.sys_interval.get();
    if !sys_interval.is_zero() {
        tokio::spawn(Account::tell_sys(Arc::downgrade(&account), sys_interval));
    }
    let door = Arc::new(options::door(&config, Arc::clone(&metrics)));
    let mqtt = Mqtt { door, account: Arc::clone(&account) };
    let served = listener::spawn(&config, metrics, mqtt, shutdown.clone()).await?;
    listeners.open();
    announce::ready(&served.bound, &config.nats.urls, admin.as_ref().map(|admin| admin.addr));
    shutdown.wait().await;
    readiness.drain();
    let drained = tokio::time::timeout(DRAIN, async {
        account.drain().await;
        served.drained().await;
    });
    if drained.await.is_err() {
        tracing::warn!("some connections did not finish in {} s and are cut", DRAIN.as_secs());
    }
    account.events.drained(RETRY).await;
    // They give up the lead, so that the others need not wait for its end.
    account.leave_ingest();
    let _ = tokio::time::timeout(LAST, ingest).await;
    account.release_lease().await;
    let _ = tokio::time::timeout(LAST, async { tokio::join!(backlog, puts) }).await;
    Ok(())
}

/// Opens the store and starts the account on it. What the server decides is put into the configuration.
async fn start(config: &mut Config, metrics: &Arc<Metrics>) -> Result<Arc<Account>, AppError> {
    let inlet = Arc::new(CoreInlet::default());
    let store_options = options::store(config, None)?;
    let names = store_options.assets.names.clone();
    let store = Box::pin(open(store_options, &inlet)).await?;
    if config.mqtt.max_packet_size.as_usize() == 0 {
        let size = store.server_max_payload().saturating_sub(HEADER_ROOM).max(1024);
        config.mqtt.max_packet_size = crate::config::ByteSize(size as u64);
    }
    let opened: Vec<&str> = config.open_trees.iter().map(String::as_str).collect();
    let closed = ClosedTrees::new(names.subject_prefix(), &opened).with_root_wildcard(options::root_wildcard(config));
    Ok(Box::pin(Account::start(options::account(config), store, &inlet, names, closed, Arc::clone(metrics))).await)
}

/// Opens the store; what only time can mend is tried again.
async fn open(options: StoreOptions, inlet: &Arc<CoreInlet>) -> Result<Store, OpenError> {
    loop {
        match Box::pin(Store::open(options.clone(), Arc::clone(inlet) as Arc<dyn CoreSink>)).await {
            Err(error) if !error.is_configuration() => {
                tracing::warn!(%error, "waiting");
                tokio::time::sleep(RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// The result of `work`, or `None` when shutdown comes first.
async fn until<T>(shutdown: &ShutdownSignal, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        () = shutdown.wait() => None,
    }
}

/// Reads the retained messages once, so that it is said when they cannot be read; from then on each SUBSCRIBE sees to it.
async fn warm_retained(account: Arc<Account>) {
    while let Err(error) = account.store().retained().bring_up_to_date().await {
        tracing::warn!(%error, "the retained messages cannot be read yet");
        tokio::time::sleep(RETRY).await;
    }
}

/// The account is asked how a condition stands, for as long as it is there.
fn ask(condition: &Condition, account: &Arc<Account>, look: Look) {
    let account = Arc::downgrade(account);
    condition.ask(move || match account.upgrade() {
        Some(account) => look(&account),
        None => Err("the process ends".to_owned()),
    });
}

/// Reads how the account is, for as long as it is there, and brings the gauges up to date that nobody pushes.
fn read_vitals(account: &Arc<Account>) -> impl Fn() -> Option<Vitals> + Send + Sync + 'static {
    let account = Arc::downgrade(account);
    move || {
        let account = account.upgrade()?;
        account.read_gauges();
        account.metrics.nats_connected(*account.store().connected().borrow());
        Some(account.vitals())
    }
}

/// Serves MQTT on whatever the listeners accept.
#[derive(Clone)]
pub(crate) struct Mqtt {
    door: Arc<Door>,
    account: Arc<Account>,
}

impl Serve for Mqtt {
    fn serve<S>(&self, stream: S, peer: Peer) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection::serve(stream, peer, Arc::clone(&self.door), Arc::clone(&self.account))
    }
}

/// What `nats-mqtt check` found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One finding a line.
    pub lines: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Looks whether NATS can be used with this configuration. Streams that are missing are created, as at every start.
///
/// # Errors
/// It cannot.
pub async fn check(config: &Config) -> Result<Report, AppError> {
    let store_options = options::store(config, Some(CHECK_TIMEOUT))?;
    let store = Box::pin(Store::open(store_options, Arc::new(CoreInlet::default()))).await?;
    let urls = config.nats.urls.join(", ");
    let lines = vec![
        format!("nats: ok ({urls}, messages up to {} bytes)", store.server_max_payload()),
        format!("jetstream: ok ({} and its buckets)", store.log().stream()),
    ];
    Ok(Report { lines })
}
