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
        "auth.mode is \"none\", which lets everybody in: [[users]] count for nothing (there are {users}); write auth.mode = \"file\""
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

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;

    use super::*;
    use crate::config::Overrides;
    use crate::listener::Protocol;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log says of listeners at these addresses.
    fn said(mode: AuthMode, addresses: &[&str]) -> Vec<String> {
        let bound = |addr: &&str| Bound { name: (*addr).into(), protocol: Protocol::Mqtt, addr: addr.parse().unwrap() };
        let listeners: Vec<Bound> = addresses.iter().map(bound).collect();
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || tell_open_listeners(mode, &listeners));
        let text = String::from_utf8(captured.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn listeners_beyond_loopback_are_named_once() {
        let loopback = ["127.0.0.1:1883", "[::1]:1883", "[::ffff:127.0.0.2]:1883"];
        let open = ["0.0.0.0:1883", "127.0.0.1:1884", "[::]:8083"];
        for mode in [AuthMode::None, AuthMode::File] {
            assert_eq!(said(mode, &loopback), [""; 0], "{mode:?}");
        }
        let everybody = said(AuthMode::None, &open);
        assert!(everybody.len() == 1 && everybody[0].contains("WARN"), "{everybody:?}");
        assert!(everybody[0].contains("listeners=\"0.0.0.0:1883, [::]:8083\""), "{everybody:?}");
        let passwords = said(AuthMode::File, &open);
        assert_eq!(passwords.len(), 2, "{passwords:?}");
        for (line, name) in passwords.iter().zip(["0.0.0.0:1883", "[::]:8083"]) {
            assert!(line.contains("WARN") && line.contains(&format!("listener=\"{name}\"")), "{line}");
        }
    }

    #[test]
    fn users_that_count_for_nothing_are_told() {
        let of = |text: &str| warnings(&Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap());
        assert_eq!(of(""), [""; 0]);
        let user =
            "[[users]]\nname = \"lamp\"\npassword = \"$2a$11$UP3xizk94sWF9SHF/wkklOfBT9jphTGNrhZqz2OHoBdk9yO1kvErG\"\n";
        assert_eq!(of(&format!("{user}[auth]\nmode = \"file\"")), [""; 0]);
        let said = of(user);
        assert!(said.len() == 1 && said[0].contains("count for nothing (there are 1)"), "{said:?}");
    }
}
