//! Sessions that fall behind the tail of a log get what the tail passed over, from the log, in its order, once.

use mqtt_codec::QoS;
use mqtt_session::{FeedState, Position, Sequence};

use crate::account::played::{Fate, LOG, PlayedClient, World, until};

const COUNT: u64 = 200;

/// Publishes so many messages, which are in the log when this returns and were routed.
async fn fill(world: &World, client: &mut PlayedClient, from: u64, count: u64) {
    for number in from..from + count {
        client.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
    }
    client.settle().await;
    let last = world.server.messages(LOG).last().unwrap().0;
    until("the tail", || (world.account.tail_sequence() == Sequence(last)).then_some(())).await;
}

fn numbers(from: u64, count: u64) -> Vec<String> {
    (from..from + count).map(|number| number.to_string()).collect()
}

fn is_live(client: &PlayedClient) -> bool {
    client.control.inbox().feeds_behind() == 0
}

#[tokio::test]
async fn who_is_slow_gets_everything_once_and_in_order_and_is_live_again() {
    let world = World::start().await;
    let (mut slow, mut slower) = (world.slow_client("slow", 8), world.slow_client("slower", 3));
    let mut publisher = world.client("p");
    for client in [&mut slow, &mut slower] {
        client.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    }
    fill(&world, &mut publisher, 0, COUNT).await;
    assert!(!is_live(&slow) && !is_live(&slower));
    assert_eq!(slow.receives(COUNT as usize).await, numbers(0, COUNT));
    assert_eq!(slower.receives(COUNT as usize).await, numbers(0, COUNT));
    for client in [&slow, &slower] {
        until("it is live", || {
            client.stored();
            is_live(client).then_some(())
        })
        .await;
    }
    fill(&world, &mut publisher, COUNT, 2).await;
    assert_eq!(slow.receives(2).await, numbers(COUNT, 2));
    assert_eq!(slower.receives(2).await, numbers(COUNT, 2));
}

/// What is stored meanwhile is held behind what the scan still brings.
#[tokio::test]
async fn what_is_stored_while_a_scan_runs_comes_behind_it() {
    let world = World::start().await;
    let mut slow = world.slow_client("slow", 8);
    let mut publisher = world.client("p");
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    fill(&world, &mut publisher, 0, 40).await;
    let mut got = slow.stored();
    for batch in 0..10 {
        fill(&world, &mut publisher, 40 + batch * 4, 4).await;
        got.extend(slow.stored());
    }
    got.extend(slow.receives(80 - got.len()).await);
    assert_eq!(got, numbers(0, 80));
}

#[tokio::test]
async fn a_log_that_cannot_be_read_for_a_while_is_read_when_it_can() {
    let world = World::start().await;
    let mut slow = world.slow_client("slow", 4);
    let mut publisher = world.client("p");
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    fill(&world, &mut publisher, 0, 30).await;
    let mut refused = 0;
    world.server.rule(move |said| {
        let is_scan = said.subject.starts_with("$JS.API.CONSUMER.CREATE.MQTT_log.nmq-scan");
        let is_refused = refused < 2 && is_scan;
        refused += u32::from(is_refused);
        if is_refused { Fate::Refused(10008) } else { Fate::Taken }
    });
    assert_eq!(slow.receives(30).await, numbers(0, 30));
}

/// The scan has nothing for it any more, so it does not wait for what is not there.
#[tokio::test]
async fn who_is_owed_what_the_log_has_lost_is_live_again_without_it() {
    let world = World::start().await;
    let mut slow = world.slow_client("slow", 4);
    let mut publisher = world.client("p");
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    fill(&world, &mut publisher, 0, 20).await;
    // Its session ends with the connection, so nobody keeps for it what the log loses.
    world.server.discard(LOG, u64::MAX);
    assert_eq!(slow.receives(4).await, numbers(0, 4));
    until("it is live", || {
        assert!(slow.stored().is_empty());
        is_live(&slow).then_some(())
    })
    .await;
    fill(&world, &mut publisher, 20, 1).await;
    assert_eq!(slow.receives(1).await, numbers(20, 1));
}

/// What its log has lost is in its backlog: it is told where the log begins, and no scan skips what it is owed.
#[tokio::test]
async fn who_has_a_backlog_reads_it_before_the_log_goes_on() {
    let world = World::start().await;
    let mut slow = world.slow_client("slow", 4);
    let mut publisher = world.client("p");
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    slow.control.inbox().expect_backlog();
    fill(&world, &mut publisher, 0, 20).await;
    let first = world.server.messages(LOG)[10].0;
    world.server.discard(LOG, first);
    assert_eq!(slow.receives(4).await, numbers(0, 4));
    let next = until("it is told", || {
        let FeedState::Behind { next } = slow.control.inbox().with_feed(0, |feed| feed.state()) else { return None };
        slow.control.inbox().log_begins_above(next).map(|_| next)
    })
    .await;
    assert_eq!(slow.control.inbox().log_begins_above(next), Some(Sequence(first)));
    assert!(slow.stored().is_empty(), "nothing of what is behind the gap");
    // Its connection has read the backlog.
    slow.control.inbox().with_feed(0, |feed| feed.fall_behind(Sequence(first)));
    assert_eq!(slow.receives(10).await, numbers(10, 10));
}

#[tokio::test]
async fn a_session_that_ends_while_a_scan_waits_for_it_keeps_nobody() {
    let world = World::start().await;
    let (mut stuck, mut other) = (world.slow_client("stuck", 4), world.slow_client("other", 4));
    let mut publisher = world.client("p");
    for client in [&mut stuck, &mut other] {
        client.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    }
    fill(&world, &mut publisher, 0, 40).await;
    // It asks once, and takes nothing of what the scan brings.
    assert_eq!(stuck.stored().len(), 4);
    world.account.catch_up(Position::new(0, Sequence(5)), stuck.control.inbox());
    assert_eq!(other.receives(40).await, numbers(0, 40), "it waits for nobody");
    let filters = stuck.filters.iter().cloned();
    world.account.forget_subscriptions(&stuck.control, filters);
    assert!(stuck.control.inbox().is_closed());
    fill(&world, &mut publisher, 40, 1).await;
    assert_eq!(other.receives(1).await, numbers(40, 1));
}

/// What its log has lost while it is read: then a gap shows, and who has a backlog reads that first.
#[tokio::test]
async fn what_the_log_loses_under_a_scan_is_looked_for_in_the_backlog() {
    let world = World::start().await;
    let mut slow = world.slow_client("slow", 8);
    let mut publisher = world.client("p");
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    slow.control.inbox().expect_backlog();
    fill(&world, &mut publisher, 0, 30).await;
    // It learns where the log begins, and the log loses more before the scan reads it.
    let (me, mut is_first) = (world.server.clone(), true);
    world.server.rule(move |said| {
        if said.subject.starts_with("$JS.API.CONSUMER.CREATE.MQTT_log.nmq-scan") && std::mem::take(&mut is_first) {
            let me = me.clone();
            tokio::spawn(async move { me.discard(LOG, 20) });
            return Fate::Refused(10008);
        }
        Fate::Taken
    });
    assert_eq!(slow.receives(8).await, numbers(0, 8));
    let begins = until("it is told", || {
        let FeedState::Behind { next } = slow.control.inbox().with_feed(0, |feed| feed.state()) else { return None };
        slow.control.inbox().log_begins_above(next)
    })
    .await;
    assert_eq!(begins, Sequence(20));
    assert!(slow.stored().is_empty());
}

/// One whose client takes nothing keeps others waiting for a moment only.
#[tokio::test]
async fn who_takes_nothing_of_a_scan_gives_way_to_who_waits_for_one() {
    let world = World::start().await;
    let (mut stuck, mut other) = (world.slow_client("stuck", 4), world.slow_client("other", 4));
    let mut publisher = world.client("p");
    for client in [&mut stuck, &mut other] {
        client.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    }
    fill(&world, &mut publisher, 0, 20).await;
    assert_eq!(stuck.stored(), numbers(0, 4));
    let is_full = || stuck.control.inbox().with_feed(0, |feed| (!feed.has_room() && feed.is_scanned()).then_some(()));
    until("its scan waits for it", is_full).await;
    assert_eq!(other.receives(20).await, numbers(0, 20));
    assert_eq!(stuck.receives(16).await, numbers(4, 16), "and gets the rest when it takes it");
}

/// Whoever is behind in a stream that goes is live again, without what went.
#[tokio::test]
async fn who_is_behind_in_a_log_that_is_gone_waits_for_nothing() {
    let world = World::start().await;
    world.server.make_stream(serde_json::json!({ "name": "S", "subjects": ["a.>"], "retention": "limits" }));
    until("it is followed", || world.account.logs.is_captured("a.b").then_some(())).await;
    let mut slow = world.slow_client("slow", 4);
    slow.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    let number = world.account.logs.owner_of("a.b").number;
    for count in 0..20 {
        world.server.publish("a.b", &[], &count.to_string());
    }
    until("it is behind", || (!is_live(&slow)).then_some(())).await;
    world.server.rule(|said| {
        if said.subject.starts_with("$JS.API.CONSUMER.CREATE.S.nmq-scan") { Fate::Refused(10008) } else { Fate::Taken }
    });
    assert_eq!(slow.stored(), numbers(0, 4));
    world.server.delete_stream("S");
    until("it is let go", || (!world.account.logs.is_captured("a.b")).then_some(())).await;
    until("it is live", || {
        assert!(slow.stored().is_empty());
        is_live(&slow).then_some(())
    })
    .await;
    world.account.catch_up(Position::new(number, Sequence(1)), slow.control.inbox());
    assert!(is_live(&slow), "nobody asks for a log that is not there");
}
