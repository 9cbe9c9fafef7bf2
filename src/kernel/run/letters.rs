//! What a turn does to the letters of its run's calls.

use std::collections::BTreeMap;

use super::{Run, turning::Turning};
use crate::kernel::{
    event::{Fact, MessageBody, Ordered},
    id::Position,
    letter::{Letter, LetterChange},
};

impl Run {
    /// A call fails for good, or those that have are tried again; seen before the fact is folded in.
    pub(super) fn writes_letters(&self, fact: &Fact, turn: &mut Turning) {
        match fact {
            Fact::Failed { position, .. } | Fact::Lost { position, .. } => {
                let call = self.state.call(*position);
                let place = (self.next_commit, u32::try_from(turn.events.len()).unwrap_or(u32::MAX));
                let letter = call.and_then(|call| Letter::of(fact, call, place, turn.at));
                turn.letters.extend(letter.map(LetterChange::Put));
            }
            Fact::Received { body: MessageBody::Retry { position }, .. } => self.drops_letters(*position, turn),
            Fact::Received { body: MessageBody::Order(order), .. } => match &order.what {
                Ordered::Retry { position } => self.drops_letters(*position, turn),
                Ordered::Complete { position, .. } => self.drops_letters(Some(*position), turn),
                _ => {}
            },
            _ => {}
        }
    }

    /// Parked calls, this one or all, are parked no more.
    pub(super) fn drops_letters(&self, position: Option<Position>, turn: &mut Turning) {
        turn.letters.extend(self.state.parked(position).map(LetterChange::Drop));
    }
}

/// Of several changes of one call the last counts.
pub(super) fn last_of_each(changes: Vec<LetterChange>) -> Vec<LetterChange> {
    let last: BTreeMap<Position, LetterChange> = changes.into_iter().map(|change| (change.position(), change)).collect();
    last.into_values().collect()
}
