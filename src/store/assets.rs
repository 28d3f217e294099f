//! The streams that must exist, and the checks that say in one line why they cannot.

use std::time::Duration;

use proto_map::StreamSpec;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::api::{
    Api, ApiFailure, NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT, STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP,
    StreamInfo,
};
use super::error::OpenError;
use super::permissions::Needs;

/// How long JetStream may need to elect a leader when everything starts at once.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);
/// How long a server of the cluster may be late before a stream is created with fewer replicas than three.
const PEERS_PATIENCE: Duration = Duration::from_secs(10);

/// The oldest server that has all we use.
const SERVER_MIN: (u32, u32) = (2, 12);

/// JetStream error: replicas in a server that is not clustered.
const REPLICAS_NOT_SUPPORTED: u32 = 10074;
/// JetStream error: not enough servers for the replicas.
const NO_SUITABLE_PEERS: u32 = 10005;
/// JetStream errors that name a limit of account or server.
const LIMITS: [u32; 7] = [10002, 10023, 10026, 10027, 10028, 10047, 10120];

/// Looks after the streams of one account.
#[derive(Clone, Debug)]
pub(crate) struct Assets {
    api: Api,
    // For the error about permissions.
    needs: Needs,
    replicas: Option<u8>,
}

impl Assets {
    /// Checks that the server is new enough and the account has JetStream.
    pub(crate) async fn check(api: Api, needs: Needs, replicas: Option<u8>) -> Result<Self, OpenError> {
        check_version(&api.link.client.server_info().version)?;
        let assets = Self { api, needs, replicas };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match assets.api.call::<IgnoredAny>("INFO", "").await {
                Ok(_) => return Ok(assets),
                Err(failure) => assets.wait("account", &failure, deadline).await?,
            }
        }
    }

    /// Makes sure that a stream exists and is ours; any number of sidecars may do so at once.
    pub(crate) async fn ensure(&self, spec: &StreamSpec) -> Result<StreamInfo, OpenError> {
        self.ensure_with(spec, None).await
    }

    /// The same, with a number of replicas of its own.
    pub(crate) async fn ensure_with(&self, spec: &StreamSpec, own: Option<u8>) -> Result<StreamInfo, OpenError> {
        let stream = spec.name.as_str();
        let started = Instant::now();
        let wanted = own.or(self.replicas);
        let mut replicas = wanted.unwrap_or(3);
        loop {
            // The configuration is always read back: a server that does not know a field drops it silently.
            let failure = match self.api.stream_info(stream).await {
                Ok(info) => return owned(spec, info),
                Err(failure) if failure.code() == STREAM_NOT_FOUND => match self.create(spec, replicas).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let given = wanted.is_some();
            match failure.code() {
                // Somebody else was faster, perhaps with other limits: the comparison decides.
                STREAM_NAME_IN_USE => continue,
                REPLICAS_NOT_SUPPORTED if !given => {
                    replicas = 1;
                    continue;
                }
                NO_SUITABLE_PEERS if !given && replicas > 1 && started.elapsed() >= PEERS_PATIENCE => {
                    replicas -= 1;
                    tracing::warn!(stream, replicas, "the cluster has too few servers for more replicas");
                    continue;
                }
                _ => {}
            }
            self.wait(stream, &failure, started + PATIENCE).await?;
        }
    }

    async fn create(&self, spec: &StreamSpec, replicas: u8) -> Result<(), ApiFailure> {
        let config = StreamSpec { replicas, ..spec.clone() }.to_json().to_string();
        self.api.call::<IgnoredAny>(&format!("STREAM.CREATE.{}", spec.name), config).await?;
        tracing::info!(stream = %spec.name, replicas, "stream created");
        Ok(())
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
            ApiFailure::NoResponders | ApiFailure::Behind | ApiFailure::Other(_) => None,
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
    fn servers_before_2_12_are_too_old() {
        assert!(check_version("2.12.0").is_ok());
        assert!(check_version("2.15.1-dev").is_ok());
        assert!(check_version("3.0.0").is_ok());
        assert!(check_version("2.11.9").is_err());
        assert!(check_version("").is_err());
    }
}
