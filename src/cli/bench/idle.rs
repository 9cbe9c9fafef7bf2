//! `idle`: what does a node cost while nothing happens? Executions sleep for a month, and this process waits for each of them. What
//! is asked of the database in a minute, and the share of a core that this process takes, must be the same however many
//! there are: measured with some, and with ten times as many. A day is a minute 1,440 times: everything that runs by itself does so
//! at least every minute.

use std::time::{Duration, Instant};

use chrono::Utc;
use clap::Args;
use futures_util::{StreamExt, stream};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, json};

use super::{
    Failure, Polled, Target,
    chain::stop,
    place::Place,
    report::{Report, as_f64, bar, grown, peak_mb, round},
    statements,
    work::{self, Sleeper},
};
use crate::{Dispatch, Handle, Stats, Stent};

/// How many dispatches are in flight at once.
const WINDOW: usize = 500;

/// By so many statements two idle stretches may differ: where ticks of five seconds fall is chance.
const TICKS: f64 = 15.0;

/// A node on which nothing happens: statements and processor time with some sleeping executions, and with ten times as many.
#[derive(Args, Debug)]
pub(super) struct Idle {
    #[command(flatten)]
    target: Target,
    /// How many executions sleep at first; then ten times as many.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    executions: u64,
    /// For how many seconds each is measured.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=3_600))]
    seconds: u64,
}

/// One stretch of idleness.
struct Stretch {
    sent: u64,
    cpu: Duration,
    stats: Stats,
}

impl Idle {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Idle { target, executions, seconds } = self;
        let place = Place::make(&target).await?;
        let stent = Stent::of(work::sleeping(work::plain(place.builder(), Polled::default())).start().await?).await?;
        let time = Duration::from_secs(seconds);
        let mut handles = asleep(&stent, executions).await?;
        let few = measured(&stent, time).await;
        handles.extend(asleep(&stent, 9 * executions).await?);
        let many = measured(&stent, time).await;
        let rss_mb = peak_mb();
        drop(handles);
        stop(&stent).await?;

        let a_minute = |stretch: &Stretch| as_f64(stretch.sent) / time.as_secs_f64() * 60.0;
        let share = |stretch: &Stretch| stretch.cpu.as_secs_f64() / time.as_secs_f64();
        let (before, after) = (a_minute(&few), a_minute(&many));
        let has_statements = place.survives();
        if has_statements && few.sent == 0 {
            return Err(Failure::Failed("no statement was counted: somebody else listens to what the driver tells".to_owned()));
        }
        if as_f64(many.sent) > as_f64(few.sent) * 1.05 + TICKS {
            let what = format!("{} statements with {executions} sleepers, {} with ten times as many", few.sent, many.sent);
            return Err(Failure::Failed(format!("what an idle node asks grows with what sleeps: {what}, in {seconds} s each")));
        }
        let mut figures = Map::new();
        let mut figure = |name: &str, value: f64| figures.insert(name.to_owned(), json!(round(value)));
        if has_statements {
            figure("statements_per_minute", before);
            figure("statements_per_minute_tenfold", after);
            figure("statements_per_day", after * 60.0 * 24.0);
        }
        figure("cpu_percent", share(&few) * 100.0);
        figure("cpu_percent_tenfold", share(&many) * 100.0);
        figure("commits_per_minute_tenfold", as_f64(many.stats.commits) / time.as_secs_f64() * 60.0);
        figure("held_tenfold", as_f64(many.stats.held));
        Report {
            workload: "idle",
            params: json!({"executions": executions, "seconds": seconds}),
            wall: time * 2,
            rate: after / 60.0,
            unit: "statements/s",
            times: Vec::new(),
            stats: many.stats,
            rss_mb,
            figures,
            notes: "tenfold: with ten times as many executions asleep, each waited for. A statement may be several that go together. Rate, commits: the \
                    second stretch. A store in memory has no statements"
                .to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Dispatches sleepers, and returns when all are out of memory and what they have left to be done is over.
async fn asleep(stent: &Stent, executions: u64) -> Result<Vec<Handle<Sleeper>>, Failure> {
    let until = (Utc::now() + chrono::Duration::days(30)).timestamp_micros();
    let bar = bar(executions, "asleep");
    let asked = stream::iter(0..executions).map(|_| stent.dispatch(Dispatch::new(Sleeper { until })));
    let mut asked = std::pin::pin!(asked.buffer_unordered(WINDOW));
    let mut handles = Vec::new();
    while let Some(handle) = asked.next().await {
        handles.push(handle?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    while stent.stats().held > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(handles)
}

async fn measured(stent: &Stent, time: Duration) -> Stretch {
    let bar = bar(time.as_secs(), "seconds idle");
    let (sent, cpu, stats, end) = (statements::sent(), cpu(), stent.stats(), Instant::now() + time);
    while Instant::now() < end {
        // A bar that is drawn costs more than all that is measured.
        let pause = if bar.is_hidden() { time } else { Duration::from_secs(1) };
        tokio::time::sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Stretch { sent: statements::sent() - sent, cpu: self::cpu().saturating_sub(cpu), stats: grown(stats, stent.stats()) }
}

/// Returns the processor time of this process so far, all threads together.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}
