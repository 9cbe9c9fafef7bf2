//! Execution: one run in memory. Decide (kernel) → record (one item, through the outbox) → act (effects), and never more
//! than one commit in flight: what arrives meanwhile joins the next turn.
//!
//! ```text
//! Ready ──arrivals──► turn ──► Recording ──Done──► effects ──► Ready │ passive │ ended
//!                       │           └──refused──► sealed: the Executor replays the run under a new generation
//!                       └── blocked: given back to the store with the report, nothing recorded
//! ```
//!
//! It does no I/O and reads no clock but the engine's estimate of the store's time.

use std::{
    collections::{BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};

use super::{
    bells::Rung,
    engine::Engine,
    executor::{Hinted, Left, LeftHow, MARK},
    persistence::Whom,
    scheduler::{Room, What},
    waiters,
};
use crate::{
    hints::Hint,
    kernel::{
        Blocked, codec,
        event::{Event, Fact, MessageBody, Outcome as End},
        id::{Attempt, Epoch, Position, RunId, RunKey},
        instance::panic_text,
        invariant::uphold,
        run::{Arrival, Decision, Effect, Run},
        state::Rest,
        time::Timestamp,
    },
    store::{Item, NOT_BEGUN, NewRun, Outcome, Status, Then, Turn, Unread, Yield, YieldReason},
};

/// How long a commit that somebody else stands in the way of waits before it is tried again: at first, and at last.
const BREATH: Duration = Duration::from_millis(20);
const LONGEST_BREATH: Duration = Duration::from_secs(1);

fn longer(breath: Duration) -> Duration {
    (breath * 2).min(LONGEST_BREATH)
}

mod acts;
mod children;
mod cold;
mod details;
mod inbox;
mod inquiries;
mod messages;
mod paused;
mod reopen;
mod rest;
mod transaction;

pub(crate) use cold::Cool;
pub(crate) use inquiries::Inquire;
pub(crate) use messages::{Acked, Arrive, Behind, Depart, Due, Evict, Forsake, InboxRead, Mail, Woken};
pub(crate) use rest::MakeWay;

/// How a dispatch ended, for the door.
pub(crate) struct Begun {
    pub(crate) run: RunKey,
    pub(crate) outcome: Result<Outcome, Unbegun>,
    /// Where its end will be told; given when it is recorded.
    pub(crate) end: Option<watch::Receiver<waiters::End>>,
}

/// Why nothing was even submitted.
pub(crate) enum Unbegun {
    /// Its code does not get through its first turn.
    Blocked(Blocked),
    /// There is no slot, and as many wait for one as may.
    Busy,
}

/// What a run needs to live here.
pub(crate) struct Home {
    pub(crate) engine: Rc<Engine>,
    pub(crate) key: RunKey,
    pub(crate) generation: u64,
    pub(crate) epoch: Epoch,
    /// The inbox number up to which messages were seen.
    pub(crate) seen: u64,
    /// Kept heartbeat details by call.
    pub(crate) details: Vec<(Position, Attempt, Bytes)>,
}

/// One run in memory.
pub(crate) struct Execution {
    engine: Rc<Engine>,
    key: RunKey,
    id: Arc<RunId>,
    generation: u64,
    epoch: Epoch,
    run: Box<Run>,
    /// The commit in flight.
    recording: Option<Recording>,
    /// What arrived meanwhile, in order.
    waiting: VecDeque<Arrival>,
    seen: u64,
    details: Vec<(Position, Attempt, Bytes)>,
    /// Calls whose details are kept here only…
    unstored: BTreeSet<Position>,
    /// …and some are on their way to the store.
    storing: bool,
    /// How long they wait if somebody stands in their way.
    details_breath: Duration,
    /// Transactional steps: what the store keeps of each goes with the commit that records its end.
    transactions: BTreeSet<Position>,
    /// Questions that wait for the commit in flight: the state behind it is not recorded yet.
    inquiries: Vec<Inquire>,
    /// Who waits for the first commit.
    reply: Option<oneshot::Sender<Begun>>,
    /// The run's row, until it is on its way.
    start: Option<Box<NewRun>>,
    /// Behind a replay, everything that is open asks for its effect once.
    reopened: bool,
    /// Acts that were told to stop and may still be at it. No compensation starts before they have ended: an act must not
    /// land behind its own undoing.
    stopping: BTreeSet<Position>,
    /// Compensations that wait for that.
    held_back: Vec<(Position, Attempt)>,
    /// Results that nobody wanted any more; dropped from the table of attempts once that is durable.
    stale: Vec<(Position, Attempt)>,
    /// It came from the store: whoever waits for its end may be elsewhere.
    travelled: bool,
    /// It goes to another node as soon as nothing of it runs here.
    departing: bool,
    /// Tasks of it are on their way into their queues, without a turn. Until they are there no turn is taken, which might not want them any
    /// more, and the run does not leave.
    placing: bool,
    /// A timer will look whether what it has in queues lasts.
    resting: bool,
    /// It has asked to leave memory, and was not answered yet.
    cooling: bool,
    /// How long the next commit that somebody stands in the way of waits.
    breath: Duration,
    /// The boot time of its last turn.
    turned_at: Duration,
    /// Attempts of inline steps that were begun ahead of their time: their timers come and mean nothing.
    hurried: BTreeSet<(Position, Attempt)>,
    /// An operator has paused it.
    halted: paused::Halted,
    /// Over for this memory: nothing more may leave.
    sealed: bool,
}

struct Recording {
    decision: Box<Decision>,
    /// What the store was given: kept, because it may have to be given again.
    turn: Arc<Turn>,
    /// It was refused because the inbox has moved, and is submitted again once the inbox was read.
    moved: bool,
}

impl Execution {
    /// Starts a new run: its first turn is decided, and on its way to the store.
    pub(crate) fn begin(
        home: Home,
        start: NewRun,
        run: Box<Run>,
        decision: Box<Decision>,
        reply: oneshot::Sender<Begun>,
    ) -> Addr<Self> {
        let mut execution = Execution::new(home, run);
        execution.start = Some(Box::new(start));
        execution.reply = Some(reply);
        execution.launch(move |this, ctx| {
            this.arm_deadline();
            this.record(decision, ctx);
        })
    }

    /// Starts a run that was replayed; `taken` if it was taken by force, else its attempts are re-attached.
    pub(crate) fn resume(home: Home, run: Box<Run>, taken: bool, same_incarnation: bool, inbox: Vec<Unread>) -> Addr<Self> {
        let mut execution = Execution::new(home, run);
        execution.travelled = true;
        execution.launch(move |this, ctx| this.reopen(taken, same_incarnation, inbox, ctx))
    }

    fn new(home: Home, run: Box<Run>) -> Execution {
        let Home { engine, key, generation, epoch, seen, details } = home;
        Execution {
            engine,
            key,
            id: Arc::new(run.id().clone()),
            generation,
            epoch,
            run,
            recording: None,
            waiting: VecDeque::new(),
            seen,
            details,
            unstored: BTreeSet::new(),
            storing: false,
            details_breath: BREATH,
            transactions: BTreeSet::new(),
            inquiries: Vec::new(),
            reply: None,
            start: None,
            reopened: false,
            stopping: BTreeSet::new(),
            held_back: Vec::new(),
            stale: Vec::new(),
            travelled: false,
            departing: false,
            placing: false,
            resting: false,
            cooling: false,
            breath: BREATH,
            turned_at: Duration::ZERO,
            hurried: BTreeSet::new(),
            halted: paused::Halted::default(),
            sealed: false,
        }
    }

    /// Runs this actor as a watched task: a panic in it is our bug, and the Executor replays the run alone.
    fn launch(mut self, first: impl FnOnce(&mut Self, &mut Context<Self>)) -> Addr<Self> {
        let (engine, run, generation) = (self.engine.clone(), self.key, self.generation);
        let mut context = Context::new();
        let address = context.address();
        let hook_address = address.clone();
        self.run.tell(Arc::new(move || hook_address.do_send(Woken)));
        // The first turn runs here and now, so that it joins the flush that is being collected; but a panic in it is this
        // run's alone, like any later one, and not the Executor's who called.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| first(&mut self, &mut context))) {
            self.engine.leave(Left { run, generation, how: LeftHow::Crashed(panic_text(&*panic)) });
            return address;
        }
        let task = AssertUnwindSafe(context.into_future(self)).catch_unwind();
        actix_rt::spawn(async move {
            if let Err(panic) = task.await {
                engine.leave(Left { run, generation, how: LeftHow::Crashed(panic_text(&*panic)) });
            }
        });
        address
    }

    /// Returns the time of this run: what its log has reached is past, even if the clock was set back since.
    fn now(&self) -> Timestamp {
        self.engine.time.now().max(self.run.last_time())
    }

    // ---- turns -------------------------------------------------------------------------------------------------

    fn arrive(&mut self, arrivals: impl IntoIterator<Item = Arrival>, ctx: &mut Context<Self>) {
        if self.sealed {
            return;
        }
        for arrival in arrivals {
            if let Arrival::Ended { position, attempt, .. } = &arrival
                && self.run.state().call(*position).is_none_or(|call| call.attempt != *attempt)
            {
                self.stale.push((*position, *attempt));
                self.stopped(*position);
            } else {
                self.line_up(arrival);
            }
        }
        if self.recording.is_none() {
            self.forget_stale();
            self.idle(ctx);
        }
    }

    /// Lets an arrival wait for its turn. An order about the run as such goes before all else but the claim, or the replay (whatever is
    /// recorded says who lost what), and the orders before it: to pause and to go on is not the same as to go on and to pause.
    fn line_up(&mut self, arrival: Arrival) {
        if let Arrival::Message { body: MessageBody::Task { position, attempt, details: Some(details), .. }, .. } = &arrival {
            // For the next attempt, if there is one.
            self.keep(*position, *attempt, details.clone());
        }
        if arrival.goes_first() {
            let goes_before =
                |waiting: &&Arrival| matches!(waiting, Arrival::Taken { .. } | Arrival::Reopened { .. }) || waiting.goes_first();
            let behind = self.waiting.iter().take_while(goes_before).count();
            self.waiting.insert(behind, arrival);
        } else {
            self.waiting.push_back(arrival);
        }
    }

    fn forget_stale(&mut self) {
        for (position, attempt) in self.stale.drain(..) {
            self.engine.pool.attempts().recorded(self.key, position, attempt);
        }
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.is_empty() {
            return;
        }
        if self.run.next_commit() >= self.engine.config.limits.history_commits {
            let most = self.engine.config.limits.history_commits;
            let reason = format!("{}: its history has reached the limit of {most} commits", self.id);
            return self.give_back(YieldReason::Quarantined { reason }, ctx);
        }
        let now = self.now();
        if self.waiting.iter().any(|arrival| self.early(arrival, now).is_some()) {
            self.arm_early(now);
        }
        // It takes as much as fits into one item.
        match self.run.turn(&mut self.waiting, now, self.engine.writer(self.epoch)) {
            Ok(Some(decision)) => self.record(decision, ctx),
            Ok(None) => self.idle(ctx),
            Err(blocked) => self.blocked(&blocked, ctx),
        }
    }

    /// Returns what to arm again if a timer is early: one of the far future, which comes in hops, or one that went off by a time
    /// which this run's has not reached. The kernel ignores what is early, and nobody would ever say it again.
    fn early(&self, arrival: &Arrival, now: Timestamp) -> Option<(Timestamp, What)> {
        let (due, what) = match arrival {
            Arrival::Due { position } => (self.run.state().due_of(*position), What::Sleep(*position)),
            Arrival::Deadline => (self.run.state().started.deadline, What::Deadline),
            Arrival::Begin => (self.run.state().begins_at(), What::Begin),
            _ => return None,
        };
        due.filter(|due| *due > now).map(|due| (due, what))
    }

    /// Sends timers that are early back to the wheel.
    fn arm_early(&mut self, now: Timestamp) {
        for arrival in std::mem::take(&mut self.waiting) {
            match self.early(&arrival, now) {
                Some((due, what)) => self.arm(due, what),
                None => self.waiting.push_back(arrival),
            }
        }
    }

    fn record(&mut self, mut decision: Box<Decision>, ctx: &mut Context<Self>) {
        if let Some(blocked) = self.engine.lacks(&self.run, &decision) {
            return self.blocked(&blocked, ctx);
        }
        failpoint!("execution.after_decide");
        let record = match codec::encode(&self.id, &decision.commit) {
            Ok(record) => record,
            Err(reason) => return self.give_back(YieldReason::Quarantined { reason: format!("{}: {reason}", self.id) }, ctx),
        };
        let mut withdrawn = Effect::withdrawn(&decision.effects);
        withdrawn.extend(self.is_paused().then_some(NOT_BEGUN));
        let turn = Turn {
            run: self.key,
            start: self.start.take(),
            commit_no: decision.commit.commit_no,
            prev: decision.commit.prev,
            record,
            then: self.then(&decision),
            consumed: std::mem::take(&mut decision.consumed),
            settled: self.settled_rows(&decision),
            tasks: if self.is_paused() { Vec::new() } else { self.tasks_of(&decision.effects) },
            withdrawn,
            starts: Vec::new(),
            tells: std::mem::take(&mut decision.tells),
            published: std::mem::take(&mut decision.published),
            memos: std::mem::take(&mut decision.memos),
            letters: std::mem::take(&mut decision.letters),
            unowned: None,
        };
        self.turned_at = self.engine.config.clock.boot();
        self.engine.resting.forget(self.key);
        self.submit_keyed(Recording { decision, turn: Arc::new(turn), moved: false }, ctx);
    }

    fn submit(&mut self, recording: Recording) {
        uphold!(OneInFlight, self.recording.is_none(), "{}: a second commit would be under way", self.id);
        let claims = self.halted.by_force && recording.decision.commit.events.iter().any(is_claim);
        let whom = Whom::Execution { run: self.key, generation: self.generation, claims };
        self.engine.record(Item::Turn(recording.turn.clone()), whom);
        self.recording = Some(recording);
    }

    /// The same, once more: what is kept beside the log of a call that is over may have come only since.
    fn submit_again(&mut self, mut recording: Recording) {
        let settled = self.settled_rows(&recording.decision);
        if settled != recording.turn.settled {
            Arc::make_mut(&mut recording.turn).settled = settled;
        }
        self.submit(recording);
    }

    /// Rows beside the log of calls that are over: heartbeats, of which only calls that asked for them or left details have
    /// any, and results of transactional steps. One that was given up may commit a moment later; its row goes with the run's end.
    fn settled_rows(&self, decision: &Decision) -> Vec<Position> {
        let attempts = self.engine.pool.attempts();
        let kept = |position: &Position| {
            self.details.iter().any(|(at, ..)| at == position)
                || attempts.get(self.key, *position).is_some_and(|attempt| attempt.latest().is_some())
        };
        // The first turn is recorded: whatever was suspected of this run did not happen.
        let mark = self.details.iter().map(|(at, ..)| *at).find(|at| *at == MARK);
        let over = |position: &&Position| decision.rest == Rest::Ended || decision.settled.contains(position);
        let transactions = self.transactions.iter().filter(over).copied();
        decision.settled.iter().copied().filter(kept).chain(mark).chain(transactions).collect()
    }

    fn then(&self, decision: &Decision) -> Then {
        match decision.rest {
            _ if self.is_paused() => Then::Hold,
            Rest::Ended => Then::End { status: self.run.outcome().map_or(Status::Failed, status_of), seen: Some(self.seen) },
            Rest::Waits { next } if self.waiting.is_empty() && self.may_sleep(next, decision) => {
                Then::Passivate { wake_at: next, seen: self.seen }
            }
            Rest::Waits { .. } | Rest::Busy => Then::Hold,
        }
    }

    /// Tells whether something of this run is on its way to the store that comes before whatever it does next.
    fn is_recording(&self) -> bool {
        self.recording.is_some() || self.placing
    }

    fn idle(&mut self, ctx: &mut Context<Self>) {
        if self.sealed || self.is_recording() {
            return;
        }
        if self.is_paused() {
            self.idle_paused(ctx);
        } else if !self.waiting.is_empty() {
            self.turn(ctx);
        } else if self.departs() {
            self.depart(ctx);
        } else if self.engine.config.evict {
            self.evict(ctx);
        } else {
            self.go_to_sleep(ctx);
        }
    }

    // ---- acknowledged ------------------------------------------------------------------------------------------

    fn on_acked(&mut self, outcome: Outcome, ctx: &mut Context<Self>) {
        let Some(recording) = self.recording.take() else { return };
        if self.sealed {
            return;
        }
        let breath = std::mem::replace(&mut self.breath, BREATH);
        match outcome {
            Outcome::Done => self.on_recorded(recording, ctx),
            Outcome::InboxMoved => self.on_inbox_moved(recording),
            // Somebody else's transaction holds the run for a moment; nothing was written, and nothing has changed.
            Outcome::Waits if recording.turn.start.is_none() => {
                self.recording = Some(recording);
                self.breath = longer(breath);
                ctx.run_later(breath, |this, _| {
                    if let Some(recording) = this.recording.take_if(|_| !this.sealed) {
                        this.submit_again(recording);
                    }
                });
            }
            refused => self.on_refused(refused, ctx),
        }
    }

    fn on_recorded(&mut self, recording: Recording, ctx: &mut Context<Self>) {
        let Recording { decision, turn, .. } = recording;
        turn.tasks.iter().for_each(|task| self.engine.queued(&task.queue));
        if !turn.memos.is_empty() {
            self.engine.shared(turn.memos.iter().map(|entry| entry.key));
        }
        if !turn.starts.is_empty() || turn.successor().is_some() {
            // What goes along unread makes the next run due at once: of one that never had a message nothing does.
            let waits = turn.starts.is_empty() && self.seen == 0;
            let next = turn.successor().filter(|_| waits).and_then(|next| next.due);
            self.engine.scheduler.do_send(Room { due: Some(next.unwrap_or(decision.commit.time)), wake: None });
        }
        self.run.recorded(&decision.commit, turn.record.digest);
        let ends = matches!(turn.then, Then::End { .. } | Then::Continue(_));
        self.engine.bells.ring(self.key, if ends || !turn.published.is_empty() { Rung::News } else { Rung::Commit });
        self.details.retain(|(at, ..)| *at != MARK);
        if let Some(reply) = self.reply.take() {
            let end = Some(self.engine.waiters.wait(self.key));
            let _ = reply.send(Begun { run: self.key, outcome: Ok(Outcome::Done), end });
        }
        let attempts = self.engine.pool.attempts().clone();
        for event in &decision.commit.events {
            if is_claim(event) {
                self.halted.by_force = false;
            }
            if let Event::Fact(Fact::Completed { position, attempt, .. } | Fact::Failed { position, attempt, .. }) = event {
                // For the next attempt, if there is one.
                self.details.retain(|(at, ..)| at != position);
                if self.run.state().call(*position).is_some()
                    && let Some(details) = attempts.get(self.key, *position).and_then(|ended| ended.details_for_next())
                {
                    self.keep(*position, *attempt, details);
                }
                attempts.recorded(self.key, *position, *attempt);
                if self.run.state().call(*position).is_none() {
                    self.transactions.remove(position);
                }
            }
        }
        self.forget_stale();
        if !turn.consumed.is_empty() {
            self.note_hurried(&decision);
        }
        self.tell_answers(&decision.commit.events);
        self.answer_inquiries();
        failpoint!("execution.before_effects");
        match turn.then {
            Then::End { .. } | Then::Continue(_) => self.ended(turn.successor().map(|next| next.run), ctx),
            Then::Passivate { wake_at, .. } => {
                self.slept(wake_at, decision.commit.time);
                self.leave(LeftHow::Passive { wake_at }, ctx);
            }
            Then::Hold if self.halts(&decision.effects, decision.commit.time, ctx) => {}
            Then::Hold if self.departs() => {
                // Intents of this commit are begun by whoever takes the run up; what nobody wants any more is stopped here.
                let aborts = decision.effects.into_iter().filter(|effect| matches!(effect, Effect::Abort { .. }));
                self.perform(aborts.collect(), ctx);
                self.depart(ctx);
            }
            Then::Hold => {
                let effects =
                    if std::mem::take(&mut self.reopened) { self.reopened_effects(&decision, ctx) } else { decision.effects };
                self.perform(effects, ctx);
                failpoint!("execution.after_effects");
                self.idle(ctx);
            }
        }
    }

    /// Behind a replay everything that is open asks once; aborts of the turn itself come first.
    fn reopened_effects(&mut self, decision: &Decision, ctx: &mut Context<Self>) -> Vec<Effect> {
        let aborts = decision.effects.iter().filter(|effect| matches!(effect, Effect::Abort { .. })).cloned();
        aborts.collect::<Vec<_>>().into_iter().chain(self.open_effects(ctx)).collect()
    }

    /// `next` is the run as which it has continued, if that is known.
    fn ended(&mut self, next: Option<RunKey>, ctx: &mut Context<Self>) {
        failpoint!("execution.before_settle");
        match (self.run.outcome(), next) {
            (_, Some(next)) => self.engine.waiters.follow(self.key, next),
            // Which one it is the store knows.
            (Some(End::Continued), None) => {
                self.engine.executor.do_send(Hinted { ended: vec![self.key], ..Hinted::default() });
            }
            (outcome, None) => self.engine.waiters.settle(self.key, || outcome.cloned().unwrap_or(End::Continued)),
        }
        if self.travelled {
            self.engine.hint(Hint::Ended { run: self.key });
        }
        self.engine.pool.cancel_run(self.key);
        let attempts = self.engine.pool.attempts();
        attempts.of(self.key).iter().for_each(|left| attempts.recorded(self.key, left.position, left.attempt));
        self.leave(LeftHow::Ended, ctx);
    }

    /// The commit is not there, so what was decided never happened: this memory is sealed.
    fn on_refused(&mut self, refused: Outcome, ctx: &mut Context<Self>) {
        if let Some(reply) = self.reply.take() {
            // The very first commit: there is no run, and nothing to replay.
            let _ = reply.send(Begun { run: self.key, outcome: Ok(refused), end: None });
            return self.leave(LeftHow::Ended, ctx);
        }
        tracing::warn!(run = %self.id, ?refused, "a commit was refused; the run is replayed");
        self.leave(LeftHow::Refused, ctx);
    }

    // ---- leaving -----------------------------------------------------------------------------------------------

    fn blocked(&mut self, blocked: &Blocked, ctx: &mut Context<Self>) {
        tracing::error!(run = %self.id, report = %blocked, "the run is blocked; nothing was recorded");
        let reason = blocked.to_string();
        let why = if blocked.is_of_this_build() {
            YieldReason::Blocked { build: self.engine.config.build, reason }
        } else {
            YieldReason::Quarantined { reason }
        };
        self.give_back(why, ctx);
    }

    fn give_back(&mut self, why: YieldReason, ctx: &mut Context<Self>) {
        self.engine.withdraw_all(self.key);
        self.engine.pool.cancel_run(self.key);
        let yielded = Yield { run: self.key, epoch: self.epoch, why };
        self.leave(LeftHow::Yields(yielded), ctx);
    }

    fn departs(&self) -> bool {
        self.departing || self.engine.draining.get()
    }

    /// Leaves for another node if nothing of this run is under way here; else the end of what is brings it here again.
    fn depart(&mut self, ctx: &mut Context<Self>) {
        if self.sealed || self.is_recording() || self.is_paused() || !self.waiting.is_empty() {
            return;
        }
        self.engine.withdraw_all(self.key);
        let busy = self.run.runs_steps() || !self.stopping.is_empty();
        if busy || self.engine.pool.attempts().count_of(self.key) > 0 || self.stores_details(ctx) {
            return;
        }
        let now = self.now();
        let wake_at = match self.run.rest(now) {
            Rest::Waits { next } => next,
            Rest::Busy | Rest::Ended => Some(now),
        };
        self.give_back(YieldReason::Released { wake_at, forced: false }, ctx);
    }

    fn leave(&mut self, how: LeftHow, ctx: &mut Context<Self>) {
        self.sealed = true;
        self.engine.leave(Left { run: self.key, generation: self.generation, how });
        ctx.stop();
    }
}

impl Actor for Execution {
    type Context = Context<Self>;
}

fn is_claim(event: &Event) -> bool {
    matches!(event, Event::Fact(Fact::Claimed { .. }))
}

fn status_of(outcome: &End) -> Status {
    match outcome {
        End::Completed(_) => Status::Completed,
        End::Failed(_) => Status::Failed,
        End::Cancelled { .. } => Status::Cancelled,
        End::TimedOut => Status::TimedOut,
        End::Terminated { .. } => Status::Terminated,
        End::Continued => Status::Continued,
    }
}
