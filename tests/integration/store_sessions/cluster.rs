//! The same with three replicas, where a write is agreed on before it is applied, and leaders come and go.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nats_mqtt::store::{LeaseTimes, Loaded, Store, WriteError};

use super::{open_with, progress, record};
use crate::harness::{NatsServer, heavy, stream_info};

fn cluster() -> Vec<NatsServer> {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("bind")).collect();
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    drop(listeners);
    let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let member = |(number, port): (usize, &u16)| {
        let cluster = format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}", routes.join(", "));
        NatsServer::start_with(true, &format!("server_name: n{number}\n{cluster}"))
    };
    ports.iter().enumerate().map(member).collect()
}

/// As a sidecar has to: after an outage it looks what is there before it goes on.
async fn put_until_known(store: &Store, client_id: &str, epoch: u64) -> u64 {
    loop {
        let Ok(loaded) = store.sessions().load(client_id).await else { continue };
        if loaded.record.as_ref().is_some_and(|record| record.epoch == epoch) {
            return loaded.sequence;
        }
        match store.sessions().put_record(&record(client_id, epoch), loaded.sequence, None).await {
            Ok(sequence) => return sequence,
            Err(WriteError::Unavailable { .. } | WriteError::Fenced) => {}
            Err(error) => panic!("{client_id}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_agree_on_one_owner_through_the_loss_of_a_leader() {
    const COUNT: u32 = 1_000;
    let _turn = heavy().await;
    let mut servers = cluster();
    let (a, b) = (open_with(servers[0].url(), 3).await, open_with(servers[1].url(), 3).await);
    let ids: Vec<String> = (0..COUNT).map(|number| format!("c{number}")).collect();

    let since = Instant::now();
    let connects = ids.iter().map(|id| async {
        let loaded = a.sessions().load(id).await.unwrap();
        let fence = a.sessions().put_record(&record(id, 1), loaded.sequence, None).await.unwrap();
        a.sessions().put_progress(id, &progress(1, 1), fence, None).await.unwrap();
        fence
    });
    let fences: Vec<u64> = join_all(connects).await;
    println!("load, put_record and put_progress, R3: {:.0}/s", f64::from(COUNT) / since.elapsed().as_secs_f64());

    // Both want every session; one gets it, and the other one is told so. It then cannot write progress.
    let (a, b) = (&a, &b);
    let races = ids.iter().zip(&fences).map(|(id, fence)| async move {
        let (of_a, of_b) = (record(id, 2), record(id, 3));
        let puts = futures_util::join!(
            a.sessions().put_record(&of_a, *fence, None),
            b.sessions().put_record(&of_b, *fence, None)
        );
        let (epoch, sequence) = match puts {
            (Ok(sequence), Err(WriteError::Fenced)) => (2, sequence),
            (Err(WriteError::Fenced), Ok(sequence)) => (3, sequence),
            other => panic!("{id}: {other:?}"),
        };
        let expected = Loaded { record: Some(record(id, epoch)), sequence, newer: None };
        assert_eq!(b.sessions().load(id).await.unwrap(), expected);
        assert_eq!(b.sessions().put_progress(id, &progress(9, 9), *fence, None).await, Err(WriteError::Fenced));
        a.sessions().put_progress(id, &progress(epoch, 5), sequence, None).await.unwrap();
        assert_eq!(b.sessions().load_progress(id).await.unwrap(), Some(progress(epoch, 5)));
    });
    join_all(races).await;

    let info = stream_info(&servers[2].client().await, "KV_MQTT_sessions").await;
    let leader: usize = info["cluster"]["leader"].as_str().unwrap().trim_start_matches('n').parse().unwrap();
    let writes = ids.iter().map(|id| put_until_known(b, id, 10));
    let kill = async { servers[leader].kill() };
    let (fences, ()) = futures_util::join!(join_all(writes), kill);
    for (id, fence) in ids.iter().zip(fences) {
        let loaded = loop {
            if let Ok(loaded) = b.sessions().load(id).await {
                break loaded;
            }
        };
        assert_eq!(loaded, Loaded { record: Some(record(id, 10)), sequence: fence, newer: None }, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_the_loss_of_a_leader() {
    let _turn = heavy().await;
    let mut servers = cluster();
    let info = async |servers: &[NatsServer], at: usize| {
        let info = stream_info(&servers[at].client().await, "KV_MQTT_nodes").await;
        info["cluster"]["leader"].as_str().unwrap().trim_start_matches('n').parse::<usize>().unwrap()
    };
    let first = open_with(servers[0].url(), 3).await;
    let leader = info(&servers, 0).await;
    drop(first);
    let other = (leader + 1) % 3;
    let store = open_with(servers[other].url(), 3).await;
    let lease = store.nodes().acquire("a", Vec::new()).await.unwrap();
    // Just before it would be refreshed.
    let times = LeaseTimes::default();
    tokio::time::sleep(times.refresh_every - Duration::from_millis(300)).await;
    let since = Instant::now();
    servers[leader].kill();
    while store.nodes().is_alive("a").await.is_err() {}
    println!("the next leader answers after {:?}", since.elapsed());
    let mut state = lease.state();
    let lost = tokio::time::timeout(times.fence_after, state.wait_for(|state| !state.is_held())).await;
    println!("lost after {:?}: {}", since.elapsed(), lost.is_ok());
    assert!(lost.is_err(), "it was not refreshed for {:?}", since.elapsed());
    assert!(store.nodes().is_alive("a").await.unwrap());
}
