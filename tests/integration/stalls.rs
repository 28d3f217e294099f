//! JetStream stands still, or a sidecar is without it, for longer than a lease: who is connected stays, unless somebody else
//! has been given the session meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use mqtt_codec::{Packet, PacketId, ReasonCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::harness::relay::Relay;
use crate::harness::sessions::record;
use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, heavy, js_api, msg, shown,
};

/// Longer than a lease, and than a QoS 1 message that is not answered was waited for once.
const STALL: Duration = Duration::from_secs(25);
/// How often a device says that it is there, with a keep alive of [`KEEP_ALIVE_S`].
const PING_EVERY: Duration = Duration::from_secs(4);
const KEEP_ALIVE_S: u16 = 10;
const LONG: u32 = 3600;
/// Longer than a lease takes to end, and to be noticed.
const ADOPTED_WITHIN: Duration = Duration::from_secs(40);

/// Asks every client and gets its answer.
async fn ping_all(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client.write(&Packet::PingReq);
        client.flush().await;
    }
    for client in clients {
        client.other(|packet| matches!(packet, Packet::PingResp)).await;
    }
}

/// They ping as devices do, until then.
async fn live(clients: &mut [Client], until: Instant) {
    while Instant::now() < until {
        let next = Instant::now() + PING_EVERY;
        ping_all(clients).await;
        sleep_until(next.min(until)).await;
    }
}

async fn acknowledged(client: &mut Client, id: PacketId) {
    let is_it =
        |packet: &Packet| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id && !ack.reason.is_error());
    client.other(is_it).await;
}

async fn silent(client: &mut Client, patience: Duration) {
    assert_eq!(client.try_receive(patience).await.map(|message| shown(&message)), Err(Ended::Silent));
}

/// Devices with a will.
async fn devices(sidecar: &Sidecar, name: &str, count: usize, keep_alive_s: u16) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        let id = format!("{name}-{number}");
        let will = msg(&format!("wills/{id}"), "gone").qos(1);
        let options = if number % 2 == 0 { Options::v311(&id) } else { Options::v5(&id).durable(LONG) };
        clients.push(sidecar.connect(options.keep_alive(keep_alive_s).will(will)).await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn when_jetstream_stands_still_no_device_is_cut_no_will_goes_out_and_every_publish_is_acknowledged() {
    const COUNT: usize = 120;
    let _turn = heavy().await;
    let world = World::own().await;
    let mut heir = world.b.v5("heir").await;
    heir.subscribe("wills/#", 1).await;
    let mut listener = world.a.connect(Options::v5("listener").durable(LONG).keep_alive(KEEP_ALIVE_S)).await;
    listener.subscribe("later/#", 1).await;
    listener.subscribe("now/#", 0).await;
    let mut away = world.b.connect(Options::v5("away").durable(LONG)).await;
    away.subscribe("later/#", 1).await;
    away.goodbye().await;
    let mut clients = devices(&world.a, "a", COUNT, KEEP_ALIVE_S).await;
    clients.extend(devices(&world.b, "b", COUNT, KEEP_ALIVE_S).await);

    world.nats.pause();
    let until = Instant::now() + STALL;
    let mut waiting = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        waiting.push(client.start_publish(&msg(&format!("later/{number}"), "stored").qos(1)).unwrap());
        client.flush().await;
    }
    let mut round = 0;
    while Instant::now() < until {
        let next = Instant::now() + PING_EVERY;
        ping_all(&mut clients).await;
        clients[0].start_publish(&msg("now/x", round.to_string()));
        clients[0].flush().await;
        assert_eq!(listener.receive_shown().await, format!("now/x {round} qos0"), "QoS 0 goes on");
        listener.ping().await;
        heir.ping().await;
        round += 1;
        sleep_until(next.min(until)).await;
    }
    world.nats.go_on();

    for (client, id) in clients.iter_mut().zip(waiting) {
        acknowledged(client, id).await;
    }
    let mut got = Vec::new();
    for _ in 0..2 * COUNT {
        got.push(listener.receive_shown().await);
    }
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 2 * COUNT, "each came once");
    // Longer than those wait who look after sessions of others.
    live(&mut clients, Instant::now() + 2 * PING_EVERY).await;
    silent(&mut heir, Duration::ZERO).await;

    // Sessions go on, whether they were connected or not.
    let mut away = world.a.connect_in_the_end(Options::v5("away").durable(LONG)).await;
    assert!(away.is_resumed());
    clients[1].publish(msg("later/again", "x").qos(1)).await;
    assert_eq!(listener.receive_shown().await, "later/again x qos1");
    // What a connection had in flight that was given up without an answer comes once more.
    let mut got = HashSet::new();
    loop {
        let shown = away.receive_shown().await;
        if shown == "later/again x qos1" {
            break;
        }
        assert!(shown.ends_with(" stored qos1"), "{shown}");
        got.insert(shown);
    }
    assert_eq!(got.len(), 2 * COUNT, "each came");
    for sidecar in [&world.a, &world.b] {
        assert!((sidecar.metric("mqtt_sessions_adopted_total").await).abs() < 0.5, "nobody took anything from anybody");
    }
}

/// What a sidecar without JetStream had is adopted, and ends when it is back: no will comes twice.
async fn expect_adoption(heir: &mut Client, others: &Sidecar, nats: &async_nats::Client, names: &[&str]) {
    let mut wills = Vec::new();
    for _ in names {
        match heir.try_receive(ADOPTED_WITHIN).await {
            Ok(will) => wills.push(shown(&will)),
            Err(ended) => panic!("{ended:?} while it waits for a will; got {wills:?}"),
        }
    }
    wills.sort();
    let expected: Vec<String> = names.iter().map(|name| format!("wills/{name} gone qos1")).collect();
    assert_eq!(wills, expected);
    for name in names {
        if let Some((_, record)) = record(nats, name).await {
            assert_eq!(record["connected"], false, "{name}");
        }
    }
    // Somebody to talk to meanwhile.
    others.v5("neighbour").await.ping().await;
}

/// Those that were adopted are told so, and the wills do not come again.
async fn expect_end(clients: &mut [Client], heir: &mut Client) {
    for client in clients.iter_mut() {
        let is_v5 = client.id().ends_with(['1', '3', '5', '7', '9']);
        assert_eq!(client.closed().await, is_v5.then_some(ReasonCode::SessionTakenOver), "{}", client.id());
    }
    silent(heir, Duration::from_secs(2)).await;
}

const NAMES: [&str; 4] = ["d-0", "d-1", "d-2", "d-3"];

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_stopped_while_others_adopted_ends_what_they_have() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut heir = world.b.v5("heir").await;
    heir.subscribe("wills/#", 1).await;
    let mut clients = devices(&world.a, "d", NAMES.len(), 0).await;
    world.a.signal(Signal::STOP);
    let until = Instant::now() + Duration::from_secs(40);
    expect_adoption(&mut heir, &world.b, &nats, &NAMES).await;
    sleep_until(until).await;
    world.a.signal(Signal::CONT);
    expect_end(&mut clients, &mut heir).await;
    let back = world.a.connect_in_the_end(Options::v5("d-1").durable(LONG)).await;
    assert!(back.is_resumed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_cut_off_while_others_adopted_ends_what_they_have_and_no_more() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let a = SidecarBuilder::new("sidecar a", &["--nats", &relay.url()]).start().await;
    let b = Sidecar::start(&nats, "sidecar b").await;
    let reader = nats.client().await;
    let mut heir = b.v5("heir").await;
    heir.subscribe("wills/#", 1).await;
    let mut clients = devices(&a, "d", NAMES.len(), 0).await;
    // What it has from them is of the past when it is back.
    relay.dark(true);
    clients[0].start_publish(&msg("late/x", "too late").qos(1));
    clients[0].flush().await;
    let until = Instant::now() + Duration::from_secs(35);
    expect_adoption(&mut heir, &b, &reader, &NAMES).await;
    // Nobody has anything of this one: it came when the others had looked.
    let mut loner = a.connect(Options::v5("loner").keep_alive(KEEP_ALIVE_S)).await;
    live(std::slice::from_mut(&mut loner), until).await;
    relay.dark(false);
    expect_end(&mut clients, &mut heir).await;
    loner.ping().await;
    loner.publish(msg("loner/x", "there").qos(1)).await;
    let back = a.connect_in_the_end(Options::v5("d-1").durable(LONG)).await;
    assert!(back.is_resumed());
    loner.ping().await;
}

/// The leases of nodes, and whether they are held.
async fn leases(nats: &async_nats::Client) -> Vec<(String, bool)> {
    let info = js_api(nats, "STREAM.INFO.KV_MQTT_nodes", &json!({ "subjects_filter": ">" })).await;
    let subjects = info["state"]["subjects"].as_object().expect("subjects").keys().cloned();
    let mut leases = Vec::new();
    // Leads have a token more.
    for subject in subjects.filter(|subject| subject.split('.').count() == 3) {
        let last = js_api(nats, "STREAM.MSG.GET.KV_MQTT_nodes", &json!({ "last_by_subj": subject })).await;
        leases.push((subject, last["message"]["data"].is_string()));
    }
    leases
}

/// Ends all leases, as a server does whose clock was put forward.
async fn end_leases(nats: &async_nats::Client) {
    for (subject, _) in leases(nats).await {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Marker-Reason", "MaxAge");
        let stored = nats.request_with_headers(subject, headers, "".into()).await.expect("an answer");
        let stored: Value = serde_json::from_slice(&stored.payload).expect("JSON");
        assert!(stored["error"].is_null(), "{stored}");
    }
    assert!(leases(nats).await.iter().any(|(_, is_held)| !is_held), "some are not taken again yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_end_before_their_time_are_taken_again_and_nobody_adopts() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut heir = world.b.v5("heir").await;
    heir.subscribe("wills/#", 1).await;
    let mut clients = devices(&world.a, "a", 4, KEEP_ALIVE_S).await;
    clients.extend(devices(&world.b, "b", 4, KEEP_ALIVE_S).await);
    // Who has just come takes nothing in any case.
    live(&mut clients, Instant::now() + 3 * PING_EVERY).await;
    end_leases(&nats).await;
    eventually("they are taken again", async || leases(&nats).await.iter().all(|(_, is_held)| *is_held)).await;
    live(&mut clients, Instant::now() + 3 * PING_EVERY).await;
    silent(&mut heir, Duration::ZERO).await;
    for sidecar in [&world.a, &world.b] {
        assert!((sidecar.metric("mqtt_sessions_adopted_total").await).abs() < 0.5, "nobody took anything from anybody");
    }
    let mut back = world.b.connect(Options::v5("a-1").durable(LONG)).await;
    assert!(back.is_resumed());
    back.ping().await;
}
