//! The command line: what can be asked of the program, and its exit codes. One subcommand a file.

mod auth;
mod check;
mod failure;
mod health;
mod passwd;
mod reload;
mod run;
mod settings;
mod topic;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use crate::embedded;
use failure::{FAILED, Failure};
use settings::Settings;

/// How long threads may take that block, when everything else has ended.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// MQTT 3.1, 3.1.1 and 5.0 for NATS and JetStream.
#[derive(Debug, Parser)]
#[command(name = "nats-mqtt", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What stands before the subcommand, or is all there is.
    #[command(flatten)]
    before: Settings,
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
    /// Have a running nats-mqtt read its configuration again
    Reload {
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
        #[command(flatten)]
        settings: Box<Settings>,
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

impl Default for Command {
    fn default() -> Self {
        Self::Run(Settings::default())
    }
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

/// Does what the command line says and answers the exit code: 0, 1 (failed), 2 (usage) or 78 (configuration).
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread exists: the process is about to become another program.
    if let Some(Command::EmbeddedExec { parent, command }) = &cli.command {
        return report(Err(Failure::new(FAILED, embedded::become_server(*parent, command))));
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(cli));
            // A thread that waits for a file system that does not answer holds up nothing.
            runtime.shutdown_timeout(LAST_THREADS);
            report(result)
        }
        Err(error) => report(Err(Failure::new(FAILED, error))),
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { command, before } = cli;
    match command.unwrap_or_default() {
        Command::Run(settings) => Box::pin(run::run(before.with(settings)?.source())).await,
        Command::Check { settings, offline } => check::check(&before.with(settings)?.source(), offline).await,
        Command::Health { settings } => health::health(&before.with(settings)?.load()?).await,
        Command::Reload { settings } => reload::reload(&before.with(settings)?.load()?).await,
        Command::Topic { what } => before.unused_by("topic").and_then(|()| topic::topic(&what)),
        Command::Passwd => before.unused_by("passwd").and_then(|()| passwd::passwd()),
        Command::Auth { settings: between, what: Auth::Test { settings, somebody } } => {
            let settings = before.with(*between)?.with(*settings)?;
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

    use super::failure::USAGE;
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What a line says is to be done with which options, or the exit code.
    fn understood(line: &str) -> String {
        let words = ["nats-mqtt"].into_iter().chain(line.split_whitespace());
        let Cli { command, before } = match Cli::try_parse_from(words) {
            Ok(cli) => cli,
            Err(error) => return error.exit_code().to_string(),
        };
        let (name, settings) = match command.unwrap_or_default() {
            Command::Run(settings) => ("run", before.with(settings)),
            Command::Check { settings, offline: true } => ("offline", before.with(settings)),
            Command::Check { settings, offline: false } => ("check", before.with(settings)),
            Command::Health { settings } => ("health", before.with(settings)),
            Command::Reload { settings } => ("reload", before.with(settings)),
            Command::Topic { .. } => ("topic", before.unused_by("topic").map(|()| Settings::default())),
            Command::Passwd => ("passwd", before.unused_by("passwd").map(|()| Settings::default())),
            Command::Auth { settings: between, what: Auth::Test { settings, .. } } => {
                ("auth test", before.with(*between).and_then(|so_far| so_far.with(*settings)))
            }
            Command::EmbeddedExec { .. } => ("exec", Ok(before)),
        };
        match settings {
            Ok(settings) => format!("{name} {}", settings.shown()).trim_end().to_owned(),
            Err(failure) => format!("{}: {}", failure.code, failure.message),
        }
    }

    #[test]
    fn options_stand_on_either_side_of_the_subcommand() {
        for (line, expected) in [
            ("", "run"),
            ("run", "run"),
            ("-c f", "run -c f"),
            ("run -c f", "run -c f"),
            ("-c f run", "run -c f"),
            ("--config f check", "check -c f"),
            ("check --config f", "check -c f"),
            ("-c f check --offline", "offline -c f"),
            ("--admin :1 health", "health --admin :1"),
            ("health --admin :1", "health --admin :1"),
            ("-c f reload", "reload -c f"),
            ("reload -c f", "reload -c f"),
            ("-c f auth test --user u", "auth test -c f"),
            ("auth -c f test --user u", "auth test -c f"),
            ("auth test -c f --user u", "auth test -c f"),
            ("-c f auth --nats n test --creds c --user u", "auth test -c f --nats n --creds c"),
            ("--listen :1 run --listen-ws :2 --embedded", "run --listen :1 --listen-ws :2 --embedded"),
            ("--embedded run --embedded-port -1", "run --embedded --embedded-port 0"),
            // One option that may be repeated: all of it.
            ("--nats a run --nats b --nats c", "run --nats a --nats b --nats c"),
            ("passwd", "passwd"),
            ("topic map a", "topic"),
        ] {
            assert_eq!(understood(line), expected, "{line}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_counts_for_nothing_is_a_usage_error() {
        for (line, option) in [
            ("-c f check -c g", "--config"),
            ("-c f auth -c f test --user u", "--config"),
            ("--embedded run --embedded", "--embedded"),
            ("--log-level info run --log-level debug", "--log-level"),
            ("-c f passwd", "--config"),
            ("--listen :1 topic map a", "--listen"),
        ] {
            let said = understood(line);
            assert!(said.starts_with(&format!("{USAGE}: ")) && said.contains(option), "{line}: {said}");
        }
        for line in ["--lisen x", "check -c", "passwd -c f", "auth", "--embedded-port 65536"] {
            assert_eq!(understood(line), USAGE.to_string(), "{line}");
        }
    }
}
