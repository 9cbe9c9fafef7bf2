//! The slots of executions in memory, shared by the two that fill them: the Executor with what is dispatched, the Scheduler with
//! what it claims. Neither asks the other, and together they never exceed the limit: each first says what it takes, and then looks
//! at what the other has taken. One of two at the same time sees the other; if both do, both step back, which costs a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use super::stats::Counters;

/// The slots of one life of the core.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    /// Executions in memory, as the Executor knows them.
    held: AtomicUsize,
    /// Slots that are kept for claims under way.
    claiming: AtomicUsize,
    counters: Arc<Counters>,
}

impl Slots {
    pub(crate) fn new(most: usize, counters: Arc<Counters>) -> Slots {
        counters.hold(0);
        Slots { most, held: AtomicUsize::new(0), claiming: AtomicUsize::new(0), counters }
    }

    /// Says how many executions are in memory.
    pub(crate) fn hold(&self, held: usize) {
        self.held.store(held, SeqCst);
        self.counters.hold(held);
    }

    /// Tells whether there is room for one more beside those that are held; whoever asks begins it, or says again what it holds.
    pub(crate) fn has_room(&self, held: usize) -> bool {
        self.held.store(held + 1, SeqCst);
        held + 1 + self.claiming.load(SeqCst) <= self.most
    }

    /// Returns how many slots are neither filled nor kept.
    pub(crate) fn free(&self) -> usize {
        self.most.saturating_sub(self.held.load(SeqCst) + self.claiming.load(SeqCst))
    }

    /// Keeps slots for a claim: at most so many, and no more than half of those that are free, or a claim that finds nothing
    /// would send what is dispatched meanwhile through the store.
    pub(crate) fn reserve(&self, wanted: usize) -> usize {
        let wanted = wanted.min(self.most);
        let before = self.claiming.fetch_add(wanted, SeqCst);
        let free = self.most.saturating_sub(self.held.load(SeqCst) + before);
        let kept = wanted.min(free.div_ceil(2));
        self.claiming.fetch_sub(wanted - kept, SeqCst);
        kept
    }

    /// Gives slots back that were kept for a claim: it found fewer, or what it found is held.
    pub(crate) fn give_back(&self, kept: usize) {
        self.claiming.fetch_sub(kept, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_and_what_is_kept_for_claims_never_exceed_the_limit() {
        let slots = Slots::new(4, Arc::default());
        assert!(slots.has_room(0));
        slots.hold(1);
        assert_eq!(slots.reserve(256), 2, "half of what is free, rounded up");
        assert!(slots.has_room(1));
        slots.hold(2);
        assert!(!slots.has_room(2), "two are held, two are kept");
        slots.hold(2);
        assert_eq!(slots.reserve(256), 0);
        // The claim found one, which is held by now.
        slots.give_back(1);
        slots.hold(3);
        slots.give_back(1);
        assert_eq!(slots.reserve(256), 1);
        assert!(!slots.has_room(3));
    }

    #[test]
    fn two_that_take_at_the_same_time_never_both_get_the_last_slot() {
        for _ in 0..200 {
            let slots = Arc::new(Slots::new(1, Arc::default()));
            let (ours, start) = (slots.clone(), Arc::new(std::sync::Barrier::new(2)));
            let started = start.clone();
            let claims = std::thread::spawn(move || {
                started.wait();
                ours.reserve(1)
            });
            start.wait();
            let begun = usize::from(slots.has_room(0));
            assert!(claims.join().unwrap() + begun <= 1);
        }
    }
}
