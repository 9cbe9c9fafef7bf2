//! An activity arbiter: takes one start at a time, polls it once where it is (what is ready then never becomes a task), and
//! hands the results of everything that was to be done in one go. The engine's own arbiter has one as well, for what was
//! registered inline ([`super::inline`]): the same code runs an attempt wherever it is polled.
//!
//! Results lie in an outbox until the run queue has been served, but no longer than a millisecond; should user code block
//! the thread in between, the watch empties the outbox from outside.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use actix::{Arbiter, System};
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Ended, Shared,
    life::Ending,
    panics,
    queue::{Job, JobWork, Parked},
};
use crate::{
    actors::{call::CallContext, handlers::Handle, thread},
    kernel::failure::{Failure, KIND_CANCELLED, KIND_HANDLER_GONE},
};

/// How long an arbiter goes on before it sends what it has, lets others of its tasks run and asks for help, in
/// microseconds.
const TURN_MICROS: u64 = 1_000;

/// A single poll on the engine's arbiter that takes longer than this is warned of, for everybody waits meanwhile; and when polls
/// have held it for longer in all, it comes round before it begins more.
pub(crate) const LONG_MICROS: u64 = 10_000;

/// How often it is warned of at most, in microseconds.
const WARN_EVERY: u64 = 1_000_000;

/// What others may see of an arbiter.
#[derive(Default)]
pub(crate) struct Lane {
    /// It is the engine's: what blocks here holds up all executions, and no line of starts says so.
    pub(crate) of_engine: bool,
    bell: Notify,
    /// Whose code the thread is inside of.
    hand: Mutex<Option<Arc<CallContext>>>,
    /// Grows with each entry into user code: how the watch tells one long stay from many short ones.
    pub(crate) entries: AtomicU64,
    outbox: Mutex<Outbox>,
}

#[derive(Default)]
struct Outbox {
    ended: Vec<Ended>,
    freed: usize,
    /// Boot microseconds of the first entry.
    since: u64,
}

impl Lane {
    /// The lane of the engine's arbiter.
    pub(crate) fn of_engine() -> Arc<Lane> {
        Arc::new(Lane { of_engine: true, ..Lane::default() })
    }

    pub(crate) fn wake(&self) {
        self.bell.notify_one();
    }

    pub(crate) fn is_in_hand(&self) -> bool {
        self.hand.lock().is_some()
    }

    pub(crate) fn in_hand(&self) -> Option<Arc<CallContext>> {
        self.hand.lock().clone()
    }

    pub(crate) fn has_results(&self) -> bool {
        self.outbox.lock().freed > 0
    }

    /// Sends what is in the outbox.
    pub(crate) fn flush(&self, shared: &Arc<Shared>) {
        let outbox = std::mem::take(&mut *self.outbox.lock());
        if !outbox.ended.is_empty() {
            (shared.ended)(outbox.ended);
        }
        if outbox.freed > 0 {
            shared.release(outbox.freed);
        }
    }
}

/// Starts an arbiter.
pub(crate) fn hire(shared: &Arc<Shared>, system: &System) -> io::Result<()> {
    if System::try_current().is_none() {
        System::set_current(system.clone());
    }
    let arbiter = thread::arbiter()?;
    let lane = Arc::new(Lane::default());
    let (mine, theirs, handle) = (lane.clone(), shared.clone(), arbiter.handle());
    // Listed first: what it begins may be seen at once, and whoever sees it counts the arbiters.
    shared.lanes.lock().push((lane, arbiter));
    handle.spawn_fn(move || {
        let handlers = theirs.handlers.lock().iter().map(|(name, handler)| (name.clone(), handler.clone_box())).collect();
        tokio::task::spawn_local(Runner::new(mine, theirs, handlers).run());
    });
    Ok(())
}

/// Handlers of one thread, by stored name.
pub(super) type ByName = HashMap<Arc<str>, Box<dyn Handle + Send>>;

/// What belongs to the thread of one arbiter.
pub(super) struct Runner {
    lane: Arc<Lane>,
    pub(super) shared: Arc<Shared>,
    pub(super) handlers: ByName,
    /// Tasks that are not over.
    live: Cell<usize>,
    /// On the engine's arbiter: for how long polls have held it, in microseconds, since somebody set this to zero.
    pub(super) held: Cell<u64>,
    /// When a long poll was last warned of, and how many have not been since.
    warned: Cell<(u64, u64)>,
}

impl Runner {
    pub(super) fn new(lane: Arc<Lane>, shared: Arc<Shared>, handlers: ByName) -> Rc<Runner> {
        let (live, held, warned) = (Cell::new(0), Cell::new(0), Cell::default());
        Rc::new(Runner { lane, shared, handlers, live, held, warned })
    }

    /// Sends results and takes nothing: for an arbiter that begins what it is handed. It ends with its arbiter.
    pub(super) async fn only_send(self: Rc<Self>) {
        loop {
            self.lane.bell.notified().await;
            self.lane.flush(&self.shared);
        }
    }

    async fn run(self: Rc<Self>) {
        let shared = &self.shared;
        loop {
            let mut since = shared.watch.now();
            while let Some(job) = shared.queue.pop() {
                if let Poll::Ready(ended) = self.begin(job) {
                    self.note(ended);
                }
                if shared.watch.now().saturating_sub(since) > TURN_MICROS {
                    self.lane.flush(shared);
                    if let Some(helper) = shared.queue.helper() {
                        helper.wake();
                    }
                    tokio::task::yield_now().await;
                    since = shared.watch.now();
                }
            }
            self.lane.flush(shared);
            match shared.queue.park(&self.lane) {
                Parked::Work => continue,
                Parked::Closed if self.live.get() == 0 => break,
                Parked::Closed | Parked::Idle => self.lane.bell.notified().await,
            }
        }
        // Stops the arbiter as well: nothing of the pool's is left on it.
        Arbiter::current().stop();
    }

    /// Begins an attempt for which a slot was taken. What is over at once gives the slot back to the caller, with what is to
    /// be told, if anything is; the rest goes on as a task.
    pub(super) fn begin(self: &Rc<Self>, job: Job) -> Poll<Option<Ended>> {
        let Job { cx, work } = job;
        let now = self.shared.watch.now();
        cx.started(now);
        if !cx.life.start(now) {
            return Poll::Ready(None);
        }
        if cx.life.limits.run_out() {
            self.shared.watch.arm(&cx);
        }
        self.enter(&cx);
        // Immediately before the act: a node that has lost its lease starts nothing more.
        if !self.shared.deadline.stands() {
            self.leave();
            tracing::debug!(?cx, "not started: this node may not act any more");
            self.dropped(&cx);
            return Poll::Ready(None);
        }
        let called = self.call(work, &cx);
        self.leave();
        let mut act = match called {
            Ok((body, abortable)) => Act { body: Some(body), abortable, cx, runner: self.clone() },
            Err(failure) => return Poll::Ready(self.shared.conclude(&cx, Err(failure))),
        };
        // No waker is needed: what is not ready is polled again as a task, which registers its own.
        let first = act.advance(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            self.live.set(self.live.get() + 1);
            tokio::task::spawn_local(act);
        }
        first
    }

    /// Calls the code of an attempt; returns its future, and whether that may be dropped before its end.
    fn call(&self, work: JobWork, cx: &Arc<CallContext>) -> Result<(LocalBoxFuture<'static, Ending>, bool), Failure> {
        match work {
            JobWork::Act(act) => Ok((panics::catch(|| act(cx.clone()))?, true)),
            JobWork::Activity { name, input } => match self.handlers.get(&name) {
                Some(handler) => Ok((panics::catch(|| handler.call(input, cx.clone()))?, handler.abortable())),
                None => {
                    let problem =
                        format!("no handler of activity {name:?} is registered here; add `.activity(…)` to the builder");
                    Err(Failure::new(KIND_HANDLER_GONE, problem))
                }
            },
        }
    }

    fn enter(&self, cx: &Arc<CallContext>) {
        *self.lane.hand.lock() = Some(cx.clone());
        self.lane.entries.fetch_add(1, Ordering::SeqCst);
        if self.lane.of_engine {
            // Behind the count, or a watch that is about to lie down would see neither.
            self.shared.watch.attend();
        }
    }

    fn leave(&self) {
        *self.lane.hand.lock() = None;
    }

    /// The code was dropped before its end: because its result was decided elsewhere, or because the node stops.
    fn dropped(&self, cx: &Arc<CallContext>) {
        // With the node the attempt is lost, which is for the next owner to say; nothing is reported.
        if self.shared.conclude(cx, Err(Failure::new(KIND_CANCELLED, "the node stopped"))).is_some() {
            self.shared.attempts.forget(cx);
        }
    }

    /// Puts what is over into the outbox, with its slot.
    fn note(&self, ended: Option<Ended>) {
        self.lane.outbox.lock().note(&self.shared, ended);
    }

    /// A task is over.
    fn over(&self, ended: Option<Ended>) {
        self.live.set(self.live.get() - 1);
        self.note(ended);
    }

    /// Counts a poll on the engine's arbiter, and says whose it was if it was long.
    fn held_since(&self, since: u64, cx: &Arc<CallContext>) {
        let now = self.shared.watch.now();
        let micros = now.saturating_sub(since);
        self.held.set(self.held.get().saturating_add(micros));
        if micros <= LONG_MICROS {
            return;
        }
        let (last, more) = self.warned.get();
        if last != 0 && now.saturating_sub(last) < WARN_EVERY {
            return self.warned.set((last, more + 1));
        }
        self.warned.set((now, 0));
        tracing::warn!(
            ?cx,
            held_ms = micros / 1000,
            more,
            "a single poll of this inline activity held up all executions; what takes long or blocks belongs into `.activity(…)`"
        );
    }
}

impl Outbox {
    fn note(&mut self, shared: &Shared, ended: Option<Ended>) {
        if self.freed == 0 {
            self.since = shared.watch.now();
        }
        self.freed += 1;
        self.ended.extend(ended);
    }
}

/// One attempt's code.
struct Act {
    body: Option<LocalBoxFuture<'static, Ending>>,
    abortable: bool,
    cx: Arc<CallContext>,
    runner: Rc<Runner>,
}

impl Act {
    fn advance(&mut self, task: &mut Context<'_>) -> Poll<Option<Ended>> {
        if !self.runner.lane.of_engine {
            return self.poll_body(task);
        }
        let since = self.runner.shared.watch.now();
        let polled = self.poll_body(task);
        self.runner.held_since(since, &self.cx);
        polled
    }

    /// Polls the code; when it is over, returns what is to be told.
    fn poll_body(&mut self, task: &mut Context<'_>) -> Poll<Option<Ended>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        self.runner.enter(&self.cx);
        let aborted = self.abortable && self.cx.life.is_aborted();
        let polled = if aborted { Ok(Poll::Pending) } else { panics::catch(|| body.as_mut().poll(task)) };
        if matches!(polled, Ok(Poll::Pending)) && !aborted {
            self.runner.leave();
            return Poll::Pending;
        }
        // The result is told once the user's values are gone, whatever their destructors do.
        panics::discard(self.body.take());
        self.runner.leave();
        let shared = &self.runner.shared;
        Poll::Ready(match polled {
            Ok(Poll::Ready(ending)) => shared.conclude(&self.cx, ending),
            Ok(Poll::Pending) => {
                self.runner.dropped(&self.cx);
                None
            }
            Err(failure) => shared.conclude(&self.cx, Err(failure)),
        })
    }
}

impl Future for Act {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        // Before the look at the flag, or an abort between the two would wake nobody.
        self.cx.life.task.register(task.waker());
        let this = &mut *self;
        let Poll::Ready(ended) = this.advance(task) else { return Poll::Pending };
        this.runner.over(ended);
        let (lane, shared) = (&this.runner.lane, &this.runner.shared);
        let since = lane.outbox.lock().since;
        if shared.watch.now().saturating_sub(since) > TURN_MICROS {
            lane.flush(shared);
        }
        // The runner's turn comes behind everything that is in the run queue at this moment.
        lane.wake();
        shared.watch.attend();
        Poll::Ready(())
    }
}

impl Drop for Act {
    /// The arbiter was stopped under the pool (the program's actor system is gone).
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            panics::discard(body);
            self.runner.dropped(&self.cx);
            self.runner.over(None);
            // The runner is gone as well, or will never have a turn again.
            self.runner.lane.flush(&self.runner.shared);
        }
    }
}
