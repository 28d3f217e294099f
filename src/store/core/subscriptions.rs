//! From any number of subscriptions to one sink: one queue, one task.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytestring::ByteString;
use foldhash::{HashMap, HashMapExt, HashSet};
use parking_lot::{Mutex, RwLock};

use super::message::{CoreMessage, CoreSink};
use super::stand_in::{StandIn, is_to_everything};
use crate::nats::{Client, LinkCounts, Message, Queue, SkipReason, Subscription};
use crate::store::connection::Link;
use crate::store::headers;

/// Messages that are handed over before others on this thread have their turn.
const SHARE: usize = 1_024;

/// The subscriptions, by the ids that the account gives them. The task ends when this is dropped.
pub(super) struct Subscriptions {
    queue: Arc<Queue>,
    by_id: Mutex<HashMap<u64, Subscription>>,
    to_everything: Arc<ToEverything>,
}

/// Ids of subscriptions to everything.
#[derive(Default)]
struct ToEverything {
    has_some: AtomicBool,
    ids: RwLock<HashSet<u64>>,
}

impl ToEverything {
    fn change(&self, change: impl FnOnce(&mut HashSet<u64>)) {
        let mut ids = self.ids.write();
        change(&mut ids);
        self.has_some.store(!ids.is_empty(), Ordering::Relaxed);
    }

    fn has(&self, id: u64) -> bool {
        self.has_some.load(Ordering::Relaxed) && self.ids.read().contains(&id)
    }
}

impl Subscriptions {
    pub(super) fn start(link: &Link, sink: Arc<dyn CoreSink>, stand_in: Arc<StandIn>) -> Arc<Self> {
        let (queue, to_everything) = (Queue::new(link.queue_limits()), Arc::new(ToEverything::default()));
        let handing = HandOver {
            counts: link.client.counts().clone(),
            sink,
            stand_in,
            to_everything: Arc::clone(&to_everything),
        };
        link.tasks.spawn(handing.run(Arc::clone(&queue)));
        Arc::new(Self { queue, by_id: Mutex::new(HashMap::new()), to_everything })
    }

    pub(super) fn subscribe(&self, client: &Client, subject: &str, group: Option<&str>, id: u64) {
        match client.subscribe_into(&self.queue, subject, group, id) {
            Ok(subscription) => {
                if group.is_none() && is_to_everything(subject) {
                    self.to_everything.change(|ids| _ = ids.insert(id));
                }
                let before = self.by_id.lock().insert(id, subscription);
                drop(before);
            }
            Err(error) => tracing::error!(subject, %error, "cannot subscribe"),
        }
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let subscription = self.by_id.lock().remove(&id);
        if subscription.is_some() && self.to_everything.has(id) {
            self.to_everything.change(|ids| _ = ids.remove(&id));
        }
        drop(subscription);
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Hands over what comes.
struct HandOver {
    counts: LinkCounts,
    sink: Arc<dyn CoreSink>,
    stand_in: Arc<StandIn>,
    to_everything: Arc<ToEverything>,
}

impl HandOver {
    /// Until nothing more can come.
    async fn run(self, queue: Arc<Queue>) {
        let mut messages = Vec::new();
        while poll_fn(|cx| queue.poll_take(cx, SHARE, &mut |id, message| messages.push((id, message)))).await {
            for (id, message) in messages.drain(..) {
                let Some(message) = converted(&message, &self.counts) else { continue };
                if message.reply.is_some() && self.to_everything.has(id) {
                    self.stand_in.heard(&message, |subject| self.sink.is_captured(subject));
                }
                self.sink.message(id, message);
            }
            self.sink.flush();
            // Others on this thread have waited.
            tokio::task::yield_now().await;
        }
    }
}

/// `None` when its subject is no text, so that no topic is meant; that is counted.
fn converted(message: &Message, counts: &LinkCounts) -> Option<CoreMessage> {
    let Ok(subject) = ByteString::try_from(message.subject_bytes()) else {
        counts.skipped(SkipReason::Subject);
        return None;
    };
    let reply = message.reply_bytes().and_then(|reply| {
        let reply = ByteString::try_from(reply);
        if reply.is_err() {
            counts.skipped(SkipReason::Reply);
        }
        reply.ok()
    });
    Some(CoreMessage {
        status: message.status(),
        headers: headers::incoming(message, counts),
        subject,
        payload: message.payload_bytes(),
        reply,
    })
}
