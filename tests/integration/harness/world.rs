//! A nats-server with two sidecars. Tests that disturb nobody share one: the first of them starts it, the last one
//! stops it.

use std::ops::Deref;
use std::sync::{Arc, LazyLock, Weak};

use tokio::sync::Mutex;

use super::{NatsServer, Sidecar};

/// A nats-server with two sidecars.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) a: Sidecar,
    pub(crate) b: Sidecar,
    pub(crate) nats: NatsServer,
}

/// The part of one test in the world that tests share.
#[derive(Debug)]
pub(crate) struct Shared(Arc<World>);

impl World {
    /// One for a test that kills and restarts.
    pub(crate) async fn own() -> Self {
        let nats = NatsServer::start();
        let a = Sidecar::start(&nats, "sidecar a").await;
        let b = Sidecar::start(&nats, "sidecar b").await;
        Self { a, b, nats }
    }

    /// The one that is shared. Use [`super::unique`] for topics and client ids.
    pub(crate) async fn shared() -> Shared {
        // Nothing in it belongs to the runtime of the test that starts it.
        static CURRENT: LazyLock<Mutex<Weak<World>>> = LazyLock::new(Mutex::default);
        let mut current = CURRENT.lock().await;
        if let Some(world) = current.upgrade() {
            return Shared(world);
        }
        let world = Arc::new(Self::own().await);
        *current = Arc::downgrade(&world);
        Shared(world)
    }
}

impl Deref for Shared {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // When this is the last one, the processes show their logs themselves.
        if std::thread::panicking() && Arc::strong_count(&self.0) > 1 {
            self.0.nats.show_log();
            self.0.a.show_log();
            self.0.b.show_log();
        }
    }
}
