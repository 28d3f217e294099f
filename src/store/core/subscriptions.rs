//! One task for any number of subscriptions.
//!
//! Each subscription has a waker of its own that puts it on a list; the task polls what is on the list, each until it has
//! nothing more or has had its share. So an idle subscription costs nothing, and a busy one is drained in one go.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use async_nats::{Client, Message, Subscriber};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{CoreMessage, CoreSink};
use crate::store::headers;

/// Messages of one subscription in one turn.
const SHARE: usize = 1_024;

pub(super) enum Command {
    Subscribe { subject: String, queue: Option<String>, id: u64 },
    Unsubscribe { id: u64 },
    Barrier { done: oneshot::Sender<()> },
}

/// Subscriptions that may have something.
#[derive(Default)]
struct Ready {
    ids: Mutex<Vec<u64>>,
    any: Notify,
}

/// Wakes one subscription.
struct Slot {
    id: u64,
    listed: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.ready.ids.lock().push(self.id);
            self.ready.any.notify_one();
        }
    }
}

struct Subscription {
    subscriber: Subscriber,
    slot: Arc<Slot>,
    waker: Waker,
}

pub(super) async fn run(client: Client, mut commands: mpsc::UnboundedReceiver<Command>, sink: Arc<dyn CoreSink>) {
    let ready = Arc::new(Ready::default());
    let mut subscriptions: HashMap<u64, Subscription> = HashMap::new();
    let mut turn = Vec::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                None => return,
                Some(command) => handle(command, &client, &ready, &mut subscriptions).await,
            },
            () = ready.any.notified() => {
                std::mem::swap(&mut turn, &mut *ready.ids.lock());
                let mut handed_over = false;
                for id in turn.drain(..) {
                    if let Some(subscription) = subscriptions.get_mut(&id) {
                        handed_over |= subscription.drain(&*sink);
                    }
                }
                if handed_over {
                    sink.flush();
                    // Others on this thread have waited.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

async fn handle(command: Command, client: &Client, ready: &Arc<Ready>, subscriptions: &mut HashMap<u64, Subscription>) {
    match command {
        Command::Subscribe { subject, queue, id } => {
            let result = match queue {
                Some(queue) => client.queue_subscribe(subject.clone(), queue).await,
                None => client.subscribe(subject.clone()).await,
            };
            match result {
                Ok(subscriber) => {
                    let slot = Arc::new(Slot { id, listed: AtomicBool::new(false), ready: Arc::clone(ready) });
                    let waker = Waker::from(Arc::clone(&slot));
                    // The first poll leaves the waker with the channel.
                    waker.wake_by_ref();
                    subscriptions.insert(id, Subscription { subscriber, slot, waker });
                }
                Err(error) => tracing::error!(%subject, %error, "cannot subscribe"),
            }
        }
        Command::Unsubscribe { id } => {
            if let Some(mut subscription) = subscriptions.remove(&id) {
                let _ = subscription.subscriber.unsubscribe().await;
            }
        }
        Command::Barrier { done } => {
            let _ = done.send(());
        }
    }
}

impl Subscription {
    /// Hands over what is there, up to its share; returns whether there was anything.
    fn drain(&mut self, sink: &dyn CoreSink) -> bool {
        // Before the poll: a message that comes during it lists the subscription again.
        self.slot.listed.store(false, Ordering::Release);
        let mut cx = Context::from_waker(&self.waker);
        for count in 0..SHARE {
            match Pin::new(&mut self.subscriber).poll_next(&mut cx) {
                Poll::Ready(Some(message)) => sink.message(self.slot.id, converted(message)),
                // The connection is closed; `Unsubscribe` will remove it.
                Poll::Ready(None) | Poll::Pending => return count > 0,
            }
        }
        self.waker.wake_by_ref();
        true
    }
}

fn converted(message: Message) -> CoreMessage {
    CoreMessage {
        status: headers::status(&message),
        headers: headers::incoming(message.headers.as_ref()),
        subject: headers::text(message.subject),
        payload: message.payload,
        reply: message.reply.map(headers::text),
    }
}
