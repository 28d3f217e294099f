//! The consumers of all groups of a stream, and when they end.

use std::time::Duration;

use bytestring::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FILTER_KEY, GROUP_KEY, Info, ShareLog, Shares, nanos};
use crate::store::error::Unavailable;

/// The consumer of a group, as JetStream lists it.
#[derive(Clone, Debug)]
pub struct ListedShare {
    name: String,
    /// Share name.
    pub group: ByteString,
    /// Topic filter.
    pub filter: ByteString,
    config: Value,
}

impl Shares {
    /// The consumers of groups that a log has.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn list(&self, log: &ShareLog) -> Result<Vec<ListedShare>, Unavailable> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            #[serde(default)]
            consumers: Vec<Listed>,
        }
        #[derive(Deserialize)]
        struct Listed {
            name: String,
            config: Value,
        }
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let body = json!({ "offset": offset }).to_string();
            let page: Page = self.api.call(&format!("CONSUMER.LIST.{}", log.stream), body).await?;
            offset += page.consumers.len();
            let is_last = page.consumers.is_empty() || offset >= page.total;
            for Listed { name, config } in page.consumers {
                let written = |key: &str| Some(ByteString::from(config["metadata"][key].as_str()?));
                let (Some(group), Some(filter)) = (written(GROUP_KEY), written(FILTER_KEY)) else { continue };
                all.push(ListedShare { name, group, filter, config });
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Has a group end after another time in which nobody asks for its messages. Says whether that is news.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn end_after(
        &self,
        log: &ShareLog,
        listed: ListedShare,
        threshold: Duration,
    ) -> Result<bool, Unavailable> {
        let ListedShare { name, mut config, .. } = listed;
        if config["inactive_threshold"].as_u64().unwrap_or(0) == nanos(threshold) {
            return Ok(false);
        }
        config["inactive_threshold"] = json!(nanos(threshold));
        let body = json!({ "stream_name": &*log.stream, "action": "update", "config": config }).to_string();
        let _: Info = self.api.call(&format!("CONSUMER.CREATE.{}.{name}", log.stream), body).await?;
        Ok(true)
    }
}
