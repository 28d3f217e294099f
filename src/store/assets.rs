//! The streams that must exist, and the checks that say in one line why they cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use proto_map::StreamSpec;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::account_room::AccountRoom;
use super::api::{
    Api, ApiFailure, NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT, STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP,
    StreamInfo,
};
use super::error::OpenError;
use super::growth::{SHORT_KEY, Short};
use super::needs::Needs;
use super::shortage::Shortage;

/// How long JetStream may need to elect a leader when everything starts at once.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);
/// How long a server of the cluster may be late, or what it says of its room, before a stream is created with fewer replicas
/// than three, or smaller.
const PEERS_PATIENCE: Duration = Duration::from_secs(10);

/// Replicas of a stream where the cluster has as many servers, unless the operator says otherwise.
const REPLICAS: u8 = 3;

/// The oldest server that has all we use.
const SERVER_MIN: (u32, u32) = (2, 12);

/// JetStream errors that name a limit of account or server.
const LIMITS: [u32; 7] = [10002, 10023, 10026, 10027, 10028, 10047, 10120];
/// The least that a stream of ours may be limited to, bytes, where there is no room for what was configured.
const BYTES_MIN: u64 = 64 << 20;

/// Looks after the streams of one account.
#[derive(Clone, Debug)]
pub(crate) struct Assets {
    api: Api,
    // For the error about permissions.
    needs: Needs,
    replicas: Option<u8>,
    /// The replicas that the cluster has servers for, as far as we know, so that not every stream waits to find out.
    servers: Arc<AtomicU8>,
}

impl Assets {
    /// Checks that the server is new enough and the account has JetStream.
    pub(crate) async fn check(api: Api, needs: Needs, replicas: Option<u8>) -> Result<Self, OpenError> {
        check_version(&api.link.client.server_info().version)?;
        let assets = Self { api, needs, replicas, servers: Arc::new(AtomicU8::new(REPLICAS)) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match assets.api.call::<IgnoredAny>("INFO", "").await {
                Ok(_) => return Ok(assets),
                Err(failure) => assets.wait("account", &failure, deadline).await?,
            }
        }
    }

    /// Of an account that is not asked.
    pub(crate) fn unchecked(api: Api, needs: Needs) -> Self {
        Self { api, needs, replicas: None, servers: Arc::new(AtomicU8::new(REPLICAS)) }
    }

    /// Makes sure that a stream exists and is ours; any number of sidecars may do so at once.
    pub(crate) async fn ensure(&self, spec: &StreamSpec) -> Result<StreamInfo, OpenError> {
        self.ensure_with(spec, None).await
    }

    /// The same, with a number of replicas of its own. Where the cluster has fewer servers than the replicas that we would
    /// like, or account or server less room than configured, the stream is made with what there is, and a WARN says so.
    pub(crate) async fn ensure_with(&self, spec: &StreamSpec, own: Option<u8>) -> Result<StreamInfo, OpenError> {
        let stream = spec.name.as_str();
        let started = Instant::now();
        let given = own.or(self.replicas);
        let replicas = given.unwrap_or_else(|| self.servers.load(Ordering::Relaxed));
        let mut made = StreamSpec { replicas, ..spec.clone() };
        loop {
            // The configuration is always read back: a server that does not know a field drops it silently.
            let failure = match self.api.stream_info(stream).await {
                Ok(info) => return owned(spec, info),
                Err(failure) if failure.code() == STREAM_NOT_FOUND => match self.create(&made, spec).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            // Somebody else was faster, perhaps with other limits: the comparison decides.
            if failure.code() == STREAM_NAME_IN_USE {
                continue;
            }
            if let Some(shortage) = Shortage::of(&failure) {
                if shortage.may_pass() && started.elapsed() < PEERS_PATIENCE {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                if let Some(less) = self.less(&shortage, &made, spec, given.is_none()).await {
                    made = less;
                    continue;
                }
            }
            self.wait(stream, &failure, started + PATIENCE).await?;
        }
    }

    /// What to try instead of what was `refused`; `None`: nothing less is of use.
    async fn less(
        &self,
        shortage: &Shortage,
        refused: &StreamSpec,
        wanted: &StreamSpec,
        free: bool,
    ) -> Option<StreamSpec> {
        let replicas = refused.replicas.saturating_sub(1);
        let fewer = (free && replicas > 0).then(|| StreamSpec { replicas, ..wanted.clone() });
        match shortage {
            // What there was no room for three times may have room once.
            Shortage::Alone => fewer.map(|fewer| StreamSpec { replicas: 1, ..fewer }),
            Shortage::Room => with_less(refused, self.room(refused.replicas).await),
            // What the servers have left is not ours to ask. One of them may have nothing.
            Shortage::PeerRoom => with_less(refused, None).or(fewer),
            Shortage::Servers => fewer.inspect(|_| {
                self.servers.store(replicas, Ordering::Relaxed);
                tracing::warn!(
                    replicas,
                    "the cluster has too few servers for three replicas: streams are created with fewer; when there are more servers, use `nats stream edit --replicas 3`"
                );
            }),
        }
    }

    /// Creates a stream as it can be `made`, which may be less than was `wanted`.
    async fn create(&self, made: &StreamSpec, wanted: &StreamSpec) -> Result<(), ApiFailure> {
        let config = spec_of(made, wanted).to_json().to_string();
        self.api.call::<IgnoredAny>(&format!("STREAM.CREATE.{}", made.name), config).await?;
        let (stream, replicas) = (&*made.name, made.replicas);
        if made.max_bytes == wanted.max_bytes {
            tracing::info!(stream, replicas, "stream created");
        } else {
            let (bytes, wanted) = (made.max_bytes, wanted.max_bytes);
            tracing::warn!(
                stream,
                replicas,
                bytes,
                wanted,
                "stream created smaller than configured: account or server have no more room; raise their JetStream limits, and it grows"
            );
        }
        Ok(())
    }

    /// What the account has left for a stream of so many replicas, bytes; `None` when it has no limit, or does not say.
    async fn room(&self, replicas: u8) -> Option<u64> {
        let account = self.api.call::<AccountRoom>("INFO", "").await.ok()?;
        account.for_replicas(replicas)
    }

    /// Pauses before the next attempt, unless trying again cannot help or was tried long enough.
    async fn wait(&self, what: &str, failure: &ApiFailure, deadline: Instant) -> Result<(), OpenError> {
        if let Some(error) = self.configuration_error(what, failure) {
            return Err(error);
        }
        if Instant::now() >= deadline {
            return Err(OpenError::Unavailable { reason: format!("{what}: {failure}") });
        }
        tracing::warn!(%failure, "waiting for JetStream ({what})");
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    fn configuration_error(&self, what: &str, failure: &ApiFailure) -> Option<OpenError> {
        match failure {
            ApiFailure::NoResponders if !self.api.link.client.server_info().jetstream => {
                Some(OpenError::JetStreamDisabled)
            }
            ApiFailure::NoResponders | ApiFailure::Unserved | ApiFailure::Behind | ApiFailure::Other(_) => None,
            // A request that we may not send, or whose answer we may not receive, is answered by silence
            // and an error line on the connection.
            ApiFailure::TimedOut => self.needs.refused_on(&self.api.link),
            ApiFailure::Error(error) => match error.err_code {
                NOT_ENABLED => Some(OpenError::JetStreamDisabled),
                NOT_ENABLED_FOR_ACCOUNT => {
                    Some(OpenError::JetStreamDisabledForAccount { reason: error.description.clone() })
                }
                SUBJECTS_OVERLAP => Some(OpenError::ForeignStream {
                    stream: what.to_owned(),
                    differences: vec![format!("a stream of another name has its subjects ({})", error.description)],
                }),
                // 500 and above heals by waiting, except for limits.
                code if LIMITS.contains(&code) || (400..500).contains(&error.code) => {
                    Some(OpenError::Refused { stream: what.to_owned(), code, reason: error.description.clone() })
                }
                _ => None,
            },
        }
    }
}

/// What is created: it says of itself if it is smaller than was `wanted`.
fn spec_of(made: &StreamSpec, wanted: &StreamSpec) -> StreamSpec {
    let mut spec = made.clone();
    if let (Some(made), Some(wanted)) = (made.max_bytes, wanted.max_bytes)
        && made < wanted
    {
        spec.metadata.push((SHORT_KEY, Short { made, wanted }.text()));
    }
    spec
}

/// The stream with the limit that is tried next.
fn with_less(refused: &StreamSpec, room: Option<u64>) -> Option<StreamSpec> {
    let bytes = smaller(refused.max_bytes?, room)?;
    Some(StreamSpec { max_bytes: Some(bytes), ..refused.clone() })
}

/// The limit to try after `refused` was too much, in bytes: at most half of it, and of the room that is left, so that the
/// streams that come later have some. `None`: too little is left.
fn smaller(refused: u64, room: Option<u64>) -> Option<u64> {
    let bytes = (refused / 2).min(room.map_or(u64::MAX, |room| room / 2));
    (bytes >= BYTES_MIN).then_some(bytes)
}

/// The stream, if its configuration is what it must be.
fn owned(spec: &StreamSpec, info: StreamInfo) -> Result<StreamInfo, OpenError> {
    let differences = spec.differences(&info.config);
    if !differences.is_empty() {
        return Err(OpenError::ForeignStream { stream: spec.name.clone(), differences });
    }
    for warning in spec.warnings(&info.config) {
        tracing::warn!(stream = %spec.name, "{warning}");
    }
    Ok(info)
}

fn check_version(version: &str) -> Result<(), OpenError> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= SERVER_MIN {
        return Ok(());
    }
    Err(OpenError::ServerTooOld { found: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_too_large_leaves_room_for_those_that_come_later() {
        const GIB: u64 = 1 << 30;
        assert_eq!(smaller(4 * GIB, Some(GIB)), Some(GIB / 2), "the account says how much there is");
        assert_eq!(smaller(4 * GIB, None), Some(2 * GIB), "the server does not");
        assert_eq!(smaller(GIB, Some(8 * GIB)), Some(GIB / 2), "less than was refused, always");
        assert_eq!(smaller(100 << 20, None), None, "too little to be of use");
        assert_eq!(smaller(GIB, Some(10 << 20)), None);
    }

    #[test]
    fn servers_before_2_12_are_too_old() {
        assert!(check_version("2.12.0").is_ok());
        assert!(check_version("2.15.1-dev").is_ok());
        assert!(check_version("3.0.0").is_ok());
        assert!(check_version("2.11.9").is_err());
        assert!(check_version("").is_err());
    }
}
