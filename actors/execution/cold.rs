//! Leaving memory while the run stays owned: a mode for tests (`Config::evict`), in which every execution that comes to rest does so,
//! also while its acts run, its children are open and its next timer is a moment away. So whatever arrives next finds no memory,
//! and the run goes on from its log alone. One that only waits, and not for a moment, is given back to the store instead.

use actix::{Context, Handler, Message};

use super::Execution;
use crate::{
    actors::executor::{Freeze, LeftHow},
    kernel::state::Rest,
};

/// Leave memory if nothing has reached this run behind its wish to: what was sent before is here by now.
///
/// *from* Executor · *reply* it leaves, or stays · *delivery* tell · *if lost* it stays in memory
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Cool;

impl Execution {
    /// Tells whether nothing moves in this memory: the rest goes on by itself, or waits in the store.
    fn is_still(&self) -> bool {
        !self.sealed
            && !self.reopened
            && !self.is_recording()
            && self.waiting.is_empty()
            && self.stale.is_empty()
            // The closures of inline steps are part of the workflow's future.
            && !self.run.runs_steps()
    }

    /// Leaves memory, if that is what tests want.
    pub(super) fn evict(&mut self, ctx: &mut Context<Self>) {
        if !self.is_still() || self.departs() || self.stores_details(ctx) {
            return;
        }
        let now = self.now();
        match self.run.rest(now) {
            Rest::Ended => {}
            Rest::Waits { next } if self.is_quiet() && self.is_far(next, now) => self.sleep(next, now, ctx),
            Rest::Waits { .. } | Rest::Busy => {
                if !std::mem::replace(&mut self.cooling, true) {
                    self.engine.executor.do_send(Freeze { run: self.key, generation: self.generation });
                }
            }
        }
    }
}

impl Handler<Cool> for Execution {
    type Result = ();

    fn handle(&mut self, _: Cool, ctx: &mut Context<Self>) {
        self.cooling = false;
        if self.is_still() && !self.departs() && !self.stores_details(ctx) {
            self.leave(LeftHow::Cold { seen: self.seen }, ctx);
        }
    }
}
