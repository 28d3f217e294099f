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

use super::{PageRecord, Sessions, Shared, Stored, StoredSubscription, read, written};
use crate::store::bucket::{Arrival, Content, Fence, Value, WRITE_WITHIN, Write, new_write_id};
use crate::store::entry::LogEntry;
use crate::store::error::{Unavailable, WriteError};
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;

/// Pages that a session may have; `account::ownership::paged` makes no more.
pub const PAGES_MAX: u32 = 65_536;

/// Bytes that the pages of one session may take when they are read, as they are stored or in memory. That is eight times what
/// `mqtt.max_session_size` can be, since the shortest subscription grows to that when it is replaced: who has written more was no
/// sidecar.
const PAGES_BYTES_MAX: usize = 128 << 20;

/// The pages of one session, as they are read.
///
/// **Invariant:** they take no more memory than a session can need, whatever is stored.
#[derive(Clone, Debug, Default)]
struct Read {
    pages: BTreeMap<u32, PageRecord>,
    bytes: usize,
}

impl Read {
    fn add(&mut self, bytes: usize) -> Result<(), Unavailable> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > PAGES_BYTES_MAX {
            return Err(Unavailable::new("its subscriptions are larger than those of a session can be"));
        }
        Ok(())
    }

    /// A page that took so many bytes where it is stored.
    fn keep(&mut self, number: u32, len: usize, page: PageRecord) -> Result<(), Unavailable> {
        let in_memory = page.subscriptions.len().saturating_mul(size_of::<StoredSubscription>());
        self.add(in_memory.saturating_sub(len))?;
        self.pages.insert(number, page);
        Ok(())
    }
}

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

    /// The pages of the session of a client that began in `first_epoch`, by their numbers, up to the `count` that its record
    /// names: no other one counts. `sequence`: that of its record, which the caller has written. Who answers knows that one, or
    /// is waited for: a replica or a leader of the past may know less than was acknowledged to the owner before.
    ///
    /// # Errors
    /// When JetStream does not answer, a newer version has written one of them, or they are more than a session can have.
    pub async fn load_pages(
        &self,
        client_id: &str,
        first_epoch: u64,
        count: u32,
        sequence: u64,
    ) -> Result<BTreeMap<u32, PageRecord>, Unavailable> {
        if count > PAGES_MAX {
            return Err(Unavailable::new("its record names more pages than a session can have"));
        }
        let names = &self.shared.names;
        let record = names.session_record(client_id).map_err(Unavailable::new)?;
        let filter = names.session_pages(client_id, first_epoch).map_err(Unavailable::new)?;
        let _permit = self.shared.reading.acquire().await;
        let mut reader = self.shared.parts("pages").only(record.to_string()).only(filter.to_string());
        let (mut read, mut batch) = (Read::default(), Vec::with_capacity(BATCH_MAX));
        loop {
            match reader.next(&mut batch, BATCH_MAX).await? {
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::SnapshotBegins { .. } => read = Read::default(),
                Progress::Restarted { .. } | Progress::Read => {}
            }
            let mut is_complete = false;
            for entry in batch.drain(..) {
                is_complete |= entry.sequence >= sequence && entry.stream_subject() == &*record;
                self.shared.keep_page(entry, count, &mut read)?;
            }
            if is_complete {
                return Ok(read.pages);
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

    fn keep_page(&self, entry: LogEntry, count: u32, kept: &mut Read) -> Result<(), Unavailable> {
        let subject = self.names.strip_session(entry.stream_subject());
        let Some(SessionSubject::Subscriptions { client_id, page, .. }) = subject else { return Ok(()) };
        if !(1..=count).contains(&page) {
            return Ok(());
        }
        let Content::Value(value) = Content::of(&entry.headers.unwrap_or_default(), entry.payload) else {
            kept.pages.remove(&page);
            return Ok(());
        };
        kept.add(value.len())?;
        match read(&client_id, &value) {
            Stored::Known(record) => kept.keep(page, value.len(), record)?,
            Stored::Newer(_) => return Err(Unavailable::new("its subscriptions were written by a newer version")),
            Stored::Unreadable => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_what_is_read_of_a_session() {
        let page = |count| PageRecord { subscriptions: vec![Default::default(); count], ..PageRecord::default() };
        let mut kept = Read { bytes: PAGES_BYTES_MAX - 1_000, ..Read::default() };
        assert!(kept.add(600).is_ok() && kept.keep(1, 600, page(1)).is_ok());
        assert!(kept.clone().add(401).is_err() && kept.add(400).is_ok());
        assert_eq!(kept.pages.len(), 1);
        // What is short where it is stored takes its place in memory.
        let mut kept = Read { bytes: PAGES_BYTES_MAX - 1_000, ..Read::default() };
        assert!(kept.add(300).is_ok() && kept.keep(1, 300, page(100)).is_err());
        assert!(kept.pages.is_empty());
    }
}
