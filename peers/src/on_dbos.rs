//! dbos: plain async functions as workflows and `step` in them, run in this process without a queue, as its documentation
//! shows. It has PostgreSQL only.

use dbos::{Config, DBOS, WorkflowRef, step};
use futures_util::future::join_all;

use crate::{
    Failure, Level, Target,
    drive::{Peer, Work, stamp},
    place::Place,
    report::version_of,
};

/// An instance of dbos.
pub(crate) struct Dbos {
    dbos: DBOS,
    chain: WorkflowRef<u64, u64>,
    fanout: WorkflowRef<u64, u64>,
    deep: WorkflowRef<u64, u64>,
    level: Level,
    notes: String,
}

async fn increment(n: u64) -> dbos::Result<u64> {
    Ok(n + 1)
}

async fn stamped(n: u64) -> dbos::Result<u64> {
    stamp();
    Ok(n + 1)
}

async fn chain(steps: u64) -> dbos::Result<u64> {
    let mut n = 0;
    for _ in 0..steps {
        n = step("increment", || increment(n)).await?;
    }
    Ok(n)
}

async fn fanout(width: u64) -> dbos::Result<u64> {
    // A step takes its place in the history when it is built, so a join of built ones is in order.
    let mut sum = 0;
    for output in join_all((0..width).map(|n| step("increment", move || increment(n)))).await {
        sum += output?;
    }
    Ok(sum)
}

async fn deep(depth: u64) -> dbos::Result<u64> {
    let mut n = 0;
    for _ in 0..depth {
        n = step("stamped", || stamped(n)).await?;
    }
    Ok(n)
}

impl Peer for Dbos {
    const SYSTEM: &'static str = "dbos";

    async fn start(place: &Place, target: &Target) -> Result<Self, Failure> {
        let Place::Database { level, .. } = place else {
            return Err(Failure::Usage("dbos runs on PostgreSQL only: use --url postgres://<server>/<database>".to_owned()));
        };
        let mut config = Config::new("peers", place.url());
        // It computes no version of an application by itself and refuses to start without one.
        config.app_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        config.max_connections = target.connections.unwrap_or(config.max_connections);
        let notes = format!("dbos {}, a pool of {}, run in process, no queue", version_of("dbos"), config.max_connections);
        let dbos = DBOS::new(config);
        let chain = dbos.register_workflow("chain", chain).map_err(failed)?;
        let fanout = dbos.register_workflow("fanout", fanout).map_err(failed)?;
        let deep = dbos.register_workflow("deep", deep).map_err(failed)?;
        dbos.launch().await.map_err(failed)?;
        Ok(Dbos { dbos, chain, fanout, deep, level: *level, notes })
    }

    fn durability(&self) -> Level {
        self.level
    }

    fn notes(&self) -> String {
        self.notes.clone()
    }

    async fn run(&self, work: Work) -> Result<u64, Failure> {
        match work {
            Work::Chain { steps } => self.chain.run(steps).await,
            Work::Fanout { width } => self.fanout.run(width).await,
            Work::Deep { depth } => self.deep.run(depth).await,
        }
        .map_err(failed)
    }

    async fn stop(self) -> Result<(), Failure> {
        self.dbos.shutdown().await;
        Ok(())
    }
}

fn failed(error: dbos::Error) -> Failure {
    Failure::Peer { system: Dbos::SYSTEM, source: Box::new(error) }
}
