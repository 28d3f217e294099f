//! What a service manager is told, by a test in its place.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::harness::{NatsServer, PATIENCE, SidecarBuilder, eventually, unique};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// With an abstract name, that no file has.
    fn open() -> Self {
        let name = format!("{}-{}", unique("nats-mqtt-manager"), std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self { socket, name: format!("@{name}") }
    }

    fn of(&self, builder: SidecarBuilder) -> SidecarBuilder {
        builder.variable("NOTIFY_SOCKET", &self.name)
    }

    /// What has come since it was asked last.
    fn heard(&self) -> Vec<String> {
        let mut room = [0; 4096];
        let mut heard = Vec::new();
        while let Ok(count) = self.socket.recv(&mut room) {
            heard.push(String::from_utf8(room[..count].to_vec()).unwrap());
        }
        heard
    }

    /// What it hears until one of it has this line.
    async fn hears(&self, line: &str) -> Vec<String> {
        let mut all = Vec::new();
        eventually(&format!("the service manager hears {line}"), async || {
            all.extend(self.heard());
            has(&all, line)
        })
        .await;
        all
    }
}

fn has(heard: &[String], line: &str) -> bool {
    heard.iter().any(|message| message.lines().any(|it| it.starts_with(line)))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_devices_are_served_and_asks_for_more_time_before() {
    let (manager, mut nats) = (Manager::open(), NatsServer::prepared(true, ""));
    let mut sidecar = manager.of(SidecarBuilder::of(&nats, "sidecar")).launch();
    let mut before = manager.hears("EXTEND_TIMEOUT_USEC=30000000").await;
    assert!(has(&before, "STATUS=waiting for nats"), "{before:?}");
    // The next one: it goes on asking.
    before.extend(manager.hears("EXTEND_TIMEOUT_USEC=").await);
    assert!(!has(&before, "READY"), "nobody is served: {before:?}");
    nats.restart();
    let starting = manager.hears("READY=1").await;
    assert!(has(&starting, "STATUS=ready: MQTT on 127.0.0.1:"), "{starting:?}");
    // What was said is so.
    sidecar.v5("device").await.ping().await;
    sidecar.terminate();
    let ending = manager.hears("STOPPING=1").await;
    assert!(has(&ending, "EXTEND_TIMEOUT_USEC=") && !has(&ending, "READY"), "{ending:?}");
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_it_twice_in_its_time_while_nats_is_away_too() {
    const WITHIN: Duration = Duration::from_millis(600);
    let (manager, nats) = (Manager::open(), NatsServer::prepared(true, ""));
    let builder = manager.of(SidecarBuilder::of(&nats, "sidecar"));
    let _sidecar = builder.variable("WATCHDOG_USEC", &WITHIN.as_micros().to_string()).launch();
    manager.hears("WATCHDOG=1").await;
    let since = Instant::now();
    let mut count = 0;
    while since.elapsed() < 4 * WITHIN {
        count += manager.heard().iter().filter(|message| *message == "WATCHDOG=1\n").count();
    }
    // Eight; a machine that is busy is late.
    assert!((4..=9).contains(&count), "{count} times in four times its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_hears_nothing() {
    let (manager, nats) = (Manager::open(), NatsServer::start());
    let builder = manager.of(SidecarBuilder::of(&nats, "sidecar"));
    let builder = builder.variable("WATCHDOG_USEC", "200000").variable("WATCHDOG_PID", "1");
    let _sidecar = builder.start().await;
    let heard = manager.hears("READY=1").await;
    assert!(!has(&heard, "WATCHDOG"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_gone_disturbs_nobody() {
    let nats = NatsServer::start();
    for name in ["/nowhere/notify", "@nats-mqtt-nobody", "relative"] {
        let mut sidecar = SidecarBuilder::of(&nats, "sidecar").variable("NOTIFY_SOCKET", name).start().await;
        sidecar.v5("device").await.ping().await;
        let status = tokio::time::timeout(PATIENCE, sidecar.stop()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
    }
}
