//! Wills, and those that a record has no room for: each under a key of its own, with a number that no other one has.
//!
//! **Invariant:** a will is there before a record names it, and as long as one does that is the last one, or that may be put back
//! because the CONNECT behind it is given up.

use serde::{Deserialize, Serialize};

use super::version::{RECORD_VERSION, Versioned};
use super::will::{StoredWill, WillNumber};
use super::{Sessions, Shared, Stored, read, written};
use crate::store::bucket::{Fence, Last, Value, Write};
use crate::store::error::{Unavailable, WriteError};

/// How long the marker of a will that is removed stays, seconds. One that comes back, since nats-server was killed before it had
/// written down that it is gone, is found by a sweep.
const GONE_TTL_S: u32 = 60;

/// A will beside its record.
#[derive(Debug, Deserialize)]
struct WillRecord {
    version: u32,
    will: StoredWill,
}

/// The same, as it is written.
#[derive(Serialize)]
struct WillWritten<'a> {
    version: u32,
    will: &'a StoredWill,
}

impl Versioned for WillRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Sessions {
    /// Stores a will under a number that no other one has, before the record that names it. Once more does nothing.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn put_will(&self, client_id: &str, number: WillNumber, will: &StoredWill) -> Result<(), WriteError> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.session_will(client_id, number.0).map_err(|_| WriteError::TooLarge)?;
        let value = WillWritten { version: RECORD_VERSION, will };
        let (value, fence) = (Value::Put(written(&value)?), Fence::Own(0));
        match bucket.write(&Write { subject: &subject, value, fence, ttl_s: None }).await {
            // Nobody but us writes there.
            Ok(_) | Err(WriteError::Fenced) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A will that a record names. That there is none is said only by who knows as much as we do.
    ///
    /// # Errors
    /// When JetStream does not answer, or a newer version has written it.
    pub async fn load_will(&self, client_id: &str, number: WillNumber) -> Result<Option<StoredWill>, Unavailable> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.session_will(client_id, number.0).map_err(Unavailable::new)?;
        let Some(stored) = bucket.api.next_message(&bucket.stream, 1, &subject).await? else { return Ok(None) };
        let last = Last::of_stored(stored)?;
        match last.value().map(|value| read::<WillRecord>(client_id, value)) {
            Some(Stored::Known(record)) => Ok(Some(record.will)),
            Some(Stored::Newer(_)) => Err(Unavailable::new("its will was written by a newer version")),
            Some(Stored::Unreadable) | None => Ok(None),
        }
    }

    /// Removes wills that no record names any more: by markers that are soon gone themselves, since a purge of one subject holds
    /// up everything else of the stream.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn remove_wills(&self, client_id: &str, numbers: &[WillNumber]) -> Result<(), Unavailable> {
        let Shared { names, bucket, .. } = &*self.shared;
        for number in numbers {
            let subject = names.session_will(client_id, number.0).map_err(Unavailable::new)?;
            let (value, fence) = (Value::Deleted, Fence::None);
            let write = Write { subject: &subject, value, fence, ttl_s: Some(GONE_TTL_S) };
            bucket.write(&write).await.map_err(Unavailable::new)?;
        }
        Ok(())
    }
}
