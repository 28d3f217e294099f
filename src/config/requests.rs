//! `[requests]`: request and reply between MQTT and NATS.

use serde::Deserialize;

use super::Duration;

/// `[requests]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct RequestsConfig {
    /// How long a NATS service may take to answer an MQTT client. Default 30 s.
    pub timeout: Duration,
    /// Requests of MQTT clients that may be unanswered; above it the oldest is given up. Default 65,536, at least 1.
    pub max_pending: u32,
    /// Of these, requests of one client; above it its oldest is given up. Default 4,096, at least 1.
    pub max_pending_per_client: u32,
    /// How long a device may take to answer a request of NATS. Default 10 minutes.
    pub reply_ttl: Duration,
}

impl Default for RequestsConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            max_pending: 65_536,
            max_pending_per_client: 4_096,
            reply_ttl: Duration::from_secs(600),
        }
    }
}
