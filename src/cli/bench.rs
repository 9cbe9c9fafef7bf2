//! `stent bench`: the workloads of the house, on any store, each result verified, one line of JSON on stdout.
//!
//! Client, engine and store share the machine's cores. A run makes a database of its own and never touches another.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::Failure;
use crate::{Activity, Builder, Durability, InlineHandler};

mod ceiling;
mod chain;
mod cluster;
mod cluster_node;
mod compare;
mod deep;
mod idle;
mod kernel;
mod line;
mod machine;
mod map;
mod overload;
mod page;
mod place;
mod recovery;
mod recovery_child;
mod repeat;
mod report;
mod signals;
mod sleepers;
mod soak;
pub(super) mod statements;
mod work;

/// Measures this build on this machine.
#[derive(Args, Debug)]
pub(super) struct Bench {
    /// Gives up after so many seconds: a result that does not come is a failure.
    #[arg(long, global = true, default_value_t = 900)]
    timeout: u64,
    /// Measures so many times, each in a process and a database of its own, and prints the line of the median run, with the
    /// rates of all. A file that --url names gets further ones beside it, `.2`, `.3` and so on.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    repeat: u64,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand, Debug)]
enum Workload {
    /// Many executions of a few sequential activities, a window of them in flight.
    Chain(chain::Chain),
    /// One execution of one activity at a time.
    Latency(chain::Latency),
    /// One execution that joins many parallel activities.
    Fanout(chain::Fanout),
    /// One execution of very many sequential activities, then its replay.
    Deep(deep::Deep),
    /// One execution that maps an activity over very many items, then its replay.
    Map(map::Map),
    /// A process is killed half-way and restarted; nothing may be lost, nothing recorded repeated.
    Recovery(recovery::Recovery),
    /// Executions sleep until one moment, and all wake up at it.
    Sleepers(sleepers::Sleepers),
    /// Waiting executions, and a signal for each from outside.
    Signals(signals::Signals),
    /// A node on which nothing happens, with some sleeping executions and with ten times as many: what it asks of the database.
    Idle(idle::Idle),
    /// More is offered than the node can bear, then nothing any more: what is refused, how long the rest takes, when it is itself
    /// again.
    Overload(overload::Overload),
    /// A steady load for a long time, then the pace beside that of a fresh database.
    Soak(soak::Soak),
    /// Several nodes on one server: the rate with one and more, then one is killed and one is frozen past its lease.
    Cluster(cluster::Cluster),
    /// Our own store without the engine: the same rows, key order and statements.
    Ceiling(ceiling::Ceiling),
    /// The kernel alone: one turn, one encoding, one decoding, one replayed commit.
    Kernel(kernel::Kernel),
    /// Shows two files of results beside each other.
    Compare(compare::Compare),
    /// Makes a page of Markdown from files of results.
    Page(page::Page),
    /// The process that `recovery` kills.
    #[command(hide = true)]
    RecoveryChild(recovery_child::Child),
    /// A node of `cluster`.
    #[command(hide = true)]
    ClusterNode(cluster_node::Node),
}

/// Where activities are polled.
#[derive(Args, Debug, Clone, Copy, Default)]
struct Polled {
    /// Registers the activities inline (`Builder::inline`): polled in place, on the engine's own thread.
    #[arg(long)]
    inline: bool,
}

impl Polled {
    /// Registers an activity.
    fn add<A: Activity>(self, builder: Builder, handler: impl InlineHandler<A> + Clone + Send) -> Builder {
        if self.inline { builder.inline(handler) } else { builder.activity(handler) }
    }

    /// Says so among the parameters of a line. The default says nothing: such lines are compared with those of before.
    fn noted(self, mut params: Value) -> Value {
        if self.inline {
            params["inline"] = Value::Bool(true);
        }
        params
    }
}

/// Where and how durably.
#[derive(Args, Debug, Clone)]
struct Target {
    /// `sqlite:<file that does not exist>`, `postgres://<server>/<database>` (a schema of its own is made there and dropped
    /// afterwards) or `memory:`; by default an SQLite file in a fresh folder, removed afterwards.
    #[arg(long, default_value = "sqlite:", hide_default_value = true)]
    url: String,
    /// What an acknowledgement survives.
    #[arg(long, value_enum, default_value = "full")]
    durability: Level,
    /// So many finished executions are in the database beforehand: what one without retention holds after a while.
    #[arg(long, default_value_t = 0)]
    finished: u64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Synced to disk before each acknowledgement.
    Full,
    /// Written, not synced.
    Normal,
}

impl Target {
    /// The same kind of place, but another one.
    fn elsewhere(&self) -> Target {
        let url = if self.url.starts_with("sqlite:") { "sqlite:".to_owned() } else { self.url.clone() };
        Target { url, durability: self.durability, finished: 0 }
    }
}

impl Level {
    fn durability(self) -> Durability {
        match self {
            Level::Full => Durability::Full,
            Level::Normal => Durability::Normal,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Level::Full => "full",
            Level::Normal => "normal",
        }
    }
}

impl Bench {
    /// Tells whether statements are to be counted from the beginning.
    pub(super) fn counts_statements(&self) -> bool {
        matches!(self.workload, Workload::Idle(_)) && self.repeat == 1
    }

    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.repeat > 1 {
            return match self.workload {
                Workload::Compare(_) | Workload::Page(_) => Err(Failure::Usage("--repeat: nothing is measured here".to_owned())),
                _ => repeat::run(self.repeat),
            };
        }
        let load = if let Workload::Soak(soak) = &self.workload { soak.load() } else { Duration::ZERO };
        let limit = Duration::from_secs(self.timeout) + load;
        match tokio::time::timeout(limit, self.measured()).await {
            Ok(done) => done,
            Err(_) => Err(Failure::Failed(format!("no end after {} s: a result is missing", limit.as_secs()))),
        }
    }

    async fn measured(self) -> Result<(), Failure> {
        match self.workload {
            Workload::Chain(chain) => chain.run().await,
            Workload::Latency(latency) => latency.run().await,
            Workload::Fanout(fanout) => fanout.run().await,
            Workload::Deep(deep) => deep.run().await,
            Workload::Map(map) => map.run().await,
            Workload::Recovery(recovery) => recovery.run().await,
            Workload::Ceiling(ceiling) => ceiling.run().await,
            Workload::Kernel(kernel) => kernel.run().await,
            Workload::RecoveryChild(child) => child.run().await,
            Workload::Signals(signals) => signals.run().await,
            Workload::Compare(compare) => compare.run(),
            Workload::Page(page) => page.run(),
            Workload::Idle(idle) => idle.run().await,
            Workload::Overload(overload) => overload.run().await,
            Workload::Soak(soak) => soak.run().await,
            Workload::Sleepers(sleepers) => sleepers.run().await,
            Workload::Cluster(cluster) => cluster.run().await,
            Workload::ClusterNode(node) => node.run().await,
        }
    }
}
