//! Results that runs share, on the server. The rows that changes are about are locked, without waiting: whoever else is writing one is done
//! in a moment, and then the row is not the one that was seen. A question belongs to its run, whose lock its answer has as well. Turns
//! write what is theirs alone, so of them no two want the same row; but a change may have locked it. So a batch of both waits for the rows of
//! its turns before it locks any for its changes: whoever has those waits for no row any more.

use std::collections::HashSet;

use sqlx::{Row, postgres::PgRow};

use super::{decide::Plan, read::PostgresReader, rows, session::Session, trouble::Trouble, values::Values};
use crate::{
    kernel::{
        id::{RunId, RunKey},
        memo::{Kept, MemoKey},
        time::Timestamp,
    },
    store::{
        Item, MemoAsk, MemoChange, MemoFound, MemoRow, MemoThen, Outcome, StoreError,
        memory::lines,
        memos::{MemoPlan, decoded, encoded, let_go, memo_changes, stored_key},
    },
};

/// Locks the keys $1 as far as the calls $2, $3 hold them, one after the other.
const LOCK_HELD: &str = "SELECT 1 FROM memos m JOIN unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS v(key, run, position)
    ON m.key = v.key AND m.run = v.run AND m.position = v.position ORDER BY m.key FOR UPDATE OF m";

/// Locks the keys $1, as far as nobody else has; then tells which there are. Two statements: what one sees is as old as its beginning.
const LOCK: &str = "SELECT key FROM memos WHERE key = ANY ($1::bytea[]) ORDER BY key FOR UPDATE SKIP LOCKED";
const LOOK: &str = "SELECT key, stamp, run, position FROM memos WHERE key = ANY ($1::bytea[])";

/// $1 runs, $2 positions.
const LOOK_ASKS: &str = "SELECT a.run, a.position, a.ask FROM unnest($1::bigint[], $2::bigint[]) AS k(run, position)
    CROSS JOIN LATERAL (SELECT run, position, ask FROM memo_asks x WHERE x.run = k.run AND x.position = k.position LIMIT 1) a";

/// Questions of the calls $1, $2.
const ANSWERED: &str = "DELETE FROM memo_asks a USING unnest($1::bigint[], $2::bigint[]) AS k(run, position)
    WHERE a.run = k.run AND a.position = k.position";

/// $1 keys, $2 runs, $3 positions of those who let go.
const LEAVE: &str = "DELETE FROM memos m USING unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS v(key, run, position)
    WHERE m.key = v.key AND m.run = v.run AND m.position = v.position";

/// The same, $4 stamps, $5 values, $6 times, of those whose results are kept.
const KEEP: &str = "UPDATE memos m SET stamp = v.stamp, run = NULL, position = NULL, ask = NULL, value = v.value, until = v.until
    FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[])
        AS v(key, run, position, stamp, value, until)
    WHERE m.key = v.key AND m.run = v.run AND m.position = v.position";

/// $1 keys, $2 runs, $3 positions, $4 numbers of questions.
const ASK: &str = "INSERT INTO memo_asks (key, run, position, ask)
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[])
    ON CONFLICT (run, position) DO UPDATE SET key = excluded.key, ask = excluded.ask";

/// The same of holders, and $5 stamps. A row that somebody has made in between is not written.
const HOLD: &str = "INSERT INTO memos AS m (key, run, position, ask, stamp)
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    ON CONFLICT (key) DO UPDATE SET stamp = excluded.stamp, run = excluded.run, position = excluded.position, ask = excluded.ask,
        value = NULL, until = NULL
    WHERE m.key = ANY ($6::bytea[]) RETURNING 1";

/// $1 keys.
const GONE: &str = "DELETE FROM memos WHERE key = ANY ($1::bytea[])";

const ONE: &str = "SELECT key, stamp, run, position, ask, value, until FROM memos WHERE key = $1";
const ASKS: &str = "SELECT run, position, ask FROM memo_asks WHERE key = $1 ORDER BY run, position LIMIT $2";
const KEYS: &str = "SELECT key, stamp FROM memos WHERE key BETWEEN $1 AND $2 ORDER BY key LIMIT $3";

/// $1 time, $2 the due time of runs that nobody takes up, $3 limit.
const WORK: &str = "SELECT key FROM (
        SELECT a.key FROM (SELECT DISTINCT key FROM memo_asks) a WHERE NOT EXISTS
            (SELECT 1 FROM memos m JOIN executions e ON e.run = m.run WHERE m.key = a.key AND e.status < 4
                AND (e.owner IS NOT NULL OR (e.status = 1 AND (e.wake_at IS NULL OR e.wake_at > $2))))
        UNION SELECT key FROM memos WHERE until IS NOT NULL AND until <= $1) w ORDER BY key LIMIT $3";

pub(super) const ALL: &str = "SELECT e.id, e.run_no, m.run, m.position, m.ask, m.key, m.stamp, m.until, m.value
    FROM memos m LEFT JOIN executions e ON e.run = m.run";
pub(super) const ALL_ASKS: &str =
    "SELECT e.id, e.run_no, a.position, a.ask, a.key FROM memo_asks a LEFT JOIN executions e ON e.run = a.run";

/// What was found.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub(super) plan: MemoPlan<'a>,
    /// Somebody else is writing these.
    pub(super) foreign: HashSet<MemoKey>,
}

/// Locks and reads what is about the keys of the changes among these items, within the transaction.
pub(super) async fn find<'a, 'i>(
    session: &mut Session,
    items: impl Iterator<Item = &'i Item> + Clone,
) -> Result<Found<'a>, Trouble> {
    let mut found = Found::default();
    let changes = memo_changes(items.clone());
    if changes.is_empty() {
        return Ok(found);
    }
    let held = let_go(items);
    if !held.is_empty() {
        let values = Values::default()
            .with(held.iter().map(|(key, _)| &key.0[..]).collect::<Vec<_>>())
            .with(held.iter().map(|(_, (run, _))| run.0).collect::<Vec<_>>())
            .with(held.iter().map(|(_, (_, position))| i64::from(*position)).collect::<Vec<_>>());
        session.rows(LOCK_HELD, values).await?;
    }
    let keys = || Values::default().with(changes.iter().map(|change| &change.key.0[..]).collect::<Vec<_>>());
    let taken = || changes.iter().flat_map(|change| &change.taken);
    let (runs, positions): (Vec<i64>, Vec<i64>) = taken().map(|ask| (ask.run.0, i64::from(ask.position))).unzip();
    let locked = session.rows(LOCK, keys()).await?;
    let all = session.rows(LOOK, keys()).await?;
    let asks = session.rows(LOOK_ASKS, Values::default().with(runs).with(positions)).await?;
    let mut read = || -> Result<(), sqlx::Error> {
        let locked = locked.iter().map(|row| key(row.try_get(0)?)).collect::<Result<HashSet<_>, _>>()?;
        for row in &all {
            let of = key(row.try_get(0)?)?;
            if !locked.contains(&of) {
                found.foreign.insert(of);
            }
            let run: Option<i64> = row.try_get(2)?;
            let holder = run.map(|run| Ok::<_, sqlx::Error>((RunKey(run), rows::small(row, 3)?))).transpose()?;
            found.plan.rows.insert(of, (row.try_get(1)?, holder));
            found.plan.locked.push(of);
        }
        for row in &asks {
            found.plan.asks.insert((RunKey(row.try_get(0)?), rows::small(row, 1)?), rows::small(row, 2)?);
        }
        Ok(())
    };
    read().map_err(|error| session.home.sort(&error))?;
    Ok(found)
}

/// Writes what accepted items do about keys, within the transaction.
pub(super) async fn write(session: &mut Session, plan: &MemoPlan<'_>) -> Result<(), Trouble> {
    if plan.is_empty() {
        return Ok(());
    }
    let out = plan.left.iter().map(|(_, who)| who).chain(plan.kept.iter().map(|(_, who, ..)| who)).chain(&plan.taken);
    let (runs, positions): (Vec<i64>, Vec<i64>) = out.map(|(run, position)| (run.0, i64::from(*position))).unzip();
    if !runs.is_empty() {
        session.rows(ANSWERED, Values::default().with(runs).with(positions)).await?;
    }
    if !plan.left.is_empty() {
        let rows = || plan.left.iter();
        let values = Values::default()
            .with(rows().map(|(key, _)| &key.0[..]).collect::<Vec<_>>())
            .with(rows().map(|(_, (run, _))| run.0).collect::<Vec<_>>())
            .with(rows().map(|(_, (_, position))| i64::from(*position)).collect::<Vec<_>>());
        session.rows(LEAVE, values).await?;
    }
    if !plan.kept.is_empty() {
        let rows = || plan.kept.iter();
        let bodies: Vec<Vec<u8>> = rows().map(|(.., kept, _)| encoded(kept)).collect();
        let values = Values::default()
            .with(rows().map(|(key, ..)| &key.0[..]).collect::<Vec<_>>())
            .with(rows().map(|(_, (run, _), ..)| run.0).collect::<Vec<_>>())
            .with(rows().map(|(_, (_, position), ..)| i64::from(*position)).collect::<Vec<_>>())
            .with(rows().map(|(_, _, stamp, ..)| *stamp).collect::<Vec<_>>())
            .with(bodies.iter().map(|body| &body[..]).collect::<Vec<_>>())
            .with(rows().map(|(.., until)| until.map(|until| until.0)).collect::<Vec<_>>());
        session.rows(KEEP, values).await?;
    }
    if !plan.asked.is_empty() {
        let rows = || plan.asked.iter();
        let values = Values::default()
            .with(rows().map(|(key, ..)| &key.0[..]).collect::<Vec<_>>())
            .with(rows().map(|(_, (run, _), _)| run.0).collect::<Vec<_>>())
            .with(rows().map(|(_, (_, position), _)| i64::from(*position)).collect::<Vec<_>>())
            .with(rows().map(|(.., ask)| i64::from(*ask)).collect::<Vec<_>>());
        session.rows(ASK, values).await?;
    }
    let held = || {
        plan.written.iter().filter_map(|(key, then)| match then {
            MemoThen::Held(by, stamp) => Some((key, by, stamp)),
            MemoThen::Gone | MemoThen::Stays => None,
        })
    };
    let count = held().count();
    if count > 0 {
        let values = Values::default()
            .with(held().map(|(key, ..)| &key.0[..]).collect::<Vec<_>>())
            .with(held().map(|(_, by, _)| by.run.0).collect::<Vec<_>>())
            .with(held().map(|(_, by, _)| i64::from(by.position)).collect::<Vec<_>>())
            .with(held().map(|(_, by, _)| i64::from(by.ask)).collect::<Vec<_>>())
            .with(held().map(|(.., stamp)| *stamp).collect::<Vec<_>>())
            .with(plan.locked.iter().map(|key| &key.0[..]).collect::<Vec<_>>());
        if session.rows(HOLD, values).await?.len() != count {
            // Somebody holds it since: that is seen at the next try.
            return Err(Trouble::Again("a key came up meanwhile".into()));
        }
    }
    let gone: Vec<&[u8]> = plan.written.iter().filter(|(_, then)| **then == MemoThen::Gone).map(|(key, _)| &key.0[..]).collect();
    if !gone.is_empty() {
        session.rows(GONE, Values::default().with(gone)).await?;
    }
    Ok(())
}

impl<'a> Plan<'a> {
    pub(super) fn memo(&mut self, change: &'a MemoChange) -> Result<(), Outcome> {
        self.memos.check(change)?;
        let known = change.unowned.and_then(|run| self.seen.runs.get(&run.0));
        if known.is_some_and(|known| known.summary.owner.is_some()) {
            return Err(Outcome::Conflict);
        }
        self.tells(&change.tells);
        self.memos.accept(change);
        Ok(())
    }
}

impl PostgresReader {
    pub(super) async fn read_memo(&self, key: MemoKey, asks: u32) -> Result<MemoFound, StoreError> {
        let values = || Values::default().with(&key.0[..]);
        let row = self.read(ONE, values()).await?;
        let asks = self.read(ASKS, values().with(i64::from(asks))).await?;
        let row = self.decoded(row.iter().map(memo))?.into_iter().next();
        Ok(MemoFound { row, asks: self.decoded(asks.iter().map(|row| ask(row, 0)))? })
    }

    pub(super) async fn read_memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Result<Vec<MemoKey>, StoreError> {
        let found = self.read(WORK, Values::default().with(now.0).with(stuck.0).with(i64::from(most))).await?;
        self.decoded(found.iter().map(|row| key(row.try_get(0)?)))
    }

    pub(super) async fn read_memo_keys(
        &self,
        first: MemoKey,
        last: MemoKey,
        most: u32,
    ) -> Result<Vec<(MemoKey, i64)>, StoreError> {
        let values = Values::default().with(&first.0[..]).with(&last.0[..]).with(i64::from(most));
        let found = self.read(KEYS, values).await?;
        self.decoded(found.iter().map(|row| Ok((key(row.try_get(0)?)?, row.try_get(1)?))))
    }
}

fn memo(row: &PgRow) -> Result<MemoRow, sqlx::Error> {
    let held: Option<i64> = row.try_get(2)?;
    let value: Option<&[u8]> = row.try_get(5)?;
    Ok(MemoRow {
        key: key(row.try_get(0)?)?,
        stamp: row.try_get(1)?,
        holder: held.map(|_| ask(row, 2)).transpose()?,
        kept: value.map(kept).transpose()?,
        until: row.try_get::<Option<i64>, _>(6)?.map(Timestamp),
    })
}

fn key(bytes: &[u8]) -> Result<MemoKey, sqlx::Error> {
    stored_key(bytes).ok_or_else(|| rows::damaged("the key of a memo has another length"))
}

fn kept(bytes: &[u8]) -> Result<Kept, sqlx::Error> {
    decoded(bytes).ok_or_else(|| rows::damaged("the value of a memo cannot be read"))
}

/// Reads a question, or a holder, from its run, position and number.
fn ask(row: &PgRow, from: usize) -> Result<MemoAsk, sqlx::Error> {
    let (position, ask) = (rows::small(row, from + 1)?, rows::small(row, from + 2)?);
    Ok(MemoAsk { run: RunKey(row.try_get(from)?), position, ask })
}

/// Returns the lines of a snapshot, from the answers of [`ALL`] and [`ALL_ASKS`]; `of` says whose a row is.
pub(super) fn all_lines(
    memos: &[PgRow],
    asks: &[PgRow],
    of: impl Fn(&PgRow) -> Result<RunId, sqlx::Error>,
) -> Result<Vec<String>, sqlx::Error> {
    let mut all = Vec::new();
    for row in memos {
        let held: Option<i64> = row.try_get(2)?;
        let holder = held.map(|_| Ok::<_, sqlx::Error>((of(row)?, rows::small(row, 3)?, rows::small(row, 4)?))).transpose()?;
        let until = row.try_get::<Option<i64>, _>(7)?.map(Timestamp);
        all.push(lines::memo(row.try_get(5)?, row.try_get(6)?, holder, until, row.try_get(8)?));
    }
    for row in asks {
        all.push(lines::memo_ask(&of(row)?, rows::small(row, 2)?, rows::small(row, 3)?, row.try_get(4)?));
    }
    Ok(all)
}
