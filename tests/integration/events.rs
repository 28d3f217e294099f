//! What NATS is told about clients: events as JSON, which a stream of the user can keep, and the records in the bucket of
//! sessions.

use std::time::Duration;

use mqtt_codec::ReasonCode;
use serde_json::{Value, json};

use crate::harness::sessions::record;
use crate::harness::{NatsServer, Options, SidecarBuilder, Watch, World, eventually, js_api, msg, stored, unique};

/// Events about one client.
struct Events(Watch);

impl Events {
    async fn of(world: &World, client_id: &str) -> Self {
        Self(Watch::new(&world.nats.client().await, &format!("$NMQ.event.*.{client_id}")).await)
    }

    /// The next one; its subject says the same as its type and client.
    async fn next(&mut self) -> Value {
        let message = self.0.next().await;
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let (kind, client_id) = (event["type"].as_str().unwrap(), event["client_id"].as_str().unwrap());
        assert_eq!(message.subject.as_str(), format!("$NMQ.event.{kind}.{client_id}"));
        assert!(event["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{event}");
        event
    }
}

/// Those fields of an event.
fn fields(event: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| (*name, event[*name].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_about_from_connect_to_disconnect() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let id = unique("told");
    let mut events = Events::of(&world, &id).await;
    for is_present in [false, true] {
        let mut options = Options::v5(&id).durable(60).keep_alive(30);
        options.connect.username.get_or_insert("device".into());
        let name = options.connect.username.as_ref().unwrap().to_string();
        let mut client = world.a.connect(options).await;
        let event = events.next().await;
        let names = ["type", "protocol", "username", "clean_start", "session_present", "session_expiry_s"];
        let wanted = json!({ "type": "connect", "protocol": "5.0", "username": name, "clean_start": false,
            "session_present": is_present, "session_expiry_s": 60 });
        assert_eq!(fields(&event, &names), wanted);
        assert_eq!(event["keep_alive_s"], 30);
        assert!(event["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{event}");
        assert!(event["listener"].is_string(), "{event}");
        let (_, record) = record(&nats, &id).await.unwrap();
        assert_eq!((&event["node"], &event["remote"]), (&record["owner"], &record["remote"]));

        client.subscribe("told/+", 2).await;
        client.asks_for("$JS/#", 1).await;
        assert_eq!(events.next().await["subscriptions"], json!([{ "filter": "told/+", "qos": 2 }]));
        client.unsubscribe("told/+").await;
        client.unsubscribe("told/+").await;
        assert_eq!(events.next().await["filters"], json!(["told/+"]));
        client.goodbye().await;
        let event = events.next().await;
        assert_eq!(
            fields(&event, &["type", "cause", "reason_code", "remote"]),
            json!({ "type": "disconnect", "cause": "client", "reason_code": 0, "remote": record["remote"] })
        );
        assert!(event["connected_ms"].as_u64().is_some_and(|ms| ms < 60_000), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_says_why() {
    let world = World::shared().await;
    let endings = [("client", Some(4_u64)), ("connection_lost", None), ("keep_alive", Some(0x8D))];
    for (cause, reason_code) in endings {
        let id = unique("why");
        let mut events = Events::of(&world, &id).await;
        let mut client = world.a.connect(Options::v5(&id).keep_alive(1)).await;
        events.next().await;
        match cause {
            "client" => client.disconnect(ReasonCode::DisconnectWithWill).await,
            "connection_lost" => client.reset(),
            _ => _ = client.closed().await,
        }
        let event = events.next().await;
        assert_eq!((event["cause"].as_str(), event["reason_code"].as_u64()), (Some(cause), reason_code), "{event}");
    }
    let id = unique("why");
    let mut events = Events::of(&world, &id).await;
    let mut old = world.a.v311(&id).await;
    events.next().await;
    let mut new = world.b.v5(&id).await;
    old.closed().await;
    let mut both = [events.next().await, events.next().await];
    both.sort_by_key(|event| event["type"].as_str().unwrap().to_owned());
    assert_eq!(fields(&both[0], &["type", "protocol"]), json!({ "type": "connect", "protocol": "5.0" }));
    let wanted = json!({ "type": "disconnect", "cause": "taken_over", "reason_code": 0x8E });
    assert_eq!(fields(&both[1], &["type", "cause", "reason_code"]), wanted);
    new.write_raw(&[0xFF, 0xFF, 0xFF]);
    new.closed().await;
    assert_eq!(
        fields(&events.next().await, &["cause", "reason_code"]),
        json!({ "cause": "server", "reason_code": 0x81 })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_clients_have_a_record_while_they_are_connected() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for options in [Options::v311(&unique("clean")), Options::v5(&unique("clean"))] {
        let id = options.connect.client_id.to_string();
        let client = world.b.connect(options).await;
        let (_, value) = record(&nats, &id).await.expect("a record");
        assert_eq!(value["connected"], true);
        for field in ["owner", "remote", "since"] {
            assert!(value[field].is_string(), "{field}: {value}");
        }
        client.goodbye().await;
        eventually("the record is gone", async || record(&nats, &id).await.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_user_keeps_them_and_devices_cannot_reach_them() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let config = json!({ "name": "EVENTS", "subjects": ["$NMQ.event.>"], "storage": "memory" });
    let created = js_api(&nats, "STREAM.CREATE.EVENTS", &config).await;
    assert!(created["error"].is_null(), "{created}");
    let mut client = world.a.v5("device 1").await;
    for filter in ["$NMQ/event/#", "$NMQ/#"] {
        assert_eq!(client.asks_for(filter, 0).await, ReasonCode::NotAuthorized);
    }
    let publish = msg("$NMQ/event/connect/forged", "{}").qos(1);
    assert_eq!(client.publish(publish).await, ReasonCode::NotAuthorized);
    client.subscribe("#", 1).await;
    client.publish(msg("end", "end").qos(1)).await;
    assert_eq!(client.shown_until("end").await, [""; 0]);
    let kept = async |kind: &str| stored(&nats, "EVENTS", &format!("$NMQ.event.{kind}.*")).await;
    eventually("they are kept", async || kept("connect").await == 1 && kept("subscribe").await == 1).await;
    drop(client);
    eventually("the end too", async || kept("disconnect").await == 1).await;
    assert!(world.a.metric("mqtt_events_dropped_total").await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_sidecar_dies_another_one_says_so() {
    let mut world = World::own().await;
    let mut events = Events::of(&world, "doomed").await;
    let mut client = world.a.v5("doomed").await;
    let connect = events.next().await;
    world.a.kill();
    client.closed().await;
    // Longer than a lease lives.
    let mut event = None;
    for _ in 0..3 {
        event = event.or(tokio::time::timeout(Duration::from_secs(20), events.next()).await.ok());
    }
    let event = event.expect("an event of the other sidecar");
    let names = ["type", "cause", "node", "remote"];
    let wanted =
        json!({ "type": "disconnect", "cause": "node_lost", "node": connect["node"], "remote": connect["remote"] });
    assert_eq!(fields(&event, &names), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_can_be_turned_off() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("EVENTS__ENABLED", "false").start().await;
    let client = nats.client().await;
    let mut watch = Watch::new(&client, "$NMQ.event.>").await;
    sidecar.v5("quiet").await.goodbye().await;
    client.publish("$NMQ.event.end", "".into()).await.unwrap();
    assert_eq!(watch.next().await.subject.as_str(), "$NMQ.event.end");
}
