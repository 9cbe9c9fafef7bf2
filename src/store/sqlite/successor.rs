//! A run that continues, in the file: its successor is decided with its turn, and what goes along is moved by number.

use super::{decide::Plan, look::Known, rows};
use crate::store::{Outcome, Successor, Summary, Turn};

impl<'a> Plan<'a> {
    /// Returns what follows a turn's run, if that continues, and its row; `begins` is the run's own if it begins with this turn.
    pub(super) fn follows(&self, turn: &'a Turn, begins: Option<&Summary>) -> Result<Option<(&'a Successor, Summary)>, Outcome> {
        let Some(next) = turn.successor() else { return Ok(None) };
        let before = begins.or_else(|| self.seen.runs.get(&turn.run.0).map(|known| &known.summary)).ok_or(Outcome::Conflict)?;
        if self.seen.taken.contains(&next.run.0) || turn.run == next.run {
            return Err(Outcome::Conflict);
        }
        let row = next.row(before, self.batch.now).ok_or(Outcome::Conflict)?;
        Ok(Some((next, row)))
    }

    /// Begins the successor of a run that has just ended, and moves its messages but for those that the turn has consumed.
    pub(super) fn go_on(&mut self, run: i64, consumed: &[u64], next: &'a Successor, row: Summary) {
        let mut along = self.seen.along.remove(&run).unwrap_or_default();
        along.retain(|(seq, _)| !consumed.contains(seq));
        for (seq, _) in &along {
            self.along.row().int(run).int(rows::number(*seq)).int(next.run.0);
        }
        if row.inbox_seq > 0 {
            // The number is set with the inbox, as if something had come.
            self.receivers.insert(next.run.0);
        }
        self.append(next.run, 0, &next.record);
        self.published.extend(next.published.iter().map(|row| (next.run, row)));
        self.begin(Successor::woken(row, along.len(), self.batch.now));
        if let Some(Known { unread, messages, .. }) = self.seen.runs.get_mut(&next.run.0) {
            *unread = along.len() as u64;
            messages.extend(along.into_iter().map(|(seq, message)| (message, seq)));
        }
    }
}
