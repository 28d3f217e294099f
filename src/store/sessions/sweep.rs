//! What sessions have left beside their records that are over, or that their records do not name any more. Its owner may have
//! died before it removed that, and a record that reaches its end of life takes nothing with it.

use std::collections::{HashMap, HashSet};

use proto_map::SessionSubject;

use super::{Loaded, Sessions, WillNumber};
use crate::store::entry::LogEntry;
use crate::store::error::Unavailable;
use crate::store::reader::Progress;

const BATCH_MAX: usize = 512;

/// How long a will may be there before a record names it: far longer than a CONNECT may take.
const UNNAMED_MAX_MS: u64 = 3_600_000;

/// What a client has beside its record.
#[derive(Debug, Default)]
struct Beside {
    /// Sessions that have pages, by the epochs in which they began.
    paged: HashSet<u64>,
    /// Numbers of wills, and when each was stored.
    wills: HashMap<WillNumber, u64>,
}

impl Beside {
    /// Leaves what is of no use any more.
    fn retain_unneeded(&mut self, loaded: &Loaded, now_ms: u64) {
        match &loaded.record {
            // What the last CONNECT found may be put back yet.
            Some(record) if !record.accepted => *self = Self::default(),
            Some(record) => {
                self.paged.retain(|first_epoch| *first_epoch < record.first_epoch);
                record.wills_beside().for_each(|number| _ = self.wills.remove(&number));
            }
            None if loaded.newer.is_some() => *self = Self::default(),
            None => {}
        }
        self.wills.retain(|_, stored_at_ms| stored_at_ms.saturating_add(UNNAMED_MAX_MS) < now_ms);
    }
}

impl Sessions {
    /// Removes what is of no use any more. Returns how much: sessions that had pages, and wills.
    ///
    /// # Errors
    /// When JetStream does not answer; the next call finds what is left.
    pub async fn sweep(&self) -> Result<usize, Unavailable> {
        let mut removed = 0;
        let now_ms = self.shared.bucket.api.link.clock.earliest().0;
        for (client_id, mut beside) in self.beside().await? {
            let loaded = self.load(&client_id).await?;
            beside.retain_unneeded(&loaded, now_ms);
            let Beside { paged, wills } = beside;
            // Who said so may have known less than was acknowledged.
            if paged.is_empty() && wills.is_empty() || !self.is_last(&client_id, loaded.sequence).await? {
                continue;
            }
            removed += paged.len() + wills.len();
            for first_epoch in paged {
                self.remove_pages(&client_id, first_epoch).await?;
            }
            self.remove_wills(&client_id, &wills.into_keys().collect::<Vec<_>>()).await?;
        }
        Ok(removed)
    }

    /// What is beside the records of all clients, by the names of the keys.
    async fn beside(&self) -> Result<HashMap<String, Beside>, Unavailable> {
        let names = &self.shared.names;
        let reader = self.shared.parts("swept").only(names.all_session_pages()).only(names.all_session_wills());
        let mut reader = reader.headers_only();
        let (mut all, mut batch) = (HashMap::<String, Beside>::new(), Vec::with_capacity(BATCH_MAX));
        let mut note = |LogEntry { stored_at_ms, .. }: &LogEntry, subject| match subject {
            Some(SessionSubject::Subscriptions { client_id, first_epoch, .. }) => {
                all.entry(client_id).or_default().paged.insert(first_epoch);
            }
            Some(SessionSubject::Will { client_id, number }) => {
                all.entry(client_id).or_default().wills.insert(WillNumber(number), *stored_at_ms);
            }
            _ => {}
        };
        loop {
            if reader.next(&mut batch, BATCH_MAX).await? == Progress::StreamMissing {
                return Err(Unavailable::new("the stream is gone"));
            }
            for entry in batch.drain(..) {
                note(&entry, names.strip_session(entry.stream_subject()));
            }
            if reader.is_caught_up() {
                return Ok(all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{SessionRecord, StoredWill};

    #[test]
    fn what_a_record_names_or_may_name_again_is_left_alone() {
        let will = StoredWill { body: Some(WillNumber(1)), ..StoredWill::default() };
        let record =
            SessionRecord { first_epoch: 9, accepted: true, will: Some(Box::new(will)), ..SessionRecord::default() };
        let left = |record: Option<SessionRecord>, newer| {
            let wills =
                HashMap::from([(1, 0), (2, 0), (3, UNNAMED_MAX_MS)].map(|(number, ms)| (WillNumber(number), ms)));
            let mut beside = Beside { paged: HashSet::from([4, 9]), wills };
            beside.retain_unneeded(&Loaded { record, sequence: 5, newer }, UNNAMED_MAX_MS + 1);
            let mut left: Vec<u64> =
                beside.paged.into_iter().chain(beside.wills.into_keys().map(|n| 100 + n.0)).collect();
            left.sort_unstable();
            left
        };
        assert_eq!(left(Some(record.clone()), None), [4, 102]);
        assert!(left(Some(SessionRecord { accepted: false, ..record }), None).is_empty(), "it may be put back");
        assert_eq!(left(None, None), [4, 9, 101, 102], "a CONNECT may be about to name the third");
        assert!(left(None, Some(3)).is_empty());
    }
}
