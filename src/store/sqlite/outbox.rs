//! The way into a caller's own transaction on the same file. Whoever writes has the file alone, so nothing is had beforehand.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    rows,
    script::{self, Answered, Values},
    sql, trouble,
};
use crate::{
    Dispatch, SendSignal, Workflow,
    error::{Error, SendError},
    kernel::{id::RunKey, limits::Limits, time::Timestamp},
    store::{
        Enqueued, FORMAT, NewRun, Status, StoreError,
        memory::INBOX_LIMIT,
        outbox::{Current, Decided, Draft, Posted},
    },
};

/// Begins executions, and sends signals, in transactions of the caller's own: an outbox without an outbox. What was asked for
/// exists exactly if the caller's transaction commits.
///
/// The connection is one of [`sqlx`](super::sqlx), to the file of a runtime that has made its tables. A transaction that
/// writes keeps everybody else from writing, the runtime included: begin it as `BEGIN IMMEDIATE` and keep it short. A node
/// finds what was committed with its next look, every 5 s, or at once when it is asked for a handle of the id.
///
/// ```no_run
/// # use stent::{prelude::*, store::sqlite::{Outbox, sqlx::{self, Connection, SqliteConnection}}};
/// # #[derive(Serialize, Deserialize)] struct Ship { order: i64 }
/// # impl Workflow for Ship {
/// #     const NAME: &'static str = "docs.ship"; type Output = (); type Error = AppError;
/// #     async fn run(self, _: Cx<Self>) -> Result<(), AppError> { Ok(()) }
/// # }
/// # async fn order(mut connection: SqliteConnection) -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = Outbox::new();
/// let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// outbox.dispatch(&mut tx, Dispatch::new(Ship { order: 7 }).id("ship-7")).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    limits: Limits,
}

impl Outbox {
    /// Makes one.
    #[must_use]
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Sets the limits under which what is begun here runs: those of the runtime, if it has others than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Outbox {
        self.limits = limits;
        self
    }

    /// Begins an execution in this transaction. Nothing of it is seen, by anybody, before the commit, and nothing is left
    /// behind a rollback. Refused is said by a value: the transaction goes on as it was.
    ///
    /// # Errors
    /// [`DispatchError::IdInUse`](crate::DispatchError) by the policy (`Replace` is not possible here), other
    /// [`Error::Dispatch`] for what no store would take; [`Error::Store`] for an error of the connection, behind which
    /// the transaction is to be rolled back.
    pub async fn dispatch<W: Workflow>(&self, tx: &mut SqliteConnection, dispatch: Dispatch<W>) -> Result<Enqueued, Error> {
        let draft = Draft::of(dispatch, self.limits)?;
        save(tx).await?;
        let begun = begin(tx, &draft).await;
        settle(tx, begun).await
    }

    /// Sends a signal in this transaction: it is delivered exactly if that commits.
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken, and leaves the transaction as it was; [`Error::Store`] as in
    /// [`dispatch`](Outbox::dispatch).
    pub async fn signal(&self, tx: &mut SqliteConnection, signal: SendSignal) -> Result<(), Error> {
        let posted = Posted::of(signal, self.limits)?;
        save(tx).await?;
        let posted = post(tx, posted).await;
        settle(tx, posted).await
    }
}

/// Marks where a call begins, within the caller's transaction or as one of its own: it is done as a whole or not at all, even
/// if its error is passed over.
async fn save(tx: &mut SqliteConnection) -> Result<(), StoreError> {
    let saved = script::run(tx, sql::OUTSIDE_SAVE, Values::default()).await;
    if saved.is_err() {
        undo(tx).await;
    }
    saved.map(drop).map_err(|error| told(&error))
}

async fn undo(tx: &mut SqliteConnection) {
    // It fails if the error has undone the whole transaction already; the first error is the one to tell.
    let _ = script::run(tx, sql::OUTSIDE_UNDO, Values::default()).await;
}

/// Keeps what was done behind the mark, or undoes it.
async fn settle<T>(tx: &mut SqliteConnection, done: Result<T, Error>) -> Result<T, Error> {
    let kept = match done {
        Ok(done) => {
            script::run(tx, sql::OUTSIDE_KEEP, Values::default()).await.map(|_| done).map_err(|error| told(&error).into())
        }
        Err(error) => Err(error),
    };
    if kept.is_err() {
        undo(tx).await;
    }
    kept
}

async fn begin(tx: &mut SqliteConnection, draft: &Draft) -> Result<Enqueued, Error> {
    let (now, current) = look(tx, draft.id()).await.map_err(|error| told(&error))?;
    let (mut row, record) = match draft.decide(now, current)? {
        Decided::Attach(there) => return Ok(there),
        Decided::Begin(row, record) => (row, record),
    };
    row.run = reserve(tx).await.map_err(|error| told(&error))?;
    let written = async {
        let values = values(&row)?.with(record.digest.0.to_vec())?.with(record.body.to_vec())?;
        script::run(tx, sql::OUTSIDE_BEGIN, values).await
    };
    written.await.map_err(|error| told(&error))?;
    Ok(Enqueued { id: row.id, is_new: true })
}

async fn post(tx: &mut SqliteConnection, posted: Posted) -> Result<(), Error> {
    let Posted { to, message, body } = posted;
    let found = async {
        let values = Values::default().with(to.as_str())?.with(message.as_str())?;
        let rows = script::rows(tx, sql::OUTSIDE_TARGET, values).await?;
        let read = |row: &SqliteRow| -> Result<_, sqlx::Error> {
            Ok((row.try_get::<i64, _>(0)?, status(row.try_get(1)?)?, rows::large(row, 2)?, row.try_get::<bool, _>(3)?))
        };
        rows.first().map(read).transpose()
    };
    let found = found.await.map_err(|error| told(&error))?;
    let Some((run, status, unread, sent)) = found else { return Err(SendError::Unknown(to).into()) };
    if status.is_end() {
        return Err(SendError::AlreadyEnded { id: to, status: status.as_str().to_owned() }.into());
    }
    if sent {
        return Ok(());
    }
    if unread >= u64::from(INBOX_LIMIT) {
        return Err(SendError::InboxFull(to).into());
    }
    let posted = async {
        let values = Values::default().with(run)?.with(message)?.with(body)?;
        script::run(tx, sql::OUTSIDE_POST, values).await
    };
    posted.await.map(drop).map_err(|error| told(&error).into())
}

async fn look(tx: &mut SqliteConnection, id: &str) -> Result<(Timestamp, Option<Current>), sqlx::Error> {
    let rows = script::rows(tx, sql::OUTSIDE_LOOK, Values::default().with(id)?).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let now = Timestamp(row.try_get(0)?);
    let Some(digest) = row.try_get::<Option<&[u8]>, _>(4)? else { return Ok((now, None)) };
    let (run_no, workflow) = (rows::small(row, 1)?, row.try_get(2)?);
    let (status, input_digest) = (status(row.try_get(3)?)?, rows::digest(digest)?);
    Ok((now, Some(Current { run_no, workflow, status, input_digest })))
}

fn status(stored: i64) -> Result<Status, sqlx::Error> {
    Status::of_code(stored).ok_or_else(|| sqlx::Error::Decode(format!("state {stored} is unknown").into()))
}

async fn reserve(tx: &mut SqliteConnection) -> Result<RunKey, sqlx::Error> {
    let answers: Vec<Answered> = script::run(tx, sql::RESERVE, Values::default().with(1_i64)?).await?;
    let row = answers.first().and_then(|answer| answer.rows.first()).ok_or(sqlx::Error::RowNotFound)?;
    Ok(RunKey(row.try_get(0)?))
}

fn values(row: &NewRun) -> Result<Values, sqlx::Error> {
    Values::default()
        .with(row.run.0)?
        .with(row.id.id.as_str())?
        .with(i64::from(row.id.run_no))?
        .with(row.workflow.as_str())?
        .with(i64::from(row.version))?
        .with(i64::from(Status::Active.code()))?
        .with(row.wake_at.map(|at| at.0))?
        .with(row.priority)?
        .with(row.queue.as_str())?
        .with(rows::array(&row.tags))?
        .with(rows::array(&row.needs))?
        .with(row.created_at.0)?
        .with(row.deadline.map(|at| at.0))?
        .with(row.input_digest.0.to_vec())?
        .with(i64::from(FORMAT))
}

fn told(error: &sqlx::Error) -> StoreError {
    trouble::sort(error, "the caller's database").into_store()
}
