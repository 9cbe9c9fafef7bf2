//! A run that an operator has paused. It takes no turn and begins no attempt; what is under way comes to its end here, and each result goes
//! into the run's own inbox, where it waits with everything else that comes. When nothing runs any more, the run is given back, and
//! nobody may claim it until it is let go on. Then it is replayed, and finds all that has come.

use actix::{AsyncContext, Context, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{BREATH, Execution, longer};
use crate::{
    actors::{executor::LeftHow, persistence::Whom},
    kernel::{
        event::{MessageBody, OUR_MESSAGES, TaskEnd},
        failure::Failure,
        id::{Attempt, Position},
        payload::Payload,
        run::{Arrival, Effect, takes_an_order},
        time::Timestamp,
    },
    store::{Item, Message, Outcome, YieldReason},
};

/// What is known of a pause here.
#[derive(Default)]
pub(super) struct Halted {
    /// It is recorded, by this memory or before it.
    recorded: bool,
    /// Since when.
    since: Option<Timestamp>,
    /// The run was taken by force, and that is not recorded: it must be found out again who has lost what.
    pub(super) by_force: bool,
    /// It was paused already when it fell out of this node's memory: steps of its own may have been lost with that.
    pub(super) fell: bool,
    /// So many results are on their way into the inbox.
    keeping: u32,
}

impl Execution {
    pub(super) fn is_paused(&self) -> bool {
        self.run.state().paused.is_some()
    }

    /// A commit is recorded, and the run is, or was, paused: tells whether that is all there is to do.
    pub(super) fn halts(&mut self, effects: &[Effect], at: Timestamp, ctx: &mut Context<Self>) -> bool {
        let paused = self.is_paused();
        if !paused && !self.halted.recorded {
            return false;
        }
        // What the turn before has given up is stopped. Whatever else it asked for is asked for again when the run goes on.
        let aborts = effects.iter().filter(|effect| matches!(effect, Effect::Abort { .. })).cloned();
        self.perform(aborts.collect(), ctx);
        if !paused {
            self.leave(LeftHow::Anew { by_force: self.halted.by_force, fell: self.halted.fell }, ctx);
            return true;
        }
        if !std::mem::replace(&mut self.halted.recorded, true) {
            self.halted.since = Some(at);
            self.begin_no_more();
        }
        self.idle(ctx);
        true
    }

    /// The run comes back to memory while it is paused.
    pub(super) fn found_paused(&mut self) {
        self.halted.recorded = true;
        self.begin_no_more();
    }

    /// What has not begun does not begin.
    fn begin_no_more(&mut self) {
        self.held_back.clear();
        self.engine.withdraw_all(self.key);
        self.engine.pool.take_back(self.key);
    }

    /// Keeps what has ended; takes an order, if one has come; and leaves when nothing runs any more.
    pub(super) fn idle_paused(&mut self, ctx: &mut Context<Self>) {
        if !self.halted.recorded {
            return;
        }
        for arrival in std::mem::take(&mut self.waiting) {
            match arrival {
                Arrival::Ended { position, attempt, result } => {
                    // Its time may be over while its code goes on. That is dropped now: no fact of its end comes before the run goes on.
                    self.run.revoke(position);
                    self.keep_result(position, attempt, result, ctx);
                }
                other => self.waiting.push_back(other),
            }
        }
        if self.run.runs_steps() {
            self.poll_steps(ctx);
        }
        if takes_an_order(self.waiting.iter(), self.run.runs_steps() || self.halted.keeping > 0) {
            // What is known of an attempt that has failed is kept beside the log, not in it.
            if !self.stores_details(ctx) {
                self.turn(ctx);
            }
            return;
        }
        if self.halted.keeping > 0 || !self.is_quiet() || self.stores_details(ctx) {
            return;
        }
        let since = self.halted.since.unwrap_or_else(|| self.run.last_time());
        let reason = self.run.state().paused.as_ref().map(|order| order.pauses(since)).unwrap_or_default();
        self.give_back(YieldReason::Paused { reason, seen: self.seen, forced: self.halted.by_force || self.halted.fell }, ctx);
    }

    /// Puts the result of an attempt into the run's inbox, where it waits for its turn.
    fn keep_result(&mut self, position: Position, attempt: Attempt, result: Result<Payload, Failure>, ctx: &mut Context<Self>) {
        let details = self.engine.pool.attempts().get(self.key, position).and_then(|ended| ended.details_for_next());
        let end = match result {
            Ok(output) => TaskEnd::Done(output),
            Err(failure) => TaskEnd::Failed(Box::new(failure)),
        };
        let message = Message {
            // A run that follows this one has other calls at the same places.
            to: (*self.id).clone(),
            message: format!("{OUR_MESSAGES}kept:{position}/{attempt}"),
            body: MessageBody::Task { position, attempt, end, details },
            sent_at: self.now(),
        };
        self.halted.keeping += 1;
        let (engine, run) = (self.engine.clone(), self.key);
        let kept = async move {
            let mut breath = BREATH;
            loop {
                let (told, outcome) = oneshot::channel();
                engine.record(Item::Send(message.clone()), Whom::Caller(told));
                match outcome.await {
                    // It is there, or nobody will ever ask for it.
                    Ok(Outcome::Sent { .. } | Outcome::AlreadySent | Outcome::Ended(_) | Outcome::Unknown) => {
                        break engine.pool.attempts().recorded(run, position, attempt);
                    }
                    // This life of the core is over.
                    Ok(Outcome::Fenced) | Err(_) => break,
                    Ok(_) => {
                        tokio::time::sleep(breath).await;
                        breath = longer(breath);
                    }
                }
            }
        };
        ctx.spawn(kept.into_actor(self).map(|(), this, ctx| {
            this.halted.keeping -= 1;
            this.idle(ctx);
        }));
    }
}
