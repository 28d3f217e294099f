//! Several accounts in one process: tenants that know nothing of each other, opened for whoever comes first, kept for those who
//! are away, and none hurt by another.

use std::process::Command;
use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};
use tempfile::TempDir;

use crate::auth_file::hash;
use crate::harness::{
    Client, NatsServer, Options, PATIENCE, PROGRAM, Sidecar, SidecarBuilder, Watch, msg, run, stream_info,
};

/// How long the sessions of a killed sidecar may take to be in order: its lease has to end.
const ADOPTED_WITHIN: Duration = Duration::from_secs(60);

/// Accounts of nats-server's configuration: a home for sidecars, two tenants, and one without JetStream.
pub(crate) const ACCOUNTS: &str = "accounts {
  HOME: { jetstream: enabled, users: [{ user: home, password: h }] }
  T1: { jetstream: enabled, users: [{ user: one, password: pw1 }] }
  T2: { jetstream: enabled, users: [{ user: two, password: pw2 }] }
  BARE: { users: [{ user: bare, password: b }] }
}";

/// The files of sidecars that serve them. In T1 there is `a`, in T2 `b`, in BARE there are two, and `x` wants an account that nobody knows a way into.
pub(crate) struct Tenants {
    pub(crate) dir: TempDir,
}

impl Tenants {
    pub(crate) fn new(more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let secret = hash("secret");
        let users = [("home", ""), ("a", "T1"), ("b", "T2"), ("bare", "BARE"), ("other-bare", "BARE"), ("x", "T9")];
        let users: String = users
            .map(|(name, account)| {
                format!("[[users]]\nname = {name:?}\npassword = {secret:?}\naccount = {account:?}\n")
            })
            .concat();
        let ways =
            [("T1", "one", "pw1"), ("T2", "two", "pw2"), ("BARE", "bare", "b")].map(|(account, user, password)| {
                format!("[accounts.{account}]\nuser = \"{user}\"\npassword = \"{password}\"\n")
            });
        let config = format!(
            "[nats]\nuser = \"home\"\npassword = \"h\"\n{more}\n[auth]\nmode = \"file\"\n{users}\n{}",
            ways.concat()
        );
        std::fs::write(dir.path().join("nats-mqtt.toml"), config).unwrap();
        Self { dir }
    }

    /// The same without a way into an account.
    fn without(&self, account: &str) -> Self {
        let config = std::fs::read_to_string(self.dir.path().join("nats-mqtt.toml")).unwrap();
        let (before, behind) = config.split_once(&format!("[accounts.{account}]\n")).unwrap();
        let behind =
            behind.split_once("[accounts.").map(|(_, others)| format!("[accounts.{others}")).unwrap_or_default();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("nats-mqtt.toml"), format!("{before}{behind}")).unwrap();
        Self { dir }
    }

    pub(crate) async fn sidecar(&self, name: &'static str, nats: &NatsServer) -> Sidecar {
        self.sidecar_of(name, &nats.url()).await
    }

    /// One that goes to these servers.
    pub(crate) async fn sidecar_of(&self, name: &'static str, url: &str) -> Sidecar {
        let config = self.dir.path().join("nats-mqtt.toml");
        SidecarBuilder::new(name, &["--nats", url, "-c", config.to_str().unwrap()]).start().await
    }
}

pub(crate) fn of(user: &str, options: Options) -> Options {
    let mut options = options;
    options.connect.username = Some(user.into());
    options.connect.password = Some("secret".as_bytes().into());
    options
}

pub(crate) async fn nats(server: &NatsServer, user: &str, password: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    options.connect(server.url()).await.expect("connect to nats-server")
}

/// What a client of a user has of a topic, retained messages first, up to one that it publishes itself.
pub(crate) async fn retained(sidecar: &Sidecar, user: &str, topic: &str) -> Vec<String> {
    let mut client = sidecar.connect(of(user, Options::v5("late"))).await;
    client.subscribe(topic, 0).await;
    client.publish(msg(topic, "end")).await;
    let mut shown = client.shown_until("end").await;
    client.disconnect(ReasonCode::Success).await;
    shown.retain(|shown| shown.contains("retain"));
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_have_the_same_names_and_know_nothing_of_each_other() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("tenants", &server).await;
    let (one, two) = (nats(&server, "one", "pw1").await, nats(&server, "two", "pw2").await);
    let mut on_nats = [Watch::new(&one, "t.>").await, Watch::new(&two, "t.>").await];
    let mut a = sidecar.connect(of("a", Options::v5("same").durable(60))).await;
    let mut b = sidecar.connect(of("b", Options::v5("same").durable(60))).await;
    let mut home = sidecar.connect(of("home", Options::v5("same").durable(60))).await;
    for client in [&mut a, &mut b, &mut home] {
        assert!(!client.is_resumed());
        client.subscribe("t/#", 2).await;
        client.subscribe("$share/g/s", 1).await;
    }
    // The one with the id of another tenant's is not taken over.
    a.publish(msg("t/1", "of-a").qos(1).retained()).await;
    b.publish(msg("t/1", "of-b").qos(2).retained()).await;
    home.publish(msg("t/2", "of-home")).await;
    for (client, wanted) in [(&mut a, "t/1 of-a qos1"), (&mut b, "t/1 of-b qos2"), (&mut home, "t/2 of-home qos0")] {
        assert_eq!(client.receive_shown().await, wanted);
        client.publish(msg("s", wanted).qos(1)).await;
        assert_eq!(client.receive_shown().await, format!("s {wanted} qos1"));
        client.ping().await;
    }
    for (watch, wanted) in on_nats.iter_mut().zip(["of-a", "of-b"]) {
        assert_eq!(watch.next().await.payload, wanted);
    }
    assert_eq!(retained(&sidecar, "a", "t/1").await, ["t/1 of-a qos0 retain"]);
    assert_eq!(retained(&sidecar, "b", "t/1").await, ["t/1 of-b qos0 retain"]);
    assert!(retained(&sidecar, "home", "t/1").await.is_empty());
    // What a NATS client publishes reaches its own tenant.
    two.publish("t.nats", "hello".into()).await.unwrap();
    assert_eq!(b.receive_shown().await, "t/1 end qos0");
    assert_eq!(b.receive_shown().await, "t/nats hello qos2");
    for client in [&mut a, &mut home] {
        client.publish(msg("t/last", "last")).await;
        client.shown_until("last").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_be_served_is_refused_and_hurts_no_other() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("refusing", &server).await;
    for version in [Version::V311, Version::V5] {
        let refused = Client::open(sidecar.mqtt_port, of("x", Options::new(version, "r"))).await;
        assert_eq!(refused.connack.reason, ReasonCode::ServerUnavailable);
        let why = "there is no way into it: write [accounts.\"T9\"]";
        assert!(sidecar.log().contains(why), "{why}");
    }
    let mut other = sidecar.connect(of("a", Options::v5("other"))).await;
    other.ping().await;
    assert!(sidecar.answers("/readyz", 200).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_accounts_are_open_than_may_be() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("max_accounts = 1").sidecar("few", &server).await;
    let _first = sidecar.connect(of("a", Options::v5("first"))).await;
    let _again = sidecar.connect(of("a", Options::v5("again"))).await;
    let _home = sidecar.connect(of("home", Options::v5("home"))).await;
    let refused = Client::open(sidecar.mqtt_port, of("b", Options::v5("second"))).await;
    assert_eq!(refused.connack.reason, ReasonCode::QuotaExceeded);
    let log = sidecar.log();
    let told = log.lines().rfind(|line| line.contains("client_id=\"second\"")).unwrap();
    for part in
        ["refused", "account=\"T2\"", "user=\"b\"", "why=\"as many accounts are open as nats.max_accounts allows\""]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    // What is said of an account while it is opened names it.
    assert!(log.contains("opening{account=\"T1\"}: stream created"), "{log}");
    assert_eq!(sidecar.metric("mqtt_accounts").await, 2.0);
    assert_eq!(sidecar.metric("mqtt_over_limit_total{limit=\"accounts\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_sidecar_owed_in_a_tenant_another_one_does_that_nobody_of_it_is_connected_to() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let tenants = Tenants::new("");
    let mut dying = tenants.sidecar("dying", &server).await;
    let other = tenants.sidecar("other", &server).await;
    let one = nats(&server, "one", "pw1").await;
    let mut wills = Watch::new(&one, "will").await;
    let will = msg("will", "gone").qos(1);
    let _client = dying.connect(of("a", Options::v5("w").durable(600).delayed_will(will, 0))).await;
    dying.kill();
    let will = wills.next_within(ADOPTED_WITHIN).await;
    assert_eq!(will.payload, "gone");
    let back = other.connect(of("a", Options::v5("w").durable(600))).await;
    assert!(back.is_resumed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_way_into_an_account_leaves_what_is_owed_there_to_those_who_have() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let tenants = Tenants::new("");
    // Who should hold the account is one of four, and two of those cannot.
    let without = tenants.without("T1");
    let _blind = [without.sidecar("blind", &server).await, without.sidecar("blind-too", &server).await];
    let mut dying = tenants.sidecar("dying", &server).await;
    let _other = tenants.sidecar("other", &server).await;
    let one = nats(&server, "one", "pw1").await;
    let mut wills = Watch::new(&one, "will").await;
    let _client = dying.connect(of("a", Options::v5("w").durable(600).will(msg("will", "gone").qos(1)))).await;
    dying.kill();
    assert_eq!(wills.next_within(ADOPTED_WITHIN).await.payload, "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_others_serve_from_another_home_is_left_alone() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("tenant-of-home", &server).await;
    let _served = sidecar.connect(of("a", Options::v5("served"))).await;
    let url = server.url().replace("nats://", "nats://one:pw1@");
    let mut alone = SidecarBuilder::new("alone", &["--nats", &url]).launch();
    let status = alone.ended().await;
    assert_eq!(status.code(), Some(78));
    assert!(alone.log().contains("whose own account ([nats]) is HOME, and not T1 as here"), "{}", alone.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_another_account_open_none_and_check_says_so() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let tenants = Tenants::new("");
    let config = tenants.dir.path().join("nats-mqtt.toml");
    let text = std::fs::read_to_string(&config)
        .unwrap()
        .replace("user = \"one\"\npassword = \"pw1\"", "user = \"two\"\npassword = \"pw2\"");
    std::fs::write(&config, text).unwrap();
    let sidecar = tenants.sidecar("mixed-up", &server).await;
    let why = "the credentials given for account T1 are those of account T2";
    let refused = Client::open(sidecar.mqtt_port, of("a", Options::v5("r"))).await;
    assert_eq!(refused.connack.reason, ReasonCode::ServerUnavailable);
    assert!(sidecar.log().contains(why), "{}", sidecar.log());
    let mut check = Command::new(PROGRAM);
    check.args(["check", "-c"]).arg(&config).env("NATS_MQTT__NATS__URLS", server.url());
    let check = run(check, PATIENCE).await;
    assert_eq!(check.code, 78, "{check:?}");
    for line in [
        &*format!("account T1: its devices would be refused: {why}"),
        "account T2: ok (JetStream",
        "account BARE: ok (QoS 0 (no JetStream), messages up to",
    ] {
        assert!(check.stdout.contains(line), "{line}\n{}", check.stdout);
    }
}

/// How long a sidecar that has just started may take to look at its streams again.
const GROWN_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_an_account_had_no_room_for_grow_when_it_has() {
    let with = |bytes: &str| {
        ACCOUNTS.replace("T1: { jetstream: enabled", &format!("T1: {{ jetstream: {{ max_file: {bytes} }}"))
    };
    let server = NatsServer::start_with(true, &with("1GB"));
    let tenants = Tenants::new("");
    let one = nats(&server, "one", "pw1").await;
    let log = async || stream_info(&one, "MQTT_log").await["config"].clone();
    let mut sidecar = tenants.sidecar("short", &server).await;
    let _device = sidecar.connect(of("a", Options::v5("c"))).await;
    assert_eq!(log().await["max_bytes"], 512 << 20);
    sidecar.kill();
    server.configure(true, &with("32GB"));
    server.reload();
    let sidecar = tenants.sidecar("grown", &server).await;
    let _device = sidecar.connect(of("a", Options::v5("c"))).await;
    let grown = tokio::time::timeout(GROWN_WITHIN, async {
        while log().await["max_bytes"] != 4_i64 << 30 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert!(grown.await.is_ok(), "{}", log().await);
    assert!(log().await["metadata"]["nats-mqtt.short"].is_null());
}
