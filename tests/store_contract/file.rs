//! What only a store in a file can get wrong: who may open it, what survives, and what a full disk does.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{
    kernel::{id::RunKey, payload::Payload, time::Timestamp},
    store::{
        Batch, Durability, Item, Message, Outcome, Store, StoreError,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

use crate::kit::*;

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    let busy_timeout = std::time::Duration::from_millis(50);
    SqliteStore::open(path, SqliteOptions { busy_timeout, ..SqliteOptions::default() }).await
}

async fn foreign(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

/// Runs a case with the path of a database that is not there yet.
fn with_path(case: impl AsyncFn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    block_on(case(&folder.path().join("stent.db")));
}

#[test]
fn a_process_that_shares_the_database_with_nobody_is_named_by_its_pid() {
    with_path(async |path| {
        // What a release did that knew of no other process.
        let lock = std::fs::File::create(path.with_file_name("stent.db.lock")).unwrap();
        lock.lock().unwrap();
        let refused = open(path).await;
        assert!(matches!(&refused, Err(StoreError::InUse { pid, .. }) if *pid == std::process::id()), "{refused:?}");
        std::os::unix::fs::symlink(path, path.with_file_name("link.db")).unwrap();
        // The file has to be there for its other name to be found out.
        std::fs::write(path, "").unwrap();
        let refused = open(&path.with_file_name("link.db")).await;
        assert!(matches!(refused, Err(StoreError::InUse { .. })), "by another name: {refused:?}");
        lock.unlock().unwrap();
        open(path).await.unwrap();
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    with_path(async |path| {
        let mut world = World::new(Box::new(open(path).await.unwrap())).await;
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        world.send("a", "x").await;
        let before = world.store.reader().snapshot().await.unwrap();
        // What a kill leaves on the disk: the files as they are while the store is open, the log not yet brought in.
        let copy = tempfile::tempdir().unwrap();
        for name in ["stent.db", "stent.db-wal"] {
            std::fs::copy(path.with_file_name(name), copy.path().join(name)).unwrap();
        }
        drop(world);
        let mut store = open(&copy.path().join("stent.db")).await.unwrap();
        let wal = std::fs::metadata(copy.path().join("stent.db-wal")).map(|wal| wal.len()).unwrap_or(0);
        assert_eq!(wal, 0, "the log was brought into the database before anything else");
        assert_eq!(store.reader().snapshot().await.unwrap(), before);
        assert_eq!(store.register(&node(incarnation(2), 2_000)).await.unwrap(), 1);
        assert!(store.reserve_keys(1).await.unwrap() > run);
    });
}

#[test]
fn a_log_that_was_cut_off_loses_whole_commits_from_its_end_and_no_half_of_one() {
    with_path(async |path| {
        let mut world = World::new(Box::new(open(path).await.unwrap())).await;
        let run = world.started("a").await;
        for commit_no in 1..40 {
            world.commit(vec![step(run, commit_no), send("a", &commit_no.to_string())]).await;
        }
        let wal = std::fs::read(path.with_file_name("stent.db-wal")).unwrap();
        for cut in [wal.len() / 7, wal.len() / 2, wal.len() - 1] {
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(path, copy.path().join("stent.db")).unwrap();
            std::fs::write(copy.path().join("stent.db-wal"), &wal[..cut]).unwrap();
            let store = open(&copy.path().join("stent.db")).await.unwrap();
            let history = store.reader().history(run, 0, 1_000).await.unwrap();
            let numbers: Vec<u32> = history.iter().map(|(commit_no, _)| *commit_no).collect();
            assert_eq!(numbers, (0..u32::try_from(history.len()).unwrap()).collect::<Vec<_>>());
            assert!(history.len() < 40);
            let inbox = store.reader().inbox(run).await.unwrap();
            assert_eq!(inbox.unread.len() + usize::from(!history.is_empty()), history.len(), "both parts of each commit");
        }
    });
}

#[test]
fn a_newer_schema_is_refused_by_number_and_left_alone() {
    with_path(async |path| {
        open(path).await.unwrap().close().await.unwrap();
        let mut other = foreign(path).await;
        other.execute("INSERT INTO _stent_migrations VALUES (10, 0)").await.unwrap();
        other.close().await.unwrap();
        let refused = open(path).await;
        assert!(matches!(refused, Err(StoreError::NewerSchema { found: 10, .. })), "{refused:?}");
        assert!(matches!(open(path).await, Err(StoreError::NewerSchema { .. })), "and the lock is free again");
    });
}

#[test]
fn a_file_that_is_no_database_or_not_ours_is_refused_and_left_alone() {
    with_path(async |path| {
        let text = "this is a letter to my mother, and certainly no database. ".repeat(40);
        std::fs::write(path, &text).unwrap();
        let refused = open(path).await;
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        let theirs = path.with_file_name("theirs.db");
        let mut other = foreign(&theirs).await;
        other.execute("CREATE TABLE recipes (name)").await.unwrap();
        other.close().await.unwrap();
        let before = std::fs::read(&theirs).unwrap();
        let refused = open(&theirs).await;
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&theirs).unwrap(), before);
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    with_path(async |path| {
        let nowhere = path.with_file_name("no").join("such").join("stent.db");
        assert!(matches!(open(&nowhere).await, Err(StoreError::Io { .. })));
        let folder = path.with_file_name("folder");
        std::fs::create_dir(&folder).unwrap();
        let refused = open(&folder).await;
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    });
}

#[test]
fn a_lock_of_another_program_makes_the_store_busy_and_nothing_is_written() {
    with_path(async |path| {
        let mut world = World::new(Box::new(open(path).await.unwrap())).await;
        let run = world.started("a").await;
        let mut other = foreign(path).await;
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        let batch = world.batch(vec![step(run, 1)]);
        let busy = world.store.commit(&batch).await;
        assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
        assert_eq!(world.store.reader().history(run, 0, 9).await.unwrap().len(), 1, "reading goes on");
        other.execute("ROLLBACK").await.unwrap();
        assert_eq!(world.store.commit(&batch).await.unwrap().outcomes, [Outcome::Done]);
    });
}

#[test]
fn a_full_disk_refuses_the_batch_whole_and_goes_on_when_there_is_room() {
    with_path(async |path| {
        let options = SqliteOptions { max_pages: Some(60), durability: Durability::Normal, ..SqliteOptions::default() };
        let store = SqliteStore::open(path, options).await.unwrap();
        let mut world = World::new(Box::new(store)).await;
        let run = world.started("a").await;
        world.started("b").await;
        let long = |n: u64| {
            let Item::Send(message) = send("a", &n.to_string()) else { unreachable!() };
            let body = stent::kernel::event::MessageBody::Signal {
                name: "go".into(),
                payload: Payload::encode(&"x".repeat(20_000), "a signal").unwrap(),
            };
            Item::Send(Message { body, ..message })
        };
        let mut sent = 0;
        let refused = loop {
            let batch = world.batch(vec![send("b", &sent.to_string()), long(sent)]);
            let before = world.store.reader().snapshot().await.unwrap();
            match world.store.commit(&batch).await {
                Ok(answer) => assert!(answer.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Sent { .. }))),
                Err(error) => {
                    assert_eq!(world.store.reader().snapshot().await.unwrap(), before, "neither of both");
                    break error;
                }
            }
            sent += 1;
            assert!(sent < 1_000);
        };
        assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
        // The end drops what is unread and so makes room.
        world.done(end(run, 1, sent)).await;
        world.started("c").await;
        for n in 0..sent {
            world.commit(vec![send("c", &n.to_string())]).await;
        }
    });
}

#[test]
fn a_commit_that_was_given_up_leaves_the_store_usable_and_nothing_half_done() {
    with_path(async |path| {
        let mut world = World::new(Box::new(open(path).await.unwrap())).await;
        let run = world.started("a").await;
        let mut length = 1;
        for polls in 0..40 {
            let batch = world.batch(vec![step(run, length), send("a", &format!("m{length}"))]);
            let mut commit = world.store.commit(&batch);
            for _ in 0..polls {
                let once = futures::future::poll_fn(|cx| std::task::Poll::Ready(commit.as_mut().poll(cx)));
                if once.await.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(commit);
            // The next commit runs behind whatever the given up one has begun.
            world.commit(Vec::new()).await;
            let history = world.store.reader().history(run, 0, 1_000).await.unwrap();
            let inbox = world.store.reader().inbox(run).await.unwrap();
            assert_eq!(history.len(), inbox.unread.len() + 1, "after {polls} polls");
            length = u32::try_from(history.len()).unwrap();
        }
        world.done(step(run, length)).await;
    });
}

#[test]
fn a_dropped_store_can_be_opened_again() {
    with_path(async |path| {
        for round in 0..5_u128 {
            let mut store = open(path).await.unwrap();
            let freed = store.register(&node(incarnation(round), 1_000)).await.unwrap();
            assert_eq!(freed, u64::from(round > 0));
            let key = store.reserve_keys(1).await.unwrap();
            let items =
                if round == 0 { vec![start(new_run(key, "a"))] } else { vec![step(RunKey(1), u32::try_from(round).unwrap())] };
            let batch = Batch { incarnation: incarnation(round), now: Timestamp(1_000), renew: true, items, claim: None };
            assert_eq!(store.commit(&batch).await.unwrap().outcomes, [Outcome::Done]);
            // Owned again, so that the next round has something to free.
            let claim = stent::store::ClaimRequest {
                limit: 1,
                ahead: NOT_AHEAD,
                forced_limit: 1,
                build: BUILD,
                workflows: vec![("flow".into(), 1)],
                queues: None,
                tags: Vec::new(),
            };
            let batch = Batch {
                incarnation: incarnation(round),
                now: Timestamp(1_000),
                renew: false,
                items: Vec::new(),
                claim: Some(claim),
            };
            assert_eq!(store.commit(&batch).await.unwrap().claimed.len(), usize::from(round > 0), "round {round}");
        }
    });
}
