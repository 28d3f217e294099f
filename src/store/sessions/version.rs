//! In which version something is stored, and what newer ones have added to it.

use std::collections::BTreeMap;

/// Version of what is stored of a session. A new field that older versions may overlook is not a new version.
///
/// 1 had all subscriptions in the record. It is read, and never written: its owner's next write makes it 2.
pub const RECORD_VERSION: u32 = 2;

/// Fields that are not known here, as they were read.
pub type Rest = BTreeMap<String, serde_json::Value>;

/// What is stored with a version.
pub(super) trait Versioned {
    /// [`RECORD_VERSION`] of whoever wrote it.
    fn version(&self) -> u32;
}
