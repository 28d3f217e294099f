//! What a bridge of mosquitto says of its own connection, on `$SYS/broker/connection/ID/state`: `1` when it is there and `0`
//! in its will, retained.

use mqtt_codec::ReasonCode;

use crate::harness::{Client, Options, World, eventually, msg, unique};

fn state_of(id: &str) -> String {
    format!("$SYS/broker/connection/{id}/state")
}

/// What comes with a SUBSCRIBE.
async fn retained(world: &World, filter: &str, prefix: &str) -> Vec<String> {
    let mut client = world.a.v311(&unique("late")).await;
    client.subscribe(filter, 1).await;
    client.ping().await;
    client.publish(msg(prefix, "x")).await;
    let end = unique("end");
    client.subscribe(&end, 0).await;
    client.publish(msg(&end, "end")).await;
    let got = client.shown_until("end").await;
    got.into_iter().filter(|message| message.contains("connection/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_says_that_it_is_there_and_its_will_that_it_is_gone() {
    let world = World::shared().await;
    for (number, bridge) in [true, false].into_iter().enumerate() {
        let id = unique("site.bridge");
        let topic = state_of(&id);
        let mut options = Options::v311(&id).will(msg(&topic, "0").qos(1).retained());
        options.connect.bridge = bridge;
        let mut watcher = world.a.v5(&unique("watcher")).await;
        // Other bridges come and go beside it.
        watcher.subscribe(&topic, 1).await;
        let mut all = world.a.v5(&unique("all")).await;
        all.subscribe("#", 0).await;

        let mut client = world.a.connect(options.clone()).await;
        for qos in [0, 1, 2] {
            let reason = client.publish(msg(&topic, "1").qos(qos).retained()).await;
            assert_eq!(reason, ReasonCode::Success);
            assert_eq!(watcher.receive_shown().await, format!("{topic} 1 qos0"));
        }
        assert_eq!(retained(&world, &topic, &unique("t")).await, [format!("{topic} 1 qos0 retain")], "{number}");
        // Its next connection is there before this one has ended: the will of this one comes first.
        let mut next = world.a.connect(options).await;
        next.publish(msg(&topic, "1").qos(1).retained()).await;
        assert_eq!(watcher.receive_shown().await, format!("{topic} 0 qos0"));
        assert_eq!(watcher.receive_shown().await, format!("{topic} 1 qos0"));
        client.closed().await;
        next.reset();
        assert_eq!(watcher.receive_shown().await, format!("{topic} 0 qos0"));
        assert_eq!(retained(&world, &topic, &unique("t")).await, [format!("{topic} 0 qos0 retain")]);
        // [MQTT-4.7.2-1]
        let end = unique("end");
        watcher.publish(msg(&end, "end")).await;
        let seen = all.shown_until("end").await;
        assert!(!seen.iter().any(|message| message.starts_with("$SYS")), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_it_of_others_or_too_much_is_refused() {
    let world = World::shared().await;
    let (id, other) = (unique("bridge"), unique("other"));
    let mut client: Client = world.a.v5(&id).await;
    let refused = ReasonCode::NotAuthorized;
    for topic in [state_of(&other), format!("{}/x", state_of(&id)), "$SYS/broker/uptime".to_owned(), state_of("")] {
        assert_eq!(client.publish(msg(&topic, "1").qos(1).retained()).await, refused, "{topic}");
    }
    let too_much = client.publish(msg(&state_of(&id), vec![b'1'; 65]).qos(1).retained()).await;
    assert_eq!(too_much, ReasonCode::QuotaExceeded);
    assert_eq!(client.publish(msg(&state_of(&id), "1").qos(1).retained()).await, ReasonCode::Success);
    // Nothing of it is on NATS.
    let nats = world.nats.client().await;
    let stored = crate::harness::stored(&nats, "KV_MQTT_retained", "$KV.MQTT_retained.=24SYS.>").await;
    assert_eq!(stored, 0);
    // It can be taken back.
    assert_eq!(client.publish(msg(&state_of(&id), "").qos(1).retained()).await, ReasonCode::Success);
    eventually("it is gone", async || retained(&world, &state_of(&id), &unique("t")).await.is_empty()).await;
    // A will about somebody else is refused with its CONNECT, or dropped, as the PUBLISH is.
    let options = Options::v5(&unique("liar")).will(msg(&state_of(&other), "0").retained());
    assert_eq!(Client::open(world.a.mqtt_port, options).await.connack.reason, refused);
}
