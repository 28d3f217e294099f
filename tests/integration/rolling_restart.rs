//! Three sidecars behind a TCP load balancer are started again one after the other, under devices that publish and subscribe at QoS 1
//! and 2: nothing is lost, nothing at QoS 2 comes twice, and nobody waits long.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mqtt_codec::{Ack, Packet, PacketId, QoS, ReasonCode, Version};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Client, LOOK_AGAIN, NatsServer, Options, PATIENCE, SidecarBuilder, eventually, msg, unique};

const DEVICES: usize = 12;

/// A device publishes so often at most.
const EVERY: Duration = Duration::from_millis(20);

/// Nobody is without a connection for longer.
const GAP_MAX: Duration = Duration::from_secs(2);

/// A load balancer: connections go round those that accept.
async fn balance(ports: Vec<u16>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut next = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            next += 1;
            let ports: Vec<u16> = ports.iter().cycle().skip(next % ports.len()).take(ports.len()).copied().collect();
            tokio::spawn(async move {
                for port in ports {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = client.set_nodelay(true);
                        let _ = server.set_nodelay(true);
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A message that is not done with.
#[derive(Clone, Copy)]
struct Pending {
    number: u32,
    id: PacketId,
    /// PUBREC has come.
    is_released: bool,
}

/// A device that publishes numbers to its neighbour, one at a time, and takes what its other neighbour publishes.
struct Device {
    options: Options,
    port: u16,
    publishes: String,
    qos: u8,
    next: u32,
    pending: Option<Pending>,
    /// Packet identifiers of QoS 2 messages that are not released.
    unreleased: HashSet<PacketId>,
    received: BTreeMap<u32, u32>,
    longest_gap: Duration,
    connects: usize,
}

impl Device {
    /// Connects as soon as that can be.
    async fn connect(&mut self) -> Client {
        let since = Instant::now();
        loop {
            let client = Client::try_open(self.port, self.options.clone()).await.ok();
            if let Some(client) = client.filter(|client| client.connack.reason == ReasonCode::Success) {
                if self.connects > 0 {
                    self.longest_gap = self.longest_gap.max(since.elapsed());
                    assert!(client.is_resumed(), "{}: its session is lost", client.id());
                }
                self.connects += 1;
                return client;
            }
            assert!(since.elapsed() < PATIENCE, "nobody accepts it");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn message(&self, Pending { number, id, .. }: Pending, dup: bool) -> Packet {
        let mut publish = msg(&self.publishes, number.to_string()).qos(self.qos).packet(Some(id));
        publish.dup = dup;
        Packet::Publish(publish)
    }

    /// Goes on with what the connection before has left.
    fn resume(&self, client: &mut Client) {
        match self.pending {
            Some(Pending { is_released: true, id, .. }) => {
                client.write(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
            }
            Some(pending) => client.write(&self.message(pending, true)),
            None => {}
        }
    }

    fn publish_next(&mut self, client: &mut Client) {
        self.next += 1;
        let id = PacketId::new(u16::try_from(self.next % 60_000 + 1).unwrap()).unwrap();
        let pending = Pending { number: self.next, id, is_released: false };
        client.write(&self.message(pending, false));
        self.pending = Some(pending);
    }

    fn take(&mut self, client: &mut Client, packet: Packet) {
        let succeeded = |id| Ack::new(id, ReasonCode::Success);
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id().expect("QoS 1 or 2");
                let is_new = publish.qos() != QoS::ExactlyOnce || self.unreleased.insert(id);
                if is_new {
                    let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                    *self.received.entry(number).or_default() += 1;
                }
                let is_qos1 = publish.qos() == QoS::AtLeastOnce;
                client.write(&if is_qos1 { Packet::PubAck(succeeded(id)) } else { Packet::PubRec(succeeded(id)) });
            }
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                client.write(&Packet::PubComp(succeeded(ack.packet_id)));
            }
            Packet::PubRec(ack) => {
                assert!(!ack.reason.is_error(), "{ack:?}");
                if let Some(pending) = self.pending.as_mut().filter(|pending| pending.id == ack.packet_id) {
                    pending.is_released = true;
                }
                client.write(&Packet::PubRel(succeeded(ack.packet_id)));
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                assert!(!ack.reason.is_error(), "{ack:?}");
                self.pending.take_if(|pending| pending.id == ack.packet_id);
            }
            Packet::Disconnect(_) => {}
            other => panic!("{}: {other:?}", client.id()),
        }
    }

    /// Publishes until it is told to stop, and takes what comes until all have all.
    async fn run(mut self, goal: Arc<Goal>) -> Self {
        let mut paced = Instant::now();
        loop {
            let mut client = self.connect().await;
            self.resume(&mut client);
            loop {
                let is_stopping = goal.is_stopping.load(Ordering::Relaxed);
                if self.pending.is_none() && !is_stopping && paced.elapsed() >= EVERY {
                    paced = Instant::now();
                    self.publish_next(&mut client);
                }
                match client.packet(Instant::now() + EVERY).await {
                    Ok(packet) => self.take(&mut client, packet),
                    Err(crate::harness::Ended::Silent) if is_stopping && self.pending.is_none() => {
                        goal.note(&self);
                        if goal.is_over.load(Ordering::Relaxed) {
                            return self;
                        }
                    }
                    Err(crate::harness::Ended::Silent) => {}
                    Err(crate::harness::Ended::Closed) => break,
                }
            }
        }
    }
}

/// What the devices are told, and how far they are.
#[derive(Default)]
struct Goal {
    is_stopping: AtomicBool,
    is_over: AtomicBool,
    published: [AtomicUsize; DEVICES],
    received: [AtomicUsize; DEVICES],
}

impl Goal {
    /// Nothing more of a device is under way.
    fn note(&self, device: &Device) {
        let number = device.number();
        self.published[number].store(device.next as usize, Ordering::Relaxed);
        self.received[(number + DEVICES - 1) % DEVICES].store(device.received.len(), Ordering::Relaxed);
    }

    fn is_reached(&self) -> bool {
        let all = self.published.iter().zip(&self.received);
        all.map(|(sent, got)| (sent.load(Ordering::Relaxed), got.load(Ordering::Relaxed))).all(|(s, g)| s > 0 && s == g)
    }
}

impl Device {
    fn new(prefix: &str, number: usize, port: u16) -> Self {
        let version = if number.is_multiple_of(3) { Version::V311 } else { Version::V5 };
        Self {
            options: Options::new(version, &format!("{prefix}-{number}")).durable(3600),
            port,
            publishes: format!("{prefix}/{number}"),
            qos: u8::try_from(number % 2 + 1).unwrap(),
            next: 0,
            pending: None,
            unreleased: HashSet::new(),
            received: BTreeMap::new(),
            longest_gap: Duration::ZERO,
            connects: 0,
        }
    }

    fn number(&self) -> usize {
        self.publishes.rsplit_once('/').unwrap().1.parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing_and_nobody_waits_long() {
    let nats = NatsServer::start();
    let mut sidecars = Vec::new();
    for name in ["sidecar a", "sidecar b", "sidecar c"] {
        sidecars.push(SidecarBuilder::of(&nats, name).set("DRAIN__DURATION", "1s").start().await);
    }
    let balancer = balance(sidecars.iter().map(|sidecar| sidecar.mqtt_port).collect()).await;
    let (prefix, goal) = (unique("rolling"), Arc::new(Goal::default()));
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let mut device = Device::new(&prefix, number, balancer.port());
        let mut client = device.connect().await;
        let before = (number + DEVICES - 1) % DEVICES;
        client.subscribe(&format!("{prefix}/{before}"), 2).await;
        client.goodbye().await;
        devices.spawn(device.run(Arc::clone(&goal)));
    }
    for sidecar in &mut sidecars {
        eventually("it has clients", async || sidecar.metric("mqtt_connections").await >= 2.0).await;
        assert_eq!(sidecar.stop().await.code(), Some(0));
        sidecar.restart().await;
    }
    goal.is_stopping.store(true, Ordering::Relaxed);
    eventually("all have all", async || goal.is_reached()).await;
    goal.is_over.store(true, Ordering::Relaxed);
    let devices = devices.join_all().await;
    let (mut messages, mut longest, mut connects) = (0, Duration::ZERO, 0);
    for device in &devices {
        let neighbour = devices.iter().find(|other| (other.number() + 1) % DEVICES == device.number()).unwrap();
        let all: Vec<u32> = (1..=neighbour.next).collect();
        assert_eq!(device.received.keys().copied().collect::<Vec<_>>(), all, "what {} has", device.publishes);
        if neighbour.qos == 2 {
            assert!(device.received.values().all(|times| *times == 1), "{:?}", device.received);
        }
        messages += all.len();
        longest = longest.max(device.longest_gap);
        connects += device.connects - 2;
    }
    println!("{messages} messages, {connects} connections again, nobody waited longer than {longest:?}");
    assert!(connects >= DEVICES, "every sidecar had clients: {connects}");
    assert!(longest < GAP_MAX, "somebody waited {longest:?}");
}
