//! All listeners of a configuration are opened together, or none.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::accept::{Acceptor, Limits};
use super::upgrade::Upgrade;
use super::{Dispatch, ListenerError, Listening, Protocol, Serve, socket};
use crate::config::{Config, WsListenerConfig};
use crate::metrics::Metrics;
use crate::shutdown::ShutdownSignal;

/// Opens every configured listener and serves what connects, until shutdown.
///
/// # Errors
/// An address cannot be bound; those bound before are closed again.
pub async fn spawn<H: Serve>(
    config: &Config,
    metrics: Arc<Metrics>,
    serve: H,
    shutdown: ShutdownSignal,
) -> Result<Listening, ListenerError> {
    let limits = Limits::new(&config.listeners, socket::raise_open_files_limit());
    let connections = TaskTracker::new();
    let mut acceptors = Vec::new();
    for tcp in &config.listeners.tcp {
        if let Some(bind) = &tcp.bind {
            acceptors.push((Acceptor::bind(&tcp.name, Protocol::Mqtt, bind).await?, None));
        }
    }
    for ws in &config.listeners.ws {
        if let Some(bind) = &ws.bind {
            acceptors.push((Acceptor::bind(&ws.name, Protocol::Ws, bind).await?, Some(upgrade_of(config, ws))));
        }
    }
    if acceptors.is_empty() {
        return Err(ListenerError::None);
    }
    let bound = acceptors.iter().map(|(acceptor, _)| acceptor.bound.clone()).collect();
    for (acceptor, upgrade) in acceptors {
        let dispatch = Dispatch { serve: serve.clone(), upgrade };
        let run = acceptor.run(dispatch, limits.clone(), metrics.clone(), connections.clone(), shutdown.clone());
        connections.spawn(run);
    }
    connections.close();
    Ok(Listening { bound, connections })
}

fn upgrade_of(config: &Config, ws: &WsListenerConfig) -> Arc<Upgrade> {
    Arc::new(Upgrade {
        paths: ws.paths.clone(),
        strict: config.mqtt.strict,
        timeout: config.mqtt.connect_timeout.get(),
    })
}
