//! Measures systems in turn, row by row and round by round.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::load::Effort;
use crate::measured::Measured;
use crate::results::{Entry, Results};
use crate::rows::Row;
use crate::system::{Programs, Running, System};
use crate::wire::Version;

/// Longer than any measurement takes that can still end.
const MEASUREMENT_MAX: Duration = Duration::from_secs(300);

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: u32,
    /// The first one is judged by the others.
    pub(crate) systems: Vec<System>,
    pub(crate) programs: Programs,
    pub(crate) version: Version,
    pub(crate) effort: Effort,
    /// Where the servers' data are.
    pub(crate) dir: PathBuf,
    /// Where each measurement is written as a line of JSON.
    pub(crate) json: Option<File>,
}

impl Plan {
    /// Measures everything. What it has when it is dropped is in `results`, and what it has started ends then.
    pub(crate) async fn run(&mut self, results: &mut Results) -> Result<(), String> {
        let rows = std::mem::take(&mut self.rows);
        for (i, row) in rows.iter().enumerate() {
            eprintln!("bench: {} ({} of {}): {}", row.name, i + 1, rows.len(), row.what);
            for round in 1..=self.rounds {
                for system in order(&self.systems, round) {
                    let outcome = timeout(MEASUREMENT_MAX, self.measure(row, system)).await;
                    let outcome = outcome.unwrap_or_else(|_| Err(format!("no end within {MEASUREMENT_MAX:?}")));
                    eprintln!("bench:   round {round}, {system}: {}", in_words(&outcome));
                    let entry = Entry { row: row.name.clone(), round, system, outcome };
                    if let Some(file) = &mut self.json {
                        writeln!(file, "{}", json_of(&entry)).map_err(|e| format!("cannot write JSON: {e}"))?;
                    }
                    results.entries.push(entry);
                }
            }
        }
        Ok(())
    }

    async fn measure(&self, row: &Row, system: System) -> Result<Measured, String> {
        let running = Running::start(system, &self.programs, &self.dir).await?;
        let outcome = row.measure(&running.target(self.version), self.effort).await;
        if let Some(says) = running.complaints(system) {
            eprintln!("bench:   {system} said: {says}");
        }
        outcome
    }
}

/// In which order systems are measured in a round: each comes first as often as the others, and has each of them before it.
fn order(systems: &[System], round: u32) -> Vec<System> {
    let mut order = systems.to_vec();
    order.rotate_left(round as usize / 2 % systems.len().max(1));
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// A measurement in one line.
pub(crate) fn in_words(outcome: &Result<Measured, String>) -> String {
    match outcome {
        Ok(measured) => {
            let figures = measured.figures.iter().map(|(figure, value)| format!("{} {value:.2}", figure.label()));
            let cores = measured.generator_cores.map(|cores| format!("generator {cores:.2} cores"));
            figures.chain(cores).chain(measured.remarks.iter().cloned()).collect::<Vec<_>>().join(", ")
        }
        Err(why) => format!("no figure: {why}"),
    }
}

fn json_of(entry: &Entry) -> Value {
    let mut line = json!({ "row": entry.row, "round": entry.round, "system": entry.system.name() });
    match &entry.outcome {
        Ok(measured) => {
            let figures = measured.figures.iter().map(|(figure, value)| (figure.label().to_owned(), json!(value)));
            line["figures"] = figures.collect::<Map<_, _>>().into();
            line["remarks"] = json!(measured.remarks);
            line["generator cores"] = json!(measured.generator_cores);
        }
        Err(why) => line["error"] = json!(why),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::Figure;

    #[test]
    fn systems_take_turns_in_coming_first() {
        let (a, b, c) = (System::NatsMqtt, System::NatsServer, System::Mosquitto);
        let orders: Vec<Vec<System>> = (1..=6).map(|round| order(&[a, b, c], round)).collect();
        assert_eq!(orders, [[a, b, c], [a, c, b], [b, c, a], [b, a, c], [c, a, b], [c, b, a]]);
        assert_eq!(order(&[a], 5), [a]);
    }

    #[test]
    fn a_measurement_is_a_line_of_json() {
        let mut measured = Measured::default();
        measured.figure(Figure::P99Ms, Some(1.5));
        measured.remark("lost", 2);
        let mut entry = Entry { row: "wake".to_owned(), round: 2, system: System::NatsServer, outcome: Ok(measured) };
        let line = json_of(&entry);
        assert_eq!((&line["system"], &line["figures"]["p99 ms"]), (&json!("nats-server"), &json!(1.5)));
        assert_eq!(line["remarks"], json!(["2 lost"]));
        entry.outcome = Err("refused".to_owned());
        assert_eq!(json_of(&entry)["error"], json!("refused"));
    }
}
