//! What the Executor and its executions share on their arbiter: the outbox, the table of settled runs, the pool, the clock.
//!
//! Nothing is ever sent across threads one by one: items, timers and attempts of everyone on this arbiter collect in the
//! outbox and leave in one `Vec` each, when the run queue has been served, or before that, when there are many: the others
//! have work while this arbiter goes on with its own.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use actix::Addr;

use super::{
    bells::Bells,
    deadline::Deadline,
    executor::{Executor, FlushPanicked, Left},
    foreman::{Foreman, Look},
    lingering::Lingering,
    notifier::{Notifier, Tell},
    persistence::{Persistence, Submit, Whom},
    pool::{Ended, Pool, Start, inline::Inline},
    resting::Resting,
    scheduler::{Arm, Scheduler, Timer},
    slots::Slots,
    stats::Counters,
    steward::{Serve, Steward},
    waiters::Waiters,
};
use crate::{
    clock::StoreTime,
    config::Config,
    hints::Hint,
    kernel::{
        Blocked,
        id::{Incarnation, Position, RunKey},
        instance::panic_text,
        memo::MemoKey,
        run::{Decision, Run, Writer},
    },
    registry::Workflows,
    store::{Item, Transactions},
};

/// Shared by all actors of one engine arbiter.
pub(crate) struct Engine {
    pub(crate) config: Arc<Config>,
    pub(crate) incarnation: Incarnation,
    pub(crate) workflows: Arc<Workflows>,
    pub(crate) activities: Arc<std::collections::HashSet<String>>,
    pub(crate) time: Arc<StoreTime>,
    pub(crate) deadline: Deadline,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) pool: Arc<Pool>,
    inline: Inline,
    /// What former lives have left under way.
    pub(crate) lingering: Arc<Lingering>,
    pub(crate) persistence: Addr<Persistence>,
    pub(crate) scheduler: Addr<Scheduler>,
    /// The Executor on this arbiter, for the ends of executions.
    pub(crate) executor: Addr<Executor>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slots: Arc<Slots>,
    /// Tells whether calls of a queue go through the store.
    pub(crate) is_shared: Box<dyn Fn(&str) -> bool>,
    /// Who runs what is in shared queues, once it is there.
    pub(crate) foreman: OnceCell<Addr<Foreman>>,
    /// Who sees to shared results, once it is there.
    pub(crate) steward: OnceCell<Addr<Steward>>,
    /// How the store runs transactional steps, if it can.
    pub(crate) transactions: Option<Arc<dyn Transactions>>,
    /// Where hints for other nodes go, once it is there.
    pub(crate) notifier: OnceCell<Addr<Notifier>>,
    /// Those of this arbiter that only wait.
    pub(crate) resting: Resting,
    /// The node is about to leave: nothing new is begun, what is quiet goes.
    pub(crate) draining: Cell<bool>,
    /// Run keys that were reserved and are not given away yet; ascending.
    keys: RefCell<Range<i64>>,
    outbox: RefCell<Outbox>,
    flushing: Cell<bool>,
}

/// So many items, or starts, do not wait for the rest of the run queue. Measured on two cores with `bench chain`: fewer cost more
/// messages and commits than they gain.
const MANY: usize = 128;

#[derive(Default)]
struct Outbox {
    items: Vec<(Item, Whom)>,
    timers: Vec<Timer>,
    starts: Vec<Start>,
    left: Vec<Left>,
    hints: Vec<Hint>,
    /// Queues into which something was put.
    queues: BTreeSet<String>,
    /// Keys of shared results about which a commit has done something.
    memos: Vec<MemoKey>,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "the links of one arbiter, given once")]
    pub(crate) fn new(
        config: Arc<Config>,
        incarnation: Incarnation,
        workflows: Arc<Workflows>,
        activities: Arc<std::collections::HashSet<String>>,
        time: Arc<StoreTime>,
        deadline: Deadline,
        waiters: Arc<Waiters>,
        bells: Arc<Bells>,
        pool: Arc<Pool>,
        lingering: Arc<Lingering>,
        persistence: Addr<Persistence>,
        scheduler: Addr<Scheduler>,
        executor: Addr<Executor>,
        counters: Arc<Counters>,
        slots: Arc<Slots>,
        is_shared: Box<dyn Fn(&str) -> bool>,
        transactions: Option<Arc<dyn Transactions>>,
    ) -> Rc<Engine> {
        Rc::new(Engine {
            config,
            incarnation,
            workflows,
            activities,
            time,
            deadline,
            waiters,
            bells,
            inline: Inline::new(&pool),
            pool,
            lingering,
            persistence,
            scheduler,
            executor,
            counters,
            slots,
            is_shared,
            foreman: OnceCell::new(),
            steward: OnceCell::new(),
            transactions,
            notifier: OnceCell::new(),
            resting: Resting::default(),
            draining: Cell::new(false),
            keys: RefCell::new(0..0),
            outbox: RefCell::default(),
            flushing: Cell::new(false),
        })
    }

    pub(crate) fn writer(&self, epoch: u64) -> Writer<'_> {
        Writer { incarnation: self.incarnation, epoch, build: self.config.build, is_shared: &*self.is_shared }
    }

    /// Returns the report of a turn that needs an activity or a workflow which is not here: found at the first run, not at a retry.
    pub(crate) fn lacks(&self, run: &Run, decision: &Decision) -> Option<Blocked> {
        let child = decision.starts.iter().find(|child| self.workflows.get(&child.workflow, child.version).is_none());
        let activity = decision.activities(&*self.is_shared).find(|name| !self.activities.contains(*name));
        activity.map(|name| run.unregistered(name)).or_else(|| child.map(|child| run.unregistered_child(child)))
    }

    /// Gives so many run keys away; returns the first, or `None` if there are not so many.
    pub(crate) fn take_keys(&self, count: usize) -> Option<i64> {
        let mut keys = self.keys.borrow_mut();
        let count = i64::try_from(count).ok().filter(|count| *count <= keys.end - keys.start)?;
        keys.start += count;
        Some(keys.start - count)
    }

    /// Returns how many run keys are left.
    pub(crate) fn keys_left(&self) -> i64 {
        let keys = self.keys.borrow();
        keys.end - keys.start
    }

    /// Takes a fresh block of run keys. What is left of the old one is given up: gaps harm nobody, disorder would.
    pub(crate) fn renew_keys(&self, keys: Range<i64>) {
        *self.keys.borrow_mut() = keys;
    }

    /// Hands an item to Persistence with the next flush.
    pub(crate) fn record(self: &Rc<Self>, item: Item, whom: Whom) {
        let mut outbox = self.outbox.borrow_mut();
        outbox.items.push((item, whom));
        let many = outbox.items.len() >= MANY;
        drop(outbox);
        self.flush_now_or_soon(many);
    }

    /// Arms a timer with the next flush.
    pub(crate) fn arm(self: &Rc<Self>, timer: Timer) {
        self.outbox.borrow_mut().timers.push(timer);
        self.flush_soon();
    }

    /// Starts an attempt: one that is inline here and now, which may give its result at once, any other with the next flush.
    pub(crate) fn start(self: &Rc<Self>, start: Start) -> Option<Ended> {
        match self.inline.start(start) {
            Ok(ended) => ended,
            Err(start) => {
                let mut outbox = self.outbox.borrow_mut();
                outbox.starts.push(start);
                let many = outbox.starts.len() >= MANY;
                drop(outbox);
                self.flush_now_or_soon(many);
                None
            }
        }
    }

    /// Takes a start back that has not left yet; tells whether there was one.
    pub(crate) fn withdraw(&self, run: RunKey, position: Position) -> bool {
        let starts = &mut self.outbox.borrow_mut().starts;
        let before = starts.len();
        starts.retain(|start| (start.run, start.position) != (run, position));
        starts.len() < before
    }

    /// Takes all starts of a run back that have not left yet: the run leaves, and they were never begun.
    pub(crate) fn withdraw_all(&self, run: RunKey) {
        self.outbox.borrow_mut().starts.retain(|start| start.run != run);
    }

    /// Tells the Executor, with the next flush, that an execution is no longer in memory.
    pub(crate) fn leave(self: &Rc<Self>, left: Left) {
        self.outbox.borrow_mut().left.push(left);
        self.flush_soon();
    }

    /// Tells the other nodes something with the next flush, if there are any.
    pub(crate) fn hint(self: &Rc<Self>, hint: Hint) {
        if !self.counters.is_alone() {
            self.outbox.borrow_mut().hints.push(hint);
            self.flush_soon();
        }
    }

    /// Says, with the next flush, that something was put into a queue.
    pub(crate) fn queued(self: &Rc<Self>, queue: &str) {
        self.outbox.borrow_mut().queues.insert(queue.to_owned());
        self.flush_soon();
    }

    /// Says, with the next flush, that there may be something to do about these keys.
    pub(crate) fn shared(self: &Rc<Self>, keys: impl Iterator<Item = MemoKey>) {
        self.outbox.borrow_mut().memos.extend(keys);
        self.flush_soon();
    }

    fn flush_soon(self: &Rc<Self>) {
        if !self.flushing.replace(true) {
            let engine = self.clone();
            // A task at the end of the run queue: everything that is ready runs first and adds to the outbox.
            actix_rt::spawn(async move {
                tokio::task::yield_now().await;
                engine.flushing.set(false);
                engine.inline.came_round();
                engine.flush_watched();
            });
        }
    }

    fn flush_now_or_soon(self: &Rc<Self>, now: bool) {
        if now { self.flush_watched() } else { self.flush_soon() }
    }

    /// Nobody watches the task of a flush, and a run in whose turn it happens is not to blame. A flush that was not finished leaves
    /// an outbox that nobody would ever empty again, so the Executor, which is watched, dies of it.
    fn flush_watched(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.flush())) {
            self.executor.do_send(FlushPanicked(panic_text(&*panic)));
        }
    }

    fn flush(&self) {
        failpoint!("executor.before_flush");
        let Outbox { items, timers, starts, left, mut hints, queues, memos } = std::mem::take(&mut *self.outbox.borrow_mut());
        if !items.is_empty() {
            self.persistence.do_send(Submit(items));
        }
        if !starts.is_empty() {
            self.pool.start(starts);
        }
        if !timers.is_empty() {
            self.scheduler.do_send(Arm(timers));
        }
        if !queues.is_empty() {
            if let Some(foreman) = self.foreman.get() {
                foreman.do_send(Look { certain: true });
            }
            if !self.counters.is_alone() {
                hints.extend(queues.into_iter().map(|queue| Hint::Tasks { queue }));
            }
        }
        if let Some(steward) = self.steward.get().filter(|_| !memos.is_empty()) {
            steward.do_send(Serve(memos));
        }
        if let Some(notifier) = self.notifier.get().filter(|_| !hints.is_empty()) {
            notifier.do_send(Tell(hints));
        }
        if !left.is_empty() {
            self.executor.do_send(super::executor::ExecutionsLeft(left));
        }
    }
}
