//! A session that comes back and sends its SUBSCRIBE again, as most libraries do: what it was owed it gets all the same.

use mqtt_codec::Version;

use crate::harness::{Client, Options, Sidecar, World, msg, unique};

const LONG: u32 = 3600;

/// What was published while the client was away, in order: values and deletions of one topic.
const MISSED: [&str; 6] = ["1", "2", "", "3", "", "4"];

async fn come_back(sidecar: &Sidecar, version: Version, id: &str) -> Client {
    let client = sidecar.connect(Options::new(version, id).durable(LONG)).await;
    assert!(client.is_resumed());
    client
}

/// Messages until the one that was published last, without those that the SUBSCRIBE brought.
async fn owed(client: &mut Client) -> Vec<String> {
    let messages = client.receive_until("end").await;
    let owed = messages.iter().filter(|publish| !publish.retain);
    owed.map(|publish| String::from_utf8(publish.payload.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_8_4_3_a_subscribe_that_replaces_one_takes_nothing_away_that_was_published_with_retain() {
    const ROUNDS: usize = 10;
    let world = World::shared().await;
    let mut lost = Vec::new();
    for (version, qos, moves) in [
        (Version::V311, 1, false),
        (Version::V5, 1, false),
        (Version::V5, 2, false),
        (Version::V311, 2, true),
        (Version::V5, 1, true),
    ] {
        let mut publisher = world.a.v5(&unique("pub")).await;
        for round in 0..ROUNDS {
            let (t, id) = (unique("again"), unique("dev"));
            let mut client = world.a.connect(Options::new(version, &id).durable(LONG)).await;
            client.subscribe(&format!("{t}/+"), qos).await;
            client.goodbye().await;
            // What is in front takes the scan a while.
            let filler = (0..200).map(|n| msg(&format!("{t}/filler"), format!("f{n}")).qos(1));
            let missed = MISSED.iter().map(|value| msg(&format!("{t}/x"), *value).qos(qos).retained());
            let all = filler.chain(missed).chain([msg(&format!("{t}/x"), "end").qos(qos)]);
            publisher.publish_all(all, 64, |_| {}).await;
            let mut client = come_back(if moves { &world.b } else { &world.a }, version, &id).await;
            client.subscribe(&format!("{t}/+"), qos).await;
            let mut owed = owed(&mut client).await;
            owed.retain(|value| !value.starts_with('f'));
            if owed != MISSED {
                lost.push(format!("{version:?} QoS {qos} moves: {moves} round {round}: {owed:?}"));
            }
            client.goodbye().await;
        }
    }
    assert!(lost.is_empty(), "{} of {}: {lost:#?}", lost.len(), 5 * ROUNDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_8_4_4_a_subscribe_that_lowers_its_qos_to_0_takes_nothing_away_that_was_owed_above_it() {
    const COUNT: usize = 400;
    let world = World::shared().await;
    for (version, qos, moves) in [(Version::V311, 1, false), (Version::V5, 2, false), (Version::V5, 1, true)] {
        let (t, id) = (unique("lower"), unique("dev"));
        let filter = format!("{t}/+");
        let mut client = world.a.connect(Options::new(version, &id).durable(LONG)).await;
        client.subscribe(&filter, qos).await;
        client.goodbye().await;
        let mut publisher = world.a.v5(&unique("pub")).await;
        publisher.publish_all((0..COUNT).map(|n| msg(&format!("{t}/x"), n.to_string()).qos(2)), 64, |_| {}).await;
        let mut client = come_back(&world.a, version, &id).await;
        // What comes before its SUBACK is to come again when it moves.
        client.acknowledges = !moves;
        // At once, and it stays so on the next connection, wherever.
        client.subscribe(&filter, 0).await;
        let mut got = Vec::new();
        if moves {
            client.reset();
            client = come_back(&world.b, version, &id).await;
        }
        publisher.publish(msg(&format!("{t}/x"), "end").qos(1)).await;
        while got.len() < COUNT {
            let message = client.receive().await;
            if message.payload != "end" {
                assert_eq!((message.qos() as u8, message.dup), (qos, moves && message.dup));
                got.push(String::from_utf8(message.payload.to_vec()).unwrap());
            }
        }
        // What was in flight when the connection broke may be repeated.
        let wanted: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
        if moves {
            got.sort_unstable_by_key(|n| n.parse::<usize>().unwrap());
            got.dedup();
        }
        assert_eq!(got, wanted, "{version:?} QoS {qos} moves: {moves}");
        client.goodbye().await;
    }
}
