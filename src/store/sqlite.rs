//! The embedded store: one SQLite file, one process or several, each with one connection that writes and a few that read.
//!
//! The log is append-only with ascending keys, a running step costs one appended row, and a batch is one transaction of
//! a constant number of statements (`sql.rs`). What refuses an item is decided before anything is written (`look.rs`,
//! `decide.rs`). Each node holds an OS lock (`lock.rs`), so one whose lock is free is dead; the writers of several processes
//! queue (`turns.rs`), and tell each other where looking pays (`hints.rs`).
//!
//! After an I/O error nothing that is in memory may be trusted, and an fsync is never tried twice: the store closes
//! itself, and is opened anew, which begins with a checkpoint.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sqlx::{
    SqlitePool,
    sqlite::{SqlitePoolOptions, SqliteRow},
};

use self::{
    commit::Writer,
    lock::{Gate, Life},
    script::Values,
    transactions::Guest,
    turns::Turns,
};
use super::{
    Answer, Batch, BatchAnswer, DeadLetter, Durability, Filter, Inbox, LetterFilter, MemoFound, NewNode, NodeRow, NodeState,
    Outcome, Publication, Queue, QueueState, Reader, Renewed, ScheduleDue, ScheduleRow, StaleTask, Store, StoreError, Stored,
    Summary, TakenTasks, TaskRequest, TaskRow, Transactions, Warden, memory::INBOX_LIMIT, stored,
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

mod commit;
mod decide;
mod hints;
mod letters;
mod lock;
mod look;
mod memos;
mod nodes;
mod others;
mod outbox;
mod published;
mod read;
mod recall;
mod rows;
mod runs;
mod schedules;
mod schema;
mod script;
mod sql;
mod successor;
mod tasks;
mod transactions;
mod trouble;
mod turns;

pub use outbox::Outbox;
/// The driver, in the version of which this crate's connections are.
pub use sqlx;

/// How to open a database.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// What survives which failure.
    pub durability: Durability,
    /// How many unread messages an inbox takes.
    pub inbox_limit: u32,
    /// How long to wait for a lock that another program holds.
    pub busy_timeout: Duration,
    /// How many connections read.
    pub readers: u32,
    /// How many pages of 8 KiB the file may have; `None` means as many as the disk has room for.
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        SqliteOptions {
            durability: Durability::Full,
            inbox_limit: INBOX_LIMIT,
            busy_timeout: Duration::from_secs(5),
            readers: 3,
            max_pages: None,
        }
    }
}

/// A store in an SQLite file.
pub struct SqliteStore {
    writer: Option<Writer>,
    reader: Rc<SqliteReader>,
    guest: Arc<Guest>,
    path: PathBuf,
    /// The last time that a caller told: `retire` has none of its own.
    now: Timestamp,
    /// Whether other nodes were there at the last look.
    crowded: Arc<AtomicBool>,
    /// Who was entered last.
    entered: Option<Incarnation>,
    /// The proof that it lives. Last, so that it is released last.
    life: Option<Life>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens a database, or makes it when there is no file. Whatever is in its write-ahead log is brought into the file
    /// first. Needs a tokio runtime with timers. Several processes on one machine may have it open at once.
    ///
    /// # Errors
    /// - [`StoreError::InUse`]: a process of a release that shares it with nobody has it open, or another one has been
    ///   opening it for as long as a lock is waited for.
    /// - [`StoreError::Corrupt`]: it is not a database, or one of another program, or it is damaged.
    /// - [`StoreError::NewerSchema`]: a newer release made it.
    /// - [`StoreError::Busy`]: another program holds a lock on it.
    /// - [`StoreError::ReadOnly`], [`StoreError::Full`], [`StoreError::Io`]: as the system says; its folder must exist.
    pub async fn open(path: &Path, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        let path = canonical(path)?;
        let mut door = Gate::at(&path, ".lock")?;
        let opening = door.pass(options.busy_timeout).await.map_err(|error| lock::trouble(&path, &error))?;
        if opening.is_none() {
            let pid = door.holder().unwrap_or(0);
            return Err(StoreError::InUse { path: path.display().to_string(), pid });
        }
        let mut turns = Turns::at(&path)?;
        turns.take().await;
        let connection = schema::open(&path, &options).await?;
        turns.give_up();
        drop(opening);
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers.max(1))
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(
                schema::connection(&path, &options).read_only(true).thread_name(|number| format!("stent-read-{number}")),
            );
        let how = schema::guest(&path, &options);
        let name = path.display().to_string();
        let guests_turns = Turns::at(&path)?;
        let writer = Writer::new(connection, turns, name.clone(), options.inbox_limit);
        let closed: Arc<AtomicBool> = Arc::default();
        Ok(SqliteStore {
            guest: Arc::new(Guest::new(name.clone(), how, writer.seat.clone(), guests_turns, closed.clone())),
            writer: Some(writer),
            reader: Rc::new(SqliteReader { path: name, pool: readers, closed }),
            path,
            now: Timestamp::default(),
            crowded: Arc::default(),
            entered: None,
            life: None,
        })
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        if self.reader.closed.load(Relaxed) { Err(StoreError::Closed) } else { self.writer.as_mut().ok_or(StoreError::Closed) }
    }

    /// Passes a result on; after an I/O error the store is closed. The connections are dropped and not closed in order:
    /// that would try the fsync again.
    fn judge<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Io { .. }) = result {
            self.reader.closed.store(true, Relaxed);
        }
        result
    }
}

/// The read side: a few connections of its own.
#[derive(Debug)]
struct SqliteReader {
    path: String,
    pool: SqlitePool,
    /// Set by an I/O error or `close`; nothing is done any more.
    closed: Arc<AtomicBool>,
}

impl SqliteReader {
    /// Runs a query on a reader.
    async fn read(&self, text: &'static str, values: Result<Values, sqlx::Error>) -> Result<Vec<SqliteRow>, StoreError> {
        if self.closed.load(Relaxed) {
            return Err(StoreError::Closed);
        }
        let rows = async { script::rows(&mut *self.pool.acquire().await?, text, values?).await };
        rows.await.map_err(|error| self.reading(&error))
    }

    /// Returns what an error of a read means. What does not decode was damaged or written by somebody else.
    fn reading(&self, error: &sqlx::Error) -> StoreError {
        match error {
            sqlx::Error::Decode(what) | sqlx::Error::ColumnDecode { source: what, .. } => {
                StoreError::Corrupt { path: self.path.clone(), reason: what.to_string() }
            }
            error => {
                let error = trouble::sort(error, &self.path).into_store();
                if let StoreError::Io { .. } = error {
                    self.closed.store(true, Relaxed);
                }
                error
            }
        }
    }
}

impl Warden for SqliteStore {
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed> {
        async move {
            let result = nodes::renew(self.writer()?, incarnation, held).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>> {
        async move {
            let path = self.path.clone();
            let result = nodes::nodes(self.writer()?, &path).await;
            let nodes = self.judge(result)?;
            let crowded = nodes.iter().any(|node| node.state != NodeState::Dead && Some(node.incarnation) != self.entered);
            self.crowded.store(crowded, Relaxed);
            Ok(nodes)
        }
        .boxed_local()
    }

    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()> {
        async move {
            let result = nodes::drain(self.writer()?, incarnation).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool> {
        async move {
            let path = self.path.clone();
            let result = nodes::take_over(self.writer()?, &path, incarnation, seen_beat).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64> {
        async move {
            self.now = now;
            let path = self.path.clone();
            let result = nodes::sweep(self.writer()?, &path, now, most).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks> {
        async move {
            self.now = request.now;
            let result = self.writer()?.take_tasks(&request).await;
            self.judge(result)
        }
        .boxed_local()
    }
}

impl Store for SqliteStore {
    fn register(&mut self, node: &NewNode) -> Answer<'_, u64> {
        let node = node.clone();
        async move {
            self.now = node.now;
            self.guest.set_lease(node.lease);
            let path = self.path.clone();
            // Its lock is held before anybody can see its row.
            let life = Life::begin(&path, node.incarnation)?;
            let before = self.entered;
            let result = nodes::register(self.writer()?, &path, &node, before).await;
            let freed = self.judge(result)?;
            (self.entered, self.life) = (Some(node.incarnation), Some(life));
            Ok(freed)
        }
        .boxed_local()
    }

    fn retire(&mut self, incarnation: Incarnation, free: bool, keep: &[RunKey]) -> Answer<'_, u64> {
        let keep = keep.to_vec();
        async move {
            if !keep.is_empty() && self.entered == Some(incarnation) {
                // Acts of these runs go on though the node does not, whether that can be written or not: its lock is to be
                // free when the process is gone.
                std::mem::forget(self.life.take());
            }
            let now = self.now;
            let result = nodes::retire(self.writer()?, incarnation, free.then_some((now, &keep))).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn resume(&mut self, id: &str, now: Timestamp) -> Answer<'_, Outcome> {
        let id = id.to_owned();
        async move {
            let result = read::resume(self.writer()?, id.clone(), now).await;
            self.judge(result)?;
            Ok(match self.reader.read_find(id, None).await? {
                None => Outcome::Unknown,
                Some(run) if run.status.is_end() => Outcome::Ended(Box::new(run)),
                Some(_) => Outcome::Done,
            })
        }
        .boxed_local()
    }

    fn halt(&mut self, run: RunKey, epoch: Epoch, reason: &str) -> Answer<'_, ()> {
        let reason = reason.replace('\0', "\u{fffd}");
        async move {
            let result = read::halt(self.writer()?, run, epoch, reason).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn reserve_keys(&mut self, count: u32) -> Answer<'_, RunKey> {
        async move {
            let result = read::reserve(self.writer()?, count).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn declare_queues(&mut self, queues: &[Queue]) -> Answer<'_, ()> {
        let queues = queues.to_vec();
        async move {
            for queue in &queues {
                let result = self.writer()?.declare(queue).await;
                self.judge(result)?;
            }
            Ok(())
        }
        .boxed_local()
    }

    fn pause_queue(&mut self, name: &str, paused: bool) -> Answer<'_, ()> {
        let name = name.to_owned();
        async move {
            let result = self.writer()?.pause(&name, paused).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, BatchAnswer> {
        async move {
            self.now = batch.now;
            let result = self.writer()?.commit(batch).await;
            self.judge(result)
        }
        .boxed_local()
    }

    fn reader(&self) -> Rc<dyn Reader> {
        self.reader.clone()
    }

    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(self.guest.clone())
    }

    fn hold(&mut self, executions: u32) {
        self.writer.iter_mut().for_each(|writer| writer.held = executions);
    }

    fn hints(&self) -> Option<OpenHints> {
        Some(hints::opener(self.path.clone(), self.crowded.clone()))
    }

    fn close(&mut self) -> Answer<'_, ()> {
        async move {
            self.guest.close().await;
            // Readers first: the checkpoint waits for them.
            self.reader.pool.close().await;
            let broken = self.reader.closed.swap(true, Relaxed);
            // From here on it does nothing that others would have to wait for.
            self.life = None;
            match self.writer.take() {
                Some(writer) if !broken => writer.close(&self.path).await,
                _ => Ok(()),
            }
        }
        .boxed_local()
    }
}

impl Reader for SqliteReader {
    fn history(&self, run: RunKey, from: CommitNo, limit: u32) -> Answer<'_, Vec<(CommitNo, Record)>> {
        async move { self.read_history(run, from, limit).await }.boxed_local()
    }

    fn tail(&self, run: RunKey) -> Answer<'_, Option<(CommitNo, Record)>> {
        async move { self.read_tail(run).await }.boxed_local()
    }

    fn newest(&self) -> Answer<'_, Option<(RunId, CommitNo, Record)>> {
        async move { self.read_newest().await }.boxed_local()
    }

    fn inbox(&self, run: RunKey) -> Answer<'_, Inbox> {
        async move { self.read_inbox(run).await }.boxed_local()
    }

    fn find(&self, id: &str, run_no: Option<u32>) -> Answer<'_, Option<Summary>> {
        let id = id.to_owned();
        async move { self.read_find(id, run_no).await }.boxed_local()
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
        let filter = filter.clone();
        async move { self.read_list(filter).await }.boxed_local()
    }

    fn owned(&self, by: Incarnation) -> Answer<'_, Vec<(RunKey, u64)>> {
        async move { self.read_owned(by).await }.boxed_local()
    }

    fn next_wake(&self, after: Timestamp) -> Answer<'_, Option<Timestamp>> {
        async move { self.read_next_wake(after).await }.boxed_local()
    }

    fn heartbeats(&self, run: RunKey) -> Answer<'_, Vec<(u32, u32, bytes::Bytes)>> {
        async move { self.read_heartbeats(run).await }.boxed_local()
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
        async move { self.read_snapshot().await }.boxed_local()
    }
}

/// Returns the one name of a file that may have several, so that it has one lock.
fn canonical(path: &Path) -> Result<PathBuf, StoreError> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name();
    let trouble = |reason: String| StoreError::Io { path: path.display().to_string(), reason };
    let folder = folder.canonicalize().map_err(|error| trouble(format!("its folder: {error}")))?;
    Ok(folder.join(name.ok_or_else(|| trouble("it names no file".into()))?))
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor, Row, SqlSafeStr};

    use super::*;

    async fn opened(folder: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(&folder.path().join("stent.db"), SqliteOptions::default()).await.unwrap()
    }

    #[tokio::test]
    async fn every_text_prepares_on_the_newest_schema() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&folder).await;
        let mut reader = store.reader.pool.acquire().await.unwrap();
        let more = [sql::tasks::ALL, sql::published::ALL, sql::schedules::ALL, sql::memos::ALL, sql::letters::ALL].concat();
        for (name, text) in sql::ALL.iter().chain(&more) {
            for statement in text.split_inclusive(';').filter(|statement| !statement.trim().is_empty()) {
                let prepared = reader.prepare(sqlx::AssertSqlSafe(statement.to_owned()).into_sql_str()).await;
                assert!(prepared.is_ok(), "{name}: {statement}: {prepared:?}");
            }
        }
    }

    #[tokio::test]
    async fn blocking_acts_keep_their_process_s_proof_of_life_though_their_store_cannot_write_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = opened(&folder).await;
        let (incarnation, build) = (Incarnation(uuid::Uuid::from_u128(7)), crate::kernel::id::BuildId(1));
        let (label, lease, now) = ("here".into(), Duration::from_secs(10), Timestamp(1));
        store.register(&NewNode { incarnation, build, label, lease, can: 1, now }).await.unwrap();
        // As an I/O error does.
        store.reader.closed.store(true, Relaxed);
        assert!(matches!(store.retire(incarnation, true, &[RunKey(1)]).await, Err(StoreError::Closed)));
        let path = store.path.clone();
        store.close().await.unwrap();
        assert!(!Life::is_over(&path, incarnation));
    }

    #[tokio::test]
    async fn whoever_enters_clears_up_behind_a_node_that_died_before_its_row_was_written_and_behind_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = opened(&folder).await;
        let [died, begins, enters] = [5, 6, 7].map(|node| Incarnation(uuid::Uuid::from_u128(node)));
        // As the system does for a process that is killed.
        std::fs::write(lock::beside(&store.path, &format!(".node-{}.lock", died.0.simple())), "").unwrap();
        let life = Life::begin(&store.path, begins).unwrap();
        let (label, lease, now) = ("here".into(), Duration::from_secs(10), Timestamp(1));
        let build = crate::kernel::id::BuildId(1);
        store.register(&NewNode { incarnation: enters, build, label, lease, can: 1, now }).await.unwrap();
        let mut left = Life::left(&store.path);
        left.sort();
        assert_eq!(left, [begins, enters]);
        drop(life);
    }

    #[tokio::test]
    async fn no_text_of_a_commit_or_a_poll_scans_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&folder).await;
        let mut reader = store.reader.pool.acquire().await.unwrap();
        let whole = ["list", "snapshot", "register", "version"];
        let runs = &["executions", "events", "inbox", "heartbeats", "e", "x", "v", "i"][..];
        let texts = sql::ALL.iter().filter(|(name, _)| !whole.contains(name)).map(|text| (text, runs));
        let texts = texts.chain(sql::tasks::ALL.iter().map(|text| (text, &["tasks", "t", "h"][..])));
        let texts = texts.chain(sql::published::ALL.iter().map(|text| (text, &["published", "events", "v"][..])));
        let texts = texts.chain(
            sql::memos::ALL
                .iter()
                .filter(|(name, _)| *name != "memo_work")
                .map(|text| (text, &["memos", "memo_asks", "a", "m"][..])),
        );
        let texts = texts.chain(sql::letters::ALL.iter().map(|text| (text, &["dead_letters", "d", "e"][..])));
        for ((name, text), tables) in texts {
            for statement in text.split_inclusive(';').map(str::trim) {
                if !["SELECT", "UPDATE", "INSERT", "DELETE", "WITH"].iter().any(|verb| statement.starts_with(verb)) {
                    continue;
                }
                let explain = format!("EXPLAIN QUERY PLAN {statement}");
                let plan = reader.fetch_all(sqlx::raw_sql(sqlx::AssertSqlSafe(explain))).await.unwrap();
                for step in plan {
                    let step: String = step.get(3);
                    let scans = step.strip_prefix("SCAN ").and_then(|of| of.split(' ').next());
                    let scans = scans.is_some_and(|table| tables.contains(&table));
                    assert!(!scans, "{name}: {step}: {statement}");
                }
            }
        }
    }
}
