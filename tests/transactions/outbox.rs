//! Executions that are begun, and signals that are sent, in a transaction of the caller's own.

use std::{future::Future, time::Instant};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{
    DispatchError, Error, SendError, Stent,
    prelude::*,
    store::{self, Enqueued},
};

use crate::support::{Home, system};

/// Says what it was given, or what it was told.
#[derive(Serialize, Deserialize, Clone)]
struct Say {
    word: String,
    waits: bool,
}

#[derive(Serialize, Deserialize)]
struct Told(String);

impl Signal for Told {
    const NAME: &'static str = "outbox.told";
}

impl Workflow for Say {
    const NAME: &'static str = "outbox.say";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        if self.waits { Ok(cx.signal::<Told>().await?.0) } else { Ok(self.word) }
    }
}

fn say(word: &str) -> Dispatch<Say> {
    Dispatch::new(Say { word: word.to_owned(), waits: false }).id(word)
}

fn waits(id: &str) -> Dispatch<Say> {
    Dispatch::new(Say { word: String::new(), waits: true }).id(id)
}

/// A caller with a connection of its own, on either store.
enum Caller {
    Sqlite(store::sqlite::Outbox, SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(store::postgres::Outbox, sqlx::PgConnection),
}

macro_rules! on {
    ($caller:expr, |$outbox:ident, $connection:ident| $what:expr) => {
        match $caller {
            Caller::Sqlite($outbox, $connection) => $what,
            #[cfg(feature = "postgres")]
            Caller::Postgres($outbox, $connection) => $what,
        }
    };
}

impl Caller {
    async fn of(home: &Home) -> Caller {
        match home {
            #[cfg(feature = "postgres")]
            Home::Postgres(database) => {
                let outbox = store::postgres::Outbox::open(&database.url(), Default::default()).await.unwrap();
                Caller::Postgres(outbox, sqlx::PgConnection::connect(&database.url()).await.unwrap())
            }
            _ => {
                let how = SqliteConnectOptions::new().filename(home.file()).busy_timeout(secs(10));
                Caller::Sqlite(store::sqlite::Outbox::new(), SqliteConnection::connect_with(&how).await.unwrap())
            }
        }
    }

    async fn sql(&mut self, text: &str) {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        on!(self, |_outbox, connection| {
            sqlx::query(text).execute(connection).await.unwrap();
        });
    }

    async fn begin(&mut self) {
        self.sql(match self {
            Caller::Sqlite(..) => "BEGIN IMMEDIATE",
            #[cfg(feature = "postgres")]
            Caller::Postgres(..) => "BEGIN",
        })
        .await;
    }

    async fn dispatch(&mut self, dispatch: Dispatch<Say>) -> Result<Enqueued, Error> {
        on!(self, |outbox, connection| outbox.dispatch(connection, dispatch).await)
    }

    async fn signal(&mut self, signal: SendSignal) -> Result<(), Error> {
        on!(self, |outbox, connection| outbox.signal(connection, signal).await)
    }
}

fn on_each(case: impl AsyncFn(&Home, Stent, Caller)) {
    system(async {
        let homes = [
            Home::sqlite(),
            #[cfg(feature = "postgres")]
            Home::postgres(),
        ];
        for home in homes {
            let stent = open(&home).await;
            let caller = Caller::of(&home).await;
            case(&home, stent.clone(), caller).await;
            // The case may have done so itself.
            let _ = stent.shutdown(Shutdown::within(secs(5))).await;
        }
    });
}

async fn open(home: &Home) -> Stent {
    Stent::of(home.open().workflow::<Say>().start().await.unwrap()).await.unwrap()
}

async fn result(stent: &Stent, id: &str) -> String {
    stent.handle::<Say>(id).await.unwrap().expect("it is there").result().await.unwrap()
}

/// Waits for something that takes no look of anybody's clock.
async fn at_once<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(2), what).await.expect("it is found at once")
}

#[test]
fn what_is_committed_runs_and_of_what_is_rolled_back_nothing_exists() {
    on_each(async |_, stent, mut caller| {
        caller.begin().await;
        let begun = caller.dispatch(say("kept").priority(7).tag("mine").deadline(secs(60))).await.unwrap();
        assert!(begun.is_new && begun.id.id == "kept" && begun.id.run_no == 1);
        assert!(stent.describe("kept").await.unwrap().is_none(), "nobody sees it before the commit");
        caller.sql("COMMIT").await;
        assert_eq!(at_once(result(&stent, "kept")).await, "kept");
        let row = stent.describe("kept").await.unwrap().unwrap().summary;
        assert_eq!((row.priority, row.tags.len(), row.deadline.is_some()), (7, 1, true));
        caller.begin().await;
        caller.dispatch(say("gone")).await.unwrap();
        caller.sql("ROLLBACK").await;
        assert!(stent.describe("gone").await.unwrap().is_none());
        assert!(stent.handle::<Say>("gone").await.unwrap().is_none());
        // The id was never used.
        let handle = stent.dispatch(say("gone")).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), "gone");
    });
}

#[test]
fn an_id_in_use_is_told_by_a_value_and_the_transaction_goes_on() {
    on_each(async |_, stent, mut caller| {
        stent.dispatch(say("used")).await.unwrap().result().await.unwrap();
        caller.begin().await;
        let there = caller.dispatch(say("used")).await.unwrap();
        assert!(!there.is_new, "the same again is the same execution");
        let refused = caller.dispatch(say("other").id("used")).await.unwrap_err();
        assert!(matches!(&refused, Error::Dispatch(DispatchError::IdInUse { differs: true, .. })), "{refused}");
        let refused = caller.dispatch(say("used").if_in_use(IfInUse::Reject)).await.unwrap_err();
        assert!(matches!(refused, Error::Dispatch(DispatchError::IdInUse { differs: false, .. })));
        let refused = caller.dispatch(say("used").if_in_use(IfInUse::Replace)).await.unwrap_err();
        assert!(matches!(refused, Error::Dispatch(DispatchError::Invalid(_))));
        caller.dispatch(say("behind")).await.unwrap();
        let twice = caller.dispatch(say("behind")).await.unwrap();
        assert!(!twice.is_new, "one transaction sees what it has begun itself");
        caller.sql("COMMIT").await;
        assert_eq!(at_once(result(&stent, "behind")).await, "behind");
        // A run that failed may be followed by another.
        let waits = stent.dispatch(waits("again")).await.unwrap();
        stent.cancel(Cancel::new("again")).await.unwrap();
        waits.result().await.unwrap_err();
        caller.begin().await;
        let next = caller.dispatch(say("again").if_in_use(IfInUse::AllowAfterFailure)).await.unwrap();
        caller.sql("COMMIT").await;
        assert_eq!((next.id.run_no, next.is_new), (2, true));
        assert_eq!(at_once(result(&stent, "again")).await, "again");
    });
}

#[test]
fn it_waits_for_a_node_and_for_its_time() {
    on_each(async |home, stent, mut caller| {
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        caller.begin().await;
        caller.dispatch(say("early")).await.unwrap();
        caller.dispatch(say("later").delay(millis(700))).await.unwrap();
        caller.sql("COMMIT").await;
        let begun = Instant::now();
        let next = open(home).await;
        assert_eq!(at_once(result(&next, "early")).await, "early");
        assert_eq!(result(&next, "later").await, "later");
        assert!(begun.elapsed() < secs(4), "{:?}", begun.elapsed());
        let row = next.describe("later").await.unwrap().unwrap().summary;
        assert!(row.ended_at.unwrap().0 - row.created_at.0 >= 700_000, "never early");
        next.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn a_signal_is_delivered_exactly_if_it_is_committed() {
    on_each(async |_, stent, mut caller| {
        let handle = stent.dispatch(waits("listens")).await.unwrap();
        caller.begin().await;
        caller.signal(SendSignal::new("listens", &Told("never".into()))).await.unwrap();
        caller.sql("ROLLBACK").await;
        caller.begin().await;
        let refused = caller.signal(SendSignal::new("nobody", &Told(String::new()))).await.unwrap_err();
        assert!(matches!(refused, Error::Send(SendError::Unknown(_))), "{refused}");
        let told = SendSignal::new("listens", &Told("yes".into())).message_id("once");
        caller.signal(told.clone()).await.unwrap();
        caller.signal(told).await.unwrap();
        // To one that begins with the same commit.
        caller.dispatch(waits("new")).await.unwrap();
        caller.signal(SendSignal::new("new", &Told("both".into()))).await.unwrap();
        caller.sql("COMMIT").await;
        assert_eq!(at_once(result(&stent, "new")).await, "both");
        // On SQLite its owner hears of it with the next look.
        assert_eq!(tokio::time::timeout(secs(12), handle.result()).await.unwrap().unwrap(), "yes");
        let refused = caller.signal(SendSignal::new("listens", &Told(String::new()))).await.unwrap_err();
        assert!(matches!(refused, Error::Send(SendError::AlreadyEnded { .. })), "{refused}");
    });
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::time::Duration;

    use super::*;
    use crate::support::eventually;

    #[test]
    fn it_is_found_at_once_by_a_node_that_nobody_asks() {
        system(async {
            let home = Home::postgres();
            let stent = open(&home).await;
            let mut caller = Caller::of(&home).await;
            for number in 0..10 {
                let id = format!("hinted-{number}");
                caller.begin().await;
                caller.dispatch(say(&id)).await.unwrap();
                caller.sql("COMMIT").await;
                eventually("it has ended", secs(1), async || {
                    stent.describe(&id).await.unwrap().is_some_and(|run| run.summary.status.is_end())
                })
                .await;
            }
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    #[test]
    fn one_whose_transaction_was_open_for_minutes_is_found_at_once_as_well() {
        system(async {
            let home = Home::postgres();
            let stent = open(&home).await;
            // Searches have seen everything there was.
            stent.dispatch(say("first")).await.unwrap().result().await.unwrap();
            let mut caller = Caller::of(&home).await;
            caller.begin().await;
            caller.dispatch(say("late")).await.unwrap();
            // As if that had been five minutes ago: the row, and what the server tells with the commit.
            caller.sql("UPDATE stent.executions SET wake_at = wake_at - 300000000 WHERE id = 'late'").await;
            let tell = "SELECT pg_notify('stent_stent', '00000000000000000000000000000000 d' || wake_at)
                FROM stent.executions WHERE id = 'late'";
            caller.sql(tell).await;
            caller.sql("COMMIT").await;
            eventually("it has ended", secs(2), async || {
                stent.describe("late").await.unwrap().is_some_and(|run| run.summary.status.is_end())
            })
            .await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    /// Runs dispatches, so many at a time; returns the 99th percentile of their answers.
    async fn p99(stent: &Stent, name: &str) -> Duration {
        const AT_ONCE: usize = 16;
        const ALL: usize = 4_000;
        let mut took = Vec::with_capacity(ALL);
        for batch in 0..ALL / AT_ONCE {
            let all = (0..AT_ONCE).map(|number| {
                let id = format!("{name}-{batch}-{number}");
                async move {
                    let began = Instant::now();
                    stent.dispatch(say(&id)).await.unwrap();
                    began.elapsed()
                }
            });
            took.extend(futures::future::join_all(all).await);
        }
        took.sort_unstable();
        took[ALL * 99 / 100]
    }

    #[test]
    fn a_caller_that_keeps_its_transaction_open_slows_nobody_else() {
        system(async {
            let home = Home::postgres();
            let stent = open(&home).await;
            let mut caller = Caller::of(&home).await;
            // In turns, and the calmest of each counts: an open transaction costs what it costs in every round, the rest of the
            // machine (the tests beside this one) does in some. So the more rounds, the closer; four are enough if it is calm.
            let (mut undisturbed, mut beside) = (Duration::MAX, Duration::MAX);
            for round in 0..12 {
                if round >= 4 && beside <= undisturbed * 2 {
                    break;
                }
                undisturbed = undisturbed.min(p99(&stent, &format!("undisturbed-{round}")).await);
                let (id, listener) = (format!("k-{round}"), format!("listens-{round}"));
                let listens = stent.dispatch(waits(&listener)).await.unwrap();
                caller.begin().await;
                caller.dispatch(say(&id)).await.unwrap();
                caller.signal(SendSignal::new(&listener, &Told("k".into()))).await.unwrap();
                let second = wanted(&stent, async move |stent: Stent| stent.dispatch(say(&id)).await);
                let cancel = wanted(&stent, async move |stent: Stent| stent.cancel(Cancel::new(listener)).await);
                beside = beside.min(p99(&stent, &format!("beside-{round}")).await);
                assert!(!second.is_finished() && !cancel.is_finished(), "they wait");
                caller.sql("COMMIT").await;
                // The second dispatch of the id attaches to what the first has begun.
                assert_eq!(second.await.unwrap().unwrap().result().await.unwrap(), format!("k-{round}"));
                // The request to stop came behind the signal, and may have come behind the end.
                let cancelled = cancel.await.unwrap();
                assert!(matches!(cancelled, Ok(()) | Err(Error::Send(SendError::AlreadyEnded { .. }))), "{cancelled:?}");
                assert_eq!(listens.result().await.unwrap(), "k");
            }
            assert!(beside <= undisturbed * 2, "{beside:?} beside an open transaction, {undisturbed:?} undisturbed");
            // Where the first is rolled back the second begins.
            caller.begin().await;
            caller.dispatch(say("other").id("j")).await.unwrap();
            let second = wanted(&stent, async move |stent: Stent| stent.dispatch(say("mine").id("j")).await);
            caller.sql("SELECT pg_sleep(0.5)").await;
            assert!(!second.is_finished());
            caller.sql("ROLLBACK").await;
            assert_eq!(second.await.unwrap().unwrap().result().await.unwrap(), "mine");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    /// Asks for something that is in somebody's hands.
    fn wanted<T: 'static>(stent: &Stent, what: impl AsyncFnOnce(Stent) -> T + 'static) -> tokio::task::JoinHandle<T> {
        let stent = stent.clone();
        actix::spawn(async move { what(stent).await })
    }

    #[test]
    fn many_callers_at_once_get_exactly_what_they_committed() {
        system(async {
            let home = Home::postgres();
            let stent = open(&home).await;
            let Home::Postgres(database) = &home else { unreachable!("it is one") };
            let outbox = store::postgres::Outbox::open(&database.url(), Default::default()).await.unwrap();
            let callers = (0..8).map(|caller| {
                let (outbox, url) = (outbox.clone(), database.url());
                // On any thread of a runtime.
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
                    let work = runtime.spawn(async move {
                        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
                        for number in 0..40 {
                            let mut tx = connection.begin().await.unwrap();
                            outbox.dispatch(&mut tx, say(&format!("many-{caller}-{number}"))).await.unwrap();
                            // One id that all of them want.
                            outbox.dispatch(&mut tx, say("shared")).await.unwrap();
                            if number % 2 == 0 { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
                        }
                    });
                    runtime.block_on(work).unwrap();
                })
            });
            futures::future::join_all(callers).await.into_iter().for_each(|done| done.unwrap());
            for caller in 0..8 {
                for number in 0..40 {
                    let id = format!("many-{caller}-{number}");
                    match stent.handle::<Say>(id.clone()).await.unwrap() {
                        Some(handle) if number % 2 == 0 => assert_eq!(handle.result().await.unwrap(), id),
                        None if number % 2 == 1 => {}
                        other => panic!("{id}: {other:?}"),
                    }
                }
            }
            assert_eq!(result(&stent, "shared").await, "shared");
            outbox.close().await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn a_call_whose_error_is_passed_over_leaves_nothing_half_done_in_a_transaction_and_without_one() {
    system(async {
        let home = Home::sqlite();
        let stent = open(&home).await;
        let mut caller = Caller::of(&home).await;
        caller.dispatch(waits("told")).await.unwrap();
        // The last statement of either call fails.
        caller.sql("CREATE TABLE orders (id integer)").await;
        caller
            .sql(
                "CREATE TRIGGER no_event BEFORE INSERT ON events
                 WHEN (SELECT id FROM executions WHERE run = new.run) = 'half' BEGIN SELECT RAISE(ABORT, 'no'); END",
            )
            .await;
        caller.sql("CREATE TRIGGER no_mail BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'no'); END").await;
        for within in [false, true] {
            if within {
                caller.begin().await;
                caller.sql("INSERT INTO orders VALUES (1)").await;
            }
            assert!(matches!(caller.dispatch(say("half")).await, Err(Error::Store(_))));
            let told = SendSignal::new("told", &Told("word".to_owned()));
            assert!(matches!(caller.signal(told).await, Err(Error::Store(_))));
            let in_use = caller.dispatch(say("told")).await;
            assert!(matches!(in_use, Err(Error::Dispatch(DispatchError::IdInUse { .. }))), "{in_use:?}");
            caller.dispatch(say(&format!("whole-{within}"))).await.unwrap();
            if within {
                caller.sql("COMMIT").await;
            }
            assert_eq!(result(&stent, &format!("whole-{within}")).await, format!("whole-{within}"));
            assert!(stent.describe("half").await.unwrap().is_none());
        }
        let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(home.file())).await.unwrap();
        let text =
            "SELECT (SELECT count(*) FROM executions WHERE id = 'half'), (SELECT inbox_seq FROM executions WHERE id = 'told'),
                           (SELECT count(*) FROM orders)";
        let left: (i64, i64, i64) = sqlx::query_as(text).fetch_one(&mut connection).await.unwrap();
        assert_eq!(left, (0, 0, 1));
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn callers_without_a_transaction_wait_for_each_other() {
    system(async {
        let home = Home::sqlite();
        let stent = open(&home).await;
        let callers = futures::future::join_all((0..4).map(async |of| {
            let mut caller = Caller::of(&home).await;
            for number in 0..25 {
                caller.dispatch(say(&format!("{of}-{number}"))).await.unwrap();
            }
        }));
        callers.await;
        for of in 0..4 {
            assert_eq!(result(&stent, &format!("{of}-24")).await, format!("{of}-24"));
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}
