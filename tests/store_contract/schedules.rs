//! The rows of schedules: whoever has seen a row as it is replaces it, once; what a firing begins and whom it tells is there with its row or
//! not at all.

use bytes::Bytes;
use stent::{
    kernel::{
        event::{CURRENT_RUN, Tell},
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{Batch, Item, Outcome, ScheduleChange, ScheduleDue, ScheduleRow, Then},
};

use crate::{chains::continues, kit::*, others::tell};

pub(crate) fn change(name: &str, seen: u64, next_at: Option<i64>) -> ScheduleChange {
    ScheduleChange {
        name: name.into(),
        seen,
        next_at: next_at.map(Timestamp),
        awaits: None,
        body: Bytes::from(format!("{name} as of {seen}")),
        starts: Vec::new(),
        tells: Vec::new(),
    }
}

fn item(change: ScheduleChange) -> Item {
    Item::Schedule(Box::new(change))
}

/// A change that begins a run.
fn beginning(name: &str, seen: u64, run: RunKey, id: &str) -> Item {
    let row = stent::store::NewRun { priority: 3, ..new_run(run, id) };
    item(ScheduleChange { starts: vec![(row, record(run, 0))], ..change(name, seen, Some(2_000)) })
}

async fn row(world: &World, name: &str) -> Option<ScheduleRow> {
    world.store.reader().schedule(name).await.unwrap()
}

#[test]
fn of_all_who_have_seen_a_row_one_replaces_it() {
    on_each_store(async |world| {
        assert_eq!(row(world, "s").await, None);
        assert_eq!(world.one(item(change("s", 1, None))).await, Outcome::Conflict, "there is none");
        world.done(item(change("s", 0, Some(5_000)))).await;
        assert_eq!(world.one(item(change("s", 0, None))).await, Outcome::Conflict, "there is one");
        assert_eq!(row(world, "s").await.unwrap(), change("s", 0, Some(5_000)).row());
        // Two in one batch, and then one that builds upon the first.
        let both = vec![item(change("s", 1, None)), item(change("s", 1, Some(1))), item(change("s", 2, Some(7)))];
        assert_eq!(world.commit(both).await, [Outcome::Done, Outcome::Conflict, Outcome::Done]);
        assert_eq!(row(world, "s").await.unwrap(), change("s", 2, Some(7)).row());
        let made = vec![item(change("t", 0, None)), item(change("t", 0, None)), item(change("t", 1, None))];
        assert_eq!(world.commit(made).await, [Outcome::Done, Outcome::Conflict, Outcome::Done]);
    });
}

#[test]
fn a_run_is_begun_exactly_if_its_row_is_written() {
    on_each_store(async |world| {
        let [first, second, third] = [world.key().await, world.key().await, world.key().await];
        world.done(item(change("s", 0, Some(1_000)))).await;
        world.done(beginning("s", 1, first, "s/1")).await;
        let begun = world.summary("s/1").await;
        assert_eq!((begun.owner, begun.epoch, begun.wake_at, begun.priority), (None, 0, Some(Timestamp(1_000)), 3));
        assert_eq!(world.store.reader().history(first, 0, 9).await.unwrap(), [(0, record(first, 0))]);
        // Somebody else was quicker.
        assert_eq!(world.one(beginning("s", 1, second, "s/2")).await, Outcome::Conflict);
        assert_eq!(world.store.reader().find("s/2", None).await.unwrap(), None);
        // The id is in use: nothing of it, nor of what stands beside it.
        let mut two = change("s", 2, Some(3_000));
        two.starts = vec![(new_run(second, "s/2"), record(second, 0)), (new_run(third, "s/1"), record(third, 0))];
        assert!(matches!(world.one(item(two)).await, Outcome::IdInUse(_)));
        assert_eq!(world.store.reader().find("s/2", None).await.unwrap(), None);
        assert_eq!(row(world, "s").await.unwrap().revision, 2);
        assert_eq!(world.one(beginning("s", 2, first, "s/3")).await, Outcome::Conflict, "the key is taken");
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.iter().map(|claimed| claimed.summary.run).collect::<Vec<_>>(), [first], "it is due at once");
    });
}

#[test]
fn a_firing_tells_another_run_in_its_own_commit() {
    on_each_store(async |world| {
        let run = world.started("other").await;
        let told = |seen, message: &str| {
            item(ScheduleChange { tells: vec![tell("other", message), tell("nobody", message)], ..change("s", seen, None) })
        };
        let batch = world.batch(vec![told(0, "a")]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!((answer.told.len(), answer.told[0].run, answer.told[0].owner), (1, run, Some(world.incarnation)));
        // Behind everything else of the batch: who has just gone to sleep is woken.
        let batch = world.batch(vec![told(1, "b"), sleep(run, 1, None, 1)]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!((answer.told.len(), answer.told[0].owner), (1, None), "{answer:?}");
        assert_eq!(world.summary("other").await.wake_at, Some(Timestamp(1_000)));
        assert_eq!(world.store.reader().inbox(run).await.unwrap().unread.len(), 2);
        // One that is refused tells nobody anything.
        let batch = world.batch(vec![told(1, "c")]);
        assert_eq!(world.store.commit(&batch).await.unwrap().told, []);
    });
}

#[test]
fn what_a_firing_tells_reaches_the_run_that_an_execution_has_continued_as() {
    on_each_store(async |world| {
        let run = world.started("other").await;
        let [next, third] = [world.key().await, world.key().await];
        let to_current = |message: &str| {
            let told = tell("other", message);
            Tell { to: RunId { run_no: CURRENT_RUN, ..told.to.clone() }, ..told }
        };
        let firing = |seen, messages: &[&str]| {
            let tells = messages.iter().map(|message| to_current(message)).collect();
            item(ScheduleChange { tells, ..change("s", seen, None) })
        };
        // In the batch in which it continues, whatever the order.
        let batch = world.batch(vec![firing(0, &["a"]), continues(run, 1, next)]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.outcomes, [Outcome::Done, Outcome::Done]);
        assert_eq!(answer.told.iter().map(|told| told.run).collect::<Vec<_>>(), [next]);
        // And behind it; what it has in its inbox already it does not get again.
        let batch = world.batch(vec![firing(1, &["a", "b"])]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.told.iter().map(|told| (told.run, &*told.unread.message)).collect::<Vec<_>>(), [(next, "b")]);
        world.claim(9, 9).await;
        world.done(continues(next, 1, third)).await;
        let batch = world.batch(vec![firing(2, &["c"])]);
        assert_eq!(world.store.commit(&batch).await.unwrap().told[0].run, third);
    });
}

#[test]
fn a_dead_node_fires_nothing() {
    on_each_store(async |world| {
        let run = world.key().await;
        world.store.retire(world.incarnation, true, &[]).await.unwrap();
        let batch: Batch = world.batch(vec![beginning("s", 0, run, "s/1")]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!((answer.outcomes, answer.live), (vec![Outcome::Fenced], false));
        assert_eq!(row(world, "s").await, None);
    });
}

#[test]
fn what_is_due_is_found_in_order_and_so_is_whoever_waits() {
    on_each_store(async |world| {
        let [running, ended] = [world.started("running").await, world.started("ended").await];
        world.done(end(ended, 1, 0)).await;
        for (name, next_at) in [("late", Some(3_000)), ("never", None), ("b", Some(1_000)), ("a", Some(1_000))] {
            world.done(item(change(name, 0, next_at))).await;
        }
        for (name, run, next_at) in [("waits", running, None), ("ready", ended, Some(9_000)), ("gone", RunKey(500_000), None)] {
            world.done(item(ScheduleChange { awaits: Some(run), ..change(name, 0, next_at) })).await;
        }
        let due = async |until, limit| world.store.reader().due_schedules(Timestamp(until), limit).await.unwrap();
        let of =
            |name: &str, next_at: Option<i64>, ready| ScheduleDue { name: name.into(), next_at: next_at.map(Timestamp), ready };
        let all = [
            of("ready", Some(9_000), true),
            of("gone", None, true),
            of("a", Some(1_000), false),
            of("b", Some(1_000), false),
            of("late", Some(3_000), false),
            of("waits", None, false),
        ];
        assert_eq!(due(3_000, 9).await, all);
        assert_eq!(due(2_999, 3).await, all[..3]);
        let names = async |after: &str, limit| {
            let rows = world.store.reader().schedules(after, limit).await.unwrap();
            rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
        };
        assert_eq!(names("", 3).await, ["a", "b", "gone"]);
        assert_eq!(names("gone", 9).await, ["late", "never", "ready", "waits"]);
    });
}

#[test]
fn what_no_store_takes_is_refused_alike() {
    on_each_store(async |world| {
        let [a, b] = [world.key().await, world.key().await];
        let refused = async |world: &mut World, change| matches!(world.one(item(change)).await, Outcome::Refused(_));
        assert!(refused(world, change("", 0, None)).await);
        assert!(refused(world, change("a\0b", 0, None)).await);
        let twice = vec![(new_run(a, "x"), record(a, 0)), (new_run(b, "x"), record(b, 0))];
        assert!(refused(world, ScheduleChange { starts: twice, ..change("s", 0, None) }).await);
        let mut second = new_run(a, "x");
        second.id = RunId { run_no: 2, ..second.id };
        assert!(refused(world, ScheduleChange { starts: vec![(second, record(a, 0))], ..change("s", 0, None) }).await);
        assert_eq!(row(world, "s").await, None);
        // A neighbour of the batch is none the worse for it.
        let run = world.key().await;
        let outcomes = world.commit(vec![item(change("", 0, None)), start_then(new_run(run, "ok"), Then::Hold)]).await;
        assert_eq!(outcomes[1], Outcome::Done);
    });
}
