//! What is stored of sessions and nodes, without MQTT, beyond what every store promises (`store_contract`): whoever ends leaves an
//! event, and a server that is killed loses and repeats nothing.

mod account_jwts;
mod cluster;
mod pages;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use nats_mqtt::store::{
    AssetOptions, Beside, CoreLimits, CoreMessage, CoreSink, FollowFrom, Gone, InFlightRecord, InFlightRecordState,
    LeaseState, LeaseTimes, Loaded, NatsOptions, NodeInfo, NodesSink, PageRecord, ProgressRecord, PublisherLimits,
    PutTarget, SessionRecord, Sessions, SessionsSink, Store, StoreOptions, StoredSubscription, WriteError,
};
use proto_map::{Names, SpecOptions, Subject};
use serde_json::json;
use tokio::sync::mpsc;

use crate::harness::relay::Relay;
use crate::harness::{NatsServer, PATIENCE, eventually, heavy, js_api, stored};

/// Nobody subscribes here.
struct Deaf;

impl CoreSink for Deaf {
    fn message(&self, _subscription_id: u64, _message: CoreMessage) {}
    fn flush(&self) {}
}

pub(crate) async fn open(url: String) -> Store {
    open_with(url, 1).await
}

async fn open_with(url: String, replicas: u8) -> Store {
    Store::open(options(url, replicas), Arc::new(Deaf)).await.expect("open the store")
}

fn options(url: String, replicas: u8) -> StoreOptions {
    let specs = SpecOptions { log_max_bytes: 1 << 30, ..SpecOptions::default() };
    StoreOptions {
        nats: NatsOptions { urls: vec![url], ..NatsOptions::default() },
        assets: AssetOptions { names: Names::default(), specs, declared: Vec::new(), replicas: Some(replicas) },
        publisher: PublisherLimits::default(),
        core: CoreLimits::default(),
        connect_timeout: Some(PATIENCE),
    }
}

fn record(client_id: &str, epoch: u64) -> SessionRecord {
    let subscription = StoredSubscription { filter: format!("devices/{client_id}/#"), qos: 1, ..Default::default() };
    SessionRecord {
        client_id: client_id.to_owned(),
        epoch,
        owner: Some("node-a".to_owned()),
        connected: true,
        protocol: "5.0".to_owned(),
        subscriptions: vec![subscription],
        ..SessionRecord::default()
    }
}

fn progress(epoch: u64, cursor: u64) -> ProgressRecord {
    let in_flight = InFlightRecord {
        packet_id: 5,
        sequence: cursor,
        log: None,
        qos: 2,
        ack: None,
        subscription: None,
        state: InFlightRecordState::Released,
    };
    ProgressRecord { epoch, cursor, in_flight: vec![in_flight], ..ProgressRecord::default() }
}

/// What a follower of sessions was told, as text.
struct SessionEvents(mpsc::UnboundedSender<String>);

impl SessionsSink for SessionEvents {
    fn record(&self, _sequence: u64, record: SessionRecord) {
        let _ = self.0.send(format!("{} {}", record.client_id, record.epoch));
    }

    fn page(&self, _sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord) {
        let _ = self.0.send(format!("{client_id} {first_epoch}/{number} {}", page.subscriptions.len()));
    }

    fn gone(&self, client_id: &str, _sequence: u64, why: Gone) {
        let _ = self.0.send(format!("{client_id} {why:?}"));
    }

    fn caught_up(&self) {
        let _ = self.0.send("caught up".to_owned());
    }
}

/// What a follower of nodes was told, as text.
struct NodeEvents(mpsc::UnboundedSender<String>);

/// Every session.
async fn all(sessions: &Sessions) -> Vec<(u64, SessionRecord)> {
    let (mut scan, mut all) = (sessions.scan(), Vec::new());
    while let Some(records) = scan.next().await.unwrap() {
        all.extend(records);
    }
    all
}

impl NodesSink for NodeEvents {
    fn alive(&self, node: &NodeInfo) {
        let _ = self.0.send(format!("{} alive", node.node));
    }

    fn gone(&self, node: &str) {
        let _ = self.0.send(format!("{node} gone"));
    }
}

async fn next(events: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the sink lives")
}

/// Short enough for tests, in the same proportions.
pub(crate) const TIMES: LeaseTimes = LeaseTimes {
    ttl_s: 3,
    refresh_every: Duration::from_millis(1_000),
    fence_after: Duration::from_millis(2_000),
    give_up_after: Duration::from_secs(10),
    settle: Duration::from_millis(1_000),
};

async fn becomes(mut state: tokio::sync::watch::Receiver<LeaseState>, wanted: LeaseState) -> Duration {
    let since = Instant::now();
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == wanted)).await;
    waited.expect("in time").expect("the lease lives");
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_leaves_nothing_but_an_event() {
    let nats = NatsServer::start();
    let client = nats.client().await;
    let store = open(nats.url()).await;
    let backlog = Names::default().backlog_spec(&SpecOptions { replicas: 1, ..SpecOptions::default() });
    js_api(&client, &format!("STREAM.CREATE.{}", backlog.name), &backlog.to_json()).await;
    let backlogged = async |id: &str| {
        let subject = Names::default().backlog_subject(id).unwrap().to_string();
        client.request(subject, "owed".into()).await.unwrap();
    };
    let (tx, mut events) = mpsc::unbounded_channel();
    let _following = store.sessions().follow(FollowFrom::Everything, Arc::new(SessionEvents(tx)));
    assert_eq!(next(&mut events).await, "caught up");

    let sessions = store.sessions();
    let fence = sessions.put_record(&record("ends", 1), 0, None).await.unwrap();
    sessions.put_progress("ends", &progress(1, 7), fence, None).await.unwrap();
    backlogged("ends").await;
    backlogged("stays").await;
    sessions.end("ends", fence, Beside::Nothing).await.unwrap();
    // A bucket keeps the last message of a key, so what was before it may not be seen.
    while next(&mut events).await != "ends Cleaned" {}
    let after = sessions.load("ends").await.unwrap();
    assert_eq!(after.record, None);
    assert!(after.sequence > fence);
    assert_eq!(sessions.load_progress("ends").await.unwrap(), None);
    assert_eq!(stored(&client, &backlog.name, "").await, 1, "the backlog of another session stays");
    assert_eq!(sessions.put_progress("ends", &progress(1, 8), fence, None).await, Err(WriteError::Fenced));
    sessions.clean_up("ends").await.unwrap();

    // The next session begins behind the marker; cleaning up late does not touch it.
    let fence = sessions.put_record(&record("ends", 2), after.sequence, None).await.unwrap();
    sessions.put_progress("ends", &progress(2, 9), fence, None).await.unwrap();
    sessions.clean_up("ends").await.unwrap();
    assert_eq!(sessions.load_progress("ends").await.unwrap(), Some(progress(2, 9)));
    assert_eq!(next(&mut events).await, "ends 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_expires_is_seen_and_cleaned_up() {
    let nats = NatsServer::start();
    let client = nats.client().await;
    let store = open(nats.url()).await;
    let sessions = store.sessions();
    let (tx, mut events) = mpsc::unbounded_channel();
    let _following = sessions.follow(FollowFrom::Now, Arc::new(SessionEvents(tx)));
    assert_eq!(next(&mut events).await, "caught up");
    let fence = sessions.put_record(&record("short", 1), 0, Some(1)).await.unwrap();
    sessions.put_progress("short", &progress(1, 7), fence, None).await.unwrap();
    assert_eq!(next(&mut events).await, "short 1");
    assert_eq!(next(&mut events).await, "short Expired");
    let loaded = sessions.load("short").await.unwrap();
    assert_eq!(loaded.record, None);
    assert!(loaded.sequence > fence, "the marker's sequence");
    assert_eq!(sessions.put_progress("short", &progress(1, 8), fence, None).await, Err(WriteError::Fenced));
    assert!(sessions.load_progress("short").await.unwrap().is_some());
    sessions.clean_up("short").await.unwrap();
    sessions.clean_up("short").await.unwrap();
    assert_eq!(sessions.load_progress("short").await.unwrap(), None);
    assert_eq!(next(&mut events).await, "short Cleaned");
    let loaded = sessions.load("short").await.unwrap();
    sessions.put_record(&record("short", 2), loaded.sequence, None).await.unwrap();

    // By hand, as an operator does; and what cannot be read is no session.
    client.publish("$KV.MQTT_sessions.odd", "not json".into()).await.unwrap();
    eventually("the odd record is there", async || sessions.load("odd").await.unwrap().sequence > 0).await;
    let odd = sessions.load("odd").await.unwrap();
    assert_eq!(odd.record, None);
    sessions.put_record(&record("odd", 1), odd.sequence, None).await.unwrap();
    let ids: HashSet<String> = all(sessions).await.into_iter().map(|(_, record)| record.client_id).collect();
    assert_eq!(ids, HashSet::from(["short".to_owned(), "odd".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_record_is_the_last_one_is_told_by_a_comparison_that_changes_nothing() {
    let nats = NatsServer::start();
    let store = open(nats.url()).await;
    let sessions = store.sessions();
    assert_eq!(sessions.is_last("x", 0).await, Ok(true), "there is none");
    let first = sessions.put_record(&record("x", 1), 0, None).await.unwrap();
    assert_eq!(sessions.is_last("x", 0).await, Ok(false));
    assert_eq!(sessions.is_last("x", first).await, Ok(true));
    assert_eq!(sessions.is_last("x", first).await, Ok(true), "it can be asked again");
    let second = sessions.put_record(&record("x", 2), first, None).await.expect("nothing has changed");
    assert_eq!(sessions.is_last("x", first).await, Ok(false), "somebody has written since");
    assert_eq!(
        sessions.load("x").await.unwrap(),
        Loaded { record: Some(record("x", 2)), sequence: second, newer: None }
    );
    let all = sessions.states().await.unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_among_writes_loses_none_and_repeats_none() {
    let mut nats = NatsServer::start();
    let store = open(nats.url()).await;
    for round in 1..=3_u64 {
        let puts: Vec<_> = (0..400)
            .map(|number| {
                let sessions = store.sessions().clone();
                tokio::spawn(async move {
                    let id = format!("c{number}");
                    let loaded = sessions.load(&id).await.unwrap();
                    let fence = sessions.put_record(&record(&id, round), loaded.sequence, None).await.unwrap();
                    sessions.put_progress(&id, &progress(round, 1), fence, None).await.unwrap();
                    (id, fence)
                })
            })
            .collect();
        // Somewhere among them, earlier in each round.
        tokio::time::sleep(Duration::from_millis(24 / round)).await;
        nats.kill();
        nats.restart();
        for put in puts {
            let (id, fence) = put.await.unwrap();
            let expected = Loaded { record: Some(record(&id, round)), sequence: fence, newer: None };
            assert_eq!(store.sessions().load(&id).await.unwrap(), expected, "{id} in round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_are_written_beside_each_other() {
    const COUNT: u32 = 5_000;
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let store = open(nats.url()).await;
    let rate =
        |what: &str, since: Instant| println!("{what}: {:.0}/s", f64::from(COUNT) / since.elapsed().as_secs_f64());
    let ids: Arc<Vec<String>> = Arc::new((0..COUNT).map(|number| format!("device-{number}")).collect());

    let since = Instant::now();
    let connects = (0..COUNT as usize).map(|number| {
        let (sessions, ids) = (store.sessions().clone(), Arc::clone(&ids));
        tokio::spawn(async move {
            let loaded = sessions.load(&ids[number]).await.unwrap();
            sessions.put_record(&record(&ids[number], 1), loaded.sequence, None).await.unwrap()
        })
    });
    let fences: Vec<u64> = join_all(connects).await.into_iter().map(|fence| fence.unwrap()).collect();
    rate("load and put_record", since);

    let since = Instant::now();
    let puts = ids.iter().zip(&fences).map(|(id, fence)| store.sessions().put_record(record_of(id), *fence, None));
    let fences: Vec<u64> = join_all(puts).await.into_iter().map(|fence| fence.unwrap()).collect();
    rate("put_record", since);

    let since = Instant::now();
    let body = progress(1, 7);
    let puts = ids.iter().zip(&fences).map(|(id, fence)| store.sessions().put_progress(id, &body, *fence, None));
    assert!(join_all(puts).await.into_iter().all(|put| put.is_ok()));
    rate("put_progress", since);

    let since = Instant::now();
    assert_eq!(all(store.sessions()).await.len(), COUNT as usize);
    rate("all", since);

    let since = Instant::now();
    let ends = ids.iter().zip(&fences).map(|(id, fence)| store.sessions().end(id, *fence, Beside::Nothing));
    assert!(join_all(ends).await.into_iter().all(|end| end.is_ok()));
    rate("end", since);
    assert!(all(store.sessions()).await.is_empty());
}

fn record_of(id: &str) -> &'static SessionRecord {
    Box::leak(Box::new(record(id, 2)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_gone_for_the_others() {
    let nats = NatsServer::start();
    let (a, b) = (open(nats.url()).await, open(nats.url()).await);
    let (a, b) = (a.nodes().with_times(TIMES), b.nodes().with_times(TIMES));
    let (tx, mut events) = mpsc::unbounded_channel();
    let follower = b.follow(Arc::new(NodeEvents(tx)));
    let lease = a.acquire("node-a", vec!["10.0.0.1:1883".to_owned()]).await.unwrap();
    assert_eq!(next(&mut events).await, "node-a alive");
    assert!(b.is_alive("node-a").await.unwrap());
    assert!(!b.is_alive("node-b").await.unwrap());
    assert_eq!(b.alive().await.unwrap(), [lease.info().clone()]);

    // Longer than it lives without refreshes.
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    assert_eq!(*lease.state().borrow(), LeaseState::Held { gaps: 0 });
    assert!(events.try_recv().is_err());

    drop(lease);
    let since = Instant::now();
    assert_eq!(next(&mut events).await, "node-a gone");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(!b.is_alive("node-a").await.unwrap());
    assert!(follower.alive().borrow().nodes.is_empty());

    // Again, and a clean end; one who comes later still learns of it.
    let lease = a.acquire("node-a", Vec::new()).await.unwrap();
    assert_eq!(next(&mut events).await, "node-a alive");
    lease.release().await;
    assert_eq!(next(&mut events).await, "node-a gone");
    let (tx, mut late) = mpsc::unbounded_channel();
    let follower = a.follow(Arc::new(NodeEvents(tx)));
    assert_eq!(next(&mut late).await, "node-a gone");
    let mut alive = follower.alive();
    alive.wait_for(|alive| alive.is_complete).await.unwrap();
    assert!(b.alive().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_in_doubt_before_the_others_can_see_it_gone_and_takes_its_lease_again() {
    let mut nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let (near, far) = (open(nats.url()).await, open(relay.url()).await);
    let (tx, mut events) = mpsc::unbounded_channel();
    let _follower = near.nodes().follow(Arc::new(NodeEvents(tx)));
    let lease = far.nodes().with_times(TIMES).acquire("far", Vec::new()).await.unwrap();
    assert_eq!(next(&mut events).await, "far alive");
    // Refreshes arrive, acknowledgements do not: the lease lives, and the holder cannot know.
    relay.mute(true);
    let doubted = becomes(lease.state(), LeaseState::InDoubt).await;
    assert!(doubted <= TIMES.fence_after + Duration::from_millis(500), "{doubted:?}");
    assert!(near.nodes().is_alive("far").await.unwrap());
    assert!(!near.nodes().is_gone("far").await.unwrap());
    assert_eq!(next(&mut events).await, "far gone");
    assert!(near.nodes().is_gone("far").await.unwrap());
    relay.cut();
    becomes(lease.state(), LeaseState::Held { gaps: 1 }).await;
    assert_eq!(next(&mut events).await, "far alive");
    assert!(!near.nodes().is_gone("far").await.unwrap());
    drop(lease);
    assert_eq!(next(&mut events).await, "far gone");

    // The server is away for a moment that a lease survives, and then for longer.
    let lease = near.nodes().with_times(TIMES).acquire("near", Vec::new()).await.unwrap();
    nats.kill();
    nats.restart();
    tokio::time::sleep(TIMES.fence_after + Duration::from_millis(500)).await;
    assert_eq!(*lease.state().borrow(), LeaseState::Held { gaps: 0 });
    nats.kill();
    becomes(lease.state(), LeaseState::InDoubt).await;
    becomes(lease.state(), LeaseState::Lost).await;
    nats.restart();
    eventually("it takes its lease again", async || near.nodes().acquire("near", Vec::new()).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_candidate_leads_and_another_follows_it() {
    let nats = NatsServer::start();
    let (a, b) = (open(nats.url()).await, open(nats.url()).await);
    let candidacy = |store: &Store| store.nodes().with_times(TIMES).campaign("backlog");
    let leads = async |candidacy: &nats_mqtt::store::Candidacy| {
        let mut term = candidacy.term();
        let term = tokio::time::timeout(PATIENCE, term.wait_for(Option::is_some)).await;
        term.expect("elected in time").unwrap().unwrap()
    };
    let first = candidacy(&a);
    let first_term = leads(&first).await;
    let second = candidacy(&b);
    // Another election is another matter, and no node.
    let other = b.nodes().with_times(TIMES).campaign("sweep");
    leads(&other).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(*second.term().borrow(), None);
    assert_eq!(*first.term().borrow(), Some(first_term));
    assert!(a.nodes().alive().await.unwrap().is_empty());

    drop(first);
    let second_term = leads(&second).await;
    assert!(second_term > first_term);
    let third = candidacy(&a);
    let since = Instant::now();
    second.resign().await;
    assert!(leads(&third).await > second_term);
    assert!(since.elapsed() < Duration::from_secs(2), "a lead that is given up is taken at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_log_are_found_by_sequence_and_by_id() {
    let nats = NatsServer::start();
    let client = nats.client().await;
    let store = open(nats.url()).await;
    let names = Names::default();
    let subject = |text: &str| names.log_subject(&Subject::new(text).unwrap());
    let put = async |at: &str, id: String| {
        let headers = vec![(ByteString::from_static("Nats-Msg-Id"), ByteString::from(id))];
        let target = PutTarget::Log(subject(at));
        store.publisher().put(target, headers, Bytes::from_static(b"x"), None).await.unwrap().sequence
    };
    let mut sequences = Vec::new();
    for number in 0..300 {
        sequences.push(put("busy", format!("c.1.{number}")).await);
        put("quiet", format!("q.1.{number}")).await;
    }
    let log = store.log();
    let quiet = subject("quiet");
    let busy = subject("busy");
    for number in [0, 1, 40, 299] {
        let found = log.find(&busy, 0, &format!("c.1.{number}")).await.unwrap();
        assert_eq!(found, Some(sequences[number]), "{number}");
    }
    assert_eq!(log.find(&busy, sequences[7], "c.1.7").await.unwrap(), None, "it is not above itself");
    assert_eq!(log.find(&busy, sequences[6], "c.1.7").await.unwrap(), Some(sequences[7]));
    assert_eq!(log.find(&quiet, 0, "c.1.7").await.unwrap(), None, "another subject");
    let last = *sequences.last().unwrap();
    assert_eq!(log.find(&busy, last, "c.1.7").await.unwrap(), None, "nothing is above the last one");
    // We would not ask above a place that is not there: who has not got so far cannot know.
    assert!(log.find(&busy, 1_000_000, "c.1.7").await.is_err());
    let odd = subject("a.\"b\"");
    assert_eq!(log.find(&odd, 0, "c.1.7").await.unwrap(), None);

    js_api(&client, "STREAM.MSG.DELETE.MQTT_log", &json!({ "seq": sequences[1], "no_erase": true })).await;
    assert_eq!(log.get(sequences[1]).await.unwrap(), None);
    assert!(log.get(1_000_000).await.is_err(), "a leader that has not got so far cannot know");
    assert_eq!(log.get(sequences[2]).await.unwrap().unwrap().subject(), "busy");
    let since = Instant::now();
    let got: Vec<u64> = log.get_many(&sequences).await.unwrap().iter().map(|entry| entry.sequence).collect();
    println!("get_many of {}: {:?}", sequences.len(), since.elapsed());
    sequences.remove(1);
    assert_eq!(got, sequences);
}
