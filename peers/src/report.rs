//! One line of JSON on stdout, with the fields of `stent bench`.

use std::{io::Write, time::Duration};

use serde_json::{Map, Value, json};

use crate::{Failure, Level};

/// What a run found.
pub(crate) struct Report {
    pub(crate) system: &'static str,
    pub(crate) store: &'static str,
    pub(crate) durability: Level,
    pub(crate) workload: &'static str,
    pub(crate) params: Value,
    pub(crate) wall: Duration,
    /// The main figure, per second.
    pub(crate) rate: f64,
    pub(crate) unit: &'static str,
    /// Start → result, one per execution.
    pub(crate) times: Vec<Duration>,
    /// Further figures, by name.
    pub(crate) figures: Map<String, Value>,
    pub(crate) notes: String,
}

impl Report {
    /// Prints it.
    pub(crate) fn print(mut self) -> Result<(), Failure> {
        self.times.sort_unstable();
        let quantile = |q| quantile(&self.times, q).map(|time| round(time.as_secs_f64() * 1e3));
        let line = json!({
            "system": self.system,
            "store": self.store,
            "durability": self.durability.word(),
            "workload": self.workload,
            "params": self.params,
            "wall_s": round(self.wall.as_secs_f64()),
            "rate": round(self.rate),
            "unit": self.unit,
            "p50_ms": quantile(0.5),
            "p99_ms": quantile(0.99),
            "rss_mb_peak": peak_mb(),
            "figures": self.figures,
            "notes": self.notes,
        });
        say(&format!("{line}\n"))
    }
}

/// Writes to stdout.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Failure::File { what: "stdout".to_owned(), source })
}

/// Returns the version of a library that this program was built with.
pub(crate) fn version_of(library: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{library}\"\nversion = \"")).map(|(_, rest)| rest);
    entry.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}

/// Returns a rate per second; zero for no time at all.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Rounds to three places.
pub(crate) fn round(value: f64) -> f64 {
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
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(round(kilobytes / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_members_of_what_was_measured() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&times, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_report_can_name_the_versions_it_measured() {
        assert!(version_of("durare").starts_with("0.5"));
        assert!(version_of("dbos").starts_with("0.5"));
    }
}
