//! One line of JSON for machines on stdout, a table and a bar for people on stderr.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{Failure, place::Place};
use crate::Stats;

/// What a run found.
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) params: Value,
    pub(super) wall: Duration,
    /// The main figure, per second.
    pub(super) rate: f64,
    pub(super) unit: &'static str,
    /// Start → result, one per execution; sorted here.
    pub(super) times: Vec<Duration>,
    pub(super) stats: Stats,
    /// Further figures, by name.
    pub(super) figures: Map<String, Value>,
    pub(super) notes: String,
}

impl Report {
    /// Prints it.
    pub(super) fn print(mut self, place: &Place) -> Result<(), Failure> {
        self.times.sort_unstable();
        let quantile = |q| quantile(&self.times, q).map(|time| round(time.as_secs_f64() * 1e3));
        let line = json!({
            "system": "stent",
            "store": place.name(),
            "durability": place.target().durability.word(),
            "workload": self.workload,
            "params": self.params,
            "wall_s": round(self.wall.as_secs_f64()),
            "rate": round(self.rate),
            "unit": self.unit,
            "p50_ms": quantile(0.5),
            "p99_ms": quantile(0.99),
            "rss_mb_peak": peak_mb(),
            "commits": self.stats.commits,
            "rows": self.stats.rows,
            "figures": self.figures,
            "notes": self.notes,
        });
        if std::io::stderr().is_terminal() {
            table(&line);
        }
        let mut out = anstream::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }
}

fn table(line: &Value) {
    let Some(fields) = line.as_object() else { return };
    for (name, value) in fields.iter().chain(fields["figures"].as_object().into_iter().flatten()) {
        match value {
            Value::Null | Value::Object(_) => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => anstream::eprintln!("  {name:<24} {text}"),
            other => anstream::eprintln!("  {name:<24} {other}"),
        }
    }
}

/// Shows how far a run is; nothing when stderr is no terminal.
pub(super) fn bar(length: u64, what: &'static str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target).with_message(what);
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Returns the counters' growth.
pub(super) fn grown(before: Stats, after: Stats) -> Stats {
    Stats {
        commits: after.commits - before.commits,
        rows: after.rows - before.rows,
        items: after.items - before.items,
        claims: after.claims - before.claims,
        ..after
    }
}

/// Returns a rate per second; zero for no time at all.
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { as_f64(count) / seconds } else { 0.0 }
}

/// Returns a count for arithmetic: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Rounds to three places.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn quantile(sorted: &[Duration], q: f64) -> Option<Duration> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
}

/// Returns the largest resident size of this process so far, in MB, where the system tells.
fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(round(as_f64(kilobytes) / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_members_of_what_was_measured() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&times, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&times[..1], 0.99), Some(Duration::from_millis(1)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
