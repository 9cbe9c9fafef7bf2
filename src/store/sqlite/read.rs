//! The verbs beside `commit`: those of keys, which write, and those that read.

use sqlx::{Acquire, Row};

use super::{
    SqliteReader,
    commit::Writer,
    look, rows,
    rows::Table,
    script::{self, Values},
    sql,
};
use crate::{
    kernel::{
        codec::Record,
        id::{BuildId, CommitNo, Epoch, Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{Filter, Inbox, StoreError, Summary, memory::lines, packed},
};

pub(super) async fn resume(writer: &mut Writer, id: String, now: Timestamp) -> Result<(), StoreError> {
    let values = Values::default().with(id).and_then(|values| values.with(now.0));
    writer.transaction(sql::RESUME, values.map_err(encoding)?).await.map(drop)
}

pub(super) async fn halt(writer: &mut Writer, run: RunKey, epoch: Epoch, reason: String) -> Result<(), StoreError> {
    let epoch = rows::number(epoch);
    let values = Values::default().with(run.0).and_then(|values| values.with(reason)).and_then(|values| values.with(epoch));
    writer.transaction(sql::HALT, values.map_err(encoding)?).await.map(drop)
}

pub(super) async fn reserve(writer: &mut Writer, count: u32) -> Result<RunKey, StoreError> {
    let values = Values::default().with(i64::from(count)).map_err(encoding)?;
    let answers = writer.reserve(values).await?;
    let first = answers.get(1).and_then(|answer| answer.rows.first()).map(|row| row.try_get(0));
    match first {
        Some(Ok(first)) => Ok(RunKey(first)),
        _ => Err(StoreError::Other("the store has no row for its next key".into())),
    }
}

fn encoding(error: sqlx::Error) -> StoreError {
    StoreError::Other(error.to_string())
}

pub(super) fn keys(runs: &[RunKey]) -> Option<String> {
    let mut table = Table::new();
    runs.iter().for_each(|run| table.number(run.0));
    table.finish()
}

impl SqliteReader {
    pub(super) async fn read_history(
        &self,
        run: RunKey,
        from: CommitNo,
        limit: u32,
    ) -> Result<Vec<(CommitNo, Record)>, StoreError> {
        let values = || {
            let values = Values::default().with(run.0).and_then(|values| values.with(i64::from(from)));
            values.and_then(|values| values.with(i64::from(limit)))
        };
        let found = self.read(sql::history::HISTORY, values()).await?;
        let pages = self.decoded(found.iter().map(|row| Ok((rows::large(row, 0)?, rows::packed(row, 1)?))))?;
        let Some((count, short)) = pages.into_iter().next() else { return Ok(Vec::new()) };
        if short.len() as u64 == count {
            return Ok(short);
        }
        let long = self.read(sql::history::HISTORY_LONG, values()).await?;
        Ok(packed::merged(short, self.decoded(long.iter().map(|row| rows::record(row, 0)))?, count))
    }

    pub(super) async fn read_tail(&self, run: RunKey) -> Result<Option<(CommitNo, Record)>, StoreError> {
        let found = self.read(sql::TAIL, Values::default().with(run.0)).await?;
        Ok(self.decoded(found.iter().map(|row| rows::record(row, 0)))?.into_iter().next())
    }

    pub(super) async fn read_newest(&self) -> Result<Option<(RunId, CommitNo, Record)>, StoreError> {
        let found = self.read(sql::NEWEST, Ok(Values::default())).await?;
        let newest = self.decoded(found.iter().map(|row| {
            let id = RunId { id: row.try_get(0)?, run_no: rows::small(row, 1)? };
            rows::record(row, 2).map(|(commit_no, record)| (id, commit_no, record))
        }))?;
        Ok(newest.into_iter().next())
    }

    pub(super) async fn read_inbox(&self, run: RunKey) -> Result<Inbox, StoreError> {
        let found = self.read(sql::INBOX, Values::default().with(run.0)).await?;
        let Some(first) = found.first() else { return Ok(Inbox::default()) };
        let seq = rows::large(first, 0).map_err(|error| self.reading(&error))?;
        let messages = found.iter().filter(|row| !matches!(row.try_get::<Option<i64>, _>(1), Ok(None)));
        let mut inbox = Inbox { seq, ..Inbox::default() };
        self.decoded(messages.map(|row| rows::unread(row, 1)))?.into_iter().for_each(|message| inbox.put(message));
        Ok(inbox)
    }

    pub(super) async fn read_find(&self, id: String, run_no: Option<u32>) -> Result<Option<Summary>, StoreError> {
        let values = Values::default().with(id).and_then(|values| values.with(run_no.map(i64::from)));
        let found = self.read(sql::FIND, values).await?;
        Ok(self.decoded(found.iter().map(summary))?.into_iter().next())
    }

    pub(super) async fn read_summaries(&self, runs: &[RunKey]) -> Result<Vec<Summary>, StoreError> {
        let found = self.read(sql::SUMMARIES, Values::default().with(keys(runs))).await?;
        self.decoded(found.iter().map(summary))
    }

    pub(super) async fn read_list(&self, filter: Filter) -> Result<Vec<Summary>, StoreError> {
        let mut states = Table::new();
        filter.status.iter().for_each(|status| states.number(i64::from(status.code())));
        let values = Values::default().with(filter.workflow).and_then(|values| values.with(states.finish()));
        let values = values.and_then(|values| values.with(filter.tag));
        let values = values.and_then(|values| values.with(filter.before.map(|run| run.0)));
        let values = values.and_then(|values| values.with(i64::from(filter.limit)));
        let found = self.read(sql::LIST, values).await?;
        self.decoded(found.iter().map(summary))
    }

    pub(super) async fn read_owned(&self, by: Incarnation) -> Result<Vec<(RunKey, u64)>, StoreError> {
        let found = self.read(sql::OWNED, Values::default().with(look::name(by))).await?;
        self.decoded(found.iter().map(|row| Ok((RunKey(row.try_get(0)?), rows::large(row, 1)?))))
    }

    pub(super) async fn read_next_wake(&self, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let found = self.read(sql::NEXT_WAKE, Values::default().with(after.0)).await?;
        let times = self.decoded(found.iter().map(|row| row.try_get::<Option<i64>, _>(0)))?;
        Ok(times.into_iter().next().flatten().map(Timestamp))
    }

    pub(super) async fn read_heartbeats(&self, run: RunKey) -> Result<Vec<(u32, u32, bytes::Bytes)>, StoreError> {
        let found = self.read(sql::HEARTBEATS, Values::default().with(run.0)).await?;
        self.decoded(found.iter().map(|row| rows::heartbeat(row, 0)))
    }

    pub(super) async fn read_snapshot(&self) -> Result<Vec<String>, StoreError> {
        if self.closed.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        self.all_lines().await.map_err(|error| self.reading(&error))
    }

    async fn all_lines(&self) -> Result<Vec<String>, sqlx::Error> {
        let mut reader = self.pool.acquire().await?;
        // One transaction, so that all tables are of one moment.
        let mut moment = reader.begin().await?;
        let tables = script::run(&mut moment, sql::SNAPSHOT, Values::default()).await?.into_iter();
        let queues = script::run(&mut moment, sql::tasks::SNAPSHOT, Values::default()).await?.into_iter();
        let published = script::run(&mut moment, sql::published::SNAPSHOT, Values::default()).await?.into_iter();
        let schedules = script::run(&mut moment, sql::schedules::SNAPSHOT, Values::default()).await?.into_iter();
        let memos = script::run(&mut moment, sql::memos::SNAPSHOT, Values::default()).await?;
        let letters = script::run(&mut moment, sql::letters::SNAPSHOT, Values::default()).await?.into_iter();
        let mut tables = tables.chain(queues).chain(published).chain(schedules).chain(letters);
        moment.rollback().await?;
        let mut next = || tables.next().unwrap_or_default().rows;
        let of = |row: &_| -> Result<RunId, sqlx::Error> {
            let id: Option<String> = Row::try_get(row, 0)?;
            Ok(match id {
                Some(id) => RunId { id, run_no: rows::small(row, 1)? },
                // Shown, not hidden: no other store has such a line.
                None => RunId { id: "(a row without a run)".into(), run_no: 0 },
            })
        };
        let mut all = Vec::new();
        for row in next() {
            let incarnation = rows::incarnation(row.try_get(0)?)?;
            let build = BuildId(row.try_get(1)?);
            all.push(lines::node(&incarnation, &build, row.try_get(2)?, row.try_get(3)?, rows::large(&row, 4)?));
        }
        for row in next() {
            let (summary, beside) = rows::summary(&row)?;
            all.push(lines::run(&summary, &beside));
        }
        for row in next() {
            let (commit_no, record) = rows::record(&row, 2)?;
            all.push(lines::event(&of(&row)?, commit_no, &record));
        }
        for row in next() {
            all.push(lines::message(&of(&row)?, &rows::unread(&row, 2)?.map_err(|undecoded| rows::damaged(&undecoded.why))?));
        }
        for row in next() {
            let (position, attempt, details) = rows::heartbeat(&row, 2)?;
            all.push(lines::heartbeat(&of(&row)?, position, attempt, &details));
        }
        all.extend(super::tasks::all_lines(&next(), &next())?);
        all.extend(super::published::all_lines(&next(), of)?);
        for row in next() {
            all.push(lines::schedule(&super::schedules::schedule(&row)?));
        }
        all.extend(super::memos::all_lines(&memos, of)?);
        all.extend(super::letters::all_lines(&next(), of)?);
        all.sort();
        Ok(all)
    }

    pub(super) fn decoded<T>(&self, rows: impl Iterator<Item = Result<T, sqlx::Error>>) -> Result<Vec<T>, StoreError> {
        rows.collect::<Result<_, _>>().map_err(|error| self.reading(&error))
    }
}

pub(super) fn summary(row: &sqlx::sqlite::SqliteRow) -> Result<Summary, sqlx::Error> {
    rows::summary(row).map(|(summary, _)| summary)
}
