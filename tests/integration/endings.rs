//! How connections end: what the client had sent before it was gone is handled to the end, and the will follows from that.

use mqtt_codec::{Disconnect, Packet, PacketId, ReasonCode, Version};

use crate::harness::{Client, Message, NatsServer, Options, Sidecar, Socket, World, eventually, msg, shown, unique};

/// Packets one behind the other, as they are on the wire.
fn wire(version: Version, packets: &[Packet]) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    packets.iter().for_each(|packet| mqtt_codec::encode(packet, version, &mut bytes).expect("a packet"));
    bytes.to_vec()
}

/// A PUBLISH with this packet id, if its QoS has one.
fn publish(message: &Message, id: u16) -> Packet {
    Packet::Publish(message.packet((message.qos as u8 > 0).then(|| PacketId::new(id).expect("not zero"))))
}

fn disconnect(reason: ReasonCode) -> Packet {
    let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
    Packet::Disconnect(Disconnect { reason, session_expiry_interval_s, server_reference, properties })
}

/// A nats-server with a sidecar whose connections this test counts.
struct Alone {
    _nats: NatsServer,
    sidecar: Sidecar,
    watcher: Client,
    topic: String,
}

impl Alone {
    async fn start() -> Self {
        let nats = NatsServer::start();
        let sidecar = Sidecar::start(&nats, "sidecar").await;
        let topic = unique("endings");
        let mut watcher = sidecar.v5(&unique("watcher")).await;
        watcher.subscribe(&format!("{topic}/#"), 2).await;
        Self { _nats: nats, sidecar, watcher, topic }
    }

    async fn accepted(&self) -> f64 {
        self.sidecar.metric("mqtt_connect_total{result=\"success\"}").await
    }

    /// Waits until as many were accepted, and all but the watcher have ended.
    async fn is_quiet(&self, accepted: f64) {
        eventually("the connections have ended", async || {
            self.accepted().await >= accepted && self.sidecar.metric("mqtt_connections").await <= 1.0
        })
        .await;
    }

    /// What the watcher got by now.
    async fn got(&mut self) -> Vec<String> {
        let mut publisher = self.sidecar.v5(&unique("end")).await;
        publisher.publish(msg(&format!("{}/end", self.topic), "end").qos(1)).await;
        let got = self.watcher.receive_until("end").await.iter().map(shown).collect();
        publisher.disconnect(ReasonCode::Success).await;
        got
    }
}

/// How the client leaves, after it has written everything and read nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// `close()`: its kernel resets the connection, because CONNACK was not read.
    Closes,
    /// The same, right behind the one write that everything is in, CONNECT included.
    ClosesAtOnce,
    /// It says that it sends no more, reads until the server closes, and closes then.
    HalfCloses,
}

/// A client that sends more than the server takes at once, and leaves.
#[derive(Clone, Copy, Debug)]
struct Burst {
    version: Version,
    is_durable: bool,
    is_websocket: bool,
    qos: u8,
    goodbye: Option<ReasonCode>,
    leaves: Leaves,
}

/// Publishes in a burst: more than a client may have unacknowledged, so that the last ones wait in the kernel or in our
/// buffer while the first ones are acknowledged.
const BURST: u16 = 300;

/// Bytes of each: together they are more than one read takes.
const SIZE: usize = 200;

fn bursts() -> Vec<Burst> {
    let mut bursts = Vec::new();
    for version in [Version::V311, Version::V5] {
        for leaves in [Leaves::Closes, Leaves::ClosesAtOnce, Leaves::HalfCloses] {
            for qos in 0..=2 {
                let with_will = (version == Version::V5).then_some(ReasonCode::DisconnectWithWill);
                for goodbye in [Some(ReasonCode::Success), None].into_iter().chain(with_will.map(Some)) {
                    for (is_durable, is_websocket) in [(false, false), (true, false), (false, true)] {
                        bursts.push(Burst { version, is_durable, is_websocket, qos, goodbye, leaves });
                    }
                }
            }
        }
    }
    bursts
}

impl Burst {
    /// Returns what is wrong with the answers.
    async fn play(self, alone: &Alone, topic: &str) -> Option<String> {
        let id = unique("burst");
        let will = msg(&format!("{topic}/will"), "will").qos(1);
        let mut options = Options::new(self.version, &id).will(will);
        if self.is_durable {
            options = options.durable(60);
        }
        let connect = wire(self.version, &[Packet::Connect(Box::new(options.connect))]);
        let mut packets = Vec::new();
        for number in 1..=BURST {
            let payload = format!("{number:>SIZE$}");
            packets.push(publish(&msg(&format!("{topic}/x"), payload).qos(self.qos), number));
        }
        packets.extend(self.goodbye.map(disconnect));
        let rest = wire(self.version, &packets);
        let mut socket = if self.is_websocket {
            Socket::open_websocket(alone.sidecar.ws_port).await
        } else {
            Socket::open(alone.sidecar.mqtt_port).await
        };
        if self.leaves == Leaves::ClosesAtOnce {
            socket.send(&[connect, rest].concat()).await;
            socket.all_arrived().await;
            return None;
        }
        socket.send(&connect).await;
        socket.send(&rest).await;
        if self.leaves != Leaves::HalfCloses {
            socket.all_arrived().await;
            return None;
        }
        socket.half_close().await;
        let answers = socket.read_to_end().await.len();
        // CONNACK and an acknowledgement of four bytes for each; a WebSocket that ends has no other half.
        let expected = if self.qos == 0 || self.is_websocket { 0 } else { 4 + 4 * usize::from(BURST) };
        (answers < expected).then(|| format!("{answers} of {expected} bytes of answers"))
    }

    fn expected(self, topic: &str) -> Vec<String> {
        let one = |number| format!("{topic}/x {number:>SIZE$} qos{}", self.qos);
        let mut expected: Vec<String> = (1..=BURST).map(one).collect();
        if self.goodbye != Some(ReasonCode::Success) {
            expected.push(format!("{topic}/will will qos1"));
        }
        expected
    }
}

/// How many of these are expected.
fn missing(expected: &[String], got: &[String]) -> usize {
    expected.iter().filter(|message| !got.contains(message)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sent_before_it_was_gone_is_handled_and_so_is_its_goodbye() {
    let mut alone = Alone::start().await;
    let mut failed = Vec::new();
    let bursts = bursts();
    for (index, burst) in bursts.iter().enumerate() {
        let topic = format!("{}/{index}", alone.topic);
        let accepted = alone.accepted().await + 1.0;
        failed.extend(burst.play(&alone, &topic).await.map(|wrong| format!("{burst:?}: {wrong}")));
        alone.is_quiet(accepted).await;
        let (expected, got) = (burst.expected(&topic), alone.got().await);
        if got != expected {
            let (lost, more) = (missing(&expected, &got), missing(&got, &expected));
            failed.push(format!("{burst:?}: {lost} of {} lost, {more} more", expected.len()));
        }
    }
    assert!(failed.is_empty(), "{} of {}\n{}", failed.len(), bursts.len(), failed.join("\n"));
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client closes its side in order; the kernel tells the end of the stream.
    EndOfStream,
    /// It resets the connection.
    Reset,
    /// It sends what is no packet.
    Violation,
    /// It is silent for longer than its keep alive.
    KeepAlive,
    /// A new connection with its client id comes to the same sidecar.
    Takeover,
    /// The same, to another sidecar.
    TakeoverElsewhere,
    /// The sidecar is told to end.
    Drain,
}

/// One line of the table: what comes of the will follows from it, and what was sent is there in any case.
#[derive(Clone, Copy, Debug)]
struct Line {
    version: Version,
    is_durable: bool,
    ending: Ending,
    /// How many messages were sent right before.
    publishes: u16,
    goodbye: Option<ReasonCode>,
}

/// More than a client may have unacknowledged.
const UNANSWERED: u16 = 150;

fn lines(endings: &[Ending]) -> Vec<Line> {
    let mut lines = Vec::new();
    for ending in endings.iter().copied() {
        for version in [Version::V311, Version::V5] {
            let with_will = (version == Version::V5).then_some(ReasonCode::DisconnectWithWill);
            // Behind a goodbye nothing is a violation any more, and nobody is silent for long.
            // Elsewhere, the newcomer may publish the will before the goodbye is handled here.
            let says = !matches!(ending, Ending::Violation | Ending::KeepAlive | Ending::TakeoverElsewhere);
            let goodbyes = [Some(ReasonCode::Success), with_will].into_iter().flatten().filter(|_| says);
            for goodbye in [None].into_iter().chain(goodbyes.map(Some)) {
                for publishes in [0, UNANSWERED] {
                    for is_durable in [false, true] {
                        lines.push(Line { version, is_durable, ending, publishes, goodbye });
                    }
                }
            }
        }
    }
    lines
}

impl Line {
    fn expected(self, topic: &str) -> Vec<String> {
        let mut expected: Vec<String> = (1..=self.publishes).map(|number| format!("{topic}/x {number} qos1")).collect();
        if self.goodbye != Some(ReasonCode::Success) {
            expected.push(format!("{topic}/will will qos1"));
        }
        expected
    }

    fn options(self, id: &str) -> Options {
        let options = Options::new(self.version, id);
        if self.is_durable { options.durable(60) } else { options }
    }

    /// Sends everything to one sidecar and lets it end there; `other` is another one. Returns whether the session is there
    /// afterwards.
    async fn play(self, sidecar: &mut Sidecar, other: &Sidecar, topic: &str) -> bool {
        let id = unique("line");
        let keep_alive = if self.ending == Ending::KeepAlive { 1 } else { 0 };
        let will = msg(&format!("{topic}/will"), "will").qos(1);
        let mut client = sidecar.connect(self.options(&id).will(will).keep_alive(keep_alive)).await;
        for number in 1..=self.publishes {
            client.start_publish(&msg(&format!("{topic}/x"), number.to_string()).qos(1));
        }
        if let Some(reason) = self.goodbye {
            client.write(&disconnect(reason));
        }
        if self.ending == Ending::Violation {
            client.write_raw(&[0xFF; 3]);
        }
        client.flush().await;
        let mut old = None;
        match self.ending {
            Ending::EndOfStream => client.half_close().await,
            Ending::Reset => client.reset(),
            Ending::Violation | Ending::KeepAlive => _ = client.closed().await,
            Ending::Takeover | Ending::TakeoverElsewhere => old = Some(client),
            Ending::Drain => {
                sidecar.stop().await;
                sidecar.restart().await;
            }
        }
        if old.is_none() {
            // So that this is no takeover.
            eventually("it has ended", async || sidecar.metric("mqtt_connections").await == 0.0).await;
        }
        let mut options = self.options(&id);
        options.connect.clean_start = false;
        let newcomer = if self.ending == Ending::TakeoverElsewhere { other } else { &*sidecar }.connect(options).await;
        let is_resumed = newcomer.is_resumed();
        newcomer.disconnect(ReasonCode::Success).await;
        eventually("all have ended", async || sidecar.metric("mqtt_connections").await == 0.0).await;
        is_resumed
    }
}

/// Plays all lines of these endings. What the watcher gets comes over the other sidecar.
async fn play_all(endings: &[Ending]) {
    let World { a: mut sidecar, b: other, nats: _nats } = World::own().await;
    let t = unique("table");
    let (mut watcher, mut publisher) = (other.v5(&unique("watcher")).await, other.v5(&unique("publisher")).await);
    watcher.subscribe(&format!("{t}/#"), 2).await;
    let mut failed = Vec::new();
    let lines = lines(endings);
    for (index, line) in lines.iter().enumerate() {
        let topic = format!("{t}/{index}");
        let is_resumed = line.play(&mut sidecar, &other, &topic).await;
        if is_resumed != line.is_durable {
            failed.push(format!("{line:?}: session present {is_resumed}"));
        }
        publisher.publish(msg(&format!("{t}/end"), "end").qos(1)).await;
        let mut got: Vec<String> = watcher.receive_until("end").await.iter().map(shown).collect();
        let mut expected = line.expected(&topic);
        if line.ending == Ending::TakeoverElsewhere {
            // The will is published there, while the last messages are stored here.
            got.sort();
            expected.sort();
        }
        if got != expected {
            let (lost, more) = (missing(&expected, &got), missing(&got, &expected));
            failed.push(format!("{line:?}: {lost} of {} lost, {more} more", expected.len()));
        }
    }
    assert!(failed.is_empty(), "{} of {}\n{}", failed.len(), lines.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_a_client_ends_its_connection_decides_will_session_and_messages() {
    play_all(&[Ending::EndOfStream, Ending::Reset, Ending::Violation, Ending::KeepAlive]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_a_connection_is_ended_for_its_client_decides_will_session_and_messages() {
    play_all(&[Ending::Takeover, Ending::TakeoverElsewhere, Ending::Drain]).await;
}
