//! The will is published when, and only when, a connection ends without a proper DISCONNECT.

use mqtt_codec::ReasonCode;

use crate::harness::{Client, Message, Options, World, msg, unique};

fn options(is_v5: bool, id: &str, will: Message) -> Options {
    if is_v5 { Options::v5(id).will(will) } else { Options::v311(id).will(will) }
}

/// How the connection of the client with the will ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Reset,
    Garbage,
    SecondConnect,
    KeepAlive,
    Takeover,
    Disconnect,
    DisconnectWithWill,
}

impl Ending {
    fn has_will(self) -> bool {
        !matches!(self, Self::Disconnect)
    }

    async fn happen(self, mut client: Client, id: &str, world: &World) {
        match self {
            Self::Reset => client.reset(),
            Self::Garbage => {
                client.write_raw(&[0xFF, 0xFF, 0xFF]);
                client.closed().await;
            }
            Self::SecondConnect => {
                client.write(&mqtt_codec::Packet::Connect(Box::new(Options::v5(id).connect)));
                client.closed().await;
            }
            Self::KeepAlive => _ = client.closed().await,
            Self::Takeover => {
                let mut newcomer = world.a.v5(id).await;
                assert_eq!(client.closed().await, Some(ReasonCode::SessionTakenOver));
                newcomer.ping().await;
                newcomer.disconnect(ReasonCode::Success).await;
            }
            Self::Disconnect => client.disconnect(ReasonCode::Success).await,
            Self::DisconnectWithWill => client.disconnect(ReasonCode::DisconnectWithWill).await,
        }
    }
}

/// [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.1.2-12 of 3.1.1], [MQTT-3.1.2-14], [MQTT-3.14.4-3]
#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let world = World::shared().await;
    let t = unique("will");
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut subscriber = sidecar.v5(&unique("sub")).await;
        subscriber.subscribe(&format!("{t}/#"), 2).await;
        subscribers.push(subscriber);
    }
    let endings = [
        Ending::Reset,
        Ending::Garbage,
        Ending::SecondConnect,
        Ending::KeepAlive,
        Ending::Takeover,
        Ending::Disconnect,
        Ending::DisconnectWithWill,
    ];
    for ending in endings {
        for qos in [0, 1, 2] {
            let topic = format!("{t}/{ending:?}");
            let id = unique("dying");
            let keep_alive = if matches!(ending, Ending::KeepAlive) { 1 } else { 0 };
            let will = msg(&topic, format!("will {qos}")).qos(qos);
            let client = world.a.connect(options(true, &id, will).keep_alive(keep_alive)).await;
            ending.happen(client, &id, &world).await;
            if ending.has_will() {
                for subscriber in &mut subscribers {
                    assert_eq!(subscriber.receive_shown().await, format!("{topic} will {qos} qos{qos}"));
                }
            }
        }
    }
    // Nor has one who has none.
    for options in [Options::v5(&unique("none")), Options::v311(&unique("none"))] {
        world.a.connect(options).await.reset();
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [0, 1] {
        publisher.publish(msg(&format!("{t}/x"), "end").qos(qos)).await;
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.shown_until("end").await, [""; 0]);
        }
    }
    // None of them was to be retained.
    let mut late = world.b.v5(&unique("late")).await;
    late.subscribe(&format!("{t}/#"), 2).await;
    publisher.publish(msg(&format!("{t}/x"), "end").qos(1)).await;
    assert_eq!(late.shown_until("end").await, [""; 0]);
}

/// [MQTT-3.1.3-10]
#[tokio::test(flavor = "multi_thread")]
async fn the_user_properties_of_a_will_keep_their_order() {
    let world = World::shared().await;
    let topic = unique("order");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&topic, 2).await;
    let properties: mqtt_codec::UserProperties =
        [("b", "2"), ("a", "1"), ("b", "1"), ("c", ""), ("a", "2")].map(|(n, v)| (n.into(), v.into())).to_vec();
    for qos in [0, 1, 2] {
        let mut will = msg(&topic, "will").qos(qos);
        will.properties.get_or_insert_default().user_properties = properties.clone();
        world.a.connect(options(true, &unique("dying"), will)).await.reset();
        let got = subscriber.receive().await.properties.expect("properties").user_properties;
        assert_eq!(got, properties, "QoS {qos}");
    }
}

/// [MQTT-3.1.2-15]
#[tokio::test(flavor = "multi_thread")]
async fn a_retained_will_is_retained_and_a_birth_after_the_takeover_beats_it() {
    let world = World::shared().await;
    let t = unique("lwt");
    for (round, (will_qos, birth_qos)) in [(1, 1), (1, 0), (0, 1), (2, 0), (0, 0)].into_iter().enumerate() {
        let topic = format!("{t}/{round}");
        let id = unique("plug");
        let will = msg(&topic, "offline").qos(will_qos).retained();
        let _old = world.a.connect(options(false, &id, will.clone())).await;
        let mut new = world.a.connect(options(false, &id, will)).await;
        new.publish(msg(&topic, "online").qos(birth_qos).retained()).await;
        new.publish(msg(&topic, "fence").qos(1)).await;
        for sidecar in [&world.a, &world.b] {
            let mut late = sidecar.v311(&unique("late")).await;
            late.subscribe(&topic, 0).await;
            assert_eq!(late.receive_shown().await, format!("{topic} online qos0 retain"), "{will_qos} {birth_qos}");
        }
        new.reset();
        crate::harness::eventually("the will is retained", async || {
            let mut late = world.b.v311(&unique("late")).await;
            late.subscribe(&topic, 0).await;
            late.receive_shown().await == format!("{topic} offline qos0 retain")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_into_nats_internals_is_refused_or_not_published_and_harms_nobody() {
    let world = World::shared().await;
    let mut watch = crate::harness::Watch::new(&world.nats.client().await, "$SRV.>").await;
    let lost = "mqtt_disconnect_total{reason=\"connection_lost\"}";
    let before = world.a.metric(lost).await;
    for qos in [0, 1] {
        let will = msg("$SRV/will", "bad").qos(qos);
        let refused = Client::open(world.a.mqtt_port, Options::v5(&unique("bad")).will(will.clone())).await;
        assert_eq!(refused.connack.reason, ReasonCode::NotAuthorized);
        // A publish of it would be acknowledged and dropped, since 3.x has no way to refuse it.
        world.a.connect(Options::v311(&unique("bad")).will(will)).await.reset();
    }
    crate::harness::eventually("both are gone", async || world.a.metric(lost).await >= before + 2.0).await;
    let nats = world.nats.client().await;
    nats.publish("$SRV.end", "end".into()).await.unwrap();
    crate::harness::settle(&nats).await;
    assert_eq!(watch.next().await.subject.as_str(), "$SRV.end");
}
