//! The modes of `[auth]`, and what the operator is told about the one that is configured.

use std::sync::Arc;
use std::time::Duration;

use mqtt_access::{AccountId, Secret};

use super::file::{self, FileUsers};
use super::jwt::{JwtUsers, Ways, are_creds_of};
use super::{Anyone, Authenticator, Principal};
use crate::config::{AuthMode, Config};
use crate::listener::Bound;
use crate::metrics::{AuthStep, Metrics};
use crate::store::{Credentials, LoneLink, NatsOptions};

/// How long our own way into an account is tried.
const TRIED_WITHIN: Duration = Duration::from_secs(5);

/// The authenticator of the mode that is configured.
/// `nats`: how nats-server is reached.
pub(crate) fn authenticator(config: &Config, nats: NatsOptions, metrics: &Arc<Metrics>) -> Box<dyn Authenticator> {
    match config.auth.mode {
        AuthMode::Jwt => Box::new(JwtUsers::new(&config.auth.jwt, nats, Arc::clone(metrics))),
        AuthMode::None => Box::new(Anyone::new(Arc::clone(metrics))),
        AuthMode::File => Box::new(FileUsers::new(config, Arc::clone(metrics))),
    }
}

/// Who a client would be.
#[derive(Debug)]
pub(crate) struct Identified {
    /// This one.
    pub(crate) principal: Arc<Principal>,
    /// It has to prove by `NATS-NKEY` that it has its key.
    pub(crate) needs_proof: bool,
    /// Whether we get into its account ourselves, or what to add; `None` where all are served in one.
    pub(crate) way: Option<Result<(), String>>,
}

/// Who a client would be that connects with these, or at which step it would be refused. `nats`: how nats-server is reached.
pub(crate) async fn identify(
    config: &Config,
    nats: NatsOptions,
    name: &str,
    password: &Secret,
    client_id: &str,
) -> Result<Identified, AuthStep> {
    let of_one_account = |principal| Identified { principal, needs_proof: false, way: None };
    match config.auth.mode {
        AuthMode::None => Ok(of_one_account(Arc::new(Principal::all()))),
        AuthMode::File => file::identify(config, name, password, client_id).map(of_one_account),
        AuthMode::Jwt => {
            let users = JwtUsers::new(&config.auth.jwt, nats.clone(), Metrics::new());
            let (principal, needs_proof) = users.identify(password, client_id).await?;
            let way = Box::pin(go(users.ways(), &principal.account, nats)).await;
            Ok(Identified { principal, needs_proof, way: Some(way) })
        }
    }
}

/// Tries our own way into an account.
async fn go(ways: &Ways, account: &AccountId, nats: NatsOptions) -> Result<(), String> {
    let credentials = match &nats.credentials {
        // It is the home account.
        Credentials::CredsFile(file) if are_creds_of(file, account) => nats.credentials.clone(),
        _ => ways.credentials(account).map_err(|no_way| no_way.to_string())?,
    };
    let opening = LoneLink::open(NatsOptions { credentials, ..nats }, "test");
    match tokio::time::timeout(TRIED_WITHIN, opening).await {
        Ok(opened) => opened.map(|_| ()).map_err(|error| error.to_string()),
        Err(_) => Err("nats-server does not answer".to_owned()),
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
        AuthMode::File | AuthMode::Jwt => open.iter().for_each(|bound| {
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
        for mode in [AuthMode::None, AuthMode::File, AuthMode::Jwt] {
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
