//! What a workflow sees of the world: [`Cx`]. Everything here is deterministic: it records what it asks for and answers
//! from the log, live and in replay alike.
//!
//! Positions are reserved when a future is *constructed*; its command is recorded when it is first polled. So `join!`,
//! `futures::join_all`, `select!` with `biased` and [`Cx::map`] all replay the same way.

use std::{marker::PhantomData, rc::Rc, time::Duration};

use crate::{
    activity::{Activity, Durable},
    error::{AppError, CallError, Cancelled},
    kernel::{
        chain::History,
        id::{Position, RunId},
        tape::Tape,
        time::Timestamp,
    },
    workflow::{Signal, Workflow},
};

mod call;
mod chain;
pub(crate) mod child;
mod map;
mod memo;
mod publish;
mod saga;
mod step;
mod talk;
mod until;
mod wait;

#[cfg(feature = "actors")]
pub(crate) use call::typed;
pub use call::{OnExhausted, Pending};
pub use chain::Continue;
pub use child::{ChildRun, Detached};
pub use map::{AtLeast, Either, Map, Race, Settle};
pub use memo::Memo;
pub use publish::Progress;
pub use saga::{Saga, Undoable};
pub use step::Step;
pub use until::{Until, UntilWithin};
pub use wait::{Recv, Shielded, Sleep, Within};

/// The workflow's only door to the world. Cheap to clone.
pub struct Cx<W> {
    tape: Rc<Tape>,
    workflow: PhantomData<fn() -> W>,
}

impl<W> Clone for Cx<W> {
    fn clone(&self) -> Self {
        Cx::new(self.tape.clone())
    }
}

impl<W> std::fmt::Debug for Cx<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cx").field(self.tape.id()).finish()
    }
}

impl<W> Cx<W> {
    pub(crate) fn new(tape: Rc<Tape>) -> Self {
        Cx { tape, workflow: PhantomData }
    }

    /// Calls an activity: run at least once, recorded exactly once.
    ///
    /// Await it for the output; set limits and retries on the returned value before. Dropping it unfinished cancels the
    /// call.
    pub fn call<A: Activity>(&self, activity: A) -> Pending<A> {
        Pending::new(self.tape.clone(), activity, None)
    }

    /// Begins another workflow as a child of this run, and waits for its end. The child is an execution of its own: with its own log,
    /// on whatever node, seen, signalled and cancelled by its id. It begins exactly once, whatever crashes, and its end is heard
    /// exactly once. Its workflow must be registered wherever its parent runs, whichever node runs it in the end.
    ///
    /// Dropping it unfinished, the cancellation of this run and its end ask the child to stop, unless
    /// [`on_close`](ChildRun::on_close) says otherwise; the wait ends at once then, and the child soon after it. A wait that is
    /// [`shielded`](Cx::shielded) goes on, and so does its child. A waiting parent costs neither a slot nor, after a moment, memory. For
    /// a child that goes on by itself see [`detach`](ChildRun::detach).
    pub fn child<C: Workflow>(&self, workflow: C) -> ChildRun<C> {
        ChildRun::new(self.tape.clone(), &workflow)
    }

    /// Runs a short async closure inline, as a recorded step: it runs when its intent is durable, and its value is
    /// recorded before the workflow goes on. In replay the closure does not run.
    ///
    /// The closure may borrow from the workflow. For work that blocks a thread use [`Cx::blocking`]; errors come back as
    /// [`AppError`], because they must be stored.
    pub fn step<'a, T, E, F>(&self, name: &str, closure: F) -> Step<'a, T>
    where
        T: Durable,
        E: Into<AppError> + 'a,
        F: AsyncFn() -> Result<T, E> + 'a,
    {
        Step::inline(self.tape.clone(), name, closure)
    }

    /// Runs a closure that blocks its thread (files, hashing, compression) on a bounded pool of threads, as a recorded
    /// step. It may run more than once, like any activity.
    pub fn blocking<T, E, F>(&self, name: &str, closure: F) -> Step<'static, T>
    where
        T: Durable,
        E: Into<AppError>,
        F: Fn() -> Result<T, E> + Send + Sync + 'static,
    {
        Step::blocking(self.tape.clone(), name, closure)
    }

    /// Runs a closure in a transaction of the store's own database, as a step that takes place **exactly once**: what it
    /// writes and the fact that it did commit together, or not at all. An error that it returns rolls back and is a failed
    /// attempt; a crash at any moment is found out, and what was committed is never run again.
    ///
    /// The connection's type says which store it is written for: `&mut sqlx::PgConnection` or `&mut sqlx::SqliteConnection`
    /// (re-exported as `store::postgres::sqlx` and `store::sqlite::sqlx`). Write only what belongs together: until it is
    /// over, a transaction keeps its locks, on SQLite *the* write lock. So await nothing in it but the connection, and never
    /// the end of another execution. It may not end the transaction itself. The connection is lent again as it is left: what a
    /// session keeps beyond its transaction (`SET` without `LOCAL`, advisory locks of the session, temporary tables, `ATTACH`)
    /// meets other steps; use what ends with the transaction.
    pub fn transaction<C, T, E, F>(&self, name: &str, closure: F) -> Step<'static, T>
    where
        C: 'static,
        T: Durable,
        E: Into<AppError>,
        F: AsyncFn(&mut C) -> Result<T, E> + Send + Sync + 'static,
    {
        Step::transaction(self.tape.clone(), name, closure)
    }

    /// Waits for `duration`, durably: a restart in between does not prolong it, and it is never over early. Zero is over
    /// at the next turn; more than a hundred years counts as a hundred years.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self.tape.clone(), wait::Until::After(duration))
    }

    /// Waits until a moment, durably. One that has passed is over at the next turn.
    pub fn sleep_until(&self, moment: chrono::DateTime<chrono::Utc>) -> Sleep {
        // Rounded up: never over early.
        let part = i64::from(!moment.timestamp_subsec_nanos().is_multiple_of(1000));
        Sleep::new(self.tape.clone(), wait::Until::At(Timestamp(moment.timestamp_micros().saturating_add(part))))
    }

    /// Waits for the next unread signal of a type. Signals are kept until they are read, are read in the order in which
    /// they were sent, and each one is read once: two waits take two signals.
    pub fn signal<S: Signal>(&self) -> Recv<S> {
        Recv::new(self.tape.clone())
    }

    /// Waits until a condition of the workflow's own state holds: what updates and other branches of the code change. It is looked at now,
    /// and again behind each fact, as often as code has run in between; never for any other reason, so it is the same in replay,
    /// and nothing is recorded of it. It must only look, without `cx`. For a limit see [`within`](Until::within); `race` does as well.
    ///
    /// A run whose cancellation was asked for hears of it here as in any other await.
    pub fn until<'a>(&self, condition: impl FnMut() -> bool + 'a) -> Until<'a> {
        Until::new(self.tape.clone(), Box::new(condition))
    }

    /// Runs `each` over `items`, at most 16 at a time (see [`Map::concurrency`]), and returns the outputs in the order of
    /// the items, or the first error; then what still runs is cancelled. [`Map::settle`] gives each item's own end instead,
    /// [`Map::at_least`] as many outputs as are needed.
    pub fn map<'a, I, T, F, U, E>(&self, items: I, each: F) -> Map<'a, I::IntoIter, F, U, E>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> T,
        T: Future<Output = Result<U, E>> + 'a,
    {
        Map::new(items.into_iter(), each)
    }

    /// Returns whichever of two futures is ready first; the other is dropped, which cancels what it waits for. Which one
    /// won follows from the log, so replay agrees. Ready together, the first wins.
    pub fn race<A: Future, B: Future>(&self, first: A, second: B) -> Race<A, B> {
        Race::new(first, second)
    }

    /// Runs `body` as a saga: compensations that it registers run in reverse, one after the other, when it returns an
    /// error, is cancelled, panics or is dropped. They are shielded from cancellation, retried until done, and the run
    /// does not end before.
    pub async fn saga<T, E>(&self, body: impl AsyncFnOnce(&mut Saga) -> Result<T, E>) -> Result<T, E> {
        saga::run(&self.tape, body).await
    }

    /// Shields a future from cancellation: what it awaits goes on although the run was asked to stop. For clean-up.
    pub fn shielded<F: Future>(&self, future: F) -> Shielded<F> {
        Shielded::new(self.tape.clone(), future)
    }

    /// Tells which way changed code is to go: `true` in runs that come to this place for the first time, `false` in those that have
    /// passed it with the old code. So a workflow can be changed while runs of it are under way:
    ///
    /// ```
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)] struct Check; #[derive(Serialize, Deserialize)] struct CheckTwice;
    /// # impl Activity for Check { const NAME: &'static str = "a"; type Output = (); type Error = AppError; }
    /// # impl Activity for CheckTwice { const NAME: &'static str = "b"; type Output = (); type Error = AppError; }
    /// # async fn body(cx: Cx<impl Workflow>) -> Result<(), AppError> {
    /// if cx.patched("check-twice") {
    ///     cx.call(CheckTwice).await?;
    /// } else {
    ///     cx.call(Check).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The answer is recorded (`true`) or follows from the log (`false`), and is the same for all places of one name in a run. Its life has
    /// three deployments: with both ways; when no run without the patch is left, the new way alone behind
    /// [`deprecate_patch`](Cx::deprecate_patch); when no run is left that began before that, without either. It takes no place in the order of
    /// commands, so it may stand anywhere. Inside the closure of a step it is a mistake, and found.
    pub fn patched(&self, id: &str) -> bool {
        self.tape.patched(id, false)
    }

    /// Says that a patch has no old way any more: runs that recorded it are replayed as before, and those that pass here for the first
    /// time record that later code need not mention it. A run that has passed without the patch still is blocked, and says so, if what follows differs.
    pub fn deprecate_patch(&self, id: &str) {
        self.tape.patched(id, true);
    }

    /// Returns how long the history of this run was when the current turn's fact came: the same in replay. A run that goes on for
    /// long is replayed from its beginning whenever it comes back to memory, so its history should stay short.
    pub fn history(&self) -> History {
        self.tape.history()
    }

    /// Tells whether the history of this run is long enough to [continue](Cx::continue_as_new) as a new one: 4,096 events, or 4 MiB of
    /// payload. Temporal's server suggests it at the same size; nothing forces a run to follow before its limit of
    /// commits (a million).
    pub fn should_continue(&self) -> bool {
        self.history().is_long()
    }

    /// Tells whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.tape.is_cancelled()
    }

    /// Returns the time of the current turn: the same in replay, never going back within a run.
    pub fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.tape.now().to_utc()
    }

    /// Returns a random number: the same in replay. Not for secrets.
    pub fn random(&self) -> u64 {
        self.tape.random()
    }

    /// Returns a random (version 4) UUID: the same in replay. Not for secrets.
    pub fn uuid(&self) -> uuid::Uuid {
        let bits = (u128::from(self.tape.random()) << 64) | u128::from(self.tape.random());
        uuid::Builder::from_u128(bits).with_version(uuid::Version::Random).with_variant(uuid::Variant::RFC4122).into_uuid()
    }

    /// Returns the execution's id and the number of this run.
    pub fn id(&self) -> &RunId {
        self.tape.id()
    }
}

impl<W: Workflow> Cx<W> {
    /// Ends this run and goes on as the next one of the same execution: the same workflow (and version) with a new argument and an
    /// empty history. For what never ends, or has more steps than a history should have:
    ///
    /// ```
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)] struct Deposit(u64);
    /// # impl Signal for Deposit { const NAME: &'static str = "deposit"; }
    /// #[derive(Serialize, Deserialize)]
    /// struct Account { balance: u64 }
    ///
    /// impl Workflow for Account {
    ///     const NAME: &'static str = "bank.account";
    ///     type Output = ();
    ///     type Error = AppError;
    ///
    ///     async fn run(mut self, cx: Cx<Self>) -> Result<(), AppError> {
    ///         while !cx.should_continue() {
    ///             self.balance += cx.signal::<Deposit>().await?.0;
    ///         }
    ///         Ok(cx.continue_as_new(self).await?)
    ///     }
    /// }
    /// ```
    ///
    /// The end of this run and the beginning of the next are one commit. To everybody outside the execution is the same all along: its
    /// id, row (priority, queue, tags), deadline, parent and whoever waits for its result, which is that of the last run. Signals that
    /// nobody has read are read by the next run, in their order, and none twice; a pending wish to stop goes along. What belongs to this
    /// run alone must be over: it is refused while something is awaited elsewhere in the code (an activity, a step, a sleep, a signal, a
    /// child; *drop* it to give it up) or a saga is open. Detached children go on.
    ///
    /// Awaited, it does not come back, wherever in the code it stands, unless it is refused: then the run goes on as it was and nothing
    /// is recorded. What stands behind it in the function does not run; values that live are dropped. Patches, the numbers of
    /// positions and `cx.random()` begin anew, so the keys of calls are new as well. What is published goes along: the next run shows it
    /// from its first moment on, with the versions that it has, and its counters go on from their sums.
    ///
    /// On a cancelled run it is refused like any other await, unless it is [`shielded`](Cx::shielded): then the next run is cancelled from
    /// its beginning on. Inside the closure of a step it is a mistake, and found.
    ///
    /// # Errors
    /// [`ContinueError`](crate::ContinueError) says what is in the way, and what to do.
    pub fn continue_as_new(&self, next: W) -> Continue<W> {
        Continue::new(self.tape.clone(), &next)
    }
}

/// The stable key of a call: what foreign systems may use to refuse a second act.
pub(crate) fn call_key(id: &RunId, position: Position) -> String {
    format!("{id}/{position}")
}

impl<E> From<Cancelled> for CallError<E> {
    fn from(_: Cancelled) -> Self {
        CallError::Cancelled
    }
}
