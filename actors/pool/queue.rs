//! What has not begun, in one line for all arbiters. Each takes *one* start at a time and only when it is at leisure, so
//! no start ever sits behind a blocked thread, and the line is at the same time where starts wait for a slot.
//!
//! An arbiter with nothing to do is *parked* here; whoever adds work wakes one whose thread is not inside user code.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{ActFn, BlockingFn, runner::Lane};
use crate::{actors::call::CallContext, kernel::payload::Payload};

/// An activity that may begin.
pub(crate) struct Job {
    pub(crate) cx: Arc<CallContext>,
    pub(crate) work: JobWork,
}

/// What an arbiter does for it.
pub(crate) enum JobWork {
    /// It calls the handler of that name.
    Activity { name: Arc<str>, input: Payload },
    /// It calls the closure.
    Act(ActFn),
}

/// A closure that may block, and may begin.
pub(crate) struct BlockingJob {
    pub(crate) cx: Arc<CallContext>,
    pub(crate) work: BlockingFn,
}

/// What to do after having added work or freed slots, outside the lock.
#[derive(Default)]
#[must_use]
pub(crate) struct Wake {
    pub(crate) lanes: Vec<Arc<Lane>>,
    /// A thread for blocking work is wanting.
    pub(crate) hire_blocking: bool,
}

/// What an arbiter finds when it has nothing to do.
pub(crate) enum Parked {
    /// There is work after all.
    Work,
    /// It will be woken.
    Idle,
    /// There will never be work again.
    Closed,
}

/// How many starts one arbiter is woken for; with more at once another is woken as well.
const PER_LANE: usize = 256;

pub(crate) struct Queue {
    inner: Mutex<Inner>,
    slots: usize,
    blocking_threads: usize,
    blocking_bell: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Job>,
    blocking: VecDeque<BlockingJob>,
    /// Slots in use: code that is under way, abandoned or not. Never more than there are.
    taken: usize,
    /// Grows with each start that is taken: how the watch sees that the line moves.
    taken_ever: u64,
    parked: Vec<Arc<Lane>>,
    blocking_idle: usize,
    blocking_all: usize,
    closed: bool,
}

/// Numbers for the watch and for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) waiting: usize,
    pub(crate) taken: usize,
    pub(crate) taken_ever: u64,
    /// There are starts that an arbiter could take now.
    pub(crate) ready: bool,
}

impl Queue {
    pub(crate) fn new(slots: usize, blocking_threads: usize) -> Queue {
        Queue {
            inner: Mutex::default(),
            slots: slots.max(1),
            blocking_threads: blocking_threads.max(1),
            blocking_bell: Condvar::new(),
        }
    }

    /// Adds starts at the end; gives them back when the pool is closed.
    pub(crate) fn push(&self, jobs: Vec<Job>, blocking: Vec<BlockingJob>) -> Result<Wake, (Vec<Job>, Vec<BlockingJob>)> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err((jobs, blocking));
        }
        let lanes = jobs.len().div_ceil(PER_LANE);
        inner.waiting.extend(jobs);
        inner.blocking.extend(blocking);
        Ok(self.wake(&mut inner, lanes))
    }

    /// Takes the next activity and a slot for it.
    pub(crate) fn pop(&self) -> Option<Job> {
        let mut inner = self.inner.lock();
        if inner.taken >= self.slots {
            return None;
        }
        // What was cancelled or timed out in the line is skipped here: it needs no slot.
        let job = std::iter::from_fn(|| inner.waiting.pop_front()).find(|job| job.cx.life.is_queued())?;
        inner.taken += 1;
        inner.taken_ever += 1;
        Some(job)
    }

    /// Takes a slot for a start that stands in no line: only if all who do could have one as well, so that nobody is overtaken.
    pub(crate) fn take_slot(&self) -> bool {
        let mut inner = self.inner.lock();
        let free = !inner.closed && inner.taken + inner.waiting.len() + inner.blocking.len() < self.slots;
        inner.taken += usize::from(free);
        free
    }

    /// Waits for blocking work and takes a slot for it; `None` when the thread is needed no more.
    pub(crate) fn pop_blocking(&self, patience: Duration) -> Option<(BlockingJob, Wake)> {
        let mut inner = self.inner.lock();
        loop {
            if inner.taken < self.slots {
                let job = std::iter::from_fn(|| inner.blocking.pop_front()).find(|job| job.cx.life.is_queued());
                if let Some(job) = job {
                    inner.taken += 1;
                    // One thread begets the next, so that a burst of starts does not hold up its sender.
                    let wake = self.wake(&mut inner, 0);
                    return Some((job, wake));
                }
            }
            if inner.closed {
                inner.blocking_all -= 1;
                return None;
            }
            inner.blocking_idle += 1;
            let timed_out = self.blocking_bell.wait_for(&mut inner, patience).timed_out();
            inner.blocking_idle -= 1;
            if timed_out && inner.blocking.is_empty() {
                inner.blocking_all -= 1;
                return None;
            }
        }
    }

    /// Says that a thread for blocking work could not be started.
    pub(crate) fn blocking_not_hired(&self) {
        self.inner.lock().blocking_all -= 1;
    }

    /// Gives slots back; returns what to wake and whether all slots are free.
    pub(crate) fn release(&self, slots: usize) -> (Wake, bool) {
        let mut inner = self.inner.lock();
        inner.taken -= slots;
        let lanes = usize::from(!inner.waiting.is_empty());
        (self.wake(&mut inner, lanes), inner.taken == 0)
    }

    fn wake(&self, inner: &mut Inner, lanes: usize) -> Wake {
        let mut wake = Wake::default();
        if inner.taken >= self.slots {
            return wake;
        }
        wake.lanes.extend((0..lanes).map_while(|_| unpark(inner)));
        if !inner.blocking.is_empty() {
            if inner.blocking_idle > 0 {
                self.blocking_bell.notify_one();
            } else if inner.blocking_all < self.blocking_threads {
                inner.blocking_all += 1;
                wake.hire_blocking = true;
            }
        }
        wake
    }

    /// Parks an arbiter that found nothing to do, unless there is something by now.
    pub(crate) fn park(&self, lane: &Arc<Lane>) -> Parked {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Parked::Closed;
        }
        if !inner.waiting.is_empty() && inner.taken < self.slots {
            return Parked::Work;
        }
        if !inner.parked.iter().any(|parked| Arc::ptr_eq(parked, lane)) {
            inner.parked.push(lane.clone());
        }
        Parked::Idle
    }

    /// Unparks an arbiter whose thread is free, if there is one and work for it.
    pub(crate) fn helper(&self) -> Option<Arc<Lane>> {
        let mut inner = self.inner.lock();
        if inner.waiting.is_empty() || inner.taken >= self.slots {
            return None;
        }
        let free = inner.parked.iter().rposition(|lane| !lane.is_in_hand())?;
        Some(inner.parked.swap_remove(free))
    }

    pub(crate) fn look(&self) -> Look {
        let inner = self.inner.lock();
        Look {
            waiting: inner.waiting.len() + inner.blocking.len(),
            taken: inner.taken,
            taken_ever: inner.taken_ever,
            ready: !inner.waiting.is_empty() && inner.taken < self.slots,
        }
    }

    /// Closes for good and gives back what has not begun.
    pub(crate) fn close(&self) -> Vec<Arc<CallContext>> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.parked.clear();
        self.blocking_bell.notify_all();
        let waiting = std::mem::take(&mut inner.waiting).into_iter().map(|job| job.cx);
        waiting.chain(std::mem::take(&mut inner.blocking).into_iter().map(|job| job.cx)).collect()
    }
}

/// Takes the arbiter that was parked last (its caches are warm), one inside user code only if all are: it may be back in a
/// microsecond, and if not the watch sees it.
fn unpark(inner: &mut Inner) -> Option<Arc<Lane>> {
    let free = inner.parked.iter().rposition(|lane| !lane.is_in_hand());
    let chosen = free.or_else(|| inner.parked.len().checked_sub(1))?;
    Some(inner.parked.remove(chosen))
}
