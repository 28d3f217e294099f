//! The QoS 0 path: plain NATS messages out and in, on a connection that does not hear itself.
//!
//! A subscription costs no task: one task polls those that have something (`subscriptions`). Everything arrives at one sink.
//! What sidecars ask of each other (`requests`) goes over another connection.

mod replies;
mod requests;
mod seals;
mod subscriptions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{PublishErrorKind, RequestErrorKind, client::Request};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::FutureExt;
use proto_map::Headers;
use tokio::sync::{mpsc, oneshot};

pub use self::requests::{RequestError, Served};
pub(super) use self::seals::Seals;
use self::subscriptions::Command;
use super::connection::Link;
use super::error::Unavailable;
use super::headers;

/// How long a round trip may take.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(5);

/// A message that a subscription got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreMessage {
    /// Its subject.
    pub subject: ByteString,
    /// Its headers.
    pub headers: Option<Headers>,
    /// Its payload.
    pub payload: Bytes,
    /// Where an answer is expected.
    pub reply: Option<ByteString>,
    /// A status that the server sends instead of a message: 503 when nobody listens to a request.
    pub status: Option<u16>,
}

/// Gets the messages of all subscriptions. Must not block.
pub trait CoreSink: Send + Sync {
    /// One message of one subscription; in order within a subscription.
    fn message(&self, subscription_id: u64, message: CoreMessage);
    /// What was there has been handed over: time to wake whoever waits.
    fn flush(&self);
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// There is no connection to NATS; QoS 0 does not wait for one.
    #[error("not connected to NATS")]
    Disconnected,
    /// The queue to the socket is full.
    #[error("the queue to NATS is full")]
    Full,
    /// Larger than the server takes.
    #[error("larger than NATS takes")]
    TooLarge,
    /// The subject or a header cannot be sent.
    #[error("not a valid NATS message")]
    Invalid,
}

/// Plain NATS for one account.
#[derive(Clone)]
pub struct CoreNats {
    link: Link,
    requests: Link,
    seals: Seals,
    commands: mpsc::UnboundedSender<Command>,
    dropped: Arc<AtomicU64>,
    /// A subject that another connection of ours answers.
    echo: String,
}

impl CoreNats {
    pub(super) fn start(link: Link, requests: Link, seals: Seals, echo: &str, sink: Arc<dyn CoreSink>) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        // Without the runtime's budget, which would end a turn after 128 messages; the task yields by itself.
        tokio::spawn(tokio::task::unconstrained(subscriptions::run(link.client.clone(), inbox, sink)));
        Self { link, requests, seals, commands, dropped: Arc::new(AtomicU64::new(0)), echo: echo.to_owned() }
    }

    /// Publishes, or drops and counts. Never waits.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn publish(
        &self,
        subject: &ByteString,
        reply: Option<&ByteString>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<(), Dropped> {
        let message = self.outbound(subject, reply, headers, payload)?;
        match tokio::task::unconstrained(self.link.client.publish_message(message)).now_or_never() {
            Some(result) => result.map_err(|error| self.count(&error)),
            None => Err(self.drop_for(Dropped::Full)),
        }
    }

    /// Publishes; waits while the queue to the socket is full.
    ///
    /// # Errors
    /// Why it was dropped.
    pub async fn publish_wait(
        &self,
        subject: &ByteString,
        reply: Option<&ByteString>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<(), Dropped> {
        let message = self.outbound(subject, reply, headers, payload)?;
        self.link.client.publish_message(message).await.map_err(|error| self.count(&error))
    }

    /// Subscribes; messages carry `id`, which no other subscription may have. With `queue`, one member of that group gets
    /// each message.
    pub fn subscribe(&self, subject: &str, queue: Option<&str>, id: u64) {
        let command = Command::Subscribe { subject: subject.to_owned(), queue: queue.map(str::to_owned), id };
        // The receiving task lives as long as this.
        let _ = self.commands.send(command);
    }

    /// Ends a subscription; messages that are on their way are dropped.
    pub fn unsubscribe(&self, id: u64) {
        let _ = self.commands.send(Command::Unsubscribe { id });
    }

    /// A round trip: all that was subscribed, unsubscribed and published before is known to the server when it returns.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn flush(&self) -> Result<(), Unavailable> {
        let (tx, rx) = oneshot::channel();
        let _ = self.commands.send(Command::Barrier { done: tx });
        rx.await.map_err(|_| Unavailable::new("the store is closed"))?;
        if !self.link.is_connected() {
            return Err(Unavailable::new("not connected"));
        }
        // Answered by another connection of ours, or by the server when that one is away: after all that came before.
        let request = Request::new().payload(Bytes::new()).timeout(Some(ROUND_TRIP_MAX));
        match self.link.client.send_request(self.echo.clone(), request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    /// Largest message that the server takes, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        self.link.client.max_payload()
    }

    /// Messages that `publish` and `publish_wait` dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Messages for us that were dropped because a subscription had too many waiting; at least so many.
    pub fn overflows(&self) -> u64 {
        self.link.overflows()
    }

    fn outbound(
        &self,
        subject: &ByteString,
        reply: Option<&ByteString>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<OutboundMessage, Dropped> {
        // async-nats would keep it and send it after the reconnect, seconds or hours late.
        if !self.link.is_connected() {
            return Err(self.drop_for(Dropped::Disconnected));
        }
        let headers = headers::outgoing(headers).map_err(|_| self.drop_for(Dropped::Invalid))?;
        let reply = reply.map(|reply| headers::subject(reply.clone()));
        Ok(OutboundMessage { subject: headers::subject(subject.clone()), reply, headers, payload })
    }

    fn count(&self, error: &async_nats::PublishError) -> Dropped {
        self.drop_for(match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Dropped::TooLarge,
            PublishErrorKind::InvalidSubject => Dropped::Invalid,
            PublishErrorKind::Send => Dropped::Disconnected,
        })
    }

    fn drop_for(&self, why: Dropped) -> Dropped {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        why
    }
}
