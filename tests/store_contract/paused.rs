//! Runs that an operator has paused: nobody claims them, nothing wakes them, and they come back as they were left.

use std::sync::Arc;

use stent::{
    kernel::{id::RunKey, time::Timestamp},
    store::{Item, NOT_BEGUN, Outcome, Status, Then, Turn, Yield, YieldReason},
};

use crate::{kit::*, queues::task};

fn paused(run: RunKey, forced: bool, seen: u64) -> Item {
    let why = YieldReason::Paused { reason: "paused by ada".into(), forced, seen };
    Item::Yield(Yield { run, epoch: 1, why })
}

#[test]
fn a_paused_run_keeps_messages_is_claimed_by_nobody_and_goes_on_as_it_was_left() {
    on_each_store(async |world| {
        for (id, forced) in [("a", false), ("b", true)] {
            let run = world.started(id).await;
            world.done(paused(run, forced, 0)).await;
            assert_eq!(world.one(paused(run, forced, 0)).await, Outcome::NotOwned);
            assert_eq!(world.send(id, "x").await, Outcome::Sent { seq: 1, run, owner: None });
            let row = world.summary(id).await;
            assert_eq!((row.status, row.owner, row.wake_at), (Status::Paused, None, None));
            assert_eq!(row.reason.as_deref(), Some("paused by ada"));
            assert_eq!(world.claim(9, 9).await.claimed, vec![]);
            assert_eq!(world.store.resume(id, stent::kernel::time::Timestamp(world.now)).await.unwrap(), Outcome::Done);
            let row = world.summary(id).await;
            assert_eq!((row.status, row.reason), (Status::Active, None));
            let claimed = world.claim(9, 9).await.claimed;
            assert_eq!(claimed.iter().map(|claimed| (claimed.summary.run, claimed.forced)).collect::<Vec<_>>(), [(run, forced)]);
        }
    });
}

#[test]
fn a_run_to_which_something_came_that_its_owner_has_not_seen_is_due_at_once_instead_of_paused() {
    on_each_store(async |world| {
        for (id, forced) in [("a", false), ("b", true)] {
            let run = world.started(id).await;
            assert!(matches!(world.send(id, "x").await, Outcome::Sent { seq: 1, .. }));
            world.done(paused(run, forced, 0)).await;
            let row = world.summary(id).await;
            assert_eq!((row.status, row.owner, row.reason), (Status::Active, None, None));
            assert_eq!(row.wake_at, Some(Timestamp(world.now)));
            let claimed = world.claim(9, 9).await.claimed;
            assert_eq!(claimed.iter().map(|claimed| (claimed.summary.run, claimed.forced)).collect::<Vec<_>>(), [(run, forced)]);
            // It has looked at all there is.
            let why = YieldReason::Paused { reason: "paused by ada".into(), forced, seen: 1 };
            world.done(Item::Yield(Yield { run, epoch: 2, why })).await;
            let row = world.summary(id).await;
            assert_eq!((row.status, row.wake_at, row.reason.as_deref()), (Status::Paused, None, Some("paused by ada")));
        }
    });
}

#[test]
fn only_a_run_that_nobody_has_and_that_has_not_ended_is_marked_as_paused() {
    on_each_store(async |world| {
        let held = world.started("held").await;
        let asleep = world.started("asleep").await;
        world.done(sleep(asleep, 1, None, 0)).await;
        let due = world.started("due").await;
        world.done(sleep(due, 1, Some(5_000), 0)).await;
        let over = world.started("over").await;
        world.done(end(over, 1, 0)).await;
        world.store.halt(asleep, 2, "of another claim").await.unwrap();
        assert_eq!(world.summary("asleep").await.status, Status::Active);
        for run in [held, asleep, due, over, RunKey(999_999)] {
            world.store.halt(run, 1, "paused by ada").await.unwrap();
        }
        assert_eq!(
            (world.summary("due").await.status, world.summary("due").await.wake_at),
            (Status::Active, Some(Timestamp(5_000)))
        );
        assert_eq!(world.summary("held").await.status, Status::Active);
        assert_eq!(world.summary("over").await.status, Status::Completed);
        let row = world.summary("asleep").await;
        assert_eq!((row.status, row.wake_at, row.reason.as_deref()), (Status::Paused, None, Some("paused by ada")));
    });
}

#[test]
fn what_nobody_has_begun_leaves_its_queue_and_what_somebody_holds_stays_his() {
    on_each_store(async |world| {
        let (run, other) = (world.started("a").await, world.started("b").await);
        let tasks = vec![task(run, 1, "q"), task(run, 2, "q"), task(run, 3, "q")];
        world.done(Item::Turn(Arc::new(Turn { tasks, ..turn(run, 1, Then::Hold) }))).await;
        world.done(Item::Turn(Arc::new(Turn { tasks: vec![task(other, 4, "q")], ..turn(other, 1, Then::Hold) }))).await;
        assert_eq!(world.take(1).await, [1]);
        world.done(Item::Turn(Arc::new(Turn { withdrawn: vec![NOT_BEGUN], ..turn(run, 2, Then::Hold) }))).await;
        let left = world.store.reader().tasks(run).await.unwrap();
        assert_eq!(left.iter().map(|row| (row.key.position, row.dropped)).collect::<Vec<_>>(), [(1, false)]);
        assert_eq!(world.take(9).await, [4], "that of another run");
    });
}

#[test]
fn what_is_placed_without_a_turn_in_the_batch_of_a_pause_or_of_a_withdrawal_stands_in_no_line_behind_it() {
    on_each_store(async |world| {
        for places_first in [true, false] {
            let [paused, dropped] = if places_first { ["a", "b"] } else { ["c", "d"] };
            let (paused, dropped) = (world.started(paused).await, world.started(dropped).await);
            let place = |run| Item::PlaceTasks(run, 1, vec![task(run, 1, "q"), task(run, 2, "q")]);
            let withdraw = |run, positions| Item::Turn(Arc::new(Turn { withdrawn: positions, ..turn(run, 1, Then::Hold) }));
            let mut items = vec![place(paused), place(dropped), withdraw(paused, vec![NOT_BEGUN]), withdraw(dropped, vec![2])];
            if !places_first {
                items.reverse();
            }
            assert_eq!(world.commit(items).await, vec![Outcome::Done; 4]);
            let reader = world.store.reader();
            assert_eq!(reader.tasks(paused).await.unwrap(), []);
            let left = reader.tasks(dropped).await.unwrap();
            assert_eq!(left.iter().map(|row| row.key.position).collect::<Vec<_>>(), [1]);
        }
    });
}

#[test]
fn what_was_decided_of_a_run_that_nobody_had_is_refused_behind_a_claim() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let of_nobody = |commit_no, epoch| {
            let then = Then::Passivate { wake_at: Some(Timestamp(1)), seen: 0 };
            Item::Turn(Arc::new(Turn { unowned: Some(epoch), ..turn(run, commit_no, then) }))
        };
        assert_eq!(world.one(of_nobody(1, 1)).await, Outcome::Conflict, "it is held");
        world.done(sleep(run, 1, Some(1), 0)).await;
        assert_eq!(world.one(of_nobody(2, 0)).await, Outcome::Conflict);
        world.done(of_nobody(2, 1)).await;
        assert_eq!(world.claim(9, 0).await.claimed.len(), 1);
        assert_eq!(world.one(of_nobody(3, 1)).await, Outcome::Conflict, "a claim moves nothing of the log");
        assert_eq!(world.one(of_nobody(3, 2)).await, Outcome::Conflict);
        assert_eq!(world.owned().await, [run]);
        world.done(sleep(run, 3, None, 0)).await;
        assert_eq!(world.one(of_nobody(4, 1)).await, Outcome::Conflict);
        world.done(of_nobody(4, 2)).await;
    });
}
