//! `nats-mqtt run`: logging, signals, the embedded nats-server around the app.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::failure::{FAILED, Failure};
use crate::{
    app::{self, Outside},
    config::{Config, ConfigSource},
    embedded::{Embedded, Launcher},
    logging,
    shutdown::ShutdownSignal,
    stamp::Stamp,
    systemd::Notifier,
};

/// How long the app may drain when its nats-server is gone.
const DRAIN_WITHOUT_NATS: Duration = Duration::from_secs(5);

pub(super) async fn run(source: ConfigSource) -> Result<(), Failure> {
    // First of all: from here on it ends nothing.
    let hangups = signal(SignalKind::hangup()).map_err(|error| Failure::new(FAILED, error))?;
    let stamp = Stamp::of_some(source.file());
    let mut config = source.load()?;
    logging::init(&config.log);
    info!(version = env!("CARGO_PKG_VERSION"), "nats-mqtt starts");
    let shutdown = ShutdownSignal::new();
    shutdown.trigger_on_signals();
    let mut outside = Outside { source, stamp, hangups, notifier: Notifier::from_environment() };
    if !config.embedded.enabled {
        return Box::pin(app::run(config, shutdown, outside)).await.map_err(Failure::from);
    }
    let start = Embedded::start(&config.embedded, Launcher::default());
    let embedded = tokio::select! {
        started = start => started.map_err(|error| Failure::new(FAILED, error))?,
        () = shutdown.wait() => return Ok(()),
    };
    config.nats.urls = vec![embedded.url()];
    outside.source = outside.source.at(config.nats.urls.clone());
    let result = with_server(config, shutdown, outside, &embedded).await;
    embedded.stop().await;
    result
}

/// Runs the app while its nats-server runs.
async fn with_server(
    config: Config,
    shutdown: ShutdownSignal,
    outside: Outside,
    embedded: &Embedded,
) -> Result<(), Failure> {
    let mut app = Box::pin(app::run(config, shutdown.clone(), outside));
    let status = tokio::select! {
        result = &mut app => return result.map_err(Failure::from),
        status = embedded.ended() => status,
    };
    let how = status.map_or_else(|| "nobody knows how".to_owned(), |status| status.to_string());
    error!("nats-server ended ({how}): ending too");
    shutdown.trigger();
    if tokio::time::timeout(DRAIN_WITHOUT_NATS, app).await.is_err() {
        error!("the drain does not end without nats-server");
    }
    Err(Failure::new(FAILED, format!("the embedded nats-server ended ({how})")))
}
