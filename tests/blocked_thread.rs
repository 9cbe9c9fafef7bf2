//! The story: user code blocks its thread, panics, or does not listen. None of it delays the lease, a timer, or another
//! execution's commit; a cancel reaches the next await and the running activity, compensations run, and an end stays
//! what it was.

#![cfg(feature = "sqlite")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use stent::{Error, SendError, prelude::*, store::Store};
use support::{Home, eventually, system, unended};

mod support;

/// Blocks the thread of its activity for so long.
#[derive(Serialize, Deserialize)]
struct Block {
    ms: u64,
}

impl Activity for Block {
    const NAME: &'static str = "blocked.block";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Echo {
    number: u64,
}

impl Activity for Echo {
    const NAME: &'static str = "blocked.echo";
    type Output = u64;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Blocks {
    ms: u64,
}

impl Workflow for Blocks {
    const NAME: &'static str = "blocked.blocks";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        Ok(cx.call(Block { ms: self.ms }).await?)
    }
}

#[derive(Serialize, Deserialize)]
struct Brisk {
    number: u64,
}

impl Workflow for Brisk {
    const NAME: &'static str = "blocked.brisk";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let number = cx.call(Echo { number: self.number }).await?;
        cx.sleep(millis(20)).await?;
        let more = cx.step("add", async || Ok::<_, AppError>(1)).await?;
        Ok(cx.call(Echo { number: number + more }).await?)
    }
}

/// Breaks a rule of workflows: it blocks its thread, or panics.
#[derive(Serialize, Deserialize)]
struct Rude {
    ms: u64,
}

impl Workflow for Rude {
    const NAME: &'static str = "blocked.rude";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        cx.sleep(millis(5)).await?;
        std::thread::sleep(Duration::from_millis(self.ms));
        assert!(self.ms > 0, "rude, as planned");
        Ok(())
    }
}

async fn open(home: &Home) -> Stent {
    home.open()
        .workflow::<Blocks>()
        .workflow::<Brisk>()
        .workflow::<Rude>()
        .activity(async |call: Call<Block>| {
            std::thread::sleep(Duration::from_millis(call.ms));
            Ok(())
        })
        .activity(async |call: Call<Echo>| Ok(call.number))
        .lease(millis(1_200))
        .verify_determinism(false)
        .spawn()
        .await
        .unwrap()
}

async fn brisk(stent: &Stent, most: Duration) {
    let all = (0..50).map(|number| async move {
        let start = Instant::now();
        let handle = stent.dispatch(Dispatch::new(Brisk { number })).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), number + 1);
        start.elapsed()
    });
    let slowest = futures::future::join_all(all).await.into_iter().max().unwrap();
    assert!(slowest < most, "the slowest took {slowest:?}");
}

/// How many lives of a core a store has seen: one more for each lease that was lost.
async fn lives_of(home: &Home) -> usize {
    let Home::Memory(store) = home else { panic!("a memory store") };
    store.reader().snapshot().await.unwrap().iter().filter(|line| line.starts_with("node ")).count()
}

#[test]
fn activities_that_block_their_threads_delay_no_lease_no_timer_and_no_other_commit() {
    system(async {
        let [home, _] = Home::both();
        let stent = open(&home).await;
        let all = (0..6).map(|_| stent.dispatch(Dispatch::new(Blocks { ms: 4_000 })));
        let blocked = futures::future::join_all(all).await;
        tokio::time::sleep(millis(50)).await;
        let start = Instant::now();
        brisk(&stent, secs(2)).await;
        assert!(start.elapsed() < secs(4), "they ran beside the blocked ones");
        for handle in blocked {
            handle.unwrap().result().await.unwrap();
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        assert_eq!(lives_of(&home).await, 1, "no lease was lost");
    });
}

#[test]
fn a_shutdown_does_not_wait_for_a_thread_that_is_blocked_for_half_a_minute_and_the_run_is_done_by_the_next() {
    system(async {
        let home = Home::sqlite();
        let stent = open(&home).await;
        stent.dispatch(Dispatch::new(Blocks { ms: 30_000 }).id("long")).await.unwrap();
        brisk(&stent, secs(2)).await;
        let start = Instant::now();
        stent.shutdown(Shutdown::within(millis(200))).await.unwrap();
        assert!(start.elapsed() < secs(8), "it took {:?}", start.elapsed());
        let next = open(&home).await;
        let known = next.describe("long").await.unwrap().unwrap();
        assert!(!known.summary.status.is_end() && known.waits_for[0].contains("blocked.block"), "{known:?}");
        next.shutdown(Shutdown::within(millis(10))).await.unwrap();
    });
}

#[test]
fn a_workflow_that_blocks_loses_no_lease_and_one_that_panics_fails_alone() {
    system(async {
        let [home, _] = Home::both();
        let stent = open(&home).await;
        let rude = stent.dispatch(Dispatch::new(Rude { ms: 2_500 })).await.unwrap();
        let panics = stent.dispatch(Dispatch::new(Rude { ms: 0 })).await.unwrap();
        // Those that share its thread wait, and go on.
        brisk(&stent, secs(6)).await;
        rude.result().await.unwrap();
        match panics.result().await {
            Err(RunError::Broken(failure)) => {
                assert!(failure.kind() == "panic" && failure.message().contains("as planned"), "{failure}");
            }
            other => panic!("{other:?}"),
        }
        assert!(unended(&stent).await.is_empty());
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        assert_eq!(lives_of(&home).await, 1, "no lease was lost");
    });
}

#[derive(Serialize, Deserialize)]
struct Patient;

impl Activity for Patient {
    const NAME: &'static str = "blocked.patient";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Undo {
    number: u64,
}

impl Activity for Undo {
    const NAME: &'static str = "blocked.undo";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Trip;

impl Workflow for Trip {
    const NAME: &'static str = "blocked.trip";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        cx.saga(async |saga| {
            saga.call(Echo { number: 1 }).undo_with(|_| Undo { number: 1 }).await?;
            saga.call(Echo { number: 2 }).undo_with(|_| Undo { number: 2 }).await?;
            Ok(cx.call(Patient).await?)
        })
        .await
    }
}

#[test]
fn a_cancel_reaches_the_running_activity_compensations_run_and_the_end_never_changes() {
    system(async {
        for home in Home::all() {
            let (runs, heard, undone) =
                (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
            let (running, hears, undoes) = (runs.clone(), heard.clone(), undone.clone());
            let stent = home
                .open()
                .workflow::<Trip>()
                .activity(async |call: Call<Echo>| Ok(call.number))
                .activity(async move |call: Call<Patient>| {
                    running.store(true, SeqCst);
                    call.cancelled().await;
                    hears.store(true, SeqCst);
                    Ok(())
                })
                .activity(async move |call: Call<Undo>| {
                    // In reverse: the second act first. The digits say the order.
                    let digits = u32::try_from(call.number).unwrap_or(9);
                    undoes.fetch_update(SeqCst, SeqCst, |so_far| Some(so_far * 10 + digits)).map(drop).unwrap_or_default();
                    Ok(())
                })
                .spawn()
                .await
                .unwrap();
            let handle = stent.dispatch(Dispatch::new(Trip).id("t")).await.unwrap();
            eventually("the activity runs", secs(10), async || runs.load(SeqCst)).await;
            stent.cancel(Cancel::new("t").reason("changed my mind")).await.unwrap();
            let ended = handle.result().await;
            assert!(matches!(&ended, Err(RunError::Cancelled { reason }) if reason == "changed my mind"), "{ended:?}");
            assert_eq!(undone.load(SeqCst), 21, "both, in reverse, each once");
            eventually("the activity heard of it", secs(5), async || heard.load(SeqCst)).await;
            let before = stent.describe("t").await.unwrap().unwrap();
            let again = stent.cancel(Cancel::new("t")).await;
            assert!(matches!(&again, Err(Error::Send(SendError::AlreadyEnded { .. }))), "{again:?}");
            let after = stent.describe("t").await.unwrap().unwrap();
            assert_eq!((before.summary, before.commits, before.outcome), (after.summary, after.commits, after.outcome));
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
