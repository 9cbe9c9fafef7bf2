//! When an execution that only waits leaves memory: by itself if it waits for long, earlier if others want in, and never while
//! anything of it is under way here. A wait that ends soon is spent in memory in any case: it would be claimed again at once.

use actix::{AsyncContext, Context, Handler, Message};

use super::Execution;
use crate::{
    actors::executor::MakeRoom,
    kernel::{
        event::{Event, Fact, Next},
        run::{Decision, Effect},
        state::Rest,
        time::Timestamp,
    },
    store::YieldReason,
};

/// Leave memory if this run only waits: others want in.
///
/// *from* Executor · *reply* it leaves, or asks for somebody else · *delivery* tell · *if lost* it has left already
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MakeWay;

impl Execution {
    /// A run with an attempt here is owned as long as the attempt lives, and short waits are not worth a claim.
    pub(super) fn may_sleep(&self, next: Option<Timestamp>, decision: &Decision) -> bool {
        // The attempts whose results this very commit records are over. One that runs on although nobody waits for it (the
        // loser of a race) is not: it has yet to be asked to stop, which a run that sleeps cannot do.
        let attempts = self.engine.pool.attempts();
        let recorded = decision.commit.events.iter().filter(|event| match event {
            Event::Fact(Fact::Completed { position, .. } | Fact::Failed { position, .. }) => {
                attempts.get(self.key, *position).is_some()
            }
            _ => false,
        });
        // Details that are here only have to be in the store first.
        let left = decision.commit.events.iter().any(|event| match event {
            Event::Fact(Fact::Failed { position, next: Next::Retry { .. } | Next::Park, .. }) => {
                attempts.get(self.key, *position).is_some_and(|attempt| attempt.details_for_next().is_some())
            }
            _ => false,
        });
        // Nor while something is yet to be told to stop.
        let aborts = decision.effects.iter().any(|effect| matches!(effect, Effect::Abort { .. }));
        // What is elsewhere is mostly back soon, and waiting for it in memory costs less than a claim and a replay.
        self.is_far(next, decision.commit.time)
            && !aborts
            && !left
            && self.unstored.is_empty()
            && !self.storing
            && !self.run.awaits_others()
            && !self.run.runs_steps()
            && attempts.count_of(self.key) <= recorded.count()
    }

    /// Tells whether what it waits for is far enough away to leave for.
    pub(super) fn is_far(&self, next: Option<Timestamp>, now: Timestamp) -> bool {
        let leaves = self.engine.resting.is_crowded() || self.engine.config.evict;
        self.is_long(next, now) || (leaves && self.is_behind_the_horizon(next, now))
    }

    fn is_long(&self, next: Option<Timestamp>, now: Timestamp) -> bool {
        next.is_none_or(|next| next.since(now) > self.engine.config.stays())
    }

    /// Tells whether it would not be claimed again before it is due, nor soon.
    fn is_behind_the_horizon(&self, next: Option<Timestamp>, now: Timestamp) -> bool {
        next.is_none_or(|next| next.since(now) > self.engine.config.soon())
    }

    /// Tells whether nothing of it is under way here.
    pub(super) fn is_quiet(&self) -> bool {
        !self.run.runs_steps()
            && self.stopping.is_empty()
            && self.held_back.is_empty()
            && self.engine.pool.attempts().count_of(self.key) == 0
    }

    /// A run that was kept for the sake of an act that nobody waits for goes to sleep once that has ended; one that waits for a
    /// short time makes room for others if they want it.
    pub(super) fn go_to_sleep(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let Rest::Waits { next } = self.run.rest(now) else { return };
        let rested = !self.run.awaits_others() || self.has_rested(ctx) || self.engine.resting.is_crowded();
        if !self.is_quiet() {
            return;
        }
        if rested && self.is_far(next, now) {
            if !self.stores_details(ctx) {
                self.sleep(next, now, ctx);
            }
        } else if self.is_behind_the_horizon(next, now) {
            self.engine.resting.rests(self.key);
        }
    }

    /// Gives the run back until it is due; at once if a message came in meanwhile.
    pub(super) fn sleep(&mut self, next: Option<Timestamp>, now: Timestamp, ctx: &mut Context<Self>) {
        self.slept(next, now);
        self.give_back(YieldReason::Released { wake_at: next, forced: false }, ctx);
    }

    /// Counts a run that leaves memory because it only waits.
    pub(super) fn slept(&self, next: Option<Timestamp>, now: Timestamp) {
        self.engine.counters.passivated(!self.is_long(next, now));
    }

    /// Makes way for others if nothing has reached this run meanwhile.
    fn make_way(&mut self, ctx: &mut Context<Self>) -> bool {
        let now = self.now();
        match self.run.rest(now) {
            Rest::Waits { next }
                if !self.is_recording()
                    && !self.is_paused()
                    && self.waiting.is_empty()
                    && self.unstored.is_empty()
                    && !self.storing
                    && self.is_quiet()
                    && self.is_behind_the_horizon(next, now) =>
            {
                self.sleep(next, now, ctx);
                true
            }
            _ => false,
        }
    }

    /// Tells whether it has waited for its queues and children for long enough to leave memory; if not, it is looked again by then.
    fn has_rested(&mut self, ctx: &mut Context<Self>) -> bool {
        let wait = self.engine.config.passivate_after;
        let rested = self.engine.config.clock.boot().saturating_sub(self.turned_at);
        if rested < wait && !std::mem::replace(&mut self.resting, true) {
            ctx.run_later(wait - rested, |this, ctx| {
                this.resting = false;
                this.idle(ctx);
            });
        }
        rested >= wait
    }
}

impl Handler<MakeWay> for Execution {
    type Result = ();

    fn handle(&mut self, _: MakeWay, ctx: &mut Context<Self>) {
        if !self.sealed && !self.make_way(ctx) {
            self.engine.resting.forget(self.key);
            self.engine.executor.do_send(MakeRoom);
        }
    }
}
