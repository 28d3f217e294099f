//! What is stored of sessions, as whoever owns one sees it: the first of three seams, see ADR 18.

use std::collections::BTreeMap;
use std::future::Future;

use mqtt_ownership::{Revision, Trace};

use super::error::{Unavailable, WriteError};
use super::sessions::{Arrival, Beside, Loaded, PageRecord, ProgressRecord, SessionRecord, StoredWill, WillNumber};

/// The sessions of an account: for each client a record, its progress, and pages and wills beside that.
///
/// # The promise
///
/// **Who may write.** A record is written by whoever knows the sequence of what is there; of many who know it, one does. Progress
/// and pages are written, and a session is ended, only while its record has the sequence that the writer knows. So whoever has
/// written the record is the owner, and what an owner before that writes afterwards is `Fenced`, and changes nothing.
///
/// **Success.** What was written is stored, and whoever loads behind that sees it, or what was written later. Sequences
/// of a client's record only grow, over its end and its end of life as well.
///
/// **[`WriteError::Fenced`].** Somebody else has written the record since. Of a record it says more: every attempt of this
/// write was refused, so it has never been there. Of progress, a page and an end it may also mean that an attempt arrived whose
/// answer was lost, and that somebody has written behind it.
///
/// **[`WriteError::Unavailable`].** Nobody answered in time. It may be written, it may be yet, a while later, and what was
/// written may have been replaced since: load before going on. A write of one's own that did arrive is never said to be
/// somebody else's. [`Unavailable`] of a load says nothing at all.
///
/// **A late repeat.** An attempt that nobody answered may arrive after later writes. It is compared with the record as it is
/// then: under the same fence it may undo a later progress or page of the same owner, which is what [`Arrival::Again`] warns
/// of, and a record written anew, whose sequence is the next fence, shuts it out. It never undoes a record.
///
/// **Order.** Writes of one client have to wait for each other. Nothing is promised between clients.
///
/// **Time to live.** A record, or progress, with a lifetime is gone after it, by the store's clock and not before. In the place
/// of the record is a marker then, with a sequence of its own, so that the fence of its owner holds no more. What is beside it
/// stays until the next session begins or somebody cleans up. `None` and [`NEVER`](super::NEVER) are no lifetime.
pub trait SessionStore: Send + Sync {
    /// The session of a client.
    fn load(&self, client_id: &str) -> impl Future<Output = Result<Loaded, Unavailable>> + Send;

    /// The progress of a client, perhaps that of a session before this one.
    fn load_progress(
        &self,
        client_id: &str,
    ) -> impl Future<Output = Result<Option<ProgressRecord>, Unavailable>> + Send;

    /// What stands under the key of a client's progress: by it a record is known that is not the last one that there was.
    fn trace(&self, client_id: &str) -> impl Future<Output = Result<Option<(Revision, Trace)>, Unavailable>> + Send;

    /// Writes a record in the place of what has the sequence `expected`; 0: nothing was ever there. Returns the sequence that it
    /// has.
    fn put_record(
        &self,
        record: &SessionRecord,
        expected: u64,
        ttl_s: Option<u32>,
    ) -> impl Future<Output = Result<u64, WriteError>> + Send;

    /// Writes the progress of a client while its record has the sequence `fence`.
    fn put_progress(
        &self,
        client_id: &str,
        progress: &ProgressRecord,
        fence: u64,
        ttl_s: Option<u32>,
    ) -> impl Future<Output = Result<Arrival, WriteError>> + Send;

    /// Writes a page of the session of a client that began in `first_epoch`, while its record has the sequence `fence`.
    fn put_page(
        &self,
        client_id: &str,
        first_epoch: u64,
        number: u32,
        page: &PageRecord,
        fence: u64,
    ) -> impl Future<Output = Result<Arrival, WriteError>> + Send;

    /// The pages of the session of a client that began in `first_epoch`, by their numbers, up to the `count` that its
    /// record names, as they were when that was written with this sequence, or later. More than a session can have are not
    /// read: [`Unavailable`].
    fn load_pages(
        &self,
        client_id: &str,
        first_epoch: u64,
        count: u32,
        sequence: u64,
    ) -> impl Future<Output = Result<BTreeMap<u32, PageRecord>, Unavailable>> + Send;

    /// Removes the pages of a session of a client that is over for good.
    fn remove_pages(&self, client_id: &str, first_epoch: u64) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Stores a will under a number that no other one has, before the record that names it. Once more does nothing, and no fence
    /// guards it: nobody reads it before a record names it.
    fn put_will(
        &self,
        client_id: &str,
        number: WillNumber,
        will: &StoredWill,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// A will that a record names; `None` when it is gone for certain.
    fn load_will(
        &self,
        client_id: &str,
        number: WillNumber,
    ) -> impl Future<Output = Result<Option<StoredWill>, Unavailable>> + Send;

    /// Removes wills that no record names any more.
    fn remove_wills(
        &self,
        client_id: &str,
        numbers: &[WillNumber],
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Ends a session whose record has the sequence `fence`, with everything that belongs to it but its wills. It is over when
    /// this returns `Ok`, its progress leaves the trace [`Trace::Over`], and the next record is written in the place of the
    /// marker.
    fn end(&self, client_id: &str, fence: u64, beside: Beside) -> impl Future<Output = Result<(), WriteError>> + Send;
}
