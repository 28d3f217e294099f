//! Requests between sidecars: asked and served over plain NATS, apart from the messages of devices, so that a flood of those
//! does not hold them up. A request that nobody serves fails soon.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Headers;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{CoreNats, Dropped};
use crate::nats::{Message, Outbound, RequestFailure};
use crate::store::error::Unavailable;

/// Requests that one service works on at the same time; what comes then waits in the subscription's queue.
const SERVED_MAX: usize = 256;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves the subject.
    #[error("nobody serves this")]
    Nobody,
    /// Somebody may be working on it.
    #[error("no answer in time")]
    TimedOut,
    /// NATS cannot be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A subject being served. It ends when this is dropped.
#[derive(Debug)]
pub struct Served {
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CoreNats {
    /// Asks the sidecar that serves a subject. What somebody else answers is no answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let (headers, nonce) = self.seals.request(subject, &payload);
        let answer = self.ask(subject, &headers, payload, timeout).await?;
        if self.seals.is_answer(&answer, &nonce).await {
            return Ok(answer.payload_bytes());
        }
        Err(Unavailable::new("the answer is no sidecar's").into())
    }

    /// Tells those who serve a subject; nobody answers.
    ///
    /// # Errors
    /// Why it was not sent.
    pub fn tell(&self, subject: &str, payload: Bytes) -> Result<(), Dropped> {
        let (headers, _) = self.seals.request(subject, &payload);
        self.publish(&ByteString::from(subject), None, &headers, payload)
    }

    /// Whether somebody answers on an echo subject, in time.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub(super) async fn hear_echo(&self, subject: &str, timeout: Duration) -> Result<(), RequestError> {
        self.ask(subject, &Headers::new(), Bytes::new(), timeout).await.map(|_| ())
    }

    async fn ask(
        &self,
        subject: &str,
        headers: &Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let request = Outbound { headers, ..Outbound::plain(subject, &payload) };
        match Box::pin(self.requests.client.request(request, timeout)).await {
            Ok(answer) => Ok(answer),
            Err(RequestFailure::NoResponders | RequestFailure::Unserved) => Err(RequestError::Nobody),
            Err(RequestFailure::TimedOut) => Err(RequestError::TimedOut),
            Err(failure) => Err(Unavailable::new(failure).into()),
        }
    }

    /// Serves a subject for sidecars: what `handler` returns is the answer, `None` is none. Who does not ask for one gets none,
    /// and what is no sidecar's request is not handled. When this returns, the server knows.
    ///
    /// # Errors
    /// When NATS cannot be asked to.
    pub async fn serve<F, Fut>(&self, subject: &str, handler: F) -> Result<Served, Unavailable>
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Bytes>> + Send + 'static,
    {
        let client = self.requests.client.clone();
        let subscriber = client.subscribe(subject, self.requests.queue_limits());
        let mut subscriber = subscriber.map_err(Unavailable::new)?;
        client.flush().await.map_err(Unavailable::new)?;
        let (workers, seals, handler) = (Arc::new(Semaphore::new(SERVED_MAX)), self.seals.clone(), Arc::new(handler));
        let tasks = self.requests.tasks.clone();
        let task = self.requests.tasks.spawn(async move {
            while let Some(message) = subscriber.next().await {
                let Ok(permit) = Arc::clone(&workers).acquire_owned().await else { return };
                let (client, seals, handler) = (client.clone(), seals.clone(), Arc::clone(&handler));
                tasks.spawn(async move {
                    let Some(asker) = seals.admit(&message).await else { return };
                    let (Some(answer), Some(subject)) = (handler(message.payload_bytes()).await, message.reply())
                    else {
                        return;
                    };
                    let headers = seals.answer(&asker, &answer);
                    let answer = Outbound { subject, reply: None, first: &[], headers: &headers, payload: &answer };
                    if let Err(error) = client.publish(&answer).await {
                        tracing::warn!(%error, "an answer to another sidecar was not sent");
                    }
                    drop(permit);
                });
            }
        });
        Ok(Served { task })
    }
}
