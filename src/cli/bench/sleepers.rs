//! `sleepers`: very many executions sleep until one moment, or are due one after the other from that moment on. While they sleep
//! they should cost nothing. How late each wakes is what it returns: the difference between its moment and its last turn.
//!
//! A million must fit, so the client keeps nothing of an execution: while the wave is measured it reads a counter, and behind it
//! it goes through the store and checks each result there.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Map, json};

use super::{
    Failure, Target,
    chain::stop,
    place::{Place, each_page},
    report::{Report, as_f64, bar, grown, millis, peak_mb, per_second, resident_mb, round},
    work::{self, Sleeper},
};
use crate::{
    Dispatch, List, Stent,
    kernel::{
        codec::{self, Record},
        event::{Command, Event, Outcome},
        id::CommitNo,
    },
    store::{Status, Summary},
};

/// How many dispatches are in flight at once.
const WINDOW: usize = 500;

/// Executions sleep until one moment, and all wake up at it.
#[derive(Args, Debug)]
pub(super) struct Sleepers {
    #[command(flatten)]
    target: Target,
    /// How many executions.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    executions: u64,
    /// For how many seconds the last of them sleeps at least; shorter sleeps than 10 s stay in memory.
    #[arg(long, default_value = "30s", value_parser = seconds)]
    sleep: u64,
    /// Over how many seconds they become due, evenly; 0 for all at one moment.
    #[arg(long, default_value = "0", value_parser = seconds)]
    spread: u64,
}

/// Reads `30` or `30s`.
fn seconds(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.strip_suffix('s').unwrap_or(text).parse()
}

impl Sleepers {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Sleepers { target, executions, sleep, spread } = self;
        let place = Place::make(&target).await?;
        let stent = Stent::of(work::sleeping(place.builder()).start().await?).await?;
        let before = stent.stats();
        let idle = resident_mb();
        // All are asked to sleep until one moment, which is far enough away for all of them to be asleep by then.
        let filling = Duration::from_micros(150 * executions);
        let until = Utc::now() + chrono::Duration::from_std(filling + Duration::from_secs(sleep)).unwrap_or_default();
        let began = Instant::now();
        dispatched(&stent, executions, until, spread).await?;
        let filled = began.elapsed();
        let fallen = stent.stats();
        let left = left(until);
        if left.is_zero() {
            return Err(Failure::Failed("the moment came before all were asleep; give a longer --sleep".to_owned()));
        }
        doze(left / 2).await;
        let (resting, sizes) = (resident_mb(), place.file_sizes());
        let quiet = stent.stats();
        doze(self::left(until)).await;
        let woken = Instant::now();
        let wave = awake(&stent, quiet.rows, executions).await?.duration_since(woken);
        let (stats, rss_mb) = (grown(before, stent.stats()), peak_mb());
        stop(&stent).await?;
        let lags = ends(&place, executions).await?;

        let longest = lags.iter().max().copied().unwrap_or_default();
        let mut figures = Map::new();
        figures.insert("dispatches_per_s".to_owned(), json!(round(per_second(executions, filled))));
        figures.insert("rss_mb_before".to_owned(), json!(idle));
        figures.insert("rss_mb_asleep".to_owned(), json!(resting));
        if let (Some(idle), Some(resting)) = (idle, resting) {
            let bytes = (resting - idle).max(0.0) * 1024.0 * 1024.0 / as_f64(executions);
            figures.insert("bytes_each".to_owned(), json!(bytes.round()));
        }
        figures.insert("held_while_asleep".to_owned(), json!(quiet.held));
        let each = |bytes: u64| json!((as_f64(bytes) / as_f64(executions)).round());
        if let Some((file, log)) = sizes {
            figures.insert("disk_bytes_each_asleep".to_owned(), each(file));
            figures.insert("wal_bytes_each_asleep".to_owned(), each(log));
        }
        if let Some((file, log)) = place.file_sizes() {
            figures.insert("disk_bytes_each".to_owned(), each(file + log));
        }
        figures.insert("asleep_for_s".to_owned(), json!(round(left.as_secs_f64())));
        figures.insert("commits_while_asleep".to_owned(), json!(quiet.commits - fallen.commits));
        figures.insert("lag_max_ms".to_owned(), json!(millis(longest)));
        figures.insert("wave_s".to_owned(), json!(round(wave.as_secs_f64())));
        Report {
            workload: "sleepers",
            params: json!({"executions": executions, "sleep_s": sleep, "spread_s": spread}),
            wall: wave,
            rate: per_second(executions, wave),
            unit: "wake-ups/s",
            times: lags,
            stats,
            rss_mb,
            figures,
            notes:
                "p50 and p99: from the moment that one sleeps until to the turn that goes on; none is early. disk_bytes_each: \
                    when all have ended"
                    .to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Returns how long it is until then.
fn left(until: DateTime<Utc>) -> Duration {
    (until - Utc::now()).to_std().unwrap_or_default()
}

/// Lets time pass before the eyes of whoever looks.
async fn doze(time: Duration) {
    let bar = bar(time.as_secs(), "seconds asleep");
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return bar.finish_and_clear();
        }
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        bar.inc(1);
    }
}

/// Dispatches them all. Nobody waits for any: its handle is dropped as soon as it is there.
async fn dispatched(stent: &Stent, executions: u64, until: DateTime<Utc>, spread: u64) -> Result<(), Failure> {
    let bar = bar(executions, "asleep");
    let moment = |number: u64| {
        let later = i64::try_from(spread * 1_000_000 * number / executions).unwrap_or_default();
        Sleeper { until: until.timestamp_micros() + later }
    };
    let asked = stream::iter(0..executions).map(async |number| stent.dispatch(Dispatch::new(moment(number))).await.map(drop));
    let mut asked = std::pin::pin!(asked.buffer_unordered(WINDOW));
    while let Some(told) = asked.next().await {
        told?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Waits until all have ended; returns when it was so. Whoever sleeps has one row to go, that of its end: while there are fewer,
/// the store need not be asked, which would slow down what is measured.
async fn awake(stent: &Stent, rows: u64, executions: u64) -> Result<Instant, Failure> {
    let bar = bar(executions, "awake");
    loop {
        let done = stent.stats().rows.saturating_sub(rows);
        bar.set_position(done);
        let at = Instant::now();
        if done >= executions && stent.list(List::new().status(Status::Active).limit(1)).await?.is_empty() {
            bar.finish_and_clear();
            return Ok(at);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Checks each result as it is in the store; returns how late each went on.
async fn ends(place: &Place, executions: u64) -> Result<Vec<Duration>, Failure> {
    let bar = bar(executions, "checked");
    let mut store = place.store().await?;
    let reader = store.reader();
    let mut lags = Vec::new();
    each_page(&*reader, async |page| {
        for run in &page {
            let tail = reader.tail(run.run).await?;
            let woken = tail.as_ref().and_then(|(commit_no, record)| result(run, *commit_no, record));
            match woken {
                Some(late) if late >= 0 => lags.push(Duration::from_micros(late.unsigned_abs())),
                Some(late) => return Err(Failure::Failed(format!("{} woke {} us early", run.id.id, -late))),
                None => return Err(Failure::Failed(format!("{} has no result: it is {}", run.id.id, run.status.as_str()))),
            }
        }
        bar.inc(page.len() as u64);
        Ok(())
    })
    .await?;
    store.close().await?;
    bar.finish_and_clear();
    if lags.len() as u64 != executions {
        return Err(Failure::Failed(format!("{} executions are in the store, not {executions}", lags.len())));
    }
    Ok(lags)
}

/// Returns what a run returned, if it has.
fn result(run: &Summary, commit_no: CommitNo, record: &Record) -> Option<i64> {
    let last = codec::decode(&run.id, commit_no, record).ok()?.events.pop()?;
    let Event::Command(Command::End { outcome }) = last else { return None };
    match *outcome {
        Outcome::Completed(value) if run.status == Status::Completed => value.decode("a result").ok(),
        _ => None,
    }
}
