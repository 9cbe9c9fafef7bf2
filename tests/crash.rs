//! The story: a program with dozens of executions under way is killed with SIGKILL, again and again, at random moments and
//! at every named point of the engine. Between two lives the log is read. Whatever was recorded before the kill must not
//! be acted upon afterwards, whatever was acknowledged must be there, what was declared at-most-once has at most one line in the side file,
//! and in the end everything has ended with the result that an undisturbed run has. Every other life polls its activities inline,
//! so that each way goes on with what the other has left.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{
    kernel::{
        codec,
        event::{Command as Asked, Event, Fact, Outcome},
    },
    store::{
        Filter, Status, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use support::Rng;

mod support;

/// One line of the side file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Act {
    execution: String,
    step: String,
    attempt: u32,
    pid: u32,
}

/// What the log says at a moment.
#[derive(Default, Debug)]
struct Log {
    /// `(execution, step)` whose success is recorded.
    done: BTreeSet<(String, String)>,
    /// `(execution, step, attempt)` that is over: it succeeded, failed or was lost.
    over: BTreeSet<(String, String, u32)>,
    /// Steps that may be started once.
    once: BTreeSet<(String, String)>,
    /// By whom calls were made whose results are shared, by key.
    shared: BTreeMap<String, Vec<String>>,
    ends: BTreeMap<String, (Status, Option<String>)>,
    present: BTreeSet<String>,
    /// Why a run is quarantined.
    quarantined: Option<String>,
}

/// A database with its side file, and what is known of it so far.
struct Bench {
    folder: tempfile::TempDir,
    executions: u64,
    log: Log,
    /// How many lines were judged already.
    judged: usize,
    lives: Cell<u32>,
}

impl Bench {
    fn new(executions: u64) -> Bench {
        Bench { folder: tempfile::tempdir().unwrap(), executions, log: Log::default(), judged: 0, lives: Cell::new(0) }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("stent.db")
    }

    fn side(&self) -> PathBuf {
        self.folder.path().join("side.txt")
    }

    fn start(&self, failpoints: &str) -> Child {
        self.start_with("STENT_FAILPOINTS", failpoints)
    }

    fn start_with(&self, variable: &str, value: &str) -> Child {
        let executions = self.executions.to_string();
        self.lives.set(self.lives.get() + 1);
        Command::new(env!("CARGO_BIN_EXE_stent-crash-child"))
            .args([self.database().as_os_str(), self.side().as_os_str(), executions.as_ref()])
            .env(variable, value)
            .env("STENT_INLINE", (self.lives.get() % 2).to_string())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("STENT_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
            .spawn()
            .unwrap()
    }

    /// Looks at what happened since the last look: no line of a new life may repeat what the log had recorded before it.
    fn judge(&mut self) {
        let text = std::fs::read_to_string(self.side()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for act in lines[self.judged..].iter().filter_map(|line| parse(line)) {
            let place = (act.execution.clone(), act.step.clone());
            assert!(!self.log.done.contains(&place), "{act:?} was done again although its result was recorded");
            let attempt = (act.execution.clone(), act.step.clone(), act.attempt);
            assert!(act.attempt == 0 || !self.log.over.contains(&attempt), "{act:?}: this attempt was over in the log");
            if let Some((status, _)) = self.log.ends.get(&act.execution) {
                panic!("{act:?} happened although its execution had ended ({status:?})");
            }
        }
        self.judged = lines.len();
        let before = std::mem::take(&mut self.log);
        self.log = read(&self.database(), None);
        assert!(before.done.is_subset(&self.log.done), "a recorded result is gone");
        for (id, end) in &before.ends {
            assert_eq!(self.log.ends.get(id), Some(end), "an end changed");
        }
        for (key, by) in &self.log.shared {
            assert_eq!(by.len(), 1, "{key} is shared, and was called by {by:?}");
        }
        for acked in lines.iter().filter_map(|line| line.strip_prefix("ack ")) {
            assert!(self.log.present.contains(acked), "{acked} was acknowledged and is lost");
        }
        let mut starts: BTreeMap<(String, String), u32> = BTreeMap::new();
        for act in lines.iter().filter_map(|line| parse(line)) {
            *starts.entry((act.execution, act.step)).or_default() += 1;
        }
        for place in &self.log.once {
            let count = starts.get(place).copied().unwrap_or(0);
            assert!(count <= 1, "{place:?} is at-most-once and was started {count} times");
        }
    }

    /// Runs undisturbed to the end, and looks at everything.
    fn finish(&mut self) {
        let status = wait(&mut self.start(""), Duration::from_secs(60));
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {:?}", self.stuck());
        self.judge();
        self.count();
        assert_eq!(self.log.shared.len() as u64, self.executions.min(3), "each key was called once");
        let (parts, orders): (Vec<_>, Vec<_>) =
            self.log.ends.iter().filter(|(id, _)| !is_tally(id)).partition(|(id, _)| is_part(id));
        assert_eq!(orders.len() as u64, self.executions, "not all have ended");
        assert_eq!(parts.len(), orders.len(), "each has begun one child, once");
        self.audit();
        for (id, end) in parts {
            assert_eq!(*end, (Status::Completed, Some("part".to_owned())), "{id}");
        }
        for (id, (status, output)) in orders {
            let number: u64 = id.rsplit('-').next().unwrap().parse().unwrap();
            if number.is_multiple_of(3) {
                assert_eq!((*status, output), (Status::Failed, &None), "{id}");
                continue;
            }
            let output = output.as_deref().unwrap_or_else(|| panic!("{id} ended as {status:?}"));
            let expected = |once: &str| format!("first 1 2 go part stable shared {once} leftright");
            assert!(output == expected("once") || output == expected("maybe"), "{id}: {output}");
        }
    }

    /// Each order was heard of exactly once, in a chain of runs that ends once.
    fn count(&self) {
        let runs: Vec<_> = self.log.ends.iter().filter(|(id, _)| is_tally(id)).collect();
        assert_eq!(runs.len() as u64, self.executions / 3 + 1, "three to a run, and the last hears the rest");
        let (last, continued): (Vec<_>, Vec<_>) = runs.iter().partition(|(_, (status, _))| *status != Status::Continued);
        let [(_, (Status::Completed, Some(heard)))] = &last[..] else { panic!("the chain ends once, and well: {last:?}") };
        assert_eq!(continued.len() + 1, runs.len());
        let mut heard: Vec<u64> = heard
            .trim_matches(['[', ']'])
            .split(", ")
            .filter(|order| !order.is_empty())
            .map(|order| order.parse().unwrap())
            .collect();
        heard.sort_unstable();
        assert_eq!(heard, (0..self.executions).collect::<Vec<_>>(), "each once");
    }

    /// Each execution has paid exactly once.
    fn audit(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let paid: Vec<String> = runtime.block_on(async {
            let how = SqliteConnectOptions::new().filename(self.database());
            let mut books = SqliteConnection::connect_with(&how).await.unwrap();
            let rows = sqlx::query("SELECT execution FROM payments ORDER BY 1").fetch_all(&mut books).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        });
        let ended: Vec<String> = self.log.ends.keys().filter(|id| is_order(id)).cloned().collect();
        assert_eq!(paid, ended, "each has paid once");
    }

    fn stuck(&self) -> Vec<String> {
        let log = read(&self.database(), None);
        log.present.iter().filter(|id| !log.ends.contains_key(*id)).cloned().collect()
    }
}

/// Tells whether an execution is a child of another.
fn is_part(id: &str) -> bool {
    id.contains('/') && !is_tally(id)
}

/// Tells whether this is a run of the chain.
fn is_tally(id: &str) -> bool {
    id.starts_with("tally")
}

fn is_order(id: &str) -> bool {
    !is_part(id) && !is_tally(id)
}

fn parse(line: &str) -> Option<Act> {
    let mut words = line.strip_prefix("act ")?.split(' ');
    let (execution, step) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Act { execution, step, attempt: words.next()?.parse().ok()?, pid: words.next()?.parse().ok()? })
}

/// Reads every log there is, and checks on the way that each is a chain without a gap.
fn read(database: &std::path::Path, poison: Option<&str>) -> Log {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut log = Log::default();
        let mut store = SqliteStore::open(database, SqliteOptions::default()).await.unwrap();
        let reader = store.reader();
        let runs = reader.list(&Filter { limit: 1_000, ..Default::default() }).await.unwrap();
        for run in runs {
            // Each run of the chain is looked at for itself, under its number.
            let id = if is_tally(&run.id.id) { run.id.to_string() } else { run.id.id.clone() };
            log.present.extend([id.clone(), run.id.id.clone()]);
            if run.status == Status::Quarantined {
                log.quarantined = run.reason.clone();
            }
            let sound = run.status == Status::Active || run.status.is_end() || poison == Some(&id);
            assert!(sound, "{id} is {:?}: {:?}", run.status, run.reason);
            let mut names: BTreeMap<u32, String> = BTreeMap::new();
            let mut shared = BTreeMap::new();
            let mut sleeps = BTreeMap::new();
            let mut output = None;
            let mut tail = None;
            let mut counted = 0;
            for (commit_no, record) in reader.history(run.run, 0, 10_000).await.unwrap() {
                let commit = codec::decode(&run.id, commit_no, &record).unwrap();
                assert_eq!(commit.prev, tail, "{id}: commit {commit_no} does not follow its predecessor");
                tail = Some(record.digest);
                for event in commit.events {
                    match event {
                        Event::Command(Asked::Call(call)) => {
                            names.insert(call.position, format!("#{}", call.position));
                            shared.extend(call.memo.map(|memo| (call.position, memo.key.to_string())));
                            if call.options.is_some_and(|options| options.at_most_once) {
                                log.once.insert((id.clone(), format!("#{}", call.position)));
                            }
                        }
                        Event::Command(Asked::Sleep { position, due }) => {
                            sleeps.insert(position, due);
                        }
                        Event::Fact(Fact::Fired { position }) => {
                            assert!(commit.time >= sleeps[&position], "{id}: the sleep at {position} was over early");
                        }
                        Event::Command(Asked::Step { position, name, .. }) => {
                            names.insert(position, name);
                        }
                        Event::Command(Asked::Count { by, .. }) => counted += by,
                        Event::Command(Asked::End { outcome }) => {
                            if let Outcome::Completed(payload) = *outcome {
                                output = Some(payload.decode::<String>("the output").unwrap());
                            }
                        }
                        Event::Fact(Fact::Completed { position, attempt, .. }) => {
                            let step = names[&position].clone();
                            assert!(log.done.insert((id.clone(), step.clone())), "{id}: {step} is recorded twice");
                            log.over.insert((id.clone(), step, attempt));
                            if let Some(key) = shared.get(&position) {
                                log.shared.entry(key.clone()).or_default().push(id.clone());
                            }
                        }
                        Event::Fact(Fact::Failed { position, attempt, .. } | Fact::Lost { position, attempt, .. }) => {
                            log.over.insert((id.clone(), names[&position].clone(), attempt));
                        }
                        _ => {}
                    }
                }
            }
            let shown = reader.published(run.run, Some("passed")).await.unwrap();
            let shown = shown.first().map_or(0, |row| row.value.decode::<i64>("a counter").unwrap());
            assert_eq!(shown, counted, "{id}: what is shown is not what the log says");
            if run.status.is_end() {
                let counts = !is_part(&id) && !is_tally(&id);
                assert_eq!(shown, if counts { 2 } else { 0 }, "{id} has counted each place once");
                log.ends.insert(id, (run.status, output));
            }
        }
        store.close().await.unwrap();
        log
    })
}

/// Waits for a child; kills it and returns `None` when it takes longer than `limit`.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn killed_two_hundred_times_at_random_it_loses_nothing_and_repeats_nothing_that_was_recorded() {
    let mut rng = Rng::from_env("random kills");
    let mut kills = 0;
    let mut databases = 0;
    while kills < 200 {
        let mut bench = Bench::new(rng.between(20, 60));
        databases += 1;
        // Each database sees at most so many kills, and is then left to finish.
        for _ in 0..rng.between(10, 40) {
            let mut child = bench.start("");
            let until = Duration::from_millis(rng.between(1, 300));
            match wait(&mut child, until) {
                Some(status) => {
                    assert!(status.success(), "{status:?}");
                    break;
                }
                None => kills += 1,
            }
            if bench.database().exists() {
                bench.judge();
            }
        }
        bench.finish();
    }
    assert!(databases > 1, "several databases");
}

#[test]
fn killed_at_every_named_point_it_loses_nothing_and_repeats_nothing_that_was_recorded() {
    let mut never_hit = Vec::new();
    for name in stent::failpoints::ALL {
        let mut hits = 0;
        let mut bench = Bench::new(9);
        for at in [1, 2, 5, 17, 40] {
            let status = wait(&mut bench.start(&format!("{name}=kill@{at}")), Duration::from_secs(30));
            let Some(status) = status else { panic!("{name}@{at}: stuck, {:?} have not ended", bench.stuck()) };
            if bench.database().exists() {
                bench.judge();
            }
            if status.success() {
                break;
            }
            hits += 1;
        }
        bench.finish();
        if hits == 0 {
            never_hit.push(*name);
        }
    }
    // A renewal comes every 2.5 s, which no undisturbed life here reaches; `tests/restart.rs` and the supervision tests do. There
    // are no shared queues here; `tests/queues.rs` and the clusters have them. Nor are there schedules, resets or dead letters.
    let elsewhere = [
        "lease_keeper.before_renew",
        "foreman.tasks_ended",
        "timekeeper.decides",
        "gate.written",
        "reset.decided",
        "letters.found",
    ];
    assert_eq!(never_hit, elsewhere, "every point is passed by an ordinary life");
}

#[test]
fn a_run_that_kills_its_process_at_replay_is_quarantined_and_takes_no_other_along() {
    let bench = Bench::new(30);
    // All are recorded when the process dies for the first time: one of them is about to end, and it is not the poisonous one.
    wait(&mut bench.start("executor.attempts_ended=kill@6"), Duration::from_secs(30));
    let mut deaths = 0;
    while !wait(&mut bench.start_with("STENT_POISON", "order-1"), Duration::from_secs(30)).is_some_and(|status| status.success())
    {
        deaths += 1;
        assert!(deaths < 30, "it kills its process for ever");
    }
    let log = read(&bench.database(), Some("order-1"));
    assert!(log.quarantined.is_some_and(|reason| reason.contains("opening it")), "after {deaths} deaths");
    assert_eq!(log.ends.keys().filter(|id| is_order(id)).count(), 29, "the others have ended");
}
