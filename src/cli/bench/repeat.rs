//! `--repeat`: the same run several times, and the line of the median one. Each is a process of its own: neither the peak of
//! memory nor a warm allocator nor a counter of one run tells anything about the next.

use std::{
    ffi::OsString,
    io::{IsTerminal, Read},
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::{Failure, line::Line, machine, report};

/// Runs this process's command so many times, and prints the line of the median run.
pub(super) fn run(times: u64) -> Result<(), Failure> {
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut lines = Vec::new();
    for time in 1..=times {
        if std::io::stderr().is_terminal() {
            anstream::eprintln!("run {time} of {times}");
        }
        lines.push(one(arguments(&given, time))?);
    }
    let mut line = median(lines).ok_or_else(|| Failure::Usage("--repeat: at least once".to_owned()))?;
    line.command = Some(machine::command(std::env::args()));
    report::show(&line)
}

/// A run that does not outlive us.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it once, as another process.
fn one(arguments: Vec<OsString>) -> Result<Line, Failure> {
    let child = Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?;
    let mut run = Run(child);
    let mut printed = String::new();
    if let Some(stdout) = &mut run.0.stdout {
        stdout.read_to_string(&mut printed)?;
    }
    let status = run.0.wait()?;
    if !status.success() {
        return Err(Failure::Failed(format!("a run failed: {status}")));
    }
    serde_json::from_str(&printed).map_err(|error| Failure::Failed(format!("a run printed no line of JSON: {error}")))
}

/// Returns the arguments of one run: it is not repeated, and a file that the URL names is only the first one's.
fn arguments(given: &[OsString], time: u64) -> Vec<OsString> {
    let mut arguments = Vec::with_capacity(given.len());
    let mut given = given.iter();
    while let Some(word) = given.next() {
        let text = word.to_string_lossy();
        if text == "--repeat" {
            given.next();
            continue;
        }
        if text.starts_with("--repeat=") {
            continue;
        }
        let mut word = word.clone();
        let url = text.strip_prefix("--url=").unwrap_or(&text);
        let names_a_file = url.strip_prefix("sqlite:").is_some_and(|path| !path.trim_start_matches("//").is_empty());
        if names_a_file && time > 1 {
            word.push(format!(".{time}"));
        }
        arguments.push(word);
    }
    arguments
}

/// Returns the line in the middle by rate, the slower one of two, with the rates of all in the order of their runs.
fn median(mut lines: Vec<Line>) -> Option<Line> {
    let rates: Vec<f64> = lines.iter().map(|line| line.rate).collect();
    lines.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let mut line = lines.get(lines.len().checked_sub(1)? / 2).cloned()?;
    line.figures.insert("rates".to_owned(), json!(rates));
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::{super::line::example, *};

    #[test]
    fn the_median_is_a_run_that_took_place() {
        let run = |rates: &[f64]| median(rates.iter().map(|rate| example("chain", "sqlite", json!({}), *rate)).collect());
        let line = run(&[30.0, 10.0, 20.0]).unwrap();
        assert_eq!((line.rate, &line.figures["rates"]), (20.0, &json!([30.0, 10.0, 20.0])));
        assert_eq!(run(&[4.0, 1.0, 3.0, 2.0]).unwrap().rate, 2.0);
        assert_eq!(run(&[]), None);
    }

    #[test]
    fn each_run_has_a_database_of_its_own_and_is_not_repeated_again() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let given = words("bench --repeat 3 chain --url sqlite:x.db --steps 5");
        assert_eq!(arguments(&given, 1), words("bench chain --url sqlite:x.db --steps 5"));
        assert_eq!(arguments(&given, 2), words("bench chain --url sqlite:x.db.2 --steps 5"));
        assert_eq!(arguments(&words("bench chain --repeat=3 --url=sqlite://x"), 3), words("bench chain --url=sqlite://x.3"));
        assert_eq!(arguments(&words("bench chain --url sqlite: --repeat 2"), 2), words("bench chain --url sqlite:"));
        assert_eq!(arguments(&words("bench deep --url postgres://h/d"), 2), words("bench deep --url postgres://h/d"));
    }
}
