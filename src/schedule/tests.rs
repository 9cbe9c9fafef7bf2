//! When schedules fire, and what is decided about their rows, as values.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    decide::{Decided, Known, Order, decide, guarded},
    plan::{Overlap, Schedule},
    state::{Body, Row, Triggered, Why},
};
use crate::{
    AppError, Cx, Workflow,
    error::ScheduleError,
    kernel::{
        event::{CURRENT_RUN, Tell},
        id::{RunId, RunKey},
        time::Timestamp,
    },
};

mod times;

#[derive(Serialize, Deserialize, Clone)]
struct Report {
    of: u32,
}

impl Workflow for Report {
    const NAME: &'static str = "schedule.report";
    type Output = ();
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<(), AppError> {
        Ok(())
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn stamp(text: &str) -> Timestamp {
    Timestamp(at(text).timestamp_micros())
}

fn report() -> Schedule {
    Schedule::new("report", Report { of: 1 })
}

#[test]
fn a_decision_that_panics_is_an_error() {
    let caught = guarded("report", || -> Result<(), _> { panic!("no such century") }).unwrap_err();
    assert!(matches!(&caught, ScheduleError::Unavailable(why) if why.contains("no such century")), "{caught}");
}

/// A schedule over time: its row, what was begun, and what of that has ended.
struct World {
    row: Option<Row>,
    now: Timestamp,
    runs: Vec<(RunId, RunKey, bool)>,
    in_use: HashSet<String>,
    cancelled: Vec<String>,
    told: Vec<Tell>,
}

impl World {
    fn at(now: &str) -> World {
        World { row: None, now: stamp(now), runs: Vec::new(), in_use: HashSet::new(), cancelled: Vec::new(), told: Vec::new() }
    }

    fn with(schedule: Schedule, now: &str) -> World {
        let mut world = World::at(now);
        world.order(Order::Create(Box::new(schedule))).unwrap();
        world
    }

    fn order(&mut self, order: Order) -> Result<Decided, ScheduleError> {
        let last = match &self.row {
            Some(Row::Here(body)) => body.last.as_ref().map(|(_, last)| last.id.clone()),
            _ => None,
        };
        let last = last.and_then(|last| self.runs.iter().find(|(id, ..)| id.id == last).cloned());
        let known = Known { name: "report", now: self.now, last, in_use: &self.in_use };
        let mut decided = decide(&order, self.row.clone(), &known)?;
        let keys: Vec<RunKey> = (0..decided.starts.len()).map(|n| RunKey((self.runs.len() + n) as i64 + 1)).collect();
        decided.begun(&keys, self.now);
        for (start, key) in decided.starts.iter().zip(keys) {
            self.runs.push((RunId { id: start.id.clone(), run_no: 1 }, key, false));
        }
        self.cancelled.extend(decided.cancel.iter().map(|id| id.id.clone()));
        self.told.extend(decided.tell("report"));
        if let Some(row) = &decided.row {
            // As it comes back from a store.
            self.row = Some(Row::decode(&row.encode().unwrap()).unwrap());
        }
        Ok(decided)
    }

    /// Carries an order out as the keeper does: again as long as what is due had to be written first.
    fn carry_out(&mut self, order: &Order) {
        while self.order(order.clone()).unwrap().unfinished {}
    }

    /// Fires at that time; returns the instants begun.
    fn fire(&mut self, now: &str) -> Vec<String> {
        self.now = stamp(now);
        let decided = self.order(Order::Fire).unwrap();
        decided.starts.iter().map(|start| start.id.clone()).collect()
    }

    fn end_all(&mut self) {
        self.runs.iter_mut().for_each(|run| run.2 = true);
    }

    fn body(&self) -> &Body {
        match &self.row {
            Some(Row::Here(body)) => body,
            other => panic!("{other:?}"),
        }
    }
}

fn hourly() -> Schedule {
    report().cron("0 * * * *", "UTC")
}

#[test]
fn an_instant_fires_once_however_often_and_whenever_it_is_looked_at() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    assert_eq!(world.fire("2026-01-01T00:59:59.999999Z"), [""; 0]);
    assert_eq!(world.fire("2026-01-01T01:00:00Z"), ["report/2026-01-01T01:00:00Z"]);
    world.end_all();
    for now in ["2026-01-01T01:00:00Z", "2026-01-01T01:30:00Z", "2026-01-01T00:10:00Z", "2025-01-01T00:00:00Z"] {
        assert_eq!(world.fire(now), [""; 0], "at {now}, be it that the clock was set back");
    }
    assert_eq!(world.fire("2026-01-01T02:00:01Z"), ["report/2026-01-01T02:00:00Z"]);
    assert_eq!(world.body().counts.started, 2);
}

#[test]
fn what_was_missed_fires_late_within_the_window_and_is_counted_beyond_it() {
    let schedule = hourly().overlap(Overlap::AllowAll).catch_up(Duration::from_secs(2 * 3600));
    let mut world = World::with(schedule, "2026-01-01T00:30:00Z");
    let late = world.fire("2026-01-01T10:10:00Z");
    assert_eq!(late, ["report/2026-01-01T09:00:00Z", "report/2026-01-01T10:00:00Z"]);
    assert_eq!(world.body().counts.missed, 8);
    assert_eq!(world.body().next_at(), Some(stamp("2026-01-01T11:00:00Z")));
}

#[test]
fn an_instant_that_is_noticed_a_little_late_fires_whatever_the_window_is() {
    let mut world = World::with(hourly().catch_up(Duration::ZERO), "2026-01-01T00:30:00Z");
    assert_eq!(world.fire("2026-01-01T01:00:00.005Z"), ["report/2026-01-01T01:00:00Z"]);
    world.end_all();
    assert_eq!(world.fire("2026-01-01T02:00:30Z"), ["report/2026-01-01T02:00:00Z"]);
    world.end_all();
    assert_eq!(world.fire("2026-01-01T03:00:31Z"), [""; 0]);
    assert_eq!((world.body().counts.started, world.body().counts.missed), (2, 1));
}

#[test]
fn a_gap_of_years_is_passed_over_in_one_decision() {
    let schedule = report().every(Duration::from_secs(1)).catch_up(Duration::from_secs(3));
    let mut world = World::with(schedule, "2026-01-01T00:00:00.5Z");
    world.fire("2036-01-01T00:00:00.5Z");
    let counts = world.body().counts;
    assert_eq!((counts.started, counts.missed), (1, 1_000), "{counts:?}");
    assert_eq!(world.body().next_at(), Some(stamp("2036-01-01T00:00:01Z")));
}

#[test]
fn many_that_are_due_at_once_begin_over_several_commits_and_none_is_left_out() {
    let schedule = report().every(Duration::from_secs(1)).overlap(Overlap::AllowAll);
    let mut world = World::with(schedule, "2026-01-01T00:00:00Z");
    let mut commits = 0;
    while !world.fire("2026-01-01T00:05:00Z").is_empty() {
        commits += 1;
    }
    assert_eq!((world.runs.len(), commits), (300, 3));
    let ids: HashSet<_> = world.runs.iter().map(|(id, ..)| &id.id).collect();
    assert_eq!(ids.len(), 300);
}

/// Has an argument of so many bytes.
#[derive(Serialize, Deserialize)]
struct Large {
    text: String,
}

impl Workflow for Large {
    const NAME: &'static str = "schedule.large";
    type Output = ();
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<(), AppError> {
        Ok(())
    }
}

#[test]
fn one_commit_begins_as_many_runs_as_their_arguments_allow_and_the_next_ones_the_rest() {
    for (size, most) in [(2_000_000, 2), (5_000_000, 1), (1_000_000, 4), (1_000, 12)] {
        let schedule = Schedule::new("report", Large { text: "x".repeat(size) }).cron("0 * * * *", "UTC");
        let mut world = World::with(schedule.overlap(Overlap::AllowAll), "2026-01-01T00:30:00Z");
        world.now = stamp("2026-01-01T06:00:00Z");
        let [from, to] = ["2025-06-01T00:00:00Z", "2025-06-01T05:00:00Z"].map(stamp);
        let mut begun = vec![world.order(Order::Backfill { from, to, beside: true, token: 1 }).unwrap().starts.len()];
        while world.body().next_at() <= Some(world.now) {
            begun.push(world.order(Order::Fire).unwrap().starts.len());
        }
        // Six that are due, and six that are backfilled.
        assert_eq!(world.runs.len(), 12, "{size}: {begun:?}");
        assert!(begun.iter().all(|count| (1..=most).contains(count)), "{size}: {begun:?}");
    }
}

#[test]
fn each_policy_does_with_the_run_before_what_it_says() {
    let fired = |overlap| {
        let mut world = World::with(hourly().overlap(overlap), "2026-01-01T00:30:00Z");
        for hour in 1..=4 {
            world.fire(&format!("2026-01-01T0{hour}:00:00Z"));
        }
        let during = world.runs.len();
        world.end_all();
        world.fire("2026-01-01T04:01:00Z");
        let behind = world.runs.len();
        world.end_all();
        world.fire("2026-01-01T04:02:00Z");
        let counts = world.body().counts;
        (during, behind, world.runs.len(), counts.skipped, world.cancelled.len())
    };
    assert_eq!(fired(Overlap::Skip), (1, 1, 1, 3, 0));
    assert_eq!(fired(Overlap::BufferOne), (1, 2, 2, 2, 0));
    assert_eq!(fired(Overlap::BufferAll), (1, 2, 3, 0, 0));
    assert_eq!(fired(Overlap::CancelOther), (1, 2, 2, 2, 3));
    assert_eq!(fired(Overlap::AllowAll), (4, 4, 4, 0, 0));
}

#[test]
fn of_several_late_instants_that_would_cancel_each_other_the_newest_begins() {
    let mut world = World::with(hourly().overlap(Overlap::CancelOther), "2026-01-01T00:30:00Z");
    assert_eq!(world.fire("2026-01-01T03:10:00Z"), ["report/2026-01-01T03:00:00Z"]);
    assert_eq!((world.body().counts.skipped, world.cancelled.len()), (2, 0));
}

#[test]
fn a_row_says_whose_end_it_waits_for_and_goes_on_behind_it() {
    let mut world = World::with(hourly().overlap(Overlap::BufferAll), "2026-01-01T00:30:00Z");
    world.fire("2026-01-01T01:00:00Z");
    assert_eq!(world.body().awaits(), None);
    world.fire("2026-01-01T02:00:00Z");
    assert_eq!(world.body().awaits(), Some(RunKey(1)));
    // The execution goes on as its next run: the row waits for that.
    world.runs[0].1 = RunKey(77);
    world.fire("2026-01-01T02:01:00Z");
    assert_eq!(world.body().awaits(), Some(RunKey(77)));
    world.end_all();
    assert_eq!(world.fire("2026-01-01T02:02:00Z"), ["report/2026-01-01T02:00:00Z"]);
    assert_eq!(world.body().awaits(), None);
}

#[test]
fn jitter_is_the_same_whoever_computes_it_within_its_bound_and_never_reaches_the_next_instant() {
    let jitter = |most| {
        let mut world = World::with(hourly().jitter(Duration::from_secs(most)), "2026-01-01T00:30:00Z");
        let mut delays = Vec::new();
        for _ in 0..50 {
            let next = world.body().next.unwrap();
            delays.push(next.due.since(next.instant));
            world.now = next.due;
            world.order(Order::Fire).unwrap();
            world.end_all();
        }
        delays
    };
    let delays = jitter(600);
    assert_eq!(delays, jitter(600));
    assert!(delays.iter().all(|delay| *delay < Duration::from_secs(600)));
    assert!(delays.iter().collect::<HashSet<_>>().len() > 40, "{delays:?}");
    assert!(jitter(1_000_000).iter().all(|delay| *delay < Duration::from_secs(3600)));
}

#[test]
fn it_fires_as_often_as_it_may_and_what_somebody_asks_for_does_not_count() {
    let mut world = World::with(hourly().at_most(2), "2026-01-01T00:30:00Z");
    world.order(Order::Trigger { at: world.now, overlap: None }).unwrap();
    assert_eq!(world.fire("2026-01-01T01:00:00Z"), [""; 0], "the triggered one runs");
    world.end_all();
    for hour in 2..=5 {
        world.fire(&format!("2026-01-01T0{hour}:00:00Z"));
        world.end_all();
    }
    assert_eq!((world.runs.len(), world.body().remaining, world.body().next_at()), (3, Some(0), None));
    world.now = stamp("2026-01-01T06:00:00Z");
    let again = world.order(Order::Trigger { at: world.now, overlap: None }).unwrap();
    assert_eq!(again.triggered, Some(Triggered::Started("report/2026-01-01T06:00:00Z".into())));
    // An update begins a new count.
    world.order(Order::Update(Box::new(hourly().at_most(5)))).unwrap();
    assert_eq!((world.body().remaining, world.body().next_at()), (Some(5), Some(stamp("2026-01-01T07:00:00Z"))));
}

#[test]
fn what_passes_during_a_pause_is_left_out_and_what_waits_goes_on_waiting() {
    let mut world = World::with(hourly().overlap(Overlap::BufferAll), "2026-01-01T00:30:00Z");
    world.fire("2026-01-01T01:00:00Z");
    world.fire("2026-01-01T02:00:00Z");
    world.order(Order::Pause { by: "ops".into(), reason: "a flood".into() }).unwrap();
    let pause = world.body().paused.clone().unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_str(), pause.at), ("ops", "a flood", at("2026-01-01T02:00:00Z")));
    world.end_all();
    assert_eq!(world.fire("2026-01-01T05:00:00Z"), [""; 0]);
    assert_eq!((world.body().next_at(), world.body().awaits()), (None, None));
    let asked = world.order(Order::Trigger { at: world.now, overlap: None }).unwrap();
    assert_eq!(asked.triggered, Some(Triggered::Started("report/2026-01-01T05:00:00Z".into())), "asked for, so it begins");
    world.end_all();
    world.now = stamp("2026-01-01T05:30:00Z");
    let unpaused = world.order(Order::Unpause).unwrap();
    assert_eq!(unpaused.starts.len(), 1, "the one that waited");
    assert_eq!(unpaused.starts[0].id, "report/2026-01-01T02:00:00Z");
    assert_eq!(world.body().next_at(), Some(stamp("2026-01-01T06:00:00Z")));
}

#[test]
fn a_backfill_has_both_ends_one_behind_the_other_or_all_at_once() {
    let range = (stamp("2025-06-01T00:00:00Z"), stamp("2025-06-01T05:00:00Z"));
    let backfill = |beside| Order::Backfill { from: range.0, to: range.1, beside, token: 1 };
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    assert_eq!(world.order(backfill(false)).unwrap().backfilled, 6);
    let mut order = vec![world.runs[0].0.id.clone()];
    loop {
        world.end_all();
        let more = world.fire("2026-01-01T00:31:00Z");
        if more.is_empty() {
            break;
        }
        assert_eq!(more.len(), 1);
        order.extend(more);
    }
    let wanted: Vec<String> = (0..6).map(|hour| format!("report/2025-06-01T0{hour}:00:00Z")).collect();
    assert_eq!(order, wanted);

    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    world.in_use.insert(wanted[3].clone());
    let all = world.order(backfill(true)).unwrap();
    assert_eq!((all.starts.len(), world.body().counts.in_use), (5, 1), "what exists is left out");
    let long = Order::Backfill { from: stamp("2020-01-01T00:00:00Z"), to: range.1, beside: true, token: 2 };
    assert_eq!(world.order(long).unwrap_err(), ScheduleError::TooMany { room: 1_000 });
    let future = Order::Backfill { from: range.0, to: stamp("2027-01-01T00:00:00Z"), beside: true, token: 3 };
    assert!(matches!(world.order(future), Err(ScheduleError::Invalid(_))));
}

#[test]
fn a_trigger_that_is_asked_again_because_its_answer_was_lost_is_carried_out_once() {
    for overlap in [Overlap::AllowAll, Overlap::BufferAll] {
        let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
        world.order(Order::Trigger { at: world.now, overlap: None }).unwrap();
        let at = stamp("2026-01-01T00:31:00Z");
        world.now = at;
        let first = world.order(Order::Trigger { at, overlap: Some(overlap) }).unwrap().triggered;
        let second = world.order(Order::Trigger { at, overlap: Some(overlap) }).unwrap();
        assert_eq!((second.triggered, second.row), (first, None));
    }
}

#[test]
fn a_backfill_that_is_asked_again_because_its_answer_was_lost_is_carried_out_once() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    let backfill = |token| {
        let [from, to] = ["2025-06-01T00:00:00Z", "2025-06-01T05:00:00Z"].map(stamp);
        Order::Backfill { from, to, beside: false, token }
    };
    world.order(backfill(7)).unwrap();
    let again = world.order(backfill(7)).unwrap();
    assert_eq!((again.backfilled, again.row, world.body().waiting.len()), (6, None, 5));
    world.order(backfill(8)).unwrap();
    assert_eq!(world.body().waiting.len(), 11, "somebody who wants it twice");
    for token in 100..200 {
        let at = stamp("2025-06-01T00:30:00Z");
        world.order(Order::Backfill { from: at, to: at, beside: false, token }).unwrap();
    }
    assert_eq!(world.body().backfills.len(), 16);
}

#[test]
fn a_delete_that_is_asked_again_is_done_and_reaches_no_later_schedule_of_the_name() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    world.order(Order::Delete { generation: 1 }).unwrap();
    assert_eq!(world.order(Order::Delete { generation: 1 }).unwrap().row, None);
    world.order(Order::Create(Box::new(hourly()))).unwrap();
    assert_eq!(world.order(Order::Delete { generation: 1 }).unwrap().row, None);
    assert_eq!(world.body().generation, 2);
    assert!(matches!(World::at("2026-01-01T00:30:00Z").order(Order::Delete { generation: 1 }), Err(ScheduleError::Unknown(_))));
}

#[test]
fn whoever_is_cancelled_is_told_the_same_each_time_whichever_its_run_is_by_then() {
    let mut world = World::with(hourly().overlap(Overlap::CancelOther), "2026-01-01T00:30:00Z");
    for hour in 1..=9 {
        world.fire(&format!("2026-01-01T0{hour}:00:00Z"));
    }
    assert_eq!(world.told.len(), 8);
    let first = world.told[0].clone();
    assert_eq!((first.to.id.as_str(), first.to.run_no), ("report/2026-01-01T01:00:00Z", CURRENT_RUN));
    assert!(first.message.contains("report/2026-01-01T01:00:00Z"), "{}", first.message);
    assert!(world.told.iter().all(|tell| *tell == first), "one message, however often: {:?}", world.told);
    world.end_all();
    world.fire("2026-01-01T09:01:00Z");
    world.fire("2026-01-01T10:00:00Z");
    assert_ne!(world.told[8].message, first.message, "another run is told something of its own");
}

/// A schedule of which a range of the past is being backfilled: the first of three runs, two wait.
fn backfilling(schedule: Schedule) -> World {
    let mut world = World::with(schedule, "2026-01-01T00:30:00Z");
    let [from, to] = ["2025-06-01T00:00:00Z", "2025-06-01T02:00:00Z"].map(stamp);
    world.order(Order::Backfill { from, to, beside: false, token: 1 }).unwrap();
    assert_eq!((world.runs.len(), world.body().waiting.len()), (1, 2));
    world
}

#[test]
fn what_is_due_cancels_no_backfilled_run_and_goes_before_those_that_wait() {
    for overlap in [Overlap::CancelOther, Overlap::BufferOne, Overlap::BufferAll] {
        let mut world = backfilling(hourly().overlap(overlap));
        assert_eq!(world.fire("2026-01-01T01:00:00Z"), [""; 0]);
        assert_eq!((world.cancelled.len(), world.body().counts.skipped), (0, 0), "{overlap:?}");
        world.end_all();
        assert_eq!(world.fire("2026-01-01T01:01:00Z"), ["report/2026-01-01T01:00:00Z"], "{overlap:?}");
        for hour in ["01", "02"] {
            world.end_all();
            assert_eq!(world.fire("2026-01-01T01:02:00Z"), [format!("report/2025-06-01T{hour}:00:00Z")], "{overlap:?}");
        }
    }
    // Nor does the backfilling give up what waits: of those that are due the newest begins, as ever.
    let mut world = backfilling(hourly().overlap(Overlap::CancelOther));
    world.fire("2026-01-01T01:00:00Z");
    world.fire("2026-01-01T02:00:00Z");
    let waiting: Vec<Why> = world.body().waiting.iter().map(|waiting| waiting.why).collect();
    assert_eq!((waiting, world.body().counts.skipped), (vec![Why::Due, Why::Backfilled, Why::Backfilled], 1));
}

#[test]
fn a_long_backfill_leaves_room_for_what_is_due() {
    let mut world = World::with(hourly().overlap(Overlap::BufferAll), "2026-03-01T00:30:00Z");
    let from = stamp("2026-01-01T00:00:00Z");
    let to = from.after(Duration::from_secs(999 * 3600));
    world.order(Order::Backfill { from, to, beside: false, token: 1 }).unwrap();
    let to = from.after(Duration::ZERO);
    world.order(Order::Backfill { from, to, beside: false, token: 2 }).unwrap();
    assert_eq!(world.body().waiting.len(), 1_000);
    world.fire("2026-03-01T01:00:00Z");
    assert_eq!((world.body().waiting.len(), world.body().counts.skipped), (1_001, 0));
    assert_eq!(
        world.order(Order::Backfill { from, to, beside: false, token: 3 }).unwrap_err(),
        ScheduleError::TooMany { room: 0 }
    );
}

#[test]
fn what_was_set_aside_of_a_limit_is_free_again_when_it_is_not_used() {
    // The id of the one that waits is taken.
    let mut world = World::with(hourly().overlap(Overlap::BufferAll).at_most(2), "2026-01-01T00:30:00Z");
    world.fire("2026-01-01T01:00:00Z");
    world.fire("2026-01-01T02:00:00Z");
    assert_eq!(world.body().next_at(), None);
    world.in_use.insert("report/2026-01-01T02:00:00Z".into());
    world.end_all();
    world.fire("2026-01-01T02:01:00Z");
    assert_eq!((world.body().remaining, world.body().next_at()), (Some(1), Some(stamp("2026-01-01T03:00:00Z"))));
    assert_eq!(world.fire("2026-01-01T03:00:00Z"), ["report/2026-01-01T03:00:00Z"]);
    assert_eq!((world.body().remaining, world.body().next_at()), (Some(0), None));

    // A trigger takes the place of the one that waits.
    let mut world = World::with(hourly().overlap(Overlap::BufferAll).at_most(2), "2026-01-01T00:30:00Z");
    world.fire("2026-01-01T01:00:00Z");
    world.fire("2026-01-01T02:00:00Z");
    world.now = stamp("2026-01-01T02:30:00Z");
    world.order(Order::Trigger { at: world.now, overlap: Some(Overlap::CancelOther) }).unwrap();
    assert_eq!((world.body().remaining, world.body().next_at()), (Some(1), Some(stamp("2026-01-01T03:00:00Z"))));
}

#[test]
fn an_update_reaches_no_instant_that_has_come() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    world.now = stamp("2026-01-01T01:00:01Z");
    // What was due and not fired by anybody up to now is fired by the old plan, in the same decision.
    let updated = world.order(Order::Update(Box::new(report().cron("0,30 * * * *", "UTC")))).unwrap();
    assert_eq!(updated.starts.len(), 1);
    assert_eq!(world.body().next_at(), Some(stamp("2026-01-01T01:30:00Z")));
    world.end_all();
    // Nothing of a plan that reaches further back.
    world.order(Order::Update(Box::new(report().every(Duration::from_secs(60))))).unwrap();
    assert_eq!(world.body().next_at(), Some(stamp("2026-01-01T01:01:00Z")));
}

#[test]
fn what_is_due_when_a_schedule_is_updated_begins_by_the_plan_that_was() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    let before = world.body().plan.clone();
    world.now = stamp("2026-01-01T01:00:01Z");
    let other = Schedule::new("report", Report { of: 2 }).cron("0,30 * * * *", "UTC");
    let updated = world.order(Order::Update(Box::new(other))).unwrap();
    assert_eq!((updated.starts.len(), updated.former), (1, Some(Box::new(before))));
    world.end_all();
    world.now = stamp("2026-01-01T01:30:00Z");
    let fired = world.order(Order::Fire).unwrap();
    assert_eq!((fired.starts.len(), fired.former), (1, None));
}

#[test]
fn an_update_or_a_pause_gives_up_nothing_that_is_due_however_much_that_is() {
    let pause = Order::Pause { by: String::new(), reason: String::new() };
    for order in [pause, Order::Update(Box::new(hourly()))] {
        for overlap in [Overlap::AllowAll, Overlap::Skip] {
            let schedule = report().every(Duration::from_secs(1)).overlap(overlap);
            let mut world = World::with(schedule, "2026-01-01T00:00:00Z");
            world.now = stamp("2026-01-01T00:50:00Z");
            world.carry_out(&order);
            world.carry_out(&Order::Unpause);
            let counts = world.body().counts;
            assert_eq!((counts.started + counts.skipped, counts.missed), (3_000, 0), "{order:?} {overlap:?}");
            assert!(world.body().next_at() > Some(world.now), "{order:?} {overlap:?}");
        }
    }
}

#[test]
fn a_name_is_one_schedule_and_a_new_one_of_it_makes_other_ids() {
    let mut world = World::with(hourly(), "2026-01-01T00:30:00Z");
    let same = world.order(Order::Create(Box::new(hourly()))).unwrap();
    assert_eq!(same.row, None, "the same again is as good as made");
    let other = Schedule::new("report", Report { of: 2 }).cron("0 * * * *", "UTC");
    assert_eq!(world.order(Order::Create(Box::new(other.clone()))).unwrap_err(), ScheduleError::Exists("report".into()));
    world.order(Order::Delete { generation: 1 }).unwrap();
    assert!(matches!(world.order(Order::Fire), Err(ScheduleError::Unknown(_))));
    world.order(Order::Create(Box::new(other))).unwrap();
    assert_eq!(world.fire("2026-01-01T01:00:00Z"), ["report#2/2026-01-01T01:00:00Z"]);
}

#[test]
fn one_that_would_never_fire_is_not_made() {
    let mut world = World::at("2026-01-01T00:30:00Z");
    let over = hourly().until(at("2025-12-31T00:00:00Z"));
    assert!(matches!(world.order(Order::Create(Box::new(over))), Err(ScheduleError::Invalid(_))));
}

#[test]
fn a_description_names_the_next_instants_and_the_newest_runs() {
    let mut world = World::with(hourly().at_most(13), "2026-01-01T00:30:00Z");
    for hour in 1..=12 {
        world.fire(&format!("2026-01-01T{hour:02}:00:00Z"));
        world.end_all();
    }
    let body = world.body();
    let times = super::Times::of(&body.plan.specs, None, None).unwrap();
    let told = body.describe("report", &times, 5, world.now);
    assert_eq!(told.next, [at("2026-01-01T13:00:00Z")], "one is left");
    assert_eq!(told.recent.len(), 10);
    assert_eq!(told.recent[0].id, "report/2026-01-01T12:00:00Z");
    assert_eq!((told.counts.started, told.workflow.as_str()), (12, "schedule.report"));
}
