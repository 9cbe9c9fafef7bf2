//! One node of the clusters that `tests/cluster` mistreats. It opens the store that its arguments name, obeys commands on
//! its standard input, and runs until that is closed or SIGTERM comes; then it shuts down gracefully.
//!
//! Arguments (`name=value`): `url`, `side`, `workflows` (of `load`, `load2`, `rare`, `changed`; separated by commas), `lease_ms`,
//! `grace_ms`, `passivate_ms`, `ahead_ms`, `activities`, `shift_us`, `build`, `hints` (a URL).
//!
//! A command is `<tag> <verb> …`, its answer `<tag> ok …` or `<tag> err …`; commands run beside each other. `dispatch`,
//! `signal`, `missing` and `result` take a job (`<workflow> <steps> <pause_ms> <sleep_ms> <signal>`) and the first and last
//! number; `unended` counts what has not ended, `blocked` what some build could not run; `held` what is in memory; `arm <failpoint> <action> <hit>`; `exit` leaves without a word to the store.
//! Once it is up it says `ready <pid>`.
//!
//! Side file, each line by one write: `act <id> <step> <attempt> <pid> <fence> start|end <boot µs> <wall µs>`,
//! `ack <id> <pid> <boot µs>`, `sig <id> <pid> <boot µs>`, `up|down <pid> <boot µs>`.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{BufRead, Write},
    str::FromStr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use stent::{
    Queue,
    clock::{Clock, ShiftedClock, SystemClock},
    prelude::*,
    store::Status,
};

/// How long a command is tried while the store does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

static SIDE: OnceLock<File> = OnceLock::new();

fn side(line: &str) {
    let mut file = SIDE.get().expect("opened first");
    file.write_all(format!("{line}\n").as_bytes()).expect("the side file can be written");
}

fn boot() -> u128 {
    SystemClock.boot().as_micros()
}

/// An act under way: its start is in the side file, and its end will be, whether it ends or is dropped.
struct Acting(String);

impl Acting {
    fn start(id: &str, step: &str, attempt: u32, fence: u64) -> Acting {
        let act = format!("act {id} {step} {attempt} {} {fence}", std::process::id());
        side(&format!("{act} start {} {}", boot(), SystemClock.wall().0));
        Acting(act)
    }

    fn of<A: Activity>(call: &Call<A>) -> Acting {
        let key = call.key();
        let step = format!("#{}", key.rsplit('/').next().unwrap_or_default());
        Acting::start(&call.run().id, &step, call.attempt(), call.fence())
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        side(&format!("{} end {} {}", self.0, boot(), SystemClock.wall().0));
    }
}

/// What an execution is to do; the same in all versions.
#[derive(Clone, Serialize, Deserialize)]
struct Plan {
    steps: u32,
    pause_ms: u64,
    sleep_ms: u64,
    signal: bool,
}

#[derive(Serialize, Deserialize)]
struct Act {
    word: String,
    pause_ms: u64,
}

impl Activity for Act {
    const NAME: &'static str = "cluster.act";
    type Output = String;
    type Error = AppError;
}

/// Fails as often as it is told to.
#[derive(Serialize, Deserialize)]
struct Flaky {
    failures: u32,
}

impl Activity for Flaky {
    const NAME: &'static str = "cluster.flaky";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "cluster.go";
}

/// Puts a call into a queue, with the key of its execution: executions of equal last digits share one.
fn queued<A: Activity>(call: stent::cx::Pending<A>, queue: &str, id: &str) -> stent::cx::Pending<A> {
    if queue.is_empty() { call } else { call.queue(queue).queue_key(id.chars().next_back().unwrap_or('0')) }
}

/// What a careless change makes of it: the same name and version, and another first call.
async fn changed<W: Workflow>(cx: &Cx<W>, plan: &Plan, queue: &str) -> Result<String, AppError> {
    cx.call(Flaky { failures: 0 }).await?;
    work(cx, plan, queue).await
}

/// The work of every version: chained calls, an inline step, a sleep, a signal, a retry, an act at most once, two at once.
async fn work<W: Workflow>(cx: &Cx<W>, plan: &Plan, queue: &str) -> Result<String, AppError> {
    let mut words = Vec::new();
    let id = cx.id().id.clone();
    for step in 0..plan.steps {
        words.push(queued(cx.call(Act { word: step.to_string(), pause_ms: plan.pause_ms }), queue, &id).await?);
    }
    let in_step = id.clone();
    let inline = cx
        .step("inline", async move || {
            drop(Acting::start(&in_step, "inline", 0, 0));
            Ok::<_, AppError>("inline".to_owned())
        })
        .await?;
    words.push(inline);
    if plan.sleep_ms > 0 {
        cx.sleep(millis(plan.sleep_ms)).await?;
    }
    if plan.signal {
        cx.signal::<Go>().await?;
        words.push("go".to_owned());
    }
    let flaky = cx.call(Flaky { failures: 1 }).retry(Retry::fixed(millis(20)).jitter_percent(0));
    words.push(queued(flaky, queue, &id).await?);
    let once = cx.call(Act { word: "once".into(), pause_ms: plan.pause_ms }).at_most_once();
    words.push(match queued(once, queue, &id).await {
        Ok(word) => word,
        Err(CallError::MaybeDone(_)) => "maybe".into(),
        Err(other) => return Err(other.into()),
    });
    let act = |word: &str| queued(cx.call(Act { word: word.into(), pause_ms: 1 }), queue, &id);
    let (left, right) = futures_util::future::join(act("left"), act("right")).await;
    words.extend([left?, right?]);
    Ok(words.join(" "))
}

/// Makes a workflow of that work.
macro_rules! workflow {
    ($type:ident, $name:literal, $version:literal, $word:literal, $work:ident, $queue:literal) => {
        #[derive(Serialize, Deserialize)]
        struct $type {
            plan: Plan,
        }

        impl Workflow for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
            type Output = String;
            type Error = AppError;

            async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
                Ok(format!("{} {}", $word, $work(&cx, &self.plan, $queue).await?))
            }
        }
    };
}

workflow!(Load, "cluster.load", 1, "load", work, "");
workflow!(Load2, "cluster.load", 2, "load2", work, "");
workflow!(Rare, "cluster.rare", 1, "rare", work, "");
workflow!(Queued, "cluster.queued", 1, "queued", work, "limited");
workflow!(Changed, "cluster.load", 1, "changed", changed, "");

/// Calls a function for the type that a word names.
macro_rules! by_word {
    ($word:expr, $function:ident($($argument:expr),*)) => {
        match $word {
            "load" => $function($($argument,)* |plan| Load { plan }).await,
            "load2" => $function($($argument,)* |plan| Load2 { plan }).await,
            "rare" => $function($($argument,)* |plan| Rare { plan }).await,
            "queued" => $function($($argument,)* |plan| Queued { plan }).await,
            other => Err(format!("there is no workflow {other:?}")),
        }
    };
}

/// A job of a command: which workflow, how, and for which numbers.
struct Job {
    workflow: String,
    plan: Plan,
    numbers: std::ops::RangeInclusive<u64>,
}

impl Job {
    fn parse(words: &[&str]) -> Option<Job> {
        let [workflow, steps, pause_ms, sleep_ms, signal, from, to] = words else { return None };
        let plan = Plan {
            steps: steps.parse().ok()?,
            pause_ms: pause_ms.parse().ok()?,
            sleep_ms: sleep_ms.parse().ok()?,
            signal: *signal == "1",
        };
        Some(Job { workflow: (*workflow).to_owned(), plan, numbers: from.parse().ok()?..=to.parse().ok()? })
    }

    fn ids(&self) -> impl Iterator<Item = String> + '_ {
        self.numbers.clone().map(|number| format!("{}-{number}", self.workflow))
    }
}

/// Tells whether the same may be asked again.
fn is_passing(error: &stent::Error) -> bool {
    use stent::{DispatchError, Error, SendError};
    match error {
        Error::Dispatch(DispatchError::Busy { .. } | DispatchError::Unavailable(_))
        | Error::Send(SendError::Unavailable(_) | SendError::InboxFull(_))
        | Error::Store(_) => true,
        // Its dispatch may be on its way at another node.
        Error::Send(SendError::Unknown(_)) => true,
        _ => false,
    }
}

/// Asks again while the answer may become another.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, stent::Error>) -> Result<T, stent::Error> {
    let since = Instant::now();
    loop {
        match ask().await {
            Err(error) if is_passing(&error) && since.elapsed() < PATIENCE => tokio::time::sleep(millis(50)).await,
            answer => return answer,
        }
    }
}

async fn dispatch<W: Workflow>(stent: &Stent, job: &Job, make: impl Fn(Plan) -> W + Copy) -> Result<String, String> {
    let all = job.ids().map(async |id| {
        patiently(async || stent.dispatch(Dispatch::new(make(job.plan.clone())).id(&id)).await).await?;
        side(&format!("ack {id} {} {}", std::process::id(), boot()));
        Ok::<_, stent::Error>(())
    });
    all_of(all).await
}

async fn result<W: Workflow<Output = String, Error = AppError>>(
    stent: &Stent,
    job: &Job,
    _: impl Fn(Plan) -> W,
) -> Result<String, String> {
    let all = job.ids().map(async |id| {
        let handle = patiently(async || stent.handle::<W>(&id).await).await?;
        let handle = handle.ok_or_else(|| stent::Error::Wait(format!("{id} is unknown")))?;
        handle.result().await.map(drop).map_err(stent::Error::from)
    });
    all_of(all).await
}

async fn signal(stent: &Stent, job: &Job) -> Result<String, String> {
    let all = job.ids().map(async |id| {
        let sent = patiently(async || stent.signal(SendSignal::new(&id, &Go).message_id("go")).await).await;
        match sent {
            Ok(()) => side(&format!("sig {id} {} {}", std::process::id(), boot())),
            Err(stent::Error::Send(stent::SendError::AlreadyEnded { .. })) => {}
            Err(other) => return Err(other),
        }
        Ok(())
    });
    all_of(all).await
}

/// Waits for all, and returns how many there were, or the first error.
async fn all_of(all: impl Iterator<Item = impl Future<Output = Result<(), stent::Error>>>) -> Result<String, String> {
    let all = futures_util::future::join_all(all).await;
    let count = all.len();
    all.into_iter().collect::<Result<Vec<()>, _>>().map(|_| count.to_string()).map_err(|error| error.to_string())
}

/// Returns those that the store does not know.
async fn missing(stent: &Stent, job: &Job) -> Result<String, String> {
    let mut missing = Vec::new();
    for id in job.ids() {
        let found = patiently(async || stent.describe(&id).await).await.map_err(|error| error.to_string())?;
        if found.is_none() {
            missing.push(id);
        }
    }
    Ok(missing.join(" "))
}

/// Lists what has not ended.
fn open_runs() -> stent::List {
    let open = Status::ALL.into_iter().filter(|status| !status.is_end());
    open.fold(stent::List::new().limit(1_000), stent::List::status)
}

/// Counts the runs that a build could not go on with, among the newest thousand.
async fn blocked(stent: &Stent) -> Result<String, String> {
    let page = stent.list(open_runs()).await.map_err(|error| error.to_string())?;
    Ok(page.iter().filter(|run| run.blocked_build.is_some()).count().to_string())
}

/// Counts what has not ended, and names the first of them.
async fn unended(stent: &Stent) -> Result<String, String> {
    let mut list = open_runs();
    let (mut count, mut named) = (0, Vec::new());
    loop {
        let page = stent.list(list.clone()).await.map_err(|error| error.to_string())?;
        let Some(last) = page.last().map(|run| run.run) else { return Ok(format!("{count} {}", named.join(" "))) };
        count += page.len();
        for run in page.iter().take(5_usize.saturating_sub(named.len())) {
            named.push(format!("{}:{:?}:owner={:?}:wake={:?}", run.id.id, run.status, run.owner, run.wake_at));
        }
        list = list.after(last);
    }
}

fn arm(words: &[&str]) -> Result<String, String> {
    let [name, action, hit] = words else { return Err("arm <failpoint> <action> <hit>".to_owned()) };
    let action = stent::failpoints::Action::from_str(action)?;
    stent::failpoints::set(name, action, hit.parse().map_err(|_| "a number of hits".to_owned())?);
    Ok(String::new())
}

async fn obey(stent: &Stent, verb: &str, words: &[&str]) -> Result<String, String> {
    match verb {
        "unended" => return unended(stent).await,
        "blocked" => return blocked(stent).await,
        "held" => return Ok(stent.stats().held.to_string()),
        "arm" => return arm(words),
        "exit" => std::process::exit(0),
        _ => {}
    }
    let job = Job::parse(words).ok_or_else(|| format!("{verb} {}: what is that?", words.join(" ")))?;
    match verb {
        "dispatch" => by_word!(&*job.workflow, dispatch(stent, &job)),
        "result" => by_word!(&*job.workflow, result(stent, &job)),
        "signal" => signal(stent, &job).await,
        "missing" => missing(stent, &job).await,
        other => Err(format!("there is no {other:?}")),
    }
}

/// Says a line to whoever started this node.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the end of the input will tell.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

/// Reads commands on a thread of its own; the channel ends with the input.
fn commands() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (to, commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
    commands
}

fn build(options: &HashMap<String, String>) -> Builder {
    let number = |name: &str, default: u64| {
        options.get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let clock = ShiftedClock::default();
    clock.shift(options.get("shift_us").map_or(0, |text| text.parse().expect("a shift of the clock")));
    let mut builder = Stent::open(&options["url"])
        .activity(async |call: Call<Act>| {
            let _acting = Acting::of(&call);
            tokio::time::sleep(millis(call.pause_ms)).await;
            Ok(call.word.clone())
        })
        .activity(async |call: Call<Flaky>| {
            let _acting = Acting::of(&call);
            if call.attempt() <= call.failures { Err(AppError::new("not yet")) } else { Ok("stable".to_owned()) }
        })
        .passivate_after(millis(number("passivate_ms", 50)))
        .look_ahead(millis(number("ahead_ms", 1_000)))
        .activities(usize::try_from(number("activities", 1_000)).expect("a number of activities"))
        .lease(millis(number("lease_ms", 2_000)))
        .clock(Arc::new(clock))
        .build(options.get("build").map_or("cluster", String::as_str));
    if let Some(limit) = options.get("limit").filter(|limit| *limit != "0") {
        let mut queue = Queue::named("limited").concurrency(limit.parse().expect("a limit"));
        if let Some(per_key) = options.get("per_key").filter(|per_key| *per_key != "0") {
            queue = queue.per_key(per_key.parse().expect("a limit"));
        }
        builder = builder.queue(queue);
    }
    if let Some(hints) = options.get("hints").filter(|url| !url.is_empty()) {
        builder = builder.hints(hints);
    }
    for workflow in options.get("workflows").map_or("load", String::as_str).split(',') {
        builder = match workflow {
            "load" => builder.workflow::<Load>(),
            "load2" => builder.workflow::<Load2>(),
            "rare" => builder.workflow::<Rare>(),
            "queued" => builder.workflow::<Queued>(),
            "changed" => builder.workflow::<Changed>(),
            other => panic!("there is no workflow {other:?}"),
        };
    }
    builder
}

#[actix::main]
async fn main() {
    #[cfg(feature = "cli")]
    {
        let filter = tracing_subscriber::EnvFilter::try_from_env("STENT_LOG").unwrap_or_else(|_| "warn".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    }
    let options: HashMap<String, String> = std::env::args()
        .skip(1)
        .map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).expect("name=value"))
        .collect();
    let opened = OpenOptions::new().create(true).append(true).open(&options["side"]).expect("the side file can be opened");
    SIDE.set(opened).expect("set once");
    let mut asked = commands();
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("SIGTERM can be heard");
    let stent = build(&options).spawn().await.unwrap_or_else(|error| {
        say(&format!("failed {error}"));
        std::process::exit(3);
    });
    let pid = std::process::id();
    side(&format!("up {pid} {}", boot()));
    say(&format!("ready {pid}"));
    loop {
        tokio::select! {
            line = asked.recv() => {
                let Some(line) = line else { break };
                let stent = stent.clone();
                actix_rt::spawn(async move {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let [tag, verb, rest @ ..] = &words[..] else { return };
                    match obey(&stent, verb, rest).await {
                        Ok(answer) => say(&format!("{tag} ok {answer}")),
                        Err(error) => say(&format!("{tag} err {error}")),
                    }
                });
            }
            _ = told.recv() => break,
            end = stent.join() => {
                say(&format!("failed {end:?}"));
                std::process::exit(4);
            }
        }
    }
    let grace = options.get("grace_ms").map_or(2_000, |text| text.parse().expect("a grace"));
    let stopped = stent.shutdown(Shutdown::within(millis(grace))).await;
    side(&format!("down {pid} {}", boot()));
    say(&format!("stopped {stopped:?}"));
    std::process::exit(i32::from(stopped.is_err()));
}
