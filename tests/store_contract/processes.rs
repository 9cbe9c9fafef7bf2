//! Several stores on one file: what each knows of the others, and what it must not believe to know. Stores of one process
//! stand for processes of their own: they share nothing but the file and the locks beside it.

#![allow(clippy::print_stdout, reason = "what was measured is printed")]

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Barrier,
    time::{Duration, Instant},
};

use sqlx::Connection;
use stent::{
    kernel::{id::RunKey, time::Timestamp},
    store::{
        Batch, Item, NodeState, Outcome, Store, StoreError, Warden,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

use crate::kit::*;

/// Runs a case with two nodes on one file, `a` being the first.
fn with_two(case: impl AsyncFn(World, World, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    block_on(async { case(world(&path, 1).await, world(&path, 2).await, &path).await });
}

async fn world(path: &Path, number: u128) -> World {
    let mut store = sqlite(path).await;
    let freed = store.register(&node(incarnation(number), 1_000)).await.unwrap();
    assert_eq!(freed, 0, "nobody is dead");
    World { store: Box::new(store), incarnation: incarnation(number), now: 1_000 }
}

/// The files of nodes beside the database.
fn lives(path: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.to_str().unwrap().contains(".node-")).collect()
}

/// Takes the other node's work by force, as if its lease had run out.
async fn bury(world: &mut World, other: u128) -> u64 {
    let nodes = world.store.nodes().await.unwrap();
    let beat = nodes.iter().find(|node| node.incarnation == incarnation(other)).unwrap().beat;
    assert!(world.store.take_over(incarnation(other), beat).await.unwrap());
    world.store.sweep(Timestamp(world.now), 1_000).await.unwrap()
}

#[test]
fn two_nodes_live_beside_each_other_and_one_that_leaves_disturbs_nobody() {
    with_two(async |mut a, mut b, path| {
        let [x, y] = [a.started("x").await, b.started("y").await];
        assert_ne!(x, y);
        for world in [&mut a, &mut b] {
            let nodes = world.store.nodes().await.unwrap();
            assert!(nodes.iter().all(|node| node.state == NodeState::Live && !node.proved_dead), "{nodes:?}");
        }
        assert_eq!(lives(path).len(), 2);
        a.done(step(x, 1)).await;
        b.done(step(y, 1)).await;
        let key = a.key().await;
        assert!(matches!(a.one(start(new_run(key, "y"))).await, Outcome::IdInUse(_)));
        b.store.retire(b.incarnation, true, &[]).await.unwrap();
        b.store.close().await.unwrap();
        assert_eq!(lives(path).len(), 1, "it took its file along");
        a.done(step(x, 2)).await;
        assert_eq!(a.claim(9, 9).await.claimed[0].summary.run, y, "what it gave back");
        a.store.close().await.unwrap();
        let wal = std::fs::metadata(path.with_file_name("stent.db-wal")).map(|wal| wal.len()).unwrap_or(0);
        assert_eq!(wal, 0, "the last one brings the log in");
    });
}

#[test]
fn a_node_whose_process_is_gone_is_proved_dead_at_once_and_one_that_only_hangs_is_not() {
    with_two(async |mut a, b, path| {
        let of_b = |nodes: Vec<stent::store::NodeRow>| nodes.into_iter().find(|node| node.incarnation == incarnation(2)).unwrap();
        assert!(!of_b(a.store.nodes().await.unwrap()).proved_dead);
        drop(b);
        let row = of_b(a.store.nodes().await.unwrap());
        assert!(row.proved_dead && row.state == NodeState::Live);
        assert!(!a.store.take_over(incarnation(2), row.beat + 1).await.unwrap(), "it has beaten since");
        assert!(a.store.take_over(incarnation(2), row.beat).await.unwrap());
        assert_eq!(lives(path).len(), 1);
    });
}

#[test]
fn a_node_that_enters_frees_what_the_dead_owned_and_nothing_of_the_living() {
    with_two(async |mut a, mut b, path| {
        a.started("of the living").await;
        b.started("of the dead").await;
        drop(b);
        let mut c = sqlite(path).await;
        assert_eq!(c.register(&node(incarnation(3), 2_000)).await.unwrap(), 1);
        assert_eq!(a.summary("of the dead").await.owner, None);
        assert_eq!(a.summary("of the living").await.owner, Some(incarnation(1)));
    });
}

#[test]
fn a_message_of_another_process_keeps_a_run_from_ending_though_its_owner_believes_to_know_it() {
    with_two(async |mut a, mut b, _| {
        let run = a.started("x").await;
        a.done(step(run, 1)).await;
        a.done(step(run, 2)).await;
        // From here on `a` decides about this run from memory, in which its inbox is empty.
        assert!(matches!(b.send("x", "m").await, Outcome::Sent { seq: 1, .. }));
        assert_eq!(a.one(end(run, 3, 0)).await, Outcome::InboxMoved);
        a.done(step(run, 3)).await;
        a.done(end(run, 4, 1)).await;
    });
}

#[test]
fn what_another_process_took_over_and_moved_on_is_out_of_reach_for_the_one_that_hung() {
    with_two(async |mut a, mut b, _| {
        let run = a.started("x").await;
        a.done(step(run, 1)).await;
        let known = a.batch(vec![step(run, 2)]);
        assert_eq!(bury(&mut b, 1).await, 1);
        assert_eq!(b.claim(9, 9).await.claimed.len(), 1);
        b.done(step(run, 2)).await;
        let answer = a.store.commit(&known).await.unwrap();
        assert!(!answer.live && answer.outcomes == [Outcome::Fenced]);
        // Nor under a new life of its own.
        a.incarnation = incarnation(5);
        a.store.register(&node(incarnation(5), 1_000)).await.unwrap();
        assert_eq!(a.one(step(run, 2)).await, Outcome::Conflict);
        b.done(step(run, 3)).await;
    });
}

#[test]
fn a_renewal_tells_the_others_how_much_is_held_and_a_takeover_is_condemned_by_the_beat() {
    with_two(async |mut a, mut b, _| {
        a.store.hold(7);
        let batch = Batch { renew: true, ..a.batch(Vec::new()) };
        a.store.commit(&batch).await.unwrap();
        let row = b.store.nodes().await.unwrap().remove(0);
        assert_eq!((row.incarnation, row.beat, row.held), (incarnation(1), 1, 7));
        assert!(!b.store.take_over(incarnation(1), 0).await.unwrap());
        a.store.renew(a.incarnation, 9).await.unwrap();
        assert_eq!(b.store.nodes().await.unwrap()[0].held, 9);
    });
}

#[test]
fn runs_whose_acts_could_not_be_stopped_stay_while_their_process_lives_but_for_one_lease() {
    with_two(async |mut a, mut b, _| {
        let [x, y] = [a.started("x").await, a.started("y").await];
        a.done(step(x, 1)).await;
        assert_eq!(a.store.retire(a.incarnation, true, &[y]).await.unwrap(), 1);
        a.store.close().await.unwrap();
        assert_eq!(b.store.sweep(Timestamp(1_000), 9).await.unwrap(), 0);
        let mut c = World { store: b.store, incarnation: incarnation(3), now: 1_000 };
        assert_eq!(c.store.register(&node(incarnation(3), 1_000)).await.unwrap(), 0, "this process lives");
        let over = 1_000 + i64::try_from(LEASE.as_micros()).unwrap();
        assert_eq!(c.store.sweep(Timestamp(over), 9).await.unwrap(), 1);
    });
}

#[test]
fn keys_of_two_processes_never_meet() {
    with_two(async |mut a, mut b, _| {
        let mut all = Vec::new();
        for _ in 0..20 {
            for world in [&mut a, &mut b] {
                let first = world.store.reserve_keys(3).await.unwrap().0;
                all.extend(first..first + 3);
            }
        }
        assert!(all.is_sorted() && all.windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
    });
}

#[test]
fn who_opens_beside_others_empties_the_log_first_and_does_not_open_if_it_cannot() {
    with_two(async |mut a, b, path| {
        let run = a.started("x").await;
        a.done(step(run, 1)).await;
        let log = path.with_file_name("stent.db-wal");
        assert!(log.metadata().unwrap().len() > 0);
        let options = SqliteOptions { busy_timeout: Duration::from_millis(200), ..SqliteOptions::default() };
        // Somebody reads what was there before the newest of the log.
        let mut reads = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        for text in ["BEGIN", "SELECT count(*) FROM executions"] {
            sqlx::query(text).execute(&mut reads).await.unwrap();
        }
        a.done(step(run, 2)).await;
        let busy = SqliteStore::open(path, options.clone()).await.map(drop).unwrap_err();
        assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
        sqlx::query("ROLLBACK").execute(&mut reads).await.unwrap();
        let store = SqliteStore::open(path, options).await.unwrap();
        assert_eq!(log.metadata().unwrap().len(), 0, "nothing is built on what may not be on disk");
        a.done(step(run, 3)).await;
        drop((b, store));
    });
}

#[test]
fn processes_that_open_a_fresh_file_at_once_all_get_it() {
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stent.db");
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    block_on(async {
                        barrier.wait();
                        let mut world = world(path, number).await;
                        let run = world.started(&format!("run {number}")).await;
                        world.done(step(run, 1)).await;
                        world.store.retire(world.incarnation, true, &[]).await.unwrap();
                        world.store.close().await.unwrap();
                    });
                });
            }
        });
        block_on(async {
            let store = sqlite(&path).await;
            let runs = store.reader().snapshot().await.unwrap().iter().filter(|line| line.starts_with("run")).count();
            assert_eq!(runs, 4);
        });
    }
}

/// Names the file on which a process of `loud` commits.
const LOUD: &str = "STENT_TEST_LOUD";

/// A process that does nothing but commit.
struct Loud(Child);

impl Loud {
    fn start(path: &Path, number: u128) -> Loud {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::loud", "--nocapture"])
            .env(LOUD, format!("{number}:{}", path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Loud(child.unwrap())
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is nothing by itself; `Loud` starts it in a process of its own. It ends when whoever started it does.
#[test]
fn loud() {
    let Ok(told) = std::env::var(LOUD) else { return };
    let (number, path) = told.split_once(':').unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    block_on(async {
        let mut store = SqliteStore::open(Path::new(path), SqliteOptions::default()).await.unwrap();
        let incarnation = incarnation(number.parse().unwrap());
        store.register(&node(incarnation, 1_000)).await.unwrap();
        let mut world = World { store: Box::new(store), incarnation, now: 1_000 };
        let run = world.started(number).await;
        // Long to write and quick to prepare, and the file does not grow.
        let details = bytes::Bytes::from(vec![7; 1 << 20]);
        for attempt in 1.. {
            let beat = Item::Heartbeat { run, position: 1, attempt, details: details.clone() };
            let batch = Batch { renew: true, ..world.batch(vec![beat]) };
            assert!(world.store.commit(&batch).await.unwrap().live);
        }
    });
}

#[test]
fn a_process_that_was_stopped_while_it_wrote_is_named_and_all_goes_on_once_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    let loud = Loud::start(&path, 11);
    let pid = rustix::process::Pid::from_child(&loud.0);
    block_on(async {
        // Also as long as the other may need for what it is at once it goes on: a megabyte and its fsync, on a disk that others use.
        let options = SqliteOptions { busy_timeout: Duration::from_secs(3), ..SqliteOptions::default() };
        let mut store = SqliteStore::open(&path, options).await.unwrap();
        store.register(&node(incarnation(1), 1_000)).await.unwrap();
        let mut world = World { store: Box::new(store), incarnation: incarnation(1), now: 1_000 };
        let mut named = false;
        for number in 0..50 {
            rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
            let key = RunKey(1_000_000 + number);
            let batch = world.batch(vec![start(new_run(key, &format!("mine {number}")))]);
            let stopped = world.store.commit(&batch).await;
            rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
            match stopped {
                // It was between two turns.
                Ok(answer) => assert!(answer.live),
                Err(StoreError::Busy { reason }) => {
                    assert!(reason.contains(&format!("process {} ", loud.0.id())), "{reason}");
                    assert_eq!(world.store.commit(&batch).await.unwrap().outcomes, [Outcome::Done]);
                    named = true;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(named, "it writes all the time");
    });
}

#[test]
fn a_renewal_is_not_kept_waiting_by_processes_that_commit_back_to_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    let _loud = [Loud::start(&path, 11), Loud::start(&path, 12)];
    block_on(async {
        let opened = Instant::now();
        let mut store = SqliteStore::open(&path, SqliteOptions::default()).await.unwrap();
        store.register(&node(incarnation(1), 1_000)).await.unwrap();
        println!("opened and entered beside them in {:?}", opened.elapsed());
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(10) {
            let batch = Batch { incarnation: incarnation(1), now: Timestamp(1_000), renew: true, items: Vec::new(), claim: None };
            let asked = Instant::now();
            assert!(store.commit(&batch).await.unwrap().live);
            took.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        took.sort();
        let nodes = store.nodes().await.unwrap();
        let commits = [11, 12].map(|of| nodes.iter().find(|node| node.incarnation == incarnation(of)).unwrap().beat);
        let [median, p99, longest] = [took.len() / 2, took.len() * 99 / 100, took.len() - 1].map(|at| took[at]);
        println!(
            "{} renewals: median {median:?}, p99 {p99:?}, longest {longest:?}; commits of the others: {commits:?}",
            took.len()
        );
        assert!(longest < Duration::from_millis(500), "{longest:?}");
        assert!(commits.iter().all(|commits| *commits > 100), "both were loud, and neither kept the other from writing");
    });
}
