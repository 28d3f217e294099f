//! Requests at their limits: what clients put into Response Topic and Correlation Data, and one client that asks too much.

use mqtt_codec::ReasonCode;

use crate::harness::{Client, NatsServer, Options, SidecarBuilder, Watch, World, msg, unique};
use crate::requests::{has_nothing, properties, request};

#[tokio::test(flavor = "multi_thread")]
async fn response_topic_and_correlation_data_come_back_as_they_were() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("odd");
    let mut service = Watch::new(&nats, &format!("{t}.service")).await;
    let mut asker = world.a.v5(&unique("asker")).await;
    asker.subscribe(&format!("{t}/#"), 1).await;
    let long = "long-".repeat(300);
    for answers in ["answers", "antworten/für mich/☃", "a.b/*/>/%20", "//", "$x/y", &long] {
        for length in [0, 1, 700, 1_000, 20_000] {
            // Bytes that are no UTF-8, and longer as a header.
            let correlation: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0] ^ 0xFF).collect();
            let topic = format!("{t}/{answers}");
            let asked = asker.publish(request(&format!("{t}/service"), &topic, &correlation, 1)).await;
            assert_eq!(asked, ReasonCode::Success, "{answers} {length}");
            let got = asker.receive().await;
            assert_eq!(properties(&got).response_topic.as_deref(), Some(topic.as_str()), "the request itself");
            let reply = service.next().await.reply.unwrap_or_else(|| panic!("no reply subject: {answers} {length}"));
            nats.publish(reply, "answer".into()).await.unwrap();
            let answer = asker.receive().await;
            assert_eq!((&answer.payload[..], answer.topic_name().unwrap().as_str()), (&b"answer"[..], topic.as_str()));
            assert!(properties(&answer).correlation_data.unwrap() == correlation, "{answers} {length}");
        }
    }
    // As headers this is larger than they may be; at QoS 0 nobody can be told.
    let huge = vec![0xFF; 65_535];
    for (qos, reason) in [(1, ReasonCode::QuotaExceeded), (2, ReasonCode::QuotaExceeded), (0, ReasonCode::Success)] {
        assert_eq!(asker.publish(request(&format!("{t}/service"), &t, &huge, qos)).await, reason, "{qos}");
    }
    // Of a request without correlation data the answer has none.
    let mut plain = request(&format!("{t}/service"), &t, b"", 0);
    plain.properties.as_mut().unwrap().correlation_data = None;
    asker.publish(plain).await;
    let reply = service.next().await.reply.expect("a reply subject");
    nats.publish(reply, "end".into()).await.unwrap();
    // What is too large for NATS still comes to who is on the same sidecar; then the request, and its answer.
    for (payload, length) in [("question", Some(65_535)), ("question", None), ("end", None)] {
        let got = asker.receive().await;
        let correlation = properties(&got).correlation_data.map(|data| data.len());
        assert_eq!((&got.payload[..], correlation), (payload.as_bytes(), length));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_use_up_what_the_requests_of_all_may_take() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar")
        .set("REQUESTS__MAX_PENDING", "4")
        .set("REQUESTS__MAX_PENDING_PER_CLIENT", "2")
        .start()
        .await;
    let nats = server.client().await;
    let mut service = Watch::new(&nats, "service").await;
    let mut modest = sidecar.v5("modest").await;
    let mut greedy = sidecar.v5("greedy").await;
    modest.subscribe("modest", 1).await;
    greedy.subscribe("greedy", 1).await;
    let mut replies = Vec::new();
    for number in 0..10u8 {
        if number == 0 {
            modest.publish(request("service", "modest", b"m", 1)).await;
            replies.push(service.next().await.reply.unwrap());
        }
        // None is refused: it is a publish, too, and somebody else may answer it.
        assert_eq!(greedy.publish(request("service", "greedy", &[number], 1)).await, ReasonCode::Success);
        replies.push(service.next().await.reply.unwrap());
    }
    assert_eq!(sidecar.metric("mqtt_requests_total{event=\"evicted\"}").await, 8.0);
    for reply in replies {
        nats.publish(reply, "answer".into()).await.unwrap();
    }
    assert_eq!(properties(&modest.receive().await).correlation_data.as_deref(), Some(&b"m"[..]));
    for number in [8, 9] {
        assert_eq!(properties(&greedy.receive().await).correlation_data.as_deref(), Some(&[number][..]));
    }
    for client in [&mut modest, &mut greedy] {
        has_nothing(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_may_be_an_answer_and_asks_for_none_in_a_closed_tree() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("will");
    let mut inbox = Watch::new(&nats, &format!("{t}.inbox")).await;
    let mut device = world.a.v5(&unique("device")).await;
    device.subscribe(&t, 0).await;
    nats.publish_with_reply(t.clone(), format!("{t}.inbox"), "m".into()).await.unwrap();
    let token = properties(&device.receive().await).response_topic.unwrap();
    let closed = request(&format!("{t}/inbox"), "$JS/API/STREAM/DELETE/ORDERS", b"c", 1);
    // As the same PUBLISH is, and while somebody is there to be told.
    let refused = Client::open(world.b.mqtt_port, Options::v5(&unique("client")).will(closed)).await;
    assert_eq!(refused.connack.reason, ReasonCode::NotAuthorized);
    for qos in 0..=2 {
        let expected = format!("gone {qos}");
        let will = msg(token.as_str(), expected.clone()).qos(qos);
        world.b.connect(Options::v5(&unique("client")).will(will)).await.reset();
        assert_eq!(inbox.next().await.payload, expected, "and none before");
    }
}
