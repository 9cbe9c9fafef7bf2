//! The story: more is asked of a node than it can bear. What it has taken on it keeps, whatever comes; what it cannot take on it
//! refuses at once, by name; neither its memory nor what waits behind it grows beyond the limits that it was given; and it is
//! itself again as soon as nobody asks for more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use futures::future::join_all;
use stent::{Builder, DispatchError, Error, Handle, Stats, prelude::*, store::memory::MemoryStore};
use support::{Home, eventually, system};
use tokio::sync::watch;

mod support;

#[derive(Serialize, Deserialize)]
struct Double(u64);

impl Activity for Double {
    const NAME: &'static str = "overload.double";
    type Output = u64;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Work(u64);

impl Workflow for Work {
    const NAME: &'static str = "overload.work";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        Ok(cx.call(Double(self.0)).await?)
    }
}

/// What the activities of a test wait for.
struct Gate(watch::Sender<bool>);

impl Gate {
    fn new(open: bool) -> Gate {
        Gate(watch::Sender::new(open))
    }

    fn open(&self) {
        self.0.send_replace(true);
    }

    fn build(&self, builder: Builder) -> Builder {
        let gate = self.0.subscribe();
        builder.workflow::<Work>().activity(move |call: Call<Double>| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open).await?;
                Ok(call.0 * 2)
            }
        })
    }
}

async fn started(builder: Builder) -> Stent {
    Stent::of(builder.start().await.unwrap()).await.unwrap()
}

/// Looks at the counters without a pause, on a thread of its own.
struct Watcher {
    over: Arc<AtomicBool>,
    peaks: JoinHandle<Stats>,
}

impl Watcher {
    fn of(stent: &Stent) -> Watcher {
        let (stent, over) = (stent.clone(), Arc::new(AtomicBool::new(false)));
        let stop = over.clone();
        let peaks = std::thread::spawn(move || {
            let mut peaks = Stats::default();
            while !stop.load(SeqCst) {
                let now = stent.stats();
                peaks.held = peaks.held.max(now.held);
                peaks.waiting = peaks.waiting.max(now.waiting);
                peaks.unanswered = peaks.unanswered.max(now.unanswered);
                std::thread::yield_now();
            }
            peaks
        });
        Watcher { over, peaks }
    }

    fn peaks(self) -> Stats {
        self.over.store(true, SeqCst);
        self.peaks.join().unwrap()
    }
}

/// Dispatches until so many run and so many wait for them; all of them wait at the gate.
async fn filled(stent: &Stent, held: u64, waiting: u64) -> Vec<Handle<Work>> {
    let mut accepted = Vec::new();
    for number in 0..10_000 {
        let dispatch = stent.dispatch(Dispatch::new(Work(number)).id(number.to_string())).await;
        assert!(dispatch.is_ok() || knob(&dispatch) == Some("backlog"), "{dispatch:?}");
        accepted.extend(dispatch);
        let now = stent.stats();
        if (now.held, now.waiting) == (held, waiting) {
            assert_eq!(accepted.len() as u64, held + waiting);
            return accepted;
        }
        tokio::time::sleep(millis(1)).await;
    }
    panic!("it never has all that it may: {:?}", stent.stats());
}

/// Returns which knob a refused dispatch names.
fn knob<T>(refused: &Result<T, Error>) -> Option<&'static str> {
    match refused {
        Err(Error::Dispatch(DispatchError::Busy { knob, .. })) => Some(knob),
        _ => None,
    }
}

#[test]
fn beyond_what_may_wait_callers_hear_busy_and_nothing_that_was_accepted_is_lost() {
    for home in Home::both() {
        system(async {
            let gate = Gate::new(false);
            let stent = started(gate.build(home.open().in_flight(4).backlog(6))).await;
            let watcher = Watcher::of(&stent);
            let accepted = filled(&stent, 4, 6).await;
            let refused = join_all((0..100).map(|n| stent.dispatch(Dispatch::new(Work(n)).id(format!("more-{n}"))))).await;
            assert!(refused.iter().all(|refused| knob(refused).is_some()), "{refused:?}");
            let said = refused[0].as_ref().unwrap_err().to_string();
            assert!(said.contains("6 dispatches wait") && said.contains("100ms") && said.contains("raise `backlog`"), "{said}");
            assert!(stent.describe("more-1").await.unwrap().is_none(), "what was refused is not there");
            let later = stent.dispatch(Dispatch::new(Work(1)).id("later").delay(secs(3600))).await;
            assert!(later.is_ok(), "what is due later needs no slot: {later:?}");

            gate.open();
            for handle in &accepted {
                let number: u64 = handle.id().parse().unwrap();
                assert_eq!(handle.result().await.unwrap(), number * 2);
            }
            let peaks = watcher.peaks();
            assert_eq!((peaks.held, peaks.waiting), (4, 6), "no more, at any time");
            assert!(peaks.unanswered <= 4, "{peaks:?}");
            let after = stent.dispatch(Dispatch::new(Work(100))).await.expect("the load is gone");
            let result = tokio::time::timeout(secs(2), after.result()).await.expect("and so is what waited");
            assert_eq!(result.unwrap(), 200);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn callers_that_come_again_get_everything_done_once_while_the_limits_hold() {
    const CALLERS: u64 = 24;
    const EACH: u64 = 12;
    for home in Home::both() {
        system(async {
            let gate = Gate::new(true);
            let stent = started(gate.build(home.open().in_flight(3).backlog(5))).await;
            let watcher = Watcher::of(&stent);
            let calls = (0..CALLERS).map(async |caller| {
                let mut busy = 0;
                for number in caller * EACH..(caller + 1) * EACH {
                    let handle = loop {
                        let dispatch = stent.dispatch(Dispatch::new(Work(number)).id(number.to_string())).await;
                        match dispatch {
                            Ok(handle) => break handle,
                            Err(Error::Dispatch(DispatchError::Busy { .. })) => busy += 1,
                            Err(error) => panic!("{error}"),
                        }
                        tokio::task::yield_now().await;
                    };
                    assert_eq!(handle.result().await.unwrap(), number * 2);
                }
                busy
            });
            let busy: u64 = join_all(calls).await.into_iter().sum();
            assert!(busy > 0, "so many callers are too many for it");
            let peaks = watcher.peaks();
            assert!(peaks.held <= 3 && peaks.waiting <= 5 && peaks.unanswered <= 3, "{peaks:?}");
            let runs = stent.list(List::new().limit(1_000)).await.unwrap();
            assert_eq!(runs.len() as u64, CALLERS * EACH, "each was begun once");
            let now = stent.stats();
            assert_eq!((now.waiting, now.unanswered), (0, 0), "every credit is back");
            eventually("every slot is free", secs(10), async || stent.stats().held == 0).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn a_node_that_lets_nobody_wait_refuses_what_it_cannot_begin_at_once() {
    system(async {
        let gate = Gate::new(false);
        let stent = started(gate.build(Stent::open("memory:").in_flight(1).backlog(0))).await;
        let first = filled(&stent, 1, 0).await;
        let refused = stent.dispatch(Dispatch::new(Work(2)).id("more")).await;
        assert_eq!(knob(&refused), Some("backlog"));
        assert_eq!(stent.list(List::new()).await.unwrap().len(), 1);
        gate.open();
        assert_eq!(first[0].result().await.unwrap(), 2 * first[0].id().parse::<u64>().unwrap());
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn what_another_node_has_taken_off_its_hands_counts_no_more() {
    system(async {
        let store = MemoryStore::new();
        let (gate, open) = (Gate::new(false), Gate::new(true));
        let stent = started(gate.build(Stent::open("memory:").memory(store.clone()).in_flight(1).backlog(2))).await;
        let handles = filled(&stent, 1, 2).await;
        let other = started(open.build(Stent::open("memory:").memory(store))).await;
        eventually("the other node has done what waited", secs(30), async || {
            stent.list(List::new().status(stent::store::Status::Completed)).await.unwrap().len() == 2
        })
        .await;
        gate.open();
        for handle in &handles {
            assert_eq!(handle.result().await.unwrap(), 2 * handle.id().parse::<u64>().unwrap());
        }
        eventually("it knows that nothing waits", Duration::from_secs(2), async || stent.stats().waiting == 0).await;
        for node in [stent, other] {
            node.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
