//! Why an execution does not go on from a point of its history, and why nothing came of a dead letter.

use crate::kernel::{fork::PointError, id::RunId};

/// Why an execution was not reset. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// No execution has this id.
    #[error("no execution has the id {0:?}")]
    Unknown(String),
    /// The execution has no run of this number.
    #[error("there is no run {0}")]
    UnknownRun(RunId),
    /// Its current run has not ended.
    #[error("{run} is {status}: only what has ended can be reset; cancel it and wait for its end first")]
    Running {
        /// The run.
        run: RunId,
        /// Its state.
        status: String,
    },
    /// Another run has followed the one that was current when this was asked, or the one that the letter is of: nobody has looked at that yet.
    #[error("another run has followed, {run}, which is {status}: look at that one, and ask again")]
    Overtaken {
        /// The run that is current now.
        run: RunId,
        /// Its state.
        status: String,
    },
    /// The history cannot be left there.
    #[error(transparent)]
    Point(PointError),
    /// The log is too long to be copied.
    #[error("its log has more than {commits} commits or {bytes} bytes, which is too long to be copied; start a new execution")]
    TooLong {
        /// The limit of its rows…
        commits: usize,
        /// …and of their bytes.
        bytes: usize,
    },
    /// What would be delivered again does not fit into an inbox.
    #[error("more messages came behind that point than an inbox holds; choose a later one, or leave the messages out")]
    TooManyMessages,
    /// An argument makes no sense.
    #[error("invalid reset: {0}")]
    Invalid(String),
    /// The log cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The store did not take it.
    #[error("the new run was not recorded: {0}")]
    Unavailable(String),
}

/// Why nothing came of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LetterError {
    /// There is no such letter: it was never there, or was retried, undone or discarded.
    #[cfg(feature = "actors")]
    #[error("there is no dead letter {0}")]
    Unknown(crate::LetterKey),
    /// The call was parked, and its run has ended since.
    #[cfg(feature = "actors")]
    #[error("the run of {0} is over, and the parked call with it")]
    Over(crate::LetterKey),
    /// The log of its run cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The store did not take it.
    #[error("nothing was recorded: {0}")]
    Unavailable(String),
}
