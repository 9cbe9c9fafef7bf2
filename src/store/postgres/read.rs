//! The read side: a few connections of its own, which come back by themselves. A read may run twice, so a lost connection is
//! no trouble as long as the server is found again in time.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row, postgres::PgRow};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    home::{Home, Role},
    published, rows, sql, sql_tasks,
    trouble::Trouble,
    values::Values,
};
use crate::{
    kernel::{
        codec::Record,
        id::{BuildId, CommitNo, Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{Filter, Inbox, StoreError, Summary, memory::lines, packed},
};

/// The read side of a store.
pub(super) struct PostgresReader {
    pub(super) home: Arc<Home>,
    idle: RefCell<Vec<PgConnection>>,
    permits: Semaphore,
    pub(super) closed: Cell<bool>,
}

impl PostgresReader {
    pub(super) fn new(home: Arc<Home>) -> PostgresReader {
        let permits = Semaphore::new(home.options.readers.max(1) as usize);
        PostgresReader { home, idle: RefCell::default(), permits, closed: Cell::new(false) }
    }

    /// Closes all connections, those in use as soon as they are given back.
    pub(super) async fn close(&self) {
        self.closed.set(true);
        self.permits.close();
        let idle = self.idle.take();
        for connection in idle {
            self.home.part(connection).await;
        }
    }

    /// Runs statements on one connection; such as must see the same moment open a transaction for it.
    pub(super) async fn on_one<T>(
        &self,
        mut work: impl AsyncFnMut(&mut PgConnection) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        if self.closed.get() {
            return Err(StoreError::Closed);
        }
        let patience = self.home.options.patience;
        let permit = tokio::time::timeout(patience, self.permits.acquire()).await;
        let _permit = match permit {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Busy { reason: "every reader of the store is at work".into() }),
        };
        let begun = Instant::now();
        let mut wait = Duration::from_millis(10);
        loop {
            let idle = self.idle.borrow_mut().pop();
            let was_idle = idle.is_some();
            let worked = async {
                let mut connection = match idle {
                    Some(connection) => connection,
                    None => self.home.connect(Role::Reader).await?.0,
                };
                let value = work(&mut connection).await;
                Ok((connection, value))
            };
            let trouble = match worked.await {
                Ok((connection, Ok(value))) => {
                    self.give_back(connection).await;
                    return Ok(value);
                }
                Ok((_, Err(trouble))) | Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Lost(_) | Trouble::Again(_) if !self.closed.get() && begun.elapsed() + wait < patience => {
                    // One that lay idle may have been lost long ago, and its neighbours with it.
                    if !was_idle {
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_millis(500));
                    }
                }
                trouble => return Err(trouble.into_store(&self.home.server)),
            }
        }
    }

    async fn give_back(&self, connection: PgConnection) {
        if self.closed.get() {
            self.home.part(connection).await;
        } else {
            self.idle.borrow_mut().push(connection);
        }
    }

    pub(super) async fn read(&self, text: &'static str, values: Values) -> Result<Vec<PgRow>, StoreError> {
        self.on_one(async |connection| self.home.rows(connection, text, values.clone()).await).await
    }

    pub(super) fn decoded<T>(&self, rows: impl Iterator<Item = Result<T, sqlx::Error>>) -> Result<Vec<T>, StoreError> {
        rows.collect::<Result<_, _>>().map_err(|error| self.home.sort(&error).into_store(&self.home.server))
    }

    pub(super) async fn read_history(
        &self,
        run: RunKey,
        from: CommitNo,
        limit: u32,
    ) -> Result<Vec<(CommitNo, Record)>, StoreError> {
        let values = || Values::default().with(run.0).with(i64::from(from)).with(i64::from(limit));
        let found = self.read(sql::HISTORY, values()).await?;
        let pages = self.decoded(found.iter().map(|row| Ok((rows::large(row, 0)?, rows::packed(row, 1)?))))?;
        let Some((count, short)) = pages.into_iter().next() else { return Ok(Vec::new()) };
        if short.len() as u64 == count {
            return Ok(short);
        }
        let long = self.read(sql::HISTORY_LONG, values()).await?;
        Ok(packed::merged(short, self.decoded(long.iter().map(|row| rows::record(row, 0)))?, count))
    }

    pub(super) async fn read_tail(&self, run: RunKey) -> Result<Option<(CommitNo, Record)>, StoreError> {
        let found = self.read(sql::TAIL, Values::default().with(run.0)).await?;
        Ok(self.decoded(found.iter().map(|row| rows::record(row, 0)))?.into_iter().next())
    }

    pub(super) async fn read_inbox(&self, run: RunKey) -> Result<Inbox, StoreError> {
        let found = self.read(sql::INBOX, Values::default().with(run.0)).await?;
        let Some(first) = found.first() else { return Ok(Inbox::default()) };
        let seq = self.decoded([rows::large(first, 0)].into_iter())?;
        let messages = found.iter().filter(|row| !matches!(row.try_get::<Option<i64>, _>(1), Ok(None)));
        let mut inbox = Inbox { seq: seq.first().copied().unwrap_or(0), ..Inbox::default() };
        self.decoded(messages.map(|row| rows::unread(row, 1)))?.into_iter().for_each(|message| inbox.put(message));
        Ok(inbox)
    }

    pub(super) async fn read_find(&self, id: String, run_no: Option<u32>) -> Result<Option<Summary>, StoreError> {
        // A NUL is in no id, and PostgreSQL does not take one even as a question.
        if id.contains('\0') {
            return Ok(None);
        }
        let values = Values::default().with(id);
        let found = match run_no {
            None => self.read(sql::FIND, values).await?,
            Some(run_no) => self.read(sql::FIND_RUN, values.with(i64::from(run_no))).await?,
        };
        Ok(self.decoded(found.iter().map(summary))?.into_iter().next())
    }

    pub(super) async fn read_summaries(&self, runs: &[RunKey]) -> Result<Vec<Summary>, StoreError> {
        let runs: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let found = self.read(sql::SUMMARIES, Values::default().with(runs)).await?;
        self.decoded(found.iter().map(summary))
    }

    pub(super) async fn read_list(&self, filter: Filter) -> Result<Vec<Summary>, StoreError> {
        if [&filter.workflow, &filter.tag].into_iter().flatten().any(|text| text.contains('\0')) {
            return Ok(Vec::new());
        }
        let states: Vec<i16> = filter.status.iter().map(|status| status.code()).collect();
        let values = Values::default()
            .with(filter.workflow)
            .with(states)
            .with(filter.tag)
            .with(filter.before.map(|run| run.0))
            .with(i64::from(filter.limit));
        let found = self.read(sql::LIST, values).await?;
        self.decoded(found.iter().map(summary))
    }

    pub(super) async fn read_owned(&self, by: Incarnation) -> Result<Vec<(RunKey, u64)>, StoreError> {
        let found = self.read(sql::OWNED, Values::default().with(by.0)).await?;
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
        let texts = [
            sql::ALL_NODES,
            sql::ALL_RUNS,
            sql::ALL_EVENTS,
            sql::ALL_MESSAGES,
            sql::ALL_HEARTBEATS,
            sql_tasks::ALL_TASKS,
            sql_tasks::ALL_QUEUES,
            published::ALL,
            super::schedules::ALL,
            super::memos::ALL,
            super::memos::ALL_ASKS,
            super::letters::ALL,
        ];
        let tables = self.on_one(async |connection| {
            self.home.rows(connection, sql::MOMENT, Values::default()).await?;
            let mut tables = Vec::new();
            for text in texts {
                tables.push(self.home.rows(connection, text, Values::default()).await?);
            }
            self.home.rows(connection, sql::ROLLBACK, Values::default()).await?;
            Ok(tables)
        });
        let tables = tables.await?;
        all_lines(&tables).map_err(|error| self.home.sort(&error).into_store(&self.home.server))
    }
}

fn all_lines(tables: &[Vec<PgRow>]) -> Result<Vec<String>, sqlx::Error> {
    let of = |row: &PgRow| -> Result<RunId, sqlx::Error> {
        let id: Option<String> = row.try_get(0)?;
        Ok(match id {
            Some(id) => RunId { id, run_no: rows::small(row, 1)? },
            // Shown, not hidden: no other store has such a line.
            None => RunId { id: "(a row without a run)".into(), run_no: 0 },
        })
    };
    let mut all = Vec::new();
    let [nodes, runs, events, messages, heartbeats, tasks, queues, published, schedules, memos, asks, letters] = tables else {
        return Ok(all);
    };
    for row in schedules {
        all.push(lines::schedule(&super::schedules::schedule(row)?));
    }
    all.extend(super::tasks::all_lines(tasks, queues)?);
    all.extend(published::all_lines(published, of)?);
    all.extend(super::memos::all_lines(memos, asks, of)?);
    all.extend(super::letters::all_lines(letters, of)?);
    for row in nodes {
        let incarnation = Incarnation(row.try_get::<Uuid, _>(0)?);
        let build = BuildId(row.try_get(1)?);
        all.push(lines::node(&incarnation, &build, row.try_get(2)?, row.try_get(3)?, rows::large(row, 4)?));
    }
    for row in runs {
        let (summary, beside) = rows::summary(row)?;
        all.push(lines::run(&summary, &beside));
    }
    for row in events {
        let (commit_no, record) = rows::record(row, 2)?;
        all.push(lines::event(&of(row)?, commit_no, &record));
    }
    for row in messages {
        all.push(lines::message(&of(row)?, &rows::unread(row, 2)?.map_err(|undecoded| rows::damaged(&undecoded.why))?));
    }
    for row in heartbeats {
        let (position, attempt, details) = rows::heartbeat(row, 2)?;
        all.push(lines::heartbeat(&of(row)?, position, attempt, &details));
    }
    all.sort();
    Ok(all)
}

pub(super) fn summary(row: &PgRow) -> Result<Summary, sqlx::Error> {
    rows::summary(row).map(|(summary, _)| summary)
}
