//! What an operator orders about a run: how it is taken, and what it does to the run without running any of its code.

use std::collections::VecDeque;

use super::{Arrival, Run, turning::Turning};
use crate::kernel::{
    event::{Command, Event, Fact, MessageBody, Order, Ordered},
    instance::Instance,
};

impl Arrival {
    /// Tells whether it is an order about the run as such, which goes before all else.
    pub(crate) fn goes_first(&self) -> bool {
        matches!(self, Arrival::Message { body: MessageBody::Order(order), .. } if order.what.is_about_the_run())
    }
}

impl Run {
    /// Takes the next thing that has arrived; of a run that is paused only an order moves anything on, and the rest is kept.
    pub(super) fn next_of(&self, arrived: &mut VecDeque<Arrival>) -> Option<Arrival> {
        if self.state.paused.is_none() {
            return arrived.pop_front();
        }
        arrived.iter().position(Arrival::goes_first).and_then(|at| arrived.remove(at))
    }

    /// Tells whether an order comes too late: what it is about is over.
    pub(super) fn is_late(&self, order: &Order) -> bool {
        match &order.what {
            Ordered::Terminate => self.state.outcome.is_some(),
            Ordered::Pause => self.state.paused.is_some(),
            Ordered::GoOn => self.state.paused.is_none(),
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
