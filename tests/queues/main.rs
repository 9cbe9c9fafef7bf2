//! Shared queues, seen from an application: several nodes in one process on one store. Limits hold for all of them together,
//! nobody is held up by somebody else's limit, and whoever waits holds nothing.

mod rules;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use stent::{Builder, Queue, Stent, prelude::*};
use support::{Home, Rng, eventually, system};
use tokio::sync::watch;

/// What an outside monitor sees: who is at work, and the most there ever were.
#[derive(Default)]
struct Monitor {
    now: HashMap<String, u32>,
    peak: HashMap<String, u32>,
    order: Vec<String>,
}

#[derive(Clone, Default)]
struct Watched {
    monitor: Arc<Mutex<Monitor>>,
    /// The most there ever were at once…
    peak: Arc<watch::Sender<u32>>,
    /// …before which nobody leaves: that a limit is used up is no matter of speed then.
    gate: u32,
    /// What each attempt knew of the one before.
    known: Arc<Mutex<Vec<Option<u32>>>>,
}

struct Inside(Watched, [String; 2]);

impl Watched {
    fn enter(&self, what: &str, key: &str) -> Inside {
        let mut monitor = self.monitor.lock();
        monitor.order.push(what.to_owned());
        let names = ["all".to_owned(), format!("key {key}")];
        for name in &names {
            let now = monitor.now.entry(name.clone()).or_default();
            *now += 1;
            let now = *now;
            let peak = monitor.peak.entry(name.clone()).or_default();
            *peak = now.max(*peak);
        }
        self.peak.send_replace(monitor.peak["all"]);
        Inside(self.clone(), names)
    }

    async fn gate(&self) {
        let mut peak = self.peak.subscribe();
        // Whoever would wait for ever leaves, and the peak tells.
        let _ = tokio::time::timeout(secs(10), peak.wait_for(|peak| *peak >= self.gate)).await;
    }

    fn peak(&self, name: &str) -> u32 {
        self.monitor.lock().peak.get(name).copied().unwrap_or(0)
    }

    fn order(&self) -> Vec<String> {
        self.monitor.lock().order.clone()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut monitor = self.0.monitor.lock();
        for name in &self.1 {
            *monitor.now.get_mut(name).unwrap() -= 1;
        }
    }
}

#[derive(Serialize, Deserialize, Clone)]
struct Work {
    what: String,
    key: String,
    millis: u64,
}

impl Activity for Work {
    const NAME: &'static str = "queues.work";
    type Output = String;
    type Error = AppError;
}

/// Calls its works all at once, in a queue.
#[derive(Serialize, Deserialize)]
struct Batch {
    queue: String,
    works: Vec<(Work, i32)>,
}

impl Workflow for Batch {
    const NAME: &'static str = "queues.batch";
    type Output = Vec<String>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
        let calls = self.works.into_iter().map(|(work, priority)| {
            let key = work.key.clone();
            cx.call(work).queue(&self.queue).queue_key(key).priority(priority)
        });
        let done = futures::future::join_all(calls).await;
        Ok(done.into_iter().collect::<Result<_, _>>()?)
    }
}

/// One call in a queue; a failure is its output.
#[derive(Serialize, Deserialize)]
struct Single {
    queue: String,
    work: Work,
    patience: Option<Duration>,
    needs: Option<String>,
}

impl Workflow for Single {
    const NAME: &'static str = "queues.single";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let mut call = cx.call(self.work).queue(&self.queue);
        if let Some(patience) = self.patience {
            call = call.schedule_to_start(patience);
        }
        if let Some(tag) = self.needs {
            call = call.needs(tag);
        }
        match call.await {
            Err(CallError::TimedOut(why)) => Ok(format!("timed out: {why}")),
            other => Ok(other?),
        }
    }
}

fn work(what: impl Into<String>, key: &str, millis: u64) -> Work {
    Work { what: what.into(), key: key.to_owned(), millis }
}

fn single(queue: &str, work: Work) -> Single {
    Single { queue: queue.into(), work, patience: None, needs: None }
}

fn node(home: &Home, watched: &Watched) -> Builder {
    let watched = watched.clone();
    let builder = home.open().workflow::<Batch>().workflow::<Single>().lease(secs(2)).passivate_after(millis(200));
    builder.activity(async move |call: Call<Work>| {
        let _inside = watched.enter(&call.what, &call.key);
        watched.known.lock().push(call.details());
        watched.gate().await;
        tokio::time::sleep(Duration::from_millis(call.millis)).await;
        Ok(call.what.clone())
    })
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
}

#[test]
fn a_limit_holds_for_all_nodes_together_and_everything_is_done_once() {
    for home in Home::shared() {
        system(async {
            let mut rng = Rng::from_env("limits");
            let watched = Watched { gate: 4, ..Watched::default() };
            let mut nodes = Vec::new();
            for _ in 0..3 {
                let rules = Queue::named("q").concurrency(4).per_key(2);
                nodes.push(node(&home, &watched).queue(rules).spawn().await.unwrap());
            }
            let mut handles = Vec::new();
            for number in 0..20_u64 {
                let mut works = Vec::new();
                for n in 0..5 {
                    let key = format!("k{}", rng.between(0, 3));
                    works.push((work(format!("{number}-{n}"), &key, rng.between(0, 8)), 0));
                }
                let at = usize::try_from(rng.between(0, 2)).unwrap();
                let batch = Batch { queue: "q".into(), works };
                handles.push((number, nodes[at].dispatch(Dispatch::new(batch)).await.unwrap()));
            }
            for (number, handle) in handles {
                let expected: Vec<String> = (0..5).map(|n| format!("{number}-{n}")).collect();
                assert_eq!(handle.result().await.unwrap(), expected);
            }
            assert_eq!(watched.peak("all"), 4, "exactly the limit is used; there were {} starts", watched.order().len());
            assert!((0..4).all(|key| watched.peak(&format!("key k{key}")) <= 2));
            assert_eq!(watched.order().len(), 100, "each once");
            eventually("no permit is left", secs(5), async || {
                nodes[0].queues().await.unwrap().iter().all(|queue| queue.running == 0 && queue.waiting == 0)
            })
            .await;
            for node in nodes {
                stop(node).await;
            }
        });
    }
}

#[test]
fn a_call_of_a_queue_that_is_not_served_here_runs_where_it_is() {
    for home in Home::shared() {
        system(async {
            let (front, back) = (Watched::default(), Watched::default());
            // The front does not even have the activity.
            let owner = home.open().workflow::<Batch>().workflow::<Single>().serve([""]).lease(secs(2)).spawn().await.unwrap();
            let worker = node(&home, &back).serve(["gpu"]).tag("big").spawn().await.unwrap();
            let handle = owner.dispatch(Dispatch::new(single("gpu", work("here", "", 1)))).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), "here");
            let needy = Single { needs: Some("big".into()), ..single("gpu", work("big", "", 1)) };
            let handle = owner.dispatch(Dispatch::new(needy)).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), "big");
            assert_eq!((front.order().len(), back.order().len()), (0, 2));
            // Nobody has this tag: it waits, and says for whom.
            let needy = Single { needs: Some("huge".into()), ..single("gpu", work("huge", "", 1)) };
            let handle = owner.dispatch(Dispatch::new(needy).id("huge")).await.unwrap();
            let described = owner.describe("huge").await.unwrap().unwrap();
            assert!(described.waits_for.iter().any(|line| line.contains("waits in queue \"gpu\"")), "{described:?}");
            let huge = node(&home, &back).serve(["gpu"]).tag("huge").spawn().await.unwrap();
            assert_eq!(handle.result().await.unwrap(), "huge");
            for node in [owner, worker, huge] {
                stop(node).await;
            }
        });
    }
}

#[test]
fn a_key_at_its_limit_with_a_long_line_holds_up_nobody() {
    for home in Home::shared() {
        system(async {
            let watched = Watched::default();
            let stent = node(&home, &watched).queue(Queue::named("q").per_key(1)).spawn().await.unwrap();
            let slow: Vec<_> = (0..300).map(|n| (work(format!("slow-{n}"), "slow", 20), 0)).collect();
            let long = stent.dispatch(Dispatch::new(Batch { queue: "q".into(), works: slow }).id("long")).await.unwrap();
            let began = Instant::now();
            let quick: Vec<_> = (0..20).map(|n| (work(format!("quick-{n}"), &format!("k{n}"), 0), 0)).collect();
            let handle = stent.dispatch(Dispatch::new(Batch { queue: "q".into(), works: quick })).await.unwrap();
            handle.result().await.unwrap();
            let took = began.elapsed();
            assert!(took < secs(3), "{took:?}: the line of `slow` takes six seconds");
            stent.cancel(Cancel::new("long")).await.unwrap();
            assert!(long.result().await.is_err());
            assert_eq!(watched.peak("key slow"), 1);
            let after = watched.order().len();
            eventually("what is withdrawn has left the queue", secs(5), async || {
                stent.queues().await.unwrap().iter().all(|queue| queue.waiting == 0 && queue.running == 0)
            })
            .await;
            assert!(watched.order().len() <= after + 1);
            stop(stent).await;
        });
    }
}

#[test]
fn fair_keys_take_turns_priority_overtakes_and_a_paused_queue_waits() {
    for home in Home::all() {
        system(async {
            let watched = Watched::default();
            let stent = node(&home, &watched)
                .queue(Queue::named("fair").concurrency(1).fair())
                .queue(Queue::named("ranked").concurrency(1))
                .spawn()
                .await
                .unwrap();
            stent.pause_queue("fair").await.unwrap();
            stent.pause_queue("ranked").await.unwrap();
            let mut works: Vec<_> = (0..6).map(|n| (work(format!("a{n}"), "a", 1), 0)).collect();
            works.extend([(work("b0", "b", 1), 0), (work("b1", "b", 1), 0)]);
            let fair = stent.dispatch(Dispatch::new(Batch { queue: "fair".into(), works })).await.unwrap();
            let works = (0..4).map(|n| (work(format!("r{n}"), "", 1), n)).collect();
            let ranked = stent.dispatch(Dispatch::new(Batch { queue: "ranked".into(), works })).await.unwrap();
            eventually("all wait", secs(5), async || {
                let queues = stent.queues().await.unwrap();
                let waiting: u64 = queues.iter().map(|queue| queue.waiting).sum();
                waiting == 12 && queues.iter().all(|queue| queue.paused && queue.running == 0)
            })
            .await;
            assert!(watched.order().is_empty(), "paused");
            stent.resume_queue("fair").await.unwrap();
            fair.result().await.unwrap();
            assert_eq!(watched.order(), ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]);
            stent.resume_queue("ranked").await.unwrap();
            ranked.result().await.unwrap();
            assert_eq!(watched.order()[8..], ["r3", "r2", "r1", "r0"]);
            stop(stent).await;
        });
    }
}

#[test]
fn a_rate_is_kept_by_all_nodes_together() {
    for home in Home::shared() {
        system(async {
            let watched = Watched::default();
            let mut nodes = Vec::new();
            for _ in 0..2 {
                let rules = Queue::named("q").rate(10, secs(1));
                nodes.push(node(&home, &watched).queue(rules).spawn().await.unwrap());
            }
            let began = Instant::now();
            let works = (0..25).map(|n| (work(format!("{n}"), "", 0), 0)).collect();
            let handle = nodes[0].dispatch(Dispatch::new(Batch { queue: "q".into(), works })).await.unwrap();
            handle.result().await.unwrap();
            let took = began.elapsed();
            // Ten at once, and fifteen more at ten a second.
            assert!(took >= millis(1_490), "{took:?}");
            assert!(took < millis(4_500), "{took:?}");
            for node in nodes {
                stop(node).await;
            }
        });
    }
}

#[test]
fn a_parent_that_waits_for_a_queue_holds_no_slot_and_leaves_memory() {
    for home in Home::all() {
        system(async {
            let watched = Watched::default();
            let stent = node(&home, &watched).queue(Queue::named("q")).activities(2).in_flight(4).spawn().await.unwrap();
            stent.pause_queue("q").await.unwrap();
            let mut handles = Vec::new();
            for n in 0..12 {
                let dispatch = Dispatch::new(single("q", work(format!("{n}"), "", 1)));
                handles.push(stent.dispatch(dispatch).await.unwrap());
            }
            eventually("all wait in the queue, whatever fits into memory", secs(20), async || {
                stent.queues().await.unwrap().iter().any(|queue| queue.waiting == 12)
            })
            .await;
            // Another call needs an activity slot and a place in memory: both are there.
            let own = stent.dispatch(Dispatch::new(single("", work("own", "", 1)))).await.unwrap();
            assert_eq!(own.result().await.unwrap(), "own");
            stent.resume_queue("q").await.unwrap();
            for (n, handle) in handles.into_iter().enumerate() {
                assert_eq!(handle.result().await.unwrap(), n.to_string());
            }
            stop(stent).await;
        });
    }
}

#[test]
fn a_task_that_nobody_starts_in_time_times_out_and_one_that_nobody_wants_is_stopped() {
    for home in Home::all() {
        system(async {
            let watched = Watched::default();
            let stent = node(&home, &watched).queue(Queue::named("q").concurrency(1)).spawn().await.unwrap();
            let long = stent.dispatch(Dispatch::new(single("q", work("long", "", 60_000))).id("long")).await.unwrap();
            eventually("it runs", secs(5), async || watched.peak("all") == 1).await;
            let hasty = Single { patience: Some(millis(100)), ..single("q", work("hasty", "", 1)) };
            let hasty = stent.dispatch(Dispatch::new(hasty)).await.unwrap();
            let said = hasty.result().await.unwrap();
            assert!(said.starts_with("timed out: schedule_to_start"), "{said}");
            stent.cancel(Cancel::new("long")).await.unwrap();
            assert!(long.result().await.is_err());
            let next = stent.dispatch(Dispatch::new(single("q", work("next", "", 1)))).await.unwrap();
            assert_eq!(next.result().await.unwrap(), "next", "its permit came back");
            assert_eq!(watched.order(), ["long", "next"]);
            stop(stent).await;
        });
    }
}

#[test]
fn a_worker_that_leaves_gives_its_tasks_back_and_an_owner_that_leaves_loses_no_end() {
    for home in Home::shared() {
        system(async {
            let watched = Watched::default();
            let rules = || Queue::named("q").concurrency(8);
            let owner = node(&home, &watched).queue(rules()).serve([""]).spawn().await.unwrap();
            let worker = node(&home, &watched).queue(rules()).serve(["q"]).spawn().await.unwrap();
            let works = (0..24).map(|n| (work(format!("{n}"), "", 300), 0)).collect();
            owner.dispatch(Dispatch::new(Batch { queue: "q".into(), works }).id("batch")).await.unwrap();
            eventually("it is full", secs(5), async || watched.peak("all") == 8).await;
            // The owner leaves while its tasks run; they end meanwhile, and are told to whoever goes on.
            stop(owner).await;
            let next = node(&home, &watched).queue(rules()).spawn().await.unwrap();
            worker.shutdown(Shutdown::within(millis(10))).await.unwrap();
            let handle = next.handle::<Batch>("batch").await.unwrap().unwrap();
            let expected: Vec<String> = (0..24).map(|n| n.to_string()).collect();
            assert_eq!(handle.result().await.unwrap(), expected);
            assert!(watched.peak("all") <= 8);
            stop(next).await;
        });
    }
}

/// Does what a claim does whose answer never comes, and a worker that has told how far it is: seven.
async fn take_unheard(home: &Home) {
    match home {
        Home::Sqlite(_) => {
            use stent::store::sqlite::sqlx::{self, Connection, SqliteConnection};
            let mut file = SqliteConnection::connect(&home.file().display().to_string()).await.unwrap();
            sqlx::query("UPDATE tasks SET worker = (SELECT max(node) FROM nodes), details = X'07'")
                .execute(&mut file)
                .await
                .unwrap();
        }
        #[cfg(feature = "postgres")]
        Home::Postgres(database) => {
            use stent::store::postgres::sqlx::{self, Connection, PgConnection};
            let mut server = PgConnection::connect(&database.url()).await.unwrap();
            let taken = "UPDATE stent.tasks SET worker = (SELECT max(node) FROM stent.nodes), details = '\\x07'";
            sqlx::query(taken).execute(&mut server).await.unwrap();
        }
        _ => panic!("this store has no way past it"),
    }
}

#[test]
fn a_task_whose_claim_was_never_answered_comes_back_though_its_node_lives() {
    for home in Home::all().into_iter().filter(|home| !matches!(home, Home::Memory(_))) {
        system(async {
            let watched = Watched::default();
            let stent =
                node(&home, &watched).queue(Queue::named("q").concurrency(1)).passivate_after(secs(60)).spawn().await.unwrap();
            stent.pause_queue("q").await.unwrap();
            let handle = stent.dispatch(Dispatch::new(single("q", work("once", "", 1)))).await.unwrap();
            let of_queue = async |running: u64| {
                stent.queues().await.unwrap().iter().any(|queue| queue.running == running && queue.waiting == 1 - running)
            };
            eventually("it waits", secs(5), async || of_queue(0).await).await;
            take_unheard(&home).await;
            assert!(of_queue(1).await, "the only permit is taken");
            stent.resume_queue("q").await.unwrap();
            assert_eq!(handle.result().await.unwrap(), "once");
            assert_eq!(watched.order(), ["once"]);
            assert_eq!(*watched.known.lock(), [Some(7)], "what was kept of the lost attempt goes to the next");
            stop(stent).await;
        });
    }
}

#[derive(Serialize, Deserialize)]
struct Large;

impl Activity for Large {
    const NAME: &'static str = "queues.large";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Asks;

impl Workflow for Asks {
    const NAME: &'static str = "queues.asks";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        match cx.call(Large).queue("q").await {
            Ok(text) => Ok(format!("{} bytes", text.len())),
            Err(error) => Ok(error.to_string()),
        }
    }
}

#[test]
fn a_result_too_large_to_be_recorded_ends_its_call_and_gives_its_permit_back() {
    for home in Home::all() {
        system(async {
            let rules = Queue::named("q").concurrency(1);
            let large = async |_: Call<Large>| Ok("x".repeat((64 << 20) + 1));
            let builder = node(&home, &Watched::default()).workflow::<Asks>().activity(large);
            let stent = builder.queue(rules).spawn().await.unwrap();
            let said = stent.dispatch(Dispatch::new(Asks)).await.unwrap().result().await.unwrap();
            assert!(said.contains("limit") || said.contains("refused"), "{said}");
            let next = stent.dispatch(Dispatch::new(single("q", work("next", "", 1)))).await.unwrap();
            assert_eq!(next.result().await.unwrap(), "next", "its permit came back");
            stop(stent).await;
        });
    }
}
