//! Chains of runs: one that *continues* ends, and in the same commit the next run of its execution begins, with a history of its own.
//! What belongs to the execution and not to its run is handed on: signals that nobody has read, the ids of messages that were taken,
//! a pending wish to stop, what is published. What belongs to the run (calls, sleeps, children, sagas) must be over by then.

use serde::{Deserialize, Serialize};

use super::{
    event::Started,
    payload::{CodecError, Payload},
    published::Kept,
    time::Timestamp,
};

/// A history of so many events is long enough to continue as a new run. Temporal's server suggests it at the same number.
pub const SUGGESTED_EVENTS: u64 = 4_096;

/// The same for the bytes of its payloads: 4 MiB, also as Temporal.
pub const SUGGESTED_BYTES: u64 = 4 << 20;

/// How long the history of a run was when the current turn's fact came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// Rows of the log, without the one that is being made.
    pub commits: u64,
    /// Facts and commands, without the current ones.
    pub events: u64,
    /// The bytes of their payloads, without those of what the run began with: its argument, and what it took over.
    pub bytes: u64,
}

impl History {
    /// Tells whether it is long enough to continue as a new run.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.events >= SUGGESTED_EVENTS || self.bytes >= SUGGESTED_BYTES
    }

    pub(crate) fn grow(&mut self, events: usize, bytes: usize) {
        self.events += events as u64;
        self.bytes += bytes as u64;
    }
}

/// What a run takes over from the one before it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Inherited {
    /// Signals that were received and not read, in the order in which they came.
    pub unread: Vec<Signalled>,
    /// The ids of messages that were taken, oldest first.
    pub known: Vec<String>,
    /// Why the execution is to stop, if it was asked to.
    pub cancel: Option<String>,
    /// Whether its deadline has passed.
    pub deadline_passed: bool,
    /// What it has published, by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Kept>,
}

/// A signal that was received.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Signalled {
    /// Its stored name.
    pub name: String,
    /// Its value.
    pub payload: Payload,
}

impl Inherited {
    /// The bytes of its payloads.
    pub(crate) fn bytes(&self) -> usize {
        let published: usize = self.published.iter().map(Kept::bytes).sum();
        self.unread.iter().map(|signal| signal.payload.bytes.len()).sum::<usize>() + published
    }
}

/// How the next run of a chain begins.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Onward {
    pub(crate) started: Started,
    pub(crate) inherited: Inherited,
    /// Not before that moment, if there is one.
    pub(crate) at: Option<Timestamp>,
}

/// Why a run did not continue as a new one. It goes on as it was; nothing of it is recorded.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContinueError {
    /// What these end with would be lost.
    #[error("the run cannot continue as a new one while it waits for {}: await or drop these first", .0.join(", "))]
    Unsettled(Vec<String>),
    /// A saga is open, or its compensations have not all run: they belong to this run.
    #[error("the run cannot continue as a new one within a saga: end the saga first, and await what it undoes")]
    OpenSaga,
    /// The new argument is too large.
    #[error("the argument of the next run has {size} bytes, the limit is {limit}; store it elsewhere and pass a reference")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The signals that were received and not read would not fit into the beginning of the next run, beside what is published.
    #[error(
        "{bytes} bytes of unread signals, published values and argument would be handed on, the limit is {limit}: read signals first"
    )]
    TooMuchUnread {
        /// How many bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The new argument cannot be encoded.
    #[error(transparent)]
    Unencodable(CodecError),
    /// The run was asked to stop. Behind the shield ([`Cx::shielded`](crate::Cx::shielded)) it continues nevertheless, and the next run
    /// is asked to stop from its beginning on.
    #[error("cancelled")]
    Cancelled,
}
