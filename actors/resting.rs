//! The executions in memory that only wait, least recently active first: who makes room when others want in and memory is full.
//!
//! An execution enters behind its last turn and is taken out by its next one, so the order is that of the last activity; both cost
//! a step down a tree. Whoever is asked to leave decides by itself, since something may have reached it meanwhile: it leaves, or
//! says that it stays, and the next one is asked.
//!
//! When too few only wait, memory is *crowded*: until there is room, whoever comes to rest leaves at once.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use crate::{fast::FastMap, kernel::id::RunKey};

/// Those that rest on one engine arbiter.
#[derive(Default)]
pub(crate) struct Resting {
    order: RefCell<Order>,
    crowded: Cell<bool>,
}

#[derive(Default)]
struct Order {
    /// By when they came to rest.
    rest: BTreeMap<u64, RunKey>,
    /// Where each is in that order; zero if it was asked to leave and is still here.
    places: FastMap<RunKey, u64>,
    asked: usize,
    last: u64,
}

impl Order {
    fn forget(&mut self, run: RunKey) {
        match self.places.remove(&run) {
            Some(0) => self.asked -= 1,
            Some(place) => {
                self.rest.remove(&place);
            }
            None => {}
        }
    }
}

impl Resting {
    /// A run came to rest.
    pub(crate) fn rests(&self, run: RunKey) {
        let order = &mut *self.order.borrow_mut();
        order.forget(run);
        order.last += 1;
        order.rest.insert(order.last, run);
        order.places.insert(run, order.last);
    }

    /// A run does something, stays although it was asked to leave, or has left.
    pub(crate) fn forget(&self, run: RunKey) {
        self.order.borrow_mut().forget(run);
    }

    /// Returns the run that has rested for longest, to be asked to leave.
    pub(crate) fn ask(&self) -> Option<RunKey> {
        let order = &mut *self.order.borrow_mut();
        let (_, run) = order.rest.pop_first()?;
        order.places.insert(run, 0);
        order.asked += 1;
        Some(run)
    }

    /// Returns how many were asked to leave, have not said that they stay, and are still here.
    pub(crate) fn asked(&self) -> usize {
        self.order.borrow().asked
    }

    /// Says whether others want in for whom nobody could be asked to leave.
    pub(crate) fn crowd(&self, crowded: bool) {
        self.crowded.set(crowded);
    }

    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(resting: &Resting) -> Vec<i64> {
        std::iter::from_fn(|| resting.ask().map(|run| run.0)).collect()
    }

    #[test]
    fn the_least_recently_active_is_asked_first_and_nobody_twice() {
        let resting = Resting::default();
        (1..=5).map(RunKey).for_each(|run| resting.rests(run));
        resting.forget(RunKey(3));
        resting.rests(RunKey(1));
        assert_eq!(resting.ask(), Some(RunKey(2)));
        assert_eq!(asked(&resting), [4, 5, 1]);
        assert_eq!(resting.asked(), 4);
    }

    #[test]
    fn whoever_was_asked_counts_until_it_left_did_something_or_came_to_rest_again() {
        let resting = Resting::default();
        (1..=3).map(RunKey).for_each(|run| resting.rests(run));
        assert_eq!(asked(&resting), [1, 2, 3]);
        resting.forget(RunKey(1));
        resting.forget(RunKey(1));
        resting.rests(RunKey(2));
        assert_eq!(resting.asked(), 1);
        resting.forget(RunKey(3));
        assert_eq!((resting.asked(), asked(&resting)), (0, vec![2]));
    }
}
