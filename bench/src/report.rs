//! The table: a row a measure, each with a ratio from one run, its bar, and whether the bar is met. For the terminal and for
//! the file it is the same text.

use std::fmt::Write;

use crate::machine::Machine;

/// The table stays readable; the whole is on the terminal.
const VERDICT_CHARS_MAX: usize = 100;

/// What a row's number must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// It stands beside the others, for comparison.
    None,
}

#[derive(Debug, Clone)]
pub struct Row {
    measure: String,
    jetway: String,
    /// Whom it is compared with, and their number.
    peer: String,
    /// What the bar is about: a ratio, or Jetway's own number.
    number: Option<f64>,
    is_ratio: bool,
    bar: Bar,
    unit: &'static str,
    /// Something in the way of believing it.
    fault: Option<String>,
}

impl Row {
    /// Jetway beside a peer; `None`: there is no such number.
    pub fn ratio(
        measure: &str,
        jetway: Option<f64>,
        (name, peer): (&str, Option<f64>),
        unit: &'static str,
        bar: Bar,
    ) -> Self {
        Self {
            measure: measure.to_owned(),
            jetway: shown(jetway, unit),
            peer: if peer.is_some() {
                format!("{name} {}", shown(peer, unit))
            } else {
                format!("{name}: –")
            },
            number: jetway.zip(peer).map(|(jetway, peer)| jetway / peer),
            is_ratio: true,
            bar,
            unit,
            fault: None,
        }
    }

    /// Jetway's own number.
    pub fn own(measure: &str, jetway: Option<f64>, unit: &'static str, bar: Bar) -> Self {
        Self {
            measure: measure.to_owned(),
            jetway: shown(jetway, unit),
            peer: String::new(),
            number: jetway,
            is_ratio: false,
            bar,
            unit,
            fault: None,
        }
    }

    /// A measure that came to nothing.
    pub fn failed(measure: &str, why: &str) -> Self {
        Self::own(measure, None, "", Bar::None).with_fault(Some(why.to_owned()))
    }

    pub fn with_fault(mut self, fault: Option<String>) -> Self {
        self.fault = fault;
        self
    }

    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    fn met(&self) -> Option<bool> {
        let number = self.number?;
        let is_within = match self.bar {
            Bar::AtMost(most) => number <= most,
            Bar::AtLeast(least) => number >= least,
            Bar::None => return None,
        };
        Some(is_within && self.fault.is_none())
    }

    fn cells(&self) -> [String; 6] {
        let unit = if self.is_ratio { "×" } else { self.unit };
        let bar = match self.bar {
            Bar::AtMost(most) => format!("≤ {most} {unit}"),
            Bar::AtLeast(least) => format!("≥ {least} {unit}"),
            Bar::None => String::new(),
        };
        let verdict = match (self.met(), self.bar) {
            (Some(true), _) => "met",
            (Some(false), _) => "NOT MET",
            (None, Bar::None) => "",
            (None, _) => "not measured",
        };
        let verdict = match &self.fault {
            Some(fault) => {
                let whole = format!("{verdict}: {fault}").trim_start_matches(": ").replace(['|', '\n'], " ");
                whole.chars().take(VERDICT_CHARS_MAX).collect()
            }
            None => verdict.to_owned(),
        };
        let ratio = if self.is_ratio { shown(self.number, "×") } else { String::new() };
        [self.measure.clone(), self.jetway.clone(), self.peer.clone(), ratio, bar, verdict]
    }
}

/// Three digits that count.
fn shown(number: Option<f64>, unit: &str) -> String {
    let Some(number) = number else { return "–".to_owned() };
    let digits = match number.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.digits$} {unit}").trim_end().to_owned()
}

/// A Markdown table whose columns line up.
pub fn table(rows: &[Row]) -> String {
    let head = ["measure", "Jetway", "against", "ratio", "bar", ""].map(str::to_owned);
    let cells: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut text = String::new();
    for (n, row) in cells.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _written = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if n == 0 {
            text.extend(widths.iter().map(|width| format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

/// The whole page.
pub fn page(machine: &Machine, rows: &[Row]) -> String {
    format!(
        "# What was measured\n\nWritten by `make bench`: every ratio is from this one run. What each row means is said in \
         [`bench/src/parts/`](src/parts/).\n\n{machine}\n{}",
        table(rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_by_the_ratio_or_by_the_number_and_by_nothing_with_a_fault() {
        let met = |jetway, peer, bar| Row::ratio("m", jetway, ("Plane", peer), "ms", bar).met();
        assert_eq!(met(Some(1.0), Some(10.0), Bar::AtMost(0.1)), Some(true));
        assert_eq!(met(Some(1.1), Some(10.0), Bar::AtMost(0.1)), Some(false));
        assert_eq!(met(Some(3.0), Some(1.0), Bar::AtLeast(3.0)), Some(true));
        assert_eq!(met(Some(3.0), None, Bar::AtLeast(3.0)), None);
        assert_eq!(met(Some(3.0), Some(1.0), Bar::None), None);
        let own = Row::own("m", Some(1200.0), "/s", Bar::AtLeast(1000.0));
        assert_eq!(own.met(), Some(true));
        assert_eq!(own.with_fault(Some("3 errors".into())).met(), Some(false));
    }

    #[test]
    fn the_table_lines_up_and_says_what_is_missing() {
        let rows = [
            Row::ratio("live", Some(6000.0), ("Plane", Some(1500.0)), "/s", Bar::AtLeast(3.0)),
            Row::ratio("hot", Some(2.5), ("Plane", None), "ms", Bar::AtMost(0.02)),
            Row::failed("cold", "no | engine"),
        ];
        let text = table(&rows);
        let lengths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        for part in [
            "6000 /s",
            "Plane 1500 /s",
            "4.00 ×",
            "≥ 3 ×",
            "| met",
            "Plane: –",
            "not measured",
            "| no   engine",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }
}
