//! What others hold of a link.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nats_wire::{Message, ServerInfo};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::counts::LinkCounts;
use super::error::{PublishError, RequestFailure};
use super::looks::Looks;
use super::outgoing::Outbound;
use super::queue::{Delivery, Entry, Queue};
use super::requests::{Asked, new_inbox};
use super::shared::{LinkState, Shared};

/// How long a round trip may take.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(5);

/// When it is looked first, and how rarely at last, whether there is anybody who can answer a request: a look is cheap, and
/// says what a silence does not, so it need not be long.
const LOOK_FIRST: Duration = Duration::from_millis(25);
const LOOK_LAST: Duration = Duration::from_millis(800);

/// A link. The connection is closed when the last clone and the last subscription are dropped.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    _held: Arc<Held>,
}

/// As long as there is one, somebody needs the link.
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.is_abandoned.store(true, Ordering::Release);
        self.0.task.wake();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.shared.options.name)
    }
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { _held: Arc::new(Held(Arc::clone(&shared))), shared }
    }

    /// A link that is never connected, to a server that would take messages up to this size.
    #[cfg(test)]
    pub(crate) fn unconnected(options: super::LinkOptions, max_payload: usize) -> Self {
        let shared = Shared::new(options);
        shared.learn(ServerInfo { max_payload, ..ServerInfo::default() });
        Self::new(shared)
    }

    /// Whether there is a connection, and the how manieth.
    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Ends the link now: what waits is not written any more, and nothing more is taken.
    pub(crate) fn close(&self) {
        self.shared.outgoing.lock().close();
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.is_abandoned.store(true, Ordering::Release);
        self.shared.task.wake();
    }

    /// What the server said of itself last.
    pub(crate) fn server_info(&self) -> Arc<ServerInfo> {
        Arc::clone(&self.shared.info.read())
    }

    /// Largest message that the server takes, header block included, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.shared.payload_max.load(Ordering::Relaxed)
    }

    /// Messages for us that this link dropped because too many waited.
    pub(crate) fn overflows(&self) -> u64 {
        self.shared.overflows.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> &LinkCounts {
        &self.shared.options.counts
    }

    /// Its name, as servers know it.
    pub(crate) fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// Says what a server says to who waits for an answer at `reply` when nobody listens to `subject`.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub(crate) fn say_no_responders(&self, reply: &[u8], subject: &[u8]) -> Result<(), PublishError> {
        self.shared.outgoing.lock().no_responders(reply, subject, self.shared.options.queue_max)?;
        self.shared.task.wake();
        Ok(())
    }

    /// First tokens of inboxes.
    pub(crate) fn inbox_prefix(&self) -> &str {
        &self.shared.options.inbox_prefix
    }

    /// A subject for answers that nobody can guess.
    pub(crate) fn new_inbox(&self) -> String {
        new_inbox(self.inbox_prefix())
    }

    /// Hands a message over, or says at once why not.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub(crate) fn try_publish(&self, message: &Outbound<'_>) -> Result<(), PublishError> {
        if self.shared.outgoing.lock().publish(message, self.shared.options.queue_max)? {
            self.shared.task.wake();
        }
        Ok(())
    }

    /// Hands a message over; waits while too much waits for the socket.
    ///
    /// # Errors
    /// See [`PublishError`]; never [`PublishError::Full`].
    pub(crate) async fn publish(&self, message: &Outbound<'_>) -> Result<(), PublishError> {
        loop {
            match self.try_publish(message) {
                Err(PublishError::Full) => {}
                result => return result,
            }
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // From here on it hears of room, also of what was made since.
            room.as_mut().enable();
            match self.try_publish(message) {
                Err(PublishError::Full) => room.await,
                result => return result,
            }
        }
    }

    /// Subscribes; messages go to a queue that others may go to as well, with a tag that says where from. With `group`, one
    /// member of that queue group gets each message. Without a connection the server hears of it when there is one.
    ///
    /// # Errors
    /// The subject cannot be subscribed to.
    pub(crate) fn subscribe_into(
        &self,
        queue: &Arc<Queue>,
        subject: &str,
        group: Option<&str>,
        tag: u64,
    ) -> Result<Subscription, PublishError> {
        let sid = self.add(Entry::new(subject, group, tag, Delivery::Queue(Arc::clone(queue))))?;
        Ok(Subscription::new(self.clone(), sid))
    }

    /// A round trip: when it returns, the server has dealt with everything that was handed over before, and what it sent
    /// before has come.
    ///
    /// # Errors
    /// There is no connection, it was lost, or the server does not answer.
    pub(crate) async fn flush(&self) -> Result<(), RequestFailure> {
        let (waits, pong) = oneshot::channel();
        {
            let mut outgoing = self.shared.outgoing.lock();
            if !outgoing.is_open {
                return Err(PublishError::Disconnected.into());
            }
            outgoing.ping(Some(waits));
        }
        self.shared.task.wake();
        match tokio::time::timeout(ROUND_TRIP_MAX, pong).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestFailure::Lost),
            Err(_) => Err(RequestFailure::TimedOut),
        }
    }

    /// Sends a message and waits for one answer. `message.reply` is not used. When nobody serves the subject, that is known
    /// soon, whoever else listens to it.
    ///
    /// # Errors
    /// See [`RequestFailure`].
    pub(crate) async fn request(&self, message: Outbound<'_>, within: Duration) -> Result<Message, RequestFailure> {
        self.listen_for_answers()?;
        let mut asked = self.shared.requests.ask();
        let reply = asked.reply.clone();
        let answer = async {
            self.publish(&Outbound { reply: Some(reply.as_bytes()), ..message }).await?;
            self.answer_of(message.subject, &mut asked.answer).await
        };
        let answer = tokio::time::timeout(within, answer).await.unwrap_or(Err(RequestFailure::TimedOut))?;
        if answer.payload().is_empty() && answer.status() == Some(503) {
            return Err(RequestFailure::NoResponders);
        }
        Ok(answer)
    }

    /// Waits for an answer as long as there is somebody to give it.
    async fn answer_of(
        &self,
        subject: &[u8],
        answer: &mut oneshot::Receiver<Message>,
    ) -> Result<Message, RequestFailure> {
        let (sent_at, mut pause) = (Instant::now(), LOOK_FIRST);
        loop {
            let is_unserved = async {
                tokio::time::sleep(pause).await;
                self.is_unserved(subject, sent_at).await
            };
            tokio::select! {
                biased;
                answer = &mut *answer => return answer.map_err(|_| RequestFailure::Lost),
                is_unserved = is_unserved => if is_unserved {
                    // Whoever has answered and left has answered before.
                    return answer.try_recv().map_err(|_| RequestFailure::Unserved);
                },
            }
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// What requests have found out about who serves their subjects.
    pub(super) fn looks(&self) -> &Mutex<Looks> {
        &self.shared.looks
    }

    /// A request that several answer.
    pub(super) fn ask_many(&self) -> Result<Asked<'_, mpsc::Receiver<Message>>, PublishError> {
        self.listen_for_answers()?;
        Ok(self.shared.requests.ask_many())
    }

    /// Subscribes to the inbox of answers, the first time.
    fn listen_for_answers(&self) -> Result<(), PublishError> {
        if self.shared.answers_sid.load(Ordering::Acquire) > 0 {
            return Ok(());
        }
        let sid = self.add(Entry::new(&self.shared.requests.subject(), None, 0, Delivery::Requests))?;
        if self.shared.answers_sid.compare_exchange(0, sid, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Somebody was faster.
            self.unsubscribe(sid);
        }
        Ok(())
    }

    fn add(&self, entry: Arc<Entry>) -> Result<u64, PublishError> {
        let sid = {
            let mut outgoing = self.shared.outgoing.lock();
            let mut table = self.shared.table.lock();
            let sid = table.add(Arc::clone(&entry));
            // Written also without a connection, to know that it can be; then it is gone with the next one.
            if let Err(error) = outgoing.subscribe(&entry.subject, entry.group.as_deref(), sid) {
                table.remove(sid);
                return Err(error.into());
            }
            if !outgoing.is_open {
                outgoing.close();
            }
            sid
        };
        self.shared.task.wake();
        Ok(sid)
    }

    pub(super) fn stop(&self, sid: u64) {
        let mut outgoing = self.shared.outgoing.lock();
        if outgoing.is_open {
            outgoing.unsubscribe(sid);
            drop(outgoing);
            self.shared.task.wake();
        }
    }

    pub(super) fn unsubscribe(&self, sid: u64) {
        {
            let mut outgoing = self.shared.outgoing.lock();
            if let Some(entry) = self.shared.table.lock().remove(sid) {
                entry.end();
                if outgoing.is_open {
                    outgoing.unsubscribe(sid);
                }
            }
        }
        self.shared.task.wake();
    }
}

/// A subscription. It ends when this is dropped; what waits of it then is not read any more.
#[derive(Debug)]
pub(crate) struct Subscription {
    client: Client,
    sid: u64,
}

impl Subscription {
    pub(super) fn new(client: Client, sid: u64) -> Self {
        Self { client, sid }
    }

    /// The server is told to send no more; what has come and what is on its way can be read.
    pub(super) fn stop(&self) {
        self.client.stop(self.sid);
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.unsubscribe(self.sid);
    }
}
