//! Shared queues: attempts of activities that any node may run which serves the queue, under limits that hold for all of
//! them together.
//!
//! A *task* is one attempt, a row that is written and taken out in the same commits as the intent and the end that it
//! stands for. A row that somebody holds **is** a permit: limits count rows and nothing else, so there is no counter that a
//! crash could leave wrong. What a queue may have is decided by `Line::pick`, a pure function: each store locks the queue,
//! counts *behind* the lock, shows the heads of the line and writes what was picked.
//!
//! The order within a line is a *rank*: when the task was due, less ten seconds for each step of its priority. So a higher
//! priority overtakes, and whoever waits for long enough is overtaken by nobody.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;

use crate::kernel::{
    event::{MessageBody, OUR_MESSAGES},
    id::{Attempt, Incarnation, Position, RunKey},
    time::Timestamp,
};

/// What one step of priority is worth, in microseconds of waiting.
const STEP: i64 = 10_000_000;

/// So many keys of a queue are looked at for one claim.
pub(crate) const MOST_KEYS: usize = 256;

/// Names an attempt in a queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskKey {
    /// The run that wants its result.
    pub run: RunKey,
    /// Which call.
    pub position: Position,
    /// Which attempt.
    pub attempt: Attempt,
}

/// A task that is put into its queue.
#[derive(Clone, PartialEq, Debug)]
pub struct NewTask {
    /// Which attempt.
    pub key: TaskKey,
    /// Where.
    pub queue: String,
    /// Tasks of one lane share its limit and its turn; empty for those without a key.
    pub lane: String,
    /// Higher first.
    pub priority: i32,
    /// The activity's stored name.
    pub activity: String,
    /// The tags that a node must have.
    pub needs: Vec<String>,
    /// Not before.
    pub due_at: Timestamp,
    /// If nobody has begun it by then, it is over.
    pub start_by: Option<Timestamp>,
    /// What its worker has to know, opaque to the store.
    pub body: Bytes,
}

impl NewTask {
    /// Returns its place in the line: lower first.
    pub(crate) fn rank(&self) -> i64 {
        rank(self.due_at, self.priority)
    }
}

/// Returns a place in a line: when something was due, less ten seconds for each step of its priority.
pub(crate) fn rank(due: Timestamp, priority: i32) -> i64 {
    due.0.saturating_sub(i64::from(priority).saturating_mul(STEP))
}

/// The end of a task, to be told to its run.
#[derive(Clone, PartialEq, Debug)]
pub struct EndTask {
    /// Which attempt.
    pub key: TaskKey,
    /// Who must hold it; `None`: nobody.
    pub by: Option<Incarnation>,
    /// The message for its run; not told if the run has ended or does not want it any more.
    pub body: MessageBody,
}

impl EndTask {
    /// Returns the id of the message within its run: an attempt ends once. Nobody else may take such an id.
    pub(crate) fn message(&self) -> String {
        format!("{OUR_MESSAGES}task:{}/{}", self.key.position, self.key.attempt)
    }

    /// Returns the message: with the details that were kept, if its worker could not say any.
    pub(crate) fn told(&self, kept: Option<Bytes>) -> MessageBody {
        let mut body = self.body.clone();
        if let MessageBody::Task { details, .. } = &mut body {
            *details = details.take().or(kept);
        }
        body
    }
}

/// What a node wants to run.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskRequest {
    /// Who asks.
    pub by: Incarnation,
    /// The caller's time.
    pub now: Timestamp,
    /// At most so many.
    pub limit: u32,
    /// The activities that it has.
    pub activities: Vec<String>,
    /// The queues that it serves; `None` means all.
    pub queues: Option<Vec<String>>,
    /// The tags that it has.
    pub tags: Vec<String>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TakenTasks {
    /// The tasks that are this node's now, in the order in which they are to be begun.
    pub tasks: Vec<Task>,
    /// Somebody else was at work on a queue: asking again in a moment may bring more.
    pub again: bool,
}

/// A task that a node holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Which attempt.
    pub key: TaskKey,
    /// From which queue.
    pub queue: String,
    /// The activity's stored name.
    pub activity: String,
    /// What its worker has to know.
    pub body: Bytes,
}

/// A task as it stands in the store.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskRow {
    /// Which attempt.
    pub key: TaskKey,
    /// In which queue.
    pub queue: String,
    /// Who holds it.
    pub worker: Option<Incarnation>,
    /// Nobody wants its result any more; it only waits for its worker to let go.
    pub dropped: bool,
}

/// A task that must be ended by whoever finds it.
#[derive(Clone, PartialEq, Debug)]
pub struct StaleTask {
    /// Which attempt.
    pub key: TaskKey,
    /// Who holds it: a dead node, whose permits have come back. `None`: nobody, and its time to start is over.
    pub by: Option<Incarnation>,
}

/// The rules of a shared queue. They hold for all nodes together, and exactly.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "a queue does nothing unless it is given to a builder"]
pub struct Queue {
    pub(crate) name: String,
    pub(crate) concurrency: Option<u32>,
    pub(crate) per_key: Option<u32>,
    /// So many starts…
    pub(crate) rate: Option<u32>,
    /// …within so many microseconds.
    pub(crate) period: i64,
    pub(crate) fair: bool,
}

impl Queue {
    /// Names a queue: 1 to 255 bytes. Without any rule it only says that calls of it go to whoever serves it.
    pub fn named(name: impl Into<String>) -> Queue {
        Queue { name: name.into(), ..Queue::default() }
    }

    /// Limits how many of its activities run at once, in the whole cluster.
    pub fn concurrency(mut self, most: u32) -> Queue {
        self.concurrency = Some(most);
        self
    }

    /// Limits how many activities of one key (`Pending::queue_key`) run at once, in the whole cluster.
    pub fn per_key(mut self, most: u32) -> Queue {
        self.per_key = Some(most);
        self
    }

    /// Limits how many of its activities are started within a period: a bucket that holds so many and fills evenly.
    pub fn rate(mut self, starts: u32, period: Duration) -> Queue {
        self.rate = Some(starts);
        self.period = i64::try_from(period.as_micros()).unwrap_or(i64::MAX).max(1);
        self
    }

    /// Lets the keys take turns, however much one of them has waiting.
    pub fn fair(mut self) -> Queue {
        self.fair = true;
        self
    }

    /// Tells whether starts of this queue must be decided one claim after the other.
    pub(crate) fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.is_keyed() || self.rate.is_some()
    }

    /// Tells whether it matters which keys the waiting tasks have.
    pub(crate) fn is_keyed(&self) -> bool {
        self.per_key.is_some() || self.fair
    }
}

/// A queue as it stands.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// How many activities may run at once.
    pub concurrency: Option<u32>,
    /// How many of one key.
    pub per_key: Option<u32>,
    /// How many starts within which period.
    pub rate: Option<(u32, Duration)>,
    /// Whether keys take turns.
    pub fair: bool,
    /// Nothing of it is started until it is resumed.
    pub paused: bool,
    /// Tasks that wait.
    pub waiting: u64,
    /// Tasks that run, or are about to.
    pub running: u64,
    /// When the one that waits longest was due.
    pub oldest: Option<Timestamp>,
}

/// What a claim must know of a queue, read behind its lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) rules: Queue,
    pub(crate) paused: bool,
    /// The lane that was served last: turns go on behind it.
    pub(crate) cursor: String,
    /// Whole starts that the bucket held…
    pub(crate) tokens: i64,
    /// …at that time.
    pub(crate) filled_at: i64,
    /// Tasks that are held, by lane.
    pub(crate) running: HashMap<String, u32>,
}

/// A waiting task at the head of a line.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Head {
    pub(crate) key: TaskKey,
    pub(crate) lane: String,
    pub(crate) rank: i64,
}

impl Line {
    /// Returns the queue as it is shown, but for what is in it.
    pub(crate) fn state(&self, name: &str) -> QueueState {
        let Queue { concurrency, per_key, rate, period, fair, .. } = self.rules;
        let period = Duration::from_micros(u64::try_from(period).unwrap_or(0));
        let rate = rate.map(|rate| (rate, period));
        QueueState { name: name.to_owned(), concurrency, per_key, rate, fair, paused: self.paused, ..QueueState::default() }
    }

    /// Returns how many starts the bucket holds now, and from when that counts.
    fn bucket(&self, now: i64) -> Option<(i64, i64)> {
        let rate = i64::from(self.rules.rate?);
        let each = (self.rules.period / rate.max(1)).max(1);
        let fresh = now.saturating_sub(self.filled_at) / each;
        if fresh < 0 {
            return Some((self.tokens, self.filled_at));
        }
        if self.tokens.saturating_add(fresh) >= rate {
            return Some((rate, now));
        }
        Some((self.tokens + fresh, self.filled_at + fresh * each))
    }

    /// Returns how many tasks may be started now, of whatever lane.
    pub(crate) fn room(&self, limit: u32, now: Timestamp) -> u32 {
        if self.paused {
            return 0;
        }
        let held: u32 = self.running.values().sum();
        let room = self.rules.concurrency.map_or(limit, |most| most.saturating_sub(held).min(limit));
        match self.bucket(now.0) {
            Some((tokens, _)) => room.min(u32::try_from(tokens).unwrap_or(u32::MAX)),
            None => room,
        }
    }

    /// Returns how many tasks of one lane may be started.
    fn room_of(&self, lane: &str) -> u32 {
        let held = self.running.get(lane).copied().unwrap_or(0);
        self.rules.per_key.map_or(u32::MAX, |most| most.saturating_sub(held))
    }

    /// Returns the lanes that have no room.
    pub(crate) fn full(&self) -> Vec<String> {
        let Some(most) = self.rules.per_key else { return Vec::new() };
        self.running.iter().filter(|(_, held)| **held >= most).map(|(lane, _)| lane.clone()).collect()
    }

    /// Picks from the heads of the line what is started, and moves cursor and bucket on.
    pub(crate) fn pick(&mut self, mut heads: Vec<Head>, limit: u32, now: Timestamp) -> Vec<TaskKey> {
        let room = self.room(limit, now) as usize;
        // As many lanes as are looked at: there may be more, and the next claim looks at those first.
        let lanes: HashSet<&str> = heads.iter().map(|head| &*head.lane).collect();
        let behind = if !self.rules.fair && lanes.len() >= MOST_KEYS { heads.last().map(|head| head.lane.clone()) } else { None };
        if self.rules.fair {
            // Everybody's first, then everybody's second…: within a round the lanes stand in the order of their turns.
            let mut seen: HashMap<String, usize> = HashMap::new();
            let mut rounds: Vec<(usize, usize, Head)> = Vec::with_capacity(heads.len());
            for (place, head) in heads.into_iter().enumerate() {
                let round = seen.entry(head.lane.clone()).or_default();
                rounds.push((*round, place, head));
                *round += 1;
            }
            rounds.sort_by_key(|(round, place, _)| (*round, *place));
            heads = rounds.into_iter().map(|(.., head)| head).collect();
        } else {
            heads.sort_by_key(|head| (head.rank, head.key));
        }
        let mut taken: HashMap<String, u32> = HashMap::new();
        let mut picked = Vec::new();
        for head in heads {
            if picked.len() == room {
                break;
            }
            let held = taken.entry(head.lane.clone()).or_default();
            if *held < self.room_of(&head.lane) {
                *held += 1;
                if self.rules.fair {
                    self.cursor = head.lane;
                }
                picked.push(head.key);
            }
        }
        if let Some(behind) = behind {
            self.cursor = behind;
        }
        if let Some((tokens, filled_at)) = self.bucket(now.0).filter(|_| !picked.is_empty()) {
            self.tokens = tokens - i64::try_from(picked.len()).unwrap_or(i64::MAX);
            self.filled_at = filled_at;
        }
        picked
    }
}

/// In place of a position, among the calls that a turn withdraws: whatever of the run nobody has begun. Positions begin at 1.
pub const NOT_BEGUN: Position = 0;

/// What the items of a batch do to tasks, for stores that read and write sets of rows: `found` is read first, the rest is
/// written in the order of the fields.
#[derive(Default)]
pub(crate) struct TaskPlan<'a> {
    pub(crate) found: HashMap<TaskKey, Found>,
    pub(crate) withdrawn: Vec<(RunKey, Position)>,
    /// Runs whose tasks go as far as nobody has begun them.
    pub(crate) unqueued: Vec<RunKey>,
    pub(crate) placed: Vec<&'a NewTask>,
    pub(crate) ended: Vec<TaskKey>,
    pub(crate) beats: Vec<(TaskKey, &'a Bytes)>,
}

/// A task that an item is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) worker: Option<Incarnation>,
    pub(crate) dropped: bool,
    pub(crate) details: Option<Bytes>,
}

/// Returns the tasks that must be looked at before these items are decided.
pub(crate) fn asked_for<'a>(items: impl Iterator<Item = &'a super::Item>) -> Vec<TaskKey> {
    let asked = items.filter_map(|item| match item {
        super::Item::EndTask(end) => Some(end.key),
        super::Item::BeatTask(key, _) => Some(*key),
        _ => None,
    });
    let mut asked: Vec<TaskKey> = asked.collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

impl<'a> TaskPlan<'a> {
    #[cfg(feature = "sqlite")]
    pub(crate) fn is_empty(&self) -> bool {
        self.withdrawn.is_empty()
            && self.unqueued.is_empty()
            && self.placed.is_empty()
            && self.ended.is_empty()
            && self.beats.is_empty()
    }

    /// Takes what an accepted turn does.
    pub(crate) fn turn(&mut self, turn: &'a super::Turn) {
        let named = turn.withdrawn.iter().filter(|position| **position != NOT_BEGUN);
        self.withdrawn.extend(named.map(|position| (turn.run, *position)));
        let unqueues = turn.withdrawn.contains(&NOT_BEGUN);
        self.unqueued.extend(unqueues.then_some(turn.run));
        self.found.retain(|key, found| {
            let withdrawn = key.run == turn.run && turn.withdrawn.contains(&key.position);
            found.dropped |= withdrawn;
            found.worker.is_some() || !(withdrawn || unqueues && key.run == turn.run)
        });
        // What was placed for it without a turn, in this batch, is not there yet.
        self.placed.retain(|task| task.key.run != turn.run || !(unqueues || turn.withdrawn.contains(&task.key.position)));
        self.place(&turn.tasks);
    }

    pub(crate) fn place(&mut self, tasks: &'a [NewTask]) {
        for task in tasks {
            // Somebody runs this very attempt: it was placed before.
            if self.found.get(&task.key).is_some_and(|found| found.worker.is_some()) {
                continue;
            }
            if self.found.insert(task.key, Found::default()).is_some() {
                // The last one counts.
                self.placed.retain(|before| before.key != task.key);
            }
            self.placed.push(task);
        }
    }

    pub(crate) fn beat(&mut self, key: TaskKey, details: &'a Bytes, ours: Incarnation) -> super::Outcome {
        match self.found.get_mut(&key) {
            Some(found) if found.worker == Some(ours) => {
                found.details = Some(details.clone());
                self.beats.push((key, details));
                super::Outcome::Done
            }
            _ => super::Outcome::NotOwned,
        }
    }

    /// Ends a task; returns the message for its run, or `None` if it must not be told.
    pub(crate) fn end(&mut self, end: &EndTask) -> Result<Option<MessageBody>, super::Outcome> {
        let found = match self.found.remove(&end.key) {
            Some(found) if found.worker == end.by => found,
            Some(other) => {
                self.found.insert(end.key, other);
                return Err(super::Outcome::NotOwned);
            }
            None => return Err(super::Outcome::NotOwned),
        };
        self.ended.push(end.key);
        Ok((!found.dropped).then(|| end.told(found.details)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(run: i64, lane: &str, rank: i64) -> Head {
        Head { key: TaskKey { run: RunKey(run), position: 1, attempt: 1 }, lane: lane.into(), rank }
    }

    fn runs(picked: &[TaskKey]) -> Vec<i64> {
        picked.iter().map(|key| key.run.0).collect()
    }

    #[test]
    fn a_limit_counts_what_is_held() {
        let rules = Queue::named("q").concurrency(3);
        let mut line = Line { rules, running: HashMap::from([(String::new(), 2)]), ..Line::default() };
        let heads = vec![head(1, "", 30), head(2, "", 10), head(3, "", 20)];
        assert_eq!(runs(&line.pick(heads, 9, Timestamp(0))), [2]);
    }

    #[test]
    fn a_key_at_its_limit_holds_up_nobody_else() {
        let rules = Queue::named("q").per_key(1);
        let mut line = Line { rules, running: HashMap::from([("a".into(), 1)]), ..Line::default() };
        assert_eq!(line.full(), ["a"]);
        let heads = vec![head(1, "a", 1), head(2, "b", 2), head(3, "b", 3), head(4, "c", 4)];
        assert_eq!(runs(&line.pick(heads, 9, Timestamp(0))), [2, 4]);
    }

    #[test]
    fn more_keys_than_one_claim_looks_at_are_all_looked_at_in_turn() {
        let mut line = Line { rules: Queue::named("q").per_key(1), ..Line::default() };
        let lanes: Vec<String> = (0..MOST_KEYS).map(|lane| format!("{lane:03}")).collect();
        let heads = |lanes: &[String]| lanes.iter().map(|lane| head(1, lane, 7)).collect::<Vec<_>>();
        line.pick(heads(&lanes[1..]), 3, Timestamp(0));
        assert_eq!(line.cursor, "", "there were no more, so the order is by rank alone");
        line.pick(heads(&lanes), 3, Timestamp(0));
        assert_eq!(line.cursor, "255");
    }

    #[test]
    fn fair_keys_take_turns_and_go_on_where_the_last_claim_ended() {
        let mut line = Line { rules: Queue::named("q").fair(), ..Line::default() };
        let heads = vec![head(1, "a", 1), head(2, "a", 2), head(3, "a", 3), head(4, "b", 9), head(5, "c", 9)];
        assert_eq!(runs(&line.pick(heads, 4, Timestamp(0))), [1, 4, 5, 2]);
        assert_eq!(line.cursor, "a");
    }

    #[test]
    fn a_rate_is_a_bucket_that_fills_evenly_and_holds_no_more_than_itself() {
        let mut line = Line { rules: Queue::named("q").rate(10, Duration::from_secs(1)), tokens: 10, ..Line::default() };
        let heads = || (0..20).map(|run| head(run, "", run)).collect::<Vec<_>>();
        assert_eq!(line.pick(heads(), 20, Timestamp(0)).len(), 10);
        assert_eq!(line.pick(heads(), 20, Timestamp(99_000)).len(), 0);
        assert_eq!(line.pick(heads(), 20, Timestamp(100_000)).len(), 1);
        assert_eq!(line.pick(heads(), 20, Timestamp(250_000)).len(), 1);
        assert_eq!(line.pick(heads(), 20, Timestamp(300_000)).len(), 1, "what was left of a start counts for the next");
        assert_eq!(line.pick(heads(), 20, Timestamp(60_000_000)).len(), 10);
        assert_eq!(line.pick(heads(), 20, Timestamp(50_000_000)).len(), 0, "a clock that goes back fills nothing");
    }

    #[test]
    fn a_paused_queue_starts_nothing() {
        let mut line = Line { paused: true, ..Line::default() };
        assert!(line.pick(vec![head(1, "", 1)], 9, Timestamp(0)).is_empty());
    }

    #[test]
    fn priority_overtakes_and_waiting_makes_up_for_it() {
        let task = |due_at, priority| NewTask {
            key: TaskKey { run: RunKey(1), position: 1, attempt: 1 },
            queue: "q".into(),
            lane: String::new(),
            priority,
            activity: "a".into(),
            needs: Vec::new(),
            due_at: Timestamp(due_at),
            start_by: None,
            body: Bytes::new(),
        };
        assert!(task(9_000_000, 1).rank() < task(0, 0).rank());
        assert!(task(11_000_000, 1).rank() > task(0, 0).rank());
        assert_eq!(task(0, i32::MIN).rank(), STEP * 2_147_483_648, "no overflow");
    }
}
