//! `nats-mqtt check`: the configuration is right when this is reached; what is left is whether NATS can be used.

use super::failure::{CONFIG, Failure, say};
use crate::{
    admin::control::{Answer, Command, ask},
    app::{self, AppError},
    auth,
    config::Config,
    listener,
};

/// Says what a reload of the process that runs would do, if one answers on its socket.
async fn plan(config: &Config) -> Result<(), Failure> {
    let Some(socket) = &config.admin.socket else { return Ok(()) };
    match ask(socket, Command::Plan).await {
        Ok(Answer::Done(lines)) => lines.iter().for_each(|line| say(&format!("reload: {line}"))),
        Ok(Answer::Refused(why)) => return Err(Failure::new(CONFIG, format!("a reload would change nothing: {why}"))),
        // Nobody runs who could be asked.
        Err(_) => {}
    }
    Ok(())
}

pub(super) async fn check(config: &Config, offline: bool) -> Result<(), Failure> {
    listener::check(config).map_err(AppError::from)?;
    say("configuration: ok");
    plan(config).await?;
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
