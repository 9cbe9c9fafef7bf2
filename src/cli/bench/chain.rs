//! `chain`, `latency` and `fanout`: from a dispatch to its verified result. One task keeps a window of executions in
//! flight on the main thread, which does nothing else.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Map, Value, json};

use super::{
    Failure, Polled, Target, ceiling,
    place::Place,
    report::{Report, as_f64, bar, grown, millis, peak_mb, per_second, round, tenths, watched},
    work::{self, Done, Steps, Wide},
};
use crate::{Dispatch, Shutdown, Stent, Workflow};

/// Many executions of a few sequential activities, a window of them in flight.
#[derive(Args, Debug)]
pub(super) struct Chain {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How many executions.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    executions: u64,
    /// Activities of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Executions in flight at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// Leaves out the run of the bare store afterwards.
    #[arg(long)]
    no_ceiling: bool,
}

/// One execution of one activity at a time.
#[derive(Args, Debug)]
pub(super) struct Latency {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How many executions.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

/// One execution that joins many parallel activities.
#[derive(Args, Debug)]
pub(super) struct Fanout {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How many activities.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    width: u64,
}

impl Chain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Chain { target, polled, executions, steps, in_flight, no_ceiling } = self;
        let place = Place::make(&target).await?;
        let stent = start(&place, polled).await?;
        let before = stent.stats();
        let began = Instant::now();
        let Window { times, ends } = window(&stent, executions, in_flight, steps).await?;
        let wall = began.elapsed();
        let stats = grown(before, stent.stats());
        stop(&stent).await?;
        let rss_mb = peak_mb();

        let rate = per_second(executions, wall);
        let mut figures = Map::new();
        figures.insert("steps_per_s".to_owned(), json!(round(per_second(executions * steps, wall))));
        // Does it keep its pace while the database grows?
        let (first, last) = tenths(&ends);
        figures.insert("first_tenth_per_s".to_owned(), json!(round(first)));
        figures.insert("last_of_first".to_owned(), json!(round(last / first)));
        let mean = (stats.rows / stats.commits.max(1)).max(1);
        figures.insert("rows_per_commit".to_owned(), json!(mean));
        if !no_ceiling {
            let beside = Place::make(&target.elsewhere()).await?;
            let bare = ceiling::measure(&beside, executions.min(10_000), steps, mean).await?;
            beside.clear().await?;
            let chains = per_second(bare.chains, bare.wall);
            figures.insert("ceiling_chains_per_s".to_owned(), json!(round(chains)));
            figures.insert("share_of_ceiling".to_owned(), json!(round(rate / chains)));
        }
        Report {
            workload: "chain",
            params: polled.noted(json!({"executions": executions, "steps": steps, "in_flight": in_flight})),
            wall,
            rate,
            unit: "executions/s",
            times,
            stats,
            rss_mb,
            figures,
            notes: String::new(),
        }
        .print(&place)?;
        place.clear().await
    }
}

impl Latency {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Latency { target, polled, count } = self;
        let place = Place::make(&target).await?;
        let stent = start(&place, polled).await?;
        // The first ones prepare statements and wake threads.
        window(&stent, count.div_ceil(10), 1, 1).await?;
        let before = stent.stats();
        let began = Instant::now();
        let times = window(&stent, count, 1, 1).await?.times;
        let wall = began.elapsed();
        let stats = grown(before, stent.stats());
        stop(&stent).await?;
        Report {
            workload: "latency",
            params: polled.noted(json!({"count": count})),
            wall,
            rate: per_second(count, wall),
            unit: "executions/s",
            times,
            stats,
            rss_mb: peak_mb(),
            figures: Map::new(),
            notes: format!("behind {} unmeasured ones", count.div_ceil(10)),
        }
        .print(&place)?;
        place.clear().await
    }
}

impl Fanout {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Fanout { target, polled, width } = self;
        let place = Place::make(&target).await?;
        let done = Done::default();
        let stent = Stent::of(work::counted(place.builder(), polled, &done).start().await?).await?;
        once(&stent, Wide { width: 10 }, 55).await?;
        let before = stent.stats();
        let bar = bar(10 + width, "activities");
        let runs = once(&stent, Wide { width }, width * (width + 1) / 2);
        let wall = watched(&bar, || done.load(Relaxed), runs).await?;
        bar.finish_and_clear();
        let stats = grown(before, stent.stats());
        stop(&stent).await?;
        let mut figures = Map::new();
        figures.insert("activities_per_ms".to_owned(), Value::from(round(per_second(width, wall) / 1e3)));
        figures.insert("wall_ms".to_owned(), json!(millis(wall)));
        figures.insert("commits_per_activity".to_owned(), json!(round(as_f64(stats.commits) / as_f64(width))));
        Report {
            workload: "fanout",
            params: polled.noted(json!({"width": width})),
            wall,
            rate: per_second(width, wall),
            unit: "activities/s",
            times: vec![wall],
            stats,
            rss_mb: peak_mb(),
            figures,
            notes: "behind an unmeasured one of 10".to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Starts a runtime for the plain workloads.
pub(super) async fn start(place: &Place, polled: Polled) -> Result<Stent, Failure> {
    Ok(Stent::of(work::plain(place.builder(), polled).start().await?).await?)
}

/// Stops a runtime in order.
pub(super) async fn stop(stent: &Stent) -> Result<(), Failure> {
    stent.shutdown(Shutdown::within(Duration::from_secs(10))).await?;
    stent.closed().await;
    Ok(())
}

/// Runs one execution from its dispatch to its result, which must be the expected one.
pub(super) async fn once<W>(stent: &Stent, workflow: W, expected: u64) -> Result<Duration, Failure>
where
    W: Workflow<Output = u64>,
    W::Error: std::fmt::Display,
{
    let began = Instant::now();
    let handle = stent.dispatch(Dispatch::new(workflow)).await?;
    verified(&handle, expected).await?;
    Ok(began.elapsed())
}

/// Waits for a result, which must be the expected one.
pub(super) async fn verified<W>(handle: &crate::Handle<W>, expected: u64) -> Result<(), Failure>
where
    W: Workflow<Output = u64>,
    W::Error: std::fmt::Display,
{
    match handle.result().await {
        Ok(value) if value == expected => Ok(()),
        Ok(value) => Err(Failure::Failed(format!("{} returned {value}, not {expected}", handle.id()))),
        Err(error) => Err(Failure::Failed(format!("{} has no result: {error}", handle.id()))),
    }
}

/// What a window of executions did.
pub(super) struct Window {
    /// How long each took, in the order of their ends…
    pub(super) times: Vec<Duration>,
    /// …and when those were.
    ends: Vec<Instant>,
}

/// Keeps so many executions in flight until all are done.
pub(super) async fn window(stent: &Stent, executions: u64, in_flight: u64, steps: u64) -> Result<Window, Failure> {
    let bar = bar(executions, "executions");
    let capacity = usize::try_from(executions).unwrap_or_default();
    let mut window = Window { times: Vec::with_capacity(capacity), ends: Vec::with_capacity(capacity) };
    let mut flying = FuturesUnordered::new();
    let mut left = executions;
    while left > 0 && executions - left < in_flight {
        flying.push(once(stent, Steps { steps }, steps));
        left -= 1;
    }
    while let Some(time) = flying.next().await {
        window.times.push(time?);
        window.ends.push(Instant::now());
        bar.inc(1);
        if left > 0 {
            flying.push(once(stent, Steps { steps }, steps));
            left -= 1;
        }
    }
    bar.finish_and_clear();
    Ok(window)
}
