//! `deep`: does the hundred-thousandth step cost what the first did, and how fast is its log replayed? The run waits for a
//! signal behind its last step; then the runtime is shut down, and another one is started on the same data.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, json};

use super::{
    Failure, Polled, Target, ceiling,
    chain::{stop, verified},
    place::Place,
    report::{Report, bar, grown, millis, peak_mb, per_second, round, tenths},
    work::{self, Finish, Long, Stamps},
};
use crate::{Dispatch, SendSignal, Stent};

const ID: &str = "bench-deep";

/// One execution of very many sequential activities, then its replay.
#[derive(Args, Debug)]
pub(super) struct Deep {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    polled: Polled,
    /// How many activities.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=900_000))]
    depth: u64,
    /// Leaves out the run of the bare store afterwards.
    #[arg(long)]
    no_ceiling: bool,
}

impl Deep {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Deep { target, polled, depth, no_ceiling } = self;
        let place = Place::make(&target).await?;
        let stamps = Stamps::default();
        let stent = Stent::of(work::stamped(place.builder(), polled, &stamps).start().await?).await?;
        let before = stent.stats();
        let began = Instant::now();
        stent.dispatch(Dispatch::new(Long { depth }).id(ID)).await?;
        asleep(&stent, ID, || stamps.lock().len() as u64, depth).await?;
        let (stats, rss_mb) = (grown(before, stent.stats()), peak_mb());
        stop(&stent).await?;

        let stamps_before = stamps.lock().clone();
        let times = stamps_before.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
        let wall = stamps_before.last().map_or(Duration::ZERO, |last| last.duration_since(began));
        let (first, last) = tenths(&stamps_before);

        let again = Stent::of(work::stamped(place.builder(), polled, &stamps).start().await?).await?;
        let woken = Instant::now();
        again.signal(SendSignal::new(ID, &Finish)).await?;
        let Some(handle) = again.handle::<Long>(ID).await? else {
            return Err(Failure::Failed("the execution was lost at the restart".to_owned()));
        };
        verified(&handle, depth).await?;
        let replay = woken.elapsed();
        stop(&again).await?;
        if stamps.lock().len() != stamps_before.len() {
            return Err(Failure::Failed("a recorded step ran again behind the restart".to_owned()));
        }
        let events = 2 * depth + 2;
        let mut figures = Map::new();
        figures.insert("first_tenth_steps_per_s".to_owned(), json!(round(first)));
        figures.insert("last_tenth_steps_per_s".to_owned(), json!(round(last)));
        figures.insert("last_of_first".to_owned(), json!(round(last / first)));
        figures.insert("replay_ms".to_owned(), json!(millis(replay)));
        figures.insert("replay_events_per_s".to_owned(), json!(round(per_second(events, replay))));
        let rate = per_second(depth, wall);
        if !no_ceiling {
            // One run has one row in each commit, whatever the store could do with more.
            let beside = Place::make(&target.elsewhere()).await?;
            let bare = ceiling::measure(&beside, 1, depth.min(2_000), 1).await?;
            beside.clear().await?;
            let rows = per_second(bare.rows, bare.wall);
            figures.insert("ceiling_rows_per_s".to_owned(), json!(round(rows)));
            figures.insert("share_of_ceiling".to_owned(), json!(round(rate / rows)));
        }
        Report {
            workload: "deep",
            params: polled.noted(json!({"depth": depth})),
            wall,
            rate,
            unit: "steps/s",
            times,
            stats,
            rss_mb,
            figures,
            notes: format!(
                "p50 and p99: from one step to the next. Replay: from sending a signal to a sleeping run of {events} events to its result: three commits, claim, read, \
                 decode, replay"
            ),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Waits until the run has made all its steps and sleeps in the store.
pub(super) async fn asleep(stent: &Stent, id: &str, done: impl Fn() -> u64, all: u64) -> Result<(), Failure> {
    let bar = bar(all, "steps");
    loop {
        let done = done();
        bar.set_position(done);
        if done >= all {
            let rows = stent.list(crate::List::new()).await?;
            if rows.iter().any(|row| row.id.id == id && row.owner.is_none()) {
                bar.finish_and_clear();
                return Ok(());
            }
            if rows.iter().any(|row| row.status.is_end()) {
                return Err(Failure::Failed("the run ended before it was told to".to_owned()));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
