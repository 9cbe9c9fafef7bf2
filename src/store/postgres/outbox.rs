//! The way into a caller's own transaction. What is unique beyond it (run keys, priorities) is had beforehand and over a
//! session of our own: a row that the caller's transaction kept locked would be waited for by every node.

use std::{collections::HashSet, ops::Range, sync::Arc};

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, SqlSafeStr, SqlStr, postgres::PgRow};
use tokio::sync::Mutex;

use super::{
    PostgresOptions, hints,
    home::{Home, Role},
    rows, schema,
    session::Session,
    sql,
    trouble::Trouble,
    values::Values,
};
use crate::{
    Dispatch, SendSignal, Workflow,
    error::{DispatchError, Error, SendError},
    hints::{Hint, write},
    kernel::{
        id::{Incarnation, RunKey},
        limits::Limits,
        time::Timestamp,
    },
    store::{
        Enqueued, FORMAT, NewRun, Status, StoreError,
        outbox::{Current, Decided, Draft, OUTSIDE, Posted},
    },
};

/// So many run keys are had at once. What is left when the program ends stays unused.
const KEYS: u32 = 256;

/// How often it is tried to begin a run while others take its id and give it back.
const TRIES: u32 = 8;

/// Begins executions, and sends signals, in transactions of the caller's own: an outbox without an outbox. What was asked for
/// exists exactly if the caller's transaction commits, and is found at once then.
///
/// The connection is one of [`sqlx`](super::sqlx), to the same database; its `search_path` does not matter. Cheap to clone,
/// usable on any thread of a tokio runtime, with or without a [`Stent`](crate::Stent) in the same program.
///
/// ```no_run
/// # use stent::{prelude::*, store::postgres::{Outbox, PostgresOptions, sqlx::{self, Connection, PgConnection}}};
/// # #[derive(Serialize, Deserialize)] struct Ship { order: i64 }
/// # impl Workflow for Ship {
/// #     const NAME: &'static str = "docs.ship"; type Output = (); type Error = AppError;
/// #     async fn run(self, _: Cx<Self>) -> Result<(), AppError> { Ok(()) }
/// # }
/// # async fn order(mut connection: PgConnection) -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = Outbox::open("postgres://localhost/shop", PostgresOptions::default()).await?;
/// let mut tx = connection.begin().await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// outbox.dispatch(&mut tx, Dispatch::new(Ship { order: 7 }).id("ship-7")).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Outbox {
    home: Arc<Home>,
    limits: Limits,
    texts: Arc<Texts>,
    ahead: Arc<Mutex<Ahead>>,
}

/// The statements, each with the schema's name in it.
struct Texts {
    look: SqlStr,
    begin: SqlStr,
    lock: SqlStr,
    target: SqlStr,
    post: SqlStr,
}

/// What is had beforehand.
struct Ahead {
    session: Session,
    keys: Range<i64>,
    priorities: HashSet<i32>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("server", &self.home.server).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Connects to the server and makes the schema, or brings it up to date, as a node would. The URL is the one of the nodes,
    /// with the same `schema`.
    ///
    /// # Errors
    /// As [`PostgresStore::open`](super::PostgresStore::open).
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Outbox, StoreError> {
        let home = Home::new(url, options)?;
        let mut session = Session::new(home.clone(), Role::Warden);
        let ready = async {
            session.ready().await?;
            schema::migrate(&home).await
        };
        ready.await.map_err(|trouble: Trouble| trouble.into_store(&home.server))?;
        let text = |text: &str| AssertSqlSafe(text.replace("{schema}", &home.options.schema)).into_sql_str();
        let texts = Texts {
            look: text(sql::OUTSIDE_LOOK),
            begin: text(sql::OUTSIDE_BEGIN),
            lock: text(sql::OUTSIDE_LOCK),
            target: text(sql::OUTSIDE_TARGET),
            post: text(sql::OUTSIDE_POST),
        };
        let ahead = Ahead { session, keys: 0..0, priorities: HashSet::from([0]) };
        Ok(Outbox { home, limits: Limits::default(), texts: Arc::new(texts), ahead: Arc::new(Mutex::new(ahead)) })
    }

    /// Sets the limits under which what is begun here runs: those of the nodes, if they have others than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Outbox {
        self.limits = limits;
        self
    }

    /// Begins an execution in this transaction. Nothing of it is seen, by anybody, before the commit, and nothing is left
    /// behind a rollback; behind the commit a node that has the workflow runs it.
    ///
    /// An id that another open transaction is about to use is waited for, as long as the caller's `lock_timeout` lets it; nodes
    /// never wait for this one. Refused is said by a value: the transaction goes on as it was.
    ///
    /// # Errors
    /// [`DispatchError::IdInUse`](crate::DispatchError) by the policy (`Replace` is not possible here), other
    /// [`Error::Dispatch`] for what no store would take; [`Error::Store`] for an error of the connection, behind which
    /// the transaction can only be rolled back.
    pub async fn dispatch<W: Workflow>(&self, tx: &mut PgConnection, dispatch: Dispatch<W>) -> Result<Enqueued, Error> {
        let draft = Draft::of(dispatch, self.limits)?;
        for _ in 0..TRIES {
            let (now, current) = self.look(tx, draft.id()).await?;
            let (mut row, record) = match draft.decide(now, current)? {
                Decided::Attach(there) => return Ok(there),
                Decided::Begin(row, record) => (row, record),
            };
            row.run = self.key(row.priority).await?;
            let values = self.row(&row).with(record.digest.0.to_vec()).with(&record.body[..]);
            let rows = self.rows(tx, &self.texts.begin, self.hint(values, &Hint::Due, row.wake_at)).await?;
            if !rows.is_empty() {
                return Ok(Enqueued { id: row.id, is_new: true });
            }
            // Somebody else's run of this id was committed in between: it is looked at.
        }
        let why = format!("id {:?} is taken and given back again and again", draft.id());
        Err(DispatchError::Unavailable(why).into())
    }

    /// Sends a signal in this transaction: it is delivered exactly if that commits. Until then the execution that it goes to
    /// can neither sleep nor end, nor move to another node.
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken, and leaves the transaction as it was; [`Error::Store`] as in
    /// [`dispatch`](Outbox::dispatch).
    pub async fn signal(&self, tx: &mut PgConnection, signal: SendSignal) -> Result<(), Error> {
        let Posted { to, message, body } = Posted::of(signal, self.limits)?;
        let (run, there) = loop {
            let rows = self.rows(tx, &self.texts.lock, Values::default().with(to.as_str())).await?;
            let Some(row) = rows.first() else { return Err(SendError::Unknown(to).into()) };
            let run: i64 = row.try_get(0).map_err(|error| self.error(&error))?;
            // In a later statement: what the one that waited for the lock has seen of others may be old.
            let rows = self.rows(tx, &self.texts.target, Values::default().with(run).with(message.as_str())).await?;
            let there = target(rows.first().ok_or_else(no_answer)?).map_err(|error| self.error(&error))?;
            // It has continued while its lock was waited for: its next run is there already.
            if there.status != Status::Continued {
                break (run, there);
            }
        };
        let Target { status, owner, unread, sent, now } = there;
        if status.is_end() {
            return Err(SendError::AlreadyEnded { id: to, status: status.as_str().to_owned() }.into());
        }
        if sent {
            return Ok(());
        }
        if unread >= i64::from(self.home.options.inbox_limit) {
            return Err(SendError::InboxFull(to).into());
        }
        let (hint, due) = match owner {
            Some(owner) => (Hint::Mail { run: RunKey(run), owner }, None),
            None => (Hint::Due, Some(now)),
        };
        let values = Values::default().with(run).with(message).with(body);
        self.rows(tx, &self.texts.post, self.hint(values, &hint, due)).await?;
        Ok(())
    }

    /// Closes the session of its own.
    pub async fn close(&self) {
        self.ahead.lock().await.session.close().await;
    }

    /// Returns a run key that nobody else has, and makes sure that claims look at this priority.
    async fn key(&self, priority: i32) -> Result<RunKey, StoreError> {
        let mut ahead = self.ahead.lock().await;
        let Ahead { session, keys, priorities } = &mut *ahead;
        let told = |trouble: Trouble| trouble.into_store(&self.home.server);
        if !priorities.contains(&priority) {
            session.again(sql::PRIORITIES, Values::default().with(&[priority][..])).await.map_err(told)?;
            priorities.insert(priority);
        }
        if keys.is_empty() {
            let rows = session.again(sql::RESERVE, Values::default().with(i64::from(KEYS))).await.map_err(told)?;
            let first = rows.first().and_then(|row| row.try_get::<i64, _>(0).ok());
            let first = first.ok_or(StoreError::Other("the store has no row for its next key".into()))?;
            *keys = first..first + i64::from(KEYS);
        }
        keys.next().map(RunKey).ok_or(StoreError::Other("no key was reserved".into()))
    }

    async fn look(&self, tx: &mut PgConnection, id: &str) -> Result<(Timestamp, Option<Current>), StoreError> {
        let rows = self.rows(tx, &self.texts.look, Values::default().with(id)).await?;
        let row = rows.first().ok_or_else(no_answer)?;
        let read = || {
            let now = Timestamp(row.try_get(0)?);
            let Some(digest) = row.try_get::<Option<&[u8]>, _>(4)? else { return Ok((now, None)) };
            let (run_no, workflow) = (rows::small(row, 1)?, row.try_get(2)?);
            let (status, input_digest) = (status(row.try_get(3)?)?, rows::digest(digest)?);
            Ok((now, Some(Current { run_no, workflow, status, input_digest })))
        };
        read().map_err(|error| self.error(&error))
    }

    fn row(&self, row: &NewRun) -> Values {
        Values::default()
            .with(row.run.0)
            .with(row.id.id.as_str())
            .with(i64::from(row.id.run_no))
            .with(row.workflow.as_str())
            .with(i64::from(row.version))
            .with(Status::Active.code())
            .with(row.wake_at.map(|at| at.0))
            .with(row.priority)
            .with(row.queue.as_str())
            .with(&row.tags[..])
            .with(&row.needs[..])
            .with(row.created_at.0)
            .with(row.deadline.map(|at| at.0))
            .with(row.input_digest.0.to_vec())
            .with(i32::try_from(FORMAT).unwrap_or(i32::MAX))
    }

    /// Adds the channel and the text that the server tells to the nodes with the commit. It says when the run is due: a
    /// transaction that stays open for long commits what searches are done with.
    fn hint(&self, values: Values, hint: &Hint, due: Option<Timestamp>) -> Values {
        let text = write(OUTSIDE, std::slice::from_ref(hint)).concat();
        let due = due.map_or_else(String::new, |due| due.0.to_string());
        values.with(hints::channel(&self.home)).with(format!("{text}{due}"))
    }

    async fn rows(&self, tx: &mut PgConnection, text: &SqlStr, values: Values) -> Result<Vec<PgRow>, StoreError> {
        let arguments = values.arguments().map_err(|error| self.error(&error))?;
        let rows = sqlx::query_with::<Postgres, _>(text.clone(), arguments).fetch_all(tx).await;
        rows.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        self.home.sort(error).into_store(&self.home.server)
    }
}

/// To whom a signal goes, as it is behind the lock.
struct Target {
    status: Status,
    owner: Option<Incarnation>,
    unread: i64,
    sent: bool,
    now: Timestamp,
}

fn target(row: &PgRow) -> Result<Target, sqlx::Error> {
    let owner: Option<uuid::Uuid> = row.try_get(1)?;
    Ok(Target {
        status: status(row.try_get(0)?)?,
        owner: owner.map(Incarnation),
        unread: row.try_get(2)?,
        sent: row.try_get(3)?,
        now: Timestamp(row.try_get(4)?),
    })
}

fn status(stored: i16) -> Result<Status, sqlx::Error> {
    Status::of_code(stored.into()).ok_or_else(|| sqlx::Error::Decode(format!("state {stored} is unknown").into()))
}

fn no_answer() -> StoreError {
    StoreError::Other("the statement gave no answer".into())
}
