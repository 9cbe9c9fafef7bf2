//! Public errors: one enum per operation, its variants named by what the caller can do, and [`Error`] above them all.

use std::{error::Error as StdError, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{failure::Failure, payload::CodecError},
    store::StoreError,
};

mod app;
mod reset;

pub use app::AppError;
pub use reset::{LetterError, ResetError};

pub use crate::kernel::chain::ContinueError;

/// The result of most calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong when talking to the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program's registrations or options contradict each other or the limits.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// Trouble with the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A dispatch was refused.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// A message was refused.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A query was not answered.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// There is no such published value.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Something was wrong with a schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// What a result is to be shared by cannot be that: its key cannot be encoded, or its scope is too long.
    #[error("{0}")]
    Memo(String),
    /// An execution was not reset.
    #[error(transparent)]
    Reset(#[from] ResetError),
    /// Nothing came of a dead letter.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// An update was not made; [`UpdateError`] is the typed form.
    #[error("{0}")]
    Update(String),
    /// Waiting for a result failed.
    #[error("waiting for the result failed: {0}")]
    Wait(String),
    /// A run ended without a result; [`RunError`] is the typed form.
    #[error("{0}")]
    Run(String),
    /// The runtime gave up: one of its actors failed too often. Nothing recorded is lost; start the program again.
    #[error("the runtime gave up: {actor} failed {restarts} times within its window, last with: {panic}")]
    Escalated {
        /// Which actor failed.
        actor: String,
        /// What it said last.
        panic: String,
        /// How often it was restarted.
        restarts: u32,
    },
    /// The runtime is stopped or stopping.
    #[error("the runtime is stopped; start it again, everything recorded is in the store")]
    Stopped,
    /// The actor system under the runtime is gone, or there is none on this thread.
    #[error("no actor system: {0}")]
    NoSystem(String),
}

#[cfg(feature = "actors")]
impl From<actix::MailboxError> for Error {
    fn from(_: actix::MailboxError) -> Self {
        Error::Stopped
    }
}

/// Why an execution was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    /// The id belongs to an execution that the policy does not accept.
    #[error("id {id:?} is in use by a run of {workflow} that is {status}{}; choose another id or another policy", if *.differs { " with other arguments" } else { "" })]
    IdInUse {
        /// The id.
        id: String,
        /// Whose it is.
        workflow: String,
        /// The state of that run.
        status: String,
        /// Whether its arguments differ from these.
        differs: bool,
    },
    /// Too much is under way on this node: nothing was recorded. Dispatch again under the same id, here after `retry_after` and then with
    /// growing pauses, or at another node.
    #[error("busy: {most} {what}, which is the limit of this node; dispatch again after {retry_after:?}, or raise `{knob}`")]
    Busy {
        /// The limit that is reached…
        most: usize,
        /// …of what…
        what: &'static str,
        /// …and the method of the builder that sets it.
        knob: &'static str,
        /// By then some of it is likely to be done.
        retry_after: std::time::Duration,
    },
    /// The workflow is not registered with this supervisor.
    #[error("workflow {name:?} version {version} is not registered here; add `.workflow::<…>()` to the builder")]
    Unregistered {
        /// Its stored name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// A value is over its limit.
    #[error("{what} has {size} bytes, the limit is {limit}; store large data elsewhere and pass a reference")]
    TooLarge {
        /// Which value.
        what: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// An argument makes no sense.
    #[error("invalid dispatch: {0}")]
    Invalid(String),
    /// The workflow could not even begin: the run was not recorded.
    #[error("the run was not started: {0}")]
    NotStarted(String),
    /// More waits at this throttle than may: nothing was recorded. Dispatch again when some of it has begun.
    #[error(
        "{waiting} dispatches with {bytes} bytes wait at this throttle, and more may not; the next begins in {retry_after:?}"
    )]
    GateFull {
        /// How many wait.
        waiting: usize,
        /// How many bytes their arguments have.
        bytes: usize,
        /// By then the next one begins, which makes room for one of its size.
        retry_after: std::time::Duration,
    },
    /// So many nodes dispatch by this key at once that none of the tries of this one was the first: nothing was recorded. Dispatch again.
    #[error("nothing was recorded: {tries} times another node was quicker with a dispatch of this key; dispatch again")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// The store did not answer in a way that tells whether it is recorded. Dispatch again with the same id: it is safe.
    #[error("unknown whether the run is recorded ({0}); dispatch again with the same id")]
    Unavailable(String),
}

/// Why a message to an execution was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No execution has this id.
    #[error("no execution has the id {0:?}")]
    Unknown(String),
    /// The execution has ended.
    #[error("execution {id:?} has ended: {status}")]
    AlreadyEnded {
        /// Its id.
        id: String,
        /// How.
        status: String,
    },
    /// Nothing of the execution is as the order supposes; it may have gone on since. Nothing was recorded.
    #[error("{id:?}: {what}; `describe` says what it waits for")]
    NotThere {
        /// The execution's id.
        id: String,
        /// What is not there, and where.
        what: String,
    },
    /// Too many unread messages.
    #[error("the inbox of {0:?} is full; the execution must read first")]
    InboxFull(String),
    /// A value is over its limit or cannot be encoded.
    #[error("invalid message: {0}")]
    Invalid(String),
    /// The store did not answer in a way that tells whether it is recorded. Send again with the same message id: it is safe.
    #[error("unknown whether the message is recorded ({0}); send again with the same message id")]
    Unavailable(String),
}

/// Why a query was not answered. The run is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No execution has this id.
    #[error("no execution has the id {0:?}")]
    Unknown(String),
    /// The run does not answer this query, at the point at which it is; which ones it does is said.
    #[error("{0}")]
    NotAnswered(String),
    /// The question or the answer is over its limit, or not of the type that the other side expects.
    #[error("{0}")]
    Invalid(String),
    /// The handler panicked, or used the context. The text says what to mend.
    #[error("{0}")]
    Failed(String),
    /// The run is not in memory here, and its code is not in this program.
    #[error(
        "workflow {name:?} version {version} is not registered here, so its runs can only be asked where they are; ask a node that has it"
    )]
    Unregistered {
        /// Its stored name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The code of this build does not fit the run's log, its log cannot be read, or it is quarantined, or may be what has killed its
    /// node.
    #[error("{0}")]
    Blocked(String),
    /// There was no answer in time. Nothing was changed by asking; ask again, or give it more time.
    #[error("no answer within {0:?}; ask again, or give it more time")]
    TimedOut(std::time::Duration),
}

/// Why there is no published value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// No execution has this id.
    #[error("no execution has the id {0:?}")]
    Unknown(String),
    /// The execution has ended and has not published it, or nothing newer.
    #[error("execution {id:?} has ended ({status}) without publishing {key:?}, or anything newer than was asked for")]
    Ended {
        /// Its id.
        id: String,
        /// Under which key.
        key: String,
        /// How it ended.
        status: String,
    },
    /// It was not published in time; the execution goes on. Wait again, or longer.
    #[error("execution {id:?} has not published {key:?} within {within:?}")]
    NotInTime {
        /// Its id.
        id: String,
        /// Under which key.
        key: String,
        /// How long it was waited for.
        within: std::time::Duration,
    },
    /// The value is not of the type that was asked for. Ask for the type that was published; a counter is an `i64`.
    #[error("{0}")]
    Undecodable(String),
}

/// Why an update was not made, or has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// The workflow's code does not take it, as its state is. Nothing was changed; the same id may be tried again.
    #[error("the update was rejected: {0}")]
    Rejected(E),
    /// The code has no handler for it, at the point at which it is; which ones it has is said.
    #[error("{0}")]
    NotTaken(String),
    /// Something went wrong that the update's own error type does not describe: a panic, a limit, a codec. The text says what.
    #[error("the update failed ({}): {}", .0.kind(), .0)]
    Broken(Failure),
    /// The execution does not exist, has ended without taking it, or cannot take a message.
    #[error(transparent)]
    Send(SendError),
    /// The answer did not come in time; the update may be recorded, and taken later. Send it again under the same id to hear its answer.
    #[error("no answer to update {id:?} within {within:?}; send it again under the same id to hear it")]
    Unanswered {
        /// Its id.
        id: String,
        /// The limit.
        within: std::time::Duration,
    },
    /// It is not known what became of it. Send it again under the same id: it is made at most once.
    #[error(transparent)]
    Unavailable(Error),
}

impl<E: fmt::Display> From<UpdateError<E>> for Error {
    /// For callers that only pass it on: the typed error becomes its text.
    fn from(error: UpdateError<E>) -> Self {
        match error {
            UpdateError::Send(error) => Error::Send(error),
            UpdateError::Unavailable(error) => error,
            other => Error::Update(other.to_string()),
        }
    }
}

/// Why a schedule was not made, changed or asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A cron expression cannot be read, or never matches.
    #[error("cron expression {expression:?}: {why}")]
    Expression {
        /// The expression.
        expression: String,
        /// Which field is at fault, and why.
        why: String,
    },
    /// There is no such time zone.
    #[error("no time zone has the name {0:?}; names are those of the IANA database, such as Europe/Berlin or UTC")]
    Zone(String),
    /// Something else of it makes no sense.
    #[error("invalid schedule: {0}")]
    Invalid(String),
    /// A schedule of this name exists, and is another one.
    #[error("a schedule {0:?} exists and is another one; update or delete it, or choose another name")]
    Exists(String),
    /// No schedule has this name.
    #[error("no schedule has the name {0:?}")]
    Unknown(String),
    /// A backfill has more instants than may wait.
    #[error("the range has more instants than may wait ({room} more); backfill a shorter one, and the rest when it has run")]
    TooMany {
        /// How many more may wait.
        room: usize,
    },
    /// The store did not answer in a way that tells whether it is recorded. Describe the schedule to find out.
    #[error("unknown whether it is recorded ({0}); describe the schedule to find out")]
    Unavailable(String),
}

/// How a run ended, if not with its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The workflow returned this error.
    #[error("the workflow failed: {0}")]
    Failed(E),
    /// The workflow failed in a way that its own error type does not describe: a panic, a limit, a codec.
    #[error("the workflow failed ({}): {}", .0.kind(), .0)]
    Broken(Failure),
    /// It was cancelled.
    #[error("the workflow was cancelled: {reason}")]
    Cancelled {
        /// In the words of whoever asked.
        reason: String,
    },
    /// Its deadline passed.
    #[error("the workflow's deadline passed")]
    TimedOut,
    /// An operator ended it.
    #[error("the workflow was terminated by {by}: {reason}")]
    Terminated {
        /// In the words of whoever did it.
        reason: String,
        /// Who did it.
        by: String,
    },
    /// The result could not be had; the run itself goes on.
    #[error(transparent)]
    Unavailable(Error),
}

impl<E: fmt::Display> From<RunError<E>> for Error {
    /// For callers that only pass it on: the typed error becomes its text.
    fn from(error: RunError<E>) -> Self {
        match error {
            RunError::Unavailable(error) => error,
            ended => Error::Run(ended.to_string()),
        }
    }
}

/// How a call ended, if not with its output.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The activity returned this error, and no attempt is left.
    #[error("{0}")]
    Failed(E),
    /// One of the four limits ran out.
    #[error("timed out ({0})")]
    TimedOut(String),
    /// The run or this call was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A crash in the middle of an at-most-once activity: whether it happened is not known.
    #[error("maybe done: {0}")]
    MaybeDone(String),
    /// The failure is not of the activity's own error type: a panic, too many lost attempts, a value over its limit.
    #[error("{0}")]
    Broken(Failure),
}

impl<E> CallError<E> {
    /// Turns the activity's own error into another type, leaving the other variants.
    pub fn map<F>(self, f: impl FnOnce(E) -> F) -> CallError<F> {
        match self {
            CallError::Failed(e) => CallError::Failed(f(e)),
            CallError::TimedOut(what) => CallError::TimedOut(what),
            CallError::Cancelled => CallError::Cancelled,
            CallError::MaybeDone(what) => CallError::MaybeDone(what),
            CallError::Broken(failure) => CallError::Broken(failure),
        }
    }
}

/// How a child ended, if not with its output.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError<E> {
    /// The child returned this error.
    #[error("the child failed: {0}")]
    Failed(E),
    /// The child failed in a way that its own error type does not describe (a panic, a limit), or its options make no sense.
    #[error("the child failed ({}): {}", .0.kind(), .0)]
    Broken(Failure),
    /// The child was cancelled.
    #[error("the child was cancelled: {reason}")]
    Stopped {
        /// In the words of whoever asked.
        reason: String,
    },
    /// The child's deadline passed.
    #[error("the child's deadline passed")]
    TimedOut,
    /// An operator ended the child.
    #[error("the child was terminated by {by}: {reason}")]
    Terminated {
        /// In the words of whoever did it.
        reason: String,
        /// Who did it.
        by: String,
    },
    /// No child was begun: an execution has, or had, this id.
    #[error("no child was begun: an execution of the id {0:?} exists already; give it another id")]
    IdInUse(String),
    /// This run was cancelled; what becomes of the child is as `on_close` says.
    #[error("cancelled")]
    Cancelled,
}

impl<E> From<Cancelled> for ChildError<E> {
    fn from(_: Cancelled) -> Self {
        ChildError::Cancelled
    }
}

/// The run was asked to stop, and this await was where it heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("cancelled")]
pub struct Cancelled;

/// Returns the messages of the errors behind `error`, nearest first.
pub(crate) fn causes_of(error: &dyn StdError) -> Vec<String> {
    std::iter::successors(error.source(), |&e| e.source()).map(ToString::to_string).collect()
}

impl From<CodecError> for DispatchError {
    fn from(error: CodecError) -> Self {
        DispatchError::Invalid(error.to_string())
    }
}
