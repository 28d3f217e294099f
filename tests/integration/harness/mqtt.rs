//! A raw MQTT client on the codec. It reads only while a test asks it for something, so a test that asks for nothing
//! is a client that does not read. What it gets while it waits for something else is kept.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqtt_codec::{
    Ack, Auth, ConnAck, Decoder, DecoderOptions, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode, Role,
    Subscribe, SubscribeEntry, SubscriptionOptions, TopicFilter, Unsubscribe, Version,
};
use nkeys::KeyPair;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{Message, Options, PATIENCE, shown};

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    id: String,
    version: Version,
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    next_id: u16,
    messages: VecDeque<Publish>,
    others: VecDeque<Packet>,
    /// What the server said to CONNECT.
    pub(crate) connack: ConnAck,
    /// Whether messages are acknowledged as they are read.
    pub(crate) acknowledges: bool,
}

/// Nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The server closed.
    Closed,
    /// Not in time.
    Silent,
}

impl Client {
    /// Connects, and is accepted.
    pub(crate) async fn connect(port: u16, options: Options) -> Self {
        let client = Self::open(port, options).await;
        assert_eq!(client.connack.reason, ReasonCode::Success, "{}: {:?}", client.id, client.connack);
        client
    }

    /// Connects, and gets a CONNACK.
    pub(crate) async fn open(port: u16, options: Options) -> Self {
        let id = options.connect.client_id.clone();
        let opened = Self::try_open(port, options).await;
        opened.unwrap_or_else(|error| panic!("{id}: no CONNACK: {error:?}"))
    }

    /// Connects, and gets a CONNACK, unless the server is not there or goes away meanwhile.
    pub(crate) async fn try_open(port: u16, options: Options) -> Result<Self, Ended> {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        }
        if !options.from.eq(&std::net::Ipv4Addr::LOCALHOST) {
            socket.bind((options.from, 0).into()).expect("an address of ours");
        }
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await.map_err(|_| Ended::Closed)?;
        stream.set_nodelay(true).map_err(|_| Ended::Closed)?;
        let version = options.connect.version;
        let reads = DecoderOptions {
            role: Role::Client,
            version: Some(version),
            max_packet_size: u32::MAX,
            ..DecoderOptions::default()
        };
        let mut client = Self {
            id: options.connect.client_id.to_string(),
            version,
            stream,
            decoder: Decoder::new(reads),
            input: BytesMut::new(),
            output: BytesMut::new(),
            next_id: 0,
            messages: VecDeque::new(),
            others: VecDeque::new(),
            connack: ConnAck { session_present: false, reason: ReasonCode::Success, properties: Default::default() },
            acknowledges: true,
        };
        client.write(&Packet::Connect(Box::new(options.connect)));
        loop {
            match (client.packet(Instant::now() + PATIENCE).await?, &options.seed) {
                (Packet::ConnAck(connack), _) => {
                    client.connack = *connack;
                    return Ok(client);
                }
                (Packet::Auth(asked), Some(seed)) => client.answer(&asked, seed),
                (packet, _) => panic!("{}: {packet:?} before CONNACK", client.id),
            }
        }
    }

    /// Signs what AUTH asks for, by `NATS-NKEY`.
    pub(crate) fn answer(&mut self, asked: &Auth, seed: &str) {
        assert_eq!(asked.reason, ReasonCode::ContinueAuthentication);
        let nonce = asked.authentication_data.as_ref().expect("a nonce").expose();
        let signed = [b"mqtt-nkey-v1\0", self.id.as_bytes(), b"\0", nonce].concat();
        let signature = KeyPair::from_seed(seed).expect("a seed").sign(&signed).expect("a signature");
        self.write(&Packet::Auth(Auth { authentication_data: Some(signature.into()), ..asked.clone() }));
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// A packet identifier that is not in use, as long as fewer than 65,535 are.
    pub(crate) fn packet_id(&mut self) -> PacketId {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.next_id).expect("not zero")
    }

    /// Queues a packet; it leaves with the next flush or read.
    pub(crate) fn write(&mut self, packet: &Packet) {
        mqtt_codec::encode(packet, self.version, &mut self.output).expect("a packet that can be written");
    }

    /// Queues bytes.
    pub(crate) fn write_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// One step of the socket: writes what there is, reads what there is. `false` when the server closed.
    async fn step(&mut self) -> io::Result<bool> {
        let interest =
            if self.output.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = self.stream.ready(interest).await?;
        if ready.is_writable() && !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if ready.is_readable() {
            self.input.reserve(64 * 1024);
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes everything that is queued, and reads nothing.
    pub(crate) async fn flush(&mut self) {
        while !self.output.is_empty() {
            let writable = tokio::time::timeout(PATIENCE, self.stream.writable()).await;
            writable.unwrap_or_else(|_| panic!("{} cannot write", self.id)).expect("a socket");
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Reading will tell.
                Err(_) => return,
            }
        }
    }

    /// Reads so many bytes at most, of what is there, as a slow link brings them. `false` when the server closed.
    pub(crate) fn trickle(&mut self, bytes: usize) -> bool {
        let mut chunk = vec![0; bytes];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The next packet as it comes; nothing is acknowledged.
    pub(crate) async fn packet(&mut self, deadline: Instant) -> Result<Packet, Ended> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => {}
                Err(violation) => panic!("{}: the server sent nonsense: {violation}", self.id),
            }
            match tokio::time::timeout_at(deadline, self.step()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false) | Err(_)) => return Err(Ended::Closed),
                Err(_) => return Err(Ended::Silent),
            }
        }
    }

    /// Reads one packet, acknowledges it and keeps it.
    async fn absorb(&mut self, deadline: Instant) -> Result<(), Ended> {
        match self.packet(deadline).await? {
            Packet::Publish(publish) => {
                if let (Some(id), true) = (publish.packet_id(), self.acknowledges) {
                    let ack = Ack::new(id, ReasonCode::Success);
                    let is_qos1 = publish.qos() == QoS::AtLeastOnce;
                    self.write(&if is_qos1 { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
                }
                self.messages.push_back(publish);
            }
            Packet::PubRel(ack) if self.acknowledges => {
                self.write(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            other => self.others.push_back(other),
        }
        Ok(())
    }

    /// The first packet that is no PUBLISH and that `wanted` takes.
    pub(crate) async fn other(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.others.iter().position(&wanted) {
                return self.others.remove(index).expect("it is there");
            }
            if let Err(ended) = self.absorb(deadline).await {
                panic!("{}: {ended:?} while it waits for a packet; others: {:?}", self.id, self.others);
            }
        }
    }

    /// The next message, or why there is none.
    pub(crate) async fn try_receive(&mut self, patience: Duration) -> Result<Publish, Ended> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(publish) = self.messages.pop_front() {
                // Not only when the next one is waited for.
                self.flush().await;
                return Ok(publish);
            }
            self.absorb(deadline).await?;
        }
    }

    /// The next message.
    pub(crate) async fn receive(&mut self) -> Publish {
        let received = self.try_receive(PATIENCE).await;
        received.unwrap_or_else(|ended| panic!("{}: {ended:?} while it waits for a message", self.id))
    }

    /// The next message, as [`shown`].
    pub(crate) async fn receive_shown(&mut self) -> String {
        shown(&self.receive().await)
    }

    /// Messages until one with this payload, which is left out.
    pub(crate) async fn receive_until(&mut self, payload: &str) -> Vec<Publish> {
        let mut messages = Vec::new();
        loop {
            match self.try_receive(PATIENCE).await {
                Ok(publish) if publish.payload == payload.as_bytes() => return messages,
                Ok(publish) => messages.push(publish),
                Err(ended) => {
                    let have: Vec<String> = messages.iter().take(20).map(shown).collect();
                    panic!("{}: {ended:?} before {payload:?}; {} messages: {have:?}", self.id, messages.len());
                }
            }
        }
    }

    /// The same, as [`shown`].
    pub(crate) async fn shown_until(&mut self, payload: &str) -> Vec<String> {
        self.receive_until(payload).await.iter().map(shown).collect()
    }

    /// Subscribes with one SUBSCRIBE; one reason code an entry.
    pub(crate) async fn subscribe_all(&mut self, entries: Vec<SubscribeEntry>, id: Option<u32>) -> Vec<ReasonCode> {
        let packet_id = self.packet_id();
        let subscription_id = id.and_then(NonZeroU32::new);
        self.write(&Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties: Vec::new(), entries }));
        let wanted = |packet: &Packet| matches!(packet, Packet::SubAck(suback) if suback.packet_id == packet_id);
        let Packet::SubAck(suback) = self.other(wanted).await else { unreachable!() };
        suback.reasons
    }

    /// Subscribes to one filter with options and perhaps a subscription identifier.
    pub(crate) async fn subscribe_with(&mut self, filter: &str, o: SubscriptionOptions, id: Option<u32>) -> ReasonCode {
        let filter = TopicFilter::new(filter).map_err(|_| filter.into());
        self.subscribe_all(vec![SubscribeEntry { filter, options: o }], id).await[0]
    }

    /// Asks for one filter at a QoS; what the server grants.
    pub(crate) async fn asks_for(&mut self, filter: &str, qos: u8) -> ReasonCode {
        let qos = QoS::try_from(qos).expect("a QoS");
        self.subscribe_with(filter, SubscriptionOptions { qos, ..Default::default() }, None).await
    }

    /// Subscribes to one filter, which is granted as asked.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        let reason = self.asks_for(filter, qos).await;
        assert_eq!(reason as u8, qos, "{}: {filter}", self.id);
    }

    /// Unsubscribes from one filter.
    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Vec<ReasonCode> {
        let packet_id = self.packet_id();
        let filters = vec![Ok(TopicFilter::new(filter).expect("a filter"))];
        self.write(&Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: Vec::new(), filters }));
        let wanted = |packet: &Packet| matches!(packet, Packet::UnsubAck(ack) if ack.packet_id == packet_id);
        let Packet::UnsubAck(ack) = self.other(wanted).await else { unreachable!() };
        ack.reasons
    }

    /// Queues a PUBLISH; its packet identifier is what has to be acknowledged.
    pub(crate) fn start_publish(&mut self, message: &Message) -> Option<PacketId> {
        let packet_id = (message.qos != QoS::AtMostOnce).then(|| self.packet_id());
        self.write(&Packet::Publish(message.packet(packet_id)));
        packet_id
    }

    /// Publishes, and waits until it is done: for QoS 2 until PUBCOMP. The reason code of PUBACK or PUBREC.
    pub(crate) async fn publish(&mut self, message: Message) -> ReasonCode {
        let Some(id) = self.start_publish(&message) else {
            self.flush().await;
            return ReasonCode::Success;
        };
        let wanted = |packet: &Packet| match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) => ack.packet_id == id,
            _ => false,
        };
        match self.other(wanted).await {
            Packet::PubRec(ack) if !ack.reason.is_error() => {
                self.write(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
                self.other(|packet| matches!(packet, Packet::PubComp(ack) if ack.packet_id == id)).await;
                ack.reason
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) => ack.reason,
            _ => unreachable!(),
        }
    }

    /// Publishes all with up to `window` of them not acknowledged, and waits until all are. `acked` is called for each
    /// with how many there are. Acknowledgements have to come in the order of the messages [MQTT-4.6.0-2]; none may
    /// refuse.
    pub(crate) async fn publish_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        window: usize,
        mut acked: impl FnMut(usize),
    ) {
        let mut messages = messages.into_iter().peekable();
        let (mut expected, mut open, mut count) = (VecDeque::new(), 0, 0);
        while messages.peek().is_some() || open > 0 {
            while open < window
                && let Some(message) = messages.next()
            {
                if let Some(id) = self.start_publish(&message) {
                    expected.push_back(id);
                    open += 1;
                }
            }
            if open == 0 {
                self.flush().await;
                continue;
            }
            match self.other(|_| true).await {
                Packet::PubAck(ack) | Packet::PubRec(ack) if ack.reason.is_error() => panic!("{}: {ack:?}", self.id),
                Packet::PubAck(ack) => {
                    assert_eq!(Some(ack.packet_id), expected.pop_front(), "{}: PUBACK out of order", self.id);
                    open -= 1;
                    count += 1;
                    acked(count);
                }
                Packet::PubRec(ack) => {
                    assert_eq!(Some(ack.packet_id), expected.pop_front(), "{}: PUBREC out of order", self.id);
                    self.write(&Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
                    count += 1;
                    acked(count);
                }
                Packet::PubComp(_) => open -= 1,
                other => panic!("{}: unexpected {other:?}", self.id),
            }
        }
        self.flush().await;
    }

    /// Whether a PUBACK has come that nothing has waited for.
    pub(crate) fn has_ack(&self) -> bool {
        self.others.iter().any(|packet| matches!(packet, Packet::PubAck(_)))
    }

    /// Waits for an answer to PINGREQ: everything sent before it was handled by then, unless it has to wait for something.
    pub(crate) async fn ping(&mut self) {
        self.write(&Packet::PingReq);
        self.other(|packet| matches!(packet, Packet::PingResp)).await;
    }

    /// Reads until the server closes; the reason of its DISCONNECT when there was one.
    pub(crate) async fn closed(&mut self) -> Option<ReasonCode> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.absorb(deadline).await {
                Ok(()) => {}
                Err(Ended::Closed) => break,
                Err(Ended::Silent) => panic!("{} is not disconnected", self.id),
            }
        }
        self.others.iter().find_map(|packet| match packet {
            Packet::Disconnect(disconnect) => Some(disconnect.reason),
            _ => None,
        })
    }

    /// Sends DISCONNECT and waits until the server has closed.
    pub(crate) async fn disconnect(mut self, reason: ReasonCode) {
        let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
        let disconnect = Disconnect { reason, session_expiry_interval_s, server_reference, properties };
        self.write(&Packet::Disconnect(disconnect));
        self.flush().await;
        self.closed().await;
    }

    /// Sends nothing more, which the server is told, and reads until it has closed.
    pub(crate) async fn half_close(mut self) {
        let _ = self.stream.shutdown().await;
        self.closed().await;
    }

    /// Sends CONNECT, and cuts the connection with a reset as soon as the kernel has it.
    pub(crate) async fn connect_and_reset(port: u16, options: Options) {
        Self::send_connect(port, options).await.set_zero_linger().expect("SO_LINGER");
    }

    /// Sends CONNECT and does not wait for its answer. The socket is the caller's to close.
    pub(crate) async fn send_connect(port: u16, options: Options) -> TcpStream {
        let version = options.connect.version;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut bytes = BytesMut::new();
        mqtt_codec::encode(&Packet::Connect(Box::new(options.connect)), version, &mut bytes).expect("a CONNECT");
        stream.write_all(&bytes).await.expect("a socket that takes a CONNECT");
        stream
    }

    /// Cuts the connection with a reset, without DISCONNECT.
    pub(crate) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}
