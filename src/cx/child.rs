//! Children: executions that a workflow begins. A child's row is written in the very commit that records the parent's intent,
//! and its end reaches the parent in the commit of its end, so neither is ever there without the other.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::call::{Wait, encode_input, typed};
use crate::{
    error::ChildError,
    kernel::{
        event::{Child, ChildOptions, Command, OnClose, Outcome},
        failure::{Failure, KIND_ID_IN_USE, KIND_INVALID, Origin},
        id::{OUR_IDS, RunId},
        payload::{CodecError, Payload},
        retry::Retry,
        tape::{Answer, Fault, Misuse, Tape, What},
        time::LONGEST_WAIT,
    },
    workflow::Workflow,
};

/// A child that was constructed and, once polled, begun.
#[must_use = "a child is not begun unless it is awaited"]
pub struct ChildRun<W: Workflow> {
    wait: Wait,
    id: Rc<str>,
    draft: Option<Box<Draft>>,
    workflow: PhantomData<fn() -> W>,
}

/// A child that goes on by itself.
#[must_use = "a child is not begun unless it is awaited"]
pub struct Detached<W: Workflow> {
    child: ChildRun<W>,
}

struct Draft {
    input: Result<Payload, Failure>,
    on_close: OnClose,
    options: Option<Box<ChildOptions>>,
    invalid: Option<Failure>,
}

impl<W: Workflow> ChildRun<W> {
    pub(super) fn new(tape: Rc<Tape>, workflow: &W) -> Self {
        let input = encode_input(workflow, W::NAME, tape.limits().payload_bytes);
        let wait = Wait::new(tape);
        let id = default_id(super::call_key(wait.tape.id(), wait.position)).into();
        let draft = Draft { input, on_close: OnClose::default(), options: None, invalid: None };
        ChildRun { wait, id, draft: Some(Box::new(draft)), workflow: PhantomData }
    }

    fn set(mut self, set: impl FnOnce(&mut Draft)) -> Self {
        if let Some(draft) = &mut self.draft {
            set(draft);
        }
        self
    }

    fn change(self, change: impl FnOnce(&mut ChildOptions)) -> Self {
        self.set(|draft| change(draft.options.get_or_insert_default()))
    }

    /// Gives it an id (1 to 255 bytes, no NUL) of its own, by which it can be found, signalled and cancelled from outside. No execution may ever
    /// have had it, or the wait ends with [`ChildError::IdInUse`]. By default it is `id/run_no/position` of the parent (a digest
    /// of that if it is too long), which nobody else should use.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        let id: String = id.into();
        let (fits, is_ours) = (is_name(&id), id.starts_with(OUR_IDS) && !id.starts_with(&self.wait.tape.id().id));
        self.id = id.into();
        match (fits, is_ours) {
            (false, _) => self.refuse("the id of a child has 1 to 255 bytes and no NUL"),
            (true, true) => {
                self.refuse("ids that begin with \"stent:\" are Stent's own, unless the parent's id is their beginning")
            }
            (true, false) => self,
        }
    }

    /// Returns its id.
    #[must_use]
    pub fn execution_id(&self) -> &str {
        &self.id
    }

    /// Sets what becomes of it when its parent ends, is cancelled, or drops the wait; by default it is asked to stop.
    pub fn on_close(self, then: OnClose) -> Self {
        self.set(|draft| draft.on_close = then)
    }

    /// Sets its priority: higher first. Nobody starves: ten seconds of waiting make up for one.
    pub fn priority(self, priority: i32) -> Self {
        self.change(|options| options.priority = priority)
    }

    /// Sets its queue (at most 255 bytes, no NUL): only nodes that serve it run the child.
    pub fn queue(self, queue: &str) -> Self {
        if !queue.is_empty() && !is_name(queue) {
            return self.refuse("a queue's name has at most 255 bytes and no NUL");
        }
        self.change(|options| queue.clone_into(&mut options.queue))
    }

    /// Adds a tag (1 to 255 bytes, at most 16 of them), by which it can be listed.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        let tags = self.draft.as_ref().and_then(|draft| draft.options.as_ref()).map_or(0, |options| options.tags.len());
        if !is_name(&tag) || tags >= 16 {
            return self.refuse("at most 16 tags of 1 to 255 bytes each, without NUL");
        }
        self.change(|options| options.tags.push(tag))
    }

    /// Lets only nodes run it that have this tag (`Builder::tag`; 1 to 255 bytes, no NUL); call it again for further ones.
    pub fn needs(self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if !is_name(&tag) {
            return self.refuse("a tag that a node must have has 1 to 255 bytes and no NUL");
        }
        self.change(|options| options.needs.push(tag))
    }

    /// Limits the whole child, from its beginning on: then it ends as timed out. By default there is no limit.
    pub fn deadline(self, within: Duration) -> Self {
        if within.is_zero() {
            return self.refuse("a deadline of zero has passed before the child begins; leave it out for no deadline");
        }
        self.change(|options| options.deadline = Some(within.min(LONGEST_WAIT)))
    }

    /// Tries the whole child again when it fails, by this policy: as the next run of its execution, with the same argument, from the
    /// beginning. By default it is not: activities are tried again by themselves, and code that fails usually fails again. A failed run's
    /// compensations have run before the next one begins. Whoever waits hears of the last run's end only; `deadline` is about all of them
    /// together.
    pub fn retry(self, policy: Retry) -> Self {
        self.change(|options| options.retry = Some(policy))
    }

    /// Lets it go on by itself: awaiting then only begins it, and returns its id. Nobody hears of its end, and the parent's does not
    /// concern it. If an execution of its id exists already, that one stays as it is and no other is begun.
    pub fn detach(self) -> Detached<W> {
        Detached { child: self }
    }

    fn refuse(self, why: &str) -> Self {
        self.set(|draft| {
            draft.invalid.get_or_insert_with(|| Failure::new(KIND_INVALID, why).into_final());
        })
    }

    /// Takes the draft at the first poll: what to begin, or why not.
    fn begin(&mut self, draft: Draft, awaited: bool) -> Poll<Result<Command, ChildError<W::Error>>> {
        let Draft { input, on_close, options, invalid } = draft;
        let input = match (input, invalid) {
            (Ok(input), None) => input,
            (Err(failure), _) | (_, Some(failure)) => return Poll::Ready(Err(ChildError::Broken(failure))),
        };
        if ready!(self.wait.tape.refuses()) {
            return Poll::Ready(Err(ChildError::Cancelled));
        }
        let (workflow, version, id, position) = (W::NAME.to_owned(), W::VERSION, self.id.to_string(), self.wait.position);
        Poll::Ready(Ok(Command::Child(Box::new(Child { position, workflow, version, id, input, awaited, on_close, options }))))
    }
}

impl<W: Workflow> Future for ChildRun<W> {
    type Output = Result<W::Output, ChildError<W::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(draft) = self.draft.take() {
            match ready!(self.begin(*draft, true)) {
                Ok(command) => self.wait.begin(What::Child, command),
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        let Some(Answer::Child(end)) = ready!(self.wait.poll(cx)) else { return Poll::Ready(Err(ChildError::Cancelled)) };
        match ended::<W>(*end, &self.id) {
            Ok(result) => Poll::Ready(result),
            Err(undecodable) => {
                self.wait.tape.fault(Fault::Blocks(Misuse::Undecodable(undecodable)));
                Poll::Pending
            }
        }
    }
}

impl<W: Workflow> Future for Detached<W> {
    type Output = Result<String, ChildError<W::Error>>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let child = &mut self.child;
        if let Some(mut draft) = child.draft.take() {
            draft.on_close = OnClose::Abandon;
            match ready!(child.begin(*draft, false)) {
                Ok(command) => {
                    // Refused by a limit, or by the seal: the run is over, or this life of it is.
                    if !child.wait.tape.command(command) {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(child.id.to_string()))
    }
}

/// What the code hears of a child's end.
fn ended<W: Workflow>(end: Outcome, id: &str) -> Result<Result<W::Output, ChildError<W::Error>>, CodecError> {
    Ok(match end {
        Outcome::Completed(output) => Ok(output.decode(format_args!("the output of {}", W::NAME))?),
        Outcome::Failed(failure) if failure.kind() == KIND_ID_IN_USE && failure.details().is_none() => {
            Err(ChildError::IdInUse(id.to_owned()))
        }
        Outcome::Failed(failure) => {
            // What was told says in which of its runs, unless it was recorded by a build that did not.
            let origin = || Origin { run: RunId { id: id.to_owned(), run_no: 1 }, name: W::NAME.to_owned(), call: None };
            let failure = failure.with_origin(origin);
            Err(typed(&failure, W::NAME)?.map_or_else(|| ChildError::Broken(failure), ChildError::Failed))
        }
        Outcome::Cancelled { reason } => Err(ChildError::Stopped { reason }),
        Outcome::TimedOut => Err(ChildError::TimedOut),
        Outcome::Terminated { reason, by, .. } => Err(ChildError::Terminated { reason, by }),
        // Never told: its next run has the same parent.
        Outcome::Continued => Err(ChildError::Broken(Failure::new(KIND_INVALID, "the child went on as another run"))),
    })
}

/// Tells whether a store takes this as a name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !text.contains('\0')
}

/// The key of the parent's command, or its digest if that is too long to be an id: in a tree some fifty levels deep.
fn default_id(key: String) -> String {
    if key.len() <= 255 { key } else { format!("child-{}", blake3::hash(key.as_bytes()).to_hex()) }
}
