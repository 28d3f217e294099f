//! What a connection that ends leaves, and how far its end is.

use crate::store::ProgressRecord;

/// How far the end of a connection is.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// What it leaves to the one that takes its session over; `None` until it is known.
    pub(super) handed_over: Option<Option<ProgressRecord>>,
    /// That has been asked for.
    pub(super) is_collected: bool,
    /// Everything that it published has its answer.
    pub(super) is_settled: bool,
    /// It is over.
    pub(super) has_ended: bool,
}
