//! The subscriptions of a session that is ours: from its record and the pages beside it, as far as it may have them today.

use mqtt_codec::TopicFilter;
use mqtt_ownership::Revision;

use super::Account;
use crate::account::ownership::paged::PagedSubscriptions;
use crate::account::rights::Rights;
use crate::store::{SessionRecord, Unavailable, WriteError};

/// Tries of a write that turns what version 1 has written into what is written today.
const TRIES: usize = 3;

impl Account {
    /// The subscriptions of a session whose record we have written, with this revision; and the revision that it has now.
    pub(super) async fn subscriptions_of(
        self: &std::sync::Arc<Self>,
        record: &mut SessionRecord,
        revision: Revision,
        rights: &Rights,
    ) -> Result<(PagedSubscriptions, Revision), Unavailable> {
        let pages = match record.pages {
            0 => std::collections::BTreeMap::new(),
            _ => {
                self.store
                    .sessions()
                    .load_pages(&record.client_id, record.first_epoch, record.pages, revision.0)
                    .await?
            }
        };
        let inline = std::mem::take(&mut record.subscriptions);
        let client_id = record.client_id.as_str();
        let mut subscriptions = PagedSubscriptions::load(inline.clone(), pages, record.pages, |filter| {
            self.is_granted(client_id, filter, rights)
        });
        let max_qos = rights.max_qos() as u8;
        subscriptions.change(|stored| {
            let is_above = stored.qos > max_qos;
            stored.qos = stored.qos.min(max_qos);
            is_above
        });
        if !subscriptions.spill() {
            return Ok((subscriptions, revision));
        }
        // At each moment every subscription is stored: see there.
        tracing::info!(client_id, pages = subscriptions.pages(), "the record of a session is divided");
        let unavailable = |error: WriteError| Unavailable { reason: error.to_string() };
        let whole = SessionRecord { subscriptions: inline, pages: subscriptions.pages(), ..record.clone() };
        let mut revision = self.amend_session(whole, revision, TRIES).await.map_err(unavailable)?;
        let (_, pages) = subscriptions.begin_write();
        for number in pages {
            let page = subscriptions.page(number);
            let put = self.store.sessions().put_page(client_id, record.first_epoch, number, &page, revision.0).await;
            put.map_err(unavailable)?;
        }
        record.pages = subscriptions.pages();
        let rest = SessionRecord { subscriptions: subscriptions.inline(), ..record.clone() };
        revision = self.amend_session(rest, revision, TRIES).await.map_err(unavailable)?;
        Ok((subscriptions, revision))
    }

    /// Whether a session may have a subscription today. **Invariant:** what SUBSCRIBE refuses does not come by a session that
    /// has it from before: not live, not from a log, the backlog or the retained messages.
    fn is_granted(&self, client_id: &str, filter: &TopicFilter, rights: &Rights) -> bool {
        let judged = self.judge(filter, rights);
        if let Err(reason) = judged {
            let filter = filter.as_str().escape_debug().to_string();
            tracing::warn!(client_id, filter, ?reason, "a subscription of a session is refused today, and is gone");
        }
        judged.is_ok()
    }
}
