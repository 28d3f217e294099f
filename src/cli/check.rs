//! `nats-mqtt check`: the configuration is right when this is reached; what is left is whether NATS can be used.

use super::failure::{CONFIG, Failure, say};
use crate::{
    app::{self, AppError},
    auth,
    config::Config,
    listener,
};

pub(super) async fn check(config: &Config, offline: bool) -> Result<(), Failure> {
    listener::check(config).map_err(AppError::from)?;
    say("configuration: ok");
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
