//! An account without JetStream is served at QoS 0: what clients are told, what is refused, and that nothing is asked of JetStream.

use std::time::Duration;

use futures_util::StreamExt as _;
use mqtt_codec::{ConnAckProperties, QoS, ReasonCode, Version};

use crate::accounts::{ACCOUNTS, Tenants, nats, of};
use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, Watch, eventually, http_get, msg, settle, stored};

/// How long it may take until it is noticed that an account has JetStream by now.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);

/// What has JetStream in the end.
const BARE_WITH_JETSTREAM: &str = "BARE: { jetstream: enabled, users:";

async fn bare(sidecar: &Sidecar, options: Options) -> Client {
    sidecar.connect(of("bare", options)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_what_there_is_and_hear_nats_and_are_heard() {
    let server = NatsServer::start_with(true, &format!("{ACCOUNTS}\nhttp: \"127.0.0.1:-1\""));
    let sidecar = Tenants::new("").sidecar("core", &server).await;
    let (on_nats, at_home) = (nats(&server, "bare", "b").await, nats(&server, "home", "h").await);
    let mut asked = Watch::new(&on_nats, "$JS.API.>").await;
    for version in [Version::V5, Version::V311] {
        let mut client = bare(&sidecar, Options::new(version, "same").durable(3600)).await;
        assert!(!client.is_resumed());
        if version == Version::V5 {
            let ConnAckProperties { maximum_qos, retain_available, session_expiry_interval_s, .. } =
                client.connack.properties;
            assert_eq!((maximum_qos, retain_available), (Some(QoS::AtMostOnce), Some(false)));
            assert_eq!(session_expiry_interval_s, Some(0));
            assert_eq!(client.connack.properties.shared_subscription_available, None);
        }
        for qos in [2, 1, 0] {
            assert_eq!(client.asks_for("t/#", qos).await, ReasonCode::Success, "granted at QoS 0");
        }
        let mut watch = Watch::new(&on_nats, "t.>").await;
        client.publish(msg("t/up", "of-mqtt")).await;
        let message = watch.next().await;
        assert_eq!((&*message.subject, &*message.payload), ("t.up", &b"of-mqtt"[..]));
        assert_eq!(client.receive_shown().await, "t/up of-mqtt qos0");
        on_nats.publish("t.down", "of-nats".into()).await.unwrap();
        assert_eq!(client.receive_shown().await, "t/down of-nats qos0");
        client.goodbye().await;
        // Nothing is left of it.
        let mut again = bare(&sidecar, Options::new(version, "same").durable(3600)).await;
        assert!(!again.is_resumed());
        on_nats.publish("t.down", "for-nobody".into()).await.unwrap();
        settle(&on_nats).await;
        again.subscribe("t/end", 0).await;
        again.publish(msg("t/end", "end")).await;
        assert_eq!(again.receive_shown().await, "t/end end qos0");
        again.goodbye().await;
    }
    let said = sidecar.log().matches("it has no JetStream").count();
    assert_eq!(said, 1, "it is said once: {}", sidecar.log());
    // The neighbour has everything, and the process is well.
    let mut other = sidecar.connect(of("a", Options::v5("same").durable(3600))).await;
    assert_eq!(other.connack.properties.maximum_qos, None);
    other.subscribe("t/#", 1).await;
    assert_eq!(other.publish(msg("t/1", "stored").qos(1).retained()).await, ReasonCode::Success);
    assert_eq!(other.receive_shown().await, "t/1 stored qos1");
    assert!(sidecar.answers("/readyz", 200).await);
    assert_eq!(sidecar.metric("nats_js_api_errors_total{code=\"10039\"}").await, 0.0, "an answer is no fault");
    // Nobody is owed anything in it when it is away, and it takes two connections.
    let listed =
        async |account: &str| stored(&at_home, "KV_MQTT_accounts", &format!("$KV.MQTT_accounts.{account}")).await;
    assert_eq!((listed("T1").await, listed("BARE").await), (1, 0));
    let (_, connz) = http_get(&server.monitor(), "/connz?acc=BARE").await.expect("the monitor answers");
    let connz: serde_json::Value = serde_json::from_str(&connz).unwrap();
    let names = connz["connections"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str());
    assert_eq!(names.filter(|name| name.starts_with("nats-mqtt")).count(), 2, "{connz}");
    // It was asked whether it is there, when the account was opened, and nothing else.
    on_nats.publish("$JS.API.end", "".into()).await.unwrap();
    let mut questions = Vec::new();
    loop {
        match &*asked.next().await.subject {
            "$JS.API.end" => break,
            subject => questions.push(subject.to_owned()),
        }
    }
    assert!(questions.len() <= 3 && questions.iter().all(|subject| subject == "$JS.API.INFO"), "{questions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_have_to_be_stored_is_refused() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("core-refusing", &server).await;
    let stored = [
        (msg("t/1", "x").qos(1), ReasonCode::QoSNotSupported),
        (msg("t/2", "x").qos(2), ReasonCode::QoSNotSupported),
        (msg("t/3", "x").retained(), ReasonCode::RetainNotSupported),
    ];
    let mut watch = Watch::new(&nats(&server, "bare", "b").await, "t.*").await;
    for (message, reason) in stored {
        for version in [Version::V5, Version::V311] {
            let told = (version == Version::V5).then_some(reason);
            let mut client = bare(&sidecar, Options::new(version, "p")).await;
            client.start_publish(&message);
            assert_eq!(client.closed().await, told, "{message:?}");
            // A will is as the PUBLISH.
            let options = of("bare", Options::new(version, "w").will(message.clone()));
            let refused = Client::open(sidecar.mqtt_port, options).await;
            assert_eq!(refused.connack.reason, told.unwrap_or(ReasonCode::NotAuthorized), "{message:?}");
        }
    }
    bare(&sidecar, Options::v5("q")).await.publish(msg("t/0", "heard")).await;
    assert_eq!(watch.next().await.payload, "heard", "nothing of the others was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_when_its_connection_ends() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let mut sidecar = Tenants::new("").sidecar("core-wills", &server).await;
    let mut wills = Watch::new(&nats(&server, "bare", "b").await, "will.>").await;
    let mut listener = bare(&sidecar, Options::v5("listener")).await;
    listener.subscribe("will/#", 0).await;
    for version in [Version::V5, Version::V311] {
        let with_will = |text: &'static str| Options::new(version, "w").delayed_will(msg("will/w", text), 3600);
        bare(&sidecar, with_will("lost")).await.reset();
        assert_eq!(wills.next().await.payload, "lost", "its delay ends with its session");
        let mut old = bare(&sidecar, with_will("taken over")).await;
        let new = bare(&sidecar, with_will("goodbye")).await;
        old.closed().await;
        assert_eq!(wills.next().await.payload, "taken over");
        new.goodbye().await;
        bare(&sidecar, with_will("after goodbye")).await.reset();
        assert_eq!(wills.next().await.payload, "after goodbye", "who says goodbye has no will any more");
        for text in ["lost", "taken over", "after goodbye"] {
            assert_eq!(listener.receive_shown().await, format!("will/w {text} qos0"));
        }
    }
    let mut last = bare(&sidecar, Options::v5("last").will(msg("will/w", "the sidecar ends"))).await;
    assert!(sidecar.stop().await.success());
    assert_eq!(last.closed().await, Some(ReasonCode::ServerShuttingDown));
    assert_eq!(wills.next().await.payload, "the sidecar ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_is_taken_over_here_and_from_another_sidecar() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let tenants = Tenants::new("");
    let (a, b) = (tenants.sidecar("core-a", &server).await, tenants.sidecar("core-b", &server).await);
    for version in [Version::V5, Version::V311] {
        for (from, to) in [(&a, &a), (&a, &b), (&b, &a)] {
            let mut old = bare(from, Options::new(version, "one")).await;
            old.ping().await;
            let mut new = bare(to, Options::new(version, "one")).await;
            assert_eq!(old.closed().await, (version == Version::V5).then_some(ReasonCode::SessionTakenOver));
            new.ping().await;
            // The one of another account is somebody else, and another user of this one does not get it.
            let mut other = to.connect(of("a", Options::new(version, "one"))).await;
            other.ping().await;
            for sidecar in [from, to] {
                let foreign = of("other-bare", Options::new(version, "one"));
                let refused = Client::open(sidecar.mqtt_port, foreign).await.connack.reason;
                assert_eq!(refused, ReasonCode::ClientIdentifierNotValid);
            }
            new.ping().await;
            new.goodbye().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_share_and_requests_are_answered() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("core-groups", &server).await;
    let on_nats = nats(&server, "bare", "b").await;
    let (mut first, mut second) =
        (bare(&sidecar, Options::v5("first")).await, bare(&sidecar, Options::v311("second")).await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.asks_for("$share/g/jobs", 1).await, ReasonCode::Success);
        client.subscribe("all", 0).await;
    }
    for number in 0..20 {
        on_nats.publish("jobs", number.to_string().into()).await.unwrap();
    }
    settle(&on_nats).await;
    let mut publisher = bare(&sidecar, Options::v5("publisher")).await;
    for number in 20..40 {
        publisher.publish(msg("jobs", number.to_string())).await;
    }
    publisher.ping().await;
    let mut all = Vec::new();
    while all.len() < 40 {
        tokio::select! {
            publish = first.receive() => all.push(publish),
            publish = second.receive() => all.push(publish),
        }
    }
    let mut numbers: Vec<u32> = all.iter().map(|p| std::str::from_utf8(&p.payload).unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "each once");
    // A NATS client asks, a device answers.
    first.subscribe("ask", 0).await;
    let (answer, ()) = tokio::join!(on_nats.request("ask", "what".into()), async {
        let request = first.receive().await;
        let topic = request.properties.as_ref().and_then(|p| p.response_topic.clone()).expect("a Response Topic");
        first.publish(msg(topic.as_str(), "that")).await;
    });
    assert_eq!(answer.expect("an answer").payload, "that");
    // And the other way round.
    let mut service = on_nats.subscribe("service").await.unwrap();
    settle(&on_nats).await;
    second.subscribe("answers", 0).await;
    let mut question = msg("service", "question");
    question.properties.get_or_insert_default().response_topic = Some(mqtt_codec::TopicName::new("answers").unwrap());
    publisher.publish(question).await;
    let request = service.next().await.unwrap();
    on_nats.publish(request.reply.expect("a reply subject"), "of-nats".into()).await.unwrap();
    assert_eq!(second.receive_shown().await, "answers of-nats qos0");
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_that_comes_later_is_noticed() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("core-later", &server).await;
    let mut client = bare(&sidecar, Options::v5("c")).await;
    let mut other = sidecar.connect(of("a", Options::v5("other"))).await;
    server.configure(true, &ACCOUNTS.replace("BARE: { users:", BARE_WITH_JETSTREAM));
    server.reload();
    let closed = tokio::time::timeout(NOTICED_WITHIN, async {
        while client.try_receive(Duration::from_secs(5)).await == Err(Ended::Silent) {}
        client.closed().await
    });
    assert_eq!(closed.await.expect("it is noticed"), Some(ReasonCode::ServerShuttingDown));
    let again = sidecar.connect_in_the_end(of("bare", Options::v5("c").durable(3600))).await;
    assert_eq!(again.connack.properties.maximum_qos, None);
    other.ping().await;
    eventually("the account is closed and open again", async || sidecar.log().contains("it has JetStream now")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_that_is_taken_away_hurts_nobody_else() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let sidecar = Tenants::new("").sidecar("core-away", &server).await;
    let mut clean = sidecar.connect(of("a", Options::v5("clean"))).await;
    let mut neighbour = sidecar.connect(of("b", Options::v5("neighbour").durable(3600))).await;
    neighbour.subscribe("t/#", 1).await;
    clean.subscribe("t/#", 0).await;
    server.configure(true, &ACCOUNTS.replace("T1: { jetstream: enabled, users:", "T1: { users:"));
    server.reload();
    // QoS 0 goes on, sessions are refused, as when JetStream is away.
    let on_nats = nats(&server, "one", "pw1").await;
    on_nats.publish("t.nats", "hello".into()).await.unwrap();
    assert_eq!(clean.receive_shown().await, "t/nats hello qos0");
    let mut late = sidecar.connect(of("a", Options::v5("late"))).await;
    late.publish(msg("t/late", "too")).await;
    assert_eq!(clean.receive_shown().await, "t/late too qos0");
    let refused = Client::open(sidecar.mqtt_port, of("a", Options::v5("lasting").durable(3600))).await;
    assert!(refused.connack.reason.is_error(), "{:?}", refused.connack);
    assert_eq!(neighbour.publish(msg("t/1", "stored").qos(1)).await, ReasonCode::Success);
    assert_eq!(neighbour.receive_shown().await, "t/1 stored qos1");
    assert!(sidecar.answers("/readyz", 200).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_what_the_documentation_says_is_enough() {
    let (publish, subscribe) =
        (r#"["$JS.API.INFO", "$SYS.REQ.USER.INFO", "_INBOX.>", "$NMQ.>", "t.>"]"#, r#"["_INBOX.>", "$NMQ.>", "t.>"]"#);
    let limited = format!(
        "BARE: {{ users: [{{ user: bare, password: b, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}] }}"
    );
    let accounts = ACCOUNTS.replace("BARE: { users: [{ user: bare, password: b }] }", &limited);
    assert_ne!(accounts, ACCOUNTS);
    let server = NatsServer::start_with(true, &accounts);
    let sidecar = Tenants::new("").sidecar("core-limited", &server).await;
    let mut client = bare(&sidecar, Options::v5("c").will(msg("t/will", "gone"))).await;
    client.subscribe("t/+", 0).await;
    client.subscribe("$share/g/t/shared", 0).await;
    client.publish(msg("t/a", "b")).await;
    assert_eq!(client.receive_shown().await, "t/a b qos0");
    let mut new = bare(&sidecar, Options::v5("c")).await;
    client.closed().await;
    new.ping().await;
    assert!(!sidecar.log().to_lowercase().contains("permissions violation"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_come_to_several_sidecars_together_one_stays() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let (tenants, mut sidecars) = (Tenants::new(""), Vec::new());
    for name in ["core-together-a", "core-together-b", "core-together-c"] {
        let sidecar = tenants.sidecar(name, &server).await;
        // It has the account open, and is heard.
        bare(&sidecar, Options::v5("first")).await.ping().await;
        sidecars.push(sidecar);
    }
    for round in 0..50 {
        let open = |sidecar: &Sidecar| Client::try_open(sidecar.mqtt_port, of("bare", Options::v5("one")));
        let opened = futures_util::future::join_all(sidecars.iter().map(open)).await;
        let mut accepted: Vec<Client> =
            opened.into_iter().flatten().filter(|client| !client.connack.reason.is_error()).collect();
        assert!(!accepted.is_empty(), "round {round}: one is accepted");
        let mut left = accepted.len();
        eventually("one is left", async || {
            left = 0;
            for client in &mut accepted {
                left += usize::from(client.try_receive(Duration::from_millis(20)).await == Err(Ended::Silent));
            }
            left == 1
        })
        .await;
    }
}
