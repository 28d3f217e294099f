//! The command line: what can be asked of the program, and its exit codes. One subcommand a file.

mod auth;
mod check;
mod failure;
mod health;
mod passwd;
mod run;
mod topic;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Config, Overrides},
    embedded,
};
use failure::{FAILED, Failure};

/// MQTT 3.1, 3.1.1 and 5.0 for NATS and JetStream.
#[derive(Debug, Parser)]
#[command(name = "nats-mqtt", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve MQTT clients (the default)
    Run(Settings),
    /// Say whether the configuration is right and NATS can be used
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Do not connect to NATS
        #[arg(long)]
        offline: bool,
    },
    /// Ask a running nats-mqtt whether it is ready
    Health {
        #[command(flatten)]
        settings: Settings,
    },
    /// Show how topics and subjects map to each other
    Topic {
        #[command(subcommand)]
        what: topic::Topic,
    },
    /// Make the hash of a password: the password is one line of standard input, the hash goes to standard output
    Passwd,
    /// Find out who may connect
    Auth {
        #[command(subcommand)]
        what: Auth,
    },
    /// Become nats-server, with the kernel's promise not to outlive the parent
    #[command(name = embedded::EXEC_SUBCOMMAND, hide = true)]
    EmbeddedExec {
        parent: u32,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum Auth {
    /// Say who that would be, with which permissions and tags, or at which step it would be refused
    Test {
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        somebody: auth::Somebody,
    },
}

/// What may stand on the command line instead of in the file.
#[derive(Clone, Debug, Default, Args)]
struct Settings {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "NATS_MQTT_CONFIG")]
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

impl Settings {
    fn load(&self) -> Result<Config, Failure> {
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
        Ok(Config::load(self.config.as_deref(), &overrides)?)
    }
}

/// Does what the command line says and answers the exit code: 0, 1 (failed), 2 (usage) or 78 (configuration).
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread exists: the process is about to become another program.
    if let Some(Command::EmbeddedExec { parent, command }) = &cli.command {
        return report(Err(Failure::new(FAILED, embedded::become_server(*parent, command))));
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => report(runtime.block_on(dispatch(cli))),
        Err(error) => report(Err(Failure::new(FAILED, error))),
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(settings) => Box::pin(run::run(settings.load()?)).await,
        Command::Check { settings, offline } => check::check(&settings.load()?, offline).await,
        Command::Health { settings } => health::health(&settings.load()?).await,
        Command::Topic { what } => topic::topic(&what),
        Command::Passwd => passwd::passwd(),
        Command::Auth { what: Auth::Test { settings, somebody } } => {
            Box::pin(auth::auth(&settings.load()?, &somebody)).await
        }
        Command::EmbeddedExec { parent, command } => {
            Err(Failure::new(FAILED, embedded::become_server(parent, &command)))
        }
    }
}

fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nats-mqtt: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::failure::{CONFIG, USAGE};
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_and_takes_the_same_options() {
        for line in [
            &["nats-mqtt", "--listen", ":1883", "--embedded", "--embedded-port", "-1"][..],
            &["nats-mqtt", "run", "--listen", ":1883", "--embedded", "--embedded-port", "0"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            let settings = match cli.command {
                Some(Command::Run(settings)) => settings,
                None => cli.run,
                other => panic!("{other:?}"),
            };
            assert_eq!(settings.listen.as_deref(), Some(":1883"));
            assert!(settings.embedded);
            assert_eq!(settings.embedded_port, Some(0));
        }
        assert_eq!(Cli::try_parse_from(["nats-mqtt", "--lisen", "x"]).unwrap_err().exit_code(), i32::from(USAGE));
    }

    #[test]
    fn what_comes_from_a_flag_is_a_usage_error_and_the_rest_one_of_configuration() {
        let flag = Settings { listen: Some("nope".into()), ..Settings::default() };
        assert_eq!(flag.load().unwrap_err().code, USAGE);
        let file = Settings { config: Some("/nowhere".into()), ..Settings::default() };
        assert_eq!(file.load().unwrap_err().code, CONFIG);
    }
}
