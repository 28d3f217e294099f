//! The modes of `[auth]`, and what the operator is told about the one that is configured.

use std::sync::Arc;
use std::time::Duration;

use mqtt_access::{AccountId, Mode, Secret};
use mqtt_codec::{Connect, Version};
use mqtt_session::{Credentials, Verdict};

use super::dispatch::{Dispatch, Modes};
use super::file::FileUsers;
use super::jwt::{JwtUsers, Survey, Ways, are_creds_of};
use super::nats::{NatsUsers, NatsWays};
use super::oidc::OidcUsers;
use super::refusals::Refusals;
use super::{Anyone, Authenticator, JUDGED_WITHIN, Principal};
use crate::config::{CertificateUse, ClientCertificate, Config, ListenerAuth, ListenerConfig, NatsAuth, ProxyIdentity};
use crate::listener::{Bound, Entrance, Peer};
use crate::metrics::{AuthStep, Metrics};
use crate::store::{self, LoneLink, NatsOptions, OpenError};

/// How long our own way into an account is tried.
const TRIED_WITHIN: Duration = Duration::from_secs(5);

/// Whoever judges those who come to the listeners that are configured.
///
/// # Errors
/// What mode `nats` needs of `[nats]` cannot be used.
pub(crate) fn authenticator(config: &Config, ways: NatsWays, metrics: &Arc<Metrics>) -> Result<Dispatch, OpenError> {
    let refusals = Refusals::new(Arc::clone(metrics));
    let is_used = |mode| modes(config).any(|used| used == mode);
    // These two take no preparation: a configuration that is read later may want them.
    let mut modes = Modes { file: Some(FileUsers::new(config, Arc::clone(metrics))), ..Modes::default() };
    modes.others.push((Mode::None, Box::new(Anyone::new(Arc::clone(metrics)))));
    if is_used(Mode::Jwt) {
        let (home, metrics) = (ways.home.clone(), Arc::clone(metrics));
        modes.others.push((Mode::Jwt, Box::new(JwtUsers::new(&config.auth.jwt, home, metrics))));
    }
    if is_used(Mode::Nats) {
        modes.others.push((Mode::Nats, Box::new(NatsUsers::new(&config.auth, ways, refusals.clone())?)));
    }
    if let Some(oidc) = &config.auth.oidc {
        modes.issuer = Some(oidc.issuer.clone());
        modes.others.push((Mode::Oidc, Box::new(OidcUsers::new(oidc, refusals.clone()))));
    }
    Ok(Dispatch::new(config.auth.anonymous, modes, refusals))
}

/// The modes of the listeners.
fn modes(config: &Config) -> impl Iterator<Item = Mode> {
    let of_listeners = config.listeners.all().filter_map(|listener| listener.auth.mode);
    [config.auth.mode].into_iter().chain(of_listeners)
}

/// Who a client would be.
#[derive(Debug)]
pub(crate) struct Identified {
    /// This one.
    pub(crate) principal: Arc<Principal>,
    /// It has to prove by `NATS-NKEY` that it has its key.
    pub(crate) needs_proof: bool,
    /// In mode `jwt`: whether we get into its account ourselves, or what to add.
    pub(crate) way: Option<Result<(), String>>,
}

/// Who a client would be that connects with these to the first listener, or the name of the step at which it would be refused.
///
/// # Errors
/// What mode `nats` needs of `[nats]` cannot be used.
pub(crate) async fn identify(
    config: &Config,
    ways: NatsWays,
    name: &str,
    password: Option<&Secret>,
    client_id: &str,
) -> Result<Result<Identified, &'static str>, OpenError> {
    let connect = Connect {
        username: Some(name).filter(|name| !name.is_empty()).map(Into::into),
        password: password.map(|password| password.expose().into()),
        ..Connect::new(Version::V5, client_id)
    };
    let listener = config.listeners.all().next().cloned().unwrap_or_default();
    let peer = Peer::new(([127, 0, 0, 1], 0).into(), Arc::new(Entrance::new(config, &listener, None)));
    let metrics = Metrics::new();
    let nats = ways.home.clone();
    let dispatch = authenticator(config, ways, &metrics)?;
    if let (true, Some(password)) = (dispatch.goes_to(&connect, &peer) == Some(Mode::Jwt), password) {
        // Whoever would be asked for more is told what for.
        let users = JwtUsers::new(&config.auth.jwt, nats.clone(), metrics);
        let (principal, needs_proof) = match users.identify(password, client_id).await {
            Ok(known) => known,
            Err(step) => return Ok(Err(step.text())),
        };
        let way = Box::pin(go(users.ways(), &principal.account, nats)).await;
        return Ok(Ok(Identified { principal, needs_proof, way: Some(way) }));
    }
    let credentials = Credentials { connect: &connect, data: None, challenge: None, round: 0 };
    let verdict = tokio::select! {
        verdict = tokio::time::timeout(JUDGED_WITHIN, dispatch.judge(credentials, &peer)) => verdict,
        () = dispatch.follow() => return Ok(Err(AuthStep::Busy.text())),
    };
    Ok(match verdict {
        Ok(Verdict::Accepted(principal, _)) => Ok(Identified { principal, needs_proof: false, way: None }),
        _ => Err(metrics.auth_refusal().unwrap_or(AuthStep::Busy.text())),
    })
}

/// The accounts that can be served in mode `jwt`; `None` where no listener has it.
pub(crate) async fn survey(config: &Config, home: NatsOptions) -> Option<Result<Survey, String>> {
    if !modes(config).any(|mode| mode == Mode::Jwt) {
        return None;
    }
    let credentials = home.credentials.clone();
    let users = JwtUsers::new(&config.auth.jwt, home, Metrics::new());
    Some(Box::pin(users.survey(&credentials)).await)
}

/// Tries our own way into an account.
async fn go(ways: &Ways, account: &AccountId, nats: NatsOptions) -> Result<(), String> {
    let credentials = match &nats.credentials {
        // It is the home account.
        store::Credentials::CredsFile(file) if are_creds_of(file, account) => nats.credentials.clone(),
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
    let mut warnings = Vec::new();
    let users = config.users.len() + config.auth.file_users.len();
    if modes(config).any(|mode| mode == Mode::None) && users > 0 {
        warnings.push(format!(
            "auth.mode is \"none\", which lets everybody in who is none of [[users]] (there are {users}), and lets them do everything; write auth.mode = \"file\""
        ));
    }
    let shut = config.listeners.all().filter(|listener| {
        ListenerAuth::new(&config.auth, &listener.auth).certificate == CertificateUse::Bind
            && client_certificate(listener) == ClientCertificate::None
            && !listener.proxy_protocol.as_ref().is_some_and(|proxied| proxied.identity == ProxyIdentity::Cn)
    });
    warnings.extend(shut.map(|listener| {
        let name = &listener.name;
        format!("listener {name} lets nobody in: auth.certificate is \"bind\", and it asks for no certificates; write tls with client_certificate")
    }));
    warnings.extend(home_accounts(config));
    warnings
}

/// Where the home account is named in mode `nats`, as far as that can be seen: its users bring no account.
fn home_accounts(config: &Config) -> Vec<String> {
    let home = config.nats.auth();
    let is_home = |name: &str| match &home {
        _ if config.accounts.get(name).is_some_and(|way| way.auth() == home) => true,
        NatsAuth::Creds(file) => are_creds_of(file, &AccountId::new(name)),
        _ => false,
    };
    if !modes(config).any(|mode| mode == Mode::Nats) {
        return Vec::new();
    }
    let accounts = config.accounts.keys().filter(|name| is_home(name));
    let accounts =
        accounts.map(|name| format!("accounts.{name} is the account of [nats], which has a link: leave it out"));
    let listeners = config.listeners.all().filter_map(|listener| {
        let ListenerAuth { mode, account, .. } = ListenerAuth::new(&config.auth, &listener.auth);
        let account = account.filter(|account| mode == Mode::Nats && is_home(account))?;
        let name = &listener.name;
        Some(format!(
            "listener {name} refuses every user of the account of [nats], since they bring none: leave out auth.account = {account:?}"
        ))
    });
    accounts.chain(listeners).collect()
}

/// Whether a listener asks for certificates.
fn client_certificate(listener: &ListenerConfig) -> ClientCertificate {
    listener.tls.as_ref().map(|tls| tls.client_certificate).unwrap_or_default()
}

/// Says in the log where strangers can come in, or read passwords.
pub(crate) fn tell_open_listeners(listeners: &[Bound]) {
    let open = listeners.iter().filter(|bound| !bound.to.is_local());
    let open = open.map(|bound| &*bound.entrance);
    // Whoever has a certificate of an authority of ours is no stranger.
    let open = open.filter(|entrance| entrance.client_certificate != ClientCertificate::Required);
    let (strangers, known): (Vec<&Entrance>, Vec<&Entrance>) =
        open.partition(|entrance| entrance.auth.mode == Mode::None);
    if !strangers.is_empty() {
        let names: Vec<&str> = strangers.iter().map(|entrance| &*entrance.name).collect();
        tracing::warn!(
            listeners = names.join(", "),
            "whoever reaches these listeners may do everything that the sidecar's NATS user lets devices do: see auth.mode"
        );
    }
    for entrance in known.into_iter().filter(|entrance| !entrance.is_tls) {
        tracing::warn!(
            listener = &*entrance.name,
            "passwords come over this listener without TLS: everybody on the way can read them"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;

    use super::*;
    use crate::config::Overrides;
    use crate::listener::BoundTo;
    use crate::mint::World;

    const USER: &str =
        "[[users]]\nname = \"lamp\"\npassword = \"$2a$11$UP3xizk94sWF9SHF/wkklOfBT9jphTGNrhZqz2OHoBdk9yO1kvErG\"\n";

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
    fn said(mode: &str, addresses: &[&str]) -> Vec<String> {
        said_of(&format!("[auth]\nmode = {mode:?}\n{USER}"), addresses)
    }

    /// The same with another configuration.
    fn said_of(text: &str, addresses: &[&str]) -> Vec<String> {
        let config = Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap();
        let entrance = Entrance::new(&config, &config.listeners.tcp[0], None);
        let bound = |addr: &&str| {
            let entrance = Entrance { name: (*addr).into(), is_tls: addr.ends_with(":8883"), ..entrance.clone() };
            Bound { entrance: Arc::new(entrance), to: BoundTo::Ip(addr.parse().unwrap()) }
        };
        let listeners: Vec<Bound> = addresses.iter().map(bound).collect();
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || tell_open_listeners(&listeners));
        let text = String::from_utf8(captured.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn listeners_beyond_loopback_are_named_once() {
        let loopback = ["127.0.0.1:1883", "[::1]:1883", "[::ffff:127.0.0.2]:1883"];
        let open = ["0.0.0.0:1883", "127.0.0.1:1884", "[::]:8083"];
        for mode in ["none", "file"] {
            assert_eq!(said(mode, &loopback), [""; 0], "{mode}");
        }
        let everybody = said("none", &open);
        assert!(everybody.len() == 1 && everybody[0].contains("WARN"), "{everybody:?}");
        assert!(everybody[0].contains("listeners=\"0.0.0.0:1883, [::]:8083\""), "{everybody:?}");
        assert_eq!(said("file", &["0.0.0.0:8883"]), [""; 0], "nobody reads them there");
        let passwords = said("file", &open);
        assert_eq!(passwords.len(), 2, "{passwords:?}");
        for (line, name) in passwords.iter().zip(["0.0.0.0:1883", "[::]:8083"]) {
            assert!(line.contains("WARN") && line.contains(&format!("listener=\"{name}\"")), "{line}");
        }
    }

    #[test]
    fn whoever_needs_a_certificate_is_no_stranger() {
        let of = |how: &str| {
            let tls = "cert_file = \"c\"\nkey_file = \"k\"\nca_file = \"a\"";
            said_of(
                &format!(
                    "[[listeners.tcp]]\nname = \"0.0.0.0:8883\"\n[listeners.tcp.tls]\n{tls}\nclient_certificate = {how:?}"
                ),
                &["0.0.0.0:8883"],
            )
        };
        assert_eq!((of("optional").len(), of("required").len()), (1, 0));
    }

    #[test]
    fn users_beside_an_open_door_are_told() {
        let of = |text: &str| warnings(&Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap());
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of(&format!("{USER}[auth]\nmode = \"file\"")), [""; 0]);
        let bound = of("[auth]\ncertificate = \"bind\"\n[listeners.tcp]\nbind = \"127.0.0.1:1\"");
        assert!(bound.len() == 1 && bound[0].starts_with("listener tcp lets nobody in"), "{bound:?}");
        let of_listener = format!("{USER}[auth]\nmode = \"file\"\n[listeners.tcp.open]\nauth = {{ mode = \"none\" }}");
        for text in [USER, &of_listener] {
            let said = of(text);
            assert!(said.len() == 1 && said[0].contains("none of [[users]] (there are 1)"), "{said:?}");
        }
    }
    #[test]
    fn the_home_account_by_another_name_is_told() {
        let of = |text: &str| warnings(&Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap());
        let way = |name: &str, user: &str| format!("[accounts.{name}]\nuser = {user:?}\npassword = \"p\"\n");
        let with = |mode: &str| {
            let nats = "[nats]\nuser = \"side\"\npassword = \"p\"\n";
            let listener = "[listeners.tcp]\nbind = \"127.0.0.1:1\"\nauth = { account = \"A\" }\n";
            format!("{nats}[auth]\nmode = {mode:?}\n{listener}{}{}", way("A", "side"), way("B", "other"))
        };
        let said = of(&with("nats"));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("accounts.A is the account of [nats]"), "{said:?}");
        assert!(said[1].starts_with("listener tcp refuses every user") && said[1].ends_with("auth.account = \"A\""));
        assert_eq!(of(&with("none")), [""; 0]);
        let world = World::numbered(0, 0, super::super::now().as_secs());
        let (dir, key) = (tempfile::TempDir::new().unwrap(), world.account.public_key());
        let creds = dir.path().join("a.creds");
        let (jwt, seed) = (world.user_jwt(), world.user.seed().unwrap());
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&creds, text).unwrap();
        let text =
            format!("[nats]\ncreds = {creds:?}\n[auth]\nmode = \"nats\"\n{}{}", way(&key, "side"), way("B", "b"));
        let said = of(&text);
        assert!(said.len() == 1 && said[0].contains(&key), "{said:?}");
    }
}
