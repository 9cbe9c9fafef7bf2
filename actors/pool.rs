//! Where activities run: arbiters of their own, apart from the engine's, so that user code that blocks delays nobody.
//!
//! ```text
//! engine ──start(Vec)──▶ line of starts ──one at a time──▶ arbiter ──outbox──▶ ended(Vec)
//!                              ▲                              │
//!                            watch: limits, late arbiters, heartbeats
//! ```
//!
//! What was registered inline is begun where its execution lives instead ([`inline`]), by the same runner, under the same
//! limits and out of the same slots.
//!
//! What began is listed in [`Attempts`], which outlives every actor except the incarnation. Slots bound what is under way;
//! the rest waits in the line, in order.

pub(crate) mod attempts;
mod blocking;
pub(crate) mod inline;
pub(crate) mod life;
pub(crate) mod panics;
mod probe;
mod queue;
mod runner;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::{
    io,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use actix::{Arbiter, System};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    attempts::{Attempts, Begun},
    life::{Ending, Life},
    queue::{BlockingJob, Job, JobWork, Queue, Wake},
    runner::Lane,
    watch::Watch,
};
use super::{call::CallContext, deadline::Deadline, handlers::Handle};
use crate::{
    clock::Clock,
    kernel::{
        failure::{Failure, KIND_CANCELLED},
        id::{Attempt, Epoch, Position, RunId, RunKey},
        payload::Payload,
    },
};

/// An async closure that is called once, on an activity arbiter.
pub(crate) type ActFn = Box<dyn FnOnce(Arc<CallContext>) -> LocalBoxFuture<'static, Ending> + Send>;

/// A closure that may block.
pub(crate) type BlockingFn = Arc<dyn Fn() -> Ending + Send + Sync>;

/// An attempt whose intent is on disk.
pub(crate) struct Start {
    pub(crate) run: RunKey,
    pub(crate) id: Arc<RunId>,
    pub(crate) position: Position,
    pub(crate) attempt: Attempt,
    pub(crate) epoch: Epoch,
    pub(crate) work: Work,
    pub(crate) limits: Limits,
    /// Heartbeat details of the attempt before.
    pub(crate) details: Option<Bytes>,
}

/// What an attempt does.
pub(crate) enum Work {
    /// A registered activity, on an activity arbiter.
    Activity { name: Arc<str>, input: Payload },
    /// A closure of the workflow's, on an activity arbiter.
    Act(ActFn),
    /// A closure of the workflow's, on a thread for what blocks.
    Blocking(BlockingFn),
}

/// The limits of one attempt, counted from `Pool::start` or from its beginning.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Limits {
    /// What is left of schedule-to-start.
    pub(crate) schedule_to_start: Option<Duration>,
    /// From its beginning.
    pub(crate) start_to_close: Option<Duration>,
    /// What is left of schedule-to-close.
    pub(crate) close_by: Option<Duration>,
    /// The longest silence.
    pub(crate) heartbeat: Option<Duration>,
}

impl Limits {
    /// Tells whether an attempt that has begun can run out of any.
    fn run_out(&self) -> bool {
        self.start_to_close.is_some() || self.close_by.is_some() || self.heartbeat.is_some()
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) run: RunKey,
    pub(crate) position: Position,
    pub(crate) attempt: Attempt,
    pub(crate) result: Ending,
}

impl Ended {
    fn of(cx: &CallContext, result: Ending) -> Ended {
        Ended { run: cx.run, position: cx.position, attempt: cx.attempt, result }
    }
}

/// Heartbeat details to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) run: RunKey,
    pub(crate) position: Position,
    pub(crate) attempt: Attempt,
    pub(crate) details: Bytes,
}

/// Sizes and times of a pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    /// Arbiters from the start.
    pub(crate) arbiters: usize,
    /// Arbiters at most, should user code block them.
    pub(crate) arbiters_max: usize,
    /// Attempts under way at once.
    pub(crate) slots: usize,
    /// Threads for blocking closures.
    pub(crate) blocking_threads: usize,
    /// How long the line of starts may stand before all arbiters count as late.
    pub(crate) late_after: Duration,
    /// From the request to stop until the future is dropped.
    pub(crate) cancel_grace: Duration,
    /// How often heartbeat details are stored at most, without a heartbeat limit.
    pub(crate) heartbeat_flush: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            arbiters: thread::available_parallelism().map_or(1, usize::from),
            arbiters_max: 64,
            slots: 1000,
            blocking_threads: 64,
            late_after: Duration::from_millis(50),
            cancel_grace: Duration::from_secs(5),
            heartbeat_flush: Duration::from_secs(5),
        }
    }
}

/// Who handles which activity, by stored name.
pub(crate) type Handlers = Vec<(Arc<str>, Box<dyn Handle + Send>)>;
/// Where results go; called on any thread, also from within [`Pool::start`] and [`Pool::cancel`].
pub(crate) type EndedFn = Arc<dyn Fn(Vec<Ended>) + Send + Sync>;
/// Where heartbeat details go; called on the watching thread.
pub(crate) type BeatsFn = Arc<dyn Fn(Vec<Beat>) + Send + Sync>;

/// How busy a pool is.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Slots in use.
    pub(crate) running: usize,
    /// Attempts that wait for an arbiter or a slot.
    pub(crate) waiting: usize,
    /// Arbiters that are there.
    pub(crate) arbiters: usize,
}

/// What all threads of a pool share.
pub(crate) struct Shared {
    config: PoolConfig,
    deadline: Deadline,
    attempts: Arc<Attempts>,
    queue: Queue,
    watch: Arc<Watch>,
    lanes: Mutex<Vec<(Arc<Lane>, Arbiter)>>,
    /// The engine's own arbiter, once something is polled there.
    of_engine: OnceLock<Arc<Lane>>,
    handlers: Mutex<Handlers>,
    ended: EndedFn,
    beats: BeatsFn,
    /// All slots are free.
    drained: Notify,
}

impl Shared {
    /// Lists an attempt that is to begin. One that is there already does not begin again: if it has ended, the error is its
    /// result, to be told once more.
    fn list(&self, start: Start) -> Result<(Arc<CallContext>, Work), Option<Ended>> {
        let Start { run, id, position, attempt, epoch, work, limits, details } = start;
        let mut cx = CallContext::new(run, id, position, attempt, epoch, details);
        cx.life = Life::watched(limits, self.watch.clone());
        if let Work::Activity { name, .. } = &work {
            cx.activity = Some(name.clone());
        }
        let cx = Arc::new(cx);
        match self.attempts.begin(&cx) {
            Begun::New => {}
            Begun::There(there) => {
                let ending = there.life.ending().filter(|_| there.attempt == cx.attempt);
                return Err(ending.map(|ending| Ended::of(&there, ending.clone())));
            }
            Begun::Instead(before) => self.supersede(&before),
        }
        Ok((cx, work))
    }

    /// The log says that an earlier attempt is over, but it is not: it must stop, and nobody waits for it.
    fn supersede(&self, before: &Arc<CallContext>) {
        tracing::warn!(?before, "a later attempt begins while this one has not ended");
        let over = || Err(Failure::new(KIND_CANCELLED, "a later attempt took its place"));
        if !before.life.settle_queued(over()) && self.attempts.abandon(before, over()) {
            before.cancel(self.watch.now());
            before.life.abort();
        }
        self.watch.disarm(before);
    }

    /// Settles an attempt whose code is over; `None` when it was settled without it.
    fn conclude(&self, cx: &CallContext, ending: Ending) -> Option<Ended> {
        self.watch.disarm(cx);
        let ended = Ended::of(cx, ending.clone());
        if cx.life.settle(ending) {
            return Some(ended);
        }
        self.attempts.abandoned_ended(cx.run);
        None
    }

    /// Takes an attempt off the table that was about to begin.
    fn never_begun(&self, cx: &Arc<CallContext>) {
        if self.conclude(cx, Err(Failure::new(KIND_CANCELLED, "the node may not act any more"))).is_some() {
            self.attempts.forget(cx);
        }
    }

    fn release(self: &Arc<Self>, slots: usize) {
        let (wake, all_free) = self.queue.release(slots);
        self.wake(wake);
        if all_free {
            self.drained.notify_waiters();
        }
    }

    fn wake(self: &Arc<Self>, wake: Wake) {
        wake.lanes.iter().for_each(|lane| lane.wake());
        if wake.hire_blocking {
            blocking::hire(self);
        }
    }

    async fn drained(&self) {
        loop {
            let free = self.drained.notified();
            tokio::pin!(free);
            free.as_mut().enable();
            if self.queue.look().taken == 0 {
                return;
            }
            free.await;
        }
    }
}

/// After an abort, how long the dropping of futures is waited for.
const ABORT_SETTLES: Duration = Duration::from_millis(250);
/// How long a thread without work may take to end.
const JOIN_WITHIN: Duration = Duration::from_secs(1);

/// The activity side of the Executor.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts the arbiters; must be called where an actor system runs.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn new(
        handlers: Handlers,
        config: PoolConfig,
        deadline: Deadline,
        clock: Arc<dyn Clock>,
        ended: EndedFn,
        beats: BeatsFn,
    ) -> io::Result<Pool> {
        panics::install();
        let system = System::try_current().ok_or_else(|| io::Error::other("there is no actor system on this thread"))?;
        let shared = Arc::new(Shared {
            queue: Queue::new(config.slots, config.blocking_threads),
            watch: Arc::new(Watch::new(clock, &config)),
            attempts: Arc::default(),
            lanes: Mutex::default(),
            of_engine: OnceLock::new(),
            handlers: Mutex::new(handlers),
            drained: Notify::new(),
            config,
            deadline,
            ended,
            beats,
        });
        let pool = Pool { shared };
        for _ in 0..pool.shared.config.arbiters.max(1) {
            runner::hire(&pool.shared, &system)?;
        }
        let theirs = pool.shared.clone();
        thread::Builder::new().name("stent-watch".to_owned()).spawn(move || probe::watch(&theirs, &system))?;
        Ok(pool)
    }

    /// Starts attempts, in order. One that is there already is not started again: if it has ended, its result is told
    /// again, otherwise it will be told when it does.
    pub(crate) fn start(&self, starts: Vec<Start>) {
        let shared = &self.shared;
        let (mut jobs, mut blocking, mut again) = (Vec::with_capacity(starts.len()), Vec::new(), Vec::new());
        for start in starts {
            let limits = start.limits;
            let (cx, work) = match shared.list(start) {
                Ok(listed) => listed,
                Err(told) => {
                    again.extend(told);
                    continue;
                }
            };
            if limits.schedule_to_start.is_some() || limits.close_by.is_some() {
                shared.watch.arm(&cx);
            }
            match work {
                Work::Activity { name, input } => jobs.push(Job { cx, work: JobWork::Activity { name, input } }),
                Work::Act(act) => jobs.push(Job { cx, work: JobWork::Act(act) }),
                Work::Blocking(work) => blocking.push(BlockingJob { cx, work }),
            }
        }
        if !jobs.is_empty() || !blocking.is_empty() {
            match shared.queue.push(jobs, blocking) {
                Ok(wake) => shared.wake(wake),
                Err((jobs, blocking)) => {
                    let refused = jobs.into_iter().map(|job| job.cx).chain(blocking.into_iter().map(|job| job.cx));
                    self.forget(refused);
                }
            }
            shared.watch.attend();
        }
        if !again.is_empty() {
            (shared.ended)(again);
        }
    }

    fn forget(&self, never_begun: impl IntoIterator<Item = Arc<CallContext>>) {
        for cx in never_begun {
            if cx.life.settle_queued(Err(Failure::new(KIND_CANCELLED, "the node stopped"))) {
                self.shared.watch.disarm(&cx);
                self.shared.attempts.forget(&cx);
            }
        }
    }

    /// Takes back what a run has in the line: it was never begun, and is begun again by whoever starts it anew.
    pub(crate) fn take_back(&self, run: RunKey) {
        self.forget(self.shared.attempts.of(run));
    }

    /// Asks an attempt to stop. In the line it ends at once; under way it is dropped after the grace.
    pub(crate) fn cancel(&self, run: RunKey, position: Position) {
        if let Some(cx) = self.shared.attempts.get(run, position) {
            self.cancel_one(&cx);
        }
    }

    /// Asks all attempts of a run to stop.
    pub(crate) fn cancel_run(&self, run: RunKey) {
        self.shared.attempts.of(run).iter().for_each(|cx| self.cancel_one(cx));
    }

    fn cancel_one(&self, cx: &Arc<CallContext>) {
        let shared = &self.shared;
        let ending = Err(Failure::new(KIND_CANCELLED, "cancelled before it began").into_final());
        if cx.life.settle_queued(ending.clone()) {
            shared.watch.disarm(cx);
            (shared.ended)(vec![Ended::of(cx, ending)]);
        } else if !cx.life.is_settled() && cx.cancel(shared.watch.now()) {
            shared.watch.arm(cx);
        }
    }

    /// Returns how many more attempts could begin now.
    pub(crate) fn room(&self) -> usize {
        let look = self.shared.queue.look();
        self.shared.config.slots.saturating_sub(look.taken + look.waiting)
    }

    pub(crate) fn attempts(&self) -> &Arc<Attempts> {
        &self.shared.attempts
    }

    /// Tells whether nothing waits and nothing is under way.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> bool {
        let look = self.shared.queue.look();
        look.taken == 0 && look.waiting == 0
    }

    #[cfg(test)]
    pub(crate) fn load(&self) -> Load {
        let look = self.shared.queue.look();
        Load { running: look.taken, waiting: look.waiting, arbiters: self.shared.lanes.lock().len() }
    }

    /// Stops: begins nothing more, asks everything to stop, drops after the grace what can be dropped, joins the threads.
    /// Returns the runs whose code is still under way all the same; [`Pool::drained`] tells when it has ended.
    ///
    /// An attempt that is dropped here is lost with the node, not failed: nothing is told of it.
    pub(crate) async fn stop(&self, grace: Duration) -> Vec<RunKey> {
        let shared = &self.shared;
        self.close();
        let now = shared.watch.now();
        // Without an alarm: it is this grace that counts.
        shared.attempts.all_running().iter().for_each(|cx| _ = cx.cancel(now));
        if tokio::time::timeout(grace, shared.drained()).await.is_err() {
            shared.attempts.all_running().iter().for_each(|cx| cx.life.abort());
            let _ = tokio::time::timeout(ABORT_SETTLES, shared.drained()).await;
        }
        let left = shared.attempts.running();
        let lanes = std::mem::take(&mut *shared.lanes.lock());
        if left.is_empty() {
            let joined = join(lanes.into_iter().map(|(_, arbiter)| arbiter).collect());
            let _ = tokio::time::timeout(JOIN_WITHIN, joined).await;
            shared.watch.close();
        } else {
            tracing::warn!(runs = left.len(), "some activities cannot be stopped; their runs are not released");
        }
        left
    }

    /// Waits until no code of an activity is under way.
    #[cfg(test)]
    pub(crate) async fn drained(&self) {
        self.shared.drained().await;
    }

    /// Begins nothing more; an arbiter ends when its last future has.
    fn close(&self) {
        self.forget(self.shared.queue.close());
        self.shared.lanes.lock().iter().for_each(|(lane, _)| lane.wake());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
        self.shared.attempts.all_running().iter().for_each(|cx| cx.life.abort());
        self.shared.watch.close();
    }
}

/// Joins arbiters on a thread that may wait for ever, so that the caller need not.
async fn join(arbiters: Vec<Arbiter>) {
    let (done, all) = tokio::sync::oneshot::channel();
    let joiner = move || {
        arbiters.into_iter().for_each(|arbiter| _ = arbiter.join());
        let _ = done.send(());
    };
    if thread::Builder::new().name("stent-join".to_owned()).spawn(joiner).is_ok() {
        let _ = all.await;
    }
}
