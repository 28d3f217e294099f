//! The key under which tokens of replies are made: one for the account, made by the first sidecar that needs it. See
//! [`proto_map::ReplyKey`].

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::REPLY_KEY_LEN;

use super::bucket::{Bucket, Fence, Value, Write};
use super::error::{Unavailable, WriteError};

/// Where the key is.
#[derive(Clone, Debug)]
pub struct ReplyKeys {
    bucket: Bucket,
    subject: ByteString,
}

impl ReplyKeys {
    pub(super) const fn new(bucket: Bucket, subject: ByteString) -> Self {
        Self { bucket, subject }
    }

    /// The key of the account. When there is none, `new` becomes it, unless another sidecar is faster.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn get_or_put(&self, new: [u8; REPLY_KEY_LEN]) -> Result<[u8; REPLY_KEY_LEN], Unavailable> {
        loop {
            let last = self.bucket.last(&self.subject).await?;
            if let Some(key) = last.as_ref().and_then(|last| last.value()).and_then(|key| (**key).try_into().ok()) {
                return Ok(key);
            }
            let write = Write {
                subject: &self.subject,
                value: Value::Put(Bytes::copy_from_slice(&new)),
                fence: Fence::Own(last.map_or(0, |last| last.sequence)),
                ttl_s: None,
            };
            match self.bucket.write(&write).await {
                Ok(_) => return Ok(new),
                // Another one was faster: it is there now.
                Err(WriteError::Fenced) => {}
                Err(WriteError::TooLarge) => return Err(Unavailable::new("the key is too large")),
                Err(WriteError::Unavailable { reason }) => return Err(Unavailable::new(reason)),
            }
        }
    }
}
