//! Transactional steps: one connection that is lent to users' closures. While it writes nobody else can, so it takes turns
//! with the writer by a queue that is fair: neither waits for more than one transaction of the other.

use std::{
    any::Any,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tokio::sync::Mutex;

use super::{look, script, script::Values, sql, trouble, turns::Turns};
use crate::{
    kernel::{
        failure::{Failure, KIND_CANCELLED, KIND_STORE, KIND_TIMEOUT},
        payload::Payload,
    },
    store::{Ended, StepOf, Stop, StoreError, Transactions, Work},
};

/// How long a transaction may take up to its COMMIT, unless its step says otherwise: nobody else writes meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// No step may say more: half of the default lease, which cannot be renewed meanwhile.
const LONGEST: Duration = Duration::from_secs(5);

/// The one seat at writing of this process, for its writer and its users' transactions.
pub(super) type Seat = Arc<Mutex<()>>;

/// The connection that is lent.
pub(super) struct Guest {
    path: String,
    how: SqliteConnectOptions,
    connection: Mutex<Option<SqliteConnection>>,
    seat: Seat,
    /// The turns of processes.
    turns: Mutex<Turns>,
    /// Set by an I/O error: nothing is done any more.
    closed: Arc<AtomicBool>,
}

impl Guest {
    pub(super) fn new(path: String, how: SqliteConnectOptions, seat: Seat, turns: Turns, closed: Arc<AtomicBool>) -> Guest {
        Guest { path, how, connection: Mutex::default(), seat, turns: Mutex::new(turns), closed }
    }

    /// Closes the connection, unless it is lent.
    pub(super) async fn close(&self) {
        if let Ok(mut connection) = self.connection.try_lock()
            && let Some(connection) = connection.take()
        {
            // The writer's checkpoint is what counts.
            let _ = connection.close().await;
        }
    }

    async fn attempt(&self, step: StepOf, limit: Duration, mut stop: Stop, work: Work) -> Result<Payload, Failure> {
        // Whoever waits for its turn has not begun.
        let mut lent = tokio::select! {
            lent = self.connection.lock() => lent,
            () = &mut stop => return Err(stopped()),
        };
        let _seat = tokio::select! {
            seat = self.seat.lock() => seat,
            () = &mut stop => return Err(stopped()),
        };
        let mut turns = self.turns.lock().await;
        let _turn = turns.begin().await;
        if self.closed.load(Relaxed) {
            return Err(failed(StoreError::Closed));
        }
        let mut connection = match lent.take() {
            Some(connection) => connection,
            None => self.how.connect().await.map_err(|error| self.failure(&error))?,
        };
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|error| self.failure(&error))?;
        if step.attempt > 1
            && let Some(before) = self.look(&mut transaction, step).await?
        {
            return Ok(before);
        }
        let written = async {
            let value = (work.0)(&mut *transaction as &mut (dyn Any + Send)).await?;
            self.last(&mut transaction, step, &value).await.map(|()| value)
        };
        // Stopped here, connection and all are dropped, which rolls back.
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(limit, written) => written.map_err(|_| late(limit))?,
            () = &mut stop => return Err(stopped()),
        };
        let value = match written {
            Ok(value) => value,
            Err(failure) => {
                if transaction.rollback().await.is_ok() {
                    *lent = Some(connection);
                }
                return Err(failure);
            }
        };
        failpoint!("transaction.before_commit");
        let committed = transaction.commit().await;
        failpoint!("transaction.committed");
        match committed {
            Ok(()) => {
                *lent = Some(connection);
                Ok(value)
            }
            Err(error) => {
                drop(connection);
                self.settle(step, &error).await
            }
        }
    }

    /// Finds out what became of a COMMIT that gave an error. Behind an I/O error nothing that is read may be trusted: the
    /// store closes, and the next life looks.
    async fn settle(&self, step: StepOf, error: &sqlx::Error) -> Result<Payload, Failure> {
        let failure = self.failure(error);
        if self.closed.load(Relaxed) {
            return Err(failure);
        }
        let mut connection = self.how.connect().await.map_err(|error| self.failure(&error))?;
        self.look(&mut connection, step).await?.ok_or(failure)
    }

    /// Returns what an attempt of this step has committed.
    async fn look(&self, connection: &mut SqliteConnection, step: StepOf) -> Result<Option<Payload>, Failure> {
        let values = Values::default().with(step.run.0).and_then(|values| values.with(i64::from(step.position)));
        let rows = async { script::rows(connection, sql::STEP_LOOK, values?).await };
        let rows: Vec<SqliteRow> = rows.await.map_err(|error| self.failure(&error))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let bytes: &[u8] = row.try_get(0).map_err(|error| self.failure(&error))?;
        rmp_serde::from_slice(bytes).map(Some).map_err(|error| failed(format!("its recorded result does not decode: {error}")))
    }

    /// Writes the step's row, if the run is this node's.
    async fn last(&self, connection: &mut SqliteConnection, step: StepOf, value: &Payload) -> Result<(), Failure> {
        // It fails as long as the transaction is the one that was begun.
        if script::run(connection, sql::STEP_PROBE, Values::default()).await.is_ok() {
            let _ = script::run(connection, sql::ROLLBACK, Values::default()).await;
            let why = "the closure ended its transaction itself; it may use savepoints (`begin` on the connection), no COMMIT";
            return Err(failed(why).into_final());
        }
        let output = rmp_serde::to_vec(value).map_err(failed)?;
        let written = async {
            let values = Values::default()
                .with(step.run.0)?
                .with(i64::try_from(step.epoch).unwrap_or(i64::MAX))?
                .with(look::name(step.incarnation))?
                .with(i64::from(step.position))?
                .with(i64::from(step.attempt))?
                .with(output)?;
            script::run(connection, sql::STEP_LAST, values).await
        };
        match written.await.map_err(|error| self.failure(&error))?.first() {
            Some(answered) if answered.changed == 1 => Ok(()),
            _ => Err(failed("this node does not own the run any more; nothing was changed")),
        }
    }

    fn failure(&self, error: &sqlx::Error) -> Failure {
        let error = trouble::sort(error, &self.path).into_store();
        if let StoreError::Io { .. } = error {
            self.closed.store(true, Relaxed);
        }
        failed(error)
    }
}

impl Transactions for Guest {
    fn run(&self, step: StepOf, limit: Option<Duration>, stop: Stop, work: Work) -> Ended<'_> {
        Box::pin(self.attempt(step, limit.unwrap_or(LIMIT).min(LONGEST), stop, work))
    }
}

fn failed(why: impl Display) -> Failure {
    Failure::new(KIND_STORE, why.to_string())
}

fn stopped() -> Failure {
    Failure::new(KIND_CANCELLED, "it was asked to stop and was rolled back").into_final()
}

fn late(limit: Duration) -> Failure {
    Failure::new(KIND_TIMEOUT, format!("start_to_close ran out: the transaction took longer than {limit:?} and was rolled back"))
}
