//! A message cannot end a connection to NATS: topics with any white space of Unicode, subjects that are no text, header blocks
//! of any kind, those that nats-server writes itself among them. What can be delivered is, and what cannot is one message.

use std::collections::BTreeSet;

use mqtt_codec::{QoS, TopicName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attached;
use crate::harness::{Client, NatsServer, Options, Sidecar, World, eventually, http_get, js_api, msg, settle, unique};

/// Everything that Unicode calls white space or a line end beyond ASCII, and what splits text elsewhere.
const SPACES: [char; 16] = [
    '\u{85}', '\u{a0}', '\u{1680}', '\u{2000}', '\u{2003}', '\u{2007}', '\u{2009}', '\u{200a}', '\u{200b}', '\u{2028}',
    '\u{2029}', '\u{202f}', '\u{205f}', '\u{3000}', '\u{feff}', '\u{1f}',
];

/// A header block, and the user properties that come of it.
type Case<'a> = (&'a [u8], &'a [(&'a str, &'a str)]);

/// What nats-server knows of the connections of the sidecars: name and number of each.
async fn connections(nats: &NatsServer) -> BTreeSet<(String, u64)> {
    let (_, body) = http_get(&nats.monitor(), "/connz?limit=1000").await.expect("the monitor answers");
    let connz: Value = serde_json::from_str(&body).expect("JSON");
    let connections = connz["connections"].as_array().expect("connections").iter();
    let ours = connections.filter(|c| c["name"].as_str().is_some_and(|name| name.starts_with("nats-mqtt-")));
    ours.map(|c| (c["name"].as_str().unwrap().to_owned(), c["cid"].as_u64().unwrap())).collect()
}

/// A world with a monitor, a QoS 0 subscriber of everything, and one at QoS 1, on the second sidecar.
struct Scene {
    world: World,
    before: BTreeSet<(String, u64)>,
    everything: Client,
    stored: Client,
    rounds: usize,
}

impl Scene {
    async fn new() -> Self {
        let nats = NatsServer::start_with(true, "http: \"127.0.0.1:-1\"");
        let a = Sidecar::start(&nats, "sidecar a").await;
        let b = Sidecar::start(&nats, "sidecar b").await;
        let world = World { a, b, nats };
        let mut everything = world.b.connect(Options::v311("everything")).await;
        everything.subscribe("#", 0).await;
        let mut stored = world.b.v5("stored").await;
        stored.subscribe("odd/#", 1).await;
        let before = connections(&world.nats).await;
        // In mode `nats` there is one more, for answers.
        let of_accounts = before.iter().filter(|(name, _)| name != "nats-mqtt-auth").count();
        assert_eq!(of_accounts, 12, "{before:?}");
        Self { world, before, everything, stored, rounds: 0 }
    }

    /// What both have got, up to a marker of a client.
    async fn until_marker(&mut self) -> [Vec<mqtt_codec::Publish>; 2] {
        let marker = self.next_marker();
        let mut device = self.world.a.v5("marker").await;
        device.publish(msg("odd/marker", marker.clone()).qos(1)).await;
        self.receive_until(&marker).await
    }

    /// What both have got, up to a marker that comes behind what was published raw, the same way.
    async fn until_raw_marker(&mut self) -> [Vec<mqtt_codec::Publish>; 2] {
        let marker = self.next_marker();
        self.publish_raw(b"odd.marker", None, marker.as_bytes()).await;
        self.receive_until(&marker).await
    }

    fn next_marker(&mut self) -> String {
        self.rounds += 1;
        format!("marker {}", self.rounds)
    }

    async fn receive_until(&mut self, marker: &str) -> [Vec<mqtt_codec::Publish>; 2] {
        let got = [self.everything.receive_until(marker).await, self.stored.receive_until(marker).await];
        assert_eq!(connections(&self.world.nats).await, self.before, "a connection was lost");
        got
    }

    /// Publishes with a client that says anything.
    async fn publish_raw(&self, subject: &[u8], block: Option<&[u8]>, payload: &[u8]) {
        let address = self.world.nats.url().replace("nats://", "");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = match block {
            Some(block) => format!(" {} {}\r\n", block.len(), block.len() + payload.len()),
            None => format!(" {}\r\n", payload.len()),
        };
        let op: &[u8] = if block.is_some() { b"HPUB " } else { b"PUB " };
        let connect = br#"CONNECT {"verbose":false,"headers":true,"no_responders":true}"#;
        let parts =
            [connect, &b"\r\n"[..], op, subject, head.as_bytes(), block.unwrap_or_default(), payload, b"\r\nPING\r\n"];
        stream.write_all(&parts.concat()).await.unwrap();
        let mut said = Vec::new();
        while !said.windows(4).any(|bytes| bytes == b"PONG") {
            let mut bytes = [0; 4_096];
            let count = stream.read(&mut bytes).await.unwrap();
            said.extend_from_slice(&bytes[..count]);
            assert!(count > 0 && !said.windows(4).any(|bytes| bytes == b"-ERR"), "{}", said.escape_ascii());
        }
    }
}

fn topics(got: &[mqtt_codec::Publish]) -> Vec<String> {
    got.iter().map(|publish| publish.topic_name().unwrap().as_str().to_owned()).collect()
}

fn properties(publish: &mqtt_codec::Publish) -> Vec<(String, String)> {
    let all = publish.properties.as_ref().map(|properties| properties.user_properties.clone()).unwrap_or_default();
    all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_any_white_space_of_unicode_reach_the_other_sidecar_and_end_no_connection() {
    let mut scene = Scene::new().await;
    let mut device = scene.world.a.v5("device").await;
    for qos in [1, 2, 0] {
        let sent: Vec<String> = SPACES.iter().map(|space| format!("odd/caf\u{e9}{space}x/te{space}mp")).collect();
        for topic in &sent {
            let with_headers = msg(topic, "21").qos(qos);
            device.publish(with_headers).await;
        }
        let [everything, stored] = scene.until_marker().await;
        assert_eq!((topics(&everything), topics(&stored)), (sent.clone(), sent), "QoS {qos}");
        assert!(stored.iter().all(|publish| publish.delivery.qos() == QoS::try_from(qos.min(1)).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_is_no_text_is_one_message_left_out() {
    let mut scene = Scene::new().await;
    for subject in [&b"odd.\xff\xfe"[..], b"odd.caf\xe9", b"\xc3.x", b"odd.\xed\xa0\x80"] {
        scene.publish_raw(subject, None, b"no topic").await;
        scene.publish_raw(subject, Some(b"NATS/1.0\r\nA: 1\r\n\r\n"), b"no topic").await;
    }
    // A reply subject that is no text is left out, the message is not.
    scene.publish_raw(b"odd.reply _INBOX.\xff", None, b"kept").await;
    let [everything, stored] = scene.until_raw_marker().await;
    assert_eq!((topics(&everything), topics(&stored)), (vec!["odd/reply".to_owned()], vec!["odd/reply".to_owned()]));
    assert!(scene.world.b.metric("nats_messages_skipped_total{reason=\"subject\"}").await >= 8.0);
    assert!(scene.world.b.metric("nats_messages_skipped_total{reason=\"reply\"}").await >= 1.0);
    assert_eq!(scene.world.b.metric("nats_reconnects_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_block_of_any_kind_is_delivered_with_what_mqtt_can_carry_of_it() {
    let mut scene = Scene::new().await;
    let large = [&b"NATS/1.0\r\nLarge: "[..], &vec![b'x'; 70_000], b"\r\nSmall: 1\r\n\r\n"].concat();
    let many: Vec<u8> = (0..700).flat_map(|n| format!("N{n}: {}\r\n", "x".repeat(90)).into_bytes()).collect();
    let many = [&b"NATS/1.0\r\n"[..], &many, b"\r\n"].concat();
    let blocks: &[Case<'_>] = &[
        (b"NATS/1.0\r\nA: S 1 \x0c > \x0c\r\n\r\n", &[("A", "S 1 \u{c} > \u{c}")]),
        (b"NATS/1.0\r\nA: x\0y\r\nB: 1\r\n\r\n", &[("B", "1")]),
        (b"NATS/1.0\r\nno colon\r\n: no name\r\nB: 1\r\n\r\n", &[("B", "1")]),
        ("NATS/1.0\r\nUnit: °C\r\nСвойство: да\r\n\r\n".as_bytes(), &[("Unit", "°C"), ("Свойство", "да")]),
        (b"NATS/1.0\r\nA: caf\xe9\r\n\r\n", &[("A", "caf\u{fffd}")]),
        (b"NATS/1.0\r\nA: 1\nB: 2\r\n\r\n", &[("A", "1\u{fffd}B: 2")]),
        (b"NATS/1.0\r\nMy Key: 1\r\n\r\n", &[("My Key", "1")]),
        (b"garbage", &[]),
        (b"NATS/1.0\r\nB: cut off", &[("B", "cut off")]),
        (&large, &[("Small", "1")]),
    ];
    for (n, (block, want)) in blocks.iter().enumerate() {
        scene.publish_raw(format!("odd.{n}").as_bytes(), Some(block), n.to_string().as_bytes()).await;
        let [everything, stored] = scene.until_raw_marker().await;
        assert_eq!((topics(&everything), topics(&stored)), (vec![format!("odd/{n}")], vec![format!("odd/{n}")]));
        assert_eq!(everything[0].payload, n.to_string());
        let want: Vec<(String, String)> = want.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(properties(&stored[0]), want, "{n}");
    }
    // More than JetStream stores: as many of them as it does.
    scene.publish_raw(b"odd.many", Some(&many), b"many").await;
    let [everything, stored] = scene.until_raw_marker().await;
    assert_eq!((topics(&everything), topics(&stored)), (vec!["odd/many".to_owned()], vec!["odd/many".to_owned()]));
    assert!(properties(&stored[0]).len() > 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_source_whose_headers_nats_server_writes_is_followed() {
    let mut scene = Scene::new().await;
    let nats = scene.world.nats.client().await;
    let origin = js_api(&nats, "STREAM.CREATE.ORIGIN", &json!({ "name": "ORIGIN", "subjects": ["origin.>"] })).await;
    assert!(origin["error"].is_null(), "{origin}");
    // Of several, nats-server writes a list with form feeds into the header.
    let transform = json!([{ "src": "origin.a.>", "dest": "odd.a.>" }, { "src": "origin.b.>", "dest": "odd.b.>" }]);
    let config = json!({
        "name": "SOURCED", "subjects": ["odd.own.>"], "republish": { "src": ">", "dest": "copy.>" },
        "sources": [{ "name": "ORIGIN", "subject_transforms": transform }],
    });
    attached::create(&nats, &[&scene.world.a, &scene.world.b], &config).await;
    for subject in ["origin.a.0", "origin.b.1", "origin.a.2"] {
        attached::put(&nats, subject, "sourced").await;
    }
    let last = async || {
        let info: Value = js_api(&nats, "STREAM.INFO.SOURCED", &json!({})).await;
        info["state"]["last_seq"].as_u64() == Some(3)
    };
    eventually("the source is read", last).await;
    settle(&nats).await;
    // Its copies on core NATS have the header.
    let [everything, _] = scene.until_marker().await;
    let copies: Vec<String> = topics(&everything).into_iter().filter(|topic| topic.starts_with("copy/")).collect();
    assert_eq!(copies, ["copy/odd/a/0", "copy/odd/b/1", "copy/odd/a/2"]);
    let mut late = scene.world.a.v5(&unique("late")).await;
    late.subscribe("odd/own/#", 1).await;
    attached::put(&nats, "odd.own.1", "direct").await;
    assert_eq!(late.receive_shown().await, "odd/own/1 direct qos1");
    scene.until_marker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_stand_again_after_the_server_was_restarted() {
    let mut world = World::own().await;
    let mut subscriber = world.b.v5("subscriber").await;
    for n in 0..50 {
        subscriber.subscribe(&format!("again/{n}"), 0).await;
    }
    tokio::task::block_in_place(|| {
        world.nats.kill();
        world.nats.restart();
    });
    let nats = world.nats.client().await;
    eventually("the sidecars are connected again", async || {
        world.a.metric("nats_connected").await == 1.0 && world.b.metric("nats_reconnects_total").await >= 5.0
    })
    .await;
    // Whoever is connected has its subscriptions already.
    for n in 0..50 {
        nats.publish(format!("again.{n}"), n.to_string().into()).await.unwrap();
    }
    for n in 0..50 {
        let publish = subscriber.receive().await;
        assert_eq!(publish.topic_name(), Some(&TopicName::new(format!("again/{n}")).unwrap()));
    }
}
