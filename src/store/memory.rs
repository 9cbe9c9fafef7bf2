//! The reference store: maps in memory, changed one item after the other in the order that the contract names. It is
//! meant to be obviously right rather than fast; the conformance suite holds every other store against it.
//!
//! A clone shares the data, so a test keeps one while the runtime that had the other "crashes", and starts the next
//! runtime on it. `close` closes one handle only.

use std::{
    collections::BTreeMap,
    future::ready,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use uuid::Uuid;

use self::tasks::TaskCell;
use super::{
    Answer, Batch, BatchAnswer, DeadLetter, Filter, Inbox, Letter, LetterFilter, MemoFound, MemoRow, NewNode, NodeRow, NodeState,
    Outcome, Publication, Queue, QueueState, Reader, Renewed, ScheduleDue, ScheduleRow, StaleTask, Status, Store, StoreError,
    Summary, TakenTasks, TaskKey, TaskRequest, TaskRow, Unread, Warden, queue::Line, stored,
};
use crate::kernel::{
    codec::Record,
    id::{BuildId, CommitNo, Epoch, Incarnation, Position, RunId, RunKey},
    memo::MemoKey,
    time::Timestamp,
};

mod apply;
mod forks;
#[cfg(feature = "actors")]
mod hints;
pub(super) mod lines;
mod memos;
mod others;
pub(super) mod refuse;
mod schedules;
mod tasks;

/// How many unread messages an inbox takes, unless told otherwise.
pub const INBOX_LIMIT: u32 = 10_000;

/// A store in memory; clones share the data. Each clone is the handle of one node: when it is dropped or closed, what it has
/// registered is proved to be no more.
#[derive(Debug)]
pub struct MemoryStore {
    data: Arc<Mutex<Data>>,
    closed: bool,
    handle: Arc<()>,
    /// What this handle has registered last.
    entered: Option<Uuid>,
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        MemoryStore { data: self.data.clone(), closed: self.closed, handle: Arc::default(), entered: None }
    }
}

#[derive(Debug)]
struct Data {
    inbox_limit: u32,
    next_run: i64,
    /// The last time that a caller told: `retire` has none of its own.
    now: Timestamp,
    /// The row appended last.
    newest: Option<(RunId, CommitNo, Record)>,
    #[cfg(feature = "actors")]
    hints: tokio::sync::broadcast::Sender<String>,
    nodes: BTreeMap<Uuid, Node>,
    tasks: BTreeMap<TaskKey, TaskCell>,
    queues: BTreeMap<String, Line>,
    schedules: BTreeMap<String, ScheduleRow>,
    memos: BTreeMap<MemoKey, MemoRow>,
    /// Who asks for a key, by run and position: which one, and which time of its asking it is.
    memo_asks: BTreeMap<(RunKey, Position), (MemoKey, u32)>,
    runs: BTreeMap<RunKey, Run>,
    /// By id, then by number: the last entry of an id is its current run.
    ids: BTreeMap<(String, u32), RunKey>,
}

#[derive(Debug)]
struct Node {
    build: BuildId,
    label: String,
    state: NodeState,
    beat: u64,
    lease: Duration,
    held: u32,
    can: i64,
    handle: Weak<()>,
    /// When it was retired and kept some runs.
    lingers: Option<Timestamp>,
    /// When it was heard of last.
    beat_at: Timestamp,
    /// It has left, and nothing of it went on.
    left_well: bool,
}

impl Node {
    fn is_live(&self) -> bool {
        self.state != NodeState::Dead
    }

    fn is_gone(&self) -> bool {
        self.handle.strong_count() == 0
    }
}

#[derive(Debug)]
struct Run {
    summary: Summary,
    claims: u32,
    forced: bool,
    format: u32,
    log: Vec<Record>,
    inbox: BTreeMap<u64, Unread>,
    /// By key.
    published: BTreeMap<String, Publication>,
    letters: BTreeMap<u32, Letter>,
    /// By position: the attempt and its details.
    heartbeats: BTreeMap<u32, (u32, bytes::Bytes)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::with_inbox_limit(INBOX_LIMIT)
    }

    /// Returns an empty store whose inboxes take so many unread messages.
    #[must_use]
    pub fn with_inbox_limit(inbox_limit: u32) -> MemoryStore {
        let data = Data {
            inbox_limit,
            next_run: 1,
            now: Timestamp::default(),
            newest: None,
            #[cfg(feature = "actors")]
            hints: tokio::sync::broadcast::Sender::new(1_024),
            nodes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            queues: BTreeMap::new(),
            schedules: BTreeMap::new(),
            memos: BTreeMap::new(),
            memo_asks: BTreeMap::new(),
            runs: BTreeMap::new(),
            ids: BTreeMap::new(),
        };
        MemoryStore { data: Arc::new(Mutex::new(data)), closed: false, handle: Arc::default(), entered: None }
    }

    /// Every verb is over before its future is awaited: there is nothing to wait for.
    fn answer<T: 'static>(&self, verb: impl FnOnce(&mut Data) -> Result<T, StoreError>) -> Answer<'static, T> {
        let result = if self.closed { Err(StoreError::Closed) } else { verb(&mut self.data.lock()) };
        Box::pin(ready(result))
    }
}

impl Warden for MemoryStore {
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed> {
        self.answer(|data| {
            let node = data.nodes.get_mut(&incarnation.0).filter(|node| node.is_live());
            let live = node.is_some();
            if let Some(node) = node {
                node.beat += 1;
                node.held = held;
                node.beat_at = node.beat_at.max(data.now);
            }
            Ok(Renewed { live, store_now: None })
        })
    }

    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>> {
        self.answer(|data| {
            let rows = data.nodes.iter().map(|(incarnation, node)| NodeRow {
                incarnation: Incarnation(*incarnation),
                build: node.build,
                label: node.label.clone(),
                state: node.state,
                beat: node.beat,
                lease: node.lease,
                held: node.held,
                can: node.can,
                proved_dead: node.is_gone(),
            });
            Ok(rows.collect())
        })
    }

    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()> {
        self.answer(|data| {
            if let Some(node) = data.nodes.get_mut(&incarnation.0).filter(|node| node.is_live()) {
                node.state = NodeState::Draining;
            }
            Ok(())
        })
    }

    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool> {
        self.answer(|data| {
            let node = data.nodes.get_mut(&incarnation.0);
            Ok(node.is_none_or(|node| {
                if node.beat == seen_beat {
                    node.state = NodeState::Dead;
                }
                !node.is_live()
            }))
        })
    }

    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64> {
        self.answer(|data| {
            data.now = now;
            let mut freed = 0;
            for (id, node) in &mut data.nodes {
                let lingers = node.lingers.is_some_and(|since| !node.is_gone() && now < since.after(node.lease));
                if !node.is_live() && !lingers {
                    freed += free(&mut data.runs, Incarnation(*id), now, &[], u64::from(most) - freed);
                }
            }
            Ok(freed)
        })
    }

    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks> {
        self.answer(|data| Ok(data.take_tasks(&request)))
    }
}

impl Store for MemoryStore {
    fn register(&mut self, node: &NewNode) -> Answer<'_, u64> {
        let (before, handle) = (self.entered.replace(node.incarnation.0), Arc::downgrade(&self.handle));
        self.answer(|data| {
            if data.nodes.contains_key(&node.incarnation.0) {
                return Err(StoreError::Other(format!("incarnation {} was registered before", node.incarnation)));
            }
            data.now = node.now;
            let mut freed = 0;
            for (id, other) in &mut data.nodes {
                if before == Some(*id) || other.is_gone() {
                    other.state = NodeState::Dead;
                    other.left_well = true;
                    freed += free(&mut data.runs, Incarnation(*id), data.now, &[], u64::MAX);
                }
            }
            let row = Node {
                build: node.build,
                label: node.label.clone(),
                state: NodeState::Live,
                beat: 0,
                lease: node.lease,
                held: 0,
                can: node.can,
                handle,
                lingers: None,
                beat_at: node.now,
                left_well: false,
            };
            data.nodes.insert(node.incarnation.0, row);
            Ok(freed)
        })
    }

    fn retire(&mut self, incarnation: Incarnation, free_runs: bool, keep: &[RunKey]) -> Answer<'_, u64> {
        self.answer(|data| {
            if let Some(node) = data.nodes.get_mut(&incarnation.0) {
                node.state = NodeState::Dead;
                node.lingers = (!keep.is_empty()).then_some(data.now);
                node.left_well |= free_runs && keep.is_empty();
            }
            Ok(if free_runs { free(&mut data.runs, incarnation, data.now, keep, u64::MAX) } else { 0 })
        })
    }

    fn resume(&mut self, id: &str, now: Timestamp) -> Answer<'_, Outcome> {
        self.answer(|data| {
            let current = data.current(id);
            let Some(run) = current.and_then(|key| data.runs.get_mut(&key)) else { return Ok(Outcome::Unknown) };
            if run.summary.status.is_end() {
                return Ok(Outcome::Ended(Box::new(run.summary.clone())));
            }
            let paused = run.summary.status == Status::Paused;
            let held = paused || run.summary.status == Status::Quarantined || run.summary.blocked_build.is_some();
            if held && run.summary.owner.is_none() {
                run.summary.status = Status::Active;
                run.summary.blocked_build = None;
                run.summary.reason = None;
                run.summary.wake_at = Some(now);
                run.claims = 0;
                run.forced |= !paused;
            }
            Ok(Outcome::Done)
        })
    }

    fn halt(&mut self, run: RunKey, epoch: Epoch, reason: &str) -> Answer<'_, ()> {
        self.answer(|data| {
            let run = data.runs.get_mut(&run).map(|run| &mut run.summary);
            let rests = |row: &Summary| row.owner.is_none() && !row.status.is_end() && row.wake_at.is_none();
            if let Some(row) = run.filter(|row| rests(row) && row.epoch == epoch) {
                row.status = Status::Paused;
                row.reason = Some(reason.replace('\0', "\u{fffd}"));
            }
            Ok(())
        })
    }

    fn reserve_keys(&mut self, count: u32) -> Answer<'_, RunKey> {
        self.answer(|data| {
            let first = data.next_run;
            data.next_run += i64::from(count);
            Ok(RunKey(first))
        })
    }

    fn declare_queues(&mut self, queues: &[Queue]) -> Answer<'_, ()> {
        self.answer(|data| {
            queues.iter().for_each(|rules| data.declare(rules));
            Ok(())
        })
    }

    fn pause_queue(&mut self, name: &str, paused: bool) -> Answer<'_, ()> {
        self.answer(|data| {
            let line = data.queues.entry(name.to_owned()).or_default();
            name.clone_into(&mut line.rules.name);
            line.paused = paused;
            Ok(())
        })
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, BatchAnswer> {
        self.answer(|data| Ok(data.commit(batch)))
    }

    fn reader(&self) -> Rc<dyn Reader> {
        Rc::new(self.clone())
    }

    #[cfg(feature = "actors")]
    fn hints(&self) -> Option<crate::hints::OpenHints> {
        let all = self.data.lock().hints.clone();
        Some(Arc::new(move |me| hints::open(&all, me)))
    }

    fn close(&mut self) -> Answer<'_, ()> {
        self.closed = true;
        self.handle = Arc::default();
        Box::pin(ready(Ok(())))
    }
}

impl Reader for MemoryStore {
    fn history(&self, run: RunKey, from: CommitNo, limit: u32) -> Answer<'_, Vec<(CommitNo, Record)>> {
        self.answer(|data| {
            let log = data.runs.get(&run).map(|run| &run.log[..]).unwrap_or_default();
            Ok((0..).zip(log.iter().cloned()).skip(from as usize).take(limit as usize).collect())
        })
    }

    fn tail(&self, run: RunKey) -> Answer<'_, Option<(CommitNo, Record)>> {
        self.answer(|data| {
            let log = data.runs.get(&run).map(|run| &run.log[..]).unwrap_or_default();
            Ok((0..).zip(log.iter().cloned()).last())
        })
    }

    fn newest(&self) -> Answer<'_, Option<(RunId, CommitNo, Record)>> {
        self.answer(|data| Ok(data.newest.clone()))
    }

    fn inbox(&self, run: RunKey) -> Answer<'_, Inbox> {
        self.answer(|data| {
            Ok(data.runs.get(&run).map_or_else(Inbox::default, |run| Inbox {
                seq: run.summary.inbox_seq,
                unread: run.inbox.values().cloned().collect(),
                undecoded: Vec::new(),
            }))
        })
    }

    fn find(&self, id: &str, run_no: Option<u32>) -> Answer<'_, Option<Summary>> {
        self.answer(|data| {
            let key = match run_no {
                Some(run_no) => data.ids.get(&(id.to_owned(), run_no)).copied(),
                None => data.current(id),
            };
            Ok(key.and_then(|key| data.runs.get(&key)).map(|run| run.summary.clone()))
        })
    }

    fn summaries(&self, runs: &[RunKey]) -> Answer<'_, Vec<Summary>> {
        self.answer(|data| Ok(runs.iter().filter_map(|run| data.runs.get(run)).map(|run| run.summary.clone()).collect()))
    }

    fn list(&self, filter: &Filter) -> Answer<'_, Vec<Summary>> {
        self.answer(|data| {
            let newest_first = data.runs.values().rev().map(|run| &run.summary);
            let wanted = newest_first.filter(|run| {
                filter.before.is_none_or(|before| run.run < before)
                    && filter.workflow.as_ref().is_none_or(|workflow| *workflow == run.workflow)
                    && (filter.status.is_empty() || filter.status.contains(&run.status))
                    && filter.tag.as_ref().is_none_or(|tag| run.tags.contains(tag))
            });
            Ok(wanted.take(filter.limit as usize).cloned().collect())
        })
    }

    fn owned(&self, by: Incarnation) -> Answer<'_, Vec<(RunKey, u64)>> {
        self.answer(|data| {
            let owned = data.runs.values().filter(|run| run.summary.owner == Some(by));
            Ok(owned.map(|run| (run.summary.run, run.summary.inbox_seq)).collect())
        })
    }

    fn next_wake(&self, after: Timestamp) -> Answer<'_, Option<Timestamp>> {
        self.answer(|data| {
            let sleeping = data.runs.values().filter(|run| run.is_unowned_and_active());
            Ok(sleeping.filter_map(|run| run.summary.wake_at).filter(|wake_at| *wake_at > after).min())
        })
    }

    fn heartbeats(&self, run: RunKey) -> Answer<'_, Vec<(u32, u32, bytes::Bytes)>> {
        self.answer(|data| {
            let rows = data.runs.get(&run).into_iter().flat_map(|run| &run.heartbeats);
            Ok(rows.map(|(position, (attempt, details))| (*position, *attempt, details.clone())).collect())
        })
    }

    fn published(&self, run: RunKey, key: Option<&str>) -> Answer<'_, Vec<Publication>> {
        self.answer(|data| {
            let all = data.runs.get(&run).into_iter().flat_map(|run| run.published.values());
            Ok(all.filter(|row| key.is_none_or(|key| row.key == key)).cloned().collect())
        })
    }

    fn letters(&self, filter: &LetterFilter) -> Answer<'_, Vec<DeadLetter>> {
        let filter = filter.clone();
        self.answer(move |data| Ok(data.letters(&filter)))
    }

    fn heights(&self, runs: &[RunKey]) -> Answer<'_, Vec<(RunKey, CommitNo)>> {
        self.answer(|data| {
            let height = |run: &RunKey| CommitNo::try_from(data.runs.get(run)?.log.len()).ok()?.checked_sub(1);
            let mut runs = stored::distinct(runs);
            runs.sort_unstable();
            Ok(runs.into_iter().filter_map(|run| Some((run, height(&run)?))).collect())
        })
    }

    fn tasks(&self, run: RunKey) -> Answer<'_, Vec<TaskRow>> {
        self.answer(|data| Ok(data.tasks_that(|key, _| key.run == run)))
    }

    fn held_tasks(&self, by: Incarnation) -> Answer<'_, Vec<TaskRow>> {
        self.answer(|data| Ok(data.tasks_that(|_, cell| cell.worker == Some(by))))
    }

    fn stale_tasks(&self, now: Timestamp, most: u32) -> Answer<'_, Vec<StaleTask>> {
        self.answer(|data| Ok(data.stale_tasks(now, most as usize)))
    }

    fn ruled_queues(&self) -> Answer<'_, Vec<String>> {
        self.answer(|data| Ok(data.queues.keys().cloned().collect()))
    }

    fn queues(&self) -> Answer<'_, Vec<QueueState>> {
        self.answer(|data| Ok(data.queue_states()))
    }

    fn schedule(&self, name: &str) -> Answer<'_, Option<ScheduleRow>> {
        self.answer(|data| Ok(data.schedules.get(name).cloned()))
    }

    fn schedules(&self, after: &str, limit: u32) -> Answer<'_, Vec<ScheduleRow>> {
        self.answer(|data| {
            let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
            Ok(data.schedules.range::<str, _>(behind).take(limit as usize).map(|(_, row)| row.clone()).collect())
        })
    }

    fn memo(&self, key: MemoKey, asks: u32) -> Answer<'_, MemoFound> {
        self.answer(|data| Ok(data.find_memo(key, asks)))
    }

    fn memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Answer<'_, Vec<MemoKey>> {
        self.answer(|data| Ok(data.memo_work(now, stuck, most)))
    }

    fn memo_keys(&self, first: MemoKey, last: MemoKey, most: u32) -> Answer<'_, Vec<(MemoKey, i64)>> {
        self.answer(|data| Ok(data.memo_keys(first, last, most)))
    }

    fn due_schedules(&self, until: Timestamp, limit: u32) -> Answer<'_, Vec<ScheduleDue>> {
        self.answer(|data| Ok(data.due_schedules(until, limit)))
    }

    fn snapshot(&self) -> Answer<'_, Vec<String>> {
        self.answer(|data| {
            let mut all: Vec<String> = data.schedules.values().map(lines::schedule).collect();
            all.extend(data.memo_lines());
            for cell in data.tasks.values() {
                if let Some(run) = data.runs.get(&cell.task.key.run) {
                    all.push(lines::task(&run.summary.id, &cell.line()));
                }
            }
            for (name, line) in &data.queues {
                all.push(lines::queue(name, line));
            }
            for (id, node) in &data.nodes {
                all.push(lines::node(&Incarnation(*id), &node.build, &node.label, node.is_live(), node.beat));
            }
            for Run { summary, claims, forced, format, log, inbox, heartbeats, published, letters } in data.runs.values() {
                let beside = lines::Beside { claims: *claims, forced: *forced, format: *format };
                all.push(lines::run(summary, &beside));
                all.extend((0..).zip(log).map(|(commit_no, record)| lines::event(&summary.id, commit_no, record)));
                all.extend(inbox.values().map(|unread| lines::message(&summary.id, unread)));
                all.extend(published.values().map(|row| lines::publication(&summary.id, row)));
                all.extend(letters.values().map(|letter| lines::letter(&summary.id, letter)));
                for (position, (attempt, details)) in heartbeats {
                    all.push(lines::heartbeat(&summary.id, *position, *attempt, details));
                }
            }
            all.sort();
            Ok(all)
        })
    }
}

impl Run {
    fn is_unowned_and_active(&self) -> bool {
        self.summary.owner.is_none() && self.summary.status == super::Status::Active
    }
}

/// Frees up to `most` runs of a dead incarnation: due at once, and the next claim is by force.
fn free(runs: &mut BTreeMap<RunKey, Run>, owner: Incarnation, now: Timestamp, keep: &[RunKey], most: u64) -> u64 {
    let mut freed = 0;
    for (key, run) in runs {
        if freed < most && run.summary.owner == Some(owner) && !keep.contains(key) {
            run.summary.owner = None;
            run.summary.wake_at = Some(now);
            run.forced = true;
            freed += 1;
        }
    }
    freed
}
