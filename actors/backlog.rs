//! What this node has taken on beyond its slots: dispatches that are recorded and wait in the store until one is free. They cost
//! no memory but their number here, and time: whoever is taken on now waits for all of them. So there is a limit to how many
//! there may be, beyond which callers hear `Busy` and can go elsewhere, or slow down.
//!
//! It counts what this node itself put there, by key, and nothing else: what comes due by the clock was promised long ago, and what
//! others leave is theirs to count. A run leaves when it is claimed here. One that was claimed elsewhere is not noticed until a claim finds
//! less than it asked for, which says that nothing waits any more. It stands beside the door and outlives incarnations, as what waits does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{error::DispatchError, fast::FastMap, kernel::id::RunKey};

/// How long somebody who heard `Busy` should wait at least.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The dispatches of this node that wait for a slot.
#[derive(Debug)]
pub(crate) struct Backlog {
    most: usize,
    /// Each with whether it is recorded: one that is still on its way to the store cannot be seen by any claim.
    runs: Mutex<FastMap<RunKey, bool>>,
    /// How many there are, for those who only want to know that.
    len: AtomicUsize,
}

/// A run on its way to the store; it is no part of the backlog any more when this is dropped before it was recorded.
pub(crate) struct Entered {
    backlog: Arc<Backlog>,
    run: RunKey,
    recorded: bool,
}

impl Backlog {
    pub(crate) fn new(most: usize) -> Arc<Backlog> {
        Arc::new(Backlog { most, runs: Mutex::default(), len: AtomicUsize::new(0) })
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// Takes on one more, if there is room for it.
    pub(crate) fn enter(self: &Arc<Self>, run: RunKey) -> Option<Entered> {
        let mut runs = self.runs.lock();
        if runs.len() >= self.most {
            return None;
        }
        runs.insert(run, false);
        self.len.store(runs.len(), Relaxed);
        Some(Entered { backlog: self.clone(), run, recorded: false })
    }

    /// These have a slot.
    pub(crate) fn leave(&self, claimed: impl Iterator<Item = RunKey>) {
        if self.len() > 0 {
            let mut runs = self.runs.lock();
            claimed.for_each(|run| _ = runs.remove(&run));
            self.len.store(runs.len(), Relaxed);
        }
    }

    /// A claim found less than it asked for: nothing that is recorded waits any more.
    pub(crate) fn drained(&self) {
        if self.len() > 0 {
            let mut runs = self.runs.lock();
            runs.retain(|_, recorded| !*recorded);
            self.len.store(runs.len(), Relaxed);
        }
    }

    /// Returns what a caller hears beyond the limit.
    pub(crate) fn busy(&self) -> DispatchError {
        let what = "dispatches wait in the store for a slot in memory";
        DispatchError::Busy { most: self.most, what, knob: "backlog", retry_after: RETRY_AFTER }
    }
}

/// Returns what a caller hears when too many dispatches are unanswered.
pub(crate) fn unanswered(most: usize) -> DispatchError {
    DispatchError::Busy { most, what: "dispatches are not answered yet", knob: "in_flight", retry_after: RETRY_AFTER }
}

impl Entered {
    /// It is in the store. If it was claimed before this was known, it is not entered again.
    pub(crate) fn recorded(mut self) {
        self.recorded = true;
        if let Some(recorded) = self.backlog.runs.lock().get_mut(&self.run) {
            *recorded = true;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.recorded {
            self.backlog.leave(std::iter::once(self.run));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_taken_on_beyond_the_limit_and_room_comes_back_whatever_became_of_a_run() {
        let backlog = Backlog::new(3);
        let entered = |key| backlog.enter(RunKey(key));
        let (first, second, third) = (entered(1).unwrap(), entered(2).unwrap(), entered(3).unwrap());
        assert!(entered(4).is_none() && backlog.is_full());
        drop(third);
        assert_eq!(backlog.len(), 2, "one that was not recorded is no more");
        first.recorded();
        backlog.leave([RunKey(1), RunKey(77)].into_iter());
        assert_eq!(backlog.len(), 1, "claimed here; a run of somebody else's changes nothing");
        backlog.drained();
        assert_eq!(backlog.len(), 1, "what is on its way was not looked at by the claim");
        second.recorded();
        backlog.drained();
        assert_eq!(backlog.len(), 0, "claimed elsewhere");
        let late = entered(5).unwrap();
        backlog.leave(std::iter::once(RunKey(5)));
        late.recorded();
        assert_eq!(backlog.len(), 0, "claimed before it was known to be recorded");
    }
}
