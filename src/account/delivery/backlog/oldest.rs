//! Queues that discard the oldest message when they are full: JetStream makes the room by itself, so what went is found
//! by looking how long the backlogs are before a pass and behind it.

use std::collections::HashMap;

use super::plan::BacklogPlan;
use crate::account::Account;
use crate::metrics::DropReason;
use crate::store::{Lengths, Unavailable};

/// Counts what gave way to the copies of a pass, in queues that discard the oldest.
pub(super) async fn count(
    account: &Account,
    owed: &BacklogPlan,
    before: &Lengths,
    copies: &HashMap<u64, u64>,
) -> Result<(), Unavailable> {
    let Some(now) = account.store.backlog().lengths().await? else { return Ok(()) };
    let gave_way = |(recipient, stored): (&u64, &u64)| {
        let client_id = owed.client_id(u32::try_from(*recipient).ok()?);
        Some(now.gave_way(client_id, before.clients.get(client_id).copied().unwrap_or_default(), *stored))
    };
    account.metrics.dropped(DropReason::QueueFull, copies.iter().filter_map(gave_way).sum());
    Ok(())
}
