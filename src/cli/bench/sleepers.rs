//! `sleepers`: very many executions sleep until one moment. While they do they should cost nothing; then all are due at once.
//! How late each wakes is the difference between that moment and the recorded time of its last commit's turn.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Map, json};

use super::{
    Failure, Target,
    chain::stop,
    place::Place,
    report::{Report, as_f64, bar, grown, per_second, round},
    work::{self, Sleeper},
};
use crate::{Dispatch, Handle, Stent};

/// Executions sleep until one moment, and all wake up at it.
#[derive(Args, Debug)]
pub(super) struct Sleepers {
    #[command(flatten)]
    target: Target,
    /// How many executions.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    executions: u64,
    /// For how many seconds the last of them sleeps at least; shorter sleeps than 10 s stay in memory.
    #[arg(long, default_value_t = 30)]
    sleep: u64,
}

impl Sleepers {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Sleepers { target, executions, sleep } = self;
        let place = Place::make(&target)?;
        let stent = Stent::of(work::sleeping(place.builder()).start().await?).await?;
        let before = stent.stats();
        let idle = resident_mb();
        // All are asked to sleep until one moment, which is far enough away for all of them to be asleep by then.
        let filling = Duration::from_micros(150 * executions);
        let until = chrono::Utc::now() + chrono::Duration::from_std(filling + Duration::from_secs(sleep)).unwrap_or_default();
        let handles = dispatched(&stent, executions, until.timestamp_micros()).await?;
        let asleep = Instant::now();
        let left = (until - chrono::Utc::now()).to_std().unwrap_or_default();
        if left.is_zero() {
            return Err(Failure::Failed("the moment came before all were asleep; give a longer --sleep".to_owned()));
        }
        tokio::time::sleep(left / 2).await;
        let resting = resident_mb();
        let quiet = stent.stats();
        tokio::time::sleep((until - chrono::Utc::now()).to_std().unwrap_or_default()).await;
        let woken = Instant::now();
        let lags = ends(handles, until.timestamp_micros()).await?;
        let wave = woken.elapsed();
        let stats = grown(before, stent.stats());
        stop(&stent).await?;

        let longest = lags.iter().max().copied().unwrap_or_default();
        let mut figures = Map::new();
        figures.insert("rss_mb_before".to_owned(), json!(idle));
        figures.insert("rss_mb_asleep".to_owned(), json!(resting));
        if let (Some(idle), Some(resting)) = (idle, resting) {
            let bytes = (resting - idle).max(0.0) * 1024.0 * 1024.0 / as_f64(executions);
            figures.insert("bytes_each".to_owned(), json!(round(bytes)));
        }
        figures.insert("asleep_for_s".to_owned(), json!(round(woken.duration_since(asleep).as_secs_f64())));
        figures.insert("commits_while_asleep".to_owned(), json!(quiet.commits.saturating_sub(before.commits)));
        figures.insert("lag_max_ms".to_owned(), json!(round(longest.as_secs_f64() * 1e3)));
        figures.insert("wave_s".to_owned(), json!(round(wave.as_secs_f64())));
        Report {
            workload: "sleepers",
            params: json!({"executions": executions, "sleep_s": sleep}),
            wall: wave,
            rate: per_second(executions, wave),
            unit: "wake-ups/s",
            times: lags,
            stats,
            figures,
            notes: "p50 and p99: from the moment that all sleep until to the turn that goes on; none is early".to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

async fn dispatched(stent: &Stent, executions: u64, until: i64) -> Result<Vec<Handle<Sleeper>>, Failure> {
    let bar = bar(executions, "asleep");
    let asked = stream::iter(0..executions).map(async |_| stent.dispatch(Dispatch::new(Sleeper { until })).await);
    let mut asked = std::pin::pin!(asked.buffer_unordered(500));
    let mut handles = Vec::new();
    while let Some(handle) = asked.next().await {
        handles.push(handle?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(handles)
}

/// Waits for all; returns how late each went on.
async fn ends(handles: Vec<Handle<Sleeper>>, until: i64) -> Result<Vec<Duration>, Failure> {
    let bar = bar(handles.len() as u64, "awake");
    let ends = stream::iter(handles).map(async |handle| match handle.result().await {
        Ok(woken) if woken >= until => Ok(Duration::from_micros((woken - until).unsigned_abs())),
        Ok(woken) => Err(Failure::Failed(format!("{} woke {} us early", handle.id(), until - woken))),
        Err(error) => Err(Failure::Failed(format!("{} has no result: {error}", handle.id()))),
    });
    let mut ends = std::pin::pin!(ends.buffer_unordered(usize::MAX));
    let mut lags = Vec::new();
    while let Some(lag) = ends.next().await {
        lags.push(lag?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(lags)
}

/// Returns the resident size of this process, in MB, where the system tells.
fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(round(as_f64(kilobytes) / 1024.0))
}
