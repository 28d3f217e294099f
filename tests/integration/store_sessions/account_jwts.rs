//! Which JWTs of accounts have counted, as the sidecars of a home write it down.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nats_mqtt::store::{AccountJwt, Accounts, LastJwt, Leases, Store};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Deaf, options};
use crate::harness::relay::Relay;
use crate::harness::{NatsServer, eventually, js_api};

fn jwt(issued_at_s: i64) -> AccountJwt {
    AccountJwt { issued_at_s, digest: [7; 32] }
}

async fn home(url: String) -> Store {
    Store::open_with(options(url, 1), Leases::ForOthers, Arc::new(Deaf)).await.expect("open the store")
}

fn of(store: &Store) -> &Accounts {
    store.accounts().expect("it is a home")
}

async fn entry(nats: &async_nats::Client, key: &str) -> Option<Value> {
    let last = json!({ "last_by_subj": format!("$KV.MQTT_accounts.{key}") });
    let answer = js_api(nats, "STREAM.MSG.GET.KV_MQTT_accounts", &last).await;
    let value = BASE64.decode(answer["message"]["data"].as_str()?).expect("base64");
    serde_json::from_slice(&value).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_jwt_of_an_account_stays_whoever_writes_it() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let relay = Relay::start(server.url()).await;
    let (a, b) = tokio::join!(home(server.url()), home(relay.url()));
    let iat = async |key: &str| entry(&nats, key).await.and_then(|entry| entry["iat"].as_i64());
    of(&a).keep_jwt("AB", jwt(10));
    eventually("the first is there", async || iat("AB.jwt").await == Some(10)).await;
    // As a newer version writes it.
    let mut newer = entry(&nats, "AB.jwt").await.unwrap();
    newer["colour"] = json!(3);
    nats.publish("$KV.MQTT_accounts.AB.jwt", newer.to_string().into()).await.unwrap();
    eventually("it is there", async || entry(&nats, "AB.jwt").await.unwrap()["colour"] == 3).await;
    // One is cut off, has the newest one, and comes back after the other has written.
    relay.dark(true);
    of(&b).keep_jwt("AB", jwt(30));
    of(&a).keep_jwt("AB", jwt(20));
    eventually("one of two is there", async || iat("AB.jwt").await == Some(20)).await;
    relay.dark(false);
    relay.cut();
    eventually("the newer one is there", async || iat("AB.jwt").await == Some(30)).await;
    // It is written down in turn.
    of(&a).keep_jwt("AB", jwt(25));
    of(&a).keep_jwt("CD", jwt(5));
    eventually("another account is there", async || iat("CD.jwt").await == Some(5)).await;
    let last = entry(&nats, "AB.jwt").await.unwrap();
    assert_eq!((&last["iat"], &last["colour"]), (&json!(30), &json!(3)), "nothing is lost");
    // It is beside the list, and neither takes anything from the other.
    of(&a).list("AB").await.unwrap();
    let mut listed = of(&a).listed();
    let listed = listed.wait_for(|listed| listed.accounts.contains_key("AB")).await.unwrap().clone();
    assert_eq!(listed.accounts.len(), 1, "{listed:?}");
    assert_eq!(of(&a).unlist("AB", listed.accounts["AB"]).await, Ok(true));
    let later = home(server.url()).await;
    let last = async |account: &str| of(&later).last_jwt(account, Instant::now() + Duration::from_secs(30)).await;
    assert_eq!((last("AB").await, last("EF").await), (LastJwt::Known(jwt(30)), LastJwt::None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_in_time_is_waited_for_no_longer() {
    let server = NatsServer::start();
    let store = home(server.url()).await;
    let later = Instant::now() + Duration::from_secs(30);
    assert_eq!(of(&store).last_jwt("AB", later).await, LastJwt::None);
    // What was read is known without waiting.
    assert_eq!(of(&store).last_jwt("AB", Instant::now() - Duration::from_secs(1)).await, LastJwt::None);
    let relay = Relay::start(server.url()).await;
    let opened = home(relay.url()).await;
    relay.dark(true);
    let answer = of(&opened).last_jwt("AB", Instant::now()).await;
    assert!(matches!(answer, LastJwt::Unread | LastJwt::None), "{answer:?}");
}
