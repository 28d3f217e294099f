//! What may stand on the command line instead of in the file, on either side of the subcommand.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, USAGE};
use crate::config::{Config, ConfigSource, Overrides};

/// Where the configuration file is said to be, when no option says so.
const CONFIG_VARIABLE: &str = "NATS_MQTT_CONFIG";

/// What may stand on the command line instead of in the file.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Settings {
    /// Configuration file (TOML) [env: NATS_MQTT_CONFIG]
    // Read from the environment when all of the line is known: it would stand on both sides of the subcommand.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// NATS server; may be repeated
    #[arg(long, value_name = "URL")]
    nats: Vec<String>,
    /// Credentials for NATS (.creds)
    #[arg(long, value_name = "FILE")]
    creds: Option<String>,
    /// Listen for MQTT here, and nowhere else that is not on the command line
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Listen for MQTT over WebSocket here, and nowhere else that is not on the command line
    #[arg(long, value_name = "ADDR")]
    listen_ws: Option<String>,
    /// Serve health and metrics here; "" for nowhere
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Start a nats-server as a child process and use it
    #[arg(long)]
    embedded: bool,
    /// Where that nats-server keeps its data
    #[arg(long, value_name = "DIR")]
    embedded_data: Option<String>,
    /// Where that nats-server listens on 127.0.0.1; 0 or -1 for any free port
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, value_parser = parse_port)]
    embedded_port: Option<u16>,
}

fn parse_port(text: &str) -> Result<u16, String> {
    if text == "-1" { Ok(0) } else { text.parse().map_err(|_| format!("{text:?} is not a port")) }
}

/// One of the two, or that both are there.
fn either<T>(option: &'static str, first: Option<T>, second: Option<T>) -> Result<Option<T>, Failure> {
    if first.is_some() && second.is_some() {
        let message = format!("{option} stands before the subcommand and behind it: leave one of the two out");
        return Err(Failure::new(USAGE, message));
    }
    Ok(first.or(second))
}

impl Settings {
    /// These, and those that stand behind a subcommand. An option may be repeated across it where it may be repeated at all.
    pub(super) fn with(self, behind: Self) -> Result<Self, Failure> {
        let is_embedded = |settings: &Self| settings.embedded.then_some(());
        let embedded = either("--embedded", is_embedded(&self), is_embedded(&behind))?.is_some();
        Ok(Self {
            config: either("--config", self.config, behind.config)?,
            nats: [self.nats, behind.nats].concat(),
            creds: either("--creds", self.creds, behind.creds)?,
            listen: either("--listen", self.listen, behind.listen)?,
            listen_ws: either("--listen-ws", self.listen_ws, behind.listen_ws)?,
            admin: either("--admin", self.admin, behind.admin)?,
            log_level: either("--log-level", self.log_level, behind.log_level)?,
            embedded,
            embedded_data: either("--embedded-data", self.embedded_data, behind.embedded_data)?,
            embedded_port: either("--embedded-port", self.embedded_port, behind.embedded_port)?,
        })
    }

    /// Looks whether there are none, for a subcommand that takes none.
    pub(super) fn unused_by(&self, subcommand: &str) -> Result<(), Failure> {
        match self.given().first() {
            None => Ok(()),
            Some((option, _)) => Err(Failure::new(USAGE, format!("{subcommand} does not take {option}: leave it out"))),
        }
    }

    /// The options that are there, with their values.
    fn given(&self) -> Vec<(&'static str, String)> {
        let text = |option: &'static str, value: &Option<String>| Some((option, value.clone()?));
        let config = self.config.as_ref().map(|file| ("--config", file.display().to_string()));
        let nats = self.nats.iter().map(|url| ("--nats", url.clone()));
        let port = self.embedded_port.map(|port| ("--embedded-port", port.to_string()));
        let rest = [
            text("--creds", &self.creds),
            text("--listen", &self.listen),
            text("--listen-ws", &self.listen_ws),
            text("--admin", &self.admin),
            text("--log-level", &self.log_level),
            self.embedded.then(|| ("--embedded", String::new())),
            text("--embedded-data", &self.embedded_data),
            port,
        ];
        config.into_iter().chain(nats).chain(rest.into_iter().flatten()).collect()
    }

    /// What they configure.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        Ok(self.source().load()?)
    }

    /// Where that comes from.
    pub(super) fn source(&self) -> ConfigSource {
        let file = self.config.clone().or_else(|| std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from));
        let overrides = Overrides {
            nats: self.nats.clone(),
            creds: self.creds.clone(),
            listen: self.listen.clone(),
            listen_ws: self.listen_ws.clone(),
            admin: self.admin.clone(),
            log_level: self.log_level.clone(),
            embedded: self.embedded,
            embedded_data: self.embedded_data.clone(),
            embedded_port: self.embedded_port,
        };
        ConfigSource::new(file, overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::CONFIG;
    use super::*;

    impl Settings {
        /// As they would stand on a line.
        pub(in crate::cli) fn shown(&self) -> String {
            let given = self.given();
            let shown = given.iter().map(|(option, value)| {
                let option = if *option == "--config" { "-c" } else { option };
                format!("{option} {value}").trim_end().to_owned()
            });
            shown.collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn what_comes_from_a_flag_is_a_usage_error_and_the_rest_one_of_configuration() {
        let flag = Settings { listen: Some("nope".into()), ..Settings::default() };
        assert_eq!(flag.load().unwrap_err().code, USAGE);
        let file = Settings { config: Some("/nowhere".into()), ..Settings::default() };
        assert_eq!(file.load().unwrap_err().code, CONFIG);
    }
}
