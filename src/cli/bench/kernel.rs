//! `kernel`: the pure part alone, without store, threads and clock: what one turn, one encoding, one decoding and one replayed
//! commit cost. Seconds say little here; `.ci/instructions` counts the instructions of these loops, which a busy machine does not
//! change.

use std::{collections::VecDeque, hint::black_box, time::Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, json};

use super::{
    Failure, Level, Target,
    place::Place,
    report::{Report, peak_mb, per_second, round},
    work::Steps,
};
use crate::{
    Stats, Workflow,
    kernel::{
        Blocked,
        codec::{self, Record},
        event::{Commit, Started},
        id::{BuildId, CommitNo, Digest, Incarnation, RunId},
        payload::Payload,
        run::{Arrival, Decision, Run, Writer},
        time::Timestamp,
    },
    registry,
};

/// The kernel alone: no store, no thread, no clock.
#[derive(Args, Debug)]
pub(super) struct Kernel {
    /// What is repeated.
    #[arg(value_enum)]
    part: Part,
    /// How often.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// A result comes in, the workflow goes on, the next call goes out.
    Turn,
    /// A commit becomes a record: its bytes, checksum and digest.
    Encode,
    /// A record becomes a commit again, and is checked.
    Decode,
    /// A commit of a log is read, checked, and led through the workflow's code.
    Replay,
}

/// The length of the log that `replay` goes through again and again.
const LOG: u64 = 1_000;

impl Kernel {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Kernel { part, count } = self;
        let place = Place::make(&Target { url: "memory:".to_owned(), durability: Level::Full, finished: 0 }).await?;
        let began = match part {
            Part::Turn => {
                let began = Instant::now();
                Chain::begun(count)?.grow(count)?;
                began
            }
            Part::Encode | Part::Decode => {
                let mut chain = Chain::begun(LOG)?;
                let (commit_no, record) = chain.grow(2)?.pop().ok_or_else(|| failed("no record"))?;
                let commit = codec::decode(&chain.id, commit_no, &record).map_err(failed)?;
                let began = Instant::now();
                for _ in 0..count {
                    if part == Part::Encode {
                        black_box(codec::encode(&chain.id, black_box(&commit)).map_err(failed)?);
                    } else {
                        black_box(codec::decode(&chain.id, commit_no, black_box(&record)).map_err(failed)?);
                    }
                }
                began
            }
            Part::Replay => {
                let mut chain = Chain::begun(LOG)?;
                let log = chain.grow(LOG)?;
                let began = Instant::now();
                for _ in 0..count.div_ceil(LOG) {
                    replayed(&chain.id, &log)?;
                }
                began
            }
        };
        let wall = began.elapsed();
        let mut figures = Map::new();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        figures.insert("ns_each".to_owned(), json!(round(wall.as_secs_f64() * 1e9 / count as f64)));
        let report = Report {
            workload: "kernel",
            params: json!({"part": format!("{part:?}").to_lowercase(), "count": count}),
            wall,
            rate: per_second(count, wall),
            unit: "per second",
            times: Vec::new(),
            stats: Stats::default(),
            rss_mb: peak_mb(),
            figures,
            notes: "the kernel alone, on one thread".to_owned(),
        };
        report.print(&place)?;
        place.clear().await
    }
}

/// A run of [`Steps`] that is led through its turns.
struct Chain {
    id: RunId,
    run: Box<Run>,
    next: Option<Box<Decision>>,
    now: i64,
}

impl Chain {
    /// Begins a run of more steps than it will be led through.
    fn begun(steps: u64) -> Result<Chain, Failure> {
        let id = RunId { id: "0197f3a0-0000-7000-8000-000000000001".to_owned(), run_no: 1 };
        let input = Payload::encode(&Steps { steps: steps + 1 }, "an input").map_err(failed)?;
        let (workflow, version) = (Steps::NAME.to_owned(), Steps::VERSION);
        let started = Started {
            workflow,
            version,
            input,
            seed: 7,
            deadline: None,
            deferred: false,
            limits: None,
            parent: None,
            retry: None,
            copied_from: None,
        };
        let begin = registry::begin::<Steps>();
        let (run, decision) = Run::begin(id.clone(), started, &begin, false, Timestamp(0), writer()).map_err(failed)?;
        Ok(Chain { id, run, next: Some(decision), now: 0 })
    }

    /// Takes so many turns; returns their records.
    fn grow(&mut self, turns: u64) -> Result<Vec<(CommitNo, Record)>, Failure> {
        let mut log = Vec::new();
        for _ in 0..turns {
            let decision = self.next.take().ok_or_else(|| failed("nothing came of a turn"))?;
            let record = codec::encode(&self.id, &decision.commit).map_err(failed)?;
            self.run.recorded(&decision.commit, record.digest);
            let commit_no = decision.commit.commit_no;
            log.push((commit_no, record));
            let (position, output) = (commit_no + 1, Payload::encode(&(u64::from(commit_no) + 1), "a result").map_err(failed)?);
            let mut arrived = VecDeque::from([Arrival::Ended { position, attempt: 1, result: Ok(output) }]);
            self.now += 1;
            self.next = self.run.turn(&mut arrived, Timestamp(self.now), writer()).map_err(failed)?;
        }
        Ok(log)
    }
}

fn replayed(id: &RunId, log: &[(CommitNo, Record)]) -> Result<(), Failure> {
    let decoded = log.iter().map(|(commit_no, record)| -> Result<(Commit, Digest), Failure> {
        Ok((codec::decode(id, *commit_no, record).map_err(failed)?, record.digest))
    });
    let run = Run::replay(id, decoded, &registry::begin::<Steps>(), false)?;
    if u64::from(run.next_commit()) == log.len() as u64 { Ok(()) } else { Err(failed("the log was not replayed whole")) }
}

fn writer() -> Writer<'static> {
    Writer { incarnation: Incarnation(uuid::Uuid::from_u128(7)), epoch: 1, build: BuildId(1), is_shared: &|_| false }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

impl From<Blocked> for Failure {
    fn from(blocked: Blocked) -> Failure {
        failed(blocked)
    }
}
