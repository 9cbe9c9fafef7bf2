//! How a run begins that was written without its first turn: when its time has come, when somebody must be answered, or to be told that it
//! is to stop.

use std::collections::VecDeque;

use super::{Arrival, Run};
use crate::kernel::{event::MessageBody, time::Timestamp};

impl Run {
    /// Tells whether it begins before what comes next is taken, though it waits for its next try: its code must hear that.
    pub(super) fn hurries(&self, arrived: &VecDeque<Arrival>, at: Timestamp) -> bool {
        self.may_begin() && self.state.begins_at().is_some() && arrived.front().is_some_and(|next| self.cannot_wait(next, at))
    }

    /// Puts what asks a run to stop before its beginning, if that is next, and tells whether it has: its first poll may be its whole life (code
    /// that fails before its first await, and is tried again for ever), and behind that nobody would hear it.
    pub(super) fn stops_first(&self, arrived: &mut VecDeque<Arrival>, at: Timestamp) -> bool {
        let begins = |next: &Arrival| matches!(next, Arrival::Begin) || self.cannot_wait(next, at);
        // Behind whoever takes the run up: what the code asks for was not under way by then.
        if !self.may_begin() || !arrived.front().is_some_and(begins) {
            return false;
        }
        let stop = arrived.iter().position(|arrival| self.is_stop(arrival, at)).and_then(|found| arrived.remove(found));
        stop.map(|stop| arrived.push_front(stop)).is_some()
    }

    /// Tells whether it was asked to stop by what was taken.
    pub(super) fn is_to_stop(&self) -> bool {
        self.state.cancel.is_some() || self.state.deadline_passed
    }

    /// Tells whether its first turn is still to come, and nobody keeps it from it.
    pub(super) fn may_begin(&self) -> bool {
        self.state.paused.is_none() && !self.state.begun()
    }

    /// Tells whether something must be heard by code, though the run waits for its next try. Signals keep.
    fn cannot_wait(&self, arrival: &Arrival, at: Timestamp) -> bool {
        match arrival {
            // An order is carried out without code, or is about something that is not there yet.
            Arrival::Message { body, .. } => !matches!(body, MessageBody::Signal { .. } | MessageBody::Order(_)),
            Arrival::Deadline => self.is_stop(arrival, at),
            _ => false,
        }
    }

    fn is_stop(&self, arrival: &Arrival, at: Timestamp) -> bool {
        match arrival {
            Arrival::Message { body, .. } => matches!(body, MessageBody::Cancel { .. } | MessageBody::Stop { .. }),
            Arrival::Deadline => {
                self.state.started.deadline.is_some_and(|deadline| deadline <= at) && !self.state.deadline_passed
            }
            _ => false,
        }
    }
}
