//! When consumers of groups end, told to JetStream.

use std::sync::Weak;
use std::time::Duration;

use mqtt_codec::TopicFilter;

use super::{Shares, share_log};
use crate::account::Account;
use crate::store::Unavailable;

/// How often consumers are looked at, at most and at least.
const EVERY_MIN: Duration = Duration::from_millis(250);
const EVERY_MAX: Duration = Duration::from_secs(30);

impl Shares {
    /// Has the consumers of groups that nobody holds end sooner, and those of others as late as is configured. JetStream ends
    /// them, when nobody asks for messages meanwhile: who comes back before is not too late, and a sidecar that dies over this
    /// leaves nothing undone.
    async fn tend(&self) -> Result<(), Unavailable> {
        if !self.claimants.are_complete() {
            return Ok(());
        }
        for log in self.logs.all().iter().filter(|log| !log.is_gone()) {
            let source = share_log(log);
            for listed in self.store.list(&source).await? {
                let Ok(filter) = TopicFilter::new(listed.filter.clone()) else { continue };
                let (group, shown) = (listed.group.clone(), filter.as_str().escape_debug().to_string());
                let is_held = self.claimants.is_held(&(group.clone(), filter));
                let held = self.times.inactive_threshold;
                let threshold = if is_held { held } else { held.min(self.times.unheld_threshold) };
                if self.store.end_after(&source, listed, threshold).await? {
                    let (stream, group) = (&*source.stream, group.escape_debug().to_string());
                    tracing::debug!(
                        stream,
                        group,
                        filter = shown,
                        is_held,
                        ?threshold,
                        "when a group ends has changed"
                    );
                }
            }
        }
        Ok(())
    }
}

/// Looks after the consumers of groups until the account is gone. One sidecar of an account does it.
pub(in crate::account) async fn tend_groups(account: Weak<Account>) {
    loop {
        let Some(strong) = account.upgrade() else { return };
        if let Err(error) = strong.shares.tend().await {
            tracing::debug!(%error, "the consumers of shared subscriptions are not looked after");
        }
        let every = (strong.shares.times.unheld_threshold / 4).clamp(EVERY_MIN, EVERY_MAX);
        drop(strong);
        tokio::time::sleep(every).await;
    }
}
