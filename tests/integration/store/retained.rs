//! Retained messages: complete after restarts, fresh when asked, readable as a bucket.

use super::*;
use crate::harness::eventually;
use mqtt_codec::{TopicFilter, TopicName};
use nats_mqtt::store::{IndexState, RetainedSearch};

fn all(store: &Store, filter: &str) -> Vec<(String, Bytes)> {
    let filter = TopicFilter::new(filter.to_owned()).unwrap();
    let mut search = RetainedSearch::new(&filter, None, IndexState::up_to(u64::MAX));
    let page = store.retained().index().search(&mut search, usize::MAX, &mut usize::MAX.clone(), 0);
    page.iter().map(|entry| (entry.topic.as_str().to_owned(), entry.message.payload.clone())).collect()
}

async fn retain(store: &Store, natural: &str, payload: &str) -> Stored {
    let target = PutTarget::Retained { subject: retained_subject(natural), delete: payload.is_empty() };
    store.publisher().put(target, Vec::new(), payload.to_owned().into(), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_retained_messages_are_all_there_after_restarts_of_server_and_sidecar() {
    let mut server = NatsServer::start();
    {
        let store = open(&server).await;
        let acks = Collected::new();
        for token in 0..5_000_u64 {
            let permit = store.publisher().permit(10).await;
            let target =
                PutTarget::Retained { subject: retained_subject(&format!("devices.{token}.state")), delete: false };
            let payload = token.to_string().into();
            let put = Put {
                target,
                headers: Vec::new(),
                payload,
                ttl_s: None,
                expected_last: None,
                guard: None,
                sink: acks.clone(),
                token,
            };
            store.publisher().submit(permit, put);
        }
        acks.until("acks", |acks| acks.len() == 5_000).await;
        store.retained().bring_up_to_date().await.unwrap();
        assert_eq!(store.retained().index().len(), 5_000);
    }
    for round in 0..5 {
        tokio::task::block_in_place(|| {
            if round % 2 == 0 {
                server.kill()
            } else {
                server.stop()
            }
            server.restart();
        });
        let store = open(&server).await;
        store.retained().bring_up_to_date().await.unwrap();
        assert_eq!(all(&store, "#").len(), 5_000, "round {round}");
        assert_eq!(all(&store, "devices/17/state"), [("devices/17/state".to_owned(), Bytes::from("17"))]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_store_has_stored_another_one_shows_as_soon_as_it_is_asked() {
    let server = NatsServer::start();
    // Both at once: who creates the streams is a race.
    let (a, b) = tokio::join!(open(&server), open(&server));
    for round in 0..200 {
        let topic = format!("t.{}", round % 7);
        retain(&a, &topic, &format!("{round}")).await;
        b.retained().bring_up_to_date().await.unwrap();
        let found = all(&b, &topic.replace('.', "/"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, Bytes::from(round.to_string()));
    }
    retain(&a, "t.3", "").await;
    b.retained().bring_up_to_date().await.unwrap();
    assert!(all(&b, "t/3").is_empty());
    assert_eq!(all(&b, "t/#").len(), 6);
    let state = b.retained().index().state();
    assert_eq!(state.applied, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_share_the_question() {
    let server = NatsServer::start();
    let store = open(&server).await;
    retain(&store, "a", "1").await;
    let client = plain(&server).await;
    let before = api(&client, "INFO", "").await["api"]["total"].as_u64().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let retained = store.retained().clone();
        waiting.spawn(async move { retained.bring_up_to_date().await });
    }
    while let Some(result) = waiting.join_next().await {
        result.unwrap().unwrap();
    }
    let after = api(&client, "INFO", "").await["api"]["total"].as_u64().unwrap();
    assert!(after - before < 50, "{} requests for 500 questions", after - before);
    assert_eq!(all(&store, "a").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_and_expiries_that_nobody_saw_are_noticed_after_a_restart() {
    let mut server = NatsServer::start();
    let store = open(&server).await;
    for topic in ["keep", "deleted", "purged"] {
        retain(&store, topic, "x").await;
    }
    store.retained().bring_up_to_date().await.unwrap();
    let client = plain(&server).await;
    // Without a marker: no reader is told.
    api(&client, "STREAM.PURGE.KV_MQTT_retained", r#"{"filter":"$KV.MQTT_retained.purged"}"#).await;
    tokio::task::block_in_place(|| {
        server.stop();
        server.restart();
    });
    retain(&store, "deleted", "").await;
    // Its connections come back one by one.
    eventually("it is up to date", async || store.retained().bring_up_to_date().await.is_ok()).await;
    assert_eq!(all(&store, "#"), [("keep".to_owned(), Bytes::from("x"))]);

    // A purge of everything is seen by the first sequence that is left.
    let client = plain(&server).await;
    api(&client, "STREAM.PURGE.KV_MQTT_retained", "").await;
    store.retained().bring_up_to_date().await.unwrap();
    assert!(all(&store, "#").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_expires_goes_and_does_not_hold_up_a_question() {
    let server = NatsServer::start();
    let store = open(&server).await;
    let target = PutTarget::Retained { subject: retained_subject("t"), delete: false };
    store.publisher().put(target, Vec::new(), "x".into(), Some(1)).await.unwrap();
    store.retained().bring_up_to_date().await.unwrap();
    let topic = TopicName::new("t").unwrap();
    assert!(store.retained().index().get(&topic).is_some());
    let started = std::time::Instant::now();
    while store.retained().index().get(&topic).is_some() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.retained().bring_up_to_date().await.unwrap();
    assert_eq!(store.retained().index().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_of_the_bucket_may_be_gone_before_anybody_read_it() {
    let server = NatsServer::start();
    let store = open(&server).await;
    retain(&store, "a", "1").await;
    let client = plain(&server).await;
    // Written and removed at once, again and again: the last sequence is one that no reader may get.
    for _ in 0..50 {
        retain(&store, "b", "1").await;
        api(&client, "STREAM.PURGE.KV_MQTT_retained", r#"{"filter":"$KV.MQTT_retained.b"}"#).await;
        tokio::time::timeout(Duration::from_secs(5), store.retained().bring_up_to_date()).await.unwrap().unwrap();
        assert_eq!(all(&store, "a").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_leaves_a_marker_as_nats_kv_purge_does_and_that_ends_too() {
    let server = NatsServer::start();
    let store = open(&server).await;
    retain(&store, "a", "1").await;
    retain(&store, "a", "").await;
    let client = plain(&server).await;
    let found = api(&client, "STREAM.MSG.GET.KV_MQTT_retained", r#"{"last_by_subj":"$KV.MQTT_retained.a"}"#).await;
    use base64::Engine as _;
    let block = base64::engine::general_purpose::STANDARD.decode(found["message"]["hdrs"].as_str().unwrap()).unwrap();
    let block = String::from_utf8(block).unwrap();
    assert!(block.contains("KV-Operation: PURGE"), "{block}");
    assert!(block.contains("Nats-TTL:"), "{block}");
    // What `nats kv put` does reaches the index.
    client.publish("$KV.MQTT_retained.from.nats", "hello".into()).await.unwrap();
    client.flush().await.unwrap();
    api(&client, "STREAM.INFO.KV_MQTT_retained", "").await;
    store.retained().bring_up_to_date().await.unwrap();
    assert_eq!(all(&store, "#"), [("from/nats".to_owned(), Bytes::from("hello"))]);
}

/// Random writes and deletions by one store, a second one that comes and goes, a server that is killed: in the end every
/// index is what the writer was told is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_comes_amid_writes_and_restarts_ends_like_the_bucket() {
    use rand::{RngExt, SeedableRng};
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = NatsServer::start();
    let writer = open(&server).await;
    let acks = Collected::new();
    let mut model = std::collections::BTreeMap::new();
    let mut others: Vec<Store> = Vec::new();
    for token in 0..20_000_u64 {
        let topic = random.random_range(0..700);
        let delete = random.random_range(0..4) == 0;
        let target = PutTarget::Retained { subject: retained_subject(&format!("t.{topic}")), delete };
        if delete {
            model.remove(&format!("t/{topic}"));
        } else {
            model.insert(format!("t/{topic}"), Bytes::from(token.to_string()));
        }
        let permit = writer.publisher().permit(10).await;
        let payload = token.to_string().into();
        let put = Put {
            target,
            headers: Vec::new(),
            payload,
            ttl_s: None,
            expected_last: None,
            guard: None,
            sink: acks.clone(),
            token,
        };
        writer.publisher().submit(permit, put);
        match token {
            3_000 | 9_000 | 15_000 => others.push(open(&server).await),
            6_000 | 12_000 => tokio::task::block_in_place(|| {
                server.kill();
                server.restart();
            }),
            _ => {}
        }
    }
    acks.until("acks", |acks| acks.len() == 20_000).await;
    assert!(acks.items.lock().iter().all(|(_, result)| result.is_ok()));
    others.push(open(&server).await);
    others.push(writer);
    for (number, store) in others.iter().enumerate() {
        store.retained().bring_up_to_date().await.unwrap();
        let found: std::collections::BTreeMap<String, Bytes> = all(store, "#").into_iter().collect();
        let differs = |topic: &&String| found.get(*topic) != model.get(*topic);
        let topics: std::collections::BTreeSet<&String> = found.keys().chain(model.keys()).filter(differs).collect();
        for topic in &topics {
            let last = format!(r#"{{"last_by_subj":"{}"}}"#, retained_subject(&topic.replace('/', ".")));
            let stored = api(&plain(&server).await, "STREAM.MSG.GET.KV_MQTT_retained", &last).await;
            println!("{topic}: index {:?}, model {:?}, bucket {stored:?}", found.get(*topic), model.get(*topic));
        }
        assert!(topics.is_empty(), "seed {seed}, store {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_one_topic_without_a_marker_is_noticed_at_the_next_questions() {
    let server = NatsServer::start();
    let store = open(&server).await;
    for topic in ["a", "b", "c"] {
        retain(&store, topic, "x").await;
    }
    store.retained().bring_up_to_date().await.unwrap();
    let client = plain(&server).await;
    api(&client, "STREAM.PURGE.KV_MQTT_retained", r#"{"filter":"$KV.MQTT_retained.b"}"#).await;
    let started = std::time::Instant::now();
    while all(&store, "#").len() != 2 {
        assert!(started.elapsed() < PATIENCE);
        store.retained().bring_up_to_date().await.unwrap();
    }
    assert!(all(&store, "b").is_empty());
}
