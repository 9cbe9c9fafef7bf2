//! The driver: the same loop for each library, and the same that `stent bench` has. A window of executions is kept in flight
//! by one task on the main thread; the library works on the threads of tokio.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Map, json};

use crate::{
    Failure, Run, Target, Workload,
    place::Place,
    report::{Report, per_second, round},
};

/// What an execution does. An increment is a step that returns `n + 1`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// So many increments, one after the other; returns the last.
    Chain { steps: u64 },
    /// So many increments at once; returns the sum of what they returned.
    Fanout { width: u64 },
    /// As a chain, and each step notes the time in [`stamp`].
    Deep { depth: u64 },
}

impl Work {
    /// What it has to return.
    fn expected(self) -> u64 {
        match self {
            Work::Chain { steps } => steps,
            Work::Fanout { width } => width * (width + 1) / 2,
            Work::Deep { depth } => depth,
        }
    }
}

/// A library that can do the work.
pub(crate) trait Peer: Sized {
    /// Its name in the report.
    const SYSTEM: &'static str;

    /// Starts it on a place that is empty.
    async fn start(place: &Place, target: &Target) -> Result<Self, Failure>;

    /// Returns what an acknowledgement survives.
    fn durability(&self) -> crate::Level;

    /// Tells how it is set up.
    fn notes(&self) -> String;

    /// Starts an execution and waits for its result.
    async fn run(&self, work: Work) -> Result<u64, Failure>;

    /// Stops it in order.
    async fn stop(self) -> Result<(), Failure>;
}

/// When each step of [`Work::Deep`] ran.
static STAMPS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

/// Notes the time of a step.
pub(crate) fn stamp() {
    STAMPS.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
}

/// Measures a workload on a library and prints the line.
pub(crate) fn measure<P: Peer>(run: &Run) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::File { what: "threads".to_owned(), source })?;
    runtime.block_on(async {
        let place = Place::make(&run.target).await?;
        let limit = Duration::from_secs(run.timeout);
        let done = tokio::select! {
            done = tokio::time::timeout(limit, measured::<P>(&place, run)) => done.unwrap_or_else(|_| {
                Err(Failure::Failed(format!("no end after {} s: a result is missing", run.timeout)))
            }),
            _ = tokio::signal::ctrl_c() => Err(Failure::Failed("interrupted".to_owned())),
        };
        let cleared = place.clear().await;
        done?.print()?;
        cleared
    })
}

async fn measured<P: Peer>(place: &Place, run: &Run) -> Result<Report, Failure> {
    let peer = P::start(place, &run.target).await?;
    let mut report = Report {
        system: P::SYSTEM,
        store: place.store(),
        durability: peer.durability(),
        workload: "",
        params: json!({}),
        wall: Duration::ZERO,
        rate: 0.0,
        unit: "executions/s",
        times: Vec::new(),
        figures: Map::new(),
        notes: peer.notes(),
    };
    match run.workload {
        Workload::Chain { executions, steps, in_flight } => {
            let began = Instant::now();
            report.times = window(&peer, executions, in_flight, steps).await?;
            report.wall = began.elapsed();
            report.workload = "chain";
            report.params = json!({"executions": executions, "steps": steps, "in_flight": in_flight});
            report.rate = per_second(executions, report.wall);
            report.figures.insert("steps_per_s".to_owned(), json!(round(per_second(executions * steps, report.wall))));
        }
        Workload::Latency { count } => {
            // The first ones open connections, prepare statements and wake threads.
            let warm = count.div_ceil(10);
            window(&peer, warm, 1, 1).await?;
            let began = Instant::now();
            report.times = window(&peer, count, 1, 1).await?;
            report.wall = began.elapsed();
            report.workload = "latency";
            report.params = json!({"count": count});
            report.rate = per_second(count, report.wall);
            report.notes += &format!("; behind {warm} unmeasured ones");
        }
        Workload::Fanout { width } => {
            once(&peer, Work::Fanout { width: 10 }).await?;
            report.wall = once(&peer, Work::Fanout { width }).await?;
            report.times = vec![report.wall];
            report.workload = "fanout";
            report.params = json!({"width": width});
            report.rate = per_second(width, report.wall);
            report.unit = "activities/s";
            report.notes += "; behind an unmeasured one of 10";
        }
        Workload::Deep { depth } => {
            let began = Instant::now();
            once(&peer, Work::Deep { depth }).await?;
            let stamps = std::mem::take(&mut *STAMPS.lock().unwrap_or_else(PoisonError::into_inner));
            if stamps.len() as u64 != depth {
                return Err(Failure::Failed(format!("{} steps ran, not {depth}", stamps.len())));
            }
            // As `stent bench deep`: to the last step, not to the result.
            report.wall = stamps.last().map_or(Duration::ZERO, |last| last.duration_since(began));
            report.workload = "deep";
            report.params = json!({"depth": depth});
            report.rate = per_second(depth, report.wall);
            report.unit = "steps/s";
            tenths(&stamps, &mut report.figures);
        }
    }
    peer.stop().await?;
    Ok(report)
}

/// Tells whether the last steps cost what the first did.
fn tenths(stamps: &[Instant], figures: &mut Map<String, serde_json::Value>) {
    let tenth = stamps.len() / 10;
    let rate = |part: &[Instant]| match part {
        [first, .., last] => per_second(part.len() as u64 - 1, last.duration_since(*first)),
        _ => 0.0,
    };
    let (first, last) = (rate(&stamps[..tenth]), rate(&stamps[stamps.len() - tenth..]));
    figures.insert("first_tenth_steps_per_s".to_owned(), json!(round(first)));
    figures.insert("last_tenth_steps_per_s".to_owned(), json!(round(last)));
}

/// Runs one execution from its start to its result, which must be the expected one.
async fn once(peer: &impl Peer, work: Work) -> Result<Duration, Failure> {
    let began = Instant::now();
    let found = peer.run(work).await?;
    let wall = began.elapsed();
    if found == work.expected() {
        Ok(wall)
    } else {
        Err(Failure::Failed(format!("{work:?} returned {found}, not {}", work.expected())))
    }
}

/// Keeps so many executions in flight until all are done; returns how long each took.
async fn window(peer: &impl Peer, executions: u64, in_flight: u64, steps: u64) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    let mut flying = FuturesUnordered::new();
    let mut left = executions;
    while left > 0 && executions - left < in_flight {
        flying.push(once(peer, Work::Chain { steps }));
        left -= 1;
    }
    while let Some(time) = flying.next().await {
        times.push(time?);
        if left > 0 {
            flying.push(once(peer, Work::Chain { steps }));
            left -= 1;
        }
    }
    Ok(times)
}
