//! The table of attempts: what is queued, what runs, and what ended and is not yet known to be recorded. It outlives every
//! actor except the incarnation, which is how a replayed execution re-attaches to its acts instead of repeating them.
//!
//! It is keyed by run, with the positions of a run inside: whether a run has anything at all is then one look.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::life::Ending;
use crate::{
    actors::call::CallContext,
    fast::RandomState,
    kernel::id::{Attempt, Position, RunKey},
};

/// How far an attempt is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Standing {
    /// It waits for a thread or a slot.
    Queued,
    /// It has begun.
    Running,
    /// It ended, and nobody said that this is recorded.
    Done(Ending),
}

/// What became of the wish to begin an attempt.
pub(crate) enum Begun {
    /// It is listed.
    New,
    /// It, or a later one of the same call, was there before.
    There(Arc<CallContext>),
    /// It is listed in place of an earlier attempt that had not ended.
    Instead(Arc<CallContext>),
}

/// All attempts of this incarnation.
#[derive(Default)]
pub(crate) struct Attempts {
    runs: DashMap<RunKey, BTreeMap<Position, Arc<CallContext>>, RandomState>,
    /// How many acts of a run go on although their attempts were settled; rare, hence one lock.
    abandoned: Mutex<HashMap<RunKey, usize>>,
}

impl Attempts {
    /// Lists an attempt, unless the same one is there.
    pub(crate) fn begin(&self, cx: &Arc<CallContext>) -> Begun {
        match self.runs.entry(cx.run).or_default().entry(cx.position) {
            Entry::Vacant(free) => {
                free.insert(cx.clone());
                Begun::New
            }
            Entry::Occupied(taken) if taken.get().attempt >= cx.attempt => Begun::There(taken.get().clone()),
            Entry::Occupied(mut taken) => {
                let before = taken.insert(cx.clone());
                // The log has it that the earlier attempt is over; normally the table says so as well.
                if before.life.is_settled() { Begun::New } else { Begun::Instead(before) }
            }
        }
    }

    /// Returns the latest attempt of a call and how far it is.
    pub(crate) fn lookup(&self, run: RunKey, position: Position) -> Option<(Attempt, Standing)> {
        self.get(run, position).map(|cx| (cx.attempt, standing(&cx)))
    }

    pub(crate) fn get(&self, run: RunKey, position: Position) -> Option<Arc<CallContext>> {
        self.runs.get(&run)?.get(&position).cloned()
    }

    /// Returns the attempts of a run that are listed.
    pub(crate) fn of(&self, run: RunKey) -> Vec<Arc<CallContext>> {
        self.runs.get(&run).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// Drops a result that is on disk, or of no interest to anyone any more.
    pub(crate) fn recorded(&self, run: RunKey, position: Position, attempt: Attempt) {
        self.remove_if(run, position, |cx| cx.attempt <= attempt && cx.life.is_settled());
    }

    /// Takes an attempt off the list that came to nothing: it was never begun, or it was aborted with the node.
    pub(crate) fn forget(&self, cx: &Arc<CallContext>) {
        self.remove_if(cx.run, cx.position, |there| Arc::ptr_eq(there, cx));
    }

    fn remove_if(&self, run: RunKey, position: Position, condition: impl FnOnce(&Arc<CallContext>) -> bool) {
        let dashmap::Entry::Occupied(mut entry) = self.runs.entry(run) else {
            return;
        };
        let positions = entry.get_mut();
        if positions.get(&position).is_some_and(condition) {
            positions.remove(&position);
            if positions.is_empty() {
                entry.remove();
            }
        }
    }

    /// Returns how many attempts of a run are listed: queued, running, or ended and not recorded.
    pub(crate) fn count_of(&self, run: RunKey) -> usize {
        self.runs.get(&run).map_or(0, |positions| positions.len())
    }

    /// Returns the runs whose code is still under way on this node, abandoned acts included.
    pub(crate) fn running(&self) -> Vec<RunKey> {
        let mut runs: Vec<RunKey> = self.abandoned.lock().keys().copied().collect();
        runs.extend(self.runs.iter().filter(|run| run.value().values().any(|cx| cx.life.is_running())).map(|run| *run.key()));
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    /// Returns every attempt that has begun and not ended.
    pub(crate) fn all_running(&self) -> Vec<Arc<CallContext>> {
        let all = self.runs.iter();
        all.flat_map(|run| run.value().values().filter(|cx| cx.life.is_running()).cloned().collect::<Vec<_>>()).collect()
    }

    /// Settles an attempt over the head of its code, which goes on until it can be stopped; `false` when it has ended.
    pub(crate) fn abandon(&self, cx: &CallContext, ending: Ending) -> bool {
        // Counted first: the code may end at any moment, and takes one off when it finds itself settled.
        *self.abandoned.lock().entry(cx.run).or_default() += 1;
        let first = cx.life.settle(ending);
        if !first {
            self.abandoned_ended(cx.run);
        }
        first
    }

    /// Tells whether code of a run goes on although its attempt was settled.
    pub(crate) fn is_abandoned(&self, run: RunKey) -> bool {
        self.abandoned.lock().contains_key(&run)
    }

    /// Says that the code of an abandoned attempt has ended.
    pub(crate) fn abandoned_ended(&self, run: RunKey) {
        let mut abandoned = self.abandoned.lock();
        if let Some(count) = abandoned.get_mut(&run) {
            *count -= 1;
            if *count == 0 {
                abandoned.remove(&run);
            }
        }
    }
}

fn standing(cx: &CallContext) -> Standing {
    match cx.life.ending() {
        Some(ending) => Standing::Done(ending.clone()),
        None if cx.life.is_queued() => Standing::Queued,
        None => Standing::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{id::RunId, payload::Payload};

    const RUN: RunKey = RunKey(7);

    fn attempt(position: Position, attempt: Attempt) -> Arc<CallContext> {
        let id = Arc::new(RunId { id: "order".to_owned(), run_no: 1 });
        Arc::new(CallContext::new(RUN, id, position, attempt, 1, None))
    }

    fn done() -> Ending {
        Ok(Payload::encode(&1, "output").unwrap())
    }

    #[test]
    fn the_same_attempt_is_listed_once_until_its_result_is_recorded() {
        let table = Attempts::default();
        let first = attempt(1, 1);
        assert!(matches!(table.begin(&first), Begun::New));
        assert!(matches!(table.begin(&attempt(1, 1)), Begun::There(_)));
        assert_eq!(table.lookup(RUN, 1), Some((1, Standing::Queued)));
        assert!(first.life.start(1));
        assert_eq!(table.lookup(RUN, 1), Some((1, Standing::Running)));
        table.recorded(RUN, 1, 1);
        assert!(table.count_of(RUN) > 0, "what runs is not dropped");
        assert!(first.life.settle(done()) && !first.life.settle(done()));
        assert!(matches!(table.begin(&attempt(1, 1)), Begun::There(_)));
        assert_eq!(table.lookup(RUN, 1), Some((1, Standing::Done(done()))));
        table.recorded(RUN, 1, 1);
        assert!(table.count_of(RUN) == 0);
        assert_eq!(table.lookup(RUN, 1), None);
    }

    #[test]
    fn a_later_attempt_takes_the_place_and_a_late_record_of_the_earlier_leaves_it() {
        let table = Attempts::default();
        let first = attempt(1, 1);
        table.begin(&first);
        first.life.settle(done());
        assert!(matches!(table.begin(&attempt(1, 2)), Begun::New));
        assert!(matches!(table.begin(&attempt(1, 1)), Begun::There(_)));
        table.recorded(RUN, 1, 1);
        assert_eq!(table.lookup(RUN, 1), Some((2, Standing::Queued)));
    }

    #[test]
    fn an_abandoned_act_counts_as_running_until_its_code_ends() {
        let table = Attempts::default();
        let act = attempt(1, 1);
        table.begin(&act);
        act.life.start(1);
        assert!(table.abandon(&act, done()) && !table.abandon(&act, done()));
        table.recorded(RUN, 1, 1);
        assert_eq!(table.running(), [RUN]);
        table.abandoned_ended(RUN);
        assert!(table.running().is_empty());
    }
}
