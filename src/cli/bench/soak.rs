//! `soak`: is it the same after a long time? A steady load for as long as asked, every result verified; then windows of `chain` by
//! turns in the database that has grown and in a fresh one, within the same process: what the machine does meanwhile is done to both.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Map, json};

use super::{
    Failure, Polled, Target,
    chain::{once, start, stop, window},
    place::Place,
    report::{Report, bar, grown, peak_mb, per_second, resident_mb, round},
    work::Steps,
};
use crate::Stent;

/// Executions begin this often, as many as are due.
const BEAT: Duration = Duration::from_millis(5);

/// When memory is looked at for the first time: whatever is made once is there.
const WARM: Duration = Duration::from_secs(30);

/// A steady load for a long time, then the pace beside that of a fresh database.
#[derive(Args, Debug)]
pub(super) struct Soak {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How long the load lasts. The limit of `--timeout` counts from behind it.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    minutes: u64,
    /// Executions that begin in each second of it.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    per_second: u64,
    /// Activities of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Pairs of windows behind it.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    windows: u64,
    /// Executions of a window.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    executions: u64,
    /// Executions in flight at once in a window, and at most under the load.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
}

/// What the load was.
struct Load {
    executions: u64,
    /// Resident memory when it was warm.
    warm_mb: Option<f64>,
}

impl Soak {
    /// How long it takes besides measuring.
    pub(super) fn load(&self) -> Duration {
        Duration::from_secs(60 * self.minutes)
    }

    pub(super) async fn run(self) -> Result<(), Failure> {
        let place = Place::make(&self.target).await?;
        let stent = start(&place, self.polled).await?;
        let before = stent.stats();
        let began = Instant::now();
        let Load { executions, warm_mb } = self.bear(&stent).await?;
        let wall = began.elapsed();
        let stats = grown(before, stent.stats());
        let (end_mb, rss_mb) = (resident_mb(), peak_mb());

        let beside = Place::make(&self.target.elsewhere()).await?;
        let fresh = start(&beside, self.polled).await?;
        let (mut grown_rates, mut fresh_rates, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..self.windows {
            // Which goes first changes, so that a drift of the machine does not count for one of them.
            if pair % 2 == 0 {
                fresh_rates.push(self.pace(&fresh).await?.0);
            }
            let (rate, window) = self.pace(&stent).await?;
            grown_rates.push(rate);
            times.extend(window);
            if pair % 2 == 1 {
                fresh_rates.push(self.pace(&fresh).await?.0);
            }
        }
        stop(&fresh).await?;
        beside.clear().await?;
        stop(&stent).await?;

        let (rate, fresh_rate) = (median(&grown_rates), median(&fresh_rates));
        let mut figures = Map::new();
        let mut figure = |name: &str, value: serde_json::Value| figures.insert(name.to_owned(), value);
        figure("load_executions", json!(executions));
        figure("load_per_s", json!(round(per_second(executions, wall))));
        figure("rates", json!(grown_rates));
        figure("fresh_rates", json!(fresh_rates));
        figure("share_of_fresh", json!(round(rate / fresh_rate)));
        figure("rss_mb_warm", json!(warm_mb));
        figure("rss_mb_after_load", json!(end_mb));
        let Soak { minutes, per_second, steps, windows, executions, in_flight, .. } = self;
        let params = json!({"minutes": minutes, "per_second": per_second, "steps": steps, "windows": windows, "executions": executions, "in_flight": in_flight});
        Report {
            workload: "soak",
            params: self.polled.noted(params),
            wall,
            rate,
            unit: "executions/s",
            times,
            stats,
            rss_mb,
            figures,
            notes:
                "rate, p50, p99: of the windows behind the load, in its database; those of a fresh database are between them. \
                    Commits, rows, peak of memory: of the load"
                    .to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }

    /// Keeps the load up. What it cannot do at its time, because too much is in flight, it does later.
    async fn bear(&self, stent: &Stent) -> Result<Load, Failure> {
        let bar = bar(60 * self.minutes, "seconds of load");
        let mut load = Load { executions: 0, warm_mb: None };
        let mut flying = FuturesUnordered::new();
        let began = Instant::now();
        loop {
            let gone = began.elapsed();
            if gone >= WARM && load.warm_mb.is_none() {
                load.warm_mb = resident_mb();
            }
            bar.set_position(gone.as_secs());
            if gone >= self.load() {
                break;
            }
            let due = u64::try_from(gone.as_millis()).unwrap_or(u64::MAX).saturating_mul(self.per_second) / 1_000;
            while load.executions < due && (flying.len() as u64) < self.in_flight {
                flying.push(once(stent, Steps { steps: self.steps }, self.steps));
                load.executions += 1;
            }
            let beat = tokio::time::sleep(BEAT);
            tokio::pin!(beat);
            loop {
                tokio::select! {
                    () = &mut beat => break,
                    Some(time) = flying.next() => { time?; }
                }
            }
        }
        while let Some(time) = flying.next().await {
            time?;
        }
        bar.finish_and_clear();
        Ok(load)
    }

    /// One window: its rate, and what its executions took.
    async fn pace(&self, stent: &Stent) -> Result<(f64, Vec<Duration>), Failure> {
        let began = Instant::now();
        let times = window(stent, self.executions, self.in_flight, self.steps).await?.times;
        Ok((round(per_second(self.executions, began.elapsed())), times))
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
