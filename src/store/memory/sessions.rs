//! Sessions in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqtt_ownership::{Epoch, Revision, Trace};
use tokio::time::Instant;

use super::link::{Link, WRITE_WITHIN};
use super::table::{Content, Fence, Table, Write, new_write_id};
use crate::store::error::{Unavailable, WriteError};
use crate::store::session_store::SessionStore;
use crate::store::sessions::{
    Arrival, Beside, Loaded, NEVER, PAGES_MAX, PageRecord, ProgressRecord, SessionRecord, StoredWill, WillNumber,
};

/// How long markers stay, seconds: as long as JetStream's.
const CLEANED_TTL_S: u32 = 300;
const PROGRESS_GONE_TTL_S: u32 = 2 * CLEANED_TTL_S;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Record(String),
    Progress(String),
    Page { client_id: String, first_epoch: u64, number: u32 },
    Will { client_id: String, number: WillNumber },
}

impl Key {
    /// Whether it is that of a page of a client, of a session that began in such an epoch.
    fn is_page_of(&self, client_id: &str, is_it: impl Fn(u64) -> bool) -> bool {
        match self {
            Self::Page { client_id: whose, first_epoch, .. } => whose == client_id && is_it(*first_epoch),
            Self::Record(_) | Self::Progress(_) | Self::Will { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kept {
    Record(SessionRecord),
    Progress(ProgressRecord),
    Page(PageRecord),
    Will(StoredWill),
}

/// See the module.
#[derive(Clone)]
pub(crate) struct MemorySessions {
    table: Arc<Table<Key, Kept>>,
    link: Arc<Link>,
}

impl MemorySessions {
    pub(super) const fn new(table: Arc<Table<Key, Kept>>, link: Arc<Link>) -> Self {
        Self { table, link }
    }

    async fn write(
        &self,
        key: Key,
        content: Content<Kept>,
        fence: Fence<Key>,
        ttl_s: Option<u32>,
    ) -> (Result<u64, WriteError>, Arrival) {
        let ttl_s = ttl_s.filter(|ttl_s| *ttl_s != NEVER);
        let write = Write { key, content, fence, ttl_s, id: new_write_id() };
        self.table.write(&self.link, &write, Instant::now() + WRITE_WITHIN).await
    }

    /// Writes what belongs to a record while that has this sequence.
    async fn put_beside(
        &self,
        client_id: &str,
        key: Key,
        kept: Kept,
        fence: u64,
        ttl_s: Option<u32>,
    ) -> Result<Arrival, WriteError> {
        let fence = Fence::Of(Key::Record(client_id.to_owned()), fence);
        let (written, arrival) = self.write(key, Content::Value(kept), fence, ttl_s).await;
        written.map(|_| arrival)
    }
}

impl SessionStore for MemorySessions {
    async fn load(&self, client_id: &str) -> Result<Loaded, Unavailable> {
        let last = self.table.last(&self.link, &Key::Record(client_id.to_owned())).await?;
        Ok(last.map_or_else(Loaded::default, |last| match last.content {
            Content::Value(Kept::Record(record)) => {
                Loaded { record: Some(record), sequence: last.sequence, newer: None }
            }
            _ => Loaded { record: None, sequence: last.sequence, newer: None },
        }))
    }

    async fn load_progress(&self, client_id: &str) -> Result<Option<ProgressRecord>, Unavailable> {
        let last = self.table.last(&self.link, &Key::Progress(client_id.to_owned())).await?;
        Ok(last.and_then(|last| match last.content {
            Content::Value(Kept::Progress(progress)) => Some(progress),
            _ => None,
        }))
    }

    async fn trace(&self, client_id: &str) -> Result<Option<(Revision, Trace)>, Unavailable> {
        let last = self.table.last(&self.link, &Key::Progress(client_id.to_owned())).await?;
        Ok(last.and_then(|last| {
            let trace = match last.content {
                Content::Value(Kept::Progress(progress)) => Trace::Progress(Epoch(progress.epoch)),
                Content::Value(_) => return None,
                Content::Deleted | Content::Cleaned => Trace::Over,
                Content::Expired => Trace::Expired,
            };
            Some((Revision(last.sequence), trace))
        }))
    }

    async fn put_record(&self, record: &SessionRecord, expected: u64, ttl_s: Option<u32>) -> Result<u64, WriteError> {
        let (key, content) = (Key::Record(record.client_id.clone()), Content::Value(Kept::Record(record.clone())));
        match self.write(key, content, Fence::Own(expected), ttl_s).await {
            // An attempt may have been there, and been replaced.
            (Err(WriteError::Fenced), Arrival::Again) => {
                Err(WriteError::Unavailable { reason: "refused after an attempt that was not answered".to_owned() })
            }
            (written, _) => written,
        }
    }

    async fn put_progress(
        &self,
        client_id: &str,
        progress: &ProgressRecord,
        fence: u64,
        ttl_s: Option<u32>,
    ) -> Result<Arrival, WriteError> {
        let (key, kept) = (Key::Progress(client_id.to_owned()), Kept::Progress(progress.clone()));
        self.put_beside(client_id, key, kept, fence, ttl_s).await
    }

    async fn put_page(
        &self,
        client_id: &str,
        first_epoch: u64,
        number: u32,
        page: &PageRecord,
        fence: u64,
    ) -> Result<Arrival, WriteError> {
        let key = Key::Page { client_id: client_id.to_owned(), first_epoch, number };
        self.put_beside(client_id, key, Kept::Page(page.clone()), fence, None).await
    }

    async fn load_pages(
        &self,
        client_id: &str,
        first_epoch: u64,
        count: u32,
        _sequence: u64,
    ) -> Result<BTreeMap<u32, PageRecord>, Unavailable> {
        if count > PAGES_MAX {
            return Err(Unavailable::new("its record names more pages than a session can have"));
        }
        self.link.reads().await?;
        let page = |(key, kept)| match (key, kept) {
            (Key::Page { client_id: whose, first_epoch: epoch, number }, Kept::Page(page)) => {
                (whose == client_id && epoch == first_epoch && number <= count).then_some((number, page))
            }
            _ => None,
        };
        Ok(self.table.values().into_iter().filter_map(page).collect())
    }

    async fn remove_pages(&self, client_id: &str, first_epoch: u64) -> Result<(), Unavailable> {
        self.link.reads().await?;
        self.table.purge(|key| key.is_page_of(client_id, |epoch| epoch == first_epoch));
        Ok(())
    }

    async fn put_will(&self, client_id: &str, number: WillNumber, will: &StoredWill) -> Result<(), WriteError> {
        let (key, kept) = (Key::Will { client_id: client_id.to_owned(), number }, Kept::Will(will.clone()));
        match self.write(key, Content::Value(kept), Fence::Own(0), None).await.0 {
            Ok(_) | Err(WriteError::Fenced) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn load_will(&self, client_id: &str, number: WillNumber) -> Result<Option<StoredWill>, Unavailable> {
        let last = self.table.last(&self.link, &Key::Will { client_id: client_id.to_owned(), number }).await?;
        Ok(last.and_then(|last| match last.content {
            Content::Value(Kept::Will(will)) => Some(will),
            _ => None,
        }))
    }

    async fn remove_wills(&self, client_id: &str, numbers: &[WillNumber]) -> Result<(), Unavailable> {
        self.link.reads().await?;
        let keys = numbers.iter().map(|number| Key::Will { client_id: client_id.to_owned(), number: *number });
        let removed: Vec<Key> = keys.collect();
        self.table.purge(|key| removed.contains(key));
        Ok(())
    }

    async fn end(&self, client_id: &str, fence: u64, beside: Beside) -> Result<(), WriteError> {
        let record = Key::Record(client_id.to_owned());
        let marker = self.write(record.clone(), Content::Deleted, Fence::Own(fence), None).await.0?;
        let (progress, is_over) = (Key::Progress(client_id.to_owned()), Fence::Of(record.clone(), marker));
        if self.write(progress, Content::Deleted, is_over, Some(PROGRESS_GONE_TTL_S)).await.0.is_err() {
            return Ok(());
        }
        if beside == Beside::Perhaps {
            self.table.purge(|key| key.is_page_of(client_id, |_| true));
        }
        let _ = self.write(record, Content::Cleaned, Fence::Own(marker), Some(CLEANED_TTL_S)).await;
        Ok(())
    }
}
