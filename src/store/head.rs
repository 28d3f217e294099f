//! How far a stream is, read at its leader, one request for everybody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::api::{Api, ApiFailure, StreamState};
use super::error::Unavailable;

/// A leader that is behind is asked again for so long, and so often.
const BEHIND_PATIENCE: Duration = Duration::from_secs(3);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// Reads a stream's last sequence. Callers that come while a request is under way share the next one: what they get was
/// read after they asked.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    api: Api,
    stream: Arc<str>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Requests begun so far.
    begun: AtomicU64,
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    // Which request this is the answer of.
    request: u64,
    answer: Result<StreamState, ApiFailure>,
}

impl Head {
    pub(crate) fn new(api: Api, stream: Arc<str>) -> Self {
        let latest = Latest { request: 0, answer: Err(ApiFailure::Other("not yet read".to_owned())) };
        Self { api, stream, shared: Arc::new(Shared { begun: AtomicU64::new(0), latest: Mutex::new(latest) }) }
    }

    /// The state of the stream at some moment after the call.
    pub(crate) async fn read(&self) -> Result<StreamState, Unavailable> {
        Ok(self.try_read().await?)
    }

    /// The same, with what went wrong.
    pub(crate) async fn try_read(&self) -> Result<StreamState, ApiFailure> {
        let before = self.shared.begun.load(Ordering::Acquire);
        let mut latest = self.shared.latest.lock().await;
        if latest.request > before {
            return latest.answer.clone();
        }
        let request = self.shared.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let answer = self.ask().await;
        *latest = Latest { request, answer: answer.clone() };
        answer
    }

    /// Asks until a leader answers that knows as much as we do, for a while.
    async fn ask(&self) -> Result<StreamState, ApiFailure> {
        let deadline = Instant::now() + BEHIND_PATIENCE;
        loop {
            match self.api.stream_state(&self.stream).await {
                Err(ApiFailure::Behind) if Instant::now() < deadline => tokio::time::sleep(BEHIND_PAUSE).await,
                answer => return answer,
            }
        }
    }
}
