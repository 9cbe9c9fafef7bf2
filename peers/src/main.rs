//! `peers <system> <workload>`: what `stent bench` measures, on other durable-execution libraries. Each result is verified,
//! and a run prints one line of JSON with the fields of `stent bench`. `peers table <file>` makes a table of such lines.
//!
//! The libraries are driven as Stent is: one task keeps a window of executions in flight, on the main thread, and each is
//! set up as its own documentation recommends. What differs from that is asked for by an option and said in the notes.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod drive;
mod on_dbos;
mod on_durare;
mod place;
mod report;
mod table;

/// Small values are made on one thread and dropped on another all the time; Stent's command line has the same allocator.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The workloads of `stent bench` on other durable-execution libraries.
#[derive(Parser, Debug)]
#[command(name = "peers", version, about, after_help = CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// Shown by `--help`; those of `stent`.
const CODES: &str = "Exit codes: 0 ok · 1 failure · 2 usage · 5 conflict (the database exists) · 7 store unreachable";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Measures durare, on SQLite or PostgreSQL.
    Durare(Run),
    /// Measures dbos, on PostgreSQL.
    Dbos(Run),
    /// Prints the medians of a file of lines, as a table in Markdown.
    Table {
        /// A file of lines as `peers` and `stent bench` print them.
        file: PathBuf,
    },
}

/// What of a system is measured.
#[derive(Args, Debug)]
struct Run {
    #[command(flatten)]
    target: Target,
    /// Gives up after so many seconds: a result that does not come is a failure.
    #[arg(long, global = true, default_value_t = 900)]
    timeout: u64,
    #[command(subcommand)]
    workload: Workload,
}

/// Where, and with which settings that differ from the defaults of the library.
#[derive(Args, Debug, Clone)]
struct Target {
    /// `sqlite:<file that does not exist>`, or `postgres://<server>/<database>`: a database of the run's own is made on that
    /// server and dropped afterwards.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    url: String,
    /// What an acknowledgement survives on SQLite; on PostgreSQL the server decides.
    #[arg(long, global = true, value_enum)]
    durability: Option<Level>,
    /// Size of the connection pool; the library's default if left out.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: Option<u32>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Synced to disk before each acknowledgement.
    Full,
    /// Written, not synced.
    Normal,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Full => "full",
            Level::Normal => "normal",
        }
    }
}

#[derive(Subcommand, Debug, Clone)]
enum Workload {
    /// Many executions of a few sequential steps, a window of them in flight.
    Chain {
        /// How many executions.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
        executions: u64,
        /// Steps of each.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        steps: u64,
        /// Executions in flight at once.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        in_flight: u64,
    },
    /// One execution of one step at a time.
    Latency {
        /// How many executions.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
    },
    /// One execution that joins many parallel steps.
    Fanout {
        /// How many steps.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
        width: u64,
    },
    /// One execution of very many sequential steps.
    Deep {
        /// How many steps.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=900_000))]
        depth: u64,
    },
}

/// Why a command failed, by its exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It ran and went wrong.
    #[error("{0}")]
    Failed(String),
    /// The library that is measured returned an error.
    #[error("{system}: {source}")]
    Peer { system: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// What was asked for contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// Something is there already.
    #[error("{0}")]
    Conflict(String),
    /// The store cannot be used.
    #[error("store: {0}")]
    Store(#[from] sqlx::Error),
    /// A file or stdout cannot be used.
    #[error("{what}: {source}")]
    File { what: String, source: std::io::Error },
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::Peer { .. } | Failure::File { .. } => 1,
            Failure::Usage(_) => 2,
            Failure::Conflict(_) => 5,
            Failure::Store(_) => 7,
        }
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Table { file } => table::print(&file),
        Verb::Durare(run) => drive::measure::<on_durare::Durare>(&run),
        Verb::Dbos(run) => drive::measure::<on_dbos::Dbos>(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
