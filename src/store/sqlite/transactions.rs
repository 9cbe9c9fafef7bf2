//! Transactional steps: one connection that is lent to users' closures. While it writes nobody else can, so it takes turns
//! with the writer. Within a process the queue is fair: neither waits for more than one transaction of the other. Between
//! processes it is while `turns.rs` has patience; behind that SQLite's own lock decides.
//!
//! A closure's statements are watched: behind the limit or a wish to stop they are interrupted, and the only COMMIT that
//! comes through is ours, which has the step's row in it.

use std::{
    any::Any,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Row, Sqlite, SqliteConnection, Transaction,
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

/// No step may say more, nor more than this part of the node's lease: it cannot be renewed meanwhile, and one attempt may
/// follow the other.
const LONGEST: Duration = Duration::from_secs(5);
const OF_LEASE: u32 = 4;

/// The one seat at writing of this process, for its writer and its users' transactions.
pub(super) type Seat = Arc<Mutex<()>>;

/// After so many operations of SQLite's machine, well below a millisecond, a statement looks whether it is to give up.
const OPERATIONS: i32 = 10_000;

type Lent = (SqliteConnection, Arc<Watch>);

/// What a lent connection asks while it works. Each has its own: one that was dropped in the middle is never reset.
#[derive(Default)]
struct Watch {
    /// Running statements give up.
    expired: AtomicBool,
    /// A COMMIT is ours.
    allowed: AtomicBool,
    /// A COMMIT was not: it became a rollback.
    refused: AtomicBool,
}

impl Watch {
    fn may_commit(&self) -> bool {
        let ours = self.allowed.load(Relaxed);
        if !ours {
            self.refused.store(true, Relaxed);
        }
        ours
    }
}

/// An attempt under way: however it ends, no statement of it runs on.
struct Watched(Arc<Watch>);

impl Watched {
    fn begin(watch: Arc<Watch>) -> Watched {
        for flag in [&watch.expired, &watch.allowed, &watch.refused] {
            flag.store(false, Relaxed);
        }
        Watched(watch)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.expired.store(true, Relaxed);
        self.0.allowed.store(false, Relaxed);
    }
}

/// What there is before the COMMIT.
enum Written {
    /// The closure's value, and the step's row.
    Now(Payload),
    /// What an earlier attempt has committed.
    Before(Payload),
}

impl Written {
    fn value(self) -> Payload {
        match self {
            Written::Now(value) | Written::Before(value) => value,
        }
    }
}

/// The connection that is lent.
pub(super) struct Guest {
    path: String,
    how: SqliteConnectOptions,
    connection: Mutex<Option<Lent>>,
    seat: Seat,
    /// The turns of processes.
    turns: Mutex<Turns>,
    /// Set by an I/O error: nothing is done any more.
    closed: Arc<AtomicBool>,
    /// In milliseconds.
    longest: AtomicU64,
}

impl Guest {
    pub(super) fn new(path: String, how: SqliteConnectOptions, seat: Seat, turns: Turns, closed: Arc<AtomicBool>) -> Guest {
        let longest = AtomicU64::new(millis(LONGEST));
        Guest { path, how, connection: Mutex::default(), seat, turns: Mutex::new(turns), closed, longest }
    }

    /// The node of this store has such a lease.
    pub(super) fn set_lease(&self, lease: Duration) {
        self.longest.store(millis(LONGEST.min(lease / OF_LEASE)), Relaxed);
    }

    /// Closes the connection, unless it is lent.
    pub(super) async fn close(&self) {
        if let Ok(mut connection) = self.connection.try_lock()
            && let Some((connection, _)) = connection.take()
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
        let (mut connection, watch) = match lent.take() {
            Some(lent) => lent,
            None => self.connect().await.map_err(|error| self.failure(&error))?,
        };
        let watched = Watched::begin(watch.clone());
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|error| self.failure(&error))?;
        let written = self.write(&mut transaction, &watch, step, limit, stop, work).await;
        let value = match written {
            Ok(Written::Now(value)) => value,
            Ok(Written::Before(_)) | Err(_) => {
                // What runs beyond its end gives up. The seat and the turn are kept until the write lock is free.
                drop(watched);
                if transaction.rollback().await.is_ok() {
                    *lent = Some((connection, watch));
                } else if !self.closed.load(Relaxed) {
                    let _ = connection.close().await;
                }
                return written.map(Written::value);
            }
        };
        failpoint!("transaction.before_commit");
        watch.allowed.store(true, Relaxed);
        let committed = transaction.commit().await;
        failpoint!("transaction.committed");
        match committed {
            Ok(()) => {
                *lent = Some((connection, watch));
                Ok(value)
            }
            Err(error) => {
                drop(connection);
                self.settle(step, &error).await
            }
        }
    }

    /// Opens a connection that is watched.
    async fn connect(&self) -> Result<Lent, sqlx::Error> {
        let mut connection = self.how.connect().await?;
        let watch: Arc<Watch> = Arc::default();
        let mut handle = connection.lock_handle().await?;
        let expired = watch.clone();
        handle.set_progress_handler(OPERATIONS, move || !expired.expired.load(Relaxed));
        let asked = watch.clone();
        handle.set_commit_hook(move || asked.may_commit());
        drop(handle);
        Ok((connection, watch))
    }

    /// Does everything up to the COMMIT.
    async fn write(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        watch: &Watch,
        step: StepOf,
        limit: Duration,
        mut stop: Stop,
        work: Work,
    ) -> Result<Written, Failure> {
        if step.attempt > 1
            && let Some(before) = self.look(transaction, step).await?
        {
            return Ok(Written::Before(before));
        }
        let written = async {
            let value = (work.0)(&mut **transaction as &mut (dyn Any + Send)).await?;
            self.last(transaction, step, &value).await.map(|()| value)
        };
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(limit, written) => written.map_err(|_| late(limit))?,
            () = &mut stop => return Err(stopped()),
        };
        // Whatever the closure made of it: it will not be better next time.
        if watch.refused.load(Relaxed) { Err(ended()) } else { written.map(Written::Now) }
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
        // It fails as long as there is a transaction; the watch knows of a COMMIT between two.
        if script::run(connection, sql::STEP_PROBE, Values::default()).await.is_ok() {
            let _ = script::run(connection, sql::ROLLBACK, Values::default()).await;
            return Err(ended());
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
        let longest = Duration::from_millis(self.longest.load(Relaxed));
        Box::pin(self.attempt(step, limit.unwrap_or(LIMIT).min(longest), stop, work))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed(why: impl Display) -> Failure {
    Failure::new(KIND_STORE, why.to_string())
}

fn ended() -> Failure {
    let why =
        "the closure ended its transaction itself, which undid it; it may use savepoints (`begin` on the connection), no COMMIT";
    failed(why).into_final()
}

fn stopped() -> Failure {
    Failure::new(KIND_CANCELLED, "it was asked to stop and was rolled back").into_final()
}

fn late(limit: Duration) -> Failure {
    Failure::new(KIND_TIMEOUT, format!("start_to_close ran out: the transaction took longer than {limit:?} and was rolled back"))
}
