//! Which groups somebody holds: a session of the account that is a member, as its record says, whether it is connected or not.
//! The consumer of one that nobody holds ends sooner; a group that somebody holds counts among those that an account can have.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use mqtt_codec::TopicFilter;

use super::group::GroupKey;
use super::{Shares, feed};
use crate::broker::Broker;
use crate::store::Unavailable;

/// How often consumers are looked at, at most and at least.
const EVERY_MIN: Duration = Duration::from_millis(250);
const EVERY_MAX: Duration = Duration::from_secs(30);

/// By client id, what each holds; and how many hold each.
#[derive(Default)]
pub(super) struct Holders {
    groups: HashMap<String, Vec<GroupKey>>,
    counts: HashMap<GroupKey, usize>,
}

impl Holders {
    /// A session holds these.
    pub(super) fn set(&mut self, client_id: &str, groups: Vec<GroupKey>) {
        for key in &groups {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
        let old = if groups.is_empty() {
            self.groups.remove(client_id)
        } else {
            self.groups.insert(client_id.to_owned(), groups)
        };
        for key in old.unwrap_or_default() {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }

    /// Whether anybody holds a group.
    pub(super) fn is_held(&self, key: &GroupKey) -> bool {
        self.counts.contains_key(key)
    }

    /// How many groups are held.
    pub(super) fn count(&self) -> usize {
        self.counts.len()
    }
}

impl Shares {
    /// Has the consumers of groups that nobody holds end sooner, and those of others as late as is configured. JetStream ends
    /// them, when nobody asks for messages meanwhile: who comes back before is not too late, and a sidecar that dies over this
    /// leaves nothing undone.
    async fn tend(&self) -> Result<(), Unavailable> {
        if !self.claimants.are_complete() {
            return Ok(());
        }
        for log in self.logs.all().iter().filter(|log| !log.is_gone()) {
            let source = feed::share_log(log);
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

/// Looks after the consumers of groups until the broker is gone. One sidecar of an account does it.
pub(in crate::broker) async fn tend_groups(broker: Weak<Broker>) {
    loop {
        let Some(strong) = broker.upgrade() else { return };
        if let Err(error) = strong.shares.tend().await {
            tracing::debug!(%error, "the consumers of shared subscriptions are not looked after");
        }
        let every = (strong.shares.times.unheld_threshold / 4).clamp(EVERY_MIN, EVERY_MAX);
        drop(strong);
        tokio::time::sleep(every).await;
    }
}
