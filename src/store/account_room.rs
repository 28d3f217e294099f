//! What an account may store.

use serde::Deserialize;

/// What the account may store, of JetStream's answer about it. With limits for each number of replicas they are in `tiers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AccountRoom {
    storage: u64,
    reserved_storage: u64,
    limits: StorageLimit,
    tiers: std::collections::HashMap<String, AccountRoom>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StorageLimit {
    /// Bytes; below one: none.
    max_storage: i64,
}

impl AccountRoom {
    /// What is left for a new stream of so many replicas, bytes; `None` without a limit.
    pub(super) fn for_replicas(&self, replicas: u8) -> Option<u64> {
        if let Some(tier) = self.tiers.get(&format!("R{replicas}")) {
            return tier.left();
        }
        // Without tiers each replica counts.
        self.left().map(|bytes| bytes / u64::from(replicas.max(1)))
    }

    /// What there is room for in a stream of so many replicas that is there, bytes: what is reserved is for such streams.
    pub(crate) fn free_for_replicas(&self, replicas: u8) -> Option<u64> {
        if let Some(tier) = self.tiers.get(&format!("R{replicas}")) {
            return tier.above(tier.storage);
        }
        self.above(self.storage).map(|bytes| bytes / u64::from(replicas.max(1)))
    }

    fn left(&self) -> Option<u64> {
        self.above(self.storage.max(self.reserved_storage))
    }

    fn above(&self, used: u64) -> Option<u64> {
        let max = u64::try_from(self.limits.max_storage).ok().filter(|max| *max > 0)?;
        Some(max.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_an_account_is_read_with_and_without_tiers() {
        let plain = r#"{"storage":10,"reserved_storage":100,"limits":{"max_storage":1000}}"#;
        let plain: AccountRoom = serde_json::from_str(plain).unwrap();
        assert_eq!((plain.for_replicas(1), plain.for_replicas(3)), (Some(900), Some(300)));
        let tiers = r#"{"limits":{"max_storage":0},"tiers":{"R3":{"storage":70,"limits":{"max_storage":100}}}}"#;
        let tiers: AccountRoom = serde_json::from_str(tiers).unwrap();
        assert_eq!((tiers.for_replicas(3), tiers.for_replicas(1)), (Some(30), None));
        let unlimited: AccountRoom = serde_json::from_str(r#"{"limits":{"max_storage":-1}}"#).unwrap();
        assert_eq!(unlimited.for_replicas(1), None);
    }
}
