//! Forks: a new run that begins with a copy of the history of one that has ended, up to a point. What is copied are *facts*: whatever was
//! recorded there has happened and does not happen again. What was asked for and not answered by then is asked for again, as a new
//! attempt under the new run's name, so under a new key. Nothing of the old run is changed.
//!
//! A point lies between two facts. There the code was at rest, with everything that it had asked for behind the facts before, so it can
//! be brought there again; within what one fact led to it cannot.
//!
//! ```text
//! old   Started, call a │ ok a, call b │ b gave up, End            run 1, as it ended
//! new   Started, call a │ ok a, call b │ Forked │ …                before the failure of b: b is called again, as it was
//! new   Started, call a │ Forked │ ok a, …                         before the call of b: the code decides again what follows a
//! ```

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    event::{Command, Commit, Event, Fact, MessageBody, Next, OUR_MESSAGES, RunRetry, Started, TaskEnd},
    id::{Attempt, BuildId, CommitNo, Incarnation, Position, RunId},
    limits::Limits,
    memo::MemoWord,
    published::{Publication, Published},
    run::Arrival,
    state::State,
    time::Timestamp,
};

/// Sets the random numbers behind a fork apart from those of the runs before, and from those of chains.
const FORKED: u64 = 1 << 62;

/// What a run begins with whose history is a copy up to here.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Forked {
    /// The number of the run that goes on from here.
    pub run_no: u32,
    /// The number of the run, of the same execution, that the copy is of…
    pub from: u32,
    /// …and its first entry that was not copied: which commit…
    pub commit: CommitNo,
    /// …and where in it.
    pub event: u32,
    /// When.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Names the request, so that one whose answer was lost is known again.
    pub token: String,
    /// The new run's deadline.
    pub deadline: Option<Timestamp>,
    /// Messages that the old run took behind the point, and that are not delivered again.
    pub known: Vec<String>,
    /// A call whose end is known and waits in the inbox: it is not made again.
    pub kept: Option<Position>,
    /// What happens first, because it is what came next in the history that was left.
    pub first: Option<First>,
}

/// What happens before all else in a run that begins with a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum First {
    /// The first message of the inbox is taken.
    #[serde(rename = "m")]
    Message,
    /// This sleep ends.
    #[serde(rename = "s")]
    Sleep(Position),
    /// The deadline passes.
    #[serde(rename = "d")]
    Deadline,
}

/// Orders what a run finds behind the copy that its history begins with: by the times at which it came, or was due, as it would have met it.
/// Without this a sleep that was over long ago would end before a signal is read that had come in time.
#[cfg_attr(not(feature = "actors"), allow(dead_code))]
pub(crate) fn in_order(forked: &Forked, mut found: Vec<(Timestamp, Arrival)>) -> Vec<Arrival> {
    found.sort_by_key(|(at, _)| *at);
    let is_first = |(_, arrival): &(Timestamp, Arrival)| match (forked.first, arrival) {
        (Some(First::Message), Arrival::Message { .. }) | (Some(First::Deadline), Arrival::Deadline) => true,
        (Some(First::Sleep(first)), Arrival::Due { position }) => first == *position,
        _ => false,
    };
    if let Some(at) = found.iter().position(is_first) {
        found[..=at].rotate_right(1);
    }
    found.into_iter().map(|(_, arrival)| arrival).collect()
}

impl Forked {
    /// What random numbers begin from behind it.
    pub(crate) fn seed(&self, before: u64) -> u64 {
        super::random::mix(before, FORKED | u64::from(self.run_no))
    }
}

impl fmt::Display for Forked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forked { from, commit, event, by, reason, .. } = self;
        write!(f, "a copy of run {from}, {}", Spot { commit: *commit, event: *event })?;
        if !by.is_empty() {
            write!(f, "; by {by}")?;
        }
        if reason.is_empty() { Ok(()) } else { write!(f, "; {reason}") }
    }
}

/// Where a fork leaves the history that it copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Point {
    /// Nothing is copied but the beginning: all of it runs again.
    Start,
    /// Behind everything that this commit recorded.
    After(CommitNo),
    /// Before this entry of this commit, which must be something that happened (no command), as [`Events`](crate::Events) number them.
    Before(CommitNo, u32),
    /// Before the call, step, child, sleep or wait at this position was asked for: the code decides again, behind the same facts, what
    /// comes next.
    BeforeCall(Position),
    /// Before the call at this position failed for good: it is made again as it was asked for, and everything that came meanwhile stays.
    BeforeFailure(Position),
}

/// A place between two entries of a log: the first entry behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Spot {
    /// In which commit.
    pub commit: CommitNo,
    /// Which entry.
    pub event: u32,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.commit.checked_sub(1), self.event) {
            (None, 0) => f.write_str("the start"),
            (Some(before), 0) => write!(f, "after commit {before}"),
            (_, event) => write!(f, "before entry {event} of commit {}", self.commit),
        }
    }
}

/// Why a history cannot be left at a point.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// The log has no such place.
    #[error("the log of {run} has no {what}")]
    NoSuchPlace {
        /// Whose log.
        run: RunId,
        /// What it has not.
        what: String,
    },
    /// The code was not at rest there, or what is open there cannot be opened again.
    #[error("{run} cannot be left {at}: {why}; the nearest good points are {}", nearest(.before.as_ref(), .after.as_ref()))]
    NotGood {
        /// Whose log.
        run: RunId,
        /// Where.
        at: Spot,
        /// Why not.
        why: String,
        /// The last good point before it.
        before: Option<Spot>,
        /// The first good point behind it.
        after: Option<Spot>,
    },
}

fn nearest(before: Option<&Spot>, after: Option<&Spot>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{before} and {after}"),
        (Some(spot), None) | (None, Some(spot)) => format!("{spot}, and no other on the other side"),
        (None, None) => "none but the start".to_owned(),
    }
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) point: Point,
    /// The number of the new run.
    pub(crate) run_no: u32,
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) token: &'a str,
    /// Whether signals and updates that came behind the point are delivered again.
    pub(crate) messages: bool,
    /// What came to other runs, in order: it came behind the point, unless that one's log names it.
    pub(crate) beside: &'a [Came],
    pub(crate) at: Timestamp,
    pub(crate) incarnation: Incarnation,
    pub(crate) build: BuildId,
}

/// How the new run begins.
#[derive(Debug)]
pub(crate) struct Fork {
    /// Its log, without the digests of predecessors.
    pub(crate) log: Vec<Commit>,
    /// What is in its inbox, in order: id, text, and when it was sent.
    pub(crate) inbox: Vec<(String, MessageBody, Timestamp)>,
    /// What it shows.
    pub(crate) published: Vec<Publication>,
    pub(crate) deadline: Option<Timestamp>,
    /// Calls of the old run that failed for good behind the point.
    pub(crate) undone: BTreeSet<Position>,
}

/// A place, and what has to be made up for there.
struct Left {
    spot: Spot,
    /// The fact that comes next happens again, whatever it is: what is asked for behind it is what the point is about.
    again: bool,
}

/// Copies the beginning of a log, which is that of a run that has ended.
pub(crate) fn fork(run: &RunId, mut log: Vec<Commit>, ask: &Ask<'_>) -> Result<Fork, PointError> {
    renew_inherited(&mut log, ask.run_no);
    let log = &log[..];
    let (started, inherited) = beginning(run, log)?;
    let left = find(run, log, ask.point)?;
    let spot = left.spot;
    let from_start = spot == Spot { commit: 0, event: 0 };
    let state = if from_start {
        let mut state = State::new(started.clone(), ask.run_no);
        inherited.iter().for_each(|fact| state.fact(fact, &started.limits()));
        state
    } else {
        good(run, log, spot, started, ask.run_no)?
    };
    let later = Later::of(log, &left, &state, ask);
    let last = if from_start { None } else { log[..=copied_to(spot)].last() };
    let deadline = match state.started.deadline {
        // As much time as was left there is left again.
        Some(due) if !state.deadline_passed && later.first != Some(First::Deadline) => {
            let left_at = last.or_else(|| log.first()).map_or(ask.at, |commit| commit.time);
            Some(ask.at.after(due.since(left_at)))
        }
        due => due,
    };
    let forked = Forked {
        run_no: ask.run_no,
        from: run.run_no,
        commit: spot.commit,
        event: spot.event,
        at: ask.at.max(last.map_or(ask.at, |commit| commit.time)),
        by: ask.by.to_owned(),
        reason: ask.reason.to_owned(),
        token: ask.token.to_owned(),
        deadline,
        known: later.known,
        kept: later.kept,
        first: later.first,
    };
    let mut copy = if from_start { Vec::new() } else { copied(run, log, spot, ask.at) };
    let time = forked.at;
    let mut events = vec![Event::Fact(Fact::Forked(Box::new(forked)))];
    if from_start {
        let retry = fresh(started, ask.at);
        let started = Started { deferred: true, deadline, copied_from: None, retry, ..started.clone() };
        let inherited = inherited.cloned().map(Event::Fact);
        events.splice(0..0, std::iter::once(Event::Fact(Fact::Started(Box::new(started)))).chain(inherited));
    }
    let commit_no = CommitNo::try_from(copy.len()).unwrap_or(CommitNo::MAX);
    let Ask { incarnation, build, .. } = *ask;
    copy.push(Commit { commit_no, prev: None, incarnation, epoch: 0, build, time, events });
    Ok(Fork { log: copy, inbox: later.inbox, published: state.published.newer_than(0), deadline, undone: later.undone })
}

/// What the old run had shown from its beginning on is shown by the new one, in place of all that was shown meanwhile: so it is newer.
fn renew_inherited(log: &mut [Commit], run_no: u32) {
    if let Some(Event::Fact(Fact::Inherited(inherited))) = log.first_mut().and_then(|commit| commit.events.get_mut(1)) {
        let version = Published::new(run_no).version();
        inherited.published.iter_mut().for_each(|kept| kept.version = version);
    }
}

/// How the old run began: its start, and what it took over from one before it, if that continued as it.
fn beginning<'l>(run: &RunId, log: &'l [Commit]) -> Result<(&'l Started, Option<&'l Fact>), PointError> {
    let events = log.first().map_or(&[][..], |commit| &commit.events);
    let inherited = events.get(1).and_then(|event| match event {
        Event::Fact(fact @ Fact::Inherited(_)) => Some(fact),
        _ => None,
    });
    match events.first() {
        Some(Event::Fact(Fact::Started(started))) => Ok((started, inherited)),
        _ => Err(PointError::NoSuchPlace { run: run.clone(), what: "beginning".to_owned() }),
    }
}

/// The place of the last commit of which something is copied.
fn copied_to(spot: Spot) -> usize {
    (spot.commit as usize).saturating_sub(usize::from(spot.event == 0))
}

/// A run that somebody has reset has all its tries again.
fn fresh(started: &Started, at: Timestamp) -> Option<Box<RunRetry>> {
    started.retry.as_deref().map(|retry| Box::new(RunRetry::new(retry.policy.clone(), at)))
}

fn copied(run: &RunId, log: &[Commit], spot: Spot, at: Timestamp) -> Vec<Commit> {
    let mut copy = log[..=copied_to(spot)].to_vec();
    if let (Some(last), 1..) = (copy.last_mut(), spot.event) {
        last.events.truncate(spot.event as usize);
    }
    for commit in &mut copy {
        commit.prev = None;
        // Epochs count the claims of a run, and nobody has claimed the new one.
        commit.epoch = 0;
    }
    if let Some(Event::Fact(Fact::Started(started))) = copy.first_mut().and_then(|commit| commit.events.first_mut()) {
        started.copied_from.get_or_insert(run.run_no);
        started.retry = fresh(started, at);
    }
    copy
}

/// Finds the place that a point means.
fn find(run: &RunId, log: &[Commit], point: Point) -> Result<Left, PointError> {
    let no_such = |what: String| PointError::NoSuchPlace { run: run.clone(), what };
    let plain = |commit, event| Ok(Left { spot: Spot { commit, event }, again: false });
    match point {
        Point::Start => plain(0, 0),
        Point::After(commit) if (commit as usize) < log.len() => plain(commit + 1, 0),
        Point::After(commit) => Err(no_such(format!("commit {commit}; it has {}", log.len()))),
        Point::Before(commit, event) => match log.get(commit as usize) {
            Some(of) if (event as usize) < of.events.len() => plain(commit, event),
            Some(of) => Err(no_such(format!("entry {event} in commit {commit}, which has {}", of.events.len()))),
            None => Err(no_such(format!("commit {commit}; it has {}", log.len()))),
        },
        Point::BeforeCall(position) => {
            let asks = |event: &Event| matches!(event, Event::Command(command) if opens(command, position));
            let (commit, at) = last_where(log, asks).ok_or_else(|| no_such(format!("call, child or wait #{position}")))?;
            // What caused it stands before it, in the same commit.
            let cause = log[commit].events[..at].iter().rposition(|event| matches!(event, Event::Fact(_))).unwrap_or(0);
            let spot = match log[commit].events.get(cause) {
                Some(Event::Fact(Fact::Started(_) | Fact::Begun)) => Spot { commit: 0, event: 0 },
                _ => spot(commit, cause),
            };
            Ok(Left { spot, again: true })
        }
        Point::BeforeFailure(position) => {
            let (commit, at) = last_where(log, |event| gave_up(event) == Some(position))
                .ok_or_else(|| no_such(format!("call #{position} that failed for good")))?;
            Ok(Left { spot: spot(commit, at), again: false })
        }
    }
}

fn spot(commit: usize, event: usize) -> Spot {
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Spot { commit: number(commit), event: number(event) }
}

fn last_where(log: &[Commit], mut is: impl FnMut(&Event) -> bool) -> Option<(usize, usize)> {
    log.iter().enumerate().rev().find_map(|(commit, of)| of.events.iter().rposition(&mut is).map(|event| (commit, event)))
}

/// Tells whether a command asks for something at this position.
fn opens(command: &Command, at: Position) -> bool {
    let asks = matches!(
        command,
        Command::Call(_) | Command::Step { .. } | Command::Child(_) | Command::Sleep { .. } | Command::Receive { .. }
    );
    asks && command.position() == at
}

/// The call that an event says has failed for good.
fn gave_up(event: &Event) -> Option<Position> {
    match event {
        Event::Fact(
            Fact::Failed { position, next: Next::GiveUp | Next::Park, .. }
            | Fact::Lost { position, next: Next::GiveUp | Next::Park, .. },
        ) => Some(*position),
        _ => None,
    }
}

/// The entries of a log, each with its place and the time of its commit.
fn entries(log: &[Commit]) -> impl Iterator<Item = (Spot, &Event, Timestamp)> {
    log.iter()
        .enumerate()
        .flat_map(|(commit, of)| of.events.iter().enumerate().map(move |(event, is)| (spot(commit, event), is, of.time)))
}

/// Sums the history up to a place, if it may be left there.
fn good(run: &RunId, log: &[Commit], wanted: Spot, started: &Started, run_no: u32) -> Result<State, PointError> {
    let limits = started.limits();
    let mut state = State::new(started.clone(), run_no);
    let child = |event: &Event| match event {
        Event::Fact(Fact::Received { body: MessageBody::Child { position, .. }, .. }) => Some(*position),
        _ => None,
    };
    // Where the log has the ends of children.
    let ends: HashMap<Position, Spot> = entries(log).filter_map(|(at, event, _)| Some((child(event)?, at))).collect();
    let (mut before, mut why_bad, mut after) = (None, None, None);
    let mut behind = entries(log).skip(1).map(|(at, event, _)| (at, Some(event)));
    for (_, event, time) in entries(log) {
        fold(&mut state, event, time, &limits);
        let (at, next) = behind.next().unwrap_or((spot(log.len(), 0), None));
        let bad = bad(&state, at, next, &ends);
        match bad {
            None if at == wanted => return Ok(state),
            Some(why) if at == wanted => why_bad = Some(why),
            None if why_bad.is_none() => before = Some(at),
            None => {
                after = Some(at);
                break;
            }
            Some(_) => {}
        }
    }
    let why = why_bad.unwrap_or_else(|| "there is no such place".to_owned());
    Err(PointError::NotGood { run: run.clone(), at: wanted, why, before, after })
}

fn fold(state: &mut State, event: &Event, time: Timestamp, limits: &Limits) {
    match event {
        Event::Fact(fact) => state.fact(fact, limits),
        Event::Command(command) => state.command(command, time),
    }
}

/// Why a history must not be left at a place, before what comes next.
fn bad(state: &State, at: Spot, next: Option<&Event>, ends: &HashMap<Position, Spot>) -> Option<String> {
    match next {
        None => return Some("the run has ended by then".to_owned()),
        Some(Event::Command(_)) => return Some("it lies within what one fact has led to".to_owned()),
        Some(Event::Fact(Fact::Inherited(_))) => {
            return Some("what it took over from the run before it is a part of its beginning".to_owned());
        }
        Some(Event::Fact(_)) => {}
    }
    let open = state.children().find(|(position, _)| ends.get(position).is_none_or(|end| *end < at));
    open.map(|(position, child)| {
        let id = &child.id;
        format!("its child {id:?} (#{position}) is open there, and the run has never heard of its end")
    })
}

/// The messages that an event says were taken, or known before, and that were for the execution.
fn named(event: &Event) -> Vec<&str> {
    match event {
        Event::Fact(Fact::Received { message, body }) if body.is_for_the_execution() => vec![message],
        Event::Fact(Fact::Ignored { message, .. } | Fact::Refused { message, .. }) => vec![message],
        Event::Fact(Fact::Inherited(inherited)) => inherited.known.iter().map(String::as_str).collect(),
        Event::Fact(Fact::Forked(forked)) => forked.known.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What came to another run of the execution.
#[derive(Debug)]
pub(crate) enum Came {
    /// A signal or an update, which comes again.
    Message(String, MessageBody, Timestamp),
    /// This is only to be known.
    Known(String),
}

impl Came {
    pub(crate) fn id(&self) -> &str {
        match self {
            Came::Message(id, ..) | Came::Known(id) => id,
        }
    }

    /// Returns the size of what comes again.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Came::Message(_, MessageBody::Signal { payload, .. } | MessageBody::Update { payload, .. }, _) => payload.bytes.len(),
            Came::Message(..) | Came::Known(_) => 0,
        }
    }
}

/// Returns what a commit of another run says came to it. What was for a place in that run is for nobody any more.
pub(crate) fn came(commit: Commit, messages: bool) -> impl Iterator<Item = Came> {
    let time = commit.time;
    commit.events.into_iter().flat_map(move |event| match event {
        Event::Fact(Fact::Received { message, body }) if messages && is_the_users(&body) => {
            vec![Came::Message(message, body, time)]
        }
        event => named(&event).into_iter().map(|message| Came::Known(message.to_owned())).collect(),
    })
}

fn is_the_users(body: &MessageBody) -> bool {
    matches!(body, MessageBody::Signal { .. } | MessageBody::Update { .. })
}

/// What came behind the point: some of it happens again.
#[derive(Default)]
struct Later {
    inbox: Vec<(String, MessageBody, Timestamp)>,
    known: Vec<String>,
    kept: Option<Position>,
    first: Option<First>,
    undone: BTreeSet<Position>,
}

impl Later {
    fn of(log: &[Commit], left: &Left, state: &State, ask: &Ask<'_>) -> Later {
        let mut later = Later::default();
        for (at, event, time) in entries(log).filter(|(at, ..)| *at >= left.spot) {
            later.undone.extend(gave_up(event));
            if let Event::Fact(fact) = event {
                later.take(fact, left.again && at == left.spot, state, ask.messages, time);
            }
        }
        if !ask.beside.is_empty() {
            let own: HashSet<&str> = entries(log).flat_map(|(_, event, _)| named(event)).collect();
            // What comes again is taken by its time: what this run took may have come to it again, later than another run took what came behind it.
            let mut since = later.inbox.last().map_or(Timestamp(i64::MIN), |(.., time)| *time);
            for came in ask.beside.iter().filter(|came| !own.contains(came.id())) {
                match came {
                    Came::Message(message, body, time) => {
                        since = since.max(*time);
                        later.inbox.push((message.clone(), body.clone(), since));
                    }
                    Came::Known(message) => later.known.push(message.clone()),
                }
            }
        }
        let delivered: HashSet<&str> = later.inbox.iter().map(|(message, ..)| message.as_str()).collect();
        later.known.retain(|message| !delivered.contains(message.as_str()));
        // No run remembers more of them.
        let more = later.known.len().saturating_sub(state.started.limits().remembered_messages);
        later.known.drain(..more);
        later
    }

    /// `again`: whatever it is, it is to happen again. The end of a call does so as a message, as if it had been in a shared queue: until
    /// that is taken the call counts as made.
    fn take(&mut self, fact: &Fact, again: bool, state: &State, messages: bool, time: Timestamp) {
        match fact {
            Fact::Completed { position, attempt, output } if again => {
                self.ended(*position, *attempt, TaskEnd::Done(output.clone()), time);
            }
            Fact::Failed { position, attempt, failure, next: Next::GiveUp } if again => {
                self.ended(*position, *attempt, TaskEnd::Failed(failure.clone()), time);
            }
            Fact::Lost { position, attempt, next: Next::GiveUp } if again => {
                self.ended(*position, *attempt, TaskEnd::Lost, time);
            }
            Fact::Received { message, body: MessageBody::Memo { position, word: MemoWord::Value(kept), .. } } if again => {
                self.known.push(message.clone());
                let attempt = state.call(*position).map_or(1, |call| call.attempt);
                self.ended(*position, attempt, TaskEnd::Done(kept.output.clone()), time);
            }
            Fact::DeadlinePassed if again => self.first = Some(First::Deadline),
            Fact::Fired { position } if again => self.first = Some(First::Sleep(*position)),
            Fact::Received { message, body } => {
                let wanted = match body {
                    body if is_the_users(body) => messages || again,
                    // Its result, and not a word of somebody's: it does not run again.
                    MessageBody::Child { position, .. } => state.child(*position).is_some(),
                    _ => again,
                };
                if wanted {
                    self.first = self.first.or(again.then_some(First::Message));
                    self.inbox.push((message.clone(), body.clone(), time));
                } else if !matches!(body, MessageBody::Child { .. }) {
                    self.known.push(message.clone());
                }
            }
            Fact::Ignored { message, .. } | Fact::Refused { message, .. } => self.known.push(message.clone()),
            Fact::Forked(forked) => self.known.extend(forked.known.iter().cloned()),
            _ => {}
        }
    }

    fn ended(&mut self, position: Position, attempt: Attempt, end: TaskEnd, time: Timestamp) {
        (self.kept, self.first) = (Some(position), Some(First::Message));
        let body = MessageBody::Task { position, attempt, end, details: None };
        self.inbox.push((format!("{OUR_MESSAGES}task:{position}/{attempt}"), body, time));
    }
}
