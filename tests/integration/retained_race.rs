//! A retained message that is published while a subscriber comes arrives once: retained, or live, never both, and
//! never neither.

use std::sync::Arc;

use mqtt_codec::Publish;
use tokio::sync::Barrier;

use crate::harness::{Client, PATIENCE, World, heavy, msg, shown};

const LANES: usize = 3;
const ITERATIONS: usize = 1_000;

/// How a subscriber subscribes, at which QoS.
#[derive(Clone, Copy, Debug)]
enum Filter {
    Exact(u8),
    Plus(u8),
    Hash(u8),
}

const FILTERS: [Filter; 4] = [Filter::Exact(1), Filter::Plus(0), Filter::Hash(1), Filter::Exact(0)];

impl Filter {
    fn of(self, base: &str) -> (String, u8) {
        match self {
            Self::Exact(qos) => (format!("{base}/x"), qos),
            Self::Plus(qos) => (format!("{base}/+"), qos),
            Self::Hash(qos) => (format!("{base}/#"), qos),
        }
    }
}

fn check(messages: &[Publish], what: &str) {
    let got: Vec<String> = messages.iter().map(shown).collect();
    assert_eq!(got.len(), 1, "{what}: {got:?}");
    assert!(got[0].contains(" m qos"), "{what}: {got:?}");
}

/// Subscribes when everybody is there, and again for the next topic; each time one message has come.
async fn subscriber(mut client: Client, lane: usize, filter: Filter, barrier: Arc<Barrier>) {
    let name = client.id().to_owned();
    for iteration in 0..ITERATIONS {
        let (filter, qos) = filter.of(&format!("race/{lane}/{iteration}"));
        barrier.wait().await;
        client.subscribe(&filter, qos).await;
        barrier.wait().await;
        let mut messages = client.receive_until("end").await;
        // The end comes by the same path as the message would live; a retained one may be behind it.
        if messages.is_empty() {
            let late = client.try_receive(PATIENCE).await;
            let published = iteration % 3;
            let late = late.unwrap_or_else(|ended| {
                panic!("{ended:?}: {name} never got it, {filter} at {qos}, published at {published}")
            });
            messages.push(late);
        }
        check(&messages, &format!("{name}: {filter} at {qos}"));
        client.unsubscribe(&filter).await;
        client.ping().await;
    }
}

async fn publisher(mut client: Client, lane: usize, barrier: Arc<Barrier>) {
    for iteration in 0..ITERATIONS {
        let topic = format!("race/{lane}/{iteration}/x");
        let qos = (iteration % 3) as u8;
        barrier.wait().await;
        // Its moment among the SUBSCRIBEs varies.
        for _ in 0..iteration % 5 {
            client.ping().await;
        }
        client.publish(msg(&topic, "m").qos(qos).retained()).await;
        barrier.wait().await;
        client.publish(msg(&topic, "end").qos(qos)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_retained_while_subscribers_come_and_go_arrives_exactly_once() {
    let _turn = heavy().await;
    let world = World::own().await;
    let mut tasks = Vec::new();
    for lane in 0..LANES {
        let barrier = Arc::new(Barrier::new(1 + 2 * FILTERS.len()));
        let client = world.a.v311(&format!("pub-{lane}")).await;
        tasks.push(tokio::spawn(publisher(client, lane, Arc::clone(&barrier))));
        for (name, sidecar) in [("a", &world.a), ("b", &world.b)] {
            for filter in FILTERS {
                let client = sidecar.v311(&format!("sub-{lane}-{name}-{filter:?}")).await;
                tasks.push(tokio::spawn(subscriber(client, lane, filter, Arc::clone(&barrier))));
            }
        }
    }
    // One that fails makes the others wait for it for ever.
    let mut left: Vec<_> = tasks;
    while !left.is_empty() {
        let (result, _, others) = futures_util::future::select_all(left).await;
        result.unwrap();
        left = others;
    }
}
