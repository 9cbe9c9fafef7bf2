//! One bad item fails alone. Kinds of poison that are decided as data stand beside one that no decision foresees: the
//! database itself refuses a row, here by a trigger that another program has put there.

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Executor, sqlite::SqliteConnectOptions};
use stent::{
    kernel::id::RunKey,
    store::{Batch, ClaimRequest, Item, NewRun, Outcome, Successor, Then},
};

use crate::{
    kit::*,
    others::{child, tell, with},
};

#[test]
fn poisoned_items_in_a_batch_of_500_fail_alone_each_with_its_own_outcome() {
    on_each_store(async |world| {
        let mut held = Vec::new();
        for n in 0..250 {
            held.push(world.started(&format!("held-{n}")).await);
        }
        let first = world.store.reserve_keys(300).await.unwrap().0;
        let mut items: Vec<Item> = held.iter().map(|run| step(*run, 1)).collect();
        items.extend((0..250).map(|n| start(new_run(RunKey(first + n), &format!("new-{n}")))));
        world.send("held-3", "early").await;
        let before = world.store.reader().snapshot().await.unwrap();

        let replaced = [20, 70, 120, 3, 300, 440, 480, 499];
        items[20] = step(held[20], 2);
        let mut vanished = turn(held[70], 1, Then::Hold);
        vanished.consumed = vec![1];
        items[70] = Item::Turn(Arc::new(vanished));
        items[120] = release(held[120], 9, None);
        items[3] = end(held[3], 1, 0);
        items[300] = start(new_run(RunKey(first + 299), "held-0"));
        items[440] = send("nobody", "m");
        items[480] = start(NewRun { queue: "\0".into(), ..new_run(RunKey(first + 298), "nul") });
        items[499] = heartbeat(RunKey(first + 297), 1, 1);
        let outcomes = world.commit(items).await;

        for (place, outcome) in outcomes.iter().enumerate() {
            if !replaced.contains(&place) {
                assert_eq!(*outcome, Outcome::Done, "item {place}");
            }
        }
        assert_eq!(outcomes[20], Outcome::Conflict);
        assert_eq!(outcomes[70], Outcome::MessageGone);
        assert_eq!(outcomes[120], Outcome::NotOwned);
        assert_eq!(outcomes[3], Outcome::InboxMoved);
        assert!(matches!(&outcomes[300], Outcome::IdInUse(row) if row.run == held[0]));
        assert_eq!(outcomes[440], Outcome::Unknown);
        assert!(matches!(outcomes[480], Outcome::Refused(_)));
        assert_eq!(outcomes[499], Outcome::NotOwned);

        let after = world.store.reader().snapshot().await.unwrap();
        // 246 steps and 246 starts of a run's row and an event: not one row of the eight.
        assert_eq!(after.len(), before.len() + 246 + 2 * 246);
        for place in [20, 70, 120, 3] {
            let lines = |all: &[String]| {
                let of = format!(" held-{place}/1 ");
                all.iter().filter(|line| line.contains(&of)).cloned().collect::<Vec<_>>()
            };
            assert_eq!(lines(&before), lines(&after));
        }
    });
}

async fn with_trigger(trigger: &'static str, case: impl AsyncFn(&mut World)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    let mut world = World::new(Box::new(sqlite(&path).await)).await;
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    other.execute(trigger).await.unwrap();
    other.close().await.unwrap();
    case(&mut world).await;
    world.store.close().await.unwrap();
}

async fn only_the_middle_one_fails(world: &mut World) {
    let [a, b, c] = [world.started("a").await, world.started("b").await, world.started("c").await];
    let mut poison = turn(b, 1, Then::End { status: stent::store::Status::Completed, seen: Some(0) });
    poison.record.body = b"poison".as_slice().into();
    let claim = ClaimRequest {
        limit: 9,
        ahead: NOT_AHEAD,
        forced_limit: 9,
        build: BUILD,
        workflows: vec![("flow".into(), 1)],
        queues: None,
        tags: Vec::new(),
    };
    let items = vec![step(a, 1), Item::Turn(Arc::new(poison)), sleep(c, 1, Some(1), 0), send("b", "x"), step(RunKey(99), 1)];
    let batch = Batch { claim: Some(claim), renew: true, ..world.batch(items) };
    let answer = world.store.commit(&batch).await.unwrap();
    assert_eq!(answer.outcomes[0], Outcome::Done);
    assert!(matches!(&answer.outcomes[1], Outcome::Refused(_)), "{answer:?}");
    assert_eq!(answer.outcomes[2], Outcome::Done);
    assert_eq!(answer.outcomes[3], Outcome::Sent { seq: 1, run: b, owner: Some(incarnation(1)) });
    assert_eq!(answer.outcomes[4], Outcome::Conflict);
    assert_eq!(answer.claimed.len(), 1);
    assert_eq!(world.summary("b").await.ended_at, None);
    assert_eq!(world.rows("event b/1").await.len(), 1);
    assert!(world.rows("node").await[0].ends_with("beat=1"));
    world.done(step(b, 1)).await;
}

#[test]
fn an_item_whose_row_the_database_refuses_fails_alone() {
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.body = CAST('poison' AS BLOB)
                   BEGIN SELECT RAISE(ABORT, 'it is poison'); END";
    block_on(with_trigger(trigger, only_the_middle_one_fails));
}

#[test]
fn an_item_whose_row_silently_vanishes_is_noticed_before_the_commit() {
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.body = CAST('poison' AS BLOB)
                   BEGIN SELECT RAISE(IGNORE); END";
    block_on(with_trigger(trigger, only_the_middle_one_fails));
}

#[test]
fn an_item_whose_second_statement_fails_leaves_nothing_of_its_first() {
    let trigger = "CREATE TRIGGER poison BEFORE UPDATE ON executions WHEN NEW.id = 'b' AND NEW.ended_at IS NOT NULL
                   BEGIN SELECT RAISE(ABORT, 'it is poison'); END";
    block_on(with_trigger(trigger, only_the_middle_one_fails));
}

/// A run that continues beside poison does so whole, and one whose successor is poison does not at all.
async fn who_continues_does_so_whole_or_not_at_all(world: &mut World) {
    let [a, b] = [world.started("a").await, world.started("b").await];
    let [x, y] = [world.key().await, world.key().await];
    let going_on = |run, next: RunKey, body: &'static [u8]| {
        let mut successor = Successor { run: next, record: record(next, 0), due: None, published: Vec::new() };
        successor.record.body = body.into();
        Item::Turn(Arc::new(turn(run, 1, Then::Continue(Box::new(successor)))))
    };
    assert!(matches!(world.send("a", "one").await, Outcome::Sent { .. }));
    assert!(matches!(world.send("b", "two").await, Outcome::Sent { .. }));
    let outcomes =
        world.commit(vec![send("b", "four"), going_on(b, y, b"poison"), going_on(a, x, b"sound"), send("a", "three")]).await;
    assert_eq!(outcomes[0], Outcome::Sent { seq: 2, run: b, owner: Some(incarnation(1)) });
    assert!(matches!(&outcomes[1], Outcome::Refused(_)), "{outcomes:?}");
    assert_eq!(outcomes[2..], [Outcome::Done, Outcome::Sent { seq: 2, run: x, owner: None }]);
    assert_eq!((world.summary("a").await.run, world.summary("b").await.run), (x, b));
    let inbox = world.store.reader().inbox(x).await.unwrap();
    assert_eq!(inbox.unread.iter().map(|unread| &*unread.message).collect::<Vec<_>>(), ["one", "three"]);
    assert_eq!(world.store.reader().inbox(b).await.unwrap().unread.len(), 2);
    world.done(step(b, 1)).await;
}

#[test]
fn a_run_whose_successor_the_database_refuses_does_not_end_and_others_continue() {
    for refuses in ["ABORT, 'it is poison'", "IGNORE"] {
        let trigger = format!(
            "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.body = CAST('poison' AS BLOB)
             BEGIN SELECT RAISE({refuses}); END"
        );
        block_on(with_trigger(trigger.leak(), who_continues_does_so_whole_or_not_at_all));
    }
}

#[test]
#[cfg(feature = "postgres")]
fn a_run_whose_successor_the_server_refuses_does_not_end_and_others_continue() {
    block_on(async {
        let schema = Schema::fresh();
        let mut world = World::new(Box::new(schema.open().await)).await;
        let trigger = "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF NEW.body = ''poison''::bytea THEN RAISE EXCEPTION ''it is poison''; END IF; RETURN NEW; END';
             CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION poison()";
        schema.foreign().await.execute(trigger).await.unwrap();
        who_continues_does_so_whole_or_not_at_all(&mut world).await;
        world.store.close().await.unwrap();
        schema.drop().await;
    });
}

/// Whose message, or whose child, the database refuses is refused with its turn, and with everything else that this does to others;
/// what other turns do to the same runs takes place as if it had never been there.
async fn only_the_turn_with_the_poison_fails(world: &mut World) {
    let [a, b, c] = [world.started("a").await, world.started("b").await, world.started("c").await];
    let [x, y, z] = [world.key().await, world.key().await, world.key().await];
    let last = turn(a, 1, Then::End { status: stent::store::Status::Completed, seen: Some(0) });
    let poison = with(last, vec![child(x, "x", 1), child(y, "poison", 2)], vec![tell("b", "one"), tell("b", "poison")]);
    let fine = with(turn(c, 1, Then::Hold), vec![child(z, "x", 1)], vec![tell("b", "two"), tell("a", "three")]);
    let batch = world.batch(vec![sleep(b, 1, None, 0), poison, fine, send("b", "four"), release(a, 1, None)]);
    let answer = world.store.commit(&batch).await.unwrap();
    assert_eq!(answer.outcomes[0], Outcome::Done);
    assert!(matches!(&answer.outcomes[1], Outcome::Refused(_)), "{answer:?}");
    assert_eq!(answer.outcomes[2..], [Outcome::Done, Outcome::Sent { seq: 2, run: b, owner: None }, Outcome::Done]);
    let told: Vec<_> = answer.told.iter().map(|told| (told.run, told.unread.seq, &*told.unread.message, told.owner)).collect();
    assert_eq!(told, [(b, 1, "two", None), (a, 1, "three", None)]);
    assert_eq!(world.summary("x").await.run, z, "the child of the one that was refused is not in its way");
    assert_eq!((world.summary("a").await.ended_at, world.rows("event a/1").await.len()), (None, 1));
    assert!(world.store.reader().find("poison", None).await.unwrap().is_none());
    assert_eq!(world.rows("inbox").await.len(), 3);
    assert_eq!(world.claim(9, 9).await.claimed.len(), 3);
    assert_eq!(world.one(end(b, 2, 0)).await, Outcome::InboxMoved);
    assert_eq!(world.commit(vec![end(a, 1, 1), end(b, 2, 2), end(z, 1, 0), step(c, 2)]).await, [const { Outcome::Done }; 4]);
}

#[test]
fn a_turn_whose_message_the_database_refuses_fails_alone_with_all_it_does_to_others() {
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON inbox WHEN NEW.message = 'poison'
                   BEGIN SELECT RAISE(ABORT, 'it is poison'); END";
    block_on(with_trigger(trigger, only_the_turn_with_the_poison_fails));
}

#[test]
fn a_turn_whose_child_the_database_refuses_fails_alone_with_all_it_does_to_others() {
    for refuses in ["ABORT, 'it is poison'", "IGNORE"] {
        let trigger = format!(
            "CREATE TRIGGER poison BEFORE INSERT ON executions WHEN NEW.id = 'poison' BEGIN SELECT RAISE({refuses}); END"
        );
        block_on(with_trigger(trigger.leak(), only_the_turn_with_the_poison_fails));
    }
}

#[test]
#[cfg(feature = "postgres")]
fn a_turn_whose_message_or_child_the_server_refuses_fails_alone_with_all_it_does_to_others() {
    for (table, column) in [("inbox", "message"), ("executions", "id")] {
        block_on(async {
            let schema = Schema::fresh();
            let mut world = World::new(Box::new(schema.open().await)).await;
            let trigger = format!(
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF NEW.{column} = ''poison'' THEN RAISE EXCEPTION ''it is poison''; END IF; RETURN NEW; END';
                 CREATE TRIGGER poison BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION poison()"
            );
            schema.foreign().await.execute(sqlx::AssertSqlSafe(trigger)).await.unwrap();
            only_the_turn_with_the_poison_fails(&mut world).await;
            world.store.close().await.unwrap();
            schema.drop().await;
        });
    }
}
