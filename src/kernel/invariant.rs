//! The catalogue of what must always hold. Each name stands here with its statement, in ARCHITECTURE.md with the places that
//! uphold it, and in the code in an [`uphold!`](crate::kernel::invariant) or in the condition of a store.

use std::fmt;

/// What must always hold. A broken one is a bug of ours: it kills the actor that found it, never the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Invariant {
    /// Commit n exists only behind n−1, whose digest it names.
    TailChain,
    /// A run has at most one unacknowledged item.
    OneInFlight,
    /// The epoch never decreases in a log.
    EpochMonotone,
    /// Nothing follows an end.
    TerminalOnce,
    /// No message id is taken twice.
    ConsumedOnce,
    /// An item deletes as many messages as it appended.
    InboxDelete,
    /// Between two facts the workflow is quiescent.
    OneEventOnePoll,
    /// A sleep ends at its due time or later.
    NeverEarly,
    /// A run ends only with no compensation left to run.
    SagaEmptyAtEnd,
}

/// Stops the actor that found an invariant broken.
///
/// # Panics
/// Always.
#[cold]
pub(crate) fn broken(name: Invariant, what: fmt::Arguments<'_>) -> ! {
    panic!("invariant {name:?} is broken: {what}; this is a bug of stent's")
}

/// Asserts an invariant by name, in release builds too.
macro_rules! uphold {
    ($name:ident, $holds:expr, $($what:tt)+) => {
        if !$holds {
            $crate::kernel::invariant::broken($crate::kernel::invariant::Invariant::$name, format_args!($($what)+));
        }
    };
}

pub(crate) use uphold;
