//! The rows of dead letters, as stores have them, and how they are asked for. A row is written, or goes, in the very commit whose turn says so;
//! batches without such a turn know nothing of it. Letters stay when their run has ended, as its log does.

use std::collections::{BTreeMap, BTreeSet};

use super::{Status, Turn};
use crate::kernel::{
    id::{CommitNo, Position, RunId, RunKey},
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

    /// Returns what tells it from later letters of its call.
    #[must_use]
    pub fn seen(&self) -> SeenLetter {
        SeenLetter::of(self.run, &self.letter)
    }
}

/// Names a letter as somebody has seen it: a call has one at a time, and another one each time it fails for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SeenLetter {
    /// Its run.
    pub run: RunKey,
    /// The call.
    pub position: Position,
    /// The commit that says so…
    pub commit_no: CommitNo,
    /// …and where in it.
    pub event: u32,
}

impl SeenLetter {
    /// Names a letter of a run.
    #[must_use]
    pub fn of(run: RunKey, letter: &Letter) -> SeenLetter {
        SeenLetter { run, position: letter.position, commit_no: letter.commit_no, event: letter.event }
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
pub(crate) struct LetterPlan<'a> {
    /// Calls whose letters are known in the end, whatever the store has.
    calls: BTreeMap<(RunKey, Position), Option<&'a Letter>>,
    /// Letters of other calls, which go if the store has them as they were seen.
    seen: BTreeSet<SeenLetter>,
}

impl<'a> LetterPlan<'a> {
    /// Takes what an accepted turn does.
    pub(crate) fn turn(&mut self, turn: &'a Turn) {
        for change in &turn.letters {
            let letter = match change {
                LetterChange::Put(letter) => Some(letter),
                LetterChange::Drop(_) => None,
            };
            self.decide((turn.run, change.position()), letter);
        }
    }

    /// Takes out the letters of these calls.
    pub(crate) fn drop(&mut self, calls: impl IntoIterator<Item = (RunKey, Position)>) {
        calls.into_iter().for_each(|call| self.decide(call, None));
    }

    fn decide(&mut self, call: (RunKey, Position), letter: Option<&'a Letter>) {
        self.seen.retain(|seen| (seen.run, seen.position) != call);
        self.calls.insert(call, letter);
    }

    /// Takes out letters that are as they were seen.
    pub(crate) fn drop_seen(&mut self, letters: &[SeenLetter]) {
        for seen in letters {
            match self.calls.get_mut(&(seen.run, seen.position)) {
                Some(letter) => *letter = letter.filter(|letter| SeenLetter::of(seen.run, letter) != *seen),
                None => {
                    self.seen.insert(*seen);
                }
            }
        }
    }

    /// Returns those that are written.
    pub(crate) fn put(&self) -> Vec<(RunKey, &'a Letter)> {
        self.calls.iter().filter_map(|((run, _), letter)| letter.map(|letter| (*run, letter))).collect()
    }

    /// Returns the calls whose letters go.
    pub(crate) fn gone(&self) -> Vec<(RunKey, Position)> {
        self.calls.iter().filter(|(_, letter)| letter.is_none()).map(|(of, _)| *of).collect()
    }

    /// Returns the letters that go if they are as they were seen; of calls that are in none of the others.
    pub(crate) fn seen(&self) -> impl ExactSizeIterator<Item = &SeenLetter> {
        self.seen.iter()
    }
}
