//! What a workflow's code answers while it runs: the handlers of queries. They are memory, made anew by each replay, and nothing of
//! them is recorded. A handler runs *aside*: it may look at the workflow's state, and whatever it asks of the context is undone and
//! told, for no replay would ask for it again.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use super::{Misuse, Tape};
use crate::kernel::{
    failure::{Failure, KIND_INVALID, KIND_PANIC, KIND_UNANSWERED},
    instance::panic_text,
    payload::Payload,
};

/// The handler of a query without its types.
pub(crate) type Answerer = Rc<dyn Fn(&Payload) -> Result<Payload, Failure>>;

/// A question to a run: nothing is recorded of it.
#[derive(Clone, Debug)]
pub(crate) enum Inquiry {
    /// Asks the handler of a query.
    Query { name: &'static str, question: Payload },
}

/// The handlers of one instance.
#[derive(Default)]
pub(super) struct Talk {
    queries: RefCell<BTreeMap<&'static str, Answerer>>,
}

impl Tape {
    /// Sets who answers a query from now on.
    pub(crate) fn answer_queries(&self, name: &'static str, answerer: Answerer) {
        let mut inner = self.inner.borrow_mut();
        inner.forbid_in_step();
        // What is dropped with the one before is code of the user's.
        let before = if inner.sealed || inner.in_step { None } else { self.talk.queries.borrow_mut().insert(name, answerer) };
        drop(inner);
        drop(before);
    }

    /// Answers a question from the state as it is.
    pub(crate) fn answer_inquiry(&self, inquiry: &Inquiry) -> Result<Payload, Failure> {
        match inquiry {
            Inquiry::Query { name, question } => self.answer_query(name, question),
        }
    }

    fn answer_query(&self, name: &str, question: &Payload) -> Result<Payload, Failure> {
        let answerer = self.talk.queries.borrow().get(name).cloned();
        let Some(answerer) = answerer else {
            let known = self.talk.queries.borrow().keys().map(|name| format!("{name:?}")).collect::<Vec<_>>();
            let known = if known.is_empty() { "no query".to_owned() } else { format!("only {}", known.join(", ")) };
            let why = format!("it does not answer {name:?}: at this point it answers {known} (see cx.on_query)");
            return Err(Failure::new(KIND_UNANSWERED, why));
        };
        match self.aside(|| answerer(question)) {
            Ok(answer) => answer,
            Err(Aside::Panicked(panic)) => Err(Failure::new(KIND_PANIC, format!("the handler of {name:?} panicked: {panic}"))),
            Err(Aside::UsedCx) => Err(Failure::new(KIND_INVALID, format!("{name:?}: {}", Misuse::CxInHandler))),
        }
    }

    /// Runs code that may only look: what it asks of the context all the same is undone.
    fn aside<T>(&self, code: impl FnOnce() -> T) -> Result<T, Aside> {
        let mut inner = self.inner.borrow_mut();
        let (next, draws, commands) = (inner.next, inner.draws, inner.commands.len());
        let (patches, fault) = (inner.patches.clone(), inner.fault.take());
        let in_step = std::mem::replace(&mut inner.in_step, true);
        drop(inner);
        let result = catch_unwind(AssertUnwindSafe(code));
        let mut inner = self.inner.borrow_mut();
        let used = inner.fault.is_some();
        (inner.next, inner.draws, inner.in_step, inner.patches, inner.fault) = (next, draws, in_step, patches, fault);
        inner.commands.truncate(commands);
        match result {
            _ if used => Err(Aside::UsedCx),
            Ok(result) => Ok(result),
            Err(panic) => Err(Aside::Panicked(panic_text(&*panic))),
        }
    }

    /// Drops the handlers. They may hold the context, which holds them.
    pub(crate) fn hang_up(&self) {
        let handlers = self.talk.queries.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handlers))) {
            tracing::error!(run = %self.id, panic = panic_text(&*panic), "a destructor in workflow code panicked");
        }
    }
}

/// Why code that ran aside came to nothing.
enum Aside {
    Panicked(String),
    UsedCx,
}
