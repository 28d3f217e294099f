//! Requests to the JetStream API, as JSON over the api connection.
//!
//! Only what is needed is sent and read. Consumers are made and pulled from here; what they deliver is `reader`'s.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use tokio::time::Instant;

use super::ack::ApiError;
use super::connection::Link;
use super::error::Unavailable;
use super::horizon::{Horizons, Verdict};
use super::rooms::Rooms;
use super::time::rfc3339_ms;
use crate::nats::{Message, Outbound, RequestFailure};

/// How long an answer may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// JetStream error: no such stream.
pub(crate) const STREAM_NOT_FOUND: u32 = 10059;
/// JetStream error: JetStream is not enabled for the account.
pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u32 = 10039;
/// JetStream error: JetStream is not enabled.
pub(crate) const NOT_ENABLED: u32 = 10076;
/// JetStream error: the stream name is taken with another configuration.
pub(crate) const STREAM_NAME_IN_USE: u32 = 10058;
/// JetStream error: another stream has these subjects.
pub(crate) const SUBJECTS_OVERLAP: u32 = 10065;

/// A request that did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiFailure {
    /// JetStream says no.
    #[error("{} (error {})", .0.description, .0.err_code)]
    Error(ApiError),
    /// Nobody listens to the JetStream API.
    #[error("no responders on the JetStream API")]
    NoResponders,
    /// No answer, and nobody has the subject now; somebody may have taken it before.
    #[error("no answer, and no responders any more")]
    Unserved,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// Who has answered knows less of the stream than we have read or written: a leader of before, or one that is not ready.
    #[error("the leader of the stream is behind")]
    Behind,
    /// The connection cannot send it, or the answer is not what we know.
    #[error("{0}")]
    Other(String),
}

impl ApiFailure {
    /// JetStream's own error number, 0 without one.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Error(error) => error.err_code,
            Self::NoResponders | Self::Unserved | Self::TimedOut | Self::Behind | Self::Other(_) => 0,
        }
    }

    /// Whether this says that there is no JetStream for the account. Silence says nothing.
    pub(crate) fn says_none(&self) -> bool {
        match self {
            Self::NoResponders => true,
            Self::Error(error) => matches!(error.err_code, NOT_ENABLED | NOT_ENABLED_FOR_ACCOUNT),
            Self::Unserved | Self::TimedOut | Self::Behind | Self::Other(_) => false,
        }
    }
}

impl From<ApiFailure> for Unavailable {
    fn from(failure: ApiFailure) -> Self {
        Unavailable::new(failure)
    }
}

/// The JetStream API of one account.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) link: Link,
    /// What is known of streams, on any connection.
    pub(crate) horizons: Horizons,
    /// Whether streams have room.
    pub(crate) rooms: Rooms,
    /// The account has no JetStream, so that nothing is sent.
    pub(crate) is_absent: bool,
}

/// Part of an answer to STREAM.INFO and STREAM.CREATE.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StreamInfo {
    /// As it is, for the comparison with what it should be.
    pub(crate) config: serde_json::Value,
    /// When it was created: tells a stream from its successor of the same name.
    #[serde(default)]
    pub(crate) created: String,
    pub(crate) state: StreamState,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct StreamState {
    #[serde(default)]
    pub(crate) messages: u64,
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) first_seq: u64,
    #[serde(default)]
    pub(crate) last_seq: u64,
    #[serde(default)]
    pub(crate) consumer_count: u64,
}

/// Part of an answer about a consumer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) delivered: Delivered,
    #[serde(default)]
    pub(crate) num_pending: u64,
}

/// What a consumer has sent.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Delivered {
    #[serde(default)]
    pub(crate) consumer_seq: u64,
    #[serde(default)]
    pub(crate) stream_seq: u64,
}

#[derive(Deserialize)]
struct StoredMessage {
    message: StoredMessageBody,
}

/// A message as STREAM.MSG.GET gives it; `hdrs` and `data` are base64.
#[derive(Deserialize)]
pub(crate) struct StoredMessageBody {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) hdrs: Option<String>,
    #[serde(default)]
    pub(crate) data: Option<String>,
    pub(crate) time: String,
}

impl StoredMessageBody {
    /// Its headers.
    pub(crate) fn headers(&self) -> Result<proto_map::Headers, Unavailable> {
        Ok(super::headers::from_block(&decode(self.hdrs.as_deref())?))
    }

    /// Its payload.
    pub(crate) fn payload(&self) -> Result<Bytes, Unavailable> {
        Ok(decode(self.data.as_deref())?.into())
    }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, Unavailable> {
    let decoded = BASE64.decode(text.unwrap_or_default());
    decoded.map_err(|_| Unavailable::new("an answer of JetStream cannot be read"))
}

impl Api {
    /// Sends a request and reads the answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, verb: &str, body: impl Into<Bytes>) -> Result<T, ApiFailure> {
        let (subject, body, sent) = (format!("$JS.API.{verb}"), body.into(), Instant::now());
        let answer = self.request(Outbound::plain(&subject, &body), REQUEST_TIMEOUT).await?;
        let head: Head<'_> = serde_json::from_slice(answer.payload()).map_err(unreadable)?;
        if let Some(stamp_ms) = head.ts.as_deref().and_then(super::time::rfc3339_ms) {
            self.link.clock.observe(sent, stamp_ms);
        }
        if let Some(error) = head.error {
            self.link.errors.count(error.err_code);
            return Err(ApiFailure::Error(error));
        }
        serde_json::from_slice(answer.payload()).map_err(unreadable)
    }

    /// Sends any request. It fails at once when there is no connection, or when it is lost before the answer.
    pub(crate) async fn request(&self, request: Outbound<'_>, within: Duration) -> Result<Message, ApiFailure> {
        if self.is_absent {
            return Err(ApiFailure::NoResponders);
        }
        // Everything that waits for JetStream waits here, inside whatever needs it.
        Box::pin(self.link.client.request(request, within)).await.map_err(|failure| match failure {
            RequestFailure::NoResponders => ApiFailure::NoResponders,
            RequestFailure::Unserved => ApiFailure::Unserved,
            RequestFailure::TimedOut => ApiFailure::TimedOut,
            RequestFailure::Lost | RequestFailure::NotSent(_) => ApiFailure::Other(failure.to_string()),
        })
    }

    /// Several requests that belong together, given up when the connection is lost meanwhile.
    pub(crate) async fn unless_lost<T>(
        &self,
        request: impl Future<Output = Result<T, ApiFailure>>,
    ) -> Result<T, ApiFailure> {
        let mut state = self.link.state.clone();
        let epoch = state.borrow_and_update().epoch;
        tokio::select! {
            biased;
            answer = request => answer,
            _ = state.wait_for(|state| !state.connected || state.epoch != epoch) => {
                Err(ApiFailure::Other("the connection was lost".to_owned()))
            }
        }
    }

    /// State and configuration of a stream, from a leader that knows as much as we have read and written.
    pub(crate) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiFailure> {
        let highest = self.horizons.of(stream).highest();
        let info: StreamInfo = self.call(&format!("STREAM.INFO.{stream}"), Bytes::new()).await?;
        self.believe(stream, &info.created, info.state.last_seq, highest)?;
        Ok(info)
    }

    /// State of a stream, likewise.
    pub(crate) async fn stream_state(&self, stream: &str) -> Result<StreamState, ApiFailure> {
        #[derive(Deserialize)]
        struct Info {
            #[serde(default)]
            created: String,
            state: StreamState,
        }
        let highest = self.horizons.of(stream).highest();
        let info: Info = self.call(&format!("STREAM.INFO.{stream}"), Bytes::new()).await?;
        self.believe(stream, &info.created, info.state.last_seq, highest)?;
        Ok(info.state)
    }

    /// Whether an answer that says so of a stream knows as much as we did when we asked.
    pub(crate) fn believe(&self, stream: &str, created: &str, last: u64, highest: u64) -> Result<(), ApiFailure> {
        let created_ms = rfc3339_ms(created).unwrap_or(0);
        match self.horizons.of(stream).judge(created_ms, last, highest, Instant::now()) {
            Verdict::Knows | Verdict::Another | Verdict::Cut => Ok(()),
            Verdict::Behind => Err(ApiFailure::Behind),
        }
    }

    /// How far a consumer is.
    pub(crate) async fn consumer_info(&self, stream: &str, name: &str) -> Result<ConsumerInfo, ApiFailure> {
        self.call(&format!("CONSUMER.INFO.{stream}.{name}"), Bytes::new()).await
    }

    /// The first message at or after a sequence, from the leader; `None` when there is none.
    pub(crate) async fn message_from(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        self.next_message(stream, sequence, ">").await
    }

    /// The first message of a subject at or after a sequence, from the leader; `None` when there is none.
    pub(crate) async fn next_message(
        &self,
        stream: &str,
        sequence: u64,
        subject: &str,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        self.known_message(stream, sequence.saturating_sub(1), &json!({ "seq": sequence, "next_by_subj": subject }))
            .await
    }

    /// The last message of a subject, from the leader; `None` when there is none.
    pub(crate) async fn last_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        self.message(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The message with a sequence, from the leader; `None` when it is not there.
    pub(crate) async fn message_at(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        self.known_message(stream, sequence, &json!({ "seq": sequence })).await
    }

    /// Removes the messages of a subject, which can have wildcards, up to and including a sequence, or all of them.
    pub(crate) async fn purge(&self, stream: &str, subject: &str, through: Option<u64>) -> Result<(), ApiFailure> {
        let body = match through {
            Some(through) => json!({ "filter": subject, "seq": through.saturating_add(1) }),
            None => json!({ "filter": subject }),
        };
        let body = body.to_string();
        self.call::<IgnoredAny>(&format!("STREAM.PURGE.{stream}"), body).await.map(|_| ())
    }

    /// A message. That there is none is believed only of a leader that knows as much as we do, and `exists`, a sequence that
    /// somebody has seen.
    async fn known_message(
        &self,
        stream: &str,
        exists: u64,
        request: &serde_json::Value,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        let found = self.message(stream, request).await?;
        let horizon = self.horizons.of(stream);
        if let Some(stored) = &found {
            horizon.note(stored.seq);
            return Ok(found);
        }
        let state = self.stream_state(stream).await?;
        if !horizon.is_absence_believed(exists, state.last_seq, Instant::now()) {
            return Err(ApiFailure::Behind);
        }
        // Who said so before may have been another one.
        self.message(stream, request).await
    }

    async fn message(
        &self,
        stream: &str,
        request: &serde_json::Value,
    ) -> Result<Option<StoredMessageBody>, ApiFailure> {
        match self.call::<StoredMessage>(&format!("STREAM.MSG.GET.{stream}"), request.to_string()).await {
            Ok(stored) => Ok(Some(stored.message)),
            Err(ApiFailure::Error(error)) if error.code == 404 && error.err_code != STREAM_NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Reads the answer to STREAM.MSG.GET; `None` when there is no such message.
pub(crate) fn stored_message(answer: &[u8]) -> Result<Option<StoredMessageBody>, ApiFailure> {
    let head: Head<'_> = serde_json::from_slice(answer).map_err(unreadable)?;
    match head.error {
        Some(error) if error.code == 404 && error.err_code != STREAM_NOT_FOUND => Ok(None),
        Some(error) => Err(ApiFailure::Error(error)),
        None => Ok(Some(serde_json::from_slice::<StoredMessage>(answer).map_err(unreadable)?.message)),
    }
}

/// What any answer may have.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default)]
    error: Option<ApiError>,
    /// When it was made.
    #[serde(default, borrow)]
    ts: Option<Cow<'a, str>>,
}

fn unreadable(error: serde_json::Error) -> ApiFailure {
    ApiFailure::Other(format!("an answer of JetStream cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_jetstream_is_said_and_never_concluded_from_silence() {
        let error = |code, err_code| ApiFailure::Error(ApiError { code, err_code, description: String::new() });
        for (failure, says_none) in [
            (error(503, NOT_ENABLED_FOR_ACCOUNT), true),
            (error(503, NOT_ENABLED), true),
            (ApiFailure::NoResponders, true),
            (error(503, 10008), false),
            (error(404, STREAM_NOT_FOUND), false),
            (ApiFailure::Unserved, false),
            (ApiFailure::TimedOut, false),
            (ApiFailure::Behind, false),
            (ApiFailure::Other("the connection was lost".to_owned()), false),
        ] {
            assert_eq!(failure.says_none(), says_none, "{failure}");
        }
    }
}
