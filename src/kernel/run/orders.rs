//! What an operator orders about a run: how it is taken, and what it does to the run without running any of its code.

use std::collections::VecDeque;

use super::{Arrival, Run, turning::Turning};
use crate::kernel::{
    event::{Command, Event, Fact, MessageBody, Next, Order, Ordered, TaskEnd},
    id::Position,
    instance::Instance,
    memo::MemoWord,
    state::State,
    time::Timestamp,
};

impl Arrival {
    /// Tells whether it is an order about the run as such, which goes before all else.
    pub(crate) fn goes_first(&self) -> bool {
        matches!(self, Arrival::Message { body: MessageBody::Order(order), .. } if order.what.is_about_the_run())
    }

    /// Tells whether it is an order to go on.
    #[cfg_attr(not(feature = "actors"), allow(dead_code))]
    pub(crate) fn lets_go_on(&self) -> bool {
        matches!(self, Arrival::Message { body: MessageBody::Order(order), .. } if order.what == Ordered::GoOn)
    }

    /// Tells whether it is an order to end at once.
    pub(crate) fn terminates(&self) -> bool {
        matches!(self, Arrival::Message { body: MessageBody::Order(order), .. } if order.what == Ordered::Terminate)
    }
}

/// Tells whether a paused run takes an order that waits now. To go on is to be replayed, and a step that runs in its memory would be lost with
/// it: whatever is taken along with the word to go on waits until no step runs any more, and what each has returned is in the inbox. An order
/// to end waits for nothing.
#[cfg_attr(not(feature = "actors"), allow(dead_code))]
pub(crate) fn takes_an_order<'a>(waiting: impl Iterator<Item = &'a Arrival>, steps_run: bool) -> bool {
    let (mut any, mut goes_on, mut ends) = (false, false, false);
    for order in waiting.filter(|arrival| arrival.goes_first()) {
        any = true;
        goes_on |= order.lets_go_on();
        ends |= order.terminates();
    }
    any && (ends || !(goes_on && steps_run))
}

impl State {
    /// The calls that an order to try them now is for: what waits for its next attempt, and what is parked.
    pub(crate) fn to_retry(&self, position: Option<Position>, now: Timestamp) -> impl Iterator<Item = Position> {
        self.delayed(position, now).chain(self.parked(position))
    }

    /// Tells whether a call may be ended from outside: one of an activity that is open; and what undoes an act must not have failed.
    pub(crate) fn may_complete(&self, position: Position, end: &TaskEnd) -> bool {
        self.call(position).is_some_and(|call| call.input.is_some() && (!call.compensating || matches!(end, TaskEnd::Done(_))))
    }
}

impl Run {
    /// Takes the next thing that has arrived; of a run that is paused only an order moves anything on, first of all one to end, and the rest
    /// is kept.
    pub(super) fn next_of(&self, arrived: &mut VecDeque<Arrival>) -> Option<Arrival> {
        if self.state.paused.is_none() {
            return arrived.remove(self.revoked_behind(arrived).unwrap_or(0));
        }
        let ends = arrived.iter().position(Arrival::terminates);
        ends.or_else(|| arrived.iter().position(Arrival::goes_first)).and_then(|at| arrived.remove(at))
    }

    /// Returns where the word stands that takes a shared key from the call whose result comes next: nobody had the run, and others waited. By
    /// then that result was in the inbox already; but what counts under the key is what somebody else has called since, and the call
    /// asks for that.
    fn revoked_behind(&self, arrived: &VecDeque<Arrival>) -> Option<usize> {
        let Some(Arrival::Message { body: MessageBody::Task { position: of, .. }, .. }) = arrived.front() else { return None };
        let memo = self.state.memos.get(of)?;
        arrived.iter().position(|arrival| match arrival {
            Arrival::Message { body: MessageBody::Memo { position, ask, word: word @ MemoWord::Revoked }, .. } => {
                position == of && memo.awaits(*ask, word)
            }
            _ => false,
        })
    }

    /// Tells whether an order comes too late: what it is about is over.
    pub(super) fn is_late(&self, order: &Order, at: Timestamp) -> bool {
        match &order.what {
            Ordered::Terminate => self.state.outcome.is_some(),
            Ordered::Pause => self.state.paused.is_some(),
            Ordered::GoOn => self.state.paused.is_none(),
            Ordered::Retry { position } => self.state.to_retry(*position, at).next().is_none(),
            Ordered::Skip { position } => self.state.due_of(*position).is_none(),
            Ordered::Complete { position, end } => !self.state.may_complete(*position, end),
        }
    }

    /// What a message means beside that it was received: an order to end a call is followed by that end.
    pub(super) fn facts_of_message(&self, message: String, body: MessageBody, at: Timestamp) -> Vec<Fact> {
        let fact = self.fact_of_message(message, body, at);
        let end = match &fact {
            Fact::Received { body: MessageBody::Order(order), .. } => match &order.what {
                Ordered::Complete { position, end } => self.completed(*position, (**end).clone()),
                _ => None,
            },
            _ => None,
        };
        std::iter::once(fact).chain(end).collect()
    }

    fn completed(&self, position: Position, end: TaskEnd) -> Option<Fact> {
        let attempt = self.state.call(position)?.attempt;
        let result = match end {
            TaskEnd::Done(output) => Ok(output),
            TaskEnd::Failed(failure) => Err(*failure),
            TaskEnd::Lost => return None,
        };
        Some(match self.within_limits(result) {
            Ok(output) => Fact::Completed { position, attempt, output },
            Err(failure) => Fact::Failed { position, attempt, failure: Box::new(failure), next: Next::GiveUp },
        })
    }

    /// What an order touches, seen before it is folded in: calls that it has tried now, and one that is not wanted any more.
    pub(super) fn concerns_calls(&self, fact: &Fact, turn: &mut Turning) {
        let Fact::Received { body: MessageBody::Order(order), .. } = fact else { return };
        match &order.what {
            Ordered::Retry { position } => {
                turn.touched.extend(self.state.to_retry(*position, turn.at));
            }
            Ordered::Complete { position, .. } => turn.aborted.push(*position),
            _ => {}
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
