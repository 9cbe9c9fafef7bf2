//! The rows of schedules, as stores have them. What a schedule is and when it fires a store need not know: it keeps a body, by name, and
//! replaces it only if it is still the one that was seen. That is what makes a firing happen once: it is one item, which puts the next
//! due time into the row, begins the run and cancels another if it must, and of all who have seen the same row one is accepted.

use std::collections::HashMap;

use bytes::Bytes;

use super::{NewRun, Outcome, Tell};
use crate::kernel::{codec::Record, id::RunKey, time::Timestamp};

/// The row of a schedule.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// How often the row was written; from 1.
    pub revision: u64,
    /// When it is due next, if ever.
    pub next_at: Option<Timestamp>,
    /// The run whose end it waits for, if it waits for one.
    pub awaits: Option<RunKey>,
    /// The rest of it, in its stored form.
    pub body: Bytes,
}

/// Writes the row of a schedule, and does what its firing does. The answer is `Done`; [`Outcome::Conflict`] when the row is not the one that
/// was seen any more, or a key of a run is taken; [`Outcome::IdInUse`] when an id of a run is. Then nothing of it has taken place.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleChange {
    /// Of which schedule.
    pub name: String,
    /// The revision that was seen; 0 when there was no row. The new one is one higher.
    pub seen: u64,
    /// The new due time.
    pub next_at: Option<Timestamp>,
    /// The run whose end it waits for.
    pub awaits: Option<RunKey>,
    /// The new body.
    pub body: Bytes,
    /// Runs that it begins, as `Item::Enqueue` does: the first ones of their ids, which differ from each other, as do the keys.
    pub starts: Vec<(NewRun, Record)>,
    /// What it tells other runs, as turns do. Behind all other items of the batch but those of its kind.
    pub tells: Vec<Tell>,
}

/// A schedule that may have something to do.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleDue {
    /// Which one.
    pub name: String,
    /// When it is due next, if ever.
    pub next_at: Option<Timestamp>,
    /// Whether it waited for the end of a run, and that has come (or the run is no more).
    pub ready: bool,
}

impl ScheduleChange {
    /// Returns the row behind it.
    #[must_use]
    pub fn row(&self) -> ScheduleRow {
        let ScheduleChange { name, seen, next_at, awaits, body, .. } = self.clone();
        ScheduleRow { name, revision: seen + 1, next_at, awaits, body }
    }
}

/// What the items of a batch do to schedules, for stores that read and write sets of rows.
#[derive(Default)]
pub(crate) struct SchedulePlan<'a> {
    /// The revisions of those that there are: first as they were found, then as items leave them.
    pub(crate) revisions: HashMap<String, u64>,
    /// What is written of each, and the revision in its place; by name, so that two nodes which make the same schedules at once lock them in
    /// the same order.
    pub(crate) written: Vec<(&'a ScheduleChange, u64)>,
}

impl<'a> SchedulePlan<'a> {
    /// Tells whether the row is the one that was seen.
    pub(crate) fn check(&self, change: &ScheduleChange) -> Result<(), Outcome> {
        let found = self.revisions.get(&change.name).copied().unwrap_or(0);
        if found == change.seen { Ok(()) } else { Err(Outcome::Conflict) }
    }

    /// Takes note of a change that was accepted.
    pub(crate) fn accept(&mut self, change: &'a ScheduleChange) {
        match self.written.binary_search_by(|(written, _)| written.name.cmp(&change.name)) {
            // Written once, as it is in the end.
            Ok(place) => self.written[place].0 = change,
            Err(place) => self.written.insert(place, (change, change.seen)),
        }
        self.revisions.insert(change.name.clone(), change.seen + 1);
    }
}

/// Returns the schedules that these items are about.
pub(crate) fn named<'a>(items: impl Iterator<Item = &'a super::Item>) -> Vec<&'a str> {
    let mut names: Vec<&str> = items
        .filter_map(|item| match item {
            super::Item::Schedule(change) => Some(&*change.name),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, seen: u64) -> ScheduleChange {
        let (name, body) = (name.to_owned(), Bytes::from(format!("{seen}")));
        ScheduleChange { name, seen, next_at: None, awaits: None, body, starts: Vec::new(), tells: Vec::new() }
    }

    #[test]
    fn rows_are_written_by_name_whatever_the_order_of_the_items_and_each_once() {
        let changes = [change("c", 4), change("a", 0), change("b", 7), change("a", 1), change("c", 5)];
        let mut plan = SchedulePlan { revisions: HashMap::from([("b".into(), 7), ("c".into(), 4)]), ..SchedulePlan::default() };
        for change in &changes {
            plan.check(change).unwrap();
            plan.accept(change);
        }
        let written: Vec<(&str, u64, u64)> =
            plan.written.iter().map(|(change, found)| (&*change.name, *found, change.seen + 1)).collect();
        assert_eq!(written, [("a", 0, 2), ("b", 7, 8), ("c", 4, 6)]);
    }
}
