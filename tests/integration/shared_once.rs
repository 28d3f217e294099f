//! Shared subscriptions at QoS 2: each message comes to one member and once, whatever dies or breaks between the session's
//! progress and the group's consumer.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use mqtt_codec::{Ack, Packet, ReasonCode};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::harness::relay::Relay;
use crate::harness::{Client, Ended, NatsServer, Options, PATIENCE, SidecarBuilder, eventually, msg, shown};
use crate::shared::{Crew, consumer, member, numbered};
use crate::shared_faults::quick;

const AWAY: u32 = 3_600;

/// A sidecar is killed when a message is saved as a session's and the consumer has not heard of it.
async fn killed_between_the_session_and_the_consumer(is_back_at_once: bool) {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let relayed = SidecarBuilder::new("a", &["--nats", &relay.url()]);
    let mut a = relayed.set("JETSTREAM__SHARED__ACK_WAIT", "2s").start().await;
    let b = quick(&nats, "b").await;
    let mut began = a.connect(Options::v5("began").durable(AWAY)).await;
    began.subscribe("$share/g/q", 2).await;
    let mut other = member(&b, "other", "$share/h/q", 2).await;
    let mut publisher = b.v5("pub").await;
    // The command, and not the progress, which names it too.
    let answer = "PUB $JS.ACK.MQTT_log.g@q.";
    relay.lose(answer);
    publisher.publish(msg("q", "0").qos(2)).await;
    relay.has_held(answer).await;
    // What the client gets cannot come to anybody else.
    assert_eq!(began.try_receive(Duration::from_millis(200)).await, Err(Ended::Silent));
    a.kill();
    // Another group, whose message of the same place is no claim of this one.
    assert_eq!(other.receive_shown().await, "q 0 qos2");
    other.subscribe("$share/g/q", 2).await;
    let longer_than_the_consumer_waits = Duration::from_secs(4);
    if !is_back_at_once {
        assert_eq!(other.try_receive(longer_than_the_consumer_waits).await, Err(Ended::Silent));
    }
    let client = nats.client().await;
    let mut again = b.connect(Options::v5("began").durable(AWAY)).await;
    assert_eq!(shown(&again.receive().await), "q 0 qos2 dup");
    again.ping().await;
    if is_back_at_once {
        assert_eq!(other.try_receive(longer_than_the_consumer_waits).await, Err(Ended::Silent));
    }
    eventually("it is acknowledged", async || consumer(&client, "g@q").await["num_ack_pending"] == 0).await;
    assert_eq!(again.try_receive(Duration::from_millis(100)).await, Err(Ended::Silent));
    publisher.publish(msg("q", "1").qos(2)).await;
    assert_eq!(other.receive_shown().await, "q 1 qos2");
}

/// [MQTT-4.8.2-4]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_has_is_left_to_it_when_the_consumer_did_not_hear_of_it() {
    killed_between_the_session_and_the_consumer(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_before_the_consumer_gives_it_to_others_finishes_it() {
    killed_between_the_session_and_the_consumer(true).await;
}

/// A message that was not saved as a session's is nobody's, and goes to another member.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_saved_as_a_session_s_goes_to_another_member() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let relayed = SidecarBuilder::new("a", &["--nats", &relay.url()]);
    let mut a = relayed.set("JETSTREAM__SHARED__ACK_WAIT", "2s").start().await;
    let b = quick(&nats, "b").await;
    let mut began = a.connect(Options::v5("began").durable(AWAY)).await;
    began.subscribe("$share/g/q", 2).await;
    let mut publisher = b.v5("pub").await;
    // In the progress, and nowhere else.
    let saves = "\"in_flight\":[{\"packet_id\":1";
    relay.lose(saves);
    publisher.publish(msg("q", "0").qos(2)).await;
    relay.has_held(saves).await;
    a.kill();
    let mut other = member(&b, "other", "$share/g/q", 2).await;
    assert_eq!(other.receive_shown().await, "q 0 qos2");
    let mut again = b.connect(Options::v5("began").durable(AWAY)).await;
    assert_eq!(again.try_receive(Duration::from_millis(300)).await, Err(Ended::Silent));
}

/// A member whose connections break all the time, now at one sidecar and now at the other. It says what it gets, each message
/// once as its packet ids tell.
async fn fickle(ports: [u16; 2], id: &'static str, filter: &'static str, got: UnboundedSender<(String, String)>) {
    let mut open = HashSet::new();
    for turn in 0.. {
        let mut client = Client::connect(ports[turn % 2], Options::v5(id).durable(AWAY)).await;
        if turn == 0 {
            assert_eq!(client.asks_for(filter, 2).await, ReasonCode::GrantedQoS2);
        }
        for _ in 0..1 + turn * 7 % 29 {
            match client.packet(Instant::now() + PATIENCE).await {
                Ok(Packet::Publish(publish)) => {
                    let packet_id = publish.packet_id().unwrap();
                    if open.insert(packet_id) {
                        let _ = got.send((id.to_owned(), String::from_utf8_lossy(&publish.payload).into_owned()));
                    }
                    client.write(&Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)));
                }
                Ok(Packet::PubRel(ack)) => {
                    open.remove(&ack.packet_id);
                    client.write(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // Sometimes the last acknowledgement leaves.
        if turn % 3 == 0 {
            client.flush().await;
        }
        client.reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_connections_break_get_each_message_once() {
    const COUNT: usize = 400;
    let nats = NatsServer::start();
    let (a, b) = (quick(&nats, "a").await, quick(&nats, "b").await);
    let mut crew = Crew::new();
    let ports = [a.mqtt_port, b.mqtt_port];
    let members = ["one", "two", "three"].map(|id| tokio::spawn(fickle(ports, id, "$share/g/q/#", crew.sender())));
    let client = nats.client().await;
    eventually("they are members", async || {
        a.metric("mqtt_shared_members").await + b.metric("mqtt_shared_members").await == 3.0
    })
    .await;
    let mut publisher = b.v5("pub").await;
    publisher.publish_all(numbered("q/x", 0..COUNT, 2), 20, |_| {}).await;
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    while seen.len() < COUNT {
        for (who, payload) in crew.take(1).await {
            seen.entry(payload).or_default().push(who);
        }
    }
    eventually("all is acknowledged", async || consumer(&client, "g@q,#").await["num_ack_pending"] == 0).await;
    publisher.publish(msg("q/x", "end").qos(2)).await;
    while let Some((who, payload)) = crew.got.recv().await {
        if payload == "end" {
            break;
        }
        seen.entry(payload).or_default().push(who);
    }
    members.iter().for_each(tokio::task::JoinHandle::abort);
    let again: Vec<_> = seen.iter().filter(|(_, who)| who.len() > 1).collect();
    assert!(again.is_empty(), "{again:?}");
    assert!(seen.values().flatten().collect::<HashSet<_>>().len() == 3, "all have worked");
}
