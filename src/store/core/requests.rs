//! Requests between sidecars: asked and served over plain NATS, apart from the messages of devices, so that a flood of those
//! does not hold them up. A request that nobody serves fails at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, RequestErrorKind, client::Request};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{CoreNats, Dropped};
use crate::store::error::Unavailable;
use crate::store::headers;

/// Requests that one service works on at the same time; what comes then waits in the subscription's queue.
const SERVED_MAX: usize = 256;
/// How long the server may take to take note of a service.
const NOTE_WITHIN: Duration = Duration::from_secs(5);

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
        let (headers, nonce) = self.seals.request(subject, &payload).map_err(Unavailable::new)?;
        let request = Request::new().payload(payload).headers(headers).timeout(Some(timeout));
        let answer = self.ask(subject, request).await?;
        if self.seals.is_answer(&answer, &nonce).await {
            return Ok(answer.payload);
        }
        Err(Unavailable::new("the answer is no sidecar's").into())
    }

    /// Tells those who serve a subject; nobody answers.
    ///
    /// # Errors
    /// Why it was not sent.
    pub fn tell(&self, subject: &str, payload: Bytes) -> Result<(), Dropped> {
        let (headers, _) = self.seals.request(subject, &payload).map_err(|_| Dropped::Invalid)?;
        let headers = headers::incoming(Some(&headers)).unwrap_or_default();
        self.publish(&ByteString::from(subject), None, &headers, payload)
    }

    /// Whether somebody answers on an echo subject, in time.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub(super) async fn hear_echo(&self, subject: &str, timeout: Duration) -> Result<(), RequestError> {
        self.ask(subject, Request::new().payload(Bytes::new()).timeout(Some(timeout))).await.map(|_| ())
    }

    async fn ask(&self, subject: &str, request: Request) -> Result<Message, RequestError> {
        if !self.requests.is_connected() {
            return Err(Unavailable::new("not connected").into());
        }
        match self.requests.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::Nobody,
                RequestErrorKind::TimedOut => RequestError::TimedOut,
                _ => Unavailable::new(error).into(),
            }),
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
        let mut subscriber = client.subscribe(subject.to_owned()).await.map_err(Unavailable::new)?;
        // Answered after all that came before on this connection, by whomever.
        match self.hear_echo(&self.echo, NOTE_WITHIN).await {
            Ok(_) | Err(RequestError::Nobody) => {}
            Err(RequestError::TimedOut) => return Err(Unavailable::new("no answer in time")),
            Err(RequestError::Unavailable(error)) => return Err(error),
        }
        let (workers, seals, handler) = (Arc::new(Semaphore::new(SERVED_MAX)), self.seals.clone(), Arc::new(handler));
        let task = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let Ok(permit) = Arc::clone(&workers).acquire_owned().await else { return };
                let (client, seals, handler) = (client.clone(), seals.clone(), Arc::clone(&handler));
                tokio::spawn(async move {
                    let Some(asker) = seals.admit(&message).await else { return };
                    let (reply, answer) = (message.reply, handler(message.payload));
                    if let (Some(answer), Some(reply)) = (answer.await, reply)
                        && let Err(error) =
                            client.publish_with_headers(reply, seals.answer(&asker, &answer), answer).await
                    {
                        tracing::warn!(%error, "an answer to another sidecar was not sent");
                    }
                    drop(permit);
                });
            }
        });
        Ok(Served { task })
    }
}
