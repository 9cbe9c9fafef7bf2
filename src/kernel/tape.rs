//! What a workflow's future and the kernel share: the commands that the code asked for, the answers that facts brought,
//! and nothing that touches the world. The futures of [`crate::cx`] are thin views of it.
//!
//! Before the kernel drops a future it *seals* the tape: from then on every call and every drop is inert and records
//! nothing, so that eviction and replay may run the user's `Drop` code any number of times.

use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use crate::fast::FastMap;

use super::{
    chain::History,
    event::{Command, Outcome, Reply, Started},
    failure::{Failure, KIND_LIMIT},
    fork::Forked,
    id::{Attempt, Position, RunId},
    limits::Limits,
    payload::{CodecError, Payload},
    places::Places,
    published::Published,
    random,
    sagas::Sagas,
    time::Timestamp,
    wake::Signal,
};

mod chain;
mod name;
mod publishing;
mod scopes;
mod talk;
mod what;

use name::Name;
pub(crate) use publishing::PROGRESS;
use talk::Talk;
pub(crate) use talk::{Inquiry, Told, Updater};
use what::Waiting;
pub(crate) use what::What;

/// What a resolved position answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A call or step ended: well, or with the failure of this attempt.
    Ended(Result<Payload, (Attempt, Failure)>),
    /// A sleep is over.
    Fired,
    /// A signal was taken: which one of its run, and what it says.
    Signal(u64, Payload),
    /// A child ended.
    Child(Box<Outcome>),
}

/// Why the kernel stops polling a workflow.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Fault {
    /// The run itself fails, deterministically: a limit.
    Fails(Failure),
    /// This build cannot go on with this run; nothing is recorded.
    Blocks(Misuse),
}

/// A mistake in workflow code that would break replay, found at the first run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// It waits for something that no log entry can ever answer.
    #[error(
        "it awaits something that is not durable, so nothing could ever wake it after a restart; await only futures of `cx` (sleep: cx.sleep, I/O: cx.step or cx.call, blocking work: cx.blocking, messages: cx.signal)"
    )]
    NothingDurable,
    /// Something outside woke it: a tokio timer, a channel, a spawned task.
    #[error(
        "it was woken from outside its log (a tokio sleep, a channel, a spawned task): use cx.sleep, cx.signal, cx.step or cx.call instead"
    )]
    ForeignWake,
    /// It polled itself without end.
    #[error("it woke itself {0} times without waiting for anything; a workflow must not spin or yield")]
    Spins(u32),
    /// It calls an activity that this program does not have.
    #[error(
        "it calls activity {0:?}, which is not registered here; add `.activity(…)` to the builder, or run a build that has it"
    )]
    Unregistered(String),
    /// It begins a child whose workflow this program does not have.
    #[error(
        "it begins a child of workflow {0:?} version {1}, which is not registered here; add `.workflow::<…>()` to the builder, or run a build that has it"
    )]
    UnregisteredChild(String, u32),
    /// The closure of a step used the context, which no replay would see.
    #[error(
        "the closure of a step used `cx` (a call, a random number, a uuid, a published value); closures do not run in replay, so take such values before the step and let the closure borrow them"
    )]
    CxInStep,
    /// A handler, or the condition of an `until`, used the context.
    #[error(
        "a handler (or a condition of `until`) used `cx` (a call, a wait, a random number): it may only use what its closure has captured"
    )]
    CxInHandler,
    /// A key under which nothing can be published.
    #[error("it publishes under the key {0:?}; a key has 1 to 255 bytes and no NUL, and does not begin with \"stent:\"")]
    PublishedKey(String),
    /// A key is used for a value and for a counter.
    #[error("it uses the key {0:?} for a published value and for a counter; give each a key of its own")]
    PublishedKind(String),
    /// A stored value is not of the type that the code expects.
    #[error(
        "{0}; the type changed since it was recorded: give new fields a serde default, keep old names with an alias, or run the build that wrote it"
    )]
    Undecodable(CodecError),
}

/// The closure of `cx.blocking`.
pub(crate) type BlockingWork = Arc<dyn Fn() -> Result<Payload, Failure> + Send + Sync>;

/// The closure of `cx.transaction`: given the store's connection, whatever its type, it says what the step returns.
pub(crate) type TransactionWork =
    Arc<dyn for<'c> Fn(&'c mut (dyn Any + Send)) -> Pin<Box<dyn Future<Output = Result<Payload, Failure>> + 'c>> + Send + Sync>;

/// The closure of a step that does not run in the workflow's own future.
#[derive(Clone)]
pub(crate) enum StepWork {
    Blocking(BlockingWork),
    Transaction(TransactionWork),
}

/// An inline step's right to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grant {
    pub(crate) attempt: Attempt,
}

#[derive(Default)]
struct Inner {
    next: Position,
    now: Timestamp,
    seed: u64,
    draws: u64,
    sealed: bool,
    cancelled: bool,
    cancel_heard: bool,
    shield: u32,
    /// Awaits of this fact that were cancelled at once.
    refusals: u32,
    /// Whether the closure of a step is being polled.
    in_step: bool,
    /// Whether a handler or a condition is being asked: what waits is not its to move.
    aside: bool,
    /// The saga scopes that are being polled, outermost first.
    scopes: Vec<Position>,
    commands: Vec<Command>,
    commands_of_fact: usize,
    bytes_of_fact: usize,
    /// Ordered, because cancellation wakes them all and their order must be that of replay.
    open: Places<Waiting>,
    /// They come in any order, and may wait long for somebody to look.
    answers: FastMap<Position, Answer>,
    signals: HashMap<String, Mailbox>,
    signals_received: u64,
    grants: Places<Grant>,
    step_wakers: Places<Waker>,
    step_results: Vec<(Position, Attempt, Result<Payload, Failure>)>,
    closures: Places<StepWork>,
    sagas: Sagas,
    /// What the code has published, to know whether there is room for more.
    published: Published,
    /// Which way the code took at each patch.
    patches: BTreeMap<String, bool>,
    /// In replay: the patches that are recorded behind this fact.
    recorded_patches: Option<Vec<String>>,
    /// How long the history was when the current fact came.
    history: History,
    /// The run ends, to go on as the next one.
    goes_on: bool,
    fault: Option<Fault>,
}

/// Signals of one name: unread ones in the order of their arrival, or those who wait in that of their positions; never both.
#[derive(Default)]
struct Mailbox {
    unread: BTreeMap<u64, Payload>,
    waiting: BTreeSet<Position>,
}

/// How often an await of one fact may be cancelled at once before it counts as spinning.
const MOST_REFUSALS: u32 = 10_000;

/// The tape of one instance.
pub(crate) struct Tape {
    name: Name,
    limits: Limits,
    signal: Arc<Signal>,
    inner: RefCell<Inner>,
    talk: Talk,
}

impl Tape {
    pub(crate) fn new(id: RunId, started: &Started, limits: Limits) -> Rc<Tape> {
        let inner = RefCell::new(Inner { next: 1, seed: started.seed, ..Inner::default() });
        Rc::new(Tape { name: Name::of(id, started), limits, signal: Arc::default(), inner, talk: Talk::default() })
    }

    pub(crate) fn id(&self) -> &RunId {
        self.name.id()
    }

    /// From here on the history is this run's own, with random numbers that no run before it has drawn.
    pub(crate) fn fork(&self, forked: &Forked) {
        self.name.fork(forked);
        let mut inner = self.inner.borrow_mut();
        inner.seed = forked.seed(inner.seed);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn wake_signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    // ---- for the futures of `cx` -------------------------------------------------------------------------------

    /// Reserves the next position: in the order of construction, live and in replay alike.
    pub(crate) fn reserve(&self) -> Position {
        let mut inner = self.inner.borrow_mut();
        inner.forbid_in_step();
        let position = inner.next;
        inner.next += 1;
        position
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.borrow().now
    }

    pub(crate) fn random(&self) -> u64 {
        let mut inner = self.inner.borrow_mut();
        inner.forbid_in_step();
        inner.draws += 1;
        random::mix(inner.seed, inner.draws)
    }

    /// Tells whether the code takes its new way at a patch: a run that has passed the place without it does not, and what was decided
    /// stays so for the whole run. No position is reserved, so code without the patch has the same ones.
    pub(crate) fn patched(&self, id: &str, deprecated: bool) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.forbid_in_step();
        if let Some(known) = inner.patches.get(id) {
            return *known;
        }
        let is = inner.recorded_patches.as_ref().is_none_or(|recorded| recorded.iter().any(|recorded| recorded == id));
        inner.patches.insert(id.to_owned(), is);
        drop(inner);
        if is {
            self.command(Command::Patched { id: id.to_owned(), deprecated });
        }
        is
    }

    /// Emits a command and tells whether it was taken; inert when sealed. Beyond the limits the run fails instead, but what
    /// gives up or undoes is always taken: a failing run still has its books to balance.
    pub(crate) fn command(&self, command: Command) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.sealed {
            return false;
        }
        inner.forbid_in_step();
        if gives_up(&command) {
            inner.commands.push(command);
            return true;
        }
        inner.commands_of_fact += 1;
        inner.bytes_of_fact += weight(&command);
        if inner.commands_of_fact > self.limits.commands_per_turn {
            let most = self.limits.commands_per_turn;
            let text = format!("more than {most} commands at once; use cx.map(..).concurrency(n)");
            inner.fault.get_or_insert(Fault::Fails(Failure::new(KIND_LIMIT, text).into_final()));
        } else if inner.bytes_of_fact > self.limits.item_bytes {
            let most = self.limits.item_bytes;
            let text =
                format!("the commands of one turn have more than {most} bytes; use cx.map(..).concurrency(n) or pass references");
            inner.fault.get_or_insert(Fault::Fails(Failure::new(KIND_LIMIT, text).into_final()));
        }
        // Behind a run that goes on as the next one nothing more is begun.
        if inner.fault.is_some() || inner.goes_on {
            return false;
        }
        inner.commands.push(command);
        true
    }

    /// Opens a position whose command was just emitted.
    pub(crate) fn open(&self, position: Position, what: What) {
        self.inner.borrow_mut().open.insert(position, Waiting { what, waker: None });
    }

    /// Tells whether an await that begins now is cancelled at once. Pending only for code that tries again without end: it
    /// would never come back from its poll.
    pub(crate) fn refuses(&self) -> Poll<bool> {
        let mut inner = self.inner.borrow_mut();
        if inner.forbids_aside() {
            return Poll::Pending;
        }
        let refuses = inner.cancelled && inner.shield == 0 && !inner.sealed;
        if refuses {
            inner.cancel_heard = true;
            inner.refusals += 1;
            if inner.refusals > MOST_REFUSALS {
                inner.fault.get_or_insert(Fault::Blocks(Misuse::Spins(MOST_REFUSALS)));
                return Poll::Pending;
            }
        }
        Poll::Ready(refuses)
    }

    /// Returns the answer of an open position, or registers the waker; `None` inside `Ready` means cancelled.
    pub(crate) fn poll(&self, position: Position, waker: &Waker) -> Poll<Option<Answer>> {
        let mut inner = self.inner.borrow_mut();
        if inner.sealed || inner.forbids_aside() {
            return Poll::Pending;
        }
        if let Some(answer) = inner.answers.remove(&position) {
            return Poll::Ready(Some(answer));
        }
        if inner.cancelled && inner.shield == 0 {
            inner.cancel_heard = true;
            drop(inner);
            self.abandon(position);
            return Poll::Ready(None);
        }
        match inner.open.get_mut(position) {
            Some(Waiting { waker: Some(old), .. }) if old.will_wake(waker) => {}
            Some(waiting) => waiting.waker = Some(waker.clone()),
            None => {}
        }
        Poll::Pending
    }

    /// Gives an open position up: its answer is of no interest any more.
    pub(crate) fn abandon(&self, position: Position) {
        let mut inner = self.inner.borrow_mut();
        if inner.forbids_aside() {
            return;
        }
        inner.closures.remove(position);
        inner.grants.remove(position);
        inner.step_wakers.remove(position);
        let unanswered = inner.open.remove(position).is_some();
        inner.answers.remove(&position);
        if unanswered && !inner.sealed {
            drop(inner);
            self.command(Command::Cancel { position });
        }
    }

    /// Begins to wait for a signal: takes the oldest unread one, or stands in line. By position, not by who polled first:
    /// the fold of the log knows positions only.
    pub(crate) fn await_signal(&self, name: &str, position: Position) {
        let mut inner = self.inner.borrow_mut();
        let mailbox = inner.signals.entry(name.to_owned()).or_default();
        if let Some((number, payload)) = mailbox.unread.pop_first() {
            inner.answers.insert(position, Answer::Signal(number, payload));
        } else {
            mailbox.waiting.insert(position);
            inner.open.insert(position, Waiting { what: What::Signal, waker: None });
        }
    }

    /// Stops waiting for a signal. One that was assigned and not read goes to the next in line, or is unread again.
    pub(crate) fn abandon_signal(&self, name: &str, position: Position) {
        let mut inner = self.inner.borrow_mut();
        if inner.forbids_aside() {
            return;
        }
        if let Some(mailbox) = inner.signals.get_mut(name) {
            mailbox.waiting.remove(&position);
        }
        let assigned = inner.answers.remove(&position);
        drop(inner);
        if let Some(Answer::Signal(number, payload)) = assigned {
            self.command(Command::Cancel { position });
            self.serve(name, number, payload);
        } else {
            self.abandon(position);
        }
    }

    fn serve(&self, name: &str, number: u64, payload: Payload) {
        let mut inner = self.inner.borrow_mut();
        let mailbox = inner.signals.entry(name.to_owned()).or_default();
        let Some(first) = mailbox.waiting.pop_first() else {
            mailbox.unread.insert(number, payload);
            return;
        };
        inner.answers.insert(first, Answer::Signal(number, payload));
        let waker = inner.open.remove(first).and_then(|waiting| waiting.waker);
        drop(inner);
        wake(waker);
    }

    /// Keeps the closure of a step until the host takes it.
    pub(crate) fn keep_closure(&self, position: Position, work: StepWork) {
        self.inner.borrow_mut().closures.insert(position, work);
    }

    /// Returns the current right of an inline step to run, or registers the waker.
    pub(crate) fn grant_of(&self, position: Position, waker: &Waker) -> Option<Grant> {
        let mut inner = self.inner.borrow_mut();
        if inner.sealed || inner.forbids_aside() {
            return None;
        }
        let granted = inner.grants.get(position).copied();
        inner.step_wakers.insert(position, waker.clone());
        granted
    }

    /// Hands over what an inline step returned. It becomes a fact first and only then an answer.
    pub(crate) fn step_ended(&self, position: Position, attempt: Attempt, result: Result<Payload, Failure>) {
        let mut inner = self.inner.borrow_mut();
        if !inner.sealed && inner.grants.remove(position).is_some() {
            inner.step_results.push((position, attempt, result));
        }
    }

    /// Tells where the closure of a step begins and ends to be polled.
    pub(crate) fn in_step(&self, within: bool) {
        self.inner.borrow_mut().in_step = within;
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.inner.borrow_mut().fault.get_or_insert(fault);
    }

    pub(crate) fn shield(&self, up: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.shield = if up { inner.shield + 1 } else { inner.shield - 1 };
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.inner.borrow().cancelled
    }

    // ---- for the kernel ----------------------------------------------------------------------------------------

    /// Begins a fact: its time, what was before it, and a fresh count of commands; in replay also the patches recorded behind it.
    pub(crate) fn begin_fact(&self, now: Timestamp, history: History, recorded_patches: Option<Vec<String>>) {
        let mut inner = self.inner.borrow_mut();
        inner.history = history;
        inner.recorded_patches = recorded_patches;
        inner.now = now;
        inner.commands_of_fact = 0;
        inner.bytes_of_fact = 0;
        inner.refusals = 0;
    }

    /// Answers an open position; one that was given up is ignored.
    pub(crate) fn answer(&self, position: Position, answer: Answer) {
        let mut inner = self.inner.borrow_mut();
        if inner.sagas.ended(position) {
            return;
        }
        inner.closures.remove(position);
        inner.grants.remove(position);
        let Some(Waiting { waker, .. }) = inner.open.remove(position) else {
            return;
        };
        inner.answers.insert(position, answer);
        let step = inner.step_wakers.remove(position);
        drop(inner);
        wake(waker);
        wake(step);
    }

    pub(crate) fn receive(&self, name: &str, payload: Payload) {
        let mut inner = self.inner.borrow_mut();
        inner.signals_received += 1;
        let number = inner.signals_received;
        drop(inner);
        self.serve(name, number, payload);
    }

    /// Cancels the run: everything that is waited for, now and later, ends as cancelled unless it is shielded.
    pub(crate) fn cancel(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.cancelled = true;
        let wakers: Vec<Waker> = inner.open.values().filter_map(|waiting| waiting.waker.clone()).collect();
        drop(inner);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Lets an inline step run.
    pub(crate) fn grant(&self, position: Position, grant: Grant) {
        let mut inner = self.inner.borrow_mut();
        if !inner.open.contains(position) {
            return;
        }
        inner.grants.insert(position, grant);
        let waker = inner.step_wakers.remove(position);
        drop(inner);
        wake(waker);
    }

    /// Takes an inline step's right to run away, because its time ran out: the step drops what it was doing.
    pub(crate) fn revoke(&self, position: Position) {
        let mut inner = self.inner.borrow_mut();
        inner.grants.remove(position);
        let waker = inner.step_wakers.remove(position);
        drop(inner);
        wake(waker);
    }

    pub(crate) fn any_granted(&self) -> bool {
        !self.inner.borrow().grants.is_empty()
    }

    pub(crate) fn take_step_results(&self) -> Vec<(Position, Attempt, Result<Payload, Failure>)> {
        std::mem::take(&mut self.inner.borrow_mut().step_results)
    }

    pub(crate) fn has_step_results(&self) -> bool {
        !self.inner.borrow().step_results.is_empty()
    }

    pub(crate) fn closure(&self, position: Position) -> Option<StepWork> {
        self.inner.borrow().closures.get(position).cloned()
    }

    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.inner.borrow_mut().commands)
    }

    /// Takes the failure that the run itself ends with.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        match self.inner.borrow_mut().fault.take_if(|fault| matches!(fault, Fault::Fails(_)))? {
            Fault::Fails(failure) => Some(failure),
            Fault::Blocks(_) => None,
        }
    }

    /// Tells why this build cannot go on.
    pub(crate) fn misuse(&self) -> Option<Misuse> {
        match &self.inner.borrow().fault {
            Some(Fault::Blocks(misuse)) => Some(misuse.clone()),
            _ => None,
        }
    }

    pub(crate) fn cancel_heard(&self) -> bool {
        self.inner.borrow().cancel_heard
    }

    /// Tells whether anything durable could still wake the workflow.
    pub(crate) fn waits_durably(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.open.is_empty() || !inner.step_results.is_empty() || inner.sagas.busy() || self.talk.waits()
    }

    pub(crate) fn seal(&self) {
        self.inner.borrow_mut().sealed = true;
    }
}

impl Inner {
    /// What a step's closure asks of the context would be missing in replay, where it does not run.
    fn forbid_in_step(&mut self) {
        if self.in_step && !self.sealed {
            self.fault.get_or_insert(Fault::Blocks(Misuse::CxInStep));
        }
    }

    /// A handler that polls or drops a future of the workflow's code would move the run by something that no replay sees: nothing
    /// comes of it, and it is told.
    fn forbids_aside(&mut self) -> bool {
        let forbids = self.aside && !self.sealed;
        if forbids {
            self.fault.get_or_insert(Fault::Blocks(Misuse::CxInStep));
        }
        forbids
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Tells whether a command ends or undoes something, or says what was decided already: such are always taken.
fn gives_up(command: &Command) -> bool {
    match command {
        Command::Cancel { .. } | Command::Undo { .. } | Command::KeepSaga { .. } | Command::Compensate { .. } => true,
        // The code has taken its new way already.
        Command::Patched { .. } => true,
        // The update is applied already.
        Command::Answered { .. } => true,
        Command::Call(call) => call.compensating,
        _ => false,
    }
}

/// What a command adds to the size of its item, roughly: its payloads.
pub(crate) fn weight(command: &Command) -> usize {
    match command {
        Command::Call(call) => call.input.bytes.len() + call.undo.as_ref().map_or(0, |undo| undo.input.bytes.len()),
        Command::Undo { compensation, .. } => compensation.input.bytes.len(),
        Command::Child(child) => child.input.bytes.len(),
        Command::Publish { key, value } => key.len() + value.bytes.len(),
        Command::Count { key, .. } => key.len(),
        Command::Answered { reply, .. } => match &**reply {
            Reply::Done(answer) => answer.bytes.len(),
            Reply::Failed(failure) => failure.bytes(),
        },
        Command::Continue { input } => input.bytes.len(),
        Command::Again { failure, .. } => failure.bytes(),
        _ => 0,
    }
}
