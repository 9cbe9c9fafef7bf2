//! How executions leave a node that goes, or that has more than its share: at the next moment at which nothing of theirs runs
//! here, cleanly, so that whoever takes them up goes on at once and loses nothing.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};

use super::{Executor, Held, Ticket, elsewhere::MOST};
use crate::{
    actors::execution::{Depart, Evict},
    kernel::id::RunKey,
    store::{Yield, YieldReason},
};

/// What has just come does not go on at once: most of it ends by itself. Nor does what was claimed ahead and is not due yet.
const SETTLED_IN: Duration = Duration::from_secs(2);

/// Stops new work, and says how much is left here; again and again until nothing is.
///
/// *from* the incarnation · *reply* how many executions are here, or on their way back · *delivery* ask · *if lost* the drain ends by its grace
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct Drain;

/// Gives so many executions away to nodes that have less.
///
/// *from* Undertaker · *reply* none · *delivery* nudge · *if lost* the next look
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Shed(pub(crate) u32);

/// Ends: every execution leaves memory.
///
/// *from* the incarnation · *reply* when they have been told · *delivery* ask · *if lost* the arbiter is stopped
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

impl Executor {
    fn begin_drain(&mut self, ctx: &mut Context<Self>) {
        self.draining = true;
        self.engine.draining.set(true);
        for held in self.held.values() {
            if let Held::Live { address, .. } = held {
                address.do_send(Depart);
            }
        }
        // Those whose logs nobody has begun to read need not be read here, but for those of which something runs here.
        for (run, ticket) in std::mem::take(&mut self.unread) {
            if self.leaves_unopened(run) {
                self.give_back(self.unopened(run, ticket), ctx);
            } else {
                self.unread.push_back((run, ticket));
            }
        }
        let cold = self.held.iter().filter(|(_, held)| matches!(held, Held::Cold { .. })).map(|(run, _)| *run);
        for run in cold.collect::<Vec<_>>() {
            self.thaw(run, ctx);
        }
    }

    /// Tells whether a run need not be opened any more: this node leaves. One of which something runs here leaves when that has ended.
    pub(super) fn leaves_unopened(&self, run: RunKey) -> bool {
        self.draining && self.engine.pool.attempts().count_of(run) == 0
    }

    /// Returns how a run is given back that was claimed and not opened: nothing has happened to it, so it is due when it was.
    pub(super) fn unopened(&self, run: RunKey, ticket: Ticket) -> Yield {
        let wake_at = ticket.due.unwrap_or_else(|| self.engine.time.now());
        let why = YieldReason::Released { wake_at: Some(wake_at), forced: ticket.forced };
        Yield { run, epoch: ticket.epoch, why }
    }

    /// Tells a run to leave this node; one that is cold hears of it when it is back in memory.
    fn send_away(&mut self, run: RunKey, ctx: &mut Context<Self>) {
        if let Some(address) = self.live(run, None) {
            return address.do_send(Depart);
        }
        self.thaw(run, ctx);
        if let Some(Held::Loading { departs, .. }) = self.held.get_mut(&run) {
            *departs = true;
        }
    }

    /// Learns of the ends of runs that somebody here waits for and that are not here: of some of them, in turn.
    pub(super) fn settle_elsewhere(&mut self, ctx: &mut Context<Self>) {
        self.engine.waiters.tidy();
        if self.settling {
            return;
        }
        let Executor { engine, held, elsewhere, .. } = self;
        let waited = || {
            let mut waited = engine.waiters.waited_for();
            waited.retain(|run| !held.contains_key(run));
            waited
        };
        let runs = elsewhere.turn(engine.counters.is_alone(), waited);
        if !runs.is_empty() {
            self.settling = true;
            self.settle(runs, ctx);
        }
    }

    /// Reads whether these runs have ended, and tells whoever waits for them.
    pub(super) fn settle(&mut self, runs: Vec<RunKey>, ctx: &mut Context<Self>) {
        let door = self.door.clone();
        let settle = async move {
            for runs in runs.chunks(MOST) {
                door.settle_ended(runs).await?;
            }
            Ok::<_, crate::Error>(())
        };
        ctx.spawn(settle.into_actor(self).map(|settled, this, _| {
            this.settling = false;
            if let Err(error) = settled {
                tracing::debug!(%error, "ends of runs elsewhere could not be read; it is tried again");
                this.elsewhere.stir();
            }
        }));
    }
}

impl Handler<Drain> for Executor {
    type Result = usize;

    fn handle(&mut self, _: Drain, ctx: &mut Context<Self>) -> usize {
        if !self.draining {
            self.begin_drain(ctx);
        }
        self.held.len() + self.yielding.len()
    }
}

impl Handler<Shed> for Executor {
    type Result = ();

    fn handle(&mut self, Shed(most): Shed, ctx: &mut Context<Self>) {
        let now = self.engine.config.clock.boot();
        let long = SETTLED_IN.max(self.engine.config.horizon());
        let settled_in = self.held.iter().filter_map(|(run, held)| match held {
            Held::Live { ticket, .. } | Held::Cold { ticket, .. } if now.saturating_sub(ticket.since) > long => Some(*run),
            _ => None,
        });
        let told: Vec<RunKey> = settled_in.take(most as usize).collect();
        tracing::debug!(told = told.len(), "executions are given away to nodes that have less");
        told.into_iter().for_each(|run| self.send_away(run, ctx));
    }
}

impl Handler<Stop> for Executor {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) {
        self.draining = true;
        for held in self.held.values() {
            if let Held::Live { address, .. } = held {
                address.do_send(Evict);
            }
        }
        self.held.clear();
    }
}
