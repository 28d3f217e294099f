//! A connection in memory: a pipe for its socket, an account that never reaches NATS, and the three by which the rest of the
//! sidecar reaches it: its inbox, its completions and its control.

mod held_back;
mod memory;
mod places;
mod rights;

use std::cell::Cell;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mqtt_access::AccountId;
use mqtt_codec::{
    Ack, ConnAck, Connect, ConnectProperties, Decoder, DecoderOptions, Delivery, Disconnect, Publish, PublishTopic,
    QoS, ReasonCode, Role, Subscribe, SubscribeEntry, SubscriptionOptions, TopicName,
};
use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;
use proto_map::ClosedTrees;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::account::grant::{Grant, SubscriptionIds};
use crate::account::{Message, Order};
use crate::accounts::{Opener, Opening};
use crate::app::options;
use crate::auth::Anyone;
use crate::config::{ByteSize, Config};
use crate::metrics::Metrics;
use crate::store::played::PlayedServer;
use crate::store::{PutError, Store, Stored, StoredSink};

/// Nothing here waits for anything but the connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes between a connection and its client.
const PIPE: usize = 64 * 1024;

thread_local! {
    /// What connections of this thread take for the share that one queue has of the memory.
    pub(super) static SHARE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// There is no other account.
struct NoOthers;

impl Opener for NoOthers {
    fn open<'a>(&'a self, _account: &'a AccountId, _home: &'a Account) -> Opening<'a> {
        Box::pin(std::future::ready(Err("there is none".to_owned())))
    }
}

/// An account without NATS, and the door to it.
struct World {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
    door: Arc<Door>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.mqtt.max_packet_size = ByteSize(64 * 1024);
        configure(&mut config);
        let (metrics, of_store) = (Metrics::new(), options::store(&config, None).unwrap());
        let names = of_store.assets.names.clone();
        let closed = ClosedTrees::new(names.subject_prefix(), &[]);
        let (store, of_account) = (Store::unconnected(of_store), options::account(&config));
        let account = Account::unconnected(of_account, store, names, closed, metrics.account()).await;
        Self::around(account, &config, metrics)
    }

    /// Its account is on a server that the test plays.
    async fn on(server: &PlayedServer) -> Self {
        let (mut config, metrics) = (Config::default(), Metrics::new());
        config.nats.urls = vec![server.url()];
        let account = Account::open(crate::app::account_spec(&config).unwrap(), &metrics).await.unwrap();
        Self::around(account, &config, metrics)
    }

    fn around(account: Arc<Account>, config: &Config, metrics: Arc<Metrics>) -> Self {
        let accounts = Accounts::new(Arc::clone(&account), Box::new(NoOthers), 0);
        let judge = Arc::new(Anyone::new(Arc::clone(&metrics)));
        let door = Arc::new(options::door(config, judge, account.max_packet_size(), metrics));
        Self { accounts, account, door }
    }

    /// A client that is connected.
    async fn client(&self, client_id: &'static str) -> Client {
        self.client_with(client_id, PIPE, ConnectProperties::default()).await
    }

    async fn client_with(&self, client_id: &'static str, pipe: usize, properties: ConnectProperties) -> Client {
        let (wire, served, connack) = self.answered(pipe, &connect(client_id, properties)).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        Client { wire, control: self.account.control_of(client_id).unwrap(), served }
    }

    /// A CONNECT and its answer.
    async fn answered(&self, pipe: usize, connect: &Packet) -> (Wire, JoinHandle<()>, ConnAck) {
        self.answered_at(&entrance(), pipe, connect).await
    }

    /// The same at a listener.
    async fn answered_at(
        &self,
        entrance: &Arc<Entrance>,
        pipe: usize,
        connect: &Packet,
    ) -> (Wire, JoinHandle<()>, ConnAck) {
        let (socket, server) = tokio::io::duplex(pipe);
        let peer = Peer::new(([192, 0, 2, 1], 1883).into(), Arc::clone(entrance));
        let served = tokio::spawn(serve(server, peer, Arc::clone(&self.door), Arc::clone(&self.accounts)));
        let mut wire = Wire::new(socket);
        wire.send(connect).await;
        let Some(Packet::ConnAck(connack)) = wire.next().await else { panic!("no CONNACK") };
        (wire, served, *connack)
    }
}

/// A listener that asks for nothing.
fn entrance() -> Arc<Entrance> {
    Arc::new(Entrance::plain("test", crate::listener::Protocol::Mqtt))
}

fn connect(client_id: &'static str, properties: ConnectProperties) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties,
    }))
}

/// The client's end of the pipe.
struct Wire {
    socket: DuplexStream,
    decoder: Decoder,
    bytes: BytesMut,
}

impl Wire {
    fn new(socket: DuplexStream) -> Self {
        let options = DecoderOptions { role: Role::Client, version: Some(Version::V5), ..DecoderOptions::default() };
        Self { socket, decoder: Decoder::new(options), bytes: BytesMut::new() }
    }

    async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        mqtt_codec::encode(packet, Version::V5, &mut bytes).unwrap();
        self.socket.write_all(&bytes).await.unwrap();
    }

    /// What comes next; `None` when the connection is closed.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.bytes).unwrap() {
                return Some(packet);
            }
            let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.bytes));
            if read.await.expect("nothing comes").unwrap() == 0 {
                return None;
            }
        }
    }
}

struct Client {
    wire: Wire,
    /// Its connection, as the rest of the sidecar knows it.
    control: Arc<Control>,
    served: JoinHandle<()>,
}

impl Client {
    /// Handled in turn: when it is answered, so is what was sent before it. What came before the answer.
    async fn ping(&mut self) -> Vec<Packet> {
        self.wire.send(&Packet::PingReq).await;
        let mut before = Vec::new();
        loop {
            match self.wire.next().await.expect("closed") {
                Packet::PingResp => return before,
                packet => before.push(packet),
            }
        }
    }

    async fn publish(&mut self, topic: &'static str, delivery: Delivery) {
        let (topic, payload) = (PublishTopic::Name(TopicName::new(topic).unwrap()), Bytes::from_static(b"hello"));
        let (dup, retain, subscription_ids, properties) = (false, false, Vec::new(), None);
        let publish = Publish { dup, delivery, retain, topic, subscription_ids, properties, payload };
        self.wire.send(&Packet::Publish(publish)).await;
    }

    /// Subscribes at QoS 0; what SUBACK says.
    async fn subscribe(&mut self, filter: &'static str) -> ReasonCode {
        self.subscribe_at(filter, QoS::AtMostOnce).await
    }

    async fn subscribe_at(&mut self, filter: &'static str, qos: QoS) -> ReasonCode {
        let filter = Ok(TopicFilter::new(filter).unwrap());
        let entries = vec![SubscribeEntry { filter, options: SubscriptionOptions { qos, ..Default::default() } }];
        let (packet_id, subscription_id, user_properties) = (id(1), None, Vec::new());
        self.wire.send(&Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties, entries })).await;
        match self.wire.next().await {
            Some(Packet::SubAck(suback)) => suback.reasons[0],
            other => panic!("{other:?}"),
        }
    }

    /// The store is done with what was published as the `token`-th.
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        self.control.completions().stored(token, result);
        self.control.completions().flush();
    }

    /// The log has a message for it.
    fn offer(&self, sequence: u64) {
        let grant = Grant { qos: QoS::AtLeastOnce, retain: false, ids: SubscriptionIds::One(None) };
        let outgoing = || Outgoing { message: Arc::new(message(sequence)), grant, others: Box::default(), share: None };
        self.control.inbox().offer_live(0, Sequence(sequence), 1, outgoing, &mut Wakes::default());
    }

    /// The packet id of the next PUBLISH, and its payload.
    async fn receive(&mut self) -> (Option<PacketId>, Bytes) {
        match self.wire.next().await.expect("closed") {
            Packet::Publish(publish) => (publish.delivery.packet_id(), publish.payload),
            other => panic!("{other:?}"),
        }
    }

    /// The reason with which it is disconnected. Then its connection is over, and nothing is left of it.
    async fn disconnected(mut self, account: &Account) -> ReasonCode {
        let Some(Packet::Disconnect(Disconnect { reason, .. })) = self.wire.next().await else {
            panic!("not told why")
        };
        assert!(self.wire.next().await.is_none());
        tokio::time::timeout(PATIENCE, self.served).await.expect("it ends").unwrap();
        assert!(account.control_of(&self.control.client_id).is_none());
        reason
    }
}

fn message(number: u64) -> Message {
    Message::new(TopicName::new("t").unwrap(), Bytes::from(number.to_string()), None)
}

fn id(number: u16) -> PacketId {
    PacketId(NonZeroU16::new(number).unwrap())
}

fn acks(packets: &[Packet]) -> Vec<(PacketId, ReasonCode)> {
    let ack = |packet: &Packet| match packet {
        Packet::PubAck(Ack { packet_id, reason, .. }) => (*packet_id, *reason),
        other => panic!("{other:?}"),
    };
    packets.iter().map(ack).collect()
}

const STORED: Result<Stored, PutError> = Ok(Stored { sequence: 1, duplicate: false });

#[tokio::test]
async fn at_qos_0_clients_hear_each_other_without_nats() {
    let world = World::new().await;
    let (mut one, mut two) = (world.client("one").await, world.client("two").await);
    assert_eq!(two.subscribe("greetings/+").await, ReasonCode::Success);
    one.publish("greetings/one", Delivery::AtMostOnce).await;
    assert_eq!(two.receive().await, (None, Bytes::from_static(b"hello")));
}

/// [MQTT-3.3.4-9]
#[tokio::test]
async fn what_the_window_has_no_room_for_waits_in_the_inbox() {
    let world = World::new().await;
    let properties = ConnectProperties { receive_maximum: NonZeroU16::new(1), ..ConnectProperties::default() };
    let mut client = world.client_with("c", PIPE, properties).await;
    client.offer(1);
    client.offer(2);
    let (first, payload) = client.receive().await;
    assert_eq!(payload, "1");
    assert_eq!(client.ping().await, []);
    client.wire.send(&Packet::PubAck(Ack::new(first.unwrap(), ReasonCode::Success))).await;
    assert_eq!(client.receive().await.1, "2");
}

/// [MQTT-4.6.0-2]
#[tokio::test]
async fn acknowledgements_come_when_it_is_stored_and_in_the_order_of_the_publishes() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    for packet_id in [5, 6, 7] {
        client.publish("t", Delivery::AtLeastOnce(id(packet_id))).await;
    }
    assert_eq!(client.ping().await, []);
    client.stored(1, Err(PutError::TooLarge));
    assert_eq!(client.ping().await, []);
    client.stored(0, STORED);
    client.stored(2, STORED);
    let mut packets = Vec::new();
    while packets.len() < 3 {
        packets.push(client.wire.next().await.unwrap());
    }
    let (success, refused) = (ReasonCode::Success, ReasonCode::QuotaExceeded);
    assert_eq!(acks(&packets), [(id(5), success), (id(6), refused), (id(7), success)]);
}

#[tokio::test]
async fn a_publish_of_which_nobody_knows_ends_the_connection_and_what_is_behind_it_is_not_acknowledged() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    for packet_id in [5, 6] {
        client.publish("t", Delivery::AtLeastOnce(id(packet_id))).await;
    }
    assert_eq!(client.ping().await, []);
    client.stored(0, Err(PutError::Unavailable));
    client.stored(1, Err(PutError::Withdrawn));
    assert_eq!(client.disconnected(&world.account).await, ReasonCode::ServerBusy);
}

#[tokio::test]
async fn an_order_to_close_ends_it_with_its_reason_and_the_first_order_stays() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    assert!(client.control.take_over());
    client.control.order(Order::Close(ReasonCode::ServerBusy));
    assert_eq!(client.disconnected(&world.account).await, ReasonCode::SessionTakenOver);
    client = world.client("c").await;
    assert_eq!(client.ping().await, [], "its client id is free");
}

#[tokio::test]
async fn a_connection_that_is_drained_finishes_what_is_under_way() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    client.publish("t", Delivery::AtLeastOnce(id(5))).await;
    assert_eq!(client.ping().await, []);
    client.control.order(Order::Drain);
    client.stored(0, STORED);
    let packet = client.wire.next().await.unwrap();
    assert_eq!(acks(&[packet]), [(id(5), ReasonCode::Success)]);
    assert_eq!(client.disconnected(&world.account).await, ReasonCode::ServerShuttingDown);
}

/// How long a connection that is let go may take in all.
const LET_GO: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_client_that_is_let_go_and_reads_nothing_is_gone_in_time() {
    let world = World::new().await;
    let Client { mut wire, control, served } = world.client_with("c", 64, ConnectProperties::default()).await;
    // Answers that it does not read.
    for _ in 0..1_000 {
        let sending = wire.send(&Packet::PingReq);
        tokio::time::timeout(Duration::from_millis(1), sending).await.unwrap_or_default();
    }
    control.order(Order::Drain);
    tokio::time::timeout(LET_GO, served).await.expect("it ends").unwrap();
    assert!(world.account.control_of("c").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_let_go_is_closed_in_time_while_the_store_does_not_answer() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    client.publish("t", Delivery::AtLeastOnce(id(5))).await;
    assert_eq!(client.ping().await, []);
    client.control.order(Order::Drain);
    let closing = async {
        let Some(Packet::Disconnect(disconnect)) = client.wire.next().await else { panic!("not told why") };
        assert_eq!(disconnect.reason, ReasonCode::ServerShuttingDown);
        assert!(client.wire.next().await.is_none());
    };
    tokio::time::timeout(LET_GO, closing).await.expect("it is closed");
    // What it has published is followed on: it is not known to be lost.
    assert!(!client.served.is_finished());
    client.stored(0, STORED);
    tokio::time::timeout(PATIENCE, client.served).await.expect("it ends").unwrap();
}

/// [MQTT-3.1.0-2]
#[tokio::test]
async fn a_second_connect_ends_it() {
    let world = World::new().await;
    let mut client = world.client("c").await;
    client.wire.send(&connect("c", ConnectProperties::default())).await;
    assert_eq!(client.disconnected(&world.account).await, ReasonCode::ProtocolError);
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_what_its_lane_has_room_for() {
    let world = World::with(|config| config.mqtt.qos0_buffer = ByteSize(1024)).await;
    let mut client = world.client_with("c", 64, ConnectProperties::default()).await;
    let grant = Grant { qos: QoS::AtMostOnce, retain: false, ids: SubscriptionIds::One(None) };
    let mut kept = Vec::new();
    // The output has room of its own, which it takes from the lane as soon as it runs.
    for number in 0..2_000_u64 {
        let (inbox, mut wakes) = (client.control.inbox(), Wakes::default());
        if inbox.offer_qos0(&message(number), &grant, ServerTime(0), &mut wakes) {
            kept.push(number.to_string());
        }
    }
    assert!((10..2_000).contains(&kept.len()), "{}", kept.len());
    for number in kept {
        assert_eq!(client.receive().await, (None, Bytes::from(number)));
    }
    assert_eq!(client.ping().await, []);
}
