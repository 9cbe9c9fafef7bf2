//! The run that follows one which continues, in the very item of its end: neither is there without the other, so at every moment
//! one run of an execution is the current one, and whatever is sent to the execution finds it.
//!
//! The store makes its row from the one that ends (what was asked for once, holds for the whole chain) and moves the unread messages
//! that are for the execution; with their numbers, so their order stays, and behind them come those that are sent later. Hence this
//! end needs no proof that nothing has come meanwhile: what has, goes along.

use super::{Status, Summary, Then, Turn};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::kernel::event::MessageBody;
use crate::kernel::{
    codec::Record,
    id::{RunId, RunKey},
    published::Publication,
    time::Timestamp,
};

/// The run that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its key, from `reserve_keys`. One that is in use makes the turn a [`Conflict`](super::Outcome::Conflict).
    pub run: RunKey,
    /// Its first commit.
    pub record: Record,
    /// Its first turn comes not before that moment; `None`: at once. What goes along unread wakes it, as whatever is sent to it later does.
    pub due: Option<Timestamp>,
    /// What the execution shows, and goes on showing: rows of this run from its first moment on, with the versions that they have.
    pub published: Vec<Publication>,
}

impl Successor {
    /// Returns its row: unowned, epoch 0, due at its time or now; otherwise as the run before it. `None` if that has the last number there is.
    pub(crate) fn row(&self, before: &Summary, now: Timestamp) -> Option<Summary> {
        let run_no = before.id.run_no.checked_add(1)?;
        Some(Summary {
            run: self.run,
            id: RunId { id: before.id.id.clone(), run_no },
            status: Status::Active,
            owner: None,
            epoch: 0,
            wake_at: Some(self.due.map_or(now, |due| due.max(now))),
            ended_at: None,
            blocked_build: None,
            reason: None,
            ..before.clone()
        })
    }

    /// Makes its row due now if something goes along unread: it would have been woken by that if it had come a moment later, and whoever sent it
    /// is not to wait for as long as the run does. Signals as well: a run that they wake takes them, and goes back to sleep.
    pub(crate) fn woken(row: Summary, along: usize, now: Timestamp) -> Summary {
        if along > 0 { Summary { wake_at: Some(now), ..row } } else { row }
    }
}

impl Turn {
    /// Returns the run that follows in the same item, if its own ends to go on.
    #[must_use]
    pub fn successor(&self) -> Option<&Successor> {
        match &self.then {
            Then::Continue(successor) => Some(successor),
            _ => None,
        }
    }
}

/// Tells whether a stored message goes along when its run continues. What cannot be read is not for us to drop.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn goes_along(body: &[u8]) -> bool {
    rmp_serde::from_slice::<MessageBody>(body).map_or(true, |body| body.is_for_the_execution())
}
