//! Forks and dead letters in the file. Letters are written behind the decision and within the transaction of its batch, by statements of
//! their own, so that batches without failures know nothing of them.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader,
    commit::Writer,
    decide::Plan,
    rows::{self, Table},
    script::Values,
    sql::letters as sql,
    trouble::Trouble,
};
use crate::{
    kernel::{
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{
        DeadLetter, Fork, Letter, LetterFilter, LetterPlace, Outcome, SeenLetter, Status, StoreError, letters::LetterPlan,
        memory::lines,
    },
};

impl<'a> Plan<'a> {
    pub(super) fn fork(&mut self, fork: &'a Fork) -> Result<(), Outcome> {
        self.may_begin(&fork.row)?;
        if fork.inbox.len() as u64 > self.inbox_limit {
            return Err(Outcome::InboxFull);
        }
        for (commit_no, record) in (0..).zip(&fork.log) {
            self.append(fork.row.run, commit_no, record);
        }
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(fork.row.begun(None, 0, fork.row.wake_at.or(Some(self.batch.now))));
        for again in &fork.inbox {
            self.deliver(fork.row.run.0, &again.message, &again.body, again.sent_at);
        }
        self.published.extend(fork.published.iter().map(|row| (fork.row.run, row)));
        self.letters.drop(fork.undone.iter().map(|position| (fork.of, *position)));
        Ok(())
    }
}

impl Writer {
    /// Writes what becomes of letters, within the transaction; returns how many rows that changed.
    pub(super) async fn write_letters(&mut self, plan: &LetterPlan<'_>) -> Result<u64, Trouble> {
        let (put, gone) = (plan.put(), plan.gone());
        let mut changed = 0;
        if !put.is_empty() {
            let mut table = Table::new();
            for (run, Letter { position, attempt, commit_no, event, parked, activity, kind, text, at }) in put {
                let row = table.row().int(run.0).int(*position).int(*attempt).int(*commit_no).int(*event).int(*parked);
                row.text(activity).text(kind).text(text).int(at.0);
            }
            changed += self.changes(sql::PUT, Values::default().with(table.finish())).await?;
        }
        if !gone.is_empty() {
            let mut table = Table::new();
            for (run, position) in gone {
                table.row().int(run.0).int(position);
            }
            changed += self.changes(sql::DROP, Values::default().with(table.finish())).await?;
        }
        if plan.seen().len() > 0 {
            let mut table = Table::new();
            for SeenLetter { run, position, commit_no, event } in plan.seen() {
                table.row().int(run.0).int(*position).int(*commit_no).int(*event);
            }
            changed += self.changes(sql::DROP_SEEN, Values::default().with(table.finish())).await?;
        }
        Ok(changed)
    }
}

impl SqliteReader {
    pub(super) async fn read_letters(&self, filter: LetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        if !filter.is_askable() {
            return Ok(Vec::new());
        }
        let LetterFilter { workflow, activity, kind, parked, since, run, position, before, limit } = filter;
        let before = before.unwrap_or(LetterPlace::LAST);
        let values = Values::default()
            .with(workflow)
            .and_then(|values| values.with(activity))
            .and_then(|values| values.with(kind))
            .and_then(|values| values.with(parked.map(i64::from)))
            .and_then(|values| values.with(position.map(i64::from)))
            .and_then(|values| values.with(since.map_or(i64::MIN, |since| since.0)))
            .and_then(|values| values.with(before.at.0))
            .and_then(|values| values.with(before.run.0))
            .and_then(|values| values.with(i64::from(before.position)))
            .and_then(|values| values.with(i64::from(limit)));
        let found = match run {
            Some(run) => self.read(sql::OF_RUN, values.and_then(|values| values.with(run.0))).await?,
            None => self.read(sql::LIST, values).await?,
        };
        self.decoded(found.iter().map(dead_letter))
    }
}

fn dead_letter(row: &SqliteRow) -> Result<DeadLetter, sqlx::Error> {
    let id = RunId { id: row.try_get(1)?, run_no: rows::small(row, 2)? };
    let status = Status::of_code(row.try_get(4)?).ok_or_else(|| rows::damaged("a state is unknown"))?;
    Ok(DeadLetter::new(RunKey(row.try_get(0)?), id, row.try_get(3)?, status, letter(row, 5)?))
}

fn letter(row: &SqliteRow, from: usize) -> Result<Letter, sqlx::Error> {
    Ok(Letter {
        position: rows::small(row, from)?,
        attempt: rows::small(row, from + 1)?,
        commit_no: rows::small(row, from + 2)?,
        event: rows::small(row, from + 3)?,
        parked: row.try_get(from + 4)?,
        activity: row.try_get(from + 5)?,
        kind: row.try_get(from + 6)?,
        text: row.try_get(from + 7)?,
        at: Timestamp(row.try_get(from + 8)?),
    })
}

/// Returns the lines of a snapshot, from the answer of [`sql::SNAPSHOT`]; `of` says whose a row is.
pub(super) fn all_lines(
    found: &[SqliteRow],
    of: impl Fn(&SqliteRow) -> Result<RunId, sqlx::Error>,
) -> Result<Vec<String>, sqlx::Error> {
    found.iter().map(|row| Ok(lines::letter(&of(row)?, &letter(row, 2)?))).collect()
}
