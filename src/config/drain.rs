//! `[drain]`: how clients are let go.

use serde::Deserialize;

use super::Duration;

/// Bytes of a text in MQTT.
const TEXT_MAX: usize = 65_535;

/// `[drain]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DrainConfig {
    /// Clients are let go one after the other in this time, in even steps; 0: all at once. Default 10 s.
    pub duration: Duration,
    /// So long before the first client is let go, and before listeners close, `/readyz` says that the process ends. Default 0.
    pub notice: Duration,
    /// Where clients of MQTT 5 are told to go: `HOST:PORT`, or several with spaces between. Default: nowhere.
    pub server_reference: Option<String>,
    /// They are to go there for ever (0x9D), and not only this time (0x9C). Default `false`.
    pub moved: bool,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { duration: Duration::from_secs(10), notice: Duration::from_secs(0), server_reference: None, moved: false }
    }
}

impl DrainConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        /// More than anybody waits for.
        const LONGEST: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
        for (key, duration) in [("drain.duration", self.duration), ("drain.notice", self.notice)] {
            if duration.get() > LONGEST {
                return Err((key, "write \"24h\" or less".to_owned()));
            }
        }
        match &self.server_reference {
            None if self.moved => {
                let message = "clients cannot be told that the server has moved without drain.server_reference: write where it is now";
                Err(("drain.moved", message.to_owned()))
            }
            Some(server) if server.is_empty() || server.len() > TEXT_MAX || server.contains(char::is_control) => {
                Err(("drain.server_reference", "write HOST:PORT, or leave it out".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
