//! Subscriptions with a queue of their own, and its reader.

use std::future::poll_fn;
use std::sync::Arc;

use nats_wire::Message;

use super::client::{Client, Subscription};
use super::error::PublishError;
use super::queue::{Queue, QueueLimits};

impl Client {
    /// Subscribes to a subject, with a queue of its own.
    ///
    /// # Errors
    /// The subject cannot be subscribed to.
    pub(crate) fn subscribe(&self, subject: &str, limits: QueueLimits) -> Result<Subscriber, PublishError> {
        self.subscribe_all(&[subject], limits)
    }

    /// Subscribes to several subjects, with a queue for all of them.
    ///
    /// # Errors
    /// One of them cannot be subscribed to.
    pub(crate) fn subscribe_all(&self, subjects: &[&str], limits: QueueLimits) -> Result<Subscriber, PublishError> {
        let queue = Queue::new(limits);
        let subscriptions = subjects.iter().map(|subject| self.subscribe_into(&queue, subject, None, 0));
        let subscriptions = subscriptions.collect::<Result<_, _>>()?;
        Ok(Subscriber::new(queue, subscriptions))
    }
}

/// Reads the messages of one subscription, or of several together.
#[derive(Debug)]
pub(crate) struct Subscriber {
    queue: Arc<Queue>,
    subscriptions: Vec<Subscription>,
    /// Taken from the queue already.
    taken: Vec<Message>,
}

impl Subscriber {
    pub(super) fn new(queue: Arc<Queue>, subscriptions: Vec<Subscription>) -> Self {
        Self { queue, subscriptions, taken: Vec::new() }
    }

    /// Waits for messages and appends all that are there, at most `max`; `false` when none is there and none will come.
    /// Cancelling loses nothing.
    pub(crate) async fn receive(&mut self, out: &mut Vec<Message>, max: usize) -> bool {
        if !self.taken.is_empty() {
            out.append(&mut self.taken);
            return true;
        }
        poll_fn(|cx| self.queue.poll_take(cx, max, &mut |_, message| out.push(message))).await
    }

    /// Appends messages that are there already, at most `max`; how many.
    pub(crate) fn receive_now(&mut self, out: &mut Vec<Message>, max: usize) -> usize {
        let before = out.len();
        out.append(&mut self.taken);
        self.queue.take_now(max, &mut |_, message| out.push(message));
        out.len() - before
    }

    /// The next message; `None` when none will come.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let taken = &mut self.taken;
        if taken.is_empty() && !poll_fn(|cx| self.queue.poll_take(cx, 1, &mut |_, message| taken.push(message))).await {
            return None;
        }
        (!self.taken.is_empty()).then(|| self.taken.remove(0))
    }

    /// Ends the subscriptions and appends what was on its way: all that the server had sent when it took note. Without a
    /// connection that is what is here.
    pub(crate) async fn drain(mut self, out: &mut Vec<Message>) {
        for subscription in &self.subscriptions {
            subscription.stop();
        }
        if let Some(subscription) = self.subscriptions.first() {
            // The answer comes behind whatever was sent before.
            let _ = subscription.client().flush().await;
        }
        self.receive_now(out, usize::MAX);
    }
}
