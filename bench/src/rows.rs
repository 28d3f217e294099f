//! The rows of the table: what is measured, under which name.

use crate::connects::{self, Connecting};
use crate::load::{self, Effort, Judged, Load};
use crate::measured::Measured;
use crate::memory::{self, Held};
use crate::system::Target;
use crate::wake;

/// Messages a second of the rows about latency.
const RATE: u32 = 2_000;

/// Messages that are on their way to a subscriber, and unacknowledged ones of a publisher: enough that nobody waits for a round
/// trip, and not so many that who has a queue for each subscriber drops any.
const WINDOW: u64 = 1_000;
const IN_FLIGHT: u16 = 128;

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// In one line.
    pub(crate) what: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Load(Load),
    Connects(Connecting),
    Memory(Held),
    Wake,
}

impl Row {
    /// Measures it once.
    pub(crate) async fn measure(&self, target: &Target, effort: Effort) -> Result<Measured, String> {
        match &self.kind {
            Kind::Load(load) => load::run(target, load, effort).await,
            Kind::Connects(connecting) => connects::run(target, *connecting, effort.seconds).await,
            Kind::Memory(held) => memory::run(target, *held, effort.payload).await,
            Kind::Wake => wake::run(target, effort.payload).await,
        }
    }
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for shape in [(1, 1), (10, 10), (1, 100), (100, 1)] {
        rows.extend((0..3).map(|qos| throughput(qos, shape)));
    }
    rows.extend((0..3).map(paced));
    rows.extend((0..3).map(one_in_flight));
    rows.extend(connects_rows());
    rows.extend(memory_rows());
    rows.push(Row {
        name: "wake".to_owned(),
        what: format!(
            "a session at QoS 1 comes back behind a log of {} messages, one of {} for it: from its CONNECT to the first and the last",
            wake::LOG,
            wake::ONE_OF
        ),
        kind: Kind::Wake,
    });
    rows
}

fn throughput(qos: u8, (publishers, subscribers): (usize, usize)) -> Row {
    let what = match (publishers, subscribers) {
        (1, 1) => "one publisher, one subscriber".to_owned(),
        (1, many) => format!("one publisher, {many} subscribers to its topic"),
        (many, 1) => format!("{many} publishers, one subscriber to all their topics"),
        (many, _) => format!("{many} publishers, each with a topic and a subscriber of its own"),
    };
    let window = if subscribers == 1 { WINDOW / publishers as u64 } else { WINDOW };
    let (in_flight, rate, judged, is_durable) = (IN_FLIGHT, None, Judged::Throughput, false);
    let load = Load { qos, publishers, subscribers, in_flight, window, rate, judged, is_durable };
    let name = format!("qos{qos}-{publishers}:{subscribers}");
    Row { name, what: format!("QoS {qos}, as fast as it goes: {what}"), kind: Kind::Load(load) }
}

fn paced(qos: u8) -> Row {
    let (publishers, subscribers, is_durable) = (10, 10, false);
    let (window, in_flight, rate, judged) = (WINDOW, IN_FLIGHT, Some(RATE), Judged::Latency);
    Row {
        name: format!("qos{qos}-{RATE}/s"),
        what: format!(
            "QoS {qos}, {RATE} messages a second of 10 publishers to 10 subscribers: from publish to delivery"
        ),
        kind: Kind::Load(Load { qos, publishers, subscribers, in_flight, window, rate, judged, is_durable }),
    }
}

fn one_in_flight(qos: u8) -> Row {
    let (publishers, subscribers, in_flight, is_durable) = (1, 1, 1, false);
    let (rate, judged) = (None, Judged::RoundTrip);
    let until = ["its delivery", "PUBACK", "PUBCOMP"][usize::from(qos)];
    let window = if qos == 0 { 1 } else { WINDOW };
    Row {
        name: format!("qos{qos}-one"),
        what: format!("QoS {qos}, one message in flight: from its publish to {until}, and then the next"),
        kind: Kind::Load(Load { qos, publishers, subscribers, in_flight, window, rate, judged, is_durable }),
    }
}

fn connects_rows() -> impl Iterator<Item = Row> {
    [
        ("connect-clean", Connecting::Clean, "with a clean session"),
        ("connect-new", Connecting::New, "each with a new session that stays"),
        ("connect-resume", Connecting::Resuming, "to sessions that are there, with a subscription"),
    ]
    .map(|(name, connecting, how)| Row {
        name: name.to_owned(),
        what: format!("64 clients at a time connect and disconnect, {how}: from the TCP connection to CONNACK"),
        kind: Kind::Connects(connecting),
    })
    .into_iter()
    .chain([Row {
        name: "connect-crowd".to_owned(),
        what: format!(
            "{} clients connect once, 64 at a time, to a server that has just been started: from the TCP connection to CONNACK",
            connects::CROWD
        ),
        kind: Kind::Connects(Connecting::Crowd),
    }])
}

fn memory_rows() -> impl Iterator<Item = Row> {
    [
        ("memory-connection", Held::Connections, "idle connections"),
        ("memory-subscription-qos0", Held::Subscriptions(0), "subscriptions at QoS 0"),
        ("memory-subscription-qos1", Held::Subscriptions(1), "subscriptions at QoS 1"),
        ("memory-away", Held::SessionsAway, "sessions away, each with a subscription at QoS 1"),
        ("memory-retained", Held::Retained, "retained messages"),
    ]
    .map(|(name, held, what)| Row {
        name: name.to_owned(),
        what: format!("memory of all servers for each of {} {what}", held.count()),
        kind: Kind::Memory(held),
    })
    .into_iter()
}

/// The rows that are named: by their name, or with `*` for any part of it.
pub(crate) fn named(patterns: &[String]) -> Result<Vec<Row>, String> {
    let all = all();
    if let Some(pattern) = patterns.iter().find(|pattern| !all.iter().any(|row| is_match(pattern, &row.name))) {
        let names: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
        return Err(format!("no row is named {pattern}; there are {}", names.join(", ")));
    }
    let is_wanted = |row: &Row| patterns.is_empty() || patterns.iter().any(|pattern| is_match(pattern, &row.name));
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn is_match(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| is_match(after, rest)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_says_what_it_is_in_one_line() {
        let rows = all();
        let names: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.iter().all(|row| !row.what.is_empty() && !row.what.contains('\n')));
    }

    #[test]
    fn rows_are_named_in_full_or_by_pattern() {
        let names = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            named(&patterns).map(|rows| rows.into_iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["qos1-1:1"]).unwrap(), ["qos1-1:1"]);
        assert_eq!(names(&["*-1:1", "wake"]).unwrap(), ["qos0-1:1", "qos1-1:1", "qos2-1:1", "wake"]);
        assert_eq!(names(&["*mem*qos*"]).unwrap(), ["memory-subscription-qos0", "memory-subscription-qos1"]);
        assert_eq!(names(&[]).unwrap().len(), all().len());
        assert!(names(&["qos1"]).unwrap_err().starts_with("no row is named qos1; there are qos0-1:1, "));
        assert!(names(&["wake", "x*"]).unwrap_err().starts_with("no row is named x*"));
    }
}
