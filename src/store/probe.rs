//! A look at an account, without making anything in it.

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

/// Connects to an account, and looks whether it is the one with this name and has JetStream. Returns the size of the largest message that
/// the server takes there, headers included, in bytes.
///
/// # Errors
/// It cannot be used: see [`OpenError`].
pub async fn probe(options: StoreOptions, account: &str) -> Result<usize, OpenError> {
    let StoreOptions { nats, assets, connect_timeout, .. } = options;
    let connector = Connector::new(nats, assets.names.inbox_prefix())?;
    let link = connector.link(role("check", false, QUEUE, READER_QUEUE), connect_timeout).await?;
    let (max_payload, tasks) = (link.client.max_payload(), [connector.tasks.clone(), connector.links.clone()]);
    let api = Api { link, horizons: Horizons::default(), rooms: Rooms::new(Vec::new()) };
    let needs = Needs::new(&assets.names, connector.inbox_prefix(), Vec::new());
    let checked = Assets::check(api.clone(), needs, None).await;
    let named = home::is_in(&api, account).await;
    for tasks in tasks {
        tasks.close().await;
    }
    named.and(checked.map(|_| max_payload))
}
