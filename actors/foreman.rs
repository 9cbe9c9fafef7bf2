//! Foreman: runs what is in shared queues, as far as this node serves them. It takes tasks from the store up to the free slots of
//! the pool, says how they ended, stops those that nobody wants any more, and ends for others what has no one left to do so:
//! tasks whose time to start is over, and those of dead nodes.
//!
//! It holds no truth: a row that is held is a permit, so a task counts until its code has ended here *and* that is recorded. A
//! row that the store says is held here, and of which nothing is known here at two looks, is ended as lost: the answer to the
//! claim that took it never came.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    door::Door,
    lease_keeper::Way,
    persistence::{Affair, Persistence, Read, Submit, Whom},
    pool::{self, Beat, Ended, Pool, Start, Work},
};
use crate::{
    kernel::{
        event::{MessageBody, TaskEnd},
        failure::{Failure, KIND_LIMIT, KIND_TIMEOUT},
        id::{Epoch, Incarnation, RunId, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{EndTask, Item, Outcome, Reader, StaleTask, StoreError, TakenTasks, Task, TaskKey, TaskRequest, TaskRow, Warden},
};

/// How often it looks without being told: for what is due later, for what nobody wants, for what others left.
const TICK: Duration = Duration::from_secs(1);

/// Every so many ticks it looks which queues have rules: an idle node asks the store no more than it must.
const RULES_EVERY: u32 = 5;

/// Behind so many ticks without anything for it to do, those are also the only ticks at which it looks for anything. Whoever puts
/// something into a queue says so; what a lost hint costs then, or an attempt that is due after a minute without a word, is
/// seconds.
const QUIET_BEHIND: u32 = 60;

/// When somebody else was at work on a queue, it looks again after so long.
const SOON: Duration = Duration::from_millis(5);

/// So many are taken at once, and so many stale ones ended.
const MOST: usize = 1_000;

/// What a worker has to know of an attempt, beside its key.
#[derive(Serialize, Deserialize)]
pub(crate) struct TaskBody {
    pub(crate) id: RunId,
    pub(crate) epoch: Epoch,
    pub(crate) input: Payload,
    pub(crate) start_to_close: Option<Duration>,
    pub(crate) close_by: Option<Timestamp>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) details: Option<Bytes>,
}

/// The name of a task's run in the pool: keys are positive, and so an execution here and a task of the same run never meet.
fn in_pool(run: RunKey) -> RunKey {
    RunKey(-run.0)
}

/// Tells whether an attempt in the pool is a task.
pub(crate) fn is_task(run: RunKey) -> bool {
    run.0 < 0
}

/// Returns what a beat of the pool records.
pub(crate) fn recorded(beat: Beat) -> Item {
    let Beat { run, position, attempt, details } = beat;
    if is_task(run) {
        Item::BeatTask(TaskKey { run: in_pool(run), position, attempt }, details)
    } else {
        Item::Heartbeat { run, position, attempt, details }
    }
}

/// There may be something in a queue.
///
/// *from* the outbox, Notifier · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Look {
    /// Something was put into a queue, and not only missed perhaps.
    pub(crate) certain: bool,
}

/// Tasks ended here.
///
/// *from* the pool · *reply* none · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TasksEnded(pub(crate) Vec<Ended>);

/// Takes nothing more, and says how much runs; again and again until nothing does.
///
/// *from* the incarnation · *reply* how many tasks are here · *delivery* ask · *if lost* the drain ends by its grace
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct Finish;

/// The way to the store, and what was opened on it.
struct Access {
    way: Way,
    warden: Option<Box<dyn Warden>>,
}

/// Runs what is in shared queues.
pub(crate) struct Foreman {
    incarnation: Incarnation,
    door: Arc<Door>,
    persistence: Addr<Persistence>,
    pool: Arc<Pool>,
    activities: Vec<String>,
    /// `None` while a claim is under way.
    access: Option<Access>,
    /// Something may have come while a claim was under way.
    again: bool,
    /// What is held by this node.
    held: HashSet<TaskKey>,
    /// What must wait: code of an attempt before it, of a former core, has not ended yet.
    delayed: Vec<Task>,
    /// What was held by this node in the store alone at the last look, and how many claims had been begun by then.
    strange: HashMap<TaskKey, u64>,
    claims: u64,
    /// What is being ended for others: told once, however long the store takes.
    ending: HashSet<TaskKey>,
    draining: bool,
    ticks: u32,
    /// Ticks since there was something to do.
    still: u32,
}

impl Foreman {
    pub(crate) fn new(
        incarnation: Incarnation,
        door: Arc<Door>,
        way: Way,
        persistence: Addr<Persistence>,
        pool: Arc<Pool>,
        activities: &HashSet<String>,
    ) -> Foreman {
        let mut activities: Vec<String> = activities.iter().cloned().collect();
        activities.sort();
        Foreman {
            incarnation,
            door,
            persistence,
            pool,
            activities,
            access: Some(Access { way, warden: None }),
            again: false,
            held: HashSet::new(),
            delayed: Vec::new(),
            strange: HashMap::new(),
            claims: 0,
            ending: HashSet::new(),
            draining: false,
            ticks: 0,
            // It begins with a look, which tells.
            still: QUIET_BEHIND,
        }
    }

    // ---- taking ------------------------------------------------------------------------------------------------

    fn take(&mut self, ctx: &mut Context<Self>) {
        let room = self.pool.room().min(MOST);
        if self.draining || room == 0 || self.activities.is_empty() {
            return;
        }
        self.again = true;
        let Some(mut access) = self.access.take() else { return };
        self.again = false;
        self.claims += 1;
        let request = TaskRequest {
            by: self.incarnation,
            now: self.door.time.now(),
            limit: u32::try_from(room).unwrap_or(u32::MAX),
            activities: self.activities.clone(),
            queues: self.door.config.serves.clone(),
            tags: self.door.config.tags.clone(),
        };
        let asked = async move {
            let taken = access.take(request).await;
            (access, taken)
        };
        ctx.spawn(asked.into_actor(self).map(move |(access, taken), this, ctx| {
            this.access = Some(access);
            match taken {
                Ok(TakenTasks { tasks, again }) => {
                    // As many as were asked for: there may be more.
                    let more = this.again || tasks.len() == room;
                    this.start(tasks, ctx);
                    if more {
                        this.take(ctx);
                    } else if again {
                        ctx.run_later(SOON, Self::take);
                    }
                }
                Err(error) => tracing::debug!(%error, "no tasks could be taken; it is tried again"),
            }
        }));
    }

    fn start(&mut self, tasks: Vec<Task>, ctx: &mut Context<Self>) {
        if !tasks.is_empty() {
            self.still = 0;
        }
        let now = self.door.time.now();
        let mut starts = Vec::with_capacity(tasks.len());
        let mut broken = Vec::new();
        for task in tasks {
            self.held.insert(task.key);
            if self.door.lingering.holds(in_pool(task.key.run)) {
                self.delayed.push(task);
                continue;
            }
            let Task { key, activity, body, .. } = task;
            let body: TaskBody = match rmp_serde::from_slice(&body) {
                Ok(body) => body,
                Err(error) => {
                    let why = format!("the task does not decode: {error}; it is of another release, or damaged");
                    broken.push((key, ended(key, TaskEnd::Failed(Box::new(Failure::new("codec", why))))));
                    continue;
                }
            };
            let limits = pool::Limits {
                schedule_to_start: None,
                start_to_close: body.start_to_close,
                close_by: body.close_by.map(|by| by.since(now)),
                heartbeat: body.heartbeat,
            };
            starts.push(Start {
                run: in_pool(key.run),
                id: Arc::new(body.id),
                position: key.position,
                attempt: key.attempt,
                epoch: body.epoch,
                work: Work::Activity { name: activity.into(), input: body.input },
                limits,
                details: body.details,
            });
        }
        self.pool.start(starts);
        if !broken.is_empty() {
            self.say(broken, ctx);
        }
    }

    // ---- ending ------------------------------------------------------------------------------------------------

    /// Says how some tasks ended; what could not be said for the moment is said again.
    fn say(&mut self, ends: Vec<(TaskKey, MessageBody)>, ctx: &mut Context<Self>) {
        let by = Some(self.incarnation);
        let mut items = Vec::with_capacity(ends.len());
        let mut told = Vec::with_capacity(ends.len());
        for (key, body) in ends {
            let (tell, outcome) = oneshot::channel();
            items.push((item(key, by, body.clone()), Whom::Caller(tell)));
            told.push((key, body, outcome));
        }
        self.persistence.do_send(Submit(items));
        let outcomes = async move {
            let mut over = Vec::with_capacity(told.len());
            let mut again = Vec::new();
            for (key, body, outcome) in told {
                match outcome.await {
                    Ok(Outcome::Waits) => again.push((key, body)),
                    // Its result cannot be recorded, which is an end as well. A failure that cannot be either is lost, at a look.
                    Ok(Outcome::Refused(why)) if !is_failure(&body) => {
                        let failure = Failure::new(KIND_LIMIT, format!("its result was refused: {why}")).into_final();
                        again.push((key, ended(key, TaskEnd::Failed(Box::new(failure)))));
                    }
                    Ok(_) => over.push(key),
                    // The incarnation is over, and with it the permit.
                    Err(_) => {}
                }
            }
            (over, again)
        };
        ctx.spawn(outcomes.into_actor(self).map(|(over, again), this, ctx| {
            let attempts = this.pool.attempts();
            for key in over {
                attempts.recorded(in_pool(key.run), key.position, key.attempt);
                this.held.remove(&key);
            }
            if !again.is_empty() {
                ctx.run_later(SOON * 4, move |this, ctx| this.say(again, ctx));
            }
            this.take(ctx);
        }));
    }

    // ---- looking after -----------------------------------------------------------------------------------------

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let delayed = std::mem::take(&mut self.delayed);
        self.start(delayed, ctx);
        if !self.looks() {
            self.ticks = self.ticks.wrapping_add(1);
            return;
        }
        self.take(ctx);
        let by = self.incarnation;
        // What is taken while the store is read is not in what it tells.
        let held_then = self.held.clone();
        let rules = self.ticks.is_multiple_of(RULES_EVERY);
        let holds = rules || !held_then.is_empty();
        let claims = self.claims;
        let now = self.door.time.now();
        self.ticks = self.ticks.wrapping_add(1);
        let look = Read::new(move |reader: Rc<dyn Reader>| async move {
            let ruled = if rules { Some(reader.ruled_queues().await?) } else { None };
            let held = if holds { Some(reader.held_tasks(by).await?) } else { None };
            let stale = reader.stale_tasks(now, u32::try_from(MOST).unwrap_or(u32::MAX)).await?;
            Ok((ruled, held, stale))
        });
        ctx.spawn(self.persistence.send(look).into_actor(self).map(move |answer, this, ctx| {
            let Ok(Ok((ruled, held, stale))) = answer else { return };
            if let Some(ruled) = ruled {
                this.door.queues.ruled(ruled);
            }
            let mut stale: Vec<StaleTask> = stale.into_iter().filter(|stale| stale.by != Some(by)).collect();
            if let Some(held) = held {
                this.stop_unwanted(&held_then, &held);
                let unknown = held.iter().map(|row| row.key);
                let unknown = unknown.filter(|key| !held_then.contains(key) && !this.held.contains(key));
                let before = std::mem::replace(&mut this.strange, unknown.map(|key| (key, claims)).collect());
                // While the claim is under way that may have taken one, the store knows more than we do.
                let over = this.claims - u64::from(this.access.is_none());
                let lost = before.iter().filter(|(key, claims)| **claims <= over && this.strange.contains_key(key));
                stale.extend(lost.map(|(key, _)| StaleTask { key: *key, by: Some(by) }));
            }
            this.end_stale(&stale, ctx);
        }));
    }

    /// Tells whether this tick is one for looking: an idle node asks the store no more than it must.
    fn looks(&mut self) -> bool {
        self.still = if self.held.is_empty() && self.ending.is_empty() { self.still.saturating_add(1) } else { 0 };
        self.still <= QUIET_BEHIND || self.ticks.is_multiple_of(RULES_EVERY)
    }

    /// Tells tasks to stop that nobody wants any more, or that are not ours any more.
    fn stop_unwanted(&self, held: &HashSet<TaskKey>, rows: &[TaskRow]) {
        let rows: HashMap<TaskKey, &TaskRow> = rows.iter().map(|row| (row.key, row)).collect();
        for key in held.intersection(&self.held) {
            if rows.get(key).is_none_or(|row| row.dropped) {
                self.pool.cancel(in_pool(key.run), key.position);
            }
        }
    }

    /// Ends what has no one left to do so. Somebody else may be quicker: then it is not with whom it was, and stays. What could
    /// not be ended is found again.
    fn end_stale(&mut self, stale: &[StaleTask], ctx: &mut Context<Self>) {
        let mut items = Vec::new();
        let mut told = Vec::new();
        if !stale.is_empty() {
            self.still = 0;
        }
        for StaleTask { key, by } in stale {
            if !self.ending.insert(*key) {
                continue;
            }
            let end = match by {
                Some(_) => TaskEnd::Lost,
                None => {
                    let text = "schedule_to_start ran out in its queue: no node that serves it had room in time";
                    TaskEnd::Failed(Box::new(Failure::new(KIND_TIMEOUT, text.to_owned()).into_final()))
                }
            };
            let (tell, outcome) = oneshot::channel();
            items.push((item(*key, *by, ended(*key, end)), Whom::Caller(tell)));
            told.push((*key, outcome));
        }
        if items.is_empty() {
            return;
        }
        self.persistence.do_send(Submit(items));
        let over = async move {
            let mut over = HashSet::new();
            for (key, outcome) in told {
                let _ = outcome.await;
                over.insert(key);
            }
            over
        };
        ctx.spawn(over.into_actor(self).map(|over, this, _| this.ending.retain(|key| !over.contains(key))));
    }
}

fn ended(key: TaskKey, end: TaskEnd) -> MessageBody {
    MessageBody::Task { position: key.position, attempt: key.attempt, end, details: None }
}

fn is_failure(body: &MessageBody) -> bool {
    matches!(body, MessageBody::Task { end: TaskEnd::Failed(_), .. })
}

fn item(key: TaskKey, by: Option<Incarnation>, body: MessageBody) -> Item {
    Item::EndTask(Box::new(EndTask { key, by, body }))
}

impl Access {
    async fn take(&mut self, request: TaskRequest) -> Result<TakenTasks, StoreError> {
        match &self.way {
            Way::Batches(persistence) => {
                let asked = persistence.send(Affair::new(move |store| store.take_tasks(request))).await;
                asked.unwrap_or(Err(StoreError::Closed))
            }
            Way::Own(open) => {
                if self.warden.is_none() {
                    self.warden = Some(open().await?);
                }
                self.warden.as_mut().ok_or(StoreError::Closed)?.take_tasks(request).await
            }
        }
    }
}

impl Actor for Foreman {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tick(ctx);
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<Look> for Foreman {
    type Result = ();

    fn handle(&mut self, Look { certain }: Look, ctx: &mut Context<Self>) {
        if certain {
            self.still = 0;
        }
        self.take(ctx);
    }
}

impl Handler<TasksEnded> for Foreman {
    type Result = ();

    fn handle(&mut self, TasksEnded(all): TasksEnded, ctx: &mut Context<Self>) {
        failpoint!("foreman.tasks_ended");
        let attempts = self.pool.attempts().clone();
        let ends = all.into_iter().map(|ended| {
            let Ended { run, position, attempt, result } = ended;
            let details = attempts.get(run, position).and_then(|ended| ended.details_for_next());
            let end = result.map_or_else(|failure| TaskEnd::Failed(Box::new(failure)), TaskEnd::Done);
            let key = TaskKey { run: in_pool(run), position, attempt };
            (key, MessageBody::Task { position, attempt, end, details })
        });
        let ends = ends.collect();
        self.say(ends, ctx);
    }
}

impl Handler<Finish> for Foreman {
    type Result = usize;

    fn handle(&mut self, _: Finish, _: &mut Context<Self>) -> usize {
        self.draining = true;
        self.held.len()
    }
}
