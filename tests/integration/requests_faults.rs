//! Requests and replies when sidecars die and connections break: who asked gets the answer once, from whichever sidecar.

use std::time::Duration;

use async_nats::{RequestErrorKind, client::Request};
use mqtt_codec::{Packet, PacketType, QoS, ReasonCode};

use crate::harness::sessions::pid;
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, World, eventually, msg};
use crate::requests::{answer_to, has_nothing, header, properties, request};

/// The same client again, with its session.
async fn resume(sidecar: &Sidecar, options: fn(&str) -> Options, id: &str) -> Client {
    let client = sidecar.connect(options(id).durable(300)).await;
    assert!(client.is_resumed());
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_finds_the_client_when_the_sidecar_that_asked_was_killed() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut service = Watch::new(&nats, "service").await;
    let mut everything = None;
    for (round, qos) in [1, 2].into_iter().enumerate() {
        let id = format!("asker{round}");
        let mut asker = world.a.connect(Options::v5(&id).durable(300)).await;
        asker.subscribe("answers/für/mich", qos).await;
        assert_eq!(asker.publish(request("service", "answers/für/mich", &[0, 255], qos)).await, ReasonCode::Success);
        let reply = service.next().await.reply.expect("a reply subject");
        world.a.kill();
        // Until nats-server has noticed, it may give the answer to the dead.
        let (of_sidecar, _id_and_token) = reply.split_at(reply.match_indices('.').nth(3).expect("a name").0);
        eventually("nats-server has noticed", async || {
            let probe = Request::new().timeout(Some(Duration::from_millis(50)));
            let asked = nats.send_request(format!("{of_sidecar}.probe"), probe).await;
            asked.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
        })
        .await;
        if round == 1 {
            // Then the server does not say that nobody is there.
            everything = Some(Watch::new(&nats, ">").await);
        }
        nats.publish_with_headers(reply.clone(), header("Unit", "°C"), "first".into()).await.unwrap();
        let mut asker = resume(&world.b, Options::v5, &id).await;
        let expected = if round == 1 { &["first"][..] } else { &["first", "second"] };
        if expected.len() > 1 {
            nats.publish(reply, "second".into()).await.unwrap();
        }
        for expected in expected {
            let got = asker.receive().await;
            assert_eq!((&got.payload[..], got.qos()), (expected.as_bytes(), QoS::try_from(qos).unwrap()));
            assert_eq!(properties(&got).correlation_data.as_deref(), Some(&[0, 255][..]));
        }
        // What was not asked is not answered, and what was changed is not asked.
        for forged in ["_INBOX.$NMQ.answer.0.0.x", "_INBOX.$NMQ.answer.0.0", "_INBOX.$NMQ.answer.0.0.x.y"] {
            nats.publish(forged, "forged".into()).await.unwrap();
        }
        nats.flush().await.unwrap();
        world.a.restart().await;
        has_nothing(&mut asker).await;
    }
    drop(everything);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_qos_2_that_is_repeated_elsewhere_is_sent_once() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut inbox = Watch::new(&nats, "inbox").await;
    for (options, id) in [(Options::v5 as fn(&str) -> Options, "new"), (Options::v311, "old")] {
        let mut device = world.a.connect(options(id).durable(300)).await;
        device.subscribe("cmd", 0).await;
        nats.publish_with_reply("cmd", "inbox", "m".into()).await.unwrap();
        let got = device.receive().await;
        let answer = |payload: &str| match id {
            "new" => answer_to(&got, payload, 2),
            _ => msg("$NMQ/reply/next/cmd", payload.to_owned()).qos(2),
        };
        device.send_publish(&answer("once"), pid(7), false).await;
        device.next_of(PacketType::PubRec).await;
        assert_eq!(inbox.next().await.payload, "once");
        // It broke before the client saw PUBREC, and again before it saw PUBCOMP.
        world.a.kill();
        let mut device = resume(&world.b, options, id).await;
        device.send_publish(&answer("once"), pid(7), true).await;
        let Packet::PubRec(ack) = device.next_of(PacketType::PubRec).await else { unreachable!() };
        assert_eq!((ack.packet_id, ack.reason), (pid(7), ReasonCode::Success));
        device.reset();
        world.a.restart().await;
        let mut device = resume(&world.a, options, id).await;
        device.send_publish(&answer("once"), pid(7), true).await;
        device.next_of(PacketType::PubRec).await;
        device.ack(Packet::PubRel, pid(7)).await;
        device.next_of(PacketType::PubComp).await;
        if id == "new" {
            // The packet id is free: this is another answer.
            device.send_publish(&answer("again"), pid(7), false).await;
            device.next_of(PacketType::PubRec).await;
            assert_eq!(inbox.next().await.payload, "again", "and no other before");
            device.ack(Packet::PubRel, pid(7)).await;
            device.next_of(PacketType::PubComp).await;
        }
        nats.publish("inbox", "end".into()).await.unwrap();
        assert_eq!(inbox.next().await.payload, "end", "{id}");
        device.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_refused_is_not_taken_for_one_that_was_sent() {
    let nats = NatsServer::start();
    let set = |builder: SidecarBuilder| builder.set("MQTT__ON_DENIED_PUBLISH", "disconnect");
    let sidecar = set(SidecarBuilder::of(&nats, "sidecar")).start().await;
    let mut ends = Vec::new();
    for is_repeated in [false, true, true] {
        let mut device = sidecar.connect(Options::v311("device").durable(300)).await;
        device.send_publish(&msg("$NMQ/reply/next/cmd", "no").qos(2), pid(3), is_repeated).await;
        ends.push((device.is_resumed(), device.closed().await));
    }
    assert_eq!(ends, [(false, None), (true, None), (true, None)], "no PUBREC says that it was sent");
}
