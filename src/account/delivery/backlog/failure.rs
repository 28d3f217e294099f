//! Why a pass ends early.

use crate::store::{PutError, Unavailable, WriteError};

/// Why a pass did not end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("a copy was not stored: {0}")]
    Put(#[from] PutError),
    #[error("the position was not saved: {0}")]
    Write(#[from] WriteError),
}
