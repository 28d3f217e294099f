//! The key under which tokens of replies are made: one for the account, made by the first sidecar that needs it. See
//! [`proto_map::ReplyKey`].
//!
//! It is in the bucket of keys, which nobody else is to read. Once it was in that of sessions, which people are told to watch:
//! one that is found there becomes the one in the bucket of keys, so that its tokens go on to be opened, and is deleted. A
//! sidecar of a version before writes the same one there again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::{Names, REPLY_KEY_LEN};

use super::bucket::{Bucket, Fence, Last, Value, Write};
use super::error::{Unavailable, WriteError};
use super::keys::Keys;

/// Where the key is.
#[derive(Clone, Debug)]
pub struct ReplyKeys(Where);

#[derive(Clone, Debug)]
enum Where {
    Stored(Box<Buckets>),
    /// Nothing is kept in the account: it is made of these.
    Derived(Keys),
}

#[derive(Clone, Debug)]
struct Buckets {
    keys: Bucket,
    subject: ByteString,
    sessions: Bucket,
    /// Where it was.
    former: ByteString,
    /// Nothing is left there.
    is_moved: Arc<AtomicBool>,
}

/// A key of the account.
type Key = [u8; REPLY_KEY_LEN];

impl ReplyKeys {
    pub(super) fn new(keys: Bucket, sessions: Bucket, names: &Names) -> Self {
        let (subject, former) = (names.reply_key(), names.former_reply_key());
        Self(Where::Stored(Box::new(Buckets { keys, subject, sessions, former, is_moved: Arc::default() })))
    }

    /// Of an account in which nothing is kept.
    pub(super) const fn derived(keys: Keys) -> Self {
        Self(Where::Derived(keys))
    }

    /// The key of the account. When there is none, `new` becomes it, unless another sidecar is faster.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn get_or_put(&self, new: Key) -> Result<Key, Unavailable> {
        match &self.0 {
            Where::Stored(buckets) => buckets.get_or_put(new).await,
            Where::Derived(keys) => Ok(keys.ring().at(keys.now_ms()).for_replies()),
        }
    }
}

impl Buckets {
    async fn get_or_put(&self, new: Key) -> Result<Key, Unavailable> {
        let key = self.get_or_move(new).await?;
        if !self.is_moved.load(Ordering::Relaxed) {
            self.delete_former().await?;
            self.is_moved.store(true, Ordering::Relaxed);
        }
        Ok(key)
    }

    async fn get_or_move(&self, new: Key) -> Result<Key, Unavailable> {
        loop {
            let last = self.keys.last(&self.subject).await?;
            if let Some(key) = last.as_ref().and_then(key) {
                return Ok(key);
            }
            let former = self.sessions.last(&self.former).await?;
            let made = former.as_ref().and_then(key).unwrap_or(new);
            let write = Write {
                subject: &self.subject,
                value: Value::Put(Bytes::copy_from_slice(&made)),
                fence: Fence::Own(last.map_or(0, |last| last.sequence)),
                ttl_s: None,
            };
            match self.keys.write(&write).await {
                Ok(_) => return Ok(made),
                // Another one was faster: it is there now.
                Err(WriteError::Fenced) => {}
                Err(error) => return Err(Unavailable::new(error)),
            }
        }
    }

    /// Deletes what is left where the key was.
    async fn delete_former(&self) -> Result<(), Unavailable> {
        let Some(last) = self.sessions.last(&self.former).await?.filter(|last| last.value().is_some()) else {
            return Ok(());
        };
        let fence = Fence::Own(last.sequence);
        let write = Write { subject: &self.former, value: Value::Deleted, fence, ttl_s: None };
        match self.sessions.write(&write).await {
            // Somebody else has deleted it, or a sidecar of a version before has written it again.
            Ok(_) | Err(WriteError::Fenced) => Ok(()),
            Err(error) => Err(Unavailable::new(error)),
        }
    }
}

fn key(last: &Last) -> Option<Key> {
    (**last.value()?).try_into().ok()
}
