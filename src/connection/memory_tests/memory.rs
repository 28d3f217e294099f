//! A connection while memory is short.

use super::*;

/// Fills the output of a client that does not read: more than it may have while memory is short, and less than else.
async fn fill_output(client: &Client) {
    let grant = Grant { qos: QoS::AtMostOnce, retain: false, ids: SubscriptionIds::One(None) };
    let message = Message::new(TopicName::new("t").unwrap(), Bytes::from(vec![0; 1_000]), None);
    let (inbox, mut wakes) = (client.control.inbox(), Wakes::default());
    assert!((0..100).all(|_| inbox.offer_qos0(&message, &grant, ServerTime(0), &mut wakes)));
    drop(wakes);
    while inbox.qos0_waiting() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_client_sends_that_does_not_read_is_handled_when_there_is_memory_again() {
    let world = World::new().await;
    let mut hearing = world.client("hearing").await;
    assert_eq!(hearing.subscribe("greetings/+").await, ReasonCode::Success);
    let mut silent = world.client_with("silent", 1_024, ConnectProperties::default()).await;
    SHARE.set(Some(0));
    fill_output(&silent).await;
    silent.publish("greetings/1", Delivery::AtMostOnce).await;
    // Whoever reads is not concerned.
    hearing.publish("greetings/2", Delivery::AtMostOnce).await;
    assert_eq!(hearing.receive().await, (None, Bytes::from_static(b"hello")));
    assert_eq!(hearing.ping().await, [], "it waits");
    SHARE.set(None);
    assert_eq!(hearing.receive().await, (None, Bytes::from_static(b"hello")), "and nobody has read anything");
}

#[tokio::test]
async fn a_client_is_not_taken_for_dead_because_there_is_less_memory_for_what_it_does_not_read() {
    let world = World::new().await;
    let Packet::Connect(mut packet) = connect("silent", ConnectProperties::default()) else { unreachable!() };
    packet.keep_alive_s = 1;
    let (wire, served, _) = world.answered(1_024, &Packet::Connect(packet)).await;
    let mut silent = Client { wire, control: world.account.control_of("silent").unwrap(), served };
    SHARE.set(Some(0));
    fill_output(&silent).await;
    // More than is kept of what cannot be handled, so that it is not read.
    let sending = async {
        for _ in 0..1_000 {
            silent.publish("greetings/1", Delivery::AtMostOnce).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), sending).await.is_err(), "it is read all the same");
    assert!(!silent.served.is_finished());
}
