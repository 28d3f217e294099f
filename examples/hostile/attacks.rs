//! What a hostile device tries.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use mqtt_codec::{
    Ack, Delivery, MessageProperties, Packet, PacketId, Publish, PublishTopic, QoS, ReasonCode, Subscribe,
    SubscribeEntry, SubscriptionOptions, TopicFilter, TopicName, Version,
};

use tokio::task::JoinSet;

use crate::device::Device;
use crate::harness::{Options, msg};

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// 20,000 filters over 20,000 retained topics, in one SUBSCRIBE.
    SubscribeFlood,
    /// 1,100 groups.
    Groups,
    /// A share name of 5,000 bytes.
    LongGroup,
    /// One filter, from 1,000 connections.
    PopularFilter,
    /// A durable client that subscribes to 12,000 filters, and then to one more again and again.
    ManyFilters,
    /// PUBREL for messages that there are not.
    Pubrels,
    /// Aliases that came with large packets.
    Aliases,
    /// 3,000 connections with half a CONNECT.
    HalfConnects,
    /// 3,000 connections that say nothing.
    IdleSockets,
    /// One client id on a hundred connections, again and again.
    OneClientId,
    /// WebSocket without a CONNECT.
    SilentWebSocket,
    /// Publishes that are refused.
    Refused,
    /// A subscriber to everything that reads nothing.
    SlowReader,
    /// Message ids of others, guessed.
    GuessedIds,
    /// Headers that only sidecars write.
    ForgedHeaders,
    /// Topics that become odd subjects.
    OddSubjects,
    /// Everything is subscribed to.
    Everything,
    /// Large wills, again and again.
    Wills,
    /// 300 subscribers that read nothing, and eight publishers that are as loud as they can be.
    SilentReaders,
    /// The same at QoS 1.
    SilentReadersQos1,
    /// 200 publishers that read no acknowledgement.
    UnreadAcks,
    /// 200 large packets that never end.
    HalfPackets,
}

impl Attack {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Goes on until it is shut out, has done what it wanted, or is dropped.
    pub(crate) async fn carry_out(self, mqtt: u16, ws: u16) -> Option<()> {
        match self {
            Self::SubscribeFlood => subscribe_flood(mqtt).await,
            Self::Groups => groups(mqtt, 1_100, |n| format!("$share/g{n}/hostile/{n}")).await,
            Self::LongGroup => groups(mqtt, 4, |n| format!("$share/{}/hostile/{n}", "g".repeat(5_000 + n))).await,
            Self::PopularFilter => popular_filter(mqtt).await,
            Self::ManyFilters => many_filters(mqtt).await,
            Self::Pubrels => pubrels(mqtt).await,
            Self::Aliases => aliases(mqtt).await,
            Self::HalfConnects => sockets(mqtt, b"\x10\x20\x00\x04MQ").await,
            Self::IdleSockets => sockets(mqtt, b"").await,
            Self::OneClientId => one_client_id(mqtt).await,
            Self::SilentWebSocket => silent_websocket(ws).await,
            Self::Refused => refused(mqtt).await,
            Self::SlowReader => slow_reader(mqtt).await,
            Self::GuessedIds => guessed_ids(mqtt).await,
            Self::ForgedHeaders => forged_headers(mqtt).await,
            Self::OddSubjects => odd_subjects(mqtt).await,
            Self::Everything => everything(mqtt).await,
            Self::Wills => wills(mqtt).await,
            Self::SilentReaders => silent_readers(mqtt, 0).await,
            Self::SilentReadersQos1 => silent_readers(mqtt, 1).await,
            Self::UnreadAcks => unread_acks(mqtt).await,
            Self::HalfPackets => half_packets(mqtt).await,
        }
    }
}

/// The connection stays for what its subscriptions do.
async fn stay<T>(_device: T) -> Option<()> {
    std::future::pending().await
}

fn name(what: &str) -> String {
    format!("hostile-{what}-{:x}", rand::random::<u32>())
}

async fn hostile(port: u16, what: &str) -> Option<Device> {
    Device::connect(port, Options::v5(&name(what)), true).await
}

async fn durable(port: u16, what: &str) -> Option<Device> {
    let mut options = Options::v5(&name(what));
    options.connect.properties.session_expiry_interval_s = Some(30);
    Device::connect(port, options, true).await
}

fn packet_id(n: usize) -> PacketId {
    PacketId::new((n % 60_000) as u16 + 1).expect("not zero")
}

fn subscribe(n: usize, filters: impl Iterator<Item = String>, qos: QoS) -> Packet {
    let entry = |text: String| SubscribeEntry {
        filter: TopicFilter::new(text.as_str()).map_err(|_| text.into()),
        options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
    };
    let entries = filters.map(entry).collect();
    Packet::Subscribe(Subscribe {
        packet_id: packet_id(n),
        subscription_id: None,
        user_properties: Vec::new(),
        entries,
    })
}

fn publish(topic: &str, payload: impl Into<Bytes>, qos: u8, n: usize) -> Packet {
    Packet::Publish(msg(topic, payload).qos(qos).packet((qos > 0).then(|| packet_id(n))))
}

fn with_properties(topic: &str, user_properties: &[(&str, String)], n: usize) -> Packet {
    let pairs = user_properties.iter().map(|(name, value)| ((*name).into(), value.as_str().into())).collect();
    let properties = MessageProperties { user_properties: pairs, ..MessageProperties::default() };
    let mut message = msg(topic, "x").qos(1);
    message.properties = Some(Box::new(properties));
    Packet::Publish(message.packet(Some(packet_id(n))))
}

async fn subscribe_flood(port: u16) -> Option<()> {
    const TOPICS: usize = 20_000;
    let mut planter = hostile(port, "plants").await?;
    for n in 0..TOPICS {
        let message = msg(&format!("hostile/{}/{n}", n % 100), "r").retained();
        planter.send(&Packet::Publish(message.packet(None))).await.then_some(())?;
    }
    let mut device = hostile(port, "floods").await?;
    for round in 0.. {
        let filters = (0..TOPICS).map(|n| format!("+/+/{}", (n + round) % TOPICS));
        device.send(&subscribe(round, filters, QoS::AtMostOnce)).await.then_some(())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Some(())
}

async fn groups(port: u16, count: usize, filter: impl Fn(usize) -> String) -> Option<()> {
    let mut device = hostile(port, "groups").await?;
    for n in 0..count {
        device.send(&subscribe(n, std::iter::once(filter(n)), QoS::AtLeastOnce)).await.then_some(())?;
    }
    stay(device).await
}

async fn popular_filter(port: u16) -> Option<()> {
    let mut devices = Vec::new();
    for n in 0..1_000 {
        let mut device = hostile(port, "crowd").await?;
        device
            .send(&subscribe(n, std::iter::once("hostile/popular".to_owned()), QoS::AtLeastOnce))
            .await
            .then_some(())?;
        devices.push(device);
    }
    stay(devices).await
}

async fn many_filters(port: u16) -> Option<()> {
    let mut device = durable(port, "filters").await?;
    for n in 0..12 {
        let filters = (0..1_000).map(|m| format!("hostile/filters/{n}/{m}"));
        device.send(&subscribe(n, filters, QoS::AtLeastOnce)).await.then_some(())?;
    }
    for n in 12.. {
        let filter = format!("hostile/filters/again/{}", n % 7);
        device.send(&subscribe(n, std::iter::once(filter), QoS::AtLeastOnce)).await.then_some(())?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(())
}

async fn pubrels(port: u16) -> Option<()> {
    let mut device = durable(port, "pubrels").await?;
    device.send(&publish("hostile/qos2", "x", 2, 0)).await.then_some(())?;
    let mut many = Vec::new();
    for n in 0..16_384_u32 {
        let id = (n % 60_000 + 1) as u16;
        many.extend([0x62, 2, (id >> 8) as u8, id as u8]);
    }
    // Answers are not waited for; what is not taken is held up by TCP.
    for _ in 0..1_300 {
        device.raw(&many).await.then_some(())?;
    }
    stay(device).await
}

async fn aliases(port: u16) -> Option<()> {
    let mut devices = Vec::new();
    let payload = Bytes::from(vec![0; 900 * 1024]);
    for _ in 0..4 {
        let mut device = hostile(port, "aliases").await?;
        for alias in 1..=32_u16 {
            let topic = TopicName::new(format!("hostile/alias/{alias}")).expect("a topic");
            let packet = Publish {
                dup: false,
                delivery: Delivery::AtMostOnce,
                retain: false,
                topic: PublishTopic::Define(topic, NonZeroU16::new(alias).expect("not zero")),
                subscription_ids: Vec::new(),
                properties: None,
                payload: payload.clone(),
            };
            device.send(&Packet::Publish(packet)).await.then_some(())?;
        }
        devices.push(device);
    }
    stay(devices).await
}

async fn sockets(port: u16, first: &[u8]) -> Option<()> {
    let mut devices = Vec::new();
    for _ in 0..3_000 {
        let mut device = Device::open(port, false).await?;
        device.raw(first).await;
        devices.push(device);
    }
    stay(devices).await
}

async fn one_client_id(port: u16) -> Option<()> {
    let id = name("one");
    let mut options = Options::v5(&id);
    options.connect.clean_start = false;
    options.connect.properties.session_expiry_interval_s = Some(30);
    loop {
        let mut devices = Vec::new();
        for _ in 0..100 {
            devices.push(Device::connect(port, options.clone(), false).await?);
        }
    }
}

async fn silent_websocket(port: u16) -> Option<()> {
    let upgrade = format!(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // A masked binary message of 8 MiB, most of which does not come.
    let mut frame = vec![0x82, 0xFF];
    frame.extend((8_u64 << 20).to_be_bytes());
    frame.extend([0; 4]);
    let mut devices = Vec::new();
    for _ in 0..200 {
        let mut device = Device::open(port, true).await?;
        device.raw(upgrade.as_bytes()).await;
        device.raw(&frame).await;
        device.raw(&vec![0x10; 1 << 20]).await;
        devices.push(device);
    }
    stay(devices).await
}

async fn refused(port: u16) -> Option<()> {
    let mut device = hostile(port, "refused").await?;
    for n in 0..400_000 {
        device.send(&publish("$JS/API/STREAM/DELETE/MQTT_log", "x", 1, n)).await.then_some(())?;
    }
    Some(())
}

async fn slow_reader(port: u16) -> Option<()> {
    let mut reader = Device::connect(port, Options::v5(&name("slow")), false).await?;
    reader.send(&subscribe(1, std::iter::once("hostile/slow/#".to_owned()), QoS::AtLeastOnce)).await.then_some(())?;
    let mut publisher = hostile(port, "fast").await?;
    let payload = Bytes::from(vec![0; 100]);
    for n in 0..200_000 {
        publisher.send(&publish("hostile/slow/1", payload.clone(), 1, n)).await.then_some(())?;
    }
    stay((reader, publisher)).await
}

async fn guessed_ids(port: u16) -> Option<()> {
    let mut device = hostile(port, "guesses").await?;
    for n in 0..100_000 {
        let guess = format!("neighbour-{:x}-{n}", rand::random::<u16>());
        let packet = with_properties("hostile/guess", &[("Nats-Msg-Id", guess)], n);
        device.send(&packet).await.then_some(())?;
    }
    Some(())
}

async fn forged_headers(port: u16) -> Option<()> {
    let mut device = hostile(port, "forges").await?;
    let forged = [
        "Mqtt-Retain",
        "Mqtt-Epoch",
        "Mqtt-Write",
        "Mqtt-Log",
        "Mqtt-Mac",
        "KV-Operation",
        "Nats-Expected-Last-Sequence",
    ];
    for n in 0..50_000 {
        let name = forged[n % forged.len()];
        let value = if name == "KV-Operation" { "PURGE".to_owned() } else { u64::MAX.to_string() };
        device.send(&with_properties("hostile/forged", &[(name, value)], n)).await.then_some(())?;
    }
    Some(())
}

async fn odd_subjects(port: u16) -> Option<()> {
    let mut device = hostile(port, "odd").await?;
    let spaces = ["\u{a0}", "\u{2028}", "\u{85}", "\u{feff}", "\u{3000}", "\t", " ", "*", ">", ".", "\u{c}"];
    for n in 0..20_000 {
        let topic = format!("hostile/caf{}e/{}", spaces[n % spaces.len()], "t".repeat(n % 400));
        let packet = match TopicName::new(topic.as_str()) {
            Ok(_) => with_properties(&topic, &[("a\u{a0}b", "c\u{2028}d".to_owned())], n),
            Err(_) => continue,
        };
        device.send(&packet).await.then_some(())?;
    }
    Some(())
}

async fn everything(port: u16) -> Option<()> {
    let mut device = durable(port, "everything").await?;
    device.send(&subscribe(1, std::iter::once("#".to_owned()), QoS::ExactlyOnce)).await.then_some(())?;
    stay(device).await
}

async fn wills(port: u16) -> Option<()> {
    loop {
        let will = msg("hostile/will", vec![0; 60_000]).qos(1);
        let mut device = Device::connect(port, Options::new(Version::V311, &name("will")).will(will), true).await?;
        device.send(&Packet::PubRel(Ack::new(packet_id(1), ReasonCode::Success))).await;
    }
}

async fn silent_readers(port: u16, qos: u8) -> Option<()> {
    let mut readers = Vec::new();
    for n in 0..300 {
        let mut reader = Device::connect(port, Options::v5(&name("silent")), false).await?;
        let level = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let filter = std::iter::once("hostile/silent/#".to_owned());
        reader.send(&subscribe(n, filter, level)).await.then_some(())?;
        readers.push(reader);
    }
    let mut loud = JoinSet::new();
    for n in 0..8 {
        loud.spawn(async move {
            let mut publisher = hostile(port, "loud").await?;
            let payload = Bytes::from(vec![0; 1_000]);
            for id in 0.. {
                let packet = publish(&format!("hostile/silent/{n}"), payload.clone(), qos, id);
                publisher.send(&packet).await.then_some(())?;
            }
            Some(())
        });
    }
    while loud.join_next().await.is_some() {}
    stay(readers).await
}

async fn unread_acks(port: u16) -> Option<()> {
    let mut deaf = JoinSet::new();
    for _ in 0..200 {
        deaf.spawn(async move {
            let mut device = Device::connect(port, Options::v5(&name("deaf")), false).await?;
            for id in 0.. {
                device.send(&publish("hostile/deaf", vec![0; 16], 1, id)).await.then_some(())?;
            }
            Some(())
        });
    }
    while deaf.join_next().await.is_some() {}
    Some(())
}

async fn half_packets(port: u16) -> Option<()> {
    let mut devices = Vec::new();
    for _ in 0..200 {
        let mut device = hostile(port, "half").await?;
        // A PUBLISH of 900 KiB.
        let mut start = vec![0x30, 0x80, 0xA0, 0x38, 0, 1, b'h'];
        start.resize(800 * 1024, b'.');
        // What is not taken is held up by TCP.
        let _ = tokio::time::timeout(Duration::from_millis(20), device.raw(&start)).await;
        devices.push(device);
    }
    stay(devices).await
}
