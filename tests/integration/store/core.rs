//! The QoS 0 path.

use super::*;

type Inbox = Arc<Collected<(u64, CoreMessage)>>;

async fn open_with(server: &NatsServer) -> (Store, Inbox) {
    let inbox = Collected::new();
    let store = Store::open(options(server), inbox.clone()).await.unwrap();
    (store, inbox)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_both_ways_and_not_back_to_the_sender() {
    let server = NatsServer::start();
    let (store, inbox) = open_with(&server).await;
    let client = plain(&server).await;
    store.core().subscribe("a.*", None, 7);
    store.core().flush().await.unwrap();
    store.core().publish(&"a.own".into(), None, &Vec::new(), "echo".into()).unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("K", "v");
    client.publish_with_reply_and_headers("a.x", "r.1", headers, "hello".into()).await.unwrap();
    inbox.until("message", |items| !items.is_empty()).await;
    let (id, message) = inbox.items.lock()[0].clone();
    assert_eq!((id, &*message.subject, message.payload), (7, "a.x", Bytes::from("hello")));
    assert_eq!(message.reply.as_deref(), Some("r.1"));
    assert_eq!(message.headers, Some(vec![("K".into(), "v".into())]));

    // A request that nobody serves is answered with a status.
    store.core().subscribe("answers.1", None, 8);
    store.core().flush().await.unwrap();
    store.core().publish(&"nobody".into(), Some(&"answers.1".into()), &Vec::new(), Bytes::new()).unwrap();
    inbox.until("status", |items| items.len() == 2).await;
    assert_eq!(inbox.items.lock()[1].1.status, Some(503));

    store.core().unsubscribe(7);
    store.core().flush().await.unwrap();
    client.publish("a.x", "late".into()).await.unwrap();
    client.publish("answers.1", "last".into()).await.unwrap();
    inbox.until("last", |items| items.len() == 3).await;
    assert_eq!(inbox.items.lock()[2].0, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_queue_share_its_messages() {
    let server = NatsServer::start();
    let (store, inbox) = open_with(&server).await;
    let client = plain(&server).await;
    store.core().subscribe("jobs", Some("g"), 1);
    store.core().subscribe("jobs", Some("g"), 2);
    store.core().flush().await.unwrap();
    for _ in 0..100 {
        client.publish("jobs", "x".into()).await.unwrap();
    }
    inbox.until("jobs", |items| items.len() == 100).await;
    let first = inbox.items.lock().iter().filter(|(id, _)| *id == 1).count();
    assert!((1..100).contains(&first), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_subscriptions_and_a_hot_one_keep_their_order_and_survive_a_restart() {
    const IDS: u64 = 3_000;
    const EACH: usize = 4;
    let mut server = NatsServer::start();
    let (store, inbox) = open_with(&server).await;
    for id in 0..IDS {
        store.core().subscribe(&format!("d.{id}"), None, id);
    }
    store.core().subscribe("hot", None, IDS);
    store.core().flush().await.unwrap();
    for round in 0..2 {
        let client = plain(&server).await;
        for count in 0..EACH {
            for id in 0..IDS {
                client.publish(format!("d.{id}"), count.to_string().into()).await.unwrap();
                client.publish("hot", format!("{}", count as u64 * IDS + id).into()).await.unwrap();
            }
        }
        let expected = IDS as usize * EACH * 2;
        inbox.until("messages", |items| items.len() == expected).await;
        let mut last: std::collections::HashMap<u64, u64> = std::collections::HashMap::new();
        for (id, message) in inbox.items.lock().drain(..) {
            let n = number(&message.payload);
            if let Some(before) = last.insert(id, n) {
                assert_eq!(n, before + 1, "subscription {id}");
            }
        }
        if round == 0 {
            tokio::task::block_in_place(|| {
                server.kill();
                server.restart();
            });
            loop {
                // Until the reconnect a round trip fails; after it, everything is subscribed again.
                if store.core().flush().await.is_ok() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}
