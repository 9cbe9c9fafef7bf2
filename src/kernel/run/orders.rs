//! What an operator orders about a run: how it is taken, and what it does to the run without running any of its code.

use super::{Run, turning::Turning};
use crate::kernel::{
    event::{Command, Event, Fact, Order, Ordered},
    instance::Instance,
};

impl Run {
    /// Tells whether an order comes too late: what it is about is over.
    pub(super) fn is_late(&self, order: &Order) -> bool {
        match &order.what {
            Ordered::Terminate => self.state.outcome.is_some(),
        }
    }

    /// Applies a fact that is the end of the run by itself; tells whether it is.
    pub(super) fn terminate(&mut self, fact: &Fact, turn: &mut Turning) -> bool {
        let Some(end) = self.stopped_by(fact) else { return false };
        self.state.fact(fact, &self.limits);
        turn.events.push(Event::Fact(fact.clone()));
        self.asked(end, turn);
        true
    }

    /// Returns the end that a fact is by itself, if it is; then the code has stopped.
    pub(super) fn stopped_by(&mut self, fact: &Fact) -> Option<Command> {
        let end = self.state.terminates(fact)?;
        std::iter::once(&mut self.instance).chain(&mut self.twin).for_each(Instance::terminate);
        Some(end)
    }
}
