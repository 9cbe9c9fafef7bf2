//! The state of a run as its row has it, in one word.

/// The stored state of a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Status {
    /// Not ended: running, waiting or blocked.
    Active,
    /// Not ended, and claimed by nobody until an operator says so: it killed its node again and again, or is unreadable.
    Quarantined,
    /// Not ended, stopped by an operator.
    Paused,
    /// Ended with a value.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended because it was asked to stop.
    Cancelled,
    /// Ended by its own deadline.
    TimedOut,
    /// Ended by an operator.
    Terminated,
    /// Goes on as the next run.
    Continued,
}

impl Status {
    /// Every state, for codecs and tests.
    pub const ALL: [Status; 9] = [
        Status::Active,
        Status::Quarantined,
        Status::Paused,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
        Status::TimedOut,
        Status::Terminated,
        Status::Continued,
    ];

    /// Tells whether nothing can change any more.
    #[must_use]
    pub fn is_end(self) -> bool {
        !matches!(self, Status::Active | Status::Quarantined | Status::Paused)
    }

    /// Returns the code that databases store. Codes from 4 on are ends; 1 is named by an index.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn code(self) -> i16 {
        match self {
            Status::Active => 1,
            Status::Quarantined => 2,
            Status::Paused => 3,
            Status::Completed => 4,
            Status::Failed => 5,
            Status::Cancelled => 6,
            Status::TimedOut => 7,
            Status::Terminated => 8,
            Status::Continued => 9,
        }
    }

    /// Returns the state that a stored code stands for.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn of_code(stored: i64) -> Option<Status> {
        Status::ALL.into_iter().find(|status| i64::from(status.code()) == stored)
    }

    /// Returns the word that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Quarantined => "quarantined",
            Status::Paused => "paused",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::TimedOut => "timed_out",
            Status::Terminated => "terminated",
            Status::Continued => "continued",
        }
    }

    /// Returns the state of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }
}
