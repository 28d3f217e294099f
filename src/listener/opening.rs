//! All listeners of a configuration are opened together, or none; and so they change with it.

use std::fmt;
use std::sync::{Arc, Weak};

use proto_map::MountPoint;
use tokio_util::task::TaskTracker;

use super::accept::Acceptor;
use super::admission::Gate;
use super::listening::ListeningSocket;
use super::proxied::Proxied;
use super::reception::{Reception, Shared};
use super::tls::{Revocations, Tls};
use super::upgrade::Upgrade;
use super::way::Way;
use super::{Bound, Dispatch, Entrance, ListenerError, Serve, socket, tls, unix};
use crate::bans::Bans;
use crate::config::{Config, ListenerChange, ListenerConfig, ListenerKind};
use crate::metrics::Metrics;
use crate::shutdown::ShutdownSignal;

/// What all listeners have in common.
#[derive(Clone)]
struct Common<H> {
    shared: Shared,
    metrics: Arc<Metrics>,
    revocations: Arc<Revocations>,
    bans: Arc<Bans>,
    serve: H,
    shutdown: ShutdownSignal,
}

/// The listeners that run, and the connections they took.
pub struct Listening<H> {
    common: Common<H>,
    /// At first in the order of the configuration, TCP first.
    running: Vec<Running>,
    connections: TaskTracker,
}

impl<H> fmt::Debug for Listening<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.running.iter().map(|running| &running.bound)).finish()
    }
}

/// A listener that runs.
#[derive(Clone)]
struct Running {
    config: ListenerConfig,
    bound: Bound,
    /// What it counts, which goes on when the listener becomes another one.
    gate: Arc<Gate>,
    /// It is closed when nobody accepts there any more.
    socket: Weak<ListeningSocket>,
    /// It accepts nothing more.
    stop: ShutdownSignal,
}

impl<H> Listening<H> {
    /// Those that run.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.running.iter().map(|running| running.bound.clone()).collect()
    }

    /// Resolves when shutdown was triggered, nothing is accepted any more and every connection has ended. Ending them
    /// is up to [`Serve`].
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<H> {
        let connections = self.connections.clone();
        async move { connections.wait().await }
    }
}

/// A listener that is bound and does not run yet.
struct Opened<H> {
    config: ListenerConfig,
    acceptor: Acceptor,
    dispatch: Dispatch<H>,
}

/// Changes that cannot fail any more.
pub struct Prepared<H> {
    opened: Vec<Opened<H>>,
    /// Those whose listeners stop: in place of some of them others are opened.
    stopped: Vec<Running>,
    /// Those of them whose clients stay.
    kept: usize,
}

/// Opens every configured listener and serves what connects, until shutdown. Client certificates that are revoked meanwhile are
/// put into `revocations`; whoever `bans` has does not get in.
///
/// # Errors
/// An address cannot be bound, or a file of TLS cannot be used; those bound before are closed again.
pub(crate) async fn spawn<H: Serve>(
    config: &Config,
    metrics: Arc<Metrics>,
    (revocations, bans): (&Arc<Revocations>, &Arc<Bans>),
    serve: H,
    shutdown: ShutdownSignal,
) -> Result<Listening<H>, ListenerError> {
    let shared = Shared::new(config, socket::raise_open_files_limit());
    let (revocations, bans) = (Arc::clone(revocations), Arc::clone(bans));
    let common = Common { shared, metrics, revocations, bans, serve, shutdown };
    let mut opened = Vec::new();
    for listener in config.listeners.all().filter(|listener| listener.place().is_some()) {
        opened.push(common.open(config, listener, None).await?);
    }
    if opened.is_empty() {
        return Err(ListenerError::None);
    }
    let mut listening = Listening { common, running: Vec::new(), connections: TaskTracker::new() };
    opened.into_iter().for_each(|opened| listening.run(opened));
    listening.connections.close();
    Ok(listening)
}

impl<H: Serve> Common<H> {
    /// Opens a listener, on the socket of another one where there is one at its address.
    async fn open(
        &self,
        config: &Config,
        listener: &ListenerConfig,
        before: Option<&Running>,
    ) -> Result<Opened<H>, ListenerError> {
        let mount = mount_of(config, listener)?;
        let mut entrance = Entrance { bans: Arc::clone(&self.bans), ..Entrance::new(config, listener, mount) };
        if let Some(before) = before {
            // Its clients are let go when this one goes, and its limits are theirs.
            entrance.closing = before.bound.entrance.closing.clone();
            entrance.limits = Arc::clone(&before.bound.entrance.limits);
        }
        let entrance = Arc::new(entrance);
        let gate = match before {
            Some(before) => Arc::clone(&before.gate),
            None => Arc::new(self.shared.gate(&entrance)),
        };
        let tls = tls_of(config, listener, &entrance, (&self.metrics, &self.revocations))?;
        let socket = match before.and_then(|before| before.socket.upgrade()) {
            Some(socket) => socket,
            None => Arc::new(ListeningSocket::open(listener).await?.ok_or(ListenerError::None)?),
        };
        let way = Way {
            reception: Reception::new(Arc::clone(&entrance), gate, self.shared.clone(), Arc::clone(&self.metrics)),
            proxied: proxied_of(config, listener, &self.metrics),
            tls,
            upgrade: upgrade_of(config, listener, &entrance, &self.metrics),
        };
        let acceptor = Acceptor { bound: Bound { entrance, to: socket.bound_to() }, socket };
        let dispatch = Dispatch { serve: self.serve.clone(), way: Arc::new(way) };
        Ok(Opened { config: listener.clone(), acceptor, dispatch })
    }
}

impl<H: Serve> Listening<H> {
    /// Gets ready for what a plan does, by the configuration that counts then. Nothing is different yet.
    ///
    /// # Errors
    /// An address cannot be bound, or a file of TLS cannot be used, or nothing would listen.
    pub async fn prepare(&self, config: &Config, changes: &[ListenerChange]) -> Result<Prepared<H>, ListenerError> {
        let find = |wanted: &ListenerConfig| self.running.iter().find(|running| running.config == *wanted).cloned();
        let mut prepared = Prepared { opened: Vec::new(), stopped: Vec::new(), kept: 0 };
        // Those that go on in another way come first.
        for change in changes {
            if let ListenerChange::Change(change) = change
                && let Some(before) = find(&change.0)
            {
                prepared.opened.push(self.common.open(config, &change.1, Some(&before)).await?);
                prepared.stopped.push(before);
                prepared.kept += 1;
            }
        }
        for change in changes {
            match change {
                ListenerChange::Change(_) => {}
                ListenerChange::Open(listener) => prepared.opened.push(self.common.open(config, listener, None).await?),
                ListenerChange::Close(listener) => prepared.stopped.extend(find(listener)),
            }
        }
        if self.running.len() + prepared.opened.len() == prepared.stopped.len() {
            return Err(ListenerError::None);
        }
        Ok(prepared)
    }

    /// Does it. Whether clients of listeners are to be let go, as their entrances say.
    pub fn take(&mut self, prepared: Prepared<H>) -> bool {
        let Prepared { opened, stopped, kept } = prepared;
        let is_closing = stopped.len() > kept;
        // Those that take their place accept before they stop.
        opened.into_iter().for_each(|opened| self.run(opened));
        for (index, stopped) in stopped.into_iter().enumerate() {
            self.running.retain(|running| !Arc::ptr_eq(&running.bound.entrance, &stopped.bound.entrance));
            stopped.stop.trigger();
            if index >= kept {
                stopped.bound.entrance.closing.trigger();
            }
        }
        is_closing
    }

    /// The limits of a configuration count from now on, for whoever comes. Whether those of a listener are others than before: who is
    /// connected is to look again.
    pub fn limit(&self, config: &Config) -> bool {
        self.common.shared.limit(config);
        let mut is_other = false;
        for Running { config: listener, bound, .. } in &self.running {
            is_other |= bound.entrance.limits.set(listener.limits.over(&config.limits));
        }
        is_other
    }

    fn run(&mut self, opened: Opened<H>) {
        let Opened { config, acceptor, dispatch } = opened;
        let stop = self.common.shutdown.child();
        if acceptor.bound.entrance.mount.is_some() {
            self.common.bans.expect_mounts();
        }
        self.running.push(Running {
            config,
            bound: acceptor.bound.clone(),
            gate: dispatch.way.reception.gate(),
            socket: Arc::downgrade(&acceptor.socket),
            stop: stop.clone(),
        });
        if let Some(tls) = &dispatch.way.tls {
            let (published, tls, stop) = (tls.publish(), Arc::clone(tls), stop.clone());
            self.connections.spawn(async move {
                tokio::select! {
                    () = stop.wait() => {}
                    () = tls.follow(published) => {}
                }
            });
        }
        let connections = self.connections.clone();
        self.connections.spawn(acceptor.run(dispatch, connections, stop));
    }
}

/// Looks whether everything that is known without opening a listener is right: what is in the files of TLS, and whether groups
/// of sockets are there.
///
/// # Errors
/// One of them cannot be used.
pub fn check(config: &Config) -> Result<(), ListenerError> {
    config.listeners.all().try_for_each(|listener| {
        if let Some(socket) = listener.unix_socket() {
            let checked = unix::check(&socket);
            checked.map_err(|source| ListenerError::Socket {
                name: listener.name.clone(),
                path: socket.path,
                source,
            })?;
        }
        let Some(tls) = &listener.tls else { return Ok(()) };
        let checked = tls::check(tls, listener.kind.into());
        checked.map_err(|source| ListenerError::Tls { name: listener.name.clone(), source })
    })
}

fn mount_of(config: &Config, listener: &ListenerConfig) -> Result<Option<Arc<MountPoint>>, ListenerError> {
    let mount = listener.mount(&config.jetstream.subject_prefix);
    mount
        .map(|mount| mount.map(Arc::new))
        .map_err(|source| ListenerError::Mount { name: listener.name.clone(), source })
}

fn tls_of(
    config: &Config,
    listener: &ListenerConfig,
    entrance: &Arc<Entrance>,
    (metrics, revocations): (&Arc<Metrics>, &Arc<Revocations>),
) -> Result<Option<Arc<Tls>>, ListenerError> {
    let Some(tls) = &listener.tls else { return Ok(None) };
    let within = config.mqtt.connect_timeout.get();
    let tls = Tls::new(Arc::clone(entrance), tls, within, Arc::clone(metrics), Arc::clone(revocations));
    tls.map(|tls| Some(Arc::new(tls))).map_err(|source| ListenerError::Tls { name: listener.name.clone(), source })
}

fn proxied_of(config: &Config, listener: &ListenerConfig, metrics: &Arc<Metrics>) -> Option<Proxied> {
    let within = config.mqtt.connect_timeout.get();
    listener.proxy_protocol.as_ref().map(|proxied| Proxied::new(proxied, within, Arc::clone(metrics)))
}

fn upgrade_of(
    config: &Config,
    listener: &ListenerConfig,
    entrance: &Entrance,
    metrics: &Arc<Metrics>,
) -> Option<Upgrade> {
    (listener.kind == ListenerKind::Ws).then(|| Upgrade {
        paths: listener.paths.clone(),
        allowed_origins: listener.allowed_origins.clone(),
        trusted_forwarders: listener.trusted_forwarders.clone(),
        strict: entrance.strict,
        within: config.mqtt.connect_timeout.get(),
        metrics: Arc::clone(metrics),
    })
}
