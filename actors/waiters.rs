//! Who waits for the end of a run or of the last run of its chain, or for the answer to an update. The table stands beside the public door and outlives incarnations: an end is told to it
//! when it is durable, and a new incarnation refills it by one read of the runs that ended meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    fast::FastMap,
    kernel::{
        event::{Outcome, Reply},
        failure::Failure,
        id::RunKey,
    },
};

/// The end of one run, once it is known.
pub(crate) type End = Option<Arc<Outcome>>;

/// What came of an update.
#[derive(Clone, Debug)]
pub(crate) enum Updated {
    /// It was taken, and this is the answer.
    Replied(Reply),
    /// It was not.
    Refused(Failure),
}

/// Where the answer to an update is told.
type Answer = watch::Sender<Option<Updated>>;

/// The waiters of this supervisor.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    runs: Mutex<FastMap<RunKey, Waiting>>,
    /// Those who wait for answers, by run and message. An answer that is told nowhere is found in the log.
    answers: Mutex<HashMap<(RunKey, String), Answer>>,
    /// How many there were when those that nobody waits for were forgotten last.
    kept: AtomicUsize,
}

/// Those who wait for one run.
#[derive(Debug)]
struct Waiting {
    end: watch::Sender<End>,
    /// Those who have waited for runs that continued as this one.
    from_before: Vec<watch::Sender<End>>,
}

impl Waiting {
    fn is_wanted(&self) -> bool {
        self.all().any(|end| end.receiver_count() > 0)
    }

    fn all(&self) -> impl Iterator<Item = &watch::Sender<End>> {
        std::iter::once(&self.end).chain(&self.from_before)
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { end: watch::Sender::new(None), from_before: Vec::new() }
    }
}

/// So few are not worth going through.
const FEW: usize = 1_024;

impl Waiters {
    /// Waits for a run; whoever calls this makes sure that an end before now is told as well.
    pub(crate) fn wait(&self, run: RunKey) -> watch::Receiver<End> {
        self.runs.lock().entry(run).or_default().end.subscribe()
    }

    /// Tells the end of a run to all who wait for it.
    pub(crate) fn settle(&self, run: RunKey, outcome: impl FnOnce() -> Outcome) {
        let waiting = self.runs.lock().remove(&run);
        if let Some(waiting) = waiting.filter(Waiting::is_wanted) {
            let outcome = Arc::new(outcome());
            waiting.all().for_each(|end| _ = end.send_replace(Some(outcome.clone())));
        }
    }

    /// A run has continued as another: who waited for it waits for that one; whoever calls this makes sure that an end of it before
    /// now is told as well.
    pub(crate) fn follow(&self, run: RunKey, next: RunKey) {
        let mut runs = self.runs.lock();
        let Some(waiting) = runs.remove(&run).filter(Waiting::is_wanted) else { return };
        let Waiting { end, from_before } = waiting;
        match runs.get_mut(&next) {
            None => _ = runs.insert(next, Waiting { end, from_before }),
            Some(there) => {
                there.from_before.retain(|end| end.receiver_count() > 0);
                let more = from_before.into_iter().chain([end]);
                there.from_before.extend(more.filter(|end| end.receiver_count() > 0));
            }
        }
    }

    /// Tells whether somebody waits for a run.
    pub(crate) fn is_waited_for(&self, run: RunKey) -> bool {
        self.runs.lock().get(&run).is_some_and(Waiting::is_wanted)
    }

    /// Forgets a run that nobody waits for: it was never recorded.
    pub(crate) fn forget(&self, run: RunKey) {
        let mut runs = self.runs.lock();
        if runs.get(&run).is_some_and(|waiting| !waiting.is_wanted()) {
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

    fn forget_unwanted(&self, runs: &mut FastMap<RunKey, Waiting>) {
        runs.retain(|_, waiting| waiting.is_wanted());
        if runs.capacity() > FEW + 4 * runs.len() {
            runs.shrink_to_fit();
        }
        self.kept.store(runs.len(), Relaxed);
    }

    /// Waits for the answer to an update that runs here.
    pub(crate) fn await_answer(&self, run: RunKey, message: &str) -> Answering<'_> {
        let of = (run, message.to_owned());
        let told = self.answers.lock().entry(of.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Answering { waiters: self, of, told: Some(told) }
    }

    /// Tells the answer to an update, now that it is recorded.
    pub(crate) fn answered(&self, run: RunKey, message: &str, answer: Updated) {
        let mut answers = self.answers.lock();
        if !answers.is_empty()
            && let Some(waiting) = answers.remove(&(run, message.to_owned()))
        {
            waiting.send_replace(Some(answer));
        }
    }

    /// Drops every waiter: the runtime is over, and they hear of it by their channel's end.
    pub(crate) fn close(&self) {
        self.runs.lock().clear();
    }
}

/// One wait for an answer; the last one to go takes the entry along.
pub(crate) struct Answering<'w> {
    waiters: &'w Waiters,
    of: (RunKey, String),
    told: Option<watch::Receiver<Option<Updated>>>,
}

impl Answering<'_> {
    /// Waits until it is told; never, if whoever runs it is elsewhere.
    pub(crate) async fn answer(&mut self) -> Updated {
        if let Some(told) = &mut self.told
            && let Ok(answer) = told.wait_for(Option::is_some).await
            && let Some(answer) = answer.clone()
        {
            return answer;
        }
        std::future::pending().await
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.told = None;
        let mut answers = self.waiters.answers.lock();
        if answers.get(&self.of).is_some_and(|waiting| waiting.receiver_count() == 0) {
            answers.remove(&self.of);
        }
    }
}
