//! From any number of subscriptions to one sink: one queue, one task.

use std::future::poll_fn;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;

use super::{CoreMessage, CoreSink};
use crate::nats::{Client, LinkCounts, Message, Queue, SkipReason, Subscription};
use crate::store::connection::Link;
use crate::store::headers;

/// Messages that are handed over before others on this thread have their turn.
const SHARE: usize = 1_024;

/// The subscriptions, by the ids that the broker gives them. The task ends when this is dropped.
pub(super) struct Subscriptions {
    queue: Arc<Queue>,
    by_id: Mutex<HashMap<u64, Subscription>>,
}

impl Subscriptions {
    pub(super) fn start(link: &Link, sink: Arc<dyn CoreSink>) -> Arc<Self> {
        let queue = Queue::new(link.queue_limits());
        tokio::spawn(hand_over(Arc::clone(&queue), link.client.counts().clone(), sink));
        Arc::new(Self { queue, by_id: Mutex::new(HashMap::new()) })
    }

    pub(super) fn subscribe(&self, client: &Client, subject: &str, group: Option<&str>, id: u64) {
        match client.subscribe_into(&self.queue, subject, group, id) {
            Ok(subscription) => {
                let before = self.by_id.lock().insert(id, subscription);
                drop(before);
            }
            Err(error) => tracing::error!(subject, %error, "cannot subscribe"),
        }
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let subscription = self.by_id.lock().remove(&id);
        drop(subscription);
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Hands over what comes, until nothing more can come.
async fn hand_over(queue: Arc<Queue>, counts: LinkCounts, sink: Arc<dyn CoreSink>) {
    let mut messages = Vec::new();
    while poll_fn(|cx| queue.poll_take(cx, SHARE, &mut |id, message| messages.push((id, message)))).await {
        for (id, message) in messages.drain(..) {
            if let Some(message) = converted(&message, &counts) {
                sink.message(id, message);
            }
        }
        sink.flush();
        // Others on this thread have waited.
        tokio::task::yield_now().await;
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
