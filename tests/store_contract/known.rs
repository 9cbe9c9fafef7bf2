//! What the writer believes to know about runs must never show: each case goes once through what it remembers and once
//! through what has happened behind its back.

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{
    kernel::id::RunKey,
    store::{Batch, ClaimRequest, Item, Outcome, Then},
};

use crate::kit::*;

/// Runs a case on a file, with a program of its own that changes it.
fn with_other_program(case: impl AsyncFn(&mut World, &mut SqliteConnection)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    block_on(async {
        let mut world = World::new(Box::new(sqlite(&path).await)).await;
        let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        case(&mut world, &mut other).await;
        world.store.close().await.unwrap();
        other.close().await.unwrap();
    });
}

#[test]
fn a_tail_that_another_program_cut_off_is_a_conflict_and_not_built_on() {
    with_other_program(async |world, other| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        other.execute("DELETE FROM events WHERE commit_no = 1").await.unwrap();
        assert_eq!(world.one(step(run, 2)).await, Outcome::Conflict);
        world.done(step(run, 1)).await;
        world.done(step(run, 2)).await;
    });
}

#[test]
fn an_inbox_that_another_program_moved_keeps_a_run_from_ending() {
    with_other_program(async |world, other| {
        let run = world.started("a").await;
        other.execute("UPDATE executions SET inbox_seq = 3").await.unwrap();
        assert_eq!(world.one(end(run, 1, 0)).await, Outcome::InboxMoved);
        world.done(end(run, 1, 3)).await;
    });
}

#[test]
fn a_node_that_is_dead_in_the_file_writes_nothing_that_it_knows() {
    with_other_program(async |world, other| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        other.execute("UPDATE node_lanes SET live = 0").await.unwrap();
        let batch = world.batch(vec![step(run, 2)]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert!(!answer.live);
        assert_eq!(answer.outcomes, [Outcome::Fenced]);
        assert_eq!(world.rows("event").await.len(), 2);
    });
}

#[test]
fn a_batch_that_fails_behind_what_was_known_is_decided_anew_and_nothing_is_believed_of_it() {
    with_other_program(async |world, other| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        other
            .execute(
                "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.body = CAST('poison' AS BLOB)
               BEGIN SELECT RAISE(ABORT, 'it is poison'); END",
            )
            .await
            .unwrap();
        world.commit(vec![step(a, 1), step(b, 1)]).await;
        for commit_no in 2..5 {
            let mut poison = turn(b, 2, Then::Hold);
            poison.record.body = b"poison".as_slice().into();
            let outcomes = world.commit(vec![step(a, commit_no), Item::Turn(Arc::new(poison))]).await;
            assert_eq!(outcomes[0], Outcome::Done);
            assert!(matches!(outcomes[1], Outcome::Refused(_)), "{outcomes:?}");
        }
        assert_eq!(world.one(step(b, 3)).await, Outcome::Conflict, "the poison was never its tail");
        assert_eq!(world.commit(vec![step(a, 5), step(b, 2)]).await, [Outcome::Done, Outcome::Done]);
    });
}

#[test]
fn a_refused_item_changes_nothing_that_is_known_of_its_run() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        for _ in 0..2 {
            assert_eq!(world.one(step(run, 3)).await, Outcome::Conflict);
            assert_eq!(world.one(step(run, 1)).await, Outcome::Conflict);
            assert_eq!(world.one(end(run, 2, 1)).await, Outcome::InboxMoved);
        }
        world.send("a", "x").await;
        assert_eq!(world.one(end(run, 2, 0)).await, Outcome::InboxMoved);
        world.done(step(run, 2)).await;
        world.done(end(run, 3, 1)).await;
        assert_eq!(world.one(step(run, 4)).await, Outcome::Conflict);
    });
}

#[test]
fn an_id_in_use_is_refused_alone_among_runs_that_are_known() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        let [x, y, z] = [world.key().await, world.key().await, world.key().await];
        let items = vec![step(a, 1), start(new_run(x, "b")), start(new_run(y, "c")), start(new_run(z, "c")), step(b, 1)];
        let outcomes = world.commit(items).await;
        assert!(matches!(&outcomes[1], Outcome::IdInUse(row) if row.run == b), "{outcomes:?}");
        assert!(matches!(&outcomes[3], Outcome::IdInUse(row) if row.run == y), "{outcomes:?}");
        assert_eq!([&outcomes[0], &outcomes[2], &outcomes[4]], [&Outcome::Done; 3]);
        // The key of a run that is there, under another id.
        assert_eq!(world.one(start(new_run(a, "d"))).await, Outcome::Conflict);
        assert_eq!(world.commit(vec![step(a, 2), step(b, 2), step(y, 1)]).await, [const { Outcome::Done }; 3]);
    });
}

#[test]
fn known_and_unknown_runs_stand_in_one_batch_of_any_size() {
    on_each_store(async |world| {
        let asleep = world.started("asleep").await;
        world.done(sleep(asleep, 1, Some(1), 0)).await;
        let first = world.store.reserve_keys(1_300).await.unwrap().0;
        let runs: Vec<RunKey> = (first..first + 1_300).map(RunKey).collect();
        for size in [1, 2, 3, 511, 512, 513, 1_300] {
            let new = runs.iter().take(size).skip(world.rows("run").await.len() - 1);
            let items = new.map(|run| start(new_run(*run, &format!("r{}", run.0)))).collect();
            assert!(world.commit(items).await.iter().all(|outcome| *outcome == Outcome::Done), "{size}");
        }
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.len(), 1);
        let mut items: Vec<Item> = runs.iter().map(|run| step(*run, 1)).collect();
        items.push(step(asleep, 2));
        items.push(step(RunKey(first + 5_000), 1));
        let outcomes = world.commit(items).await;
        assert!(outcomes[..1_301].iter().all(|outcome| *outcome == Outcome::Done));
        assert_eq!(outcomes[1_301], Outcome::Conflict);
        let items = runs.iter().map(|run| end(*run, 2, 0)).chain([end(asleep, 3, 0)]).collect();
        assert!(world.commit(items).await.iter().all(|outcome| *outcome == Outcome::Done));
        assert_eq!(world.rows("event").await.len(), 3 * 1_300 + 4);
    });
}

#[test]
fn heartbeats_of_a_run_that_began_without_any_go_with_their_call_and_with_its_end() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.commit(vec![heartbeat(run, 1, 1), heartbeat(run, 2, 1)]).await;
        let mut settling = turn(run, 1, Then::Hold);
        settling.settled = vec![1];
        world.done(Item::Turn(Arc::new(settling))).await;
        assert_eq!(world.rows("heartbeat").await.len(), 1);
        world.done(end(run, 2, 0)).await;
        assert_eq!(world.rows("heartbeat").await.len(), 0);
    });
}

#[test]
fn a_run_that_another_incarnation_took_and_moved_is_a_conflict_for_the_one_before() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        let before = world.batch(vec![step(run, 2)]);
        world.incarnation = incarnation(2);
        assert_eq!(world.store.register(&node(world.incarnation, 1_000)).await.unwrap(), 1);
        assert_eq!(world.store.commit(&before).await.unwrap().outcomes, [Outcome::Fenced]);
        let claim = ClaimRequest {
            limit: 1,
            ahead: NOT_AHEAD,
            forced_limit: 1,
            build: BUILD,
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let batch = Batch { claim: Some(claim), ..world.batch(Vec::new()) };
        assert_eq!(world.store.commit(&batch).await.unwrap().claimed.len(), 1);
        world.done(step(run, 2)).await;
        world.done(step(run, 3)).await;
        assert_eq!(world.store.commit(&before).await.unwrap().outcomes, [Outcome::Fenced]);
        assert_eq!(world.one(step(run, 2)).await, Outcome::Conflict);
        world.done(end(run, 4, 0)).await;
    });
}

#[test]
fn the_first_commit_behind_opening_decides_by_what_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    block_on(async {
        let mut world = World::new(Box::new(sqlite(&path).await)).await;
        let run = world.started("a").await;
        world.store.close().await.unwrap();
        world.store = Box::new(sqlite(&path).await);
        world.incarnation = incarnation(2);
        world.store.register(&node(world.incarnation, 1_000)).await.unwrap();
        let key = world.key().await;
        assert!(matches!(world.one(start(new_run(key, "a"))).await, Outcome::IdInUse(_)));
        assert_eq!(world.one(step(run, 2)).await, Outcome::Conflict);
        world.done(step(run, 1)).await;
        world.done(step(run, 2)).await;
    });
}
