//! All listeners of a configuration are opened together, or none.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::accept::{Acceptor, Limits};
use super::tls::{Revocations, Tls};
use super::upgrade::Upgrade;
use super::{Dispatch, ListenerError, Listening, Protocol, Serve, socket, tls};
use crate::config::{Config, ListenerTlsConfig, WsListenerConfig};
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
    for tcp in &config.listeners.tcp {
        if let Some(bind) = &tcp.bind {
            let tls = tls_of(config, &tcp.name, Protocol::Mqtt, tcp.tls.as_ref(), (&metrics, revocations))?;
            let acceptor = Acceptor::bind(&tcp.name, Protocol::Mqtt, tls.is_some(), bind).await?;
            acceptors.push((acceptor, tls, None));
        }
    }
    for ws in &config.listeners.ws {
        if let Some(bind) = &ws.bind {
            let tls = tls_of(config, &ws.name, Protocol::Ws, ws.tls.as_ref(), (&metrics, revocations))?;
            let acceptor = Acceptor::bind(&ws.name, Protocol::Ws, tls.is_some(), bind).await?;
            acceptors.push((acceptor, tls, Some(upgrade_of(config, ws))));
        }
    }
    if acceptors.is_empty() {
        return Err(ListenerError::None);
    }
    let bound = acceptors.iter().map(|(acceptor, ..)| acceptor.bound.clone()).collect();
    for (acceptor, tls, upgrade) in acceptors {
        if let Some(tls) = &tls {
            let (tls, shutdown) = (Arc::clone(tls), shutdown.clone());
            connections.spawn(async move {
                tokio::select! {
                    () = shutdown.wait() => {}
                    () = tls.follow() => {}
                }
            });
        }
        let dispatch = Dispatch { serve: serve.clone(), tls, upgrade };
        let run = acceptor.run(dispatch, limits.clone(), metrics.clone(), connections.clone(), shutdown.clone());
        connections.spawn(run);
    }
    connections.close();
    Ok(Listening { bound, connections })
}

/// Looks whether everything that is known without opening a listener is right: what is in the files of TLS.
///
/// # Errors
/// One of them cannot be used.
pub fn check(config: &Config) -> Result<(), ListenerError> {
    let tcp = config.listeners.tcp.iter().map(|tcp| (&tcp.name, Protocol::Mqtt, &tcp.tls));
    let mut all = tcp.chain(config.listeners.ws.iter().map(|ws| (&ws.name, Protocol::Ws, &ws.tls)));
    all.try_for_each(|(name, protocol, tls)| {
        let Some(tls) = tls else { return Ok(()) };
        tls::check(tls, protocol).map_err(|source| ListenerError::Tls { name: name.clone(), source })
    })
}

fn tls_of(
    config: &Config,
    name: &str,
    protocol: Protocol,
    tls: Option<&ListenerTlsConfig>,
    (metrics, revocations): (&Arc<Metrics>, &Arc<Revocations>),
) -> Result<Option<Arc<Tls>>, ListenerError> {
    let Some(tls) = tls else { return Ok(None) };
    let within = config.mqtt.connect_timeout.get();
    let tls = Tls::new((name, protocol), tls, within, Arc::clone(metrics), Arc::clone(revocations));
    tls.map(|tls| Some(Arc::new(tls))).map_err(|source| ListenerError::Tls { name: name.to_owned(), source })
}

fn upgrade_of(config: &Config, ws: &WsListenerConfig) -> Arc<Upgrade> {
    Arc::new(Upgrade { paths: ws.paths.clone(), strict: config.mqtt.strict, within: config.mqtt.connect_timeout.get() })
}
