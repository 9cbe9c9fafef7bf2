//! The moment until which this node may act, as one shared number. It is read immediately before every act, by everyone
//! and without a message: a message would sit behind the very work that must not start.
//!
//! It counts boot time from *before* the last successful renewal was sent, less a margin. Once it has passed it stays
//! passed: a renewal that arrives late revives nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::Clock;

/// The value of a node that is fenced for good.
const FENCED: u64 = 0;

/// This incarnation's right to act.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    clock: Arc<dyn Clock>,
    until_micros: Arc<AtomicU64>,
}

impl Deadline {
    /// Starts with the right to act for `lease` after `sent`, the boot time from before the node was registered.
    pub(crate) fn new(clock: Arc<dyn Clock>, sent: Duration, lease: Duration) -> Deadline {
        Deadline { clock, until_micros: Arc::new(AtomicU64::new(micros(sent + lease))) }
    }

    /// Tells whether an act may start at this instant. A deadline found passed is passed for good.
    pub(crate) fn stands(&self) -> bool {
        let until = self.until_micros.load(Ordering::SeqCst);
        let stands = micros(self.clock.boot()) < until;
        if !stands && until != FENCED {
            self.fence();
        }
        stands
    }

    /// Moves the deadline to `lease` after `sent`, the boot time from before the renewal was sent; never revives.
    pub(crate) fn renewed(&self, sent: Duration, lease: Duration) -> bool {
        let until = micros(sent + lease);
        let moved = self.until_micros.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            (old != FENCED && micros(self.clock.boot()) < old).then_some(until.max(old))
        });
        if moved.is_err() {
            self.fence();
        }
        moved.is_ok()
    }

    /// Takes the right to act away, for good.
    pub(crate) fn fence(&self) {
        self.until_micros.store(FENCED, Ordering::SeqCst);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
