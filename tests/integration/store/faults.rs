//! What must hold while nats-server is killed, restarted, or its streams are taken away.

use super::*;
use nats_mqtt::store::LogPosition;

/// Numbers in the order in which they first occur in the log.
async fn first_occurrences(store: &Store) -> Vec<u64> {
    let mut scan = store.log().scan(1);
    let mut seen = std::collections::HashSet::new();
    let mut order = Vec::new();
    let started = std::time::Instant::now();
    loop {
        let batch = match scan.next().await {
            Ok(batch) => batch,
            // A cluster that has just lost a server may not answer in time; the next call goes on from there.
            Err(error) => {
                assert!(started.elapsed() < PATIENCE, "{error}");
                continue;
            }
        };
        for entry in batch {
            if seen.insert(number(&entry.payload)) {
                order.push(number(&entry.payload));
            }
        }
        if scan.is_caught_up() {
            return order;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_under_load_loses_nothing_and_keeps_the_order() {
    const TOTAL: u64 = 60_000;
    let mut server = NatsServer::start();
    let store = Arc::new(open(&server).await);
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    let load = tokio::spawn({
        let (store, acks) = (store.clone(), acks.clone());
        async move { submit_numbers(&store, 0..TOTAL, &acks).await }
    });
    for at in [10_000, 25_000, 40_000] {
        acks.until("acks before a kill", |acks| acks.len() >= at).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
    }
    load.await.unwrap();
    acks.until("all acks", |acks| acks.len() as u64 == TOTAL).await;
    let order = first_occurrences(&store).await;
    assert!(order.is_sorted(), "a first occurrence is out of order");
    assert_eq!(order.len() as u64, TOTAL, "something is missing");
    assert!(acks.items.lock().iter().all(|(_, result)| result.is_ok()));

    // The tail has each sequence once, in order, through all of it.
    let last = store.log().last_sequence().await.unwrap();
    tailed.until("tail", |entries| entries.last().is_some_and(|entry| entry.sequence == last)).await;
    let sequences: Vec<u64> = tailed.items.lock().iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_restart_is_survived_by_publisher_tail_and_scan() {
    let mut server = NatsServer::start();
    let store = open(&server).await;
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    let mut scan = store.log().scan(1);
    submit_numbers(&store, 0..100, &acks).await;
    acks.until("acks", |acks| acks.len() == 100).await;
    let mut scanned = scan.next().await.unwrap().len();
    tokio::task::block_in_place(|| server.stop());
    let mut connected = store.connected();
    tokio::time::timeout(PATIENCE, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    submit_numbers(&store, 100..200, &acks).await;
    tokio::task::block_in_place(|| server.restart());
    acks.until("acks", |acks| acks.len() == 200).await;
    tailed.until("tail", |entries| entries.len() == 200).await;
    while scanned < 200 {
        match scan.next().await {
            Ok(batch) => scanned += batch.len(),
            Err(error) => eprintln!("{error}"),
        }
    }
    assert!(acks.items.lock().iter().all(|(_, result)| result.is_ok()));
    let numbers: Vec<u64> = tailed.items.lock().iter().map(|entry| number(&entry.payload)).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_puts_fail_after_their_timeout_and_qos_0_is_dropped_at_once() {
    let mut server = NatsServer::start();
    let mut impatient = options(&server);
    impatient.publisher.put_timeout = Duration::from_secs(1);
    let store = Store::open(impatient, Collected::new()).await.unwrap();
    tokio::task::block_in_place(|| server.kill());
    let mut connected = store.connected();
    tokio::time::timeout(PATIENCE, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    let result = store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), "1".into(), None).await;
    assert_eq!(result, Err(PutError::Unavailable));
    assert!(store.core().publish(&"a.b".into(), None, &Vec::new(), "1".into()).is_err());
    assert_eq!(store.core().dropped(), 1);
    assert!(store.log().last_sequence().await.is_err());
    assert!(store.retained().bring_up_to_date().await.is_err());
    tokio::task::block_in_place(|| server.restart());
    loop {
        // It may take an attempt that is refused, or two.
        if store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), "2".into(), None).await.is_ok() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_under_us_is_made_again_and_read_from_its_start() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    submit_numbers(&store, 0..10, &acks).await;
    tailed.until("tail", |entries| entries.len() == 10).await;
    let client = plain(&server).await;
    api(&client, "STREAM.DELETE.MQTT_log", "").await;
    submit_numbers(&store, 10..20, &acks).await;
    acks.until("acks", |acks| acks.len() == 20).await;
    tailed.until("tail", |entries| entries.len() == 20).await;
    let entries = tailed.items.lock();
    assert_eq!(entries.iter().map(|entry| number(&entry.payload)).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(entries[10].sequence, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_or_a_deleted_consumer_does_not_stop_the_tail() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    submit_numbers(&store, 0..10, &acks).await;
    tailed.until("tail", |entries| entries.len() == 10).await;
    let client = plain(&server).await;
    api(&client, "STREAM.PURGE.MQTT_log", "").await;
    submit_numbers(&store, 10..20, &acks).await;
    tailed.until("tail", |entries| entries.len() == 20).await;
    let consumers = api(&client, "CONSUMER.NAMES.MQTT_log", "").await;
    let consumers = consumers["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), 1, "one reader per log");
    api(&client, &format!("CONSUMER.DELETE.MQTT_log.{}", consumers[0].as_str().unwrap()), "").await;
    submit_numbers(&store, 20..30, &acks).await;
    tailed.until("tail", |entries| entries.len() == 30).await;
    let sequences: Vec<u64> = tailed.items.lock().iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=30).collect::<Vec<u64>>());
}

/// Whoever publishes such a message must not stop the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_headers_that_are_not_utf_8_does_not_stop_the_tail() {
    use std::io::{Read, Write};
    let server = NatsServer::start();
    let store = open(&server).await;
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    submit_numbers(&store, 0..10, &acks).await;
    acks.until("acks", |acks| acks.len() == 10).await;
    tokio::task::block_in_place(|| {
        let mut socket = std::net::TcpStream::connect(server.url().trim_start_matches("nats://")).unwrap();
        let block = b"NATS/1.0\r\nMy Key: caf\xe9\r\n\r\n";
        let mut text = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
        text.extend(format!("HPUB $NMQ.log.a.b {} {}\r\n", block.len(), block.len() + 2).bytes());
        text.extend(block);
        text.extend(b"10\r\nPING\r\n");
        socket.write_all(&text).unwrap();
        let mut seen: Vec<u8> = Vec::new();
        while !seen.windows(4).any(|window| window == b"PONG") {
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).unwrap();
            seen.extend(&buffer[..read]);
        }
    });
    submit_numbers(&store, 11..20, &acks).await;
    tailed.until("tail", |entries| entries.len() == 20).await;
    let entries = tailed.items.lock();
    assert_eq!(entries.iter().map(|entry| number(&entry.payload)).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(entries[10].headers, Some(vec![("My Key".into(), "caf\u{fffd}".into())]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_gets_three_replicas_and_loses_nothing_when_its_leader_is_killed() {
    const TOTAL: u64 = 30_000;
    let mut servers = NatsServer::start_cluster(3);
    let mut options = options(&servers[0]);
    options.nats.urls = servers.iter().map(NatsServer::url).collect();
    let store = Arc::new(Store::open(options, Collected::new()).await.unwrap());
    let (acks, tailed) = (Collected::new(), Collected::new());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    let load = tokio::spawn({
        let (store, acks) = (store.clone(), acks.clone());
        async move { submit_numbers(&store, 0..TOTAL, &acks).await }
    });
    acks.until("acks before the kill", |acks| acks.len() >= 5_000).await;
    let client = plain(&servers[0]).await;
    let info = api(&client, "STREAM.INFO.MQTT_log", "").await;
    assert_eq!(info["config"]["num_replicas"], 3);
    let leader: usize = info["cluster"]["leader"].as_str().unwrap().trim_start_matches('n').parse().unwrap();
    tokio::task::block_in_place(|| servers[leader].kill());
    acks.until("acks without it", |acks| acks.len() >= 15_000).await;
    tokio::task::block_in_place(|| servers[leader].restart());
    load.await.unwrap();
    acks.until("all acks", |acks| acks.len() as u64 == TOTAL).await;
    assert!(acks.items.lock().iter().all(|(_, result)| result.is_ok()));
    let order = first_occurrences(&store).await;
    assert_eq!(order.len() as u64, TOTAL, "something is missing");
    let late = order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    println!("{late} first occurrences behind their successor");
    let last = store.log().last_sequence().await.unwrap();
    tailed.until("tail", |entries| entries.last().is_some_and(|entry| entry.sequence == last)).await;
    let sequences: Vec<u64> = tailed.items.lock().iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_six_connections_however_often_they_were_lost() {
    let mut server = NatsServer::start();
    let store = open(&server).await;
    for round in 0..4 {
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
        let target = PutTarget::Log(log_subject("a"));
        let stored = store.publisher().put(target, Vec::new(), round.to_string().into(), None).await.unwrap();
        assert!(stored.sequence > round, "stored anew");
        store.retained().bring_up_to_date().await.ok();
    }
    let expected = [
        "nats-mqtt-api",
        "nats-mqtt-core",
        "nats-mqtt-publish",
        "nats-mqtt-share",
        "nats-mqtt-state",
        "nats-mqtt-tail",
    ];
    let started = std::time::Instant::now();
    // The slower ones come back within a second; one too many would stay.
    while server.connection_names().len() < expected.len() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.connection_names(), expected);
}
