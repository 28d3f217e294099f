//! Retained messages on topics that begin with `$`, put by NATS clients: under the key that client tools take, and under the
//! subject itself, which a plain publish into the bucket can have.

use crate::harness::{Client, Options, World, eventually, msg, put_retained, shown, unique};

/// What comes with a SUBSCRIBE to this filter, and nothing else.
async fn comes_with(client: &mut Client, publisher: &mut Client, filter: &str, end: &str) -> Vec<String> {
    client.subscribe(filter, 1).await;
    client.subscribe(end, 1).await;
    publisher.publish(msg(end, "end").qos(1)).await;
    client.shown_until("end").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_on_a_topic_that_begins_with_a_dollar_reaches_who_asks_for_it_literally() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for (what, dollar) in [("escaped", "=24"), ("as it stands", "$")] {
        let t = unique("aws");
        let (topic, key) = (format!("${t}/things/x"), format!("{dollar}{t}.things.x"));
        let mut publisher = world.a.v5(&unique("pub")).await;
        let mut asking = Vec::new();
        for (sidecar, filter) in
            [(&world.a, topic.clone()), (&world.b, format!("${t}/#")), (&world.b, format!("${t}/+/x"))]
        {
            let mut client = sidecar.v5(&unique("sub")).await;
            client.subscribe(&filter, 1).await;
            asking.push(client);
        }
        // [MQTT-4.7.2-1]
        let mut hidden = world.a.v5(&unique("hidden")).await;
        for filter in ["#", "+/things/x", "+/things/#"] {
            hidden.subscribe(filter, 1).await;
        }
        let mut away = world.a.connect(Options::v5(&unique("away")).durable(600)).await;
        away.subscribe(&topic, 1).await;
        let away_id = away.id().to_owned();
        away.goodbye().await;

        put_retained(&nats, &key, &[("Unit", "K"), ("Mqtt-QoS", "2")], "on").await;
        for client in &mut asking {
            let message = client.receive().await;
            assert_eq!(shown(&message), format!("{topic} on qos1"), "{what}");
            assert_eq!(message.properties.unwrap().user_properties, [("Unit".into(), "K".into())], "{what}");
        }
        let end = unique("end");
        publisher.publish(msg(&end, end.clone()).qos(1)).await;
        let seen = hidden.shown_until(&end).await;
        assert!(!seen.iter().any(|message| message.contains(&t)), "{what}: {seen:?}");
        let mut away = world.b.connect(Options::v5(&away_id).durable(600)).await;
        assert_eq!(away.receive_shown().await, format!("{topic} on qos1"), "{what}");

        // Who comes later gets it as retained.
        for (sidecar, filter, wanted) in [
            (&world.a, topic.clone(), true),
            (&world.b, format!("${t}/#"), true),
            (&world.b, format!("+/things/{t}"), false),
        ] {
            let mut late = sidecar.v5(&unique("late")).await;
            let got = comes_with(&mut late, &mut publisher, &filter, &unique("end")).await;
            let wanted = if wanted { vec![format!("{topic} on qos1 retain")] } else { Vec::new() };
            assert_eq!(got, wanted, "{what}: {filter}");
        }

        // A device replaces it, and a deletion ends it.
        publisher.publish(msg(&topic, "device").qos(1).retained()).await;
        for client in &mut asking {
            assert_eq!(client.receive_shown().await, format!("{topic} device qos1"), "{what}");
        }
        put_retained(&nats, &key, &[("KV-Operation", "DEL")], "").await;
        for client in &mut asking {
            assert_eq!(client.receive_shown().await, format!("{topic}  qos1"), "{what}");
        }
        eventually("nothing is retained", async || {
            let mut late = world.b.v5(&unique("late")).await;
            comes_with(&mut late, &mut publisher, &topic, &unique("end")).await.is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_a_closed_tree_by_a_key_that_nobody_has_escaped() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("closed");
    put_retained(&nats, &format!("$JS.API.{t}"), &[], "no").await;
    put_retained(&nats, &format!("${t}.x"), &[], "yes").await;
    let mut client = world.a.v5(&unique("sub")).await;
    client.subscribe(&format!("${t}/x"), 1).await;
    // They are carried in their order.
    assert!(client.receive_shown().await.starts_with(&format!("${t}/x yes qos1")));
    let escaped = format!("$KV.MQTT_retained.=24JS.API.{t}");
    assert_eq!(crate::harness::stored(&nats, "KV_MQTT_retained", &escaped).await, 0);
}
