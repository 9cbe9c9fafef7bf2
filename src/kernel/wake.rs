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
#[derive(Default)]
pub(crate) struct Signal {
    woken: AtomicBool,
    foreign: AtomicBool,
    /// Whom the I/O of steps has woken since they were last polled.
    steps: Mutex<Vec<Waker>>,
    hook: OnceLock<Hook>,
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
        let woken = std::mem::take(&mut *self.steps.lock());
        woken.into_iter().for_each(Waker::wake);
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
        let mut steps = self.signal.steps.lock();
        if !steps.last().is_some_and(|last| last.will_wake(&self.outer)) {
            steps.push(self.outer.clone());
        }
        drop(steps);
        // Later, even from within the poll: a step that yields (tokio's budget) gets nowhere before the poll ends.
        self.signal.nudge();
    }
}
