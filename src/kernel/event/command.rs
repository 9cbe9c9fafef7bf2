//! What a workflow asks for, as data: the commands of the log.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    super::{failure::Failure, id::Position, memo::MemoUse, payload::Payload, retry::Retry, time::Timestamp},
    Outcome,
};

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
    /// The run has failed, and is tried again: it ends, and the next run of the same execution begins where this one did.
    #[serde(rename = "again")]
    Again {
        /// Why it failed.
        failure: Box<Failure>,
        /// The next run begins not before.
        at: Timestamp,
    },
    /// End, and go on as the next run of the same execution, which is written in the commit of the end.
    #[serde(rename = "cont")]
    Continue {
        /// Its argument.
        input: Payload,
    },
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
            | Command::Again { .. }
            | Command::End { .. } => 0,
        }
    }
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
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
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
    /// How it is tried again if it fails, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
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
    /// Where its result is shared with other runs, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<Box<MemoUse>>,
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
