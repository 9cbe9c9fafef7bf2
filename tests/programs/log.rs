//! What the logs say came of the programs, and whether that is what the model expects. Some things hold for every log, whatever its
//! program: each call is recorded at most once, each sleep is over when it is due, and what a saga has registered is undone in reverse, all of
//! it, or kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use stent::{
    kernel::{
        codec,
        event::{Command, Commit, Event, Fact, MessageBody, Next, Outcome},
        failure::KIND_UNANSWERED,
        payload::Payload,
    },
    store::{Filter, Reader, Status, Summary},
};

use crate::{
    interpreter::{Do, HEARD, Raise, SUM, Shared, Undo, counter, taken},
    model::{End, Expected},
};

/// One execution, as the logs of its runs tell it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) status: Option<Status>,
    pub(crate) reason: Option<String>,
    end: Option<End>,
    /// The run that tells now.
    run_no: u32,
    /// How often it was reset.
    resets: u32,
    /// By position: what it has asked for, …
    names: BTreeMap<u32, String>,
    /// …and what any has.
    asked: BTreeSet<String>,
    done: BTreeSet<String>,
    given_up: BTreeSet<String>,
    failures: BTreeMap<String, u32>,
    pub(crate) losses: u32,
    undone: Vec<u32>,
    /// What each saga has registered, and whether it was kept.
    sagas: BTreeMap<(u32, u32), (Vec<u32>, Option<bool>)>,
    /// The numbers of the updates that were made, in their order.
    made: Vec<u32>,
    /// By the name of an act whose result is shared: by which key, …
    shares: BTreeMap<String, String>,
    /// …and the keys of those that were called here.
    called: Vec<String>,
    /// The keys of those that were under way where a history was left: they are made again for this run alone.
    unshared: BTreeSet<String>,
    /// What is published, as the logs say: values, and counters.
    values: BTreeMap<String, Payload>,
    counters: BTreeMap<String, i64>,
    /// Of each attempt that is over: where, and which.
    pub(crate) over: BTreeSet<(String, u32)>,
    /// Of each call that is over: where, or its name if it is a step.
    pub(crate) recorded: BTreeSet<String>,
    /// Calls that may begin once.
    pub(crate) once: BTreeSet<String>,
}

/// Reads every log there is.
pub(crate) async fn read(reader: Rc<dyn Reader>) -> BTreeMap<String, Told> {
    let mut runs: BTreeMap<String, BTreeMap<u32, Summary>> = BTreeMap::new();
    let mut filter = Filter { limit: 500, ..Filter::default() };
    loop {
        let page = reader.list(&filter).await.unwrap();
        let Some(last) = page.last().map(|run| run.run) else { break };
        for summary in page {
            runs.entry(summary.id.id.clone()).or_default().insert(summary.id.run_no, summary);
        }
        filter.before = Some(last);
    }
    let mut all = BTreeMap::new();
    for (id, runs) in runs {
        all.insert(id, read_one(&*reader, &runs).await);
    }
    all
}

/// Reads a log; each commit follows the one before.
async fn log_of(reader: &dyn Reader, Summary { id, run, .. }: &Summary) -> Vec<Commit> {
    let (mut tail, mut log) = (None, Vec::new());
    for (commit_no, record) in reader.history(*run, 0, 100_000).await.unwrap() {
        let commit = codec::decode(id, commit_no, &record).unwrap();
        assert_eq!(commit.prev, tail, "{id}: commit {commit_no} does not follow its predecessor");
        tail = Some(record.digest);
        log.push(commit);
    }
    log
}

/// Returns the run in whose place this one is, if it is the fruit of a reset.
fn instead_of(run_no: u32, log: &[Commit]) -> Option<u32> {
    log.iter().flat_map(|commit| &commit.events).find_map(|event| match event {
        Event::Fact(Fact::Forked(forked)) if forked.run_no == run_no => Some(forked.from),
        _ => None,
    })
}

/// Reads the runs of an execution: all but the last one have continued, or another is in their place.
async fn read_one(reader: &dyn Reader, runs: &BTreeMap<u32, Summary>) -> Told {
    let mut told = Told::default();
    let mut logs = BTreeMap::new();
    for (expected, (run_no, summary)) in (1..).zip(runs) {
        assert_eq!(*run_no, expected, "{}: there is no run {expected}", summary.id);
        logs.insert(*run_no, log_of(reader, summary).await);
    }
    // From the last one back to the first.
    let (mut counts, mut at) = (Vec::new(), logs.keys().next_back().copied());
    while let Some(run_no) = at {
        counts.push(run_no);
        let mut first = run_no;
        while let Some(from) = instead_of(first, &logs[&first]) {
            told.resets += 1;
            first = from;
        }
        at = first.checked_sub(1).filter(|before| *before > 0);
    }
    counts.reverse();
    for run_no in &counts {
        let (summary, is_last) = (&runs[run_no], Some(run_no) == counts.last());
        let id = &summary.id;
        assert_eq!(summary.status == Status::Continued, !is_last, "{id} is {:?}, of {counts:?}", summary.status);
        (told.status, told.reason) = (Some(summary.status), summary.reason.clone());
        told.run_no = *run_no;
        told.names.clear();
        let mut sleeps = BTreeMap::new();
        for commit in logs.remove(run_no).unwrap_or_default() {
            for event in commit.events {
                match &event {
                    Event::Command(Command::Sleep { position, due }) => _ = sleeps.insert(*position, *due),
                    Event::Fact(Fact::Fired { position }) => {
                        assert!(commit.time >= sleeps[position], "{id}: sleep {position} was over early");
                    }
                    _ => {}
                }
                told.event(&id.id, event);
            }
        }
        if is_last {
            told.check_shown(reader, summary).await;
        }
    }
    told
}

impl Told {
    fn event(&mut self, id: &str, event: Event) {
        let label = |input: &stent::kernel::payload::Payload| input.decode::<Undo>("a compensation").unwrap().label;
        match event {
            Event::Command(Command::Call(call)) => {
                let name = match call.activity.as_str() {
                    "program.shared" => {
                        let Shared { label, key } = call.input.decode("a shared act").unwrap();
                        self.shares.insert(format!("m{label}"), key);
                        format!("m{label}")
                    }
                    "program.undo" => format!("u{}", label(&call.input)),
                    "program.do" => format!("a{}", call.input.decode::<Do>("an act").unwrap().label),
                    _ => format!("h{}", call.input.decode::<Undo>("an act").unwrap().label),
                };
                if call.options.as_ref().is_some_and(|options| options.at_most_once) {
                    self.once.insert(self.place(call.position));
                }
                if let (Some(scope), Some(undo)) = (call.scope, &call.undo) {
                    self.saga(scope).0.push(label(&undo.input));
                }
                self.asks(id, call.position, name);
            }
            Event::Command(Command::Step { position, name, .. }) => self.asks(id, position, name),
            Event::Command(Command::OpenSaga { position }) => *self.saga(position) = (Vec::new(), None),
            Event::Command(Command::Undo { scope, compensation, .. }) => {
                self.saga(scope).0.push(label(&compensation.input));
            }
            Event::Command(Command::KeepSaga { scope }) => self.saga(scope).1 = Some(true),
            Event::Command(Command::Compensate { scope }) => self.saga(scope).1 = Some(false),
            Event::Command(Command::Publish { key, value }) => _ = self.values.insert(key, value),
            Event::Command(Command::Count { key, by }) => *self.counters.entry(key).or_default() += by,
            Event::Command(Command::End { outcome }) => {
                self.end = match *outcome {
                    Outcome::Completed(output) => Some(Ok(output.decode::<String>("the output").unwrap())),
                    Outcome::Failed(failure) => Some(Err(failure.message().to_owned())),
                    _ => None,
                };
            }
            Event::Fact(Fact::Forked(_)) => {
                let open = self.shares.iter().filter(|(name, _)| !self.done.contains(*name));
                self.unshared.extend(open.map(|(_, key)| key.clone()));
            }
            Event::Fact(Fact::Completed { position, attempt, .. }) => {
                let name = self.over(position, attempt, true);
                self.called.extend(self.shares.get(&name).cloned());
                if let Some(undone) = name.strip_prefix('u') {
                    self.undone.push(undone.parse().unwrap());
                }
                assert!(self.done.insert(name.clone()), "{id}: {name} is recorded twice");
            }
            Event::Fact(Fact::Failed { position, attempt, next, .. }) => {
                let name = self.over(position, attempt, next == Next::GiveUp);
                *self.failures.entry(name.clone()).or_default() += 1;
                if next == Next::GiveUp {
                    self.given_up.insert(name);
                }
            }
            Event::Fact(Fact::Lost { position, attempt, next }) => {
                self.losses += 1;
                let name = self.over(position, attempt, next == Next::GiveUp);
                if next == Next::GiveUp {
                    self.given_up.insert(name);
                }
            }
            Event::Fact(Fact::Received { body: MessageBody::Update { payload, .. }, .. }) => {
                self.made.push(payload.decode::<Raise>("an update").unwrap().0);
            }
            // It came too late for any code to take it.
            Event::Fact(Fact::Refused { message, failure }) => {
                assert!(failure.kind() == KIND_UNANSWERED, "{id}: {message} was refused: {failure:?}");
            }
            _ => {}
        }
    }

    fn asks(&mut self, id: &str, position: u32, name: String) {
        assert!(self.asked.insert(name.clone()), "{id}: {name} was asked for twice");
        self.names.insert(position, name);
    }

    fn saga(&mut self, scope: u32) -> &mut (Vec<u32>, Option<bool>) {
        self.sagas.entry((self.run_no, scope)).or_default()
    }

    fn place(&self, position: u32) -> String {
        format!("{}#{position}", self.run_no)
    }

    /// An attempt is over; returns of what.
    fn over(&mut self, position: u32, attempt: u32, is_last: bool) -> String {
        let name = self.names[&position].clone();
        let place = if name.starts_with('s') { name.clone() } else { self.place(position) };
        self.over.insert((place.clone(), attempt));
        if is_last {
            self.recorded.insert(place);
        }
        name
    }

    /// What a reader finds is what the logs say, counters with their sums over all runs.
    async fn check_shown(&self, reader: &dyn Reader, current: &Summary) {
        let mut said = self.values.clone();
        for (key, sum) in &self.counters {
            said.insert(key.clone(), Payload::encode(sum, "a counter").unwrap());
        }
        let found = reader.published(current.run, None).await.unwrap();
        let found: BTreeMap<String, Payload> = found.into_iter().map(|shown| (shown.key, shown.value)).collect();
        assert_eq!(found, said, "{}: what is shown is not what is recorded", current.id);
    }

    /// Signals are heard and updates made in their order, each once; what is certain was counted, and nothing twice.
    fn check_heard_and_counted(&self, expected: &Expected, cancelled: bool, what: &str) {
        if let Some(heard) = self.values.get(HEARD) {
            let heard: Vec<u32> = heard.decode("what was heard").unwrap();
            assert!(in_order(&heard), "heard {heard:?}: {what}");
        }
        assert!(in_order(&self.made), "{what}");
        let mut sum = 0;
        for (label, certain) in &expected.shows {
            let count = self.counters.get(&counter(*label)).copied().unwrap_or(0);
            sum += count * i64::from(*label);
            assert!(count <= 1 && (cancelled || !certain || count == 1), "n{label} is {count}: {what}");
        }
        assert_eq!(self.counters.get(SUM).copied().unwrap_or(0), sum, "{what}");
    }

    /// What holds for every log.
    fn check_sagas(&self, id: &str) {
        let ended = self.status.is_some_and(Status::is_end);
        for ((_, scope), (registered, kept)) in &self.sagas {
            let undone: Vec<u32> = self.undone.iter().filter(|label| registered.contains(label)).copied().collect();
            match kept {
                Some(true) => assert!(undone.is_empty(), "{id}: saga {scope} was kept, and {undone:?} undone"),
                Some(false) if ended => {
                    let reversed: Vec<u32> = registered.iter().rev().copied().collect();
                    assert_eq!(undone, reversed, "{id}: saga {scope}");
                }
                None if ended => panic!("{id} has ended with saga {scope} open"),
                _ => {}
            }
        }
    }
}

fn in_order(numbers: &[u32]) -> bool {
    (0..).zip(numbers).all(|(expected, number)| expected == *number)
}

/// Of each shared key one result is recorded, and whoever has taken one has taken that.
pub(crate) fn check_shared(all: &BTreeMap<String, Told>) {
    let mut called: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut whose: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (id, told) in all {
        for key in told.called.iter().filter(|key| !told.unshared.contains(*key)) {
            called.entry(key).or_default().push(id);
        }
        for key in told.shares.values().filter(|key| !told.unshared.contains(*key)) {
            if let Some(value) = told.values.get(&taken(key)) {
                whose.entry(key).or_default().insert(value.decode("whose result it is").unwrap());
            }
        }
    }
    for (key, values) in &whose {
        assert_eq!(values.len(), 1, "{key} has several values: {values:?}, called by {:?}", called.get(key));
    }
    for (key, ids) in &called {
        assert_eq!(ids.len(), 1, "{key} was called by {ids:?}, taken are {:?}", whose.get(key));
    }
    println!("{} shared keys", called.len());
}

/// What of the end of a run depends on others.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ends {
    /// As it is written.
    ByItself,
    /// So, or cancelled.
    OrCancelled,
    /// So, or cancelled, or it was never begun.
    OrNever,
    /// So, or it was never begun.
    Detached,
}

/// Compares a run, and its children, with what is expected of them.
pub(crate) fn check(all: &BTreeMap<String, Told>, id: &str, expected: &Expected, ends: Ends, killed: bool) {
    let Some(told) = all.get(id) else {
        assert!(matches!(ends, Ends::OrNever | Ends::Detached), "{id} was never begun: {expected:#?}");
        return;
    };
    told.check_sagas(id);
    let status = told.status.unwrap_or(Status::Active);
    assert!(status.is_end(), "{id} is {status:?}: {:?}; {told:#?}", told.reason);
    let cancelled = status == Status::Cancelled;
    let what = format!("{id}: {told:#?}, expected {expected:#?}");
    assert!(!cancelled || matches!(ends, Ends::OrCancelled | Ends::OrNever), "cancelled: {what}");
    let may_do: BTreeSet<&String> = expected.must.keys().chain(&expected.may).collect();
    let undos = expected.undone.iter().flatten().chain(&expected.may_undo);
    let mut may_undo: BTreeSet<u32> = undos.copied().collect();
    if cancelled {
        may_undo.extend(&expected.may_undo_if_cancelled);
    } else {
        assert_eq!(told.end, expected.end, "{what}");
        for (name, succeeds) in &expected.must {
            let is = if *succeeds { told.done.contains(name) } else { told.given_up.contains(name) };
            // One that may begin once and was lost with its node counts as what it would have been.
            let lost = killed && told.given_up.contains(name);
            assert!(is || lost, "{name}: {what}");
        }
        for order in &expected.undone {
            let undone: Vec<u32> = told.undone.iter().filter(|label| order.contains(label)).copied().collect();
            assert_eq!(undone, *order, "{what}");
        }
    }
    told.check_heard_and_counted(expected, cancelled, &what);
    for name in told.done.iter().chain(&told.given_up).filter(|name| !name.starts_with(['u', 'm'])) {
        assert!(may_do.contains(name), "{name} is none of its acts: {what}");
    }
    for label in &told.undone {
        assert!(may_undo.contains(label), "u{label} should not have been undone: {what}");
    }
    assert!(killed || told.losses == 0, "nobody died, and something was lost: {what}");
    for (name, failures) in &told.failures {
        // What was under way where it was left is made again, with all its attempts.
        let planned = expected.failures.get(name).copied().unwrap_or(0).saturating_mul(1 + told.resets);
        let all_of_them = !cancelled && !killed && told.resets == 0 && expected.must.contains_key(name);
        assert!(*failures <= planned && (!all_of_them || *failures == planned), "{name} failed {failures} times: {what}");
    }
    for child in &expected.children {
        let certain = child.certain && !cancelled;
        let ends = match (certain, child.detached) {
            (true, _) => Ends::ByItself,
            (false, true) => Ends::Detached,
            (false, false) => Ends::OrNever,
        };
        check(all, &child.id, &child.expected, ends, killed);
    }
}
