//! What every client needs to know, and the ways in which they connect and leave.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mqtt_codec::{Connect, Disconnect, Packet, ReasonCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disasters::Disaster;
use crate::harness::{Client, Ended, Options};
use crate::random::Random;
use crate::trace::Trace;
use crate::witness::{Witness, count};

/// How long a client waits for CONNACK when it is patient.
const PATIENT: Duration = Duration::from_secs(15);

/// What everybody needs to know.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) ports: Arc<[u16]>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) disasters: Arc<[Disaster]>,
    /// Nothing new is begun.
    pub(crate) closing: watch::Receiver<bool>,
    /// Subscribers may go: all has come that is to come.
    pub(crate) over: watch::Receiver<bool>,
}

/// How a CONNECT ended.
pub(crate) enum Opened {
    Accepted(Box<Client>),
    Refused(ReasonCode),
    /// Nobody knows whether it was accepted.
    Unanswered,
}

impl Stage {
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub(crate) fn has(&self, disaster: Disaster) -> bool {
        self.disasters.contains(&disaster)
    }

    pub(crate) fn any_sidecar(&self, random: &mut Random) -> usize {
        random.below(self.ports.len())
    }

    /// Connects once, as a client that does not wait for long when it is impatient.
    pub(crate) async fn open(&self, sidecar: usize, options: Options, trace: &Trace, patience: Duration) -> Opened {
        let counters = &self.witness.counters;
        let opened = tokio::time::timeout(patience, Client::try_open(self.ports[sidecar], options)).await;
        match opened {
            Ok(Ok(client)) if client.connack.reason == ReasonCode::Success => {
                trace.event(format!("accepted by {}, present {}", letter(sidecar), client.connack.session_present));
                count(&counters.connects);
                Opened::Accepted(Box::new(client))
            }
            Ok(Ok(client)) => {
                trace.event(format!("refused by {}: {:?}", letter(sidecar), client.connack.reason));
                count(&counters.refused);
                Opened::Refused(client.connack.reason)
            }
            other => {
                trace.event(format!(
                    "no answer from {}: {}",
                    letter(sidecar),
                    if other.is_ok() { "closed" } else { "silent" }
                ));
                count(&counters.unanswered);
                Opened::Unanswered
            }
        }
    }

    /// Connects to one of the sidecars, with a session that goes on; in the worst of ways at times.
    pub(crate) async fn connect(&self, mut options: Options, random: &mut Random, trace: &Trace) -> Option<Client> {
        options.connect.clean_start = false;
        if options.connect.version == Version::V5 {
            options.connect.properties.session_expiry_interval_s = Some(3_600);
        }
        if self.has(Disaster::ResetConnect) && random.one_in(4) {
            for _ in 0..=random.below(3) {
                let sidecar = self.any_sidecar(random);
                self.reset_in_connect(sidecar, &options.connect, random, trace).await;
            }
        }
        if self.has(Disaster::Twin) && random.one_in(10) {
            self.twin(options.clone(), random, trace);
        }
        let sidecar = self.any_sidecar(random);
        let patience = if random.one_in(4) { random.ms(50, 2_000) } else { PATIENT };
        trace.event(format!("connects to {}", letter(sidecar)));
        match self.open(sidecar, options, trace, patience).await {
            Opened::Accepted(client) => return Some(*client),
            // Is back at once, as somebody who is impatient.
            Opened::Unanswered if random.one_in(2) => {}
            _ => tokio::time::sleep(random.ms(20, 400)).await,
        }
        None
    }

    /// Sends CONNECT up to any byte, and resets the connection. Whether all of it was sent.
    pub(crate) async fn reset_in_connect(
        &self,
        sidecar: usize,
        connect: &Connect,
        random: &mut Random,
        trace: &Trace,
    ) -> bool {
        let mut bytes = BytesMut::new();
        let packet = Packet::Connect(Box::new(connect.clone()));
        mqtt_codec::encode(&packet, connect.version, &mut bytes).expect("a CONNECT that can be written");
        // Every second one is complete: that is where the claim is under way.
        let sent = if random.one_in(2) { bytes.len() } else { random.below(bytes.len() + 1) };
        trace.event(format!("resets in CONNECT to {} after {sent} of {} bytes", letter(sidecar), bytes.len()));
        count(&self.witness.counters.resets);
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.ports[sidecar])).await else { return false };
        // A connection that is broken already has what we want.
        let _ = stream.set_nodelay(true);
        let _ = stream.write_all(&bytes[..sent]).await;
        if random.one_in(3) {
            tokio::time::sleep(random.ms(0, 5)).await;
        }
        let _ = stream.set_zero_linger();
        sent == bytes.len()
    }

    /// Connects elsewhere at the same time, and does nothing there.
    fn twin(&self, options: Options, random: &mut Random, trace: &Trace) {
        let (sidecar, wait, patience) = (self.any_sidecar(random), random.ms(0, 20), random.ms(100, 4_000));
        trace.event(format!("has a twin at {}", letter(sidecar)));
        count(&self.witness.counters.twins);
        let port = self.ports[sidecar];
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let twin = async {
                if let Ok(mut client) = Client::try_open(port, options).await {
                    client.closed_within(patience).await;
                }
            };
            // It goes when nobody answers.
            let _ = tokio::time::timeout(patience, twin).await;
        });
    }

    /// Ends a connection in one of the ways in which connections end.
    pub(crate) async fn leave(&self, mut client: Client, random: &mut Random, trace: &Trace) {
        let zombie = self.has(Disaster::Zombie);
        match random.below(6) {
            0 => {
                trace.event("resets");
                client.reset();
            }
            1 => {
                trace.event("closes");
                drop(client);
            }
            2 if zombie => {
                // The next connection takes this one over; nobody reads here.
                let patience = random.ms(1_000, 20_000);
                trace.event(format!("leaves its connection behind for {patience:?}"));
                count(&self.witness.counters.zombies);
                tokio::spawn(async move {
                    tokio::time::sleep(patience).await;
                    drop(client);
                });
            }
            3 => {
                trace.event("says goodbye and does not wait");
                client.write(&goodbye(ReasonCode::Success));
                // Whoever does not read gets nothing of what this may fail with.
                let _ = tokio::time::timeout(Duration::from_millis(200), client.flush()).await;
            }
            4 => {
                trace.event("moves while the old connection is there");
                tokio::spawn(async move { client.closed_within(Duration::from_secs(5)).await });
            }
            _ => {
                trace.event("says goodbye");
                client.write(&goodbye(ReasonCode::Success));
                client.closed_within(Duration::from_secs(1)).await;
            }
        }
    }
}

/// How a sidecar is called.
pub(crate) fn letter(sidecar: usize) -> char {
    char::from(b'a' + sidecar as u8)
}

pub(crate) fn goodbye(reason: ReasonCode) -> Packet {
    let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
    Packet::Disconnect(Disconnect { reason, session_expiry_interval_s, server_reference, properties })
}

/// Half of the clients speak MQTT 3.1.1.
pub(crate) fn version(n: usize) -> Version {
    if (n / 2).is_multiple_of(2) { Version::V5 } else { Version::V311 }
}

impl Client {
    /// Waits until the server closes; whether it did. What comes meanwhile is not acknowledged.
    pub(crate) async fn closed_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.packet(deadline).await {
                Ok(_) => {}
                Err(ended) => return ended == Ended::Closed,
            }
        }
    }
}
