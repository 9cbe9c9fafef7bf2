//! Results that runs share, in the file. There is one writer at a time, so the transaction is all the lock that their rows need.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader,
    commit::Writer,
    decide::Plan,
    rows::{self, Blob, Table},
    script::{self, Values},
    sql::memos as sql,
    trouble::Trouble,
};
use crate::{
    kernel::{
        id::{RunId, RunKey},
        memo::{Kept, MemoKey},
        time::Timestamp,
    },
    store::{
        MemoAsk, MemoChange, MemoFound, MemoRow, MemoThen, Outcome, StoreError,
        memory::lines,
        memos::{MemoPlan, decoded, encoded, stored_key},
    },
};

impl Plan<'_> {
    pub(super) fn memo(&mut self, change: &MemoChange) -> Result<(), Outcome> {
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

impl Writer {
    /// Reads what is about the keys of these changes, within the transaction.
    pub(super) async fn find_memos<'a>(&mut self, changes: &[&MemoChange]) -> Result<MemoPlan<'a>, Trouble> {
        let mut plan = MemoPlan::default();
        if changes.is_empty() {
            return Ok(plan);
        }
        let (mut blob, mut keys, mut asks) = (Blob::default(), Table::new(), Table::new());
        for change in changes {
            let (from, length) = blob.put(&change.key.0);
            keys.row().int(from).int(length);
            for ask in &change.taken {
                asks.row().int(ask.run.0).int(ask.position);
            }
        }
        let values = Values::default().with(blob.finish()).and_then(|values| values.with(keys.finish())?.with(asks.finish()));
        let answers = self.answers(sql::FOUND, values).await?;
        let mut answers = answers.into_iter().map(|answer| answer.rows);
        let [found, asks] = [(); 2].map(|()| answers.next().unwrap_or_default());
        let mut read = || -> Result<(), sqlx::Error> {
            for row in &found {
                let run: Option<i64> = row.try_get(2)?;
                let holder = run.map(|run| Ok::<_, sqlx::Error>((RunKey(run), rows::small(row, 3)?))).transpose()?;
                plan.rows.insert(key(row.try_get(0)?)?, (row.try_get(1)?, holder));
            }
            for row in &asks {
                plan.asks.insert((RunKey(row.try_get(0)?), rows::small(row, 1)?), rows::small(row, 2)?);
            }
            Ok(())
        };
        read().map_err(|error| self.sort(error))?;
        Ok(plan)
    }

    /// Writes what accepted items do about keys, within the transaction; returns how many rows that changed.
    pub(super) async fn write_memos(&mut self, plan: &MemoPlan<'_>) -> Result<u64, Trouble> {
        if plan.is_empty() {
            return Ok(0);
        }
        let mut changed = 0;
        if !plan.left.is_empty() || !plan.kept.is_empty() {
            let (mut blob, mut left, mut kept) = (Blob::default(), Table::new(), Table::new());
            for (key, (run, position)) in &plan.left {
                let (from, length) = blob.put(&key.0);
                left.row().int(from).int(length).int(run.0).int(*position);
            }
            for (key, (run, position), stamp, value, until) in &plan.kept {
                let (from, length) = blob.put(&key.0);
                let (value_from, value_length) = blob.put(&encoded(value));
                let row = kept.row().int(from).int(length).int(run.0).int(*position).int(*stamp);
                row.int(value_from).int(value_length).maybe(until.map(|until| until.0));
            }
            changed += self.write_rows(sql::LEAVE, blob, [left, kept]).await?;
        }
        if !plan.asked.is_empty() {
            let (mut blob, mut asked) = (Blob::default(), Table::new());
            for (key, (run, position), ask) in &plan.asked {
                let (from, length) = blob.put(&key.0);
                asked.row().int(from).int(length).int(run.0).int(*position).int(*ask);
            }
            changed += self.write_rows(sql::ASK, blob, [asked]).await?;
        }
        if !plan.taken.is_empty() || !plan.written.is_empty() {
            let (mut blob, mut taken, mut held, mut gone) = (Blob::default(), Table::new(), Table::new(), Table::new());
            for (run, position) in &plan.taken {
                taken.row().int(run.0).int(*position);
            }
            for (key, then) in &plan.written {
                let (from, length) = blob.put(&key.0);
                if let MemoThen::Held(MemoAsk { run, position, ask }, stamp) = then {
                    held.row().int(from).int(length).int(*stamp).int(run.0).int(*position).int(*ask);
                } else {
                    gone.row().int(from).int(length);
                }
            }
            changed += self.write_rows(sql::CHANGE, blob, [taken, held, gone]).await?;
        }
        Ok(changed)
    }

    async fn write_rows<const N: usize>(&mut self, text: &'static str, blob: Blob, tables: [Table; N]) -> Result<u64, Trouble> {
        let begun = Values::default().with(blob.finish());
        let values = tables.into_iter().fold(begun, |values, table| values?.with(table.finish()));
        self.changes(text, values).await
    }
}

impl SqliteReader {
    pub(super) async fn read_memo(&self, key: MemoKey, asks: u32) -> Result<MemoFound, StoreError> {
        let key = key.0.to_vec();
        let row = self.read(sql::ONE, Values::default().with(key.clone())).await?;
        let values = Values::default().with(key).and_then(|values| values.with(i64::from(asks)));
        let asks = self.read(sql::ASKS, values).await?;
        let row = self.decoded(row.iter().map(memo))?.into_iter().next();
        Ok(MemoFound { row, asks: self.decoded(asks.iter().map(|row| ask(row, 0)))? })
    }

    pub(super) async fn read_memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Result<Vec<MemoKey>, StoreError> {
        let values = Values::default().with(now.0).and_then(|values| values.with(stuck.0)?.with(i64::from(most)));
        let found = self.read(sql::WORK, values).await?;
        self.decoded(found.iter().map(|row| key(row.try_get(0)?)))
    }

    pub(super) async fn read_memo_keys(
        &self,
        first: MemoKey,
        last: MemoKey,
        most: u32,
    ) -> Result<Vec<(MemoKey, i64)>, StoreError> {
        let keys = Values::default().with(first.0.to_vec()).and_then(|values| values.with(last.0.to_vec()));
        let found = self.read(sql::KEYS, keys.and_then(|values| values.with(i64::from(most)))).await?;
        self.decoded(found.iter().map(|row| Ok((key(row.try_get(0)?)?, row.try_get(1)?))))
    }
}

fn memo(row: &SqliteRow) -> Result<MemoRow, sqlx::Error> {
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
fn ask(row: &SqliteRow, from: usize) -> Result<MemoAsk, sqlx::Error> {
    let (position, ask) = (rows::small(row, from + 1)?, rows::small(row, from + 2)?);
    Ok(MemoAsk { run: RunKey(row.try_get(from)?), position, ask })
}

/// Returns the lines of a snapshot, from the answers of [`sql::SNAPSHOT`]; `of` says whose a row is.
pub(super) fn all_lines(
    found: &[script::Answered],
    of: impl Fn(&SqliteRow) -> Result<RunId, sqlx::Error>,
) -> Result<Vec<String>, sqlx::Error> {
    let mut all = Vec::new();
    for row in found.first().into_iter().flat_map(|answer| &answer.rows) {
        let held: Option<i64> = row.try_get(2)?;
        let holder = held.map(|_| Ok::<_, sqlx::Error>((of(row)?, rows::small(row, 3)?, rows::small(row, 4)?))).transpose()?;
        let until = row.try_get::<Option<i64>, _>(7)?.map(Timestamp);
        all.push(lines::memo(row.try_get(5)?, row.try_get(6)?, holder, until, row.try_get(8)?));
    }
    for row in found.get(1).into_iter().flat_map(|answer| &answer.rows) {
        all.push(lines::memo_ask(&of(row)?, rows::small(row, 2)?, rows::small(row, 3)?, row.try_get(4)?));
    }
    Ok(all)
}
