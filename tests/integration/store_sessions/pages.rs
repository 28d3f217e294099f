//! Pages of subscriptions beside a record.

use super::*;

fn page(filters: std::ops::Range<usize>) -> PageRecord {
    let subscription = |number| StoredSubscription { filter: format!("f/{number}"), qos: 1, ..Default::default() };
    PageRecord { subscriptions: filters.map(subscription).collect(), ..PageRecord::default() }
}

fn of(client_id: &str, epoch: u64, first_epoch: u64, pages: u32) -> SessionRecord {
    SessionRecord { first_epoch, pages, ..record(client_id, epoch) }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_in_what_is_read_of_all_sessions_and_go_with_their_own() {
    let nats = NatsServer::start();
    let store = open(nats.url()).await;
    let sessions = store.sessions();
    let fence = sessions.put_record(&of("ends", 9, 9, 2), 0, None).await.unwrap();
    sessions.put_page("ends", 9, 1, &page(0..2), fence).await.unwrap();
    sessions.put_page("ends", 9, 2, &page(2..3), fence).await.unwrap();
    // Of a session before it, and of one of which nothing else is left.
    sessions.put_page("ends", 4, 1, &page(70..80), fence).await.unwrap();
    sessions.put_page("nothing", 4, 1, &page(80..90), 0).await.unwrap();
    let state = sessions.states().await.unwrap().remove("ends").unwrap();
    let filters: Vec<_> = state.record.subscriptions.iter().map(|s| s.filter.as_str()).collect();
    assert_eq!(filters, ["devices/ends/#", "f/0", "f/1", "f/2"]);

    let (tx, mut events) = mpsc::unbounded_channel();
    let _following = sessions.follow(FollowFrom::Everything, Arc::new(SessionEvents(tx)));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "caught up") {
        heard.push(next(&mut events).await);
    }
    heard.pop();
    let expected = ["ends 9", "ends 9/1 2", "ends 9/2 1", "ends 4/1 10", "nothing 4/1 10", "nothing Expired"];
    assert_eq!(heard, expected);

    // Nobody has accepted the CONNECT of "ends", so what it found stays.
    assert_eq!(sessions.sweep().await.unwrap(), 1);
    let fence = sessions.load("ends").await.unwrap().sequence;
    let accepted = SessionRecord { accepted: true, ..of("ends", 9, 9, 2) };
    let fence = sessions.put_record(&accepted, fence, None).await.unwrap();
    assert_eq!(sessions.sweep().await.unwrap(), 1);
    assert_eq!(sessions.load_pages("ends", 9, 2, fence).await.unwrap().len(), 2);
    assert!(sessions.load_pages("ends", 4, 2, fence).await.unwrap().is_empty());
    sessions.end("ends", fence, Beside::Perhaps).await.unwrap();
    let client = nats.client().await;
    assert_eq!(stored(&client, "KV_MQTT_sessions", "$KV.MQTT_sessions.*.subs.>").await, 0);
    assert_eq!(sessions.sweep().await.unwrap(), 0);
}
