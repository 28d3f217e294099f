//! A look at an account, without making anything in it.

use std::fmt;

use super::api::Api;
use super::assets::Assets;
use super::connection::Connector;
use super::error::OpenError;
use super::home;
use super::horizon::Horizons;
use super::needs::Needs;
use super::options::StoreOptions;
use super::rooms::Rooms;
use super::{QUEUE, READER_QUEUE, role};

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The largest message that the server takes there, headers included, in bytes.
    pub max_payload: usize,
    /// It has JetStream.
    pub has_jetstream: bool,
}

/// As a part of a sentence.
impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_payload, has_jetstream } = self;
        let what = if *has_jetstream { "JetStream" } else { "QoS 0 (no JetStream)" };
        write!(f, "{what}, messages up to {max_payload} bytes")
    }
}

/// Connects to an account of devices, and looks whether it is the one with this name and has JetStream.
///
/// # Errors
/// It cannot be used: see [`OpenError`].
pub async fn probe(options: StoreOptions, account: &str) -> Result<Probed, OpenError> {
    let StoreOptions { nats, assets, connect_timeout, .. } = options;
    let connector = Connector::new(nats, assets.names.inbox_prefix())?;
    let link = connector.link(role("check", false, QUEUE, READER_QUEUE), connect_timeout).await?;
    let (max_payload, tasks) = (link.client.max_payload(), [connector.tasks.clone(), connector.links.clone()]);
    let (horizons, rooms) = (Horizons::default(), Rooms::new(Vec::new()));
    let api = Api { link, horizons, rooms, is_absent: false };
    let needs = Needs::new(&assets.names, connector.inbox_prefix(), Vec::new());
    let checked = Assets::check(api.clone(), needs, None).await;
    let named = home::is_in(&api, account).await;
    for tasks in tasks {
        tasks.close().await;
    }
    named?;
    match checked {
        Err(error) if !error.says_no_jetstream() => Err(error),
        checked => Ok(Probed { max_payload, has_jetstream: checked.is_ok() }),
    }
}
