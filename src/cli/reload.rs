//! `nats-mqtt reload`: has a running process read its configuration again, over the Unix socket of the process. Exit code 0: it has, and
//! says what is different; 1: it goes on as it was, and says why.

use super::failure::{CONFIG, FAILED, Failure, say};
use crate::admin::control::{Answer, Command, ask};
use crate::config::Config;

pub(super) async fn reload(config: &Config) -> Result<(), Failure> {
    let Some(socket) = &config.admin.socket else {
        let message = "admin.socket names no socket: there is nobody to ask; write one, or send SIGHUP to the process";
        return Err(Failure::new(CONFIG, message));
    };
    match ask(socket, Command::Reload).await {
        Ok(Answer::Done(lines)) => {
            lines.iter().for_each(|line| say(line));
            Ok(())
        }
        Ok(Answer::Refused(why)) => Err(Failure::new(FAILED, why)),
        Ok(Answer::Starting) => Err(Failure::new(FAILED, "the process is starting: ask again when it is ready")),
        Err(error) => Err(Failure::new(FAILED, format!("{}: {error}", socket.display()))),
    }
}
