//! The story: the store refuses. One commit meets a moved tail, a full disk, a lock, a broken disk, or an answer that is
//! lost after the commit went through. An activity that runs meanwhile must not be started again, a result in hand must
//! not be lost, and what may happen once must never be reported as "maybe done" when its outcome is known.

#![cfg(feature = "sqlite")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
};

use faulty::{Faults, Faulty, How, turns};
use futures::StreamExt;
use parking_lot::Mutex;
use stent::{
    Error, Queue, SendError,
    kernel::id::RunKey,
    prelude::*,
    store::{
        Item, Store, StoreError, Then,
        memory::MemoryStore,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use support::{Rng, eventually, system, unended};

mod faulty;
#[path = "../support/mod.rs"]
mod support;
mod suspects;
mod trouble;

/// How often each call was started, all attempts together.
type Starts = Arc<Mutex<HashMap<String, u32>>>;

#[derive(Serialize, Deserialize)]
struct Slow;

#[derive(Serialize, Deserialize)]
struct Quick {
    number: u64,
}

impl Activity for Slow {
    const NAME: &'static str = "commit.slow";
    type Output = u64;
    type Error = AppError;
}

impl Activity for Quick {
    const NAME: &'static str = "commit.quick";
    type Output = u64;
    type Error = AppError;
}

/// Two calls at once; the slow one may be declared at-most-once.
#[derive(Serialize, Deserialize)]
struct Both {
    once: bool,
}

impl Workflow for Both {
    const NAME: &'static str = "commit.both";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let slow = cx.call(Slow);
        let slow = if self.once { slow.at_most_once() } else { slow };
        let (slow, quick) = futures::join!(slow, cx.call(Quick { number: 2 }));
        Ok(slow? * 10 + quick?)
    }
}

/// One long act.
#[derive(Serialize, Deserialize)]
struct Single;

impl Workflow for Single {
    const NAME: &'static str = "commit.single";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        Ok(cx.call(Slow).await?)
    }
}

/// One act, by way of a line.
#[derive(Serialize, Deserialize)]
struct InLine;

impl Workflow for InLine {
    const NAME: &'static str = "commit.in_line";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        Ok(cx.call(Quick { number: 7 }).queue("line").await?)
    }
}

/// One act that happens at most once, then another.
#[derive(Serialize, Deserialize)]
struct Once {
    number: u64,
}

impl Workflow for Once {
    const NAME: &'static str = "commit.once";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let once = match cx.call(Quick { number: self.number }).at_most_once().await {
            Ok(number) => number.to_string(),
            Err(CallError::MaybeDone(_)) => "maybe".to_owned(),
            Err(other) => return Err(other.into()),
        };
        cx.sleep(millis(self.number % 3)).await?;
        let step = cx.step("inline", async || Ok::<_, AppError>(5_u64)).await?;
        let next = cx.call(Quick { number: self.number }).await?;
        Ok(format!("{once} {step} {next}"))
    }
}

#[derive(Serialize, Deserialize)]
struct Word;

impl Signal for Word {
    const NAME: &'static str = "commit.word";
}

/// Ends at a word.
#[derive(Serialize, Deserialize)]
struct Hears;

impl Workflow for Hears {
    const NAME: &'static str = "commit.hears";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        cx.signal::<Word>().await?;
        Ok(())
    }
}

struct Bench {
    stent: Stent,
    starts: Starts,
    release: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

async fn bench(faults: &Faults, sqlite: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (starts, release) = (Starts::default(), Arc::new(AtomicBool::new(false)));
    let (memory, file, faults) = (MemoryStore::new(), folder.path().join("stent.db"), faults.clone());
    let (of_slow, of_quick, released) = (starts.clone(), starts.clone(), release.clone());
    let stent = Stent::open("memory:")
        .store(move |durability| {
            let (memory, file, faults) = (memory.clone(), file.clone(), faults.clone());
            async move {
                let inner: Box<dyn Store> = if sqlite {
                    Box::new(SqliteStore::open(&file, SqliteOptions { durability, ..Default::default() }).await?)
                } else {
                    Box::new(memory)
                };
                Ok(Box::new(Faulty { inner, faults }) as Box<dyn Store>)
            }
        })
        .workflow::<Both>()
        .workflow::<Once>()
        .workflow::<InLine>()
        .workflow::<Hears>()
        .queue(Queue::named("line").concurrency(1))
        .activity(async move |call: Call<Slow>| {
            *of_slow.lock().entry(call.key()).or_default() += 1;
            while !released.load(SeqCst) && !call.is_cancelled() {
                tokio::time::sleep(millis(2)).await;
            }
            Ok(1)
        })
        .activity(async move |call: Call<Quick>| {
            *of_quick.lock().entry(call.key()).or_default() += 1;
            Ok(call.number)
        })
        .spawn()
        .await
        .unwrap();
    Bench { stent, starts, release, _folder: folder }
}

impl Bench {
    fn starts(&self, id: &str, position: u32) -> u32 {
        self.starts.lock().get(&format!("{id}/1/{position}")).copied().unwrap_or(0)
    }
}

#[test]
fn a_refused_commit_starts_no_running_activity_again_and_loses_no_result_in_hand() {
    system(async {
        for (sqlite, how) in [How::Conflict, How::Busy, How::Full].into_iter().flat_map(|how| [(false, how), (true, how)]) {
            let faults = Faults::at(1, how);
            let bench = bench(&faults, sqlite).await;
            let handle = bench.stent.dispatch(Dispatch::new(Both { once: true }).id("x")).await.unwrap();
            eventually("the quick one is recorded all the same", secs(10), async || {
                bench.stent.describe("x").await.unwrap().is_some_and(|known| known.commits >= 2)
            })
            .await;
            assert_eq!(*faults.fired.lock(), [how]);
            bench.release.store(true, SeqCst);
            assert_eq!(handle.result().await.unwrap(), 12, "{how:?}");
            assert_eq!((bench.starts("x", 1), bench.starts("x", 2)), (1, 1), "{how:?}, sqlite {sqlite}");
            bench.stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn after_an_unknown_outcome_what_was_recorded_is_not_repeated_and_what_was_not_is_done_again() {
    system(async {
        for (sqlite, how) in [How::Io, How::IoAfter].into_iter().flat_map(|how| [(false, how), (true, how)]) {
            let bench = bench(&Faults::at(1, how), sqlite).await;
            let handle = bench.stent.dispatch(Dispatch::new(Both { once: false }).id("x")).await.unwrap();
            eventually("the slow one is started anew", secs(20), async || bench.starts("x", 1) == 2).await;
            bench.release.store(true, SeqCst);
            assert_eq!(handle.result().await.unwrap(), 12, "{how:?}");
            let again = if how == How::Io { 2 } else { 1 };
            assert_eq!(bench.starts("x", 2), again, "{how:?}, sqlite {sqlite}: the quick one");
            bench.stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn what_was_to_be_put_into_a_line_behind_a_replay_and_was_refused_is_put_there_again() {
    system(async {
        for sqlite in [false, true] {
            let mut over = false;
            let faults = Faults::new(move |batch| {
                let placed = batch.items.iter().position(|item| matches!(item, Item::PlaceTasks(..)));
                let hit = placed.filter(|_| !over).map(|index| (index, How::Conflict));
                over |= hit.is_some();
                hit
            });
            let Bench { stent, .. } = &bench(&faults, sqlite).await;
            stent.pause_queue("line").await.unwrap();
            let handle = stent.dispatch(Dispatch::new(InLine).id("x")).await.unwrap();
            let waiting = async || stent.queues().await.unwrap().iter().map(|queue| queue.waiting).sum::<u64>();
            eventually("it stands in the line", secs(10), async || waiting().await == 1).await;
            // A pause takes it out, and behind it the run is replayed.
            stent.pause(PauseExecution::new("x", "a test")).await.unwrap();
            eventually("it stands in no line", secs(10), async || waiting().await == 0).await;
            stent.resume_queue("line").await.unwrap();
            stent.resume("x").await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 7, "sqlite {sqlite}");
            assert_eq!(*faults.fired.lock(), [How::Conflict]);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_message_whose_answer_was_lost_and_by_which_its_run_has_ended_is_answered_as_taken() {
    system(async {
        for (sqlite, cancels) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut lost, mut over) = (false, false);
            let faults = Faults::new(move |batch| {
                over |= batch.items.iter().any(|item| matches!(item, Item::Turn(turn) if matches!(turn.then, Then::End { .. })));
                let sent = batch.items.iter().position(|item| matches!(item, Item::Send(_)))?;
                if !std::mem::replace(&mut lost, true) {
                    return Some((sent, How::IoAfter));
                }
                // It is not said again before the run has ended by it.
                (!over).then_some((sent, How::Waits))
            });
            let Bench { stent, .. } = &bench(&faults, sqlite).await;
            let handle = stent.dispatch(Dispatch::new(Hears).id("x")).await.unwrap();
            let sent =
                if cancels { stent.cancel(Cancel::new("x")).await } else { stent.signal(SendSignal::new("x", &Word)).await };
            sent.unwrap();
            let end = handle.result().await;
            assert!(if cancels { matches!(end, Err(RunError::Cancelled { .. })) } else { end.is_ok() }, "{end:?}");
            assert!(faults.fired.lock().starts_with(&[How::IoAfter]));
            // What is sent for the first time comes too late.
            let late = stent.signal(SendSignal::new("x", &Word)).await;
            assert!(matches!(late, Err(Error::Send(SendError::AlreadyEnded { .. }))), "{late:?}");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn at_most_once_is_never_started_twice_and_never_reported_wrongly() {
    system(async {
        for commit_no in 0..3 {
            for how in [How::Conflict, How::Busy, How::Full, How::Io, How::IoAfter] {
                if (commit_no, how) == (0, How::Conflict) {
                    continue; // The first commit has no tail that could move.
                }
                let bench = bench(&Faults::at(commit_no, how), commit_no % 2 == 0).await;
                let handle = bench.stent.dispatch(Dispatch::new(Once { number: 3 }).id("x")).await.unwrap();
                let output = handle.result().await.unwrap();
                // Its result was in hand and lost with the core, or its intent was recorded and nobody was told.
                let unsure = matches!((commit_no, how), (1, How::Io) | (0, How::IoAfter));
                assert_eq!(output, if unsure { "maybe 5 3" } else { "3 5 3" }, "{how:?} at commit {commit_no}");
                assert_eq!(
                    bench.starts("x", 1),
                    u32::from((commit_no, how) != (0, How::IoAfter)),
                    "{how:?} at commit {commit_no}"
                );
                bench.stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            }
        }
    });
}

#[test]
fn a_dispatch_waits_when_no_key_can_be_reserved_and_is_not_forgotten() {
    system(async {
        let faults = Faults::new(|_| None);
        // One is asked for at the start, the next for the dispatch.
        faults.keys.store(2, SeqCst);
        let bench = bench(&faults, false).await;
        let handle = bench.stent.dispatch(Dispatch::new(Once { number: 3 })).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), "3 5 3");
        bench.stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn under_a_store_that_refuses_at_random_every_execution_ends_right_and_no_act_is_repeated() {
    system(async {
        for sqlite in [false, true] {
            let mut rng = Rng::from_env("refuses at random");
            // A run that is refused six times in a row is quarantined, and rightly so: no run is refused so often here.
            let mut refused: HashMap<RunKey, u32> = HashMap::new();
            let faults = Faults::new(move |batch| {
                let run_at = |index: usize| match &batch.items[index] {
                    Item::Turn(turn) => turn.run,
                    _ => RunKey(0),
                };
                let spare = |index: usize| refused.get(&run_at(index)).is_none_or(|times| *times < 3);
                let hits: Vec<_> = turns(batch).filter(|(index, no)| *no > 0 && spare(*index)).collect();
                let hit = hits.get(usize::try_from(rng.next()).unwrap_or(0) % hits.len().max(1))?;
                match rng.between(0, 9) {
                    0..=3 => {
                        *refused.entry(run_at(hit.0)).or_default() += 1;
                        Some((hit.0, How::Conflict))
                    }
                    4 => Some((hit.0, How::Busy)),
                    _ => None,
                }
            });
            let bench = bench(&faults, sqlite).await;
            let stent = &bench.stent;
            let all = (0..200).map(|number| async move {
                let handle = stent.dispatch(Dispatch::new(Once { number }).id(format!("x-{number}"))).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), format!("{number} 5 {number}"));
            });
            // A few at a time: all at once would travel in a handful of commits, and few would be refused.
            futures::stream::iter(all).buffer_unordered(10).collect::<Vec<_>>().await;
            assert!(faults.fired.lock().len() > 5, "the store refused now and then");
            for (key, starts) in &*bench.starts.lock() {
                assert_eq!(*starts, 1, "{key} was started {starts} times");
            }
            assert!(unended(stent).await.is_empty());
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_node_that_cannot_write_beside_another_stops_its_acts_before_that_one_begins_them_again() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stent.db");
        let broken = Arc::new(AtomicBool::new(false));
        let faults = {
            let broken = broken.clone();
            Faults::new(move |_| broken.load(SeqCst).then_some((0, How::Full)))
        };
        let (running, most, begun) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let node = |store: Option<Faults>| {
            let (file, running, most, begun) = (file.clone(), running.clone(), most.clone(), begun.clone());
            let mut builder = Stent::open(&format!("sqlite:{}", file.display()));
            if let Some(faults) = store {
                builder = builder.store(move |durability| {
                    let (file, faults) = (file.clone(), faults.clone());
                    async move {
                        let options = SqliteOptions { durability, ..Default::default() };
                        let inner = Box::new(SqliteStore::open(&file, options).await?);
                        Ok(Box::new(Faulty { inner, faults }) as Box<dyn Store>)
                    }
                });
            }
            builder.workflow::<Single>().lease(secs(1)).activity(async move |call: Call<Slow>| {
                let _counted = Counted::one_more(&running, &most);
                let first = begun.fetch_add(1, SeqCst) == 0;
                while first && !call.is_cancelled() {
                    tokio::time::sleep(millis(2)).await;
                }
                Ok(7)
            })
        };
        let a = node(Some(faults)).spawn().await.unwrap();
        a.dispatch(Dispatch::new(Single).id("x")).await.unwrap();
        eventually("the act runs", secs(5), async || running.load(SeqCst) == 1).await;
        let b = node(None).spawn().await.unwrap();
        eventually("they see each other", secs(5), async || a.stats().neighbours == 1 && b.stats().neighbours == 1).await;
        broken.store(true, SeqCst);
        let handle = b.handle::<Single>("x").await.unwrap().expect("it is in the file");
        assert_eq!(handle.result().await.unwrap(), 7);
        assert_eq!((begun.load(SeqCst), most.load(SeqCst)), (2, 1), "begun again, and not beside itself");
        broken.store(false, SeqCst);
        b.shutdown(Shutdown::within(secs(5))).await.unwrap();
        a.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

static BLOCKS: AtomicBool = AtomicBool::new(false);
static MAY_END: AtomicBool = AtomicBool::new(false);

/// One act that blocks its thread.
#[derive(Serialize, Deserialize)]
struct Blocking;

impl Workflow for Blocking {
    const NAME: &'static str = "commit.blocking";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let act = cx.blocking("act", || {
            BLOCKS.store(true, SeqCst);
            while !MAY_END.load(SeqCst) {
                std::thread::sleep(millis(2));
            }
            Ok::<_, AppError>(7)
        });
        Ok(act.await?)
    }
}

#[test]
fn behind_an_io_error_the_store_is_told_of_blocking_code_that_goes_on() {
    system(async {
        let broken = Arc::new(AtomicBool::new(false));
        let faults = Faults::new(move |_| {
            BLOCKS.load(SeqCst).then(|| !broken.swap(true, SeqCst)).and_then(|now| now.then_some((0, How::Io)))
        });
        let (memory, of_store) = (MemoryStore::new(), faults.clone());
        let open = move |_| {
            let (memory, faults) = (memory.clone(), of_store.clone());
            async move { Ok(Box::new(Faulty { inner: Box::new(memory), faults }) as Box<dyn Store>) }
        };
        let stent = Stent::open("memory:").store(open).workflow::<Blocking>().lease(secs(1)).spawn().await.unwrap();
        let handle = stent.dispatch(Dispatch::new(Blocking).id("x")).await.unwrap();
        eventually("it is told", secs(20), async || faults.kept.lock().len() == 1).await;
        MAY_END.store(true, SeqCst);
        assert_eq!(handle.result().await.unwrap(), 7);
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn an_inline_activity_whose_intent_is_recorded_as_its_node_leaves_is_begun_by_the_next() {
    system(async {
        let leaves = Arc::new(AtomicBool::new(false));
        let (leaving, mut more) = (leaves.clone(), 0);
        let mut faults = Faults::new(move |batch| {
            // Two tries behind the word of the node, the engine has heard it as well.
            more += u32::from(leaving.load(SeqCst));
            turns(batch).next().filter(|_| more < 3).map(|(index, _)| (index, How::Full))
        });
        faults.leaves = leaves;
        let memory = MemoryStore::new();
        let (of_store, fired) = (memory.clone(), faults.fired.clone());
        let open = move |_| {
            let (memory, faults) = (of_store.clone(), faults.clone());
            async move { Ok(Box::new(Faulty { inner: Box::new(memory), faults }) as Box<dyn Store>) }
        };
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let act = async move |call: Call<Slow>| {
            counted.fetch_add(1, SeqCst);
            Ok(u64::from(call.attempt()))
        };
        let stent = Stent::open("memory:").store(open).workflow::<Single>().inline(act.clone()).spawn().await.unwrap();
        let leave = async {
            eventually("the commit is under way", secs(10), async || !fired.lock().is_empty()).await;
            stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
        };
        let (dispatched, ()) = futures::join!(stent.dispatch(Dispatch::new(Single).id("x")), leave);
        dispatched.unwrap();
        assert_eq!(runs.load(SeqCst), 0, "nobody begins anything while the node leaves");
        let next = Stent::open("memory:").memory(memory).workflow::<Single>().inline(act).spawn().await.unwrap();
        let handle = next.handle::<Single>("x").await.unwrap().unwrap();
        assert_eq!((handle.result().await.unwrap(), runs.load(SeqCst)), (1, 1));
        next.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

/// Counts what runs at once.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn one_more(running: &Arc<AtomicU32>, most: &AtomicU32) -> Counted {
        most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
        Counted(running.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn a_schedule_whose_commit_has_to_wait_keeps_no_other_waiting() {
    system(async {
        let held = Arc::new(AtomicBool::new(true));
        let is_held = held.clone();
        // Somebody has a run of `stuck` in a transaction: it can be made, and not fired.
        let faults = Faults::new(move |batch| {
            let is_stuck =
                |item: &Item| matches!(item, Item::Schedule(change) if change.name == "stuck" && !change.starts.is_empty());
            batch.items.iter().position(is_stuck).filter(|_| is_held.load(SeqCst)).map(|place| (place, How::Waits))
        });
        let bench = bench(&faults, false).await;
        let started = async |name: &str| {
            let told = bench.stent.describe_schedule(DescribeSchedule::new(name)).await.unwrap();
            told.unwrap().counts.started
        };
        for name in ["stuck", "free"] {
            let schedule = Schedule::new(name, Once { number: 1 }).every(secs(1)).overlap(Overlap::AllowAll);
            bench.stent.create_schedule(schedule).await.unwrap();
        }
        eventually("the other one fires again and again", secs(30), async || started("free").await >= 3).await;
        assert_eq!(started("stuck").await, 0);
        assert!(faults.fired.lock().contains(&How::Waits), "it was tried");
        held.store(false, SeqCst);
        eventually("it fires once it may, and late what it could not", secs(30), async || started("stuck").await >= 3).await;
        bench.stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
    });
}
