//! What an operator does to one execution, seen from an application: it holds in whatever state the run is and whoever has it, is
//! recorded with who and why, and is done once; on every store, over restarts and over nodes.

#![cfg(feature = "sqlite")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use stent::{
    Builder, CallError, ChildError, Error, Happening, Queue, SendError, Stent, kernel::limits::Limits, prelude::*, store::Status,
};
use support::{Home, alone, eventually};

mod pause;
#[path = "../support/mod.rs"]
mod support;
mod terminate;
mod within;

/// Books something and can be told to do anything behind it.
#[derive(Serialize, Deserialize, Clone)]
struct Trip {
    then: Then,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
enum Then {
    /// An act that goes on until it is told to stop.
    Works,
    /// A long sleep.
    Sleeps,
    /// An act that is not tried again without an operator.
    Parks,
    /// An act that failed and is tried again in an hour.
    BacksOff,
    /// A signal.
    Listens,
    /// An act in a queue, which is paused.
    Queues,
    /// A nap of a moment.
    Naps,
    /// An act that fails, and is tried again soon.
    Retries,
    /// A step that fails, and is tried again in an hour.
    Steps,
    /// An act that may fail at first, and is tried again soon.
    WorksAgain,
    /// An act that is begun once at most; a signal, if nobody knows how it went.
    Once,
    /// A step that blocks the thread under all executions of its node.
    Blocks,
    /// A step that is begun once at most, and goes on until it is to end.
    Lasts,
    /// A step that never ends by itself, and has three seconds.
    Hangs,
}

#[derive(Serialize, Deserialize)]
struct Book;

impl Activity for Book {
    const NAME: &'static str = "operate.book";
    type Output = u32;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Unbook;

impl Activity for Unbook {
    const NAME: &'static str = "operate.unbook";
    type Output = ();
    type Error = AppError;
}

/// Works until it is told to stop, or released.
#[derive(Serialize, Deserialize)]
struct Work;

impl Activity for Work {
    const NAME: &'static str = "operate.work";
    type Output = u32;
    type Error = AppError;
}

/// Fails as long as it is to.
#[derive(Serialize, Deserialize)]
struct Fail;

impl Activity for Fail {
    const NAME: &'static str = "operate.fail";
    type Output = u32;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Word(u32);

impl Signal for Word {
    const NAME: &'static str = "operate.word";
}

/// How often the step of `Then::Steps` was tried, and whether it is to go well: it has nothing but the process to ask.
static STEPPED: AtomicU32 = AtomicU32::new(0);
static STEPS_WELL: AtomicBool = AtomicBool::new(false);

/// How often the step of `Then::Lasts` was begun, and whether it is to end.
static LASTED: AtomicU32 = AtomicU32::new(0);
static LASTS: AtomicBool = AtomicBool::new(true);

impl Workflow for Trip {
    const NAME: &'static str = "operate.trip";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        cx.saga(async |saga| {
            let booked = saga.call(Book).undo_with(|_| Unbook).await?;
            let then = match self.then {
                Then::Works => cx.call(Work).await?,
                Then::WorksAgain => cx.call(Work).retry(Retry::fixed(millis(50))).await?,
                Then::Sleeps => {
                    cx.sleep(hours(1)).await?;
                    0
                }
                Then::Parks => cx.call(Fail).retry(Retry::never()).on_exhausted(OnExhausted::Park).await?,
                Then::BacksOff => cx.call(Fail).retry(Retry::fixed(hours(1))).await?,
                Then::Naps => {
                    cx.sleep(secs(2)).await?;
                    2
                }
                Then::Retries => cx.call(Fail).retry(Retry::fixed(millis(150)).jitter_percent(0)).await?,
                Then::Listens => cx.signal::<Word>().await?.0,
                Then::Queues => cx.call(Work).queue("line").await?,
                Then::Steps => {
                    let step = cx.step("tries", async || {
                        STEPPED.fetch_add(1, SeqCst);
                        if STEPS_WELL.load(SeqCst) { Ok(2) } else { Err(AppError::new("not today")) }
                    });
                    step.retry(Retry::fixed(hours(1))).await?
                }
                Then::Once => match cx.call(Work).at_most_once().await {
                    Err(CallError::MaybeDone(_)) => cx.signal::<Word>().await?.0,
                    known => known?,
                },
                Then::Lasts => {
                    let step = cx.step("lasts", async || {
                        LASTED.fetch_add(1, SeqCst);
                        while LASTS.load(SeqCst) {
                            tokio::time::sleep(millis(5)).await;
                        }
                        Ok::<u32, AppError>(2)
                    });
                    step.at_most_once().await?
                }
                Then::Hangs => {
                    let step = cx.step("hangs", async || {
                        LASTED.fetch_add(1, SeqCst);
                        std::future::pending::<Result<u32, AppError>>().await
                    });
                    step.timeout(secs(3)).retry(Retry::never()).await.unwrap_or(2)
                }
                Then::Blocks => {
                    cx.step("blocks", async || {
                        std::thread::sleep(secs(4));
                        Ok::<u32, AppError>(0)
                    })
                    .await?
                }
            };
            Ok(booked + then)
        })
        .await
    }
}

/// The same name and version, with other commands.
#[derive(Serialize, Deserialize, Clone)]
struct Changed {
    then: Then,
}

impl Workflow for Changed {
    const NAME: &'static str = "operate.trip";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        cx.sleep(secs(1)).await?;
        Ok(0)
    }
}

/// Waits for its child, a trip.
#[derive(Serialize, Deserialize)]
struct Parent;

impl Workflow for Parent {
    const NAME: &'static str = "operate.parent";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let child = cx.child(Trip { then: Then::Listens }).id(format!("{}-child", cx.id().id));
        Ok(match child.await {
            Err(ChildError::Terminated { reason, by }) => format!("{by}: {reason}"),
            other => format!("{other:?}"),
        })
    }
}

/// What the acts of a test do and have done.
#[derive(Clone, Default)]
struct World {
    /// `Work` and `Fail` come to a good end.
    good: Arc<AtomicBool>,
    /// The first attempt of `Work` fails.
    fails_first: Arc<AtomicBool>,
    begun: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
    tried: Arc<AtomicU32>,
    undone: Arc<AtomicU32>,
}

impl World {
    fn acts(&self, builder: Builder) -> Builder {
        let (work, fail, undo) = (self.clone(), self.clone(), self.clone());
        builder
            .activity(async |_: Call<Book>| Ok(40))
            .activity(async move |_: Call<Unbook>| {
                undo.undone.fetch_add(1, SeqCst);
                Ok(())
            })
            .activity(async move |call: Call<Work>| {
                work.begun.fetch_add(1, SeqCst);
                if call.attempt() == 1 && work.fails_first.load(SeqCst) {
                    return Err(AppError::new("not at first"));
                }
                while !work.good.load(SeqCst) {
                    if call.is_cancelled() {
                        work.stopped.fetch_add(1, SeqCst);
                        return Err(AppError::new("told to stop"));
                    }
                    tokio::time::sleep(millis(5)).await;
                }
                Ok(2)
            })
            .activity(async move |_: Call<Fail>| {
                fail.tried.fetch_add(1, SeqCst);
                if fail.good.load(SeqCst) { Ok(2) } else { Err(AppError::new("not today")) }
            })
            .queue(Queue::named("line").concurrency(1))
            .passivate_after(millis(20))
    }

    fn build(&self, home: &Home) -> Builder {
        self.acts(home.open()).workflow::<Trip>().workflow::<Parent>()
    }

    async fn start(&self, home: &Home) -> Stent {
        self.build(home).spawn().await.unwrap()
    }
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

async fn dispatch(stent: &Stent, then: Then) -> Handle<Trip> {
    stent.dispatch(Dispatch::new(Trip { then }).id(format!("{then:?}"))).await.unwrap()
}

/// Waits until `describe` says this of a run: who moves it on, and what it waits for.
async fn says(stent: &Stent, id: &str, what: &str) {
    eventually(&format!("{id}: {what}"), secs(20), async || {
        let Some(told) = stent.describe(id).await.unwrap() else { return false };
        told.moved_by.contains(what) || told.waits_for.iter().any(|wait| wait.contains(what))
    })
    .await;
}

/// Waits until nobody has a run in memory.
async fn is_alone(stent: &Stent, id: &str) {
    eventually(&format!("{id} is with nobody"), secs(20), async || {
        stent.describe(id).await.unwrap().is_some_and(|told| told.summary.owner.is_none())
    })
    .await;
}

fn order(id: &str) -> Terminate {
    Terminate::new(id, "ada").reason("enough").message_id(format!("kill {id}"))
}

/// The events of a run that has ended: what and in which words.
async fn events(stent: &Stent, id: &str) -> Vec<(Happening, String)> {
    let mut events = stent.events(id, 0).await.unwrap().unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        all.push((event.what, event.text.unwrap_or_default()));
    }
    all
}

/// What an operator has ordered, as its events say.
async fn ordered(stent: &Stent, id: &str) -> Vec<String> {
    let ordered = events(stent, id).await.into_iter().filter(|(what, _)| *what == Happening::Ordered);
    ordered.map(|(_, text)| text).collect()
}
