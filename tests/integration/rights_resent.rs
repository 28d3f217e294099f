//! What was in flight when a connection broke, on the next one of a user who may have less by then.

use crate::harness::{msg, shown};
use crate::rights::{PANEL, User, Users, user};

const WIDE: User<'_> = ("lamp", r#"subscribe = { allow = ["cmd.lamp.>"] }"#, "");

/// Its subscription stands as before, and what is denied inside is held back; or it is gone, and what is still allowed comes.
const NARROW: [User<'_>; 2] = [
    ("lamp", r#"subscribe = { allow = ["cmd.lamp.>"], deny = ["cmd.lamp.secret"] }"#, ""),
    ("lamp", r#"subscribe = { allow = ["cmd.lamp.on"] }"#, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_is_not_sent_again_to_who_may_not_have_it_any_more() {
    let world = Users::start(&[PANEL, WIDE], &[]).await;
    let mut panel = world.b.connect(user("panel")).await;
    for (qos, narrow) in [1, 2].into_iter().flat_map(|qos| NARROW.map(|narrow| (qos, narrow))) {
        let case = format!("QoS {qos}, {narrow:?}");
        let mut lamp = world.a.connect(user("lamp").expiry(600)).await;
        lamp.acknowledges = false;
        lamp.subscribe("cmd/lamp/#", qos).await;
        for topic in ["cmd/lamp/secret", "cmd/lamp/on"] {
            panel.publish(msg(topic, "x").qos(qos)).await;
            assert_eq!(lamp.receive_shown().await, format!("{topic} x qos{qos}"), "{case}");
        }
        lamp.reset();
        world.change(&[PANEL, narrow]).await;
        let dropped = async || world.b.metric("mqtt_messages_dropped_total{reason=\"not_authorized\"}").await;
        let before = dropped().await;
        let mut lamp = world.b.connect(user("lamp").durable(600)).await;
        assert!(lamp.is_resumed(), "{case}");
        assert_eq!(shown(&lamp.receive().await), format!("cmd/lamp/on x qos{qos} dup"), "{case}");
        lamp.ping().await;
        assert_eq!(dropped().await, before + 1.0, "{case}");
        lamp.goodbye().await;
        // It counts as delivered: it does not wait for better times.
        world.change(&[PANEL, WIDE]).await;
        let mut lamp = world.a.connect(user("lamp").durable(600)).await;
        assert!(lamp.is_resumed(), "{case}");
        lamp.subscribe("cmd/lamp/#", qos).await;
        panel.publish(msg("cmd/lamp/end", "end").qos(1)).await;
        assert_eq!(lamp.shown_until("end").await, [""; 0], "{case}");
        lamp.disconnect_expiring(0).await;
    }
}
