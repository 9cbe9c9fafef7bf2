//! `compare`: two files of results beside each other. Lines of the same work in the same place are partners; several runs of
//! the same are matched in their order. What has no partner is said, so that nothing drops out of a comparison unseen.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{
    Failure,
    line::{self, Line},
};

/// Two files of results beside each other.
#[derive(Args, Debug)]
pub(super) struct Compare {
    /// Lines of JSON that a bench printed.
    before: PathBuf,
    /// Later ones.
    after: PathBuf,
}

/// The columns; the first ones are text.
const HEADER: [&str; 9] = ["workload", "store", "params", "unit", "rate", "ratio", "p50 ms", "p99 ms", "rss MB"];
const TEXTS: usize = 4;

impl Compare {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (before, after) = (line::read(&self.before)?, line::read(&self.after)?);
        let matched = matched(&before, &after);
        let mut out = anstream::stdout().lock();
        if !matched.pairs.is_empty() {
            write!(out, "{}", table(&matched.pairs))?;
        }
        for (lonely, file) in [(&matched.only_before, &self.before), (&matched.only_after, &self.after)] {
            for line in lonely {
                writeln!(out, "only in {}: {}", file.display(), name(line))?;
            }
        }
        Ok(out.flush()?)
    }
}

/// Which lines belong together.
struct Matched<'a> {
    pairs: Vec<(&'a Line, &'a Line)>,
    only_before: Vec<&'a Line>,
    only_after: Vec<&'a Line>,
}

fn matched<'a>(before: &'a [Line], after: &'a [Line]) -> Matched<'a> {
    let mut left: Vec<&Line> = after.iter().collect();
    let (mut pairs, mut only_before) = (Vec::new(), Vec::new());
    for line in before {
        match left.iter().position(|other| line.matches(other)) {
            Some(at) => pairs.push((line, left.remove(at))),
            None => only_before.push(line),
        }
    }
    Matched { pairs, only_before, only_after: left }
}

fn name(line: &Line) -> String {
    format!("{} {} ({}, {}) {}", line.system, line.workload, line.store, line.durability, line.params())
}

/// Returns the pairs as a table whose columns are as wide as they must be.
fn table(pairs: &[(&Line, &Line)]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(pairs.iter().map(|(before, after)| row(before, after)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            ..TEXTS => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(before: &Line, after: &Line) -> [String; HEADER.len()] {
    let workload =
        if before.system == "stent" { before.workload.clone() } else { format!("{} {}", before.system, before.workload) };
    let store =
        if before.durability == "full" { before.store.clone() } else { format!("{}/{}", before.store, before.durability) };
    let ratio = if before.rate > 0.0 { format!("{:.2}", after.rate / before.rate) } else { "–".to_owned() };
    let rate = |line: &Line| if line.rate < 100.0 { format!("{:.2}", line.rate) } else { format!("{:.0}", line.rate) };
    let figure = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"));
    let change = |before, after| format!("{} → {}", figure(before), figure(after));
    [
        workload,
        store,
        before.params(),
        before.unit.clone(),
        format!("{} → {}", rate(before), rate(after)),
        ratio,
        change(before.p50_ms, after.p50_ms),
        change(before.p99_ms, after.p99_ms),
        change(before.rss_mb_peak, after.rss_mb_peak),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::line::example, *};

    #[test]
    fn lines_of_the_same_work_are_partners_whatever_their_order() {
        let (five, six) = (json!({"steps": 5}), json!({"steps": 6}));
        let before = [
            example("chain", "sqlite", five.clone(), 100.0),
            example("chain", "memory", five.clone(), 300.0),
            example("chain", "sqlite", six.clone(), 80.0),
        ];
        let after = [
            example("deep", "sqlite", five.clone(), 7.0),
            example("chain", "memory", five.clone(), 450.0),
            example("chain", "sqlite", five, 50.0),
        ];
        let found = matched(&before, &after);
        let rates: Vec<_> = found.pairs.iter().map(|(before, after)| (before.rate, after.rate)).collect();
        assert_eq!(rates, [(100.0, 50.0), (300.0, 450.0)]);
        assert_eq!(found.only_before, [&before[2]]);
        assert_eq!(found.only_after, [&after[0]]);
    }

    #[test]
    fn each_line_has_one_partner_at_most() {
        let line = |rate| example("latency", "sqlite", json!({}), rate);
        let (before, after) = ([line(1.0), line(2.0), line(3.0)], [line(4.0), line(5.0)]);
        let found = matched(&before, &after);
        let rates: Vec<_> = found.pairs.iter().map(|(before, after)| (before.rate, after.rate)).collect();
        assert_eq!(rates, [(1.0, 4.0), (2.0, 5.0)]);
        assert_eq!(found.only_before, [&before[2]]);
        assert!(found.only_after.is_empty());
    }

    #[test]
    fn the_table_shows_the_ratio_and_what_is_not_known() {
        let before = Line { p50_ms: Some(1.25), ..example("chain", "sqlite", json!({"steps": 5}), 100.0) };
        let after = example("chain", "sqlite", json!({"steps": 5}), 150.0);
        let text = table(&[(&before, &after)]);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let wanted = ["chain", "sqlite", "steps=5", "executions/s", "100 → 150", "1.50", "1.25 → –", "– → –", "– → –"];
        assert_eq!(cells, wanted, "{text}");
    }
}
