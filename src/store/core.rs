//! The QoS 0 path: plain NATS messages out and in, on a connection that does not hear itself.
//!
//! Subscriptions share one queue, from which one task hands everything to one sink (`subscriptions`).
//! What sidecars ask of each other (`requests`) goes over another connection. `stand_in`: who listens to everything does not keep
//! others from hearing that nobody answers them.

mod message;
mod replies;
mod requests;
mod seals;
mod stand_in;
mod subscriptions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Headers;

pub use self::message::{CoreMessage, CoreSink};
pub use self::requests::{RequestError, Served};
pub(super) use self::seals::Seals;
use self::stand_in::StandIn;
use self::subscriptions::Subscriptions;
use super::connection::Link;
use super::error::Unavailable;
use crate::nats::{Outbound, PublishError};

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
    subscriptions: Arc<Subscriptions>,
    dropped: Arc<AtomicU64>,
    /// A subject that another connection of ours answers.
    echo: String,
}

impl CoreNats {
    pub(super) fn start(link: Link, requests: Link, seals: Seals, echo: &str, sink: Arc<dyn CoreSink>) -> Self {
        let subscriptions = Subscriptions::start(&link, sink, StandIn::new(&link, &requests));
        Self { link, requests, seals, subscriptions, dropped: Arc::new(AtomicU64::new(0)), echo: echo.to_owned() }
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
        let reply = reply.map(|reply| reply.as_bytes().as_ref());
        let message = Outbound { subject: subject.as_bytes(), reply, first: &[], headers, payload: &payload };
        self.link.client.try_publish(&message).map_err(|error| self.count(error))
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
        let reply = reply.map(|reply| reply.as_bytes().as_ref());
        let message = Outbound { subject: subject.as_bytes(), reply, first: &[], headers, payload: &payload };
        self.link.client.publish(&message).await.map_err(|error| self.count(error))
    }

    /// Subscribes; messages carry `id`, which no other subscription may have. With `queue`, one member of that group gets
    /// each message.
    pub fn subscribe(&self, subject: &str, queue: Option<&str>, id: u64) {
        self.subscriptions.subscribe(&self.link.client, subject, queue, id);
    }

    /// Ends a subscription; messages that are on their way are dropped.
    pub fn unsubscribe(&self, id: u64) {
        self.subscriptions.unsubscribe(id);
    }

    /// A round trip: all that was subscribed, unsubscribed and published before is known to the server when it returns.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn flush(&self) -> Result<(), Unavailable> {
        self.link.client.flush().await.map_err(Unavailable::new)
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

    /// How often the connection was lost: what was published meanwhile has not come.
    pub fn gaps(&self) -> u64 {
        self.link.losses()
    }

    fn count(&self, error: PublishError) -> Dropped {
        self.drop_for(match error {
            PublishError::TooLarge => Dropped::TooLarge,
            PublishError::Invalid(_) => Dropped::Invalid,
            PublishError::Full => Dropped::Full,
            PublishError::Disconnected => Dropped::Disconnected,
        })
    }

    fn drop_for(&self, why: Dropped) -> Dropped {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        why
    }
}
