//! Schedules on the server. The rows that items are about are locked, without waiting: whoever else is writing one is done in a moment,
//! and then the row is not the one that was seen.

use std::collections::{HashMap, HashSet};

use sqlx::{Row, postgres::PgRow};

use super::{decide::Plan, read::PostgresReader, rows, session::Session, trouble::Trouble, values::Values};
use crate::{
    kernel::{id::RunKey, time::Timestamp},
    store::{Outcome, ScheduleChange, ScheduleDue, ScheduleRow, StoreError, schedules::SchedulePlan},
};

/// Locks the schedules $1, as far as nobody else has; then tells which there are. Two statements: what one sees is as old as its beginning.
const LOCK: &str = "SELECT name FROM schedules WHERE name = ANY ($1::text[]) ORDER BY name FOR UPDATE SKIP LOCKED";
const LOOK: &str = "SELECT name, revision FROM schedules WHERE name = ANY ($1::text[])";

/// $1 names, $2 the revisions in their place, $3 the new ones, $4 due times, $5 runs awaited, $6 bodies. A row that somebody has made in
/// between is not written.
const WRITE: &str = "INSERT INTO schedules AS s (name, revision, next_at, awaits, body)
    SELECT v.name, v.revision, v.next_at, v.awaits, v.body
    FROM unnest($1::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[]) AS v(name, revision, next_at, awaits, body)
    ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, next_at = excluded.next_at, awaits = excluded.awaits,
        body = excluded.body
    WHERE s.revision = (SELECT f.revision FROM unnest($1::text[], $2::bigint[]) AS f(name, revision) WHERE f.name = s.name)
    RETURNING 1";

const ONE: &str = "SELECT name, revision, next_at, awaits, body FROM schedules WHERE name = $1";
const LIST: &str = "SELECT name, revision, next_at, awaits, body FROM schedules WHERE name > $1 ORDER BY name LIMIT $2";
pub(super) const ALL: &str = "SELECT name, revision, next_at, awaits, body FROM schedules";

/// $1 time, $2 limit. Two halves, each by its own index.
const DUE: &str = "SELECT s.name, s.next_at, s.awaits IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM executions e WHERE e.run = s.awaits AND e.status < 4) AS ready
    FROM (SELECT name FROM schedules WHERE next_at IS NOT NULL AND next_at <= $1
          UNION SELECT name FROM schedules WHERE awaits IS NOT NULL) d JOIN schedules s ON s.name = d.name
    ORDER BY ready DESC, s.next_at NULLS LAST, s.name LIMIT $2";

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) revisions: HashMap<String, u64>,
    /// Somebody else is writing these.
    pub(super) foreign: HashSet<String>,
}

/// Locks and reads the schedules that items are about, within the transaction.
pub(super) async fn find(session: &mut Session, names: &[&str]) -> Result<Found, Trouble> {
    let mut found = Found::default();
    if names.is_empty() {
        return Ok(found);
    }
    let locked = session.rows(LOCK, Values::default().with(names)).await?;
    let all = session.rows(LOOK, Values::default().with(names)).await?;
    let mut read = || -> Result<(), sqlx::Error> {
        let locked = locked.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
        for row in &all {
            let name: String = row.try_get(0)?;
            if !locked.contains(&name) {
                found.foreign.insert(name.clone());
            }
            found.revisions.insert(name, rows::large(row, 1)?);
        }
        Ok(())
    };
    read().map_err(|error| session.home.sort(&error))?;
    Ok(found)
}

/// Writes what accepted items do to schedules, within the transaction.
pub(super) async fn write(session: &mut Session, plan: &SchedulePlan<'_>) -> Result<(), Trouble> {
    if plan.written.is_empty() {
        return Ok(());
    }
    let changes = || plan.written.iter().map(|(change, _)| *change);
    let values = Values::default()
        .with(changes().map(|change| change.name.as_str()).collect::<Vec<_>>())
        .with(plan.written.iter().map(|(_, found)| rows::number(*found)).collect::<Vec<_>>())
        .with(changes().map(|change| rows::number(change.seen + 1)).collect::<Vec<_>>())
        .with(changes().map(|change| change.next_at.map(|at| at.0)).collect::<Vec<_>>())
        .with(changes().map(|change| change.awaits.map(|run| run.0)).collect::<Vec<_>>())
        .with(changes().map(|change| &change.body[..]).collect::<Vec<_>>());
    let written = session.rows(WRITE, values).await?;
    if written.len() == plan.written.len() {
        Ok(())
    } else {
        // Somebody has made a schedule of that name since: it is there at the next try.
        Err(Trouble::Again("a schedule came up meanwhile".into()))
    }
}

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

impl PostgresReader {
    pub(super) async fn read_schedule(&self, name: String) -> Result<Option<ScheduleRow>, StoreError> {
        if name.contains('\0') {
            return Ok(None);
        }
        let found = self.read(ONE, Values::default().with(name)).await?;
        Ok(self.decoded(found.iter().map(schedule))?.into_iter().next())
    }

    pub(super) async fn read_schedules(&self, after: String, limit: u32) -> Result<Vec<ScheduleRow>, StoreError> {
        // No name has a NUL, so what comes behind one that ends there is what comes behind its beginning.
        let after = after.split('\0').next().unwrap_or_default().to_owned();
        let found = self.read(LIST, Values::default().with(after).with(i64::from(limit))).await?;
        self.decoded(found.iter().map(schedule))
    }

    pub(super) async fn read_due_schedules(&self, until: Timestamp, limit: u32) -> Result<Vec<ScheduleDue>, StoreError> {
        let found = self.read(DUE, Values::default().with(until.0).with(i64::from(limit))).await?;
        self.decoded(found.iter().map(|row| {
            let next_at = row.try_get::<Option<i64>, _>(1)?.map(Timestamp);
            Ok(ScheduleDue { name: row.try_get(0)?, next_at, ready: row.try_get(2)? })
        }))
    }
}

pub(super) fn schedule(row: &PgRow) -> Result<ScheduleRow, sqlx::Error> {
    Ok(ScheduleRow {
        name: row.try_get(0)?,
        revision: rows::large(row, 1)?,
        next_at: row.try_get::<Option<i64>, _>(2)?.map(Timestamp),
        awaits: row.try_get::<Option<i64>, _>(3)?.map(RunKey),
        body: row.try_get::<Vec<u8>, _>(4)?.into(),
    })
}
