//! A certificate is replaced while many clients are connected and some of them publish.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mqtt_codec::ReasonCode;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

use super::{Pki, connector, tunnel};
use crate::harness::{Client, NatsServer, Options, eventually, heavy, msg};

/// So many clients are connected when a certificate is replaced, where the system lets them have as many files.
const CLIENTS: u64 = 1_000;
/// Those of them who publish meanwhile.
const PUBLISHERS: usize = 20;
/// How long the new one may take to be shown.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);

/// Clients for whom there are files: here one for its socket, two for the tunnel, and one at the sidecar.
fn clients_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // As the sidecar does; where it cannot be, it stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    CLIENTS.min(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(500) / 4)
}

/// One that publishes, numbered, until this says that it is enough; and how many.
async fn publishing(mut client: Client, acked: Arc<AtomicUsize>, enough: Arc<AtomicBool>) -> (Client, usize) {
    let mut count = 0;
    while !enough.load(Relaxed) {
        let message = msg("load", format!("{} {count}", client.id())).qos(1);
        assert_eq!(client.publish(message).await, ReasonCode::Success, "{}", client.id());
        count += 1;
        acked.fetch_add(1, Relaxed);
    }
    (client, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_a_thousand_clients_and_what_they_publish() {
    let _turn = heavy().await;
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let sidecar = pki.start(&nats, "", "").await;
    let port = tunnel(&pki, &sidecar, None).await;
    let connecting = (0..clients_max()).map(|n| Client::connect(port, Options::v5(&format!("c-{n}"))));
    let mut clients: Vec<Client> = futures_util::stream::iter(connecting).buffered(50).collect().await;
    let (acked, enough) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let mut subscriber = clients.pop().unwrap();
    subscriber.subscribe("load", 1).await;
    let hearing = tokio::spawn(async move { (subscriber.receive_until("end").await, subscriber) });
    let publishers = clients.split_off(clients.len() - PUBLISHERS);
    let publishers = publishers
        .into_iter()
        .map(|client| tokio::spawn(publishing(client, Arc::clone(&acked), Arc::clone(&enough))))
        .collect::<Vec<_>>();
    let more = async || {
        let before = acked.load(Relaxed);
        eventually("publishes go on", async || acked.load(Relaxed) >= before + 500).await;
    };
    more().await;
    let connector = connector(&pki, None);
    let shows = async |name: &'static str| {
        let stream = TcpStream::connect(("127.0.0.1", sidecar.mqtt_port)).await.unwrap();
        connector.connect(name.try_into().unwrap(), stream).await.is_ok()
    };
    assert!(shows("localhost").await && !shows("new.example").await);
    pki.issue("server", CertificateParams::new(vec!["new.example".to_owned()]).unwrap());
    let (replaced, mut began) = (Instant::now(), Instant::now());
    eventually("the new one is shown", async || {
        began = Instant::now();
        shows("new.example").await
    })
    .await;
    let after = began - replaced;
    println!("shown to one who came {after:?} after it was replaced");
    assert!(after < SHOWN_WITHIN, "{after:?}");
    assert!(!shows("localhost").await);
    more().await;
    pki.put("server.key", &KeyPair::generate().unwrap().serialize_pem());
    eventually("a bad one is said", async || {
        let log = sidecar.log();
        log.contains("TLS goes on as it was: key_file: ") && log.contains("it is not the key of the certificate in ")
    })
    .await;
    assert!(shows("new.example").await);
    enough.store(true, Relaxed);
    let mut expected = HashSet::new();
    for publisher in publishers {
        let (client, count) = publisher.await.unwrap();
        expected.extend((0..count).map(|n| format!("{} {n}", client.id())));
        clients.push(client);
    }
    clients[0].publish(msg("load", "end").qos(1)).await;
    let (heard, subscriber) = hearing.await.unwrap();
    clients.push(subscriber);
    heard.iter().for_each(|publish| _ = expected.remove(std::str::from_utf8(&publish.payload).unwrap()));
    assert!(expected.is_empty(), "{} of {} are lost", expected.len(), acked.load(Relaxed));
    println!("{} publishes", acked.load(Relaxed));
    let pinging = clients.into_iter().map(|mut client| async move { client.ping().await });
    futures_util::stream::iter(pinging).buffered(50).collect::<()>().await;
}
