//! Timekeeper: fires what is due of the schedules and gates, and carries out what is asked of them. Every node has one, and each looks for itself:
//! a row is replaced only by whoever has seen it as it is, so of those who fire the same instant one does, and the others find it
//! fired.
//!
//! It holds no truth and needs no hints. An idle node asks the store once in five seconds what is due until it asks again, and
//! otherwise sleeps until then; while something waits for the end of a run, it asks once a second whether that has come.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture, fut::ActorFutureExt};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use self::gates::Asking;
use super::{
    asked,
    door::Door,
    persistence::{Persistence, Read, ReserveKeys, Submit, Whom},
    scheduler::{Nudge, Scheduler},
};
use crate::{
    error::{Error, ScheduleError},
    gate::is_gate,
    kernel::{
        event::{RunRetry, Started},
        id::{Incarnation, RunId, RunKey},
        limits::Limits,
        run::Writer,
        time::Timestamp,
    },
    schedule::{Decided, Known, Order, Row, Triggered, decide, guarded},
    store::{Item, NewRun, Outcome, Reader, ScheduleChange, StoreError},
};

mod gates;

pub(crate) use gates::Admit;

/// The longest between two looks: until then a schedule that another node has made or changed may not be noticed here.
const TICK: Duration = Duration::from_secs(5);

/// The same while something waits for the end of a run, and behind what could not be fired.
const SOON: Duration = Duration::from_secs(1);

/// What could not be fired is tried again after a second, then after twice as long each time, and at the latest after so long.
const LONGEST_REST: Duration = Duration::from_secs(16);

/// So many schedules are looked at in one page, beside those that could not be fired…
const MOST: u32 = 256;

/// …and so many fired at once: then their commits are one.
const AT_ONCE: usize = 64;

/// So often a store that is busy is asked for keys again; with growing pauses, ten seconds in all.
const MOST_WAITS: u32 = 20;

/// So many keys of runs are reserved at once.
const KEYS: usize = 64;

/// Carries out what somebody wants of a schedule.
///
/// *from* the door · *reply* what came of it · *delivery* ask · *if lost* it is asked again: what was done is not done twice
#[derive(Message)]
#[rtype(result = "Result<Carried, Error>")]
pub(crate) struct CarryOut {
    pub(crate) name: String,
    pub(crate) order: Order,
}

/// What came of an order.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) triggered: Option<Triggered>,
    pub(crate) backfilled: usize,
    /// Whether anything was written.
    changed: bool,
}

/// The keeper of schedules.
pub(crate) struct Timekeeper {
    books: Books,
    alarm: Option<SpawnHandle>,
    /// A look is under way…
    looking: bool,
    /// …and something has changed since it began.
    again: bool,
    /// Dispatches that wait for those before them at their gate, by its name: they are decided about together.
    lines: HashMap<String, Vec<Asking>>,
}

/// The way to the rows of schedules.
#[derive(Clone)]
struct Books {
    incarnation: Incarnation,
    door: Arc<Door>,
    persistence: Addr<Persistence>,
    scheduler: Addr<Scheduler>,
    /// Reserved, and not used up to now.
    keys: Rc<RefCell<Vec<RunKey>>>,
    /// What could not be fired, by name: until when it is left alone, and for how long that was.
    resting: Rc<RefCell<HashMap<String, (Timestamp, Duration)>>>,
}

/// A row as it was read.
struct Found {
    revision: u64,
    row: Option<Result<Row, String>>,
    last: Option<(RunId, RunKey, bool)>,
}

impl Timekeeper {
    pub(crate) fn new(
        incarnation: Incarnation,
        door: Arc<Door>,
        persistence: Addr<Persistence>,
        scheduler: Addr<Scheduler>,
    ) -> Timekeeper {
        let books = Books { incarnation, door, persistence, scheduler, keys: Rc::default(), resting: Rc::default() };
        Timekeeper { books, alarm: None, looking: false, again: false, lines: HashMap::new() }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.again = true;
        if self.looking {
            return;
        }
        (self.looking, self.again) = (true, false);
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        let books = self.books.clone();
        let looked = async move {
            books.fire().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the schedules could not be looked at; it is tried again");
                TICK
            })
        };
        ctx.spawn(looked.into_actor(self).map(|rest, this, ctx| {
            this.looking = false;
            if this.again {
                this.look(ctx);
            } else {
                this.alarm = Some(ctx.run_later(rest, Self::look));
            }
        }));
    }
}

impl Books {
    /// Fires what is due; returns when to look again.
    async fn fire(&self) -> Result<Duration, Error> {
        // What this look or one before could not fire, or found fired by somebody else: it must not be tried without a pause, nor keep
        // others waiting.
        let mut in_vain: HashSet<String> = self.resting();
        loop {
            let now = self.door.time.now();
            let until = now.after(TICK);
            let most = MOST.saturating_add(u32::try_from(in_vain.len()).unwrap_or(u32::MAX));
            let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.due_schedules(until, most).await });
            let found = self.persistence.send(read).await??;
            let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= now);
            let (due, later): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.ready || is_due(found.next_at));
            let (stuck, due): (Vec<_>, Vec<_>) = due.into_iter().partition(|found| in_vain.contains(&found.name));
            // Somebody else has fired the others of them: when they are due again, they are tried again.
            in_vain = stuck.into_iter().map(|found| found.name).collect();
            if due.is_empty() {
                let next = later.iter().filter_map(|found| found.next_at).min().map_or(TICK, |next| next.since(now));
                // What is not due before the next look is here because it waits.
                let waits = later.iter().any(|found| found.next_at.is_none_or(|next| next > until));
                let most = if waits || !in_vain.is_empty() { SOON } else { TICK };
                self.resting.borrow_mut().retain(|name, _| in_vain.contains(name));
                return Ok(next.clamp(Duration::from_millis(1), most));
            }
            let carried = stream::iter(due).map(|due| async move {
                let fired = self.fire_one(&due.name).await;
                match &fired {
                    Ok(_) => _ = self.resting.borrow_mut().remove(&due.name),
                    Err(error) => {
                        let after = self.rest(&due.name);
                        tracing::warn!(schedule = due.name, %error, ?after, "a schedule or gate could not be fired; it is tried again");
                    }
                }
                (due.name, fired.is_ok_and(|changed| changed))
            });
            let carried: Vec<(String, bool)> = carried.buffer_unordered(AT_ONCE).collect().await;
            // There may be more, also where somebody else was quicker.
            in_vain.extend(carried.into_iter().filter(|(_, changed)| !changed).map(|(name, _)| name));
        }
    }

    /// Returns what is left alone for now.
    fn resting(&self) -> HashSet<String> {
        let now = self.door.time.now();
        let resting = self.resting.borrow();
        resting.iter().filter(|(_, (until, _))| *until > now).map(|(name, _)| name.clone()).collect()
    }

    /// Leaves alone what could not be fired, twice as long as the last time.
    fn rest(&self, name: &str) -> Duration {
        let mut resting = self.resting.borrow_mut();
        let before = resting.get(name).map(|(_, pause)| *pause);
        let pause = before.map_or(SOON, |pause| (pause * 2).min(LONGEST_REST));
        resting.insert(name.to_owned(), (self.door.time.now().after(pause), pause));
        pause
    }

    /// Fires one; tells whether anything was written.
    async fn fire_one(&self, name: &str) -> Result<bool, Error> {
        if is_gate(name) {
            return self.pass(name, &[]).await.map(|(_, changed)| changed);
        }
        self.carry_out(name, &Order::Fire).await.map(|carried| carried.changed)
    }

    /// Reads, decides, writes; again while somebody else is quicker, or where what is due had to be written first. Where a transaction of
    /// somebody else is in the way, callers wait for its end; what is due is left for the next look, for it must not keep other schedules
    /// waiting.
    async fn carry_out(&self, name: &str, order: &Order) -> Result<Carried, Error> {
        let mut in_use = HashSet::new();
        let (mut waits, mut has_fired) = (0, false);
        loop {
            let found = self.find(name).await?;
            let row = found.row.transpose().map_err(ScheduleError::Unavailable)?;
            let now = self.door.time.now();
            let known = Known { name, now, last: found.last, in_use: &in_use };
            let mut decided = guarded(name, || {
                failpoint!("timekeeper.decides");
                decide(order, row, &known)
            })?;
            let Decided { triggered, backfilled, unfinished, .. } = &decided;
            let (unfinished, changed) = (*unfinished, has_fired || decided.row.is_some());
            let carried = Carried { triggered: triggered.clone(), backfilled: *backfilled, changed };
            if decided.row.is_none() {
                return Ok(carried);
            }
            let keys = self.keys(decided.starts.len()).await?;
            decided.begun(&keys, now);
            let change = self.change(name, found.revision, &decided, &keys, now)?;
            match self.write(change).await {
                Ok(Outcome::Done) if unfinished => has_fired = true,
                Ok(Outcome::Done) => return Ok(carried),
                Ok(Outcome::Conflict) => {}
                Ok(Outcome::IdInUse(_)) => in_use.extend(self.taken(decided.ids()).await?),
                Ok(Outcome::Waits) if matches!(order, Order::Fire) => return Ok(Carried { changed: false, ..carried }),
                Ok(Outcome::Waits) => {
                    waits += 1;
                    tokio::time::sleep(Duration::from_millis(5 << waits.min(7))).await;
                }
                Ok(Outcome::Refused(why)) => return Err(ScheduleError::Unavailable(why).into()),
                Ok(_) | Err(_) => return Err(StoreError::Closed.into()),
            }
        }
    }

    /// Writes a row with what it begins; what has begun is to be claimed.
    async fn write(&self, change: ScheduleChange) -> Result<Outcome, oneshot::error::RecvError> {
        let begins = !change.starts.is_empty();
        let (told, outcome) = oneshot::channel();
        self.persistence.do_send(Submit(vec![(Item::Schedule(Box::new(change)), Whom::Caller(told))]));
        let outcome = outcome.await?;
        if begins && matches!(outcome, Outcome::Done) {
            self.scheduler.do_send(Nudge);
        }
        Ok(outcome)
    }

    async fn find(&self, name: &str) -> Result<Found, Error> {
        let name = name.to_owned();
        let read = Read::new(move |reader: Rc<dyn Reader>| async move {
            let stored = reader.schedule(&name).await?;
            let revision = stored.as_ref().map_or(0, |stored| stored.revision);
            let row = stored.map(|stored| Row::decode(&stored.body));
            let last = match &row {
                Some(Ok(Row::Here(body))) => match &body.last {
                    Some((_, last)) => reader.find(&last.id, None).await?,
                    None => None,
                },
                _ => None,
            };
            let last = last.map(|last| (last.id, last.run, last.status.is_end()));
            Ok(Found { revision, row, last })
        });
        Ok(self.persistence.send(read).await??)
    }

    /// Returns which of the ids are in use that these runs would have.
    async fn taken(&self, ids: Vec<String>) -> Result<Vec<String>, Error> {
        let read = Read::new(move |reader: Rc<dyn Reader>| async move {
            let mut taken = Vec::new();
            for id in ids {
                if reader.find(&id, None).await?.is_some() {
                    taken.push(id);
                }
            }
            Ok(taken)
        });
        Ok(self.persistence.send(read).await??)
    }

    async fn keys(&self, count: usize) -> Result<Vec<RunKey>, Error> {
        // Somebody else may take of the new ones before this goes on.
        while self.keys.borrow().len() < count {
            let wanted = u32::try_from(count.max(KEYS)).unwrap_or(u32::MAX);
            let first = self.reserve(wanted).await?;
            self.keys.borrow_mut().extend((first.0..first.0 + i64::from(wanted)).map(RunKey));
        }
        let mut keys = self.keys.borrow_mut();
        let rest = keys.len() - count;
        Ok(keys.split_off(rest))
    }

    /// Reserves keys. Where nodes are in each other's way, a store gives up after a moment; callers have more patience.
    async fn reserve(&self, count: u32) -> Result<RunKey, Error> {
        let mut waits = 0;
        loop {
            match self.persistence.send(ReserveKeys(count)).await? {
                Err(StoreError::Busy { .. }) if waits < MOST_WAITS => self.door.let_others_finish(&mut waits).await,
                reserved => return Ok(reserved?),
            }
        }
    }

    /// Returns the item of a decision.
    fn change(
        &self,
        name: &str,
        seen: u64,
        decided: &Decided,
        keys: &[RunKey],
        now: Timestamp,
    ) -> Result<ScheduleChange, ScheduleError> {
        let gone = || ScheduleError::Unavailable("nothing was decided".into());
        let row = decided.row.as_ref().ok_or_else(gone)?;
        let mut change = ScheduleChange {
            name: name.to_owned(),
            seen,
            next_at: None,
            awaits: None,
            body: row.encode().map_err(ScheduleError::Unavailable)?,
            starts: Vec::new(),
            tells: Vec::new(),
        };
        let Row::Here(body) = row else { return Ok(change) };
        (change.next_at, change.awaits) = (body.next_at(), body.awaits());
        let config = &self.door.config;
        let (limits, plan) = (config.limits, decided.former.as_deref().unwrap_or(&body.plan));
        let writer = || Writer { incarnation: self.incarnation, epoch: 0, build: config.build, is_shared: &|_| false };
        let digest = plan.input.digest();
        for (start, key) in decided.starts.iter().zip(keys) {
            let started = Started {
                workflow: plan.workflow.clone(),
                version: plan.version,
                input: plan.input.clone(),
                seed: asked::fresh_seed(digest),
                deadline: plan.deadline.map(|within| now.after(within)),
                deferred: true,
                limits: (limits != Limits::default()).then(|| Box::new(limits)),
                parent: None,
                retry: plan.retry.clone().map(|policy| Box::new(RunRetry::new(policy, now))),
                copied_from: None,
            };
            let row = NewRun {
                run: *key,
                priority: plan.priority,
                queue: plan.queue.clone(),
                tags: plan.tags.clone(),
                needs: plan.needs.clone(),
                ..asked::first_row(start.id.clone(), &started, digest, now)
            };
            let record = asked::without_a_turn(&row.id, started, writer(), now).map_err(ScheduleError::Invalid)?;
            change.starts.push((row, record));
        }
        change.tells.extend(decided.tell(name));
        Ok(change)
    }
}

impl Actor for Timekeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}

impl Handler<CarryOut> for Timekeeper {
    type Result = actix::ResponseActFuture<Self, Result<Carried, Error>>;

    fn handle(&mut self, CarryOut { name, order }: CarryOut, _: &mut Context<Self>) -> Self::Result {
        let books = self.books.clone();
        let carried = async move { books.carry_out(&name, &order).await };
        Box::pin(carried.into_actor(self).map(|carried, this, ctx| {
            // It may be due earlier than was known.
            if carried.as_ref().is_ok_and(|carried| carried.changed) {
                this.look(ctx);
            }
            carried
        }))
    }
}
