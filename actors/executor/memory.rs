//! The runs that the Executor holds. Whatever comes or goes is told at once, for others decide by it: the Scheduler, how much it may
//! claim.

use std::{ops::Deref, sync::Arc};

use super::Held;
use crate::{actors::slots::Slots, fast::FastMap, kernel::id::RunKey};

/// The runs in memory.
pub(super) struct Memory {
    runs: FastMap<RunKey, Held>,
    slots: Arc<Slots>,
}

impl Memory {
    pub(super) fn new(slots: Arc<Slots>) -> Memory {
        Memory { runs: FastMap::default(), slots }
    }

    /// Tells whether one more may be begun here; to be followed by its `insert`, or by `begun_none`.
    pub(super) fn has_room(&self) -> bool {
        self.slots.has_room(self.runs.len())
    }

    /// Nothing came of it.
    pub(super) fn begun_none(&self) {
        self.slots.hold(self.runs.len());
    }

    /// The slots that were kept for a claim are filled, by what it brought.
    pub(super) fn claimed(&self, claimed: usize) {
        self.slots.give_back(claimed);
    }

    pub(super) fn insert(&mut self, run: RunKey, held: Held) {
        self.runs.insert(run, held);
        self.slots.hold(self.runs.len());
    }

    pub(super) fn remove(&mut self, run: &RunKey) -> Option<Held> {
        let removed = self.runs.remove(run);
        self.slots.hold(self.runs.len());
        removed
    }

    pub(super) fn get_mut(&mut self, run: &RunKey) -> Option<&mut Held> {
        self.runs.get_mut(run)
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.slots.hold(0);
    }
}

impl Deref for Memory {
    type Target = FastMap<RunKey, Held>;

    fn deref(&self) -> &FastMap<RunKey, Held> {
        &self.runs
    }
}
