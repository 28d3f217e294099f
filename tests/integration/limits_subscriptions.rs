//! What a client asks for in SUBSCRIBE beyond what it may have: it is told by filter, and nobody else suffers.

use std::time::{Duration, Instant};

use mqtt_codec::{Packet, QoS, ReasonCode, SubscribeEntry, SubscriptionOptions, TopicFilter};

use crate::harness::sessions::{record, subscriptions};
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, eventually, js_api, msg, unique};

fn entry(filter: &str, qos: u8) -> SubscribeEntry {
    let options = SubscriptionOptions { qos: QoS::try_from(qos).unwrap(), ..SubscriptionOptions::default() };
    SubscribeEntry { filter: TopicFilter::new(filter.to_owned()).map_err(|_| filter.into()), options }
}

/// Subscribes with packets of so many filters; the reason codes of all.
async fn subscribe(client: &mut Client, filters: &[String], qos: u8, each: usize) -> Vec<ReasonCode> {
    let mut reasons = Vec::with_capacity(filters.len());
    for filters in filters.chunks(each) {
        let entries = filters.iter().map(|filter| entry(filter, qos)).collect();
        reasons.extend(client.subscribe_all(entries, None).await);
    }
    reasons
}

fn count(reasons: &[ReasonCode], wanted: ReasonCode) -> usize {
    reasons.iter().filter(|reason| **reason == wanted).count()
}

/// How long the answer to a PINGREQ takes.
async fn ping(client: &mut Client) -> Duration {
    let began = Instant::now();
    client.write(&Packet::PingReq);
    client.other(|packet| matches!(packet, Packet::PingResp)).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_has_no_room_for_is_refused_by_filter() {
    let server = NatsServer::start();
    let mut sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let filters: Vec<String> = (0..10_000).map(|i| format!("{i:05}/{}", "x".repeat(54))).collect();
    for (options, refused) in [
        (Options::v5("five").durable(600), ReasonCode::QuotaExceeded),
        (Options::v311("three").durable(600), ReasonCode::UnspecifiedError),
    ] {
        let mut client = sidecar.connect(options.clone()).await;
        let reasons = subscribe(&mut client, &filters, 1, 2_000).await;
        let granted = count(&reasons, ReasonCode::GrantedQoS1);
        assert_eq!(granted + count(&reasons, refused), filters.len(), "{:?}", reasons.last());
        assert!((5_000..10_000).contains(&granted), "{granted} were granted");
        let stored = subscriptions(&nats, client.id()).await;
        assert_eq!(stored.len(), granted);
        assert!(stored.iter().map(|stored| stored.to_string().len()).sum::<usize>() < 800_000);
        // It has what it was granted, may have that again, and room once it gives something back.
        assert_eq!(count(&subscribe(&mut client, &filters[..500], 1, 500).await, ReasonCode::GrantedQoS1), 500);
        for filter in &filters[..4] {
            client.unsubscribe(filter).await;
        }
        assert_eq!(client.asks_for("another", 1).await, ReasonCode::GrantedQoS1);
        client.goodbye().await;
        let mut client = sidecar.connect(options).await;
        assert!(client.is_resumed());
        client.publish(msg(&filters[4], "granted").qos(1)).await;
        assert_eq!(client.receive_shown().await, format!("{} granted qos1", filters[4]));
    }
    let named = sidecar.log().matches("mqtt.max_session_size is reached").count();
    assert_eq!(named, 1, "once in the log\n{}", sidecar.log());
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"session_size\"}").await > 1_000.0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_name_that_nats_cannot_take_is_refused_and_other_groups_go_on() {
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let mut member = sidecar.v5("member").await;
    member.subscribe("$share/g/jobs", 0).await;
    let mut hostile = sidecar.v5("hostile").await;
    for qos in [0, 1] {
        for name in ["n".repeat(5_000), " ".repeat(1_500), "n".repeat(300)] {
            let reason = hostile.asks_for(&format!("$share/{name}/jobs"), qos).await;
            assert_eq!(reason, ReasonCode::TopicFilterInvalid, "{} bytes", name.len());
        }
    }
    let too_long = hostile.asks_for(&"f".repeat(1_025), 0).await;
    assert_eq!(too_long, ReasonCode::TopicFilterInvalid);
    assert_eq!(hostile.asks_for(&"f".repeat(1_024), 0).await, ReasonCode::Success);
    let mut publisher = sidecar.v5("publisher").await;
    for number in 0..20 {
        publisher.publish(msg("jobs", format!("{number}"))).await;
        assert_eq!(member.receive_shown().await, format!("jobs {number} qos0"));
    }
    assert!(sidecar.metric("nats_reconnects_total").await.abs() < 0.5);
    for limit in ["share_name_length", "filter_length"] {
        assert!(sidecar.metric(&format!("mqtt_over_limit_total{{limit=\"{limit}\"}}")).await > 0.5, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_of_subscribe_has_a_key_and_a_reason_code() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar")
        .set("MQTT__MAX_SUBSCRIPTIONS", "9")
        .set("MQTT__MAX_FILTERS_PER_PACKET", "5")
        .set("MQTT__MAX_FILTER_LENGTH", "10")
        .set("JETSTREAM__SHARED__MAX_GROUPS_PER_CLIENT", "2")
        .set("JETSTREAM__SHARED__MAX_NAME_LENGTH", "4")
        .start()
        .await;
    let mut client = sidecar.v5("c").await;
    let filters = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (asked, expected) in [
        ("a b c d e f g", "1 1 1 1 1 97 97"),
        ("a b 3456789012 34567890123", "1 1 1 8f"),
        ("$share/name/x $share/names/x $share/g/34567890123 $share/g/y $share/h/z", "1 8f 8f 1 97"),
        ("$share/g/y a h i", "1 1 1 97"),
    ] {
        let reasons = subscribe(&mut client, &filters(asked), 1, 100).await;
        let shown: Vec<String> = reasons.iter().map(|reason| format!("{:x}", *reason as u8)).collect();
        assert_eq!(shown.join(" "), expected, "{asked}");
    }
    client.unsubscribe("a").await;
    assert_eq!(client.asks_for("i", 0).await, ReasonCode::Success);
    for limit in ["subscriptions", "filters_per_packet", "filter_length", "groups_per_client", "share_name_length"] {
        assert!(sidecar.metric(&format!("mqtt_over_limit_total{{limit=\"{limit}\"}}")).await > 0.5, "{limit}");
    }
}

/// One client asked for 1,100 groups, which used up the consumers of the log; after a restart nothing could be read from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_use_up_the_consumers_of_the_log() {
    let server = NatsServer::start();
    let mut sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let mut hostile = sidecar.v5("hostile").await;
    let filters: Vec<String> = (0..1_100).map(|i| format!("$share/g{i}/x")).collect();
    let reasons = subscribe(&mut hostile, &filters, 1, 10).await;
    assert_eq!(count(&reasons, ReasonCode::GrantedQoS1), 100);
    assert_eq!(count(&reasons, ReasonCode::QuotaExceeded), 1_000);
    let consumers = js_api(&nats, "STREAM.INFO.MQTT_log", &serde_json::Value::Null).await;
    assert!(consumers["state"]["consumer_count"].as_u64().unwrap() < 200, "{consumers}");
    sidecar.stop().await;
    sidecar.restart().await;
    let mut client = sidecar.v5("well-behaved").await;
    client.subscribe("t", 1).await;
    client.publish(msg("t", "after the restart").qos(1)).await;
    assert_eq!(client.receive_shown().await, "t after the restart qos1");
}

/// Filters that match none of many retained topics, from as many clients as there are cores.
#[tokio::test(flavor = "multi_thread")]
async fn filters_over_many_retained_topics_hold_nobody_up() {
    const TOPICS: usize = 4_000;
    const FILTERS: usize = 2_000;
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let mut publisher = sidecar.v5("publisher").await;
    publisher.publish_all((0..TOPICS).map(|i| msg(&format!("t{i}/x"), "m").qos(1).retained()), 100, |_| ()).await;
    let held = async || sidecar.metric("mqtt_retained_messages").await as usize == TOPICS;
    eventually("the retained messages are in the index", held).await;
    let mut pings = sidecar.v5("well-behaved").await;
    let cores = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let mut subscribing = tokio::task::JoinSet::new();
    for hostile in 0..cores {
        // One that outlives its connection is told of what it is owed in its record, another one is not.
        let options = Options::v5(&unique("hostile")).expiry(if hostile % 2 == 0 { 0 } else { 600 });
        let mut client = sidecar.connect(options).await;
        subscribing.spawn(async move {
            let filters: Vec<String> = (0..FILTERS).map(|i| format!("+/y{i}")).collect();
            let reasons = subscribe(&mut client, &filters, 1, FILTERS).await;
            assert_eq!(count(&reasons, ReasonCode::GrantedQoS1), FILTERS);
            // What is retained comes before what is live: when this has come, all was looked for.
            client.subscribe("t7/x", 1).await;
            assert_eq!(client.receive_shown().await, "t7/x m qos1 retain");
        });
    }
    let mut longest = Duration::ZERO;
    while !subscribing.is_empty() {
        longest = longest.max(ping(&mut pings).await);
        let began = Instant::now();
        assert_eq!(sidecar.get("/readyz").await.0, 200);
        longest = longest.max(began.elapsed());
        while let Some(done) = subscribing.try_join_next() {
            done.unwrap();
        }
    }
    assert!(longest < Duration::from_secs(3), "somebody waited for {longest:?}");
}

/// Clients subscribe to everything again with every connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_subscribed_to_again_is_not_written_again() {
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let filters: Vec<String> = (0..20).map(|i| format!("t/{i}")).collect();
    let options = Options::v5("client").durable(600);
    let mut client = sidecar.connect(options.clone()).await;
    subscribe(&mut client, &filters, 1, 7).await;
    client.goodbye().await;
    let mut client = sidecar.connect(options).await;
    let (before, stored) = record(&nats, "client").await.unwrap();
    for _ in 0..3 {
        assert_eq!(count(&subscribe(&mut client, &filters, 1, 3).await, ReasonCode::GrantedQoS1), filters.len());
    }
    client.unsubscribe("nothing").await;
    assert_eq!(record(&nats, "client").await.unwrap(), (before, stored), "it was written again");
    // What changes is there when it is acknowledged.
    client.subscribe("t/3", 2).await;
    let (sequence, stored) = record(&nats, "client").await.unwrap();
    assert!(sequence > before);
    let third = stored["subscriptions"].as_array().unwrap().iter().find(|s| s["filter"] == "t/3").unwrap();
    assert_eq!(third["qos"], 2);
    client.unsubscribe("t/3").await;
    let (_, stored) = record(&nats, "client").await.unwrap();
    assert_eq!(stored["subscriptions"].as_array().unwrap().len(), filters.len() - 1);
}

/// Whatever nats-server takes in a message, a session has as many subscriptions as the configuration says.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_need_no_large_messages() {
    let server = NatsServer::start_with(true, "max_payload: 100000");
    let sidecar = Sidecar::start(&server, "sidecar").await;
    for (id, expiry) in [("durable", 600), ("clean", 0)] {
        let mut client = sidecar.connect(Options::v5(id).expiry(expiry).will(msg("will", vec![b'w'; 10_000]))).await;
        let filters: Vec<String> = (0..2_000).map(|i| format!("{i:05}/{}", "x".repeat(54))).collect();
        let reasons = subscribe(&mut client, &filters, 2, 500).await;
        assert_eq!(count(&reasons, ReasonCode::GrantedQoS2), filters.len(), "{id}");
        client.publish(msg(&filters[1_999], "granted").qos(1)).await;
        assert_eq!(client.receive_shown().await, format!("{} granted qos1", filters[1_999]), "{id}");
    }
}
