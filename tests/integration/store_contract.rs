//! What the three seams of the store promise (`tests/contract`), kept by JetStream. Memory keeps it in unit tests.

#[path = "../contract/mod.rs"]
mod contract;

use self::contract::Side;
use crate::harness::relay::Relay;
use crate::harness::{NatsServer, Watch};
use crate::store_sessions::{TIMES, open};

use nats_mqtt::store::{JetStreamLog, NatsPeers, Sessions, Store};

/// Two sidecars on one nats-server, one of them behind a relay.
struct NatsBench {
    nats: NatsServer,
    relay: Relay,
    near: Side<Self>,
    far: Side<Self>,
    /// They live as long as what is made of them.
    _stores: [Store; 2],
}

fn side(store: &Store) -> Side<NatsBench> {
    let (sessions, log) = (store.sessions().clone(), store.message_log());
    Side { sessions, log, peers: store.peers().with_times(TIMES) }
}

impl contract::Bench for NatsBench {
    type Sessions = Sessions;
    type Log = JetStreamLog;
    type Peers = NatsPeers;

    async fn start() -> Self {
        let nats = NatsServer::start();
        let relay = Relay::start(nats.url()).await;
        let stores = [open(nats.url()).await, open(relay.url()).await];
        let [near, far] = [side(&stores[0]), side(&stores[1])];
        Self { nats, relay, near, far, _stores: stores }
    }

    fn near(&self) -> &Side<Self> {
        &self.near
    }

    fn far(&self) -> &Side<Self> {
        &self.far
    }

    fn lose_answers(&self) {
        self.relay.mute(true);
    }

    fn hold(&self) {
        self.relay.hold();
    }

    async fn has_held(&self) {
        self.relay.has_held("HPUB $KV.MQTT_sessions.").await;
    }

    async fn release(&self) {
        let mut writes = Watch::new(&self.nats.client().await, "$KV.MQTT_sessions.>").await;
        self.relay.release();
        writes.next().await;
    }

    fn stall(&self) {
        self.relay.dark(true);
    }

    fn mend(&self) {
        self.relay.dark(false);
        self.relay.cut();
    }
}

mod session_store {
    use super::{NatsBench, contract};

    contract::session_contract!(tokio::test(flavor = "multi_thread"), NatsBench);
}

mod message_log {
    use super::{NatsBench, contract};

    contract::log_contract!(tokio::test(flavor = "multi_thread"), NatsBench);
}

mod peers {
    use super::{NatsBench, contract};

    contract::peers_contract!(tokio::test(flavor = "multi_thread"), NatsBench);
}
