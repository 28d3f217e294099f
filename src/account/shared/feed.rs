//! The task that feeds a group from one log: it asks the consumer for as many messages as the members here have room for,
//! gives them out, and tells the consumer what became of them. There is one while the group has members here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::group::{Answer, Group};
use super::{Shares, share_log};
use crate::account::delivery::logs::LogHandle;
use crate::store::{Heard, ShareAnswer, ShareBegins, ShareConsumer, SharePull, Unavailable};

/// How long to wait before JetStream is asked again for a consumer.
pub(super) const RETRY: Duration = Duration::from_millis(500);

impl Shares {
    /// Feeds a group from all logs that can have messages for it.
    pub(super) fn feed(self: &Arc<Self>, group: &Arc<Group>) {
        for log in self.logs_of(&group.key) {
            let Some(wake) = group.begin_feed(log.number) else { continue };
            self.feeds.send_modify(|running| *running += 1);
            let (shares, group) = (Arc::clone(self), Arc::clone(group));
            self.tasks.spawn(async move {
                feed(&shares, group, log, wake).await;
                shares.feeds.send_modify(|running| *running -= 1);
            });
        }
    }

    /// The same, of a group that is fed and has members.
    pub(super) fn feed_from_all(self: &Arc<Self>, group: &Arc<Group>) {
        // Nobody leaves meanwhile.
        let _members = self.members.lock();
        if group.has_members() && !self.is_known(group) {
            self.feed(group);
        }
    }
}

/// Feeds a group until nobody here needs it.
async fn feed(shares: &Arc<Shares>, group: Arc<Group>, log: Arc<LogHandle>, wake: Arc<Notify>) {
    let store = shares.store.clone();
    let source = share_log(&log);
    let mut pull = store.pull(&source, &group.spec);
    let mut entries = Vec::new();
    let mut had_consumer = false;
    let left = loop {
        let consumer = match consumer(shares, &group, &log, &wake, had_consumer).await {
            Ok(consumer) => consumer,
            Err(Ended(left)) => break left,
        };
        had_consumer = true;
        let keep_every = consumer.ack_wait / 3;
        let mut keep = tokio::time::interval(keep_every);
        let left = loop {
            if let Some(left) = shares.end_feed(&group, &log) {
                break Some(left);
            }
            say(shares, &group, log.number).await;
            ask(&mut pull, group.room()).await;
            tokio::select! {
                () = wake.notified() => {}
                _ = keep.tick() => {
                    group.keep(keep_every);
                    // Of streams that have come since.
                    shares.feed_from_all(&group);
                }
                heard = pull.next(&mut entries) => {
                    shares.leave_out_claimed(&group, &log, &mut entries).await;
                    group.give(&log, &mut entries);
                    if heard == Heard::Gone {
                        break None;
                    }
                }
            }
        };
        if let Some(left) = left {
            break left;
        }
        tracing::warn!(consumer = &*group.spec.consumer, "the consumer of a shared subscription has to be looked for");
        tokio::time::sleep(RETRY).await;
    };
    // First it asks for nothing any more: what is given back would come here again.
    let on_its_way = pull.close().await;
    let back = on_its_way.into_iter().map(|entry| (entry.ack, ShareAnswer::Nak));
    for (ack, answer) in left.into_iter().chain(back) {
        store.answer(ack, answer).await;
    }
    store.flush().await;
}

/// Nobody needs the feed any more; this is to be said still.
struct Ended(Vec<Answer>);

/// The consumer, however long it takes, unless nobody needs it any more. `is_lost`: there was one, and somebody has deleted
/// it.
async fn consumer(
    shares: &Shares,
    group: &Arc<Group>,
    log: &LogHandle,
    wake: &Notify,
    is_lost: bool,
) -> Result<ShareConsumer, Ended> {
    loop {
        if let Some(left) = shares.end_feed(group, log) {
            return Err(Ended(left));
        }
        let error = match find_or_make(shares, group, log, is_lost).await {
            Ok(consumer) => return Ok(consumer),
            Err(error) => error,
        };
        tracing::warn!(consumer = &*group.spec.consumer, %error, "a shared subscription waits for its consumer");
        say(shares, group, log.number).await;
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = wake.notified() => {}
        }
    }
}

/// A log that came later, or got the group's subjects later, is the group's from when the group began, which its consumer of
/// the first log tells. What somebody gave up by deleting a consumer does not come back.
async fn find_or_make(
    shares: &Shares,
    group: &Group,
    log: &LogHandle,
    is_lost: bool,
) -> Result<ShareConsumer, Unavailable> {
    let mut begins = ShareBegins::Now;
    if log.number > 0 && !is_lost {
        let first = shares.store.find(&share_log(shares.logs.main()), &group.spec).await?;
        begins = first.map_or(begins, |first| ShareBegins::At(first.created_ms));
    }
    Ok(shares.store.ensure(&share_log(log), &group.spec, shares.times, begins).await?)
}

/// Asks for what there is room for, less what is under way; not for every single place that becomes free.
async fn ask(pull: &mut SharePull, room: usize) {
    let asked = pull.asked();
    if room > asked && asked * 2 <= room {
        pull.ask(room - asked).await;
    }
}

async fn say(shares: &Shares, group: &Group, log: u16) {
    for (ack, answer) in group.take_answers(log) {
        shares.store.answer(ack, answer).await;
    }
}
