//! The ceiling of memory: how much room there is, and how some is made when it is full. Those that only wait make way, least
//! recently active first, a batch of them at once; the store has all of them, so nothing but a claim and a replay is lost.

use actix::{Context, Handler, Message};

use super::Executor;
use crate::{
    actors::{execution::MakeWay, scheduler::Room},
    kernel::time::Timestamp,
};

/// Something in the store is due, and memory is full.
///
/// *from* Scheduler, and executions that were asked to make way and stay · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MakeRoom;

impl Executor {
    /// Tells the Scheduler that there may be room, and when the first of those that went to sleep is due.
    pub(super) fn tell_room(&self, wake: Option<Timestamp>) {
        if self.lacks_room() == 0 {
            self.engine.resting.crowd(false);
        }
        self.engine.scheduler.do_send(Room { due: None, wake });
    }

    /// Returns how many would have to leave until there is as much room as is made at once.
    fn lacks_room(&self) -> usize {
        let config = &self.engine.config;
        (self.held.len() + config.made_room()).saturating_sub(config.in_flight)
    }

    /// Asks those that have rested for longest to leave. If there are too few, whoever comes to rest next leaves at once.
    pub(super) fn make_room(&self) {
        if self.draining {
            return;
        }
        let resting = &self.engine.resting;
        let missing = self.lacks_room().saturating_sub(resting.asked());
        for _ in 0..missing {
            let Some(run) = resting.ask() else { return resting.crowd(true) };
            match self.live(run, None) {
                Some(address) => address.do_send(MakeWay),
                // It fell, and will be here again.
                None => resting.forget(run),
            }
        }
    }
}

impl Handler<MakeRoom> for Executor {
    type Result = ();

    fn handle(&mut self, _: MakeRoom, _: &mut Context<Self>) {
        self.make_room();
    }
}
