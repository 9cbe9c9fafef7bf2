//! One living workflow: the polled future and its tape. `apply` is the only door: exactly **one** fact in, polled until
//! quiescent, commands out. Live and replay go through the same door, so how facts arrived in groups never matters.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    chain::{History, Signalled},
    event::{Command, Fact, MessageBody, Next, Ordered, Outcome, RunRetry, Started},
    failure::{Failure, KIND_LIMIT, KIND_LOST, KIND_MAYBE_DONE, KIND_PANIC, KIND_UNANSWERED},
    id::{Attempt, Position, RunId},
    invariant::uphold,
    limits::Limits,
    memo::MemoWord,
    payload::{CodecError, Payload},
    tape::{Answer, Grant, Misuse, StepWork, Tape},
    time::Timestamp,
    wake::Hook,
};

/// A workflow's future, ready to be polled: its output, or its failure, encoded.
pub(crate) type Body = Pin<Box<dyn Future<Output = Result<Payload, Failure>>>>;

/// Makes the future of a workflow from its encoded input.
pub(crate) type Begin = Arc<dyn Fn(&Payload, Rc<Tape>) -> Result<Body, CodecError> + Send + Sync>;

/// How often a workflow may wake itself within one fact: far more than any join of the allowed number of commands needs.
const MOST_POLLS: u32 = 100_000;

/// What an inline step returned.
pub(crate) type StepResult = (Position, Attempt, Result<Payload, Failure>);

/// One living workflow.
pub(crate) struct Instance {
    tape: Rc<Tape>,
    body: Option<Body>,
    /// What the body returned, while compensations still run.
    returned: Option<Outcome>,
    cancel_reason: Option<String>,
    deadline_passed: bool,
    ended: bool,
    begun: bool,
    /// Calls that may not be made twice: one that is lost is in doubt, whichever number its attempt has.
    at_most_once: BTreeSet<Position>,
    /// How a failed run is tried again, until when, and where the jitter of that comes from.
    retry: Option<Box<RunRetry>>,
    deadline: Option<Timestamp>,
    seed: u64,
    /// How long the log is, without the fact that is being applied and what follows it.
    history: History,
}

impl Instance {
    /// Makes the workflow; nothing runs before its `Started` fact is applied.
    pub(crate) fn new(id: RunId, started: &Started, begin: &Begin, limits: Limits) -> Result<Instance, Misuse> {
        let tape = Tape::new(id, started, limits);
        let body = begin(&started.input, tape.clone()).map_err(Misuse::Undecodable)?;
        Ok(Instance {
            tape,
            body: Some(body),
            returned: None,
            cancel_reason: None,
            deadline_passed: false,
            ended: false,
            begun: false,
            at_most_once: BTreeSet::new(),
            retry: started.retry.clone(),
            deadline: started.deadline,
            seed: started.seed,
            history: History::default(),
        })
    }

    /// Sets whom to tell when an inline step wants to be polled.
    pub(crate) fn tell(&self, hook: Hook) {
        self.tape.wake_signal().tell(hook);
    }

    /// Applies one fact and returns the commands that it led to, in order.
    ///
    /// # Errors
    /// [`Misuse`] when this build cannot go on with the run; nothing of this fact may be recorded then.
    pub(crate) fn apply(&mut self, fact: &Fact, at: Timestamp) -> Result<Vec<Command>, Misuse> {
        self.apply_fact(fact, at, None)
    }

    /// The same in replay, where it is known which patches the log has behind this fact.
    ///
    /// # Errors
    /// As [`apply`](Instance::apply).
    pub(crate) fn apply_again(&mut self, fact: &Fact, at: Timestamp, patches: Vec<String>) -> Result<Vec<Command>, Misuse> {
        self.apply_fact(fact, at, Some(patches))
    }

    fn apply_fact(&mut self, fact: &Fact, at: Timestamp, patches: Option<Vec<String>>) -> Result<Vec<Command>, Misuse> {
        // The code does not hear of it, nor is it polled.
        if matches!(fact, Fact::Received { body: MessageBody::Order(order), .. } if order.what.is_about_the_run()) {
            return Ok(Vec::new());
        }
        // A run that was written without its first turn is not polled before it begins.
        if let Fact::Started(started) = fact {
            self.begun = !started.deferred;
        }
        self.begun |= matches!(fact, Fact::Begun);
        if !self.begun {
            self.deliver(fact);
            return Ok(Vec::new());
        }
        uphold!(OneEventOnePoll, self.tape.take_commands().is_empty(), "{}: commands without a fact", self.tape.id());
        self.tape.begin_fact(at, self.history, patches);
        self.tape.wake_signal().enter();
        self.tape.begin_checks();
        self.deliver(fact);
        let polled = self.quiesce();
        self.tape.end_checks();
        self.tape.wake_signal().leave();
        polled?;
        let mut commands = self.tape.take_commands();
        commands.iter().for_each(|command| self.note(command));
        if let Some(misuse) = self.tape.misuse() {
            return Err(misuse);
        }
        if self.tape.has_step_results() {
            // A step ended in this poll: its own wake-up may be used up, so somebody must be told to fetch the result.
            self.tape.wake_signal().nudge();
        }
        if self.ended {
            return Ok(commands);
        }
        if !self.tape.compensates()
            && let Some(outcome) = self.returned.take()
        {
            self.ended = true;
            let (again, outcome) = self.or_again(outcome, at);
            commands.extend(again);
            commands.push(Command::End { outcome: Box::new(outcome) });
        } else if self.body.is_some() && !self.tape.waits_durably() {
            return Err(Misuse::NothingDurable);
        }
        Ok(commands)
    }

    /// Decides whether a run that has failed is tried again as the next one of its execution. One that is to stop anyway is not.
    fn or_again(&self, outcome: Outcome, now: Timestamp) -> (Option<Command>, Outcome) {
        let stops = self.cancel_reason.is_some() || self.deadline_passed;
        let (Outcome::Failed(failure), Some(retry), false) = (&outcome, &self.retry, stops) else { return (None, outcome) };
        let at = retry.policy.next(retry.failed.saturating_add(1), failure, retry.since, now, self.seed);
        match at.filter(|at| self.deadline.is_none_or(|deadline| *at < deadline)) {
            Some(at) => (Some(Command::Again { failure: Box::new(failure.clone()), at }), Outcome::Continued),
            None => (None, outcome),
        }
    }

    fn deliver(&mut self, fact: &Fact) {
        match fact {
            Fact::Completed { position, output, .. } => {
                self.at_most_once.remove(position);
                self.tape.answer(*position, Answer::Ended(Ok(output.clone())));
            }
            Fact::Failed { position, attempt, failure, next: Next::GiveUp } => {
                self.tape.answer(*position, Answer::Ended(Err((*attempt, (**failure).clone()))));
            }
            Fact::Lost { position, attempt, next: Next::GiveUp } => {
                let is_in_doubt = *attempt == 1 || self.at_most_once.remove(position);
                self.tape.answer(*position, Answer::Ended(Err((*attempt, lost(*position, *attempt, is_in_doubt)))));
            }
            Fact::Failed { position, .. } | Fact::Lost { position, .. } => self.tape.revoke(*position),
            Fact::Fired { position } => self.tape.answer(*position, Answer::Fired),
            Fact::Received { body: MessageBody::Signal { name, payload }, .. } => {
                self.tape.receive(name, payload.clone());
            }
            Fact::Received { message, body: MessageBody::Update { name, payload } } => {
                self.tape.apply_update(message, name, payload);
            }
            Fact::Received { body: MessageBody::Child { position, end }, .. } => {
                self.tape.answer(*position, Answer::Child(end.clone()));
            }
            Fact::Received { body: MessageBody::Memo { position, word: MemoWord::Value(kept), .. }, .. } => {
                self.tape.answer(*position, Answer::Ended(Ok(kept.output.clone())));
            }
            Fact::Received { body: body @ (MessageBody::Cancel { .. } | MessageBody::Stop { .. }), .. } => {
                // The log's order decides why it stops.
                if !self.deadline_passed {
                    self.cancel_reason = self.cancel_reason.take().or_else(|| body.stops());
                }
                self.tape.cancel();
            }
            Fact::DeadlinePassed => {
                self.deadline_passed = true;
                self.tape.cancel();
            }
            Fact::Inherited(inherited) => {
                inherited.unread.iter().for_each(|signal| self.tape.receive(&signal.name, signal.payload.clone()));
                self.tape.inherit_published(&inherited.published);
                self.deadline_passed = inherited.deadline_passed;
                self.cancel_reason.clone_from(&inherited.cancel);
                if inherited.cancel.is_some() || inherited.deadline_passed {
                    self.tape.cancel();
                }
            }
            Fact::Received { body: MessageBody::Order(order), .. } => {
                if let Ordered::Skip { position } = order.what {
                    self.tape.answer(position, Answer::Fired);
                }
            }
            Fact::Forked(forked) => {
                self.deadline = forked.deadline;
                self.tape.fork(forked);
            }
            Fact::Started(_)
            | Fact::Begun
            | Fact::Claimed { .. }
            | Fact::Ignored { .. }
            | Fact::Refused { .. }
            | Fact::Received { body: MessageBody::Retry { .. } | MessageBody::Task { .. } | MessageBody::Memo { .. }, .. } => {}
        }
    }

    /// Polls until nothing is ready, compensations included.
    fn quiesce(&mut self) -> Result<(), Misuse> {
        let waker = Waker::from(self.tape.wake_signal().clone());
        let mut polls = 0;
        // An update whose code panicked may have left half of a state: nobody goes on from that.
        if let Some(failure) = self.tape.take_failure() {
            self.finish(Outcome::Failed(failure));
        }
        loop {
            self.tape.wake_signal().take_woken();
            self.poll_once(&waker);
            if let Some(failure) = self.tape.take_failure() {
                self.finish(Outcome::Failed(failure));
            } else if self.body.is_some() && self.tape.goes_on() {
                self.finish(Outcome::Continued);
            }
            let again = self.tape.drive_sagas() || self.tape.wake_signal().take_woken() || self.tape.check_again();
            if !again {
                break;
            }
            polls += 1;
            if polls > MOST_POLLS {
                return Err(Misuse::Spins(MOST_POLLS));
            }
        }
        if self.tape.wake_signal().was_foreign() { Err(Misuse::ForeignWake) } else { Ok(()) }
    }

    fn poll_once(&mut self, waker: &Waker) {
        let Some(body) = self.body.as_mut() else {
            return;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(&mut Context::from_waker(waker))));
        let panicked = polled.is_err();
        let result = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(output))) if output.bytes.len() > self.tape.limits().payload_bytes => {
                let (size, most) = (output.bytes.len(), self.tape.limits().payload_bytes);
                Err(Failure::new(KIND_LIMIT, format!("the output has {size} bytes, the limit is {most}")).into_final())
            }
            Ok(Poll::Ready(result)) => result.map_err(|failure| failure.bounded(self.tape.limits().payload_bytes)),
            Err(panic) => {
                // The future is half-way through an unwound poll; its scopes are handed over by their own guards.
                Err(Failure::new(KIND_PANIC, panic_text(&*panic)))
            }
        };
        self.finish(self.outcome(result, panicked));
    }

    /// Ends the body. Not sealed: what still lives in the future is dropped as part of the run, so its scopes compensate.
    fn finish(&mut self, outcome: Outcome) {
        self.discard_body();
        self.returned = Some(outcome);
    }

    /// Whether its code panicked is known by the poll: a failure that is called so may be one that the code has passed on.
    fn outcome(&self, result: Result<Payload, Failure>, panicked: bool) -> Outcome {
        match result {
            // What else the code has said in the same poll comes too late, unless it broke.
            Ok(_) if self.tape.goes_on() => Outcome::Continued,
            Err(_) if self.tape.goes_on() && !panicked => Outcome::Continued,
            Ok(output) => Outcome::Completed(output),
            Err(_) if !panicked && self.tape.cancel_heard() => match &self.cancel_reason {
                Some(reason) => Outcome::Cancelled { reason: reason.clone() },
                None => Outcome::TimedOut,
            },
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Ends the run without its code: what still lives in the future is dropped with its tape sealed, so nothing compensates. Its
    /// handlers stay, for whoever asks what has become of it.
    pub(crate) fn terminate(&mut self) {
        self.tape.seal();
        self.tape.wake_signal().close();
        // What destructors wake is woken from within.
        self.tape.wake_signal().enter();
        self.discard_body();
        self.tape.wake_signal().leave();
        self.returned = None;
        self.ended = true;
    }

    /// Lets an inline step run its closure: its intent is durable.
    pub(crate) fn grant(&mut self, position: Position, attempt: Attempt) {
        self.tape.wake_signal().enter();
        self.tape.grant(position, Grant { attempt });
        self.tape.wake_signal().leave();
    }

    /// Takes an inline step's right to run away: its end is decided.
    pub(crate) fn revoke(&mut self, position: Position) {
        self.tape.wake_signal().enter();
        self.tape.revoke(position);
        self.tape.wake_signal().leave();
    }

    /// Polls for the sake of running inline steps; never applies a fact, so nothing else may move.
    pub(crate) fn poll_steps(&mut self) -> Result<Vec<StepResult>, Misuse> {
        let returned_before = self.body.is_none();
        self.tape.wake_signal().enter();
        self.tape.wake_signal().wake_steps();
        let polled = self.quiesce();
        self.tape.wake_signal().leave();
        polled?;
        if let Some(misuse) = self.tape.misuse() {
            return Err(misuse);
        }
        // A command without a fact: the code was moved by something that is not in the log.
        if self.body.is_none() != returned_before || !self.tape.take_commands().is_empty() {
            return Err(Misuse::ForeignWake);
        }
        Ok(self.tape.take_step_results())
    }

    /// Takes note of a call that may not be made twice.
    fn note(&mut self, command: &Command) {
        let options = match command {
            Command::Call(call) => call.options.as_deref(),
            Command::Step { options, .. } => options.as_deref(),
            Command::Cancel { .. } => None,
            _ => return,
        };
        if options.is_some_and(|options| options.at_most_once) {
            self.at_most_once.insert(command.position());
        } else {
            self.at_most_once.remove(&command.position());
        }
    }

    /// Lets what the log says of a call or a compensation replace what replayed code asked for.
    pub(crate) fn recorded(&mut self, command: &Command) {
        self.note(command);
        match command {
            Command::Undo { position, scope, compensation } => self.tape.recorded_undo(*scope, *position, compensation),
            Command::Call(call) => {
                if let (Some(scope), Some(undo)) = (call.scope, &call.undo) {
                    self.tape.recorded_undo(scope, call.position, undo);
                }
            }
            Command::Publish { key, value } => self.tape.recorded_value(key, value),
            _ => {}
        }
    }

    /// Takes note of what was applied: what comes behind it finds a longer history.
    pub(crate) fn grew(&mut self, events: usize, bytes: usize) {
        self.history.grow(events, bytes);
    }

    /// Takes note of a commit that is in the log.
    pub(crate) fn committed(&mut self) {
        self.history.commits += 1;
    }

    /// Returns the signals that were received and not read.
    pub(crate) fn unread(&self) -> Vec<Signalled> {
        self.tape.unread()
    }

    /// Tells whether something outside the log woke this instance.
    pub(crate) fn was_foreign(&self) -> bool {
        self.tape.wake_signal().was_foreign()
    }

    /// Answers a query from the state that the last fact has left; nothing comes of it.
    pub(crate) fn query(&self, name: &str, question: &Payload) -> Result<Payload, Failure> {
        self.tape.answer_query(name, question)
    }

    /// Tells whether the code takes an update, as the state is; nothing comes of it.
    pub(crate) fn check_update(&self, name: &str, update: &Payload) -> Result<(), Failure> {
        if self.body.is_none() {
            let why = "it takes no more updates: its code has returned, and only what undoes its acts still runs";
            return Err(Failure::new(KIND_UNANSWERED, why));
        }
        self.tape.check_update(name, update)
    }

    pub(crate) fn closure(&self, position: Position) -> Option<StepWork> {
        self.tape.closure(position)
    }

    pub(crate) fn runs_steps(&self) -> bool {
        self.tape.any_granted() || self.tape.has_step_results()
    }

    /// Drops the future with its tape sealed: user code in `Drop` can record nothing.
    fn drop_body(&mut self) {
        self.tape.seal();
        self.tape.wake_signal().close();
        self.discard_body();
        self.tape.hang_up();
    }

    fn discard_body(&mut self) {
        let body = self.body.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(body))) {
            tracing::error!(run = %self.tape.id(), panic = panic_text(&*panic), "a destructor in workflow code panicked");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.drop_body();
    }
}

/// What the code hears of a call that lost its last attempt.
fn lost(position: Position, attempt: Attempt, is_in_doubt: bool) -> Failure {
    if is_in_doubt {
        let text = format!(
            "the node died while attempt {attempt} of call {position} ran, its only one; whether it happened is not known"
        );
        Failure::new(KIND_MAYBE_DONE, text)
    } else {
        Failure::new(KIND_LOST, format!("call {position} lost attempt {attempt} with its node, once more than the limit allows"))
    }
}

/// The text of a panic, whatever it was thrown with.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
