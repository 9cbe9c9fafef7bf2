//! What the code waits for, in one word, for reports.

use std::task::Waker;

use super::Answer;

/// An open position.
pub(super) struct Waiting {
    pub(super) what: What,
    pub(super) waker: Option<Waker>,
}

/// What the code waits for at a position, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Activity,
    Step,
    Sleep,
    Signal,
    Child,
}

impl What {
    pub(super) fn of(answer: &Answer) -> What {
        match answer {
            Answer::Ended(_) => What::Activity,
            Answer::Fired => What::Sleep,
            Answer::Signal(..) => What::Signal,
            Answer::Child(_) => What::Child,
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            What::Activity => "an activity",
            What::Step => "a step",
            What::Sleep => "a sleep",
            What::Signal => "a signal",
            What::Child => "a child",
        })
    }
}
