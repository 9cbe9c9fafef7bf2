//! One life of the runtime's core: Persistence, LeaseKeeper, Scheduler, Executor, each on an arbiter of its own, started in
//! that order and stopped in reverse. If one of them dies all are stopped and built anew from factories: one for all, and
//! one recovery path, which is the crash path.

use std::{sync::Arc, time::Duration};

use actix::{Addr, Arbiter, Recipient};

use super::{
    deadline::Deadline,
    door::{Door, Links},
    engine::Engine,
    executor::{AttemptsEnded, Drain, Executor, LinkOthers, Stop},
    foreman::{self, Finish, Foreman, TasksEnded},
    lease_keeper::{LeaseKeeper, Way},
    monitor::{self, Exit},
    notifier::{Flush, Notifier},
    persistence::{Affair, CannotGoOn, Close, Link, Persistence, Submit, Whom},
    pool::{Pool, PoolConfig},
    scheduler::{Begin, Scheduler, StopClaiming},
    setup::Setup,
    slots::Slots,
    steward::Steward,
    thread,
    timekeeper::Timekeeper,
    undertaker::Undertaker,
};
use crate::{
    config::Config,
    error::Error,
    kernel::id::{Incarnation as Id, RunKey},
    registry::Workflows,
    store::NewNode,
};

/// A core actor's end.
///
/// *to* Supervisor · *delivery* tell · *if lost* the deadline runs out
#[derive(actix::Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct Exited {
    pub(crate) actor: &'static str,
    pub(crate) incarnation: Id,
    pub(crate) exit: Exit,
}

/// How long a node that leaves tries to say so.
const FLUSH: Duration = Duration::from_millis(500);

/// A running core.
pub(crate) struct Incarnation {
    pub(crate) id: Id,
    pub(crate) links: Links,
    notifier: Option<Addr<Notifier>>,
    foreman: Addr<Foreman>,
    deadline: Deadline,
    pool: Arc<Pool>,
    arbiters: Arbiters,
}

/// The threads of a core. Dropped, they end, and with them everything on them: nothing may go on behind the back of a
/// Supervisor that is no more.
struct Arbiters(Vec<Arbiter>);

impl Drop for Arbiters {
    fn drop(&mut self) {
        self.0.iter().for_each(|arbiter| _ = arbiter.stop());
    }
}

impl Incarnation {
    /// Starts the core. Whatever a dead predecessor owned is freed on the way.
    pub(crate) async fn start(
        setup: &Setup,
        door: &Arc<Door>,
        exited: Recipient<Exited>,
        failed: Recipient<CannotGoOn>,
    ) -> Result<Incarnation, Error> {
        failpoint!("supervisor.before_start");
        let config = door.config.clone();
        let id = Id(uuid::Uuid::now_v7());
        let gone = || Error::NoSystem("an arbiter ended while the runtime was starting".to_owned());
        let tell = |actor: &'static str| {
            let exited = exited.clone();
            move |exit| exited.do_send(Exited { actor, incarnation: id, exit })
        };
        // In the order in which they are stopped; also when the start fails or is given up half-way.
        let arbiters = Arbiters((0..4).map(|_| thread::arbiter()).collect::<Result<_, _>>().map_err(thread::none)?);
        let [host, clockwork, keeper, writer] = [0, 1, 2, 3].map(|at| arbiters.0[at].handle());

        // The store belongs to the writer's thread: it is opened there and never leaves it.
        let (lease, can) = (config.lease, can(&door.workflows, &config));
        let time = door.time.clone();
        let (persistence, warden, hints, shared, transactions, registered, ruled) = {
            let (open, config, time, failed) = (setup.open.clone(), config.clone(), time.clone(), failed.clone());
            let (counters, time_here) = (door.counters.clone(), time.clone());
            let told = tell("Persistence");
            let (done, started) = tokio::sync::oneshot::channel();
            let open_here = move || async move {
                let opened = async {
                    let mut store = open(config.durability, config.lease).await?;
                    // The first sample of the store's clock, before anybody asks for the time.
                    if let Some(sample) = store.time().await? {
                        time_here.heard(sample);
                    }
                    // The lease begins here, however long it took to open the store and to bring its schema up to date.
                    let sent = config.clock.boot();
                    let now = time_here.now();
                    let node = NewNode { incarnation: id, build: config.build, label: label(), lease, can, now };
                    let freed = store.register(&node).await?;
                    store.declare_queues(&config.queues).await?;
                    // Before anything begins: what is paused, or has a limit, must not run as if it had none.
                    let ruled = store.reader().ruled_queues().await?;
                    if let Some((run, commit_no, record)) = store.reader().newest().await? {
                        // A damaged row is dealt with where its run is opened; here it only says nothing.
                        let commit = crate::kernel::codec::decode(&run, commit_no, &record).ok();
                        commit.into_iter().for_each(|commit| time_here.reach(commit.time));
                    }
                    if freed > 0 {
                        tracing::info!(freed, "executions of a former life are taken over");
                    }
                    Ok::<_, Error>((store, sent, ruled))
                };
                let result = opened.await.map(|(store, sent, ruled)| {
                    let (warden, hints, shared, transactions) =
                        (store.warden(), store.hints(), store.is_shared(), store.transactions());
                    let make = move |_: &mut actix::Context<Persistence>| Persistence::new(id, store, time, failed, counters);
                    (monitor::start_here(make, told), warden, hints, shared, transactions, sent, ruled)
                });
                let _ = done.send(result);
            };
            if !writer.spawn_fn(move || drop(actix_rt::spawn(open_here()))) {
                return Err(gone());
            }
            started.await.map_err(|_| gone())??
        };
        door.queues.ruled(ruled);
        let deadline = Deadline::new(config.clock.clone(), registered, config.lease.saturating_sub(config.margin));

        door.shared.store(shared, std::sync::atomic::Ordering::SeqCst);
        let way = || warden.clone().map_or_else(|| Way::Batches(persistence.clone()), Way::Own);
        {
            let (way, deadline, config, time, counters) =
                (way(), deadline.clone(), config.clone(), time.clone(), door.counters.clone());
            let make =
                move |_: &mut actix::Context<LeaseKeeper>| LeaseKeeper::new(way, failed, id, deadline, &config, time, counters);
            // Its interval keeps it alive; nobody talks to it.
            monitor::start_on(&keeper, make, tell("LeaseKeeper")).await.ok_or_else(gone)?;
        }

        let slots = Arc::new(Slots::new(config.in_flight, door.counters.clone()));
        let scheduler = {
            let (persistence, config, workflows, time) =
                (persistence.clone(), config.clone(), door.workflows.clone(), time.clone());
            let (slots, backlog) = (slots.clone(), door.backlog.clone());
            let make =
                move |_: &mut actix::Context<Scheduler>| Scheduler::new(persistence, config, workflows, time, slots, backlog);
            monitor::start_on(&clockwork, make, tell("Scheduler")).await.ok_or_else(gone)?
        };

        // The pool tells its results to an Executor that needs the pool first: the address is filled in once it exists.
        let ended_to: Arc<std::sync::OnceLock<(Addr<Executor>, Addr<Foreman>)>> = Arc::default();
        let pool = {
            let to = ended_to.clone();
            let ended = Arc::new(move |ended: Vec<super::pool::Ended>| {
                let Some((executor, foreman)) = to.get() else { return };
                let (tasks, own): (Vec<_>, Vec<_>) = ended.into_iter().partition(|ended| foreman::is_task(ended.run));
                if !own.is_empty() {
                    executor.do_send(AttemptsEnded(own));
                }
                if !tasks.is_empty() {
                    foreman.do_send(TasksEnded(tasks));
                }
            });
            let persistence = persistence.clone();
            let beats = Arc::new(move |beats: Vec<super::pool::Beat>| {
                let items = beats.into_iter().map(|beat| (foreman::recorded(beat), Whom::Nobody));
                persistence.do_send(Submit(items.collect()));
            });
            let pool_config = PoolConfig { slots: config.activities, ..PoolConfig::default() };
            let pool = Pool::new(setup.handlers(), pool_config, deadline.clone(), config.clock.clone(), ended, beats);
            Arc::new(pool.map_err(|e| Error::NoSystem(format!("the threads of activities: {e}")))?)
        };
        let executor = {
            let (config, door, time) = (config.clone(), door.clone(), time.clone());
            let (persistence, scheduler, deadline) = (persistence.clone(), scheduler.clone(), deadline.clone());
            let (activities, pool) = (setup.activity_names(), pool.clone());
            let make = move |context: &mut actix::Context<Executor>| {
                let address = actix::AsyncContext::address(context);
                let (workflows, waiters, lingering) = (door.workflows.clone(), door.waiters.clone(), door.lingering.clone());
                let engine = Engine::new(
                    config,
                    id,
                    workflows,
                    activities,
                    time,
                    deadline,
                    waiters,
                    door.bells.clone(),
                    pool,
                    lingering,
                    persistence,
                    scheduler,
                    address,
                    door.counters.clone(),
                    slots,
                    Box::new({
                        let door = door.clone();
                        move |queue| door.queues.is_shared(queue)
                    }),
                    transactions,
                );
                Executor::new(engine, door)
            };
            monitor::start_on(&host, make, tell("Executor")).await.ok_or_else(gone)?
        };
        let foreman = {
            let (door, way, persistence, pool) = (door.clone(), way(), persistence.clone(), pool.clone());
            let activities = setup.activity_names();
            let make = move |_: &mut actix::Context<Foreman>| Foreman::new(id, door, way, persistence, pool, &activities);
            monitor::start_on(&clockwork, make, tell("Foreman")).await.ok_or_else(gone)?
        };
        let _ = ended_to.set((executor.clone(), foreman.clone()));

        let notifier = match setup.hints.clone().or(hints) {
            Some(open) => {
                let (counters, scheduler, executor) = (door.counters.clone(), scheduler.clone(), executor.clone());
                let foreman = foreman.clone();
                let make =
                    move |_: &mut actix::Context<Notifier>| Notifier::new(id, open, counters, scheduler, executor, foreman);
                Some(monitor::start_on(&clockwork, make, tell("Notifier")).await.ok_or_else(gone)?)
            }
            None => None,
        };
        let steward = {
            let (door, persistence) = (door.clone(), persistence.clone());
            let make = move |_: &mut actix::Context<Steward>| Steward::new(door, persistence);
            monitor::start_on(&clockwork, make, tell("Steward")).await.ok_or_else(gone)?
        };
        let link = LinkOthers { notifier: notifier.clone(), foreman: foreman.clone(), steward: steward.clone() };
        executor.send(link).await?;
        let link = Link { executor: executor.clone(), scheduler: scheduler.clone(), notifier: notifier.clone() };
        persistence.send(link).await?;
        scheduler.send(Begin(executor.clone())).await?;
        {
            let (way, config, counters) = (way(), config.clone(), door.counters.clone());
            let (scheduler, executor) = (scheduler.clone(), executor.clone());
            let make = move |_: &mut actix::Context<Undertaker>| {
                Undertaker::new(id, way, &config, time, counters, scheduler, executor, can)
            };
            monitor::start_on(&clockwork, make, tell("Undertaker")).await.ok_or_else(gone)?;
        }
        let timekeeper = {
            let (door, persistence, scheduler) = (door.clone(), persistence.clone(), scheduler.clone());
            let make = move |_: &mut actix::Context<Timekeeper>| Timekeeper::new(id, door, persistence, scheduler);
            monitor::start_on(&clockwork, make, tell("Timekeeper")).await.ok_or_else(gone)?
        };
        let links = Links { persistence, scheduler, executor, timekeeper, steward, incarnation: id };
        Ok(Incarnation { id, links, notifier, foreman, deadline, pool, arbiters })
    }

    /// Lets what runs come to its end within `grace`: no claims, no dispatches.
    pub(crate) async fn drain(&self, grace: Duration) {
        let _ = self.links.scheduler.send(StopClaiming).await;
        // Told to the others as well; if it cannot be, they only expect more of this node than it does.
        let id = self.id;
        let told = self.links.persistence.send(Affair::new(move |store| store.drain(id)));
        let _ = tokio::time::timeout(grace.min(Duration::from_secs(1)), told).await;
        let until = tokio::time::Instant::now() + grace;
        // A thread of the engine that user code blocks does not answer: then the grace is over when it is over.
        while let Ok(Ok(held)) = tokio::time::timeout_at(until, self.links.executor.send(Drain)).await {
            // Without Persistence nothing comes to an end any more: it died while the door was being closed.
            let stuck = !self.links.persistence.connected();
            let tasks = self.foreman.send(Finish).await.unwrap_or(0);
            if held + tasks == 0 || stuck || tokio::time::Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Whoever goes on with what was given back is to know it now, and not by the clock.
        if let Some(notifier) = &self.notifier {
            let _ = tokio::time::timeout(FLUSH, notifier.send(Flush)).await;
        }
    }

    /// Ends this life: nothing acts any more, attempts are aborted and joined, the node is marked dead and its runs are freed,
    /// the store is closed. Every step is bounded; what does not answer is left to the proof of death.
    pub(crate) async fn stop(mut self, door: &Door, fence: bool, grace: Duration) {
        if fence {
            self.deadline.fence();
        }
        let stopped = tokio::time::timeout(grace, self.links.executor.send(Stop)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("the executor did not answer while it was stopped");
        }
        let keep: Vec<RunKey> = self.pool.stop(grace).await;
        if !keep.is_empty() {
            door.lingering.add(self.pool.clone());
        }
        self.deadline.fence();
        let close = self.links.persistence.send(Close { keep });
        match tokio::time::timeout(grace + Duration::from_secs(5), close).await {
            Ok(Ok(Ok(()))) => {}
            other => tracing::warn!(?other, "the store was not closed cleanly; the next start recovers it"),
        }
        self.arbiters.0.iter().for_each(|arbiter| _ = arbiter.stop());
        // Joined elsewhere: a thread that user code blocks must not block this one.
        let arbiters = std::mem::take(&mut self.arbiters.0);
        let joined = tokio::task::spawn_blocking(move || arbiters.into_iter().for_each(|arbiter| drop(arbiter.join())));
        if tokio::time::timeout(grace, joined).await.is_err() {
            tracing::warn!("an arbiter's thread is blocked by a workflow or an inline activity and was left behind");
        }
    }
}

impl Drop for Incarnation {
    /// Given up without being stopped (the Supervisor panicked): it may at least do nothing any more.
    fn drop(&mut self) {
        self.deadline.fence();
    }
}

/// Returns a digest of all that decides which executions this node may claim: nodes of equal ones can take each other's work.
fn can(workflows: &Workflows, config: &Config) -> i64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&workflows.digest().to_le_bytes());
    let mut mix = |names: &[String]| {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        hash.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
        }
    };
    mix(&config.tags);
    // Who serves all queues differs from who serves none.
    if let Some(served) = &config.serves {
        mix(served);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    i64::from_le_bytes(bytes)
}

/// Who this node is, for people.
fn label() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", std::process::id())
}
