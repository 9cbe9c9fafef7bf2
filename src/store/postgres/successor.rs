//! A run that continues, on the server: its successor is decided with its turn, behind the lock of its row, so nobody puts anything
//! into its inbox meanwhile. What goes along is moved by a statement of its own, before the rest is dropped.

use std::collections::HashMap;

use sqlx::Row;

use super::{
    decide::Plan,
    look::{Known, Seen},
    rows,
    session::Session,
    sql,
    trouble::Trouble,
    values::Values,
};
use crate::store::{Batch, FORMAT, Item, Outcome, Successor, Summary, Turn, memory::lines::Beside, successor::goes_along};

/// The messages that go along when runs continue, by run: number and id.
pub(super) type Along = HashMap<i64, Vec<(u64, String)>>;

/// Reads what would go along with these items; nothing is asked for those that continue nowhere.
pub(super) async fn along(session: &mut Session, batch: &Batch, items: &[usize]) -> Result<Along, Trouble> {
    let continues = |place: &usize| match &batch.items[*place] {
        Item::Turn(turn) if turn.successor().is_some() => Some(turn.run.0),
        _ => None,
    };
    let runs: Vec<i64> = items.iter().filter_map(continues).collect();
    let mut all = Along::new();
    if runs.is_empty() {
        return Ok(all);
    }
    let found = session.rows(sql::LOOK_UNREAD, Values::default().with(runs)).await?;
    let mut read = || -> Result<(), sqlx::Error> {
        for row in &found {
            if goes_along(row.try_get(3)?) {
                all.entry(row.try_get(0)?).or_default().push((rows::large(row, 1)?, row.try_get(2)?));
            }
        }
        Ok(())
    };
    read().map_err(|error| session.home.sort(&error))?;
    Ok(all)
}

/// Moves what goes along.
pub(super) async fn write(session: &mut Session, plan: &Plan<'_>) -> Result<(), Trouble> {
    if plan.along.is_empty() {
        return Ok(());
    }
    let values = Values::default()
        .with(plan.along.iter().map(|(run, ..)| *run).collect::<Vec<_>>())
        .with(plan.along.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>())
        .with(plan.along.iter().map(|(.., next)| *next).collect::<Vec<_>>());
    let rows = session.rows(sql::MOVE, values).await?;
    let moved: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| session.home.sort(&error))?;
    let wanted = i64::try_from(plan.along.len()).unwrap_or(i64::MAX);
    if moved == Some(wanted) { Ok(()) } else { Err(Trouble::Statement(format!("moved {moved:?} messages of {wanted}"))) }
}

impl<'a> Plan<'a> {
    /// Returns what follows a turn's run, if that continues, and its row; `begins` is the run's own if it begins with this turn.
    pub(super) fn follows(
        seen: &Seen,
        turn: &'a Turn,
        before: &Summary,
        batch: &Batch,
    ) -> Result<Option<(&'a Successor, Summary)>, Outcome> {
        let Some(next) = turn.successor() else { return Ok(None) };
        if seen.runs.contains_key(&next.run.0) || turn.run == next.run {
            return Err(Outcome::Conflict);
        }
        let row = next.row(before, batch.now).ok_or(Outcome::Conflict)?;
        Ok(Some((next, row)))
    }

    /// Begins the successor of a run that has just ended, and moves its messages but for those that the turn has consumed.
    pub(super) fn go_on(&mut self, run: i64, consumed: &[u64], next: &'a Successor, row: Summary) {
        let mut along = self.seen.along.remove(&run).unwrap_or_default();
        along.retain(|(seq, _)| !consumed.contains(seq));
        self.along.extend(along.iter().map(|(seq, _)| (run, rows::number(*seq), next.run.0)));
        let beside = Beside { claims: 0, forced: false, format: FORMAT };
        self.events.push((next.run, 0, &next.record));
        self.published.extend(next.published.iter().map(|row| (next.run, row)));
        self.seen.current.insert(row.id.id.clone(), next.run.0);
        let messages: HashMap<_, _> = along.into_iter().map(|(seq, message)| (message, seq)).collect();
        let known = Known {
            unread: messages.len() as u64,
            tail: Some((0, next.record.digest)),
            is_new: true,
            ..Known::new(Successor::woken(row, messages.len(), self.batch.now), beside)
        };
        self.seen.runs.insert(next.run.0, known);
    }
}
