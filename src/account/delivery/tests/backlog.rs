//! What sessions that are away are owed is copied before the log loses it, once, and removed when nobody is owed it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mqtt_codec::QoS;
use mqtt_session::Sequence;

use crate::account::played::{Fate, LOG, PlayedServer, World, until};
use crate::store::{ProgressRecord, SessionRecord, StoredSubscription};

const BACKLOG: &str = "MQTT_backlog";
const POSITION: &str = "$KV.MQTT_sessions.backlog.position";

/// A small log, and a session that is away with this filter.
async fn away(world: &World, client_id: &str, filter: &str, change: impl FnOnce(&mut SessionRecord)) -> u64 {
    let subscription = StoredSubscription { filter: filter.to_owned(), qos: 1, ..StoredSubscription::default() };
    let mut record = SessionRecord {
        client_id: client_id.to_owned(),
        epoch: 3,
        first_epoch: 1,
        expiry_s: 3_600,
        subscriptions: vec![subscription],
        ..SessionRecord::default()
    };
    change(&mut record);
    let sessions = world.account.store.sessions();
    let expected = sessions.load(client_id).await.unwrap().sequence;
    sessions.put_record(&record, expected, None).await.unwrap()
}

async fn world() -> World {
    World::with(|config| config.jetstream.log.max_bytes = crate::config::ByteSize(64 * 1024)).await
}

/// Fills the log with so many messages of a kilobyte.
async fn fill(world: &World, topic: &str, count: u64) {
    let mut publisher = world.client("p");
    for number in 0..count {
        publisher.publish(topic, QoS::AtLeastOnce, false, &format!("{number}{}", " ".repeat(1_000)));
    }
    publisher.settle().await;
    world.account.registry.leave(&publisher.control);
}

/// The sequences in the log of the copies of a client.
fn copies(server: &PlayedServer, client_id: &str) -> Vec<u64> {
    let of_client = |subject: &str| subject.ends_with(&format!(".{client_id}"));
    let all = server.messages(BACKLOG).into_iter().filter(|(_, said)| of_client(&said.subject));
    all.map(|(_, said)| said.header("Mqtt-Log-Sequence").unwrap().parse().unwrap()).collect()
}

async fn copied(world: &World, client_id: &str) -> Vec<u64> {
    let look = || Some(copies(&world.server, client_id)).filter(|copies| !copies.is_empty());
    until("copies", look).await;
    // A pass is over when its position is saved.
    let position = || {
        let saved = world.server.messages("KV_MQTT_sessions").into_iter().find(|(_, said)| said.subject == POSITION)?;
        let position: serde_json::Value = serde_json::from_slice(&saved.1.payload).ok()?;
        position["position"].as_u64().filter(|position| *position > 0)
    };
    until("the position", position).await;
    copies(&world.server, client_id)
}

#[tokio::test]
async fn what_a_session_that_is_away_is_owed_is_copied_before_the_log_loses_it_and_found_there() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    away(&world, "other", "b", |_| ()).await;
    away(&world, "over", "a/#", |record| record.expiry_s = 0).await;
    fill(&world, "a/b", 10).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(copies(&world.server, "c").is_empty(), "nothing is copied while the log has room");
    fill(&world, "a/b", 40).await;
    let copies = copied(&world, "c").await;
    assert!(copies.len() >= 10 && copies.is_sorted_by(|a, b| a + 1 == *b) && copies[0] == 1, "{copies:?}");
    for client_id in ["other", "over"] {
        assert!(self::copies(&world.server, client_id).is_empty(), "{client_id}");
    }
    world.server.discard(LOG, copies[5]);
    let wanted = HashSet::from([1, 3, 999].map(Sequence));
    let found = world.account.find_in_backlog("c", wanted).await;
    let found: Vec<_> = found.iter().map(|entry| (entry.sequence, entry.subject().to_owned())).collect();
    assert_eq!(found, [(1, "a.b".to_owned()), (3, "a.b".to_owned())]);
    assert!(world.account.find_in_backlog("nobody", [Sequence(1)].into()).await.is_empty());
    assert!(world.account.find_in_backlog("c", HashSet::new()).await.is_empty());
}

#[tokio::test]
async fn who_has_read_its_backlog_leaves_nothing_of_it_and_who_has_not_leaves_it() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    away(&world, "d", "a/#", |_| ()).await;
    fill(&world, "a/b", 50).await;
    let last = *copied(&world, "c").await.last().unwrap();
    until("both", || (copies(&world.server, "d").last() == Some(&last)).then_some(())).await;
    let saved = |cursor| ProgressRecord { epoch: 3, cursor, ..ProgressRecord::default() };
    let is_left = Arc::new(AtomicBool::new(true));
    world.account.leave_backlog("c", saved(last - 1), Arc::clone(&is_left));
    world.account.leave_backlog("nobody", saved(last), Arc::new(AtomicBool::new(true)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!copies(&world.server, "c").is_empty() && is_left.load(Ordering::Relaxed), "it has not read all of it");
    world.account.leave_backlog("c", saved(last), Arc::clone(&is_left));
    until("it is removed", || copies(&world.server, "c").is_empty().then_some(())).await;
    assert!(is_left.load(Ordering::Relaxed), "a pass may make copies still");
    world.account.leave_backlog("c", saved(last), Arc::clone(&is_left));
    until("nothing is left", || (!is_left.load(Ordering::Relaxed)).then_some(())).await;
    assert!(!copies(&world.server, "d").is_empty());
    world.account.forget_backlog("d");
    until("its session is over", || copies(&world.server, "d").is_empty().then_some(())).await;
}

/// A backlog is in the order of the log: what is refused while what is behind it is taken cannot be put there any more.
#[tokio::test]
async fn a_copy_that_is_refused_while_later_ones_are_taken_is_counted_and_the_others_are_made_once() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    let mut put = 0;
    world.server.rule(move |said| {
        let is_copy = said.subject.starts_with("$NMQ.backlog.");
        put += u32::from(is_copy);
        if is_copy && put == 5 { Fate::Refused(10060) } else { Fate::Taken }
    });
    fill(&world, "a/b", 50).await;
    let copies = copied(&world, "c").await;
    assert_eq!(copies[..5], [1, 2, 3, 4, 6]);
    assert!(copies.is_sorted_by(|a, b| a < b), "each of them once: {copies:?}");
    assert_eq!(world.dropped("queue_full"), 1);
}

/// What was lost on the way is looked for and sent again, and a pass that died is made again from where each backlog ends.
#[tokio::test]
async fn a_pass_that_dies_is_made_again_and_nothing_of_it_is_missing() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    world.server.rule(move |said| {
        // Its position is not saved, so that the next writer does not know how far it was.
        if said.subject == POSITION { Fate::Refused(10060) } else { Fate::Taken }
    });
    fill(&world, "a/b", 50).await;
    let first = until("copies", || Some(copies(&world.server, "c")).filter(|copies| copies.len() >= 10)).await;
    world.server.obey();
    let all = copied(&world, "c").await;
    assert_eq!(all[..first.len()], first);
    assert!(all.is_sorted_by(|a, b| a + 1 == *b), "{all:?}");
    assert_eq!(world.dropped("queue_full"), 0);
}

#[tokio::test]
async fn a_queue_that_takes_no_more_holds_up_nobody_else() {
    let world = world().await;
    away(&world, "full", "a/#", |_| ()).await;
    away(&world, "c", "a/#", |_| ()).await;
    world.server.rule(|said| if said.subject == "$NMQ.backlog.full" { Fate::Refused(10077) } else { Fate::Taken });
    fill(&world, "a/b", 50).await;
    let all = copied(&world, "c").await;
    assert!(all.len() >= 10 && all.is_sorted_by(|a, b| a + 1 == *b));
    assert!(copies(&world.server, "full").is_empty());
}

#[tokio::test]
async fn a_stream_of_backlogs_that_is_gone_is_made_again() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    world.server.delete_stream(BACKLOG);
    fill(&world, "a/b", 50).await;
    assert_eq!(copied(&world, "c").await[0], 1);
}

#[tokio::test]
async fn by_their_age_messages_are_copied_when_half_of_it_is_over() {
    let world = World::with(|config| config.jetstream.log.max_bytes = crate::config::ByteSize(64 << 20)).await;
    world.server.configure(LOG, "max_age", 4_000_000_000_u64.into());
    away(&world, "c", "a/#", |_| ()).await;
    fill(&world, "a/b", 3).await;
    let began = tokio::time::Instant::now();
    assert_eq!(copied(&world, "c").await, [1, 2, 3]);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn backlogs_that_nobody_is_owed_are_swept_away() {
    let world = world().await;
    let sequence = away(&world, "gone", "a/#", |_| ()).await;
    away(&world, "c", "a/#", |_| ()).await;
    fill(&world, "a/b", 50).await;
    copied(&world, "c").await;
    until("its copies", || (!copies(&world.server, "gone").is_empty()).then_some(())).await;
    // Its session is over, and whoever ended it has died over it: the next writer finds what it has left.
    let _ = sequence;
    let subject = world
        .server
        .said("$KV.MQTT_sessions.>")
        .into_iter()
        .map(|said| said.subject)
        .find(|s| s.ends_with("gone"))
        .unwrap();
    world.server.publish(&subject, &[("KV-Operation", "DEL")], "");
    let next =
        World::on(world.server.clone(), |config| config.jetstream.log.max_bytes = crate::config::ByteSize(64 * 1024))
            .await;
    world.account.drain(Duration::from_secs(5)).await;
    fill(&next, "a/b", 60).await;
    until("it is removed", || copies(&next.server, "gone").is_empty().then_some(())).await;
    assert!(!copies(&next.server, "c").is_empty());
}

/// A queue that discards its oldest message makes room by itself: what went is counted.
#[tokio::test]
async fn what_gives_way_in_a_queue_that_is_full_is_counted() {
    let world = World::with(|config| {
        config.jetstream.log.max_bytes = crate::config::ByteSize(64 * 1024);
        config.mqtt.session_queue = 4;
    })
    .await;
    away(&world, "c", "a/#", |_| ()).await;
    fill(&world, "a/b", 50).await;
    let copies = copied(&world, "c").await;
    assert_eq!(copies.len(), 4);
    let gone = copies[0] - 1;
    until("it is counted", || (world.dropped("queue_full") == gone).then_some(())).await;
}

/// Its copies of before say nothing of the log that is there now.
#[tokio::test]
async fn when_the_log_is_another_one_it_is_copied_from_its_beginning() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    fill(&world, "a/b", 50).await;
    let before = copied(&world, "c").await;
    world.server.delete_stream(LOG);
    world.server.sever("-tail");
    until("it is made anew", || world.server.messages(LOG).is_empty().then_some(())).await;
    until("the tail knows", || (world.account.tail_sequence() == Sequence(0)).then_some(())).await;
    fill(&world, "a/b", 50).await;
    let look = || Some(copies(&world.server, "c")).filter(|copies| copies.len() > before.len());
    let all = until("copies of the new one", look).await;
    assert_eq!(all[before.len()], 1);
}

/// Nor do they to a writer that looks at all copies first, because it does not know where the one before has ended.
#[tokio::test]
async fn a_writer_that_begins_with_another_log_does_not_take_copies_of_the_one_before_for_its_own() {
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    fill(&world, "a/b", 50).await;
    let before = copied(&world, "c").await;
    world.account.drain(Duration::from_secs(5)).await;
    world.server.delete_stream(LOG);
    let next =
        World::on(world.server.clone(), |config| config.jetstream.log.max_bytes = crate::config::ByteSize(64 * 1024))
            .await;
    fill(&next, "a/b", 50).await;
    let look = || Some(copies(&next.server, "c")).filter(|copies| copies.len() > before.len());
    let all = until("copies of the new one", look).await;
    assert_eq!(all[before.len()], 1, "{all:?}");
}

/// [MQTT-3.3.2-5]
#[tokio::test]
async fn what_has_expired_is_not_copied() {
    use mqtt_codec::MessageProperties;
    use mqtt_session::Publication;
    let world = world().await;
    away(&world, "c", "a/#", |_| ()).await;
    let mut publisher = world.client("expiring");
    for expiry_s in [1, 1_000] {
        let properties =
            MessageProperties { message_expiry_interval_s: Some(expiry_s), ..MessageProperties::default() };
        let publication = publisher.publication("a/b", QoS::AtLeastOnce, false, "x");
        publisher.publish_as(Publication { properties: Some(Box::new(properties)), ..publication }).unwrap();
    }
    publisher.settle().await;
    world.server.age(LOG, 10_000);
    fill(&world, "a/b", 50).await;
    let copies = copied(&world, "c").await;
    assert_eq!(copies[..2], [2, 3]);
    // As long as it may still be sent.
    let (_, kept) = world.server.messages(BACKLOG).into_iter().next().unwrap();
    let left_s: u64 = kept.header("Nats-TTL").unwrap().parse().unwrap();
    assert!((980..=991).contains(&left_s), "{left_s}");
}
