//! Who waits for the end of a run. The table stands beside the public door and outlives incarnations: an end is told to it
//! when it is durable, and a new incarnation refills it by one read of the runs that ended meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    fast::FastMap,
    kernel::{event::Outcome, id::RunKey},
};

/// The end of one run, once it is known.
pub(crate) type End = Option<Arc<Outcome>>;

/// The waiters of this supervisor.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    runs: Mutex<FastMap<RunKey, watch::Sender<End>>>,
    /// How many there were when those that nobody waits for were forgotten last.
    kept: AtomicUsize,
}

/// So few are not worth going through.
const FEW: usize = 1_024;

impl Waiters {
    /// Waits for a run; whoever calls this makes sure that an end before now is told as well.
    pub(crate) fn wait(&self, run: RunKey) -> watch::Receiver<End> {
        self.runs.lock().entry(run).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Tells the end of a run to all who wait for it.
    pub(crate) fn settle(&self, run: RunKey, outcome: impl FnOnce() -> Outcome) {
        let waiting = self.runs.lock().remove(&run);
        if let Some(waiting) = waiting.filter(|w| w.receiver_count() > 0) {
            waiting.send_replace(Some(Arc::new(outcome())));
        }
    }

    /// Tells whether somebody waits for a run.
    pub(crate) fn is_waited_for(&self, run: RunKey) -> bool {
        self.runs.lock().get(&run).is_some_and(|waiting| waiting.receiver_count() > 0)
    }

    /// Forgets a run that nobody waits for: it was never recorded.
    pub(crate) fn forget(&self, run: RunKey) {
        let mut runs = self.runs.lock();
        if runs.get(&run).is_some_and(|waiting| waiting.receiver_count() == 0) {
            runs.remove(&run);
        }
    }

    /// Forgets those that nobody waits for, when there may be as many of them as of others: so it costs little, however many are
    /// waited for and however often this is called.
    pub(crate) fn tidy(&self) {
        let mut runs = self.runs.lock();
        if runs.len() > FEW + 2 * self.kept.load(Relaxed) {
            self.forget_unwanted(&mut runs);
        }
    }

    /// Returns the runs that somebody waits for, and forgets those that nobody does.
    pub(crate) fn waited_for(&self) -> Vec<RunKey> {
        let mut runs = self.runs.lock();
        self.forget_unwanted(&mut runs);
        runs.keys().copied().collect()
    }

    fn forget_unwanted(&self, runs: &mut FastMap<RunKey, watch::Sender<End>>) {
        runs.retain(|_, waiting| waiting.receiver_count() > 0);
        if runs.capacity() > FEW + 4 * runs.len() {
            runs.shrink_to_fit();
        }
        self.kept.store(runs.len(), Relaxed);
    }

    /// Drops every waiter: the runtime is over, and they hear of it by their channel's end.
    pub(crate) fn close(&self) {
        self.runs.lock().clear();
    }
}
