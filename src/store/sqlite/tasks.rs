//! Shared queues in the file. There is one writer at a time, so a claim needs no lock but the transaction: it counts, shows the
//! heads of the line to [`Line::pick`], and writes what was picked.

use std::collections::HashMap;

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader,
    commit::Writer,
    look, rows,
    rows::{Blob, Table},
    script::Values,
    sql::tasks as sql,
    trouble::Trouble,
};
use crate::{
    kernel::{
        id::{Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{
        Queue, QueueState, StaleTask, StoreError, TakenTasks, Task, TaskKey, TaskRequest, TaskRow,
        memory::lines,
        queue::{Found, Head, Line, MOST_KEYS, TaskPlan},
    },
};

/// Returns tasks as a table of keys.
fn keys(keys: &[TaskKey]) -> Option<String> {
    let mut table = Table::new();
    for key in keys {
        table.row().int(key.run.0).int(key.position).int(key.attempt);
    }
    table.finish()
}

fn texts(texts: &[String]) -> String {
    rows::array(texts)
}

fn key(row: &SqliteRow) -> Result<TaskKey, sqlx::Error> {
    Ok(TaskKey { run: RunKey(row.try_get(0)?), position: rows::small(row, 1)?, attempt: rows::small(row, 2)? })
}

fn node(row: &SqliteRow, column: usize) -> Result<Option<Incarnation>, sqlx::Error> {
    row.try_get::<Option<&[u8]>, _>(column)?.map(rows::incarnation).transpose()
}

fn head(row: &SqliteRow) -> Result<Head, sqlx::Error> {
    Ok(Head { key: key(row)?, lane: row.try_get(3)?, rank: row.try_get(4)? })
}

/// Reads the rules of a queue from its columns, without its name.
fn rules(row: &SqliteRow, from: usize, name: &str) -> Result<(Queue, bool), sqlx::Error> {
    let small = |column| row.try_get::<Option<u32>, _>(from + column);
    let rules = Queue {
        name: name.to_owned(),
        concurrency: small(0)?,
        per_key: small(1)?,
        rate: small(2)?,
        period: row.try_get(from + 3)?,
        fair: row.try_get(from + 4)?,
    };
    Ok((rules, row.try_get(from + 5)?))
}

fn line(row: &SqliteRow, from: usize, name: &str) -> Result<Line, sqlx::Error> {
    let (rules, paused) = rules(row, from, name)?;
    let (cursor, tokens) = (row.try_get(from + 6)?, row.try_get(from + 7)?);
    Ok(Line { rules, paused, cursor, tokens, filled_at: row.try_get(from + 8)?, running: HashMap::new() })
}

fn state(row: &SqliteRow) -> Result<QueueState, sqlx::Error> {
    let name: String = row.try_get(0)?;
    let (rules, paused) = rules(row, 1, &name)?;
    let line = Line { rules, paused, ..Line::default() };
    Ok(QueueState {
        waiting: rows::large(row, 7)?,
        running: rows::large(row, 8)?,
        oldest: row.try_get::<Option<i64>, _>(9)?.map(Timestamp),
        ..line.state(&name)
    })
}

pub(super) fn task_row(row: &SqliteRow) -> Result<TaskRow, sqlx::Error> {
    Ok(TaskRow { key: key(row)?, queue: row.try_get(3)?, worker: node(row, 4)?, dropped: row.try_get(5)? })
}

impl Writer {
    /// Reads the tasks that items are about, within the transaction.
    pub(super) async fn find_tasks(&mut self, wanted: &[TaskKey]) -> Result<HashMap<TaskKey, Found>, Trouble> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.rows(sql::FOUND, Values::default().with(keys(wanted))).await?;
        let read = |row: &SqliteRow| {
            let details = row.try_get::<Option<Vec<u8>>, _>(5)?.map(bytes::Bytes::from);
            Ok((key(row)?, Found { worker: node(row, 3)?, dropped: row.try_get(4)?, details }))
        };
        found.iter().map(read).collect::<Result<_, _>>().map_err(|error| self.sort(error))
    }

    /// Writes what accepted items do to tasks, within the transaction; returns how many rows that changed.
    pub(super) async fn write_tasks(&mut self, plan: &TaskPlan<'_>) -> Result<u64, Trouble> {
        if plan.is_empty() {
            return Ok(0);
        }
        let mut unqueued = 0;
        if !plan.unqueued.is_empty() {
            let mut runs = Table::new();
            plan.unqueued.iter().for_each(|run| runs.number(run.0));
            unqueued = self.changes(sql::UNQUEUE, Values::default().with(runs.finish())).await?;
        }
        let mut blob = Blob::default();
        let [mut withdrawn, mut placed, mut beats] = [Table::new(), Table::new(), Table::new()];
        for (run, position) in &plan.withdrawn {
            withdrawn.row().int(run.0).int(*position);
        }
        for task in &plan.placed {
            let (from, length) = blob.put(&task.body);
            let TaskKey { run, position, attempt } = task.key;
            let row = placed.row().int(run.0).int(position).int(attempt).text(&task.queue).text(&task.lane).int(task.rank());
            let row = row.int(task.due_at.0).maybe(task.start_by.map(|at| at.0)).text(&task.activity).text(&texts(&task.needs));
            row.int(from).int(length);
        }
        for (TaskKey { run, position, attempt }, details) in &plan.beats {
            let (from, length) = blob.put(details);
            beats.row().int(run.0).int(*position).int(*attempt).int(from).int(length);
        }
        let values = Values::default().with(blob.finish()).and_then(|values| values.with(withdrawn.finish()));
        let values = values.and_then(|values| values.with(placed.finish())).and_then(|values| values.with(keys(&plan.ended)));
        Ok(unqueued + self.changes(sql::WRITE, values.and_then(|values| values.with(beats.finish()))).await?)
    }

    /// Takes what a node may have of each queue that has something waiting.
    pub(super) async fn take_tasks(&mut self, request: &TaskRequest) -> Result<TakenTasks, StoreError> {
        let waiting = self.rows(sql::WAITING, Ok(Values::default())).await.map_err(Trouble::into_store)?;
        let names: Result<Vec<String>, _> = waiting.iter().map(|row| row.try_get(0)).collect();
        let mut names = names.map_err(|error| self.sort(error).into_store())?;
        names.retain(|name| request.queues.as_ref().is_none_or(|queues| queues.contains(name)));
        if names.is_empty() || request.limit == 0 {
            return Ok(TakenTasks::default());
        }
        self.begin_steps().await?;
        let taken = self.take_of(request, &names).await;
        self.end_steps(taken).await
    }

    async fn take_of(&mut self, request: &TaskRequest, names: &[String]) -> Result<TakenTasks, Trouble> {
        let mut taken = TakenTasks::default();
        let found = self.rows(sql::MAY_TAKE, Values::default().with(look::name(request.by))).await?;
        let Some(row) = found.first() else { return Ok(taken) };
        let node: i64 = row.try_get(0).map_err(|error| self.sort(error))?;
        for name in names {
            let limit = request.limit - u32::try_from(taken.tasks.len()).unwrap_or(u32::MAX);
            let picked = self.pick(name, request, limit).await?;
            if picked.is_empty() {
                continue;
            }
            let values = Values::default().with(keys(&picked)).and_then(|values| values.with(node));
            let rows = self.rows(sql::TAKE, values).await?;
            let read = |row: &SqliteRow| {
                let body: Vec<u8> = row.try_get(5)?;
                Ok((key(row)?, Task { key: key(row)?, queue: row.try_get(3)?, activity: row.try_get(4)?, body: body.into() }))
            };
            let all: Result<HashMap<TaskKey, Task>, sqlx::Error> = rows.iter().map(read).collect();
            let mut all = all.map_err(|error| self.sort(error))?;
            taken.tasks.extend(picked.iter().filter_map(|key| all.remove(key)));
        }
        Ok(taken)
    }

    async fn pick(&mut self, name: &str, request: &TaskRequest, limit: u32) -> Result<Vec<TaskKey>, Trouble> {
        let kept = self.rows(sql::LINE, Values::default().with(name.to_owned())).await?;
        let mut line = match kept.first() {
            Some(row) => line(row, 0, name).map_err(|error| self.sort(error))?,
            None => Line::default(),
        };
        if line.rules.is_limited() {
            let running = self.rows(sql::RUNNING, Values::default().with(name.to_owned())).await?;
            let running: Result<_, sqlx::Error> = running.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
            line.running = running.map_err(|error| self.sort(error))?;
        }
        let room = line.room(limit, request.now);
        if room == 0 {
            return Ok(Vec::new());
        }
        let values = Values::default().with(name.to_owned()).and_then(|values| values.with(request.now.0));
        let values = values.and_then(|values| values.with(texts(&request.activities)));
        let values = values.and_then(|values| values.with(texts(&request.tags))).and_then(|values| values.with(i64::from(room)));
        let heads = if line.rules.is_keyed() {
            let most = i64::try_from(MOST_KEYS).unwrap_or(i64::MAX);
            let values = values.and_then(|values| values.with(most)).and_then(|values| values.with(line.cursor.clone()));
            self.rows(sql::HEADS_OF_LANES, values.and_then(|values| values.with(texts(&line.full())))).await?
        } else {
            self.rows(sql::HEADS, values).await?
        };
        let heads: Result<Vec<Head>, _> = heads.iter().map(head).collect();
        let picked = line.pick(heads.map_err(|error| self.sort(error))?, limit, request.now);
        if !kept.is_empty() && !picked.is_empty() {
            let values = Values::default().with(name.to_owned()).and_then(|values| values.with(line.cursor));
            let values = values.and_then(|values| values.with(line.tokens)).and_then(|values| values.with(line.filled_at));
            self.rows(sql::MOVE_ON, values).await?;
        }
        Ok(picked)
    }

    pub(super) async fn declare(&mut self, queue: &Queue) -> Result<(), StoreError> {
        let Queue { name, concurrency, per_key, rate, period, fair } = queue.clone();
        let values = Values::default().with(name).and_then(|values| values.with(concurrency.map(i64::from)));
        let values = values.and_then(|values| values.with(per_key.map(i64::from)));
        let values = values.and_then(|values| values.with(rate.map(i64::from))).and_then(|values| values.with(period));
        let values = values.and_then(|values| values.with(fair)).map_err(|error| self.sort(error).into_store())?;
        self.transaction(sql::DECLARE, values).await.map(drop)
    }

    pub(super) async fn pause(&mut self, name: &str, paused: bool) -> Result<(), StoreError> {
        let values = Values::default().with(name.to_owned()).and_then(|values| values.with(paused));
        let values = values.map_err(|error| self.sort(error).into_store())?;
        self.transaction(sql::PAUSE, values).await.map(drop)
    }
}

impl SqliteReader {
    pub(super) async fn read_tasks(&self, run: RunKey) -> Result<Vec<TaskRow>, StoreError> {
        let found = self.read(sql::OF_RUN, Values::default().with(run.0)).await?;
        self.decoded(found.iter().map(task_row))
    }

    pub(super) async fn read_held(&self, by: Incarnation) -> Result<Vec<TaskRow>, StoreError> {
        let found = self.read(sql::HELD, Values::default().with(look::name(by))).await?;
        self.decoded(found.iter().map(task_row))
    }

    pub(super) async fn read_stale(&self, now: Timestamp, most: u32) -> Result<Vec<StaleTask>, StoreError> {
        let values = Values::default().with(now.0).and_then(|values| values.with(i64::from(most)));
        let found = self.read(sql::STALE, values).await?;
        self.decoded(found.iter().map(|row| Ok(StaleTask { key: key(row)?, by: node(row, 3)? })))
    }

    pub(super) async fn read_ruled(&self) -> Result<Vec<String>, StoreError> {
        let found = self.read(sql::RULED, Ok(Values::default())).await?;
        self.decoded(found.iter().map(|row| row.try_get(0)))
    }

    pub(super) async fn read_queues(&self) -> Result<Vec<QueueState>, StoreError> {
        let found = self.read(sql::QUEUES, Ok(Values::default())).await?;
        self.decoded(found.iter().map(state))
    }
}

/// Returns the lines of a snapshot, from the answers of [`sql::SNAPSHOT`].
pub(super) fn all_lines(tasks: &[SqliteRow], queues: &[SqliteRow]) -> Result<Vec<String>, sqlx::Error> {
    let mut all = Vec::new();
    for row in tasks {
        let run = RunId { id: row.try_get(0)?, run_no: rows::small(row, 1)? };
        let needs = rows::tags(row.try_get(10)?)?;
        let task = lines::TaskLine {
            position: rows::small(row, 2)?,
            attempt: rows::small(row, 3)?,
            queue: row.try_get(4)?,
            lane: row.try_get(5)?,
            rank: row.try_get(6)?,
            due_at: Timestamp(row.try_get(7)?),
            start_by: row.try_get::<Option<i64>, _>(8)?.map(Timestamp),
            activity: row.try_get(9)?,
            needs: &needs,
            worker: node(row, 11)?,
            dropped: row.try_get(12)?,
            body: row.try_get(13)?,
            details: row.try_get(14)?,
        };
        all.push(lines::task(&run, &task));
    }
    for row in queues {
        let name: String = row.try_get(0)?;
        all.push(lines::queue(&name, &line(row, 1, &name)?));
    }
    Ok(all)
}
