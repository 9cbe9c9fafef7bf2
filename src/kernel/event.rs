//! The facts of a history. One [`Commit`] is one row of the log: everything that one turn recorded, at once or not at all.
//!
//! A turn is a sequence *fact, commands, fact, commands, …*: each fact is applied alone and the workflow polled until it
//! is quiescent, so each command stands behind the fact that caused it, live and in replay alike. How facts were grouped
//! in commits never matters.
//!
//! The variant names in the stored form are the short codes given with `rename`; a code is never reused. Fields are only
//! ever added at the end, with a default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    chain::Inherited,
    failure::Failure,
    id::{Attempt, BuildId, CommitNo, Digest, Epoch, Incarnation, Position, RunId},
    limits::Limits,
    payload::Payload,
    retry::Retry,
    time::Timestamp,
};

/// One row of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Its number within the run, from 0, without gaps.
    pub commit_no: CommitNo,
    /// The digest of the row before it; `None` only for number 0.
    pub prev: Option<Digest>,
    /// Which life of which node wrote it.
    pub incarnation: Incarnation,
    /// Under which claim.
    pub epoch: Epoch,
    /// Which build of the program.
    pub build: BuildId,
    /// The store's time of this turn; never less than that of the commit before.
    pub time: Timestamp,
    /// What happened and what it led to, in order.
    pub events: Vec<Event>,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Something happened; applied to the workflow.
    #[serde(rename = "f")]
    Fact(Fact),
    /// The workflow asked for something; compared in replay.
    #[serde(rename = "c")]
    Command(Command),
}

/// What happened to a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Fact {
    /// The run began.
    #[serde(rename = "start")]
    Started(Box<Started>),
    /// Ownership was taken by force (the former owner died or was fenced); whoever read an older tail loses.
    #[serde(rename = "claim")]
    Claimed {
        /// The new owner.
        by: Incarnation,
        /// The new epoch.
        epoch: Epoch,
    },
    /// The current attempt of an activity or step succeeded.
    #[serde(rename = "ok")]
    Completed {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// What it returned.
        output: Payload,
    },
    /// The current attempt failed.
    #[serde(rename = "err")]
    Failed {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        failure: Box<Failure>,
        /// What follows; a retry is the recorded intent of the next attempt.
        next: Next,
    },
    /// The current attempt was lost with the incarnation that ran it: its effect is *maybe done*.
    #[serde(rename = "lost")]
    Lost {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// What follows.
        next: Next,
    },
    /// A sleep is over.
    #[serde(rename = "fire")]
    Fired {
        /// Which sleep.
        position: Position,
    },
    /// A message was taken from the inbox.
    #[serde(rename = "msg")]
    Received {
        /// The message's own id, by which a second copy is known.
        message: String,
        /// What it says.
        body: MessageBody,
    },
    /// A message was taken from the inbox and had no effect.
    #[serde(rename = "ign")]
    Ignored {
        /// The message's own id.
        message: String,
        /// Why it had none.
        why: Ignored,
    },
    /// An update was taken from the inbox and refused, as the state was by then. The workflow does not hear of it.
    #[serde(rename = "no")]
    Refused {
        /// The message's own id.
        message: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// The run's own deadline passed.
    #[serde(rename = "late")]
    DeadlinePassed,
    /// The first turn of a run that was written without one.
    #[serde(rename = "go")]
    Begun,
    /// What the run takes over from the one that continued as it: right behind its `Started`, in the same commit.
    #[serde(rename = "inh")]
    Inherited(Box<Inherited>),
}

/// How a run began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The workflow's stored name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// Its argument.
    pub input: Payload,
    /// Where `cx.random()` and `cx.uuid()` start from.
    pub seed: u64,
    /// When the whole run must have ended, if ever.
    pub deadline: Option<Timestamp>,
    /// Whether it was written without its first turn, which then begins with a `Begun` fact.
    #[serde(default)]
    pub deferred: bool,
    /// The limits under which it runs, if they are not the default ones: a limit that was reached must be reached in replay.
    #[serde(default)]
    pub limits: Option<Box<Limits>>,
    /// The run that waits for its end, if it is another run's child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<Parent>>,
}

/// Who waits for the end of a child.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// The run that began it.
    pub run: RunId,
    /// Where in that run.
    pub position: Position,
}

impl Started {
    /// Returns the limits under which the run goes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.as_deref().copied().unwrap_or_default()
    }
}

/// What follows a failed or lost attempt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Next {
    /// The next attempt may start at that moment; this record is its intent.
    #[serde(rename = "r")]
    Retry {
        /// Not before.
        at: Timestamp,
    },
    /// No more attempts: the error goes to the workflow's code.
    #[serde(rename = "g")]
    GiveUp,
    /// No more attempts: the step waits for an operator, the run stays as it is.
    #[serde(rename = "p")]
    Park,
}

/// Why a message had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ignored {
    /// A message of the same id was taken before.
    #[serde(rename = "d")]
    Duplicate,
    /// What it refers to is over.
    #[serde(rename = "l")]
    Late,
}

/// What a message to an execution says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum MessageBody {
    /// A signal of the user's.
    #[serde(rename = "s")]
    Signal {
        /// The signal's stored name.
        name: String,
        /// Its value.
        payload: Payload,
    },
    /// An update of the user's: a change of the workflow's state, with an answer.
    #[serde(rename = "u")]
    Update {
        /// The update's stored name.
        name: String,
        /// Its value.
        payload: Payload,
    },
    /// Asks the run to stop: delivered at its next await.
    #[serde(rename = "c")]
    Cancel {
        /// In the words of whoever asked.
        reason: String,
    },
    /// Gives a parked call a new budget of attempts.
    #[serde(rename = "r")]
    Retry {
        /// Which call; `None` means every parked one.
        position: Option<Position>,
    },
    /// An attempt that went through a shared queue is over.
    #[serde(rename = "t")]
    Task {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// How.
        end: TaskEnd,
        /// The heartbeat details that it left.
        details: Option<bytes::Bytes>,
    },
    /// A child is over, or could not be begun.
    #[serde(rename = "h")]
    Child {
        /// Where the parent began it.
        position: Position,
        /// How it ended.
        end: Box<Outcome>,
    },
    /// Asks a child to stop, as [`Cancel`](MessageBody::Cancel) does: whoever began it does not wait for it any more. It counts only if
    /// it comes from there, so that an id which was given to another execution harms nobody.
    #[serde(rename = "x")]
    Stop {
        /// Who began it, and where.
        parent: Parent,
    },
}

/// A message of one run to another, in the commit of the sender's turn, sent at the batch's time. One to a run that is not the
/// current one of its id, or has ended, is dropped without a word, and so is one whose id is unread in that inbox already. No inbox
/// is too full for it: what one run owes to another must never be lost. It wakes whom a message wakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    /// To whom; [`CURRENT_RUN`] stands for whichever run is the current one.
    pub to: RunId,
    /// The message's own id.
    pub message: String,
    /// What it says.
    pub body: MessageBody,
}

/// The number of whichever run of an id is the current one, for a [`Tell`]: who was told to begin may have continued since.
pub const CURRENT_RUN: u32 = 0;

impl Tell {
    /// Tells whether it is for this run, which is the current one of its id.
    #[must_use]
    pub fn is_for(&self, current: &RunId) -> bool {
        self.to.id == current.id && (self.to.run_no == CURRENT_RUN || self.to.run_no == current.run_no)
    }
}

impl MessageBody {
    /// Tells whether it is for the execution, whichever its run, and goes along unread when that continues as the next one. What
    /// names a place is for the one run that has it.
    #[must_use]
    pub fn is_for_the_execution(&self) -> bool {
        match self {
            MessageBody::Signal { .. } | MessageBody::Update { .. } | MessageBody::Cancel { .. } | MessageBody::Stop { .. } => {
                true
            }
            MessageBody::Retry { position } => position.is_none(),
            MessageBody::Task { .. } | MessageBody::Child { .. } => false,
        }
    }

    /// Returns why a run is to stop, if this asks it to.
    #[must_use]
    pub fn stops(&self) -> Option<String> {
        match self {
            MessageBody::Cancel { reason } => Some(reason.clone()),
            MessageBody::Stop { parent } => Some(format!("{}, which began it, does not wait for it any more", parent.run)),
            _ => None,
        }
    }
}

/// How an attempt in a shared queue ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum TaskEnd {
    /// With a value.
    #[serde(rename = "o")]
    Done(Payload),
    /// With a failure: its own, or a limit that ran out.
    #[serde(rename = "f")]
    Failed(Box<Failure>),
    /// With the node that had it: its effect is *maybe done*.
    #[serde(rename = "l")]
    Lost,
}

/// What a workflow asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Run an activity: the intent of its first attempt.
    #[serde(rename = "call")]
    Call(Box<Call>),
    /// Run a closure written inline in the workflow: the intent of its first attempt.
    #[serde(rename = "step")]
    Step {
        /// Its place.
        position: Position,
        /// Its name, for people and for the comparison in replay.
        name: String,
        /// Where the closure runs.
        place: StepPlace,
        /// How it is to be tried; `None` means the defaults.
        options: Option<Box<CallOptions>>,
    },
    /// Wait until a moment.
    #[serde(rename = "sleep")]
    Sleep {
        /// Its place.
        position: Position,
        /// Until when.
        due: Timestamp,
    },
    /// Wait for a signal.
    #[serde(rename = "recv")]
    Receive {
        /// Its place.
        position: Position,
        /// The signal's stored name.
        signal: String,
    },
    /// An open call, sleep or wait was dropped or cancelled: what it returns is of no interest any more.
    #[serde(rename = "drop")]
    Cancel {
        /// Which one.
        position: Position,
    },
    /// A saga scope was opened.
    #[serde(rename = "saga")]
    OpenSaga {
        /// Its place, which also names the scope.
        position: Position,
    },
    /// A compensation was added to a scope after the fact.
    #[serde(rename = "undo")]
    Undo {
        /// Its place.
        position: Position,
        /// The scope.
        scope: Position,
        /// What to run.
        compensation: Box<Compensation>,
    },
    /// A saga scope ended well: its compensations are dropped.
    #[serde(rename = "keep")]
    KeepSaga {
        /// Which scope.
        scope: Position,
    },
    /// A saga scope ended badly: its compensations run, in reverse, shielded.
    #[serde(rename = "comp")]
    Compensate {
        /// Which scope.
        scope: Position,
    },
    /// The run is over. Nothing follows.
    #[serde(rename = "end")]
    End {
        /// How.
        outcome: Box<Outcome>,
    },
    /// The code that asks for this patch took its new way, from here on and in every replay.
    #[serde(rename = "patch")]
    Patched {
        /// The patch's name.
        id: String,
        /// Whether the code has no old way any more, so that a later one need not ask.
        deprecated: bool,
    },
    /// The code has applied an update, and this is its answer.
    #[serde(rename = "ans")]
    Answered {
        /// The id of the message that brought the update.
        message: String,
        /// The answer.
        reply: Box<Reply>,
    },
    /// Begin another run, as a child of this one. It is written in the same commit.
    #[serde(rename = "child")]
    Child(Box<Child>),
    /// Show a value to whoever looks from outside, in place of the one before.
    #[serde(rename = "pub")]
    Publish {
        /// Under which key.
        key: String,
        /// The value.
        value: Payload,
    },
    /// Add to a counter that is shown outside.
    #[serde(rename = "count")]
    Count {
        /// Under which key.
        key: String,
        /// How much; less than zero takes away.
        by: i64,
    },
    /// End, and go on as the next run of the same execution, which is written in the commit of the end.
    #[serde(rename = "cont")]
    Continue {
        /// Its argument.
        input: Payload,
    },
}

/// What an update was answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// With a value.
    #[serde(rename = "o")]
    Done(Payload),
    /// It was taken, and this went wrong: its code panicked, or the answer cannot be stored.
    #[serde(rename = "f")]
    Failed(Failure),
}

/// The intent to begin a child.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Child {
    /// Its place.
    pub position: Position,
    /// The workflow's stored name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// The id of the execution that it is.
    pub id: String,
    /// Its argument.
    pub input: Payload,
    /// Whether the parent waits for its end.
    pub awaited: bool,
    /// What becomes of it when nobody waits for it any more.
    pub on_close: OnClose,
    /// How it is run; `None` means the defaults.
    pub options: Option<Box<ChildOptions>>,
}

/// How a child is run, as data.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChildOptions {
    /// Higher first.
    pub priority: i32,
    /// Its queue; empty is the default one.
    pub queue: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The tags that a node must have to run it.
    pub needs: Vec<String>,
    /// When it must have ended, counted from its intent.
    pub deadline: Option<Duration>,
}

/// What becomes of a child when its parent has ended, or has given up waiting for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OnClose {
    /// It is asked to stop.
    #[default]
    #[serde(rename = "c")]
    Cancel,
    /// It goes on by itself.
    #[serde(rename = "a")]
    Abandon,
}

/// The intent to run an activity.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Its place.
    pub position: Position,
    /// The activity's stored name.
    pub activity: String,
    /// Its argument.
    pub input: Payload,
    /// How it is to be tried; `None` means the defaults.
    pub options: Option<Box<CallOptions>>,
    /// What undoes it, recorded with the intent, so that a *maybe done* act is undone as well.
    pub undo: Option<Box<Compensation>>,
    /// The scope that `undo` belongs to, or, for a compensation that the kernel runs, the scope it undoes.
    pub scope: Option<Position>,
    /// Whether the kernel runs this as a compensation.
    pub compensating: bool,
}

/// What undoes an act.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Compensation {
    /// The activity's stored name.
    pub activity: String,
    /// Its argument.
    pub input: Payload,
    /// How it is to be tried; exhausted compensations always park.
    pub options: Option<Box<CallOptions>>,
}

/// Where the closure of a step runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StepPlace {
    /// In the workflow's own future; short async work.
    #[serde(rename = "i")]
    Inline,
    /// On the bounded pool of threads for what blocks.
    #[serde(rename = "b")]
    Blocking,
    /// On an arbiter for activities, in a transaction of the store in which its result is recorded as well.
    #[serde(rename = "t")]
    Transaction,
}

/// How a call is to be tried, as data.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CallOptions {
    /// When and how often again.
    pub retry: Retry,
    /// From the intent until an attempt starts.
    pub schedule_to_start: Option<Duration>,
    /// From an attempt's start to its end.
    pub start_to_close: Option<Duration>,
    /// From the intent to the end of the last attempt.
    pub schedule_to_close: Option<Duration>,
    /// The longest silence of a running attempt.
    pub heartbeat: Option<Duration>,
    /// Never start it twice: a crash in the middle is reported instead.
    pub at_most_once: bool,
    /// Whether the step waits for an operator when its attempts are used up.
    pub park: bool,
    /// Which queue it belongs to; empty is the default one.
    pub queue: String,
    /// Its place in a shared queue, if it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Box<Route>>,
}

/// The place of a call in a shared queue.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Route {
    /// Calls of one key share its limit and its turn.
    pub key: String,
    /// Higher first, within reason: ten seconds of waiting make up for one.
    pub priority: i32,
    /// The tags that a node must have to run it.
    pub needs: Vec<String>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// With a value.
    #[serde(rename = "ok")]
    Completed(Payload),
    /// With an error of the workflow's code.
    #[serde(rename = "err")]
    Failed(Failure),
    /// Because it was asked to stop.
    #[serde(rename = "can")]
    Cancelled {
        /// In the words of whoever asked.
        reason: String,
    },
    /// Because its own deadline passed.
    #[serde(rename = "late")]
    TimedOut,
    /// By an operator, without running its compensations.
    #[serde(rename = "term")]
    Terminated {
        /// In the words of whoever did it.
        reason: String,
    },
    /// Goes on as the next run of the same execution.
    #[serde(rename = "cont")]
    Continued,
}

impl Command {
    /// Returns the place of this command, or of what it refers to.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Command::Call(call) => call.position,
            Command::Step { position, .. }
            | Command::Sleep { position, .. }
            | Command::Receive { position, .. }
            | Command::Cancel { position }
            | Command::OpenSaga { position }
            | Command::Undo { position, .. } => *position,
            Command::KeepSaga { scope } | Command::Compensate { scope } => *scope,
            Command::Child(child) => child.position,
            Command::Patched { .. }
            | Command::Answered { .. }
            | Command::Publish { .. }
            | Command::Count { .. }
            | Command::Continue { .. }
            | Command::End { .. } => 0,
        }
    }
}

/// How the ids of messages begin that runs send each other. Nobody else may use it: a message that is in an inbox already is not put in
/// again, and the end of a child must never be taken for one that somebody made up.
pub const OUR_MESSAGES: &str = "stent:";

/// Returns the own id of the message in which a parent hears of the end of the child that it began there.
#[must_use]
pub fn child_message(position: Position) -> String {
    format!("{OUR_MESSAGES}child:{position}")
}
