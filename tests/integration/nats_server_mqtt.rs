//! What breaks on nats-server's own MQTT and works here: each test plays the traffic of a product, or of an attacker.
//!
//! | product | on nats-server 2.15.1 | test |
//! |---|---|---|
//! | zigbee2mqtt | names with spaces: disconnect loop; republish storm | `zigbee2mqtt_…` |
//! | Home Assistant | speaks NATS on `/`; retained missing after a restart | `home_assistant_…` |
//! | Tasmota | will lost at a takeover and a crash | `tasmota_…` |
//! | ESPHome | sessions never end | `esphome_…` |
//! | Node-RED | above 31 wildcard subscriptions refused; MQTT 5 refused | `node_red_…` |
//! | OwnTracks, Net::MQTT | MQTT 3.1 refused | `owntracks_…` |
//! | evcc | spaces and parentheses: disconnect | `evcc_…` |
//! | client ids with dots and spaces | refused with 0x02 | `client_ids_…` |
//! | PUBLISH `$JS/API/STREAM/DELETE/ORD` | deletes the stream | `a_device_cannot_…` |
//! | SUBSCRIBE `#` | sees `_INBOX/…` and JetStream's acknowledgements | `everything_is_…` |
//! | SUBSCRIBE `sec/*/x` | receives `sec/alice/x` | `a_star_is_…` |
//! | 70 QoS 1 subscriptions | 63 granted | `seventy_…` |
//! | unread QoS 1 beyond the window | first delivery carries DUP=1, after 30 s | `unread_…` |
//!
//! Habits of clients (one row each) and the tests that have them, in this directory unless said otherwise:
//!
//! | # | habit | tests |
//! |---|---|---|
//! | 1 | `MQIsdp`, long ids | `owntracks_…`; `wire` |
//! | 2 | bridge bit | `wire::a_bridge_…` |
//! | 3 | CONNACK in the shape of MQTT 5 | `codec`: `a_refused_connect_leaves_its_version_for_the_answer` |
//! | 4 | empty id | `session`: `mqtt_3_1_3_8_…`; `wire::an_mqtt_5_client_without_an_id_…` |
//! | 5 | one id on many devices | `sessions_takeover::of_a_storm_…`, `many_newcomers_…` (the ban of flapping ones is not built) |
//! | 6 | empty user name | `codec`: `mqtt_3_1_may_announce_a_user_name_…`; the rest is for the identities of devices |
//! | 7 | keep alive 0, 65535 | `session`: `keep_alive_is_capped_…`, `the_longest_keep_alive_…`, `mqtt_3_1_2_22_…` |
//! | 8 | packets before CONNACK | `wire::packets_that_come_with_connect_…` |
//! | 9 | one byte at a time | `wire::bytes_are_answered_…`; `codec`: `decoded_packets_are_those_encoded_however_…` |
//! | 10 | cannot take large packets | `protocol::what_is_larger_than_the_client_takes_…` |
//! | 11 | never acknowledges | `slow_reader::a_client_that_never_acknowledges_…`; `session`: `acknowledgements_of_what_is_not_in_flight_…` |
//! | 12 | PUBREL for an unknown id | `session`: `a_pubrel_for_an_unknown_packet_id_is_answered` |
//! | 13 | QoS 2 again after a move | `sessions::a_qos_2_publish_repeated_on_the_other_sidecar_…` |
//! | 14 | DUP on a first send | `a_first_send_with_dup_…`; `codec`: `dup_of_qos_0_…` |
//! | 15 | exceeds Receive Maximum | `session`: `a_lenient_session_stops_reading_…` |
//! | 16 | 500 filters | `protocol::five_hundred_filters_…` |
//! | 17 | subscribes again at every connect | `node_red_…` |
//! | 18 | overlapping filters | `protocol`, `both_worlds`: `overlapping_filters_…` |
//! | 19 | thousands retained | `home_assistant_…`; `retained::the_first_subscriber_…` |
//! | 20 | will and birth on one topic | `tasmota_…`; `sessions_takeover::a_retained_birth_…` |
//! | 21 | clears retained | `home_assistant_…`; `retained::an_empty_payload_…` |
//! | 22 | awkward topics | `topics`; `zigbee2mqtt_…`, `evcc_…` |
//! | 23 | `$aws/…` | `topics`; `other_dollar_topics_…` |
//! | 24 | `$SYS/#` | `sys_topics` |
//! | 25 | `$share`, `$queue` | shared subscriptions have their own tests |
//! | 26 | WebSocket paths | `home_assistant_…`; `websocket` |
//! | 28 | TLS or HTTP on the plain port | `wire::bytes_are_answered_…` |
//! | 29 | connect and close | `a_health_check_…` |
//! | 31 | trailing garbage | `wire`; `codec`: `only_strict_mode_refuses_…` |
//! | 32 | control characters in ids | `client_ids_…`; `codec`: `a_client_id_cannot_write_lines_…` |
//! | 34 | a session that never comes back | `esphome_…`; `sessions::a_session_ends_when_…` |
//! | 35 | publishes to its own subscription | `zigbee2mqtt_…` |
//! | 36 | long passwords | `a_password_may_be_long` |
//! | 37 | MQTT 5 at its edges | `codec`, `session`; `protocol` |
//!
//! Rows 27, 30 and 33 are TLS, dead peers behind NAT, and storms of reconnects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mqtt_codec::{Packet, QoS, ReasonCode, SubscribeEntry, SubscriptionOptions, TopicFilter, Version};
use serde_json::json;

use crate::harness::sessions::{pid, record};
use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, Socket, World, eventually, heavy, js_api,
    mosquitto_pub, msg, python, shown, stream_info, unique,
};

/// Asks for all filters in one packet; what is granted.
async fn subscribe_all(client: &mut Client, filters: impl IntoIterator<Item = String>, qos: u8) -> Vec<ReasonCode> {
    let options = SubscriptionOptions { qos: QoS::try_from(qos).unwrap(), ..Default::default() };
    let entry = |filter: String| SubscribeEntry { filter: Ok(TopicFilter::new(filter).unwrap()), options };
    client.subscribe_all(filters.into_iter().map(entry).collect(), None).await
}

/// What a subscriber to a filter gets as retained.
async fn retained(client: &mut Client, filter: &str, count: usize) -> BTreeMap<String, String> {
    client.subscribe(filter, 1).await;
    let mut got = BTreeMap::new();
    while got.len() < count {
        let message = client.receive().await;
        assert!(message.retain, "{}", shown(&message));
        let topic = message.topic_name().unwrap().to_string();
        got.insert(topic, String::from_utf8(message.payload.to_vec()).unwrap());
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn zigbee2mqtt_with_names_with_spaces_sees_its_bridge_info_and_has_its_will() {
    let world = World::shared().await;
    let base = unique("zigbee2mqtt");
    let state = format!("{base}/bridge/state");
    let id = unique("mqttjs");
    let names = ["Living Room Lamp", "0x00158d0001", "Küche/Fenster links", "Plug (hall) 2"];
    let connect = async |sidecar: &Sidecar| {
        let will = msg(&state, r#"{"state":"offline"}"#).qos(1).retained();
        let mut client = sidecar.connect(Options::v311(&id).will(will).keep_alive(60)).await;
        client.subscribe(&format!("{base}/#"), 0).await;
        client
    };
    let mut watcher = world.b.v311(&unique("watcher")).await;
    watcher.subscribe(&state, 1).await;
    let mut bridge = connect(&world.a).await;
    bridge.publish(msg(&state, r#"{"state":"online"}"#).qos(1).retained()).await;
    bridge.publish(msg(&format!("{base}/bridge/info"), "info").qos(0).retained()).await;
    for name in names {
        bridge.publish(msg(&format!("{base}/{name}"), r#"{"linkquality":99}"#).qos(0).retained()).await;
    }
    // Its own messages come back to it.
    let mut seen = BTreeSet::new();
    while seen.len() < 2 + names.len() {
        seen.insert(bridge.receive().await.topic_name().unwrap().to_string());
    }
    // A command for a device with spaces.
    let mut frontend = world.b.v5(&unique("frontend")).await;
    frontend.publish(msg(&format!("{base}/Living Room Lamp/set"), "ON").qos(1)).await;
    assert_eq!(bridge.receive_shown().await, format!("{base}/Living Room Lamp/set ON qos0"));
    assert_eq!(watcher.receive_shown().await, format!(r#"{state} {{"state":"online"}} qos1"#));
    bridge.reset();
    assert_eq!(watcher.receive_shown().await, format!(r#"{state} {{"state":"offline"}} qos1"#));
    // Back on the other sidecar it finds `bridge/info`, so it does not publish everything again.
    let mut bridge = connect(&world.b).await;
    let mut found = BTreeSet::new();
    while found.len() < 2 + names.len() {
        let message = bridge.receive().await;
        assert!(message.retain, "{}", shown(&message));
        found.insert(message.topic_name().unwrap().to_string());
    }
    assert_eq!(found, seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn home_assistant_on_the_path_slash_gets_thousands_of_retained_messages_after_a_restart() {
    const ENTITIES: usize = 2_000;
    let _turn = heavy().await;
    let mut world = World::own().await;
    let mut bridge = world.a.v311("bridge").await;
    let topic = |number: usize| format!("homeassistant/sensor/node {number}/config");
    let configs = (0..ENTITIES).map(|number| msg(&topic(number), r#"{"name":"x"}"#).qos(1).retained());
    bridge.publish_all(configs, 100, |_| {}).await;
    // What is removed from discovery is removed.
    bridge.publish(msg(&topic(0), "").qos(1).retained()).await;
    drop(bridge);
    world.a.kill();
    world.nats.kill();
    world.nats.restart();
    world.a.restart().await;
    let port = world.a.ws_port.to_string();
    let got = python("home_assistant.py", &[&port, "/", "300", &(ENTITIES - 1).to_string()]).await;
    assert_eq!(got.trim(), format!("granted 300 in time, {} retained", ENTITIES - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasmota_has_its_will_at_a_takeover_and_a_crash_and_its_birth_stays() {
    let mut world = World::own().await;
    let topic = "tele/plug/LWT";
    let connect = async |sidecar: &Sidecar| {
        let will = msg(topic, "Offline").qos(1).retained();
        let mut plug = sidecar.connect(Options::v311("DVES_123456").will(will).keep_alive(30)).await;
        plug.publish(msg(topic, "Online").retained()).await;
        plug
    };
    let mut watcher = world.b.v311("watcher").await;
    watcher.subscribe(topic, 0).await;
    let mut plug = connect(&world.a).await;
    assert_eq!(watcher.receive_shown().await, format!("{topic} Online qos0"));
    // It comes back before the old connection is known to be dead, here or at the other sidecar.
    for sidecar in [&world.a, &world.b, &world.a] {
        let new = connect(sidecar).await;
        assert_eq!(plug.closed().await, None);
        plug = new;
        // The will is published at QoS 1 and the birth at QoS 0: what is live may come in either order, what stays is the birth.
        let both = [watcher.receive_shown().await, watcher.receive_shown().await];
        assert_eq!(BTreeSet::from(both), ["Offline", "Online"].map(|state| format!("{topic} {state} qos0")).into());
        let mut late = world.b.v311("late").await;
        late.subscribe(topic, 1).await;
        assert_eq!(late.receive_shown().await, format!("{topic} Online qos0 retain"));
    }
    world.a.kill();
    // When the lease of the sidecar has ended.
    let will = watcher.try_receive(Duration::from_secs(60)).await.expect("the will");
    assert_eq!(shown(&will), format!("{topic} Offline qos0"));
    plug.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn esphome_without_clean_session_leaves_no_session_for_ever() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("MQTT__SESSION_EXPIRY_V3", "2s").start().await;
    let client = nats.client().await;
    let connect = async || sidecar.connect(Options::v311("esp.kitchen.1").durable(0)).await;
    let mut esp = connect().await;
    esp.subscribe("kitchen/light/command", 0).await;
    esp.goodbye().await;
    let esp = connect().await;
    assert!(esp.is_resumed());
    esp.goodbye().await;
    eventually("the session is gone", async || record(&client, "esp.kitchen.1").await.is_none()).await;
    assert!(!connect().await.is_resumed());
    // Seven days are what holds when nothing is configured.
    let other = SidecarBuilder::of(&nats, "other").start().await;
    other.connect(Options::v311("esp.hall.1").durable(0)).await.goodbye().await;
    let what = "STREAM.MSG.GET.KV_MQTT_sessions";
    let key = proto_map::Names::default().session_record("esp.hall.1").unwrap();
    eventually("its record has an end", async || {
        let answer = js_api(&client, what, &json!({ "last_by_subj": &*key })).await;
        let headers = answer["message"]["hdrs"].as_str().unwrap_or_default().to_owned();
        use base64::Engine as _;
        let headers = base64::engine::general_purpose::STANDARD.decode(headers).unwrap();
        String::from_utf8(headers).unwrap().contains("Nats-TTL: 604800")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_red_has_more_than_31_wildcard_subscriptions_at_qos_2_and_makes_them_again() {
    const FLOWS: usize = 100;
    let world = World::shared().await;
    for version in [Version::V311, Version::V5] {
        let home = unique("home");
        let id = unique("nodered");
        let mut publisher = world.b.v5(&unique("pub")).await;
        publisher.publish(msg(&format!("{home}/7/x/state"), "kept").qos(2).retained()).await;
        for round in 0..3 {
            let sidecar = if round % 2 == 0 { &world.a } else { &world.b };
            let mut flows = sidecar.connect(Options::new(version, &id).durable(3600)).await;
            assert_eq!(flows.is_resumed(), round > 0);
            if round > 0 {
                assert_eq!(flows.receive_shown().await, format!("{home}/9/x/away {round} qos2"));
            }
            let filters = (0..FLOWS).map(|flow| format!("{home}/{flow}/#"));
            assert_eq!(subscribe_all(&mut flows, filters, 2).await, [ReasonCode::GrantedQoS2; FLOWS]);
            assert_eq!(flows.receive_shown().await, format!("{home}/7/x/state kept qos2 retain"));
            publisher.publish(msg(&format!("{home}/8/y/live"), "now").qos(2)).await;
            publisher.publish(msg(&format!("{home}/0/y/end"), "end").qos(2)).await;
            assert_eq!(flows.shown_until("end").await, [format!("{home}/8/y/live now qos2")]);
            flows.ping().await;
            flows.goodbye().await;
            publisher.publish(msg(&format!("{home}/9/x/away"), (round + 1).to_string()).qos(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owntracks_and_perl_speak_mqtt_3_1() {
    let world = World::shared().await;
    let base = unique("owntracks");
    let topic = format!("{base}/user/phone");
    let mut viewer = world.b.v5(&unique("viewer")).await;
    viewer.subscribe(&format!("{base}/#"), 2).await;
    // Longer than the 23 characters that 3.1 allowed.
    let id = unique("owntracks-phone-of-somebody-with-a-long-name");
    let will = msg(&topic, r#"{"_type":"lwt"}"#).qos(1);
    let mut phone = world.a.connect(Options::new(Version::V31, &id).will(will).keep_alive(3600).durable(0)).await;
    phone.subscribe(&format!("{topic}/cmd"), 2).await;
    phone.publish(msg(&topic, r#"{"_type":"location"}"#).qos(1).retained()).await;
    phone.publish(msg(&topic, "second").qos(2)).await;
    assert_eq!(viewer.receive_shown().await, format!(r#"{topic} {{"_type":"location"}} qos1"#));
    assert_eq!(viewer.receive_shown().await, format!("{topic} second qos2"));
    viewer.publish(msg(&format!("{topic}/cmd"), "reportLocation").qos(1)).await;
    assert_eq!(phone.receive_shown().await, format!("{topic}/cmd reportLocation qos1"));
    assert_eq!(viewer.receive_shown().await, format!("{topic}/cmd reportLocation qos1"));
    phone.reset();
    assert_eq!(viewer.receive_shown().await, format!(r#"{topic} {{"_type":"lwt"}} qos1"#));
    let args = ["-V", "mqttv31", "-q", "2", "-t", &topic, "-m", "mosquitto"];
    let finished = mosquitto_pub(world.a.mqtt_port, &args, String::new()).await;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(viewer.receive_shown().await, format!("{topic} mosquitto qos2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn evcc_publishes_topics_with_spaces_and_parentheses() {
    let world = World::shared().await;
    let base = unique("evcc");
    let topics =
        ["loadpoints/1/Wallbox (Garage)", "site/grid power", "vehicles/Tesla Model 3 (blue)/soc", "a (b) (c) "];
    let mut evcc = world.a.v311(&unique("evcc")).await;
    evcc.subscribe(&format!("{base}/#"), 0).await;
    for topic in topics {
        evcc.publish(msg(&format!("{base}/{topic}"), topic).retained()).await;
        // It is stored by then.
        assert_eq!(evcc.receive_shown().await, format!("{base}/{topic} {topic} qos0"));
    }
    let wanted: BTreeMap<_, _> = topics.iter().map(|t| (format!("{base}/{t}"), (*t).to_owned())).collect();
    for sidecar in [&world.a, &world.b] {
        let mut viewer = sidecar.v311(&unique("viewer")).await;
        assert_eq!(retained(&mut viewer, &format!("{base}/#"), topics.len()).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_may_have_dots_spaces_and_whatever_else() {
    let world = World::shared().await;
    let run = unique("id");
    for id in ["esp.kitchen.1", "Shelly Plug", "a/b#+", "*", ">", "日本語", "tab\there", "%20", "$SYS", "x\u{7f}y"] {
        let id = format!("{id} {run}");
        for (version, is_resumed) in [(Version::V311, false), (Version::V5, true), (Version::V311, true)] {
            let mut client = world.a.connect(Options::new(version, &id).durable(3600)).await;
            assert_eq!(client.is_resumed(), is_resumed, "{id:?}");
            client.subscribe(&format!("{run}/x"), 1).await;
            client.publish(msg(&format!("{run}/x"), "hello").qos(2)).await;
            assert_eq!(client.receive_shown().await, format!("{run}/x hello qos1"), "{id:?}");
            client.goodbye().await;
        }
        world.a.v311(&id).await.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_cannot_delete_a_stream_or_call_jetstream() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let ord = unique("ORD");
    let config = json!({ "name": ord, "subjects": [format!("{ord}.>")], "storage": "memory" });
    let created = js_api(&nats, &format!("STREAM.CREATE.{ord}"), &config).await;
    assert!(created["error"].is_null(), "{created}");
    nats.request(format!("{ord}.1"), "order".into()).await.unwrap();
    let apis = [format!("$JS/API/STREAM/DELETE/{ord}"), format!("$JS/API/STREAM/PURGE/{ord}")];
    for qos in [0, 1, 2] {
        for topic in &apis {
            let mut v5 = world.a.v5(&unique("attacker")).await;
            let reason = v5.publish(msg(topic, "").qos(qos)).await;
            if qos > 0 {
                assert_eq!(reason, ReasonCode::NotAuthorized, "{topic} at {qos}");
            }
            v5.ping().await;
            let mut v311 = world.b.v311(&unique("attacker")).await;
            v311.publish(msg(topic, "").qos(qos)).await;
            v311.ping().await;
        }
    }
    for will in &apis {
        world.a.connect(Options::v311(&unique("attacker")).will(msg(will, "").qos(1))).await.reset();
    }
    // In order behind all of that.
    let mut other = world.a.v311(&unique("other")).await;
    other.publish(msg("x", "x").qos(1)).await;
    let info = stream_info(&nats, &ord).await;
    assert_eq!(info["state"]["messages"], 1, "{info}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_not_the_inboxes_and_acknowledgements_of_nats() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut all = Vec::new();
    for (filter, qos) in [("#", 0), ("#", 1), ("+/#", 0), ("+/+", 1)] {
        let mut client = world.b.v5(&unique("all")).await;
        client.subscribe(filter, qos).await;
        all.push(client);
    }
    let config = json!({ "name": "ORD", "subjects": ["ord.>"], "storage": "memory" });
    js_api(&nats, "STREAM.CREATE.ORD", &config).await;
    for number in 0..20 {
        let ack = nats.request("ord.1", number.to_string().into()).await.unwrap();
        assert!(ack.payload.starts_with(b"{\"stream\""), "{ack:?}");
        stream_info(&nats, "ORD").await;
        nats.publish("_INBOX.forged.1", "secret".into()).await.unwrap();
    }
    let mut publisher = world.a.v5("pub").await;
    publisher.publish(msg("ord/end", "end").qos(1)).await;
    for client in &mut all {
        let topics: BTreeSet<String> =
            client.receive_until("end").await.iter().map(|m| m.topic_name().unwrap().to_string()).collect();
        assert!(topics.iter().all(|topic| topic == "ord/1"), "{topics:?}");
    }
    for filter in ["_INBOX/#", "$JS/#", "$JS/ACK/#", "_R_/#", "$KV/#"] {
        assert_eq!(publisher.asks_for(filter, 0).await, ReasonCode::NotAuthorized, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_is_a_star() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let sec = unique("sec");
    let mut spy = world.a.v311(&unique("spy")).await;
    for filter in [format!("{sec}/*/x"), format!("{sec}/>"), format!("{sec}/al*/x")] {
        spy.subscribe(&filter, 1).await;
    }
    let mut alice = world.a.v311(&unique("alice")).await;
    alice.subscribe(&format!("{sec}/alice/x"), 1).await;
    for qos in [0, 1] {
        alice.publish(msg(&format!("{sec}/alice/x"), "secret").qos(qos)).await;
        // The other way round: a star in a topic is for nobody else.
        alice.publish(msg(&format!("{sec}/*/x"), format!("star {qos}")).qos(qos)).await;
    }
    nats.publish(format!("{sec}.alice.x"), "from NATS".into()).await.unwrap();
    assert_eq!(spy.receive_shown().await, format!("{sec}/*/x star 0 qos0"));
    assert_eq!(spy.receive_shown().await, format!("{sec}/*/x star 1 qos1"));
    alice.publish(msg(&format!("{sec}/>"), "end").qos(1)).await;
    assert_eq!(spy.shown_until("end").await, [""; 0]);
    let mut got = BTreeSet::new();
    while got.len() < 3 {
        got.insert(alice.receive_shown().await);
    }
    assert!(got.iter().all(|message| !message.contains("star")), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seventy_qos_1_subscriptions_are_granted_with_and_without_wildcards() {
    const COUNT: usize = 70;
    let world = World::shared().await;
    let t = unique("seventy");
    let cases = [(Options::v311(&unique("sub")), "x", "x"), (Options::v5(&unique("sub")).durable(60), "+", "#")];
    for (options, first, last) in cases {
        let mut client = world.a.connect(options).await;
        // One packet each, as most clients do.
        for number in 0..COUNT {
            client.subscribe(&format!("{t}/{first}/{number}/{last}"), 1).await;
        }
        let mut publisher = world.b.v311(&unique("pub")).await;
        for number in 0..COUNT {
            publisher.publish(msg(&format!("{t}/x/{number}/x"), number.to_string()).qos(1)).await;
        }
        let mut got = Vec::new();
        for _ in 0..COUNT {
            got.push(client.receive_shown().await);
        }
        let wanted: Vec<String> = (0..COUNT).map(|number| format!("{t}/x/{number}/x {number} qos1")).collect();
        assert_eq!(got, wanted);
    }
}

/// nats-server's consumers wait 30 s for an acknowledgement and deliver again; what has never left it says DUP then.
#[tokio::test(flavor = "multi_thread")]
async fn unread_messages_beyond_the_window_never_say_dup_at_their_first_delivery() {
    const WINDOW: usize = 128;
    const COUNT: usize = 300;
    let world = World::own().await;
    let mut reader = world.a.v311("reader").await;
    reader.acknowledges = false;
    reader.subscribe("t", 1).await;
    let mut publisher = world.b.v311("pub").await;
    publisher.publish_all((0..COUNT).map(|number| msg("t", number.to_string()).qos(1)), 100, |_| {}).await;
    let mut open = Vec::new();
    for number in 0..WINDOW {
        let message = reader.receive().await;
        assert_eq!(shown(&message), format!("t {number} qos1"));
        open.push(message.packet_id().unwrap());
    }
    // Nothing is sent again by a timer, and nothing beyond the window.
    assert_eq!(reader.try_receive(Duration::from_secs(31)).await.map(|m| shown(&m)), Err(Ended::Silent));
    reader.acknowledges = true;
    for id in open {
        reader.ack(Packet::PubAck, id).await;
    }
    for number in WINDOW..COUNT {
        assert_eq!(reader.receive_shown().await, format!("t {number} qos1"));
    }
}

/// [MQTT-3.3.1-3]
#[tokio::test(flavor = "multi_thread")]
async fn a_first_send_with_dup_is_a_message_like_any_other() {
    let world = World::shared().await;
    let topic = format!("{}/x", unique("dup"));
    let mut subscriber = world.b.v311(&unique("sub")).await;
    subscriber.subscribe(&topic, 2).await;
    for version in [Version::V311, Version::V5] {
        let mut client = world.a.connect(Options::new(version, &unique("esp"))).await;
        for (number, qos) in [(1, 1), (2, 2), (3, 1)] {
            client.send_publish(&msg(&topic, number.to_string()).qos(qos), pid(number), true).await;
            client.other(|packet| matches!(packet, Packet::PubAck(_) | Packet::PubRec(_))).await;
            if qos == 2 {
                client.ack(Packet::PubRel, pid(number)).await;
            }
            assert_eq!(subscriber.receive_shown().await, format!("{topic} {number} qos{qos}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_dollar_topics_are_topics() {
    let world = World::shared().await;
    let t = unique("thing");
    let mut cloud = world.b.v5(&unique("cloud")).await;
    let mut all = world.b.v5(&unique("all")).await;
    all.subscribe("#", 1).await;
    for topic in [format!("$aws/things/{t}/shadow/update"), format!("$iothub/{t}/x"), format!("$dps/{t}/x")] {
        cloud.subscribe(&topic.replace(&t, "+"), 1).await;
        let mut device = world.a.v311(&unique("device")).await;
        device.publish(msg(&topic, t.clone()).qos(1)).await;
        assert_eq!(cloud.receive_shown().await, format!("{topic} {t} qos1"));
    }
    cloud.publish(msg(&t, "end").qos(1)).await;
    let seen = all.shown_until("end").await;
    assert!(seen.iter().all(|message| !message.starts_with('$')), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_that_connects_and_closes_is_no_news() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").start().await;
    for _ in 0..20 {
        drop(Socket::open(sidecar.mqtt_port).await);
    }
    sidecar.v311("client").await.ping().await;
    eventually("all are gone", async || sidecar.metric("mqtt_connections").await < 0.5).await;
    let log = sidecar.log();
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("closed")).count();
    assert_eq!(lines, 0, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_may_be_long() {
    let world = World::shared().await;
    // Where it is looked at, it would be wrong.
    let sidecar = SidecarBuilder::of(&world.nats, "open").open().start().await;
    for version in [Version::V311, Version::V5] {
        let mut options = Options::new(version, &unique("jwt"));
        options.connect.username = Some("jwt".into());
        options.connect.password = Some(vec![b'x'; 65_535].into());
        sidecar.connect(options).await.ping().await;
    }
}
