//! What a turn of one run does to others, within its own commit: it begins children, and tells its parent how it ended. A
//! message of one run to another is always a row in the sender's item, so that neither is there without the other.
//!
//! Whether the turn is accepted is decided as for any turn, by its own run alone; if it is refused, or has to wait, none of this
//! takes place. What it does to others refuses nothing: a child whose id is in use, or a message that nobody wants, are answers
//! and no errors.
//!
//! It takes place behind *all* turns and enqueues of the batch and before all other items, turn by turn in the order of the
//! items, of each first its starts and then its tells. So whatever the order of the items is, a run that has gone to sleep in the
//! same batch is woken, one that has ended gets nothing, and one that was begun there is found.

use super::{Batch, Item, NewRun, Turn, Unread};
pub use crate::kernel::event::Tell;
use crate::kernel::{
    codec::Record,
    event::{MessageBody, Outcome, child_message},
    failure::{Failure, KIND_ID_IN_USE},
    id::{Incarnation, RunKey},
};

/// A run that a turn of another begins, in the same commit: the first of its id. It is written as `Item::Enqueue` does: unowned,
/// epoch 0, due at its `wake_at` or else at the batch's time.
///
/// An id (or a key) in use does not refuse the turn, nor is anything of the child written: instead the turn's own run finds
/// [`MessageBody::Child`] in its inbox, which says so, unless it has ended. Of two starts of one id in a batch the first wins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChild {
    /// Where in its parent.
    pub position: u32,
    /// Its row.
    pub row: NewRun,
    /// Its first commit.
    pub record: Record,
}

/// A message that one run's turn put into the inbox of another (or of its own, when a child could not be begun).
/// What was dropped is not among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The run that got it.
    pub run: RunKey,
    /// Who owns that run behind the items of the batch, and before its claim; without an owner it is due now, if it is active.
    pub owner: Option<Incarnation>,
    /// The message.
    pub unread: Unread,
}

impl Turn {
    /// Tells whether it concerns other runs than its own.
    #[must_use]
    pub fn has_others(&self) -> bool {
        !self.starts.is_empty() || !self.tells.is_empty()
    }

    /// Returns the ids that its starts and tells are about.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn other_ids(&self) -> impl Iterator<Item = &str> {
        let begun = self.starts.iter().map(|child| &*child.row.id.id);
        begun.chain(self.tells.iter().map(|tell| &*tell.to.id))
    }
}

/// Says of each message who owns its run *behind* the batch: of what comes behind the messages only a run that is given back
/// changes its owner.
pub(crate) fn behind_yields(batch: &Batch, outcomes: &[super::Outcome], told: &mut [Told]) {
    if told.is_empty() {
        return;
    }
    let ours = Some(batch.incarnation);
    for (item, outcome) in batch.items.iter().zip(outcomes) {
        if let (Item::Yield(back), super::Outcome::Done) = (item, outcome) {
            told.iter_mut().filter(|told| told.run == back.run && told.owner == ours).for_each(|told| told.owner = None);
        }
    }
}

impl NewChild {
    /// Returns what the parent finds in its inbox when the id is in use: the message's own id, and what it says.
    #[must_use]
    pub fn refusal(&self) -> (String, MessageBody) {
        let why = format!("no child was begun: an execution of the id {:?} exists already; give it another id", self.row.id.id);
        let end = Outcome::Failed(Failure::new(KIND_ID_IN_USE, why).into_final());
        (child_message(self.position), MessageBody::Child { position: self.position, end: Box::new(end) })
    }
}
