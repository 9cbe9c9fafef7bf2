//! Several nodes on one store, in one process: work that is handed over goes on elsewhere, once; ends are heard everywhere.

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dashmap::DashMap;
use stent::{Builder, Stent, prelude::*};
use support::{Home, eventually, fewer, system};

/// How often each step of each execution was begun, and by which node.
type Starts = Arc<DashMap<(u64, u32), Vec<&'static str>>>;

#[derive(Serialize, Deserialize)]
struct Chain {
    number: u64,
    steps: u32,
    at_most_once: bool,
}

impl Workflow for Chain {
    const NAME: &'static str = "nodes.chain";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        for step in 0..self.steps {
            let call = cx.call(Step { number: self.number, step });
            if self.at_most_once {
                call.at_most_once().await?
            } else {
                call.await?
            };
        }
        Ok(self.steps)
    }
}

#[derive(Serialize, Deserialize)]
struct Step {
    number: u64,
    step: u32,
}

impl Activity for Step {
    const NAME: &'static str = "nodes.step";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Waits;

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "nodes.go";
}

impl Workflow for Waits {
    const NAME: &'static str = "nodes.waits";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        // A limit that keeps it in memory, owned, all along.
        Ok(cx.signal::<Go>().within(secs(9)).await?.map_or(0, |_| 7))
    }
}

fn node(home: &Home, name: &'static str, starts: &Starts, pause: Duration) -> Builder {
    let starts = starts.clone();
    home.open().workflow::<Chain>().workflow::<Waits>().workflow::<Naps>().lease(secs(2)).activity(
        async move |call: Call<Step>| {
            starts.entry((call.number, call.step)).or_default().push(name);
            tokio::time::sleep(pause).await;
            Ok(())
        },
    )
}

#[test]
fn a_node_that_leaves_hands_its_work_over_in_the_middle_and_nothing_is_done_twice() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let pause = Duration::from_millis(20);
            let a = Stent::of(node(&home, "a", &starts, pause).start().await.unwrap()).await.unwrap();
            let b = Stent::of(node(&home, "b", &starts, pause).start().await.unwrap()).await.unwrap();
            let mut handles = Vec::new();
            for number in 0..40 {
                let chain = Chain { number, steps: 20, at_most_once: number % 2 == 0 };
                handles.push(a.dispatch(Dispatch::new(chain).id(format!("chain-{number}"))).await.unwrap());
            }
            eventually("some steps are done", secs(5), async || starts.len() > 120).await;
            let left = Instant::now();
            a.shutdown(Shutdown::within(secs(10))).await.unwrap();
            assert!(left.elapsed() < secs(3), "nothing but the running steps was waited for: {:?}", left.elapsed());
            for number in 0..40 {
                let handle = b.handle::<Chain>(format!("chain-{number}")).await.unwrap().expect("it is in the store");
                assert_eq!(handle.result().await.unwrap(), 20);
            }
            let mut on_b = 0;
            for entry in starts.iter() {
                assert_eq!(entry.value().len(), 1, "{:?} was begun by {:?}", entry.key(), entry.value());
                on_b += usize::from(entry.value()[0] == "b");
            }
            assert_eq!(starts.len(), 40 * 20);
            assert!(on_b > 400, "b did {on_b}");
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn an_end_and_a_message_are_heard_on_the_other_node() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let a = Stent::of(node(&home, "a", &starts, Duration::ZERO).start().await.unwrap()).await.unwrap();
            let b = Stent::of(node(&home, "b", &starts, Duration::ZERO).start().await.unwrap()).await.unwrap();
            a.dispatch(Dispatch::new(Waits).id("waits")).await.unwrap();
            let elsewhere = b.handle::<Waits>("waits").await.unwrap().expect("it is in the store");
            b.signal(SendSignal::new("waits", &Go)).await.unwrap();
            assert_eq!(elsewhere.result().await.unwrap(), 7, "the signal came before its limit");
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_node_that_joins_gets_its_share_of_what_the_others_hold() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let pause = Duration::from_millis(100);
            let a = Stent::of(node(&home, "a", &starts, pause).start().await.unwrap()).await.unwrap();
            // Long enough to be still at it when the other one has come, and no longer where each step replays those before it.
            let steps = fewer(100, 30);
            for number in 0..60 {
                let chain = Chain { number, steps, at_most_once: true };
                a.dispatch(Dispatch::new(chain).id(format!("long-{number}"))).await.unwrap();
            }
            eventually("they run", secs(5), async || starts.len() > 600).await;
            let b = Stent::of(node(&home, "b", &starts, pause).start().await.unwrap()).await.unwrap();
            eventually("b works", secs(20), async || starts.iter().any(|entry| entry.value()[0] == "b")).await;
            for number in 0..60 {
                let handle = b.handle::<Chain>(format!("long-{number}")).await.unwrap().expect("it is in the store");
                assert_eq!(handle.result().await.unwrap(), steps);
            }
            assert!(starts.iter().all(|entry| entry.value().len() == 1), "nothing was begun twice");
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_runtime_that_is_alone_takes_its_own_work_up_again() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let first = Stent::of(node(&home, "a", &starts, Duration::from_millis(5)).start().await.unwrap()).await.unwrap();
            for number in 0..20 {
                let chain = Chain { number, steps: 30, at_most_once: true };
                first.dispatch(Dispatch::new(chain).id(format!("alone-{number}"))).await.unwrap();
            }
            first.shutdown(Shutdown::within(secs(5))).await.unwrap();
            let again = Stent::of(node(&home, "b", &starts, Duration::ZERO).start().await.unwrap()).await.unwrap();
            for number in 0..20 {
                let handle = again.handle::<Chain>(format!("alone-{number}")).await.unwrap().expect("it is in the store");
                assert_eq!(handle.result().await.unwrap(), 30);
            }
            assert!(starts.iter().all(|entry| entry.value().len() == 1), "nothing was begun twice");
            again.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Naps;

impl Workflow for Naps {
    const NAME: &'static str = "nodes.naps";
    type Output = i64;
    type Error = AppError;

    /// Returns for how many milliseconds it slept by its own clock.
    async fn run(self, cx: Cx<Self>) -> Result<i64, AppError> {
        let since = cx.now();
        cx.sleep(secs(1)).await?;
        Ok((cx.now() - since).num_milliseconds())
    }
}

#[test]
fn a_sleeper_of_a_node_that_leaves_is_neither_early_nor_late_on_the_other_one() {
    system(async {
        for home in Home::shared() {
            let starts = Starts::default();
            let a = Stent::of(node(&home, "a", &starts, Duration::ZERO).start().await.unwrap()).await.unwrap();
            let b = Stent::of(node(&home, "b", &starts, Duration::ZERO).start().await.unwrap()).await.unwrap();
            eventually("they know of each other", secs(10), async || a.stats().neighbours > 0).await;
            a.dispatch(Dispatch::new(Naps).id("naps")).await.unwrap();
            // Asked for when nobody has it, this would make the node look.
            let handle = b.handle::<Naps>("naps").await.unwrap().expect("it is in the store");
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
            let slept = handle.result().await.unwrap();
            // The others look by themselves every five seconds.
            assert!((1_000..3_000).contains(&slept), "{slept} ms");
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
