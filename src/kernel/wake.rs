//! Who woke a workflow? Only three may: the kernel itself while it applies a fact, a combinator within the same poll, and
//! the I/O of an inline step that was granted. The last is kept until steps are polled: a wake-up that reached a combinator before a fact
//! would change the order in which that fact's own wake-ups are served, and replay, which runs no steps, would not have it. Any other wake-up is a foreign await (a tokio sleep, a channel), which
//! would be forgotten by a restart; it is noticed at once.
//!
//! Which of them it is, is known by the thread that wakes: a flag seen by all threads would take a wake-up from elsewhere
//! for the poll's own, and lose it when it comes just before the poll ends.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use parking_lot::Mutex;

/// Called when a workflow wants to be polled for a reason of its own.
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// The signal whose instance this thread is polling, by address.
    static POLLED: Cell<usize> = const { Cell::new(0) };
}

/// The root of all wakers of one instance.
pub(crate) struct Signal {
    woken: AtomicBool,
    foreign: AtomicBool,
    /// Whom the I/O of steps has woken since they were last polled; `None` once nothing is polled any more. These wakers hold this
    /// signal, mostly, which would keep itself alive otherwise.
    steps: Mutex<Option<Vec<Waker>>>,
    hook: OnceLock<Hook>,
}

impl Default for Signal {
    fn default() -> Signal {
        let steps = Mutex::new(Some(Vec::new()));
        Signal { woken: AtomicBool::default(), foreign: AtomicBool::default(), steps, hook: OnceLock::new() }
    }
}

impl Signal {
    /// Sets whom to tell about wake-ups that the poll under way does not answer itself; only the first one counts.
    pub(crate) fn tell(&self, hook: Hook) {
        let _ = self.hook.set(hook);
    }

    /// Begins a section in which this thread's wake-ups are the kernel's own.
    pub(crate) fn enter(&self) {
        POLLED.set(self.address());
    }

    /// Ends that section.
    pub(crate) fn leave(&self) {
        POLLED.set(0);
    }

    /// Tells whether it was woken since the last look.
    pub(crate) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Tells whether something outside the log woke it, ever.
    pub(crate) fn was_foreign(&self) -> bool {
        self.foreign.load(Ordering::SeqCst)
    }

    /// Asks to be polled again, later.
    pub(crate) fn nudge(&self) {
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }

    /// Wraps the waker that an inline step's own future sees.
    pub(crate) fn for_step(self: &Arc<Self>, outer: &Waker) -> Waker {
        Waker::from(Arc::new(StepWaker { signal: self.clone(), outer: outer.clone() }))
    }

    /// Passes on what the I/O of steps has said; within a poll of steps, and never while a fact is applied.
    pub(crate) fn wake_steps(&self) {
        let woken = self.steps.lock().as_mut().map(std::mem::take);
        woken.into_iter().flatten().for_each(Waker::wake);
    }

    /// Keeps nobody any more: the instance is leaving memory.
    pub(crate) fn close(&self) {
        let woken = self.steps.lock().take();
        // Behind the lock: it may be the last of what it belongs to.
        drop(woken);
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if POLLED.get() == self.address() {
            self.woken.store(true, Ordering::SeqCst);
        } else {
            self.foreign.store(true, Ordering::SeqCst);
            self.nudge();
        }
    }
}

struct StepWaker {
    signal: Arc<Signal>,
    outer: Waker,
}

impl Wake for StepWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        {
            let mut steps = self.signal.steps.lock();
            let Some(steps) = steps.as_mut() else { return };
            if !steps.last().is_some_and(|last| last.will_wake(&self.outer)) {
                steps.push(self.outer.clone());
            }
        }
        // Later, even from within the poll: a step that yields (tokio's budget) gets nowhere before the poll ends.
        self.signal.nudge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_woken_as_its_run_leaves_memory_keeps_nothing_alive() {
        let signal = Arc::new(Signal::default());
        let step = signal.for_step(&Waker::from(signal.clone()));
        step.wake_by_ref();
        signal.close();
        step.wake_by_ref();
        drop(step);
        let left = Arc::downgrade(&signal);
        drop(signal);
        assert!(left.upgrade().is_none());
    }
}
