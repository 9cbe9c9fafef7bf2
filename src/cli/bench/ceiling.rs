//! `ceiling`: what the store alone can do with the engine's rows, in the engine's key order, through the same statements.
//! Records are made before the clock runs. Runs are staggered, so each commit holds beginnings, steps and ends alike.
//! The same way a database gets its past before a workload runs in it (`--finished`).

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Map, json};

use super::{
    Failure, Target,
    place::Place,
    report::{Report, bar, peak_mb, per_second, round},
    work::{Increment, Steps},
};
use crate::{
    Activity, Stats, Workflow,
    kernel::{
        codec,
        event::{Call, Command, Commit, Event, Fact, Outcome as End, Started},
        id::{BuildId, Digest, Incarnation, RunId, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{Batch, Item, NewNode, NewRun, Outcome, Status, Store, Then, Turn},
};

/// Our own store without the engine.
#[derive(Args, Debug)]
pub(super) struct Ceiling {
    #[command(flatten)]
    target: Target,
    /// How many chains.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    executions: u64,
    /// Activities of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Rows per commit.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    rows: u64,
}

/// What the bare store did.
pub(super) struct Bare {
    pub(super) wall: Duration,
    pub(super) chains: u64,
    pub(super) rows: u64,
    pub(super) commits: u64,
}

impl Ceiling {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Ceiling { target, executions, steps, rows } = self;
        let place = Place::make(&target).await?;
        let bare = measure(&place, executions, steps, rows).await?;
        let mut figures = Map::new();
        figures.insert("rows_per_s".to_owned(), json!(round(per_second(bare.rows, bare.wall))));
        figures.insert("commits_per_s".to_owned(), json!(round(per_second(bare.commits, bare.wall))));
        Report {
            workload: "ceiling",
            params: json!({"executions": executions, "steps": steps, "rows": rows}),
            wall: bare.wall,
            rate: per_second(bare.chains, bare.wall),
            unit: "chains/s",
            times: Vec::new(),
            stats: Stats { commits: bare.commits, rows: bare.rows, items: bare.rows, claims: 0, ..Stats::default() },
            rss_mb: peak_mb(),
            figures,
            notes: "records are made before the clock runs".to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Finished executions of one activity are written so many in a row…
const PAST_CHAINS: u64 = 20_000;
/// …and so many rows in each commit.
const PAST_ROWS: u64 = 2_000;

/// Writes so many finished executions of one activity: what a database without retention holds after a while.
pub(super) async fn finished(place: &Place, executions: u64) -> Result<(), Failure> {
    let mut store = place.store().await?;
    let (incarnation, now) = register(&mut *store).await?;
    let bar = bar(executions, "finished executions");
    let mut written = 0;
    while written < executions {
        let part = PAST_CHAINS.min(executions - written);
        let first = keys(&mut *store, part).await?;
        for batch in batches(written..written + part, 1, PAST_ROWS, first, incarnation, now)? {
            write(&mut *store, &Batch { renew: true, ..batch }).await?;
        }
        written += part;
        bar.inc(part);
    }
    bar.finish_and_clear();
    store.retire(incarnation, true, &[]).await?;
    Ok(store.close().await?)
}

async fn register(store: &mut dyn Store) -> Result<(Incarnation, Timestamp), Failure> {
    let incarnation = Incarnation(uuid::Uuid::now_v7());
    let now = Timestamp(chrono::Utc::now().timestamp_micros());
    let node = NewNode { incarnation, build: BuildId(0), label: "bench".to_owned(), lease: Duration::from_secs(10), can: 1, now };
    store.register(&node).await?;
    Ok((incarnation, now))
}

async fn keys(store: &mut dyn Store, executions: u64) -> Result<i64, Failure> {
    let count = u32::try_from(executions).map_err(|_| Failure::Usage("that many chains are too many".to_owned()))?;
    let RunKey(first) = store.reserve_keys(count).await?;
    Ok(first)
}

/// Writes so many chains, `rows` rows in each commit.
pub(super) async fn measure(place: &Place, executions: u64, steps: u64, rows: u64) -> Result<Bare, Failure> {
    let mut store = place.store().await?;
    let (incarnation, now) = register(&mut *store).await?;
    let first = keys(&mut *store, executions).await?;
    let batches = batches(0..executions, steps, rows, first, incarnation, now)?;
    let bar = bar(batches.len() as u64, "commits");
    let began = Instant::now();
    let mut written = 0;
    for batch in &batches {
        written += write(&mut *store, batch).await?;
        bar.inc(1);
    }
    let wall = began.elapsed();
    bar.finish_and_clear();
    store.retire(incarnation, true, &[]).await?;
    store.close().await?;
    if written != executions * (steps + 1) {
        return Err(Failure::Failed(format!("{written} rows were written, not {}", executions * (steps + 1))));
    }
    Ok(Bare { wall, chains: executions, rows: written, commits: batches.len() as u64 })
}

async fn write(store: &mut dyn Store, batch: &Batch) -> Result<u64, Failure> {
    let answer = store.commit(batch).await?;
    match answer.outcomes.iter().find(|outcome| **outcome != Outcome::Done) {
        Some(refused) => Err(Failure::Failed(format!("the store refused a row: {refused:?}"))),
        None => Ok(answer.outcomes.len() as u64),
    }
}

/// A chain that is being written.
struct Flying {
    number: u64,
    key: RunKey,
    row: u64,
    tail: Option<Digest>,
}

/// The commits of the chains of these numbers, whose keys begin with `first`.
fn batches(
    numbers: Range<u64>,
    steps: u64,
    rows: u64,
    first: i64,
    by: Incarnation,
    now: Timestamp,
) -> Result<Vec<Batch>, Failure> {
    let mut batches = Vec::new();
    let mut flying: Vec<Flying> = Vec::new();
    let mut fresh = numbers.zip(first..).map(|(number, key)| Flying { number, key: RunKey(key), row: 0, tail: None }).peekable();
    while fresh.peek().is_some() || !flying.is_empty() {
        // A share of the window begins in each commit, until it is full.
        let most = rows.div_ceil(steps + 1).min(rows.saturating_sub(flying.len() as u64));
        flying.extend(fresh.by_ref().take(usize::try_from(most).unwrap_or(usize::MAX)));
        let mut items = Vec::with_capacity(flying.len());
        for chain in &mut flying {
            items.push(Item::Turn(Arc::new(turn(chain, steps, by, now).map_err(Failure::Failed)?)));
            chain.row += 1;
        }
        flying.retain(|chain| chain.row <= steps);
        batches.push(Batch { incarnation: by, now, renew: false, items, claim: None });
    }
    Ok(batches)
}

/// The row that the engine would write at this place of this chain.
fn turn(chain: &mut Flying, steps: u64, by: Incarnation, now: Timestamp) -> Result<Turn, String> {
    let run = chain.key;
    let encode = |value: u64| Payload::encode(&value, "a result").map_err(|error| error.to_string());
    // A version 7 UUID's text, as the engine's ids are: ascending.
    let id = RunId { id: uuid::Builder::from_unix_timestamp_millis(chain.number, &[7; 10]).into_uuid().to_string(), run_no: 1 };
    let commit_no = u32::try_from(chain.row).map_err(|error| error.to_string())?;
    let input = Payload::encode(&Steps { steps }, "an input").map_err(|error| error.to_string())?;
    let mut start = None;
    let mut events = Vec::with_capacity(2);
    if chain.row == 0 {
        start = Some(Box::new(NewRun {
            run,
            id: id.clone(),
            after: Vec::new(),
            workflow: Steps::NAME.to_owned(),
            version: Steps::VERSION,
            priority: 0,
            queue: String::new(),
            tags: Vec::new(),
            needs: Vec::new(),
            created_at: now,
            wake_at: None,
            deadline: None,
            input_digest: input.digest(),
        }));
        let (workflow, version) = (Steps::NAME.to_owned(), Steps::VERSION);
        let started = Started {
            workflow,
            version,
            input,
            seed: u64::MAX / 3,
            deadline: None,
            deferred: false,
            limits: None,
            parent: None,
            retry: None,
            copied_from: None,
        };
        events.push(Event::Fact(Fact::Started(Box::new(started))));
    } else {
        events.push(Event::Fact(Fact::Completed { position: commit_no, attempt: 1, output: encode(chain.row)? }));
    }
    let ends = chain.row == steps;
    events.push(Event::Command(if ends {
        Command::End { outcome: Box::new(End::Completed(encode(steps)?)) }
    } else {
        let input = Payload::encode(&Increment { n: chain.row }, "an argument").map_err(|error| error.to_string())?;
        let (position, activity) = (commit_no + 1, Increment::NAME.to_owned());
        let call = Call { position, activity, input, options: None, undo: None, scope: None, compensating: false, memo: None };
        Command::Call(Box::new(call))
    }));
    let prev = chain.tail;
    let commit = Commit { commit_no, prev, incarnation: by, epoch: 1, build: BuildId(i64::MAX / 3), time: now, events };
    let record = codec::encode(&id, &commit)?;
    chain.tail = Some(record.digest);
    let then = if ends { Then::End { status: Status::Completed, seen: Some(0) } } else { Then::Hold };
    Ok(Turn {
        run,
        start,
        commit_no,
        prev,
        record,
        then,
        consumed: Vec::new(),
        settled: Vec::new(),
        tasks: Vec::new(),
        withdrawn: Vec::new(),
        starts: Vec::new(),
        tells: Vec::new(),
        published: Vec::new(),
        memos: Vec::new(),
        letters: Vec::new(),
        unowned: None,
    })
}
