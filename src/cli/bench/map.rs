//! `map`: what a very long list of items costs. One execution maps an activity over it, so many at once, and waits for a signal
//! behind the last; then the runtime is shut down, and another one replays the run. Both in one process, so that its peak of memory is
//! that of either.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Map as Figures, json};

use super::{
    Failure, Polled, Target,
    chain::{stop, verified},
    deep::asleep,
    place::Place,
    report::{Report, as_f64, grown, millis, peak_mb, per_second, round},
    work::{self, Done, Finish, Mapped},
};
use crate::{Dispatch, SendSignal, Stent};

const ID: &str = "bench-map";

/// One execution that maps an activity over very many items, then its replay.
#[derive(Args, Debug)]
pub(super) struct Map {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How many items.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    items: u64,
    /// How many of them at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    concurrency: u64,
}

impl Map {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Map { target, polled, items, concurrency } = self;
        let place = Place::make(&target).await?;
        let done = Done::default();
        let stent = Stent::of(work::counted(place.builder(), polled, &done).start().await?).await?;
        let before = stent.stats();
        let began = Instant::now();
        let concurrency = usize::try_from(concurrency).unwrap_or(usize::MAX);
        stent.dispatch(Dispatch::new(Mapped { items, concurrency }).id(ID)).await?;
        asleep(&stent, ID, || done.load(Relaxed), items).await?;
        let wall = began.elapsed();
        let (stats, mapping_mb) = (grown(before, stent.stats()), peak_mb());
        stop(&stent).await?;

        let again = Stent::of(work::counted(place.builder(), polled, &done).start().await?).await?;
        let woken = Instant::now();
        again.signal(SendSignal::new(ID, &Finish)).await?;
        let Some(handle) = again.handle::<Mapped>(ID).await? else {
            return Err(Failure::Failed("the execution was lost at the restart".to_owned()));
        };
        verified(&handle, items * (items + 1) / 2).await?;
        let replay = woken.elapsed();
        stop(&again).await?;
        if done.load(Relaxed) != items {
            return Err(Failure::Failed("a recorded item ran again behind the restart".to_owned()));
        }
        let mut figures = Figures::new();
        figures.insert("mapping_mb_peak".to_owned(), json!(mapping_mb));
        figures.insert("commits_per_item".to_owned(), json!(round(as_f64(stats.commits) / as_f64(items))));
        figures.insert("replay_ms".to_owned(), json!(millis(replay)));
        figures.insert("replay_events_per_s".to_owned(), json!(round(per_second(2 * items + 2, replay))));
        Report {
            workload: "map",
            params: polled.noted(json!({"items": items, "concurrency": concurrency})),
            wall,
            rate: per_second(items, wall),
            unit: "items/s",
            times: Vec::<Duration>::new(),
            stats,
            rss_mb: peak_mb(),
            figures,
            notes: "replay: from sending a signal to the sleeping run to its result, in another runtime of the same process"
                .to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}
