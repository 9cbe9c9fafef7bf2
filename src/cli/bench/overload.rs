//! `overload`: what becomes of a node of which more is asked than it can do? First the rate that it sustains; then a multiple of it is
//! offered, each dispatch at its time and none waiting for any other; then nobody asks any more, and it must come to itself. What
//! it has accepted it must do, every single one; what it cannot bear it must refuse as busy, and nothing else may be heard.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Map, json};

use super::{
    Failure, Polled, Target,
    chain::{once, stop, verified},
    place::{Place, each_page},
    report::{Report, bar, grown, millis, per_second, quantile, resident_mb, round},
    work::{self, Steps},
};
use crate::{Dispatch, DispatchError, Error, Stats, Stent, store::Status};

/// Offers are made this often, as many as are due.
const BEAT: Duration = Duration::from_millis(1);

/// Memory is looked at this often.
const LOOK: Duration = Duration::from_millis(100);

/// So many single executions tell how quick it is.
const SINGLES: u64 = 50;

/// It is itself again when the median of single executions is within so much of what it was before…
const AGAIN: f64 = 1.2;

/// …which it has so long for.
const PATIENCE: Duration = Duration::from_secs(60);

/// More is offered than the node can bear, then nothing any more.
#[derive(Args, Debug)]
pub(super) struct Overload {
    #[command(flatten)]
    target: Target,
    /// Activities of each execution.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// For how many seconds the sustainable rate is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    sustained: u64,
    /// How many executions are in flight for that.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// How many times that rate is offered.
    #[arg(long, default_value_t = 2.0)]
    factor: f64,
    /// Executions in memory at most; by default as many as the runtime allows.
    #[arg(long)]
    slots: Option<usize>,
    /// Dispatches that may wait for those slots at most; by default as many as the runtime allows.
    #[arg(long)]
    backlog: Option<usize>,
    /// For how many seconds it is offered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What became of the offers.
#[derive(Default)]
struct Tally {
    offered: u64,
    accepted: u64,
    /// Of the accepted ones, from the offer to the result.
    done: Vec<Duration>,
    /// How long it took to be refused.
    busy: Vec<Duration>,
    /// The first of everything else.
    wrong: Option<Failure>,
    peaks: Stats,
    rss: f64,
}

impl Tally {
    fn look(&mut self, stent: &Stent) {
        let now = stent.stats();
        self.peaks.held = self.peaks.held.max(now.held);
        self.peaks.waiting = self.peaks.waiting.max(now.waiting);
        self.peaks.unanswered = self.peaks.unanswered.max(now.unanswered);
        self.rss = self.rss.max(resident_mb().unwrap_or_default());
    }

    fn open(&self) -> u64 {
        self.offered - (self.done.len() + self.busy.len()) as u64
    }
}

impl Overload {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Overload { target, steps, sustained, in_flight, factor, slots, backlog, seconds } = self;
        if !(factor > 0.0 && factor <= 100.0) {
            return Err(Failure::Usage("--factor: more than 0, and at most 100".to_owned()));
        }
        let place = Place::make(&target).await?;
        let mut builder = work::plain(place.builder(), Polled::default());
        if let Some(most) = slots {
            builder = builder.in_flight(most);
        }
        if let Some(most) = backlog {
            builder = builder.backlog(most);
        }
        let stent = Stent::of(builder.start().await?).await?;
        let began = Instant::now();
        let mut flown = closed(&stent, steps, in_flight, Duration::from_secs(sustained)).await?;
        let sustainable = per_second(flown, began.elapsed());
        let quick = median(&singles(&stent, steps).await?);
        flown += SINGLES;
        let rss_before = resident_mb();

        let before = stent.stats();
        let tally = Rc::new(RefCell::new(Tally::default()));
        let began = Instant::now();
        let looks = actix_rt::spawn(look(stent.clone(), tally.clone()));
        offer(&stent, steps, sustainable * factor, Duration::from_secs(seconds), &tally).await;
        let wall = began.elapsed();
        let ended_meanwhile = tally.borrow().done.len() as u64;
        let stats = grown(before, stent.stats());

        let quiet = Instant::now();
        while tally.borrow().open() > 0 && tally.borrow().wrong.is_none() {
            tokio::time::sleep(BEAT).await;
        }
        let drained = quiet.elapsed();
        looks.abort();
        let Tally { offered, accepted, mut done, mut busy, wrong, peaks, rss } = tally.take();
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        flown += accepted;
        let (after, rounds) = loop {
            let now = median(&singles(&stent, steps).await?);
            flown += SINGLES;
            if now.as_secs_f64() <= quick.as_secs_f64() * AGAIN {
                break (now, quiet.elapsed());
            }
            if quiet.elapsed() > PATIENCE {
                let (now, quick) = (millis(now), millis(quick));
                return Err(Failure::Failed(format!("it is not itself again after {PATIENCE:?}: {now} ms each, {quick} before")));
            }
        };
        let (rss_after, limits) = (resident_mb(), stent.stats());
        if (limits.waiting, limits.unanswered) != (0, 0) {
            return Err(Failure::Failed(format!("nothing is under way, and yet these are counted: {limits:?}")));
        }
        stop(&stent).await?;
        stored(&place, flown).await?;

        done.sort_unstable();
        busy.sort_unstable();
        let mut figures = Map::new();
        let mut figure = |name: &str, value: serde_json::Value| figures.insert(name.to_owned(), value);
        figure("sustainable_per_s", json!(round(sustainable)));
        figure("offered_per_s", json!(round(per_second(offered, wall))));
        figure("offered", json!(offered));
        figure("accepted", json!(accepted));
        figure("busy", json!(busy.len()));
        figure("accepted_of_sustainable", json!(round(per_second(accepted, wall) / sustainable)));
        figure("ended_of_sustainable", json!(round(per_second(ended_meanwhile, wall) / sustainable)));
        figure("busy_p50_ms", json!(quantile(&busy, 0.5).map(millis)));
        figure("busy_p99_ms", json!(quantile(&busy, 0.99).map(millis)));
        figure("latency_max_ms", json!(done.last().copied().map(millis)));
        figure("held_peak", json!(peaks.held));
        figure("waiting_peak", json!(peaks.waiting));
        figure("unanswered_peak", json!(peaks.unanswered));
        figure("rss_mb_before", json!(rss_before));
        figure("rss_mb_under_load", json!(rss));
        figure("rss_mb_after", json!(rss_after));
        figure("single_p50_ms_before", json!(millis(quick)));
        figure("single_p50_ms_after", json!(millis(after)));
        figure("drained_s", json!(round(drained.as_secs_f64())));
        figure("recovered_s", json!(round(rounds.as_secs_f64())));
        Report {
            workload: "overload",
            params: json!({"steps": steps, "factor": factor, "seconds": seconds, "in_flight": in_flight, "slots": slots, "backlog": backlog}),
            wall,
            rate: per_second(ended_meanwhile, wall),
            unit: "executions/s",
            times: done,
            stats,
            rss_mb: Some(rss),
            figures,
            notes: "p50 and p99: of accepted ones, from the offer to the result, those included that ended after the last offer. drained: from the last offer until all \
                    accepted ones had ended; recovered: until single executions took what they had taken before, that of measuring it included"
                .to_owned(),
        }
        .print(&place)?;
        place.clear().await
    }
}

/// Keeps so many executions in flight for so long; returns how many there were.
async fn closed(stent: &Stent, steps: u64, in_flight: u64, time: Duration) -> Result<u64, Failure> {
    let end = Instant::now() + time;
    let mut flying: FuturesUnordered<_> = (0..in_flight).map(|_| once(stent, Steps { steps }, steps)).collect();
    let mut done = 0;
    while let Some(time) = flying.next().await {
        time?;
        done += 1;
        if Instant::now() < end {
            flying.push(once(stent, Steps { steps }, steps));
        }
    }
    Ok(done)
}

/// Runs some, one at a time.
async fn singles(stent: &Stent, steps: u64) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    for _ in 0..SINGLES {
        times.push(once(stent, Steps { steps }, steps).await?);
    }
    Ok(times)
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    quantile(&times, 0.5).unwrap_or_default()
}

async fn look(stent: Stent, tally: Rc<RefCell<Tally>>) {
    loop {
        tally.borrow_mut().look(&stent);
        tokio::time::sleep(LOOK).await;
    }
}

/// Offers at a rate, whatever becomes of it.
async fn offer(stent: &Stent, steps: u64, rate: f64, time: Duration, tally: &Rc<RefCell<Tally>>) {
    let bar = bar(time.as_secs(), "seconds of too much");
    let began = Instant::now();
    loop {
        let gone = began.elapsed();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, from a checked factor")]
        let due = (gone.min(time).as_secs_f64() * rate) as u64;
        while tally.borrow().offered < due {
            tally.borrow_mut().offered += 1;
            actix_rt::spawn(offered(stent.clone(), steps, tally.clone()));
        }
        bar.set_position(gone.as_secs());
        if gone >= time {
            return bar.finish_and_clear();
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// One offer, to its end.
async fn offered(stent: Stent, steps: u64, tally: Rc<RefCell<Tally>>) {
    let began = Instant::now();
    let became = match stent.dispatch(Dispatch::new(Steps { steps })).await {
        Ok(handle) => {
            tally.borrow_mut().accepted += 1;
            verified(&handle, steps).await
        }
        Err(Error::Dispatch(DispatchError::Busy { .. })) => return tally.borrow_mut().busy.push(began.elapsed()),
        Err(error) => Err(error.into()),
    };
    let mut tally = tally.borrow_mut();
    match became {
        Ok(()) => tally.done.push(began.elapsed()),
        Err(failure) => _ = tally.wrong.get_or_insert(failure),
    }
}

/// Checks that the store has what was accepted, all of it done, and nothing else.
async fn stored(place: &Place, flown: u64) -> Result<(), Failure> {
    let mut store = place.store().await?;
    let (mut runs, mut undone) = (0, 0);
    each_page(&*store.reader(), async |page| {
        runs += page.len() as u64;
        undone += page.iter().filter(|run| run.status != Status::Completed).count();
        Ok(())
    })
    .await?;
    store.close().await?;
    if (runs, undone) != (flown, 0) {
        let what = format!("{runs} executions are in the store, {undone} of them not completed; {flown} were accepted");
        return Err(Failure::Failed(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_what_was_offered_and_neither_done_nor_refused() {
        let tally = Tally { offered: 5, done: vec![Duration::ZERO], busy: vec![Duration::ZERO; 2], ..Tally::default() };
        assert_eq!(tally.open(), 2);
    }
}
