//! Waiting for a condition of the workflow's own state.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::wait::{Sleep, Until as Limit};
use crate::{error::Cancelled, kernel::tape::Tape};

/// A wait for a condition; see [`Cx::until`](super::Cx::until).
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Until<'a> {
    tape: Rc<Tape>,
    condition: Box<dyn FnMut() -> bool + 'a>,
    /// Its place among those that wait.
    ticket: Option<u64>,
}

impl<'a> Until<'a> {
    pub(super) fn new(tape: Rc<Tape>, condition: Box<dyn FnMut() -> bool + 'a>) -> Self {
        Until { tape, condition, ticket: None }
    }

    /// Limits the wait, durably: `false` when the condition did not hold in time. One that holds at that very moment counts.
    pub fn within(self, limit: Duration) -> UntilWithin<'a> {
        let sleep = Sleep::new(self.tape.clone(), Limit::After(limit));
        UntilWithin { until: self, sleep }
    }
}

impl Future for Until<'_> {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Until { tape, condition, ticket } = &mut *self;
        // Polled for the sake of a step, nothing has changed; and what a step's closure changes is not there in replay.
        if !tape.checks() {
            return Poll::Pending;
        }
        if ready!(tape.refuses()) {
            tape.forget_condition(ticket);
            return Poll::Ready(Err(Cancelled));
        }
        tape.poll_condition(ticket, cx.waker(), condition).map(Ok)
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.tape.forget_condition(&mut self.ticket);
    }
}

/// A wait for a condition, limited in time.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct UntilWithin<'a> {
    until: Until<'a>,
    sleep: Sleep,
}

impl Future for UntilWithin<'_> {
    type Output = Result<bool, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The condition first: what holds when the time is over counts.
        if let Poll::Ready(held) = Pin::new(&mut self.until).poll(cx) {
            return Poll::Ready(held.map(|()| true));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|slept| slept.map(|()| false))
    }
}
