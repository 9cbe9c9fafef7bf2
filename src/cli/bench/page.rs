//! `page`: results as a page of Markdown, a table per workload, with what is needed to get the same figures again: the machine, the
//! version, and the commands.

use std::{fmt::Write as _, io::Write, path::PathBuf};

use clap::Args;
use serde_json::Value;

use super::{
    Failure,
    line::{self, Line},
};

/// A page of Markdown from files of results.
#[derive(Args, Debug)]
pub(super) struct Page {
    /// Lines of JSON that a bench printed.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// It has a column of its own.
const SHARE: &str = "share_of_ceiling";

impl Page {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for file in &self.files {
            lines.extend(line::read(file)?);
        }
        let mut out = anstream::stdout().lock();
        out.write_all(page(&lines).as_bytes())?;
        Ok(out.flush()?)
    }
}

fn page(lines: &[Line]) -> String {
    let mut text = "# Results\n\n".to_owned();
    let machines = known(lines.iter().map(|line| line.machine.words()));
    let disks = known(lines.iter().filter_map(|line| line.machine.disk.clone()));
    let versions =
        known(lines.iter().map(|line| line.version.as_ref().map_or_else(String::new, |v| format!("{} {v}", line.system))));
    let mut days =
        known(lines.iter().filter_map(|line| line.at.as_ref()).map(|at| at.split('T').next().unwrap_or(at).to_owned()));
    days.sort_unstable();
    for (what, values) in [("Machine", machines), ("File system of the data", disks), ("Version", versions), ("Measured", days)] {
        if !values.is_empty() {
            let _ = writeln!(text, "- {what}: {}", values.join("; "));
        }
    }
    text.push_str("\nClient and engine share the machine, and so does the store unless it is a server elsewhere. Each run verified its results.\n");
    for workload in known(lines.iter().map(|line| line.workload.clone())) {
        let of_it: Vec<&Line> = lines.iter().filter(|line| line.workload == workload).collect();
        let _ = write!(text, "\n## {workload}\n\n{}", section(&of_it));
    }
    text
}

/// Returns each value once, in the order of first occurrence, without empty ones.
fn known(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = Vec::new();
    for value in values.filter(|value| !value.is_empty()) {
        if !known.contains(&value) {
            known.push(value);
        }
    }
    known
}

/// The results of one workload: a table, what else they found, and how to get them again.
fn section(lines: &[&Line]) -> String {
    let mut text =
        "| store | durability | parameters | rate | p50 ms | p99 ms | commits | rows | peak RSS, MB | share of ceiling |\n\
                    |---|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for line in lines {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), |figure| figure.to_string());
        let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
        let share = line.figures.get(SHARE).and_then(Value::as_f64);
        let cells = [
            place(line),
            line.durability.clone(),
            line.params(),
            format!("{} {}", line.rate, line.unit).trim_end().to_owned(),
            figure(line.p50_ms),
            figure(line.p99_ms),
            count(line.commits),
            count(line.rows),
            figure(line.rss_mb_peak),
            share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        ];
        let _ = writeln!(text, "| {} |", cells.map(|cell| escaped(&cell)).join(" | "));
    }
    let more: Vec<String> = lines.iter().filter_map(|line| more(line)).collect();
    if !more.is_empty() {
        let _ = write!(text, "\n{}", more.concat());
    }
    for note in known(lines.iter().map(|line| line.notes.clone())) {
        let _ = write!(text, "\n{}\n", escaped(&note));
    }
    let commands = known(lines.iter().filter_map(|line| line.command.clone()));
    if !commands.is_empty() {
        let _ = write!(text, "\n```sh\n{}\n```\n", commands.join("\n"));
    }
    text
}

fn place(line: &Line) -> String {
    if line.system == "stent" { line.store.clone() } else { format!("{}, {}", line.system, line.store) }
}

/// What has no column, as an item of a list.
fn more(line: &Line) -> Option<String> {
    let mut figures = line.figures.clone();
    figures.remove(SHARE);
    let whose = [place(line), line.durability.clone(), line.params()].into_iter().filter(|word| !word.is_empty());
    let whose = whose.collect::<Vec<_>>().join(", ");
    (!figures.is_empty()).then(|| format!("- {}: {}\n", escaped(&whose), escaped(&line::words(&figures))))
}

/// Keeps a text within its cell.
fn escaped(text: &str) -> String {
    text.replace('|', r"\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{line::example, machine::Machine},
        *,
    };

    #[test]
    fn a_page_has_a_table_per_workload_and_all_that_is_needed_to_measure_again() {
        let machine =
            Machine { cpu: Some("A CPU".to_owned()), cores: Some(2), disk: Some("ext4".to_owned()), ..Machine::default() };
        let mut chain = Line {
            version: Some("1.2.3".to_owned()),
            at: Some("2025-01-31T10:00:00Z".to_owned()),
            machine,
            command: Some("stent bench chain --steps 5".to_owned()),
            commits: Some(7),
            p50_ms: Some(1.5),
            ..example("chain", "sqlite", json!({"steps": 5}), 1234.5)
        };
        chain.figures.insert(SHARE.to_owned(), json!(0.617));
        chain.figures.insert("rates".to_owned(), json!([1.0, 2.0]));
        let other = Line { system: "other".to_owned(), notes: "a | b".to_owned(), ..example("chain", "disk", json!({}), 9.0) };
        let text = page(&[chain, example("deep", "memory", json!({"depth": 10}), 50.0), other]);
        for wanted in [
            "- Machine: A CPU, 2 cores\n- File system of the data: ext4\n- Version: stent 1.2.3\n- Measured: 2025-01-31\n",
            "## chain\n",
            "| sqlite | full | steps=5 | 1234.5 executions/s | 1.5 | – | 7 | – | – | 62 % |\n| other, disk | full |",
            "- sqlite, full, steps=5: rates=[1.0,2.0]\n\na \\| b\n",
            "```sh\nstent bench chain --steps 5\n```\n",
            "## deep\n",
            "| memory | full | depth=10 | 50 executions/s |",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is missing in\n{text}");
        }
    }
}
