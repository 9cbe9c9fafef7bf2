//! A call of an activity: a builder until it is first polled, then a wait.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{child::is_name, memo::Memo};
use crate::{
    activity::{Activity, DurableError},
    error::CallError,
    kernel::{
        event::{Call, CallOptions, Command, Compensation},
        failure::{Failure, KIND_CANCELLED, KIND_CODEC, KIND_INVALID, KIND_LIMIT, KIND_MAYBE_DONE, KIND_TIMEOUT, Origin},
        id::Position,
        memo::MemoUse,
        payload::{CodecError, Payload},
        retry::Retry,
        tape::{Answer, Fault, Misuse, Tape, What},
    },
};

/// What happens when a call's attempts are used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExhausted {
    /// The error goes to the workflow's code.
    #[default]
    Fail,
    /// The call waits until an operator retries it; the run goes on from there.
    Park,
}

/// A call that was constructed and, once polled, recorded.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Pending<A: Activity> {
    wait: Wait,
    draft: Option<Box<Draft>>,
    activity: PhantomData<fn() -> A>,
}

struct Draft {
    name: &'static str,
    input: Result<Payload, Failure>,
    options: Settings,
    undo: Option<Compensation>,
    scope: Option<Position>,
    memo: Option<Box<MemoUse>>,
}

impl<A: Activity> Pending<A> {
    pub(super) fn new(tape: Rc<Tape>, activity: A, scope: Option<Position>) -> Self {
        let input = encode_input(&activity, A::NAME, tape.limits().payload_bytes);
        let draft = Draft { name: A::NAME, input, options: Settings::default(), undo: None, scope, memo: None };
        Pending { wait: Wait::new(tape), draft: Some(Box::new(draft)), activity: PhantomData }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        if let Some(draft) = &mut self.draft {
            set(&mut draft.options);
        }
        self
    }

    /// Limits one attempt, from its start to its end (start-to-close). By default there is no limit. A closure is dropped when its
    /// time is over; the act of an actor, and code that blocks its thread, cannot be interrupted: it goes on, its result is
    /// dropped, and a further attempt may begin beside it.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|s| s.limit("timeout", limit, |o, d| o.start_to_close = Some(d)))
    }

    /// Limits the wait for an attempt to start, from its intent on.
    pub fn schedule_to_start(self, limit: Duration) -> Self {
        self.set(|s| s.limit("schedule_to_start", limit, |o, d| o.schedule_to_start = Some(d)))
    }

    /// Limits the whole call, retries included, from its intent to its end.
    pub fn schedule_to_close(self, limit: Duration) -> Self {
        self.set(|s| s.limit("schedule_to_close", limit, |o, d| o.schedule_to_close = Some(d)))
    }

    /// Limits the silence of a running attempt: it must call `Call::heartbeat` more often than that.
    pub fn heartbeat(self, limit: Duration) -> Self {
        self.set(|s| s.limit("heartbeat", limit, |o, d| o.heartbeat = Some(d)))
    }

    /// Sets when and how often it is tried again.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|s| s.change(|o| o.retry = retry))
    }

    /// Never starts it twice. A crash in the middle is reported as [`CallError::MaybeDone`] instead.
    pub fn at_most_once(self) -> Self {
        self.set(|s| s.change(|o| o.at_most_once = true))
    }

    /// Sets what happens when its attempts are used up.
    pub fn on_exhausted(self, then: OnExhausted) -> Self {
        self.set(|s| s.change(|o| o.park = then == OnExhausted::Park))
    }

    /// Sets its queue (at most 255 bytes, no NUL; else the call fails, kind `invalid`). Without limits on it, and where this node serves it, it runs here as any other call; else it goes
    /// through the store to whichever node serves the queue and has the activity, within the queue's limits.
    pub fn queue(self, queue: &str) -> Self {
        let fits = queue.is_empty() || is_name(queue);
        self.set(|s| s.name("a queue's name", fits, |o| queue.clone_into(&mut o.queue)))
    }

    /// Sets its key within a shared queue (at most 255 bytes, no NUL): calls of one key share a limit (`Queue::per_key`) and take turns with those of
    /// other keys (`Queue::fair`).
    pub fn queue_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        let fits = key.is_empty() || is_name(&key);
        self.set(|s| s.name("a key within a queue", fits, |o| o.route.get_or_insert_default().key = key))
    }

    /// Sets its priority within a shared queue: higher first. Nobody starves: ten seconds of waiting make up for one.
    pub fn priority(self, priority: i32) -> Self {
        self.set(|s| s.change(|o| o.route.get_or_insert_default().priority = priority))
    }

    /// Lets only nodes run it that have this tag (`Builder::tag`; 1 to 255 bytes, no NUL); call it again for further ones. It matters in shared queues.
    pub fn needs(self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        let fits = is_name(&tag);
        self.set(|s| s.name("a tag that a node must have", fits, |o| o.route.get_or_insert_default().needs.push(tag)))
    }

    /// Shares its result with all executions that call this activity under the same [`Memo`]. Whoever asks first calls the activity; those
    /// who ask meanwhile wait, without a slot, and take its value, as do those who ask as long as it counts. The value is recorded in
    /// each of their logs, so what they have taken never changes.
    ///
    /// If the call of whoever was first fails for good (or is parked, cancelled, or its run ends), the next of those who wait makes it: errors
    /// are not shared. The same holds if nobody takes the run up for as long as a lease after its node has died; it asks again when it
    /// is back; and if the run is paused, as soon as nothing of it runs any more. Options of the call hold for whoever makes it, and `at_most_once` for that one call: whoever takes over makes its own. Limits from the intent on count while it waits as well, but
    /// do not end the wait: race it with a sleep for that.
    ///
    /// An act with a compensation (`undo_with`) cannot be shared: the call fails, kind `invalid`.
    pub fn memo(self, memo: Memo) -> Self {
        let mut call = self;
        if let Some(draft) = &mut call.draft {
            match memo.of(A::NAME) {
                Ok(shares) => draft.memo = Some(Box::new(shares)),
                Err(failure) => _ = draft.options.invalid.get_or_insert(failure),
            }
        }
        call
    }

    /// Returns the stable key of this call, `id/run_no/position`: the same in every attempt.
    pub fn key(&self) -> String {
        super::call_key(self.wait.tape.id(), self.wait.position)
    }

    pub(super) fn undo<C: Activity>(mut self, undo: C) -> Self {
        let most = self.wait.tape.limits().payload_bytes;
        if let Some(draft) = &mut self.draft {
            match encode_input(&undo, C::NAME, most) {
                Ok(input) => draft.undo = Some(Compensation { activity: C::NAME.to_owned(), input, options: None }),
                Err(failure) => draft.input = Err(failure),
            }
        }
        self
    }
}

impl<A: Activity> Future for Pending<A> {
    type Output = Result<A::Output, CallError<A::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(draft) = self.draft.take() {
            let mut draft = *draft;
            let input = match (draft.input, draft.options.invalid) {
                (Ok(input), None) => input,
                (Err(failure), _) | (_, Some(failure)) => {
                    return Poll::Ready(Err(CallError::Broken(failure)));
                }
            };
            if draft.undo.is_some() && draft.memo.is_some() {
                let text =
                    "an act whose result is shared cannot have a compensation: it may be undone for one only who shares it";
                return Poll::Ready(Err(CallError::Broken(Failure::new(KIND_INVALID, text).into_final())));
            }
            if ready!(self.wait.tape.refuses()) {
                return Poll::Ready(Err(CallError::Cancelled));
            }
            let position = self.wait.position;
            let undo = draft.undo.take();
            let begun = self.wait.begin(
                What::Activity,
                Command::Call(Box::new(Call {
                    position,
                    activity: draft.name.to_owned(),
                    input,
                    options: draft.options.given,
                    scope: undo.as_ref().and(draft.scope),
                    undo: undo.clone().map(Box::new),
                    compensating: false,
                    memo: draft.memo,
                })),
            );
            if let (true, Some(scope), Some(undo)) = (begun, draft.scope, undo) {
                self.wait.tape.add_undo(scope, position, undo);
            }
        }
        self.wait.poll_ended(cx, A::NAME)
    }
}

/// Options as they are given; `None` as long as nothing was, which keeps the log short.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) given: Option<Box<CallOptions>>,
    pub(super) invalid: Option<Failure>,
}

impl Settings {
    pub(super) fn change(&mut self, set: impl FnOnce(&mut CallOptions)) {
        set(self.given.get_or_insert_default());
    }

    /// Sets a name if it fits into every store's rows.
    fn name(&mut self, what: &str, fits: bool, set: impl FnOnce(&mut CallOptions)) {
        if fits {
            return self.change(set);
        }
        let text = format!("{what} has at most 255 bytes, no NUL, and says something; shorten it, or use a digest of it");
        self.invalid.get_or_insert(Failure::new(KIND_INVALID, text).into_final());
    }

    pub(super) fn limit(&mut self, what: &str, limit: Duration, set: impl FnOnce(&mut CallOptions, Duration)) {
        if limit.is_zero() {
            let text = format!("{what}: a limit of zero can never be kept; leave it out for no limit");
            self.invalid.get_or_insert(Failure::new(KIND_INVALID, text).into_final());
        } else {
            self.change(|options| set(options, limit.min(crate::kernel::time::LONGEST_WAIT)));
        }
    }
}

/// A position whose answer is awaited; dropped unanswered, it is given up.
pub(super) struct Wait {
    pub(super) tape: Rc<Tape>,
    pub(super) position: Position,
    begun: bool,
    over: bool,
}

impl Wait {
    pub(super) fn new(tape: Rc<Tape>) -> Wait {
        let position = tape.reserve();
        Wait { tape, position, begun: false, over: false }
    }

    /// Records the command; from here on the position is open, unless a limit or the seal refuses it.
    pub(super) fn begin(&mut self, what: What, command: Command) -> bool {
        self.begun = self.tape.command(command);
        if self.begun {
            self.tape.open(self.position, what);
        }
        self.begun
    }

    /// Returns the answer; `None` means cancelled.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Answer>> {
        let polled = self.tape.poll(self.position, cx.waker());
        self.over |= polled.is_ready();
        polled
    }

    /// Returns the end of a call or step, decoded.
    pub(super) fn poll_ended<T, E>(&mut self, cx: &Context<'_>, name: &str) -> Poll<Result<T, CallError<E>>>
    where
        T: DeserializeOwned,
        E: DurableError,
    {
        let Poll::Ready(answer) = self.poll(cx) else {
            return Poll::Pending;
        };
        let decoded = match answer {
            Some(Answer::Ended(Ok(output))) => output.decode(format_args!("the output of {name}")).map(Ok),
            Some(Answer::Ended(Err((attempt, failure)))) => {
                let origin =
                    || Origin { run: self.tape.id().clone(), name: name.to_owned(), call: Some((self.position, attempt)) };
                error_of(failure.with_origin(origin), name).map(Err)
            }
            _ => Ok(Err(CallError::Cancelled)),
        };
        match decoded {
            Ok(result) => Poll::Ready(result),
            Err(undecodable) => {
                self.tape.fault(Fault::Blocks(Misuse::Undecodable(undecodable)));
                Poll::Pending
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.begun && !self.over {
            self.tape.abandon(self.position);
        }
    }
}

/// What the code hears of a recorded failure.
fn error_of<E: DurableError>(failure: Failure, name: &str) -> Result<CallError<E>, CodecError> {
    if let Some(error) = typed(&failure, name)? {
        return Ok(CallError::Failed(error));
    }
    Ok(match failure.kind() {
        KIND_TIMEOUT => CallError::TimedOut(failure.message().to_owned()),
        KIND_MAYBE_DONE => CallError::MaybeDone(failure.message().to_owned()),
        KIND_CANCELLED => CallError::Cancelled,
        _ => CallError::Broken(failure),
    })
}

/// Returns the user's own error that a failure was made of, if it was made of one.
pub(crate) fn typed<E: DurableError>(failure: &Failure, name: &str) -> Result<Option<E>, CodecError> {
    let Some(details) = failure.details() else { return Ok(None) };
    let mut error: E = details.decode(format_args!("the error of {name}"))?;
    if let Some(origin) = failure.origin() {
        error.came_from(origin);
    }
    Ok(Some(error))
}

/// Encodes the argument of something of this name.
pub(super) fn encode_input<T: Serialize>(input: &T, name: &str, most: usize) -> Result<Payload, Failure> {
    let payload = Payload::encode(input, format_args!("the input of {name}"))
        .map_err(|e| Failure::new(KIND_CODEC, e.to_string()).into_final())?;
    if payload.bytes.len() > most {
        let text =
            format!("the input of {name} has {} bytes, the limit is {most}; pass a reference instead", payload.bytes.len());
        return Err(Failure::new(KIND_LIMIT, text).into_final());
    }
    Ok(payload)
}
