//! Three nats-servers, three replicas of everything: what was acknowledged outlives the leader, and a lost quorum.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use mqtt_codec::QoS;
use tokio::sync::watch;

use crate::harness::cluster::Cluster;
use crate::harness::{Client, Ended, Options, Sidecar, SidecarBuilder, eventually, heavy, msg, stream_info};

const LONG: u32 = 3600;
const WINDOW: usize = 32;

async fn sidecar(cluster: &Cluster, name: &str) -> Sidecar {
    let builder = SidecarBuilder::new(name, &["--nats", &cluster.urls()]);
    builder.set("JETSTREAM__REPLICAS", cluster.replicas()).start().await
}

/// The server that leads a stream.
async fn leader_of(cluster: &Cluster, stream: &str) -> usize {
    let client = cluster.servers[0].client().await;
    let mut leader = None;
    eventually("the stream has a leader", async || {
        let info = stream_info(&client, stream).await;
        leader = info["cluster"]["leader"].as_str().and_then(|name| name.trim_start_matches('n').parse().ok());
        leader.is_some() && info["config"]["num_replicas"] == 3
    })
    .await;
    leader.expect("it has")
}

/// A publisher that is told how far it may go, and says how far it is.
struct Publisher {
    go_to: watch::Sender<usize>,
    is_at: watch::Receiver<usize>,
}

impl Publisher {
    async fn start(sidecar: &Sidecar, qos: u8) -> Self {
        let mut client = sidecar.connect(Options::v5(&format!("pub{qos}")).durable(LONG)).await;
        let (go_to, mut wanted) = watch::channel(0);
        let (at, is_at) = watch::channel(0);
        tokio::spawn(async move {
            let topic = format!("c/{qos}");
            let mut done = 0;
            while wanted.changed().await.is_ok() {
                let to = *wanted.borrow_and_update();
                let messages = (done..to).map(|n| msg(&topic, n.to_string()).qos(qos));
                client.publish_all(messages, WINDOW, |acked| _ = at.send_replace(done + acked)).await;
                done = to;
            }
        });
        Self { go_to, is_at }
    }

    async fn is_at_least(&mut self, count: usize) {
        let reached = tokio::time::timeout(Duration::from_secs(60), self.is_at.wait_for(|at| *at >= count));
        reached.await.expect("publishing goes on").expect("the publisher is there");
    }
}

/// What a durable subscriber got over all its connections.
#[derive(Default)]
pub(crate) struct Received {
    got: HashMap<String, Vec<usize>>,
    /// QoS 2 packet ids that are not released.
    open: HashSet<u16>,
}

impl Received {
    /// Takes messages until there are `count` of QoS 1 and of QoS 2, as a receiver of the specification does.
    pub(crate) async fn until(&mut self, client: &mut Client, count: usize) {
        client.acknowledges = false;
        let have = |got: &HashMap<String, Vec<usize>>| {
            ["c/1", "c/2"].iter().all(|topic| got.get(*topic).is_some_and(|got| got.contains(&(count - 1))))
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !have(&self.got) {
            let packet = client.packet(deadline).await.expect("messages go on");
            self.take(client, packet);
        }
        client.flush().await;
    }

    fn take(&mut self, client: &mut Client, packet: mqtt_codec::Packet) {
        use mqtt_codec::{Ack, Packet, ReasonCode::Success};
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id().expect("QoS 1 or 2");
                let is_qos2 = publish.qos() == QoS::ExactlyOnce;
                client.write(&if is_qos2 {
                    Packet::PubRec(Ack::new(id, Success))
                } else {
                    Packet::PubAck(Ack::new(id, Success))
                });
                if is_qos2 && !self.open.insert(id.get()) {
                    return;
                }
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                self.got.entry(publish.topic_name().unwrap().as_str().to_owned()).or_default().push(number);
            }
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id.get());
                client.write(&Packet::PubComp(Ack::new(ack.packet_id, Success)));
            }
            _ => {}
        }
    }

    /// Every message came, in order; at QoS 2 once.
    pub(crate) fn check(&self, count: usize) {
        for qos in [1, 2] {
            let got = &self.got[&format!("c/{qos}")];
            let mut seen = HashSet::new();
            let firsts: Vec<usize> = got.iter().copied().filter(|n| seen.insert(*n)).collect();
            assert_eq!(firsts, (0..count).collect::<Vec<_>>(), "QoS {qos}");
            if qos == 2 {
                assert_eq!(got.len(), count, "QoS 2 came twice");
            } else {
                println!("QoS 1: {} came twice", got.len() - count);
            }
        }
    }
}

/// Connects although JetStream may have no leader for a moment.
async fn resume(sidecar: &Sidecar) -> Client {
    sidecar.connect_in_the_end(Options::v5("sub").durable(LONG)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscriber_that_moves_loses_nothing_when_leaders_die_and_the_quorum_is_lost() {
    const STEP: usize = 1_500;
    let _turn = heavy().await;
    let mut cluster = Cluster::start(3);
    let (a, b) = (sidecar(&cluster, "sidecar a").await, sidecar(&cluster, "sidecar b").await);
    let mut received = Received::default();
    let mut subscriber = resume(&a).await;
    subscriber.subscribe("c/#", 2).await;
    let mut publishers = [Publisher::start(&a, 1).await, Publisher::start(&b, 2).await];
    let mut total = 0;
    // The leader of the log dies, then that of the sessions, each in the middle of traffic.
    for stream in ["MQTT_log", "KV_MQTT_sessions"] {
        total += STEP;
        publishers.iter().for_each(|publisher| _ = publisher.go_to.send_replace(total));
        for publisher in &mut publishers {
            publisher.is_at_least(total - STEP / 2).await;
        }
        let leader = leader_of(&cluster, stream).await;
        cluster.servers[leader].kill();
        // And the subscriber moves while there is no leader.
        subscriber.reset();
        subscriber = resume(if stream == "MQTT_log" { &b } else { &a }).await;
        assert!(subscriber.is_resumed());
        received.until(&mut subscriber, total).await;
        cluster.servers[leader].restart();
    }
    eventually("all are back", async || {
        let info = stream_info(&cluster.servers[0].client().await, "MQTT_log").await;
        let replicas = info["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
        replicas.len() == 2 && replicas.iter().all(|replica| replica["current"] == true)
    })
    .await;
    // One of three is left: nothing is acknowledged; the acknowledgements come when another one is back.
    total += STEP;
    publishers.iter().for_each(|publisher| _ = publisher.go_to.send_replace(total));
    for publisher in &mut publishers {
        publisher.is_at_least(total - STEP / 2).await;
    }
    let leader = leader_of(&cluster, "MQTT_log").await;
    let other = (leader + 1) % 3;
    cluster.servers[leader].kill();
    cluster.servers[other].kill();
    let is_at = publishers.iter().map(|publisher| *publisher.is_at.borrow()).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // What was on its way back when the quorum was lost.
    for (publisher, before) in publishers.iter().zip(is_at) {
        assert!(*publisher.is_at.borrow() <= before + WINDOW, "acknowledged without a quorum");
    }
    cluster.servers[other].restart();
    received.until(&mut subscriber, total).await;
    for publisher in &mut publishers {
        publisher.is_at_least(total).await;
    }
    cluster.servers[leader].restart();
    subscriber.ping().await;
    assert_eq!(subscriber.try_receive(Duration::from_millis(500)).await.err(), Some(Ended::Silent));
    received.check(total);
}
