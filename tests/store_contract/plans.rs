//! What PostgreSQL's planner makes of our statements when it knows least: an empty table that will grow, or a large one of
//! which no statistics were ever gathered. Right after a start, or behind any invalidation, plans are made in just that state.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Executor, PgConnection, Row};
use stent::{
    kernel::{
        id::RunKey,
        memo::{MEMO_KEY_BYTES, MemoKey},
        time::Timestamp,
    },
    store::{Item, MemoChange, MemoStep, MemoThen, Queue, Successor, TaskRequest, Then, Turn},
};

use crate::{
    kit::*,
    memos::{ask, change, entry, item, kept},
    others::{child, tell, with},
};

const MANY: i64 = 20_000;

/// Runs that have ended, with a row of log each.
const FILL: &str = "
    INSERT INTO executions (run, id, run_no, workflow, version, status, epoch, claims, forced, priority, queue, tags, needs,
                            created_at, ended_at, input_digest, inbox_seq, format)
    SELECT 1000000 + n, 'old-' || n, 1, 'flow', 1, 4, 1, 0, false, 0, '', '{}', '{}', 900, 900, '\\x00', 0, 1
    FROM generate_series(1, 20000) n;
    INSERT INTO events (run, commit_no, digest, body) SELECT 1000000 + n, 0, '\\x00', '\\x00' FROM generate_series(1, 20000) n;
    INSERT INTO memos (key, stamp, run, position, ask) SELECT decode(lpad(to_hex(n), 96, '0'), 'hex'), n, 1000000 + n, 1, 1
    FROM generate_series(1, 20000) n;
    INSERT INTO memo_asks (run, position, ask, key) SELECT 2000000 + n, 1, 1, decode(lpad(to_hex(n), 96, '0'), 'hex')
    FROM generate_series(1, 20000) n";

/// A hundred thousand tasks of one key, and behind them ten of each of fifty keys.
const WAIT: &str = "
    INSERT INTO tasks (run, position, attempt, rank, due_at, queue, lane, activity, needs, body)
    SELECT 1000000 + n, 1, 1, n, 900, 'q', 'hot', 'act', '{}', '\\x00' FROM generate_series(1, 100000) n;
    INSERT INTO tasks (run, position, attempt, rank, due_at, queue, lane, activity, needs, body)
    SELECT 2000000 + n, 1, 1, 1000000 + n, 900, 'q', 'k' || n % 50, 'act', '{}', '\\x00' FROM generate_series(1, 500) n";

/// Keeps statistics from being gathered, and makes every session plan anew.
const UNKNOWN: &str = "ALTER TABLE executions SET (autovacuum_enabled = false);
    ALTER TABLE events SET (autovacuum_enabled = false);
    ALTER TABLE memos SET (autovacuum_enabled = false);
    ALTER TABLE memo_asks SET (autovacuum_enabled = false)";

/// Rows inserted, and rows and index entries read, as far as sessions have told yet.
async fn told(foreign: &mut PgConnection) -> (i64, i64) {
    let row = foreign
        .fetch_one(
            "SELECT (SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE schemaname = current_schema())::bigint,
                    (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = current_schema())::bigint
                    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = current_schema())::bigint",
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

/// The life of a run: turns behind rows that their writer has written and behind others, a message and a heartbeat, a child, one
/// that cannot be begun and a message to another run, an end; and a run that is claimed.
async fn lap(world: &mut World, other: &mut World, number: i64) {
    let id = format!("new-{number}");
    let run = world.started(&id).await;
    other.done(step(run, 1)).await;
    world.done(step(run, 2)).await;
    world.done(heartbeat(run, 3, 1)).await;
    world.send(&id, "m").await;
    world.done(Item::Turn(Arc::new(Turn { consumed: vec![1], settled: vec![3], ..turn(run, 3, Then::Hold) }))).await;
    let [kid, refused] = [world.key().await, world.key().await];
    let starts = vec![child(kid, &format!("kid-{number}"), 1), child(refused, &id, 2)];
    world.done(with(turn(run, 4, Then::Hold), starts, vec![tell(&format!("kid-{number}"), "m"), tell(&id, "m")])).await;
    assert_eq!(world.claim(10, 10).await.claimed.len(), 1);
    share(world, run, kid, number).await;
    other.done(end(run, 7, 3)).await;
    world.done(end(kid, 3, 1)).await;
    let claimed = world.key().await;
    world.done(enqueue(new_run(claimed, &format!("claimed-{number}")))).await;
    assert_eq!(world.claim(10, 10).await.claimed.len(), 1);
    world.send(&format!("claimed-{number}"), "m").await;
    let next = world.key().await;
    let successor = Successor { run: next, record: record(next, 0), due: None, published: Vec::new() };
    world.done(Item::Turn(Arc::new(turn(claimed, 1, Then::Continue(Box::new(successor)))))).await;
    assert_eq!(world.claim(10, 10).await.claimed.len(), 1);
}

/// Two runs ask for a key; one is granted it, keeps its result and is forgotten; the other leaves.
async fn share(world: &mut World, run: RunKey, kid: RunKey, number: i64) {
    let mut key = MemoKey([0xee; MEMO_KEY_BYTES]);
    key.0[..8].copy_from_slice(&number.to_be_bytes());
    let sharing = |run, commit_no, step| {
        let memos = vec![entry(key, 1, step)];
        Item::Turn(Arc::new(Turn { memos, ..turn(run, commit_no, Then::Hold) }))
    };
    world.done(sharing(run, 5, MemoStep::Ask(1))).await;
    world.done(sharing(kid, 1, MemoStep::Ask(1))).await;
    let grant = change(key, None, MemoThen::Held(ask(run, 1), number), vec![ask(run, 1)]);
    world.done(item(MemoChange { tells: vec![tell("nobody", "m")], ..grant })).await;
    world.done(sharing(run, 6, MemoStep::Keep(kept("tea"), None))).await;
    let seen = world.store.reader().memo(key, 1).await.unwrap().row.map(|row| row.stamp);
    world.done(item(change(key, seen, MemoThen::Gone, vec![]))).await;
    world.done(sharing(kid, 2, MemoStep::Leave)).await;
}

/// Goes round until a session has told what it did, which it does about once a second. Returns how often, and what was read.
async fn laps(world: &mut World, other: &mut World, foreign: &mut PgConnection, first: i64) -> (i64, i64) {
    foreign.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let (inserted, read) = told(foreign).await;
    let (began, mut number) = (Instant::now(), first);
    loop {
        lap(world, other, number).await;
        number += 1;
        let now = told(foreign).await;
        if now.0 > inserted + 5 * 10 {
            return (number - first, now.1 - read);
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the sessions never told what they did");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_commit_reads_what_it_is_about_and_not_a_whole_table_whenever_its_plan_was_made() {
    block_on(async {
        let schema = Schema::fresh();
        let [mut world, mut other] = crate::foreign::two(&schema).await;
        let mut foreign = schema.foreign().await;
        foreign.execute(UNKNOWN).await.unwrap();
        lap(&mut world, &mut other, 0).await;
        foreign.execute(FILL).await.unwrap();
        let (count, read) = laps(&mut world, &mut other, &mut foreign, 1).await;
        assert!(read < count * MANY / 10, "plans of empty tables: {count} laps read {read} rows");
        foreign.execute(UNKNOWN).await.unwrap();
        let (count, read) = laps(&mut world, &mut other, &mut foreign, 10_000).await;
        assert!(read < count * MANY / 10, "plans of large tables: {count} laps read {read} rows");
        world.store.close().await.unwrap();
        other.store.close().await.unwrap();
        drop(foreign);
        schema.drop().await;
    });
}

#[test]
fn a_claim_behind_a_hundred_thousand_tasks_of_a_full_key_reads_what_it_takes_and_not_the_line() {
    block_on(async {
        let schema = Schema::fresh();
        let mut world = World::new(Box::new(schema.open().await)).await;
        let mut foreign = schema.foreign().await;
        world.store.declare_queues(&[Queue::named("q").per_key(1)]).await.unwrap();
        foreign.execute("ALTER TABLE tasks SET (autovacuum_enabled = false)").await.unwrap();
        let task = "INSERT INTO tasks (run, position, attempt, rank, due_at, queue, lane, activity, needs, body) \
                    VALUES (1, 1, 1, 0, 900, 'q', 'first', 'act', '{}', '\\x00')";
        foreign.execute(task).await.unwrap();
        let wish = TaskRequest {
            by: world.incarnation,
            now: Timestamp(world.now + 1_000_000),
            limit: 1_000,
            activities: vec!["act".into()],
            queues: None,
            tags: Vec::new(),
        };
        let first = world.store.take_tasks(wish.clone()).await.unwrap();
        assert_eq!(first.tasks.len(), 1);
        foreign.execute(WAIT).await.unwrap();
        foreign.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let (_, read) = told(&mut foreign).await;
        let taken = world.store.take_tasks(wish.clone()).await.unwrap();
        assert_eq!(taken.tasks.len(), 51, "one of each key");
        let (began, mut looks) = (Instant::now(), 1);
        // A session tells what it did about once a second; until then it looks again, and finds every key full.
        let read = loop {
            assert!(world.store.take_tasks(wish.clone()).await.unwrap().tasks.is_empty());
            looks += 1;
            let now = told(&mut foreign).await;
            if now.1 > read + 51 {
                break now.1 - read;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the session never told what it did");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(read < 20_000 + 500 * looks, "{looks} looks read {read} rows");
        world.store.close().await.unwrap();
        drop(foreign);
        schema.drop().await;
    });
}
