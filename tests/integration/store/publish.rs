//! The publisher and the readers while nothing breaks.

use super::*;
use nats_mqtt::store::LogPosition;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_pipelined_messages_are_stored_and_tailed_in_order() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let (acks, tailed) = (Collected::new(), Collected::new());
    let tail = store.log().tail(LogPosition::New, tailed.clone()).await.unwrap();
    assert_eq!(tail.start_position(), 1);
    submit_numbers(&store, 0..50_000, &acks).await;
    acks.until("acks", |acks| acks.len() == 50_000).await;
    tailed.until("tail", |entries| entries.len() == 50_000).await;
    for (expected, (token, result)) in acks.items.lock().iter().enumerate() {
        assert_eq!(*token, expected as u64);
        assert_eq!(result.as_ref().unwrap().sequence, expected as u64 + 1);
    }
    for (expected, entry) in tailed.items.lock().iter().enumerate() {
        assert_eq!(entry.sequence, expected as u64 + 1);
        assert_eq!(number(&entry.payload), expected as u64);
        assert_eq!(entry.subject(), "a.b");
    }
    store.publisher().drain().await;
    assert_eq!(store.publisher().in_flight(), 0);
    assert_eq!(store.log().last_sequence().await.unwrap(), 50_000);
    assert!(*store.jetstream_available().borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_time_to_live_and_payload_come_back_as_they_went_in() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let headers = vec![("Mqtt-QoS".into(), "2".into()), ("Key".into(), "a".into()), ("Key".into(), "b ü".into())];
    let payload = Bytes::from_static(b"\x00\xff\r\n");
    let target = PutTarget::Log(log_subject("x./.y"));
    let stored = store.publisher().put(target, headers.clone(), payload.clone(), Some(60)).await.unwrap();
    let mut scan = store.log().scan(stored.sequence);
    let entry = scan.next().await.unwrap().remove(0);
    let mut found = entry.headers.clone().unwrap();
    // Which write it was.
    found.retain(|(name, _)| name != "Mqtt-Write");
    found.sort();
    let mut expected = headers;
    expected.push(("Nats-TTL".into(), "60".into()));
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!((entry.payload.clone(), entry.subject()), (payload, "x./.y"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(now.abs_diff(entry.stored_at_ms) < 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_starts_where_it_is_told_and_says_when_it_is_at_the_end() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let mut empty = store.log().scan(1);
    assert!(empty.next().await.unwrap().is_empty());
    assert!(empty.is_caught_up());
    let acks = Collected::new();
    submit_numbers(&store, 0..5_000, &acks).await;
    acks.until("acks", |acks| acks.len() == 5_000).await;
    let mut scan = store.log().scan(4_001);
    let mut sequences = Vec::new();
    while !scan.is_caught_up() {
        sequences.extend(scan.next().await.unwrap().iter().map(|entry| entry.sequence));
    }
    assert_eq!(sequences, (4_001..=5_000).collect::<Vec<u64>>());
    assert_eq!(scan.position(), 5_001);
    submit_numbers(&store, 0..1, &acks).await;
    let more = loop {
        let batch = scan.next().await.unwrap();
        if !batch.is_empty() {
            break batch;
        }
    };
    assert_eq!(more[0].sequence, 5_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_jetstream_are_told_apart() {
    let server = NatsServer::start();
    let mut with_short_timeout = options(&server);
    with_short_timeout.publisher.put_timeout = Duration::from_millis(500);
    let store = Store::open(with_short_timeout, Collected::new()).await.unwrap();
    let client = plain(&server).await;
    api(&client, "STREAM.CREATE.FULL", r#"{"name":"FULL","subjects":["full"],"max_msgs":1,"discard":"new"}"#).await;
    api(&client, "STREAM.CREATE.SMALL", r#"{"name":"SMALL","subjects":["small"],"max_msg_size":10}"#).await;
    let put = |stream: &'static str, subject: &'static str, size: usize| {
        let target = PutTarget::Attached { stream: stream.into(), subject: subject.into() };
        store.publisher().put(target, Vec::new(), vec![b'x'; size].into(), None)
    };
    assert_eq!(put("FULL", "full", 1).await.unwrap().sequence, 1);
    assert!(matches!(put("FULL", "full", 1).await, Err(PutError::Full { .. })));
    assert_eq!(put("SMALL", "small", 100).await, Err(PutError::TooLarge));
    assert_eq!(put("SMALL", "small", store.server_max_payload() + 1).await, Err(PutError::TooLarge));
    assert_eq!(put("NONE", "none", 1).await, Err(PutError::NoStream));
    assert!(matches!(put("FULL", "with space", 1).await, Err(PutError::Invalid { .. })));
    assert!(matches!(
        store
            .publisher()
            .put(PutTarget::Log(log_subject("a")), vec![("A".into(), "1\r\nB: 2".into())], Bytes::new(), None)
            .await,
        Err(PutError::Invalid { .. })
    ));
    // The log was not held up by any of that.
    store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), Bytes::new(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_an_acknowledgement_of_the_stream_does_not_count() {
    use futures_util::StreamExt;
    let server = NatsServer::start();
    let store = open(&server).await;
    let client = plain(&server).await;
    api(&client, "STREAM.CREATE.ORDERS", r#"{"name":"ORDERS","subjects":["orders"]}"#).await;
    // A service on the same subject answers faster than JetStream.
    let mut requests = client.subscribe("orders").await.unwrap();
    client.flush().await.unwrap();
    let service = client.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                service.publish(reply.clone(), "{\"stream\":\"OTHER\",\"seq\":77}".into()).await.unwrap();
                service.publish(reply, "thanks".into()).await.unwrap();
            }
        }
    });
    for expected in 1..=20 {
        let target = PutTarget::Attached { stream: "ORDERS".into(), subject: "orders".into() };
        let stored = store.publisher().put(target, Vec::new(), "1".into(), None).await.unwrap();
        assert_eq!(stored.sequence, expected);
    }
}
