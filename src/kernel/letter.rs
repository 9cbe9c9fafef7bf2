//! Dead letters: one for each call that has failed for good, in the commit that says so. A letter is a row beside the log, so that failures are
//! found without reading logs; what there is to know of one is in the log. It says nothing that the log does not say, and goes when
//! the failure is dealt with: retried, undone by a fork, or discarded by an operator.

use super::{
    event::{Fact, Next},
    failure::{KIND_LOST, KIND_MAYBE_DONE},
    id::{Attempt, CommitNo, Position},
    state::OpenCall,
    time::Timestamp,
};

/// So much of a failure's message is in a letter, in bytes.
const LONGEST_TEXT: usize = 500;

/// So much of names that users choose, in bytes: an index has room for it.
const LONGEST_NAME: usize = 255;

/// A call that has failed for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Which call.
    pub position: Position,
    /// Its last attempt.
    pub attempt: Attempt,
    /// The commit that says so…
    pub commit_no: CommitNo,
    /// …and where in it.
    pub event: u32,
    /// Whether the call waits for an operator, and its run with it; else the error went to the code.
    pub parked: bool,
    /// The name of the activity or step; the first 255 bytes.
    pub activity: String,
    /// The kind of the failure; the first 255 bytes.
    pub kind: String,
    /// Its message; the first 500 bytes.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

/// What becomes of the letter of a call: it is written, in place of one that is there, or goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LetterChange {
    /// Written.
    Put(Letter),
    /// Gone, if it was there.
    Drop(Position),
}

impl LetterChange {
    /// The call that it is about.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            LetterChange::Put(letter) => letter.position,
            LetterChange::Drop(position) => *position,
        }
    }
}

impl Letter {
    /// Returns the letter of a call if this fact is its failure for good; the call as it was before.
    pub(crate) fn of(fact: &Fact, call: &OpenCall, (commit_no, event): (CommitNo, u32), at: Timestamp) -> Option<Letter> {
        let (position, attempt, kind, text, next) = match fact {
            Fact::Failed { position, attempt, failure, next } => {
                (*position, *attempt, failure.kind().to_owned(), failure.to_string(), next)
            }
            Fact::Lost { position, attempt, next } => {
                let is_in_doubt = *attempt == 1 || call.options.as_deref().is_some_and(|options| options.at_most_once);
                let kind = if is_in_doubt { KIND_MAYBE_DONE } else { KIND_LOST };
                (*position, *attempt, kind.to_owned(), "lost with its node".to_owned(), next)
            }
            _ => return None,
        };
        let parked = match next {
            Next::Retry { .. } => return None,
            Next::GiveUp => false,
            Next::Park => true,
        };
        let (activity, kind, text) = (shown(&call.name, LONGEST_NAME), shown(&kind, LONGEST_NAME), shown(&text, LONGEST_TEXT));
        Some(Letter { position, attempt, commit_no, event, parked, activity, kind, text, at })
    }
}

/// A text as a store takes it: for people, so it is cut and a NUL is replaced.
fn shown(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', " ")
}
