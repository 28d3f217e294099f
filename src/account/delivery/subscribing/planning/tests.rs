use super::*;
use crate::account::played::World;

#[test]
fn a_filter_that_would_end_the_connection_to_nats_is_not_asked_for() {
    let can = |text: String| can_be_asked_for(&TopicFilter::new(text).unwrap());
    assert!(can("a/b/#".to_owned()) && can("$share/g/a".to_owned()));
    assert!(can("x".repeat(3_800)) && !can("x".repeat(4_000)));
    assert!(can(format!("$share/{}/a", "g".repeat(4_000))));
    assert!(!can(format!("$share/{}/a", "g".repeat(4_090))), "the id of the subscription belongs to the line");
    assert!(!can(format!("$share/{}/{}", "g".repeat(2_000), "x".repeat(2_100))));
    assert!(!can(format!("$share/{}/a", " ".repeat(2_000))), "a space is three bytes there");
}

#[tokio::test]
async fn what_subscriptions_take_in_the_record_is_limited_and_one_that_is_there_takes_nothing() {
    use mqtt_codec::{PacketId, SubscribeEntry};
    use mqtt_session::SubscribeRequest;
    let world = World::with(|config| config.mqtt.max_session_size = crate::config::ByteSize(400)).await;
    let mut client = world.client("c");
    let stored = PagedSubscriptions::default();
    let mut plan = |is_durable, filters: &[&'static str], qos| {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let entry = |text: &&'static str| SubscribeEntry { filter: Ok(TopicFilter::new(*text).unwrap()), options };
        let (packet_id, subscription_id) = (PacketId(std::num::NonZeroU16::MIN), None);
        let request = SubscribeRequest { packet_id, subscription_id, entries: filters.iter().map(entry).collect() };
        let room = Some(RecordRoom::of(&stored, is_durable));
        let planned = world.account.plan_subscribes(client.control.inbox(), &mut client.filters, room, vec![request]);
        planned.reasons()
    };
    let (granted, over) = (None, Some(ReasonCode::QuotaExceeded));
    let taken = plan(true, &["a", "a", "b", "c", "d", "e", "f", "g", "h"], QoS::AtLeastOnce);
    assert_eq!(taken[..3], [granted; 3]);
    assert_eq!(taken.last(), Some(&over));
    assert!(taken.iter().is_sorted_by_key(Option::is_some), "{taken:?}");
    assert_eq!(
        plan(false, &["i", "j", "k", "l", "m", "n", "o", "p"], QoS::AtMostOnce),
        [granted; 8],
        "it is not stored"
    );
    assert_eq!(plan(true, &["q", "r", "s", "t", "u", "v", "w", "x"], QoS::AtMostOnce).last(), Some(&over), "it is");
}
