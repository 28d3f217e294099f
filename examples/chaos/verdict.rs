//! What is looked at when nothing happens any more, and the table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::nats::Nats;
use crate::publisher::topic_of;
use crate::reader;
use crate::stage::Stage;
use crate::witness::wills::{Expectation, Life, Ms, WillFault};
use crate::witness::{Witness, Wrong, both};
use crate::world::World;

/// Mistakes of each kind that are in the report.
const LISTED: usize = 1_000;

/// How long nothing may come any more before what is missing is lost.
const MESSAGES: Duration = Duration::from_secs(60);

/// How long wills may take: a lease has to end first.
const WILLS: Duration = Duration::from_secs(90);

/// What comes twice comes later.
const TWICE: Duration = Duration::from_secs(15);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);

/// How long retained values may take to be right when it is calm.
const RETAINED: Duration = Duration::from_secs(30);

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// One line of progress.
pub(crate) fn progress(witness: &Witness) -> String {
    let counters = &witness.counters;
    let mistakes: usize = witness.mistakes().values().map(Vec::len).sum();
    format!(
        "{} disasters; {} acknowledged; {} connects, {} without an answer; {} lives with wills; {} retained topics; \
         {mistakes} mistakes",
        witness.disturbances.lock().all().len(),
        witness.deliveries.lock().acknowledged(),
        load(&counters.connects),
        load(&counters.unanswered),
        witness.lives.lock().len(),
        witness.retained.lock().len(),
    )
}

/// Waits until all messages are there, as long as more comes, and says what is missing.
pub(crate) async fn messages(witness: &Witness) {
    let (mut before, mut since) = (usize::MAX, Instant::now());
    let missing = loop {
        let missing = witness.deliveries.lock().missing(topic_of);
        if missing.is_empty() || since.elapsed() > MESSAGES {
            break missing;
        }
        if missing.len() < before {
            (before, since) = (missing.len(), Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    };
    // A replay may be under way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (subscriber, publisher, number) in missing {
        let what =
            format!("subscriber {subscriber} has not got {number} of publisher {publisher}, which was acknowledged");
        witness.wrong(Wrong::MessageLost, what, &both(subscriber, publisher));
    }
    let unfinished = witness.deliveries.lock().unfinished();
    for (subscriber, publisher, topic, fault) in unfinished {
        let what = format!("subscriber {subscriber}: publisher {publisher}, topic {topic}, at the end: {fault:?}");
        witness.wrong(Wrong::RepeatStale, what, &both(subscriber, publisher));
    }
}

/// Waits until all wills that are due are in the log, and compares. What was stored of each.
pub(crate) async fn wills(witness: &Witness, world: &World, nats: &Nats) -> BTreeMap<usize, u64> {
    let lost: Vec<Vec<(Ms, Ms)>> = world.sidecars.iter().map(|sidecar| sidecar.lost_leases()).collect();
    witness.lives.lock().iter_mut().for_each(|life| life.forgive(&lost[life.sidecar]));
    let is_due = |life: &Life| matches!(life.expectation(), Expectation::Due { .. });
    let since = Instant::now();
    loop {
        let logged = nats.logged("chaos-will").await;
        let is_there = |logged: &std::collections::HashMap<usize, u64>| {
            let lives = witness.lives.lock();
            lives.iter().enumerate().filter(|(_, life)| is_due(life)).all(|(n, _)| logged.contains_key(&n))
        };
        if logged.as_ref().is_some_and(is_there) || since.elapsed() > WILLS {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(TWICE).await;
    let logged: BTreeMap<usize, u64> = nats.logged("chaos-will").await.unwrap_or_default().into_iter().collect();
    let lives = witness.lives.lock().clone();
    for (n, life) in lives.iter().enumerate() {
        let times = logged.get(&n).copied().unwrap_or(0);
        let first = if times == 1 { nats.logged_at(&format!("chaos-will/{n}")).await.ok().flatten() } else { None };
        if let Some(fault) = life.fault(times, first) {
            let wrong = match fault {
                WillFault::Lost => Wrong::WillLost,
                WillFault::Unwanted => Wrong::WillUnwanted,
                WillFault::Twice => Wrong::WillTwice,
                WillFault::Early => Wrong::WillEarly,
            };
            let at = first.map_or(String::new(), |first| format!(", first at {}", shown(first)));
            let (expected, record) = (life.expectation(), nats.record(&life.client_id).await);
            let what = format!("will {n}: {times} in the log{at}, {expected:?}:{} record: {record}", life.story);
            witness.wrong(wrong, what, &[]);
        }
    }
    for left in nats.leftovers("mortal").await.unwrap_or_default() {
        witness.wrong(Wrong::SessionLeft, left, &[]);
    }
    logged
}

fn shown(time: Ms) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(time)).to_string()
}

/// Waits until each subscriber has each will that is in the log, and says which have not.
pub(crate) async fn wills_delivered(witness: &Witness, logged: &BTreeMap<usize, u64>, subscribers: usize) {
    let missing = || {
        let got = witness.wills_got.lock();
        let all = (0..subscribers).flat_map(|subscriber| logged.keys().map(move |n| (subscriber, *n)));
        all.filter(|key| !got.contains_key(key)).collect::<Vec<_>>()
    };
    let since = Instant::now();
    while !missing().is_empty() && since.elapsed() < MESSAGES {
        tokio::time::sleep(LOOK).await;
    }
    for (subscriber, n) in missing() {
        let story = witness.lives.lock()[n].story.clone();
        let what = format!("subscriber {subscriber} has not got the will of {n}:{story}");
        witness.wrong(Wrong::WillNotDelivered, what, &[format!("subscriber {subscriber}")]);
    }
}

/// Looks at all retained topics everywhere, until they are right or it takes too long. How many there are.
pub(crate) async fn retained(stage: &Stage, nats: &Nats) -> usize {
    let since = Instant::now();
    loop {
        let (count, wrong) = reader::read_all(&stage.witness, &stage.ports, nats).await;
        if wrong.is_empty() || since.elapsed() > RETAINED {
            for what in wrong {
                let line = what.split('/').nth(1).map_or(String::new(), |line| format!("mover {line}"));
                stage.witness.wrong(Wrong::RetainedStale, what, &[line]);
            }
            return count;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn table_of_wills(witness: &Witness, logged: &BTreeMap<usize, u64>) {
    let lives = witness.lives.lock();
    let count = |is_it: fn(Expectation) -> bool| {
        let all = lives.iter().enumerate().filter(|(_, life)| is_it(life.expectation()));
        let (mut some, mut published) = (0, 0);
        all.for_each(|(n, _)| (some, published) = (some + 1, published + usize::from(logged.contains_key(&n))));
        (some, published)
    };
    let (due, due_published) = count(|e| matches!(e, Expectation::Due { .. }));
    let (never, never_published) = count(|e| e == Expectation::Never);
    let (maybe, maybe_published) = count(|e| matches!(e, Expectation::Maybe { .. }));
    let twice = logged.values().filter(|times| **times > 1).count();
    println!("wills       due {due}, of them published {due_published}, lost {}", due - due_published);
    println!(
        "            cancelled {never}, of them published {never_published}; nobody knows {maybe}, published {maybe_published}"
    );
    println!("            twice {twice}, too early {}", witness.mistakes_of(Wrong::WillEarly));
}

/// Says what was right and what was not; whether all was.
pub(crate) fn table(witness: &Witness, logged: &BTreeMap<usize, u64>, retained: usize) -> bool {
    let counters = &witness.counters;
    let wrong = |wrong: Wrong| witness.mistakes_of(wrong);
    table_of_wills(witness, logged);
    println!(
        "sessions    checked {}, lost {}, left over {}",
        load(&counters.sessions_checked),
        wrong(Wrong::SessionLost),
        wrong(Wrong::SessionLeft)
    );
    for qos in [1, 2] {
        let sums = witness.deliveries.lock().sums(qos);
        println!(
            "QoS {qos}       sent {}, acknowledged {}, refused {}; copies that came again {}",
            sums.sent, sums.acknowledged, sums.refused, sums.repeats
        );
    }
    println!(
        "messages    lost {}, twice at QoS 2 {}, late {}, repeats out of order {}, wills not delivered {}",
        wrong(Wrong::MessageLost),
        wrong(Wrong::MessageTwice),
        wrong(Wrong::MessageLate),
        wrong(Wrong::RepeatStale),
        wrong(Wrong::WillNotDelivered)
    );
    println!(
        "retained    topics {retained}, wrong {}; read while it raged {}, not right at the first look {}",
        wrong(Wrong::RetainedStale),
        load(&counters.retained_reads),
        load(&counters.retained_late)
    );
    println!(
        "clients     connects {}, refused {}, unanswered {}, resets in CONNECT {}, twins {}, zombies {}, moves with retained {}",
        load(&counters.connects),
        load(&counters.refused),
        load(&counters.unanswered),
        load(&counters.resets),
        load(&counters.twins),
        load(&counters.zombies),
        load(&counters.moves)
    );
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for disturbance in witness.disturbances.lock().all() {
        let kind = disturbance.what.split_whitespace().next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("disasters   {}", kinds.join(", "));
    let mistakes = witness.mistakes();
    for (wrong, all) in &mistakes {
        println!("WRONG       {wrong:?}: {}", all.len());
    }
    mistakes.is_empty()
}

/// Writes down what happened when, and what everybody did.
pub(crate) fn keep(witness: &Witness) {
    let mut text = String::new();
    for d in witness.disturbances.lock().all() {
        text += &format!("{} to {} {}\n", shown(d.from), d.to.map_or(String::new(), shown), d.what);
    }
    let mut mistakes = String::new();
    for (wrong, all) in witness.mistakes() {
        all.iter().take(LISTED).for_each(|what| mistakes += &format!("{wrong:?} {what}\n"));
    }
    let mut lives = String::new();
    for (n, life) in witness.lives.lock().iter().enumerate() {
        lives += &format!("{n} {:?}:{}\n", life.expectation(), life.story);
    }
    for (name, text) in [("disasters.txt", text), ("mistakes.txt", mistakes), ("wills.txt", lives)] {
        // What cannot be written is not missed.
        let _ = std::fs::write(witness.dir.join(name), text);
    }
    witness.traces.write(&witness.dir.join("clients"), None);
    println!("logs, disasters and what every client did: {}", witness.dir.display());
}
