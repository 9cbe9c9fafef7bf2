//! The auditor: reads the histories as the store holds them and the side file as the acts left it, and compares both with
//! what a run without any fault would have done. It knows nothing of what was injected but when a frozen process was thawed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use stent::{
    kernel::{
        codec,
        event::{Command as Asked, Event, Fact, Outcome},
        id::{Epoch, Incarnation},
    },
    store::{
        Filter, Status, Store,
        postgres::{PostgresOptions, PostgresStore},
        sqlite::{SqliteOptions, SqliteStore},
    },
};

use crate::{
    cluster::{Job, Place},
    node::Frozen,
};

/// What the story allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    /// How long everything may take to end once all is healed.
    pub(crate) within: std::time::Duration,
    /// The store was put back to an older state: acknowledged work may be gone, and done again.
    pub(crate) may_forget: bool,
    /// Acts at once in the whole cluster…
    pub(crate) limit: Option<usize>,
    /// …of this queue, or of any…
    pub(crate) queue: &'static str,
    /// …and of one key.
    pub(crate) per_key: Option<usize>,
}

impl Default for Expect {
    fn default() -> Self {
        Expect { within: std::time::Duration::from_secs(60), may_forget: false, limit: None, queue: "", per_key: None }
    }
}

/// An act, from the side file.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) id: String,
    pub(crate) step: String,
    pub(crate) attempt: u32,
    pub(crate) pid: u32,
    pub(crate) fence: u64,
    /// Boot time in µs, the same in all processes.
    pub(crate) start: u128,
    /// The machine's wall clock in µs.
    pub(crate) wall: i64,
    /// `None` if its process died in it.
    pub(crate) end: Option<u128>,
}

/// The side file.
#[derive(Default, Debug)]
pub(crate) struct Side {
    /// In the order of their starts.
    pub(crate) acts: Vec<Act>,
    pub(crate) acked: BTreeSet<String>,
    pub(crate) signalled: BTreeSet<String>,
}

impl Side {
    pub(crate) fn read(file: &Path) -> Side {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut side = Side::default();
        let mut open: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["act", id, step, attempt, pid, fence, "start", start, wall] => {
                    open.insert((id, step, attempt, pid), side.acts.len());
                    side.acts.push(Act {
                        id: id.to_owned(),
                        step: step.to_owned(),
                        attempt: attempt.parse().unwrap(),
                        pid: pid.parse().unwrap(),
                        fence: fence.parse().unwrap(),
                        start: start.parse().unwrap(),
                        wall: wall.parse().unwrap(),
                        end: None,
                    });
                }
                ["act", id, step, attempt, pid, _, "end", end, _] => {
                    if let Some(at) = open.remove(&(id, step, attempt, pid)) {
                        side.acts[at].end = end.parse().ok();
                    }
                }
                ["ack", id, ..] => drop(side.acked.insert(id.to_owned())),
                ["sig", id, ..] => drop(side.signalled.insert(id.to_owned())),
                ["up" | "down", ..] => {}
                _ => panic!("the side file has a line {line:?}"),
            }
        }
        side.acts.sort_by_key(|act| act.start);
        side
    }

    /// Returns the most acts that ran at once in one process. A process counts its own: what died with it ended with it. Steps
    /// written inline are their workflow's own, and need no slot.
    pub(crate) fn peak_of_a_process(&self) -> usize {
        let mut by_pid: BTreeMap<u32, Vec<&Act>> = BTreeMap::new();
        for act in self.acts.iter().filter(|act| act.step != "inline") {
            by_pid.entry(act.pid).or_default().push(act);
        }
        by_pid.values().map(|acts| peak(acts.iter().copied(), |_| u128::MAX)).max().unwrap_or(0)
    }

    /// Returns the most acts of a queue that ran at once in all processes, in all and of one key; `died` tells when a process was
    /// killed. One that stands still does nothing: what it was at when it was frozen counts until then.
    pub(crate) fn peaks_of(&self, queue: &str, frozen: &[Frozen], died: impl Fn(u32) -> u128) -> (usize, usize) {
        let of_queue = |act: &&Act| act.step != "inline" && (queue.is_empty() || act.id.starts_with("queued-"));
        let acts: Vec<Act> = self
            .acts
            .iter()
            .filter(of_queue)
            .map(|act| {
                let end = act.end.unwrap_or_else(|| died(act.pid));
                let cut = frozen.iter().filter(|still| still.pid == act.pid && (act.start..=end).contains(&still.from));
                Act { end: Some(cut.map(|still| still.from).min().unwrap_or(end)), ..act.clone() }
            })
            .collect();
        // As the node names them: executions of equal last digits share a key.
        let of_key = |digit: char| peak(acts.iter().filter(|act| act.id.ends_with(digit)), &died);
        (peak(acts.iter(), &died), ('0'..='9').map(of_key).max().unwrap_or(0))
    }

    /// Returns the most acts that ran at once in all processes; `died` tells when a process was killed.
    pub(crate) fn peak(&self, died: impl Fn(u32) -> Option<u128>) -> usize {
        peak(self.acts.iter(), |pid| died(pid).unwrap_or(u128::MAX))
    }

    /// Returns the first start of an act of this execution in another process, behind a moment.
    pub(crate) fn taken_over(&self, id: &str, from: u32, behind: u128) -> Option<&Act> {
        self.acts.iter().find(|act| act.id == id && act.pid != from && act.start > behind)
    }

    /// Returns the executions whose last act before a moment was in this process.
    pub(crate) fn held_by(&self, pid: u32, at: u128) -> BTreeSet<String> {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for act in self.acts.iter().filter(|act| act.start <= at) {
            last.insert(&act.id, act.pid);
        }
        last.into_iter().filter(|(_, by)| *by == pid).map(|(id, _)| id.to_owned()).collect()
    }
}

fn peak<'a>(acts: impl Iterator<Item = &'a Act>, died: impl Fn(u32) -> u128) -> usize {
    // At the same moment an end comes before a start.
    let mut moments: Vec<(u128, i64)> = acts.flat_map(|act| [(act.start, 1), (act.end.unwrap_or(died(act.pid)), -1)]).collect();
    moments.sort_unstable();
    let mut now = 0;
    let running = moments.into_iter().map(|(_, change)| {
        now += change;
        now
    });
    usize::try_from(running.max().unwrap_or(0)).unwrap()
}

/// A run as its log tells it.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) status: Status,
    pub(crate) reason: Option<String>,
    pub(crate) output: Option<String>,
    /// By step: the attempt whose result is recorded, and when that was, in the store's time (µs).
    done: BTreeMap<String, (u32, i64)>,
    /// Steps that may be started once.
    once: BTreeSet<String>,
    /// In the store's time.
    ended: Option<i64>,
    /// Of each commit.
    pub(crate) writers: Vec<(Epoch, Incarnation)>,
}

/// Opens the store of a place for reading.
async fn open(place: &Place<'_>) -> Box<dyn Store> {
    match place {
        Place::Sqlite(file) => Box::new(SqliteStore::open(file, SqliteOptions::default()).await.unwrap()),
        Place::Postgres(database) => Box::new(PostgresStore::open(&database.url(), PostgresOptions::default()).await.unwrap()),
    }
}

/// Reads all logs there are, and checks on the way what holds for each alone: a chain without a gap, times and epochs that
/// never go back, one writer for each epoch, timers that are not early, every result once, nothing behind the end.
pub(crate) fn read_histories(place: &Place<'_>) -> BTreeMap<String, History> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = open(place).await;
        let reader = store.reader();
        let mut histories = BTreeMap::new();
        let mut filter = Filter { limit: 1_000, ..Filter::default() };
        loop {
            let page = reader.list(&filter).await.unwrap();
            let Some(last) = page.last() else { break };
            filter.before = Some(last.run);
            for run in &page {
                let records = reader.history(run.run, 0, 1_000_000).await.unwrap();
                let history = read_one(run, &records);
                assert!(histories.insert(run.id.id.clone(), history).is_none(), "{} has two runs", run.id);
            }
        }
        store.close().await.unwrap();
        histories
    })
}

fn read_one(run: &stent::store::Summary, records: &[(u32, codec::Record)]) -> History {
    let id = &run.id;
    let mut history = History {
        status: run.status,
        reason: run.reason.clone(),
        output: None,
        done: BTreeMap::new(),
        once: BTreeSet::new(),
        ended: None,
        writers: Vec::new(),
    };
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    let mut sleeps = BTreeMap::new();
    let (mut tail, mut time) = (None, i64::MIN);
    for (expected, (commit_no, record)) in records.iter().enumerate() {
        assert_eq!(usize::try_from(*commit_no).unwrap(), expected, "{id}: a commit is missing");
        let commit = codec::decode(id, *commit_no, record).unwrap();
        assert_eq!(commit.prev, tail, "{id}: commit {commit_no} does not follow its predecessor");
        tail = Some(record.digest);
        assert!(commit.time.0 >= time, "{id}: time goes back at commit {commit_no}");
        time = commit.time.0;
        if let Some((epoch, writer)) = history.writers.last() {
            assert!(commit.epoch >= *epoch, "{id}: the epoch goes back at commit {commit_no}");
            assert!(commit.epoch > *epoch || commit.incarnation == *writer, "{id}: two writers under epoch {epoch}");
        }
        history.writers.push((commit.epoch, commit.incarnation));
        for event in commit.events {
            assert!(history.ended.is_none(), "{id}: something behind the end: {event:?}");
            match event {
                Event::Command(Asked::Call(call)) => {
                    let step = format!("#{}", call.position);
                    if call.options.is_some_and(|options| options.at_most_once) {
                        history.once.insert(step.clone());
                    }
                    names.insert(call.position, step);
                }
                Event::Command(Asked::Step { position, name, .. }) => drop(names.insert(position, name)),
                Event::Command(Asked::Sleep { position, due }) => drop(sleeps.insert(position, due)),
                Event::Fact(Fact::Fired { position }) => {
                    assert!(commit.time >= sleeps[&position], "{id}: the sleep at {position} was over early");
                }
                Event::Fact(Fact::Completed { position, attempt, .. }) => {
                    let step = names[&position].clone();
                    let before = history.done.insert(step.clone(), (attempt, commit.time.0));
                    assert!(before.is_none(), "{id}: {step} is recorded twice");
                }
                Event::Command(Asked::End { outcome }) => {
                    history.ended = Some(commit.time.0);
                    if let Outcome::Completed(payload) = *outcome {
                        history.output = Some(payload.decode::<String>("the output").unwrap());
                    }
                }
                _ => {}
            }
        }
    }
    history
}

/// By how much the clock of the store and that of an act may be apart, in µs: both are this machine's.
const SLACK: i64 = 1_000_000;

/// A process that was frozen between its last look at its lease and the act itself does the act when it is thawed: nobody
/// can prevent that. It is known by coming at once behind the thaw, in µs.
const AFTER_THAW: u128 = 250_000;

/// Compares histories and acts with what was asked for.
pub(crate) fn judge(
    histories: &BTreeMap<String, History>,
    side: &Side,
    jobs: &BTreeMap<String, Job>,
    thawed: &[Frozen],
    expect: &Expect,
) {
    for id in side.acked.iter().chain(jobs.keys()) {
        assert!(histories.contains_key(id), "{id} was acknowledged and is lost");
    }
    for (id, history) in histories {
        let job = jobs.get(id).unwrap_or_else(|| panic!("{id} was never asked for"));
        assert_eq!(history.status, Status::Completed, "{id}: {:?}", history.reason);
        let output = history.output.as_ref().unwrap();
        assert!(job.results().contains(output), "{id}: {output:?} is none of {:?}", job.results());
    }
    // What was forgotten is rightly done again.
    if !expect.may_forget {
        judge_acts(histories, side, thawed);
    }
    if let Some(limit) = expect.limit {
        let last = side.acts.iter().map(|act| act.start).max().unwrap_or(0);
        let last_of = |pid: u32| side.acts.iter().filter(|act| act.pid == pid).map(|act| act.start).max();
        let (peak, of_key) = side.peaks_of(expect.queue, thawed, |pid| last_of(pid).unwrap_or(last));
        println!("at most {peak} acts at once, {of_key} of one key");
        assert!(peak <= limit, "{peak} acts at once, the limit is {limit}");
        assert!(peak > limit / 2, "{peak} acts at once: too few for a limit of {limit} to be of any matter");
        let per_key = expect.per_key.unwrap_or(usize::MAX);
        assert!(of_key <= per_key, "{of_key} acts of one key at once, the limit is {per_key}");
    }
}

fn judge_acts(histories: &BTreeMap<String, History>, side: &Side, thawed: &[Frozen]) {
    let excused =
        |act: &Act| thawed.iter().any(|Frozen { pid, to, .. }| *pid == act.pid && act.start.saturating_sub(*to) < AFTER_THAW);
    let mut attempts = BTreeSet::new();
    let mut starts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut fences: BTreeMap<&str, u64> = BTreeMap::new();
    let mut late = Vec::new();
    for act in &side.acts {
        let history = histories.get(&act.id).unwrap_or_else(|| panic!("{act:?} belongs to no history"));
        if let Some((attempt, at)) = history.done.get(&act.step) {
            // Steps written inline do not know their attempt.
            assert!(act.attempt <= *attempt, "{act:?}: attempt {attempt} was recorded as its success");
            if act.wall > at + SLACK && !excused(act) {
                late.push(format!("{act:?} began {} ms after its result was recorded", (act.wall - at) / 1_000));
            }
        }
        if history.ended.is_some_and(|ended| act.wall > ended + SLACK) && !excused(act) {
            late.push(format!("{act:?} began after its execution had ended"));
        }
        if act.attempt == 0 {
            continue;
        }
        assert!(attempts.insert((&act.id, &act.step, act.attempt)), "{act:?}: this attempt was started twice");
        *starts.entry((&act.id, &act.step)).or_default() += 1;
        let fence = fences.entry(&act.id).or_default();
        if act.fence < *fence && !excused(act) {
            late.push(format!("{act:?} began under an old fence, {fence} was seen"));
        }
        *fence = act.fence.max(*fence);
    }
    assert!(late.is_empty(), "{} acts too late, the first: {:#?}", late.len(), &late[..late.len().min(5)]);
    for (id, history) in histories {
        for step in &history.once {
            let count = starts.get(&(id, step)).copied().unwrap_or(0);
            assert!(count <= 1, "{id} {step} is at most once and was started {count} times");
        }
        for (step, _) in history.done.iter().filter(|(step, _)| step.starts_with('#')) {
            assert!(starts.contains_key(&(&**id, &**step)), "{id} {step} is recorded as done and nobody did it");
        }
    }
    let repeated = starts.values().filter(|count| **count > 1).count();
    println!("{} histories, {} acts, {repeated} steps with more than one attempt", histories.len(), side.acts.len());
}
