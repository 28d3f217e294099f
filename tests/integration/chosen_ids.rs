//! Message ids that a client chooses, in a user property or in a header of NATS, decide about its own messages and about
//! nobody else's.

use async_nats::HeaderMap;
use mqtt_codec::{Packet, ReasonCode};
use serde_json::{Value, json};

use crate::harness::sessions::{pid, progress, record};
use crate::harness::{Message, Options, World, eventually, js_api, msg, stored, unique};

const LONG: u32 = 3600;

/// With a message id of the publisher's own.
fn with_id(message: Message, id: &str) -> Message {
    let mut message = message;
    message.properties.get_or_insert_default().user_properties = vec![("Nats-Msg-Id".into(), id.into())];
    message
}

/// The epoch of a client's session, which anybody can guess who knows when it connected.
async fn epoch(nats: &async_nats::Client, id: &str) -> u64 {
    record(nats, id).await.expect("a record").1["epoch"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_somebody_guesses_eat_no_message_and_no_will_of_another_client() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, id) = (unique("guessed"), unique("victim"));
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/victim/#"), 2).await;
    let will = msg(&format!("{t}/victim/will"), "gone").qos(1);
    let mut victim = world.a.connect(Options::v5(&id).durable(LONG).will(will)).await;
    let mut attacker = world.b.v5(&unique("attacker")).await;
    let epoch = epoch(&nats, &id).await;
    for number in (0..4).chain([u64::MAX]) {
        let guess = format!("{id}.{epoch}.{number}");
        let own = with_id(msg(&format!("{t}/attacker"), "x").qos(1), &guess);
        assert_eq!(attacker.publish(own).await, ReasonCode::Success);
        // A NATS client guesses, too: its message is copied into the log.
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", &*guess);
        nats.publish_with_headers(format!("{t}.victim.nats"), headers, "x".into()).await.unwrap();
    }
    for _ in 0..5 {
        assert_eq!(subscriber.receive().await.payload, "x");
    }
    for n in ["1", "2"] {
        assert_eq!(victim.publish(msg(&format!("{t}/victim/own"), n).qos(2)).await, ReasonCode::Success);
        assert_eq!(subscriber.receive_shown().await, format!("{t}/victim/own {n} qos2"));
    }
    victim.reset();
    assert_eq!(subscriber.receive_shown().await, format!("{t}/victim/will gone qos1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_number_from_one_lose_nothing_and_each_can_repeat_its_own() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, stream) = (unique("numbers"), unique("NUMBERS"));
    let attached = json!({"name": stream, "subjects": [format!("{t}.attached")]});
    crate::attached::create(&nats, &[&world.a, &world.b], &attached).await;
    let mut devices = [world.a.v5(&unique("one")).await, world.b.v5(&unique("two")).await];
    for (topic, of) in [(format!("{t}/log"), "MQTT_log"), (format!("{t}/attached"), stream.as_str())] {
        let mut subscriber = world.b.v5(&unique("sub")).await;
        subscriber.subscribe(&topic, 2).await;
        for qos in [1, 2] {
            for device in &mut devices {
                for n in ["1", "2", "1"] {
                    let message = with_id(msg(&topic, device.id().to_owned()).qos(qos), &format!("{qos}-{n}"));
                    assert_eq!(device.publish(message).await, ReasonCode::Success);
                }
                for n in ["1", "2"] {
                    let got = subscriber.receive().await;
                    assert_eq!(got.payload, device.id().to_owned(), "{of} {qos}-{n}");
                    let properties = &got.properties.as_ref().unwrap().user_properties;
                    assert_eq!(properties[..], [("Nats-Msg-Id".into(), format!("{qos}-{n}").into())]);
                }
            }
        }
        let subject = if of == "MQTT_log" { format!("$NMQ.log.{t}.log") } else { String::new() };
        assert_eq!(stored(&nats, of, &subject).await, 8, "{of}");
    }
    js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_the_publishers_own_is_found_when_another_sidecar_recovers_the_message() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let info = js_api(&nats, "STREAM.INFO.MQTT_log", &Value::Null).await;
    let mut config = info["config"].clone();
    // JetStream forgets ids before the message is repeated.
    config["duplicate_window"] = json!(100_000_000);
    let updated = js_api(&nats, "STREAM.UPDATE.MQTT_log", &config).await;
    assert!(updated["error"].is_null(), "{updated}");
    for own in [None, Some("42")] {
        let id = unique("device");
        let message = own.map_or_else(|| msg("x", "once").qos(2), |own| with_id(msg("x", "once").qos(2), own));
        let before = stored(&nats, "MQTT_log", "").await;
        let mut device = world.a.connect(Options::v5(&id).durable(LONG)).await;
        device.send_publish(&message, pid(1), false).await;
        device.other(|packet| matches!(packet, Packet::PubRec(_))).await;
        eventually("it is recorded", async || {
            progress(&nats, &id).await.is_some_and(|(_, found)| found["received"].as_array().unwrap().len() == 1)
        })
        .await;
        world.a.kill();
        let mut device = world.b.connect(Options::v5(&id).durable(LONG)).await;
        assert!(device.is_resumed());
        device.send_publish(&message, pid(1), true).await;
        device.other(|packet| matches!(packet, Packet::PubRec(_))).await;
        assert_eq!(stored(&nats, "MQTT_log", "").await, before + 1, "{own:?}");
        device.goodbye().await;
        world.a.restart().await;
    }
}
