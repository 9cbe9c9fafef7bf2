//! The third beat of the rhythm: what an execution asks of the world once its commit is durable. Nothing here is called before.

use std::time::Duration;

use actix::{AsyncContext, Context, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{BREATH, Execution, longer, transaction};
use crate::{
    actors::{
        engine::Engine,
        foreman::TaskBody,
        persistence::Whom,
        pool::{self, Start, Work, attempts::Standing},
        scheduler::{Timer, What},
    },
    kernel::{
        event::{CallOptions, Event, Fact, MessageBody, Ordered, Route, StepPlace},
        id::{Attempt, Position, RunKey},
        run::{Arrival, Decision, Effect},
        tape::StepWork,
        time::Timestamp,
    },
    store::{Item, NewTask, Outcome, StepOf, TaskKey},
};

/// How long a compensation waits for code that runs on although its time is over: as long as the pool gives it to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Timers of the far future go to the wheel in hops, so that those of runs that ended long ago do not fill it.
const FAR: Duration = Duration::from_secs(600);

/// The same for those of steps.
const NEAR: Duration = Duration::from_secs(10);

impl Execution {
    pub(super) fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let mut granted = false;
        for effect in effects {
            match effect {
                Effect::Timer { position, due } => self.arm(due, What::Sleep(position)),
                Effect::Abort { position } => self.abort(position),
                // Done by the commit.
                Effect::Queue { .. } | Effect::Withdraw { .. } => {}
                Effect::Start { position, attempt, at: Some(at) } if at > self.now() => {
                    // Back-off is a span: it is not prolonged by a clock that was set back.
                    self.arm_retry(position, attempt, self.engine.time.now().after(at.since(self.now())));
                }
                Effect::Start { position, attempt, .. } => granted |= self.start_attempt(position, attempt),
            }
        }
        if granted {
            self.poll_steps(ctx);
        }
    }

    /// Takes note of inline steps that an order has begun ahead of their time. Granted twice, one could run twice; of any other attempt
    /// the pool's table knows that it was begun.
    pub(super) fn note_hurried(&mut self, decision: &Decision) {
        let ordered = |event: &Event| match event {
            Event::Fact(Fact::Received { body: MessageBody::Order(order), .. }) => matches!(order.what, Ordered::Retry { .. }),
            _ => false,
        };
        if !decision.commit.events.iter().any(ordered) {
            return;
        }
        for effect in &decision.effects {
            if let Effect::Start { position, attempt: attempt @ 2.., at: None } = effect
                && self.run.state().call(*position).is_some_and(|call| call.place == Some(StepPlace::Inline))
            {
                self.hurried.insert((*position, *attempt));
            }
        }
    }

    /// What is open and was not asked for by this memory. Attempts that belong into queues and are in none (their intents were
    /// recorded where they would have run) are put there now; but not what runs here, or has ended here: it would run once more.
    pub(super) fn open_effects(&mut self, ctx: &mut Context<Self>) -> Vec<Effect> {
        let (engine, run) = (self.engine.clone(), self.key);
        let effects = self.run.open_effects(&|queue, position, attempt| is_shared(&engine, run, (queue, position, attempt)));
        let tasks = self.tasks_of(&effects);
        if !tasks.is_empty() {
            self.placing = true;
            self.place(tasks, BREATH, ctx);
        }
        effects
    }

    /// Tells whether an attempt that begins now begins in a shared queue.
    pub(super) fn is_for_others(&self, position: Position, attempt: Attempt) -> bool {
        let call = self.run.state().call(position).filter(|call| call.input.is_some());
        call.is_some_and(|call| is_shared(&self.engine, self.key, (call.queue(), position, attempt)))
    }

    fn place(&self, tasks: Vec<NewTask>, breath: Duration, ctx: &mut Context<Self>) {
        let (told, outcome) = oneshot::channel();
        self.engine.record(Item::PlaceTasks(self.key, self.epoch, tasks.clone()), Whom::Caller(told));
        ctx.spawn(outcome.into_actor(self).map(move |outcome, this, ctx| {
            match outcome {
                _ if this.sealed => {}
                Ok(Outcome::Done) => {
                    this.placing = false;
                    tasks.iter().for_each(|task| this.engine.queued(&task.queue));
                    this.idle(ctx);
                }
                Ok(Outcome::Waits) => {
                    ctx.run_later(breath, move |this, ctx| this.place(tasks, longer(breath), ctx));
                }
                // They stand in no line, and nobody would ever take them: a replay asks for them again, if the run is still ours.
                Ok(refused) => this.on_refused(refused, ctx),
                // This life of the core is over.
                Err(_) => {}
            }
        }));
    }

    /// Returns the tasks that effects ask for.
    pub(super) fn tasks_of(&self, effects: &[Effect]) -> Vec<NewTask> {
        let task = |effect: &Effect| match effect {
            Effect::Queue { position, attempt, at } => self.task(*position, *attempt, *at),
            _ => None,
        };
        effects.iter().filter_map(task).collect()
    }

    fn task(&self, position: Position, attempt: Attempt, at: Option<Timestamp>) -> Option<NewTask> {
        let call = self.run.state().call(position)?;
        let (default, unrouted) = (CallOptions::default(), Route::default());
        let options = call.options.as_deref().unwrap_or(&default);
        let route = options.route.as_deref().unwrap_or(&unrouted);
        let by = |limit: Option<Duration>| limit.map(|limit| call.since.after(limit));
        let close_by = by(options.schedule_to_close);
        let start_by = by(options.schedule_to_start).filter(|_| attempt == 1);
        let body = TaskBody {
            id: (*self.id).clone(),
            epoch: self.epoch,
            input: call.input.clone()?,
            start_to_close: options.start_to_close,
            close_by,
            heartbeat: options.heartbeat,
            details: self.details.iter().rev().find(|(at, ..)| *at == position).map(|(.., details)| details.clone()),
        };
        Some(NewTask {
            key: TaskKey { run: self.key, position, attempt },
            queue: call.queue().to_owned(),
            lane: route.key.clone(),
            priority: route.priority,
            activity: call.name.clone(),
            needs: route.needs.clone(),
            due_at: at.unwrap_or_else(|| self.now()),
            start_by: start_by.into_iter().chain(close_by).min(),
            // Numbers, texts and bytes always encode.
            body: rmp_serde::to_vec(&body).unwrap_or_default().into(),
        })
    }

    pub(super) fn abort(&mut self, position: Position) {
        // It may not even have left this arbiter.
        if self.engine.withdraw(self.key, position) {
            return;
        }
        match self.engine.pool.attempts().lookup(self.key, position) {
            Some((attempt, Standing::Done(_))) => self.engine.pool.attempts().recorded(self.key, position, attempt),
            Some((_, Standing::Queued | Standing::Running)) => {
                self.stopping.insert(position);
                self.engine.pool.cancel(self.key, position);
            }
            None => {}
        }
    }

    /// An act that was told to stop has ended; behind the last of them the compensations go on.
    pub(super) fn stopped(&mut self, position: Position) {
        if self.stopping.remove(&position) && self.stopping.is_empty() {
            for (position, attempt) in std::mem::take(&mut self.held_back) {
                self.start_attempt(position, attempt);
            }
        }
    }

    /// Starts an attempt whose intent is durable. Returns whether it is an inline step, which is polled here; what an inline
    /// activity returned at once waits for the next turn.
    pub(super) fn start_attempt(&mut self, position: Position, attempt: Attempt) -> bool {
        let Some(call) = self.run.state().call(position) else { return false };
        if self.is_paused() {
            return false;
        }
        if call.compensating && !self.stopping.is_empty() {
            self.held_back.push((position, attempt));
            return false;
        }
        let now = self.engine.time.now();
        // The same for an act whose time ran out and whose code goes on: it gets the grace to end first.
        if call.compensating && self.engine.pool.attempts().is_abandoned(self.key) && now < call.since.after(GRACE) {
            self.arm_retry(position, attempt, now.after(LOOK_AGAIN));
            return false;
        }
        let default = CallOptions::default();
        let options = call.options.as_deref().unwrap_or(&default);
        let mut limits = pool::Limits {
            schedule_to_start: if attempt == 1 { call.left(options.schedule_to_start, now) } else { None },
            start_to_close: options.start_to_close,
            close_by: call.left(options.schedule_to_close, now),
            heartbeat: options.heartbeat,
        };
        let work = match (call.place, &call.input) {
            (Some(StepPlace::Inline), _) => {
                // Read immediately before the act: a node past its deadline starts nothing.
                if !self.engine.deadline.stands() {
                    return false;
                }
                // An order to try it now has come while it ran, and it has ended since.
                let is_end = |arrival: &Arrival| matches!(arrival, Arrival::Ended { position: of, attempt: n, .. } if (*of, *n) == (position, attempt));
                if self.waiting.iter().any(is_end) {
                    return false;
                }
                if let Some(limit) = options.start_to_close {
                    let over = now.after(limit);
                    self.arm(over, What::StepTimeout(position, attempt, over));
                }
                self.run.grant(position, attempt);
                return true;
            }
            (Some(StepPlace::Blocking | StepPlace::Transaction), _) => match self.run.closure(position) {
                Some(StepWork::Blocking(work)) => Work::Blocking(work),
                Some(StepWork::Transaction(work)) => {
                    self.transactions.insert(position);
                    // Its time is minded by whoever knows how far it is: once a COMMIT is on its way, it is waited for.
                    let limit = limits.start_to_close.take().into_iter().chain(limits.close_by.take()).min();
                    let step =
                        StepOf { run: self.key, position, attempt, epoch: self.epoch, incarnation: self.engine.incarnation };
                    transaction::act(self.engine.transactions.clone(), step, limit, work)
                }
                None => return false,
            },
            (None, Some(input)) => Work::Activity { name: call.name.as_str().into(), input: input.clone() },
            (None, None) => return false,
        };
        let details = self.details.iter().rev().find(|(at, ..)| *at == position).map(|(.., details)| details.clone());
        let start = Start { run: self.key, id: self.id.clone(), position, attempt, epoch: self.epoch, work, limits, details };
        if let Some(ended) = self.engine.start(start) {
            // It joins the next turn, with whatever else is ready by then: the callers take it behind the last of their effects.
            self.waiting.push_back(Arrival::Ended { position, attempt, result: ended.result });
        }
        false
    }

    /// Takes a turn if something has come of acts that were just started.
    pub(super) fn take_ready(&mut self, ctx: &mut Context<Self>) {
        if !self.waiting.is_empty() {
            self.idle(ctx);
        }
    }

    pub(super) fn poll_steps(&mut self, ctx: &mut Context<Self>) {
        match self.run.poll_steps() {
            Ok(results) if results.is_empty() => {}
            Ok(results) => {
                let ended = results.into_iter().map(|(position, attempt, result)| Arrival::Ended { position, attempt, result });
                self.arrive(ended, ctx);
            }
            Err(blocked) => self.blocked(&blocked, ctx),
        }
    }

    fn arm_retry(&self, position: Position, attempt: Attempt, at: Timestamp) {
        self.arm(at, What::Retry(position, attempt, at));
    }

    pub(super) fn arm(&self, due: Timestamp, what: What) {
        let due = match what {
            What::Sleep(_) | What::Deadline | What::Begin | What::Retry(..) => due.min(self.engine.time.now().after(FAR)),
            // Most steps are over long before.
            What::StepTimeout(..) => due.min(self.engine.time.now().after(NEAR)),
        };
        self.engine.arm(Timer { due, run: self.key, what });
    }

    pub(super) fn arm_deadline(&self) {
        if let Some(deadline) = self.run.state().started.deadline {
            self.arm(deadline, What::Deadline);
        }
    }
}

/// Tells whether an attempt of a queue is not for this node alone, and neither runs here nor has ended here.
fn is_shared(engine: &Engine, run: RunKey, (queue, position, attempt): (&str, Position, Attempt)) -> bool {
    let here = engine.pool.attempts().lookup(run, position).is_some_and(|(here, _)| here == attempt);
    (engine.is_shared)(queue) && !here
}
