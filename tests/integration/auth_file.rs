//! Mode `file`: who gets in with a password, who does not and what it is told, and a file of users that changes.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};
use nkeys::KeyPair;
use tempfile::TempDir;

use crate::harness::{Client, NatsServer, Options, PROGRAM, Sidecar, SidecarBuilder, eventually, run};

/// What `nats-mqtt passwd` makes of a password.
pub(crate) fn hash(password: &str) -> String {
    let mut passwd = Command::new(PROGRAM);
    let mut passwd = passwd.arg("passwd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let made = passwd.wait_with_output().unwrap();
    assert!(made.status.success());
    String::from_utf8(made.stdout).unwrap().trim_end().to_owned()
}

fn user(name: &str, password: &str, more: &str) -> String {
    format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\n{more}\n", hash(password))
}

/// A sidecar that knows users, and its files.
struct Guarded {
    dir: TempDir,
    sidecar: Sidecar,
}

impl Guarded {
    /// With users in its configuration, and in a file.
    async fn start(nats: &NatsServer, users: &str, of_file: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let (config, file) = (dir.path().join("nats-mqtt.toml"), dir.path().join("users.toml"));
        std::fs::write(&file, of_file).unwrap();
        std::fs::write(&config, format!("[auth]\nmode = \"file\"\nusers_file = {file:?}\n{users}")).unwrap();
        let args = ["--nats", &nats.url(), "-c", config.to_str().unwrap()];
        Self { sidecar: SidecarBuilder::new("guarded", &args).start().await, dir }
    }

    /// What a CONNECT is answered. Each from an address of its own: who has not failed before is answered soon.
    async fn answer(&self, mut options: Options, name: Option<&str>, password: Option<&str>) -> ReasonCode {
        options.connect.username = name.map(Into::into);
        options.connect.password = password.map(|password| password.as_bytes().into());
        Client::open(self.sidecar.mqtt_port, options).await.connack.reason
    }

    fn put_users(&self, users: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, users).unwrap();
        std::fs::rename(new, self.dir.path().join("users.toml")).unwrap();
    }

    async fn refused(&self, step: &str) -> f64 {
        self.sidecar.metric(&format!("mqtt_auth_refused_total{{step=\"{step}\"}}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_in_by_a_password_and_what_the_others_are_told() {
    use ReasonCode::{BadUserNameOrPassword, ClientIdentifierNotValid, NotAuthorized, Success};
    let nats = NatsServer::start();
    let bound = "tags = [\"mqtt:client-id=name\"]";
    let of_client = "permissions = { publish = { allow = [\"dev.{{client-id()}}\"] } }";
    let users = [user("lamp", "light", ""), user("bound", "rope", bound), user("esp", "chip", of_client)].concat();
    let guarded = Guarded::start(&nats, &users, "").await;
    let mut from = 1;
    for (id, name, password, expected) in [
        ("a", Some("lamp"), Some("light"), Success),
        ("b", Some("lamp"), Some("Light"), BadUserNameOrPassword),
        ("c", Some("lamp"), None, BadUserNameOrPassword),
        ("d", Some("\u{1b}[31m"), Some("light"), BadUserNameOrPassword),
        ("e", None, None, NotAuthorized),
        ("bound-1", Some("bound"), Some("rope"), Success),
        ("other", Some("bound"), Some("rope"), ClientIdentifierNotValid),
        ("esp.1", Some("esp"), Some("chip"), Success),
        ("a/b", Some("esp"), Some("chip"), NotAuthorized),
    ] {
        for version in [Version::V311, Version::V5] {
            from += 1;
            let reason = guarded.answer(Options::new(version, id).from(from), name, password).await;
            assert_eq!(reason, expected, "{version:?} {id} {name:?} {password:?}");
        }
    }
    let steps = ["wrong_password", "unknown_user", "no_credentials", "client_id", "template", "method", "busy"];
    for (step, count) in steps.iter().zip([4.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]) {
        assert_eq!(guarded.refused(step).await, count, "{step}");
    }
    let log = guarded.sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" refused ")).collect();
    assert_eq!(lines.len(), 12, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("user=\"lamp\"") && line.contains("step=\"wrong_password\"")),
        "{lines:?}"
    );
    for secret in ["Light", "rope", "chip", "\u{1b}[31m"] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret:?} {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_lets_a_new_user_in_and_refuses_one_that_is_gone() {
    let nats = NatsServer::start();
    let (old, new) = (user("old", "one", ""), user("new", "two", ""));
    let guarded = Guarded::start(&nats, &user("always", "three", ""), &old).await;
    let answer = async |from: u8, name: &str, password: &str| {
        guarded.answer(Options::v5("c").from(from), Some(name), Some(password)).await
    };
    assert_eq!(answer(1, "old", "one").await, ReasonCode::Success);
    assert_eq!(answer(2, "new", "two").await, ReasonCode::BadUserNameOrPassword);
    guarded.put_users(&new);
    eventually("the file was read", async || guarded.sidecar.log().contains("users_file was read again")).await;
    assert_eq!(answer(3, "new", "two").await, ReasonCode::Success);
    // Its password was right a moment ago, and is remembered no more.
    assert_eq!(answer(4, "old", "one").await, ReasonCode::BadUserNameOrPassword);
    assert_eq!(answer(5, "always", "three").await, ReasonCode::Success);
    guarded.put_users("[[users]]\nname = \"new\"\npassword = \"two\"\n");
    eventually("the file is wrong", async || guarded.sidecar.log().contains("the users stay as they were")).await;
    let log = guarded.sidecar.log();
    let line = log.lines().find(|line| line.contains("the users stay as they were")).unwrap();
    assert!(line.contains("WARN") && line.contains("users.toml:3: users[0].password: this is not the hash"), "{line}");
    assert_eq!(answer(6, "new", "two").await, ReasonCode::Success);
    let answered = guarded.sidecar.metric("mqtt_connect_total{result=\"bad_user_name_or_password\"}").await;
    assert_eq!(answered, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_key_gets_in_by_signing_and_nobody_else_by_naming_it() {
    let nats = NatsServer::start();
    let [key, other] = [KeyPair::new_user(), KeyPair::new_user()];
    let user = format!("[[users]]\nname = \"lamp\"\nnkey = \"{}\"\n", key.public_key());
    let guarded = Guarded::start(&nats, &user, "").await;
    let [seed, other_seed] = [&key, &other].map(|key| key.seed().unwrap());
    let mut lamp = guarded.sidecar.connect(Options::v5("lamp").nkey(&key.public_key(), &seed)).await;
    lamp.ping().await;
    for (options, step) in [
        (Options::v5("wrong").nkey(&key.public_key(), &other_seed), "signature_wrong"),
        (Options::v5("stranger").nkey(&other.public_key(), &other_seed), "unknown_user"),
    ] {
        let refused = Client::open(guarded.sidecar.mqtt_port, options).await.connack.reason;
        assert_eq!(refused, ReasonCode::BadUserNameOrPassword, "{step}");
        assert_eq!(guarded.refused(step).await, 1.0);
    }
    assert!(!guarded.sidecar.log().contains(&seed), "a seed is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_that_would_be_is_said_without_connecting() {
    let dir = TempDir::new().unwrap();
    let [config, right, wrong] = ["nats-mqtt.toml", "right", "wrong"].map(|name| dir.path().join(name));
    let more = "permissions = { publish = { allow = [\"dev.{{client-id()}}.>\"] } }\ntags = [\"site:x\"]";
    std::fs::write(&config, format!("[auth]\nmode = \"file\"\n{}", user("lamp", "light", more))).unwrap();
    std::fs::write(&right, "light\n").unwrap();
    std::fs::write(&wrong, "dark\n").unwrap();
    let test = async |password: &std::path::Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["auth", "test", "--user", "lamp", "--client-id", "esp.1", "-c"]).arg(&config);
        command.arg("--password-file").arg(password);
        run(command, Duration::from_secs(30)).await
    };
    let said = test(&right).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let lines: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [["user", "lamp"], ["publish", "dev.esp//1.>"], ["subscribe", "everything"], ["tags", "site:x"]];
    assert_eq!(lines, expected);
    let said = test(&wrong).await;
    assert_eq!((said.code, &*said.stdout), (1, ""));
    assert!(said.stderr.contains("refused at step wrong_password"), "{}", said.stderr);
}
