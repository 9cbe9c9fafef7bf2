//! Builders of items, and a world: a store with a live node in it.

use std::sync::Arc;

use bytes::Bytes;
use stent::{
    kernel::{
        codec::Record,
        event::MessageBody,
        id::{BuildId, CommitNo, Digest, Incarnation, RunId, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{
        Batch, BatchAnswer, ClaimRequest, Item, Message, NewNode, NewRun, Outcome, Status, Store, Summary, Then, Turn, Yield,
        YieldReason, memory::MemoryStore,
    },
};

/// Unread messages that an inbox takes in these tests.
pub(crate) const INBOX_LIMIT: u32 = 5;

/// The build of the node in a [`World`].
pub(crate) const BUILD: BuildId = BuildId(7);

/// The lease of the nodes in these tests: none of them renews in time, and none is judged by it.
/// What is due, and nothing else.
pub(crate) const NOT_AHEAD: std::time::Duration = std::time::Duration::ZERO;
pub(crate) const LEASE: std::time::Duration = std::time::Duration::from_secs(10);

/// A store and the node that writes into it.
pub(crate) struct World {
    pub(crate) store: Box<dyn Store>,
    pub(crate) incarnation: Incarnation,
    pub(crate) now: i64,
}

/// Runs a case on every store.
pub(crate) fn on_each_store(case: impl AsyncFn(&mut World)) {
    block_on(async {
        case(&mut World::new(Box::new(MemoryStore::with_inbox_limit(INBOX_LIMIT))).await).await;
    });
    #[cfg(feature = "sqlite")]
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = sqlite(&folder.path().join("stent.db")).await;
        let mut world = World::new(Box::new(store)).await;
        case(&mut world).await;
        world.store.close().await.unwrap();
    });
    #[cfg(feature = "postgres")]
    block_on(async {
        let schema = Schema::fresh();
        let mut world = World::new(Box::new(schema.open().await)).await;
        case(&mut world).await;
        world.store.close().await.unwrap();
        schema.drop().await;
    });
}

#[cfg(feature = "postgres")]
pub(crate) use postgres::Schema;

/// Where tests find a PostgreSQL server, and a schema of their own on it.
#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::atomic::{AtomicU32, Ordering};

    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
    use stent::store::postgres::{PostgresOptions, PostgresStore};

    use super::INBOX_LIMIT;

    /// A schema that is dropped when the test is over.
    pub(crate) struct Schema {
        pub(crate) server: String,
        pub(crate) name: String,
    }

    impl Schema {
        /// Returns a fresh one on the server that all tests share.
        pub(crate) fn fresh() -> Schema {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let server = crate::servers::Postgres::shared().url("postgres");
            let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            Schema { server, name }
        }

        pub(crate) fn options(&self) -> PostgresOptions {
            PostgresOptions { schema: self.name.clone(), inbox_limit: INBOX_LIMIT, ..PostgresOptions::default() }
        }

        pub(crate) async fn open(&self) -> PostgresStore {
            PostgresStore::open(&self.server, self.options()).await.unwrap()
        }

        /// Opens a connection of some other program's, which sees our tables.
        pub(crate) async fn foreign(&self) -> PgConnection {
            let mut connection = PgConnection::connect(&self.server).await.unwrap();
            let path = format!("SET search_path = {}", self.name);
            connection.execute(AssertSqlSafe(path)).await.unwrap();
            connection
        }

        pub(crate) async fn drop(self) {
            let mut connection = PgConnection::connect(&self.server).await.unwrap();
            let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name);
            connection.execute(AssertSqlSafe(drop)).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

#[cfg(feature = "sqlite")]
pub(crate) async fn sqlite(path: &std::path::Path) -> stent::store::sqlite::SqliteStore {
    use stent::store::{
        Durability,
        sqlite::{SqliteOptions, SqliteStore},
    };
    let options = SqliteOptions { inbox_limit: INBOX_LIMIT, durability: Durability::Normal, ..SqliteOptions::default() };
    SqliteStore::open(path, options).await.unwrap()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn incarnation(number: u128) -> Incarnation {
    Incarnation(uuid::Uuid::from_u128(number))
}

pub(crate) fn node(incarnation: Incarnation, now: i64) -> NewNode {
    NewNode { incarnation, build: BUILD, label: "host:1".into(), lease: LEASE, can: 1, now: Timestamp(now) }
}

impl World {
    pub(crate) async fn new(mut store: Box<dyn Store>) -> World {
        let incarnation = incarnation(1);
        store.register(&node(incarnation, 1_000)).await.unwrap();
        World { store, incarnation, now: 1_000 }
    }

    pub(crate) fn batch(&self, items: Vec<Item>) -> Batch {
        Batch { incarnation: self.incarnation, now: Timestamp(self.now), renew: false, items, claim: None }
    }

    pub(crate) async fn commit(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        let batch = self.batch(items);
        let answer = self.store.commit(&batch).await.unwrap();
        assert!(answer.live);
        answer.outcomes
    }

    pub(crate) async fn one(&mut self, item: Item) -> Outcome {
        self.commit(vec![item]).await.remove(0)
    }

    pub(crate) async fn done(&mut self, item: Item) {
        assert_eq!(self.one(item).await, Outcome::Done);
    }

    pub(crate) async fn claim(&mut self, limit: u32, forced_limit: u32) -> BatchAnswer {
        self.claim_ahead(limit, forced_limit, NOT_AHEAD).await
    }

    pub(crate) async fn claim_ahead(&mut self, limit: u32, forced_limit: u32, ahead: std::time::Duration) -> BatchAnswer {
        let claim = ClaimRequest {
            limit,
            ahead,
            forced_limit,
            build: BUILD,
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let batch = Batch { claim: Some(claim), ..self.batch(Vec::new()) };
        self.store.commit(&batch).await.unwrap()
    }

    pub(crate) async fn key(&mut self) -> RunKey {
        self.store.reserve_keys(1).await.unwrap()
    }

    /// Starts a run that is held; its first row is `record(key, 0)`.
    pub(crate) async fn started(&mut self, id: &str) -> RunKey {
        let run = self.key().await;
        self.done(start(new_run(run, id))).await;
        run
    }

    pub(crate) async fn summary(&self, id: &str) -> Summary {
        self.store.reader().find(id, None).await.unwrap().unwrap()
    }

    pub(crate) async fn send(&mut self, to: &str, message: &str) -> Outcome {
        self.one(send(to, message)).await
    }

    /// The runs that the node owns.
    pub(crate) async fn owned(&self) -> Vec<RunKey> {
        let owned = self.store.reader().owned(self.incarnation).await.unwrap();
        owned.into_iter().map(|(run, _)| run).collect()
    }

    pub(crate) async fn rows(&self, kind: &str) -> Vec<String> {
        let all = self.store.reader().snapshot().await.unwrap();
        all.into_iter().filter(|line| line.starts_with(kind)).collect()
    }
}

/// The row of a run that these tests write as its commit of that number.
pub(crate) fn record(run: RunKey, commit_no: CommitNo) -> Record {
    let body = format!("run {} commit {commit_no}", run.0);
    Record { digest: Digest(*blake3::hash(body.as_bytes()).as_bytes()), body: Bytes::from(body) }
}

pub(crate) fn new_run(run: RunKey, id: &str) -> NewRun {
    NewRun {
        run,
        id: RunId { id: id.into(), run_no: 1 },
        after: Vec::new(),
        workflow: "flow".into(),
        version: 1,
        priority: 0,
        queue: String::new(),
        tags: Vec::new(),
        needs: Vec::new(),
        created_at: Timestamp(900),
        wake_at: None,
        deadline: None,
        input_digest: Digest([3; 32]),
    }
}

pub(crate) fn start(new: NewRun) -> Item {
    start_then(new, Then::Hold)
}

pub(crate) fn start_then(new: NewRun, then: Then) -> Item {
    let run = new.run;
    Item::Turn(Arc::new(Turn {
        run,
        start: Some(Box::new(new)),
        commit_no: 0,
        prev: None,
        record: record(run, 0),
        then,
        consumed: Vec::new(),
        settled: Vec::new(),
        tasks: Vec::new(),
        withdrawn: Vec::new(),
        starts: Vec::new(),
        tells: Vec::new(),
        published: Vec::new(),
        memos: Vec::new(),
        letters: Vec::new(),
        unowned: None,
    }))
}

pub(crate) fn turn(run: RunKey, commit_no: CommitNo, then: Then) -> Turn {
    Turn {
        run,
        start: None,
        commit_no,
        prev: commit_no.checked_sub(1).map(|before| record(run, before).digest),
        record: record(run, commit_no),
        then,
        consumed: Vec::new(),
        settled: Vec::new(),
        tasks: Vec::new(),
        withdrawn: Vec::new(),
        starts: Vec::new(),
        tells: Vec::new(),
        published: Vec::new(),
        memos: Vec::new(),
        letters: Vec::new(),
        unowned: None,
    }
}

pub(crate) fn step(run: RunKey, commit_no: CommitNo) -> Item {
    Item::Turn(Arc::new(turn(run, commit_no, Then::Hold)))
}

pub(crate) fn sleep(run: RunKey, commit_no: CommitNo, wake_at: Option<i64>, seen: u64) -> Item {
    let wake_at = wake_at.map(Timestamp);
    Item::Turn(Arc::new(turn(run, commit_no, Then::Passivate { wake_at, seen })))
}

pub(crate) fn end(run: RunKey, commit_no: CommitNo, seen: u64) -> Item {
    Item::Turn(Arc::new(turn(run, commit_no, Then::End { status: Status::Completed, seen: Some(seen) })))
}

pub(crate) fn enqueue(new: NewRun) -> Item {
    let record = record(new.run, 0);
    Item::Enqueue(Box::new(new), record)
}

/// Names the current run of an id.
pub(crate) fn current(id: &str) -> RunId {
    RunId::current(id)
}

pub(crate) fn send(to: &str, message: &str) -> Item {
    Item::Send(Message { to: current(to), message: message.into(), body: signal(message), sent_at: Timestamp(950) })
}

pub(crate) fn signal(text: &str) -> MessageBody {
    MessageBody::Signal { name: "go".into(), payload: Payload::encode(text, "a signal").unwrap() }
}

pub(crate) fn release(run: RunKey, epoch: u64, wake_at: Option<i64>) -> Item {
    let why = YieldReason::Released { wake_at: wake_at.map(Timestamp), forced: false };
    Item::Yield(Yield { run, epoch, why })
}

pub(crate) fn heartbeat(run: RunKey, position: u32, attempt: u32) -> Item {
    Item::Heartbeat { run, position, attempt, details: Bytes::from(format!("at {attempt}")) }
}
