//! One line of JSON for machines on stdout, a table and a bar for people on stderr.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::{
    Failure,
    line::Line,
    machine::{self, Machine},
    place::Place,
};
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
    /// The peak of memory when the measured part was over, by [`peak_mb`]: what runs beside or behind it is no part of it.
    pub(super) rss_mb: Option<f64>,
    /// Further figures, by name.
    pub(super) figures: Map<String, Value>,
    pub(super) notes: String,
}

impl Report {
    /// Prints it.
    pub(super) fn print(mut self, place: &Place) -> Result<(), Failure> {
        self.times.sort_unstable();
        let quantile = |q| quantile(&self.times, q).map(millis);
        // Other processes' commits are not known here, which is not the same as none.
        let counted = |count| (count > 0).then_some(count);
        let mut params = self.params;
        if place.target().finished > 0 {
            params["finished"] = place.target().finished.into();
        }
        let line = Line {
            system: "stent".to_owned(),
            store: place.name().to_owned(),
            durability: place.target().durability.word().to_owned(),
            workload: self.workload.to_owned(),
            params,
            wall_s: Some(round(self.wall.as_secs_f64())),
            rate: round(self.rate),
            unit: self.unit.to_owned(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            rss_mb_peak: self.rss_mb,
            commits: counted(self.stats.commits),
            rows: counted(self.stats.rows),
            figures: self.figures,
            notes: self.notes,
            version: Some(version()),
            at: Some(chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
            machine: Machine::here(place.data()),
            command: Some(machine::command(std::env::args())),
        };
        show(&line)
    }
}

/// Returns the version of this crate, and says if its figures mean little.
fn version() -> String {
    let build = if cfg!(debug_assertions) { " (debug build)" } else { "" };
    format!("{}{build}", env!("CARGO_PKG_VERSION"))
}

/// Prints a line on stdout, and as a table where a person sees it.
pub(super) fn show(line: &Line) -> Result<(), Failure> {
    let text = serde_json::to_string(line).map_err(|error| Failure::Failed(format!("a line of JSON: {error}")))?;
    if std::io::stderr().is_terminal() {
        table(line);
    }
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn table(line: &Line) {
    let Ok(Value::Object(fields)) = serde_json::to_value(line) else { return };
    let ours = ["figures", "machine"].into_iter().filter_map(|name| fields[name].as_object()).flatten();
    for (name, value) in fields.iter().chain(ours) {
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

/// Returns how many things happened per second in the first and in the last tenth of these moments.
pub(super) fn tenths(moments: &[Instant]) -> (f64, f64) {
    let tenth = moments.len() / 10;
    let rate = |part: &[Instant]| match part {
        [first, .., last] => per_second(part.len() as u64 - 1, last.duration_since(*first)),
        _ => 0.0,
    };
    (rate(&moments[..tenth]), rate(&moments[moments.len() - tenth..]))
}

/// Shows a count on a bar while something runs; where nobody sees the bar, nothing is asked.
pub(super) async fn watched<T>(bar: &ProgressBar, count: impl Fn() -> u64, runs: impl Future<Output = T>) -> T {
    let mut runs = std::pin::pin!(runs);
    if bar.is_hidden() {
        return runs.await;
    }
    loop {
        match tokio::time::timeout(Duration::from_millis(250), &mut runs).await {
            Ok(done) => return done,
            Err(_) => bar.set_position(count()),
        }
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

/// Returns a figure in milliseconds.
pub(super) fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// Returns a member of sorted times: that which such a part of them does not exceed.
pub(super) fn quantile(sorted: &[Duration], q: f64) -> Option<Duration> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
}

/// Returns the largest resident size of this process so far, in MB, where the system tells.
pub(super) fn peak_mb() -> Option<f64> {
    memory_mb("VmHWM:")
}

/// Returns the resident size of this process, in MB, where the system tells.
pub(super) fn resident_mb() -> Option<f64> {
    memory_mb("VmRSS:")
}

fn memory_mb(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
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
