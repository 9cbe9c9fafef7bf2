//! Runs that have left memory and are still owned here: *cold*. Nothing of such a run is left but its place here and what goes on
//! by itself: its attempts in the pool, its timers in the wheel, its row in the store. Whatever arrives for it brings it back, by
//! way of its log, and is found again there: results in the table of attempts, sleeps in the log, messages in the inbox.
//!
//! A run leaves in two steps, so that nothing is slept over: it asks, is told behind everything that was sent to it before, and
//! looks again. What is sent to it behind that marks it here as *stirred*, and brings it back as soon as it has left.

use actix::{Addr, Context, Handler, Message};

use super::{Executor, Held, Ticket};
use crate::{
    actors::execution::{Behind, Cool, Execution},
    kernel::id::RunKey,
};

/// An execution wants to leave memory while it stays owned.
///
/// *from* Execution · *reply* [`Cool`], behind what was sent to it before · *delivery* tell · *if lost* it stays in memory
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Freeze {
    pub(crate) run: RunKey,
    pub(crate) generation: u64,
}

impl Executor {
    /// Returns where to send what has arrived for a run, if it is in memory; one that is cold is brought back, and finds it.
    pub(super) fn reach(&mut self, run: RunKey, ctx: &mut Context<Self>) -> Option<&Addr<Execution>> {
        if matches!(self.held.get(&run), Some(Held::Cold { .. })) {
            self.thaw(run, ctx);
        }
        match self.held.get_mut(&run) {
            Some(Held::Live { address, stirred, .. }) => {
                *stirred = true;
                Some(address)
            }
            _ => None,
        }
    }

    /// A run has left memory and stays ours. If something was sent to it that it did not take, it comes back at once.
    pub(super) fn cooled(&mut self, run: RunKey, ticket: Ticket, seen: u64, stirred: bool, ctx: &mut Context<Self>) {
        self.held.insert(run, Held::Cold { ticket, seen });
        if stirred || self.draining {
            self.thaw(run, ctx);
        }
    }

    /// Brings a cold run back to memory.
    pub(super) fn thaw(&mut self, run: RunKey, ctx: &mut Context<Self>) {
        let Some(Held::Cold { ticket, .. }) = self.held.get(&run) else { return };
        // As one that was given back cleanly: what of it is open and not here was never begun, its own steps included.
        let ticket = Ticket { forced: false, same_incarnation: false, ..*ticket };
        let ticket = Ticket { generation: self.next_generation(), ..ticket };
        self.load(run, ticket, ctx);
    }

    /// So many messages were ever put into the inbox of a run: if it has seen fewer, it looks.
    pub(super) fn behind(&mut self, run: RunKey, inbox_seq: u64, ctx: &mut Context<Self>) {
        match self.held.get(&run) {
            Some(Held::Cold { seen, .. }) if inbox_seq > *seen => self.thaw(run, ctx),
            Some(Held::Live { .. }) => {
                if let Some(address) = self.reach(run, ctx) {
                    address.do_send(Behind(inbox_seq));
                }
            }
            _ => {}
        }
    }
}

impl Handler<Freeze> for Executor {
    type Result = ();

    fn handle(&mut self, Freeze { run, generation }: Freeze, _: &mut Context<Self>) {
        if let Some(Held::Live { ticket, address, stirred }) = self.held.get_mut(&run)
            && ticket.generation == generation
        {
            *stirred = false;
            address.do_send(Cool);
        }
    }
}
