//! The story: the engine itself has a bug. An actor of its own panics at each named point in turn, with hundreds of
//! executions under way. The core is stopped and started anew, or the one execution is replayed alone; work goes on,
//! nothing is lost, nothing stays owned and unheld. When it happens too often the runtime says so once and for all, and
//! the next runtime on the same store finishes everything.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stent::{
    Error, ScheduleError,
    failpoints::{self, Action},
    prelude::*,
};
use support::{Home, Rng, alone, eventually, unended};

mod support;

#[derive(Serialize, Deserialize)]
struct Job {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Work {
    number: u64,
}

impl Activity for Work {
    const NAME: &'static str = "supervision.work";
    type Output = u64;
    type Error = AppError;
}

impl Workflow for Job {
    const NAME: &'static str = "supervision.job";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let first = cx.call(Work { number: self.number }).await?;
        let inline = cx.step("inline", async || Ok::<_, AppError>(1_u64)).await?;
        // Some of these waits stay in memory, the others are slept through in the store.
        cx.sleep(millis(self.number % 40)).await?;
        let once = match cx.call(Work { number: self.number }).at_most_once().await {
            Ok(number) => number.to_string(),
            Err(CallError::MaybeDone(_)) => "maybe".to_owned(),
            Err(other) => return Err(other.into()),
        };
        let blocking = cx.blocking("blocking", || Ok::<_, AppError>(2_u64)).await?;
        Ok(format!("{first} {inline} {once} {blocking}"))
    }
}

/// How often each attempt was started.
type Starts = Arc<Mutex<HashMap<(String, u32), u32>>>;

const LEASE: Duration = secs(2);

async fn open(home: &Home, starts: &Starts) -> Stent {
    let starts = starts.clone();
    home.open()
        .workflow::<Job>()
        .activity(async move |call: Call<Work>| {
            *starts.lock().entry((call.key(), call.attempt())).or_default() += 1;
            tokio::time::sleep(millis(2)).await;
            Ok(call.number)
        })
        .passivate_after(millis(20))
        .look_ahead(millis(5))
        .lease(LEASE)
        .spawn()
        .await
        .unwrap()
}

async fn dispatch_all(stent: &Stent, jobs: std::ops::Range<u64>) -> Vec<(u64, Handle<Job>)> {
    let all = jobs.map(|number| async move {
        let dispatch = Dispatch::new(Job { number }).id(format!("job-{number}"));
        let dispatched = tokio::time::timeout(secs(20), stent.dispatch(dispatch)).await;
        (number, dispatched.unwrap_or_else(|_| panic!("the dispatch of {number} was never answered")).unwrap())
    });
    futures::future::join_all(all).await
}

/// Waits for all ends and compares them with those of an undisturbed run. Returns how many heard "maybe done".
async fn finish(stent: &Stent, handles: &[(u64, Handle<Job>)], starts: &Starts) -> usize {
    let mut maybe = 0;
    for (number, handle) in handles {
        let Ok(output) = tokio::time::timeout(secs(20), handle.result()).await else {
            panic!("{number} has no end: {:#?}", stent.describe(handle.id()).await);
        };
        let output = output.unwrap();
        maybe += usize::from(output == format!("{number} 1 maybe 2"));
        assert!(output == format!("{number} 1 {number} 2") || output == format!("{number} 1 maybe 2"), "{number}: {output}");
    }
    for ((key, attempt), count) in &*starts.lock() {
        assert_eq!(*count, 1, "attempt {attempt} of {key} was started {count} times");
    }
    let left = unended(stent).await;
    assert!(left.is_empty(), "{left:?}");
    maybe
}

/// Nothing of this store is owned; returns how many lives of a core it has seen.
async fn lives_of(home: &Home) -> usize {
    let snapshot = match home {
        Home::Memory(store) => stent::store::Store::reader(store).snapshot().await.unwrap(),
        #[cfg(feature = "postgres")]
        Home::Postgres(database) => {
            use stent::store::postgres::{PostgresOptions, PostgresStore};
            let mut store = PostgresStore::open(&database.url(), PostgresOptions::default()).await.unwrap();
            let lines = stent::store::Store::reader(&store).snapshot().await.unwrap();
            stent::store::Store::close(&mut store).await.unwrap();
            lines
        }
        Home::Sqlite(_) => {
            use stent::store::{Store, sqlite::SqliteStore};
            let mut store = SqliteStore::open(&home.file(), stent::store::sqlite::SqliteOptions::default()).await.unwrap();
            let snapshot = store.reader().snapshot().await.unwrap();
            store.close().await.unwrap();
            snapshot
        }
    };
    assert!(!snapshot.iter().any(|line| line.contains("owner=Some")), "something is owned by nobody: {snapshot:#?}");
    snapshot.iter().filter(|line| line.starts_with("node ")).count()
}

#[test]
fn a_panic_at_any_point_under_load_loses_nothing_and_leaves_nothing_owned_and_unheld() {
    alone(async {
        let mut rng = Rng::from_env("a panic at any point");
        // A panic while the core is started anew is the Supervisor's own, which is the last escalation: see below.
        for name in failpoints::ALL.iter().filter(|name| **name != "supervisor.before_start") {
            for home in Home::all() {
                let starts = Starts::default();
                let stent = open(&home, &starts).await;
                let mut handles = dispatch_all(&stent, 0..60).await;
                failpoints::set(name, Action::Panic, u32::try_from(rng.between(1, 4)).unwrap());
                handles.extend(dispatch_all(&stent, 60..160).await);
                let maybe = finish(&stent, &handles, &starts).await;
                stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
                let lives = lives_of(&home).await;
                failpoints::clear();
                if name.starts_with("execution.") {
                    assert_eq!(
                        (lives, maybe),
                        (1, 0),
                        "{name}: an execution that dies is replayed alone, and it knows what it did"
                    );
                }
            }
        }
    });
}

/// Who dies then tells a Supervisor that does not know the core yet, and tells it once. On a server the lease is renewed as soon as there is
/// a keeper; in an embedded store the first renewal comes when everybody is there.
#[test]
fn what_dies_while_the_core_is_still_being_started_is_noticed_and_the_core_is_started_anew() {
    alone(async {
        for home in Home::all().into_iter().filter(|home| !matches!(home, Home::Memory(_) | Home::Sqlite(_))) {
            failpoints::set("lease_keeper.before_renew", Action::Panic, 1);
            let starts = Starts::default();
            let stent = open(&home, &starts).await;
            // Without a keeper nothing would be begun any more once the first lease is over.
            let (begun, mut number) = (std::time::Instant::now(), 0);
            while begun.elapsed() < 2 * LEASE {
                let handles = dispatch_all(&stent, number..number + 1).await;
                finish(&stent, &handles, &starts).await;
                number += 1;
            }
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            failpoints::clear();
        }
    });
}

#[test]
fn a_panic_in_what_is_decided_about_a_schedule_takes_nothing_down_and_is_told() {
    alone(async {
        for home in Home::all() {
            let stent = open(&home, &Starts::default()).await;
            stent.create_schedule(Schedule::new("yearly", Job { number: 0 }).cron("@yearly", "UTC")).await.unwrap();
            failpoints::set("timekeeper.decides", Action::Panic, 1);
            let asked = stent.trigger_schedule(TriggerSchedule::new("yearly")).await.unwrap_err();
            assert!(
                matches!(&asked, Error::Schedule(ScheduleError::Unavailable(why)) if why.contains("timekeeper.decides")),
                "{asked}"
            );
            let tick = Schedule::new("tick", Job { number: 0 }).every(secs(1)).overlap(Overlap::AllowAll);
            stent.create_schedule(tick).await.unwrap();
            failpoints::set("timekeeper.decides", Action::Panic, 1);
            eventually("it fires again and again, also what it panicked at", secs(20), async || {
                let told = stent.describe_schedule(DescribeSchedule::new("tick")).await.unwrap().unwrap();
                told.counts.started >= 3
            })
            .await;
            let told = stent.describe_schedule(DescribeSchedule::new("tick")).await.unwrap().unwrap();
            for pair in told.recent.windows(2) {
                assert_eq!((pair[0].instant - pair[1].instant).num_seconds(), 1, "{told:?}");
            }
            stent.delete_schedule("tick").await.unwrap();
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            assert_eq!(lives_of(&home).await, 1, "no life of the core has ended");
            failpoints::clear();
        }
    });
}

/// The core dies when the row of a gate is written and nobody has heard of it.
#[test]
fn a_dispatch_whose_answer_is_lost_with_the_core_is_found_again_at_its_gate_and_begins_once() {
    alone(async {
        for home in Home::all() {
            let stent = open(&home, &Starts::default()).await;
            let job = || Dispatch::new(Job { number: 0 });
            let gated: [&dyn Fn() -> stent::Gated<Job>; 3] =
                [&|| job().debounce("k", millis(1)), &|| job().throttle("k", 1, hours(1)), &|| job().dedupe("k", millis(1))];
            for (count, gated) in gated.into_iter().enumerate() {
                failpoints::set("gate.written", Action::Panic, 1);
                let admitted = stent.admit(gated()).await.unwrap();
                admitted.handle.result().await.unwrap();
                assert_eq!(stent.list(List::new()).await.unwrap().len(), count + 1);
            }
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            lives_of(&home).await;
        }
    });
}

#[test]
fn two_thousand_executions_outlive_several_deaths_of_the_core() {
    alone(async {
        let home = Home::sqlite();
        let starts = Starts::default();
        let stent = open(&home, &starts).await;
        let dying = stent.clone();
        let handles = futures::future::join(dispatch_all(&stent, 0..2_000), async {
            for name in ["persistence.after_commit", "executor.before_deal", "scheduler.before_claim", "executor.before_flush"] {
                failpoints::set(name, Action::Panic, 5);
                tokio::time::sleep(millis(300)).await;
                assert!(dying.list(List::new()).await.is_ok(), "the door is open again");
            }
        });
        let (handles, ()) = handles.await;
        finish(&stent, &handles, &starts).await;
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        lives_of(&home).await;
    });
}

#[test]
fn too_many_deaths_escalate_once_and_for_all_and_the_next_runtime_finishes_everything() {
    alone(async {
        for home in Home::all() {
            let starts = Starts::default();
            let stent = open(&home, &starts).await;
            let handles = dispatch_all(&stent, 0..200).await;
            let over = Arc::new(AtomicBool::new(false));
            let (still, poker) = (over.clone(), stent.clone());
            let poke = tokio::task::spawn_local(async move {
                while !still.load(SeqCst) {
                    failpoints::set("persistence.before_commit", Action::Panic, 1);
                    let _ = poker.signal(SendSignal::new("nobody", &Nudge)).await;
                    tokio::time::sleep(millis(5)).await;
                }
            });
            let joined = stent.join().await;
            over.store(true, SeqCst);
            poke.await.unwrap();
            failpoints::clear();
            assert!(matches!(&joined, Err(Error::Escalated { restarts: 6, .. })), "{joined:?}");
            let escalated = |answer: Result<(), Error>| assert!(matches!(&answer, Err(Error::Escalated { .. })), "{answer:?}");
            escalated(stent.dispatch(Dispatch::new(Job { number: 1 })).await.map(drop));
            escalated(stent.describe("job-1").await.map(drop));
            escalated(stent.list(List::new()).await.map(drop));
            escalated(stent.cancel(Cancel::new("job-1")).await);
            escalated(stent.join().await);
            for (_, handle) in handles {
                if let Err(error) = handle.result().await {
                    assert!(matches!(error, RunError::Unavailable(Error::Escalated { .. })), "{error}");
                }
            }
            let stent = open(&home, &starts).await;
            let handles = dispatch_all(&stent, 0..200).await;
            finish(&stent, &handles, &starts).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            lives_of(&home).await;
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Nudge;

impl Signal for Nudge {
    const NAME: &'static str = "supervision.nudge";
}

#[test]
fn a_supervisor_that_panics_is_the_last_escalation_and_leaves_the_store_to_the_next_runtime() {
    alone(async {
        for home in Home::all() {
            let starts = Starts::default();
            let stent = open(&home, &starts).await;
            let handles = dispatch_all(&stent, 0..50).await;
            failpoints::set("supervisor.before_start", Action::Panic, 1);
            failpoints::set("executor.before_deal", Action::Panic, 1);
            let _ = stent.signal(SendSignal::new("job-1", &Nudge)).await;
            let joined = stent.join().await;
            assert!(matches!(&joined, Err(Error::Escalated { actor, .. }) if actor == "Supervisor"), "{joined:?}");
            drop(handles);
            let stent = open(&home, &starts).await;
            let handles = dispatch_all(&stent, 0..50).await;
            finish(&stent, &handles, &starts).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            lives_of(&home).await;
        }
    });
}

#[test]
fn a_shutdown_while_the_core_is_mended_leaves_the_store_to_the_next_runtime() {
    alone(async {
        let home = Home::sqlite();
        let starts = Starts::default();
        for wait in [0, 1, 5, 20, 50, 60, 70, 100] {
            let stent = open(&home, &starts).await;
            let handles = dispatch_all(&stent, 0..20).await;
            drop(handles);
            failpoints::set("persistence.before_commit", Action::Panic, 1);
            let nudged = stent.clone();
            tokio::task::spawn_local(async move { nudged.signal(SendSignal::new("nobody", &Nudge)).await });
            tokio::time::sleep(millis(wait)).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            failpoints::clear();
        }
        let stent = open(&home, &starts).await;
        let handles = dispatch_all(&stent, 0..20).await;
        finish(&stent, &handles, &starts).await;
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn a_shutdown_keeps_its_word_to_running_acts_whoever_else_asks_for_one_and_join_waits_for_its_end() {
    alone(async {
        for home in Home::all() {
            let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (begins, ends) = (begun.clone(), ended.clone());
            let act = async move |_: Call<Stubborn>| {
                begins.store(true, SeqCst);
                tokio::time::sleep(millis(500)).await;
                ends.store(true, SeqCst);
                Ok(3)
            };
            let stent = home.open().workflow::<Holds>().activity(act).spawn().await.unwrap();
            stent.dispatch(Dispatch::new(Holds).id("x")).await.unwrap();
            eventually("the act runs", secs(10), async || begun.load(SeqCst)).await;
            let over = |what: &str| assert!(ended.load(SeqCst), "{what} while the act ran");
            let first = async { stent.shutdown(Shutdown::within(secs(20))).await.map(|()| over("the first was answered")) };
            let second = async { stent.shutdown(Shutdown::within(secs(0))).await.map(|()| over("the second was answered")) };
            let joined = async { stent.join().await.map(|()| over("it was joined")) };
            let (first, second, joined) = futures::join!(first, second, joined);
            assert!(first.is_ok() && second.is_ok() && joined.is_ok(), "{first:?}, {second:?}, {joined:?}");
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Stubborn;

impl Activity for Stubborn {
    const NAME: &'static str = "supervision.stubborn";
    type Output = u32;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Holds;

impl Workflow for Holds {
    const NAME: &'static str = "supervision.holds";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        Ok(cx.call(Stubborn).await?)
    }
}

#[test]
fn an_act_that_outlives_its_core_is_not_started_again_beside_itself_while_all_others_go_on() {
    alone(async {
        for home in Home::all() {
            let (running, most, go_on) =
                (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
            let (now, seen, released) = (running.clone(), most.clone(), go_on.clone());
            let stent = home
                .open()
                .workflow::<Job>()
                .workflow::<Holds>()
                .activity(async |call: Call<Work>| Ok(call.number))
                .activity(async move |call: Call<Stubborn>| {
                    seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    while !released.load(SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    now.fetch_sub(1, SeqCst);
                    Ok(call.attempt())
                })
                .spawn()
                .await
                .unwrap();
            let held = stent.dispatch(Dispatch::new(Holds)).await.unwrap();
            eventually("the act runs", secs(10), async || running.load(SeqCst) == 1).await;
            failpoints::set("executor.before_deal", Action::Panic, 1);
            // The core is back when this has ended; the stubborn act is still under way.
            let other = stent.dispatch(Dispatch::new(Job { number: 7 })).await.unwrap();
            assert_eq!(other.result().await.unwrap(), "7 1 7 2");
            tokio::time::sleep(millis(300)).await;
            assert_eq!((running.load(SeqCst), most.load(SeqCst)), (1, 1), "started beside itself");
            go_on.store(true, SeqCst);
            assert_eq!(held.result().await.unwrap(), 2);
            assert_eq!(most.load(SeqCst), 1);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
