//! The results as Markdown, which reads as well in a terminal.

use crate::measured::Figure;
use crate::results::Results;
use crate::system::System;

/// The table, and below it what has to be known about it.
pub(crate) fn markdown(results: &Results, systems: &[System], machine: &str) -> String {
    let mut lines = vec![header(systems)];
    for row in results.rows() {
        lines.extend(row_lines(results, systems, row));
    }
    let mut text = format!("{machine}\n\n{}", aligned(&lines));
    let notes = notes(results, systems);
    if !notes.is_empty() {
        text.push('\n');
        text.extend(notes.iter().map(|note| format!("- {note}\n")));
    }
    text
}

/// Other systems have a second column: the figure of the first one, divided by theirs.
fn header(systems: &[System]) -> Vec<String> {
    let mut cells = vec!["row".to_owned(), "figure".to_owned()];
    for (i, system) in systems.iter().enumerate() {
        cells.push(system.to_string());
        if i > 0 {
            cells.push("ratio".to_owned());
        }
    }
    cells
}

fn row_lines(results: &Results, systems: &[System], row: &str) -> Vec<Vec<String>> {
    let figures = results.figures(row);
    let Some(&judged) = systems.first() else { return Vec::new() };
    if figures.is_empty() {
        let cells = systems.len() * 2 - 1;
        return vec![[format!("`{row}`"), String::new()].into_iter().chain(vec!["-".to_owned(); cells]).collect()];
    }
    let line = |(i, figure): (usize, Figure)| {
        let name = if i == 0 { format!("`{row}`") } else { String::new() };
        let mut cells = vec![name, figure.label().to_owned()];
        for (column, &system) in systems.iter().enumerate() {
            cells.push(results.median(row, system, figure).map_or_else(|| "-".to_owned(), number));
            if column > 0 {
                let ratio = results.ratio(row, judged, system, figure);
                cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
            }
        }
        cells
    };
    figures.into_iter().enumerate().map(line).collect()
}

/// Reasons for what is missing, and what was not as it should be: each once, for each row and system.
fn notes(results: &Results, systems: &[System]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for row in results.rows() {
        for &system in systems {
            for entry in results.of(row, system) {
                let said = match &entry.outcome {
                    Ok(measured) => measured.remarks.clone(),
                    Err(why) => vec![format!("no figure: {why}")],
                };
                let said = said.into_iter().map(|what| format!("`{row}`, {system}: {what}"));
                let new: Vec<String> = said.filter(|note| !notes.contains(note)).collect();
                notes.extend(new);
            }
        }
    }
    notes
}

/// Three digits that mean something, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// A Markdown table whose columns are as wide as their widest cell: the first two to the left, figures to the right.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).max(4)).collect();
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            text += &if column < 2 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
        }
        text += "|\n";
        if i == 0 {
            for (column, &width) in widths.iter().enumerate() {
                text += &if column < 2 {
                    format!("|{}", "-".repeat(width + 2))
                } else {
                    format!("|{}:", "-".repeat(width + 1))
                };
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::Measured;
    use crate::results::Entry;

    #[test]
    fn numbers_have_three_digits_or_more() {
        let table =
            [(0.0, "0.00"), (0.126, "0.13"), (9.994, "9.99"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234")];
        for (value, text) in table.into_iter().chain([(12_345_678.0, "12,345,678")]) {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_a_system_cannot_do_is_a_dash_with_a_reason() {
        let entry = |row: &str, system, outcome| Entry { row: row.to_owned(), round: 1, system, outcome };
        let mut measured = Measured::default();
        measured.figure(Figure::MessagesPerSecond, Some(61_234.0));
        measured.figure(Figure::P99Ms, Some(1.5));
        measured.remark("lost", 3);
        let refused = || Err("refused".to_owned());
        let (ours, theirs) = (System::NatsMqtt, System::NatsServer);
        let entries = vec![
            entry("one", ours, Ok(measured)),
            entry("one", theirs, refused()),
            entry("two", ours, refused()),
            entry("two", theirs, refused()),
        ];
        let expected = "\
machine

| row   | figure     | nats-mqtt | nats-server | ratio |
|-------|------------|----------:|------------:|------:|
| `one` | messages/s |    61,234 |           - |     - |
|       | p99 ms     |      1.50 |           - |     - |
| `two` |            |         - |           - |     - |

- `one`, nats-mqtt: 3 lost
- `one`, nats-server: no figure: refused
- `two`, nats-mqtt: no figure: refused
- `two`, nats-server: no figure: refused
";
        assert_eq!(markdown(&Results { entries }, &[ours, theirs], "machine"), expected);
    }
}
