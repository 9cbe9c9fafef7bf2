//! Schedules, seen from an application: an instant fires once, on every store, on however many nodes, over kills and over clocks that
//! jump.
//!
//! The wall clock of embedded stores is moved by hand, so the instants of a test come when it says so; on a server they come by the
//! server's clock, a second apart.

#![cfg(feature = "sqlite")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use stent::{
    Builder, Error, ScheduleDescription, ScheduleError, Stent, Why,
    clock::{Clock, ShiftedClock, SystemClock},
    kernel::{
        id::{BuildId, Incarnation},
        time::Timestamp,
    },
    prelude::*,
    store::{Batch, Item, NewNode, Outcome, ScheduleChange, Status, Store, Summary, memory::MemoryStore},
};
use support::{Home, eventually, system};

mod support;

/// What a schedule begins: ends at once, or when it is told to.
#[derive(Serialize, Deserialize, Clone)]
struct Report {
    waits: bool,
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "schedules.go";
}

impl Workflow for Report {
    const NAME: &'static str = "schedules.report";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        if self.waits {
            cx.signal::<Go>().await?;
        }
        Ok(())
    }
}

/// Fails in its first two runs, and then ends when it is told to.
#[derive(Serialize, Deserialize, Clone)]
struct Flaky;

impl Workflow for Flaky {
    const NAME: &'static str = "schedules.flaky";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        if cx.id().run_no < 3 {
            return Err(AppError::new("not yet"));
        }
        cx.signal::<Go>().await?;
        Ok(())
    }
}

const AT_ONCE: Report = Report { waits: false };
const WAITS: Report = Report { waits: true };

fn build(home: &Home) -> Builder {
    home.open().workflow::<Report>().workflow::<Flaky>().workflow::<Planned>().passivate_after(millis(20))
}

async fn start(home: &Home) -> Stent {
    build(home).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

fn limit() -> Duration {
    secs(30)
}

async fn about(stent: &Stent, name: &str) -> ScheduleDescription {
    stent.describe_schedule(DescribeSchedule::new(name)).await.unwrap().unwrap()
}

/// Every run that a schedule has begun, by the instants in their ids.
async fn runs_of(stent: &Stent, name: &str) -> Vec<Summary> {
    let all = stent.list(List::new().limit(1_000)).await.unwrap();
    let mut of: Vec<Summary> = all.into_iter().filter(|run| run.id.id.starts_with(&format!("{name}/"))).collect();
    of.sort_by(|a, b| a.id.cmp(&b.id));
    of
}

async fn begun(stent: &Stent, name: &str, count: u64) {
    eventually(&format!("{name} has begun {count}"), limit(), async || about(stent, name).await.counts.started >= count).await;
}

async fn ended(stent: &Stent, id: &str, status: Status) {
    eventually(&format!("{id} is {status:?}"), limit(), async || {
        stent.describe(id).await.unwrap().is_some_and(|run| run.summary.status == status)
    })
    .await;
}

/// Each of the instants is a whole second, and none is there twice or left out.
fn seconds_in_a_row(runs: &[Summary], name: &str) {
    let instants: Vec<DateTime<Utc>> =
        runs.iter().map(|run| run.id.id.strip_prefix(&format!("{name}/")).unwrap().parse().unwrap()).collect();
    for pair in instants.windows(2) {
        assert_eq!(pair[1] - pair[0], TimeDelta::seconds(1), "{instants:?}");
    }
    assert!(runs.iter().all(|run| run.id.run_no == 1), "{runs:?}");
}

#[test]
fn each_instant_begins_one_run_however_many_nodes_there_are() {
    system(async {
        for home in Home::shared() {
            let nodes = [start(&home).await, start(&home).await, start(&home).await];
            let schedule = Schedule::new("tick", AT_ONCE).every(secs(1)).overlap(Overlap::AllowAll).tag("ticking");
            nodes[0].create_schedule(schedule).await.unwrap();
            begun(&nodes[1], "tick", 4).await;
            for node in &nodes {
                node.pause_schedule(PauseSchedule::new("tick")).await.unwrap();
            }
            let told = about(&nodes[2], "tick").await;
            let runs = runs_of(&nodes[2], "tick").await;
            assert_eq!(runs.len() as u64, told.counts.started, "{told:?}");
            assert_eq!((told.counts.skipped, told.counts.missed, told.counts.in_use), (0, 0, 0));
            seconds_in_a_row(&runs, "tick");
            assert!(runs.iter().all(|run| run.tags == ["ticking"]));
            for run in &runs {
                ended(&nodes[0], &run.id.id, Status::Completed).await;
            }
            for node in nodes {
                stop(node).await;
            }
        }
    });
}

#[test]
fn nodes_that_are_crashed_while_they_fire_leave_no_instant_out_and_fire_none_twice() {
    system(async {
        for home in Home::shared() {
            let first = start(&home).await;
            let schedule = Schedule::new("tick", AT_ONCE).every(secs(1)).overlap(Overlap::AllowAll);
            first.create_schedule(schedule).await.unwrap();
            for lives in 0..4 {
                // Leaves without waiting for anything, whatever it is at.
                let second = start(&home).await;
                begun(&second, "tick", lives + 1).await;
                second.shutdown(Shutdown::within(Duration::ZERO)).await.unwrap();
            }
            first.pause_schedule(PauseSchedule::new("tick")).await.unwrap();
            let runs = runs_of(&first, "tick").await;
            assert_eq!(runs.len() as u64, about(&first, "tick").await.counts.started);
            seconds_in_a_row(&runs, "tick");
            stop(first).await;
        }
    });
}

/// Two processes on one file; in turn one of them is killed with SIGKILL, at whatever it is, and started again.
#[cfg(feature = "failpoints")]
#[test]
fn processes_that_are_killed_while_they_fire_leave_no_instant_out_and_fire_none_twice() {
    use std::process::{Child, Command, Stdio};

    let mut rng = support::Rng::from_env("schedules");
    let folder = tempfile::tempdir().unwrap();
    let (database, side) = (folder.path().join("stent.db"), folder.path().join("side.txt"));
    let life = || -> Child {
        Command::new(env!("CARGO_BIN_EXE_stent-crash-child"))
            .args([database.as_os_str(), side.as_os_str(), "0".as_ref()])
            .env("STENT_SCHEDULE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let up = |times: usize| {
        let begun = std::time::Instant::now();
        while std::fs::read_to_string(&side).unwrap_or_default().matches("scheduled").count() < times {
            assert!(begun.elapsed() < limit(), "no process came up");
            std::thread::sleep(millis(5));
        }
    };
    let mut two = [life(), life()];
    up(2);
    for kill in 0..8 {
        // Around an instant, most likely: that is when there is something to be killed at.
        let now = chrono::Utc::now().timestamp_subsec_micros();
        std::thread::sleep(Duration::from_micros(u64::from(1_000_000 - now % 1_000_000) + rng.between(0, 40_000)));
        let dies = &mut two[kill % 2];
        dies.kill().unwrap();
        dies.wait().unwrap();
        *dies = life();
        up(3 + kill);
    }
    for process in &mut two {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    system(async {
        // Without the workflow: it only looks.
        let stent = Stent::open(&format!("sqlite:{}", database.display())).spawn().await.unwrap();
        stent.pause_schedule(PauseSchedule::new("tick")).await.unwrap();
        let told = about(&stent, "tick").await;
        let runs = runs_of(&stent, "tick").await;
        assert!(runs.len() >= 8, "{told:?}");
        assert_eq!((runs.len() as u64, told.counts.in_use), (told.counts.started, 0), "{told:?}");
        seconds_in_a_row(&runs, "tick");
        stop(stent).await;
    });
}

/// A node whose wall clock is moved by hand.
async fn shifted(home: &Home) -> (Stent, ShiftedClock) {
    let clock = ShiftedClock::default();
    let stent = build(home).clock(Arc::new(clock.clone())).spawn().await.unwrap();
    (stent, clock)
}

fn hours(n: i64) -> i64 {
    n * 3_600_000_000
}

#[test]
fn a_clock_that_jumps_forward_fires_what_it_passed_and_one_that_is_set_back_fires_nothing_again() {
    system(async {
        for home in Home::both() {
            let (stent, clock) = shifted(&home).await;
            let schedule = Schedule::new("hourly", AT_ONCE).cron("0 * * * *", "Europe/Berlin").overlap(Overlap::AllowAll);
            stent.create_schedule(schedule.catch_up(Duration::from_secs(2 * 3600 + 60))).await.unwrap();
            let first = about(&stent, "hourly").await.next[0];
            // Somewhat behind the fifth hour from now: two hours and a minute are caught up with.
            let begin = SystemClock.wall();
            let behind = first.timestamp_micros() - begin.0 + hours(4) + 30_000_000;
            clock.shift(behind);
            begun(&stent, "hourly", 3).await;
            let told = about(&stent, "hourly").await;
            assert_eq!((told.counts.started, told.counts.missed), (3, 2), "{told:?}");
            let instants: Vec<_> = told.recent.iter().map(|run| run.instant).collect();
            assert_eq!(instants, [4, 3, 2].map(|hour| first + TimeDelta::hours(hour)));
            assert!(told.recent.iter().all(|run| run.why == Why::Due && run.at >= run.instant));
            clock.shift(-hours(24));
            // It looks once in five seconds; a trigger makes it look at once.
            for again in 1..=2 {
                stent.trigger_schedule(TriggerSchedule::new("hourly")).await.unwrap();
                assert_eq!(about(&stent, "hourly").await.counts.started, 3 + again);
            }
            stop(stent).await;
            // Nor does the next life, which begins with a clock that is a day behind.
            let (stent, _) = shifted(&home).await;
            assert_eq!(about(&stent, "hourly").await.counts.started, 5);
            assert_eq!(runs_of(&stent, "hourly").await.len(), 5);
            stop(stent).await;
        }
    });
}

/// Says by which plan it was begun.
#[derive(Serialize, Deserialize, Clone)]
struct Planned {
    by: String,
}

impl Workflow for Planned {
    const NAME: &'static str = "schedules.planned";
    type Output = String;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<String, AppError> {
        Ok(self.by)
    }
}

#[test]
fn what_is_due_when_a_schedule_is_updated_begins_as_it_was_before_and_none_is_left_out() {
    system(async {
        for home in Home::both() {
            let (stent, clock) = shifted(&home).await;
            let planned = |by: &str| Schedule::new("tick", Planned { by: by.into() }).overlap(Overlap::AllowAll);
            stent.create_schedule(planned("former").every(secs(1))).await.unwrap();
            clock.shift(300_000_000);
            stent.update_schedule(planned("later").cron("0 0 1 1 *", "UTC")).await.unwrap();
            let runs = runs_of(&stent, "tick").await;
            assert!(runs.len() >= 300, "{}", runs.len());
            assert_eq!(runs.len() as u64, about(&stent, "tick").await.counts.started);
            seconds_in_a_row(&runs, "tick");
            assert!(runs.iter().all(|run| run.input_digest == runs[0].input_digest), "all began with one argument");
            let result = async |id: &str| stent.handle::<Planned>(id).await.unwrap().unwrap().result().await.unwrap();
            assert_eq!(result(&runs[0].id.id).await, "former");
            let asked = id_of(stent.trigger_schedule(TriggerSchedule::new("tick")).await.unwrap());
            assert_eq!(result(&asked).await, "later");
            stop(stent).await;
        }
    });
}

#[test]
fn instants_at_which_no_node_was_up_fire_when_one_is() {
    system(async {
        for home in Home::both() {
            let (stent, _) = shifted(&home).await;
            let hourly = Schedule::new("hourly", AT_ONCE).cron("0 * * * *", "UTC").overlap(Overlap::AllowAll);
            stent.create_schedule(hourly).await.unwrap();
            let first = about(&stent, "hourly").await.next[0];
            stop(stent).await;
            let clock = ShiftedClock::default();
            clock.shift(first.timestamp_micros() - SystemClock.wall().0 + hours(1) + 1_000_000);
            let stent = build(&home).clock(Arc::new(clock)).spawn().await.unwrap();
            begun(&stent, "hourly", 2).await;
            let ids: Vec<String> = runs_of(&stent, "hourly").await.into_iter().map(|run| run.id.id).collect();
            let wanted = [first, first + TimeDelta::hours(1)].map(|at| format!("hourly/{}", at.format("%Y-%m-%dT%H:%M:%SZ")));
            assert_eq!(ids, wanted);
            stop(stent).await;
        }
    });
}

/// A schedule that fires only when it is asked to, for now.
fn yearly(report: Report) -> Schedule {
    Schedule::new("yearly", report).cron("0 0 1 1 *", "UTC")
}

async fn trigger(stent: &Stent, overlap: Overlap) -> Triggered {
    stent.trigger_schedule(TriggerSchedule::new("yearly").overlap(overlap)).await.unwrap()
}

fn id_of(triggered: Triggered) -> String {
    match triggered {
        Triggered::Started(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_policies_do_with_the_run_before_what_they_say() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            stent.create_schedule(yearly(WAITS)).await.unwrap();
            let first = id_of(trigger(&stent, Overlap::Skip).await);
            assert_eq!(trigger(&stent, Overlap::Skip).await, Triggered::Skipped);
            let beside = id_of(trigger(&stent, Overlap::AllowAll).await);
            assert_eq!(trigger(&stent, Overlap::BufferOne).await, Triggered::Waits);
            assert_eq!(trigger(&stent, Overlap::BufferOne).await, Triggered::Skipped);
            assert_eq!(about(&stent, "yearly").await.waiting, 1);
            // The one that was begun last is the one that is waited for.
            stent.signal(SendSignal::new(&*beside, &Go)).await.unwrap();
            begun(&stent, "yearly", 3).await;
            let third = about(&stent, "yearly").await.recent[0].id.clone();
            assert_eq!(trigger(&stent, Overlap::CancelOther).await, Triggered::Waits);
            ended(&stent, &third, Status::Cancelled).await;
            begun(&stent, "yearly", 4).await;
            ended(&stent, &first, Status::Active).await;
            let told = about(&stent, "yearly").await;
            assert_eq!((told.counts.started, told.counts.skipped, told.waiting), (4, 2, 0), "{told:?}");
            stop(stent).await;
        }
    });
}

#[test]
fn what_a_schedule_begins_is_tried_again_if_asked_for_and_has_not_ended_before_its_last_try() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let again = Retry::fixed(Duration::from_millis(10)).attempts(3);
            stent.create_schedule(Schedule::new("yearly", Flaky).cron("0 0 1 1 *", "UTC").retry(again)).await.unwrap();
            let first = id_of(trigger(&stent, Overlap::Skip).await);
            eventually("its third run is there", limit(), async || {
                stent.describe(&*first).await.unwrap().unwrap().summary.id.run_no == 3
            })
            .await;
            assert_eq!(trigger(&stent, Overlap::Skip).await, Triggered::Skipped);
            stent.signal(SendSignal::new(&*first, &Go)).await.unwrap();
            stent.handle::<Flaky>(&*first).await.unwrap().unwrap().result().await.unwrap();
            id_of(trigger(&stent, Overlap::Skip).await);
            stop(stent).await;
        }
    });
}

#[test]
fn a_pause_lasts_over_a_restart_and_says_who_paused_and_why() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let tick = Schedule::new("tick", AT_ONCE).every(secs(1)).overlap(Overlap::AllowAll);
            stent.create_schedule(tick).await.unwrap();
            begun(&stent, "tick", 1).await;
            stent.pause_schedule(PauseSchedule::new("tick").by("ada").reason("the printer burns")).await.unwrap();
            let at_pause = about(&stent, "tick").await.counts.started;
            stop(stent).await;
            let stent = start(&home).await;
            let told = about(&stent, "tick").await;
            let pause = told.paused.unwrap();
            assert_eq!((pause.by.as_str(), pause.reason.as_str()), ("ada", "the printer burns"));
            assert_eq!(told.next.len(), 5, "when it would fire");
            let asked = stent.trigger_schedule(TriggerSchedule::new("tick")).await.unwrap();
            ended(&stent, &id_of(asked), Status::Completed).await;
            assert_eq!(about(&stent, "tick").await.counts.started, at_pause + 1, "only what was asked for");
            stent.unpause_schedule("tick").await.unwrap();
            begun(&stent, "tick", at_pause + 3).await;
            stent.delete_schedule("tick").await.unwrap();
            stop(stent).await;
        }
    });
}

#[test]
fn a_backfill_fills_a_range_of_the_past_one_run_behind_the_other() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let daily = Schedule::new("daily", AT_ONCE).cron("0 3 * * *", "Europe/Berlin");
            stent.create_schedule(daily).await.unwrap();
            let [from, to] = ["2026-03-27T02:00:00Z", "2026-03-30T01:00:00Z"].map(|at| at.parse().unwrap());
            // Somebody has an execution of one of the ids.
            stent.dispatch(Dispatch::new(AT_ONCE).id("daily/2026-03-28T02:00:00Z")).await.unwrap();
            let asked = stent.backfill_schedule(BackfillSchedule::new("daily", from, to)).await.unwrap();
            assert_eq!(asked, 4);
            begun(&stent, "daily", 3).await;
            let told = about(&stent, "daily").await;
            assert_eq!((told.counts.started, told.counts.in_use), (3, 1));
            let runs = runs_of(&stent, "daily").await;
            let ids: Vec<&str> = runs.iter().map(|run| &*run.id.id).collect();
            let wanted = ["27T02", "28T02", "29T01", "30T01"].map(|at| format!("daily/2026-03-{at}:00:00Z"));
            assert_eq!(ids, wanted, "two and three o'clock in summer are one instant earlier");
            // Each began behind the end of the one before.
            let own: Vec<&Summary> = runs.iter().filter(|run| !run.id.id.contains("28T02")).collect();
            for pair in own.windows(2) {
                assert!(pair[0].ended_at.unwrap() <= pair[1].created_at, "{pair:?}");
            }
            // All are there: again it leaves all out.
            stent.backfill_schedule(BackfillSchedule::new("daily", from, to).at_once()).await.unwrap();
            assert_eq!(about(&stent, "daily").await.counts.in_use, 5);
            stop(stent).await;
        }
    });
}

#[test]
fn schedules_are_made_listed_changed_and_deleted_and_what_is_wrong_is_said_by_name() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            for name in ["c", "a", "b"] {
                stent.create_schedule(Schedule::new(name, AT_ONCE).cron("@daily", "Europe/Berlin")).await.unwrap();
            }
            stent.create_schedule(Schedule::new("a", AT_ONCE).cron("@daily", "Europe/Berlin")).await.expect("the same again");
            let other = Schedule::new("a", WAITS).cron("@daily", "Europe/Berlin");
            let exists = stent.create_schedule(other.clone()).await.unwrap_err();
            assert!(matches!(exists, Error::Schedule(ScheduleError::Exists(name)) if name == "a"));
            stent.update_schedule(other.every(secs(3600))).await.unwrap();
            let told = about(&stent, "a").await;
            assert_eq!((told.specs.len(), told.generation, told.next.len()), (2, 1, 5));
            stent.delete_schedule("b").await.unwrap();
            let names = |all: Vec<ScheduleDescription>| all.into_iter().map(|one| one.name).collect::<Vec<_>>();
            assert_eq!(names(stent.schedules(ListSchedules::new()).await.unwrap()), ["a", "c"]);
            assert_eq!(names(stent.schedules(ListSchedules::new().after("a")).await.unwrap()), ["c"]);
            assert!(stent.describe_schedule(DescribeSchedule::new("b")).await.unwrap().is_none());
            let unknown = stent.trigger_schedule(TriggerSchedule::new("b")).await.unwrap_err();
            assert!(matches!(unknown, Error::Schedule(ScheduleError::Unknown(name)) if name == "b"));
            let bad = stent.create_schedule(Schedule::new("d", AT_ONCE).cron("0 25 * * *", "UTC")).await.unwrap_err();
            assert!(bad.to_string().contains("hours"), "{bad}");
            // The name again is another schedule, with ids of its own.
            stent.create_schedule(Schedule::new("b", AT_ONCE).every(secs(3600))).await.unwrap();
            let id = id_of(stent.trigger_schedule(TriggerSchedule::new("b")).await.unwrap());
            assert!(id.starts_with("b#2/"), "{id}");
            stop(stent).await;
        }
    });
}

/// Nobody has registered it.
#[derive(Serialize, Deserialize)]
struct Unheard;

impl Workflow for Unheard {
    const NAME: &'static str = "schedules.unheard";
    type Output = ();
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<(), AppError> {
        Ok(())
    }
}

#[test]
fn a_run_whose_workflow_nobody_has_is_begun_and_waits_by_name_for_one_who_has() {
    system(async {
        for home in Home::both() {
            let stent = start(&home).await;
            stent.create_schedule(Schedule::new("unheard", Unheard).cron("@yearly", "UTC")).await.unwrap();
            let id = id_of(stent.trigger_schedule(TriggerSchedule::new("unheard")).await.unwrap());
            let told = stent.describe(&*id).await.unwrap().unwrap();
            assert!(told.moved_by.contains("schedules.unheard"), "{}", told.moved_by);
            stop(stent).await;
            let stent = build(&home).workflow::<Unheard>().spawn().await.unwrap();
            ended(&stent, &id, Status::Completed).await;
            stop(stent).await;
        }
    });
}

#[test]
fn many_schedules_of_one_instant_all_fire_and_jitter_spreads_them() {
    system(async {
        let home = Home::Memory(MemoryStore::new());
        let (stent, clock) = shifted(&home).await;
        for n in 0..300 {
            let spread = if n < 50 { secs(600) } else { Duration::ZERO };
            let schedule = Schedule::new(format!("s{n}"), AT_ONCE).cron("0 * * * *", "UTC").jitter(spread);
            stent.create_schedule(schedule).await.unwrap();
        }
        let first = about(&stent, "s0").await.next[0];
        clock.shift(first.timestamp_micros() - SystemClock.wall().0 + 1_000_000);
        let count = AtomicU32::new(0);
        eventually("all without jitter have fired", limit(), async || {
            let all = stent.list(List::new().limit(1_000)).await.unwrap();
            count.store(u32::try_from(all.len()).unwrap(), SeqCst);
            all.len() >= 250
        })
        .await;
        assert!(count.load(SeqCst) < 260, "those with jitter are not due yet, or few");
        clock.shift(first.timestamp_micros() - SystemClock.wall().0 + 601_000_000);
        eventually("all have fired", limit(), async || stent.list(List::new().limit(1_000)).await.unwrap().len() == 300).await;
        let all = stent.list(List::new().limit(1_000)).await.unwrap();
        let mut times: HashMap<String, u32> = HashMap::new();
        all.iter().for_each(|run| *times.entry(run.id.id.clone()).or_default() += 1);
        assert!(times.values().all(|count| *count == 1));
        stop(stent).await;
    });
}

/// As a release that is not this one might leave them: due since long ago, and nothing that can be read.
async fn leave_broken(store: &mut MemoryStore, count: u32) {
    let incarnation = Incarnation(uuid::Uuid::from_u128(1));
    let lease = secs(10);
    let label = "former".to_owned();
    let node = NewNode { incarnation, build: BuildId(1), label, lease, can: 0, now: Timestamp(1) };
    store.register(&node).await.unwrap();
    let broken = |number: u32| {
        let (name, body) = (format!("broken {number}"), bytes::Bytes::from_static(b"?"));
        let (next_at, awaits, starts, tells) = (Some(Timestamp(1)), None, Vec::new(), Vec::new());
        Item::Schedule(Box::new(ScheduleChange { name, seen: 0, next_at, awaits, body, starts, tells }))
    };
    let items = (0..count).map(broken).collect();
    let answer = store.commit(&Batch { incarnation, now: Timestamp(1), renew: false, items, claim: None }).await.unwrap();
    assert!(answer.outcomes.iter().all(|outcome| *outcome == Outcome::Done));
}

#[test]
fn schedules_that_cannot_be_read_keep_no_other_off_the_list_however_many_they_are() {
    system(async {
        let mut store = MemoryStore::new();
        leave_broken(&mut store, 250).await;
        let stent = start(&Home::Memory(store)).await;
        for name in ["a", "c"] {
            stent.create_schedule(Schedule::new(name, AT_ONCE).cron("@daily", "UTC")).await.unwrap();
        }
        let all = stent.schedules(ListSchedules::new()).await.unwrap();
        assert_eq!(all.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["a", "c"]);
        let broken = stent.describe_schedule(DescribeSchedule::new("broken 0")).await.unwrap_err();
        assert!(
            matches!(&broken, Error::Schedule(ScheduleError::Unavailable(why)) if why.contains("does not decode")),
            "{broken}"
        );
        stop(stent).await;
    });
}

#[test]
fn schedules_that_cannot_be_fired_keep_no_other_waiting_however_many_they_are() {
    system(async {
        let mut store = MemoryStore::new();
        leave_broken(&mut store, 600).await;
        let stent = start(&Home::Memory(store)).await;
        stent.create_schedule(Schedule::new("sound", AT_ONCE).every(secs(1))).await.unwrap();
        begun(&stent, "sound", 3).await;
        seconds_in_a_row(&runs_of(&stent, "sound").await, "sound");
        stop(stent).await;
    });
}
