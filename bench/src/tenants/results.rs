//! What was measured of tenants, and the table of it: a column for each round.

use crate::table::{aligned, number};

/// When something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before any tenant was there.
    First,
    /// While accounts were opened, one after the other.
    Opening,
    /// All are open and nobody does anything.
    Open,
    /// Some are busy.
    Busy,
    /// Those that are not busy are closed again, and nobody does anything.
    Closed,
}

impl Moment {
    const ALL: [Self; 5] = [Self::First, Self::Opening, Self::Open, Self::Busy, Self::Closed];

    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Busy => "busy",
            Self::Closed => "closed",
        }
    }
}

/// What was measured so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(super) machine: String,
    rounds: Vec<Round>,
    /// What was not as it should be.
    pub(super) remarks: Vec<String>,
}

/// The figures of a round.
#[derive(Debug, Default)]
pub(super) struct Round(Vec<(Moment, &'static str, f64)>);

impl Round {
    pub(super) fn figure(&mut self, moment: Moment, name: &'static str, value: Option<f64>) {
        self.add(moment, value.map(|value| (name, value)));
    }

    pub(super) fn add(&mut self, moment: Moment, figures: impl IntoIterator<Item = (&'static str, f64)>) {
        self.0.extend(figures.into_iter().map(|(name, value)| (moment, name, value)));
    }

    fn value(&self, moment: Moment, name: &str) -> Option<f64> {
        self.0.iter().find(|(at, of, _)| (*at, *of) == (moment, name)).map(|(.., value)| *value)
    }
}

impl Results {
    /// That which is under way.
    pub(super) fn round(&mut self) -> &mut Round {
        if self.rounds.is_empty() {
            self.begin_round();
        }
        let last = self.rounds.len() - 1;
        &mut self.rounds[last]
    }

    pub(super) fn begin_round(&mut self) {
        self.rounds.push(Round::default());
    }

    /// The table, and below it what was not as it should be; nothing before anything was measured.
    pub(crate) fn markdown(&self) -> String {
        if self.rounds.is_empty() {
            return String::new();
        }
        let rounds = (1..=self.rounds.len()).map(|round| format!("round {round}"));
        let mut lines = vec![["moment", "figure"].map(str::to_owned).into_iter().chain(rounds).collect()];
        for moment in Moment::ALL {
            for (i, name) in self.names(moment).into_iter().enumerate() {
                let label = if i == 0 { format!("`{}`", moment.name()) } else { String::new() };
                let value = |round: &Round| round.value(moment, name).map_or_else(|| "-".to_owned(), shown);
                lines.push([label, name.to_owned()].into_iter().chain(self.rounds.iter().map(value)).collect());
            }
        }
        let mut text = format!("{}\n\n{}", self.machine, aligned(&lines));
        if !self.remarks.is_empty() {
            text.push('\n');
            text.extend(self.remarks.iter().map(|remark| format!("- {remark}\n")));
        }
        text
    }

    /// The figures that any round has of a moment, in order.
    fn names(&self, moment: Moment) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (_, name, _) in self.rounds.iter().flat_map(|round| &round.0).filter(|(at, ..)| *at == moment) {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }
}

/// As everywhere, but counts have no decimals.
fn shown(value: f64) -> String {
    let text = number(value);
    match text.split_once('.') {
        Some((whole, _)) if value.fract() == 0.0 => whole.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_stand_beside_each_other_and_what_one_has_not_is_a_dash() {
        let mut results = Results { machine: "machine".to_owned(), ..Results::default() };
        assert_eq!(results.markdown(), "");
        results.round().add(Moment::First, [("accounts", 1.0)]);
        results.round().add(Moment::Open, [("accounts", 1001.0), ("threads", 6.5)]);
        results.begin_round();
        results.round().figure(Moment::Open, "accounts", Some(1000.0));
        results.round().figure(Moment::Open, "threads", None);
        results.remarks.push("account 7 was not opened: refused".to_owned());
        let expected = "\
machine

| moment  | figure   | round 1 | round 2 |
|---------|----------|--------:|--------:|
| `first` | accounts |       1 |       - |
| `open`  | accounts |   1,001 |   1,000 |
|         | threads  |    6.50 |       - |

- account 7 was not opened: refused
";
        assert_eq!(results.markdown(), expected);
    }
}
