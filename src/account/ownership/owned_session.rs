//! What a connection holds of its session in JetStream, and what of it is to be written.

use std::collections::HashMap;
use std::num::NonZeroU32;

use bytestring::ByteString;
use mqtt_codec::PacketId;
use mqtt_ownership::{Epoch, Revision};

use crate::account::ownership::paged::PagedSubscriptions;
use crate::store::{PageRecord, Rest, SessionRecord, StoredRetained};

/// Messages of shared subscriptions at QoS 2 that are a session's, of which their consumers may not know it: where to tell
/// them.
pub(crate) type Claims = HashMap<PacketId, ByteString>;

/// The Subscription Identifiers of messages in flight that are each sent for one subscription.
pub(crate) type SentFor = HashMap<PacketId, NonZeroU32>;

/// Bytes of a record beside its subscriptions and its will, about.
const RECORD_LEN: usize = 512;

/// What a connection holds of its session in JetStream.
#[derive(Clone, Debug)]
pub(crate) struct OwnedSession {
    /// The record as it was written last, but for its subscriptions.
    pub(crate) record: SessionRecord,
    /// Its revision: the fence of every write.
    pub(crate) revision: Revision,
    /// The subscriptions, of a session that outlives its connection.
    pub(crate) subscriptions: PagedSubscriptions,
    /// What its progress says of shared subscriptions, and they may not know.
    pub(crate) claims: Claims,
    /// Which subscriptions messages in flight were sent for.
    pub(crate) sent_for: SentFor,
    /// What a newer version has added to its progress.
    pub(crate) progress_rest: Rest,
}

/// What is to be written: the record first, which is the fence of the pages.
#[derive(Clone, Debug)]
pub(crate) struct SessionWrite {
    /// Whose.
    pub(crate) client_id: String,
    /// The epoch in which the session began.
    pub(crate) first_epoch: Epoch,
    /// The revision of the record that is there.
    pub(crate) revision: Revision,
    /// The record, if it is to be written.
    pub(crate) record: Option<SessionRecord>,
    /// Pages by their numbers.
    pub(crate) pages: Vec<(u32, PageRecord)>,
    /// Bytes of all that, about.
    pub(crate) len: usize,
}

impl OwnedSession {
    /// The record as it is to be written.
    pub(crate) fn record(&self) -> SessionRecord {
        let mut record = self.record.clone();
        record.subscriptions = self.subscriptions.inline();
        record.pages = self.subscriptions.pages();
        record
    }

    /// What has changed is about to be written, with the record in any case if it `is_fence_due`. `is_owed`: whether retained
    /// messages have yet to be sent.
    pub(crate) fn begin_write(&mut self, is_fence_due: bool, is_owed: impl Fn(StoredRetained) -> bool) -> SessionWrite {
        let (is_record, pages) = self.subscriptions.begin_write();
        let mut write = SessionWrite {
            client_id: self.record.client_id.clone(),
            first_epoch: Epoch(self.record.first_epoch),
            revision: self.revision,
            record: None,
            pages: Vec::with_capacity(pages.len()),
            len: 0,
        };
        // Of those that are written anyway.
        let tidy = |subscriptions: &mut Vec<crate::store::StoredSubscription>| {
            subscriptions.iter_mut().for_each(|stored| stored.retained = stored.retained.filter(|owed| is_owed(*owed)));
        };
        if is_record || is_fence_due {
            let mut record = self.record();
            tidy(&mut record.subscriptions);
            write.len += self.subscriptions.len_of(0) + RECORD_LEN + record.will.as_ref().map_or(0, |will| will.size());
            write.record = Some(record);
        }
        for number in pages {
            let mut page = self.subscriptions.page(number);
            tidy(&mut page.subscriptions);
            write.len += self.subscriptions.len_of(number);
            write.pages.push((number, page));
        }
        write
    }
}
