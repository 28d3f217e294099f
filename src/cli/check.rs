//! `nats-mqtt check`: the configuration is right when this is reached; what is left is whether NATS can be used.

use std::io::ErrorKind::{ConnectionRefused, NotFound};

use super::failure::{CONFIG, Failure, say};
use crate::{
    admin::control::{Answer, Candidate, Command, ask},
    app::{self, AppError},
    auth,
    config::{Config, ConfigSource},
    listener,
};

/// Says what a reload would do of the process that runs, if it had this configuration for its own; if one answers on its socket.
async fn plan(config: &Config, candidate: Option<Candidate>) -> Result<(), Failure> {
    let Some(socket) = &config.admin.socket else { return Ok(()) };
    let shown = socket.display();
    match ask(socket, Command::Plan(candidate)).await {
        Ok(Answer::Done(lines)) => lines.iter().for_each(|line| say(&format!("reload: {line}"))),
        Ok(Answer::Refused(why)) => return Err(Failure::new(CONFIG, format!("a reload would change nothing: {why}"))),
        Ok(Answer::Starting) => say("reload: the process is starting: ask again when it is ready"),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => {
            say(&format!("reload: none runs that answers on {shown}"));
        }
        Err(error) => say(&format!("reload: the one that runs cannot be asked on {shown}: {error}")),
    }
    Ok(())
}

/// What is in the file that is looked at.
fn candidate(source: &ConfigSource) -> Option<Candidate> {
    let file = source.file()?;
    Some(Candidate { name: file.display().to_string(), text: std::fs::read_to_string(file).ok()? })
}

pub(super) async fn check(source: &ConfigSource, offline: bool) -> Result<(), Failure> {
    // What is written between the two is for the next check.
    let (candidate, config) = (candidate(source), source.load()?);
    let config = &config;
    listener::check(config).map_err(AppError::from)?;
    say("configuration: ok");
    plan(config, candidate).await?;
    auth::warnings(config).iter().for_each(|warning| say(&format!("warning: {warning}")));
    if offline {
        return Ok(());
    }
    let report = Box::pin(app::check(config)).await?;
    say(&report.to_string());
    if report.is_refusing {
        return Err(Failure::new(CONFIG, "devices of some accounts would be refused: see above"));
    }
    Ok(())
}
