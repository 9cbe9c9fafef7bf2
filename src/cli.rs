//! The command line: data on stdout, everything for people on stderr, and an exit code that says what went wrong.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod bench;

/// Durable functions: ordinary async Rust whose progress survives crashes, restarts and deployments.
#[derive(Parser, Debug)]
#[command(name = "stent", version, about, after_help = CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// Shown by `--help`.
const CODES: &str = "Exit codes: 0 ok · 1 failure · 2 usage · 5 conflict (the database exists) · 7 store unreachable";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Measures this build on this machine and prints one line of JSON.
    Bench(bench::Bench),
}

/// Why a command failed, by its exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It ran and went wrong.
    #[error("{0}")]
    Failed(String),
    /// What was asked for contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// Something is there already.
    #[error("{0}")]
    Conflict(String),
    /// The store cannot be used.
    #[error("{0}")]
    Store(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Conflict(_) => 5,
            Failure::Store(_) => 7,
        }
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Store(error) => Failure::Store(error.to_string()),
            other => Failure::Failed(other.to_string()),
        }
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Failure::Store(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { verb: Verb::Bench(bench) } = Cli::parse();
    let filter = EnvFilter::try_from_env("STENT_LOG").or_else(|_| EnvFilter::try_from_default_env());
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("warn"));
    if bench.counts_statements() {
        bench::statements::count_and_show(filter);
    } else {
        // A logger that somebody set before us stays.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    match actix::System::new().block_on(bench.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            anstream::eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
