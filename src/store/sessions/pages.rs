//! Subscriptions of a session beside its record: pages, each under a key of its own.
//!
//! **Invariant:** a page is written by the owner of the session only, while the record has the sequence that it knows, one
//! write after the other, as the progress is. So whoever has written the record reads pages that nobody else changes any more.
//!
//! **Invariant:** a page of a session that goes on is never removed, only emptied, and no session writes a page of another
//! one: its first epoch is in the key. nats-server that is killed may bring back what was removed, or what was there before a
//! message that reached its end of life; of a page that is neither, and its name says whose it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_map::SessionSubject;
use tokio::time::Instant;

use super::{PageRecord, Sessions, Shared, Stored, read, written};
use crate::store::bucket::{Arrival, Content, Fence, Value, WRITE_WITHIN, Write, new_write_id};
use crate::store::entry::LogEntry;
use crate::store::error::{Unavailable, WriteError};
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;

impl Sessions {
    /// Writes a page of the session of a client that began in `first_epoch`, if its record has the sequence `fence`. Writes
    /// of one client have to wait for each other.
    ///
    /// # Errors
    /// As [`Self::put_progress`], and what follows from an [`Arrival::Again`] or `Unavailable` is the same: before this page
    /// is written once more, the record is.
    pub async fn put_page(
        &self,
        client_id: &str,
        first_epoch: u64,
        number: u32,
        page: &PageRecord,
        fence: u64,
    ) -> Result<Arrival, WriteError> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.session_page(client_id, first_epoch, number).map_err(|_| WriteError::TooLarge)?;
        let record = names.session_record(client_id).map_err(|_| WriteError::TooLarge)?;
        let (value, fence) = (Value::Put(written(page)?), Fence::Of(&record, fence));
        let write = Write { subject: &subject, value, fence, ttl_s: None };
        let written = bucket.write_counted(&write, &new_write_id(), Instant::now() + WRITE_WITHIN).await;
        written.map(|(_, arrival)| arrival)
    }

    /// The pages of the session of a client that began in `first_epoch`, by their numbers. `sequence`: that of its record,
    /// which the caller has written. Who answers knows that one, or is waited for: a replica or a leader of the past may know
    /// less than was acknowledged to the owner before.
    ///
    /// # Errors
    /// When JetStream does not answer, or a newer version has written one of them.
    pub async fn load_pages(
        &self,
        client_id: &str,
        first_epoch: u64,
        sequence: u64,
    ) -> Result<BTreeMap<u32, PageRecord>, Unavailable> {
        let names = &self.shared.names;
        let record = names.session_record(client_id).map_err(Unavailable::new)?;
        let filter = names.session_pages(client_id, first_epoch).map_err(Unavailable::new)?;
        let _permit = self.shared.reading.acquire().await;
        let mut reader = self.shared.parts("pages").only(record.to_string()).only(filter.to_string());
        let (mut pages, mut batch) = (BTreeMap::new(), Vec::with_capacity(BATCH_MAX));
        loop {
            match reader.next(&mut batch, BATCH_MAX).await? {
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::SnapshotBegins { .. } => pages.clear(),
                Progress::Restarted { .. } | Progress::Read => {}
            }
            let mut is_complete = false;
            for entry in batch.drain(..) {
                is_complete |= entry.sequence >= sequence && entry.stream_subject() == &*record;
                self.shared.keep_page(entry, &mut pages)?;
            }
            if is_complete {
                return Ok(pages);
            }
        }
    }

    /// Removes the pages of a session of a client that is over for good.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn remove_pages(&self, client_id: &str, first_epoch: u64) -> Result<(), Unavailable> {
        let Shared { names, bucket, .. } = &*self.shared;
        let filter = names.session_pages(client_id, first_epoch).map_err(Unavailable::new)?;
        Ok(bucket.api.purge(&bucket.stream, &filter, None).await?)
    }
}

impl Shared {
    /// The last message of the keys that are asked for.
    pub(super) fn parts(&self, purpose: &'static str) -> Reader {
        let subjects = self.names.sessions_subjects();
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(subjects.trim_end_matches('>')),
            purpose,
            last_per_subject: true,
            pace: Pace { batch: BATCH_MAX, bytes: (1 << 20).max(self.payload_max + (64 << 10)), overlap: false },
        };
        Reader::new(self.readers.clone(), self.readers.link.clone(), source, 1)
    }

    fn keep_page(&self, entry: LogEntry, pages: &mut BTreeMap<u32, PageRecord>) -> Result<(), Unavailable> {
        let subject = self.names.strip_session(entry.stream_subject());
        let Some(SessionSubject::Subscriptions { client_id, page, .. }) = subject else { return Ok(()) };
        let Content::Value(value) = Content::of(&entry.headers.unwrap_or_default(), entry.payload) else {
            pages.remove(&page);
            return Ok(());
        };
        match read(&client_id, &value) {
            Stored::Known(record) => _ = pages.insert(page, record),
            Stored::Newer(_) => return Err(Unavailable::new("its subscriptions were written by a newer version")),
            Stored::Unreadable => {}
        }
        Ok(())
    }
}
