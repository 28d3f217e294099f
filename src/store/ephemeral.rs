//! The consumers of readers: made when one begins to read, and given up when it ends.
//!
//! **Invariant:** a consumer that the server has, or may make yet, is given up when nobody holds it any more. nats-server handles
//! the requests of one connection side by side, so that a request to delete it can overtake the one to make it, and a PONG says
//! nothing of either: it is deleted after the answer to its making, and it is gone when that is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::api::{Api, ApiFailure, ConsumerInfo, REQUEST_TIMEOUT};
use super::time::rfc3339;
use crate::nats::Outbound;

/// Where a consumer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deliver<'a> {
    /// At this sequence.
    From(u64),
    /// With the last message of every subject below this prefix.
    LastPerSubject(&'a str),
}

#[derive(Serialize)]
struct ConsumerCreate<'a> {
    stream_name: &'a str,
    action: &'static str,
    config: ConsumerConfig<'a>,
}

#[derive(Serialize)]
struct ConsumerConfig<'a> {
    name: &'a str,
    description: &'static str,
    deliver_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_subject: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    filter_subjects: &'a [String],
    ack_policy: &'static str,
    replay_policy: &'static str,
    inactive_threshold: u64,
    mem_storage: bool,
    num_replicas: u8,
    max_waiting: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    headers_only: bool,
}

/// A consumer of a reader. It is given up when this is dropped.
pub(crate) struct Ephemeral {
    api: Api,
    stream: Arc<str>,
    name: String,
}

impl Ephemeral {
    /// Makes one. Whoever does not wait for it any more leaves it to its making, which gives it up.
    ///
    /// # Errors
    /// The server did not make it, or has not said so.
    pub(crate) async fn make(
        api: &Api,
        stream: Arc<str>,
        name: String,
        config: impl Into<Bytes>,
    ) -> Result<(Self, ConsumerInfo), ApiFailure> {
        let (answers, answer) = oneshot::channel();
        let (verb, config, api) = (format!("CONSUMER.CREATE.{stream}.{name}"), config.into(), api.clone());
        api.link.last_words.clone().spawn(async move {
            let made = api.call(&verb, config).await;
            // What was not answered may be there all the same.
            let consumer = (!matches!(made, Err(ApiFailure::Error(_)))).then_some(Self { api, stream, name });
            let _ = answers.send(made.map(|info| (consumer, info)));
        });
        match answer.await {
            Ok(Ok((Some(consumer), info))) => Ok((consumer, info)),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok((None, _))) | Err(_) => Err(ApiFailure::Other("the account is closed".to_owned())),
        }
    }

    /// Its name on the server.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let (api, subject) = (self.api.clone(), format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.name));
        // Without an answer it goes by itself when it is inactive, so nobody asks again.
        api.link.last_words.clone().spawn(async move {
            let _ = api.request(Outbound::plain(&subject, &Bytes::new()), REQUEST_TIMEOUT).await;
        });
    }
}

impl Api {
    /// Creates a consumer that goes away by itself: pull, no acknowledgements, one replica in memory.
    pub(crate) async fn create_reader(
        &self,
        stream: &Arc<str>,
        purpose: &str,
        deliver: Deliver<'_>,
        filters: &[String],
        headers_only: bool,
        inactive: Duration,
    ) -> Result<(Ephemeral, ConsumerInfo), ApiFailure> {
        let name = &format!("nmq-{purpose}-{:016x}", rand::random::<u64>());
        let (filter_subject, filter_subjects) = match filters {
            [] => (None, &[] as &[String]),
            [filter] => (Some(filter.clone()), &[] as &[String]),
            filters => (None, filters),
        };
        let (deliver_policy, opt_start_seq, filter_subject) = match deliver {
            Deliver::From(sequence) => ("by_start_sequence", Some(sequence.max(1)), filter_subject),
            // This policy insists on a filter; one that is all of the stream costs nothing.
            Deliver::LastPerSubject(prefix) => {
                let all = || filters.is_empty().then(|| format!("{prefix}>"));
                ("last_per_subject", None, filter_subject.or_else(all))
            }
        };
        let config = ConsumerConfig {
            name,
            description: "nats-mqtt reader",
            deliver_policy,
            opt_start_seq,
            filter_subject,
            filter_subjects,
            ack_policy: "none",
            replay_policy: "instant",
            inactive_threshold: u64::try_from(inactive.as_nanos()).unwrap_or(u64::MAX),
            mem_storage: true,
            num_replicas: 1,
            max_waiting: 64,
            headers_only,
        };
        let body = serde_json::to_vec(&ConsumerCreate { stream_name: stream, action: "create", config })
            .map_err(|error| ApiFailure::Other(error.to_string()))?;
        Ephemeral::make(self, Arc::clone(stream), name.clone(), body).await
    }

    /// The first sequence that was stored at a time or later. JetStream says it when a consumer is to start there.
    pub(crate) async fn sequence_at(&self, stream: &str, time_ms: u64) -> Result<u64, ApiFailure> {
        let name = format!("nmq-at-{:016x}", rand::random::<u64>());
        let config = json!({
            "name": name,
            "description": "nats-mqtt reader",
            "deliver_policy": "by_start_time",
            "opt_start_time": rfc3339(time_ms),
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": 5_000_000_000_u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let body = json!({ "stream_name": stream, "action": "create", "config": config }).to_string();
        let (_consumer, info) = Ephemeral::make(self, Arc::from(stream), name, body).await?;
        Ok(info.delivered.stream_seq + 1)
    }
}
