//! What one client publishes, against a server that the test plays: what is stored in which order, and what the client is told,
//! whatever becomes of the answers.

mod order;
mod refusals;
mod retained;
mod writer;

use mqtt_codec::QoS;

use crate::account::played::{Fate, LOG, PlayedServer, World};
use crate::store::played::Said;

/// The payloads of the log, in its order, but for what [`measure`] has put there.
fn logged(server: &PlayedServer) -> Vec<String> {
    let all = server.messages(LOG).into_iter().filter(|(_, said)| !said.subject.ends_with(MEASURED));
    all.map(|(_, said)| payload(&said)).collect()
}

const MEASURED: &str = "measured";

/// From here on it is known how long an answer takes, so that a silence is doubt at once.
async fn measure(world: &World) {
    let mut client = world.client(MEASURED);
    client.publish(MEASURED, QoS::AtLeastOnce, false, "");
    client.settle().await;
}

fn payload(said: &Said) -> String {
    String::from_utf8_lossy(&said.payload).into_owned()
}

/// Whether it is a message for the log.
fn is_for_log(said: &Said) -> bool {
    said.subject.starts_with("$NMQ.log.")
}

/// Whether it is a message for the bucket of retained messages.
fn is_for_bucket(said: &Said) -> bool {
    said.subject.starts_with("$KV.MQTT_retained.")
}

/// Messages for the log have this fate.
fn log_rule(server: &PlayedServer, mut fate: impl FnMut(&Said) -> Fate + Send + 'static) {
    server.rule(move |said| if is_for_log(said) { fate(said) } else { Fate::Taken });
}
