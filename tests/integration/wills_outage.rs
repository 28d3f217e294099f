//! What CONNECT and DISCONNECT promise of a will while JetStream is away: an accepted will is known to others, that of a
//! refused CONNECT is nobody's, and a connection is closed behind a goodbye when its will is taken back.

use std::time::Duration;

use mqtt_codec::{Packet, ReasonCode};

use crate::harness::relay::Relay;
use crate::harness::sessions::record;
use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, eventually, msg};

/// CONNECT is answered within this, whatever is away.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

async fn behind(relay: &Relay) -> Sidecar {
    SidecarBuilder::new("sidecar a", &["--nats", &relay.url()]).start().await
}

async fn reason(sidecar: &Sidecar, options: Options) -> ReasonCode {
    let opened = tokio::time::timeout(ANSWERED_WITHIN, Client::open(sidecar.mqtt_port, options)).await;
    opened.expect("CONNECT is answered").connack.reason
}

/// [MQTT-3.1.2-7]
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_is_accepted_only_when_its_will_is_known_to_others() {
    let mut nats = NatsServer::start();
    let a = Sidecar::start(&nats, "sidecar a").await;
    let will = |options: Options, qos| options.will(msg("will/x", "gone").qos(qos));
    // Mode `nats` lets in only whom it knows.
    a.v5("known").await.goodbye().await;
    nats.kill();
    eventually("the sidecar notices", async || a.answers("/readyz", 503).await).await;
    let [v5, v311, none] = [will(Options::v5("v5"), 0), will(Options::v311("v311"), 1), Options::v5("none")];
    let (v5, v311, none) = tokio::join!(reason(&a, v5.clone()), reason(&a, v311.clone()), reason(&a, none.clone()));
    assert_eq!((v5, v311), (ReasonCode::ServerUnavailable, ReasonCode::ServerUnavailable));
    assert_eq!(none, ReasonCode::Success, "a clean session without a will needs nobody");
    nats.restart();
    let reader = nats.client().await;
    for id in ["v5", "v311"] {
        let options = will(if id == "v5" { Options::v5(id) } else { Options::v311(id) }, 1);
        let mut client = None;
        eventually("it is accepted", async || {
            let opened = Client::open(a.mqtt_port, options.clone()).await;
            client = Some(opened).filter(|client| client.connack.reason == ReasonCode::Success);
            client.is_some()
        })
        .await;
        let (_, record) = record(&reader, id).await.expect("its record is there when CONNACK is");
        assert_eq!((&record["connected"], &record["will"]["topic"]), (&true.into(), &"will/x".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_connect_without_an_answer_is_not_published_here_though_its_record_was_written() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let (a, b) = (behind(&relay).await, Sidecar::start(&nats, "sidecar b").await);
    let mut watcher = b.v5("watch").await;
    watcher.subscribe("will/#", 1).await;
    relay.mute_at("HPUB $KV.MQTT_sessions.ghost ");
    let with_will = Options::v5("ghost").will(msg("will/ghost", "gone").qos(1));
    let opened = tokio::time::timeout(ANSWERED_WITHIN, Client::try_open(a.mqtt_port, with_will.clone())).await;
    // A refusal would promise that nobody publishes its will, and others see that it is connected.
    assert_eq!(opened.expect("the connection is closed").err(), Some(Ended::Closed));
    let reader = nats.client().await;
    let (_, left) = record(&reader, "ghost").await.expect("the write has arrived");
    assert_eq!(left["connected"], true);
    relay.cut();
    eventually("it serves again", async || a.answers("/readyz", 200).await).await;
    let mut client = a.connect(with_will).await;
    client.publish(msg("will/ghost", "here").qos(1)).await;
    assert_eq!(watcher.receive_shown().await, "will/ghost here qos1", "it was never gone");
    // That of a CONNECT that was accepted is.
    client.reset();
    assert_eq!(watcher.receive_shown().await, "will/ghost gone qos1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_behind_a_goodbye_when_its_will_is_taken_back() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let a = behind(&relay).await;
    let will = || msg("will/x", "gone").qos(1);
    let mut leaving = Vec::new();
    for options in [Options::v5("clean").will(will()), Options::v5("durable").durable(3600).will(will())] {
        leaving.push(a.connect(options).await);
    }
    relay.dark(true);
    for client in &mut leaving {
        client.write(&Packet::Disconnect(mqtt_codec::Disconnect::new(ReasonCode::Success)));
        client.flush().await;
    }
    for client in &mut leaving {
        // A DISCONNECT of ours would come as a packet.
        let ended = client.try_receive(Duration::from_secs(1)).await.err();
        assert_eq!(ended, Some(Ended::Silent), "its will can still be published");
    }
    relay.dark(false);
    for client in &mut leaving {
        client.closed().await;
    }
    // Whoever finds the sidecar dead from now on publishes nothing.
    let reader = nats.client().await;
    assert_eq!(record(&reader, "clean").await, None);
    let (_, durable) = record(&reader, "durable").await.expect("the session goes on");
    assert_eq!((&durable["connected"], durable["will"].is_null()), (&false.into(), true));
}
