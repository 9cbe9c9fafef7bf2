//! The program that `tests/crash.rs` kills. It dispatches the same executions at every start, under the same ids, sends
//! each its signal under the same message id, waits for all ends and leaves. Every effect and every acknowledgement is
//! one line in a side file, appended by one write before anything else can happen: what the store may not contradict.
//!
//! One more execution, `tally`, hears one signal of each and goes on as a new run behind every third: a chain that kills meet anywhere.
//!
//! Each execution also pays once, in a transactional step: one row of the table `payments` beside the executions. It counts the two
//! places that it passes, behind that step and behind its child.
//!
//! Every third of them share the result of one call.
//!
//! With `STENT_INLINE=1` its activities are registered inline: one is ready at its first poll, the other is not.
//!
//! With `STENT_SCHEDULE=1` it makes a schedule of each second, which begins parts, and does nothing else until it is killed.
//!
//! A fourth argument shifts its wall clock by so many microseconds.
//!
//! Lines: `up <pid>`, `act <execution> <step> <attempt> <pid>`, `ack <execution>`, `sig <execution>`.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::{Arc, OnceLock},
};

use stent::{
    prelude::*,
    store::sqlite::sqlx::{self, Connection, SqliteConnection, sqlite::SqliteConnectOptions},
};

static SIDE: OnceLock<File> = OnceLock::new();

fn side(line: &str) {
    let mut file = SIDE.get().expect("opened first");
    file.write_all(format!("{line}\n").as_bytes()).expect("the side file can be written");
}

/// The execution that kills its process whenever it is replayed.
fn is_poison(id: &str) -> bool {
    std::env::var("STENT_POISON").is_ok_and(|poison| poison == id)
}

/// Hears of each order once, with a new history behind every third.
#[derive(Serialize, Deserialize)]
struct Tally {
    orders: u64,
    heard: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Heard(u64);

impl Signal for Heard {
    const NAME: &'static str = "crash.heard";
}

impl Workflow for Tally {
    const NAME: &'static str = "crash.tally";
    type Output = String;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<String, AppError> {
        for _ in 0..3 {
            if self.heard.len() as u64 == self.orders {
                return Ok(format!("{:?}", self.heard));
            }
            let Heard(order) = cx.signal().await?;
            cx.call(Act { word: order.to_string() }).await?;
            cx.sleep(millis(2)).await?;
            self.heard.push(order);
        }
        Ok(cx.continue_as_new(self).await?)
    }
}

/// The name of an execution in the side file; the runs of the chain have one each.
fn name_of(run: &stent::kernel::id::RunId) -> String {
    if run.id == "tally" { run.to_string() } else { run.id.clone() }
}

fn acts(execution: &str, step: &str, attempt: u32) {
    side(&format!("act {execution} {step} {attempt} {}", std::process::id()));
}

#[derive(Serialize, Deserialize)]
struct Order {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Go {
    word: String,
}

impl Signal for Go {
    const NAME: &'static str = "crash.go";
}

#[derive(Serialize, Deserialize)]
struct Act {
    word: String,
}

impl Activity for Act {
    const NAME: &'static str = "crash.act";
    type Output = String;
    type Error = AppError;
}

/// Fails as often as it is told to.
#[derive(Serialize, Deserialize)]
struct Flaky {
    failures: u32,
}

impl Activity for Flaky {
    const NAME: &'static str = "crash.flaky";
    type Output = String;
    type Error = AppError;
}

/// What each execution has done by a child.
#[derive(Serialize, Deserialize)]
struct Part {
    word: String,
}

impl Workflow for Part {
    const NAME: &'static str = "crash.part";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let word = cx.call(Act { word: self.word }).await?;
        cx.sleep(millis(12)).await?;
        Ok(word)
    }
}

impl Workflow for Order {
    const NAME: &'static str = "crash.order";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let id = cx.id().id.clone();
        if is_poison(&id) {
            std::process::abort();
        }
        let first = cx.call(Act { word: "first".into() }).await?;
        let inline = cx
            .step("inline", async || {
                acts(&cx.id().id, "inline", 0);
                Ok::<_, AppError>(1_u32)
            })
            .await?;
        let for_block = id.clone();
        let blocking = cx
            .blocking("blocking", move || {
                acts(&for_block, "blocking", 0);
                Ok::<_, AppError>(2_u32)
            })
            .await?;
        let payer = id.clone();
        let pay = async move |tx: &mut SqliteConnection| {
            sqlx::query("INSERT INTO payments (execution) VALUES ($1)").bind(&payer).execute(tx).await?;
            Ok::<_, AppError>(())
        };
        cx.transaction("pay", pay).retry(Retry::fixed(millis(10))).await?;
        cx.count("passed", 1);
        // One that is too short to leave memory for, and one that is not.
        cx.sleep(millis(3)).await?;
        cx.sleep(millis(15)).await?;
        let go = cx.signal::<Go>().await?.word;
        let part = cx.child(Part { word: "part".into() }).await?;
        cx.count("passed", 1);
        let flaky = cx.call(Flaky { failures: 2 }).retry(Retry::fixed(millis(4)).jitter_percent(0)).await?;
        // Of every third one calls it, and the others take its word.
        let shared = cx.call(Act { word: "shared".into() }).memo(Memo::key(&(self.number % 3)).forever()).await?;
        let once = match cx.call(Act { word: "once".into() }).at_most_once().await {
            Ok(word) => word,
            Err(CallError::MaybeDone(_)) => "maybe".into(),
            Err(other) => return Err(other.into()),
        };
        let saved = cx
            .saga(async |saga| {
                saga.call(Act { word: "hold".into() }).undo_with(|_| Act { word: "release".into() }).await?;
                let (left, right) = (cx.call(Act { word: "left".into() }), cx.call(Act { word: "right".into() }));
                let (left, right) = futures_util::future::join(left, right).await;
                let both = format!("{}{}", left?, right?);
                if self.number.is_multiple_of(3) { Err(AppError::new("as planned")) } else { Ok(both) }
            })
            .await?;
        Ok(format!("{first} {inline} {blocking} {go} {part} {flaky} {shared} {once} {saved}"))
    }
}

/// Dispatches through gates, from the beginning on in each life: a caller who cannot know which answers it has had.
async fn through_gates(stent: &Stent, count: u64) {
    let part = || Dispatch::new(Part { word: "gate".into() });
    for number in 0..count {
        let request = number.to_string();
        let throttled = part().throttle("t", 3, millis(100)).request_id(&request);
        let debounced = part().debounce("d", millis(30)).at_most(millis(80)).request_id(&request);
        for gated in [throttled, debounced] {
            let admitted = stent.admit(gated).await.expect("a dispatch is taken");
            side(&format!("took {number} {}", admitted.handle.id()));
        }
    }
}

#[actix::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(database), Some(file), Some(count)) = (args.next(), args.next(), args.next()) else {
        panic!("usage: stent-crash-child <database> <side file> <executions>");
    };
    let opened = OpenOptions::new().create(true).append(true).open(file).expect("the side file can be opened");
    SIDE.set(opened).expect("set once");
    let clock = stent::clock::ShiftedClock::default();
    clock.shift(args.next().map_or(0, |shift| shift.parse().expect("a shift of the clock")));
    side(&format!("up {}", std::process::id()));
    let count: u64 = count.parse().expect("a number of executions");
    let act = async |call: Call<Act>| {
        acts(&name_of(call.run()), &format!("#{}", call.key().rsplit('/').next().unwrap_or_default()), call.attempt());
        tokio::time::sleep(millis(2)).await;
        Ok(call.word.clone())
    };
    let flaky = async |call: Call<Flaky>| {
        acts(&call.run().id, &format!("#{}", call.key().rsplit('/').next().unwrap_or_default()), call.attempt());
        if call.attempt() <= call.failures { Err(AppError::new("not yet")) } else { Ok("stable".to_owned()) }
    };
    let builder = Stent::open(&format!("sqlite:{database}")).workflow::<Order>().workflow::<Part>().workflow::<Tally>();
    let inline = std::env::var("STENT_INLINE").is_ok_and(|inline| inline == "1");
    let builder = if inline { builder.inline(act).inline(flaky) } else { builder.activity(act).activity(flaky) };
    let stent = builder
        .passivate_after(millis(10))
        .look_ahead(millis(5))
        // Long: nothing may depend on its running out.
        .lease(secs(30))
        .clock(Arc::new(clock))
        .build("crash")
        .spawn()
        .await
        .expect("the runtime starts");
    let how = SqliteConnectOptions::new().filename(&database).busy_timeout(secs(10));
    let mut books = SqliteConnection::connect_with(&how).await.expect("the file is there");
    let table = "CREATE TABLE IF NOT EXISTS payments (execution text NOT NULL)";
    sqlx::query(table).execute(&mut books).await.expect("the table can be made");
    books.close().await.expect("it is closed");
    if std::env::var_os("STENT_SCHEDULE").is_some() {
        let tick = Schedule::new("tick", Part { word: "tick".into() }).every(secs(1)).overlap(Overlap::AllowAll);
        stent.create_schedule(tick).await.expect("it is made, or was before");
        side("scheduled");
        return std::future::pending().await;
    }
    if std::env::var_os("STENT_GATES").is_some() {
        through_gates(&stent, count).await;
        side("passed");
        return std::future::pending().await;
    }
    let stent = Arc::new(stent);
    let tally = stent.dispatch(Dispatch::new(Tally { orders: count, heard: Vec::new() }).id("tally")).await.expect("it is taken");
    side("ack tally");
    let ends = (0..count).map(|number| {
        let stent = stent.clone();
        async move {
            let id = format!("order-{number}");
            let heard = SendSignal::new("tally", &Heard(number)).message_id(format!("heard-{number}"));
            match stent.signal(heard).await {
                Ok(()) | Err(stent::Error::Send(stent::SendError::AlreadyEnded { .. })) => {}
                Err(other) => panic!("tally: {other}"),
            }
            // It is there from the life before; a dispatch would run its first turn here.
            if is_poison(&id) {
                return;
            }
            let handle = stent.dispatch(Dispatch::new(Order { number }).id(&id)).await.expect("a dispatch is taken");
            side(&format!("ack {id}"));
            let go = SendSignal::new(&id, &Go { word: "go".into() }).message_id("go");
            match stent.signal(go).await {
                Ok(()) => side(&format!("sig {id}")),
                Err(stent::Error::Send(stent::SendError::AlreadyEnded { .. })) => {}
                Err(other) => panic!("{id}: {other}"),
            }
            match handle.result().await {
                Ok(_) | Err(RunError::Failed(_)) => {}
                Err(other) => panic!("{id}: {other}"),
            }
        }
    });
    futures_util::future::join_all(ends).await;
    tally.result().await.expect("the last of its runs completes");
    stent.shutdown(Shutdown::within(secs(5))).await.expect("it stops");
}
