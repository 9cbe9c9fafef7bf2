//! What a workflow's code answers while it runs: the handlers of queries and updates, and the conditions that it waits for. All of it is
//! memory, made anew by each replay; of an update the log has what came in and what was answered, of the rest nothing.
//!
//! A handler runs *aside*: it may use the workflow's own state, and whatever it asks of the context is undone and told, for the
//! order of such requests is the order in which somebody asked.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    task::{Poll, Waker},
};

use super::{Fault, Misuse, Tape};
use crate::kernel::{
    event::{Command, Reply},
    failure::{Failure, KIND_INVALID, KIND_PANIC, KIND_UNANSWERED},
    instance::panic_text,
    payload::{CodecError, Payload},
};

/// The handler of a query without its types.
type Answerer = Rc<dyn Fn(&Payload) -> Result<Payload, Failure>>;

/// The handler of an update without its types.
pub(crate) struct Updater {
    /// Tells whether it is to be taken.
    pub(crate) check: Box<Check>,
    /// Takes it. The outer error says that the recorded value is none of the code's type any more.
    pub(crate) apply: Box<Apply>,
}

type Check = dyn Fn(&Payload) -> Result<(), Failure>;
type Apply = RefCell<dyn FnMut(&Payload) -> Result<Result<Payload, Failure>, CodecError>>;

/// A question to a run: nothing is recorded of it.
#[derive(Clone, Debug)]
pub(crate) enum Inquiry {
    /// Asks the handler of a query.
    Query { name: &'static str, question: Payload },
    /// Asks whether an update would be taken.
    Check { message: String, name: &'static str, payload: Payload },
}

/// What is said to a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// The answer to a query.
    Answer(Payload),
    /// The update would be taken, as the state is.
    Fits,
    /// The log knows the message, or the run has ended.
    SeeLog,
}

/// The handlers of one instance, and its conditions.
#[derive(Default)]
pub(super) struct Talk {
    queries: RefCell<BTreeMap<&'static str, Answerer>>,
    updates: RefCell<BTreeMap<&'static str, Rc<Updater>>>,
    /// The waits for conditions, by the order in which they began: it is that of replay.
    conditions: RefCell<BTreeMap<u64, Waker>>,
    begun: Cell<u64>,
    /// A fact is being applied: the state may change.
    checks: Cell<bool>,
    /// Code has run since the conditions were looked at last.
    stirred: Cell<bool>,
    /// Conditions that held, of this fact.
    held: Cell<u32>,
}

/// So many waits of one fact may find their conditions fulfilled before that counts as spinning.
const MOST_HELD: u32 = 10_000;

/// Why code that ran aside came to nothing.
enum Aside {
    Panicked(String),
    UsedCx,
}

impl Talk {
    pub(super) fn waits(&self) -> bool {
        !self.conditions.borrow().is_empty()
    }
}

impl Tape {
    /// Sets who answers a query from now on.
    pub(crate) fn answer_queries(&self, name: &'static str, answerer: impl Fn(&Payload) -> Result<Payload, Failure> + 'static) {
        self.register(&self.talk.queries, name, Rc::new(answerer));
    }

    /// Sets who takes an update from now on.
    pub(crate) fn take_updates(&self, name: &'static str, updater: Updater) {
        self.register(&self.talk.updates, name, Rc::new(updater));
    }

    fn register<H>(&self, handlers: &RefCell<BTreeMap<&'static str, H>>, name: &'static str, handler: H) {
        let mut inner = self.inner.borrow_mut();
        inner.forbid_in_step();
        let inert = inner.sealed || inner.in_step;
        drop(inner);
        if !inert {
            let before = handlers.borrow_mut().insert(name, handler);
            // Code of the user's: it may use the handlers.
            drop(before);
        }
    }

    /// Answers a query from the state as it is.
    pub(crate) fn answer_query(&self, name: &str, question: &Payload) -> Result<Payload, Failure> {
        let answerer = self.talk.queries.borrow().get(name).cloned();
        let Some(answerer) = answerer else {
            let why = unanswered("does not answer", "it answers", name, self.talk.queries.borrow().keys(), "cx.on_query");
            return Err(why);
        };
        self.aside(|| answerer(question)).unwrap_or_else(|aside| Err(aside.failure(name)))
    }

    /// Tells whether an update is to be taken, as the state is.
    pub(crate) fn check_update(&self, name: &str, update: &Payload) -> Result<(), Failure> {
        let updater = self.talk.updates.borrow().get(name).cloned();
        let Some(updater) = updater else {
            let why = unanswered("does not take", "it takes", name, self.talk.updates.borrow().keys(), "cx.on_update");
            return Err(why);
        };
        self.aside(|| (updater.check)(update)).unwrap_or_else(|aside| Err(aside.failure(name)))
    }

    /// Takes an update, and records what its code answers.
    pub(crate) fn apply_update(&self, message: &str, name: &str, update: &Payload) {
        // In replay the code may have none any more; then its answer is missing, and that is told.
        let updater = self.talk.updates.borrow().get(name).cloned();
        let Some(updater) = updater else { return };
        let answered = |reply| {
            self.command(Command::Answered { message: message.to_owned(), reply: Box::new(reply) });
        };
        match self.aside(|| (updater.apply.borrow_mut())(update)) {
            Ok(Ok(Ok(answer))) => answered(Reply::Done(answer)),
            Ok(Ok(Err(failure))) => answered(Reply::Failed(failure)),
            Ok(Err(undecodable)) => self.fault(Fault::Blocks(Misuse::Undecodable(undecodable))),
            Err(Aside::UsedCx) => self.fault(Fault::Blocks(Misuse::CxInHandler)),
            // It may have changed half of what it was to change: the run fails, as by any panic of its code.
            Err(panicked @ Aside::Panicked(_)) => {
                let failure = panicked.failure(name).bounded(self.limits.payload_bytes);
                answered(Reply::Failed(failure.clone()));
                self.fault(Fault::Fails(failure));
            }
        }
    }

    /// Runs code that may only use its own: what it asks of the context all the same is undone.
    fn aside<T>(&self, code: impl FnOnce() -> T) -> Result<T, Aside> {
        let mut inner = self.inner.borrow_mut();
        let (next, draws, commands) = (inner.next, inner.draws, inner.commands.len());
        let (patches, fault) = (inner.patches.clone(), inner.fault.take());
        let in_step = std::mem::replace(&mut inner.in_step, true);
        let aside = std::mem::replace(&mut inner.aside, true);
        drop(inner);
        let result = catch_unwind(AssertUnwindSafe(code));
        let mut inner = self.inner.borrow_mut();
        let used = inner.fault.is_some();
        inner.aside = aside;
        (inner.next, inner.draws, inner.in_step, inner.patches, inner.fault) = (next, draws, in_step, patches, fault);
        inner.commands.truncate(commands);
        match result {
            _ if used => Err(Aside::UsedCx),
            Ok(result) => Ok(result),
            Err(panic) => Err(Aside::Panicked(panic_text(&*panic))),
        }
    }

    // ---- conditions --------------------------------------------------------------------------------------------

    /// Looks whether a condition holds. Pending: not yet; it is looked at again behind everything that may change it.
    pub(crate) fn poll_condition(&self, ticket: &mut Option<u64>, waker: &Waker, holds: &mut dyn FnMut() -> bool) -> Poll<()> {
        match self.aside(holds) {
            Ok(true) => {
                self.forget_condition(ticket);
                self.stir();
                self.talk.held.set(self.talk.held.get() + 1);
                if self.talk.held.get() > MOST_HELD {
                    self.fault(Fault::Blocks(Misuse::Spins(MOST_HELD)));
                    return Poll::Pending;
                }
                Poll::Ready(())
            }
            Ok(false) => {
                let number = *ticket.get_or_insert_with(|| self.talk.begun.replace(self.talk.begun.get() + 1));
                self.talk.conditions.borrow_mut().insert(number, waker.clone());
                Poll::Pending
            }
            Err(Aside::UsedCx) => {
                self.fault(Fault::Blocks(Misuse::CxInHandler));
                Poll::Pending
            }
            // It is the workflow's own code that panics.
            Err(Aside::Panicked(panic)) => resume_unwind(Box::new(panic)),
        }
    }

    /// Stops waiting for a condition.
    pub(crate) fn forget_condition(&self, ticket: &mut Option<u64>) {
        if let Some(number) = ticket.take() {
            self.talk.conditions.borrow_mut().remove(&number);
        }
    }

    /// Tells whether conditions are looked at: only while a fact is applied, for nothing else changes the state in replay too.
    pub(crate) fn checks(&self) -> bool {
        self.talk.checks.get()
    }

    pub(crate) fn begin_checks(&self) {
        self.talk.checks.set(true);
        self.talk.held.set(0);
        self.stir();
    }

    pub(crate) fn end_checks(&self) {
        self.talk.checks.set(false);
    }

    /// Code runs, and may change what conditions look at: behind a fact, or a condition that held. A wake-up alone is no sign of it, for
    /// some combinators wake themselves.
    fn stir(&self) {
        self.talk.stirred.set(true);
    }

    /// Wakes all who wait for conditions, if code has run since they looked: whoever was polled first in a join could not see what the
    /// others did behind it.
    pub(crate) fn check_again(&self) -> bool {
        if !self.checks() || !self.talk.waits() || !self.talk.stirred.replace(false) {
            return false;
        }
        let waiting: Vec<Waker> = self.talk.conditions.borrow().values().cloned().collect();
        waiting.into_iter().for_each(Waker::wake);
        true
    }

    /// Drops the handlers. They may hold the context, which holds them.
    pub(crate) fn hang_up(&self) {
        let handlers = (self.talk.queries.take(), self.talk.updates.take());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handlers))) {
            tracing::error!(run = %self.id(), panic = panic_text(&*panic), "a destructor in workflow code panicked");
        }
    }
}

impl Aside {
    fn failure(&self, name: &str) -> Failure {
        match self {
            Aside::Panicked(panic) => Failure::new(KIND_PANIC, format!("the handler of {name:?} panicked: {panic}")),
            Aside::UsedCx => Failure::new(KIND_INVALID, format!("{name:?}: {}", Misuse::CxInHandler)),
        }
    }
}

/// Says that there is no handler, and which there are.
fn unanswered<'n>(fails: &str, does: &str, name: &str, known: impl Iterator<Item = &'n &'static str>, how: &str) -> Failure {
    let known = known.map(|name| format!("{name:?}")).collect::<Vec<_>>();
    let known = if known.is_empty() { "nothing".to_owned() } else { format!("only {}", known.join(", ")) };
    Failure::new(KIND_UNANSWERED, format!("it {fails} {name:?}: at this point {does} {known} (see {how})"))
}
