//! Transactions of other programs on the same PostgreSQL server: one that holds an id or a run for long makes nobody wait
//! but those who want just that, and what it decides is believed once it has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Executor, PgConnection};
use stent::{
    kernel::time::Timestamp,
    store::{Item, MemoStep, MemoThen, Outcome, Successor, Then, Turn},
};

use crate::{
    kit::*,
    memos::{ask, change, entry, item, key},
    others::{child, tell, with},
};

/// Inserts an execution by hand, as a program would that begins it in a transaction of its own.
const TAKES_THE_ID: &str = "INSERT INTO executions (run, id, run_no, workflow, version, status, epoch, claims, forced, priority, \
     queue, tags, needs, created_at, input_digest, inbox_seq, format) \
     VALUES (1000000, 'k', 1, 'flow', 1, 1, 0, 0, false, 0, '', '{}', '{}', 900, '\\x00', 0, 1)";

fn with_foreign(case: impl AsyncFn(&mut World, &mut PgConnection)) {
    block_on(async {
        let schema = Schema::fresh();
        let mut world = World::new(Box::new(schema.open().await)).await;
        let mut foreign = schema.foreign().await;
        case(&mut world, &mut foreign).await;
        world.store.close().await.unwrap();
        schema.drop().await;
    });
}

#[test]
fn an_id_that_a_foreign_transaction_is_about_to_take_waits_alone_and_is_free_when_that_rolls_back() {
    with_foreign(async |world, foreign| {
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute(TAKES_THE_ID).await.unwrap();
        let mut items = Vec::new();
        for number in 0..100 {
            let run = world.key().await;
            items.push(start(new_run(run, &format!("other-{number}"))));
        }
        let wanted = world.key().await;
        items.insert(50, start(new_run(wanted, "k")));
        let began = Instant::now();
        let outcomes = world.commit(items).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count(), 100);
        assert_eq!(outcomes[50], Outcome::Waits);
        foreign.execute("ROLLBACK").await.unwrap();
        world.done(start(new_run(wanted, "k"))).await;
    });
}

#[test]
fn an_id_that_a_foreign_transaction_took_is_in_use_once_that_has_committed() {
    with_foreign(async |world, foreign| {
        foreign.execute("BEGIN").await.unwrap();
        // A digest as we write them, so that the row can be read.
        let taken = TAKES_THE_ID.replace("'\\x00'", "decode(repeat('00', 32), 'hex')");
        foreign.execute(sqlx::AssertSqlSafe(taken)).await.unwrap();
        let wanted = world.key().await;
        assert_eq!(world.one(start(new_run(wanted, "k"))).await, Outcome::Waits);
        foreign.execute("COMMIT").await.unwrap();
        let Outcome::IdInUse(current) = world.one(start(new_run(wanted, "k"))).await else { panic!("it is taken") };
        assert_eq!(current.run.0, 1_000_000);
    });
}

#[test]
fn a_run_that_a_foreign_transaction_has_locked_waits_alone() {
    with_foreign(async |world, foreign| {
        let (locked, free) = (world.started("locked").await, world.started("free").await);
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute("SELECT 1 FROM executions WHERE id = 'locked' FOR UPDATE").await.unwrap();
        let began = Instant::now();
        let outcomes = world.commit(vec![end(locked, 1, 0), end(free, 1, 0), send("locked", "m")]).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(outcomes, [Outcome::Waits, Outcome::Done, Outcome::Waits]);
        foreign.execute("COMMIT").await.unwrap();
        world.done(end(locked, 1, 0)).await;
    });
}

/// Two nodes on one schema.
pub(crate) async fn two(schema: &Schema) -> [World; 2] {
    let first = World::new(Box::new(schema.open().await)).await;
    let mut second = World { store: Box::new(schema.open().await), incarnation: incarnation(2), now: 1_000 };
    second.store.register(&node(second.incarnation, 1_000)).await.unwrap();
    [first, second]
}

/// How many deadlocks the server has ended in this database.
async fn deadlocks(foreign: &mut PgConnection) -> i64 {
    foreign.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .fetch_one(foreign)
        .await
        .unwrap()
}

#[test]
fn two_nodes_that_forget_each_others_shared_results_while_those_end_wait_for_no_deadlock() {
    block_on(async {
        let schema = Schema::fresh();
        let mut foreign = schema.foreign().await;
        let before = deadlocks(&mut foreign).await;
        let [mut one, mut other] = two(&schema).await;
        for number in 0..20 {
            let mut batches = Vec::new();
            for (world, mine, theirs) in [(&mut one, 2 * number, 2 * number + 1), (&mut other, 2 * number + 1, 2 * number)] {
                let run = world.started(&format!("r{mine}")).await;
                let asks = |step| Turn { memos: vec![entry(key(mine), 1, step)], ..turn(run, 1, Then::Hold) };
                world.done(Item::Turn(Arc::new(asks(MemoStep::Ask(1))))).await;
                world.done(item(change(key(mine), None, MemoThen::Held(ask(run, 1), 7), vec![ask(run, 1)]))).await;
                let ends = Turn { memos: vec![entry(key(mine), 1, MemoStep::Leave)], ..turn(run, 2, Then::Hold) };
                batches.push(vec![Item::Turn(Arc::new(ends)), item(change(key(theirs), Some(7), MemoThen::Gone, vec![]))]);
            }
            let (second, first) = (batches.pop().unwrap(), batches.pop().unwrap());
            let (first, second) = futures::join!(one.commit(first), other.commit(second));
            for outcomes in [first, second] {
                assert_eq!(outcomes[0], Outcome::Done);
                assert!(matches!(outcomes[1], Outcome::Done | Outcome::Conflict | Outcome::Waits), "{outcomes:?}");
            }
        }
        one.store.close().await.unwrap();
        other.store.close().await.unwrap();
        // The one that was felled says so at the end of its transaction, or of its session.
        assert_eq!(deadlocks(&mut foreign).await, before);
        schema.drop().await;
    });
}

#[test]
fn a_message_that_meets_a_passivation_or_an_end_on_another_node_is_never_slept_over() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut owner, mut sender] = two(&schema).await;
        let (mut moved, mut woken, mut refused) = (0, 0, 0);
        for number in 0..120 {
            let id = format!("r{number}");
            let run = owner.started(&id).await;
            let ends = number % 2 == 0;
            let leaves = if ends { end(run, 1, 0) } else { sleep(run, 1, None, 0) };
            // One or the other begins a little later each time, so that every step of the one meets every step of the other.
            let later = Duration::from_micros(number / 4 * 300);
            let (first, second) = if number / 2 % 2 == 0 { (Duration::ZERO, later) } else { (later, Duration::ZERO) };
            // Whoever has to wait for the other's lock is told so, and tries again.
            let leaving = async {
                tokio::time::sleep(first).await;
                loop {
                    match owner.one(leaves.clone()).await {
                        Outcome::Waits => {}
                        outcome => return outcome,
                    }
                }
            };
            let sending = async {
                tokio::time::sleep(second).await;
                loop {
                    match sender.send(&id, "m").await {
                        Outcome::Waits => {}
                        outcome => return outcome,
                    }
                }
            };
            let (left, sent) = futures::future::join(leaving, sending).await;
            let row = sender.summary(&id).await;
            match (left, sent) {
                (Outcome::InboxMoved, Outcome::Sent { owner: Some(_), .. }) => moved += 1,
                (Outcome::Done, Outcome::Sent { owner: None, .. }) if !ends => {
                    assert!(row.wake_at.is_some(), "{id} sleeps over a message");
                    woken += 1;
                }
                (Outcome::Done, Outcome::Ended(_)) if ends => refused += 1,
                other => panic!("{id}: {other:?}"),
            }
        }
        assert!(moved > 0 && woken + refused > 0, "both orders were met: {moved} {woken} {refused}");
        for world in [&mut owner, &mut sender] {
            world.store.close().await.unwrap();
        }
        schema.drop().await;
    });
}

#[test]
fn a_message_that_meets_a_continuation_on_another_node_is_in_the_inbox_of_the_next_run() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut owner, mut sender] = two(&schema).await;
        let (mut along, mut behind) = (0, 0);
        for number in 0..120 {
            let id = format!("r{number}");
            let run = owner.started(&id).await;
            let next = owner.key().await;
            let successor = Successor { run: next, record: record(next, 0), due: None, published: Vec::new() };
            let leaves = Item::Turn(Arc::new(turn(run, 1, Then::Continue(Box::new(successor)))));
            let later = Duration::from_micros(number / 2 * 150);
            let (first, second) = if number % 2 == 0 { (Duration::ZERO, later) } else { (later, Duration::ZERO) };
            let continuing = async {
                tokio::time::sleep(first).await;
                while owner.one(leaves.clone()).await == Outcome::Waits {}
            };
            let sending = async {
                tokio::time::sleep(second).await;
                loop {
                    match sender.send(&id, "m").await {
                        Outcome::Waits => {}
                        Outcome::Sent { run, .. } => return run,
                        other => panic!("{id}: {other:?}"),
                    }
                }
            };
            let ((), got) = futures::future::join(continuing, sending).await;
            assert!(got == run || got == next);
            *(if got == run { &mut along } else { &mut behind }) += 1;
            let unread = sender.store.reader().inbox(next).await.unwrap().unread;
            assert_eq!(unread.iter().map(|unread| &*unread.message).collect::<Vec<_>>(), ["m"]);
            assert!(sender.store.reader().inbox(run).await.unwrap().unread.is_empty());
        }
        assert!(along > 0 && behind > 0, "both orders were met: {along} {behind}");
        for world in [&mut owner, &mut sender] {
            world.store.close().await.unwrap();
        }
        schema.drop().await;
    });
}

#[test]
fn a_callers_signal_that_waited_for_a_run_which_continued_goes_to_the_next_one() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Go;
    impl stent::Signal for Go {
        const NAME: &'static str = "go";
    }
    with_foreign(async |world, foreign| {
        let run = world.started("a").await;
        let next = world.key().await;
        let schema: (String,) = sqlx::query_as("SELECT current_schema()::text").fetch_one(&mut *foreign).await.unwrap();
        let server = crate::servers::Postgres::shared().url("postgres");
        let options = stent::store::postgres::PostgresOptions { schema: schema.0, ..Default::default() };
        let outbox = stent::store::postgres::Outbox::open(&server, options).await.unwrap();
        let mut caller = <PgConnection as sqlx::Connection>::connect(&server).await.unwrap();
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute("SELECT 1 FROM executions WHERE id = 'a' FOR UPDATE").await.unwrap();
        // As a node's commit does it, but for as long as it takes until the caller waits for its lock.
        let continues = async {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid IS NOT NULL";
            loop {
                let (waiting,): (i64,) = sqlx::query_as(waits).fetch_one(&mut *foreign).await.unwrap();
                if waiting > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let begins = format!(
                "UPDATE executions SET status = 9, owner = NULL, ended_at = 1 WHERE id = 'a';
                 INSERT INTO executions (run, id, run_no, workflow, version, status, epoch, claims, forced, priority, queue, tags,
                                         needs, created_at, input_digest, inbox_seq, format, wake_at)
                 SELECT {}, id, 2, workflow, version, 1, 0, 0, false, priority, queue, tags, needs, created_at, input_digest,
                        inbox_seq, format, 950 FROM executions WHERE id = 'a';
                 COMMIT",
                next.0
            );
            foreign.execute(sqlx::AssertSqlSafe(begins)).await.unwrap();
        };
        let signals = async {
            caller.execute("BEGIN").await.unwrap();
            outbox.signal(&mut caller, stent::SendSignal::new("a", &Go).message_id("m")).await.unwrap();
            caller.execute("COMMIT").await.unwrap();
        };
        futures::future::join(continues, signals).await;
        let unread = world.store.reader().inbox(next).await.unwrap().unread;
        assert_eq!(unread.iter().map(|unread| &*unread.message).collect::<Vec<_>>(), ["m"]);
        assert!(world.store.reader().inbox(run).await.unwrap().unread.is_empty());
        outbox.close().await;
    });
}

#[test]
fn what_a_writer_remembers_of_a_log_is_never_followed_twice_nor_behind_its_end() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut first, mut second] = two(&schema).await;
        let runs = [first.started("goes on").await, first.started("ends").await, first.started("is left alone").await];
        for run in runs {
            first.done(step(run, 1)).await;
        }
        second.done(step(runs[0], 2)).await;
        second.done(end(runs[1], 2, 0)).await;
        // It has written the rows before, and so does not look at them.
        assert_eq!(first.one(end(runs[1], 2, 0)).await, Outcome::Conflict, "it has ended");
        let outcomes = first.commit(runs.iter().map(|run| step(*run, 2)).collect()).await;
        assert_eq!(outcomes, [Outcome::Conflict, Outcome::Conflict, Outcome::Done]);
        assert_eq!(first.one(step(runs[1], 3)).await, Outcome::Conflict, "it has ended");
        first.done(step(runs[0], 3)).await;
        first.done(step(runs[2], 3)).await;
        first.send("goes on", "m").await;
        let consumes = |seq| Item::Turn(Arc::new(Turn { consumed: vec![seq], ..turn(runs[0], 4, Then::Hold) }));
        assert_eq!(first.one(consumes(2)).await, Outcome::MessageGone);
        first.done(consumes(1)).await;
        // A database of before the log lost its index by the order of commits.
        let mut foreign = schema.foreign().await;
        foreign.execute("ALTER TABLE events ADD COLUMN pos bigint GENERATED ALWAYS AS IDENTITY UNIQUE").await.unwrap();
        first.done(step(runs[0], 5)).await;
        drop(foreign);
        for world in [&mut first, &mut second] {
            world.store.close().await.unwrap();
        }
        schema.drop().await;
    });
}

#[test]
fn two_nodes_that_claim_at_once_never_get_the_same_run_and_leave_none() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut first, mut second] = two(&schema).await;
        for number in 0..200 {
            let run = first.key().await;
            first.done(enqueue(new_run(run, &format!("r{number}")))).await;
        }
        let mut all = Vec::new();
        while all.len() < 200 {
            let (a, b) = futures::future::join(first.claim(7, 7), second.claim(7, 7)).await;
            all.extend(a.claimed.into_iter().chain(b.claimed).map(|claimed| claimed.summary.run));
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
        for world in [&mut first, &mut second] {
            world.store.close().await.unwrap();
        }
        schema.drop().await;
    });
}

#[test]
fn what_a_foreign_transaction_is_known_to_hold_costs_those_beside_it_nothing_more() {
    with_foreign(async |world, foreign| {
        let locked = world.started("locked").await;
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute(TAKES_THE_ID).await.unwrap();
        foreign.execute("SELECT 1 FROM executions WHERE id = 'locked' FOR UPDATE").await.unwrap();
        let wanted = world.key().await;
        assert_eq!(world.commit(vec![start(new_run(wanted, "k")), end(locked, 1, 0)]).await, [Outcome::Waits, Outcome::Waits]);
        // From here on both are wanted again and again, by somebody who does not give up.
        let mut times = Vec::new();
        for round in 0..20 {
            let began = Instant::now();
            let mut items = vec![start(new_run(wanted, "k")), end(locked, 1, 0)];
            for number in 0..10 {
                let run = world.key().await;
                items.push(start(new_run(run, &format!("other-{round}-{number}"))));
            }
            let outcomes = world.commit(items).await;
            assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count(), 10);
            times.push(began.elapsed());
        }
        // Each would have to wait for a whole lock timeout of 100 ms otherwise; on a busy machine some take that long for other reasons.
        times.sort_unstable();
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
        foreign.execute("ROLLBACK").await.unwrap();
        assert_eq!(world.commit(vec![start(new_run(wanted, "k")), end(locked, 1, 0)]).await, [Outcome::Done, Outcome::Done]);
    });
}

#[test]
fn a_node_that_retires_frees_at_once_what_no_foreign_transaction_holds_and_a_sweep_frees_the_rest() {
    with_foreign(async |world, foreign| {
        for id in ["locked", "a", "b"] {
            world.started(id).await;
        }
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute("SELECT 1 FROM executions WHERE id = 'locked' FOR NO KEY UPDATE").await.unwrap();
        let began = Instant::now();
        assert_eq!(world.store.retire(world.incarnation, true, &[]).await.unwrap(), 2);
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        foreign.execute("COMMIT").await.unwrap();
        assert_eq!(world.summary("locked").await.owner, Some(world.incarnation));
        assert_eq!(world.store.sweep(Timestamp(2_000), 9).await.unwrap(), 1);
        assert_eq!(world.summary("locked").await.owner, None);
    });
}

#[test]
fn the_dead_are_forgotten_once_nothing_is_left_of_them() {
    with_foreign(async |world, foreign| {
        for number in 2..=5 {
            world.incarnation = incarnation(number);
            world.store.register(&node(world.incarnation, 1_000)).await.unwrap();
            world.started(&format!("of {number}")).await;
        }
        // They died and did not leave. Of 1 nothing is left, 2 and 3 own a run, 4 holds a permit of a queue, and 5 lives.
        foreign.execute("UPDATE nodes SET beat_at = (SELECT max(beat_at) FROM nodes)").await.unwrap();
        foreign.execute("UPDATE executions SET owner = 2 WHERE id = 'of 2'").await.unwrap();
        foreign.execute("UPDATE executions SET owner = 3 WHERE id = 'of 3'").await.unwrap();
        let task = "INSERT INTO tasks (run, position, attempt, rank, due_at, worker, queue, lane, activity, needs, body)
            VALUES (1, 1, 1, 0, 0, 4, '', '', '', '{}', '')";
        foreign.execute(task).await.unwrap();
        let listed =
            |nodes: Vec<stent::store::NodeRow>| nodes.iter().map(|node| node.incarnation.0.as_u128()).collect::<Vec<_>>();
        assert_eq!(listed(world.store.nodes().await.unwrap()), [2, 3, 5], "the living, and those to be swept");
        foreign.execute("UPDATE nodes SET beat_at = beat_at - 90000000000").await.unwrap();
        assert_eq!(listed(world.store.nodes().await.unwrap()), [1, 2, 3, 4, 5], "and those to be forgotten");
        assert_eq!(world.store.sweep(Timestamp(2_000), 9).await.unwrap(), 2);
        assert_eq!(listed(world.store.nodes().await.unwrap()), [2, 3, 4, 5], "not in the sweep that frees the last of theirs");
        world.store.sweep(Timestamp(2_000), 9).await.unwrap();
        assert_eq!(listed(world.store.nodes().await.unwrap()), [4, 5], "a permit is still out");
        let lanes = sqlx::query("SELECT DISTINCT node FROM node_lanes").fetch_all(&mut *foreign).await.unwrap();
        assert_eq!(lanes.len(), 2);
        foreign.execute("DELETE FROM tasks").await.unwrap();
        world.store.sweep(Timestamp(2_000), 9).await.unwrap();
        assert_eq!(listed(world.store.nodes().await.unwrap()), [5], "however old its beat");
        world.started("on").await;
    });
}

#[test]
fn a_caller_who_holds_many_runs_and_ids_costs_a_batch_one_transaction_and_a_few() {
    with_foreign(async |world, foreign| {
        let mut starts = Vec::new();
        for number in 0..600 {
            let run = world.key().await;
            starts.push(start(new_run(run, &format!("r{number}"))));
        }
        assert!(world.commit(starts).await.iter().all(|outcome| *outcome == Outcome::Done));
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute("SELECT 1 FROM executions FOR NO KEY UPDATE").await.unwrap();
        let sends = || (0..600).map(|number| send(&format!("r{number}"), "m")).collect::<Vec<_>>();
        let waits = |outcomes: Vec<Outcome>| outcomes.iter().all(|outcome| *outcome == Outcome::Waits);
        let began = Instant::now();
        assert!(waits(world.commit(sends()).await));
        let first = began.elapsed();
        // From here on all are known to be held.
        let began = Instant::now();
        assert!(waits(world.commit(sends()).await));
        assert!(began.elapsed() < first * 3 + Duration::from_millis(100), "{first:?} and {:?}", began.elapsed());
        // Of ids that it is about to take a few are tried at a time, and all in the end.
        let mut begins = Vec::new();
        for number in 0..20 {
            let taken =
                TAKES_THE_ID.replace("1000000", &format!("{}", 1_000_000 + number)).replace("'k'", &format!("'k{number}'"));
            foreign.execute(sqlx::AssertSqlSafe(taken)).await.unwrap();
            let run = world.key().await;
            begins.push(start(new_run(run, &format!("k{number}"))));
        }
        assert!(waits(world.commit(begins.clone()).await));
        assert!(waits(world.commit([begins.clone(), sends()].concat()).await));
        foreign.execute("ROLLBACK").await.unwrap();
        let mut begun = 0;
        for _ in 0..3 {
            let outcomes = world.commit(begins.clone()).await;
            begun += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        }
        assert_eq!(begun, 20, "each batch tries some, and comes to all of them");
        assert!(world.commit(sends()).await.iter().all(|outcome| matches!(outcome, Outcome::Sent { .. })));
    });
}

#[test]
fn a_turn_that_tells_a_run_that_a_foreign_transaction_has_locked_waits_alone_and_as_a_whole() {
    with_foreign(async |world, foreign| {
        let (locked, a, b) = (world.started("locked").await, world.started("a").await, world.started("b").await);
        let [x, y] = [world.key().await, world.key().await];
        foreign.execute("BEGIN").await.unwrap();
        foreign.execute("SELECT 1 FROM executions WHERE id = 'locked' FOR UPDATE").await.unwrap();
        let waiting = with(turn(a, 1, Then::Hold), vec![child(x, "x", 1)], vec![tell("b", "of a"), tell("locked", "m")]);
        let free = with(turn(b, 1, Then::Hold), vec![child(y, "y", 1)], vec![tell("a", "of b")]);
        let began = Instant::now();
        let batch = world.batch(vec![waiting.clone(), free]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(answer.outcomes, [Outcome::Waits, Outcome::Done]);
        assert_eq!(answer.told.iter().map(|told| (told.run, told.unread.seq)).collect::<Vec<_>>(), [(a, 1)]);
        assert!(world.store.reader().find("x", None).await.unwrap().is_none());
        assert_eq!(world.one(waiting.clone()).await, Outcome::Waits, "it is known by now that somebody holds it");
        foreign.execute("COMMIT").await.unwrap();
        let batch = world.batch(vec![waiting]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.told.iter().map(|told| (told.run, told.unread.seq)).collect::<Vec<_>>(), [(b, 1), (locked, 1)]);
        assert_eq!(world.commit(vec![end(a, 2, 1), end(b, 2, 1), end(locked, 1, 1)]).await, [const { Outcome::Done }; 3]);
    });
}

#[test]
fn a_turn_whose_child_a_foreign_transaction_is_about_to_begin_waits_alone_and_hears_how_that_ended() {
    for commits in [false, true] {
        with_foreign(async |world, foreign| {
            let (a, b) = (world.started("a").await, world.started("b").await);
            let [x, y, k] = [world.key().await, world.key().await, world.key().await];
            foreign.execute("BEGIN").await.unwrap();
            let taken = TAKES_THE_ID.replace("'\\x00'", "decode(repeat('00', 32), 'hex')");
            foreign.execute(sqlx::AssertSqlSafe(taken)).await.unwrap();
            let waiting = with(turn(a, 1, Then::Hold), vec![child(x, "x", 1), child(k, "k", 2)], vec![tell("b", "m")]);
            let free = with(turn(b, 1, Then::Hold), vec![child(y, "y", 1)], vec![tell("a", "m")]);
            let began = Instant::now();
            assert_eq!(world.commit(vec![waiting.clone(), free]).await, [Outcome::Waits, Outcome::Done]);
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert_eq!(world.commit(vec![waiting.clone(), step(b, 2)]).await, [Outcome::Waits, Outcome::Done]);
            assert!(world.store.reader().find("x", None).await.unwrap().is_none());
            foreign.execute(if commits { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
            let batch = world.batch(vec![waiting]);
            let answer = world.store.commit(&batch).await.unwrap();
            assert_eq!(answer.outcomes, [Outcome::Done]);
            let told: Vec<_> = answer.told.iter().map(|told| (told.run, told.unread.seq)).collect();
            assert_eq!(told, if commits { vec![(a, 2), (b, 1)] } else { vec![(b, 1)] });
            assert_eq!(world.summary("k").await.run == k, !commits);
            assert_eq!(world.summary("x").await.run, x);
        });
    }
}

#[test]
fn a_run_of_another_node_that_is_told_something_neither_ends_nor_sleeps_over_it() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut first, mut second] = two(&schema).await;
        let from = first.started("from").await;
        let (mut owners, mut moved, mut woken, mut dropped) = (0, 0, 0, 0);
        for number in 0..80 {
            let id = format!("r{number}");
            let run = second.started(&id).await;
            second.done(step(run, 1)).await;
            let ends = number % 2 == 0;
            let leaves = if ends { end(run, 2, 0) } else { sleep(run, 2, None, 0) };
            let tells = with(turn(from, number + 1, Then::Hold), Vec::new(), vec![tell(&id, "m")]);
            let later = Duration::from_micros(u64::from(number / 4) * 300);
            let (a, b) = if number / 2 % 2 == 0 { (Duration::ZERO, later) } else { (later, Duration::ZERO) };
            let leaving = async {
                tokio::time::sleep(a).await;
                loop {
                    match second.one(leaves.clone()).await {
                        Outcome::Waits => {}
                        outcome => return outcome,
                    }
                }
            };
            let telling = async {
                tokio::time::sleep(b).await;
                loop {
                    let batch = first.batch(vec![tells.clone()]);
                    let answer = first.store.commit(&batch).await.unwrap();
                    match answer.outcomes[0] {
                        Outcome::Waits => {}
                        ref outcome => {
                            assert_eq!(*outcome, Outcome::Done);
                            return answer.told;
                        }
                    }
                }
            };
            let (left, told) = futures::future::join(leaving, telling).await;
            let owner = told.first().map(|told| told.owner);
            let row = first.summary(&id).await;
            match (left, owner) {
                (Outcome::InboxMoved, Some(Some(owner))) => {
                    assert_eq!(owner, incarnation(2));
                    (owners, moved) = (owners + 1, moved + 1);
                }
                (Outcome::Done, Some(None)) if !ends => {
                    assert!(row.wake_at.is_some(), "{id} sleeps over a message");
                    woken += 1;
                }
                (Outcome::Done, None) if ends => dropped += 1,
                other => panic!("{id}: {other:?}"),
            }
        }
        assert!(owners > 0 && moved > 0 && woken + dropped > 0, "both orders were met: {moved} {woken} {dropped}");
        for world in [&mut first, &mut second] {
            world.store.close().await.unwrap();
        }
        schema.drop().await;
    });
}
