//! The pool from outside. Nothing here waits for time to pass: each test waits for the signal that the code under test
//! gives, and a blocked thread stays blocked until the test lets it go.

mod inline;
mod limits;

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    AppError,
    activity::Activity,
    actors::{call::Call, handlers::erase, pool::attempts::Standing},
    clock::SystemClock,
    kernel::failure::{KIND_ERROR, KIND_HANDLER_GONE, KIND_PANIC, KIND_TIMEOUT},
};

const RUN: RunKey = RunKey(1);
/// Only ever passes when a test fails.
const FAR: Duration = Duration::from_secs(20);
/// A limit that is to run out.
const SHORT: Option<Duration> = Some(Duration::from_millis(30));

#[derive(Serialize, Deserialize, Clone)]
struct Act {
    number: u32,
}

impl Activity for Act {
    const NAME: &'static str = "act";
    type Output = u32;
    type Error = AppError;
}

/// A pool whose only activity is the closure given, and what it says.
struct Bench {
    pool: Pool,
    ended: UnboundedReceiver<Vec<Ended>>,
    beats: UnboundedReceiver<Vec<Beat>>,
    deadline: Deadline,
    /// Told by `next`, one at a time.
    at_hand: std::collections::VecDeque<Ended>,
}

fn small() -> PoolConfig {
    PoolConfig { arbiters: 2, cancel_grace: FAR, ..PoolConfig::default() }
}

fn bench(config: PoolConfig, handler: Box<dyn Handle + Send>) -> Bench {
    let clock = Arc::new(SystemClock);
    let deadline = Deadline::new(clock.clone(), clock.boot(), FAR);
    let (tell, ended) = unbounded_channel();
    let (beat, beats) = unbounded_channel();
    let pool = Pool::new(
        vec![(Act::NAME.into(), handler)],
        config,
        deadline.clone(),
        clock,
        Arc::new(move |all| _ = tell.send(all)),
        Arc::new(move |all| _ = beat.send(all)),
    )
    .unwrap();
    Bench { pool, ended, beats, deadline, at_hand: std::collections::VecDeque::new() }
}

fn closure<F>(handler: F) -> Box<dyn Handle + Send>
where
    F: AsyncFn(Call<Act>) -> Result<u32, AppError> + Clone + Send + 'static,
{
    erase::<Act, _, _>(handler)
}

fn start(position: Position, attempt: Attempt, work: Work) -> Start {
    let id = Arc::new(RunId { id: "order".to_owned(), run_no: 1 });
    Start { run: RUN, id, position, attempt, epoch: 3, work, limits: Limits::default(), details: None }
}

fn act(position: Position) -> Start {
    let input = Payload::encode(&Act { number: position }, "input").unwrap();
    start(position, 1, Work::Activity { name: Act::NAME.into(), input })
}

fn limited(position: Position, limits: Limits) -> Start {
    Start { limits, ..act(position) }
}

fn blocking(position: Position, work: impl Fn() -> Ending + Send + Sync + 'static) -> Start {
    start(position, 1, Work::Blocking(Arc::new(work)))
}

fn number(ended: &Ended) -> u32 {
    ended.result.as_ref().unwrap().decode("output").unwrap()
}

fn kind_of(ended: &Ended) -> &str {
    ended.result.as_ref().unwrap_err().kind()
}

impl Bench {
    async fn next(&mut self) -> Ended {
        while self.at_hand.is_empty() {
            self.at_hand.extend(tokio::time::timeout(FAR, self.ended.recv()).await.expect("nothing ended").unwrap());
        }
        self.at_hand.pop_front().unwrap()
    }

    async fn failure(&mut self) -> Failure {
        self.next().await.result.unwrap_err()
    }

    /// Waits until no slot is taken; slots are given back right behind the results.
    async fn idle(&self) {
        let idle = async {
            while !self.pool.idle() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(FAR, idle).await.expect("the pool stays busy");
    }
}

/// Blocks the thread it is called on until the sender goes away.
#[derive(Clone)]
struct Gate(Arc<Mutex<mpsc::Receiver<()>>>);

fn gate() -> (mpsc::Sender<()>, Gate) {
    let (open, closed) = mpsc::channel();
    (open, Gate(Arc::new(Mutex::new(closed))))
}

impl Gate {
    fn pass(&self) {
        let _ = self.0.lock().recv();
    }
}

#[actix::test]
async fn a_blocked_thread_delays_neither_queued_nor_later_activities() {
    let (open, closed) = gate();
    let mut bench = bench(
        PoolConfig { arbiters: 1, ..small() },
        closure(async move |call: Call<Act>| {
            if call.number == 50 {
                closed.pass();
            }
            Ok(call.number)
        }),
    );
    bench.pool.start((1..=100).map(act).collect());
    let mut seen: Vec<u32> = Vec::new();
    while seen.len() < 99 {
        seen.push(number(&bench.next().await));
    }
    assert!(!seen.contains(&50));
    assert_eq!(bench.pool.attempts().lookup(RUN, 50), Some((1, Standing::Running)));
    bench.pool.start(vec![act(101)]);
    assert_eq!(number(&bench.next().await), 101);
    drop(open);
    assert_eq!(number(&bench.next().await), 50);
    bench.idle().await;
}

#[actix::test]
async fn arbiters_grow_while_user_code_blocks_all_of_them() {
    let (open, closed) = gate();
    let (tell, mut begun) = unbounded_channel();
    let mut bench = bench(
        PoolConfig { arbiters: 1, ..small() },
        closure(async move |call: Call<Act>| {
            tell.send(call.number).unwrap();
            // Each waits on its own: the lock inside the gate is just another way to block.
            closed.pass();
            Ok(call.number)
        }),
    );
    bench.pool.start((1..=5).map(act).collect());
    for _ in 0..5 {
        tokio::time::timeout(FAR, begun.recv()).await.unwrap();
    }
    assert!(bench.pool.load().arbiters >= 5);
    drop(open);
    for _ in 0..5 {
        bench.next().await;
    }
}

#[actix::test]
async fn a_result_behind_a_blocked_thread_is_told_all_the_same() {
    let (open, closed) = gate();
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let second = Arc::new(Notify::new());
    let mut bench = bench(
        PoolConfig { arbiters: 1, arbiters_max: 1, ..small() },
        closure(async move |call: Call<Act>| {
            if call.number == 1 {
                wait.clone().wait_for(|go| *go).await.unwrap();
                // Puts the other into the run queue before this one's result can be sent.
                second.notify_one();
            } else {
                second.notified().await;
                closed.pass();
            }
            Ok(call.number)
        }),
    );
    bench.pool.start(vec![act(1), act(2)]);
    while bench.pool.attempts().all_running().len() < 2 {
        tokio::task::yield_now().await;
    }
    let_go.send(true).unwrap();
    assert_eq!(number(&bench.next().await), 1);
    drop(open);
    assert_eq!(number(&bench.next().await), 2);
}

#[actix::test]
async fn replay_re_attaches_and_is_told_again_what_is_not_recorded() {
    let runs = Arc::new(AtomicUsize::new(0));
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let counted = runs.clone();
    let mut bench = bench(
        small(),
        closure(async move |call: Call<Act>| {
            counted.fetch_add(1, Ordering::SeqCst);
            wait.clone().wait_for(|go| *go).await.unwrap();
            Ok(call.number)
        }),
    );
    bench.pool.start(vec![act(1), act(1)]);
    bench.pool.start(vec![act(1)]);
    let_go.send(true).unwrap();
    assert_eq!(number(&bench.next().await), 1);
    bench.pool.start(vec![act(1)]);
    assert_eq!(number(&bench.next().await), 1);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(bench.pool.attempts().count_of(RUN) > 0);
    bench.pool.attempts().recorded(RUN, 1, 1);
    assert!(bench.pool.attempts().count_of(RUN) == 0);
    assert!(bench.at_hand.is_empty() && bench.ended.try_recv().is_err());
}

#[actix::test]
async fn a_node_past_its_deadline_starts_nothing() {
    let runs = Arc::new(AtomicUsize::new(0));
    let (one, two) = (runs.clone(), runs.clone());
    let mut bench = bench(
        small(),
        closure(async move |call: Call<Act>| {
            one.fetch_add(1, Ordering::SeqCst);
            Ok(call.number)
        }),
    );
    bench.deadline.fence();
    let never = move || {
        two.fetch_add(1, Ordering::SeqCst);
        Ok(Payload::encode(&0, "output").unwrap())
    };
    bench.pool.start(vec![act(1), blocking(2, never)]);
    bench.idle().await;
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert!(bench.pool.attempts().count_of(RUN) == 0);
    assert!(bench.ended.try_recv().is_err());
}

#[actix::test]
async fn panics_are_failures_and_the_arbiter_goes_on() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let mut bench = bench(
        PoolConfig { arbiters: 1, arbiters_max: 1, ..small() },
        closure(async |call: Call<Act>| match call.number {
            1 => panic!("at once"),
            2 => {
                tokio::task::yield_now().await;
                panic!("later")
            }
            3 => {
                let _bomb = Bomb;
                std::future::pending().await
            }
            number => Ok(number),
        }),
    );
    let short = Limits { start_to_close: SHORT, ..Limits::default() };
    bench.pool.start(vec![act(1), act(2), limited(3, short), act(4)]);
    let mut ended = Vec::new();
    while ended.len() < 4 {
        ended.push(bench.next().await);
    }
    ended.sort_by_key(|ended| ended.position);
    for (ended, message) in ended.iter().zip(["at once", "later"]) {
        let failure = ended.result.as_ref().unwrap_err();
        assert_eq!((failure.kind(), failure.message(), failure.is_final()), (KIND_PANIC, message, false));
        assert!(failure.backtrace().unwrap().contains("tests.rs"));
    }
    assert_eq!((kind_of(&ended[2]), number(&ended[3])), (KIND_TIMEOUT, 4));
    bench.idle().await;
    bench.pool.start(vec![act(5)]);
    assert_eq!(number(&bench.next().await), 5);
}

#[actix::test]
async fn an_unknown_activity_is_a_retryable_failure() {
    let mut bench = bench(small(), closure(async |call: Call<Act>| Ok(call.number)));
    let input = Payload::encode(&(), "input").unwrap();
    bench.pool.start(vec![start(1, 1, Work::Activity { name: "else".into(), input })]);
    let failure = bench.failure().await;
    assert_eq!((failure.kind(), failure.is_final()), (KIND_HANDLER_GONE, false));
}

#[actix::test]
async fn blocking_work_has_threads_and_a_bound_of_its_own() {
    let (open, closed) = gate();
    let config = PoolConfig { blocking_threads: 2, ..small() };
    let mut bench = bench(config, closure(async |call: Call<Act>| Ok(call.number)));
    let wait = move || {
        closed.pass();
        Ok(Payload::encode(&7, "output").unwrap())
    };
    let short = Limits { start_to_close: SHORT, ..Limits::default() };
    bench.pool.start(vec![
        Start { limits: short, ..blocking(1, wait) },
        blocking(2, || panic!("blocked")),
        blocking(3, || Ok(Payload::encode(&9, "output").unwrap())),
        act(4),
    ]);
    let mut ended = Vec::new();
    while ended.len() < 4 {
        ended.push(bench.next().await);
    }
    ended.sort_by_key(|ended| ended.position);
    assert_eq!((kind_of(&ended[0]), kind_of(&ended[1])), (KIND_TIMEOUT, KIND_PANIC));
    assert_eq!((number(&ended[2]), number(&ended[3])), (9, 4));
    assert_eq!(bench.pool.attempts().running(), [RUN]);
    drop(open);
    bench.idle().await;
}

#[actix::test]
async fn stopping_drops_what_it_can_and_names_what_it_cannot() {
    let (open, closed) = gate();
    let (tell, mut begun) = unbounded_channel();
    let mut bench = bench(
        PoolConfig { slots: 2, ..small() },
        closure(async move |call: Call<Act>| {
            tell.send(()).unwrap();
            call.cancelled().await;
            std::future::pending().await
        }),
    );
    let (say, mut blocks) = unbounded_channel();
    let wait = move || {
        say.send(()).unwrap();
        closed.pass();
        Ok(Payload::encode(&7, "output").unwrap())
    };
    bench.pool.start(vec![Start { run: RunKey(9), ..blocking(1, wait) }]);
    blocks.recv().await.unwrap();
    bench.pool.start(vec![act(1), act(2)]);
    begun.recv().await.unwrap();
    assert_eq!(bench.pool.stop(Duration::from_millis(20)).await, [RunKey(9)]);
    assert!(bench.pool.attempts().count_of(RUN) == 0, "dropped with the node, not failed");
    bench.pool.start(vec![act(3)]);
    assert!(bench.pool.attempts().count_of(RUN) == 0, "nothing begins any more");
    drop(open);
    tokio::time::timeout(FAR, bench.pool.drained()).await.unwrap();
    assert!(bench.pool.attempts().running().is_empty());
    assert_eq!(number(&bench.next().await), 7);
    assert!(bench.ended.try_recv().is_err());
}

#[actix::test]
async fn an_idle_pool_stops_without_waiting_for_its_grace() {
    let bench = bench(small(), closure(async |call: Call<Act>| Ok(call.number)));
    let stopped = tokio::time::timeout(FAR, bench.pool.stop(FAR * 2)).await.unwrap();
    assert!(stopped.is_empty());
}

#[actix::test]
async fn a_hundred_thousand_activities_end_once_each() {
    let mut bench = bench(
        small(),
        closure(async |call: Call<Act>| {
            if call.number.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
            Ok(call.number)
        }),
    );
    let mut sum = 0_u64;
    for burst in 0..100_u32 {
        bench.pool.start((1..=1000).map(|number| act(burst * 1000 + number)).collect());
        for _ in 0..1000 {
            let ended = bench.next().await;
            sum += u64::from(number(&ended));
            bench.pool.attempts().recorded(RUN, ended.position, ended.attempt);
        }
    }
    assert_eq!(sum, (1..=100_000_u64).sum::<u64>());
    assert!(bench.pool.attempts().count_of(RUN) == 0);
    bench.idle().await;
}
