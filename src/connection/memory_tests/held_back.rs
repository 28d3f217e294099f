//! What waits for a rate when its client goes.

use std::num::NonZeroU64;

use super::*;
use crate::config::Limits;
use crate::rate::Allowance;

/// Messages that take as many seconds by the rate of these listeners.
const MESSAGES: usize = 60;

/// Longer than any of it takes, and shorter than the rate would.
const SOON: Duration = Duration::from_secs(15);

fn slow() -> Arc<Entrance> {
    let entrance = entrance();
    let message_rate = Some(Allowance::new(NonZeroU64::MIN, None));
    entrance.limits.set(Limits { message_rate, ..Limits::default() });
    entrance
}

/// A client that has published more than it may, and what becomes of its connection.
async fn publisher(world: &World, topic: &'static str) -> Client {
    let packet = connect(topic, ConnectProperties::default());
    let (wire, served, connack) = world.answered_at(&slow(), PIPE, &packet).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    let mut client = Client { wire, control: world.account.control_of(topic).unwrap(), served };
    for _ in 0..MESSAGES {
        client.publish(topic, Delivery::AtMostOnce).await;
    }
    client
}

async fn gets_everything(world: &World, client_id: &'static str, topic: &'static str) -> Client {
    let mut subscriber = world.client(client_id).await;
    assert_eq!(subscriber.subscribe(topic).await, ReasonCode::Success);
    subscriber
}

#[tokio::test]
async fn what_waits_for_its_rate_is_published_when_the_socket_breaks_and_the_connection_ends() {
    let world = World::new().await;
    let mut subscriber = gets_everything(&world, "s", "broken").await;
    let Client { wire, served, .. } = publisher(&world, "broken").await;
    let began = Instant::now();
    drop(wire);
    for _ in 0..MESSAGES {
        assert_eq!(subscriber.receive().await.1, Bytes::from_static(b"hello"));
    }
    served.await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_waits_for_its_rate_is_published_before_a_goodbye_which_does_not_wait_for_long() {
    let world = World::new().await;
    let mut subscriber = gets_everything(&world, "s", "goodbye").await;
    let Client { mut wire, served, .. } = publisher(&world, "goodbye").await;
    let began = Instant::now();
    wire.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await;
    for number in 0..MESSAGES {
        assert_eq!(subscriber.receive().await.1, Bytes::from_static(b"hello"));
        let held = number > 1 && began.elapsed() < Duration::from_millis(500);
        assert!(!held, "message {number} came without its rate");
    }
    served.await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}
