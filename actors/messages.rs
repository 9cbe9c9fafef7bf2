//! What an application may say to the [`Supervisor`](super::Supervisor). Values are encoded by the sender; an encoding error
//! is the answer of the send.

use std::{marker::PhantomData, time::Duration};

use actix::Message;

use super::{asked::Asked, handle::Handle};
use crate::{
    error::{DispatchError, Error, UpdateError},
    kernel::{
        event::MessageBody,
        id::{Position, RunKey},
        payload::{CodecError, Payload},
        retry::Retry,
        time::LONGEST_WAIT,
    },
    store::{QueueState, Status, Summary},
    workflow::{Query, Signal, Update, Workflow},
};

/// What to do when the id of a dispatch is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IfInUse {
    /// Return a handle of the current run, if workflow and arguments are the same; an error otherwise.
    #[default]
    Attach,
    /// Refuse.
    Reject,
    /// Start a new run if the current one ended without a result (failed, cancelled, timed out, terminated); otherwise attach.
    AllowAfterFailure,
    /// Cancel the current run, wait for its end, and start a new one.
    Replace,
    /// Start a new run if the current one has ended, however; otherwise attach to it, also if its arguments are others; an error if it is one of another workflow. So at most one run
    /// of the id is open at a time. A dispatch that is repeated after that run has ended begins another one.
    AllowAfterEnd,
}

/// Starts an execution. Once it is answered, the execution is durable: it will run to an end, or say why it waits.
///
/// Where dispatches come in bursts, too fast, twice, or while one is open, it goes through a gate first, by a key:
/// [`debounce`](Dispatch::debounce), [`throttle`](Dispatch::throttle), [`dedupe`](Dispatch::dedupe), [`singleton`](Dispatch::singleton).
#[derive(Debug)]
pub struct Dispatch<W> {
    pub(crate) input: Result<Payload, CodecError>,
    /// A fresh one, if none is given.
    pub(crate) id: Option<String>,
    pub(crate) if_in_use: IfInUse,
    pub(crate) delay: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) priority: i32,
    pub(crate) queue: String,
    pub(crate) tags: Vec<String>,
    pub(crate) needs: Vec<String>,
    workflow: PhantomData<fn() -> W>,
}

impl<W: Workflow> Dispatch<W> {
    /// Makes a dispatch with a fresh, time-ordered id.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a workflow is a message: it is given away")]
    pub fn new(workflow: W) -> Self {
        Dispatch {
            input: Payload::encode(&workflow, format_args!("the input of {}", W::NAME)),
            id: None,
            if_in_use: IfInUse::default(),
            delay: None,
            deadline: None,
            retry: None,
            priority: 0,
            queue: String::new(),
            tags: Vec::new(),
            needs: Vec::new(),
            workflow: PhantomData,
        }
    }

    /// Leaves the types behind.
    pub(crate) fn asked(self) -> Result<Asked, DispatchError> {
        let Dispatch { input, id, if_in_use, delay, deadline, retry, priority, queue, tags, needs, .. } = self;
        let (input, workflow, version) = (input?, W::NAME, W::VERSION);
        let id = id.unwrap_or_else(fresh_id);
        Ok(Asked { workflow, version, input, id, if_in_use, delay, deadline, retry, priority, queue, tags, needs })
    }

    /// Sets the execution's id, 1 to 255 bytes: the same id again is the same execution. Ids that begin with `stent:` are Stent's own.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets what to do when the id is in use.
    #[must_use]
    pub fn if_in_use(mut self, policy: IfInUse) -> Self {
        self.if_in_use = policy;
        self
    }

    /// Starts it that much later.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay.min(LONGEST_WAIT)).filter(|delay| !delay.is_zero());
        self
    }

    /// Limits the whole run, from the dispatch on: then it is cancelled and ends as timed out.
    #[must_use]
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within.min(LONGEST_WAIT));
        self
    }

    /// Tries the whole run again if it fails, as the next run of its execution: from the beginning, with the same argument and a history of
    /// its own. Default: never, since what its code did so far is not undone by that, only what a saga undoes. The policy's time counts
    /// from the dispatch; a run that [continues](crate::Cx::continue_as_new) has all tries anew. A run that was asked to stop, or whose
    /// deadline passes before the next try, is not tried again. What is unread goes along, as does what is published; signals that were
    /// read do not come again. Signals that come while the next try waits are kept for it; anything else that comes then (a cancel, an update)
    /// begins it at once. [`Handle::result`](crate::Handle::result) waits for the last.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Sets its priority among runs that wait for a slot: higher first, default 0. Nobody starves: ten seconds of waiting make up
    /// for one.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets its queue: only nodes that serve it (`Builder::serve`) run it. Empty is the default one.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Adds a tag, at most 16 of at most 255 bytes each.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Lets only nodes run it that have this tag (`Builder::tag`); at most 16, and all of them must be there.
    #[must_use]
    pub fn needs(mut self, tag: impl Into<String>) -> Self {
        self.needs.push(tag.into());
        self
    }
}

/// Returns an id that no other dispatch has, ordered by time.
pub(crate) fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl<W: Workflow> Message for Dispatch<W> {
    type Result = Result<Handle<W>, Error>;
}

/// Sends a signal to an execution. Once it is answered, the signal is durable and will be read once.
#[derive(Debug, Clone)]
pub struct SendSignal {
    pub(crate) to: String,
    pub(crate) message: String,
    pub(crate) body: Result<MessageBody, CodecError>,
}

impl SendSignal {
    /// Makes a signal for the current run of an id.
    pub fn new<S: Signal>(id: impl Into<String>, signal: &S) -> SendSignal {
        let body = Payload::encode(signal, format_args!("the signal {}", S::NAME))
            .map(|payload| MessageBody::Signal { name: S::NAME.to_owned(), payload });
        SendSignal { to: id.into(), message: uuid::Uuid::now_v7().to_string(), body }
    }

    /// Sets the message's own id: the same id again is read once.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> SendSignal {
        self.message = id.into();
        self
    }
}

impl Message for SendSignal {
    type Result = Result<(), Error>;
}

/// Asks a workflow something; it answers from its state as of its last commit, and nothing is recorded.
///
/// A run that is in memory here answers itself, between two commits. Any other (it sleeps, has ended, or is with another node) is
/// replayed from its log, on a thread of its own, answers, and is forgotten: so its workflow must be registered here. The question
/// and the answer have the payload limit.
#[derive(Debug, Clone)]
pub struct Ask<Q> {
    pub(crate) of: Whose,
    pub(crate) question: Result<Payload, CodecError>,
    pub(crate) within: Duration,
    query: PhantomData<fn() -> Q>,
}

/// Which run is asked.
#[derive(Debug, Clone)]
pub(crate) enum Whose {
    /// The current one of an id.
    Current(String),
    /// That one.
    Run(RunKey),
}

impl<Q: Query> Ask<Q> {
    /// Makes a question to the current run of an id, to be answered within ten seconds.
    pub fn new(id: impl Into<String>, question: &Q) -> Ask<Q> {
        Ask::of(Whose::Current(id.into()), question)
    }

    pub(crate) fn of(of: Whose, question: &Q) -> Ask<Q> {
        let question = Payload::encode(question, format_args!("the query {}", Q::NAME));
        Ask { of, question, within: Duration::from_secs(10), query: PhantomData }
    }

    /// Sets within which time it is to be answered; then the asker hears that it was not.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Ask<Q> {
        self.within = limit;
        self
    }
}

impl<Q: Query> Message for Ask<Q> {
    type Result = Result<Q::Answer, Error>;
}

/// Changes the state of an execution from outside; its code checks the change, makes it and answers.
///
/// It goes to the current run of its id, wherever that is, and wakes it; it is taken once, in the order in which updates and signals were sent.
/// The answer is given when it is durable, and is the same for everyone who gives the update's id: once more, elsewhere, after a
/// restart, after the end of the run. (An id is remembered like that of any message, for the last 10,000 of a run.)
///
/// A rejection changes nothing: nothing is recorded, and the same id may be tried again. Only if the state changes between the check and
/// the turn that takes it is the rejection recorded, and stays. To be checked, a run that is not in memory here is replayed
/// from its log, if its workflow is registered here.
#[derive(Debug, Clone)]
pub struct SendUpdate<U> {
    pub(crate) to: String,
    pub(crate) id: String,
    pub(crate) payload: Result<Payload, CodecError>,
    pub(crate) within: Duration,
    update: PhantomData<fn() -> U>,
}

impl<U: Update> SendUpdate<U> {
    /// Makes an update of the current run of an id, to be answered within thirty seconds, under a fresh id of its own.
    pub fn new(id: impl Into<String>, update: &U) -> SendUpdate<U> {
        let payload = Payload::encode(update, format_args!("the update {}", U::NAME));
        let own = uuid::Uuid::now_v7().to_string();
        SendUpdate { to: id.into(), id: own, payload, within: Duration::from_secs(30), update: PhantomData }
    }

    /// Sets the update's own id, 1 to 255 bytes: the same id again is made once, and answered alike. Messages of all kinds to a run share
    /// their ids.
    #[must_use]
    pub fn update_id(mut self, id: impl Into<String>) -> SendUpdate<U> {
        self.id = id.into();
        self
    }

    /// Sets within which time it is to be answered; then the sender hears that it was not, and may send it again.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> SendUpdate<U> {
        self.within = limit;
        self
    }
}

impl<U: Update> Message for SendUpdate<U> {
    type Result = Result<U::Answer, UpdateError<U::Error>>;
}

/// Asks an execution to stop: its next await, and running activities, hear of it; compensations run. One that has not begun (it is delayed, or
/// waits for its next try) begins at once, or as soon as it is not paused, and its first await hears of it; it is not tried again.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Cancel {
    pub(crate) to: String,
    pub(crate) reason: String,
}

impl Cancel {
    /// Makes a request for the current run of an id.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Cancel {
        Cancel { to: id.into(), reason: "cancelled".to_owned() }
    }

    /// Says why, for the record.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Cancel {
        self.reason = reason.into();
        self
    }
}

/// Gives parked calls of an execution a new budget of attempts.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct RetryParked {
    pub(crate) to: String,
    pub(crate) position: Option<Position>,
}

impl RetryParked {
    /// Retries every parked call of the current run of an id.
    #[must_use]
    pub fn new(id: impl Into<String>) -> RetryParked {
        RetryParked { to: id.into(), position: None }
    }

    /// Retries only the call at this position.
    #[must_use]
    pub fn position(mut self, position: Position) -> RetryParked {
        self.position = Some(position);
        self
    }
}

/// Asks what is known of an execution.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Description>, Error>")]
pub struct Describe {
    pub(crate) id: String,
}

impl Describe {
    /// Asks about the current run of an id.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Describe {
        Describe { id: id.into() }
    }
}

/// What is known of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Description {
    /// Its summary row.
    pub summary: Summary,
    /// What it waits for, one line each; empty when it has ended.
    pub waits_for: Vec<String>,
    /// Who will move it on, in words.
    pub moved_by: String,
    /// How many commits its log has.
    pub commits: u32,
    /// How it ended, in words.
    pub outcome: Option<String>,
    /// Whose history it has begun with a copy of, up to which point, by whom and why, in words; of the last reset, if it was one.
    pub forked: Option<String>,
}

/// Lists runs, newest first.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<Summary>, Error>")]
pub struct List {
    pub(crate) filter: crate::store::Filter,
}

impl List {
    /// Lists up to 100 runs.
    #[must_use]
    pub fn new() -> List {
        List { filter: crate::store::Filter { limit: 100, ..Default::default() } }
    }

    /// Only those of this workflow.
    #[must_use]
    pub fn workflow(mut self, name: impl Into<String>) -> List {
        self.filter.workflow = Some(name.into());
        self
    }

    /// Only those in this state; call it again for further ones.
    #[must_use]
    pub fn status(mut self, status: Status) -> List {
        self.filter.status.push(status);
        self
    }

    /// Only those with this tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> List {
        self.filter.tag = Some(tag.into());
        self
    }

    /// Only those behind the last one of the page before.
    #[must_use]
    pub fn after(mut self, last: RunKey) -> List {
        self.filter.before = Some(last);
        self
    }

    /// At most so many, at most 1,000.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> List {
        self.filter.limit = limit.clamp(1, 1_000);
        self
    }
}

/// Starts nothing more of a shared queue until it is resumed; what runs goes on. A queue that nobody has declared is one from then on,
/// in all nodes, within five seconds.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct PauseQueue(pub String);

/// Lets a paused queue go on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct ResumeQueue(pub String);

/// Lists the shared queues: their rules, whether they are paused, how much waits and runs.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<QueueState>, Error>")]
pub struct ListQueues;

/// Stops the runtime: no new work, what runs may end within the time, then it is aborted and left to the next start. Answered when
/// that is done. One that comes while another is under way waits for it, and the time that it gives counts for nothing.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Shutdown {
    pub(crate) grace: Duration,
}

impl Shutdown {
    /// Gives running work so long.
    #[must_use]
    pub fn within(grace: Duration) -> Shutdown {
        Shutdown { grace }
    }
}

/// Told to whoever asked for it (`Builder::on_escalation`) when the runtime gives up.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Escalated {
    /// Which actor failed.
    pub actor: String,
    /// What it said last.
    pub panic: String,
    /// How often it failed within its window.
    pub restarts: u32,
}
