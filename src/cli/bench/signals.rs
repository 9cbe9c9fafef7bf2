//! `signals`: executions wait for a signal from outside. First all of them wait; then each gets its signal, a window of them in
//! flight, and is followed from the sending to its result. It has left memory meanwhile, as whatever only waits does, so
//! that includes its way back.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Map, json};

use super::{
    Failure, Target,
    chain::{stop, verified},
    place::Place,
    report::{Report, as_f64, bar, grown, millis, peak_mb, per_second, quantile, round, watched},
    work::{self, Number, Waiting},
};
use crate::{Dispatch, Handle, List, SendSignal, Stent};

/// Waiting executions, and a signal for each from outside.
#[derive(Args, Debug)]
pub(super) struct Signals {
    #[command(flatten)]
    target: Target,
    /// How many executions.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    executions: u64,
    /// Signals in flight at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
}

impl Signals {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Signals { target, executions, in_flight } = self;
        let window = usize::try_from(in_flight).unwrap_or(usize::MAX);
        let place = Place::make(&target).await?;
        let stent = Stent::of(work::waiting(place.builder()).start().await?).await?;
        let handles = dispatched(&stent, executions, window).await?;
        asleep(&stent, executions).await?;

        let before = stent.stats();
        let began = Instant::now();
        let (times, mut acknowledged) = sent(&stent, &handles, window).await?;
        let wall = began.elapsed();
        let (stats, rss_mb) = (grown(before, stent.stats()), peak_mb());
        drop(handles);
        stop(&stent).await?;

        acknowledged.sort_unstable();
        let mut figures = Map::new();
        for (name, q) in [("acknowledged_p50_ms", 0.5), ("acknowledged_p99_ms", 0.99)] {
            figures.insert(name.to_owned(), json!(quantile(&acknowledged, q).map(millis)));
        }
        figures.insert("rows_per_commit".to_owned(), json!(round(as_f64(stats.rows) / as_f64(stats.commits.max(1)))));
        Report {
            workload: "signals",
            params: json!({"executions": executions, "in_flight": in_flight}),
            wall,
            rate: per_second(executions, wall),
            unit: "signals/s",
            times,
            stats,
            rss_mb,
            figures,
            notes: "p50 and p99: from sending a signal to an execution that has left memory to its result".to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Starts them all.
async fn dispatched(stent: &Stent, executions: u64, window: usize) -> Result<Vec<Handle<Waiting>>, Failure> {
    let bar = bar(executions, "waiting");
    let asked = stream::iter(0..executions).map(async |_| stent.dispatch(Dispatch::new(Waiting)).await);
    let mut asked = std::pin::pin!(asked.buffer_unordered(window));
    let mut handles = Vec::new();
    while let Some(handle) = asked.next().await {
        handles.push(handle?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(handles)
}

/// Waits until all wait: nobody owns any, and none is due.
async fn asleep(stent: &Stent, executions: u64) -> Result<(), Failure> {
    let bar = bar(executions, "have left memory");
    watched(&bar, || executions.saturating_sub(stent.stats().held), async {
        while stent.stats().held > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    bar.finish_and_clear();
    let mut asleep = 0;
    let mut pages = List::new().limit(1_000);
    loop {
        let page = stent.list(pages.clone()).await?;
        let Some(last) = page.last() else { break };
        pages = List::new().limit(1_000).after(last.run);
        asleep += page.iter().filter(|run| run.owner.is_none() && run.wake_at.is_none() && !run.status.is_end()).count() as u64;
    }
    if asleep == executions { Ok(()) } else { Err(Failure::Failed(format!("{asleep} of {executions} executions wait"))) }
}

/// Sends each its signal and checks its result; returns how long each took to its result, and to be acknowledged.
async fn sent(stent: &Stent, handles: &[Handle<Waiting>], window: usize) -> Result<(Vec<Duration>, Vec<Duration>), Failure> {
    let bar = bar(handles.len() as u64, "signals");
    let runs = stream::iter((0_u64..).zip(handles)).map(async |(n, handle)| {
        let began = Instant::now();
        stent.signal(SendSignal::new(handle.id(), &Number { n })).await?;
        let acknowledged = began.elapsed();
        verified(handle, n + 1).await?;
        Ok::<_, Failure>((began.elapsed(), acknowledged))
    });
    let mut runs = std::pin::pin!(runs.buffer_unordered(window));
    let (mut times, mut acknowledged) = (Vec::with_capacity(handles.len()), Vec::with_capacity(handles.len()));
    while let Some(run) = runs.next().await {
        let (time, answer) = run?;
        times.push(time);
        acknowledged.push(answer);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((times, acknowledged))
}
