//! Who woke a workflow? Only three may: the kernel itself while it applies a fact, a combinator within the same poll, and
//! the I/O of an inline step that was granted. Any other wake-up is a foreign await (a tokio sleep, a channel), which
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

/// Called when a workflow wants to be polled for a reason of its own.
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// The signal whose instance this thread is polling, by address.
    static POLLED: Cell<usize> = const { Cell::new(0) };
    /// The signal on its way up to which this thread is, from the waker of one of its steps.
    static STEPPED: Cell<usize> = const { Cell::new(0) };
}

/// The root of all wakers of one instance.
#[derive(Default)]
pub(crate) struct Signal {
    woken: AtomicBool,
    foreign: AtomicBool,
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

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if STEPPED.get() == self.address() {
            // Later, even from within the poll: a step that yields (tokio's budget) gets nowhere before the poll ends.
            self.nudge();
        } else if POLLED.get() == self.address() {
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
        let before = STEPPED.replace(self.signal.address());
        self.outer.wake_by_ref();
        STEPPED.set(before);
    }
}
