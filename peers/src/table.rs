//! A table of medians: one row per workload, store, durability, parameters and system.

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write, path::Path};

use serde::Deserialize;
use serde_json::Value;

use crate::{Failure, report};

/// The workloads in the order of the table; others follow by name.
const ORDER: [&str; 4] = ["chain", "latency", "fanout", "deep"];

/// What of a line the table shows.
#[derive(Deserialize, Debug)]
struct Line {
    system: String,
    store: String,
    durability: String,
    workload: String,
    /// Sorted by name: the programs print them in different orders.
    params: BTreeMap<String, Value>,
    rate: f64,
    #[serde(default)]
    unit: String,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    rss_mb_peak: Option<f64>,
}

/// Prints the table of a file.
pub(crate) fn print(file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|source| Failure::File { what: file.display().to_string(), source })?;
    let mut lines = Vec::new();
    for (at, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let what = |error| Failure::Failed(format!("{}:{}: {error}", file.display(), at + 1));
        lines.push(serde_json::from_str(text).map_err(what)?);
    }
    report::say(&table(&lines))
}

fn table(lines: &[Line]) -> String {
    let mut groups: BTreeMap<_, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        let place = ORDER.iter().position(|name| *name == line.workload).unwrap_or(ORDER.len());
        let key = (place, &line.workload, &line.store, &line.durability, params(&line.params), &line.system);
        groups.entry(key).or_default().push(line);
    }
    let mut rows: Vec<_> = groups.into_iter().map(|(key, lines)| (key, Row::of(&lines))).collect();
    // Side by side: what ran the same workload on the same kind of store, the fastest first.
    rows.sort_by(|(a, left), (b, right)| {
        (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)).then(right.rate.partial_cmp(&left.rate).unwrap_or(Ordering::Equal))
    });

    let mut text = String::from(
        "| workload | store | system | durability | parameters | runs | median rate | lowest – highest | p50 ms | p99 ms | peak RSS MB |\n\
         |---|---|---|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for ((_, workload, store, durability, params, system), row) in rows {
        let Row { runs, rate, lowest, highest, unit, p50, p99, rss } = row;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {workload} | {store} | {system} | {durability} | {params} | {runs} | {} {unit} | {} – {} | {} | {} | {} |",
            figure(Some(rate)),
            figure(Some(lowest)),
            figure(Some(highest)),
            figure(p50),
            figure(p99),
            figure(rss),
        );
    }
    text
}

/// The medians of runs of the same.
struct Row<'a> {
    runs: usize,
    rate: f64,
    lowest: f64,
    highest: f64,
    unit: &'a str,
    p50: Option<f64>,
    p99: Option<f64>,
    rss: Option<f64>,
}

impl<'a> Row<'a> {
    fn of(lines: &[&'a Line]) -> Row<'a> {
        let rates = || lines.iter().map(|line| line.rate);
        Row {
            runs: lines.len(),
            rate: median(rates()).unwrap_or_default(),
            lowest: rates().fold(f64::INFINITY, f64::min),
            highest: rates().fold(0.0, f64::max),
            unit: lines.first().map_or("", |line| &line.unit),
            p50: median(lines.iter().filter_map(|line| line.p50_ms)),
            p99: median(lines.iter().filter_map(|line| line.p99_ms)),
            rss: median(lines.iter().filter_map(|line| line.rss_mb_peak)),
        }
    }
}

/// Returns the middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn params(params: &BTreeMap<String, Value>) -> String {
    let words: Vec<String> = params.iter().map(|(name, value)| format!("{} {value}", name.replace('_', " "))).collect();
    words.join(", ")
}

/// Writes a figure with as many places as it deserves.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_row_holds_the_median_of_equal_runs_and_the_fastest_is_first() {
        let line = |system: &str, rate: f64| {
            let text = serde_json::json!({
                "system": system, "store": "sqlite", "durability": "full", "workload": "chain", "params": {"steps": 5},
                "rate": rate, "unit": "executions/s", "p50_ms": 1.0, "p99_ms": null, "rss_mb_peak": 20.0,
            });
            serde_json::from_value::<Line>(text).unwrap()
        };
        let found = table(&[line("a", 1.0), line("b", 200.0), line("a", 3.0), line("a", 2.0)]);
        let rows: Vec<&str> = found.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| chain | sqlite | b | full | steps 5 | 1 | 200 executions/s | 200 – 200 | 1.00 | – | 20.0 |",
                "| chain | sqlite | a | full | steps 5 | 3 | 2.00 executions/s | 1.00 – 3.00 | 1.00 | – | 20.0 |",
            ]
        );
    }
}
