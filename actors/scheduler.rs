//! Scheduler: when things are due. One wheel for the timers of everything in memory, one look-ahead for what sleeps in the
//! store, and the claims, up to the free slots. It never does I/O itself and holds no truth: what it forgets, the next
//! claim or the reconciler finds.
//!
//! Sleepers are claimed a little before they are due (once and up to twice the look-ahead), replayed, and held in the wheel, so that
//! a wave of them costs nothing at the moment at which it breaks but the turns themselves.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture, fut::ActorFutureExt};

use super::{
    backlog::Backlog,
    executor::{Executor, MakeRoom, Reconcile, TimersDue},
    persistence::{Claim, Persistence, Read},
    slots::Slots,
};
use crate::{
    clock::StoreTime,
    config::Config,
    kernel::{
        id::{Attempt, Position, RunKey},
        time::Timestamp,
    },
    registry::Workflows,
    store::{ClaimRequest, Reader},
};

/// The most runs claimed in one commit.
const MOST_CLAIMED: usize = 256;

/// The most runs claimed at once of those that a crash freed, until one of them has progressed: a poison run must not take
/// everything along.
const MOST_FORCED: u32 = 256;

/// The safety net under hints: how often the store is asked although nothing was heard.
pub(crate) const TICK: Duration = Duration::from_secs(5);

/// Something that is due for a run in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer {
    pub(crate) due: Timestamp,
    pub(crate) run: RunKey,
    pub(crate) what: What,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// A sleep is over.
    Sleep(Position),
    /// The next attempt of a call may start: then.
    Retry(Position, Attempt, Timestamp),
    /// An inline step ran out of time: then.
    StepTimeout(Position, Attempt, Timestamp),
    /// The run's own deadline.
    Deadline,
    /// The first turn of a run whose predecessor has failed.
    Begin,
}

/// Arms timers.
///
/// *from* Executor's outbox · *reply* [`TimersDue`] to the Executor · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Arm(pub(crate) Vec<Timer>);

/// Something in the store is due now, or may be.
///
/// *from* Persistence, the door · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Nudge;

/// There may be room for more; and when the first of those is due that were just written or went to sleep.
///
/// *from* Executor · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Room {
    /// Of runs that were never begun: none of them is claimed before.
    pub(crate) due: Option<Timestamp>,
    /// Of runs that went to sleep.
    pub(crate) wake: Option<Timestamp>,
}

/// Leaves what is due to others for so long: this node has more than its share.
///
/// *from* Undertaker · *reply* none · *delivery* nudge · *if lost* the next look
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct GiveWay(pub(crate) Duration);

/// Stops claiming: the node drains.
///
/// *from* the incarnation · *reply* when done · *delivery* ask · *if lost* the drain ends the incarnation anyway
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopClaiming;

/// Links to the Executor; sent once.
///
/// *from* the incarnation · *reply* none · *delivery* ask · *if lost* the incarnation is not started
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Begin(pub(crate) Addr<Executor>);

/// The keeper of due times.
pub(crate) struct Scheduler {
    persistence: Addr<Persistence>,
    executor: Option<Addr<Executor>>,
    config: Arc<Config>,
    workflows: Arc<Workflows>,
    time: Arc<StoreTime>,
    wheel: BinaryHeap<Reverse<Timer>>,
    /// The next `wake_at` in the store of what cannot be claimed ahead, as far as is known…
    next_due: Option<Timestamp>,
    /// …and of what may be.
    next_wake: Option<Timestamp>,
    alarm: Option<(Timestamp, SpawnHandle)>,
    slots: Arc<Slots>,
    backlog: Arc<Backlog>,
    claiming: bool,
    /// It is being read whether anything is due for which there is no room.
    looks: bool,
    /// Something became due while a claim was on its way.
    again: bool,
    /// Nothing is claimed for now: others have less to do.
    gives_way: Option<SpawnHandle>,
    /// It gave way and has not claimed since: it does not do so again before it has. Others may be unable to run what it can.
    gave_way: bool,
    draining: bool,
}

impl Scheduler {
    pub(crate) fn new(
        persistence: Addr<Persistence>,
        config: Arc<Config>,
        workflows: Arc<Workflows>,
        time: Arc<StoreTime>,
        slots: Arc<Slots>,
        backlog: Arc<Backlog>,
    ) -> Scheduler {
        Scheduler {
            persistence,
            executor: None,
            config,
            workflows,
            time,
            wheel: BinaryHeap::new(),
            next_due: None,
            next_wake: None,
            alarm: None,
            slots,
            backlog,
            claiming: false,
            looks: false,
            again: false,
            gives_way: None,
            gave_way: false,
            draining: false,
        }
    }

    /// Sends what is due, claims if something in the store is, and sets the alarm for what comes next.
    fn serve(&mut self, ctx: &mut Context<Self>) {
        let now = self.time.now();
        let mut due = Vec::new();
        while self.wheel.peek().is_some_and(|Reverse(timer)| timer.due <= now) {
            due.extend(self.wheel.pop().map(|Reverse(timer)| timer));
        }
        if let Some(executor) = self.executor.as_ref().filter(|_| !due.is_empty()) {
            failpoint!("scheduler.timers_due");
            executor.do_send(TimersDue(due));
        }
        if self.next_look().is_some_and(|look| look <= now) {
            (self.next_due, self.next_wake) = (None, None);
            self.claim(ctx);
        }
        self.set_alarm(now, ctx);
    }

    fn set_alarm(&mut self, now: Timestamp, ctx: &mut Context<Self>) {
        let timer = self.wheel.peek().map(|Reverse(timer)| timer.due);
        let next = timer.into_iter().chain(self.next_look()).min();
        match (next, &self.alarm) {
            (Some(next), Some((set, _))) if *set <= next && *set > now => {}
            (Some(next), _) => {
                if let Some((_, old)) = self.alarm.take() {
                    ctx.cancel_future(old);
                }
                // Half a millisecond more: the wheel rounds down, and a timer that is a hair early would be armed again.
                let wait = next.since(now) + Duration::from_micros(500);
                let handle = ctx.run_later(wait, |this, ctx| {
                    this.alarm = None;
                    this.serve(ctx);
                });
                self.alarm = Some((next, handle));
            }
            (None, _) => {}
        }
    }

    fn claim(&mut self, ctx: &mut Context<Self>) {
        if self.draining || self.executor.is_none() || self.workflows.is_empty() {
            return;
        }
        if self.claiming {
            self.again = true;
            return;
        }
        if self.gives_way.is_some() {
            self.again = true;
            return;
        }
        let (most, ahead) = self.room_ahead().map_or((MOST_CLAIMED, Duration::ZERO), |most| (most, self.config.horizon()));
        let limit = self.slots.reserve(most.min(MOST_CLAIMED));
        if limit == 0 {
            // Room is told when there is some, and the claim follows then.
            self.again = true;
            return self.make_room(ctx);
        }
        failpoint!("scheduler.before_claim");
        self.claiming = true;
        self.again = false;
        self.gave_way = false;
        let asked_at = self.time.now();
        let request = ClaimRequest {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            ahead,
            forced_limit: MOST_FORCED,
            build: self.config.build,
            workflows: self.workflows.names(),
            queues: self.config.serves.clone(),
            tags: self.config.tags.clone(),
        };
        let asked = self.persistence.send(Claim(request)).into_actor(self);
        ctx.spawn(asked.map(move |answer, this, ctx| {
            this.claiming = false;
            let Ok(Ok(claimed)) = answer else { return this.slots.give_back(limit) };
            tracing::trace!(claimed, ?asked_at, "a claim");
            // What it brought is counted until the Executor holds it.
            this.slots.give_back(limit.saturating_sub(claimed));
            if claimed < limit {
                this.backlog.drained();
            }
            if claimed == limit || this.again {
                this.claim(ctx);
            } else {
                this.look_ahead(asked_at, ahead, ctx);
            }
        }));
    }

    /// Asks the store what comes next, behind what the last claim has looked at. What that has left although it is within its reach
    /// is claimed when it is due, if at all: it was never begun, or cannot run here, and must not keep anyone awake.
    fn look_ahead(&mut self, after: Timestamp, ahead: Duration, ctx: &mut Context<Self>) {
        let horizon = after.after(ahead);
        let read = Read::new(move |reader: Rc<dyn Reader>| async move {
            let next = reader.next_wake(after).await?;
            match next.filter(|next| *next <= horizon) {
                Some(left) if !ahead.is_zero() => Ok((Some(left), reader.next_wake(horizon).await?)),
                _ => Ok((None, next)),
            }
        });
        ctx.spawn(self.persistence.send(read).into_actor(self).map(|answer, this, ctx| {
            if let Ok(Ok((due, wake))) = answer {
                this.comes(due, wake, ctx);
            }
        }));
    }

    /// Something in the store will be due.
    fn comes(&mut self, due: Option<Timestamp>, wake: Option<Timestamp>, ctx: &mut Context<Self>) {
        self.next_due = self.next_due.into_iter().chain(due).min();
        self.next_wake = self.next_wake.into_iter().chain(wake).min();
        self.serve(ctx);
    }

    /// Returns when the store is worth a look.
    fn next_look(&self) -> Option<Timestamp> {
        let ahead = if self.room_ahead().is_some() { self.config.look_ahead } else { Duration::ZERO };
        self.next_due.into_iter().chain(self.next_wake.map(|wake| wake.before(ahead))).min()
    }

    /// Returns how many may be claimed ahead, if it is worth a look. They get no more than half of memory, so that the other half is
    /// always there for what can run at once.
    fn room_ahead(&self) -> Option<usize> {
        let in_flight = self.config.in_flight;
        let room = self.slots.free().saturating_sub(in_flight - in_flight / 2);
        let worth = (in_flight / 8).clamp(1, MOST_CLAIMED);
        (room >= worth && !self.config.look_ahead.is_zero()).then_some(room)
    }

    /// Has room made in memory, if anything in the store is due.
    fn make_room(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.looks, true) {
            return;
        }
        let read = Read::new(|reader: Rc<dyn Reader>| async move { reader.next_wake(Timestamp(i64::MIN)).await });
        ctx.spawn(self.persistence.send(read).into_actor(self).map(|answer, this, _| {
            this.looks = false;
            if let Ok(Ok(Some(first))) = answer
                && first <= this.time.now()
                && let Some(executor) = &this.executor
            {
                executor.do_send(MakeRoom);
            }
        }));
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(TICK, |this, ctx| {
            // The alarm sleeps by a clock that stands still while the machine does.
            this.serve(ctx);
            this.claim(ctx);
            if let Some(executor) = &this.executor {
                executor.do_send(Reconcile);
            }
        });
    }
}

impl Handler<Begin> for Scheduler {
    type Result = ();

    fn handle(&mut self, Begin(executor): Begin, ctx: &mut Context<Self>) {
        self.executor = Some(executor);
        self.claim(ctx);
    }
}

impl Handler<Arm> for Scheduler {
    type Result = ();

    fn handle(&mut self, Arm(timers): Arm, ctx: &mut Context<Self>) {
        self.wheel.extend(timers.into_iter().map(Reverse));
        self.serve(ctx);
    }
}

impl Handler<Nudge> for Scheduler {
    type Result = ();

    fn handle(&mut self, _: Nudge, ctx: &mut Context<Self>) {
        self.claim(ctx);
    }
}

impl Handler<Room> for Scheduler {
    type Result = ();

    fn handle(&mut self, room: Room, ctx: &mut Context<Self>) {
        self.comes(room.due, room.wake, ctx);
        if self.again && !self.claiming {
            self.claim(ctx);
        }
    }
}

impl Handler<GiveWay> for Scheduler {
    type Result = ();

    fn handle(&mut self, GiveWay(pause): GiveWay, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.gave_way, true) {
            return;
        }
        self.gives_way = Some(ctx.run_later(pause, |this, ctx| {
            this.gives_way = None;
            this.claim(ctx);
        }));
    }
}

impl Handler<StopClaiming> for Scheduler {
    type Result = ();

    fn handle(&mut self, _: StopClaiming, _: &mut Context<Self>) {
        self.draining = true;
    }
}
