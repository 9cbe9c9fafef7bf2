//! The story: a crowd that only waits. It never holds up what can run, however long its members might stay in memory; and those
//! of it that are due soon are in memory before they are, and go on exactly then.

#![cfg(feature = "sqlite")]

use std::{sync::Arc, time::Duration};

use stent::{Builder, Stent, prelude::*, store::Summary};
use support::{Home, eventually, system, unended};
use tokio::sync::Semaphore;

mod support;

#[derive(Serialize, Deserialize)]
struct Word {
    last: bool,
}

impl Signal for Word {
    const NAME: &'static str = "waiting.word";
}

async fn say(stent: &Stent, id: &str, last: bool) {
    stent.signal(SendSignal::new(id, &Word { last })).await.unwrap();
}

#[derive(Serialize, Deserialize)]
struct Gate;

impl Activity for Gate {
    const NAME: &'static str = "waiting.gate";
    type Output = ();
    type Error = AppError;
}

/// Takes words until the last one, and waits for each in memory if it may.
#[derive(Serialize, Deserialize)]
struct Waiter {
    gated: bool,
}

impl Workflow for Waiter {
    const NAME: &'static str = "waiting.waiter";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        if self.gated {
            cx.call(Gate).await?;
        }
        let mut words = 0;
        while let Some(word) = cx.signal::<Word>().within(mins(30)).await? {
            words += 1;
            if word.last {
                return Ok(words);
            }
        }
        Err(AppError::new("nobody said the last word"))
    }
}

#[derive(Serialize, Deserialize)]
struct Quick;

impl Workflow for Quick {
    const NAME: &'static str = "waiting.quick";
    type Output = u32;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<u32, AppError> {
        Ok(9)
    }
}

/// Sleeps, and returns for how long by its own clock, in microseconds.
#[derive(Serialize, Deserialize)]
struct Sleeper {
    sleep: Duration,
}

impl Workflow for Sleeper {
    const NAME: &'static str = "waiting.sleeper";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let since = cx.now();
        cx.sleep(self.sleep).await?;
        Ok(u64::try_from((cx.now() - since).num_microseconds().unwrap_or(0)).unwrap_or(0))
    }
}

/// So many fit into memory.
const CEILING: usize = 8;

fn runtime(home: &Home, gate: &Arc<Semaphore>) -> Builder {
    let gate = gate.clone();
    let builder = home.open().workflow::<Waiter>().workflow::<Quick>().workflow::<Sleeper>().in_flight(CEILING);
    builder.passivate_after(hours(1)).activity(async move |_: Call<Gate>| {
        let _passed = gate.acquire().await;
        Ok(())
    })
}

fn closed() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

fn name(number: usize) -> String {
    format!("waiter-{number}")
}

async fn row(stent: &Stent, id: &str) -> Summary {
    stent.describe(id).await.unwrap().unwrap().summary
}

/// Returns the ids of what has not ended and is in nobody's memory, sorted.
async fn asleep(stent: &Stent) -> Vec<String> {
    let all = unended(stent).await.into_iter();
    let mut ids: Vec<String> = all.filter(|row| row.owner.is_none()).map(|row| row.id.id).collect();
    ids.sort();
    ids
}

/// Nothing here may take as long as anything that is waited for.
async fn at_once<T>(what: &str, of: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(20), of).await.unwrap_or_else(|_| panic!("{what}: not at once"))
}

#[test]
fn of_a_crowd_that_only_waits_the_least_recently_active_makes_way_at_once_for_what_can_run() {
    if support::counts_memory("it looks who stays in memory and who makes way") {
        return;
    }
    system(async {
        for home in Home::all() {
            let stent = runtime(&home, &closed()).spawn().await.unwrap();
            let mut waiters = Vec::new();
            for number in 0..CEILING {
                let waiter = Dispatch::new(Waiter { gated: false }).id(name(number));
                waiters.push(stent.dispatch(waiter).await.unwrap());
            }
            // The first two have been active since: the third is the least recent.
            for id in [name(1), name(0)] {
                let before = stent.describe(&id).await.unwrap().unwrap().commits;
                say(&stent, &id, false).await;
                let heard = async || stent.describe(&id).await.unwrap().unwrap().commits > before;
                eventually("the word is heard", secs(20), heard).await;
            }
            assert_eq!(asleep(&stent).await, [""; 0], "all stay in memory while there is room");
            for displaced in 1..=2 {
                let quick = stent.dispatch(Dispatch::new(Quick)).await.unwrap();
                assert_eq!(at_once("a run for which there was no room", quick.result()).await.unwrap(), 9);
                assert_eq!(asleep(&stent).await, [name(2)], "and nobody else leaves while there is room");
                assert_eq!((stent.stats().passivated, stent.stats().displaced), (1, 1), "quick {displaced}");
                // Its caller hears of an end before its place is free: with the next dispatch at that moment somebody else would go.
                eventually("its place is free", secs(20), async || stent.stats().held == CEILING as u64 - 1).await;
            }
            // Whoever hears something comes back, and somebody else makes way.
            let extra = stent.dispatch(Dispatch::new(Waiter { gated: false }).id(name(CEILING))).await.unwrap();
            say(&stent, &name(2), false).await;
            let moved_on = async || asleep(&stent).await == [name(3)];
            eventually("the next one makes way", secs(20), moved_on).await;
            for (number, waiter) in waiters.into_iter().chain([extra]).enumerate() {
                say(&stent, &name(number), true).await;
                let words = at_once("a waiter", waiter.result()).await.unwrap();
                assert_eq!(words, if number < 3 { 2 } else { 1 }, "waiter {number}");
            }
            assert!(unended(&stent).await.is_empty());
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn what_found_everybody_at_work_gets_in_as_soon_as_somebody_only_waits() {
    system(async {
        for home in Home::all() {
            let gate = closed();
            let stent = runtime(&home, &gate).spawn().await.unwrap();
            let mut waiters = Vec::new();
            for number in 0..CEILING {
                let waiter = Dispatch::new(Waiter { gated: true }).id(name(number));
                waiters.push(stent.dispatch(waiter).await.unwrap());
            }
            let quick = stent.dispatch(Dispatch::new(Quick)).await.unwrap();
            assert_eq!(row(&stent, quick.id()).await.owner, None, "nobody leaves in the middle of an act");
            gate.add_permits(1);
            // It is not found by the look that is made every five seconds.
            let soon = tokio::time::timeout(secs(3), quick.result()).await.expect("somebody makes way at once");
            assert_eq!(soon.unwrap(), 9);
            gate.add_permits(CEILING);
            for (number, waiter) in waiters.into_iter().enumerate() {
                say(&stent, &name(number), true).await;
                assert_eq!(at_once("a waiter", waiter.result()).await.unwrap(), 1);
            }
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// Puts sleepers to sleep on a runtime that is no more then. Returns their rows.
async fn put_to_sleep(home: &Home, count: usize, sleep: Duration) -> Vec<Summary> {
    let stent = runtime(home, &closed()).look_ahead(secs(0)).passivate_after(secs(0)).spawn().await.unwrap();
    let mut rows = Vec::new();
    for number in 0..count {
        stent.dispatch(Dispatch::new(Sleeper { sleep }).id(name(number))).await.unwrap();
        eventually("it sleeps", secs(20), async || row(&stent, &name(number)).await.owner.is_none()).await;
        rows.push(row(&stent, &name(number)).await);
    }
    stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    rows
}

#[test]
fn what_is_due_soon_is_in_memory_before_it_is_and_goes_back_unchanged_when_the_node_leaves() {
    system(async {
        for home in Home::all() {
            let before = put_to_sleep(&home, 3, secs(90)).await;
            let stent = runtime(&home, &closed()).look_ahead(secs(0)).spawn().await.unwrap();
            stent.dispatch(Dispatch::new(Sleeper { sleep: secs(0) }).id("delayed").delay(secs(80))).await.unwrap();
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            let stent = runtime(&home, &closed()).passivate_after(secs(0)).look_ahead(secs(60)).spawn().await.unwrap();
            let ahead = async || asleep(&stent).await == ["delayed"];
            eventually("the sleepers are in memory, and what would begin early is not", secs(20), ahead).await;
            assert_eq!(row(&stent, &name(0)).await.wake_at, None);
            // One of them hears what is sent to it, and nothing has happened to the others.
            stent.cancel(Cancel::new(name(2)).reason("enough")).await.unwrap();
            let cancelled = stent.handle::<Sleeper>(name(2)).await.unwrap().unwrap();
            let cancelled = at_once("a cancelled sleeper", cancelled.result()).await;
            assert!(matches!(&cancelled, Err(RunError::Cancelled { reason }) if reason == "enough"), "{cancelled:?}");
            assert_eq!((stent.stats().claims, stent.stats().passivated), (3, 0), "claimed once, and kept");
            let commits = stent.describe(name(0)).await.unwrap().unwrap().commits;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            let later = runtime(&home, &closed()).look_ahead(secs(0)).spawn().await.unwrap();
            for was in &before[..2] {
                let description = later.describe(&was.id.id).await.unwrap().unwrap();
                assert_eq!((description.commits, description.summary.owner), (commits, None));
                assert_eq!(description.summary.wake_at, was.wake_at, "it is due when it was");
            }
            later.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_sleeper_that_was_claimed_ahead_goes_on_where_it_is_and_never_early() {
    system(async {
        for home in Home::all() {
            let sleep = secs(4);
            put_to_sleep(&home, 4, sleep).await;
            let stent = runtime(&home, &closed()).passivate_after(secs(0)).look_ahead(secs(10)).spawn().await.unwrap();
            for number in 0..4 {
                let sleeper = stent.handle::<Sleeper>(name(number)).await.unwrap().unwrap();
                let slept = Duration::from_micros(at_once("a sleeper", sleeper.result()).await.unwrap());
                assert!(slept >= sleep, "{slept:?}");
            }
            assert_eq!((stent.stats().claims, stent.stats().passivated), (4, 0), "nothing was claimed again");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn what_is_claimed_ahead_leaves_half_of_the_memory_to_what_can_run() {
    system(async {
        for home in Home::all() {
            put_to_sleep(&home, 2 * CEILING, secs(90)).await;
            let stent = runtime(&home, &closed()).look_ahead(secs(60)).spawn().await.unwrap();
            let held = async || asleep(&stent).await.len() == 2 * CEILING - CEILING / 2;
            eventually("as many as may be are in memory", secs(20), held).await;
            for _ in 0..CEILING {
                let quick = stent.dispatch(Dispatch::new(Quick)).await.unwrap();
                assert_eq!(at_once("a run beside sleepers", quick.result()).await.unwrap(), 9);
            }
            assert!(held().await, "and no more than those");
            assert_eq!((stent.stats().claims, stent.stats().passivated), (CEILING as u64 / 2, 0));
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// One step, which ends by its limit.
#[derive(Serialize, Deserialize)]
struct Endless {
    limit: Duration,
}

impl Workflow for Endless {
    const NAME: &'static str = "waiting.endless";
    type Output = bool;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<bool, AppError> {
        let step = cx.step("endless", async || std::future::pending::<Result<(), AppError>>().await);
        Ok(matches!(step.timeout(self.limit).retry(Retry::never()).await, Err(CallError::TimedOut(_))))
    }
}

#[test]
fn a_limit_that_is_looked_at_on_the_way_ends_a_step_when_it_is_over_and_not_before() {
    system(async {
        // The wheel is the same on every store. It is looked at every ten seconds.
        let stent = Home::all().remove(0).open().workflow::<Endless>().spawn().await.unwrap();
        let began = std::time::Instant::now();
        let limit = secs(11);
        assert!(stent.dispatch(Dispatch::new(Endless { limit })).await.unwrap().result().await.unwrap());
        let took = began.elapsed();
        assert!(took >= limit && took < secs(18), "{took:?}");
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}
