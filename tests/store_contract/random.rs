//! Random operations on the memory store and on every other one at once. Most are sensible, many are not: tails that have moved,
//! ids that are taken, messages that are gone, nodes that are dead. After each operation the answers and the whole
//! content must be equal.
//!
//! `STENT_SEED` runs one seed, `STENT_OPS` sets how many operations; a failure prints both.

use std::sync::Arc;

use bytes::Bytes;
use stent::{
    kernel::{
        event::{CURRENT_RUN, MessageBody},
        id::{BuildId, Digest, Incarnation, RunId, RunKey},
        random::mix,
        time::Timestamp,
    },
    store::{
        Batch, ClaimRequest, Filter, Fork, Item, Letter, LetterChange, LetterFilter, Message, NewChild, NewRun, NewTask,
        Publication, Queue, ScheduleChange, SeenLetter, Status, Store, Successor, Summary, TaskKey, TaskRequest, Tell, Then,
        Turn, Warden, Yield, YieldReason, memory::MemoryStore,
    },
};

use crate::{forks, kit::*, published::shows, queues::ended, schedules::change};

mod shared;

/// Seeds that run always; those that once found something stay in the list.
const SEEDS: [u64; 6] = [1, 2, 3, 20, 300, 4_000];

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "unicode é😀"];

#[test]
fn all_stores_answer_alike_whatever_is_asked() {
    let ops = std::env::var("STENT_OPS").ok().and_then(|ops| ops.parse().ok()).unwrap_or(250);
    match std::env::var("STENT_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => block_on(compare(seed, ops)),
        None => SEEDS.into_iter().for_each(|seed| block_on(compare(seed, ops))),
    }
}

async fn compare(seed: u64, ops: u32) {
    let folder = tempfile::tempdir().unwrap();
    #[cfg(feature = "postgres")]
    let schema = Schema::fresh();
    let others: Vec<(&str, Box<dyn Store>)> = vec![
        ("SQLite", Box::new(sqlite(&folder.path().join("stent.db")).await)),
        #[cfg(feature = "postgres")]
        ("PostgreSQL", Box::new(schema.open().await)),
    ];
    let mut all = All {
        memory: MemoryStore::with_inbox_limit(INBOX_LIMIT),
        others,
        dice: Dice { seed, thrown: 0 },
        nodes: 0,
        now: 1_000,
        outcomes: std::collections::BTreeMap::new(),
    };
    all.register().await;
    for op in 0..ops {
        let what = all.step().await;
        let memory = all.memory.reader().snapshot().await.unwrap();
        for (name, other) in &all.others {
            let other = other.reader().snapshot().await.unwrap();
            if memory != other {
                let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
                let (in_memory, in_other) = (only(&memory, &other), only(&other, &memory));
                panic!("seed {seed} op {op} {what}\nonly in memory: {in_memory:#?}\nonly in {name}: {in_other:#?}");
            }
        }
    }
    // A generator that only ever meets one answer tests nothing.
    if ops >= 250 {
        for wanted in [
            "Done",
            "Sent",
            "Conflict",
            "IdInUse",
            "InboxMoved",
            "Unknown",
            "Ended",
            "NotOwned",
            "AlreadySent",
            "Taken",
            "Told",
            "NoChild",
            "Continued",
        ] {
            assert!(all.outcomes.contains_key(wanted), "seed {seed} never met {wanted}: {:?}", all.outcomes);
        }
    }
    for (_, other) in &mut all.others {
        other.close().await.unwrap();
    }
    #[cfg(feature = "postgres")]
    schema.drop().await;
}

struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.thrown += 1;
        mix(self.seed, self.thrown) % bound
    }

    fn once_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        let place = self.below(all.len() as u64);
        all[usize::try_from(place).unwrap()].clone()
    }
}

struct All {
    memory: MemoryStore,
    others: Vec<(&'static str, Box<dyn Store>)>,
    dice: Dice,
    nodes: u128,
    now: i64,
    outcomes: std::collections::BTreeMap<String, u32>,
}

impl All {
    fn label(&self) -> String {
        format!("seed {} throw {}", self.dice.seed, self.dice.thrown)
    }

    async fn register(&mut self) {
        self.nodes += 1;
        let node = node(incarnation(self.nodes), self.now);
        let freed = self.memory.register(&node).await.unwrap();
        let label = self.label();
        for (name, other) in &mut self.others {
            assert_eq!(freed, other.register(&node).await.unwrap(), "{label} register on {name}");
        }
    }

    async fn step(&mut self) -> String {
        self.now += i64::try_from(self.dice.below(50)).unwrap();
        match self.dice.below(46) {
            0 => {
                self.register().await;
                "register".into()
            }
            1 => {
                let who = self.somebody();
                let free = self.dice.once_in(2);
                let mut keep = Vec::new();
                for _ in 0..self.dice.below(3) {
                    keep.extend(self.some_run().await.map(|row| row.run));
                }
                let memory = self.memory.retire(who, free, &keep).await.unwrap();
                let label = self.label();
                for (name, other) in &mut self.others {
                    assert_eq!(memory, other.retire(who, free, &keep).await.unwrap(), "{label} retire on {name}");
                }
                self.register().await;
                "retire".into()
            }
            2..=5 => {
                self.read().await;
                "read".into()
            }
            40..=44 => self.take_tasks().await,
            45 => self.rule().await,
            _ => {
                let batch = self.batch().await;
                let what = format!("{batch:#?}");
                let memory = self.memory.commit(&batch).await.unwrap();
                let label = self.label();
                for (name, other) in &mut self.others {
                    assert_eq!(memory, other.commit(&batch).await.unwrap(), "{label} {name} {what}");
                }
                for outcome in &memory.outcomes {
                    let name = format!("{outcome:?}");
                    let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
                    *self.outcomes.entry(name).or_default() += 1;
                }
                for (item, outcome) in batch.items.iter().zip(&memory.outcomes) {
                    if let (Item::Turn(turn), stent::store::Outcome::Done) = (item, outcome)
                        && turn.successor().is_some()
                    {
                        *self.outcomes.entry("Continued".into()).or_default() += 1;
                    }
                }
                for told in &memory.told {
                    let name = if told.unread.message.starts_with("stent:child:") { "NoChild" } else { "Told" };
                    *self.outcomes.entry(name.into()).or_default() += 1;
                }
                what
            }
        }
    }

    /// The living node, mostly.
    fn somebody(&mut self) -> Incarnation {
        incarnation(if self.dice.once_in(25) { self.nodes.saturating_sub(1) } else { self.nodes })
    }

    async fn some_run(&mut self) -> Option<Summary> {
        let filter = Filter { limit: 25, ..Filter::default() };
        let all = self.memory.reader().list(&filter).await.unwrap();
        if all.is_empty() { None } else { Some(self.dice.of(&all)) }
    }

    async fn batch(&mut self) -> Batch {
        let mut items = Vec::new();
        let mut turned = Vec::new();
        for _ in 0..self.dice.below(9) {
            let item = self.item().await;
            if let Item::Turn(turn) = &item {
                // Two turns of one run in a batch are a bug of the caller's, and are tried rarely.
                if turned.contains(&turn.run) && !self.dice.once_in(10) {
                    continue;
                }
                turned.push(turn.run);
            }
            items.push(item);
        }
        let workflows = vec![("flow".to_owned(), 1), ("flow".to_owned(), 2)];
        let claim = self.dice.once_in(3).then(|| ClaimRequest {
            limit: u32::try_from(self.dice.below(5)).unwrap(),
            ahead: std::time::Duration::from_micros(self.dice.of(&[0, 0, 30, 90])),
            forced_limit: u32::try_from(self.dice.below(3)).unwrap(),
            build: BuildId(i64::try_from(self.dice.below(3)).unwrap()),
            workflows,
            queues: self.dice.once_in(4).then(|| vec!["q".to_owned()]),
            tags: vec!["gpu".to_owned()][..usize::try_from(self.dice.below(2)).unwrap()].to_vec(),
        });
        let renew = self.dice.once_in(4);
        Batch { incarnation: self.somebody(), now: Timestamp(self.now), renew, items, claim }
    }

    async fn item(&mut self) -> Item {
        match self.dice.below(33) {
            30..=32 => self.memo().await,
            26..=27 => self.schedule().await,
            28 => self.fork().await,
            29 => Item::DropLetters(self.seen_letters().await),
            0..=7 => self.turn().await,
            20..=23 => self.end_task().await,
            24 => {
                let row = self.some_run().await;
                let run = row.as_ref().map_or(RunKey(500_000), |row| row.run);
                let epoch = row.map_or(1, |row| row.epoch) + u64::from(self.dice.once_in(8));
                Item::PlaceTasks(run, epoch, self.tasks(run))
            }
            25 => {
                let key = self.some_task().await;
                Item::BeatTask(key, Bytes::from(format!("at {}", self.now)))
            }
            8..=10 => {
                let new = self.new_run().await;
                let run = new.run;
                if self.dice.once_in(3) {
                    enqueue(new)
                } else {
                    let then = self.then(0).await;
                    let mut item = start_then(new, then);
                    if let Item::Turn(turn) = &mut item
                        && self.dice.once_in(4)
                    {
                        let turn = Arc::make_mut(turn);
                        (turn.starts, turn.tells) = self.others().await;
                        turn.published = self.published();
                        turn.letters = self.letters();
                    }
                    if let Item::Turn(turn) = &mut item
                        && self.dice.once_in(15)
                    {
                        let turn = Arc::make_mut(turn);
                        turn.consumed = vec![1];
                        turn.record = record(run, 0);
                    }
                    item
                }
            }
            11..=14 => {
                let id = if self.dice.once_in(10) { "nobody".to_owned() } else { self.dice.of(&NAMES).to_owned() };
                let message = format!("m{}", self.dice.below(12));
                let body = match self.dice.below(8) {
                    // For a place in one run only.
                    0 => MessageBody::Retry { position: Some(1) },
                    1 => MessageBody::Retry { position: None },
                    _ => signal(&message),
                };
                let run_no = if self.dice.once_in(4) { 1 } else { CURRENT_RUN };
                Item::Send(Message { to: RunId { id, run_no }, body, message, sent_at: Timestamp(self.now) })
            }
            15..=16 => {
                let row = self.some_run().await;
                let run = row.as_ref().map_or(RunKey(500_000), |row| row.run);
                let epoch = row.map_or(1, |row| row.epoch) + u64::from(self.dice.once_in(8));
                let reason = format!("why {}\0", self.now);
                let why = match self.dice.below(6) {
                    0 => YieldReason::Blocked { build: BuildId(i64::try_from(self.dice.below(3)).unwrap()), reason },
                    1 => YieldReason::Quarantined { reason },
                    2 => YieldReason::Paused { reason, forced: self.dice.once_in(3), seen: self.now.unsigned_abs() % 4 },
                    _ => YieldReason::Released { wake_at: self.time(), forced: self.dice.once_in(3) },
                };
                Item::Yield(Yield { run, epoch, why })
            }
            17..=18 => {
                let run = self.some_run().await.map_or(RunKey(500_000), |row| row.run);
                let [position, attempt] = [3, 4].map(|bound| u32::try_from(self.dice.below(bound)).unwrap());
                heartbeat(run, position, attempt)
            }
            _ => {
                let mut runs = vec![RunKey(500_000)];
                runs.extend(self.some_run().await.map(|row| row.run));
                Item::Progressed(runs)
            }
        }
    }

    fn time(&mut self) -> Option<Timestamp> {
        let at = self.now - 40 + i64::try_from(self.dice.below(200)).unwrap();
        (!self.dice.once_in(3)).then_some(Timestamp(at))
    }

    async fn then(&mut self, seen: u64) -> Then {
        let seen = seen + u64::from(self.dice.once_in(5));
        match self.dice.below(13) {
            11.. => {
                let run = self.some_key().await;
                let published = if self.dice.once_in(2) { self.published() } else { Vec::new() };
                Then::Continue(Box::new(Successor { run, record: record(run, 0), due: self.time(), published }))
            }
            0..=3 => Then::Hold,
            4..=6 => Then::Passivate { wake_at: self.time(), seen },
            kind => {
                let ends = [Status::Completed, Status::Failed, Status::Continued, Status::Continued, Status::Paused];
                Then::End { status: self.dice.of(&ends), seen: (kind < 10).then_some(seen) }
            }
        }
    }

    /// A key for a new run, mostly one that is free.
    async fn some_key(&mut self) -> RunKey {
        let fresh = self.memory.reserve_keys(1).await.unwrap();
        for (_, other) in &mut self.others {
            assert_eq!(other.reserve_keys(1).await.unwrap(), fresh);
        }
        match self.some_run().await {
            Some(taken) if self.dice.once_in(15) => taken.run,
            _ => fresh,
        }
    }

    async fn new_run(&mut self) -> NewRun {
        let name = self.dice.of(&NAMES);
        let run = self.some_key().await;
        let current = self.memory.reader().find(name, None).await.unwrap();
        let next = current.map_or(1, |row| row.id.run_no + 1);
        let run_no = if self.dice.once_in(4) { u32::try_from(self.dice.below(4)).unwrap() } else { next };
        let after = [Status::Continued, Status::Completed, Status::Failed, Status::Active];
        let after = after.into_iter().filter(|_| !self.dice.once_in(3)).collect();
        NewRun {
            id: RunId { id: name.into(), run_no },
            after,
            version: u32::try_from(self.dice.below(3)).unwrap(),
            priority: i32::try_from(self.dice.below(3)).unwrap() - 1,
            queue: self.dice.of(&["q", "r"]).into(),
            needs: if self.dice.once_in(4) { vec!["gpu".into()] } else { Vec::new() },
            tags: vec![name.into()],
            created_at: Timestamp(self.now),
            wake_at: self.time(),
            deadline: self.time(),
            input_digest: Digest([u8::try_from(self.dice.below(256)).unwrap(); 32]),
            ..new_run(run, name)
        }
    }

    async fn turn(&mut self) -> Item {
        let Some(row) = self.some_run().await else { return step(RunKey(500_000), 1) };
        let history = self.memory.reader().history(row.run, 0, u32::MAX).await.unwrap();
        let inbox = self.memory.reader().inbox(row.run).await.unwrap();
        let length = u32::try_from(history.len()).unwrap();
        let (commit_no, prev) = match self.dice.below(12) {
            0 => (length, Some(Digest([9; 32]))),
            1 => (length.saturating_sub(1), history.last().map(|(_, last)| last.digest)),
            2 => (length, None),
            _ => (length, history.last().map(|(_, last)| last.digest)),
        };
        let mut consumed: Vec<u64> = inbox.unread.iter().map(|unread| unread.seq).collect();
        consumed.retain(|_| !self.dice.once_in(3));
        if self.dice.once_in(12) {
            consumed.push(self.dice.below(4));
        }
        let settled = (0..self.dice.below(3)).map(|_| u32::try_from(self.dice.below(3)).unwrap()).collect();
        let record = record(row.run, commit_no);
        let then = self.then(inbox.seq).await;
        let tasks = if self.dice.once_in(3) { self.tasks(row.run) } else { Vec::new() };
        let withdrawn = if self.dice.once_in(6) { vec![u32::try_from(self.dice.below(4)).unwrap()] } else { Vec::new() };
        let run = row.run;
        let (starts, tells) = if self.dice.once_in(2) { self.others().await } else { (Vec::new(), Vec::new()) };
        let published = if self.dice.once_in(4) { self.published() } else { Vec::new() };
        let memos = if self.dice.once_in(2) { self.memos() } else { Vec::new() };
        let letters = if self.dice.once_in(4) { self.letters() } else { Vec::new() };
        Item::Turn(Arc::new(Turn {
            run,
            start: None,
            commit_no,
            prev,
            record,
            then,
            consumed,
            settled,
            tasks,
            withdrawn,
            starts,
            tells,
            published,
            memos,
            letters,
            unowned: None,
        }))
    }

    /// Children whose ids are fresh or in use, and messages to runs of every state, to these children, and to nobody.
    async fn others(&mut self) -> (Vec<NewChild>, Vec<Tell>) {
        let (mut starts, mut tells) = (Vec::new(), Vec::new());
        for _ in 0..self.dice.below(3) {
            let mut row = self.new_run().await;
            row.id.run_no = if self.dice.once_in(60) { 2 } else { 1 };
            if !self.dice.once_in(3) {
                row.id.id = format!("kid {}", self.dice.below(300));
            }
            let position = u32::try_from(self.dice.below(4)).unwrap();
            starts.push(NewChild { position, record: record(row.run, 0), row });
        }
        for _ in 0..self.dice.below(4) {
            let to = match (self.dice.below(8), self.some_run().await) {
                (0, _) => RunId { id: self.dice.of(&NAMES).into(), run_no: u32::try_from(self.dice.below(3)).unwrap() + 1 },
                (1..=2, _) if !starts.is_empty() => self.dice.of(&starts).row.id,
                (3, Some(row)) => RunId { run_no: CURRENT_RUN, ..row.id },
                (_, Some(row)) => row.id,
                (_, None) => RunId { id: "nobody".into(), run_no: 1 },
            };
            let message = format!("m{}", self.dice.below(12));
            tells.push(Tell { to, body: signal(&message), message });
        }
        (starts, tells)
    }

    /// Values of a few keys, sometimes two of one key.
    fn published(&mut self) -> Vec<Publication> {
        let some = 0..self.dice.below(4);
        some.map(|_| shows(self.dice.of(&["k", "l", "é"]), self.dice.thrown, &format!("at {}", self.now))).collect()
    }

    /// What becomes of the letters of a few calls, sometimes twice of one call.
    fn letters(&mut self) -> Vec<LetterChange> {
        let some = 0..self.dice.below(4);
        let change = |dice: &mut Dice, at| match u32::try_from(dice.below(4)).unwrap() {
            position if dice.once_in(3) => LetterChange::Drop(position),
            position if dice.once_in(3) => LetterChange::Put(Letter { commit_no: 2, ..forks::letter(position, at) }),
            position => forks::put(position, at),
        };
        some.map(|_| change(&mut self.dice, self.now)).collect()
    }

    async fn some_letters(&mut self) -> Vec<(RunKey, u32)> {
        let run = self.some_run().await.map_or(RunKey(500_000), |row| row.run);
        (0..self.dice.below(3)).map(|_| (run, u32::try_from(self.dice.below(4)).unwrap())).collect()
    }

    async fn seen_letters(&mut self) -> Vec<SeenLetter> {
        let calls = self.some_letters().await.into_iter();
        let seen = calls.map(|(run, position)| SeenLetter::of(run, &forks::letter(position, 0)));
        seen.map(|seen| SeenLetter { commit_no: 1 + u32::from(self.dice.once_in(3)), ..seen }).collect()
    }

    /// With a run that is the next one of its id, mostly, behind one that has ended or not.
    async fn fork(&mut self) -> Item {
        let row = self.new_run().await;
        let of = self.some_run().await.map_or(RunKey(500_000), |row| row.run);
        let rows = u32::try_from(self.dice.below(4)).unwrap();
        let mut fork = Fork { row, ..forks::fork(RunKey(0), "a", 2, of, 0) };
        fork.log = (0..rows).map(|commit_no| record(fork.row.run, commit_no)).collect();
        fork.inbox = (0..self.dice.below(7)).map(|n| forks::again(&format!("m{n}"))).collect();
        fork.published = self.published();
        fork.undone = self.some_letters().await.into_iter().map(|(_, position)| position).collect();
        Item::Fork(Box::new(fork))
    }

    /// Rows that are as they were seen, mostly, with runs to begin whose ids are fresh or in use, and messages to runs of every state.
    async fn schedule(&mut self) -> Item {
        let name = self.dice.of(&["s", "t", "unicode é😀"]);
        let revision = self.memory.reader().schedule(name).await.unwrap().map_or(0, |row| row.revision);
        let seen = if self.dice.once_in(6) { self.dice.below(3) } else { revision };
        let awaits = if self.dice.once_in(2) { self.some_run().await.map(|row| row.run) } else { None };
        let (children, tells) = self.others().await;
        let starts = children.into_iter().map(|child| (child.row, child.record)).collect();
        let next_at = self.time().map(|at| at.0);
        Item::Schedule(Box::new(ScheduleChange { awaits, starts, tells, ..change(name, seen, next_at) }))
    }

    fn tasks(&mut self, run: RunKey) -> Vec<NewTask> {
        (0..self.dice.below(3))
            .map(|_| {
                let position = u32::try_from(self.dice.below(4)).unwrap();
                // An attempt is placed once.
                let attempt = u32::try_from(self.dice.thrown).unwrap();
                let due_at = self.time().unwrap_or(Timestamp(self.now));
                NewTask {
                    key: TaskKey { run, position, attempt },
                    queue: self.dice.of(&["limited", "keyed", "fair", "rated", "free"]).into(),
                    lane: self.dice.of(&["", "a", "b", "c"]).into(),
                    priority: i32::try_from(self.dice.below(3)).unwrap() - 1,
                    activity: self.dice.of(&["act", "act", "other"]).into(),
                    needs: if self.dice.once_in(5) { vec!["gpu".into()] } else { Vec::new() },
                    due_at,
                    start_by: self.time(),
                    body: Bytes::from(format!("body {}", self.now)),
                }
            })
            .collect()
    }

    async fn some_task(&mut self) -> TaskKey {
        let nowhere = TaskKey { run: RunKey(500_000), position: 1, attempt: 1 };
        let held = self.memory.reader().held_tasks(incarnation(self.nodes)).await.unwrap();
        let run = self.some_run().await.map_or(RunKey(500_000), |row| row.run);
        let waiting = self.memory.reader().tasks(run).await.unwrap();
        let all: Vec<TaskKey> = held.into_iter().chain(waiting).map(|row| row.key).collect();
        if all.is_empty() { nowhere } else { self.dice.of(&all) }
    }

    async fn end_task(&mut self) -> Item {
        let key = self.some_task().await;
        let by = match self.dice.below(6) {
            0 => None,
            1 => Some(self.somebody()),
            _ => Some(incarnation(self.nodes)),
        };
        ended(key, by)
    }

    async fn take_tasks(&mut self) -> String {
        let request = TaskRequest {
            by: self.somebody(),
            now: Timestamp(self.now),
            limit: u32::try_from(self.dice.below(5)).unwrap(),
            activities: vec!["act".into()],
            queues: self.dice.once_in(4).then(|| vec!["limited".into(), "fair".into()]),
            tags: vec!["gpu".to_owned()][..usize::try_from(self.dice.below(2)).unwrap()].to_vec(),
        };
        let memory = self.memory.take_tasks(request.clone()).await.unwrap();
        let label = self.label();
        for (name, other) in &mut self.others {
            assert_eq!(memory, other.take_tasks(request.clone()).await.unwrap(), "{label} {name} {request:?}");
        }
        *self.outcomes.entry("Taken".into()).or_default() += u32::try_from(memory.tasks.len()).unwrap();
        format!("{request:?}: {memory:?}")
    }

    async fn rule(&mut self) -> String {
        let most = u32::try_from(self.dice.below(3)).unwrap() + 1;
        let rules = match self.dice.below(4) {
            0 => Queue::named("limited").concurrency(most),
            1 => Queue::named("keyed").per_key(most).concurrency(most + 1),
            2 => Queue::named("fair").fair(),
            _ => Queue::named("rated").rate(most, std::time::Duration::from_micros(100)),
        };
        let (name, paused) = (self.dice.of(&["limited", "free"]), self.dice.once_in(2));
        let pauses = self.dice.once_in(3);
        self.memory.declare_queues(std::slice::from_ref(&rules)).await.unwrap();
        if pauses {
            self.memory.pause_queue(name, paused).await.unwrap();
        }
        for (_, other) in &mut self.others {
            other.declare_queues(std::slice::from_ref(&rules)).await.unwrap();
            if pauses {
                other.pause_queue(name, paused).await.unwrap();
            }
        }
        format!("{rules:?} {pauses} {name} {paused}")
    }

    async fn read(&mut self) {
        let label = self.label();
        let name = self.dice.of(&NAMES);
        let run_no = self.dice.once_in(2).then(|| u32::try_from(self.dice.below(4)).unwrap());
        let run = self.some_run().await.map_or(RunKey(500_000), |row| row.run);
        let who = self.somebody();
        let filter = Filter {
            workflow: self.dice.once_in(2).then(|| "flow".into()),
            status: vec![Status::Active, Status::Continued][..usize::try_from(self.dice.below(3)).unwrap()].to_vec(),
            tag: self.dice.once_in(2).then(|| name.into()),
            before: self.dice.once_in(2).then_some(run),
            limit: u32::try_from(self.dice.below(6)).unwrap(),
        };
        let runs = [run, RunKey(500_000), RunKey(1)];
        let from = u32::try_from(self.dice.below(4)).unwrap();
        let memory = self.memory.reader();
        macro_rules! alike {
            ($verb:ident ( $($argument:expr),* )) => {
                let answer = memory.$verb($($argument),*).await.unwrap();
                for (name, other) in &self.others {
                    let other = other.reader().$verb($($argument),*).await.unwrap();
                    assert_eq!(answer, other, "{label} {} on {name}", stringify!($verb));
                }
            };
        }
        alike!(find(name, run_no));
        alike!(history(run, from, 3));
        alike!(tail(run));
        // One with a clock of its own need not know what was appended last.
        let newest = memory.newest().await.unwrap();
        for (name, other) in self.others.iter().filter(|(name, _)| *name != "PostgreSQL") {
            assert_eq!(newest, other.reader().newest().await.unwrap(), "{label} newest on {name}");
        }
        alike!(inbox(run));
        alike!(heartbeats(run));
        alike!(summaries(&runs));
        alike!(runs(&runs));
        alike!(list(&filter));
        alike!(owned(who));
        alike!(tasks(run));
        alike!(published(run, None));
        alike!(published(run, Some("l")));
        alike!(heights(&runs));
        let letters = LetterFilter {
            workflow: filter.workflow.clone(),
            parked: self.dice.once_in(3).then_some(true),
            run: self.dice.once_in(3).then_some(run),
            since: self.dice.once_in(3).then_some(Timestamp(self.now - 500)),
            limit: filter.limit,
            ..LetterFilter::default()
        };
        alike!(letters(&letters));
        alike!(held_tasks(who));
        // Which ones, if there are more, is not promised.
        alike!(stale_tasks(Timestamp(self.now), 10_000));
        alike!(queues());
        alike!(ruled_queues());
        alike!(schedule("s"));
        alike!(schedules(["", "s", "z"][from as usize % 3], from));
        alike!(due_schedules(Timestamp(self.now), from * 3));
        alike!(next_wake(Timestamp(i64::MIN)));
        alike!(next_wake(Timestamp(from.into())));
    }
}
