//! Who reads what is retained: in the bucket, and as a new subscriber at each sidecar.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mqtt_codec::{Packet, ReasonCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::harness::{Client, Ended, Options};
use crate::nats::Nats;
use crate::stage::{Stage, letter};
use crate::subscriber::subscribe;
use crate::witness::{Witness, count};

/// How long a reader looks while disasters happen, before it writes down what the clients know.
const WHILE_IT_RAGES: Duration = Duration::from_secs(45);

/// Everything has come when nothing came for so long.
const QUIET: Duration = Duration::from_secs(3);

/// How long one subscriber may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A payload as a number; what is no number is one that nobody has sent.
fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
}

/// What a new subscriber gets of a filter as retained; nothing when it is not let in, or its connection ends.
async fn read(port: u16, filter: &str, quiet: Duration) -> Option<BTreeMap<String, usize>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let options = Options::v5(&format!("reader {}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let opened = tokio::time::timeout(PATIENCE, Client::try_open(port, options)).await;
    let mut client = opened.ok()?.ok().filter(|client| client.connack.reason == ReasonCode::Success)?;
    let id = client.packet_id();
    client.write(&subscribe(id, &[(filter, 0)]));
    let mut deadline = Instant::now() + PATIENCE;
    let mut found = BTreeMap::new();
    loop {
        match client.packet(deadline).await {
            Ok(Packet::SubAck(suback)) if suback.reasons.iter().any(|reason| reason.is_error()) => return None,
            Ok(Packet::SubAck(_)) => deadline = Instant::now() + quiet,
            Ok(Packet::Publish(publish)) if publish.retain => {
                let topic = publish.topic_name().expect("no alias was allowed").as_str().to_owned();
                found.insert(topic, number(&publish.payload));
                deadline = Instant::now() + quiet;
            }
            Ok(_) => {}
            Err(Ended::Silent) => return Some(found),
            Err(Ended::Closed) => return None,
        }
    }
}

/// Looks at a topic until it is right everywhere, while disasters happen. Nothing is decided here: a sidecar without NATS
/// serves what it has. But what stays wrong is worth to be remembered as it is.
pub(crate) fn watch(topic: String, client: String, stage: &Stage, nats: &Nats, readers: &Arc<Semaphore>) {
    // There is a look at all of them in the end.
    let Ok(permit) = Arc::clone(readers).try_acquire_owned() else { return };
    let (stage, nats) = (stage.clone(), nats.clone());
    tokio::spawn(async move {
        let since = Instant::now();
        let mut looks = 0;
        loop {
            let wrong = wrong_at(&topic, &stage, &nats).await;
            looks += 1;
            count(&stage.witness.counters.retained_reads);
            if wrong.is_empty() {
                break;
            }
            if looks == 1 {
                count(&stage.witness.counters.retained_late);
            }
            if since.elapsed() > WHILE_IT_RAGES || stage.is_closing() {
                let sent = stage.witness.retained.lock().get(&topic).map(|topic| topic.shown());
                println!("suspect: {topic} is {} after {:?}; {sent:?}", wrong.join(", "), since.elapsed());
                let dir = stage.witness.dir.join(format!("suspect-{}", topic.replace('/', "-")));
                stage.witness.traces.write(&dir, Some(&[client]));
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(permit);
    });
}

/// Where a topic is not what it may be: who says what.
async fn wrong_at(topic: &str, stage: &Stage, nats: &Nats) -> Vec<String> {
    let mut said = Vec::new();
    match nats.retained(topic).await {
        Ok(payload) => said.push(("bucket".to_owned(), payload.as_deref().map(number))),
        Err(()) => return vec!["bucket: no answer".to_owned()],
    }
    for (n, port) in stage.ports.iter().enumerate() {
        match read(*port, topic, Duration::from_millis(1_000)).await {
            Some(found) => said.push((letter(n).to_string(), found.get(topic).copied())),
            None => return vec![format!("{}: no answer", letter(n))],
        }
    }
    let retained = stage.witness.retained.lock();
    let is_wrong =
        |(_, found): &(String, Option<usize>)| retained.get(topic).is_some_and(|topic| !topic.allows(*found));
    said.into_iter().filter(is_wrong).map(|(who, found)| format!("{who}: {found:?}")).collect()
}

/// Looks at all topics when it is calm: topics, and what is wrong where.
pub(crate) async fn read_all(witness: &Witness, ports: &[u16], nats: &Nats) -> (usize, Vec<String>) {
    let topics = witness.retained.lock().clone();
    let mut places = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let mut found = None;
        for _ in 0..5 {
            found = read(*port, "chaos-retained/#", QUIET).await;
            if found.is_some() {
                break;
            }
        }
        places.push((format!("sidecar {}", letter(n)), found));
    }
    let mut bucket = BTreeMap::new();
    for topic in topics.keys() {
        match nats.retained(topic).await {
            Ok(Some(payload)) => _ = bucket.insert(topic.clone(), number(&payload)),
            Ok(None) => {}
            Err(()) => _ = bucket.insert(topic.clone(), usize::MAX),
        }
    }
    places.push(("the bucket".to_owned(), Some(bucket)));
    let mut wrong = Vec::new();
    for (place, found) in &places {
        let Some(found) = found else {
            wrong.push(format!("{place} does not answer"));
            continue;
        };
        for (name, topic) in &topics {
            let value = found.get(name).copied();
            if !topic.allows(value) {
                wrong.push(format!("{name} is {value:?} at {place}; {}", topic.shown()));
            }
        }
    }
    (topics.len(), wrong)
}
