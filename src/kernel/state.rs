//! What a log says, without running any user code: a fold over its events. It knows which calls are open, which attempt
//! each is at, what it waits for and what comes next. Replay, recovery, retry decisions and `why` all read it.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    event::{Call, CallOptions, Child, Command, Fact, MessageBody, Next, OnClose, Order, Ordered, Outcome, Started, StepPlace},
    failure::Failure,
    fork::Forked,
    id::{Attempt, Position},
    invariant::uphold,
    limits::Limits,
    memo::{MemoStand, MemoWord, Memos, Stands},
    payload::Payload,
    places::Places,
    published::Published,
    time::Timestamp,
    undone::Undone,
};

mod waits;

/// The facts of one run, summed up.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) started: Started,
    pub(crate) open: Places<Open>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) cancel: Option<String>,
    pub(crate) deadline_passed: bool,
    /// What it shows outside.
    pub(crate) published: Published,
    /// Signals received and not yet waited for, by name.
    unread: HashMap<String, usize>,
    remembered: VecDeque<String>,
    /// The argument of the next run, once this one has asked to go on as that.
    pub(crate) continuing: Option<(Payload, Option<Timestamp>)>,
    /// It goes on for a run before it.
    goes_on: bool,
    /// The end of the copy that its history begins with, if it does.
    pub(crate) forked: Option<Box<Forked>>,
    /// Nothing has happened since that.
    copied: bool,
    known: HashSet<String>,
    /// The order by which it is paused.
    pub(crate) paused: Option<Box<Order>>,
    /// What undoes its acts.
    undone: Undone,
    /// Transactional steps that were given up: what they left in the store goes with the run's end.
    given_up: Vec<Position>,
    /// How its calls stand that share their results.
    pub(crate) memos: Memos,
    /// The wait that the current fact answered; if it turns out to be dropped, the signal goes to the next one.
    just_served: Option<(Position, String)>,
}

/// Something that the workflow asked for and that is not over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Open {
    Call(OpenCall),
    Sleep { due: Timestamp },
    Receive { signal: String },
    Child(OpenChild),
}

/// A child that is not over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpenChild {
    pub(crate) workflow: String,
    pub(crate) id: String,
    pub(crate) on_close: OnClose,
}

/// A call or step that is not over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpenCall {
    pub(crate) name: String,
    /// The argument of an activity; `None` for a step.
    pub(crate) input: Option<Payload>,
    pub(crate) place: Option<StepPlace>,
    pub(crate) options: Option<Box<CallOptions>>,
    /// The current attempt.
    pub(crate) attempt: Attempt,
    pub(crate) failed: u32,
    pub(crate) lost: u32,
    pub(crate) since: Timestamp,
    pub(crate) phase: Phase,
    pub(crate) compensating: bool,
    pub(crate) last_failure: Option<String>,
}

/// Where the current attempt of a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its intent is recorded: it runs, or may have run.
    Intended,
    /// Its intent is recorded, for that moment at the earliest.
    Waiting { at: Timestamp },
    /// It waits for an operator.
    Parked,
    /// It waits for the key under which its result is shared, or for the result of who has that.
    Asking,
}

/// Whether a run has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Something runs, or is about to.
    Busy,
    /// Only time and messages can move it on.
    Waits {
        /// The next moment that does.
        next: Option<Timestamp>,
    },
    /// It is over.
    Ended,
}

impl State {
    pub(crate) fn new(started: Started, run_no: u32) -> State {
        State {
            started,
            open: Places::default(),
            outcome: None,
            cancel: None,
            deadline_passed: false,
            published: Published::new(run_no),
            unread: HashMap::new(),
            remembered: VecDeque::new(),
            continuing: None,
            goes_on: false,
            forked: None,
            copied: false,
            known: HashSet::new(),
            paused: None,
            undone: Undone::default(),
            given_up: Vec::new(),
            memos: Memos::new(),
            just_served: None,
        }
    }

    /// Folds a fact in.
    pub(crate) fn fact(&mut self, fact: &Fact, limits: &Limits) {
        self.just_served = None;
        // Whoever takes the run up, or orders something about it as such, comes before what it finds behind the copy.
        let is_aside = match fact {
            Fact::Claimed { .. } => true,
            Fact::Received { body, .. } => body.order().is_some_and(|order| order.what.is_about_the_run()),
            _ => false,
        };
        self.copied &= is_aside;
        match fact {
            Fact::Started(_) | Fact::Claimed { .. } => {}
            Fact::Begun => self.started.deferred = false,
            Fact::Completed { position, .. } => {
                self.close(*position);
                self.undone.ended(*position);
            }
            Fact::Failed { position, attempt, failure, next } => {
                if let Some(Open::Call(call)) = self.open.get_mut(*position) {
                    call.failed += 1;
                    call.last_failure = Some(failure.to_string());
                }
                self.follow(*position, *attempt, next);
            }
            Fact::Lost { position, attempt, next } => {
                if let Some(Open::Call(call)) = self.open.get_mut(*position) {
                    call.lost += 1;
                    call.last_failure = Some("lost with its node".to_owned());
                }
                self.follow(*position, *attempt, next);
            }
            Fact::Fired { position } => {
                self.open.remove(*position);
            }
            Fact::Received { message, body } => {
                // The end of a child, or a word about a key, is known by what is open, and takes nothing of what is remembered for others.
                if !matches!(body, MessageBody::Child { .. } | MessageBody::Memo { .. }) {
                    uphold!(ConsumedOnce, !self.knows(message), "message {message} is taken a second time");
                    self.remember(message, limits);
                }
                match body {
                    MessageBody::Signal { name, .. } => self.serve(name),
                    MessageBody::Cancel { .. } | MessageBody::Stop { .. } => {
                        self.cancel = self.cancel.take().or_else(|| body.stops())
                    }
                    MessageBody::Retry { position } => self.unpark(*position),
                    MessageBody::Child { position, .. } => {
                        self.open.remove(*position);
                    }
                    MessageBody::Memo { position, word, .. } => self.told(*position, word),
                    // The facts of the one follow, the code has the other.
                    MessageBody::Task { .. } | MessageBody::Update { .. } => {}
                    MessageBody::Order(order) => match order.what {
                        Ordered::Pause => self.paused = Some(order.clone()),
                        Ordered::GoOn => self.paused = None,
                        // The end follows.
                        Ordered::Terminate => self.paused = None,
                        Ordered::Retry { position } => self.hurry(position),
                        Ordered::Skip { position } => _ = self.open.remove(position),
                        // So does that of the call.
                        Ordered::Complete { .. } => {}
                    },
                }
            }
            Fact::Ignored { message, .. } | Fact::Refused { message, .. } => self.remember(message, limits),
            Fact::DeadlinePassed => self.deadline_passed = true,
            Fact::Inherited(inherited) => {
                self.goes_on = true;
                inherited.known.iter().for_each(|message| self.remember(message, limits));
                inherited.unread.iter().for_each(|signal| self.serve(&signal.name));
                self.published.inherit(&inherited.published);
                self.cancel.clone_from(&inherited.cancel);
                self.deadline_passed = inherited.deadline_passed;
            }
            Fact::Forked(forked) => {
                self.started.deadline = forked.deadline;
                forked.known.iter().for_each(|message| self.remember(message, limits));
                self.reopen(forked.kept, forked.at);
                // No row says that this run asks for a key, or holds it.
                self.memos.clear();
                // Whoever leaves a history at a point wants it to go on from there.
                self.paused = None;
                self.copied = true;
                self.forked = Some(Box::new(Forked { known: Vec::new(), ..(**forked).clone() }));
            }
        }
    }

    /// Every call that is open is made anew, with a budget of its own; attempt numbers go on. One whose result was to be shared is made
    /// for this run alone.
    fn reopen(&mut self, but: Option<Position>, at: Timestamp) {
        for (position, open) in self.open.iter_mut() {
            let Open::Call(call) = open else { continue };
            // One whose end is known is to hear of it, even if it was parked, or waited for its key, and was ended from outside.
            call.phase = Phase::Intended;
            if Some(position) != but {
                call.attempt += 1;
                call.failed = 0;
                call.lost = 0;
                call.since = at;
            }
        }
    }

    fn follow(&mut self, position: Position, attempt: Attempt, next: &Next) {
        let Some(Open::Call(call)) = self.open.get_mut(position) else {
            return;
        };
        match next {
            Next::Retry { at } => {
                call.attempt = attempt + 1;
                call.phase = Phase::Waiting { at: *at };
            }
            Next::Park => {
                call.phase = Phase::Parked;
                // Nobody waits for what an operator has to see to first.
                if let Some(memo) = self.memos.get_mut(&position) {
                    memo.stands = Stands::Out;
                }
            }
            Next::GiveUp => self.close(position),
        }
    }

    /// A new budget for parked calls; attempt numbers go on.
    fn unpark(&mut self, position: Option<Position>) {
        for at in self.parked(position).collect::<Vec<_>>() {
            if let Some(Open::Call(call)) = self.open.get_mut(at) {
                call.phase = Phase::Intended;
                call.attempt += 1;
                call.failed = 0;
                call.lost = 0;
                if let Some(memo) = self.memos.get_mut(&at) {
                    call.phase = Phase::Asking;
                    memo.ask_again();
                }
            }
        }
    }

    /// A call is over.
    fn close(&mut self, position: Position) {
        self.open.remove(position);
        self.memos.remove(&position);
    }

    /// A call that shares its result hears of its key.
    fn told(&mut self, position: Position, word: &MemoWord) {
        let (Some(Open::Call(call)), Some(memo)) = (self.open.get_mut(position), self.memos.get_mut(&position)) else { return };
        match word {
            MemoWord::Granted => {
                call.phase = Phase::Intended;
                memo.stands = Stands::Holds;
            }
            MemoWord::Value(_) => self.close(position),
            // Its attempt, if it had begun one, is nobody's any more.
            MemoWord::Revoked => {
                call.phase = Phase::Asking;
                call.attempt += 1;
                memo.ask_again();
            }
        }
    }

    /// What waits for its next attempt does not wait any more.
    fn hurry(&mut self, position: Option<Position>) {
        // Of one whose time has come it does not matter what it has waited for.
        for at in self.delayed(position, Timestamp(i64::MIN)).collect::<Vec<_>>() {
            if let Some(Open::Call(call)) = self.open.get_mut(at) {
                call.phase = Phase::Intended;
            }
        }
        self.unpark(position);
    }

    /// The calls whose next attempts wait for a moment behind `now`, this one or all. When it has come the attempt runs, or is somebody's in
    /// a queue, though the log says nothing of it.
    pub(crate) fn delayed(&self, wanted: Option<Position>, now: Timestamp) -> impl Iterator<Item = Position> {
        self.open.iter().filter_map(move |(at, open)| match open {
            Open::Call(OpenCall { phase: Phase::Waiting { at: due }, .. }) if *due > now => {
                Some(at).filter(|at| wanted.is_none_or(|wanted| wanted == *at))
            }
            _ => None,
        })
    }

    /// The parked calls that a retry of this one, or of all, is for.
    pub(crate) fn parked(&self, wanted: Option<Position>) -> impl Iterator<Item = Position> {
        self.open.iter().filter_map(move |(at, open)| match open {
            Open::Call(call) if call.phase == Phase::Parked && wanted.is_none_or(|wanted| wanted == at) => Some(at),
            _ => None,
        })
    }

    fn serve(&mut self, name: &str) {
        let first = self.open.iter().find(|(_, open)| matches!(open, Open::Receive { signal } if signal == name));
        if let Some((position, _)) = first {
            self.open.remove(position);
            self.just_served = Some((position, name.to_owned()));
        } else {
            *self.unread.entry(name.to_owned()).or_default() += 1;
        }
    }

    fn remember(&mut self, message: &str, limits: &Limits) {
        if self.known.insert(message.to_owned()) {
            self.remembered.push_back(message.to_owned());
            if self.remembered.len() > limits.remembered_messages
                && let Some(oldest) = self.remembered.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Tells whether a message of this id was taken before.
    pub(crate) fn knows(&self, message: &str) -> bool {
        self.known.contains(message)
    }

    /// The ids that it remembers, oldest first.
    pub(crate) fn remembered(&self) -> Vec<String> {
        self.remembered.iter().cloned().collect()
    }

    /// How many signals were received and not waited for.
    pub(crate) fn unread(&self) -> usize {
        self.unread.values().sum()
    }

    /// Folds a command in.
    pub(crate) fn command(&mut self, command: &Command, at: Timestamp) {
        self.undone.command(command);
        match command {
            Command::Call(call) => {
                let Call { position, activity, input, options, compensating, memo, .. } = &**call;
                let mut call = OpenCall::new(activity, Some(input.clone()), None, options.clone(), *compensating, at);
                if let Some(memo) = memo {
                    call.phase = Phase::Asking;
                    self.memos.insert(*position, MemoStand::new((**memo).clone()));
                }
                self.open.insert(*position, Open::Call(call));
            }
            Command::Step { position, name, place, options } => {
                let call = OpenCall::new(name, None, Some(*place), options.clone(), false, at);
                self.open.insert(*position, Open::Call(call));
            }
            Command::Child(child) => {
                let Child { position, workflow, id, awaited, on_close, .. } = &**child;
                if *awaited {
                    let child = OpenChild { workflow: workflow.clone(), id: id.clone(), on_close: *on_close };
                    self.open.insert(*position, Open::Child(child));
                }
            }
            Command::Sleep { position, due } => {
                self.open.insert(*position, Open::Sleep { due: *due });
            }
            Command::Receive { position, signal } => match self.unread.get_mut(signal) {
                Some(count) if *count > 0 => *count -= 1,
                _ => {
                    self.open.insert(*position, Open::Receive { signal: signal.clone() });
                }
            },
            Command::Cancel { position } => {
                self.memos.remove(position);
                if self.open.remove(*position).is_some_and(|open| open.is_transaction()) {
                    self.given_up.push(*position);
                }
                if let Some((served, name)) = self.just_served.take_if(|(served, _)| served == position) {
                    debug_assert_eq!(served, *position);
                    self.serve(&name);
                }
            }
            Command::End { outcome } => {
                self.open.clear();
                self.memos.clear();
                self.outcome = Some((**outcome).clone());
            }
            Command::Publish { .. } | Command::Count { .. } => self.published.command(command),
            Command::Continue { input } => self.continuing = Some((input.clone(), None)),
            Command::Again { at, .. } => self.continuing = Some((self.started.input.clone(), Some(*at))),
            Command::Patched { .. }
            | Command::Answered { .. }
            | Command::OpenSaga { .. }
            | Command::Undo { .. }
            | Command::KeepSaga { .. }
            | Command::Compensate { .. } => {}
        }
    }

    pub(crate) fn call(&self, position: Position) -> Option<&OpenCall> {
        match self.open.get(position) {
            Some(Open::Call(call)) => Some(call),
            _ => None,
        }
    }

    /// The transactional steps of which the store may have something: those that are open, and those that were given up.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = Position> {
        let open = self.open.iter().filter(|(_, open)| open.is_transaction()).map(|(position, _)| position);
        open.chain(self.given_up.iter().copied())
    }

    pub(crate) fn child(&self, position: Position) -> Option<&OpenChild> {
        match self.open.get(position) {
            Some(Open::Child(child)) => Some(child),
            _ => None,
        }
    }

    /// The children that it waits for.
    pub(crate) fn children(&self) -> impl Iterator<Item = (Position, &OpenChild)> {
        self.open.iter().filter_map(|(position, open)| match open {
            Open::Child(child) => Some((position, child)),
            _ => None,
        })
    }

    /// Returns the end that a fact is by itself, without any code: an operator's order to end the run.
    pub(crate) fn terminates(&self, fact: &Fact) -> Option<Command> {
        let Fact::Received { body: MessageBody::Order(order), .. } = fact else { return None };
        let Order { by, reason, what: Ordered::Terminate } = &**order else { return None };
        let outcome = Outcome::Terminated { reason: reason.clone(), by: by.clone(), skipped: self.undone.open() };
        Some(Command::End { outcome: Box::new(outcome) })
    }

    /// Tells whether a call was given up in the history that this one's is a copy of, where that is to happen again: it need not have been by
    /// its own rules.
    fn was_given_up(&self, position: Position) -> bool {
        self.forked.as_deref().is_some_and(|forked| forked.kept == Some(position))
    }

    /// Decides what follows a failed attempt.
    pub(crate) fn after_failure(&self, position: Position, failure: &Failure, now: Timestamp) -> Next {
        let Some(call) = self.call(position).filter(|_| !self.was_given_up(position)) else {
            return Next::GiveUp;
        };
        let defaults = CallOptions::default();
        let options = call.options.as_deref().unwrap_or(&defaults);
        let exhausted = if options.park { Next::Park } else { Next::GiveUp };
        if options.at_most_once {
            return exhausted;
        }
        let seed = self.started.seed ^ u64::from(position);
        match options.retry.next(call.failed + 1, failure, call.since, now, seed) {
            Some(at) if options.schedule_to_close.is_some_and(|limit| at >= call.since.after(limit)) => exhausted,
            Some(at) => Next::Retry { at },
            None => exhausted,
        }
    }

    /// Decides what follows an attempt that was lost with its node: never the retry budget's business. A lost transaction is
    /// not in doubt: the next attempt begins by looking whether it took place, so there must always be one.
    pub(crate) fn after_loss(&self, position: Position, now: Timestamp, limits: &Limits) -> Next {
        let Some(call) = self.call(position).filter(|_| !self.was_given_up(position)) else {
            return Next::GiveUp;
        };
        if call.place == Some(StepPlace::Transaction) {
            return Next::Retry { at: now };
        }
        let park = call.options.as_deref().is_some_and(|options| options.park);
        let at_most_once = call.options.as_deref().is_some_and(|options| options.at_most_once);
        if at_most_once || call.lost + 1 > limits.lost_attempts {
            if park { Next::Park } else { Next::GiveUp }
        } else {
            Next::Retry { at: now }
        }
    }

    /// Returns whether the run has something to do at `now`. An attempt that is `queued` is somebody else's: a message
    /// will tell its end.
    pub(crate) fn rest(&self, now: Timestamp, queued: &BTreeSet<Position>) -> Rest {
        if self.outcome.is_some() {
            return Rest::Ended;
        }
        if self.paused.is_some() {
            return Rest::Waits { next: None };
        }
        let deadline = self.started.deadline.filter(|_| !self.deadline_passed);
        let mut next = deadline.into_iter().chain(self.begins_at()).min();
        for (position, open) in self.open.iter() {
            let due = match open {
                Open::Call(call) => match call.phase {
                    _ if queued.contains(&position) => None,
                    Phase::Intended => return Rest::Busy,
                    Phase::Waiting { at } if at <= now => return Rest::Busy,
                    Phase::Waiting { at } => Some(at),
                    Phase::Parked | Phase::Asking => None,
                },
                Open::Sleep { due } => Some(*due),
                Open::Receive { .. } | Open::Child(_) => None,
            };
            next = match (next, due) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Rest::Waits { next }
    }

    /// Tells whether the first turn was taken.
    pub(crate) fn begun(&self) -> bool {
        !self.started.deferred
    }

    /// Returns when its first turn may come, if that has not come and has a time: the run before it has failed.
    pub(crate) fn begins_at(&self) -> Option<Timestamp> {
        self.started.retry.as_ref().and_then(|retry| retry.at).filter(|_| !self.begun())
    }

    /// Tells whether it goes on for a run before it, and its first turn is still to come.
    #[cfg_attr(not(feature = "actors"), allow(dead_code))]
    pub(crate) fn is_about_to_go_on(&self) -> bool {
        self.goes_on && !self.begun()
    }

    /// Returns the end of the copy that its history begins with, if nothing has happened since.
    pub(crate) fn just_forked(&self) -> Option<&Forked> {
        self.forked.as_deref().filter(|_| self.copied)
    }

    /// Returns when an open sleep is over.
    pub(crate) fn due_of(&self, position: Position) -> Option<Timestamp> {
        match self.open.get(position) {
            Some(Open::Sleep { due }) => Some(*due),
            _ => None,
        }
    }

    /// Returns the sleeps that are over at `now`.
    pub(crate) fn due_sleeps(&self, now: Timestamp) -> Vec<Position> {
        let due = |open: &Open| matches!(open, Open::Sleep { due } if *due <= now);
        self.open.iter().filter(|(_, open)| due(open)).map(|(position, _)| position).collect()
    }
}

impl Open {
    /// Tells whether it is a transactional step.
    pub(crate) fn is_transaction(&self) -> bool {
        matches!(self, Open::Call(call) if call.place == Some(StepPlace::Transaction))
    }
}

impl OpenCall {
    fn new(
        name: &str,
        input: Option<Payload>,
        place: Option<StepPlace>,
        options: Option<Box<CallOptions>>,
        compensating: bool,
        since: Timestamp,
    ) -> OpenCall {
        OpenCall {
            name: name.to_owned(),
            input,
            place,
            options,
            attempt: 1,
            failed: 0,
            lost: 0,
            since,
            phase: Phase::Intended,
            compensating,
            last_failure: None,
        }
    }

    /// Tells whether its current attempt may run.
    pub(crate) fn is_begun(&self) -> bool {
        !matches!(self.phase, Phase::Parked | Phase::Asking)
    }

    /// Returns the queue that it belongs to.
    pub(crate) fn queue(&self) -> &str {
        self.options.as_deref().map_or("", |options| &options.queue)
    }

    /// Returns what is left of a limit that counts from the intent.
    pub(crate) fn left(&self, limit: Option<Duration>, now: Timestamp) -> Option<Duration> {
        limit.map(|limit| self.since.after(limit).since(now))
    }
}
