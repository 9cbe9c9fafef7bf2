//! The tape of a run that wants to continue as a new one, and what it hands on.

use std::task::{Poll, ready};

use super::{Inner, Tape, What};
use crate::kernel::{
    chain::{ContinueError, History, Signalled},
    event::Command,
    id::Position,
    payload::Payload,
};

impl Tape {
    /// Ends the run so that it goes on as the next one: pending for ever, or why not.
    pub(crate) fn go_on(&self, input: Payload) -> Poll<ContinueError> {
        if ready!(self.refuses()) {
            return Poll::Ready(ContinueError::Cancelled);
        }
        {
            let mut inner = self.inner.borrow_mut();
            inner.forbid_in_step();
            if inner.sealed || inner.fault.is_some() {
                return Poll::Pending;
            }
            let unsettled = inner.unsettled();
            if !unsettled.is_empty() {
                return Poll::Ready(ContinueError::Unsettled(unsettled));
            }
            if !inner.sagas.is_empty() {
                return Poll::Ready(ContinueError::OpenSaga);
            }
            let unread: usize = inner.signals.values().flat_map(|mailbox| mailbox.unread.values()).map(|p| p.bytes.len()).sum();
            let (bytes, limit) = (unread + inner.published.bytes() + input.bytes.len(), self.limits.item_bytes);
            if bytes > limit {
                return Poll::Ready(ContinueError::TooMuchUnread { bytes, limit });
            }
        }
        if self.command(Command::Continue { input }) {
            self.inner.borrow_mut().goes_on = true;
        }
        Poll::Pending
    }

    /// Tells whether the run ends in order to go on as the next one.
    pub(crate) fn goes_on(&self) -> bool {
        self.inner.borrow().goes_on
    }

    /// Returns the signals that were received and not read, in the order in which they came.
    pub(crate) fn unread(&self) -> Vec<Signalled> {
        let inner = self.inner.borrow();
        let all =
            inner.signals.iter().flat_map(|(name, mailbox)| mailbox.unread.iter().map(move |(number, it)| (number, name, it)));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|(number, ..)| **number);
        all.into_iter().map(|(_, name, payload)| Signalled { name: name.clone(), payload: payload.clone() }).collect()
    }

    /// Returns how long the history was when the current fact came.
    pub(crate) fn history(&self) -> History {
        self.inner.borrow().history
    }
}

impl Inner {
    /// What is open, or over and not heard of yet: its end would be lost.
    fn unsettled(&self) -> Vec<String> {
        let told = |(position, what): (Position, What)| format!("{what} (#{position})");
        let open = self.open.iter().map(|(position, waiting)| (position, waiting.what));
        let answered = self.answers.iter().map(|(position, answer)| (*position, What::of(answer)));
        let mut all: Vec<_> = open.chain(answered).collect();
        all.sort_unstable_by_key(|(position, _)| *position);
        all.into_iter().map(told).collect()
    }
}
