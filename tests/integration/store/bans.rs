//! Bans in their bucket: a rule takes nothing from what is there.

use super::*;
use nats_mqtt::store::BanError;
use proto_map::BanSubject;

fn client(client_id: &str) -> BanSubject {
    BanSubject::Client { account: None, client_id: client_id.to_owned(), user: None, address: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_writes_over_no_ban_that_ends_later_and_over_one_that_is_over() {
    let server = NatsServer::start();
    let (store, nats) = (open(&server).await, plain(&server).await);
    let bans = store.bans().unwrap();
    bans.ensure().await.unwrap();
    let put = async |id: &str, value: &str| {
        let answer = nats.request(format!("$KV.MQTT_bans.client.{id}"), value.to_owned().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    };
    let is_of_rule = async |id: &str| {
        let body = format!("{{\"last_by_subj\":\"$KV.MQTT_bans.client.{id}\"}}");
        let body = nats.request("$JS.API.DIRECT.GET.KV_MQTT_bans", body.into()).await.unwrap().payload;
        String::from_utf8_lossy(&body).contains("by a rule")
    };
    put("ever", "").await;
    put("unreadable", "?").await;
    put("longer", r#"{"duration_s":7000}"#).await;
    put("shorter", r#"{"duration_s":60}"#).await;
    put("over", r#"{"duration_s":0}"#).await;
    for (id, expected) in
        [("ever", false), ("unreadable", false), ("longer", false), ("shorter", true), ("over", true), ("new", true)]
    {
        bans.put(&client(id), Duration::from_secs(600), "by a rule").await.unwrap();
        assert_eq!(is_of_rule(id).await, expected, "{id}");
    }
    let long = "x".repeat(60_000);
    assert_eq!(bans.put(&client(&long), Duration::from_secs(600), "by a rule").await, Err(BanError::TooLong));
}
