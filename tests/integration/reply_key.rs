//! The key of replies is where nobody looks, and one that was elsewhere goes on to open what it has sealed.

use proto_map::{ReplyKey, Subject};

use crate::harness::{NatsServer, Sidecar, Watch, eventually, js_api, msg, stored};

const SESSIONS: &str = "KV_MQTT_sessions";
const KEYS: &str = "KV_MQTT_keys";
const FORMER: &str = "$KV.MQTT_sessions.reply.key";

/// Whether the former place has a key, and not a marker.
async fn has_former(nats: &async_nats::Client) -> bool {
    let body = serde_json::json!({ "last_by_subj": FORMER });
    let answer = js_api(nats, &format!("STREAM.MSG.GET.{SESSIONS}"), &body).await;
    answer["message"]["data"].as_str().is_some_and(|data| !data.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_replies_is_not_in_the_bucket_that_people_watch() {
    let server = NatsServer::start();
    let _sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    assert_eq!(stored(&nats, SESSIONS, FORMER).await, 0);
    assert_eq!(stored(&nats, KEYS, "$KV.MQTT_keys.reply").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_version_before_is_moved_and_opens_its_tokens_everywhere() {
    let server = NatsServer::start();
    let (mut a, mut b) = (Sidecar::start(&server, "a").await, Sidecar::start(&server, "b").await);
    let nats = server.client().await;
    a.kill();
    b.kill();
    // As a version before has left it.
    let key = [7_u8; 32];
    for stream in [SESSIONS, KEYS] {
        let subject = if stream == KEYS { "$KV.MQTT_keys.reply" } else { FORMER };
        let purged = js_api(&nats, &format!("STREAM.PURGE.{stream}"), &serde_json::json!({ "filter": subject })).await;
        assert!(purged["error"].is_null(), "{purged}");
    }
    nats.request(FORMER, key.to_vec().into()).await.unwrap();
    let inbox = nats.new_inbox();
    let token = ReplyKey::new(&key).seal(&Subject::new(inbox.clone()).unwrap(), u32::MAX);
    let mut answers = Watch::new(&nats, &inbox).await;
    // At the same time.
    tokio::join!(a.restart(), b.restart());
    for sidecar in [&a, &b] {
        let mut device = sidecar.v5("device").await;
        device.publish(msg(&format!("$NMQ/reply/{token}"), "answer").qos(1)).await;
        assert_eq!(&answers.next().await.payload[..], b"answer");
    }
    eventually("it is gone from there", async || !has_former(&nats).await).await;
    assert_eq!(stored(&nats, KEYS, "$KV.MQTT_keys.reply").await, 1);
}
