//! Who wants to know when a run goes on: those who wait for a published value, or follow its events. Each run that somebody listens to has a
//! bell, which is rung when a commit of it is durable; those who wait for a value hear it only if the commit has published something, or
//! is the last. A ring says that looking pays, and nothing else: what is to be seen stands in the store, so a ring too many costs a
//! look, and one that was lost is made up for by the next look at the logs of runs elsewhere.
//!
//! Like the waiters, the table stands beside the public door and outlives incarnations.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    fast::FastMap,
    kernel::id::{CommitNo, RunKey},
};

/// The bells of this supervisor.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    runs: Mutex<FastMap<RunKey, Bell>>,
    /// How many there are: nobody looks into the table for a commit as long as there is none.
    count: AtomicUsize,
}

/// What a ring is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// A commit that publishes nothing, and behind which the run goes on.
    Commit,
    /// Something was published, or the run has ended, or what happened is not known.
    News,
}

#[derive(Debug)]
struct Bell {
    /// Heard by those who listen to all commits…
    all: watch::Sender<()>,
    /// …and by those who listen to news.
    news: watch::Sender<()>,
    /// Its last commit, when its log was looked at last.
    height: Option<CommitNo>,
}

impl Bell {
    fn ring(&self, rung: Rung) {
        self.all.send_replace(());
        if rung == Rung::News {
            self.news.send_replace(());
        }
    }
}

/// Hears the bell of one run.
#[derive(Debug)]
pub(crate) struct Listener(watch::Receiver<()>);

impl Listener {
    /// Waits until the run may have gone on since this was last waited for, or the runtime is over.
    pub(crate) async fn rung(&mut self) {
        if self.0.changed().await.is_err() {
            // Over, or a new life is at hand: whoever looks is told which. Looking without end would be no waiting.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Bells {
    /// Listens to a run: to news of it only, or to each of its commits. Whoever calls this looks afterwards for what was there before.
    pub(crate) fn listen(&self, run: RunKey, to: Rung) -> Listener {
        let mut runs = self.runs.lock();
        let bell =
            runs.entry(run).or_insert_with(|| Bell { all: watch::Sender::new(()), news: watch::Sender::new(()), height: None });
        let rung = if to == Rung::News { &bell.news } else { &bell.all };
        let listener = Listener(rung.subscribe());
        self.count.store(runs.len(), Relaxed);
        listener
    }

    /// Says that a commit of a run is durable.
    pub(crate) fn ring(&self, run: RunKey, rung: Rung) {
        if self.count.load(Relaxed) > 0
            && let Some(bell) = self.runs.lock().get(&run)
        {
            bell.ring(rung);
        }
    }

    /// Says that any run may have gone on without a word.
    pub(crate) fn ring_all(&self) {
        self.runs.lock().values().for_each(|bell| bell.ring(Rung::News));
    }

    /// Takes note of how far logs have come, and rings for those that have gone on.
    pub(crate) fn seen(&self, heights: &[(RunKey, CommitNo)]) {
        let mut runs = self.runs.lock();
        for (run, height) in heights {
            if let Some(bell) = runs.get_mut(run)
                && bell.height.replace(*height) != Some(*height)
            {
                bell.ring(Rung::News);
            }
        }
    }

    /// Returns the runs that somebody listens to, and forgets the others.
    pub(crate) fn listened(&self) -> Vec<RunKey> {
        if self.count.load(Relaxed) == 0 {
            return Vec::new();
        }
        let mut runs = self.runs.lock();
        runs.retain(|_, bell| bell.all.receiver_count() + bell.news.receiver_count() > 0);
        self.count.store(runs.len(), Relaxed);
        runs.keys().copied().collect()
    }

    /// Drops every bell: the runtime is over.
    pub(crate) fn close(&self) {
        let mut runs = self.runs.lock();
        runs.clear();
        self.count.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const RUN: RunKey = RunKey(7);

    fn is_rung(listener: &mut Listener) -> bool {
        listener.rung().now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_ring_before_the_wait_is_heard_and_many_are_one() {
        let bells = Bells::default();
        let mut listener = bells.listen(RUN, Rung::News);
        assert!(!is_rung(&mut listener));
        bells.ring(RUN, Rung::News);
        bells.ring(RUN, Rung::News);
        bells.ring(RunKey(8), Rung::News);
        assert!(is_rung(&mut listener));
        assert!(!is_rung(&mut listener));
        bells.ring_all();
        assert!(is_rung(&mut listener));
    }

    #[tokio::test]
    async fn whoever_waits_for_news_sleeps_through_other_commits_and_whoever_follows_all_hears_each() {
        let bells = Bells::default();
        let (mut news, mut all) = (bells.listen(RUN, Rung::News), bells.listen(RUN, Rung::Commit));
        bells.ring(RUN, Rung::Commit);
        assert!(!is_rung(&mut news) && is_rung(&mut all));
        bells.ring(RUN, Rung::News);
        assert!(is_rung(&mut news) && is_rung(&mut all));
        // What happened is not known.
        bells.seen(&[(RUN, 3)]);
        assert!(is_rung(&mut news) && is_rung(&mut all));
        drop(news);
        assert_eq!(bells.listened(), [RUN]);
    }

    #[tokio::test]
    async fn a_log_that_has_gone_on_rings_and_one_that_stands_does_not() {
        let bells = Bells::default();
        let mut listener = bells.listen(RUN, Rung::News);
        bells.seen(&[(RUN, 3)]);
        assert!(is_rung(&mut listener), "what it was before is not known");
        bells.seen(&[(RUN, 3), (RunKey(8), 1)]);
        assert!(!is_rung(&mut listener));
        bells.seen(&[(RUN, 4)]);
        assert!(is_rung(&mut listener));
    }

    #[tokio::test]
    async fn what_nobody_listens_to_is_forgotten() {
        let bells = Bells::default();
        let listener = bells.listen(RUN, Rung::News);
        let other = bells.listen(RunKey(8), Rung::News);
        drop(other);
        assert_eq!(bells.listened(), [RUN]);
        drop(listener);
        assert_eq!(bells.listened(), []);
        assert_eq!(bells.count.load(Relaxed), 0);
    }
}
