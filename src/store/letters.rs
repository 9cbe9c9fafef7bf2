//! The rows of dead letters, as stores have them, and how they are asked for. A row is written, or goes, in the very commit whose turn says so;
//! batches without such a turn know nothing of it. Letters stay when their run has ended, as its log does.

use std::collections::BTreeMap;

use super::{Status, Turn};
use crate::kernel::{
    id::{Position, RunId, RunKey},
    letter::{Letter, LetterChange},
    time::Timestamp,
};

/// A dead letter, as it is listed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The key of its run.
    pub run: RunKey,
    /// The public name of its run.
    pub id: RunId,
    /// The workflow's stored name.
    pub workflow: String,
    /// The state of that run.
    pub status: Status,
    /// The failure.
    pub letter: Letter,
}

impl DeadLetter {
    pub(crate) fn new(run: RunKey, id: RunId, workflow: String, status: Status, letter: Letter) -> DeadLetter {
        DeadLetter { run, id, workflow, status, letter }
    }

    /// Returns its place in the order of letters.
    #[must_use]
    pub fn place(&self) -> LetterPlace {
        LetterPlace { at: self.letter.at, run: self.run, position: self.letter.position }
    }
}

/// A place in the order of letters: by time, then by run and call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LetterPlace {
    /// When the call failed.
    pub at: Timestamp,
    /// Its run.
    pub run: RunKey,
    /// Its place in that.
    pub position: Position,
}

impl LetterPlace {
    /// Behind all letters that there can be.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) const LAST: LetterPlace = LetterPlace { at: Timestamp(i64::MAX), run: RunKey(i64::MAX), position: Position::MAX };
}

/// Which letters are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LetterFilter {
    /// Only those of runs of this workflow.
    pub workflow: Option<String>,
    /// Only those of this activity or step.
    pub activity: Option<String>,
    /// Only failures of this kind.
    pub kind: Option<String>,
    /// Only those whose calls are parked, or only the others.
    pub parked: Option<bool>,
    /// Only those from then on.
    pub since: Option<Timestamp>,
    /// Only those of this run.
    pub run: Option<RunKey>,
    /// Only that of this call.
    pub position: Option<Position>,
    /// Only those before this place: the last one of the page before.
    pub before: Option<LetterPlace>,
    /// At most so many.
    pub limit: u32,
}

impl LetterFilter {
    /// Tells whether a letter is wanted.
    #[must_use]
    pub fn takes(&self, found: &DeadLetter) -> bool {
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let letter = &found.letter;
        is(self.workflow.as_deref(), &*found.workflow)
            && is(self.activity.as_deref(), &*letter.activity)
            && is(self.kind.as_deref(), &*letter.kind)
            && is(self.parked.as_ref(), &letter.parked)
            && self.since.is_none_or(|since| letter.at >= since)
            && is(self.run.as_ref(), &found.run)
            && is(self.position.as_ref(), &letter.position)
            && self.before.is_none_or(|before| found.place() < before)
    }

    /// Tells whether no text can have a NUL, which no database takes even as a question.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn is_askable(&self) -> bool {
        let texts = [&self.workflow, &self.activity, &self.kind];
        texts.into_iter().flatten().all(|text| !text.contains('\0'))
    }
}

impl Turn {
    /// What it does to letters.
    pub(crate) fn changes_letters(&self) -> bool {
        !self.letters.is_empty()
    }
}

/// What the accepted items of a batch do to letters, each once, as it is in the end; in the order of keys.
#[derive(Default)]
pub(crate) struct LetterPlan<'a>(BTreeMap<(RunKey, Position), Option<&'a Letter>>);

impl<'a> LetterPlan<'a> {
    /// Takes what an accepted turn does.
    pub(crate) fn turn(&mut self, turn: &'a Turn) {
        for change in &turn.letters {
            let letter = match change {
                LetterChange::Put(letter) => Some(letter),
                LetterChange::Drop(_) => None,
            };
            self.0.insert((turn.run, change.position()), letter);
        }
    }

    /// Takes letters out.
    pub(crate) fn drop(&mut self, letters: impl IntoIterator<Item = (RunKey, Position)>) {
        self.0.extend(letters.into_iter().map(|letter| (letter, None)));
    }

    /// Returns those that are written.
    pub(crate) fn put(&self) -> Vec<(RunKey, &'a Letter)> {
        self.0.iter().filter_map(|((run, _), letter)| letter.map(|letter| (*run, letter))).collect()
    }

    /// Returns those that go.
    pub(crate) fn gone(&self) -> Vec<(RunKey, Position)> {
        self.0.iter().filter(|(_, letter)| letter.is_none()).map(|(of, _)| *of).collect()
    }
}
