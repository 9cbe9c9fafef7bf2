//! Which attempts of a run are for any node that serves their queue, and not for the one that has the run.

use std::collections::BTreeSet;

use super::{Effect, Run};
use crate::kernel::id::{Attempt, Position};

/// Tells whether an attempt of a call of a queue is not for the owner of the run alone.
type IsShared<'a> = dyn Fn(&str, Position, Attempt) -> bool + 'a;

impl Run {
    /// What is asked of the world for something that is open, and where an attempt goes: into a shared queue it is counted as queued from here on.
    pub(super) fn placed_effect(&mut self, position: Position, is_shared: &IsShared<'_>) -> Option<Effect> {
        let effect = self.effect_of(position)?;
        let Effect::Start { attempt, at, .. } = effect else { return Some(effect) };
        // Steps are their workflow's own, whatever their options say.
        let shared =
            self.state.call(position).is_some_and(|call| call.input.is_some() && is_shared(call.queue(), position, attempt));
        if !shared {
            return Some(effect);
        }
        self.queued.insert(position);
        Some(Effect::Queue { position, attempt, at })
    }

    /// Everything that an open run asks of the world, for a fresh replay.
    pub(crate) fn open_effects(&mut self, is_shared: &IsShared<'_>) -> Vec<Effect> {
        let open: Vec<Position> = self.state.open.keys().filter(|position| !self.queued.contains(position)).collect();
        open.into_iter().filter_map(|position| self.placed_effect(position, is_shared)).collect()
    }

    /// Says which calls have their current attempts in a shared queue, or a message of their ends in the inbox.
    pub(crate) fn found_queued(&mut self, positions: impl IntoIterator<Item = (Position, Attempt)>) {
        let current = positions.into_iter().filter(|(position, attempt)| self.is_current(*position, *attempt));
        self.queued = current.map(|(position, _)| position).collect();
    }

    /// Returns the calls whose current attempts are in a shared queue.
    pub(crate) fn queued(&self) -> &BTreeSet<Position> {
        &self.queued
    }

    /// Tells whether it waits for something that others do for it: attempts in shared queues, children, results that are shared.
    pub(crate) fn awaits_others(&self) -> bool {
        !self.queued.is_empty() || self.state.children().next().is_some() || !self.state.memos.is_empty()
    }
}
