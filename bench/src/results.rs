//! All measurements of a run, their medians, and the ratios between systems.

use crate::measured::{Figure, Measured};
use crate::system::System;

/// One measurement, or why there is none.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) row: String,
    pub(crate) round: u32,
    pub(crate) system: System,
    pub(crate) outcome: Result<Measured, String>,
}

/// What was measured so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) entries: Vec<Entry>,
}

impl Results {
    /// The names of the rows, in order.
    pub(crate) fn rows(&self) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !rows.contains(&entry.row.as_str()) {
                rows.push(&entry.row);
            }
        }
        rows
    }

    pub(crate) fn of<'a>(&'a self, row: &'a str, system: System) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.row == row && entry.system == system)
    }

    /// The figures that any system has in a row, in order.
    pub(crate) fn figures(&self, row: &str) -> Vec<Figure> {
        let mut figures = Vec::new();
        for measured in self.entries.iter().filter(|entry| entry.row == row).flat_map(|entry| &entry.outcome) {
            for (figure, _) in &measured.figures {
                if !figures.contains(figure) {
                    figures.push(*figure);
                }
            }
        }
        figures
    }

    fn value(entry: &Entry, figure: Figure) -> Option<f64> {
        let figures = &entry.outcome.as_ref().ok()?.figures;
        figures.iter().find(|(found, _)| *found == figure).map(|(_, value)| *value)
    }

    /// Over all rounds.
    pub(crate) fn median(&self, row: &str, system: System, figure: Figure) -> Option<f64> {
        median(self.of(row, system).filter_map(|entry| Self::value(entry, figure)).collect())
    }

    /// How many times the figure of `other` that of `system` is. The two of a round belong together: what was wrong with the
    /// machine was wrong with both.
    pub(crate) fn ratio(&self, row: &str, system: System, other: System, figure: Figure) -> Option<f64> {
        let pairs = self.of(row, system).filter_map(|entry| {
            let beside = self.of(row, other).find(|beside| beside.round == entry.round)?;
            let (value, other) = (Self::value(entry, figure)?, Self::value(beside, figure)?);
            (other > 0.0).then(|| value / other)
        });
        median(pairs.collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(round: u32, system: System, rate: f64) -> Entry {
        let mut measured = Measured::default();
        measured.figure(Figure::MessagesPerSecond, Some(rate));
        Entry { row: "row".to_owned(), round, system, outcome: Ok(measured) }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_between_measurements_of_one_round() {
        let (ours, theirs) = (System::NatsMqtt, System::NatsServer);
        let (rate, mut results) = (Figure::MessagesPerSecond, Results::default());
        for (round, a, b) in [(1, 200.0, 100.0), (2, 20.0, 10.0), (3, 300.0, 100.0)] {
            results.entries.extend([entry(round, ours, a), entry(round, theirs, b)]);
        }
        results.entries.push(entry(4, ours, 1e9));
        assert_eq!(results.ratio("row", ours, theirs, rate), Some(2.0));
        assert_eq!(results.median("row", theirs, rate), Some(100.0));
        assert_eq!(results.ratio("row", ours, System::Mosquitto, rate), None);
        assert_eq!((results.rows(), results.figures("row")), (vec!["row"], vec![rate]));
    }
}
