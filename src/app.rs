//! From a configuration to a running sidecar and back down: the order in which things start and end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::Signal;
use tokio_util::task::AbortOnDropHandle;

use crate::account::{Account, AccountSpec, Redirect};
use crate::accounts::{self, Accounts};
use crate::admin::control::{Answers, ControlError, ControlSocket, Desk};
use crate::admin::{self, Admin, AdminError};
use crate::announce;
use crate::auth::{self, Authenticator, Dispatch};
use crate::bans::Bans;
use crate::config::{Config, ConfigSource, DrainConfig};
use crate::connection::{self, Door};
use crate::listener::{self, Bound, ListenerError, Peer, Revocations, Serve};
use crate::metrics::Metrics;
use crate::overload::{PROCESS, Source};
use crate::readiness::{Condition, Readiness, Standing};
use crate::shutdown::ShutdownSignal;
use crate::stamp::Stamp;
use crate::store::OpenError;
use crate::systemd::{self, Notifier};
use reload::{Parts, Reloader, State};
use ways::Configured;

pub use check::{Report, check};

mod check;
pub(crate) mod options;
mod overload;
mod reload;
mod ways;

/// How long connections may take to finish what is in flight, from when the last one is told to leave.
const DRAIN_REST: Duration = Duration::from_secs(10);
// They end by themselves before that.
const _: () = assert!(connection::LET_GO_WITHIN.as_secs() + connection::GOODBYE.as_secs() < DRAIN_REST.as_secs());

/// How long those who are not known to an account yet may take to be told that the process ends, at least.
const ARRIVING: Duration = Duration::from_secs(2);

/// How long the drain may take beyond `drain.notice` and `drain.duration`, whatever does not answer: the connections, and behind them
/// events, the lead and the lease.
const REST: Duration = Duration::from_secs(20);

/// How long it may take to close what is there behind a drain.
const CLOSE: Duration = Duration::from_secs(5);

/// How long to wait for the first lease before serving without.
const LEASE: Duration = Duration::from_secs(5);

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
    /// The socket for `nats-mqtt reload` cannot be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
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
            Self::Listener(error) => error.is_configuration(),
            Self::Admin(_) | Self::Control(_) => false,
        }
    }
}

/// What an account is to be, by the configuration.
///
/// # Errors
/// A name in the configuration cannot be used in NATS.
pub fn account_spec(config: &Config) -> Result<AccountSpec, AppError> {
    Ok(options::spec(config, options::store(config, None)?))
}

/// What comes from outside while the process runs.
#[derive(Debug)]
pub struct Outside {
    /// Where the configuration comes from.
    pub source: ConfigSource,
    /// How its file was before it was read.
    pub(crate) stamp: Stamp,
    /// SIGHUP: it is to be read again.
    pub hangups: Signal,
    /// The service manager, which is told how the process is.
    pub notifier: Notifier,
}

/// What is there once, whatever becomes of the account.
struct Process {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// Of the account.
    conditions: [(Condition, Look); CONDITIONS.len()],
    listeners: Condition,
    admin: Option<Admin>,
    /// Client certificates that listeners know to be revoked.
    revocations: Arc<Revocations>,
    /// Where clients are told to go.
    redirect: Arc<Redirect>,
    /// Who answers on the socket for `nats-mqtt reload`, once the process has started.
    desk: Arc<Desk>,
    /// Who passes on what is asked there; until the drain.
    asked: Mutex<Option<AbortOnDropHandle<()>>>,
    /// The service manager.
    notifier: Notifier,
    /// Who tells it how the process is.
    keeping: Mutex<AbortOnDropHandle<()>>,
    /// Where is read how much memory is in use.
    memory: Source,
}

impl Process {
    async fn start(config: &Config, notifier: Notifier, memory: Source) -> Result<Self, AppError> {
        tokio::spawn(crate::logging::tell_left_out());
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        metrics.readiness(&readiness);
        let conditions = CONDITIONS.map(|(name, look)| (readiness.condition(name), look));
        let listeners = readiness.condition("listeners");
        tokio::spawn(systemd::keep_alive(notifier.clone(), readiness.clone()));
        let starting = tokio::spawn(systemd::keep_starting(notifier.clone(), readiness.clone()));
        let keeping = Mutex::new(AbortOnDropHandle::new(starting));
        let admin = match &config.admin.bind {
            Some(bind) => Some(admin::spawn(bind, readiness.clone(), Arc::clone(&metrics)).await?),
            None => None,
        };
        let (control, desk) = (config.admin.socket.as_deref().map(ControlSocket::open).transpose()?, Arc::default());
        let asked = control.map(|control| {
            let desk = Arc::clone(&desk);
            AbortOnDropHandle::new(tokio::spawn(async move { control.serve(&desk).await }))
        });
        Ok(Self {
            metrics,
            readiness,
            conditions,
            listeners,
            admin,
            revocations: Arc::default(),
            redirect: options::redirect(config),
            desk,
            asked: Mutex::new(asked),
            notifier,
            keeping,
            memory,
        })
    }

    /// Devices are served.
    fn tell_ready(&self, bound: &[Bound], config: &Config) {
        // The line first: whoever waits for it and whoever asks `/readyz` find both.
        let line = announce::ready(bound, &config.nats.urls, self.admin.as_ref().map(|admin| admin.addr));
        self.listeners.open();
        let telling = systemd::keep_told(self.notifier.clone(), self.readiness.clone(), line.clone());
        // Nobody asks for more time behind it.
        *self.keeping.lock() = AbortOnDropHandle::new(tokio::spawn(telling));
        self.notifier.ready(&line);
    }

    /// The configuration is read again whenever there is a reason, until this ends. Whoever comes to the socket later is not answered.
    async fn follow(&self, reloader: &Arc<Reloader<Mqtt>>, hangups: Signal, shutdown: &ShutdownSignal) {
        // There is one desk, and nobody at it before.
        let _ = self.desk.set(Arc::clone(reloader) as Arc<dyn Answers>);
        let _ = until(shutdown, Box::pin(reloader.follow(hangups))).await;
        drop(self.asked.lock().take());
    }

    /// From now on the account is asked how it is.
    fn look_at(&self, account: &Arc<Account>) {
        self.conditions.iter().for_each(|(condition, look)| ask(condition, account, *look));
    }
}

/// Runs until shutdown is triggered and everything has drained.
///
/// # Errors
/// A listener cannot be opened, or NATS cannot be used as it is.
pub async fn run(config: Config, shutdown: ShutdownSignal, outside: Outside) -> Result<(), AppError> {
    let Outside { source, stamp, hangups, notifier } = outside;
    auth::warnings(&config).iter().for_each(|warning| tracing::warn!("{warning}"));
    // What is wrong with them is told at once, also when NATS is not there yet.
    listener::check(&config)?;
    let memory = Source::find(config.overload.memory.bytes());
    // Before anything is there that may grow.
    PROCESS.begin(&memory);
    let process = Process::start(&config, notifier, memory).await?;
    let (mut spec, ways) = (account_spec(&config)?, options::nats_ways(&config)?);
    // The same user of ours on the same servers.
    spec.store.nats.outage = ways.home.outage.clone();
    let authenticator = auth::authenticator(&config, ways, &process.metrics)?;
    let dispatch = Arc::new(authenticator.heeding(Arc::clone(&process.revocations)));
    let authenticator = Arc::clone(&dispatch) as Arc<dyn Authenticator>;
    let spec = ways::common(spec, &authenticator, &process.redirect);
    let opening = Box::pin(Account::open(spec, &process.metrics));
    let Some(home) = until(&shutdown, opening).await.transpose()? else {
        process.notifier.stopping(CLOSE);
        return Ok(());
    };
    process.look_at(&home);
    if let Some(accounts) = home.store().accounts() {
        authenticator.remember_in(accounts);
    }
    let most = usize::try_from(config.nats.max_accounts).unwrap_or(usize::MAX);
    let opener = Configured::new(&config, &authenticator, &process.metrics, &process.redirect);
    let accounts = accounts::begin(home, Box::new(opener), most);
    accounts.set_rates(config.limits.common());
    // As long as anybody is connected: who is let go takes memory until the end of that.
    let watching = overload::watch(process.memory.clone(), Arc::clone(&accounts), Arc::clone(&process.metrics));
    let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
    let served = Box::pin(serve(config, &process, &accounts, dispatch, (source, stamp, hangups), shutdown)).await;
    if tokio::time::timeout(CLOSE, accounts.close()).await.is_err() {
        tracing::warn!("some of the accounts do not close; ending without");
    }
    served
}

/// Serves accounts until shutdown is triggered, and drains them.
async fn serve(
    config: Config,
    process: &Process,
    accounts: &Arc<Accounts>,
    dispatch: Arc<Dispatch>,
    (source, stamp, hangups): (ConfigSource, Stamp, Signal),
    shutdown: ShutdownSignal,
) -> Result<(), AppError> {
    let home = accounts.home();
    // Whoever is connected while others are let go already is judged as ever.
    let (over, closing) = (ShutdownSignal::new(), ShutdownSignal::new());
    let authenticator = Arc::clone(&dispatch) as Arc<dyn Authenticator>;
    tokio::spawn(follow_users(Arc::clone(&authenticator), Arc::clone(accounts), over.clone()));
    let _ = until(&shutdown, home.wait_for_lease(LEASE)).await;
    let metrics = Arc::clone(&process.metrics);
    let door = Arc::new(options::door(&config, authenticator, home.max_packet_size(), metrics));
    let mqtt = Mqtt { door, accounts: Arc::clone(accounts) };
    let metrics = Arc::clone(&process.metrics);
    let bans = Bans::new(&config.bans, home.store().account_name(), Arc::clone(&metrics));
    let shared = home.store().bans().filter(|_| config.bans.shared).cloned();
    let _ = until(&shutdown, Box::pin(accounts::keep_bans(accounts, &bans, shared))).await;
    let listening = listener::spawn(&config, metrics, (&process.revocations, &bans), mqtt, closing.clone()).await?;
    let (bound, arriving) = (listening.bound(), listening.drained());
    auth::tell_open_listeners(&bound);
    process.tell_ready(&bound, &config);
    let parts = Parts {
        authenticator: dispatch,
        accounts: Arc::clone(accounts),
        redirect: Arc::clone(&process.redirect),
        bans,
        notifier: process.notifier.clone(),
    };
    let reloader = Arc::new(Reloader::new(source, State { config, stamp, listening }, parts));
    process.follow(&reloader, hangups, &shutdown).await;
    // First of all, so that load balancers send nobody any more.
    process.readiness.drain();
    let DrainConfig { notice, duration, .. } = reloader.config().await.drain;
    process.notifier.stopping(notice.get() + duration.get() + REST + CLOSE);
    tokio::time::sleep(notice.get()).await;
    closing.trigger();
    drain(accounts, arriving, duration.get()).await;
    over.trigger();
    Ok(())
}

/// Lets clients go over this time, those who are arriving included, and gives back what is held; whatever does not answer, it ends
/// [`REST`] later.
async fn drain(accounts: &Accounts, arriving: impl Future<Output = ()>, over: Duration) {
    let arriving = tokio::time::timeout(over.max(ARRIVING), arriving);
    let draining = async { tokio::join!(accounts.drain(over, DRAIN_REST), arriving) };
    if tokio::time::timeout(over + REST, draining).await.is_err() {
        tracing::warn!("the drain does not end: what is left is cut");
    }
}

/// Who may come in is brought up to date until shutdown is triggered, and so is who has.
async fn follow_users(authenticator: Arc<dyn Authenticator>, accounts: Arc<Accounts>, shutdown: ShutdownSignal) {
    let judging = judge_when_users_change(&*authenticator, &accounts);
    let _ = until(&shutdown, async { tokio::join!(authenticator.follow(), judging) }).await;
}

/// Judges everybody again who is connected, whenever who was accepted may be somebody else now.
async fn judge_when_users_change(authenticator: &dyn Authenticator, accounts: &Accounts) {
    /// Clients that are judged before others have their turn.
    const AT_ONCE: usize = 256;
    let mut changes = authenticator.changes();
    while changes.changed().await.is_ok() {
        let everybody: Vec<_> = accounts.all().iter().flat_map(|account| account.clients()).collect();
        for some in everybody.chunks(AT_ONCE) {
            some.iter().for_each(|control| connection::judge_again(authenticator, control));
            tokio::task::yield_now().await;
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

/// The account is asked how a condition stands, for as long as it is there.
fn ask(condition: &Condition, account: &Arc<Account>, look: Look) {
    let account = Arc::downgrade(account);
    condition.ask(move || match account.upgrade() {
        Some(account) => look(&account),
        None => Err("the process ends".to_owned()),
    });
}

/// Serves MQTT on whatever the listeners accept.
#[derive(Clone)]
pub(crate) struct Mqtt {
    door: Arc<Door>,
    accounts: Arc<Accounts>,
}

impl Serve for Mqtt {
    fn serve<S>(&self, stream: S, peer: Peer) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection::serve(stream, peer, Arc::clone(&self.door), Arc::clone(&self.accounts))
    }
}
