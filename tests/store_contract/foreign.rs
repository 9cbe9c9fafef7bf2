//! Transactions of other programs on the same PostgreSQL server: one that holds an id or a run for long makes nobody wait
//! but those who want just that (PROTOCOL, item 8), and what it decides is believed once it has ended.

use std::time::{Duration, Instant};

use sqlx::{Executor, PgConnection};
use stent::store::Outcome;

use crate::kit::*;

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
        let began = Instant::now();
        for round in 0..20 {
            let mut items = vec![start(new_run(wanted, "k")), end(locked, 1, 0)];
            for number in 0..10 {
                let run = world.key().await;
                items.push(start(new_run(run, &format!("other-{round}-{number}"))));
            }
            let outcomes = world.commit(items).await;
            assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count(), 10);
        }
        // Each would have to wait for a whole lock timeout of 100 ms otherwise.
        assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
        foreign.execute("ROLLBACK").await.unwrap();
        assert_eq!(world.commit(vec![start(new_run(wanted, "k")), end(locked, 1, 0)]).await, [Outcome::Done, Outcome::Done]);
    });
}
