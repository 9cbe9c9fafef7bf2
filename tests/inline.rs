//! The story: activities that are registered inline are polled on the thread of the engine, right behind the commit of their intent.
//! That is a matter of where they run and of nothing else: results, attempts, limits, cancellation, what a crash leaves and
//! what a queue grants are those of any other registration. And one that breaks its word and blocks is named, costs time, and no data.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;
use parking_lot::Mutex;
use stent::{
    Builder, Queue,
    failpoints::{self, Action},
    prelude::*,
    store::Store,
};
use support::{Home, alone, eventually, unended};
use tokio::sync::{mpsc::unbounded_channel, watch};

mod support;

/// What each test does with it is up to its handler.
#[derive(Serialize, Deserialize)]
struct Act {
    number: u64,
}

impl Activity for Act {
    const NAME: &'static str = "inline.act";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Other {
    number: u64,
}

impl Activity for Other {
    const NAME: &'static str = "inline.other";
    type Output = u64;
    type Error = AppError;
}

macro_rules! flow {
    ($name:ident { $($field:ident: $type:ty),* }, $output:ty, |$self:ident, $cx:ident| $body:expr) => {
        #[derive(Serialize, Deserialize)]
        struct $name {
            $($field: $type,)*
        }

        impl Workflow for $name {
            const NAME: &'static str = concat!("inline.", stringify!($name));
            type Output = $output;
            type Error = AppError;

            async fn run($self, $cx: Cx<Self>) -> Result<$output, AppError> {
                $body
            }
        }
    };
}

flow!(One { number: u64 }, String, |self, cx| Ok(cx.call(Act { number: self.number }).await?));

flow!(Two { number: u64 }, String, |self, cx| {
    let first = cx.call(Act { number: self.number }).await?;
    let second = cx.call(Other { number: self.number }).await?;
    Ok(format!("{first} {second}"))
});

flow!(Wide { width: u64 }, usize, |self, cx| {
    let all = join_all((0..self.width).map(|number| cx.call(Act { number }))).await;
    Ok(all.into_iter().collect::<Result<Vec<_>, _>>()?.len())
});

flow!(Place {}, (String, String), |self, cx| {
    let step = cx.step("here", async || Ok::<_, AppError>(here())).await?;
    Ok((step, cx.call(Act { number: 0 }).await?))
});

flow!(Limited {}, String, |self, cx| {
    match cx.call(Act { number: 0 }).timeout(millis(40)).retry(Retry::never()).await {
        Err(CallError::TimedOut(failure)) => Ok(failure.to_string()),
        other => Ok(format!("{other:?}")),
    }
});

flow!(Queued {}, String, |self, cx| Ok(cx.call(Act { number: 0 }).queue("line").await?));

flow!(Tried {}, String, |self, cx| {
    let retry = || Retry::fixed(millis(3)).attempts(3);
    let typed = match cx.call(Act { number: 9 }).retry(retry()).await {
        Err(CallError::Failed(error)) => error.to_string(),
        other => format!("{other:?}"),
    };
    let kept = cx.call(Act { number: 2 }).retry(retry()).await?;
    let saved = cx
        .saga(async |saga| {
            saga.call(Act { number: 0 }).undo_with(|_| Other { number: 1 }).await?;
            Err::<(), _>(AppError::new("as planned"))
        })
        .await;
    Ok(format!("{typed}; {kept}; {}", saved.unwrap_err()))
});

fn here() -> String {
    format!("{:?}", thread::current().id())
}

async fn spawn(builder: Builder) -> Stent {
    builder.verify_determinism(false).spawn().await.unwrap()
}

async fn result<W: Workflow<Error = AppError>>(stent: &Stent, workflow: W) -> W::Output {
    stent.dispatch(Dispatch::new(workflow)).await.unwrap().result().await.unwrap_or_else(|error| panic!("{error}"))
}

async fn bye(stent: &Stent) {
    assert!(unended(stent).await.is_empty());
    stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
}

/// How many lives of a core a store has seen: one more for each lease that was lost.
async fn lives_of(home: &Home) -> usize {
    let Home::Memory(store) = home else { panic!("a memory store") };
    store.reader().snapshot().await.unwrap().iter().filter(|line| line.starts_with("node ")).count()
}

#[test]
fn the_results_are_those_of_any_other_registration() {
    alone(async {
        for home in Home::all() {
            let undone = Arc::new(AtomicUsize::new(0));
            let undoes = undone.clone();
            let act = async |call: Call<Act>| {
                let before = call.details::<u32>().unwrap_or(0);
                call.heartbeat(&(before + call.attempt()))?;
                if u64::from(call.attempt()) <= call.number {
                    return Err(AppError::new(format!("attempt {} after {before}", call.attempt())));
                }
                Ok(format!("attempt {} after {before}", call.attempt()))
            };
            let undo = async move |call: Call<Other>| {
                undoes.fetch_add(1, SeqCst);
                Ok(call.number)
            };
            let mut outputs = Vec::new();
            for inline in [false, true] {
                let builder = home.open().workflow::<Tried>();
                let undo = undo.clone();
                let builder = if inline { builder.inline(act).inline(undo) } else { builder.activity(act).activity(undo) };
                let stent = spawn(builder).await;
                outputs.push(result(&stent, Tried {}).await);
                bye(&stent).await;
            }
            assert_eq!(outputs[0], "attempt 3 after 3; attempt 3 after 3; as planned");
            assert_eq!(outputs[0], outputs[1]);
            assert_eq!(undone.load(SeqCst), 2, "each once");
        }
    });
}

#[test]
fn it_is_polled_on_the_thread_of_its_execution_and_any_other_is_not() {
    alone(async {
        let [home, _] = Home::both();
        let stent = spawn(home.open().workflow::<Place>().inline(async |_: Call<Act>| Ok(here()))).await;
        // One whose turn comes when the engine was held for long goes elsewhere, on a busy machine.
        let mut places = Vec::new();
        for _ in 0..10 {
            places.push(result(&stent, Place {}).await);
        }
        assert!(places.iter().any(|(step, call)| step == call), "{places:?}");
        bye(&stent).await;
        let stent = spawn(home.open().workflow::<Place>().activity(async |_: Call<Act>| Ok(here()))).await;
        let (step, call) = result(&stent, Place {}).await;
        assert_ne!(step, call);
        bye(&stent).await;
    });
}

#[test]
fn results_that_are_ready_at_once_join_one_turn() {
    alone(async {
        let [home, _] = Home::both();
        let stent = spawn(home.open().workflow::<Wide>().inline(async |_: Call<Act>| Ok(String::new()))).await;
        let mut commits = Vec::new();
        for number in 0..10 {
            let id = format!("wide-{number}");
            let handle = stent.dispatch(Dispatch::new(Wide { width: 50 }).id(&id)).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 50);
            commits.push(stent.describe(&id).await.unwrap().unwrap().commits);
        }
        // The intents, and all results with the end. On a busy machine some of fifty may go elsewhere; not each time.
        assert!(commits.contains(&2), "{commits:?}");
        bye(&stent).await;
    });
}

#[test]
fn a_panic_is_a_failed_attempt_and_the_engine_goes_on() {
    alone(async {
        let [home, _] = Home::both();
        let act = async |call: Call<Act>| {
            if call.number == 2 {
                tokio::task::yield_now().await;
            }
            assert!(call.attempt() > 1, "as planned");
            Ok(call.attempt().to_string())
        };
        let stent = spawn(home.open().workflow::<One>().inline(act)).await;
        for number in [1, 2] {
            assert_eq!(result(&stent, One { number }).await, "2");
        }
        bye(&stent).await;
        assert_eq!(lives_of(&home).await, 1, "the core is the first");
    });
}

#[test]
fn one_that_is_pending_holds_up_nobody_and_a_cancel_reaches_it() {
    alone(async {
        for home in Home::both() {
            let (tell, mut begun) = unbounded_channel();
            let heard = Arc::new(AtomicBool::new(false));
            let hears = heard.clone();
            let act = async move |call: Call<Act>| {
                if call.number == 0 {
                    tell.send(()).unwrap();
                    call.cancelled().await;
                    hears.store(true, SeqCst);
                }
                Ok(call.number.to_string())
            };
            let stent = spawn(home.open().workflow::<One>().inline(act)).await;
            let patient = stent.dispatch(Dispatch::new(One { number: 0 }).id("patient")).await.unwrap();
            begun.recv().await.unwrap();
            for number in 1..20 {
                assert_eq!(result(&stent, One { number }).await, number.to_string());
            }
            stent.cancel(Cancel::new("patient")).await.unwrap();
            assert!(matches!(patient.result().await, Err(RunError::Cancelled { .. })));
            eventually("it heard of it", secs(5), async || heard.load(SeqCst)).await;
            bye(&stent).await;
        }
    });
}

#[test]
fn a_time_limit_ends_it() {
    alone(async {
        let [home, _] = Home::both();
        let stent = spawn(home.open().workflow::<Limited>().inline(async |_: Call<Act>| std::future::pending().await)).await;
        let text = result(&stent, Limited {}).await;
        assert!(text.contains("start_to_close ran out"), "{text}");
        bye(&stent).await;
    });
}

#[test]
fn a_call_through_a_shared_queue_runs_by_its_permit_whatever_the_registration() {
    alone(async {
        for home in Home::both() {
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (running, peak) = (now.clone(), most.clone());
            let act = async move |_: Call<Act>| {
                peak.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, SeqCst);
                Ok(String::new())
            };
            let builder = home.open().workflow::<Queued>().queue(Queue::named("line").concurrency(1)).inline(act);
            let stent = spawn(builder).await;
            join_all((0..10).map(|_| result(&stent, Queued {}))).await;
            assert_eq!(most.load(SeqCst), 1);
            bye(&stent).await;
        }
    });
}

#[test]
fn whatever_dies_between_intent_and_result_no_attempt_begins_twice_and_nothing_recorded_is_repeated() {
    alone(async {
        for home in Home::both() {
            let starts: Arc<Mutex<HashMap<(String, u32), u32>>> = Arc::default();
            let [one, two] = [starts.clone(), starts.clone()];
            let act = async move |call: Call<Act>| {
                *one.lock().entry((call.key(), call.attempt())).or_default() += 1;
                Ok(call.number.to_string())
            };
            let other = async move |call: Call<Other>| {
                *two.lock().entry((call.key(), call.attempt())).or_default() += 1;
                tokio::time::sleep(millis(2)).await;
                Ok(call.number)
            };
            let stent = spawn(home.open().workflow::<Two>().inline(act).inline(other).lease(secs(2))).await;
            // The last four are deaths of the core, of which the runtime bears five within thirty seconds.
            let points = [
                "execution.after_decide",
                "execution.before_effects",
                "execution.after_effects",
                "executor.before_deal",
                "executor.before_flush",
                "executor.attempts_ended",
                "persistence.after_commit",
            ];
            for (round, point) in points.into_iter().enumerate() {
                failpoints::set(point, Action::Panic, 2);
                let base = 100 * round as u64;
                let all = (base..base + 20).map(|number| (number, stent.dispatch(Dispatch::new(Two { number }))));
                let all = join_all(all.map(async |(number, dispatched)| (number, dispatched.await.unwrap()))).await;
                for (number, handle) in all {
                    assert_eq!(handle.result().await.unwrap(), format!("{number} {number}"), "{point}");
                }
                failpoints::clear();
            }
            bye(&stent).await;
            let starts = starts.lock();
            assert!(starts.values().all(|count| *count == 1), "{starts:?}");
            assert!(starts.keys().any(|(_, attempt)| *attempt > 1), "a core that died has lost some, and they were repeated");
        }
    });
}

/// What the whole process logs: the watch has a thread of its own.
fn said() -> Said {
    static SAID: Once = Once::new();
    static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let said = Said(&LINES);
    SAID.call_once(|| {
        let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(move || said).try_init();
    });
    said
}

#[derive(Clone, Copy)]
struct Said(&'static Mutex<Vec<u8>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn has(self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(text)
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

#[test]
fn one_that_blocks_is_named_while_it_does_its_limit_holds_and_neither_the_lease_nor_data_is_lost() {
    let said = said();
    alone(async {
        let [home, _] = Home::both();
        let (open, closed) = gate();
        let (begun, begins) = watch::channel(false);
        let blocks = async move |_: Call<Act>| {
            begun.send_replace(true);
            closed.pass();
            Ok("too late".to_owned())
        };
        let stent = spawn(home.open().workflow::<Limited>().inline(blocks).lease(millis(400))).await;
        let handle = stent.dispatch(Dispatch::new(Limited {})).await.unwrap();
        begins.clone().wait_for(|begun| *begun).await.unwrap();
        let start = Instant::now();
        eventually("it is named", secs(10), async || said.has("blocks the thread of the engine")).await;
        assert!(said.has("(inline.act)"));
        // Three leases long.
        tokio::time::sleep(Duration::from_millis(1_200).saturating_sub(start.elapsed())).await;
        drop(open);
        let text = handle.result().await.unwrap();
        assert!(text.contains("start_to_close ran out"), "{text}");
        bye(&stent).await;
        assert_eq!(lives_of(&home).await, 1, "no lease was lost");
    });
}

#[test]
fn a_shutdown_does_not_wait_for_one_that_blocks_and_the_next_runtime_repeats_it() {
    alone(async {
        let home = Home::sqlite();
        let (open, closed) = gate();
        let (begun, begins) = watch::channel(0);
        let blocks = async move |call: Call<Act>| {
            begun.send_modify(|times| *times += 1);
            if call.attempt() == 1 {
                closed.pass();
            }
            Ok(call.attempt().to_string())
        };
        let stent = spawn(home.open().workflow::<One>().inline(blocks.clone())).await;
        stent.dispatch(Dispatch::new(One { number: 0 }).id("long")).await.unwrap();
        begins.clone().wait_for(|times| *times == 1).await.unwrap();
        let start = Instant::now();
        stent.shutdown(Shutdown::within(millis(200))).await.unwrap();
        assert!(start.elapsed() < secs(8), "it took {:?}", start.elapsed());
        let next = spawn(home.open().workflow::<One>().inline(blocks)).await;
        assert!(!next.describe("long").await.unwrap().unwrap().summary.status.is_end());
        drop(open);
        let handle = next.handle::<One>("long").await.unwrap().unwrap();
        assert_eq!(handle.result().await.unwrap(), "2", "the first attempt is lost with its node");
        bye(&next).await;
    });
}
