//! What clients of one sidecar meet beyond single exchanges of bytes, which are in `wire`; wills are in `wills`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mqtt_codec::{
    Ack, Packet, PacketId, PublishTopic, QoS, ReasonCode, Subscribe, SubscribeEntry, SubscriptionOptions, TopicFilter,
    Version,
};

use crate::harness::{
    Client, Options, Sidecar, SidecarBuilder, Socket, Watch, World, eventually, hex, msg, shown, unique,
};

/// [MQTT-3.1.3-6, -7], [MQTT-3.2.2-16]
#[tokio::test(flavor = "multi_thread")]
async fn an_mqtt_5_client_without_an_id_is_told_the_one_it_gets() {
    let world = World::shared().await;
    let mut ids = Vec::new();
    for sidecar in [&world.a, &world.b, &world.a] {
        let mut client = sidecar.v5("").await;
        ids.push(client.connack.properties.assigned_client_id.clone().expect("an assigned id"));
        client.ping().await;
    }
    assert!(ids.iter().all(|id| !id.is_empty()));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let client = world.a.v5(&unique("own")).await;
    assert_eq!(client.connack.properties.assigned_client_id, None);
}

/// [MQTT-3.1.3-8], [MQTT-3.1.3-9 of 3.1.1]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_is_too_long_is_refused() {
    let world = World::shared().await;
    let id = "x".repeat(5_000);
    for options in [Options::v5(&id), Options::v311(&id), Options::new(Version::V31, &id)] {
        let mut client = Client::open(world.a.mqtt_port, options).await;
        assert_eq!(client.connack.reason, ReasonCode::ClientIdentifierNotValid);
        assert_eq!(client.closed().await, None);
    }
}

/// No property of CONNACK takes anything away, and nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_connack_promises_what_is_kept() {
    let world = World::shared().await;
    let mut client = world.a.v5(&unique("client")).await;
    let said = client.connack.properties.clone();
    assert_eq!((said.maximum_qos, said.retain_available), (None, None));
    assert_eq!((said.wildcard_subscription_available, said.subscription_identifiers_available), (None, None));
    assert_eq!(said.shared_subscription_available, None);
    for (qos, granted) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        let t = unique("all");
        let options = SubscriptionOptions { qos, ..Default::default() };
        assert_eq!(client.subscribe_with(&format!("{t}/+"), options, Some(7)).await as u8, granted);
        client.publish(msg(&format!("{t}/x"), "m").qos(granted).retained()).await;
        assert_eq!(client.receive_shown().await, format!("{t}/x m qos{granted}"));
        client.publish(msg(&format!("{t}/x"), "").qos(granted).retained()).await;
        assert_eq!(client.receive_shown().await, format!("{t}/x  qos{granted}"));
    }
}

/// [MQTT-4.3.3-13]
#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_publish_that_has_expired_is_acknowledged_to_the_end() {
    let world = World::shared().await;
    let topic = unique("over");
    let mut publisher = world.a.v5(&unique("pub")).await;
    let id = PacketId::new(7).unwrap();
    let is_pubrec =
        |packet: &Packet| matches!(packet, Packet::PubRec(ack) if ack.packet_id == id && !ack.reason.is_error());
    for _ in 0..2 {
        let mut packet = msg(&topic, "m").qos(2).expires(0).packet(Some(id));
        publisher.write(&Packet::Publish(packet.clone()));
        publisher.other(is_pubrec).await;
        packet.dup = true;
        publisher.write(&Packet::Publish(packet));
        publisher.other(is_pubrec).await;
        publisher.write(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
        let is_pubcomp =
            |packet: &Packet| matches!(packet, Packet::PubComp(ack) if *ack == Ack::new(id, ReasonCode::Success));
        publisher.other(is_pubcomp).await;
    }
}

/// [MQTT-3.2.0-1]
#[tokio::test(flavor = "multi_thread")]
async fn packets_that_come_with_connect_are_handled_in_order() {
    let world = World::shared().await;
    let topic = unique("early");
    let mut socket = Socket::open(world.a.mqtt_port).await;
    let text = |text: &str| {
        let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    let mut bytes = BytesMut::new();
    let connect = Packet::Connect(Box::new(Options::v311("").connect));
    mqtt_codec::encode(&connect, Version::V311, &mut bytes).unwrap();
    let body: Vec<u8> = [hex("0001"), text(&topic), hex("00")].concat();
    bytes.extend([0x82, u8::try_from(body.len()).unwrap()]);
    bytes.extend(&body);
    let body: Vec<u8> = [text(&topic), hex("'early'")].concat();
    bytes.extend([0x30, u8::try_from(body.len()).unwrap()]);
    bytes.extend(&body);
    socket.send(&bytes).await;
    let expected = [hex("20 02 00 00  90 03 0001 00"), vec![0x30, u8::try_from(body.len()).unwrap()], body].concat();
    assert_eq!(socket.read(expected.len()).await, expected);
}

/// [MQTT-4.3.3-10, -11, -12]
#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_publish_repeated_with_its_packet_id_is_delivered_once() {
    let world = World::shared().await;
    let topic = unique("twice");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&topic, 2).await;
    let mut publisher = world.a.v311(&unique("pub")).await;
    for round in 0..3 {
        let id = PacketId::new(100 + round).unwrap();
        let is_pubrec = |packet: &Packet| matches!(packet, Packet::PubRec(ack) if ack.packet_id == id);
        let mut packet = msg(&topic, format!("round {round}")).qos(2).packet(Some(id));
        publisher.write(&Packet::Publish(packet.clone()));
        packet.dup = true;
        // While the first is being stored, one PUBREC can be for both.
        publisher.write(&Packet::Publish(packet.clone()));
        publisher.other(is_pubrec).await;
        publisher.write(&Packet::Publish(packet));
        publisher.other(is_pubrec).await;
        publisher.write(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
        publisher.other(|packet| matches!(packet, Packet::PubComp(ack) if ack.packet_id == id)).await;
    }
    publisher.publish(msg(&topic, "end").qos(2)).await;
    let wanted: Vec<String> = (0..3).map(|round| format!("{topic} round {round} qos2")).collect();
    assert_eq!(subscriber.shown_until("end").await, wanted);
}

/// [MQTT-3.1.2-22], [MQTT-3.2.2-22]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    let world = World::shared().await;
    let mut pinging = world.a.connect(Options::v5(&unique("pinging")).keep_alive(2)).await;
    let since = Instant::now();
    let mut silent = world.a.connect(Options::v5(&unique("silent")).keep_alive(1)).await;
    let mut old = world.a.connect(Options::v311(&unique("old")).keep_alive(1)).await;
    let pings = tokio::spawn(async move {
        // Longer than it may be silent.
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            pinging.ping().await;
        }
    });
    assert_eq!(silent.closed().await, Some(ReasonCode::KeepAliveTimeout));
    assert!(since.elapsed() >= Duration::from_millis(1_400), "{:?}", since.elapsed());
    assert_eq!(old.closed().await, None);
    pings.await.unwrap();
}

/// [MQTT-3.1.4-3]
#[tokio::test(flavor = "multi_thread")]
async fn the_newcomer_takes_a_client_id_over_and_stays() {
    let world = World::shared().await;
    let id = unique("same");
    let mut old = world.a.v5(&id).await;
    old.subscribe(&id, 1).await;
    for _ in 0..20 {
        let mut new = world.a.v5(&id).await;
        assert!(!new.connack.session_present);
        assert_eq!(old.closed().await, Some(ReasonCode::SessionTakenOver));
        new.subscribe(&id, 1).await;
        new.publish(msg(&id, "x").qos(1)).await;
        assert_eq!(new.receive_shown().await, format!("{id} x qos1"));
        old = new;
    }
    let mut new = world.a.v311(&id).await;
    assert_eq!(old.closed().await, Some(ReasonCode::SessionTakenOver));
    new.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_newcomers_with_one_client_id_leave_one() {
    const COUNT: usize = 30;
    let world = World::shared().await;
    let id = unique("flood");
    let port = world.a.mqtt_port;
    let ended = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let (options, ended) = (Options::v5(&id), Arc::clone(&ended));
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(port, options).await;
            assert_eq!(client.closed().await, Some(ReasonCode::SessionTakenOver));
            ended.fetch_add(1, Ordering::Relaxed);
        }));
    }
    eventually("all but one have ended", async || ended.load(Ordering::Relaxed) >= COUNT - 1).await;
    // The one that is left lives until somebody takes over from it too.
    let mut last = world.a.v5(&id).await;
    for client in clients {
        client.await.unwrap();
    }
    last.ping().await;
}

/// [MQTT-3.3.2-12]
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_alias_stands_for_its_topic() {
    let world = World::shared().await;
    let t = unique("alias");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/#"), 1).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    let maximum = publisher.connack.properties.topic_alias_maximum.expect("aliases are offered");
    assert_eq!(maximum, 32);
    let alias = |number: u16| std::num::NonZeroU16::new(number).unwrap();
    let mut send = async |topic: &str, number: u16, defines: bool, qos: u8| {
        let message = msg(topic, number.to_string()).qos(qos);
        let id = (qos > 0).then(|| publisher.packet_id());
        let mut packet = message.packet(id);
        packet.topic = if defines {
            PublishTopic::Define(message.topic, alias(number))
        } else {
            PublishTopic::Alias(alias(number))
        };
        publisher.write(&Packet::Publish(packet));
        if id.is_some() {
            publisher.other(|packet| matches!(packet, Packet::PubAck(_))).await;
        } else {
            publisher.flush().await;
        }
    };
    for qos in [0, 1] {
        for number in [1, maximum] {
            let (one, two) = (format!("{t}/{number}/one"), format!("{t}/{number}/two"));
            for (topic, defines) in [(&one, true), (&one, false), (&two, true), (&two, false)] {
                send(topic, number, defines, qos).await;
                assert_eq!(subscriber.receive_shown().await, format!("{topic} {number} qos{qos}"));
            }
        }
    }
}

/// [MQTT-3.1.2-24, -25]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_client_takes_is_dropped_and_the_rest_arrives() {
    let world = World::shared().await;
    let topic = unique("large");
    let mut small = world.a.connect(Options::v5(&unique("small")).maximum_packet_size(200).receive_maximum(2)).await;
    small.subscribe(&topic, 2).await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    for qos in [0, 1, 2] {
        for round in 0..5 {
            publisher.publish(msg(&topic, vec![b'x'; 300]).qos(qos)).await;
            publisher.publish(msg(&topic, format!("{round}")).qos(qos)).await;
            assert_eq!(small.receive_shown().await, format!("{topic} {round} qos{qos}"));
        }
    }
    publisher.publish(msg(&topic, vec![b'x'; 300]).qos(1).retained()).await;
    let mut late = world.a.connect(Options::v5(&unique("small")).maximum_packet_size(200)).await;
    late.subscribe(&topic, 1).await;
    publisher.publish(msg(&topic, "end").qos(1)).await;
    assert_eq!(late.shown_until("end").await, [""; 0]);
    publisher.publish(msg(&topic, "").qos(1).retained()).await;
}

/// [MQTT-3.8.4-1, -2], [MQTT-3.8.4-5, -6]
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_filters_in_one_packet_and_five_hundred_packets_in_a_burst_are_granted() {
    let world = World::shared().await;
    let t = unique("many");
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
    let entry = |n: usize| SubscribeEntry { filter: Ok(TopicFilter::new(format!("{t}/{n}/+")).unwrap()), options };
    let since = Instant::now();
    let mut packed = world.a.v311(&unique("packed")).await;
    let reasons = packed.subscribe_all((0..500).map(entry).collect(), None).await;
    assert_eq!(reasons, vec![ReasonCode::GrantedQoS1; 500]);
    let mut burst = world.b.v311(&unique("burst")).await;
    for number in 0..500 {
        let packet_id = burst.packet_id();
        let entries = vec![entry(number)];
        burst.write(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user_properties: vec![],
            entries,
        }));
    }
    for number in 1..=500 {
        match burst.other(|_| true).await {
            Packet::SubAck(suback) => {
                assert_eq!((suback.packet_id.get(), &suback.reasons[..]), (number, &[ReasonCode::GrantedQoS1][..]))
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(since.elapsed() < Duration::from_secs(10), "Home Assistant gives up after 10 s: {:?}", since.elapsed());
    let mut publisher = world.a.v311(&unique("pub")).await;
    for number in [0, 250, 499] {
        let topic = format!("{t}/{number}/x");
        for qos in [0, 1] {
            publisher.publish(msg(&topic, "x").qos(qos)).await;
            for client in [&mut packed, &mut burst] {
                assert_eq!(client.receive_shown().await, format!("{topic} x qos{qos}"));
            }
        }
    }
}

/// [MQTT-3.10.4-1, -2]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_after_unsuback_and_only_of_that_filter() {
    let world = World::shared().await;
    let t = unique("unsub");
    let mut subscriber = world.a.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/a"), 1).await;
    subscriber.subscribe(&format!("{t}/+"), 0).await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/a"), "both").qos(1)).await;
    assert_eq!(subscriber.receive_shown().await, format!("{t}/a both qos1"));
    assert_eq!(subscriber.unsubscribe(&format!("{t}/a")).await, [ReasonCode::Success]);
    assert_eq!(subscriber.unsubscribe(&format!("{t}/a")).await, [ReasonCode::NoSubscriptionExisted]);
    publisher.publish(msg(&format!("{t}/a"), "plus").qos(1)).await;
    assert_eq!(subscriber.receive_shown().await, format!("{t}/a plus qos0"));
    subscriber.unsubscribe(&format!("{t}/+")).await;
    subscriber.subscribe(&format!("{t}/end"), 1).await;
    for qos in [0, 1] {
        publisher.publish(msg(&format!("{t}/a"), "gone").qos(qos)).await;
        publisher.publish(msg(&format!("{t}/end"), "end").qos(qos)).await;
        assert_eq!(subscriber.shown_until("end").await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_gets_no_echo_and_the_retain_flag_as_published() {
    let world = World::shared().await;
    let topic = unique("bridge");
    let mut options = Options::v311(&unique("bridge"));
    options.connect.bridge = true;
    let mut bridge = world.a.connect(options).await;
    bridge.subscribe(&topic, 1).await;
    let mut other = world.b.v311(&unique("other")).await;
    for qos in [0, 1] {
        bridge.publish(msg(&topic, "echo").qos(qos)).await;
        other.publish(msg(&topic, "news").qos(qos).retained()).await;
        assert_eq!(bridge.receive_shown().await, format!("{topic} news qos{qos} retain"));
    }
    other.publish(msg(&topic, "").qos(1).retained()).await;
}

/// [MQTT-3.3.2-6]
#[tokio::test(flavor = "multi_thread")]
async fn messages_expire_and_tell_what_time_is_left() {
    let world = World::shared().await;
    let topic = unique("expiring");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&topic, 1).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [0, 1] {
        publisher.publish(msg(&topic, "x").qos(qos).expires(1_000)).await;
        let message = subscriber.receive().await;
        let left = message.properties.as_ref().and_then(|properties| properties.message_expiry_interval_s);
        assert!(left.is_some_and(|left| (900..=1_000).contains(&left)), "{}: {left:?}", shown(&message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_subscribed_to_without_a_wait() {
    let world = World::shared().await;
    // Somebody else who listens to everything makes no difference either.
    let _watch = Watch::new(&world.nats.client().await, ">").await;
    let mut client = world.a.v311(&unique("curious")).await;
    for filter in [unique("one"), "+/+".into(), "+/+/+".into(), "+/#".into(), "#".into(), unique("another")] {
        let since = Instant::now();
        client.subscribe(&filter, 1).await;
        assert!(since.elapsed() < Duration::from_secs(3), "{filter}: {:?}", since.elapsed());
    }
}

/// A sidecar beside those of the world, with one key set.
async fn sidecar_with(world: &World, key: &str, value: &str) -> Sidecar {
    SidecarBuilder::of(&world.nats, "sidecar c").set(key, value).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_connect_is_closed_in_time() {
    let world = World::shared().await;
    let sidecar = sidecar_with(&world, "MQTT__CONNECT_TIMEOUT", "1s").await;
    let mut silent = Socket::open(sidecar.mqtt_port).await;
    let mut half = Socket::open(sidecar.mqtt_port).await;
    half.send(&hex("10 0E 0004 'MQTT'")).await;
    assert!(silent.read_to_end().await.is_empty());
    assert!(half.read_to_end().await.is_empty());
}

/// [MQTT-3.3.5-2 of 3.1.1]
#[tokio::test(flavor = "multi_thread")]
async fn a_3_1_1_client_is_closed_for_a_denied_publish_when_so_configured() {
    let world = World::shared().await;
    let sidecar = sidecar_with(&world, "MQTT__ON_DENIED_PUBLISH", "disconnect").await;
    for qos in [0, 1] {
        let mut client = sidecar.v311(&unique("denied")).await;
        client.start_publish(&msg("$JS/API/INFO", "").qos(qos));
        assert_eq!(client.closed().await, None);
        let mut client = sidecar.v5(&unique("denied")).await;
        if qos == 1 {
            assert_eq!(client.publish(msg("$JS/API/INFO", "").qos(qos)).await, ReasonCode::NotAuthorized);
            client.ping().await;
        }
    }
}
