//! Schedules in the file. There is one writer at a time, so the transaction is all the lock that their rows need.

use std::collections::HashMap;

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader,
    commit::Writer,
    decide::Plan,
    rows::{self, Blob, Table},
    script::Values,
    sql::schedules as sql,
    trouble::Trouble,
};
use crate::{
    kernel::{id::RunKey, time::Timestamp},
    store::{Outcome, ScheduleChange, ScheduleDue, ScheduleRow, StoreError, schedules::SchedulePlan},
};

impl<'a> Plan<'a> {
    pub(super) fn schedule(&mut self, change: &'a ScheduleChange) -> Result<(), Outcome> {
        self.schedules.check(change)?;
        // All or nothing: no two of them are in each other's way.
        change.starts.iter().try_for_each(|(new, _)| self.may_begin(new))?;
        for (new, record) in &change.starts {
            self.enqueue(new, record)?;
        }
        self.tells(&change.tells);
        self.schedules.accept(change);
        Ok(())
    }
}

impl Writer {
    /// Reads the schedules that items are about, within the transaction.
    pub(super) async fn find_schedules(&mut self, names: &[&str]) -> Result<HashMap<String, u64>, Trouble> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let mut table = Table::new();
        names.iter().for_each(|name| table.text(name));
        let found = self.rows(sql::FOUND, Values::default().with(table.finish())).await?;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, rows::large(row, 1)?));
        found.iter().map(read).collect::<Result<_, _>>().map_err(|error| self.sort(error))
    }

    /// Writes what accepted items do to schedules, within the transaction; returns how many rows that changed.
    pub(super) async fn write_schedules(&mut self, plan: &SchedulePlan<'_>) -> Result<u64, Trouble> {
        if plan.written.is_empty() {
            return Ok(0);
        }
        let (mut blob, mut table) = (Blob::default(), Table::new());
        for (change, found) in &plan.written {
            let (from, length) = blob.put(&change.body);
            let revisions = table.row().text(&change.name).int(rows::number(*found)).int(rows::number(change.seen + 1));
            let dues = revisions.maybe(change.next_at.map(|at| at.0)).maybe(change.awaits.map(|run| run.0));
            dues.int(from).int(length);
        }
        let values = Values::default().with(blob.finish()).and_then(|values| values.with(table.finish()));
        let answers = self.answers(sql::WRITE, values).await?;
        Ok(answers.iter().map(|answer| answer.changed).sum())
    }
}

impl SqliteReader {
    pub(super) async fn read_schedule(&self, name: String) -> Result<Option<ScheduleRow>, StoreError> {
        let found = self.read(sql::ONE, Values::default().with(name)).await?;
        Ok(self.decoded(found.iter().map(schedule))?.into_iter().next())
    }

    pub(super) async fn read_schedules(&self, after: String, limit: u32) -> Result<Vec<ScheduleRow>, StoreError> {
        let values = Values::default().with(after).and_then(|values| values.with(i64::from(limit)));
        let found = self.read(sql::LIST, values).await?;
        self.decoded(found.iter().map(schedule))
    }

    pub(super) async fn read_due_schedules(&self, until: Timestamp, limit: u32) -> Result<Vec<ScheduleDue>, StoreError> {
        let values = Values::default().with(until.0).and_then(|values| values.with(i64::from(limit)));
        let found = self.read(sql::DUE, values).await?;
        self.decoded(found.iter().map(|row| {
            let next_at = row.try_get::<Option<i64>, _>(1)?.map(Timestamp);
            Ok(ScheduleDue { name: row.try_get(0)?, next_at, ready: row.try_get(2)? })
        }))
    }
}

pub(super) fn schedule(row: &SqliteRow) -> Result<ScheduleRow, sqlx::Error> {
    Ok(ScheduleRow {
        name: row.try_get(0)?,
        revision: rows::large(row, 1)?,
        next_at: row.try_get::<Option<i64>, _>(2)?.map(Timestamp),
        awaits: row.try_get::<Option<i64>, _>(3)?.map(RunKey),
        body: row.try_get::<Vec<u8>, _>(4)?.into(),
    })
}
