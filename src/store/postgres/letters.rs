//! Forks and dead letters on the server. Letters are written behind the decision and within the transaction of the general path, by statements
//! of their own; the one statement of most batches knows nothing of them.

use sqlx::{Row, postgres::PgRow};

use super::{decide::Plan, read::PostgresReader, rows, session::Session, trouble::Trouble, values::Values};
use crate::{
    kernel::{
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{
        DeadLetter, Fork, Letter, LetterFilter, LetterPlace, Outcome, Status, StoreError, letters::LetterPlan, memory::lines,
    },
};

/// $1 runs, $2 positions, $3 attempts, $4 commits, $5 places in them, $6 parked, $7 activities, $8 kinds, $9 texts, $10 times; each call once.
const PUT: &str = "INSERT INTO dead_letters (run, position, attempt, commit_no, event, parked, activity, kind, text, at)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::text[],
        $8::text[], $9::text[], $10::bigint[])
    ON CONFLICT (run, position) DO UPDATE SET attempt = excluded.attempt, commit_no = excluded.commit_no, event = excluded.event, parked = excluded.parked,
        activity = excluded.activity, kind = excluded.kind, text = excluded.text, at = excluded.at";

/// $1 runs, $2 positions.
const DROP: &str = "DELETE FROM dead_letters d USING unnest($1::bigint[], $2::bigint[]) AS k(run, position)
    WHERE d.run = k.run AND d.position = k.position";

/// $1 runs, $2 positions, $3 commits, $4 places in them. Only what is as it was seen.
const DROP_SEEN: &str = "DELETE FROM dead_letters d
    USING unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS k(run, position, commit_no, event)
    WHERE d.run = k.run AND d.position = k.position AND d.commit_no = k.commit_no AND d.event = k.event";

macro_rules! letters {
    () => {
        "SELECT d.run, e.id, e.run_no, e.workflow, e.status, d.position, d.attempt, d.commit_no, d.event, d.parked, d.activity, d.kind, d.text, d.at
        FROM dead_letters d JOIN executions e ON e.run = d.run
        WHERE ($1::text IS NULL OR e.workflow = $1) AND ($2::text IS NULL OR d.activity = $2) AND ($3::text IS NULL OR d.kind = $3)
          AND ($4::boolean IS NULL OR d.parked = $4) AND ($5::bigint IS NULL OR d.position = $5) AND d.at >= $6
          AND (d.at, d.run, d.position) < ($7::bigint, $8::bigint, $9::bigint)"
    };
}

/// $1 workflow, $2 activity, $3 kind, $4 parked, $5 position, $6 since, $7 to $9 before which time, run and position, $10 limit.
const LIST: &str = concat!(letters!(), " ORDER BY d.at DESC, d.run DESC, d.position DESC LIMIT $10");

/// The same of the run $11.
const OF_RUN: &str = concat!(letters!(), " AND d.run = $11 ORDER BY d.at DESC, d.run DESC, d.position DESC LIMIT $10");

pub(super) const ALL: &str =
    "SELECT e.id, e.run_no, d.position, d.attempt, d.commit_no, d.event, d.parked, d.activity, d.kind, d.text, d.at
    FROM dead_letters d LEFT JOIN executions e ON e.run = d.run";

/// Writes what becomes of letters, within the transaction.
pub(super) async fn write(session: &mut Session, plan: &LetterPlan<'_>) -> Result<(), Trouble> {
    let (put, gone) = (plan.put(), plan.gone());
    if !put.is_empty() {
        let letters = || put.iter().map(|(_, letter)| *letter);
        let values = Values::default()
            .with(put.iter().map(|(run, _)| run.0).collect::<Vec<_>>())
            .with(letters().map(|letter| i64::from(letter.position)).collect::<Vec<_>>())
            .with(letters().map(|letter| i64::from(letter.attempt)).collect::<Vec<_>>())
            .with(letters().map(|letter| i64::from(letter.commit_no)).collect::<Vec<_>>())
            .with(letters().map(|letter| i64::from(letter.event)).collect::<Vec<_>>())
            .with(letters().map(|letter| letter.parked).collect::<Vec<_>>())
            .with(letters().map(|letter| letter.activity.as_str()).collect::<Vec<_>>())
            .with(letters().map(|letter| letter.kind.as_str()).collect::<Vec<_>>())
            .with(letters().map(|letter| letter.text.as_str()).collect::<Vec<_>>())
            .with(letters().map(|letter| letter.at.0).collect::<Vec<_>>());
        session.rows(PUT, values).await?;
    }
    if !gone.is_empty() {
        let (runs, positions): (Vec<i64>, Vec<i64>) = gone.iter().map(|(run, position)| (run.0, i64::from(*position))).unzip();
        session.rows(DROP, Values::default().with(runs).with(positions)).await?;
    }
    if plan.seen().len() > 0 {
        let values = Values::default()
            .with(plan.seen().map(|seen| seen.run.0).collect::<Vec<_>>())
            .with(plan.seen().map(|seen| i64::from(seen.position)).collect::<Vec<_>>())
            .with(plan.seen().map(|seen| i64::from(seen.commit_no)).collect::<Vec<_>>())
            .with(plan.seen().map(|seen| i64::from(seen.event)).collect::<Vec<_>>());
        session.rows(DROP_SEEN, values).await?;
    }
    Ok(())
}

impl<'a> Plan<'a> {
    pub(super) fn fork(&mut self, fork: &'a Fork) -> Result<(), Outcome> {
        self.may_begin(&fork.row)?;
        if fork.inbox.len() as u64 > self.inbox_limit {
            return Err(Outcome::InboxFull);
        }
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(fork.row.begun(None, 0, fork.row.wake_at.or(Some(self.batch.now))), &fork.log);
        for again in &fork.inbox {
            self.deliver(fork.row.run.0, again.message.clone(), &again.body, again.sent_at);
        }
        self.published.extend(fork.published.iter().map(|row| (fork.row.run, row)));
        self.letters.drop(fork.undone.iter().map(|position| (fork.of, *position)));
        Ok(())
    }
}

impl PostgresReader {
    pub(super) async fn read_letters(&self, filter: LetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        if !filter.is_askable() {
            return Ok(Vec::new());
        }
        let LetterFilter { workflow, activity, kind, parked, since, run, position, before, limit } = filter;
        let before = before.unwrap_or(LetterPlace::LAST);
        let values = Values::default()
            .with(workflow)
            .with(activity)
            .with(kind)
            .with(parked)
            .with(position.map(i64::from))
            .with(since.map_or(i64::MIN, |since| since.0))
            .with(before.at.0)
            .with(before.run.0)
            .with(i64::from(before.position))
            .with(i64::from(limit));
        let found = match run {
            Some(run) => self.read(OF_RUN, values.with(run.0)).await?,
            None => self.read(LIST, values).await?,
        };
        self.decoded(found.iter().map(dead_letter))
    }
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let id = RunId { id: row.try_get(1)?, run_no: rows::small(row, 2)? };
    let status = Status::of_code(i64::from(row.try_get::<i16, _>(4)?)).ok_or_else(|| rows::damaged("a state is unknown"))?;
    Ok(DeadLetter::new(RunKey(row.try_get(0)?), id, row.try_get(3)?, status, letter(row, 5)?))
}

fn letter(row: &PgRow, from: usize) -> Result<Letter, sqlx::Error> {
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

/// Returns the lines of a snapshot, from the answer of [`ALL`]; `of` says whose a row is.
pub(super) fn all_lines(found: &[PgRow], of: impl Fn(&PgRow) -> Result<RunId, sqlx::Error>) -> Result<Vec<String>, sqlx::Error> {
    found.iter().map(|row| Ok(lines::letter(&of(row)?, &letter(row, 2)?))).collect()
}
