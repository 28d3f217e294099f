//! Requests between sidecars: asked and served over plain NATS, apart from the messages of devices, so that a flood of those
//! does not hold them up. A request that nobody serves fails at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{RequestErrorKind, client::Request};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::CoreNats;
use crate::store::error::Unavailable;

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
    /// Asks whoever serves a subject.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        if !self.requests.is_connected() {
            return Err(Unavailable::new("not connected").into());
        }
        let request = Request::new().payload(payload).timeout(Some(timeout));
        match self.requests.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::Nobody,
                RequestErrorKind::TimedOut => RequestError::TimedOut,
                _ => Unavailable::new(error).into(),
            }),
        }
    }

    /// Serves a subject: what `handler` returns is the answer, `None` is none. Who does not ask for one gets none. When this
    /// returns, the server knows.
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
        match self.request(&self.echo, Bytes::new(), NOTE_WITHIN).await {
            Ok(_) | Err(RequestError::Nobody) => {}
            Err(RequestError::TimedOut) => return Err(Unavailable::new("no answer in time")),
            Err(RequestError::Unavailable(error)) => return Err(error),
        }
        let workers = Arc::new(Semaphore::new(SERVED_MAX));
        let task = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let reply = message.reply;
                let Ok(permit) = Arc::clone(&workers).acquire_owned().await else { return };
                let (client, answer) = (client.clone(), handler(message.payload));
                tokio::spawn(async move {
                    if let (Some(answer), Some(reply)) = (answer.await, reply)
                        && let Err(error) = client.publish(reply, answer).await
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
