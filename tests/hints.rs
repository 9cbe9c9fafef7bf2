//! Hints are made to be lost. The story: nodes on a PostgreSQL server tell each other over a Redis server where looking pays.
//! While it stands they hear of ends and messages at once; whatever becomes of it, or of the hints, costs latency only.

#![cfg(all(feature = "postgres", feature = "redis"))]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use futures::future::join_all;
use stent::{
    Builder, Stent,
    hints::{Hear, Hint, OpenHints, Tell},
    prelude::*,
    store::{
        Answer, Store,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use support::{Home, Rng, eventually, servers::Redis, system};

/// How often each step was begun.
type Starts = Arc<DashMap<(u64, u32), u32>>;

/// The clocks by which everyone looks anyway are at a second and at five.
const AT_ONCE: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Work {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "hints.go";
}

#[derive(Serialize, Deserialize)]
struct Step {
    number: u64,
    step: u32,
}

impl Activity for Step {
    const NAME: &'static str = "hints.step";
    type Output = ();
    type Error = AppError;
}

impl Workflow for Work {
    const NAME: &'static str = "hints.work";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        for step in 0..4 {
            cx.call(Step { number: self.number, step }).at_most_once().await?;
        }
        // With a limit, so that it may be kept in memory and owned all along.
        cx.signal::<Go>().within(secs(100)).await?.ok_or_else(|| AppError::new("no message came"))?;
        cx.call(Step { number: self.number, step: 4 }).at_most_once().await?;
        Ok(self.number)
    }
}

fn node(home: &Home, starts: &Starts) -> Builder {
    let starts = starts.clone();
    home.open().workflow::<Work>().lease(secs(4)).passivate_after(secs(200)).activity(async move |call: Call<Step>| {
        *starts.entry((call.number, call.step)).or_default() += 1;
        tokio::time::sleep(millis(20)).await;
        Ok(())
    })
}

async fn nodes<const N: usize>(make: impl Fn() -> Builder) -> [Stent; N] {
    let nodes = join_all((0..N).map(|_| async { Stent::of(make().start().await.unwrap()).await.unwrap() })).await;
    for node in &nodes {
        eventually("they know each other", secs(5), async || node.stats().neighbours > 0).await;
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

async fn leave(nodes: impl IntoIterator<Item = Stent>) {
    for node in nodes {
        node.shutdown(Shutdown::within(secs(5))).await.unwrap();
    }
}

/// Lets an execution wait at one node, sends it a message from the other, waits for its end there, and returns how long both
/// took. It begins behind a moment in the store: of one that never left its node only those who dispatched it are told.
async fn round_trip(here: &Stent, there: &Stent, starts: &Starts, number: u64) -> Duration {
    let id = format!("work-{number}");
    here.dispatch(Dispatch::new(Work { number }).id(&id).delay(millis(10))).await.unwrap();
    let elsewhere = there.handle::<Work>(&id).await.unwrap().expect("it is in the store");
    eventually("it waits for the message", secs(20), async || starts.contains_key(&(number, 3))).await;
    // Its last act takes 20 ms, and then it waits.
    tokio::time::sleep(millis(100)).await;
    let sent = Instant::now();
    there.signal(SendSignal::new(&id, &Go)).await.unwrap();
    assert_eq!(elsewhere.result().await.unwrap(), number);
    sent.elapsed()
}

/// Loads the nodes until told to stop, each execution from one node and its message and its end at another; everything must
/// end. Returns how many there were.
async fn load<const N: usize>(nodes: &[Stent; N], from: u64, go_on: impl Fn() -> bool) -> u64 {
    let mut number = from;
    let mut all = Vec::new();
    while go_on() {
        let place = usize::try_from(number).unwrap();
        let (here, there) = (nodes[place % N].clone(), nodes[(place + 1) % N].clone());
        all.push(actix_rt::spawn(async move {
            let id = format!("work-{number}");
            here.dispatch(Dispatch::new(Work { number }).id(&id)).await.unwrap();
            there.signal(SendSignal::new(&id, &Go)).await.unwrap();
            let handle = there.handle::<Work>(&id).await.unwrap().expect("it is in the store");
            assert_eq!(handle.result().await.unwrap(), number);
        }));
        number += 1;
        tokio::time::sleep(millis(20)).await;
    }
    for one in all {
        one.await.unwrap();
    }
    number - from
}

fn nothing_was_done_twice(starts: &Starts, executions: u64) {
    assert_eq!(starts.len() as u64, executions * 5, "each step of each execution was done");
    let twice = starts.iter().find(|entry| *entry.value() != 1);
    assert!(twice.is_none(), "{:?} was begun more than once", twice.map(|entry| *entry.key()));
}

/// Returns the names of the open connections, without the one that asks.
fn connections(redis: &Redis) -> usize {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
    list.lines().count() - 1
}

/// As many round trips; each is over at once.
async fn are_heard_at_once(what: &str, here: &Stent, there: &Stent, starts: &Starts, numbers: Range<u64>) {
    let mut took = Vec::new();
    for number in numbers {
        took.push(round_trip(here, there, starts, number).await);
    }
    println!("{what}: a message and an end took {took:?}");
    assert!(took.iter().all(|took| *took < AT_ONCE), "{what}: {took:?}");
}

#[test]
fn an_end_and_a_message_are_heard_at_once_by_each_store_s_own_way() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let [a, b] = nodes(|| node(&home, &starts)).await;
            are_heard_at_once("its own way", &a, &b, &starts, 0..6).await;
            nothing_was_done_twice(&starts, 6);
            leave([a, b]).await;
        }
    });
}

#[test]
fn an_end_and_a_message_are_heard_at_once_over_one_connection_of_each_node() {
    system(async {
        let (redis, home, starts) = (Redis::own(), Home::postgres(), Starts::default());
        let [a, b] = nodes(|| node(&home, &starts).hints(&redis.url())).await;
        assert_eq!(connections(&redis), 2);
        are_heard_at_once("Redis", &a, &b, &starts, 0..10).await;
        nothing_was_done_twice(&starts, 10);
        assert_eq!(connections(&redis), 2);
        leave([a, b]).await;
        eventually("the connections go with the nodes", secs(5), async || connections(&redis) == 0).await;
    });
}

#[test]
fn a_redis_that_is_stopped_restarted_empty_and_frozen_under_load_costs_latency_only() {
    system(async {
        let (redis, home, starts) = (Arc::new(Redis::own()), Home::postgres(), Starts::default());
        let nodes = nodes::<3>(|| node(&home, &starts).hints(&redis.url())).await;
        let harmed = Arc::clone(&redis);
        let harm = std::thread::spawn(move || {
            let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
            pause(1_000);
            harmed.restart();
            pause(1_500);
            harmed.stop();
            pause(2_500);
            harmed.start();
            pause(1_500);
            // For longer than an answer is waited for.
            harmed.freeze();
            pause(4_000);
            harmed.thaw();
            pause(1_000);
        });
        let executions = load(&nodes, 0, || !harm.is_finished()).await;
        harm.join().unwrap();
        nothing_was_done_twice(&starts, executions);
        eventually("each node is back", secs(10), async || connections(&redis) == 3).await;
        println!("{executions} executions under trouble");
        are_heard_at_once("Redis again", &nodes[0], &nodes[1], &starts, executions..executions + 6).await;
        leave(nodes).await;
    });
}

#[test]
fn nodes_that_find_no_redis_work_and_hear_of_each_other_once_it_is_there() {
    system(async {
        let (redis, home, starts) = (Redis::own(), Home::postgres(), Starts::default());
        redis.stop();
        let [a, b] = nodes(|| node(&home, &starts).hints(&redis.url())).await;
        round_trip(&a, &b, &starts, 0).await;
        redis.start();
        eventually("both are there", secs(10), async || connections(&redis) == 2).await;
        let took = round_trip(&b, &a, &starts, 1).await;
        assert!(took < AT_ONCE, "{took:?}");
        nothing_was_done_twice(&starts, 2);
        leave([a, b]).await;
    });
}

/// Loses a third of the hints, says a third of them twice, and keeps some back to say them behind later ones.
#[derive(Clone)]
struct Whim(Arc<Mutex<Rng>>);

impl Whim {
    fn twist(&self, hints: Vec<Hint>, kept: &mut Vec<Hint>) -> Vec<Hint> {
        let mut rng = self.0.lock().unwrap();
        let mut said = std::mem::take(kept);
        for hint in hints {
            match rng.between(0, 5) {
                0 | 1 => {}
                2 | 3 => said.extend([hint.clone(), hint]),
                4 => kept.push(hint),
                _ => said.push(hint),
            }
        }
        for at in (1..said.len()).rev() {
            said.swap(at, usize::try_from(rng.between(0, at as u64)).unwrap());
        }
        said
    }
}

struct Twisted<T> {
    inner: T,
    whim: Whim,
    kept: Vec<Hint>,
}

impl Tell for Twisted<Box<dyn Tell>> {
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()> {
        Box::pin(async move {
            let hints = self.whim.twist(hints.to_vec(), &mut self.kept);
            self.inner.tell(&hints).await
        })
    }
}

impl Hear for Twisted<Box<dyn Hear>> {
    fn hear(&mut self) -> Answer<'_, Vec<Hint>> {
        Box::pin(async move {
            let hints = self.inner.hear().await?;
            Ok(self.whim.twist(hints, &mut self.kept))
        })
    }
}

fn twisted(open: OpenHints, whim: Whim) -> OpenHints {
    Arc::new(move |me| {
        let (opened, whim) = (open(me), whim.clone());
        Box::pin(async move {
            let (teller, hearer) = opened.await?;
            let teller = Twisted { inner: teller, whim: whim.clone(), kept: Vec::new() };
            let hearer = Twisted { inner: hearer, whim, kept: Vec::new() };
            Ok((Box::new(teller) as Box<dyn Tell>, Box::new(hearer) as Box<dyn Hear>))
        })
    })
}

#[test]
fn hints_that_are_lost_doubled_and_out_of_order_cost_latency_only() {
    system(async {
        let whim = Whim(Arc::new(Mutex::new(Rng::from_env("twisted hints"))));
        for home in [Home::shared().remove(0), Home::postgres()] {
            let hints = match &home {
                Home::Memory(store) => store.hints(),
                Home::Postgres(database) => {
                    let options = PostgresOptions::default();
                    PostgresStore::open(&database.url(), options).await.unwrap().hints()
                }
                Home::Sqlite(_) => unreachable!("the first of the shared ones is in memory"),
            };
            let (hints, starts) = (hints.expect("it has a way of its own"), Starts::default());
            let make = || node(&home, &starts).passivate_after(millis(5)).hints_by(twisted(hints.clone(), whim.clone()));
            let nodes = nodes::<3>(make).await;
            let began = Instant::now();
            let executions = load(&nodes, 0, || began.elapsed() < secs(4)).await;
            println!("{executions} executions, the last ended {:?} behind the last dispatch", began.elapsed() - secs(4));
            nothing_was_done_twice(&starts, executions);
            leave(nodes).await;
        }
    });
}
