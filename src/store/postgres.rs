//! The store on a PostgreSQL server, shared by several nodes: one schema. A node has one connection that commits, three for the
//! affairs of nodes (its LeaseKeeper's, its Undertaker's and its Foreman's), two for hints, a few that read and, once it has
//! transactional steps, a few that are lent to them.
//!
//! Most batches are one statement and one round trip (`turns.rs`); what that does not accept, or what is rare, is decided by
//! the rules of the reference store in a transaction of a few statements (`commit.rs`, `look.rs`, `decide.rs`). Nobody waits
//! for a foreign transaction, nothing is told before it is known (`session.rs`), and a server that has lost what it
//! acknowledged is found out (`home.rs`).

use std::{rc::Rc, sync::Arc};

use futures_util::FutureExt;

use self::{
    commit::Writer,
    home::{Home, Role},
    read::PostgresReader,
    session::Session,
    transactions::Guests,
    trouble::Trouble,
    values::Values,
};
use super::{
    Answer, Batch, BatchAnswer, DeadLetter, Filter, Inbox, LetterFilter, MemoFound, NewNode, NodeRow, OpenWarden, Outcome,
    Publication, Queue, QueueState, Reader, Renewed, ScheduleDue, ScheduleRow, StaleTask, Store, StoreError, Stored, Summary,
    TakenTasks, TaskRequest, TaskRow, Transactions, Warden, stored,
};
use crate::{
    hints::OpenHints,
    kernel::{
        codec::Record,
        id::{CommitNo, Epoch, Incarnation, RunId, RunKey},
        memo::MemoKey,
        time::Timestamp,
    },
};

mod claim;
mod commit;
mod decide;
mod held;
mod hints;
mod home;
mod letters;
mod look;
mod memos;
mod nodes;
mod options;
mod others;
mod outbox;
mod published;
mod read;
mod rows;
mod runs;
mod schedules;
mod schema;
mod session;
mod sql;
mod sql_tasks;
mod successor;
mod tails;
mod tasks;
mod transactions;
mod trouble;
mod turns;
mod values;

pub use options::PostgresOptions;
pub use outbox::Outbox;
/// The driver, in the version of which this crate's connections are.
pub use sqlx;

/// A store on a PostgreSQL server.
pub struct PostgresStore {
    home: Arc<Home>,
    writer: Option<Writer>,
    reader: Rc<PostgresReader>,
    guests: Arc<Guests>,
    /// The last time that a caller told: `retire` has none of its own.
    now: Timestamp,
    /// What this store has entered last.
    entered: Option<Incarnation>,
    taker: tasks::Taker,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("server", &self.home.server).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to a server and makes the schema, or brings it up to date. Needs a tokio runtime with timers.
    ///
    /// # Shape
    /// `postgres://user:password@host:port/database?schema=stent&sslmode=verify-full`. Parameters of our own are those of
    /// [`PostgresOptions`]: `schema`, `readers`, `transactions`, `connect_timeout` (seconds, as in libpq), `statement_timeout`, `lock_timeout`,
    /// `idle_timeout` and `patience` (milliseconds); all others are the driver's, as in libpq: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`,
    /// `host`, `port`, `user`, `password`, `dbname`, `application_name`, `options`.
    ///
    /// # Errors
    /// - [`StoreError::Unreachable`]: no server answers, or none that is a primary, within the patience of the options.
    /// - [`StoreError::NewerSchema`]: a newer release made the schema.
    /// - [`StoreError::Corrupt`]: the schema is another program's.
    /// - [`StoreError::Other`]: wrong credentials, no such database, a server that is not durable, a pooler in between.
    pub async fn open(url: &str, options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        let home = Home::new(url, options)?;
        let mut session = Session::new(home.clone(), Role::Writer);
        let ready = async {
            session.ready().await?;
            schema::migrate(&home).await
        };
        ready.await.map_err(|trouble: Trouble| trouble.into_store(&home.server))?;
        Ok(PostgresStore {
            writer: Some(Writer::new(session)),
            reader: Rc::new(PostgresReader::new(home.clone())),
            guests: Arc::new(Guests::new(home.clone())),
            home,
            now: Timestamp::default(),
            entered: None,
            taker: tasks::Taker::default(),
        })
    }

    /// Drops the schema of a URL with everything in it.
    ///
    /// # Errors
    /// As [`open`](PostgresStore::open).
    pub async fn drop_schema(url: &str) -> Result<(), StoreError> {
        let home = Home::new(url, PostgresOptions::default())?;
        let dropped = schema::drop(&home).await;
        dropped.map_err(|trouble: Trouble| trouble.into_store(&home.server))
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        self.writer.as_mut().ok_or(StoreError::Closed)
    }

    /// Runs a verb on the session that commits.
    async fn on_session<T>(&mut self, verb: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let answer = verb(&mut self.writer()?.session).await;
        answer.map_err(|trouble| trouble.into_store(&self.home.server))
    }

    async fn do_register(&mut self, node: &NewNode) -> Result<u64, StoreError> {
        self.now = node.now;
        let before = self.entered.take();
        let (short, freed) = self
            .on_session(async |session| {
                let freed = match before {
                    Some(before) if before != node.incarnation => {
                        nodes::retire(session, before, Some(node.now), &[], node.now).await?
                    }
                    _ => 0,
                };
                Ok((nodes::register(session, node).await?, freed))
            })
            .await?;
        self.entered = Some(node.incarnation);
        self.writer()?.entered(node.incarnation, short);
        Ok(freed)
    }
}

impl Warden for PostgresStore {
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed> {
        self.on_session(async move |session| nodes::renew(session, incarnation, held).await).boxed_local()
    }

    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>> {
        self.on_session(async |session| nodes::nodes(session).await).boxed_local()
    }

    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()> {
        self.on_session(async move |session| nodes::drain(session, incarnation).await).boxed_local()
    }

    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool> {
        self.on_session(async move |session| nodes::take_over(session, incarnation, seen_beat).await).boxed_local()
    }

    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64> {
        self.now = now;
        self.on_session(async move |session| nodes::sweep(session, now, most).await).boxed_local()
    }

    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks> {
        async move {
            let mut taker = std::mem::take(&mut self.taker);
            self.now = request.now;
            let taken = self.on_session(async |session| tasks::take(session, &mut taker, &request).await).await;
            self.taker = taker;
            taken
        }
        .boxed_local()
    }
}

impl Store for PostgresStore {
    fn register(&mut self, node: &NewNode) -> Answer<'_, u64> {
        let node = node.clone();
        async move { self.do_register(&node).await }.boxed_local()
    }

    fn retire(&mut self, incarnation: Incarnation, free: bool, keep: &[RunKey]) -> Answer<'_, u64> {
        let (now, keep) = (self.now, keep.to_vec());
        let free = free.then_some(now);
        self.on_session(async move |session| nodes::retire(session, incarnation, free, &keep, now).await).boxed_local()
    }

    fn resume(&mut self, id: &str, now: Timestamp) -> Answer<'_, Outcome> {
        let id = id.to_owned();
        async move {
            if !id.contains('\0') {
                let values = Values::default().with(id.as_str()).with(now.0);
                self.on_session(async move |session| session.again(sql::RESUME, values).await.map(drop)).await?;
            }
            Ok(match self.reader.read_find(id, None).await? {
                None => Outcome::Unknown,
                Some(run) if run.status.is_end() => Outcome::Ended(Box::new(run)),
                Some(_) => Outcome::Done,
            })
        }
        .boxed_local()
    }

    fn halt(&mut self, run: RunKey, epoch: Epoch, reason: &str) -> Answer<'_, ()> {
        let values = Values::default().with(run.0).with(reason.replace('\0', "\u{fffd}").as_str()).with(rows::number(epoch));
        async move { self.on_session(async move |session| session.again(sql::HALT, values).await.map(drop)).await }.boxed_local()
    }

    fn reserve_keys(&mut self, count: u32) -> Answer<'_, RunKey> {
        self.on_session(async move |session| {
            // What a lost answer had reserved stays unused.
            let rows = session.again(sql::RESERVE, Values::default().with(i64::from(count))).await?;
            match rows.first().map(|row| sqlx::Row::try_get(row, 0)) {
                Some(Ok(first)) => Ok(RunKey(first)),
                _ => Err(Trouble::Statement("the store has no row for its next key".into())),
            }
        })
        .boxed_local()
    }

    fn declare_queues(&mut self, queues: &[Queue]) -> Answer<'_, ()> {
        let queues = queues.to_vec();
        self.on_session(async move |session| {
            for queue in &queues {
                tasks::declare(session, queue).await?;
            }
            Ok(())
        })
        .boxed_local()
    }

    fn pause_queue(&mut self, name: &str, paused: bool) -> Answer<'_, ()> {
        let name = name.to_owned();
        self.on_session(async move |session| tasks::pause(session, &name, paused).await).boxed_local()
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, BatchAnswer> {
        async move {
            self.now = batch.now;
            let answer = self.writer()?.commit(batch).await;
            answer.map_err(|trouble| trouble.into_store(&self.home.server))
        }
        .boxed_local()
    }

    fn reader(&self) -> Rc<dyn Reader> {
        self.reader.clone()
    }

    fn warden(&self) -> Option<OpenWarden> {
        let home = self.home.clone();
        Some(Arc::new(move || {
            let home = home.clone();
            async move {
                let mut session = Session::new(home, Role::Warden);
                let ready = session.ready().await;
                ready.map_err(|trouble| trouble.into_store(&session.home.server))?;
                Ok(Box::new(PostgresWarden { session, taker: tasks::Taker::default() }) as Box<dyn Warden>)
            }
            .boxed_local()
        }))
    }

    fn time(&mut self) -> Answer<'_, Option<Timestamp>> {
        self.on_session(async |session| nodes::time(session).await.map(Some)).boxed_local()
    }

    fn hints(&self) -> Option<OpenHints> {
        let home = self.home.clone();
        Some(Arc::new(move |me| hints::open(home.clone(), me).boxed_local()))
    }

    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(self.guests.clone())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn close(&mut self) -> Answer<'_, ()> {
        async move {
            self.guests.close().await;
            self.reader.close().await;
            if let Some(mut writer) = self.writer.take() {
                writer.session.close().await;
            }
            Ok(())
        }
        .boxed_local()
    }
}

/// The affairs of nodes over a connection of their own, so that a renewal never waits behind a commit.
struct PostgresWarden {
    session: Session,
    taker: tasks::Taker,
}

impl PostgresWarden {
    async fn on_session<T>(&mut self, verb: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let answer = verb(&mut self.session).await;
        answer.map_err(|trouble| trouble.into_store(&self.session.home.server))
    }
}

impl Warden for PostgresWarden {
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed> {
        self.on_session(async move |session| nodes::renew(session, incarnation, held).await).boxed_local()
    }

    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>> {
        self.on_session(async |session| nodes::nodes(session).await).boxed_local()
    }

    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()> {
        self.on_session(async move |session| nodes::drain(session, incarnation).await).boxed_local()
    }

    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool> {
        self.on_session(async move |session| nodes::take_over(session, incarnation, seen_beat).await).boxed_local()
    }

    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64> {
        self.on_session(async move |session| nodes::sweep(session, now, most).await).boxed_local()
    }

    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks> {
        async move {
            let mut taker = std::mem::take(&mut self.taker);
            let taken = self.on_session(async |session| tasks::take(session, &mut taker, &request).await).await;
            self.taker = taker;
            taken
        }
        .boxed_local()
    }
}

impl Reader for PostgresReader {
    fn history(&self, run: RunKey, from: CommitNo, limit: u32) -> Answer<'_, Vec<(CommitNo, Record)>> {
        self.read_history(run, from, limit).boxed_local()
    }

    fn tail(&self, run: RunKey) -> Answer<'_, Option<(CommitNo, Record)>> {
        self.read_tail(run).boxed_local()
    }

    /// Always `None`: an index by the order of commits would cost every append, and time is the server's.
    fn newest(&self) -> Answer<'_, Option<(RunId, CommitNo, Record)>> {
        async { Ok(None) }.boxed_local()
    }

    fn inbox(&self, run: RunKey) -> Answer<'_, Inbox> {
        self.read_inbox(run).boxed_local()
    }

    fn find(&self, id: &str, run_no: Option<u32>) -> Answer<'_, Option<Summary>> {
        self.read_find(id.to_owned(), run_no).boxed_local()
    }

    fn summaries(&self, runs: &[RunKey]) -> Answer<'_, Vec<Summary>> {
        let runs = runs.to_vec();
        async move { self.read_summaries(&runs).await }.boxed_local()
    }

    fn runs(&self, runs: &[RunKey]) -> Answer<'_, Vec<Stored>> {
        let runs = stored::distinct(runs);
        async move { self.read_runs(&runs).await }.boxed_local()
    }

    fn list(&self, filter: &Filter) -> Answer<'_, Vec<Summary>> {
        self.read_list(filter.clone()).boxed_local()
    }

    fn owned(&self, by: Incarnation) -> Answer<'_, Vec<(RunKey, u64)>> {
        self.read_owned(by).boxed_local()
    }

    fn next_wake(&self, after: Timestamp) -> Answer<'_, Option<Timestamp>> {
        self.read_next_wake(after).boxed_local()
    }

    fn heartbeats(&self, run: RunKey) -> Answer<'_, Vec<(u32, u32, bytes::Bytes)>> {
        self.read_heartbeats(run).boxed_local()
    }

    fn published(&self, run: RunKey, key: Option<&str>) -> Answer<'_, Vec<Publication>> {
        self.read_published(run, key.map(str::to_owned)).boxed_local()
    }

    fn letters(&self, filter: &LetterFilter) -> Answer<'_, Vec<DeadLetter>> {
        self.read_letters(filter.clone()).boxed_local()
    }

    fn heights(&self, runs: &[RunKey]) -> Answer<'_, Vec<(RunKey, CommitNo)>> {
        let runs = runs.to_vec();
        async move { self.read_heights(&runs).await }.boxed_local()
    }

    fn tasks(&self, run: RunKey) -> Answer<'_, Vec<TaskRow>> {
        self.read_tasks(run).boxed_local()
    }

    fn held_tasks(&self, by: Incarnation) -> Answer<'_, Vec<TaskRow>> {
        self.read_held(by).boxed_local()
    }

    fn stale_tasks(&self, now: Timestamp, most: u32) -> Answer<'_, Vec<StaleTask>> {
        self.read_stale(now, most).boxed_local()
    }

    fn ruled_queues(&self) -> Answer<'_, Vec<String>> {
        self.read_ruled().boxed_local()
    }

    fn queues(&self) -> Answer<'_, Vec<QueueState>> {
        self.read_queues().boxed_local()
    }

    fn schedule(&self, name: &str) -> Answer<'_, Option<ScheduleRow>> {
        self.read_schedule(name.to_owned()).boxed_local()
    }

    fn schedules(&self, after: &str, limit: u32) -> Answer<'_, Vec<ScheduleRow>> {
        self.read_schedules(after.to_owned(), limit).boxed_local()
    }

    fn memo(&self, key: MemoKey, asks: u32) -> Answer<'_, MemoFound> {
        self.read_memo(key, asks).boxed_local()
    }

    fn memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Answer<'_, Vec<MemoKey>> {
        self.read_memo_work(now, stuck, most).boxed_local()
    }

    fn memo_keys(&self, first: MemoKey, last: MemoKey, most: u32) -> Answer<'_, Vec<(MemoKey, i64)>> {
        self.read_memo_keys(first, last, most).boxed_local()
    }

    fn due_schedules(&self, until: Timestamp, limit: u32) -> Answer<'_, Vec<ScheduleDue>> {
        self.read_due_schedules(until, limit).boxed_local()
    }

    fn snapshot(&self) -> Answer<'_, Vec<String>> {
        self.read_snapshot().boxed_local()
    }
}
