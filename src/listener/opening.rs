//! All listeners of a configuration are opened together, or none.

use std::sync::Arc;

use proto_map::MountPoint;
use tokio_util::task::TaskTracker;

use super::accept::Acceptor;
use super::listening::ListeningSocket;
use super::proxied::Proxied;
use super::reception::{Limits, Reception};
use super::tls::{Revocations, Tls};
use super::upgrade::Upgrade;
use super::way::Way;
use super::{Bound, Dispatch, Entrance, ListenerError, Listening, Serve, socket, tls, unix};
use crate::config::{Config, ListenerConfig, ListenerKind};
use crate::metrics::Metrics;
use crate::shutdown::ShutdownSignal;

/// Opens every configured listener and serves what connects, until shutdown. Client certificates that are revoked meanwhile are
/// put into `revocations`.
///
/// # Errors
/// An address cannot be bound, or a file of TLS cannot be used; those bound before are closed again.
pub async fn spawn<H: Serve>(
    config: &Config,
    metrics: Arc<Metrics>,
    revocations: &Arc<Revocations>,
    serve: H,
    shutdown: ShutdownSignal,
) -> Result<Listening, ListenerError> {
    let limits = Limits::new(&config.listeners, socket::raise_open_files_limit());
    let connections = TaskTracker::new();
    let mut acceptors = Vec::new();
    for listener in config.listeners.all() {
        let mount = mount_of(config, listener)?;
        let entrance = Arc::new(Entrance::new(config, listener, mount));
        let tls = tls_of(config, listener, &entrance, (&metrics, revocations))?;
        let Some(socket) = ListeningSocket::open(listener).await? else { continue };
        let to = socket.bound_to();
        let reception = Reception::new(Arc::clone(&entrance), limits.clone(), Arc::clone(&metrics));
        let way = Way {
            reception,
            proxied: proxied_of(config, listener, &metrics),
            tls,
            upgrade: upgrade_of(config, listener, &entrance, &metrics),
        };
        acceptors.push((Acceptor { bound: Bound { entrance, to }, socket }, Arc::new(way)));
    }
    if acceptors.is_empty() {
        return Err(ListenerError::None);
    }
    let bound = acceptors.iter().map(|(acceptor, _)| acceptor.bound.clone()).collect();
    for (acceptor, way) in acceptors {
        if let Some(tls) = &way.tls {
            let (tls, shutdown) = (Arc::clone(tls), shutdown.clone());
            connections.spawn(async move {
                tokio::select! {
                    () = shutdown.wait() => {}
                    () = tls.follow() => {}
                }
            });
        }
        let dispatch = Dispatch { serve: serve.clone(), way };
        connections.spawn(acceptor.run(dispatch, connections.clone(), shutdown.clone()));
    }
    connections.close();
    Ok(Listening { bound, connections })
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
