//! An activity arbiter: takes one start at a time, polls it once where it is (what is ready then never becomes a task), and
//! hands the results of everything that was to be done in one go.
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

/// What others may see of an arbiter.
#[derive(Default)]
pub(crate) struct Lane {
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
    let (mine, theirs) = (lane.clone(), shared.clone());
    arbiter.spawn_fn(move || {
        let handlers = theirs.handlers.lock().iter().map(|(name, handler)| (name.clone(), handler.clone_box())).collect();
        let runner = Rc::new(Runner { lane: mine, shared: theirs, handlers, live: Cell::new(0) });
        tokio::task::spawn_local(runner.run());
    });
    shared.lanes.lock().push((lane, arbiter));
    Ok(())
}

/// What belongs to the thread of one arbiter.
struct Runner {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    handlers: HashMap<Arc<str>, Box<dyn Handle + Send>>,
    /// Futures that are not over.
    live: Cell<usize>,
}

impl Runner {
    async fn run(self: Rc<Self>) {
        let shared = &self.shared;
        loop {
            let mut since = shared.watch.now();
            while let Some(job) = shared.queue.pop() {
                self.begin(job);
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

    /// Begins an attempt for which a slot was taken.
    fn begin(self: &Rc<Self>, job: Job) {
        let Job { cx, work } = job;
        let now = self.shared.watch.now();
        cx.started(now);
        if !cx.life.start(now) {
            return self.free_slot();
        }
        self.live.set(self.live.get() + 1);
        if cx.life.limits.run_out() {
            self.shared.watch.arm(&cx);
        }
        self.enter(&cx);
        // Immediately before the act: a node that has lost its lease starts nothing more.
        if !self.shared.deadline.stands() {
            self.leave();
            return self.never_begun(&cx);
        }
        let called = self.call(work, &cx);
        self.leave();
        let mut act = match called {
            Ok((body, abortable)) => Act { body: Some(body), abortable, cx, runner: self.clone() },
            Err(failure) => return self.end(&cx, Err(failure)),
        };
        // No waker is needed: what is not ready is polled again as a task, which registers its own.
        if act.advance(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::task::spawn_local(act);
        }
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
        self.lane.entries.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self) {
        *self.lane.hand.lock() = None;
    }

    /// Takes note of how an attempt ended; its code is over.
    fn end(&self, cx: &Arc<CallContext>, ending: Ending) {
        let ended = self.shared.conclude(cx, ending);
        self.over(ended);
    }

    /// The code was dropped before its end: because its result was decided elsewhere, or because the node stops.
    fn dropped(&self, cx: &Arc<CallContext>) {
        // With the node the attempt is lost, which is for the next owner to say; nothing is reported.
        if self.shared.conclude(cx, Err(Failure::new(KIND_CANCELLED, "the node stopped"))).is_some() {
            self.shared.attempts.forget(cx);
        }
        self.over(None);
    }

    /// The act did not happen and will not.
    fn never_begun(&self, cx: &Arc<CallContext>) {
        tracing::debug!(?cx, "not started: this node may not act any more");
        self.dropped(cx);
    }

    fn over(&self, ended: Option<Ended>) {
        self.live.set(self.live.get() - 1);
        let mut outbox = self.lane.outbox.lock();
        outbox.note(&self.shared, ended);
    }

    fn free_slot(&self) {
        self.lane.outbox.lock().note(&self.shared, None);
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
    fn advance(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(());
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
        match polled {
            Ok(Poll::Ready(ending)) => self.runner.end(&self.cx, ending),
            Ok(Poll::Pending) => self.runner.dropped(&self.cx),
            Err(failure) => self.runner.end(&self.cx, Err(failure)),
        }
        Poll::Ready(())
    }
}

impl Future for Act {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        // Before the look at the flag, or an abort between the two would wake nobody.
        self.cx.life.task.register(task.waker());
        let this = &mut *self;
        let polled = this.advance(task);
        if polled.is_ready() {
            let (lane, shared) = (&this.runner.lane, &this.runner.shared);
            let since = lane.outbox.lock().since;
            if shared.watch.now().saturating_sub(since) > TURN_MICROS {
                lane.flush(shared);
            }
            // The runner's turn comes behind everything that is in the run queue at this moment.
            lane.wake();
            shared.watch.attend();
        }
        polled
    }
}

impl Drop for Act {
    /// The arbiter was stopped under the pool (the program's actor system is gone).
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            panics::discard(body);
            self.runner.dropped(&self.cx);
            // The runner is gone as well, or will never have a turn again.
            self.runner.lane.flush(&self.runner.shared);
        }
    }
}
