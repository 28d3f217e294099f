//! Who judges whom: by listener, by credentials, by certificate.

use std::future::ready;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_access::{Certificate, Origin, User};
use mqtt_codec::{ReasonCode, Version};

use super::*;
use crate::config::{Config, Overrides};
use crate::listener::{Entrance, Protocol};
use crate::metrics::Metrics;

const LIGHT: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";

/// Accepts whoever gives the name of its mode as password, as this user of this account.
struct Known {
    mode: Mode,
    account: &'static str,
    changes: watch::Sender<u64>,
    again: Again,
}

impl Known {
    fn new(mode: Mode, account: &'static str) -> Box<Self> {
        Box::new(Self { mode, account, changes: watch::Sender::default(), again: Again::Same })
    }

    fn principal(&self, name: &str) -> Arc<Principal> {
        Arc::new(Principal {
            account: AccountId::new(self.account),
            user: User { name: name.to_owned(), ..User::default() },
            origin: Origin::of(self.mode),
            ..Principal::all()
        })
    }
}

impl Authenticator for Known {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, _peer: &'a Peer) -> Judging<'a> {
        let connect = credentials.connect;
        let is_right = connect.password.as_ref().is_none_or(|given| given.expose() == self.mode.as_str().as_bytes());
        let verdict = match is_right {
            true => Verdict::Accepted(self.principal(connect.username.as_deref().unwrap_or_default()), None),
            false => Verdict::Refused(ReasonCode::Banned),
        };
        Box::pin(ready(verdict))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn judge_again(&self, _principal: &Principal, _client_id: &str) -> Again {
        self.again.clone()
    }
}

fn listener(mode: Mode, account: Option<&str>, certificate: CertificateUse) -> ListenerAuth {
    ListenerAuth { mode, account: account.map(Into::into), certificate }
}

/// What most listeners say.
fn usual() -> ListenerAuth {
    listener(Mode::Nats, None, CertificateUse::None)
}

/// Beside a user "lamp", whose certificate is for lamp.example.
fn dispatch(anonymous: bool) -> Dispatch {
    let text = format!(
        "[auth]\nmode = \"file\"\n[[users]]\nname = \"lamp\"\npassword = \"{LIGHT}\"\ncertificate = \"dns:lamp.example\"\n"
    );
    let config = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap();
    let metrics = Metrics::new();
    let others: Vec<(Mode, Box<dyn Authenticator>)> = vec![
        (Mode::None, Known::new(Mode::None, "")),
        (Mode::Nats, Known::new(Mode::Nats, "")),
        (Mode::Oidc, Known::new(Mode::Oidc, "T1")),
    ];
    let modes = Modes {
        file: Some(FileUsers::new(&config, Arc::clone(&metrics))),
        others,
        issuer: Some("https://id".to_owned()),
    };
    Dispatch::new(anonymous, modes, Refusals::new(metrics))
}

/// By a listener that says this.
fn peer(auth: &ListenerAuth, identities: &[&str]) -> Peer {
    let entrance = Arc::new(Entrance { auth: auth.clone(), ..Entrance::plain("test", Protocol::Mqtt) });
    let identities: Vec<_> = identities.iter().map(|text| text.parse().unwrap()).collect();
    Peer {
        certificate: (!identities.is_empty()).then(|| Box::new(Certificate::new(identities))),
        ..Peer::new(([192, 0, 2, 1], 1883).into(), entrance)
    }
}

fn connect(name: Option<&str>, password: Option<&str>) -> Connect {
    Connect {
        username: name.map(Into::into),
        password: password.map(|password| password.as_bytes().into()),
        ..Connect::new(Version::V5, "c")
    }
}

/// Mode, account and name of who gets in, or what it is told.
async fn judged(dispatch: &Dispatch, connect: &Connect, peer: &Peer) -> String {
    match dispatch.judge(Credentials { connect, data: None, challenge: None, round: 0 }, peer).await {
        Verdict::Accepted(principal, _) => {
            format!("{} {:?} {}", principal.origin.mode.as_str(), principal.account.as_str(), principal.user.name)
        }
        Verdict::Refused(reason) => format!("{reason:?}"),
        Verdict::Challenge(_) => "challenge".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_and_the_credentials_choose_one_who_judges() {
    let field = listener(Mode::Oidc, None, CertificateUse::None);
    let open = listener(Mode::None, None, CertificateUse::None);
    let (tcp, dispatch) = (usual(), dispatch(false));
    for (at, name, password, expected) in [
        (&tcp, Some("a"), Some("nats"), "nats \"\" a"),
        (&tcp, Some("a"), Some("oidc"), "Banned"),
        (&field, Some("a"), Some("oidc"), "oidc \"T1\" a"),
        (&field, Some("a"), Some("nats"), "Banned"),
        // A name that [[users]] has goes to file, and its refusal is final.
        (&tcp, Some("lamp"), Some("light"), "file \"\" lamp"),
        (&tcp, Some("lamp"), Some("nats"), "BadUserNameOrPassword"),
        (&open, Some("lamp"), Some("none"), "BadUserNameOrPassword"),
        (&open, Some("b"), Some("none"), "none \"\" b"),
        // Without credentials, in every mode but none.
        (&tcp, None, None, "NotAuthorized"),
        (&field, Some(""), Some(""), "NotAuthorized"),
        (&open, None, None, "none \"\" "),
        (&tcp, None, Some("nats"), "nats \"\" "),
    ] {
        assert_eq!(
            judged(&dispatch, &connect(name, password), &peer(at, &[])).await,
            expected,
            "{at:?} {name:?} {password:?}"
        );
    }
    let anonymous = self::dispatch(true);
    assert_eq!(judged(&anonymous, &connect(None, None), &peer(&tcp, &[])).await, "nats \"\" ");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_identity_provider_goes_to_it_at_every_listener() {
    let dispatch = dispatch(false);
    let jwt = |header: &str, claims: &str| [header, claims, "sig"].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    for (name, password, expected) in [
        ("a", jwt(r#"{"alg":"RS256"}"#, r#"{"iss":"https://id"}"#), Mode::Oidc),
        ("lamp", jwt(r#"{"alg":"RS256"}"#, r#"{"iss":"https://id"}"#), Mode::Oidc),
        ("a", jwt(r#"{"alg":"RS256"}"#, r#"{"iss":"https://other"}"#), Mode::Nats),
        ("a", jwt(r#"{"alg":"ed25519-nkey"}"#, r#"{"iss":"https://id"}"#), Mode::Nats),
        ("lamp", jwt(r#"{"alg":"ed25519-nkey"}"#, r#"{"iss":"A"}"#), Mode::File),
    ] {
        let mode = dispatch.mode_of(&usual(), &connect(Some(name), Some(&password)));
        assert_eq!(mode, expected, "{name} {password}");
    }
    let mut with_method = connect(None, None);
    with_method.properties.authentication_method = Some("OAUTH2-JWT".into());
    assert_eq!(dispatch.mode_of(&usual(), &with_method), Mode::Oidc);
}

#[tokio::test(start_paused = true)]
async fn who_brings_no_account_gets_that_of_the_listener_and_who_brings_another_is_refused() {
    let at = |mode, account| listener(mode, Some(account), CertificateUse::None);
    let dispatch = dispatch(false);
    for (at, name, password, expected) in [
        (at(Mode::File, "T2"), "lamp", "light", "file \"T2\" lamp"),
        // The empty account is the one of our own NATS user, which is proven: nothing is missing.
        (at(Mode::Nats, "T2"), "a", "nats", "NotAuthorized"),
        (at(Mode::Oidc, "T1"), "a", "oidc", "oidc \"T1\" a"),
        (at(Mode::Oidc, "T2"), "a", "oidc", "NotAuthorized"),
    ] {
        let judged = judged(&dispatch, &connect(Some(name), Some(password)), &peer(&at, &[])).await;
        assert_eq!(judged, expected, "{at:?} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_certificate_is_good_for() {
    let [none, bind, enough] = [CertificateUse::None, CertificateUse::Bind, CertificateUse::Enough];
    let dispatch = dispatch(false);
    let lamp = Some("lamp");
    for (at, identities, name, password, expected) in [
        (none, &["dns:lamp.example"][..], None, None, "NotAuthorized"),
        (none, &["dns:lamp.example"], Some("a"), Some("nats"), "nats \"\" a"),
        // Alone, where that is enough.
        (enough, &["dns:LAMP.example"], None, None, "file \"\" lamp"),
        (enough, &["email:x@y", "dns:lamp.example"], lamp, None, "file \"\" lamp"),
        (enough, &["email:lamp.example"], None, None, "NotAuthorized"),
        // Beside another user's name, or what proves another user.
        (enough, &["dns:lamp.example"], Some("a"), Some("nats"), "NotAuthorized"),
        (enough, &["dns:lamp.example"], None, Some("nats"), "NotAuthorized"),
        (enough, &["dns:lamp.example"], lamp, Some("dark"), "BadUserNameOrPassword"),
        (enough, &["dns:lamp.example"], lamp, Some("light"), "file \"\" lamp"),
        (enough, &["cn:a"], Some("a"), Some("nats"), "nats \"\" a"),
        (enough, &[], lamp, Some("light"), "file \"\" lamp"),
        // Needed beside the password, for the same user.
        (bind, &[], lamp, Some("light"), "NotAuthorized"),
        (bind, &["dns:lamp.example"], lamp, None, "BadUserNameOrPassword"),
        (bind, &["dns:lamp.example"], lamp, Some("light"), "file \"\" lamp"),
        (bind, &["cn:lamp"], lamp, Some("light"), "NotAuthorized"),
        (bind, &["cn:a"], Some("a"), Some("nats"), "nats \"\" a"),
        (bind, &["cn:b"], Some("a"), Some("nats"), "NotAuthorized"),
        (bind, &["cn:a"], None, Some("nats"), "NotAuthorized"),
    ] {
        let judged =
            judged(&dispatch, &connect(name, password), &peer(&listener(Mode::Nats, None, at), identities)).await;
        assert_eq!(judged, expected, "{at:?} {identities:?} {name:?} {password:?}");
    }
}

#[tokio::test]
async fn who_accepted_judges_again_and_nobody_changes_its_account() {
    let account_of = |again: &Again| match again {
        Again::Changed(principal) => principal.account.as_str().to_owned(),
        Again::Gone(_) => "Gone".to_owned(),
        Again::Same => "Same".to_owned(),
    };
    let mut dispatch = dispatch(false);
    let oidc = Known::new(Mode::Oidc, "T1");
    let (t1, none) = (oidc.principal("a"), Known::new(Mode::Oidc, "").principal("a"));
    let given = with_account(&none, &AccountId::new("T2"));
    for (now, connected, expected) in
        [(&t1, &t1, "T1"), (&none, &given, "T2"), (&t1, &given, "Gone"), (&none, &t1, "Gone"), (&t1, &none, "Gone")]
    {
        dispatch.modes.others[2].1 =
            Box::new(Known { again: Again::Changed(Arc::clone(now)), ..*Known::new(Mode::Oidc, "") });
        assert_eq!(
            account_of(&dispatch.judge_again(connected, "c")),
            expected,
            "{:?} {:?}",
            now.account,
            connected.account
        );
    }
    let of_nats = Known::new(Mode::Nats, "").principal("a");
    assert_eq!(account_of(&dispatch.judge_again(&of_nats, "c")), "Same");
    dispatch.modes.others.clear();
    assert_eq!(account_of(&dispatch.judge_again(&of_nats, "c")), "Gone", "nobody knows it any more");
}

#[tokio::test]
async fn a_change_of_any_mode_is_one_of_all() {
    let mut dispatch = dispatch(false);
    let nats = Known::new(Mode::Nats, "");
    let changed = nats.changes.clone();
    dispatch.modes.others[1].1 = nats;
    let mut changes = dispatch.changes();
    tokio::select! {
        biased;
        () = dispatch.follow() => panic!("it follows for ever"),
        result = async { changed.send_replace(1); changes.changed().await } => result.unwrap(),
    }
    assert_eq!(*changes.borrow(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_revoked_ends_who_has_shown_it_in_every_mode() {
    let revocations = Arc::<Revocations>::default();
    let dispatch = dispatch(false).heeding(Arc::clone(&revocations));
    let id = CertificateId { issuer: Box::from(&b"ours"[..]), serial: Box::from([7]) };
    let with = |id: &CertificateId| Peer {
        certificate: Some(Box::new(Certificate::default().with_chain(Arc::from([id.clone()])))),
        ..peer(&usual(), &[])
    };
    let connect = connect(Some("a"), Some("nats"));
    let credentials = || Credentials { connect: &connect, data: None, challenge: None, round: 0 };
    let Verdict::Accepted(principal, _) = dispatch.judge(credentials(), &with(&id)).await else { panic!("refused") };
    assert!(matches!(dispatch.judge_again(&principal, "c"), Again::Same));
    revocations.put_one(&id);
    assert!(matches!(dispatch.judge_again(&principal, "c"), Again::Gone(AuthStep::CertificateRevoked)));
    // Between TLS and CONNECT as well.
    assert_eq!(judged(&dispatch, &connect, &with(&id)).await, "NotAuthorized");
    let other = CertificateId { serial: Box::from([8]), ..id };
    assert_eq!(judged(&dispatch, &connect, &with(&other)).await, "nats \"\" a");
}

#[tokio::test(start_paused = true)]
async fn the_account_of_a_name_that_was_asked_for_stands_in_place_of_the_listeners() {
    let open = listener(Mode::None, Some("T1"), CertificateUse::None);
    let tokens = listener(Mode::Oidc, None, CertificateUse::None);
    let dispatch = dispatch(false);
    for (at, asked, password, expected) in [
        (&open, None, "none", "none \"T1\" a"),
        (&open, Some("T2"), "none", "none \"T2\" a"),
        (&tokens, None, "oidc", "oidc \"T1\" a"),
        (&tokens, Some("T1"), "oidc", "oidc \"T1\" a"),
        (&tokens, Some("T2"), "oidc", "NotAuthorized"),
    ] {
        let peer = Peer { account: asked.map(Into::into), ..peer(at, &[]) };
        assert_eq!(judged(&dispatch, &connect(Some("a"), Some(password)), &peer).await, expected, "{at:?} {asked:?}");
    }
}
