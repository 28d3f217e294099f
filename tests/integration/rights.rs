//! What users may do: permissions at every way in and out, over two sidecars, and changes of them under connected clients.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use mqtt_codec::{MessageProperties, ReasonCode, Secret, TopicName};
use tempfile::TempDir;

use crate::harness::sessions::record;
use crate::harness::{
    Client, Message, NatsServer, Options, PATIENCE, PROGRAM, Sidecar, SidecarBuilder, eventually, msg, shown,
};

/// The hash of `secret`, as the program makes it.
static HASH: LazyLock<String> = LazyLock::new(|| {
    let mut passwd = Command::new(PROGRAM);
    let mut passwd = passwd.arg("passwd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    String::from_utf8(passwd.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
});

/// Two sidecars with the same file of users.
pub(crate) struct Users {
    pub(crate) a: Sidecar,
    pub(crate) b: Sidecar,
    nats: NatsServer,
    file: PathBuf,
    _dir: TempDir,
}

/// A user with a table of its permissions, and other keys.
pub(crate) type User<'a> = (&'a str, &'a str, &'a str);

/// May do everything.
pub(crate) const PANEL: User<'_> = ("panel", "", "");
const LAMP: User<'_> = (
    "lamp",
    r#"publish = { allow = ["dev.lamp.>"] }, subscribe = { allow = ["cmd.lamp.>"] }, allow_responses = true"#,
    "",
);
/// May see all but what is secret.
const VIEWER: User<'_> = ("viewer", r#"publish = { deny = [">"] }, subscribe = { deny = ["state.*.secret"] }"#, "");

impl Users {
    pub(crate) async fn start(users: &[User<'_>], settings: &[(&str, &str)]) -> Self {
        let (nats, dir) = (NatsServer::start(), TempDir::with_prefix("nats-mqtt-users-").unwrap());
        let file = dir.path().join("users.toml");
        write(&file, users);
        let with = |name| {
            let builder = SidecarBuilder::of(&nats, name)
                .set("AUTH__MODE", "file")
                .set("AUTH__USERS_FILE", file.to_str().unwrap());
            settings.iter().fold(builder, |builder, (key, value)| builder.set(key, value))
        };
        let (a, b) = tokio::join!(with("sidecar a").start(), with("sidecar b").start());
        Self { a, b, nats, file, _dir: dir }
    }

    /// Other users from now on, which both sidecars have read.
    pub(crate) async fn change(&self, users: &[User<'_>]) {
        let read = |sidecar: &Sidecar| sidecar.log().matches("users_file was read again").count();
        let before = (read(&self.a), read(&self.b));
        write(&self.file, users);
        eventually("the users are read", async || read(&self.a) > before.0 && read(&self.b) > before.1).await;
    }
}

fn write(file: &PathBuf, users: &[User<'_>]) {
    let user = |(name, permissions, more): &User<'_>| {
        format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\npermissions = {{ {permissions} }}\n{more}\n", *HASH)
    };
    let text: String = users.iter().map(user).collect();
    // As a whole: a file that is half written is none.
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A user that may publish below one level.
const fn below<'a>(name: &'a str, publish: &'a str) -> User<'a> {
    (name, publish, "")
}

/// A client of a user, with the user's name as its client id.
pub(crate) fn user(name: &str) -> Options {
    user_as(name, name)
}

fn user_as(name: &str, id: &str) -> Options {
    let mut options = Options::v5(id);
    options.connect.username = Some(name.into());
    options.connect.password = Some(Secret::from(&b"secret"[..]));
    options
}

async fn refused(sidecar: &Sidecar, options: Options) -> ReasonCode {
    Client::try_open(sidecar.mqtt_port, options).await.unwrap().connack.reason
}

fn texts(messages: &[mqtt_codec::Publish]) -> Vec<String> {
    messages.iter().map(shown).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_publishes_where_it_may_and_nowhere_else() {
    let world = Users::start(&[PANEL, LAMP], &[]).await;
    let nats = world.nats.client().await;
    let mut everything = nats.subscribe("dev.>").await.unwrap();
    let mut panel = world.b.connect(user("panel")).await;
    panel.subscribe("dev/#", 2).await;
    let mut lamp = world.a.connect(user("lamp")).await;
    for qos in [1, 2] {
        for message in [msg("dev/other/x", "no").qos(qos), msg("dev/other/x", "no").qos(qos).retained()] {
            assert_eq!(lamp.publish(message).await, ReasonCode::NotAuthorized);
        }
    }
    lamp.publish(msg("dev/other/x", "no").retained()).await;
    lamp.publish(msg("dev/lamp/x", "yes").qos(1).retained()).await;
    assert_eq!(shown(&panel.receive().await), "dev/lamp/x yes qos1");
    lamp.publish(msg("dev/lamp/end", "end").qos(1)).await;
    assert_eq!(texts(&panel.receive_until("end").await), Vec::<String>::new());
    for wanted in ["dev.lamp.x", "dev.lamp.end"] {
        let seen = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut everything)).await;
        assert_eq!(seen.unwrap().unwrap().subject.as_str(), wanted);
    }
    panel.subscribe("dev/+/x", 1).await;
    assert_eq!(shown(&panel.receive().await), "dev/lamp/x yes qos1 retain", "nothing else is retained");
    let dropped = world.a.metric("mqtt_messages_dropped_total{reason=\"not_authorized\"}").await;
    assert!(dropped >= 5.0, "{dropped}");
    // In 3.1.1 the acknowledgement is as usual, and the message is dropped.
    let mut options = user("lamp");
    options.connect.version = mqtt_codec::Version::V311;
    let mut old = world.a.connect(options).await;
    assert_eq!(old.publish(msg("dev/other/x", "no").qos(1)).await, ReasonCode::Success);
    old.publish(msg("dev/lamp/end", "end").qos(1)).await;
    assert_eq!(texts(&panel.receive_until("end").await), Vec::<String>::new());
}

/// Says something of a state that is open and of one that is secret.
async fn say(panel: &mut Client, text: &'static str, qos: u8, retained: bool) {
    for topic in ["state/1/secret", "state/1/open"] {
        let message = msg(topic, text).qos(qos);
        panel.publish(if retained { message.retained() } else { message }).await;
    }
}

/// Every way to a client: live at each QoS, retained, from the log after it was away, and as a member of a group.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_inside_a_wildcard_comes_by_no_way() {
    let world = Users::start(&[PANEL, VIEWER], &[]).await;
    let mut panel = world.a.connect(user("panel")).await;
    say(&mut panel, "retained", 1, true).await;
    let mut viewer = world.b.connect(user("viewer").durable(600)).await;
    viewer.subscribe("state/#", 2).await;
    assert_eq!(viewer.receive_shown().await, "state/1/open retained qos1 retain");
    for qos in 0..=2 {
        say(&mut panel, "live", qos, false).await;
        assert_eq!(viewer.receive_shown().await, format!("state/1/open live qos{qos}"));
    }
    viewer.goodbye().await;
    say(&mut panel, "away", 1, false).await;
    panel.publish(msg("state/end", "end").qos(1)).await;
    // On the other sidecar.
    let mut viewer = world.a.connect(user("viewer").durable(600)).await;
    assert!(viewer.connack.session_present);
    assert_eq!(texts(&viewer.receive_until("end").await), ["state/1/open away qos1"]);
    viewer.unsubscribe("state/#").await;
    viewer.subscribe("$share/crew/state/#", 1).await;
    for qos in 0..=1 {
        say(&mut panel, "shared", qos, false).await;
        assert_eq!(viewer.receive_shown().await, format!("state/1/open shared qos{qos}"));
    }
    viewer.ping().await;
    assert_eq!(viewer.publish(msg("state/1/open", "no").qos(1)).await, ReasonCode::NotAuthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_filter_brings_what_is_allowed_where_that_is_configured() {
    let world = Users::start(&[PANEL, LAMP], &[("AUTH__WIDE_FILTERS", "filter")]).await;
    let mut panel = world.a.connect(user("panel")).await;
    let both = ["cmd/lamp/on", "cmd/door/open"];
    for topic in both {
        panel.publish(msg(topic, "retained").qos(1).retained()).await;
    }
    let mut lamp = world.b.connect(user("lamp").durable(600)).await;
    assert_eq!(lamp.asks_for("state/#", 1).await, ReasonCode::NotAuthorized, "nothing of it is allowed");
    lamp.subscribe("#", 1).await;
    assert_eq!(lamp.receive_shown().await, "cmd/lamp/on retained qos1 retain");
    for topic in both {
        panel.publish(msg(topic, "live").qos(1)).await;
    }
    assert_eq!(lamp.receive_shown().await, "cmd/lamp/on live qos1");
    lamp.goodbye().await;
    for topic in ["cmd/door/open", "cmd/lamp/on", "cmd/lamp/end"] {
        panel.publish(msg(topic, if topic.ends_with("end") { "end" } else { "away" }).qos(1)).await;
    }
    let mut lamp = world.a.connect(user("lamp").durable(600)).await;
    assert_eq!(texts(&lamp.receive_until("end").await), ["cmd/lamp/on away qos1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_users_on_every_sidecar() {
    let world = Users::start(&[PANEL, LAMP], &[]).await;
    let mut lamp = world.a.connect(user("lamp").durable(600)).await;
    lamp.subscribe("cmd/lamp/#", 1).await;
    for sidecar in [&world.a, &world.b] {
        let reason = refused(sidecar, user_as("panel", "lamp")).await;
        assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "it is connected");
    }
    lamp.ping().await;
    lamp.goodbye().await;
    for options in [user_as("panel", "lamp"), user_as("panel", "lamp").durable(600)] {
        let reason = refused(&world.b, options).await;
        assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "it is away");
    }
    let mut panel = world.a.connect(user("panel")).await;
    panel.publish(msg("cmd/lamp/on", "now").qos(1)).await;
    let mut lamp = world.b.connect(user("lamp").durable(600)).await;
    assert!(lamp.connack.session_present);
    assert_eq!(lamp.receive_shown().await, "cmd/lamp/on now qos1");
    // A session that has ended is nobody's.
    assert_eq!(lamp.disconnect_expiring(0).await, None);
    world.a.connect_in_the_end(user_as("panel", "lamp")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_session_over_that_is_the_accounts_gets_of_it_what_he_may_have() {
    let world = Users::start(&[PANEL, LAMP], &[("AUTH__SESSION_OWNER", "account")]).await;
    let mut panel = world.a.connect(user_as("panel", "shared").durable(600)).await;
    for filter in ["cmd/#", "cmd/lamp/+"] {
        panel.subscribe(filter, 1).await;
    }
    panel.goodbye().await;
    let mut other = world.a.connect(user("panel")).await;
    for topic in ["cmd/door/open", "cmd/lamp/on", "cmd/lamp/end"] {
        other.publish(msg(topic, if topic.ends_with("end") { "end" } else { "away" }).qos(1)).await;
    }
    let mut lamp = world.b.connect(user_as("lamp", "shared").durable(600)).await;
    assert!(lamp.connack.session_present);
    assert_eq!(texts(&lamp.receive_until("end").await), ["cmd/lamp/on away qos1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_users_act_on_those_who_are_connected() {
    const NARROW: User<'_> =
        ("lamp", r#"publish = { allow = ["dev.lamp.>"] }, subscribe = { allow = ["cmd.lamp.on"] }"#, "");
    let world = Users::start(&[PANEL, LAMP], &[]).await;
    let mut panel = world.b.connect(user("panel")).await;
    panel.subscribe("dev/#", 1).await;
    let mut lamp = world.a.connect(user("lamp").durable(600).will(msg("dev/lamp/will", "gone").qos(1))).await;
    for filter in ["cmd/lamp/#", "cmd/lamp/on"] {
        lamp.subscribe(filter, 1).await;
    }
    world.change(&[PANEL, NARROW]).await;
    lamp.ping().await;
    for topic in ["cmd/lamp/off", "cmd/lamp/on"] {
        panel.publish(msg(topic, "x").qos(1)).await;
    }
    assert_eq!(lamp.receive_shown().await, "cmd/lamp/on x qos1", "what is left of its subscriptions");
    world.change(&[PANEL]).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(panel.receive_shown().await, "dev/lamp/will gone qos1");
    assert_eq!(refused(&world.b, user("lamp")).await, ReasonCode::BadUserNameOrPassword);
    panel.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_answer_answers_and_an_answer_is_asked_for_only_where_it_may_be_read() {
    const MUTE: User<'_> =
        ("mute", r#"publish = { allow = ["dev.mute.>"] }, subscribe = { allow = ["cmd.mute.>"] }"#, "");
    let world = Users::start(&[PANEL, LAMP, MUTE], &[]).await;
    let nats = world.nats.client().await;
    for name in ["lamp", "mute"] {
        let mut device = world.a.connect(user(name)).await;
        device.subscribe(&format!("cmd/{name}/#"), 0).await;
        let (asker, subject) = (nats.clone(), format!("cmd.{name}.status"));
        let asked = tokio::spawn(async move {
            let request = async_nats::Request::new().payload("how".into()).timeout(Some(Duration::from_secs(2)));
            asker.send_request(subject, request).await
        });
        let request = device.receive().await;
        let to = request.properties.unwrap().response_topic.unwrap();
        let answer = device.publish(msg(to.as_str(), "well").qos(1)).await;
        let answered = asked.await.unwrap();
        match name {
            "lamp" => assert_eq!((answer, answered.unwrap().payload.as_ref()), (ReasonCode::Success, &b"well"[..])),
            _ => assert!(answer == ReasonCode::NotAuthorized && answered.is_err(), "{answer:?}"),
        }
    }
    // A service answers, to a topic that the asker may not read: nobody is asked for an answer.
    let mut service = nats.subscribe("dev.lamp.ask").await.unwrap();
    nats.flush().await.unwrap();
    let mut lamp = world.a.connect(user("lamp")).await;
    for (topic, has_reply) in [("cmd/door/answer", false), ("cmd/lamp/answer", true)] {
        let properties =
            MessageProperties { response_topic: Some(TopicName::new(topic).unwrap()), ..MessageProperties::default() };
        let mut message: Message = msg("dev/lamp/ask", "?");
        message.properties = Some(Box::new(properties));
        lamp.publish(message).await;
        let request = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut service)).await.unwrap();
        assert_eq!(request.unwrap().reply.is_some(), has_reply, "{topic}");
    }
}

/// Its sidecar is killed, and another one publishes its will, by what its user may do by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_judged_again_by_the_sidecar_that_publishes_it() {
    const WIDE: &str = r#"publish = { allow = ["dev.>"] }"#;
    const NARROW: &str = r#"publish = { allow = ["news.>"] }"#;
    let wide = |name| below(name, WIDE);
    let names = ["same", "narrowed", "removed", "muted"];
    let mut world = Users::start(&[PANEL, wide("same"), wide("narrowed"), wide("removed"), wide("muted")], &[]).await;
    let nats = world.nats.client().await;
    let mut panel = world.b.connect(user("panel")).await;
    panel.subscribe("dev/#", 1).await;
    let mut devices = Vec::new();
    for name in names {
        let large = if name == "narrowed" { "x".repeat(4_000) } else { "gone".to_owned() };
        devices
            .push(world.a.connect(user(name).durable(600).will(msg(&format!("dev/{name}/will"), large).qos(1))).await);
    }
    let (_, kept) = record(&nats, "same").await.unwrap();
    assert_eq!(kept["will"]["by"], serde_json::json!({ "mode": "file", "user": "same" }));
    // One that is not allowed any more while its client is connected.
    world.change(&[PANEL, wide("same"), wide("narrowed"), wide("removed"), below("muted", NARROW)]).await;
    eventually("its record says so", async || {
        record(&nats, "muted").await.is_some_and(|(_, record)| record["will"]["by"]["denied"] == true)
    })
    .await;
    world.a.kill();
    let read = || world.b.log().matches("users_file was read again").count();
    let before = read();
    write(&world.file, &[PANEL, wide("same"), below("narrowed", NARROW)]);
    eventually("the users are read", async || read() > before).await;
    let mut wills = Vec::new();
    for _ in 0..2 {
        let will = panel.try_receive(Duration::from_secs(60)).await.unwrap();
        wills.push(shown(&will));
    }
    wills.sort_unstable();
    assert_eq!(wills, ["dev/removed/will gone qos1", "dev/same/will gone qos1"]);
    let dropped = "mqtt_messages_dropped_total{reason=\"not_authorized\"}";
    eventually("the others are dropped", async || world.b.metric(dropped).await == 2.0).await;
    panel.publish(msg("dev/end", "end").qos(1)).await;
    assert_eq!(texts(&panel.receive_until("end").await), Vec::<String>::new());
}
