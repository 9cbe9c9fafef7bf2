//! Shared queues on the server. What a claim takes is decided by [`Line::pick`] behind the lock of its queue; a queue without rules
//! needs no lock, only rows that nobody else is taking.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    read::PostgresReader,
    rows,
    session::{Session, TASKS_LANE},
    sql_tasks as sql,
    trouble::Trouble,
    values::Values,
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

/// While somebody holds an old snapshot, what was taken stays in the index and is walked by every search. Where a search was
/// *slow*, the next ones begin just below what it has found, for a second: a task that overtakes by its priority may wait for
/// that long then, and no longer.
const SLOW: Duration = Duration::from_millis(10);
const LAG: i64 = 60_000_000;
const WHOLE: Duration = Duration::from_secs(1);

/// What a session that takes tasks remembers.
#[derive(Debug, Default)]
pub(super) struct Taker {
    /// Who asked last, by its short name.
    node: Option<(Incarnation, i32)>,
    /// The lowest ranks that polls look at, by queue.
    lowest: HashMap<String, (Instant, i64)>,
}

impl Taker {
    fn of(&self, queue: &str) -> Option<i64> {
        self.lowest.get(queue).filter(|(at, _)| at.elapsed() < WHOLE).map(|(_, floor)| *floor)
    }

    /// Takes note of the lowest rank that a whole search has found, if it was slow.
    fn found(&mut self, queue: &str, lowest: i64, took: Duration) {
        if took < SLOW {
            self.lowest.remove(queue);
            return;
        }
        self.lowest.insert(queue.to_owned(), (Instant::now(), lowest.saturating_sub(LAG)));
    }
}

fn with_keys<'a>(values: Values, keys: impl Iterator<Item = &'a TaskKey> + Clone) -> Values {
    values
        .with(keys.clone().map(|key| key.run.0).collect::<Vec<_>>())
        .with(keys.clone().map(|key| i64::from(key.position)).collect::<Vec<_>>())
        .with(keys.map(|key| i64::from(key.attempt)).collect::<Vec<_>>())
}

fn key(row: &PgRow) -> Result<TaskKey, sqlx::Error> {
    Ok(TaskKey { run: RunKey(row.try_get(0)?), position: rows::small(row, 1)?, attempt: rows::small(row, 2)? })
}

fn node(row: &PgRow, column: usize) -> Result<Option<Incarnation>, sqlx::Error> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(Incarnation))
}

fn head(row: &PgRow) -> Result<Head, sqlx::Error> {
    Ok(Head { key: key(row)?, lane: row.try_get(3)?, rank: row.try_get(4)? })
}

pub(super) fn task_row(row: &PgRow) -> Result<TaskRow, sqlx::Error> {
    Ok(TaskRow { key: key(row)?, queue: row.try_get(3)?, worker: node(row, 4)?, dropped: row.try_get(5)? })
}

fn line(row: &PgRow, from: usize, name: &str) -> Result<Line, sqlx::Error> {
    let (rules, paused) = rules(row, from, name)?;
    let (cursor, tokens) = (row.try_get(from + 6)?, row.try_get(from + 7)?);
    Ok(Line { rules, paused, cursor, tokens, filled_at: row.try_get(from + 8)?, running: HashMap::new() })
}

/// Reads the rules of a queue from its columns, without its name.
fn rules(row: &PgRow, from: usize, name: &str) -> Result<(Queue, bool), sqlx::Error> {
    let small = |column: usize| -> Result<Option<u32>, sqlx::Error> {
        let number: Option<i64> = row.try_get(from + column)?;
        number.map(|number| u32::try_from(number).map_err(|_| rows::damaged("a number is out of range"))).transpose()
    };
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

fn state(row: &PgRow) -> Result<QueueState, sqlx::Error> {
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

/// Reads and locks the tasks that items are about, within the transaction.
pub(super) async fn find(session: &mut Session, wanted: &[TaskKey]) -> Result<HashMap<TaskKey, Found>, Trouble> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let found = session.rows(sql::FOUND, with_keys(Values::default(), wanted.iter())).await?;
    let read = |row: &PgRow| {
        let details = row.try_get::<Option<Vec<u8>>, _>(5)?.map(bytes::Bytes::from);
        Ok((key(row)?, Found { worker: node(row, 3)?, dropped: row.try_get(4)?, details }))
    };
    found.iter().map(read).collect::<Result<_, _>>().map_err(|error| session.home.sort(&error))
}

/// Writes what accepted items do to tasks, within the transaction.
pub(super) async fn write(session: &mut Session, plan: &TaskPlan<'_>) -> Result<(), Trouble> {
    if !plan.withdrawn.is_empty() {
        let values = || {
            Values::default()
                .with(plan.withdrawn.iter().map(|(run, _)| run.0).collect::<Vec<_>>())
                .with(plan.withdrawn.iter().map(|(_, position)| i64::from(*position)).collect::<Vec<_>>())
        };
        session.rows(sql::WITHDRAW, values()).await?;
        session.rows(sql::REMOVE, values()).await?;
    }
    if !plan.unqueued.is_empty() {
        let runs = plan.unqueued.iter().map(|run| run.0).collect::<Vec<_>>();
        session.rows(sql::UNQUEUE, Values::default().with(runs)).await?;
    }
    if !plan.placed.is_empty() {
        let placed = || plan.placed.iter();
        let values = with_keys(Values::default(), placed().map(|task| &task.key))
            .with(placed().map(|task| task.queue.as_str()).collect::<Vec<_>>())
            .with(placed().map(|task| task.lane.as_str()).collect::<Vec<_>>())
            .with(placed().map(|task| task.rank()).collect::<Vec<_>>())
            .with(placed().map(|task| task.due_at.0).collect::<Vec<_>>())
            .with(placed().map(|task| task.start_by.map(|at| at.0)).collect::<Vec<_>>())
            .with(placed().map(|task| task.activity.as_str()).collect::<Vec<_>>())
            .with(placed().map(|task| rows::array(&task.needs)).collect::<Vec<_>>())
            .with(placed().map(|task| &task.body[..]).collect::<Vec<_>>());
        session.rows(sql::PLACE, values).await?;
    }
    if !plan.ended.is_empty() {
        session.rows(sql::END, with_keys(Values::default(), plan.ended.iter())).await?;
    }
    if !plan.beats.is_empty() {
        // Of several of one task the last counts.
        let last: HashMap<&TaskKey, &[u8]> = plan.beats.iter().map(|(key, details)| (key, &details[..])).collect();
        let values = with_keys(Values::default(), last.keys().copied());
        session.rows(sql::BEAT, values.with(last.values().copied().collect::<Vec<_>>())).await?;
    }
    Ok(())
}

/// Takes what a node may have of each queue that has something waiting.
pub(super) async fn take(session: &mut Session, taker: &mut Taker, request: &TaskRequest) -> Result<TakenTasks, Trouble> {
    let mut taken = TakenTasks::default();
    let waiting = session.again(sql::WAITING, Values::default()).await?;
    let waiting: Result<Vec<(String, bool, bool)>, sqlx::Error> =
        waiting.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect();
    let mut waiting = waiting.map_err(|error| session.home.sort(&error))?;
    waiting.retain(|(name, _, paused)| !paused && request.queues.as_ref().is_none_or(|queues| queues.contains(name)));
    if waiting.is_empty() {
        return Ok(taken);
    }
    let node = match taker.node {
        Some((by, node)) if by == request.by => node,
        _ => {
            let found = session.again(super::sql::NODE, Values::default().with(request.by.0)).await?;
            let Some(row) = found.first() else { return Ok(taken) };
            let node = row.try_get(0).map_err(|error| session.home.sort(&error))?;
            if session.node().is_none() {
                session.belong_to(node).await?;
            }
            taker.node = Some((request.by, node));
            node
        }
    };
    let lane = session.take_lane(TASKS_LANE).await?;
    for (name, has_rules, _) in waiting {
        let limit = request.limit - u32::try_from(taken.tasks.len()).unwrap_or(u32::MAX);
        if limit == 0 {
            break;
        }
        let floor = taker.of(&name);
        let began = Instant::now();
        let took = session
            .transaction(async |session| {
                let fence = session.rows(sql::FENCE, Values::default().with(node).with(lane)).await?;
                let Some(row) = fence.first() else { return Ok(None) };
                session.is_number(row.try_get(0).map_err(|error| session.home.sort(&error))?);
                take_of(session, &name, has_rules, node, request, limit, floor).await.map(Some)
            })
            .await;
        match took {
            Ok(Some(Took::These { tasks, lowest })) => {
                if let (None, Some(lowest)) = (floor, lowest) {
                    taker.found(&name, lowest, began.elapsed());
                }
                taken.tasks.extend(tasks);
            }
            Ok(Some(Took::Locked)) => taken.again = true,
            Ok(None) => return Ok(taken),
            // What was taken of the queues before is ours, and must be told.
            Err(_) if !taken.tasks.is_empty() => {
                taken.again = true;
                return Ok(taken);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(taken)
}

enum Took {
    These {
        tasks: Vec<Task>,
        lowest: Option<i64>,
    },
    /// Somebody else is at work on the queue.
    Locked,
}

async fn take_of(
    session: &mut Session,
    name: &str,
    has_rules: bool,
    node: i32,
    request: &TaskRequest,
    limit: u32,
    floor: Option<i64>,
) -> Result<Took, Trouble> {
    let mut line = Line::default();
    if has_rules {
        let kept = session.rows(sql::LINE, Values::default().with(name)).await?;
        let Some(row) = kept.first() else { return Ok(Took::Locked) };
        line = self::line(row, 0, name).map_err(|error| session.home.sort(&error))?;
        if line.rules.is_limited() {
            let running = session.rows(sql::RUNNING, Values::default().with(name)).await?;
            let read = |row: &PgRow| Ok((row.try_get(0)?, rows::small(row, 1)?));
            line.running = running.iter().map(read).collect::<Result<_, _>>().map_err(|error| session.home.sort(&error))?;
        }
    }
    let room = line.room(limit, request.now);
    if room == 0 {
        return Ok(Took::These { tasks: Vec::new(), lowest: None });
    }
    let values = Values::default().with(name).with(request.now.0).with(&request.activities[..]).with(&request.tags[..]);
    let values = values.with(i64::from(room));
    let heads = if line.rules.is_keyed() {
        let most = i64::try_from(MOST_KEYS).unwrap_or(i64::MAX);
        let values = values.with(most).with(line.cursor.as_str()).with(line.full());
        session.rows(sql::HEADS_OF_LANES, values).await?
    } else {
        session.rows(sql::HEADS, values.with(floor.unwrap_or(i64::MIN))).await?
    };
    let heads: Result<Vec<Head>, _> = heads.iter().map(head).collect();
    let heads = heads.map_err(|error| session.home.sort(&error))?;
    let lowest = heads.first().map(|head| head.rank).filter(|_| !line.rules.is_keyed());
    let picked = line.pick(heads, limit, request.now);
    if picked.is_empty() {
        return Ok(Took::These { tasks: Vec::new(), lowest });
    }
    let rows = session.rows(sql::TAKE, with_keys(Values::default(), picked.iter()).with(node)).await?;
    let read = |row: &PgRow| {
        let body: Vec<u8> = row.try_get(5)?;
        Ok((key(row)?, Task { key: key(row)?, queue: row.try_get(3)?, activity: row.try_get(4)?, body: body.into() }))
    };
    let all: Result<HashMap<TaskKey, Task>, sqlx::Error> = rows.iter().map(read).collect();
    let mut all = all.map_err(|error| session.home.sort(&error))?;
    if has_rules {
        let values = Values::default().with(name).with(line.cursor).with(line.tokens).with(line.filled_at);
        session.rows(sql::MOVE_ON, values).await?;
    }
    Ok(Took::These { tasks: picked.iter().filter_map(|key| all.remove(key)).collect(), lowest })
}

pub(super) async fn declare(session: &mut Session, queue: &Queue) -> Result<(), Trouble> {
    let values = Values::default()
        .with(queue.name.as_str())
        .with(queue.concurrency.map(i64::from))
        .with(queue.per_key.map(i64::from))
        .with(queue.rate.map(i64::from))
        .with(queue.period)
        .with(queue.fair);
    session.again(sql::DECLARE, values).await.map(drop)
}

pub(super) async fn pause(session: &mut Session, name: &str, paused: bool) -> Result<(), Trouble> {
    session.again(sql::PAUSE, Values::default().with(name).with(paused)).await.map(drop)
}

impl PostgresReader {
    pub(super) async fn read_tasks(&self, run: RunKey) -> Result<Vec<TaskRow>, StoreError> {
        let found = self.read(sql::OF_RUN, Values::default().with(run.0)).await?;
        self.decoded(found.iter().map(task_row))
    }

    pub(super) async fn read_held(&self, by: Incarnation) -> Result<Vec<TaskRow>, StoreError> {
        let found = self.read(sql::HELD, Values::default().with(by.0)).await?;
        self.decoded(found.iter().map(task_row))
    }

    pub(super) async fn read_stale(&self, now: Timestamp, most: u32) -> Result<Vec<StaleTask>, StoreError> {
        let found = self.read(sql::STALE, Values::default().with(now.0).with(i64::from(most))).await?;
        self.decoded(found.iter().map(|row| Ok(StaleTask { key: key(row)?, by: node(row, 3)? })))
    }

    pub(super) async fn read_ruled(&self) -> Result<Vec<String>, StoreError> {
        let found = self.read(sql::RULED, Values::default()).await?;
        self.decoded(found.iter().map(|row| row.try_get(0)))
    }

    pub(super) async fn read_queues(&self) -> Result<Vec<QueueState>, StoreError> {
        let found = self.read(sql::QUEUES, Values::default()).await?;
        self.decoded(found.iter().map(state))
    }
}

/// Returns the lines of a snapshot.
pub(super) fn all_lines(tasks: &[PgRow], queues: &[PgRow]) -> Result<Vec<String>, sqlx::Error> {
    let mut all = Vec::new();
    for row in tasks {
        let run = RunId { id: row.try_get(0)?, run_no: rows::small(row, 1)? };
        let needs: Vec<String> = row.try_get(10)?;
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
