//! What a store must do, as few verbs as possible. The log is the only truth; a store keeps it, the summary row of each
//! run, the inboxes and the nodes, and changes them in *batches of items*.
//!
//! **An item is all or nothing**, and one bad item never harms its neighbours: everything that can refuse an item is a
//! *data outcome* ([`Outcome`]), decided before anything is written. Only trouble with the store itself is an error.
//!
//! Two fences stand before every append. *Node*: the batch names the incarnation that writes; if its row is not live, all
//! items are [`Outcome::Fenced`]. *Execution*: an append names the digest of the run's last row; if that is not the last
//! row any more, the item is [`Outcome::Conflict`].
//!
//! Every store passes one conformance suite (`tests/store_contract.rs`), which drives all of them with the same random
//! operations and compares answers and snapshots.

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use crate::hints::OpenHints;
use crate::kernel::{
    codec::Record,
    event::MessageBody,
    id::{BuildId, CommitNo, Digest, Epoch, Incarnation, RunId, RunKey},
    memo::MemoKey,
    time::Timestamp,
};

mod error;
mod fork;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod gathering;
mod inbox;
mod item;
// Half of it is for databases.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), allow(dead_code))]
mod letters;
pub mod memory;
// Half of it is for databases.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), allow(dead_code))]
mod memos;
mod node;
mod others;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod outbox;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod packed;
#[cfg(feature = "postgres")]
pub mod postgres;
// Half of it is for databases.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), allow(dead_code))]
pub mod queue;
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), allow(dead_code))]
mod schedules;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) mod shown;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod status;
mod stored;
mod successor;
mod summary;
// Half of it is for databases.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres")), allow(dead_code))]
mod transactions;

pub use queue::{EndTask, NOT_BEGUN, NewTask, Queue, QueueState, StaleTask, TakenTasks, Task, TaskKey, TaskRequest, TaskRow};

pub use crate::kernel::{
    letter::{Letter, LetterChange},
    memo::{MemoEntry, MemoStep},
    published::Publication,
};
pub use error::StoreError;
pub use fork::{Fork, Redelivered};
pub use inbox::{Inbox, Undecoded, Unread};
pub use letters::{DeadLetter, LetterFilter, LetterPlace, SeenLetter};
pub use memos::{MemoAsk, MemoChange, MemoFound, MemoRow, MemoThen};
pub use node::{NewNode, NodeRow, NodeState, Renewed, Warden};
pub use others::{NewChild, Tell, Told};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use outbox::Enqueued;
pub use schedules::{ScheduleChange, ScheduleDue, ScheduleRow};
pub use status::Status;
pub use stored::Stored;
pub use successor::Successor;
pub use summary::{Filter, Summary};
pub use transactions::{Ended, StepOf, Stop, Transactions, Work};

/// A boxed future that need not be `Send`: a store lives on Persistence's own thread.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + 'a>>;

/// Opens a [`Warden`] on the thread that will use it; again for each that is wanted. The one that renews holds the proof that
/// its node lives; another one looks after the others.
pub type OpenWarden = Arc<dyn Fn() -> Answer<'static, Box<dyn Warden>> + Send + Sync>;

/// So many rows of a log are read at once.
const PAGE: u32 = 2_000;

/// The newest record format that this release writes and reads; a run of a newer one is not claimed.
pub const FORMAT: u32 = 1;

/// A durable home of executions.
///
/// The exclusive borrow says it: there is never more than one commit under way. Reads go past it, through a [`Reader`].
pub trait Store: Warden + 'static {
    /// Enters a new incarnation as live. What this store has entered before, and every node that is proved to be no more
    /// without having to wait for it (its handle on a store in memory was dropped, its lock on a file is free), is marked
    /// dead, and its executions are freed: `owner` becomes null, `forced` is set, and `wake_at` becomes now. Returns how
    /// many were freed.
    fn register(&mut self, node: &NewNode) -> Answer<'_, u64>;

    /// Marks the incarnation dead. With `free`, its executions are freed as in `register`, except those of `keep`, whose acts
    /// could not be stopped: they stay with it for another lease, or less where the end of its process can be seen.
    fn retire(&mut self, incarnation: Incarnation, free: bool, keep: &[RunKey]) -> Answer<'_, u64>;

    /// Lets a quarantined or blocked run be claimed again, as after a crash: due now, by force, with no claim counted. One that is paused
    /// is active again and due now, by force only if it was left so. The answer is `Done` (also when there was nothing to lift), `Unknown`
    /// or `Ended`.
    fn resume(&mut self, id: &str, now: Timestamp) -> Answer<'_, Outcome>;

    /// Marks a run as paused whose log says so already, in one line for people: if nobody owns it, it is due by no time, and of this epoch. What has happened to it since it was looked at shows in one of these (an order to go on makes it due, a claim has an epoch),
    /// and then nothing is changed, whenever this comes.
    fn halt(&mut self, run: RunKey, epoch: Epoch, reason: &str) -> Answer<'_, ()>;

    /// Reserves `count` run keys, ascending and never given before; returns the first.
    fn reserve_keys(&mut self, count: u32) -> Answer<'_, RunKey>;

    /// Writes the rules of queues; whether they are paused stays as it is.
    fn declare_queues(&mut self, queues: &[Queue]) -> Answer<'_, ()>;

    /// Pauses a queue, or resumes it. One that nobody has declared is made.
    fn pause_queue(&mut self, name: &str, paused: bool) -> Answer<'_, ()>;

    /// Writes one batch: one transaction, one fsync. The answer has one outcome per item, in order.
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, BatchAnswer>;

    /// Returns the read side, which may be used while a commit is under way.
    fn reader(&self) -> Rc<dyn Reader>;

    /// Takes note of how many executions are in memory, to be told with the renewals of batches.
    fn hold(&mut self, _executions: u32) {}

    /// Returns how to open a way of its own for the affairs of nodes, on whatever thread, if the store needs one: then
    /// renewals never wait behind commits. `None`: they are items of the next batch.
    fn warden(&self) -> Option<OpenWarden> {
        None
    }

    /// Returns the store's own time, if it has a clock of its own.
    fn time(&mut self) -> Answer<'_, Option<Timestamp>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Returns how to open the store's own way for hints between nodes, if it has one.
    fn hints(&self) -> Option<OpenHints> {
        None
    }

    /// Returns the store's way to run transactional steps, if it has transactions.
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        None
    }

    /// Tells whether nodes on other machines may work on the same data, so that what is unknown here may be known there.
    fn is_shared(&self) -> bool {
        false
    }

    /// Closes every connection, after a clean checkpoint where the store has one. Bounded in time by the caller.
    fn close(&mut self) -> Answer<'_, ()>;
}

/// The read side of a store: sees what is committed, at any time.
pub trait Reader {
    /// Returns the log of a run, in order, from `from` on, at most `limit` rows.
    fn history(&self, run: RunKey, from: CommitNo, limit: u32) -> Answer<'_, Vec<(CommitNo, Record)>>;

    /// Returns the last row of a run's log.
    fn tail(&self, run: RunKey) -> Answer<'_, Option<(CommitNo, Record)>>;

    /// Returns the row that was appended last, of whatever run: its time is how far the log has come. Of no use where the
    /// store has a [clock](crate::store::Store::time) of its own; such a store may return `None`.
    fn newest(&self) -> Answer<'_, Option<(RunId, CommitNo, Record)>>;

    /// Returns a run's unread messages in inbox order, and `inbox_seq` read in the same snapshot.
    fn inbox(&self, run: RunKey) -> Answer<'_, Inbox>;

    /// Returns the summary of the current run of an id, or of one of its runs.
    fn find(&self, id: &str, run_no: Option<u32>) -> Answer<'_, Option<Summary>>;

    /// Returns the summaries of these runs; unknown ones are left out.
    fn summaries(&self, runs: &[RunKey]) -> Answer<'_, Vec<Summary>>;

    /// Returns everything of a run. The log comes before the inbox: a message that was consumed between the two is in neither,
    /// and the commit that consumed it makes the next append of whoever has read this a conflict. Tasks come before the
    /// inbox too: one that ends between the two is in the inbox then.
    fn run(&self, run: RunKey) -> Answer<'_, Option<Stored>> {
        Box::pin(async move {
            let Some(summary) = self.summaries(&[run]).await?.into_iter().next() else { return Ok(None) };
            let mut stored = Stored::new(summary);
            loop {
                let from = CommitNo::try_from(stored.log.len()).unwrap_or(CommitNo::MAX);
                let page = self.history(run, from, PAGE).await?;
                let full = page.len() >= PAGE as usize;
                stored.log.extend(page);
                if !full {
                    break;
                }
            }
            (stored.tasks, stored.heartbeats) = futures_util::future::try_join(self.tasks(run), self.heartbeats(run)).await?;
            stored.inbox = self.inbox(run).await?;
            Ok(Some(stored))
        })
    }

    /// The same for several runs, each once, in the order in which they are first asked for. Unknown ones are left out, and so may be some whose logs are too long
    /// to be read along with others: [`run`](Reader::run) reads those.
    fn runs(&self, runs: &[RunKey]) -> Answer<'_, Vec<Stored>> {
        let runs = stored::distinct(runs);
        Box::pin(async move {
            let mut all = Vec::with_capacity(runs.len());
            for run in runs {
                all.extend(self.run(run).await?);
            }
            Ok(all)
        })
    }

    /// Returns one page of runs, newest first.
    fn list(&self, filter: &Filter) -> Answer<'_, Vec<Summary>>;

    /// Returns the runs that this incarnation owns and how many messages were ever put into their inboxes, for the
    /// reconciler.
    fn owned(&self, by: Incarnation) -> Answer<'_, Vec<(RunKey, u64)>>;

    /// Returns the earliest `wake_at` behind `after` of any run that is unowned and active, if there is one. What was due
    /// before and was not claimed cannot run here, and must not keep anyone awake.
    fn next_wake(&self, after: Timestamp) -> Answer<'_, Option<Timestamp>>;

    /// Returns the kept heartbeat details of a run: `(position, attempt, details)`.
    fn heartbeats(&self, run: RunKey) -> Answer<'_, Vec<(u32, u32, bytes::Bytes)>>;

    /// Returns what a run has published: under this key, or all of it, by key.
    fn published(&self, run: RunKey, key: Option<&str>) -> Answer<'_, Vec<Publication>>;

    /// Returns one page of dead letters, newest first.
    fn letters(&self, filter: &LetterFilter) -> Answer<'_, Vec<DeadLetter>>;

    /// Returns the number of the last row of each of these runs; unknown ones are left out. In the order of their keys.
    fn heights(&self, runs: &[RunKey]) -> Answer<'_, Vec<(RunKey, CommitNo)>>;

    /// Returns the tasks of a run. Read *before* its inbox: a task that ends in between is in the inbox then.
    fn tasks(&self, run: RunKey) -> Answer<'_, Vec<TaskRow>>;

    /// Returns the tasks that a node holds.
    fn held_tasks(&self, by: Incarnation) -> Answer<'_, Vec<TaskRow>>;

    /// Returns up to `most` tasks that somebody has to end: their time to start is over and nobody has them, or they are with a
    /// dead node whose lease has run out since its last beat (or which has left well, or is proved to be no more).
    fn stale_tasks(&self, now: Timestamp, most: u32) -> Answer<'_, Vec<StaleTask>>;

    /// Returns the names of the queues that have rules.
    fn ruled_queues(&self) -> Answer<'_, Vec<String>>;

    /// Returns all queues that have rules or tasks, by name. It counts what is in them.
    fn queues(&self) -> Answer<'_, Vec<QueueState>>;

    /// Returns the row of a schedule.
    fn schedule(&self, name: &str) -> Answer<'_, Option<ScheduleRow>>;

    /// Returns the rows of schedules whose names come behind this one, by name, at most so many.
    fn schedules(&self, after: &str, limit: u32) -> Answer<'_, Vec<ScheduleRow>>;

    /// Returns the schedules that are due by then or wait for the end of a run, at most so many: first those for which it has come, then
    /// by due time, then by name.
    fn due_schedules(&self, until: Timestamp, limit: u32) -> Answer<'_, Vec<ScheduleDue>>;

    /// Returns the row of a key under which a result is shared, and who asks for it: the first so many.
    fn memo(&self, key: MemoKey, asks: u32) -> Answer<'_, MemoFound>;

    /// Returns keys about which there is something to do, at most so many: somebody asks, and the key is not held by a run that
    /// somebody owns, or that is active and has not been due since before `stuck`; or its value does not count any more at `now`.
    fn memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Answer<'_, Vec<MemoKey>>;

    /// Returns the keys from `first` to `last` that have rows, with their stamps, in order, at most so many.
    fn memo_keys(&self, first: MemoKey, last: MemoKey, most: u32) -> Answer<'_, Vec<(MemoKey, i64)>>;

    /// Returns everything as sorted, comparable text lines, without store-internal numbers that may differ between
    /// stores. For the conformance suite.
    fn snapshot(&self) -> Answer<'_, Vec<String>>;
}

/// How durable an acknowledgement is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// On disk (fsync) before it is given: survives the loss of power.
    #[default]
    Full,
    /// Written, not synced: survives the death of the process; a loss of power may take the last commits, but leaves no gap
    /// and no half of one.
    Normal,
}

/// What one transaction does, in this order: fence, renewal, items kind by kind, claim. What the accepted turns do to *other*
/// runs comes behind all turns and enqueues, and before all other items.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Who writes; checked first.
    pub incarnation: Incarnation,
    /// The caller's time; claims compare with it.
    pub now: Timestamp,
    /// Whether to renew the node's lease: adds one to its beat.
    pub renew: bool,
    /// The items. A run occurs in at most one [`Item::Turn`].
    pub items: Vec<Item>,
    /// What to claim afterwards, if anything.
    pub claim: Option<ClaimRequest>,
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchAnswer {
    /// One per item, in order.
    pub outcomes: Vec<Outcome>,
    /// The runs claimed.
    pub claimed: Vec<Claimed>,
    /// What the accepted turns told other runs, in the order in which it was put into inboxes.
    pub told: Vec<Told>,
    /// Whether the node still stands; `false` means that nothing at all was written.
    pub live: bool,
}

/// One change, all or nothing.
#[derive(Clone, Debug)]
pub enum Item {
    /// What one turn of one run records.
    Turn(Arc<Turn>),
    /// A run that is written without running its first turn here: unowned, due at `wake_at`.
    Enqueue(Box<NewRun>, Record),
    /// A message to an execution, from outside.
    Send(Message),
    /// Gives a run back without appending: blocked, quarantined, or merely released.
    Yield(Yield),
    /// Keeps the heartbeat details of a running attempt.
    Heartbeat {
        /// Whose.
        run: RunKey,
        /// Which call.
        position: u32,
        /// Which attempt.
        attempt: u32,
        /// The user's details, encoded.
        details: bytes::Bytes,
    },
    /// Clears the count of claims without progress of these runs.
    Progressed(Vec<RunKey>),
    /// Ends a task and tells its run. The answer is [`Outcome::Sent`], `Done` if nobody wants to know, or `NotOwned` if it is
    /// not with whom it must be.
    EndTask(Box<EndTask>),
    /// Keeps the heartbeat details of a task that the batch's incarnation holds.
    BeatTask(TaskKey, bytes::Bytes),
    /// Puts tasks into their queues for a run that the batch's incarnation owns under this epoch, without a turn: attempts whose
    /// intents were recorded elsewhere, and which were never begun.
    PlaceTasks(RunKey, Epoch, Vec<NewTask>),
    /// Makes, changes or fires a schedule.
    Schedule(Box<ScheduleChange>),
    /// Answers those who ask for a key under which a result is shared.
    Memo(Box<MemoChange>),
    /// Begins a run with the history of an earlier one.
    Fork(Box<Fork>),
    /// Takes out these letters, those that are there as they were seen: a newer one of the same call stays. The answer is `Done`.
    DropLetters(Vec<SeenLetter>),
}

/// What one turn records.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which run.
    pub run: RunKey,
    /// The run's row, when this is its first commit; it is inserted owned by the batch's incarnation, with epoch 1.
    pub start: Option<Box<NewRun>>,
    /// The number of this commit.
    pub commit_no: CommitNo,
    /// The digest of the row before; `None` only with `start`.
    pub prev: Option<Digest>,
    /// Accepted only while nobody owns the run and this is its epoch: whoever decided this has not claimed the run, and a claim moves
    /// nothing of its log.
    pub unowned: Option<Epoch>,
    /// The row.
    pub record: Record,
    /// What becomes of the run.
    pub then: Then,
    /// Inbox rows that this turn turned into events, by `seq`. All must exist.
    pub consumed: Vec<u64>,
    /// Heartbeat rows, and results of transactional steps, that are of no use any more, by position.
    pub settled: Vec<u32>,
    /// Attempts that go into shared queues.
    pub tasks: Vec<NewTask>,
    /// Calls whose attempts in shared queues nobody wants any more: what nobody has begun goes at once, what somebody holds
    /// once that one lets go. [`NOT_BEGUN`] stands for all of the run that nobody has begun, and for nothing that somebody holds.
    pub withdrawn: Vec<u32>,
    /// Runs that this one begins as its children; `NewChild` says when and how.
    pub starts: Vec<NewChild>,
    /// What it tells other runs, behind its `starts`.
    pub tells: Vec<Tell>,
    /// What it shows outside from now on, in place of what was there under the same keys. It stays when the run has ended.
    pub published: Vec<Publication>,
    /// What it does about keys under which results are shared: first what it lets go, then what it asks for.
    pub memos: Vec<MemoEntry>,
    /// What becomes of the letters of its calls, each once. They stay when the run has ended.
    pub letters: Vec<LetterChange>,
}

/// What becomes of a run behind a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Goes on here.
    Hold,
    /// Sleeps: `owner` becomes null. Accepted only while `inbox_seq` is what the writer has seen.
    Passivate {
        /// When it is due next; `None` means only a message wakes it.
        wake_at: Option<Timestamp>,
        /// The `inbox_seq` up to which the writer has seen messages.
        seen: u64,
    },
    /// Ended; whatever is unread is dropped with the row's end, in the same commit. Accepted only while `inbox_seq` is what the
    /// writer has seen, if it says what that is.
    End {
        /// How.
        status: Status,
        /// The `inbox_seq` up to which the writer has seen messages; `None` ends the run whatever has come.
        seen: Option<u64>,
    },
    /// Ended as [`Status::Continued`], and the next run of its id begins; [`Successor`] says how. Whatever is unread and for the execution
    /// goes along, and the rest is dropped, as with any end.
    Continue(Box<Successor>),
}

/// A run's row as it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Its key, from `reserve_keys`.
    pub run: RunKey,
    /// Its public name. Accepted only if no row of this `(id, run_no)` exists and, for `run_no > 1`, the run before it is
    /// the current one and has ended with one of the states in `after`.
    pub id: RunId,
    /// With which ends of the run before this one may follow it; empty for `run_no` 1.
    pub after: Vec<Status>,
    /// The workflow's stored name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// Higher first; default 0.
    pub priority: i32,
    /// Its queue; empty is the default one.
    pub queue: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The tags that a node must have to run it.
    pub needs: Vec<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it is due, if it is not run at once.
    pub wake_at: Option<Timestamp>,
    /// When the whole run must have ended.
    pub deadline: Option<Timestamp>,
    /// The digest of its argument, by which a second dispatch of the id is compared.
    pub input_digest: Digest,
}

impl NewRun {
    /// Returns its row as it begins.
    pub(crate) fn begun(&self, owner: Option<Incarnation>, epoch: u64, wake_at: Option<Timestamp>) -> Summary {
        Summary {
            run: self.run,
            id: self.id.clone(),
            workflow: self.workflow.clone(),
            version: self.version,
            status: Status::Active,
            owner,
            epoch,
            wake_at,
            priority: self.priority,
            queue: self.queue.clone(),
            tags: self.tags.clone(),
            needs: self.needs.clone(),
            created_at: self.created_at,
            ended_at: None,
            deadline: self.deadline,
            input_digest: self.input_digest,
            inbox_seq: 0,
            blocked_build: None,
            reason: None,
        }
    }
}

/// A message on its way to an execution, or to one run of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// To whom; [`CURRENT_RUN`](crate::kernel::event::CURRENT_RUN) stands for whichever run is the current one. One that is for another run than the current one is answered with [`Outcome::Ended`].
    pub to: RunId,
    /// The message's own id, made by the sender before its first try.
    pub message: String,
    /// What it says.
    pub body: MessageBody,
    /// When it was sent.
    pub sent_at: Timestamp,
}

/// Gives a run back without appending. A blocked or quarantined one is taken by force when it is claimed again, since what its
/// attempts did is not known. Accepted only if the batch's incarnation owns it under this epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Yield {
    /// Which run.
    pub run: RunKey,
    /// Under which claim.
    pub epoch: Epoch,
    /// Why.
    pub why: YieldReason,
}

/// Why a run is given back.
#[derive(Clone, Debug, PartialEq)]
pub enum YieldReason {
    /// Its code here does not fit its log: other builds may go on claiming it.
    Blocked {
        /// The build that cannot run it.
        build: BuildId,
        /// The whole report.
        reason: String,
    },
    /// Nobody may claim it until an operator says so.
    Quarantined {
        /// The whole report.
        reason: String,
    },
    /// An operator has paused it, as its log says: nobody may claim it until one lets it go on. What is unread stays so. If more has come
    /// than was seen, which may be an order to go on, it is due at once, as [`Released`](YieldReason::Released).
    Paused {
        /// Who, when and why, in one line.
        reason: String,
        /// The inbox number up to which messages were seen.
        seen: u64,
        /// Whether its attempts may still have been running, so that the next owner must write a `Claimed` event.
        forced: bool,
    },
    /// Due again then; at once if a message is unread.
    Released {
        /// When.
        wake_at: Option<Timestamp>,
        /// Whether its attempts may still have been running, so that the next owner must write a `Claimed` event.
        forced: bool,
    },
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All of it is durable.
    Done,
    /// A message went in: its number, the run that got it, and who owns that run. Its owner is handed the message, or a hint
    /// of it; without an owner the run is due now.
    Sent {
        /// Its number in the inbox.
        seq: u64,
        /// The run that got it.
        run: RunKey,
        /// Who owns the run.
        owner: Option<Incarnation>,
    },
    /// A message of this id is in the inbox already; nothing was changed.
    AlreadySent,
    /// The node is not live any more: nothing of the batch was written.
    Fenced,
    /// The log's last row is another one.
    Conflict,
    /// The id is in use; here is its current run.
    IdInUse(Box<Summary>),
    /// A message came in meanwhile: the run may not sleep before it has seen it, nor end as one that has seen everything.
    InboxMoved,
    /// A row to be consumed is not there: a bug of the caller's.
    MessageGone,
    /// The target of a message does not exist.
    Unknown,
    /// The target of a message has ended; here is the current run of its id.
    Ended(Box<Summary>),
    /// The target's inbox is full.
    InboxFull,
    /// The run is not owned by this incarnation under this epoch.
    NotOwned,
    /// The id, or the run, is held by a transaction of somebody else's that has not ended: nothing was written, and nobody
    /// else has waited. Trying again a little later tells more.
    Waits,
    /// The store refused this item and no other, for a reason of its own.
    Refused(String),
}

/// What may be claimed: runs that are unowned, active, due, of a readable format, not blocked for this build, and of one of these
/// workflows. Order: due time, less ten seconds for each step of priority, then
/// key: a higher priority overtakes, and nobody starves. With `ahead`, also what is due within so long behind the batch's time and was
/// claimed before: a run that was never claimed begins when it is claimed, which must not be early.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// At most so many.
    pub limit: u32,
    /// How far ahead; zero is what is due.
    pub ahead: Duration,
    /// At most so many of those with `forced` set (freed by a crash), so that a poison run cannot take everything along.
    pub forced_limit: u32,
    /// This build.
    pub build: BuildId,
    /// The `(name, version)` pairs that this node has.
    pub workflows: Vec<(String, u32)>,
    /// Only runs of these queues; `None` means of any.
    pub queues: Option<Vec<String>>,
    /// The tags of this node: runs that need others are left to others.
    pub tags: Vec<String>,
}

/// A claimed run: `owner` is set, `epoch` and `claims` are one higher, `wake_at` is null, `forced` as it was before is told
/// and then cleared.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The row behind the claim.
    pub summary: Summary,
    /// When it is due, or was.
    pub due: Timestamp,
    /// Whether it was taken by force, so that the first commit must be a `Claimed` event.
    pub forced: bool,
    /// Claims since the run last made progress, this one included.
    pub claims: u32,
}
