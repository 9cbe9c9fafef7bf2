//! A ledger in the user's own tables, on either store, and a workflow that writes into it in whatever way a test wants.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{Builder, prelude::*};
use tokio::sync::Semaphore;

use crate::support::Home;

/// What the closure of a step does behind its writing.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "some cases need a store with several sessions"))]
pub(crate) enum Then {
    Returns,
    Fails,
    /// Never comes back by itself.
    Hangs,
    /// Comes back once the test says so.
    Waits(Arc<Semaphore>),
    /// Begins only then.
    Begins(Arc<Semaphore>),
    /// Goes on as if a statement that failed had not.
    Swallows,
    /// Ends the transaction itself.
    Commits,
    /// The same, and makes an error of its own of whatever became of it.
    CommitsAndFails,
    /// The same, takes no notice of what became of it, and begins another.
    CommitsAndBegins,
    CommitsBeginsAndFails,
    /// Is in one statement that never ends.
    Computes,
    /// Returns more than a log takes.
    Overflows,
}

/// What the attempts at an entry do, one after the other, the last for ever; and how often the closure was called.
pub(crate) struct Plan {
    pub(crate) attempts: Vec<Then>,
    pub(crate) calls: AtomicU32,
}

static PLANS: LazyLock<DashMap<String, Arc<Plan>>> = LazyLock::new(DashMap::new);

/// Says what happens to the entry of that name.
pub(crate) fn plan(entry: &str, attempts: Vec<Then>) -> Arc<Plan> {
    let plan = Arc::new(Plan { attempts, calls: AtomicU32::new(0) });
    PLANS.insert(entry.to_owned(), plan.clone());
    plan
}

impl Plan {
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

fn next(entry: &str) -> Then {
    let plan = PLANS.get(entry).map(|plan| plan.clone());
    plan.map_or(Then::Returns, |plan| {
        let call = plan.calls.fetch_add(1, Ordering::SeqCst) as usize;
        plan.attempts[call.min(plan.attempts.len() - 1)].clone()
    })
}

/// Makes an entry: takes from one account, gives to another, and writes a line that says so.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Enter {
    pub(crate) entry: String,
    pub(crate) cents: i64,
    /// How often a failed attempt is tried, and for how long each may take.
    pub(crate) tries: u32,
    pub(crate) limit: Option<Duration>,
}

impl Enter {
    pub(crate) fn new(entry: &str) -> Enter {
        Enter { entry: entry.to_owned(), cents: 5, tries: 10, limit: None }
    }
}

macro_rules! workflow {
    ($module:ident, $connection:ty) => {
        pub(crate) mod $module {
            use super::*;

            #[derive(Serialize, Deserialize)]
            pub(crate) struct Entered(pub(crate) Enter);

            impl Workflow for Entered {
                const NAME: &'static str = "bank.enter";
                type Output = String;
                type Error = AppError;

                async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
                    let Enter { entry, cents, tries, limit } = self.0;
                    let name = entry.clone();
                    let step = cx.transaction("enter", async move |tx: &mut $connection| {
                        let then = next(&entry);
                        if let Then::Begins(told) = &then {
                            told.acquire().await?.forget();
                        }
                        let moves = [
                            "UPDATE accounts SET balance = balance - $1 WHERE name = 'a'",
                            "UPDATE accounts SET balance = balance + $1 WHERE name = 'b'",
                        ];
                        for text in moves {
                            sqlx::query(text).bind(cents).execute(&mut *tx).await?;
                        }
                        sqlx::query("INSERT INTO entries (entry) VALUES ($1)").bind(&entry).execute(&mut *tx).await?;
                        match then {
                            Then::Returns | Then::Begins(_) => {}
                            Then::Fails => return Err(AppError::new("as planned")),
                            Then::Hangs => std::future::pending().await,
                            Then::Waits(told) => told.acquire().await?.forget(),
                            Then::Swallows => {
                                let _ = sqlx::query("SELECT * FROM nowhere").execute(&mut *tx).await;
                            }
                            Then::Commits => {
                                sqlx::query("COMMIT").execute(&mut *tx).await?;
                            }
                            Then::CommitsAndFails => {
                                let _ = sqlx::query("COMMIT").execute(&mut *tx).await;
                                return Err(AppError::new("behind its own COMMIT"));
                            }
                            Then::CommitsBeginsAndFails => {
                                let _ = sqlx::query("COMMIT").execute(&mut *tx).await;
                                sqlx::query("BEGIN").execute(&mut *tx).await?;
                                sqlx::query("SELECT * FROM nowhere").execute(&mut *tx).await?;
                            }
                            Then::CommitsAndBegins => {
                                let _ = sqlx::query("COMMIT").execute(&mut *tx).await;
                                sqlx::query("BEGIN").execute(&mut *tx).await?;
                            }
                            Then::Computes => {
                                let endless =
                                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
                                sqlx::query(endless).execute(&mut *tx).await?;
                            }
                            Then::Overflows => return Ok("x".repeat(3 << 20)),
                        }
                        Ok(format!("entered {entry}"))
                    });
                    let retry = Retry::fixed(millis(5)).attempts(tries);
                    let step = step.retry(retry);
                    let step = if let Some(limit) = limit { step.timeout(limit) } else { step };
                    let said = step.await?;
                    // What comes behind the step is replayed with its result.
                    cx.sleep(millis(1)).await?;
                    Ok(format!("{said} ({name})"))
                }
            }
        }
    };
}

workflow!(on_sqlite, SqliteConnection);
#[cfg(feature = "postgres")]
workflow!(on_postgres, sqlx::PgConnection);

/// A handle without its workflow's type.
pub(crate) struct Dispatched {
    pub(crate) result: std::pin::Pin<Box<dyn Future<Output = Result<String, String>>>>,
}

/// The books, beside the executions of the same home.
pub(crate) struct Bank {
    pub(crate) home: Home,
}

impl Bank {
    /// One on each store that has transactions.
    pub(crate) fn all() -> Vec<Bank> {
        vec![
            Bank { home: Home::sqlite() },
            #[cfg(feature = "postgres")]
            Bank { home: Home::postgres() },
        ]
    }

    /// Opens a runtime, which makes the file, and the books.
    pub(crate) async fn open(&self) -> stent::Stent {
        let supervisor = self.builder().start().await.unwrap();
        self.make_books().await;
        stent::Stent::of(supervisor).await.unwrap()
    }

    pub(crate) fn builder(&self) -> Builder {
        register(&self.home, self.home.open())
    }

    pub(crate) async fn make_books(&self) {
        self.sql("CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint NOT NULL)").await;
        self.sql("CREATE TABLE IF NOT EXISTS entries (entry text NOT NULL)").await;
        self.sql("INSERT INTO accounts (name, balance) VALUES ('a', 1000), ('b', 0) ON CONFLICT DO NOTHING").await;
    }

    pub(crate) async fn dispatch(&self, stent: &stent::Stent, enter: Enter) -> Dispatched {
        let id = enter.entry.clone();
        macro_rules! dispatched {
            ($module:ident) => {{
                let handle = stent.dispatch(Dispatch::new($module::Entered(enter)).id(id)).await.unwrap();
                Dispatched { result: Box::pin(async move { handle.result().await.map_err(|error| error.to_string()) }) }
            }};
        }
        match &self.home {
            #[cfg(feature = "postgres")]
            Home::Postgres(_) => dispatched!(on_postgres),
            _ => dispatched!(on_sqlite),
        }
    }

    /// Runs a statement of the user's on a connection of its own; returns the first value, if any.
    pub(crate) async fn sql(&self, text: &str) -> Option<i64> {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        match &self.home {
            #[cfg(feature = "postgres")]
            Home::Postgres(database) => {
                let mut connection = sqlx::PgConnection::connect(&database.url()).await.unwrap();
                let row = sqlx::query(text).fetch_optional(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                row.and_then(|row| row.try_get(0).ok())
            }
            _ => {
                let how = SqliteConnectOptions::new().filename(self.home.file()).busy_timeout(Duration::from_secs(20));
                let mut connection = SqliteConnection::connect_with(&how).await.unwrap();
                let row = sqlx::query(text).fetch_optional(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                row.and_then(|row| row.try_get(0).ok())
            }
        }
    }

    /// The schema of our own tables, as a prefix.
    pub(crate) fn prefix(&self) -> &'static str {
        match &self.home {
            Home::Sqlite(_) => "",
            _ => "stent.",
        }
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.sql(&format!("SELECT CAST(count(*) AS bigint) FROM {table}")).await.unwrap()
    }

    pub(crate) async fn entered(&self, entry: &str) -> i64 {
        self.sql(&format!("SELECT CAST(count(*) AS bigint) FROM entries WHERE entry = '{entry}'")).await.unwrap()
    }

    /// So many entries were made, each moved its money, and nothing is kept that the logs have.
    pub(crate) async fn balance(&self, entries: i64) {
        let a = self.sql("SELECT balance FROM accounts WHERE name = 'a'").await.unwrap();
        let b = self.sql("SELECT balance FROM accounts WHERE name = 'b'").await.unwrap();
        assert_eq!((self.count("entries").await, a, b), (entries, 1000 - 5 * entries, 5 * entries));
        assert_eq!(self.count(&format!("{}step_results", self.prefix())).await, 0, "results that nobody wants any more");
    }
}

/// Registers the workflow of a home.
pub(crate) fn register(home: &Home, builder: Builder) -> Builder {
    match home {
        #[cfg(feature = "postgres")]
        Home::Postgres(_) => builder.workflow::<on_postgres::Entered>(),
        _ => builder.workflow::<on_sqlite::Entered>(),
    }
}
