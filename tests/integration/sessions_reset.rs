//! A connection that dies in the middle of its CONNECT, and a client that is back at once: the session goes on, with all
//! that it is owed, and the newest connection is the one that has it.

use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};
use rustix::process::Signal;

use crate::harness::{Client, NatsServer, Options, Sidecar, World, msg, unique};

const LONG: u32 = 3600;

/// A session that is not connected, with a subscription and a message that waits for it.
struct Session {
    version: Version,
    id: String,
    topic: String,
}

impl Session {
    async fn new(sidecar: &Sidecar, publisher: &mut Client, version: Version) -> Self {
        let (topic, id) = (unique("reset"), unique("rs"));
        let session = Self { version, id, topic };
        let mut client = sidecar.connect(session.options()).await;
        client.subscribe(&session.topic, 1).await;
        client.goodbye().await;
        publisher.publish(msg(&session.topic, "queued").qos(1)).await;
        session
    }

    fn options(&self) -> Options {
        Options::new(self.version, &self.id).durable(LONG)
    }

    /// What is wrong with a connection that came behind others, if anything.
    async fn judge(&self, opened: Result<Client, crate::harness::Ended>) -> Option<String> {
        let mut client = match opened {
            Ok(client) => client,
            Err(ended) => return Some(format!("no CONNACK: {ended:?}")),
        };
        if client.connack.reason != ReasonCode::Success || !client.is_resumed() {
            return Some(format!("{:?}", client.connack));
        }
        match client.try_receive(Duration::from_secs(10)).await {
            Ok(publish) if publish.payload == "queued" => {}
            other => return Some(format!("{other:?} in place of the message")),
        }
        client.goodbye().await;
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_reset_in_its_connect_and_is_back_at_once_has_its_session() {
    const TRIES: usize = 80;
    let world = World::shared().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    for version in [Version::V311, Version::V5] {
        let mut wrong = Vec::new();
        for n in 0..TRIES {
            let session = Session::new(&world.a, &mut publisher, version).await;
            Client::connect_and_reset(world.a.mqtt_port, session.options()).await;
            if n % 4 == 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wrong.extend(session.judge(Client::try_open(world.a.mqtt_port, session.options()).await).await);
        }
        assert!(wrong.is_empty(), "{version:?}: {} of {TRIES}, such as {}", wrong.len(), wrong[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_connections_that_waited_for_a_sidecar_that_was_stopped_the_last_one_has_the_session() {
    const CLIENTS: usize = 14;
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "stopped").await;
    let mut publisher = sidecar.v5(&unique("pub")).await;
    for is_open in [false, true] {
        let mut sessions = Vec::new();
        for n in 0..CLIENTS {
            let version = if n % 2 == 0 { Version::V311 } else { Version::V5 };
            sessions.push(Session::new(&sidecar, &mut publisher, version).await);
        }
        sidecar.signal(Signal::STOP);
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for session in &sessions {
            let (port, options) = (sidecar.mqtt_port, session.options());
            let stream = Client::send_connect(port, options.clone()).await;
            // Given up by its client, or by nobody: the client has another address by now.
            first.extend(is_open.then_some(stream));
            last.push(tokio::spawn(Client::try_open(port, options)));
            // It is in the kernel's queue behind the first one.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        sidecar.signal(Signal::CONT);
        let mut wrong = Vec::new();
        for (session, last) in sessions.iter().zip(last) {
            wrong.extend(session.judge(last.await.unwrap()).await);
        }
        assert!(wrong.is_empty(), "open: {is_open}: {} of {CLIENTS}, such as {}", wrong.len(), wrong[0]);
    }
}
