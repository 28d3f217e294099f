//! How fast a client is heard: what is beyond is read later, and nothing is lost.

use std::time::{Duration, Instant};

use mqtt_codec::Packet;
use tempfile::TempDir;

use crate::auth_file::hash;
use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, msg};

/// How long so many messages take at a rate, with a burst.
fn least(messages: u32, rate: u32, burst: u32) -> Duration {
    Duration::from_secs(1) * (messages - burst) / rate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_above_its_rate_is_acknowledged_later_and_everything_arrives() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("LIMITS__MESSAGE_RATE", "50/s");
    let sidecar = builder.set("LIMITS__MESSAGE_BURST", "20").start().await;
    let nats = server.client().await;
    let mut heard = Watch::new(&nats, "t").await;
    // It would be taken for dead after a second and a half without a sign of life.
    let mut client = sidecar.connect(Options::v5("fast").keep_alive(1)).await;
    let began = Instant::now();
    (0..100).for_each(|number| _ = client.start_publish(&msg("t", number.to_string()).qos(1)));
    client.flush().await;
    // It is answered, whatever waits.
    client.ping().await;
    assert!(began.elapsed() < least(100, 50, 20), "PINGREQ waited behind the messages");
    for number in 0..100 {
        client.other(|packet| matches!(packet, Packet::PubAck(_))).await;
        if number % 20 == 0 {
            // A device keeps its connection alive.
            client.ping().await;
        }
    }
    assert!(began.elapsed() >= least(100, 50, 20), "{:?}", began.elapsed());
    for number in 0..100 {
        assert_eq!(heard.next().await.payload, number.to_string().as_bytes());
    }
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"message_rate\"}").await > 0.5);
    assert_eq!(sidecar.log().matches("limits.message_rate").count(), 1, "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_at_qos_0_are_read_later_too_and_so_is_a_goodbye_behind_them() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("LISTENERS__TCP__LIMITS__MESSAGE_RATE", "100/s");
    let sidecar = builder.start().await;
    let mut subscriber = sidecar.v5("subscriber").await;
    subscriber.subscribe("t", 0).await;
    let (mut client, began) = (sidecar.v311("fast").await, Instant::now());
    // More than waits in memory: the rest is in the socket.
    let text = "x".repeat(500);
    (0..250).for_each(|number| _ = client.start_publish(&msg("t", format!("{number} {text}"))));
    client.goodbye().await;
    for number in 0..250 {
        let payload = subscriber.receive().await.payload;
        assert!(payload.starts_with(format!("{number} ").as_bytes()), "{number}: {payload:?}");
    }
    assert!(began.elapsed() >= least(250, 100, 100), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_above_their_rate_are_read_later_and_nobody_is_taken_for_dead_for_it() {
    let server = NatsServer::start();
    let builder = SidecarBuilder::of(&server, "sidecar").set("LIMITS__BYTE_RATE", "20KiB/s");
    let sidecar = builder.set("LIMITS__BYTE_BURST", "10KiB").start().await;
    let (mut client, began) = (sidecar.connect(Options::v5("fat").keep_alive(1)).await, Instant::now());
    // Two packets that take two seconds each, more than its keep alive allows for silence.
    for _ in 0..2 {
        client.publish(msg("t", vec![b'x'; 40 * 1024]).qos(1)).await;
    }
    let least = Duration::from_secs_f64((80.0 - 10.0) / 20.0);
    assert!(began.elapsed() >= least && began.elapsed() < 3 * least, "{:?}", began.elapsed());
    client.ping().await;
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"byte_rate\"}").await > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_have_a_rate_of_its_own_or_none() {
    let server = NatsServer::start();
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("nats-mqtt.toml");
    let user = |name: &str, tag: &str| {
        format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\ntags = [\"{tag}\"]\n", hash("x"))
    };
    let users = user("slow", "mqtt:msg-rate=20") + &user("backend", "mqtt:msg-rate=none");
    std::fs::write(&config, format!("[auth]\nmode = \"file\"\n[limits]\nmessage_rate = \"40/s\"\n{users}")).unwrap();
    let args = ["--nats", &server.url(), "-c", config.to_str().unwrap()];
    let sidecar = SidecarBuilder::new("sidecar", &args).start().await;
    let took = async |user: &str, count: u32| {
        let mut options = Options::v5(user).password("x");
        options.connect.username = Some(user.into());
        let (mut client, began) = (sidecar.connect(options).await, Instant::now());
        let messages = (0..count).map(|number| msg("t", number.to_string()).qos(1));
        client.publish_all(messages, 50, |_| ()).await;
        began.elapsed()
    };
    assert!(took("slow", 50).await >= least(50, 20, 20));
    assert!(took("backend", 400).await < least(400, 40, 40));
}

/// A sidecar that knows users by their passwords, with these limits.
async fn with_users(server: &NatsServer, dir: &TempDir, limits: &str, users: &[&str]) -> Sidecar {
    let config = dir.path().join("nats-mqtt.toml");
    let user = |name: &&str| format!("[[users]]\nname = \"{name}\"\npassword = \"{}\"\n", hash("x"));
    let users: String = users.iter().map(user).collect();
    std::fs::write(&config, format!("[auth]\nmode = \"file\"\n[limits]\n{limits}\n{users}")).unwrap();
    SidecarBuilder::new("sidecar", &["--nats", &server.url(), "-c", config.to_str().unwrap()]).start().await
}

async fn of_user(sidecar: &Sidecar, id: &str, user: &str) -> Client {
    let mut options = Options::v5(id).password("x");
    options.connect.username = Some(user.into());
    sidecar.connect(options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_a_user_have_one_rate_and_its_next_connection_has_no_more() {
    let (server, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let limits = "message_rate_per_user = \"50/s\"\nmessage_burst_per_user = 20";
    let sidecar = with_users(&server, &dir, limits, &["hub", "calm"]).await;
    let nats = server.client().await;
    let mut heard = Watch::new(&nats, "t.>").await;
    let began = Instant::now();
    let mut clients = vec![of_user(&sidecar, "one", "hub").await, of_user(&sidecar, "two", "hub").await];
    for (client, topic) in clients.iter_mut().zip(["t/one", "t/two"]) {
        (0..60).for_each(|number| _ = client.start_publish(&msg(topic, number.to_string()).qos(1)));
        client.flush().await;
        client.ping().await;
    }
    // Others have nothing to do with it.
    let mut calm = of_user(&sidecar, "calm", "calm").await;
    calm.publish(msg("calm", "").qos(1)).await;
    assert!(began.elapsed() < least(120, 50, 22), "{:?}", began.elapsed());
    for client in &mut clients {
        for number in 0..60 {
            client.other(|packet| matches!(packet, Packet::PubAck(_))).await;
            if number % 10 == 0 {
                client.ping().await;
            }
        }
    }
    // Of what is more than there is, each has had one.
    assert!(began.elapsed() >= least(120, 50, 22), "{:?}", began.elapsed());
    let mut counts = std::collections::HashMap::<String, usize>::new();
    for _ in 0..120 {
        let message = heard.next().await;
        let count = counts.entry(message.subject.to_string()).or_default();
        assert_eq!(message.payload, count.to_string().as_bytes(), "in order");
        *count += 1;
    }
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"message_rate_per_user\"}").await > 1.5);
    // Neither does it help to come again.
    let began = Instant::now();
    for number in 0..50 {
        let mut again = of_user(&sidecar, "again", "hub").await;
        again.publish(msg("again", number.to_string()).qos(1)).await;
        again.publish(msg("again", number.to_string()).qos(1)).await;
        again.goodbye().await;
    }
    assert!(began.elapsed() >= least(100, 50, 20 + 50), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_an_account_have_one_rate_of_bytes() {
    let (server, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let limits = "byte_rate_per_account = \"40KiB/s\"\nbyte_burst_per_account = \"10KiB\"";
    let sidecar = with_users(&server, &dir, limits, &["hub", "lamp"]).await;
    let began = Instant::now();
    let (mut hub, mut lamp) = (of_user(&sidecar, "hub", "hub").await, of_user(&sidecar, "lamp", "lamp").await);
    for client in [&mut hub, &mut lamp] {
        client.start_publish(&msg("t", vec![b'x'; 60 * 1024]).qos(1));
        client.flush().await;
    }
    for client in [&mut hub, &mut lamp] {
        client.other(|packet| matches!(packet, Packet::PubAck(_))).await;
        client.ping().await;
    }
    // Each is read once beyond what there is, of no more than a burst.
    let least = Duration::from_secs_f64((120.0 - 10.0 - 20.0) / 40.0);
    assert!(began.elapsed() >= least && began.elapsed() < 5 * least, "{:?}", began.elapsed());
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"byte_rate_per_account\"}").await > 1.5);
}
