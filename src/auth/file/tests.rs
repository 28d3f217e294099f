//! Mode `file` without sockets: verdicts, their delays, and files that change.

use mqtt_codec::{Connect, ReasonCode, Version};

use super::super::turns::Turn;
use super::*;
use crate::config::Overrides;
use crate::listener::{Entrance, Protocol};

const LIGHT: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";
const DARK: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$+Q6JcCccUhX6taJBsV2DpwYub6oG14yYRDFmcjfnToT3aPihgMUyGdPS3j+A9XuYUbUHeIJ/6p4AAlE6yFUoYg==";

fn user(name: &str, hash: &str, more: &str) -> String {
    format!("[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\n{more}\n")
}

fn lamp() -> String {
    user("lamp", LIGHT, "")
}

fn authenticator(auth: &str, users: &str) -> FileUsers {
    let text = format!("[auth]\nmode = \"file\"\n{auth}\n{users}");
    let config = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap();
    FileUsers::new(&config, Metrics::new())
}

fn connect(name: Option<&str>, password: Option<&str>) -> Connect {
    Connect {
        username: name.map(Into::into),
        password: password.map(|password| password.as_bytes().into()),
        ..Connect::new(Version::V5, "c")
    }
}

fn peer() -> Peer {
    Peer::new(([192, 0, 2, 1], 1883).into(), Arc::new(Entrance::plain("test", Protocol::Mqtt)))
}

async fn judge(users: &FileUsers, connect: &Connect) -> Result<Arc<Principal>, ReasonCode> {
    match users.judge(Credentials { connect, data: None, challenge: None, round: 0 }, &peer()).await {
        Verdict::Accepted(principal, None) => Ok(principal),
        Verdict::Refused(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

async fn reason(users: &FileUsers, name: Option<&str>, password: Option<&str>) -> ReasonCode {
    judge(users, &connect(name, password)).await.err().unwrap_or(ReasonCode::Success)
}

#[tokio::test]
async fn who_gets_in_and_what_the_others_are_told() {
    use ReasonCode::{BadUserNameOrPassword, NotAuthorized, Success};
    let users = authenticator("", &lamp());
    for (name, password, expected) in [
        (Some("lamp"), Some("light"), Success),
        (Some("lamp"), Some("dark"), BadUserNameOrPassword),
        (Some("lamp"), None, BadUserNameOrPassword),
        (Some("other"), Some("light"), BadUserNameOrPassword),
        (Some(""), Some("light"), NotAuthorized),
        (None, Some("light"), NotAuthorized),
        (None, None, NotAuthorized),
    ] {
        // Each from the beginning: nobody has failed yet.
        let users = FileUsers { failures: Failures::default(), ..authenticator("", &lamp()) };
        assert_eq!(reason(&users, name, password).await, expected, "{name:?} {password:?}");
    }
    let mut with_method = connect(Some("lamp"), Some("light"));
    with_method.properties.authentication_method = Some("SCRAM-SHA-256".into());
    assert_eq!(judge(&users, &with_method).await.err(), Some(ReasonCode::BadAuthenticationMethod));
    assert_eq!(reason(&authenticator("anonymous = true", &lamp()), None, None).await, Success);
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_step() {
    let metrics = Metrics::new();
    let text = format!("[auth]\nmode = \"file\"\n{}", user("lamp", LIGHT, "tags = [\"mqtt:client-id=name\"]"));
    let config = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap();
    let users = FileUsers::new(&config, Arc::clone(&metrics));
    assert_eq!(reason(&users, Some("lamp"), Some("light")).await, ReasonCode::ClientIdentifierNotValid);
    assert_eq!(reason(&users, Some("other"), Some("light")).await, ReasonCode::BadUserNameOrPassword);
    for step in ["client_id", "unknown_user"] {
        let line = format!("\nmqtt_auth_refused_total{{step=\"{step}\"}} 1\n");
        assert!(metrics.render().contains(&line), "{step}");
    }
}

/// Takes all turns of hashing.
async fn all_turns(users: &FileUsers) -> Vec<Turn> {
    let mut turns = Vec::new();
    while users.turns.free() > 0 {
        turns.push(users.turns.wait(peer().addr.counted_by()).await);
    }
    turns
}

/// Milliseconds that an answer takes, by the paused clock.
async fn waited(users: &FileUsers, name: &str, password: &str) -> u128 {
    let began = Instant::now();
    let _ = reason(users, Some(name), Some(password)).await;
    began.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn who_fails_again_waits_for_longer_and_who_does_not_fail_waits_not_at_all() {
    let users = authenticator("", &lamp());
    let failures =
        [waited(&users, "lamp", "x").await, waited(&users, "lamp", "y").await, waited(&users, "lamp", "z").await];
    assert_eq!(failures, [100, 200, 400]);
    assert_eq!(waited(&users, "lamp", "light").await, 0);
    let turns = users.turns.free();
    let failing = async { waited(&users, "lamp", "w").await };
    let looking = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        users.turns.free()
    };
    let (waited, free) = tokio::join!(failing, looking);
    assert_eq!((waited, free), (800, turns), "who waits for a refusal holds no turn");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_before_the_time_to_judge_is_over() {
    let users = authenticator("", &lamp());
    for _ in 0..10 {
        let _ = users.failures.failed(peer().addr.counted_by(), None);
    }
    let turns = all_turns(&users).await;
    let failing = async { waited(&users, "lamp", "x").await };
    let releasing = async {
        tokio::time::sleep(JUDGED_WITHIN - Duration::from_secs(3)).await;
        drop(turns);
    };
    let (waited, ()) = tokio::join!(failing, releasing);
    assert_eq!(waited, (JUDGED_WITHIN - MARGIN).as_millis(), "not four seconds more");
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_turn_in_time_is_told_so_and_has_not_failed() {
    let users = authenticator("", &lamp());
    let turns = all_turns(&users).await;
    assert_eq!(reason(&users, Some("lamp"), Some("light")).await, ReasonCode::ServerUnavailable);
    drop(turns);
    assert_eq!(waited(&users, "lamp", "x").await, 100);
}

#[tokio::test]
async fn a_password_that_was_right_needs_no_turn_until_the_users_change() {
    let users = authenticator("", &lamp());
    assert_eq!(reason(&users, Some("lamp"), Some("light")).await, ReasonCode::Success);
    let turns = all_turns(&users).await;
    assert_eq!(reason(&users, Some("lamp"), Some("light")).await, ReasonCode::Success);
    replace(&users, parsed(&user("other", DARK, "")), UnixTime::from_millis(1));
    let again = reason(&users, Some("lamp"), Some("light"));
    tokio::pin!(again);
    assert!(futures_util::poll!(&mut again).is_pending(), "it waits for a turn");
    drop(turns);
    assert_eq!(again.await, ReasonCode::Success);
}

/// As if the file had these now.
fn replace(users: &FileUsers, of_file: Vec<UserConfig>, written: UnixTime) {
    let (current, sources) = (users.current(), users.sources.read().clone());
    let next = current.followed_by(of_file, written, &sources.configured, sources.anonymous);
    users.take(&current, Stamp::default(), next);
}

fn parsed(users: &str) -> Vec<UserConfig> {
    Config::assemble(Some(("users.toml", users)), &[], &Overrides::default()).unwrap().users
}

#[tokio::test]
async fn whoever_was_accepted_is_judged_again_when_the_users_change() {
    let users = authenticator("", &lamp());
    let mut changes = users.changes();
    let file =
        [user("same", LIGHT, ""), user("changed", LIGHT, ""), user("password", LIGHT, ""), user("gone", LIGHT, "")];
    replace(&users, parsed(&file.concat()), UnixTime::from_millis(5));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let mut accepted = Vec::new();
    for name in ["lamp", "same", "changed", "password", "gone"] {
        accepted.push(judge(&users, &connect(Some(name), Some("light"))).await.unwrap());
    }
    let more = "permissions = { publish = { allow = [\"a\"] } }";
    let file = [user("same", LIGHT, ""), user("changed", LIGHT, more), user("password", DARK, "")];
    replace(&users, parsed(&file.concat()), UnixTime::from_millis(5));
    assert!(changes.has_changed().unwrap());
    let again: Vec<_> = accepted.iter().map(|principal| users.judge_again(principal, "c")).collect();
    assert!(
        matches!(&again[..], [Again::Same, Again::Same, Again::Changed(_), Again::Gone(_), Again::Gone(_)]),
        "{again:?}"
    );
    let Again::Changed(now) = &again[2] else { panic!("{again:?}") };
    assert!(now.permissions.is_publish_allowed("a") && !now.permissions.is_publish_allowed("b"));
    changes.mark_unchanged();
    replace(&users, parsed(&file.concat()), UnixTime::from_millis(9));
    assert!(!changes.has_changed().unwrap(), "nothing is different");
}

/// Whether there was something to be read.
async fn look(users: &FileUsers) -> bool {
    let seen = *users.seen.lock();
    tokio::select! {
        biased;
        () = users.follow() => panic!("it ended"),
        // Shorter than the pause between two looks, which the clock does not begin before the first is over.
        () = tokio::time::sleep(LOOK_EVERY / 2) => {}
    }
    *users.seen.lock() != seen
}

fn has(users: &FileUsers, name: &str) -> bool {
    users.current().users.get(name).is_some()
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_when_it_is_another_one_and_a_wrong_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    std::fs::write(&file, user("a", LIGHT, "")).unwrap();
    let users = authenticator(&format!("users_file = {file:?}"), &lamp());
    assert!(has(&users, "a") && has(&users, "lamp"));
    assert!(look(&users).await && !look(&users).await, "once");
    assert_eq!(*users.changes().borrow(), 0, "it is as it was when the process began");
    // Put in its place, as editors do.
    let put = |text: &str| {
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
    };
    put(&user("b", LIGHT, ""));
    assert!(look(&users).await);
    assert!(has(&users, "b") && !has(&users, "a") && has(&users, "lamp"));
    for wrong in ["[[users]", "[[users]]\nname = \"c\"", &lamp(), &user("", LIGHT, "")] {
        put(wrong);
        assert!(look(&users).await && !look(&users).await, "once: {wrong}");
        assert!(has(&users, "b") && !has(&users, "c"), "{wrong}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(look(&users).await && !look(&users).await);
    assert!(has(&users, "b"));
    assert_eq!(*users.changes().borrow(), 1);
    put("");
    assert!(look(&users).await);
    assert!(!has(&users, "b") && has(&users, "lamp"), "there are others");
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_before_the_configuration_was_taken_is_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    let config = |name: &str| {
        std::fs::write(&file, user(name, LIGHT, "")).unwrap();
        let text = format!("[auth]\nmode = \"file\"\nusers_file = {file:?}\n");
        Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap()
    };
    let users = FileUsers::new(&config("a"), Metrics::new());
    let older = config("b");
    std::fs::write(&file, user("newest", LIGHT, "")).unwrap();
    assert!(look(&users).await && has(&users, "newest"));
    // Read before that, taken after it.
    users.reconfigure(&older);
    assert!(has(&users, "b") && !has(&users, "newest"));
    look(&users).await;
    assert!(has(&users, "newest") && !has(&users, "b"));
}

#[tokio::test]
async fn a_look_that_the_configuration_has_overtaken_counts_for_nothing() {
    let users = authenticator("", &lamp());
    let before = users.current();
    let text = format!("[auth]\nmode = \"file\"\n{}", user("other", LIGHT, ""));
    users.reconfigure(&Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap());
    for looked in
        [Ok(None), Err("wrong".to_owned()), before.followed_by(parsed(&lamp()), UnixTime::default(), &[], false)]
    {
        users.take(&before, Stamp::of(std::path::Path::new("/")), looked);
        assert!(users.seen.lock().is_none() && has(&users, "other") && !has(&users, "lamp"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    std::fs::write(&file, user("a", LIGHT, "")).unwrap();
    let users = authenticator(&format!("users_file = {file:?}"), "");
    let mut changes = users.changes();
    let changed = async {
        std::fs::write(&file, user("bb", LIGHT, "")).unwrap();
        changes.changed().await.unwrap();
    };
    tokio::select! {
        () = users.follow() => panic!("it ended"),
        () = changed => {}
    }
    assert!(has(&users, "bb"));
}

#[tokio::test(start_paused = true)]
async fn who_has_a_key_signs_a_nonce_and_nobody_learns_whose_keys_are_known() {
    let [key, other] = [nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user()];
    let with_key = format!("[[users]]\nname = \"pump\"\nnkey = \"{}\"\n", key.public_key());
    let users = authenticator("", &with_key);
    let named = |key: &nkeys::KeyPair| {
        let mut connect = connect(None, None);
        connect.properties.authentication_method = Some("NATS-NKEY".into());
        connect.properties.authentication_data = Some(key.public_key().as_bytes().into());
        connect
    };
    let judge = async |connect: &Connect, answer: Option<(&[u8], &nkeys::KeyPair)>| {
        let signature = answer
            .map(|(nonce, key)| mqtt_codec::Secret::from(key.sign(&[b"mqtt-nkey-v1\0c\0", nonce].concat()).unwrap()));
        let (data, challenge) = (signature.as_ref(), answer.map(|(nonce, _)| nonce));
        let credentials = Credentials { connect, data, challenge, round: u8::from(answer.is_some()) };
        users.judge(credentials, &peer()).await
    };
    for (claimed, signer, expected) in [(&key, &key, true), (&key, &other, false), (&other, &other, false)] {
        let connect = named(claimed);
        let Verdict::Challenge(nonce) = judge(&connect, None).await else { panic!("no challenge") };
        match judge(&connect, Some((&nonce, signer))).await {
            Verdict::Accepted(principal, None) if expected => {
                assert_eq!((&*principal.user.name, &principal.user.key), ("pump", &Some(key.public_key())));
                assert!(matches!(users.judge_again(&principal, "c"), Again::Same));
            }
            Verdict::Refused(ReasonCode::BadUserNameOrPassword) if !expected => {}
            verdict => panic!("{verdict:?}"),
        }
    }
    assert_eq!(reason(&users, Some("pump"), Some("light")).await, ReasonCode::BadUserNameOrPassword, "it has none");
    let without_keys = authenticator("", &lamp());
    assert_eq!(super::tests::judge(&without_keys, &named(&key)).await.err(), Some(ReasonCode::BadAuthenticationMethod));
}

#[tokio::test]
async fn a_user_who_is_not_connected_may_do_what_its_name_may_do_now() {
    let allowed = |name: &str, hash: &str, topic: &str, more: &str| {
        user(name, hash, &format!("permissions = {{ publish = {{ allow = [\"{topic}\"] }} }}\n{more}"))
    };
    let users = authenticator("", &lamp());
    let file = ["same", "changed", "password", "gone", "moved"].map(|name| allowed(name, LIGHT, "a", ""));
    replace(&users, parsed(&file.concat()), UnixTime::from_millis(5));
    let mut kept = Vec::new();
    for name in ["same", "changed", "password", "gone", "moved"] {
        let principal = judge(&users, &connect(Some(name), Some("light"))).await.unwrap();
        kept.push(Publisher::new(&principal).unwrap());
    }
    let file = [
        allowed("same", LIGHT, "a", ""),
        allowed("changed", LIGHT, "b", ""),
        allowed("password", DARK, "b", ""),
        allowed("moved", LIGHT, "b", "account = \"T1\""),
        "[accounts.T1]\nuser = \"u\"\npassword = \"p\"\n".to_owned(),
    ];
    replace(&users, parsed(&file.concat()), UnixTime::from_millis(6));
    let mut may = Vec::new();
    for publisher in &kept {
        let permissions = users.permissions_of(publisher, "c").await;
        may.push(permissions.map(|permissions| permissions.is_publish_allowed("a")));
    }
    assert_eq!(may, [Some(true), Some(false), Some(false), None, None], "with another password it is the same user");
}
