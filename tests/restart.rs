//! The story: the only process is killed and started again at once. Its lease of 30 s runs on, and the wall clock may have
//! jumped by an hour meanwhile; the operating system's lock proves the death, so the work goes on at once. A second
//! process beside a living one takes over from it in the same way. And no timer is ever early.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use stent::{clock::ShiftedClock, prelude::*};
use support::{Home, Rng, eventually, system, unended};

mod support;

const HOUR: i64 = 3_600_000_000;

fn start(folder: &Path, shift: i64, failpoints: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_stent-crash-child"))
        .args([folder.join("stent.db"), folder.join("side.txt")])
        .args(["1", &shift.to_string()])
        .env("STENT_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn lines(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("side.txt")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits for a line that satisfies, and returns when it was seen.
fn wait_for(folder: &Path, what: &str, wanted: impl Fn(&str) -> bool) -> Instant {
    let start = Instant::now();
    while !lines(folder).iter().any(|line| wanted(line)) {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", lines(folder));
        std::thread::sleep(Duration::from_millis(1));
    }
    Instant::now()
}

#[test]
fn killed_and_started_at_once_it_goes_on_within_a_second_whatever_the_clock_says() {
    for shift in [0, HOUR, -HOUR] {
        for point in ["executor.attempts_ended=kill@1", "persistence.before_acks=kill@2", "scheduler.timers_due=kill@1"] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = start(folder.path(), 0, point);
            first.wait().unwrap();
            let before = lines(folder.path()).len();
            assert!(before > 0, "{point}: it had begun");
            let mut second = start(folder.path(), shift, "");
            let up = format!("up {}", second.id());
            let up = wait_for(folder.path(), "it is up", |line| line == up);
            let by_second = second.id().to_string();
            let acted = wait_for(folder.path(), &format!("{point}, {shift}: it goes on"), |line| {
                line.starts_with("act ") && line.ends_with(&by_second)
            });
            assert!(acted - up < Duration::from_secs(1), "{point}, {shift}: after {:?}", acted - up);
            second.kill().unwrap();
            second.wait().unwrap();
        }
    }
}

#[test]
fn a_second_process_stands_beside_the_first_and_takes_over_at_once_when_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = start(folder.path(), 0, "executor.attempts_ended=sleep:20000");
    wait_for(folder.path(), "it acts", |line| line.starts_with("act "));
    system(async {
        let url = format!("sqlite:{}", folder.path().join("stent.db").display());
        let stent = Stent::open(&url).lease(secs(30)).spawn().await.unwrap();
        eventually("they see each other", secs(5), async || stent.stats().neighbours == 1).await;
        first.kill().unwrap();
        first.wait().unwrap();
        let killed = Instant::now();
        eventually("it is dead in the file", secs(2), async || stent.stats().taken_over == 1).await;
        println!("taken over {:?} after kill -9", killed.elapsed());
        assert!(unended(&stent).await.iter().all(|run| run.owner.is_none()), "this one has no code for them");
        stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
    });
}

#[derive(Serialize, Deserialize)]
struct Naps {
    first: u64,
    second: u64,
}

impl Workflow for Naps {
    const NAME: &'static str = "restart.naps";
    type Output = i64;
    type Error = AppError;

    /// Returns by how many microseconds its own clock went on.
    async fn run(self, cx: Cx<Self>) -> Result<i64, AppError> {
        let start = cx.now();
        cx.sleep(millis(self.first)).await?;
        cx.sleep_until(cx.now() + chrono::Duration::milliseconds(i64::try_from(self.second).unwrap_or(0))).await?;
        Ok((cx.now() - start).num_microseconds().unwrap_or(0))
    }
}

#[test]
fn no_sleep_is_over_early_in_memory_or_slept_through_in_the_store() {
    system(async {
        let mut rng = Rng::from_env("no sleep is early");
        for home in Home::all() {
            for (passivate, ahead) in [(0, 0), (40, 0), (0, 10), (10_000, 1_000)] {
                let builder = home.open().workflow::<Naps>().passivate_after(millis(passivate)).look_ahead(millis(ahead));
                let stent = builder.spawn().await.unwrap();
                let naps = (0..60).map(|_| {
                    let (stent, naps) = (&stent, Naps { first: rng.between(0, 80), second: rng.between(0, 80) });
                    async move {
                        let least = millis(naps.first + naps.second);
                        let begun = Instant::now();
                        let handle = stent.dispatch(Dispatch::new(naps)).await.unwrap();
                        let own = handle.result().await.unwrap();
                        assert!(begun.elapsed() >= least, "{:?} instead of {least:?}", begun.elapsed());
                        assert!(Duration::from_micros(u64::try_from(own).unwrap()) >= least, "by its own clock");
                    }
                });
                futures::future::join_all(naps).await;
                stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            }
        }
    });
}

#[test]
fn the_time_of_a_run_never_goes_back_though_the_clock_does() {
    system(async {
        for home in Home::all() {
            let clock = ShiftedClock::default();
            let stent = home.open().workflow::<Naps>().clock(Arc::new(clock.clone())).spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Naps { first: 30, second: 0 })).await.unwrap();
            clock.shift(-HOUR);
            // The first sleep was asked for before; it is over when the clock is where it was.
            let waiting = tokio::time::timeout(millis(300), handle.result()).await;
            if let Ok(own) = waiting {
                assert!(own.unwrap() >= 30_000);
            }
            clock.shift(HOUR);
            let fresh = stent.dispatch(Dispatch::new(Naps { first: 20, second: 1 })).await.unwrap();
            assert!(fresh.result().await.unwrap() >= 21_000);
            assert!(handle.result().await.unwrap() >= 30_000);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
