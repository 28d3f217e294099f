//! Which versions of records the sidecars of the account write.

use std::sync::Weak;
use std::time::Duration;

use crate::account::Account;
use crate::store::{NodeInfo, RECORD_VERSION};

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Says once, at a start, that sidecars of another version are there: neither can read all that the other one writes.
pub(in crate::account) async fn say_other_versions(account: Weak<Account>) {
    let nodes = loop {
        let Some(strong) = account.upgrade() else { return };
        let alive = strong.store.nodes().alive().await;
        drop(strong);
        match alive {
            Ok(nodes) => break nodes,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    if let Some((nodes, versions)) = others(&nodes) {
        let ours = RECORD_VERSION;
        tracing::error!(
            nodes,
            versions,
            ours,
            "sidecars of another version serve this account; versions side by side are not supported before 1.0: stop them, \
             their clients lose no session"
        );
    }
}

/// The names and the versions of those that write other records than we do.
fn others(nodes: &[NodeInfo]) -> Option<(String, String)> {
    let others = || nodes.iter().filter(|node| node.version != RECORD_VERSION);
    let listed = |texts: Vec<String>| texts.join(", ");
    others().next()?;
    Some((
        listed(others().map(|node| node.node.clone()).collect()),
        listed(others().map(|node| node.version.to_string()).collect()),
    ))
}
