//! Of what comes again, what a session may have already.

use bytestring::ByteString;
use tokio::time::sleep;

use super::feed::RETRY;
use super::group::Group;
use super::{LogHandle, Shares};
use crate::store::{InFlightRecord, ShareAnswer, ShareEntry, Unavailable, is_same_delivery};

impl Shares {
    /// Leaves out what a session has already, and what cannot be said of now: that comes once more, in a moment.
    pub(super) async fn leave_out_claimed(&self, group: &Group, log: &LogHandle, entries: &mut Vec<ShareEntry>) {
        let doubtful = group.doubtful(log, entries);
        if doubtful.is_empty() {
            return;
        }
        let claims = self.claims_on(group).await;
        let mut unclaimed = Vec::new();
        for entry in doubtful {
            match &claims {
                Ok(claims) if !claims.iter().any(|ack| is_same_delivery(ack, &entry.ack)) => unclaimed.push(entry),
                Ok(_) => group.say(log, &entry, ShareAnswer::Ack),
                Err(_) => group.say(log, &entry, ShareAnswer::NakDelay),
            }
        }
        entries.splice(0..0, unclaimed);
    }

    /// Acknowledgements of what sessions have of which their consumers may not know it.
    async fn claims_on(&self, group: &Group) -> Result<Vec<String>, Unavailable> {
        let not_yet = || Unavailable { reason: "the sessions are not all known yet".to_owned() };
        let mut claims = Vec::new();
        for client_id in self.claimants.of(&group.key).ok_or_else(not_yet)? {
            let progress = self.sessions.load_progress(&client_id).await?.unwrap_or_default();
            claims.extend(progress.in_flight.into_iter().filter_map(|InFlightRecord { ack, .. }| ack));
        }
        Ok(claims)
    }

    /// Tells consumers that these messages have an owner, and waits until they know, however long that takes.
    pub(crate) async fn confirm(&self, acks: &[ByteString]) {
        let confirm = async |ack: &ByteString| {
            while let Err(error) = self.store.confirm(ack).await {
                tracing::debug!(%error, "the consumer of a shared subscription does not confirm yet");
                sleep(RETRY).await;
            }
        };
        futures_util::future::join_all(acks.iter().map(confirm)).await;
    }
}
