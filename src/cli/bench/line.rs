//! The line of JSON that a run prints, and that `compare` and `page` read again: one shape, so that neither can drift from what
//! is printed. Other systems that are measured the same way print the same line; what they leave out is optional.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Failure, machine::Machine};

/// What one run found. Fields are printed in this order.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) system: String,
    pub(super) store: String,
    pub(super) durability: String,
    pub(super) workload: String,
    pub(super) params: Value,
    pub(super) wall_s: Option<f64>,
    /// The main figure, per second.
    pub(super) rate: f64,
    /// Of what.
    #[serde(default)]
    pub(super) unit: String,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) rss_mb_peak: Option<f64>,
    pub(super) commits: Option<u64>,
    pub(super) rows: Option<u64>,
    /// Further figures, by name.
    #[serde(default)]
    pub(super) figures: Map<String, Value>,
    #[serde(default)]
    pub(super) notes: String,
    /// Of the system.
    pub(super) version: Option<String>,
    /// When the run was over, in UTC.
    pub(super) at: Option<String>,
    #[serde(default)]
    pub(super) machine: Machine,
    /// What to type for such a run; no password is in it.
    pub(super) command: Option<String>,
}

impl Line {
    /// Tells whether two lines are of the same work in the same place, so that their figures can be compared.
    pub(super) fn matches(&self, other: &Line) -> bool {
        let place = |line: &Line| (line.system.clone(), line.store.clone(), line.durability.clone());
        place(self) == place(other) && self.workload == other.workload && self.params == other.params
    }

    /// Returns the parameters as people write them: `executions=20000 steps=5`.
    pub(super) fn params(&self) -> String {
        match &self.params {
            Value::Object(fields) => words(fields),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

/// Returns fields as `name=value`, one behind the other.
pub(super) fn words(fields: &Map<String, Value>) -> String {
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Reads a file of lines; empty ones are skipped.
///
/// # Errors
/// [`Failure::Failed`] names the file, and the line in it that cannot be understood.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    parse(&text).map_err(|why| Failure::Failed(format!("{}{why}", path.display())))
}

/// Reads lines; the error goes behind the name of their file.
fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            // serde counts lines within this one only, so its own place would mislead.
            Err(error) => {
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                return Err(format!(", line {number}, column {}: no result of a bench: {what}", error.column()));
            }
        }
    }
    if lines.is_empty() { Err(": holds no result of a bench".to_owned()) } else { Ok(lines) }
}

/// A line for tests.
#[cfg(test)]
pub(super) fn example(workload: &str, store: &str, params: Value, rate: f64) -> Line {
    let line = serde_json::json!({"system": "stent", "store": store, "durability": "full", "workload": workload,
        "params": params, "rate": rate, "unit": "executions/s"});
    serde_json::from_value(line).unwrap()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_printed() {
        let line = Line { p99_ms: Some(1.5), notes: "ä".to_owned(), ..example("chain", "sqlite", json!({"steps": 5}), 12.0) };
        let text = format!("\n{}\n\n", serde_json::to_string(&line).unwrap());
        assert_eq!(parse(&text).unwrap(), [line]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let good = serde_json::to_string(&example("chain", "sqlite", json!({}), 1.0)).unwrap();
        let told = parse(&format!("{good}\n\n{{\"system\": \"stent\"}}\n")).unwrap_err();
        assert!(told.starts_with(", line 3, column 19:") && told.contains("missing field `store`"), "{told}");
        let told = parse("chain: 12/s\n").unwrap_err();
        assert!(told.starts_with(", line 1,"), "{told}");
        assert!(parse("\n").unwrap_err().contains("no result"));
        let told = read(Path::new("no such file")).unwrap_err().to_string();
        assert!(told.starts_with("no such file: "), "{told}");
    }

    #[test]
    fn the_same_work_in_another_place_does_not_match() {
        let line = example("chain", "sqlite", json!({"steps": 5, "executions": 10}), 1.0);
        assert!(line.matches(&Line { rate: 9.0, ..example("chain", "sqlite", json!({"executions": 10, "steps": 5}), 1.0) }));
        assert!(!line.matches(&Line { durability: "normal".to_owned(), ..line.clone() }));
        assert!(!line.matches(&Line { system: "other".to_owned(), ..line.clone() }));
        assert!(!line.matches(&example("chain", "memory", line.params.clone(), 1.0)));
        assert!(!line.matches(&example("chain", "sqlite", json!({"steps": 6, "executions": 10}), 1.0)));
    }
}
