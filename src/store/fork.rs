//! A run that begins with the history of an earlier one: all of it is one item, the row, the log as far as it is copied, what waits in its
//! inbox, what it shows, and the letters of the failures that it undoes. So there is no moment in which half of it is there.

use super::{NewRun, Publication};
use crate::kernel::{
    codec::Record,
    event::MessageBody,
    id::{Position, RunKey},
    time::Timestamp,
};

/// Begins a run of an execution whose current run has ended: unowned and never claimed, as `Item::Enqueue` does, and by the same rules. The
/// answer is `Done`, [`IdInUse`](super::Outcome::IdInUse) when its run is not the next one of the id (any more),
/// [`Conflict`](super::Outcome::Conflict) when its key is taken, or [`InboxFull`](super::Outcome::InboxFull).
#[derive(Clone, Debug)]
pub struct Fork {
    /// Its row; its number is higher than 1.
    pub row: NewRun,
    /// Its log, from commit 0 on; at least that.
    pub log: Vec<Record>,
    /// What waits in its inbox, in order.
    pub inbox: Vec<Redelivered>,
    /// What it shows.
    pub published: Vec<Publication>,
    /// The run that the copy is of.
    pub of: RunKey,
    /// The calls of that run whose letters go.
    pub undone: Vec<Position>,
}

/// A message that is delivered to the new run, as it was to an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Redelivered {
    /// Its own id. They all differ.
    pub message: String,
    /// What it says.
    pub body: MessageBody,
    /// When it was sent.
    pub sent_at: Timestamp,
}
