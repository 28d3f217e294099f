//! The modes of `[auth]`, and what the operator is told about the one that is configured.

use std::sync::Arc;

use mqtt_access::Secret;

use super::file::{self, FileUsers};
use super::{Anyone, Authenticator, Principal};
use crate::config::{AuthMode, Config};
use crate::listener::Bound;
use crate::metrics::{AuthStep, Metrics};

/// The authenticator of the mode that is configured.
pub(crate) fn authenticator(config: &Config, metrics: &Arc<Metrics>) -> Box<dyn Authenticator> {
    match config.auth.mode {
        AuthMode::None => Box::new(Anyone::new(Arc::clone(metrics))),
        AuthMode::File => Box::new(FileUsers::new(config, Arc::clone(metrics))),
    }
}

/// Who a client would be that connects with these, or at which step it would be refused.
pub(crate) fn identify(
    config: &Config,
    name: &str,
    password: &Secret,
    client_id: &str,
) -> Result<Arc<Principal>, AuthStep> {
    match config.auth.mode {
        AuthMode::None => Ok(Arc::new(Principal::all())),
        AuthMode::File => file::identify(config, name, password, client_id),
    }
}

/// What of the configuration is probably not what was meant.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let users = config.users.len() + config.auth.file_users.len();
    if config.auth.mode != AuthMode::None || users == 0 {
        return Vec::new();
    }
    vec![format!(
        "auth.mode is \"none\", which lets everybody in: {users} users count for nothing; write auth.mode = \"file\""
    )]
}

/// Says in the log where strangers can come in, or read passwords.
pub(crate) fn tell_open_listeners(mode: AuthMode, listeners: &[Bound]) {
    let open: Vec<&Bound> = listeners.iter().filter(|bound| !bound.addr.ip().to_canonical().is_loopback()).collect();
    match mode {
        AuthMode::None if open.is_empty() => {}
        AuthMode::None => {
            let names: Vec<&str> = open.iter().map(|bound| &*bound.name).collect();
            tracing::warn!(
                listeners = names.join(", "),
                "whoever reaches these listeners may do everything that the sidecar's NATS user lets devices do: see auth.mode"
            );
        }
        AuthMode::File => open.iter().for_each(|bound| {
            tracing::warn!(
                listener = &*bound.name,
                "passwords come over this listener without TLS: everybody on the way can read them"
            );
        }),
    }
}
