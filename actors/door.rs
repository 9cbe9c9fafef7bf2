//! The public door: what the Supervisor does for its callers. It outlives incarnations: a call that was under way when one
//! ended waits for the next and is tried again under the same ids, which is safe, because every dispatch and every message
//! has an id from before its first try.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    asked::{self, Asked},
    backlog::{self, Backlog},
    bells::Bells,
    events::terminated,
    execution::{Begun, Unbegun},
    executor::{Executor, Start},
    lingering::Lingering,
    loading,
    messages::{Description, IfInUse},
    monitor::Exit,
    persistence::{Affair, Persistence, Read, Submit, Whom},
    queues::Queues,
    scheduler::{Nudge, Scheduler},
    stats::{Counters, Stats},
    steward::Steward,
    timekeeper::Timekeeper,
    waiters::{End, Waiters},
};
use crate::{
    clock::StoreTime,
    config::Config,
    error::{DispatchError, Error, SendError},
    kernel::{
        codec::{self, Record},
        event::{CURRENT_RUN, Command, Event, MessageBody, Outcome as RunEnd},
        id::{CommitNo, Digest, Incarnation, RunId, RunKey},
        state::State,
    },
    registry::Workflows,
    store::{Filter, Item, Message, NewRun, Outcome, QueueState, Reader, Status, StoreError, Summary, TaskRow},
};

mod inquiring;
mod operating;
mod updating;

/// How long a call waits for a runtime that restarts itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The addresses of the incarnation that is open.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) persistence: Addr<Persistence>,
    pub(crate) scheduler: Addr<Scheduler>,
    pub(crate) executor: Addr<Executor>,
    pub(crate) timekeeper: Addr<Timekeeper>,
    pub(crate) incarnation: Incarnation,
    pub(crate) steward: Addr<Steward>,
}

/// Whether calls can be served.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// The core is being started, or started anew.
    Starting,
    /// It works.
    Open(Links),
    /// It drains or is stopped.
    Stopped,
    /// It gave up.
    Escalated { actor: String, panic: String, restarts: u32 },
}

/// The door.
pub(crate) struct Door {
    pub(crate) config: Arc<Config>,
    pub(crate) workflows: Arc<Workflows>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) bells: Arc<Bells>,
    /// One for all lives of the core: time goes on where the one before left it.
    pub(crate) time: Arc<StoreTime>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) lingering: Arc<Lingering>,
    pub(crate) queues: Queues,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) standing: watch::Sender<Standing>,
    /// Other nodes may have workflows that this one has not.
    pub(crate) shared: AtomicBool,
    /// Runs that are replayed only to be asked.
    replays: Arc<Semaphore>,
    unanswered: AtomicUsize,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("standing", &*self.standing.borrow()).finish_non_exhaustive()
    }
}

/// A run that was found or made.
pub(crate) struct Found {
    pub(crate) run: RunKey,
    pub(crate) id: RunId,
    pub(crate) end: watch::Receiver<End>,
}

impl Door {
    pub(crate) fn new(config: Arc<Config>, workflows: Arc<Workflows>) -> Arc<Door> {
        let time = Arc::new(StoreTime::new(config.clock.clone()));
        let (queues, backlog) = (Queues::new(&config), Backlog::new(config.backlog));
        Arc::new(Door {
            config,
            workflows,
            waiters: Arc::default(),
            bells: Arc::default(),
            time,
            counters: Arc::default(),
            lingering: Arc::default(),
            queues,
            backlog,
            standing: watch::Sender::new(Standing::Starting),
            shared: AtomicBool::new(false),
            replays: Arc::new(Semaphore::new(inquiring::MOST_REPLAYS)),
            unanswered: AtomicUsize::new(0),
        })
    }

    /// Returns the open incarnation, waiting through a restart.
    pub(super) async fn links(&self) -> Result<Links, Error> {
        if let Standing::Open(links) = &*self.standing.borrow() {
            return Ok(links.clone());
        }
        let mut standing = self.standing.subscribe();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Starting));
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(Ok(standing)) => match &*standing {
                Standing::Open(links) => Ok(links.clone()),
                other => Err(other.error()),
            },
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Wait("the runtime is restarting itself for more than 30 s".to_owned())),
        }
    }

    /// The supervisor has ended: by a shutdown, or by a panic, which is the last escalation of all.
    pub(crate) fn closed(&self, exit: &Exit) {
        self.standing.send_if_modified(|standing| match (exit, &*standing) {
            (Exit::Panicked(panic), _) => {
                *standing = Standing::Escalated { actor: "Supervisor".to_owned(), panic: panic.clone(), restarts: 0 };
                true
            }
            (Exit::Stopped, Standing::Escalated { .. }) => false,
            (Exit::Stopped, _) => {
                *standing = Standing::Stopped;
                true
            }
        });
        self.release();
    }

    /// Lets all go who wait for a run: the runtime is over, and they hear of it.
    pub(crate) fn release(&self) {
        self.waiters.close();
        self.bells.close();
    }

    // ---- dispatch ----------------------------------------------------------------------------------------------

    pub(crate) async fn dispatch(&self, asked: Asked) -> Result<Found, Error> {
        asked.check(&self.config.limits)?;
        self.begin(asked).await.map(|(found, _)| found)
    }

    /// Begins it, whatever its id; tells as well whether that was by this.
    pub(super) async fn begin(&self, asked: Asked) -> Result<(Found, bool), Error> {
        self.knows(asked.workflow, asked.version)?;
        let _credit = self.credit(&asked)?;
        let now = self.time.now();
        let (mut row, started) = asked.begin(now, self.config.limits);
        let digest = row.input_digest;
        let (mut tried_before, mut waits) = (false, 0);
        loop {
            let links = self.links().await?;
            let (reply, begun) = oneshot::channel();
            links.executor.do_send(Start { row: row.clone(), started: started.clone(), reply });
            match begun.await {
                Ok(Begun { outcome: Ok(Outcome::Done), run, end: Some(end) }) => {
                    return Ok((Found { run, id: row.id, end }, true));
                }
                Ok(Begun { outcome: Ok(Outcome::IdInUse(current)), .. }) => {
                    if tried_before && let Some(ours) = self.earlier_try(&row, digest, &current).await? {
                        return Ok((self.attach(&ours).await?, true));
                    }
                    match self.decide(&asked, &row, *current).await? {
                        Decided::Attach(current) => return Ok((self.attach(&current).await?, false)),
                        Decided::Follow { run_no, after } => {
                            row.id.run_no = run_no;
                            row.after = after;
                        }
                    }
                }
                Ok(Begun { outcome: Err(Unbegun::Busy), .. }) => return Err(self.backlog.busy().into()),
                Ok(Begun { outcome: Err(Unbegun::Blocked(blocked)), .. }) => {
                    return Err(DispatchError::NotStarted(blocked.to_string()).into());
                }
                Ok(Begun { outcome: Ok(Outcome::Waits), .. }) => self.let_others_finish(&mut waits).await,
                Ok(Begun { outcome: Ok(Outcome::Refused(why)), .. }) => return Err(DispatchError::Unavailable(why).into()),
                // The incarnation ended with the answer: the next one is asked again, with the same id.
                Ok(_) | Err(_) => {
                    tried_before = true;
                    self.breathe().await;
                }
            }
        }
    }

    /// Finds what an earlier try of this very dispatch began, if its answer was lost. Others may have begun the id anew since.
    async fn earlier_try(&self, row: &NewRun, digest: Digest, current: &Summary) -> Result<Option<Summary>, Error> {
        let is_ours =
            |run: &Summary| run.created_at == row.created_at && run.input_digest == digest && run.workflow == row.workflow;
        if is_ours(current) || current.id.run_no <= row.id.run_no {
            return Ok(Some(current.clone()).filter(is_ours));
        }
        Ok(self.row(&row.id.id, Some(row.id.run_no)).await?.filter(is_ours))
    }

    /// In a cluster it waits for a node that has it; on one node it is a mistake in the program.
    pub(super) fn knows(&self, workflow: &str, version: u32) -> Result<(), DispatchError> {
        if !self.shared.load(Ordering::SeqCst) && self.workflows.get(workflow, version).is_none() {
            return Err(DispatchError::Unregistered { name: workflow.to_owned(), version });
        }
        Ok(())
    }

    pub(super) fn credit(&self, asked: &Asked) -> Result<Credit<'_>, DispatchError> {
        // The Executor knows better; but when nothing more may wait, nobody need wake it, nor take slots before those who do.
        if self.config.backlog > 0 && self.backlog.is_full() && self.is_for_us(asked) {
            return Err(self.backlog.busy());
        }
        let most = self.config.in_flight;
        let credit = self.unanswered.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now < most).then_some(now + 1));
        credit.map(|_| Credit(&self.unanswered)).map_err(|_| backlog::unanswered(most))
    }

    /// Tells whether it is due now, and can run on this node.
    fn is_for_us(&self, asked: &Asked) -> bool {
        let known = self.workflows.get(asked.workflow, asked.version).is_some();
        known && asked.delay.is_none() && self.queues.serves(&asked.queue) && self.queues.has(&asked.needs)
    }

    pub(crate) fn stats(&self) -> Stats {
        let (waiting, unanswered) = (self.backlog.len() as u64, self.unanswered.load(Ordering::SeqCst) as u64);
        let listened = self.bells.listened().len() as u64;
        Stats { waiting, unanswered, listened, ..self.counters.read() }
    }

    async fn decide(&self, asked: &Asked, row: &NewRun, current: Summary) -> Result<Decided, Error> {
        const FAILED: [Status; 4] = [Status::Failed, Status::Cancelled, Status::TimedOut, Status::Terminated];
        let is_another = !self.workflows.is_called(&current.workflow, &row.workflow);
        let differs = is_another || current.input_digest != row.input_digest;
        let in_use = || DispatchError::IdInUse {
            id: asked.id.clone(),
            workflow: current.workflow.clone(),
            status: current.status.as_str().to_owned(),
            differs,
        };
        let run_no = current.id.run_no + 1;
        let ends = || Status::ALL.into_iter().filter(|status| status.is_end()).collect();
        match asked.if_in_use {
            IfInUse::Reject => Err(in_use().into()),
            IfInUse::AllowAfterFailure if FAILED.contains(&current.status) => {
                Ok(Decided::Follow { run_no, after: FAILED.to_vec() })
            }
            IfInUse::AllowAfterEnd if current.status.is_end() => Ok(Decided::Follow { run_no, after: ends() }),
            IfInUse::Attach | IfInUse::AllowAfterFailure if differs => Err(in_use().into()),
            // With another argument it is still the one that is open; with another workflow it is somebody else's.
            IfInUse::AllowAfterEnd if is_another => Err(in_use().into()),
            IfInUse::Attach | IfInUse::AllowAfterFailure | IfInUse::AllowAfterEnd => Ok(Decided::Attach(Box::new(current))),
            IfInUse::Replace => {
                if !current.status.is_end() {
                    let reason = "replaced by a new dispatch of its id".to_owned();
                    let message = format!("replace-{}-{}", row.created_at.0, row.input_digest);
                    match self.send(asked.id.clone(), message, MessageBody::Cancel { reason }).await {
                        Ok(()) | Err(Error::Send(SendError::AlreadyEnded { .. })) => {}
                        Err(error) => return Err(error),
                    }
                    let mut end = self.attach(&current).await?.end;
                    let _ = end.wait_for(Option::is_some).await;
                }
                Ok(Decided::Follow { run_no, after: ends() })
            }
        }
    }

    /// Waits for a run that may have ended already.
    async fn attach(&self, current: &Summary) -> Result<Found, Error> {
        let end = self.waiters.wait(current.run);
        self.settle_ended(&[current.run]).await?;
        Ok(Found { run: current.run, id: current.id.clone(), end })
    }

    /// Tells the ends of those of these runs that have ended. Who waits for one that has continued waits for its next run from then on.
    pub(crate) async fn settle_ended(&self, runs: &[RunKey]) -> Result<(), Error> {
        let (mut wanted, mut ended, mut unread) = (runs.to_vec(), Vec::new(), None);
        while !wanted.is_empty() {
            let runs = std::mem::take(&mut wanted);
            let read = move |reader: Rc<dyn Reader>| {
                let runs = runs.clone();
                async move { ends_of(&*reader, &runs).await }
            };
            for end in self.read(read).await? {
                match end {
                    Ended::At(summary, commit_no, record) => ended.push((summary, commit_no, record)),
                    Ended::Continued(run, next) => {
                        self.waiters.follow(run, next);
                        wanted.push(next);
                    }
                }
            }
        }
        for (summary, commit_no, record) in ended {
            match codec::decode(&summary.id, commit_no, &record) {
                Ok(commit) => {
                    if let Some(Event::Command(Command::End { outcome })) = commit.events.into_iter().next_back() {
                        self.waiters.settle(summary.run, || *outcome);
                    }
                }
                // One damaged log keeps nobody else waiting.
                Err(unreadable) => unread = Some(Error::Wait(unreadable.to_string())),
            }
        }
        unread.map_or(Ok(()), Err)
    }

    /// Returns the row of a run by its execution's id and its number; without one, that of the current run.
    pub(super) async fn row(&self, id: &str, run_no: Option<u32>) -> Result<Option<Summary>, Error> {
        let id = id.to_owned();
        self.read(move |reader| async move { reader.find(&id, run_no).await }).await
    }

    /// Finds the current run of an id.
    pub(crate) async fn find(&self, id: String) -> Result<Option<Found>, Error> {
        match self.row(&id, None).await? {
            Some(current) => {
                // It may have been begun in somebody's own transaction, of which nobody here has heard.
                if current.owner.is_none() && !current.status.is_end() {
                    self.links().await?.scheduler.do_send(Nudge);
                }
                Ok(Some(self.attach(&current).await?))
            }
            None => Ok(None),
        }
    }

    // ---- messages ----------------------------------------------------------------------------------------------

    pub(crate) async fn send(&self, to: String, message: String, body: MessageBody) -> Result<(), Error> {
        self.post(RunId::current(to), message, body).await.map(drop)
    }

    /// The same, also to one run; returns the run into whose inbox it went, if it did so just now.
    pub(super) async fn post(&self, to: RunId, message: String, body: MessageBody) -> Result<Option<RunKey>, Error> {
        asked::check_message(&message, &body, &self.config.limits)?;
        let (sent_at, mut waits, mut tried_before) = (self.time.now(), 0, false);
        loop {
            let links = self.links().await?;
            let (told, outcome) = oneshot::channel();
            let post = Message { to: to.clone(), message: message.clone(), body: body.clone(), sent_at };
            links.persistence.do_send(Submit(vec![(Item::Send(post), Whom::Caller(told))]));
            return match outcome.await {
                Ok(Outcome::Sent { run, .. }) => Ok(Some(run)),
                Ok(Outcome::AlreadySent) => Ok(None),
                Ok(Outcome::Unknown) => Err(SendError::Unknown(to.id).into()),
                // It has continued in between: its next run is there already.
                Ok(Outcome::Ended(summary)) if to.run_no == CURRENT_RUN && summary.status == Status::Continued => {
                    self.breathe().await;
                    continue;
                }
                // An earlier try has gone in, and its run has ended by it: only the answer was lost.
                Ok(Outcome::Ended(summary)) if tried_before && self.has_taken(&to, &summary, &message).await? => Ok(None),
                Ok(Outcome::Ended(summary)) => {
                    Err(SendError::AlreadyEnded { id: to.id, status: summary.status.as_str().to_owned() }.into())
                }
                Ok(Outcome::InboxFull) => Err(SendError::InboxFull(to.id).into()),
                Ok(Outcome::Refused(why)) => Err(SendError::Unavailable(why).into()),
                Ok(Outcome::Waits) => {
                    self.let_others_finish(&mut waits).await;
                    continue;
                }
                Ok(_) | Err(_) => {
                    tried_before = true;
                    self.breathe().await;
                    continue;
                }
            };
        }
    }

    /// Tells whether an addressee that has ended took a message, or the run that it has continued. `current` is the current run of the id.
    async fn has_taken(&self, to: &RunId, current: &Summary, message: &str) -> Result<bool, Error> {
        let row = match to.run_no {
            CURRENT_RUN => Some(current.clone()),
            run_no => self.row(&to.id, Some(run_no)).await?,
        };
        let Some(row) = row else { return Ok(false) };
        let stored = self.read(move |reader| async move { reader.run(row.run).await }).await?;
        let state = stored.and_then(|stored| loading::fold(&stored.summary.id, &stored.log).ok().flatten());
        Ok(state.is_some_and(|state| state.knows(message)))
    }

    // ---- questions ---------------------------------------------------------------------------------------------

    pub(crate) async fn list(&self, filter: Filter) -> Result<Vec<Summary>, Error> {
        self.read(move |reader| {
            let filter = filter.clone();
            async move { reader.list(&filter).await }
        })
        .await
    }

    pub(crate) async fn queues(&self) -> Result<Vec<QueueState>, Error> {
        self.read(|reader| async move { reader.queues().await }).await
    }

    /// Pauses a queue, or resumes it.
    pub(crate) async fn pause_queue(&self, name: String, paused: bool) -> Result<(), Error> {
        if name.len() > 255 || name.contains('\0') {
            return Err(Error::Config(format!("{name:?} is no name of a queue: it has a NUL, or more than 255 bytes")));
        }
        loop {
            let links = self.links().await?;
            let name = name.clone();
            let affair = Affair::new(move |store| Box::pin(async move { store.pause_queue(&name, paused).await }));
            match links.persistence.send(affair).await {
                Ok(Err(StoreError::Closed)) | Err(_) => self.breathe().await,
                Ok(answer) => return Ok(answer?),
            }
        }
    }

    pub(crate) async fn describe(&self, id: String) -> Result<Option<Description>, Error> {
        let loaded = self
            .read(move |reader| {
                let id = id.clone();
                async move {
                    match reader.find(&id, None).await? {
                        Some(summary) => reader.run(summary.run).await,
                        None => Ok(None),
                    }
                }
            })
            .await?;
        let Some(loaded) = loaded else { return Ok(None) };
        let commits = u32::try_from(loaded.log.len()).unwrap_or(u32::MAX);
        let state = loading::fold(&loaded.summary.id, &loaded.log);
        // It is said from the moment on at which it is recorded, also while something of it still runs.
        let paused = match &state {
            Ok(Some(State { paused: Some(order), .. })) => {
                Some(order.pauses(loading::ward(&loaded).paused_at.unwrap_or_default()))
            }
            _ => None,
        };
        let summary = loaded.summary;
        let forked = state.as_ref().ok().and_then(|state| state.as_ref()?.forked.as_ref().map(ToString::to_string));
        let (mut waits_for, outcome) = match &state {
            Ok(Some(state)) => (state.waits(), state.outcome.as_ref().map(in_words)),
            Ok(None) => (Vec::new(), None),
            Err(unreadable) => (vec![unreadable.to_string()], None),
        };
        for task in &loaded.tasks {
            let TaskRow { key, queue, worker, dropped } = task;
            waits_for.push(match (worker, dropped) {
                (None, _) => format!("#{} waits in queue {queue:?} for a node that serves it and has room", key.position),
                (Some(worker), false) => format!("#{} runs on node {worker}, from queue {queue:?}", key.position),
                (Some(worker), true) => format!("#{} is told to stop on node {worker}", key.position),
            });
        }
        if loaded.inbox.count() > 0 && !summary.status.is_end() {
            waits_for.push(format!("{} unread messages", loaded.inbox.count()));
        }
        let moved_by = match paused.filter(|_| summary.status != Status::Paused) {
            Some(paused) => format!("an operator: it is {paused}; what is under way comes to its end"),
            None => self.moved_by(&summary, &loaded.tasks),
        };
        Ok(Some(Description { summary, waits_for, moved_by, commits, outcome, forked }))
    }

    /// Who will move a run on: exactly one answer for each that has not ended.
    fn moved_by(&self, summary: &Summary, tasks: &[TaskRow]) -> String {
        let known = self.workflows.get(&summary.workflow, summary.version).is_some();
        match (summary.status, summary.owner, summary.blocked_build, summary.wake_at) {
            (status, ..) if status.is_end() => "nobody: it has ended".to_owned(),
            (Status::Quarantined, ..) => {
                format!("an operator: it is quarantined: {}", summary.reason.as_deref().unwrap_or("no reason was kept"))
            }
            (Status::Paused, ..) => {
                format!("an operator: it is {}", summary.reason.as_deref().unwrap_or("paused"))
            }
            (_, Some(owner), ..) => format!("node {owner}, which runs it"),
            _ if !known => {
                let (name, version) = (&summary.workflow, summary.version);
                format!("a node that has workflow {name:?} version {version}: this one has not")
            }
            (_, None, Some(build), _) if build == self.config.build => {
                format!("another build than this one ({build}): {}", summary.reason.as_deref().unwrap_or("no reason was kept"))
            }
            (_, None, _, Some(due)) => format!("the first free node, at {due}"),
            (_, None, _, None) if !tasks.is_empty() => "whoever runs what it has in queues".to_owned(),
            (_, None, _, None) => "a message: nothing else is due".to_owned(),
        }
    }

    /// Reads from the store, again if the incarnation ends meanwhile.
    pub(super) async fn read<T, F, R>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Rc<dyn Reader>) -> R + Clone + Send + 'static,
        R: Future<Output = Result<T, StoreError>> + 'static,
    {
        loop {
            let links = self.links().await?;
            match links.persistence.send(Read::new(read.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(StoreError::Closed)) | Err(_) => self.breathe().await,
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Somebody else's transaction holds the id: it is asked again when that has had time to end, with growing pauses.
    pub(super) async fn let_others_finish(&self, waits: &mut u32) {
        *waits += 1;
        tokio::time::sleep(Duration::from_millis(5 << (*waits).min(7))).await;
    }

    /// Lets a failing incarnation be noticed before it is asked again.
    pub(super) async fn breathe(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Standing {
    /// Returns what a caller hears.
    pub(crate) fn error(&self) -> Error {
        match self {
            Standing::Escalated { actor, panic, restarts } => {
                Error::Escalated { actor: actor.clone(), panic: panic.clone(), restarts: *restarts }
            }
            Standing::Starting | Standing::Open(_) | Standing::Stopped => Error::Stopped,
        }
    }
}

/// How a run was found to have ended.
enum Ended {
    /// With this row of its log.
    At(Box<Summary>, CommitNo, Record),
    /// As this next run.
    Continued(RunKey, RunKey),
}

async fn ends_of(reader: &dyn Reader, runs: &[RunKey]) -> Result<Vec<Ended>, StoreError> {
    let mut ended = Vec::new();
    for summary in reader.summaries(runs).await? {
        if summary.status == Status::Continued
            && let Some(next) = reader.find(&summary.id.id, summary.id.run_no.checked_add(1)).await?
        {
            ended.push(Ended::Continued(summary.run, next.run));
        } else if summary.status.is_end()
            && let Some((commit_no, record)) = reader.tail(summary.run).await?
        {
            ended.push(Ended::At(Box::new(summary), commit_no, record));
        }
    }
    Ok(ended)
}

enum Decided {
    Attach(Box<Summary>),
    Follow { run_no: u32, after: Vec<Status> },
}

/// One unanswered dispatch; given back when it is dropped.
pub(super) struct Credit<'a>(&'a AtomicUsize);

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn in_words(outcome: &RunEnd) -> String {
    match outcome {
        RunEnd::Completed(_) => "completed".to_owned(),
        RunEnd::Failed(failure) => format!("failed: {failure}"),
        RunEnd::Cancelled { reason } => format!("cancelled: {reason}"),
        RunEnd::TimedOut => "timed out: its deadline passed".to_owned(),
        RunEnd::Terminated { reason, by, skipped } => terminated(reason, by, skipped),
        RunEnd::Continued => "continued as its next run".to_owned(),
    }
}
