//! Listeners with a mount point: what their devices name is below it, and they do not see it, in nothing.

use mqtt_codec::{Packet, PublishTopic, ReasonCode, SubscribeEntry, SubscriptionOptions, TopicFilter};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::auth_file::hash;
use crate::harness::sessions::record;
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, msg, settle, shown, unique};
use crate::requests::{answer_to, ask, has_nothing, properties, request, response_topic};

/// A sidecar without a mount point, and one with this one.
async fn pair(nats: &NatsServer, mount_point: &str) -> (Sidecar, Sidecar) {
    let mounted = SidecarBuilder::of(nats, mount_point.trim_end_matches('/'));
    let mounted = mounted.set("LISTENERS__TCP__MOUNT_POINT", mount_point);
    tokio::join!(SidecarBuilder::of(nats, "plain").start(), mounted.start())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_talk_below_the_mount_point_and_see_nothing_of_it() {
    let nats = NatsServer::start();
    let ((plain, site), other) = tokio::join!(pair(&nats, "site7/"), async {
        SidecarBuilder::of(&nats, "site8").set("LISTENERS__TCP__MOUNT_POINT", "site8/").start().await
    });
    let client = nats.client().await;
    let mut on_nats = Watch::new(&client, "site7.>").await;
    for qos in 0..=2 {
        let mut device = site.v5(&unique("device")).await;
        let mut old = site.v311(&unique("old")).await;
        let mut outside = plain.v5(&unique("plain")).await;
        let mut elsewhere = other.v5(&unique("elsewhere")).await;
        for (client, filter) in
            [(&mut device, "a/+"), (&mut old, "#"), (&mut outside, "site7/#"), (&mut elsewhere, "#")]
        {
            client.subscribe(filter, qos).await;
        }
        let publisher_topic = format!("a/{qos}");
        let mut publisher = site.v5(&unique("publisher")).await;
        publisher.publish(msg(&publisher_topic, "in").qos(qos)).await;
        let got = format!("{publisher_topic} in qos{qos}");
        assert_eq!(device.receive_shown().await, got);
        assert_eq!(old.receive_shown().await, got);
        assert_eq!(outside.receive_shown().await, format!("site7/{got}"));
        assert_eq!(on_nats.next().await.subject.as_str(), format!("site7.a.{qos}"));
        // From outside, and from NATS; what is not below the mount point reaches nobody there.
        for topic in [publisher_topic.as_str(), "site8/x", "site7", "site70/a"] {
            outside.publish(msg(topic, "out").qos(qos)).await;
        }
        outside.publish(msg(&format!("site7/{publisher_topic}"), "last").qos(qos)).await;
        assert_eq!(device.receive_shown().await, format!("{publisher_topic} last qos{qos}"));
        assert_eq!(old.receive_shown().await, format!("{publisher_topic} last qos{qos}"));
        on_nats.next().await;
        client.publish(format!("site7.a.{qos}"), "nats".into()).await.unwrap();
        assert_eq!(device.receive().await.payload, "nats");
        assert_eq!(old.receive().await.payload, "nats");
        on_nats.next().await;
        assert_eq!(elsewhere.receive_shown().await, format!("x out qos{qos}"));
        has_nothing(&mut elsewhere).await;
        assert_eq!(device.unsubscribe("a/+").await, [ReasonCode::Success]);
        publisher.publish(msg(&publisher_topic, "gone").qos(qos)).await;
        assert_eq!(old.receive().await.payload, "gone");
        has_nothing(&mut device).await;
        on_nats.next().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_of_a_device_takes_what_is_retained_but_no_dollar_topic() {
    let nats = NatsServer::start();
    let (plain, site) = pair(&nats, "site7/").await;
    let mut publisher = site.v5("publisher").await;
    let mut all = site.v5("all").await;
    all.subscribe("#", 1).await;
    for topic in ["$x/y", "x/$y", "state"] {
        publisher.publish(msg(topic, "m").qos(1).retained()).await;
    }
    assert_eq!(all.receive_shown().await, "x/$y m qos1");
    assert_eq!(all.receive_shown().await, "state m qos1");
    has_nothing(&mut all).await;
    for (filter, expected) in [
        ("+/+", &["x/$y m qos1 retain"][..]),
        ("$x/#", &["$x/y m qos1 retain"]),
        ("#", &["state m qos1 retain", "x/$y m qos1 retain"]),
        ("$share/g/#", &[]),
    ] {
        let mut late = site.v5(&unique("late")).await;
        late.subscribe(filter, 1).await;
        let mut got = Vec::new();
        for _ in expected {
            got.push(late.receive_shown().await);
        }
        got.sort();
        assert_eq!(got, expected, "{filter}");
        has_nothing(&mut late).await;
    }
    let mut outside = plain.v5("outside").await;
    outside.subscribe("site7/state", 1).await;
    assert_eq!(outside.receive_shown().await, "site7/state m qos1 retain");
    // The topics of the sidecar are everybody's.
    let mut sys = site.v5("sys").await;
    sys.subscribe("$SYS/broker/version", 0).await;
    assert!(sys.receive_shown().await.starts_with("$SYS/broker/version "));
    assert_eq!(sys.asks_for("$JS/#", 0).await, ReasonCode::Success, "it is a topic of the mount");
    assert_eq!(sys.publish(msg("$SYS/x", "no").qos(1)).await, ReasonCode::NotAuthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_members_under_the_mount_point_and_outside() {
    const COUNT: usize = 30;
    let nats = NatsServer::start();
    let (plain, site) = pair(&nats, "site7/").await;
    let mut inside = site.v5("inside").await;
    let mut outside = plain.v5("outside").await;
    inside.subscribe("$share/g/jobs/#", 1).await;
    outside.subscribe("$share/g/site7/jobs/#", 1).await;
    let mut publisher = site.v5("publisher").await;
    for number in 0..COUNT {
        publisher.publish(msg("jobs/x", number.to_string()).qos(1)).await;
    }
    let (mut got, mut of_each) = (Vec::new(), [0; 2]);
    while got.len() < COUNT {
        let (message, topic, who) = tokio::select! {
            message = inside.receive() => (message, "jobs/x", 0),
            message = outside.receive() => (message, "site7/jobs/x", 1),
        };
        assert_eq!(message.topic_name().unwrap().as_str(), topic);
        of_each[who] += 1;
        got.push(String::from_utf8_lossy(&message.payload).parse::<usize>().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (0..COUNT).collect::<Vec<_>>());
    assert!(of_each.iter().all(|count| *count > 0), "{of_each:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_both_ways() {
    let nats = NatsServer::start();
    let (plain, site) = pair(&nats, "site7/").await;
    let client = nats.client().await;
    let mut device = site.v5("device").await;
    device.subscribe("cmd", 1).await;
    let asked = ask(&client, "site7.cmd", Default::default(), "read");
    let got = device.receive().await;
    assert_eq!(got.topic_name().unwrap().as_str(), "cmd");
    assert!(response_topic(&got).starts_with("$NMQ/reply/"));
    assert_eq!(device.publish(answer_to(&got, "5", 1)).await, ReasonCode::Success);
    assert_eq!(asked.await.unwrap().payload, "5");
    // One that has no properties names the request by the topic that it knows.
    let mut old = site.v311("old").await;
    old.subscribe("old/cmd", 1).await;
    let asked = ask(&client, "site7.old.cmd", Default::default(), "read");
    assert_eq!(old.receive().await.topic_name().unwrap().as_str(), "old/cmd");
    old.publish(msg("$NMQ/reply/next/old/cmd", "311").qos(1)).await;
    assert_eq!(asked.await.unwrap().payload, "311");
    // The other way round.
    let mut service = Watch::new(&client, "site7.svc").await;
    device.subscribe("answers/me", 1).await;
    device.publish(request("svc", "answers/me", b"c", 1)).await;
    let question = service.next().await;
    client.publish(question.reply.unwrap(), "noon".into()).await.unwrap();
    assert_eq!(device.receive_shown().await, "answers/me noon qos1");
    // Between clients: what the device could not use is left out, the rest stays.
    let mut outside = plain.v5("outside").await;
    for (given, expected) in [("site7/r", Some("r")), ("elsewhere/r", None)] {
        outside.publish(request("site7/cmd", given, b"c", 1)).await;
        let got = properties(&device.receive().await);
        assert_eq!(got.response_topic.as_deref(), expected, "{given}");
        assert_eq!(got.correlation_data.as_deref(), Some(&b"c"[..]));
    }
    // A client without properties is not made to publish there either.
    outside.subscribe("elsewhere/r", 1).await;
    outside.subscribe("site7/r", 1).await;
    for (given, answer) in [("elsewhere/r", "out"), ("site7/r", "in")] {
        outside.publish(request("site7/old/cmd", given, b"c", 1)).await;
        old.receive().await;
        old.publish(msg("$NMQ/reply/next/old/cmd", answer).qos(1)).await;
    }
    assert_eq!(outside.receive_shown().await, "site7/r in qos1");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_id_under_two_mount_points_is_two_sessions() {
    let nats = NatsServer::start();
    let ((plain, site), again) = tokio::join!(pair(&nats, "site7/"), async {
        SidecarBuilder::of(&nats, "again").set("LISTENERS__TCP__MOUNT_POINT", "site7/").start().await
    });
    let client = nats.client().await;
    let mut events = Watch::new(&client, "$NMQ.event.connect.>").await;
    let (mut outside, mut inside) =
        (plain.connect(Options::v5("dev").durable(60)).await, { site.connect(Options::v5("dev").durable(60)).await });
    let mut told = Vec::new();
    for _ in 0..2 {
        let event = events.next().await;
        let json: Value = serde_json::from_slice(&event.payload).unwrap();
        told.push((event.subject.to_string(), json["client_id"].clone(), json["mount_point"].clone()));
    }
    told.sort_by_key(|(subject, ..)| subject.clone());
    let subject = |id: &str| format!("$NMQ.event.connect.{id}");
    assert_eq!(told[0], (subject("dev"), json!("dev"), Value::Null));
    assert_eq!(told[1], (subject("site7/=00dev"), json!("dev"), json!("site7/")));
    inside.subscribe("t", 1).await;
    outside.subscribe("t", 1).await;
    outside.ping().await;
    inside.goodbye().await;
    let mut publisher = again.v5("publisher").await;
    publisher.publish(msg("t", "while it was away").qos(1)).await;
    has_nothing(&mut outside).await;
    let (_, found) = record(&client, "site7/\0dev").await.expect("a record of its own");
    assert_eq!(found["subscriptions"][0]["filter"], "site7/t");
    // The same session through another sidecar with the same mount point.
    let mut inside = again.connect(Options::v5("dev").durable(60)).await;
    assert!(inside.is_resumed());
    assert_eq!(inside.receive_shown().await, "t while it was away qos1");
    // Its will is published with the full topic, and No Local knows the two apart.
    let mut options = Options::v5("willing").will(msg("gone", "bye").qos(1));
    options.connect.clean_start = true;
    let willing = site.connect(options).await;
    let mut witness = site.v5("witness").await;
    witness.subscribe("gone", 1).await;
    willing.reset();
    assert_eq!(witness.receive_shown().await, "gone bye qos1");
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    outside.subscribe_with("site7/own", no_local, None).await;
    inside.publish(msg("own", "x").qos(1)).await;
    assert_eq!(outside.receive_shown().await, "site7/own x qos0");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_about_the_full_subject() {
    let (nats, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let config = dir.path().join("nats-mqtt.toml");
    let user = format!(
        "[[users]]\nname = \"lamp\"\npassword = \"{}\"\n\
        permissions = {{ publish = {{ allow = [\"site7.dev.{{{{client-id()}}}}\", \"dev.>\"] }}, subscribe = {{ allow = [\"site7.cmd.>\"], deny = [\"site7.cmd.secret\"] }} }}\n",
        hash("light")
    );
    let text = format!("[auth]\nmode = \"file\"\n[listeners.tcp]\nmount_point = \"site7/\"\n{user}");
    std::fs::write(&config, text).unwrap();
    let site = SidecarBuilder::new("site", &["--nats", &nats.url(), "-c", config.to_str().unwrap()]).start().await;
    let mut options = Options::v5("esp");
    (options.connect.username, options.connect.password) = (Some("lamp".into()), Some(b"light"[..].into()));
    let mut device = Client::connect(site.mqtt_port, options).await;
    for (topic, is_allowed) in [("dev/esp", true), ("dev/other", false), ("site7/dev/esp", false)] {
        let reason = device.publish(msg(topic, "x").qos(1)).await;
        assert_eq!(reason != ReasonCode::NotAuthorized, is_allowed, "{topic}: {reason:?}");
    }
    for (filter, reason) in
        [("cmd/#", ReasonCode::Success), ("site7/cmd/#", ReasonCode::NotAuthorized), ("#", ReasonCode::NotAuthorized)]
    {
        assert_eq!(device.asks_for(filter, 0).await, reason, "{filter}");
    }
    let client = nats.client().await;
    for subject in ["site7.cmd.secret", "site7.cmd.on"] {
        client.publish(subject, "x".into()).await.unwrap();
    }
    settle(&client).await;
    assert_eq!(device.receive_shown().await, "cmd/on x qos0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_too_long_by_the_mount_point_is_refused() {
    let nats = NatsServer::start();
    let builder = SidecarBuilder::of(&nats, "deep").set("MQTT__MAX_TOPIC_LEVELS", "4");
    let site = builder.set("LISTENERS__TCP__MOUNT_POINT", "plant/line 1/").start().await;
    let mut device = site.v5("device").await;
    let entry = |text: &str| SubscribeEntry {
        filter: Ok(TopicFilter::new(text.to_owned()).unwrap()),
        options: SubscriptionOptions::default(),
    };
    let long = "x".repeat(65_530);
    let reasons = device.subscribe_all(vec![entry("a/b"), entry("a/b/c"), entry(&long)], None).await;
    use ReasonCode::{Success, TopicFilterInvalid, TopicNameInvalid};
    assert_eq!(reasons, [Success, TopicFilterInvalid, TopicFilterInvalid]);
    assert_eq!(device.publish(msg("a/b", "fits").qos(1)).await, Success);
    assert_eq!(device.receive_shown().await, "a/b fits qos0");
    assert_eq!(device.publish(msg(&"x".repeat(3_835), "no").qos(1)).await, TopicNameInvalid);
    for topic in ["a/b/c", &long] {
        let mut device = site.v5(&unique("device")).await;
        device.write(&Packet::Publish(msg(topic, "no").packet(None)));
        assert_eq!(device.closed().await, Some(TopicNameInvalid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_identifiers_and_what_is_sent_again_go_by_the_topic_of_the_device() {
    let nats = NatsServer::start();
    let (plain, site) = pair(&nats, "site7/").await;
    let mut device = site.connect(Options::v5("device").durable(60)).await;
    device.subscribe_with("t/#", qos(1), Some(7)).await;
    device.acknowledges = false;
    let mut publisher = site.v5("publisher").await;
    let (packet_id, alias) = (publisher.packet_id(), 5.try_into().unwrap());
    let message = msg("t/a", "defined").qos(1);
    let mut packet = message.packet(Some(packet_id));
    packet.topic = PublishTopic::Define(message.topic, alias);
    publisher.write(&Packet::Publish(packet));
    publisher.flush().await;
    let got = device.receive().await;
    assert_eq!((shown(&got), &got.subscription_ids[..]), ("t/a defined qos1".to_owned(), &[7.try_into().unwrap()][..]));
    let mut packet = msg("unused", "by its alias").packet(None);
    packet.topic = PublishTopic::Alias(alias);
    publisher.write(&Packet::Publish(packet));
    publisher.flush().await;
    assert_eq!(device.receive_shown().await, "t/a by its alias qos0");
    device.reset();
    let mut device = site.connect(Options::v5("device").durable(60)).await;
    assert!(device.is_resumed());
    assert_eq!(device.receive_shown().await, "t/a defined qos1 dup");
    // Without the mount point it is nobody's.
    let elsewhere = plain.connect(Options::v5("device").durable(60)).await;
    assert!(!elsewhere.is_resumed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_the_mount_point_publishes_the_will_of_a_dead_one() {
    let nats = NatsServer::start();
    let ((plain, mut site), again) = tokio::join!(pair(&nats, "site7/"), async {
        SidecarBuilder::of(&nats, "again").set("LISTENERS__TCP__MOUNT_POINT", "site7/").start().await
    });
    let mut outside = plain.v5("outside").await;
    outside.subscribe("site7/gone", 1).await;
    let mut inside = again.v5("inside").await;
    inside.subscribe("gone", 1).await;
    let will = msg("gone", "bye").qos(1).retained();
    let _doomed = site.connect(Options::v5("doomed").durable(60).will(will)).await;
    site.kill();
    assert_eq!(outside.receive_shown().await, "site7/gone bye qos1");
    assert_eq!(inside.receive_shown().await, "gone bye qos1");
    let mut late = again.v5("late").await;
    late.subscribe("gone", 1).await;
    assert_eq!(late.receive_shown().await, "gone bye qos1 retain");
}

fn qos(qos: u8) -> SubscriptionOptions {
    SubscriptionOptions { qos: qos.try_into().unwrap(), ..SubscriptionOptions::default() }
}
