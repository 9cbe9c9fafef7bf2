//! Persistence: the only writer. Everything that arrived while the last commit was on its way goes into the next one: no
//! timer, no minimum, and never a second commit under way, because the store itself travels with the commit.
//!
//! It lives on an arbiter of its own, on which no user code ever runs. It never lets one item fail its neighbours: what an
//! item may meet is an outcome; only trouble with the store itself is an error, and then the whole batch waits (full,
//! busy: nothing was written) or the incarnation ends (anything else: nothing in memory may be trusted).

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture, WrapFuture, fut::ActorFutureExt};
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::{executor::Executor, notifier::Notifier, scheduler::Scheduler, stats::Counters};
use crate::{
    clock::StoreTime,
    kernel::{
        event::{MessageBody, TaskEnd},
        id::{Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{
        Answer, Batch, BatchAnswer, ClaimRequest, Claimed, Item, Message as Post, Outcome, Reader, Store, StoreError, Unread,
    },
};

mod telling;

/// At most so many items go into one commit; what is beyond waits for the next.
const MOST_ITEMS: usize = 4_096;

/// And about so many bytes, or a single item: what a server takes within its limit of time, also over a slow line.
const MOST_BYTES: usize = 16 << 20;

/// Items to be recorded, each with whom to tell.
///
/// *from* Executor's outbox, the door · *reply* by [`Acks`] or the oneshot · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit(pub(crate) Vec<(Item, Whom)>);

/// Whom to tell what became of an item.
pub(crate) enum Whom {
    /// The execution of this run, if it is still of this generation.
    Execution {
        /// Which run.
        run: RunKey,
        /// Which of its lives in memory.
        generation: u64,
        /// The commit says who was lost when the run was taken by force.
        claims: bool,
    },
    /// Whoever waits at the other end.
    Caller(oneshot::Sender<Outcome>),
    /// Nobody.
    Nobody,
}

/// What became of submitted items, in one message per commit.
///
/// *to* Executor · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Acks(pub(crate) Vec<Ack>);

/// What became of one item.
pub(crate) struct Ack {
    pub(crate) run: RunKey,
    pub(crate) generation: u64,
    pub(crate) claims: bool,
    pub(crate) outcome: Outcome,
}

/// Claims what is due, in the next commit.
///
/// *from* Scheduler · *reply* how many were claimed; the runs themselves go to the Executor · *delivery* ask · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "Result<usize, ()>")]
pub(crate) struct Claim(pub(crate) ClaimRequest);

/// Claimed runs.
///
/// *to* Executor · *delivery* tell · *if lost* the reconciler finds them owned and not held
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ClaimedRuns(pub(crate) Vec<Claimed>);

/// Messages that went into the inboxes of runs that this node owns.
///
/// *to* Executor · *delivery* nudge · *if lost* the run may not sleep before it has read them
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Deliver(pub(crate) Vec<(RunKey, Unread)>);

/// Renews the node's lease with precedence, in the next commit.
///
/// *from* LeaseKeeper · *reply* whether the node still stands · *delivery* ask · *if lost* the deadline runs out
#[derive(Message)]
#[rtype(result = "Result<Renewal, ()>")]
pub(crate) struct Renew;

/// How a renewal went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Renewal {
    /// Recorded.
    Done,
    /// The store cannot write at the moment, but there is nobody else who could be the owner.
    Held,
    /// Somebody took this node for dead.
    Refused,
}

/// Hands out the read side of the store.
///
/// *from* Executor, Scheduler, the door · *reply* a future's worth of reading · *delivery* ask · *if lost* ask again
pub(crate) struct Read<T, F>(pub(crate) F, pub(crate) std::marker::PhantomData<fn() -> T>);

impl<T, F> Read<T, F> {
    pub(crate) fn new(read: F) -> Self {
        Read(read, std::marker::PhantomData)
    }
}

impl<T: Send + 'static, F> Message for Read<T, F> {
    type Result = Result<T, StoreError>;
}

/// Reserves run keys.
///
/// *from* Executor · *reply* the first of them · *delivery* ask · *if lost* ask again; a gap harms nobody
#[derive(Message)]
#[rtype(result = "Result<RunKey, StoreError>")]
pub(crate) struct ReserveKeys(pub(crate) u32);

/// Where results go. Sent once, when those actors exist.
///
/// *from* the incarnation · *reply* none · *delivery* ask · *if lost* the incarnation is not started
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Link {
    pub(crate) executor: Addr<Executor>,
    pub(crate) scheduler: Addr<Scheduler>,
    pub(crate) notifier: Option<Addr<Notifier>>,
}

/// Marks this node dead, frees what it owns, and closes the store. The last message.
///
/// *from* the incarnation · *reply* when closed · *delivery* ask · *if lost* the OS lock proves the death
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct Close {
    /// Runs whose attempts may still be running: they keep their dead owner.
    pub(crate) keep: Vec<RunKey>,
}

/// Lets a quarantined or blocked run be claimed again.
///
/// *from* the door · *reply* what became of it · *delivery* ask · *if lost* ask again; it changes nothing twice
#[derive(Message)]
#[rtype(result = "Result<Outcome, StoreError>")]
pub(crate) struct Resume {
    pub(crate) id: String,
    pub(crate) now: Timestamp,
}

/// Asks the store something about nodes, between two commits.
///
/// *from* Undertaker · *reply* the store's answer · *delivery* ask · *if lost* the next look
pub(crate) struct Affair<T, F>(pub(crate) F, std::marker::PhantomData<fn() -> T>);

impl<T, F: for<'a> FnOnce(&'a mut dyn Store) -> Answer<'a, T>> Affair<T, F> {
    pub(crate) fn new(affair: F) -> Self {
        Affair(affair, std::marker::PhantomData)
    }
}

impl<T: Send + 'static, F> Message for Affair<T, F> {
    type Result = Result<T, StoreError>;
}

/// A core actor cannot go on, without a panic.
///
/// *to* Supervisor · *delivery* tell · *if lost* the deadline runs out
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub(crate) struct CannotGoOn {
    pub(crate) actor: &'static str,
    pub(crate) incarnation: Incarnation,
    pub(crate) why: String,
    pub(crate) blame: Blame,
}

/// Whose fault it is that a core actor cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blame {
    /// Ours, perhaps: too many of these within a while, and the runtime gives up.
    Us,
    /// The world's (the server is away, this node was frozen past its lease): it is borne as long as it lasts.
    World,
}

/// The writer.
pub(crate) struct Persistence {
    incarnation: Incarnation,
    time: Arc<StoreTime>,
    failed: Recipient<CannotGoOn>,
    counters: Arc<Counters>,
    links: Option<Link>,
    /// `None` while a commit is under way: the store travels with it.
    store: Option<Box<dyn Store>>,
    reader: Rc<dyn Reader>,
    queue: Vec<(Item, Whom)>,
    renewals: Vec<oneshot::Sender<Renewal>>,
    claim: Option<(ClaimRequest, oneshot::Sender<usize>)>,
    chores: Vec<Chore>,
    close: Option<(Close, oneshot::Sender<Result<(), StoreError>>)>,
    /// Whether the batch waits for its next try, because the disk is full or the file locked.
    backing_off: bool,
    /// The last such wait; the base of the next, longer one. None since a commit went well.
    last_wait: Duration,
    /// So many items go into the next commit: fewer and fewer while the store is too busy for them.
    most: usize,
    closed: bool,
}

/// Something rare, done between two commits.
enum Chore {
    Reserve(u32, oneshot::Sender<Result<RunKey, StoreError>>),
    Resume(Resume, oneshot::Sender<Result<Outcome, StoreError>>),
    Affair(AffairOfStore),
}

/// Asks the store and answers whoever asked; returns the error behind which nothing may be trusted.
type AffairOfStore = Box<dyn for<'a> FnOnce(&'a mut dyn Store) -> LocalBoxFuture<'a, Option<StoreError>>>;

/// What a commit under way will tell whom.
struct UnderWay {
    whoms: Vec<Whom>,
    posts: Vec<Posted>,
    renewals: Vec<oneshot::Sender<Renewal>>,
    claim: Option<oneshot::Sender<usize>>,
}

impl Persistence {
    pub(crate) fn new(
        incarnation: Incarnation,
        store: Box<dyn Store>,
        time: Arc<StoreTime>,
        failed: Recipient<CannotGoOn>,
        counters: Arc<Counters>,
    ) -> Persistence {
        let reader = store.reader();
        Persistence {
            incarnation,
            time,
            failed,
            counters,
            links: None,
            store: Some(store),
            reader,
            queue: Vec::new(),
            renewals: Vec::new(),
            claim: None,
            chores: Vec::new(),
            close: None,
            backing_off: false,
            last_wait: Duration::ZERO,
            most: MOST_ITEMS,
            closed: false,
        }
    }

    /// Starts the next commit, if none is under way and something waits.
    fn kick(&mut self, ctx: &mut Context<Self>) {
        if self.store.is_none() || self.backing_off || self.closed {
            return;
        }
        if !self.chores.is_empty() {
            return self.do_chores(ctx);
        }
        if self.queue.is_empty() && self.renewals.is_empty() && self.claim.is_none() {
            if let Some((Close { keep }, done)) = self.close.take() {
                self.close(keep, done, ctx);
            }
            return;
        }
        failpoint!("persistence.before_commit");
        let Some(mut store) = self.store.take() else { return };
        let rest = self.queue.split_off(self.fitting());
        let (items, whoms): (Vec<Item>, Vec<Whom>) = std::mem::replace(&mut self.queue, rest).into_iter().unzip();
        let now = self.time.now();
        let posts = items.iter().map(|item| post(item, now)).collect();
        let renewals = std::mem::take(&mut self.renewals);
        let (request, claim) = self.claim.take().unzip();
        let batch = Batch { incarnation: self.incarnation, now, renew: !renewals.is_empty(), items, claim: request };
        let under_way = UnderWay { whoms, posts, renewals, claim };
        store.hold(self.counters.held());
        let commit = async move {
            let answer = store.commit(&batch).await;
            (store, batch, answer)
        };
        let done = commit.into_actor(self).map(move |(store, batch, answer), this, ctx| {
            this.store = Some(store);
            this.on_committed(batch, under_way, answer, ctx);
        });
        ctx.spawn(done);
    }

    /// Returns how many of those that wait fit into one commit.
    fn fitting(&self) -> usize {
        let mut bytes = 0;
        let fits = |(item, _): &&(Item, Whom)| {
            bytes += item.bytes();
            bytes <= MOST_BYTES
        };
        let fit = self.queue.iter().take(self.most).take_while(fits).count();
        fit.max(1).min(self.queue.len())
    }

    fn on_committed(&mut self, batch: Batch, told: UnderWay, answer: Result<BatchAnswer, StoreError>, ctx: &mut Context<Self>) {
        match answer {
            Ok(answer) => {
                self.last_wait = Duration::ZERO;
                self.most = (self.most * 2).min(MOST_ITEMS);
                failpoint!("persistence.after_commit");
                // The next commit is on its way before anyone is told of this one.
                self.kick(ctx);
                self.count(&batch, &answer);
                self.hint(&batch, &answer);
                self.tell(told, answer);
            }
            Err(error @ (StoreError::Full { .. } | StoreError::Busy { .. })) => self.wait_for_room(batch, told, &error, ctx),
            Err(error) => self.give_up(&error, false),
        }
    }

    fn count(&self, batch: &Batch, answer: &BatchAnswer) {
        let appends = |item: &Item| matches!(item, Item::Turn(_) | Item::Enqueue(..) | Item::Fork(_));
        let outcomes = batch.items.iter().zip(&answer.outcomes);
        let rows = outcomes.filter(|(item, outcome)| appends(item) && **outcome == Outcome::Done).count();
        self.counters.committed(rows, batch.items.len(), answer.claimed.len());
    }

    /// Nothing was written: the same batch waits in memory for its next try, and the lease is held by the store's own proof.
    fn wait_for_room(&mut self, batch: Batch, told: UnderWay, error: &StoreError, ctx: &mut Context<Self>) {
        let wait = (self.last_wait * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
        tracing::warn!(%error, ?wait, "the store cannot write; everything waits and goes on by itself");
        let size = batch.items.len();
        let newer = std::mem::take(&mut self.queue);
        self.queue = batch.items.into_iter().zip(told.whoms).collect();
        self.queue.extend(newer);
        if let (Some(request), Some(claim)) = (batch.claim, told.claim) {
            self.claim.get_or_insert((request, claim));
        }
        told.renewals.into_iter().for_each(|renewal| self.held(renewal));
        if self.counters.is_alone() {
            // Those that came since would wait for the next try, and that may take long.
            std::mem::take(&mut self.renewals).into_iter().for_each(|renewal| self.held(renewal));
        }
        if let StoreError::Busy { .. } = error {
            // It may be too much at once for the store's limit of time.
            self.most = (size / 2).max(1);
        }
        self.backing_off = true;
        self.last_wait = wait;
        ctx.run_later(wait, |this, ctx| {
            this.backing_off = false;
            this.kick(ctx);
        });
    }

    /// Answers a renewal that cannot be written. Beside other nodes there is no answer: they see a beat that stands still, and
    /// may take over when the lease runs out, so it does here as well.
    fn held(&self, renewal: oneshot::Sender<Renewal>) {
        if self.counters.is_alone() {
            let _ = renewal.send(Renewal::Held);
        }
    }

    fn give_up(&mut self, error: &StoreError, fenced: bool) {
        self.closed = true;
        tracing::error!(%error, "persistence cannot go on");
        let why = error.to_string();
        if let StoreError::LostTail { .. } = error {
            self.counters.lost_tail();
        }
        let of_the_world = StoreError::is_of_the_world(error) || fenced;
        let blame = if of_the_world { Blame::World } else { Blame::Us };
        self.failed.do_send(CannotGoOn { actor: "Persistence", incarnation: self.incarnation, why, blame });
        // Dropping what waits tells its callers that the outcome is unknown.
        self.queue.clear();
        self.renewals.clear();
        self.claim = None;
        self.chores.clear();
        // Nor is anything left to be closed in order: whoever asked for it must not wait.
        if let Some((Close { keep }, done)) = self.close.take()
            && !keep.is_empty()
        {
            self.leave(keep, done);
        }
    }

    /// Behind trouble nothing is closed in order. But the store is told of blocking code that goes on, whatever it can make of
    /// it: its proof of life is to outlast this life.
    fn leave(&mut self, keep: Vec<RunKey>, done: oneshot::Sender<Result<(), StoreError>>) {
        let Some(mut store) = self.store.take() else { return };
        let incarnation = self.incarnation;
        actix_rt::spawn(async move {
            let retired = store.retire(incarnation, true, &keep).await;
            let _ = done.send(retired.and(Err(StoreError::Closed)));
        });
    }

    fn do_chores(&mut self, ctx: &mut Context<Self>) {
        let Some(mut store) = self.store.take() else { return };
        let chores = std::mem::take(&mut self.chores);
        let done = async move {
            let (mut broken, mut due) = (None, false);
            for chore in chores {
                due |= matches!(chore, Chore::Resume(..));
                let error = match chore {
                    Chore::Reserve(count, reply) => answer(reply, store.reserve_keys(count).await),
                    Chore::Resume(Resume { id, now }, reply) => answer(reply, store.resume(&id, now).await),
                    Chore::Affair(affair) => affair(&mut *store).await,
                };
                broken = broken.or(error);
            }
            (store, broken, due)
        };
        ctx.spawn(done.into_actor(self).map(|(store, broken, due), this, ctx| {
            this.store = Some(store);
            if due {
                this.hint_due();
            }
            match broken {
                Some(error) => this.give_up(&error, false),
                None => this.kick(ctx),
            }
        }));
    }

    fn close(&mut self, keep: Vec<RunKey>, done: oneshot::Sender<Result<(), StoreError>>, ctx: &mut Context<Self>) {
        let Some(mut store) = self.store.take() else { return };
        self.closed = true;
        let incarnation = self.incarnation;
        let close = async move {
            let retired = store.retire(incarnation, true, &keep).await;
            let closed = store.close().await;
            let _ = done.send(retired.and(closed));
        };
        ctx.spawn(close.into_actor(self).map(|(), _, ctx| actix::ActorContext::stop(ctx)));
    }
}

impl Actor for Persistence {
    type Context = Context<Self>;
}

impl Handler<Link> for Persistence {
    type Result = ();

    fn handle(&mut self, links: Link, _: &mut Context<Self>) {
        self.links = Some(links);
    }
}

impl Handler<Submit> for Persistence {
    type Result = ();

    fn handle(&mut self, Submit(items): Submit, ctx: &mut Context<Self>) {
        if self.closed {
            return;
        }
        self.queue.extend(items);
        self.kick(ctx);
    }
}

impl Handler<Renew> for Persistence {
    type Result = ResponseFuture<Result<Renewal, ()>>;

    fn handle(&mut self, _: Renew, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        // Also while it tries again: how long that takes nobody knows.
        let in_trouble = self.backing_off || (self.last_wait > Duration::ZERO && self.counters.is_alone());
        if in_trouble && !self.closed {
            self.held(reply);
        } else if !self.closed {
            self.renewals.push(reply);
            self.kick(ctx);
        }
        Box::pin(async move { answer.await.map_err(|_| ()) })
    }
}

impl Handler<Claim> for Persistence {
    type Result = ResponseFuture<Result<usize, ()>>;

    fn handle(&mut self, Claim(request): Claim, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        if !self.closed {
            self.claim = Some((request, reply));
            self.kick(ctx);
        }
        Box::pin(async move { answer.await.map_err(|_| ()) })
    }
}

impl Handler<ReserveKeys> for Persistence {
    type Result = ResponseFuture<Result<RunKey, StoreError>>;

    fn handle(&mut self, ReserveKeys(count): ReserveKeys, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        if !self.closed {
            self.chores.push(Chore::Reserve(count, reply));
            self.kick(ctx);
        }
        Box::pin(async move { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl Handler<Resume> for Persistence {
    type Result = ResponseFuture<Result<Outcome, StoreError>>;

    fn handle(&mut self, resume: Resume, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        if !self.closed {
            self.chores.push(Chore::Resume(resume, reply));
            self.kick(ctx);
        }
        Box::pin(async move { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl<T, F> Handler<Affair<T, F>> for Persistence
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a mut dyn Store) -> Answer<'a, T> + 'static,
{
    type Result = ResponseFuture<Result<T, StoreError>>;

    fn handle(&mut self, Affair(affair, _): Affair<T, F>, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answered) = oneshot::channel();
        if !self.closed {
            self.chores.push(Chore::Affair(Box::new(move |store| Box::pin(async move { answer(reply, affair(store).await) }))));
            self.kick(ctx);
        }
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl<T, F, R> Handler<Read<T, F>> for Persistence
where
    T: Send + 'static,
    F: FnOnce(Rc<dyn Reader>) -> R + 'static,
    R: Future<Output = Result<T, StoreError>> + 'static,
{
    type Result = ResponseFuture<Result<T, StoreError>>;

    fn handle(&mut self, Read(read, _): Read<T, F>, _: &mut Context<Self>) -> Self::Result {
        if self.closed {
            return Box::pin(async { Err(StoreError::Closed) });
        }
        Box::pin(read(self.reader.clone()))
    }
}

impl Handler<Close> for Persistence {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, close: Close, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        if !self.closed {
            self.close = Some((close, reply));
            self.kick(ctx);
        } else if !close.keep.is_empty() {
            self.leave(close.keep, reply);
        }
        Box::pin(async move { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

/// What an item sends to a run.
enum Posted {
    Nothing,
    /// This message: its receiver hears it at once, if that is here.
    Said(Post),
    /// A message that the store has made, of more than was sent: its receiver is to look.
    Stored,
}

fn post(item: &Item, now: Timestamp) -> Posted {
    match item {
        Item::Send(post) => Posted::Said(post.clone()),
        // What its worker has kept for the next attempt, before it was lost, is in the store alone.
        Item::EndTask(end) if matches!(end.body, MessageBody::Task { end: TaskEnd::Lost, .. }) => Posted::Stored,
        Item::EndTask(end) => Posted::Said(Post {
            to: RunId { id: String::new(), run_no: 0 },
            message: end.message(),
            body: end.told(None),
            sent_at: now,
        }),
        _ => Posted::Nothing,
    }
}

/// Answers a chore, and returns the error behind which nothing in memory may be trusted, if it met one.
fn answer<T>(reply: oneshot::Sender<Result<T, StoreError>>, result: Result<T, StoreError>) -> Option<StoreError> {
    let broken = match &result {
        Ok(_) | Err(StoreError::Full { .. } | StoreError::Busy { .. }) => None,
        Err(error) => Some(error.told()),
    };
    let _ = reply.send(result);
    broken
}
