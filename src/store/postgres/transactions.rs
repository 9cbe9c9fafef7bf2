//! Transactional steps: a few connections that are lent to users' closures, apart from the writer's session.
//!
//! An attempt is BEGIN, the closure, one statement that writes the step's row behind the fence, and COMMIT. Up to the COMMIT
//! it may be stopped at any moment by dropping its connection: a client that is gone sends no COMMIT. Behind it only the
//! server knows: when its answer is lost, the old session is made sure to be over before the row is looked for.

use std::{
    any::Any,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Postgres, Row, SqlSafeStr, SqlStr,
    postgres::{PgArguments, PgRow},
};
use tokio::sync::Semaphore;

use super::{
    home::{Backend, Home, Role},
    sql,
    trouble::Trouble,
    values::Values,
};
use crate::{
    kernel::{
        failure::{Failure, KIND_CANCELLED, KIND_STORE, KIND_TIMEOUT},
        payload::Payload,
    },
    store::{Ended, StepOf, Stop, Transactions, Work},
};

/// How long a transaction may take up to its COMMIT, unless its step says otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection that was used so short a time ago is taken to be there still.
const FRESH: Duration = Duration::from_secs(1);

const ENDED_ITSELF: &str =
    "the closure ended its transaction itself; it may use savepoints (`begin` on the connection), no COMMIT";

/// How long a lost server is waited for between two tries, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The connections that are lent.
pub(super) struct Guests {
    home: Arc<Home>,
    idle: Mutex<Vec<(PgConnection, Backend, Instant)>>,
    permits: Semaphore,
    look: SqlStr,
    last: SqlStr,
}

impl Guests {
    pub(super) fn new(home: Arc<Home>) -> Guests {
        let text = |text: &str| AssertSqlSafe(text.replace("{schema}", &home.options.schema)).into_sql_str();
        let (look, last) = (text(sql::STEP_LOOK), text(sql::STEP_LAST));
        let permits = Semaphore::new(home.options.transactions.max(1) as usize);
        Guests { home, idle: Mutex::default(), permits, look, last }
    }

    /// Closes what is not lent.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for (connection, ..) in idle {
            self.home.part(connection).await;
        }
    }

    async fn attempt(&self, step: StepOf, limit: Duration, mut stop: Stop, work: Work) -> Result<Payload, Failure> {
        // Whoever waits for a connection has not begun.
        let _permit = tokio::select! {
            permit = self.permits.acquire() => permit.map_err(|_| failed("the store is closed"))?,
            () = &mut stop => return Err(stopped()),
        };
        let (mut connection, backend) = self.lend().await?;
        if step.attempt > 1
            && let Some(before) = self.look(&mut connection, step).await?
        {
            self.give_back(connection, backend);
            return Ok(before);
        }
        let mut transaction = connection.begin_with(begin(step, limit)).await.map_err(|error| self.failure(&error))?;
        let written = async {
            let ended = match (work.0)(&mut *transaction as &mut (dyn Any + Send)).await {
                Ok(value) => self.last(&mut transaction, step, &value).await.map(|()| value),
                Err(failure) => Err(failure),
            };
            match ended {
                // Another attempt would write once more what this one has committed.
                Err(failure) if !failure.is_final() && !Self::is_ours(&mut transaction).await => {
                    Err(failed(format!("{ENDED_ITSELF}; it failed with: {}", failure.message())).into_final())
                }
                ended => ended,
            }
        };
        // Stopped here, connection and all are dropped: whoever is gone sends no COMMIT.
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(limit, written) => written.map_err(|_| late(limit))?,
            () = &mut stop => return Err(stopped()),
        };
        let value = match written {
            Ok(value) => value,
            Err(failure) => {
                let over = transaction.rollback().await;
                // An attempt that seemed to be over may have come first: then its row is there.
                let before = if over.is_ok() { self.look(&mut connection, step).await? } else { None };
                if over.is_ok() {
                    self.give_back(connection, backend);
                }
                return before.ok_or(failure);
            }
        };
        failpoint!("transaction.before_commit");
        let patience = self.home.options.statement_timeout + Duration::from_secs(1);
        let committed = tokio::time::timeout(patience, transaction.commit()).await;
        failpoint!("transaction.committed");
        match committed.map(|committed| committed.map_err(|error| self.home.sort(&error))) {
            Ok(Ok(())) => {
                self.give_back(connection, backend);
                Ok(value)
            }
            Err(_) => self.settle(step, backend, &format!("no answer within {patience:?}")).await,
            Ok(Err(Trouble::Lost(reason))) => self.settle(step, backend, &reason).await,
            // The server said no, so nothing of it is there.
            Ok(Err(trouble)) => Err(failed(trouble.into_store(&self.home.server))),
        }
    }

    /// Returns a connection that answers: one may have died while nobody used it.
    async fn lend(&self) -> Result<(PgConnection, Backend), Failure> {
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                None => return self.connect().await,
                Some((mut connection, backend, since)) => {
                    if since.elapsed() < FRESH || connection.ping().await.is_ok() {
                        return Ok((connection, backend));
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<(PgConnection, Backend), Failure> {
        let connected = self.home.connect(Role::Guest).await;
        connected.map_err(|trouble| failed(trouble.into_store(&self.home.server)))
    }

    /// Returns what an attempt of this step has committed.
    async fn look(&self, connection: &mut PgConnection, step: StepOf) -> Result<Option<Payload>, Failure> {
        let values = Values::default().with(step.run.0).with(i64::from(step.position));
        let rows = self.rows(connection, &self.look, values).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let bytes: &[u8] = row.try_get(0).map_err(|error| self.failure(&error))?;
        rmp_serde::from_slice(bytes).map(Some).map_err(|error| failed(format!("its recorded result does not decode: {error}")))
    }

    /// Writes the step's row, if the run is this node's.
    async fn last(&self, connection: &mut PgConnection, step: StepOf, value: &Payload) -> Result<(), Failure> {
        let output = rmp_serde::to_vec(value).map_err(failed)?;
        let values = Values::default()
            .with(step.run.0)
            .with(i64::try_from(step.epoch).unwrap_or(i64::MAX))
            .with(step.incarnation.0)
            .with(i64::from(step.position))
            .with(i64::from(step.attempt))
            .with(output)
            .with(mark(step))
            .with(self.home.options.idle_timeout.as_millis().max(1).to_string());
        let rows = self.rows(connection, &self.last, values).await?;
        let row = rows.first().ok_or_else(|| failed("the last statement gave no answer"))?;
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        match read().map_err(|error| self.failure(&error))? {
            (true, true, 1_i64) => Ok(()),
            (_, false, _) => Err(failed(ENDED_ITSELF).into_final()),
            _ => Err(failed("this node does not own the run any more; nothing was changed")),
        }
    }

    /// Tells whether a transaction that failed is still the one that was begun: only that knows our savepoint, and goes back to it
    /// also when a statement has aborted it. Of a connection that is lost nobody can tell.
    async fn is_ours(connection: &mut PgConnection) -> bool {
        let Err(error) = sqlx::raw_sql(sql::STEP_BACK).execute(connection).await else { return true };
        // There is no transaction, or another one, which does not know it.
        !error.as_database_error().and_then(|error| error.code()).is_some_and(|code| ["25P01", "3B001"].contains(&&*code))
    }

    async fn rows(&self, connection: &mut PgConnection, text: &SqlStr, values: Values) -> Result<Vec<PgRow>, Failure> {
        let arguments: PgArguments = values.arguments().map_err(|error| self.failure(&error))?;
        let rows = sqlx::query_with::<Postgres, _>(text.clone(), arguments).fetch_all(connection).await;
        rows.map_err(|error| self.failure(&error))
    }

    fn give_back(&self, connection: PgConnection, backend: Backend) {
        if !self.permits.is_closed() {
            self.idle.lock().push((connection, backend, Instant::now()));
        }
    }

    /// Finds out what became of a COMMIT whose answer was lost; as long as that takes.
    async fn settle(&self, step: StepOf, old: Backend, reason: &str) -> Result<Payload, Failure> {
        let mut pause = Duration::from_millis(10);
        loop {
            match self.settled(step, &old).await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => return Err(failed(format!("the connection was lost ({reason}), and nothing was changed"))),
                Err(error) => tracing::debug!(%error, ?step, "what became of a transaction is not known yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn settled(&self, step: StepOf, old: &Backend) -> Result<Option<Payload>, Failure> {
        let (mut connection, backend) = self.connect().await?;
        let old = || Values::default().with(old.pid).with(old.start.as_str());
        let gone = |trouble: Trouble| failed(trouble.into_store(&self.home.server));
        while !self.home.rows(&mut connection, sql::END_BACKEND, old()).await.map_err(gone)?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let found = self.look(&mut connection, step).await?;
        self.give_back(connection, backend);
        Ok(found)
    }

    fn failure(&self, error: &sqlx::Error) -> Failure {
        failed(self.home.sort(error).into_store(&self.home.server))
    }
}

impl Transactions for Guests {
    fn run(&self, step: StepOf, limit: Option<Duration>, stop: Stop, work: Work) -> Ended<'_> {
        Box::pin(self.attempt(step, limit.unwrap_or(LIMIT), stop, work))
    }
}

/// Returns how the transaction of an attempt begins. The server itself ends it when its time is over, whatever becomes of this
/// process.
fn begin(step: StepOf, limit: Duration) -> SqlStr {
    let (millis, mark) = (limit.as_millis().clamp(1, 1 << 30), mark(step));
    let begin = format!(
        "BEGIN; SET LOCAL statement_timeout = {millis}; SET LOCAL idle_in_transaction_session_timeout = {millis}; \
         SET LOCAL stent.step = '{mark}'; SAVEPOINT stent_step"
    );
    AssertSqlSafe(begin).into_sql_str()
}

/// What is set within the transaction of an attempt and gone behind it.
fn mark(step: StepOf) -> String {
    format!("{}/{}/{}", step.run.0, step.position, step.attempt)
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
