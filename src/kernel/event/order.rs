//! What an operator orders about one run, as data: who, why and what. It reaches the run as a message, so it is taken once by its id,
//! in order with everything else, and the fact that it was received is its record.

use serde::{Deserialize, Serialize};

use super::{
    super::{id::Position, time::Timestamp},
    TaskEnd,
};

/// An order of an operator's about one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Who orders it.
    pub by: String,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// What.
    pub what: Ordered,
}

/// What is ordered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Ordered {
    /// To end at once: no code of the run's runs any more, and what would undo its acts is skipped and named.
    #[serde(rename = "t")]
    Terminate,
    /// To take no turn and begin no attempt until it is let go on.
    #[serde(rename = "p")]
    Pause,
    /// To go on.
    #[serde(rename = "g")]
    GoOn,
    /// To try calls at once that wait for their next attempt, and parked ones with a new budget.
    #[serde(rename = "r")]
    Retry {
        /// Which one; `None` means all of them.
        position: Option<Position>,
    },
    /// To end a sleep now.
    #[serde(rename = "w")]
    Skip {
        /// Which one.
        position: Position,
    },
    /// To end a call of an activity, whatever becomes of its attempt.
    #[serde(rename = "c")]
    Complete {
        /// Which one.
        position: Position,
        /// How.
        end: Box<TaskEnd>,
    },
}

/// A compensation that did not run because its run was terminated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Where it was recorded.
    pub position: Position,
    /// The activity's stored name.
    pub activity: String,
}

impl Ordered {
    /// Tells whether it is about the execution, whichever its run. What names a place is for the one run that has it.
    pub(super) fn is_for_the_execution(&self) -> bool {
        match self {
            Ordered::Terminate | Ordered::Pause | Ordered::GoOn => true,
            Ordered::Retry { position } => position.is_none(),
            Ordered::Skip { .. } | Ordered::Complete { .. } => false,
        }
    }

    /// Returns the place that it names.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Ordered::Terminate | Ordered::Pause | Ordered::GoOn => None,
            Ordered::Retry { position } => *position,
            Ordered::Skip { position } | Ordered::Complete { position, .. } => Some(*position),
        }
    }

    /// Returns it in a word, for people.
    #[must_use]
    pub fn in_a_word(&self) -> &'static str {
        match self {
            Ordered::Terminate => "terminate",
            Ordered::Pause => "pause",
            Ordered::GoOn => "resume",
            Ordered::Retry { .. } => "retry now",
            Ordered::Skip { .. } => "skip the wait",
            Ordered::Complete { end, .. } => match **end {
                TaskEnd::Done(_) => "complete with a value",
                TaskEnd::Failed(_) | TaskEnd::Lost => "complete with a failure",
            },
        }
    }

    /// Tells whether it is about the run as such, so that no code of the run's has to hear of it, and it is taken before whatever waits.
    pub(crate) fn is_about_the_run(&self) -> bool {
        match self {
            Ordered::Terminate | Ordered::Pause | Ordered::GoOn => true,
            Ordered::Retry { .. } | Ordered::Skip { .. } | Ordered::Complete { .. } => false,
        }
    }
}

impl Order {
    /// Says that a run is paused by this, for people.
    #[must_use]
    pub fn pauses(&self, at: Timestamp) -> String {
        let Order { by, reason, .. } = self;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        format!("paused by {by} at {at}{why}")
    }

    /// Returns it in words, for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        let Order { by, reason, what } = self;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let place = what.position().map_or_else(String::new, |position| format!(" #{position}"));
        format!("{}{place} by {by}{why}", what.in_a_word())
    }
}
