//! The story: what comes in is wrong. Names clash, code is missing, values are too large or of another type, bytes on
//! disk are flipped, a newer release was here, durations make no sense, user code panics in every place where it can. Each
//! is an error that names the thing and the cure; nothing recorded is lost, and the neighbours do not notice.

#![cfg(feature = "sqlite")]

use std::{path::Path, time::Duration};

use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use stent::{
    DispatchError, Error,
    prelude::*,
    store::{Status, StoreError},
};
use support::{Home, eventually, system};

mod support;

#[derive(Serialize, Deserialize)]
struct Echo {
    text: String,
}

impl Activity for Echo {
    const NAME: &'static str = "bad.echo";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Word {
    text: String,
}

impl Signal for Word {
    const NAME: &'static str = "bad.word";
}

/// Waits for a word, then echoes.
#[derive(Serialize, Deserialize)]
struct Waits {
    text: String,
}

impl Workflow for Waits {
    const NAME: &'static str = "bad.waits";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let word = cx.signal::<Word>().await?;
        Ok(cx.call(Echo { text: format!("{} {}", self.text, word.text) }).await?)
    }
}

/// One call, routed as it is told; why it failed is its output.
#[derive(Serialize, Deserialize, Default)]
struct Routed {
    queue: String,
    key: String,
    needs: Vec<String>,
}

impl Workflow for Routed {
    const NAME: &'static str = "bad.routed";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let mut call = cx.call(Echo { text: "here".into() }).queue(&self.queue).queue_key(self.key);
        for tag in self.needs {
            call = call.needs(tag);
        }
        Ok(call.await.unwrap_or_else(|error| error.to_string()))
    }
}

/// The same name and version as [`Waits`] in a build whose argument is another type.
#[derive(Serialize, Deserialize)]
struct WaitsForNumber {
    number: u64,
}

impl Workflow for WaitsForNumber {
    const NAME: &'static str = "bad.waits";
    type Output = String;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<String, AppError> {
        Ok(self.number.to_string())
    }
}

fn build(home: &Home) -> stent::Builder {
    home.open()
        .workflow::<Waits>()
        .workflow::<Routed>()
        .activity(async |call: Call<Echo>| Ok(call.text.clone()))
        .passivate_after(millis(0))
}

async fn put(home: &Home, ids: &[&str]) {
    let stent = build(home).spawn().await.unwrap();
    for id in ids {
        stent.dispatch(Dispatch::new(Waits { text: (*id).into() }).id(*id)).await.unwrap();
    }
    stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
}

async fn ends_well(stent: &Stent, id: &str) {
    stent.signal(SendSignal::new(id, &Word { text: "go".into() })).await.unwrap();
    let handle = stent.handle::<Waits>(id).await.unwrap().unwrap();
    assert_eq!(handle.result().await.unwrap(), format!("{id} go"));
}

async fn sql(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

async fn waits_with(stent: &Stent, id: &str, status: Status, words: &[&str]) {
    eventually(&format!("{id} is {status:?} and says {words:?}"), secs(10), async || {
        let known = stent.describe(id).await.unwrap().unwrap();
        let told = format!("{} {:?} {:?}", known.moved_by, known.summary.reason, known.waits_for);
        known.summary.status == status && words.iter().all(|word| told.contains(word))
    })
    .await;
}

#[test]
fn names_that_clash_or_are_missing_are_refused_by_name() {
    system(async {
        let twice = Stent::open("memory:").workflow::<Waits>().workflow::<WaitsForNumber>().spawn().await;
        assert!(matches!(&twice, Err(Error::Config(what)) if what.contains("bad.waits") && what.contains("twice")), "{twice:?}");
        let echo = async |call: Call<Echo>| Ok(call.text.clone());
        let twice = Stent::open("memory:").activity(echo).activity(echo).spawn().await;
        assert!(matches!(&twice, Err(Error::Config(what)) if what.contains("bad.echo")), "{twice:?}");
        let stent = Stent::open("memory:").workflow::<Waits>().spawn().await.unwrap();
        let missing = stent.dispatch(Dispatch::new(Panics::default())).await;
        assert!(
            matches!(&missing, Err(Error::Dispatch(DispatchError::Unregistered { name, .. })) if name == "bad.panics"),
            "{missing:?}"
        );
        // The workflow is here, the activity is not: the call fails and is tried again, by name.
        stent.dispatch(Dispatch::new(Waits { text: "x".into() }).id("x")).await.unwrap();
        stent.signal(SendSignal::new("x", &Word { text: "go".into() })).await.unwrap();
        waits_with(&stent, "x", Status::Active, &["bad.echo"]).await;
        stent.shutdown(Shutdown::within(millis(50))).await.unwrap();
        let unknown = Stent::open("mysql://user:secret@host/db").spawn().await;
        assert!(
            matches!(&unknown, Err(e) if e.to_string().contains("host/db") && !e.to_string().contains("secret")),
            "{unknown:?}"
        );
    });
}

#[test]
fn an_execution_whose_code_is_missing_here_waits_says_so_and_ends_where_it_is_known() {
    system(async {
        for home in Home::all() {
            put(&home, &["x"]).await;
            let stent = home.open().spawn().await.unwrap();
            waits_with(&stent, "x", Status::Active, &["bad.waits", "version 1", "this one has not"]).await;
            stent.signal(SendSignal::new("x", &Word { text: "go".into() })).await.unwrap();
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
            let stent = build(&home).spawn().await.unwrap();
            assert_eq!(stent.handle::<Waits>("x").await.unwrap().unwrap().result().await.unwrap(), "x go");
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
        }
    });
}

#[test]
fn a_value_over_its_limit_is_refused_where_it_appears() {
    system(async {
        let home = Home::sqlite();
        let stent = build(&home).spawn().await.unwrap();
        let large = "x".repeat(3 << 20);
        let refused = stent.dispatch(Dispatch::new(Waits { text: large.clone() })).await;
        assert!(
            matches!(&refused, Err(Error::Dispatch(DispatchError::TooLarge { what, limit, .. })) if what.contains("bad.waits") && *limit == 2 << 20),
            "{refused:?}"
        );
        stent.dispatch(Dispatch::new(Waits { text: "x".repeat(1 << 20) }).id("x")).await.unwrap();
        let refused = stent.signal(SendSignal::new("x", &Word { text: large })).await;
        assert!(matches!(&refused, Err(Error::Send(e)) if e.to_string().contains("bad.word")), "{refused:?}");
        // Argument and word fit, the argument of the activity that is made of both does not.
        stent.signal(SendSignal::new("x", &Word { text: "y".repeat(1_100_000) })).await.unwrap();
        let ended = stent.handle::<Waits>("x").await.unwrap().unwrap().result().await;
        assert!(matches!(&ended, Err(RunError::Failed(e)) if e.to_string().contains("bad.echo")), "{ended:?}");
        stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
    });
}

#[test]
fn an_argument_of_another_type_blocks_the_run_for_this_build_only() {
    system(async {
        for home in Home::all() {
            put(&home, &["x"]).await;
            let stent = home.open().workflow::<WaitsForNumber>().build("changed").spawn().await.unwrap();
            stent.signal(SendSignal::new("x", &Word { text: "go".into() })).await.unwrap();
            waits_with(&stent, "x", Status::Active, &["another build", "the input of bad.waits", "number"]).await;
            let fresh = stent.dispatch(Dispatch::new(WaitsForNumber { number: 7 })).await.unwrap();
            assert_eq!(fresh.result().await.unwrap(), "7");
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
            let stent = build(&home).build("as before").spawn().await.unwrap();
            assert_eq!(stent.handle::<Waits>("x").await.unwrap().unwrap().result().await.unwrap(), "x go");
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
        }
    });
}

#[test]
fn a_flipped_byte_quarantines_its_run_by_commit_and_harms_no_neighbour() {
    system(async {
        let home = Home::sqlite();
        put(&home, &["good", "bad"]).await;
        let mut file = sql(&home.file()).await;
        let row = sqlx::query("SELECT e.pos, e.body FROM events e JOIN executions x ON x.run = e.run WHERE x.id = 'bad'");
        let row = row.fetch_one(&mut file).await.unwrap();
        let (pos, mut body): (i64, Vec<u8>) = (row.get(0), row.get(1));
        body[20] ^= 4;
        sqlx::query("UPDATE events SET body = $1 WHERE pos = $2").bind(body).bind(pos).execute(&mut file).await.unwrap();
        sqlx::Connection::close(file).await.unwrap();
        let stent = build(&home).spawn().await.unwrap();
        ends_well(&stent, "good").await;
        stent.signal(SendSignal::new("bad", &Word { text: "go".into() })).await.unwrap();
        waits_with(&stent, "bad", Status::Quarantined, &["an operator", "commit 0 of bad/1", "checksum", "backup"]).await;
        stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
    });
}

#[test]
fn a_record_of_a_newer_release_blocks_its_run_for_this_build_and_is_left_as_it_is() {
    system(async {
        let home = Home::sqlite();
        put(&home, &["good", "newer"]).await;
        let mut file = sql(&home.file()).await;
        let row = sqlx::query("SELECT e.pos, e.body FROM events e JOIN executions x ON x.run = e.run WHERE x.id = 'newer'");
        let row = row.fetch_one(&mut file).await.unwrap();
        let (pos, mut body): (i64, Vec<u8>) = (row.get(0), row.get(1));
        body[0] = 9;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&body[..2]), &body[6..]);
        body[2..6].copy_from_slice(&checksum.to_le_bytes());
        let change = sqlx::query("UPDATE events SET body = $1 WHERE pos = $2").bind(body.clone()).bind(pos);
        change.execute(&mut file).await.unwrap();
        sqlx::Connection::close(file).await.unwrap();
        let stent = build(&home).spawn().await.unwrap();
        ends_well(&stent, "good").await;
        stent.signal(SendSignal::new("newer", &Word { text: "go".into() })).await.unwrap();
        waits_with(&stent, "newer", Status::Active, &["another build", "schema 9", "run a newer build"]).await;
        stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
        let mut file = sql(&home.file()).await;
        let after: Vec<u8> =
            sqlx::query("SELECT body FROM events WHERE pos = $1").bind(pos).fetch_one(&mut file).await.unwrap().get(0);
        assert_eq!(after, body);
    });
}

/// Puts a message into the inbox of a run that this build does not know, or that was damaged, as another process does.
async fn puts_what_does_not_decode(home: &Home, id: &str) {
    let now = chrono::Utc::now().timestamp_micros();
    let put = |body: &str| {
        format!(
            "INSERT INTO inbox (run, seq, message, body, sent_at)
                SELECT run, inbox_seq + 1, 'of tomorrow', {body}, 0 FROM executions WHERE id = '{id}';
             UPDATE executions SET inbox_seq = inbox_seq + 1, wake_at = CASE WHEN owner IS NULL THEN {now} ELSE wake_at END
                WHERE id = '{id}';
             COMMIT"
        )
    };
    by_hand(home, &put("'\\xc1'::bytea"), &put("x'c1'")).await;
}

/// Changes what is stored over the head of whoever runs on it: in PostgreSQL by the one text, in a file by the other.
async fn by_hand(home: &Home, postgres: &str, sqlite: &str) {
    match home {
        #[cfg(feature = "postgres")]
        Home::Postgres(database) => {
            database.sql(&format!("SET search_path = stent; BEGIN; {postgres}"));
        }
        _ => {
            let _ = postgres;
            let mut file = sql(&home.file()).await;
            let changes = sqlx::AssertSqlSafe(format!("BEGIN IMMEDIATE; {sqlite}"));
            sqlx::raw_sql(changes).execute(&mut file).await.unwrap();
            sqlx::Connection::close(file).await.unwrap();
        }
    }
}

#[test]
fn a_run_of_which_a_row_cannot_be_read_at_all_is_let_go_with_the_reason_and_harms_no_neighbour() {
    for home in Home::all().into_iter().filter(|home| !matches!(home, Home::Memory(_))) {
        system(async {
            put(&home, &["damaged", "neighbour"]).await;
            let damage = |digest: &str| {
                let of = "WHERE run = (SELECT run FROM executions WHERE id = 'damaged')";
                format!("UPDATE events SET digest = {digest} {of}; UPDATE executions SET wake_at = created_at {of}; COMMIT")
            };
            by_hand(&home, &damage("'\\x00'::bytea"), &damage("x'00'")).await;
            let stent = build(&home).spawn().await.unwrap();
            ends_well(&stent, "neighbour").await;
            eventually("it is let go", secs(30), async || {
                let all = stent.list(List::new()).await.unwrap();
                let run = all.into_iter().find(|run| run.id.id == "damaged").unwrap();
                run.owner.is_none()
                    && run.blocked_build.is_some()
                    && run.reason.is_some_and(|why| why.contains("a page of a log"))
            })
            .await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn a_message_that_does_not_decode_blocks_its_run_by_name_and_harms_no_neighbour_nor_an_operator() {
    for home in Home::all().into_iter().filter(|home| !matches!(home, Home::Memory(_))) {
        system(async {
            put(&home, &["asleep", "beside"]).await;
            puts_what_does_not_decode(&home, "asleep").await;
            let stent = build(&home).workflow::<Times>().passivate_after(hours(1)).spawn().await.unwrap();
            ends_well(&stent, "beside").await;
            stent.dispatch(Dispatch::new(Waits { text: "neighbour".into() }).id("neighbour")).await.unwrap();
            // This one stays in memory.
            stent.dispatch(Dispatch::new(Times { timeout: secs(1), sleep: secs(600) }).id("live")).await.unwrap();
            puts_what_does_not_decode(&home, "live").await;
            for id in ["asleep", "live"] {
                let words = ["another build than this one", "of tomorrow", "1 unread message"];
                waits_with(&stent, id, Status::Active, &words).await;
                // What comes behind it waits for that build.
                stent.signal(SendSignal::new(id, &Word { text: "go".into() })).await.unwrap();
                waits_with(&stent, id, Status::Active, &["another build than this one", "2 unread messages"]).await;
                stent.terminate(Terminate::new(id, "ada").reason("enough")).await.unwrap();
                assert_eq!(stent.describe(id).await.unwrap().unwrap().summary.status, Status::Terminated, "{id}");
            }
            ends_well(&stent, "neighbour").await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn a_newer_schema_a_foreign_database_and_a_file_that_is_none_are_refused_and_not_touched() {
    system(async {
        let home = Home::sqlite();
        put(&home, &["x"]).await;
        let mut file = sql(&home.file()).await;
        sqlx::query("INSERT INTO _stent_migrations VALUES (99, 0)").execute(&mut file).await.unwrap();
        sqlx::Connection::close(file).await.unwrap();
        let refused = build(&home).spawn().await;
        assert!(matches!(&refused, Err(Error::Store(StoreError::NewerSchema { found: 99, .. }))), "{refused:?}");
        let foreign = Home::sqlite();
        let mut file = SqliteConnectOptions::new().filename(foreign.file()).create_if_missing(true).connect().await.unwrap();
        sqlx::query("CREATE TABLE theirs (x INTEGER)").execute(&mut file).await.unwrap();
        sqlx::Connection::close(file).await.unwrap();
        let none = Home::sqlite();
        std::fs::write(none.file(), "this is a shopping list, not a database. ".repeat(100)).unwrap();
        for home in [foreign, none] {
            let before = std::fs::read(home.file()).unwrap();
            let refused = build(&home).spawn().await;
            let name = home.file().display().to_string();
            assert!(
                matches!(&refused, Err(Error::Store(StoreError::Corrupt { path, .. })) if path.ends_with(name.rsplit('/').next().unwrap())),
                "{refused:?}"
            );
            assert_eq!(std::fs::read(home.file()).unwrap(), before, "not touched");
        }
    });
}

#[test]
fn an_id_in_use_is_dealt_with_as_the_dispatch_says() {
    system(async {
        for home in Home::all() {
            let stent = build(&home).workflow::<Panics>().spawn().await.unwrap();
            let ask = |text: &str, policy| stent.dispatch(Dispatch::new(Waits { text: text.into() }).id("x").if_in_use(policy));
            let first = ask("x", IfInUse::Attach).await.unwrap();
            assert_eq!(ask("x", IfInUse::Attach).await.unwrap().run(), first.run());
            let differs = ask("y", IfInUse::Attach).await;
            assert!(
                matches!(&differs, Err(Error::Dispatch(DispatchError::IdInUse { differs: true, id, .. })) if id == "x"),
                "{differs:?}"
            );
            assert!(matches!(
                ask("x", IfInUse::Reject).await,
                Err(Error::Dispatch(DispatchError::IdInUse { differs: false, .. }))
            ));
            assert_eq!(ask("x", IfInUse::AllowAfterFailure).await.unwrap().run(), first.run());
            let second = ask("z", IfInUse::Replace).await.unwrap();
            assert_eq!(second.run_no(), 2);
            assert!(matches!(first.result().await, Err(RunError::Cancelled { .. })));
            stent.cancel(Cancel::new("x")).await.unwrap();
            assert!(matches!(second.result().await, Err(RunError::Cancelled { .. })));
            let third = ask("x", IfInUse::AllowAfterFailure).await.unwrap();
            assert_eq!(third.run_no(), 3);
            ends_well(&stent, "x").await;
            assert_eq!(ask("x", IfInUse::AllowAfterFailure).await.unwrap().run(), third.run());
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
        }
    });
}

/// Panics in the place that it names.
#[derive(Serialize, Default)]
struct Panics {
    #[serde(serialize_with = "rude_out")]
    place: String,
}

fn rude_out<S: serde::Serializer>(place: &str, to: S) -> Result<S::Ok, S::Error> {
    assert_ne!(place, "serialize", "rude, as planned");
    to.serialize_str(place)
}

impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Panics, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            place: String,
        }
        let Plain { place } = Plain::deserialize(from)?;
        assert_ne!(place, "deserialize", "rude, as planned");
        Ok(Panics { place })
    }
}

impl Activity for Panics {
    const NAME: &'static str = "bad.panics";
    type Output = Panics;
    type Error = AppError;
}

impl Workflow for Panics {
    const NAME: &'static str = "bad.panics";
    type Output = Panics;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Panics, AppError> {
        assert_ne!(self.place, "workflow", "rude, as planned");
        if self.place == "step" {
            let step = cx.step("rude", async || if true { panic!("rude, as planned") } else { Ok::<_, AppError>(1) });
            step.retry(Retry::never()).await?;
        }
        if let Some(place) = self.place.strip_prefix("activity ") {
            cx.call(Panics { place: place.into() }).retry(Retry::never()).await?;
        }
        let place = if self.place == "output" { "serialize".into() } else { self.place };
        Ok(Panics { place })
    }
}

#[test]
fn a_panic_of_user_code_fails_its_own_run_by_name_wherever_it_is() {
    system(async {
        for home in Home::all() {
            let stent = build(&home)
                .workflow::<Panics>()
                .activity(async |call: Call<Panics>| {
                    assert_ne!(call.place, "handler", "rude, as planned");
                    Ok(Panics { place: if call.place == "output" { "serialize" } else { "fine" }.into() })
                })
                .spawn()
                .await
                .unwrap();
            stent.dispatch(Dispatch::new(Waits { text: "neighbour".into() }).id("neighbour")).await.unwrap();
            for place in [
                "workflow",
                "step",
                "output",
                "activity handler",
                "activity serialize",
                "activity deserialize",
                "activity output",
            ] {
                let handle = stent.dispatch(Dispatch::new(Panics { place: place.into() })).await.unwrap();
                let told = match tokio::time::timeout(secs(10), handle.result()).await.expect(place) {
                    Err(RunError::Broken(failure)) => failure.to_string(),
                    Err(RunError::Failed(error)) => error.to_string(),
                    other => panic!("{place}: {:?}", other.map(|panics| panics.place)),
                };
                assert!(told.contains("rude, as planned"), "{place}: {told}");
            }
            for place in ["serialize", "deserialize"] {
                let refused = stent.dispatch(Dispatch::new(Panics { place: place.into() })).await;
                let told = format!("{:?}", refused.as_ref().map(drop));
                assert!(
                    matches!(refused, Err(Error::Dispatch(_))) && told.contains("bad.panics") && told.contains("as planned"),
                    "{told}"
                );
            }
            ends_well(&stent, "neighbour").await;
            stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Times {
    timeout: Duration,
    sleep: Duration,
}

impl Workflow for Times {
    const NAME: &'static str = "bad.times";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        cx.sleep(self.sleep).await?;
        Ok(cx.call(Echo { text: "in time".into() }).timeout(self.timeout).await?)
    }
}

#[test]
fn durations_of_zero_and_beyond_all_measure_are_refused_or_mean_something() {
    system(async {
        for lease in [Duration::ZERO, Duration::MAX] {
            let refused = Stent::open("memory:").lease(lease).spawn().await;
            assert!(matches!(&refused, Err(Error::Config(what)) if what.contains("lease")), "{refused:?}");
        }
        let home = Home::sqlite();
        let stent = build(&home).workflow::<Times>().passivate_after(Duration::MAX).spawn().await.unwrap();
        let times = |timeout, sleep| Dispatch::new(Times { timeout, sleep });
        let fine =
            stent.dispatch(times(Duration::MAX, Duration::ZERO).deadline(Duration::MAX).delay(Duration::ZERO)).await.unwrap();
        assert_eq!(fine.result().await.unwrap(), "in time");
        let never = stent.dispatch(times(Duration::ZERO, Duration::ZERO)).await.unwrap().result().await;
        assert!(matches!(&never, Err(RunError::Failed(e)) if e.to_string().contains("zero")), "{never:?}");
        let refused = stent.dispatch(times(secs(1), secs(1)).deadline(Duration::ZERO)).await;
        assert!(
            matches!(&refused, Err(Error::Dispatch(DispatchError::Invalid(what))) if what.contains("deadline")),
            "{refused:?}"
        );
        let long = stent.dispatch(times(secs(1), Duration::MAX).id("long")).await.unwrap();
        let later = stent.dispatch(times(secs(1), secs(1)).delay(Duration::MAX).id("later")).await.unwrap();
        for (id, handle) in [("long", long), ("later", later)] {
            assert!(!stent.describe(id).await.unwrap().unwrap().summary.status.is_end());
            stent.cancel(Cancel::new(id)).await.unwrap();
            assert!(matches!(handle.result().await, Err(RunError::Cancelled { .. })));
        }
        stent.shutdown(Shutdown::within(secs(1))).await.unwrap();
    });
}

#[test]
fn a_name_in_the_options_of_a_call_that_no_store_could_take_is_an_error_of_that_call() {
    for home in Home::all() {
        system(async {
            // With limits and without: where it goes through the store, and where it would run beside its run.
            let stent = build(&home).queue(stent::Queue::named("line").concurrency(4)).spawn().await.unwrap();
            for queue in ["", "line"] {
                for name in ["x".repeat(256), "a\0b".to_owned()] {
                    let routed = |key: &str, needs: &[&str]| Routed {
                        queue: queue.to_owned(),
                        key: key.to_owned(),
                        needs: needs.iter().map(|tag| (*tag).to_owned()).collect(),
                    };
                    let of_queue = Routed { queue: name.clone(), ..Routed::default() };
                    for wrong in [of_queue, routed(&name, &[]), routed("", &[&name]), routed("", &[""])] {
                        let told = stent.dispatch(Dispatch::new(wrong)).await.unwrap().result().await.unwrap();
                        assert!(told.contains("at most 255 bytes"), "{told}");
                    }
                    let right = routed(&"k".repeat(255), &[]);
                    assert_eq!(stent.dispatch(Dispatch::new(right)).await.unwrap().result().await.unwrap(), "here");
                }
            }
            let wrong = stent.dispatch(Dispatch::new(Routed::default()).queue("a\0b")).await;
            assert!(matches!(&wrong, Err(Error::Dispatch(DispatchError::Invalid(why))) if why.contains("NUL")), "{wrong:?}");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}
