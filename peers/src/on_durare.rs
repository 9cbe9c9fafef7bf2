//! durare: workflows and steps by its macros, started in this process without a queue, as its introduction shows.
//!
//! Its SQLite store does not sync each commit by default (`synchronous = NORMAL` with a write-ahead log: the last commits may
//! be lost with the power). `--durability full` hands it a pool that differs in nothing but that.

use std::{str::FromStr, sync::Arc, time::Duration};

use durare::{DurableContext, DurableEngine, PostgresProvider, Result, SqliteProvider, WorkflowOptions};
use futures_util::future::join_all;
use sqlx::{
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Failure, Level, Target,
    drive::{Peer, Work, stamp},
    place::Place,
    report::version_of,
};

/// Its own pool on SQLite, and how long a writer waits for another one; from its guide to operations.
const SQLITE_CONNECTIONS: u32 = 5;
const SQLITE_PATIENCE: Duration = Duration::from_secs(5);
/// Its own pool on PostgreSQL, one of them for notifications; from the same guide.
const POSTGRES_CONNECTIONS: u32 = 8;
/// Where it keeps its tables by default.
const SCHEMA: &str = "dbos";

/// An engine of durare.
pub(crate) struct Durare {
    engine: DurableEngine,
    level: Level,
    notes: String,
}

#[durare::step]
async fn increment(ctx: &DurableContext, n: u64) -> Result<u64> {
    Ok(n + 1)
}

#[durare::step]
async fn stamped(ctx: &DurableContext, n: u64) -> Result<u64> {
    stamp();
    Ok(n + 1)
}

#[durare::workflow]
async fn chain(ctx: DurableContext, steps: u64) -> Result<u64> {
    let mut n = 0;
    for _ in 0..steps {
        n = increment(&ctx, n).await?;
    }
    Ok(n)
}

#[durare::workflow]
async fn fanout(ctx: DurableContext, width: u64) -> Result<u64> {
    // A step takes its place in the history when it is built, so a join of built ones is in order.
    let mut sum = 0;
    for output in join_all((0..width).map(|n| increment(&ctx, n))).await {
        sum += output?;
    }
    Ok(sum)
}

#[durare::workflow]
async fn deep(ctx: DurableContext, depth: u64) -> Result<u64> {
    let mut n = 0;
    for _ in 0..depth {
        n = stamped(&ctx, n).await?;
    }
    Ok(n)
}

impl Peer for Durare {
    const SYSTEM: &'static str = "durare";

    async fn start(place: &Place, target: &Target) -> std::result::Result<Self, Failure> {
        let level = match place {
            // What it does by itself, unless more is asked for.
            Place::File(_) => target.durability.unwrap_or(Level::Normal),
            Place::Database { level, .. } => *level,
        };
        let default = match place {
            Place::File(_) => SQLITE_CONNECTIONS,
            Place::Database { .. } => POSTGRES_CONNECTIONS,
        };
        let connections = target.connections.unwrap_or(default);
        let own = matches!(place, Place::Database { .. }) || level == Level::Normal;
        let builder = if target.connections.is_none() && own {
            DurableEngine::connect(&place.url()).await.map_err(failed)?
        } else {
            with_pool(place, level, connections).await?
        };
        let engine = builder.build().await.map_err(failed)?;
        let sync = match (place, level) {
            (Place::File(_), Level::Full) => ", synchronous=FULL",
            (Place::File(_), Level::Normal) => ", synchronous=NORMAL (its default)",
            (Place::Database { .. }, _) => "",
        };
        let notes = format!("durare {}, a pool of {connections}{sync}, started in process, no queue", version_of("durare"));
        Ok(Durare { engine, level, notes })
    }

    fn durability(&self) -> Level {
        self.level
    }

    fn notes(&self) -> String {
        self.notes.clone()
    }

    async fn run(&self, work: Work) -> std::result::Result<u64, Failure> {
        let options = WorkflowOptions::default();
        let handle = match work {
            Work::Chain { steps } => self.engine.start_with(Chain, steps, options).await,
            Work::Fanout { width } => self.engine.start_with(Fanout, width, options).await,
            Work::Deep { depth } => self.engine.start_with(Deep, depth, options).await,
        };
        handle.map_err(failed)?.await.map_err(failed)
    }

    async fn stop(self) -> std::result::Result<(), Failure> {
        self.engine.shutdown(Duration::from_secs(10)).await.map_err(failed)
    }
}

/// As its own way to connect, with another pool.
async fn with_pool(place: &Place, level: Level, connections: u32) -> std::result::Result<durare::DurableEngineBuilder, Failure> {
    Ok(match place {
        Place::File(path) => {
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .foreign_keys(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(match level {
                    Level::Full => SqliteSynchronous::Full,
                    Level::Normal => SqliteSynchronous::Normal,
                })
                .busy_timeout(SQLITE_PATIENCE);
            let pool = SqlitePoolOptions::new().max_connections(connections).connect_with(options).await?;
            DurableEngine::builder(Arc::new(SqliteProvider::from_pool(pool)))
        }
        Place::Database { .. } => {
            let options = PgConnectOptions::from_str(&place.url())?.options([("search_path", SCHEMA)]);
            let pool = PgPoolOptions::new().max_connections(connections).connect_with(options).await?;
            let provider = PostgresProvider::from_pool_with_schema(pool, SCHEMA).map_err(failed)?;
            DurableEngine::builder(Arc::new(provider))
        }
    })
}

fn failed(error: durare::Error) -> Failure {
    Failure::Peer { system: Durare::SYSTEM, source: Box::new(error) }
}
