//! One run as the engine sees it: the log so far and the living workflow. A **turn** takes everything that has arrived,
//! decides the facts, applies them one by one and returns *one commit* and what to do once it is durable.
//!
//! ```text
//!            arrivals                       commit                      acknowledged
//!   Ready ───────────────► turn() ───────────────────► (recording) ───────────────────► effects, Ready
//!     ▲                      │ Misuse, Nondeterminism                        refused │
//!     │                      ▼                                                      ▼
//!     └── replay()        blocked: nothing recorded                     sealed, replayed afresh
//! ```

use std::collections::{BTreeSet, VecDeque};

use self::{
    letters::last_of_each,
    turning::{Turning, own_weight_of, position_of, weight_of},
};

use super::{
    blocked::Blocked,
    chain::Onward,
    compare::first_difference,
    event::{Child, Command, Commit, Event, Fact, Ignored, MessageBody, Outcome, Started, StepPlace, TaskEnd, Tell},
    failure::{Failure, KIND_LIMIT},
    id::{Attempt, BuildId, CommitNo, Digest, Epoch, Incarnation, Position, RunId},
    instance::{Begin, Instance, StepResult},
    invariant::uphold,
    letter::LetterChange,
    limits::Limits,
    memo::{self, MemoEntry, MemoWord},
    payload::Payload,
    published::Publication,
    state::{Open, OpenCall, Phase, Rest, State},
    tape::{Inquiry, Misuse, StepWork, Told, weight},
    time::Timestamp,
    wake::Hook,
};

mod beginning;
mod chain;
mod letters;
mod orders;
mod others;
mod queued;
mod replay;
mod turning;
#[cfg(feature = "actors")]
mod ward;

#[cfg(feature = "actors")]
pub(crate) use {orders::takes_an_order, ward::Ward};

/// Something that reached a run and is not recorded yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// An attempt ended.
    Ended { position: Position, attempt: Attempt, result: Result<Payload, Failure> },
    /// A sleep may be over.
    Due { position: Position },
    /// A message is in the inbox.
    Message { seq: u64, message: String, body: MessageBody },
    /// The run's deadline may have passed.
    Deadline,
    /// A run that was written without its first turn begins.
    Begin,
    /// The run was taken by force; attempts that were under way are lost unless `held` names them.
    Taken { by: Incarnation, epoch: Epoch },
    /// The run was replayed by the incarnation that owned it before; inline steps that were under way are lost.
    Reopened { held: BTreeSet<Position> },
}

impl Decision {
    /// Returns the activities that this turn will need here, compensations included.
    pub(crate) fn activities(&self, is_shared: &dyn Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.commit
            .events
            .iter()
            .flat_map(move |event| match event {
                Event::Command(Command::Call(call)) => {
                    let queue = call.options.as_deref().map_or("", |options| &options.queue);
                    let here = Some(call.activity.as_str()).filter(|_| !is_shared(queue));
                    [here, call.undo.as_ref().map(|undo| undo.activity.as_str())]
                }
                Event::Command(Command::Undo { compensation, .. }) => [Some(compensation.activity.as_str()), None],
                _ => [None, None],
            })
            .flatten()
    }
}

/// Who writes.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: Epoch,
    pub(crate) build: BuildId,
    /// Tells whether calls of a queue are not for the owner of the run alone.
    pub(crate) is_shared: &'a dyn Fn(&str) -> bool,
}

/// What a turn decided: to be recorded whole, and acted upon only then.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) commit: Commit,
    pub(crate) effects: Vec<Effect>,
    /// Inbox rows that became events.
    pub(crate) consumed: Vec<u64>,
    /// Calls that are over: what was kept for their attempts is of no use any more.
    pub(crate) settled: Vec<Position>,
    /// Runs that this one begins, in the same commit.
    pub(crate) starts: Vec<Child>,
    /// What it tells other runs, in the same commit.
    pub(crate) tells: Vec<Tell>,
    /// What it does about the keys under which results are shared, in the same commit.
    pub(crate) memos: Vec<MemoEntry>,
    /// What it shows outside from this commit on, each key once.
    pub(crate) published: Vec<Publication>,
    /// What becomes of the letters of its calls, each once.
    pub(crate) letters: Vec<LetterChange>,
    /// How the execution goes on, if this is the end of a run that continues: in the same commit.
    pub(crate) onward: Option<Box<Onward>>,
    pub(crate) rest: Rest,
}

/// What the world is asked to do once the commit is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start the current attempt of an activity, a blocking step or an inline step; not before `at`.
    Start { position: Position, attempt: Attempt, at: Option<Timestamp> },
    /// Put the current attempt of an activity into its shared queue; not before `at`. It belongs to the commit itself.
    Queue { position: Position, attempt: Attempt, at: Option<Timestamp> },
    /// Take the attempt out of its queue, or tell whoever has it to stop: nobody wants its result.
    Withdraw { position: Position },
    /// Say when that moment has come.
    Timer { position: Position, due: Timestamp },
    /// Stop the attempt that runs for this call: nobody wants its result.
    Abort { position: Position },
}

/// One run: its log, summed up, and its living workflow.
pub(crate) struct Run {
    id: RunId,
    limits: Limits,
    state: State,
    instance: Instance,
    /// A second instance, given the same facts: whatever differs is not deterministic. Debug builds and tests.
    twin: Option<Instance>,
    next_commit: CommitNo,
    tail: Option<Digest>,
    last_time: Timestamp,
    last_epoch: Epoch,
    /// Calls whose current attempts are in a shared queue, or on their way back from one. The log does not say it: the
    /// store's own rows do, which are written and taken in the same commits.
    queued: BTreeSet<Position>,
}

impl Run {
    /// Begins a run: applies its `Started` fact. Nothing is recorded yet.
    pub(crate) fn begin(
        id: RunId,
        started: Started,
        begin: &Begin,
        twin: bool,
        at: Timestamp,
        writer: Writer<'_>,
    ) -> Result<(Box<Run>, Box<Decision>), Blocked> {
        let mut run = Run::new(id, started.clone(), begin, twin, at)?;
        let mut turn = Turning::new(at, &run.state);
        run.apply(Fact::Started(Box::new(started)), &mut turn)?;
        let decision = run.decide(turn, writer);
        Ok((run, decision))
    }

    fn new(id: RunId, started: Started, begin: &Begin, twin: bool, at: Timestamp) -> Result<Box<Run>, Blocked> {
        let limits = started.limits();
        let misuse = |misuse| Blocked::Misuse { run: id.clone(), workflow: started.workflow.clone(), misuse };
        let instance = Instance::new(id.clone(), &started, begin, limits).map_err(misuse)?;
        let twin = if twin { Some(Instance::new(id.clone(), &started, begin, limits).map_err(misuse)?) } else { None };
        Ok(Box::new(Run {
            state: State::new(started, id.run_no),
            id,
            limits,
            instance,
            twin,
            next_commit: 0,
            tail: None,
            last_time: at,
            last_epoch: 0,
            queued: BTreeSet::new(),
        }))
    }

    /// Takes what has arrived, in order. `None`: nothing came of it, so there is nothing to record. What is left behind did
    /// not fit into this commit and waits for the next turn; what comes after the end is dropped (messages stay unread).
    pub(crate) fn turn(
        &mut self,
        arrived: &mut VecDeque<Arrival>,
        at: Timestamp,
        writer: Writer<'_>,
    ) -> Result<Option<Box<Decision>>, Blocked> {
        let at = at.max(self.last_time);
        let mut turn = Turning::new(at, &self.state);
        while self.state.outcome.is_none() && !turn.is_full(&self.limits) {
            let stops = self.stops_first(arrived, at);
            if !stops && self.hurries(arrived, at) {
                // With what it has by now it may come to its end: then the rest is for the next run.
                self.apply(Fact::Begun, &mut turn)?;
                continue;
            }
            let Some(arrival) = self.next_of(arrived) else {
                break;
            };
            let paused = self.state.paused.is_some();
            if let Arrival::Message { seq, body, .. } = &arrival {
                turn.consumed.push(*seq);
                turn.told += usize::from(self.is_told(body));
            }
            for fact in self.facts_of(arrival, at) {
                // An earlier loss of the same takeover may have ended the run, or have led the code to give this call up.
                let stale = matches!(&fact, Fact::Lost { position, .. } if self.state.call(*position).is_none());
                if !stale {
                    self.apply(fact, &mut turn)?;
                }
            }
            if stops && self.is_to_stop() && self.may_begin() {
                // Nothing else would move it: its code hears of it at its first await.
                self.apply(Fact::Begun, &mut turn)?;
            }
            // What is asked of the world behind this is another matter than before.
            if paused != self.state.paused.is_some() {
                break;
            }
        }
        if self.state.outcome.is_some() {
            arrived.clear();
        }
        if turn.events.is_empty() { Ok(None) } else { Ok(Some(self.decide(turn, writer))) }
    }

    /// Decides what an arrival means. A result of an attempt that is not the current one, or a timer of a sleep that is
    /// over, means nothing.
    fn facts_of(&self, arrival: Arrival, at: Timestamp) -> Vec<Fact> {
        match arrival {
            Arrival::Ended { position, attempt, result } => {
                if !self.is_current(position, attempt) {
                    tracing::debug!(run = %self.id, position, attempt, "a late result was dropped");
                    return Vec::new();
                }
                vec![match self.within_limits(result) {
                    Ok(output) => Fact::Completed { position, attempt, output },
                    Err(failure) => {
                        let next = self.state.after_failure(position, &failure, at);
                        Fact::Failed { position, attempt, failure: Box::new(failure), next }
                    }
                }]
            }
            Arrival::Due { position } => match self.state.open.get(position) {
                Some(Open::Sleep { due }) if *due <= at => vec![Fact::Fired { position }],
                _ => Vec::new(),
            },
            Arrival::Message { body: MessageBody::Task { position, attempt, end, .. }, .. }
                if self.is_current(position, attempt) =>
            {
                match end {
                    TaskEnd::Lost => {
                        let next = self.state.after_loss(position, at, &self.limits);
                        vec![Fact::Lost { position, attempt, next }]
                    }
                    TaskEnd::Done(output) => self.facts_of(Arrival::Ended { position, attempt, result: Ok(output) }, at),
                    TaskEnd::Failed(failure) => self.facts_of(Arrival::Ended { position, attempt, result: Err(*failure) }, at),
                }
            }
            Arrival::Message { message, body, .. } => self.facts_of_message(message, body, at),
            Arrival::Deadline => match self.state.started.deadline {
                Some(deadline) if deadline <= at && !self.state.deadline_passed => {
                    vec![Fact::DeadlinePassed]
                }
                _ => Vec::new(),
            },
            Arrival::Begin if self.state.begun() || self.state.begins_at().is_some_and(|begins| begins > at) => Vec::new(),
            Arrival::Begin => vec![Fact::Begun],
            Arrival::Taken { by, epoch } => {
                let mut facts = vec![Fact::Claimed { by, epoch }];
                facts.extend(self.losses(at, &self.queued, |_| true));
                facts
            }
            // What is not held by the node that owned the run all along was never begun, and is begun now. Inline steps are
            // different: they live and die with the run's memory.
            Arrival::Reopened { mut held } => {
                // The ends of those that came in while it was paused are in the inbox.
                held.extend(&self.queued);
                self.losses(at, &held, |call| call.place == Some(StepPlace::Inline))
            }
        }
    }

    /// Tells whether this attempt is the one whose result counts.
    fn is_current(&self, position: Position, attempt: Attempt) -> bool {
        self.state.call(position).is_some_and(|call| call.attempt == attempt && call.is_begun())
    }

    /// Tells whether a message is told by the facts that come of it, and not as a message that was received.
    fn is_told(&self, body: &MessageBody) -> bool {
        matches!(body, MessageBody::Task { position, attempt, .. } if self.is_current(*position, *attempt))
    }

    fn fact_of_message(&self, message: String, body: MessageBody, at: Timestamp) -> Fact {
        if self.state.knows(&message) && !matches!(body, MessageBody::Child { .. } | MessageBody::Memo { .. }) {
            return Fact::Ignored { message, why: Ignored::Duplicate };
        }
        let late = match &body {
            MessageBody::Signal { .. } => false,
            // Only here, where it is taken: in replay the log says what came of it.
            MessageBody::Update { name, payload } => match self.instance.check_update(name, payload) {
                Ok(()) => false,
                Err(failure) => return Fact::Refused { message, failure: Box::new(failure.bounded(self.limits.payload_bytes)) },
            },
            MessageBody::Stop { parent } if self.state.started.parent.as_deref() != Some(parent) => true,
            MessageBody::Cancel { .. } | MessageBody::Stop { .. } => self.state.cancel.is_some() || self.state.deadline_passed,
            MessageBody::Retry { position } => self.state.parked(*position).next().is_none(),
            MessageBody::Child { position, .. } => self.state.child(*position).is_none(),
            MessageBody::Memo { position, ask, word } => {
                !self.state.memos.get(position).is_some_and(|memo| memo.awaits(*ask, word))
            }
            MessageBody::Task { .. } => true,
            MessageBody::Order(order) => self.is_late(order, at),
        };
        if late { Fact::Ignored { message, why: Ignored::Late } } else { Fact::Received { message, body } }
    }

    /// The attempts that were under way, or may have been, and that nobody holds.
    fn losses(&self, at: Timestamp, held: &BTreeSet<Position>, concerns: impl Fn(&OpenCall) -> bool) -> Vec<Fact> {
        let begun = |phase| match phase {
            Phase::Intended => true,
            Phase::Waiting { at: start } => start <= at,
            Phase::Parked | Phase::Asking => false,
        };
        self.state
            .open
            .iter()
            .filter_map(|(position, open)| match open {
                Open::Call(call) if begun(call.phase) && concerns(call) && !held.contains(&position) => {
                    let next = self.state.after_loss(position, at, &self.limits);
                    Some(Fact::Lost { position, attempt: call.attempt, next })
                }
                _ => None,
            })
            .collect()
    }

    fn within_limits(&self, result: Result<Payload, Failure>) -> Result<Payload, Failure> {
        let most = self.limits.payload_bytes;
        match result {
            Ok(output) if output.bytes.len() > most => {
                let text = format!(
                    "the result has {} bytes, the limit is {most}; store it elsewhere and return a reference",
                    output.bytes.len()
                );
                Err(Failure::new(KIND_LIMIT, text).into_final())
            }
            Ok(output) => Ok(output),
            Err(failure) => Err(failure.bounded(most)),
        }
    }

    fn apply(&mut self, fact: Fact, turn: &mut Turning) -> Result<(), Blocked> {
        uphold!(TerminalOnce, self.state.outcome.is_none(), "{}: a fact behind the end", self.id);
        let early = matches!((&fact, self.state.open.get(position_of(&fact))),
            (Fact::Fired { .. }, Some(Open::Sleep { due })) if *due > turn.at);
        uphold!(NeverEarly, !early, "{}: a sleep would end before it is due", self.id);
        if self.terminate(&fact, turn) {
            return Ok(());
        }
        let before_call = self.state.call(position_of(&fact)).is_some();
        self.writes_letters(&fact, turn);
        if let Fact::Received { body: MessageBody::Retry { position }, .. } = &fact {
            turn.touched.extend(self.state.parked(*position));
        }
        self.concerns_calls(&fact, turn);
        if let Fact::Received { body: MessageBody::Memo { position, word: MemoWord::Revoked, .. }, .. } = &fact {
            // What it has in a queue is nobody's any more.
            turn.aborted.push(*position);
        }
        self.state.fact(&fact, &self.limits);
        let commands = self.instance.apply(&fact, turn.at).map_err(|misuse| self.misuse(misuse))?;
        if let Some(twin) = &mut self.twin {
            let workflow = self.state.started.workflow.clone();
            let run = self.id.clone();
            match twin.apply(&fact, turn.at) {
                Err(misuse) => {
                    return Err(Blocked::Misuse { run, workflow, misuse });
                }
                Ok(twins) => {
                    if let Some((expected, found)) = first_difference(&twins, &commands) {
                        return Err(Blocked::NotDeterministic { run, workflow, expected, found });
                    }
                }
            }
        }
        turn.touch(position_of(&fact));
        if before_call && self.state.call(position_of(&fact)).is_none() {
            turn.settled.push(position_of(&fact));
        }
        let asked = commands.iter().map(weight).sum::<usize>();
        turn.bytes += weight_of(&fact) + asked;
        for instance in std::iter::once(&mut self.instance).chain(&mut self.twin) {
            instance.grew(1 + commands.len(), own_weight_of(&fact) + asked);
        }
        turn.events.push(Event::Fact(fact));
        commands.into_iter().for_each(|command| self.asked(command, turn));
        Ok(())
    }

    /// Takes a command into the turn.
    fn asked(&mut self, command: Command, turn: &mut Turning) {
        let over: Vec<Position> = match &command {
            Command::Cancel { position } => self.state.call(*position).map(|_| *position).into_iter().collect(),
            // Calls whose futures were leaked instead of dropped, and all that a terminated run had open.
            Command::End { .. } => self.state.open.keys().filter(|at| self.state.call(*at).is_some()).collect(),
            _ => Vec::new(),
        };
        over.iter().for_each(|position| self.drops_letters(Some(*position), turn));
        turn.aborted.extend(&over);
        turn.settled.extend(over);
        self.concerns_others(&command, turn);
        if let Command::End { outcome } = &command
            && !matches!(**outcome, Outcome::Terminated { .. })
        {
            let undoing = self.state.open.values().any(|open| matches!(open, Open::Call(call) if call.compensating));
            uphold!(SagaEmptyAtEnd, !undoing, "{}: it would end while a compensation runs", self.id);
        }
        self.state.command(&command, turn.at);
        if matches!(&command, Command::End { outcome } if **outcome == Outcome::Continued) {
            turn.onward = self.onward(turn.at);
        }
        turn.touch(command.position());
        turn.events.push(Event::Command(command));
    }

    /// Turns what was applied into one commit and its effects. The effects are read from the state *behind* the turn, so a
    /// call that was made and dropped in one turn is never started.
    fn decide(&mut self, turn: Turning, writer: Writer<'_>) -> Box<Decision> {
        let is_taken =
            |event: &&Event| matches!(event, Event::Fact(Fact::Received { .. } | Fact::Ignored { .. } | Fact::Refused { .. }));
        let taken = turn.events.iter().filter(is_taken).count() + turn.told;
        uphold!(InboxDelete, taken == turn.consumed.len(), "{}: messages taken and messages deleted differ", self.id);
        uphold!(EpochMonotone, writer.epoch >= self.last_epoch, "{}: its epoch would decrease", self.id);
        let mut touched = turn.touched;
        touched.sort_unstable();
        touched.dedup();
        // What was in a queue before this turn: if it is over without having been told from there, it is taken out.
        let over = |position: &Position| {
            if self.queued.contains(position) {
                Effect::Withdraw { position: *position }
            } else {
                Effect::Abort { position: *position }
            }
        };
        let mut effects: Vec<Effect> = turn.aborted.iter().map(over).collect();
        self.queued.retain(|position| !touched.contains(position) && self.state.call(*position).is_some());
        let memos = memo::steps(&self.id, turn.memos, &self.state.memos, &turn.events, turn.at);
        for position in touched {
            effects.extend(self.placed_effect(position, &|queue, _, _| (writer.is_shared)(queue)));
        }
        Box::new(Decision {
            commit: Commit {
                commit_no: self.next_commit,
                prev: self.tail,
                incarnation: writer.incarnation,
                epoch: writer.epoch,
                build: writer.build,
                time: turn.at,
                events: turn.events,
            },
            effects,
            consumed: turn.consumed,
            settled: turn.settled,
            starts: turn.starts,
            tells: turn.tells,
            memos,
            published: self.state.published.newer_than(turn.shown),
            letters: last_of_each(turn.letters),
            onward: turn.onward,
            rest: self.rest(turn.at),
        })
    }

    fn effect_of(&self, position: Position) -> Option<Effect> {
        match self.state.open.get(position)? {
            Open::Sleep { due } => Some(Effect::Timer { position, due: *due }),
            Open::Receive { .. } | Open::Child(_) => None,
            Open::Call(call) => match call.phase {
                Phase::Intended => Some(Effect::Start { position, attempt: call.attempt, at: None }),
                Phase::Waiting { at } => Some(Effect::Start { position, attempt: call.attempt, at: Some(at) }),
                Phase::Parked | Phase::Asking => None,
            },
        }
    }

    /// Returns whether the run has something to do at `now`.
    pub(crate) fn rest(&self, now: Timestamp) -> Rest {
        self.state.rest(now, &self.queued)
    }

    /// Returns the activities that open calls need here.
    pub(crate) fn open_activities(&self, is_shared: &dyn Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.state.open.values().filter_map(move |open| match open {
            Open::Call(call) if call.input.is_some() && !is_shared(call.queue()) => Some(call.name.as_str()),
            _ => None,
        })
    }

    /// Returns the report of a child whose workflow is not registered here.
    pub(crate) fn unregistered_child(&self, child: &Child) -> Blocked {
        self.misuse(Misuse::UnregisteredChild(child.workflow.clone(), child.version))
    }

    /// Returns the report of a call whose activity is not registered here.
    pub(crate) fn unregistered(&self, activity: &str) -> Blocked {
        self.misuse(Misuse::Unregistered(activity.to_owned()))
    }

    /// Takes note that a commit is durable: it is the tail now.
    pub(crate) fn recorded(&mut self, commit: &Commit, digest: Digest) {
        uphold!(
            TailChain,
            commit.commit_no == self.next_commit && commit.prev == self.tail,
            "{}: commit {} does not follow",
            self.id,
            commit.commit_no
        );
        self.next_commit = commit.commit_no + 1;
        self.tail = Some(digest);
        self.last_time = commit.time;
        self.last_epoch = commit.epoch;
        std::iter::once(&mut self.instance).chain(&mut self.twin).for_each(Instance::committed);
    }

    /// Lets an inline step run its closure.
    pub(crate) fn grant(&mut self, position: Position, attempt: Attempt) {
        // Only the current attempt has a right to run, however late the word of an older one comes.
        if self.is_current(position, attempt) {
            self.instance.grant(position, attempt);
        }
    }

    /// Takes an inline step's right to run away: its end is decided.
    pub(crate) fn revoke(&mut self, position: Position) {
        self.instance.revoke(position);
    }

    /// Polls running inline steps.
    pub(crate) fn poll_steps(&mut self) -> Result<Vec<StepResult>, Blocked> {
        self.instance.poll_steps().map_err(|misuse| self.misuse(misuse))
    }

    /// Sets whom to tell when an inline step, or something foreign, wakes the workflow.
    pub(crate) fn tell(&self, hook: Hook) {
        self.instance.tell(hook);
    }

    /// Returns the report when something foreign woke the workflow.
    pub(crate) fn foreign(&self) -> Option<Blocked> {
        self.instance.was_foreign().then(|| self.misuse(Misuse::ForeignWake))
    }

    pub(crate) fn runs_steps(&self) -> bool {
        self.instance.runs_steps()
    }

    /// Answers a question from the state behind the last turn, which need not be recorded yet.
    pub(crate) fn inquire(&self, inquiry: &Inquiry) -> Result<Told, Failure> {
        match inquiry {
            Inquiry::Query { name, question } => self.instance.query(name, question).map(Told::Answer),
            Inquiry::Check { message, .. } if self.state.outcome.is_some() || self.state.knows(message) => Ok(Told::SeeLog),
            Inquiry::Check { name, payload, .. } => self.instance.check_update(name, payload).map(|()| Told::Fits),
        }
    }

    pub(crate) fn closure(&self, position: Position) -> Option<StepWork> {
        self.instance.closure(position)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn id(&self) -> &RunId {
        &self.id
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.state.outcome.as_ref()
    }

    /// Returns the time of the last commit: no turn is earlier.
    pub(crate) fn last_time(&self) -> Timestamp {
        self.last_time
    }

    pub(crate) fn next_commit(&self) -> CommitNo {
        self.next_commit
    }

    fn misuse(&self, misuse: Misuse) -> Blocked {
        Blocked::Misuse { run: self.id.clone(), workflow: self.state.started.workflow.clone(), misuse }
    }
}
