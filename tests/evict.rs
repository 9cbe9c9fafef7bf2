//! The story: a program that trusts nothing to memory. Every execution that comes to rest leaves it, also while its acts run, its
//! children are open and its next timer is a moment away; whatever arrives next finds a log and nothing else. What comes of a
//! run must not depend on it. `STENT_EVICT=1` puts the other engine tests into the same mode.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]

use std::{
    collections::HashMap,
    future::IntoFuture,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stent::{Builder, Stent, prelude::*};
use support::{Home, eventually, system, unended};
use tokio::sync::Semaphore;

mod support;

/// How often the code of each execution was begun from its first line.
static BEGUN: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

fn begun(id: &str) -> u32 {
    BEGUN.lock().as_ref().and_then(|begun| begun.get(id).copied()).unwrap_or(0)
}

fn begins(id: &str) {
    *BEGUN.lock().get_or_insert_default().entry(id.to_owned()).or_default() += 1;
}

#[derive(Serialize, Deserialize)]
struct Act {
    number: u32,
}

impl Activity for Act {
    const NAME: &'static str = "evict.act";
    type Output = u32;
    type Error = AppError;
}

/// Fails until its third attempt, each of which sees what the one before it has noted.
#[derive(Serialize, Deserialize)]
struct Noted;

impl Activity for Noted {
    const NAME: &'static str = "evict.noted";
    type Output = Vec<u32>;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Word(u32);

impl Signal for Word {
    const NAME: &'static str = "evict.word";
}

/// Takes words while an act of its runs, until the one that is zero, and then does one thing of each kind.
#[derive(Serialize, Deserialize)]
struct Busy;

impl Workflow for Busy {
    const NAME: &'static str = "evict.busy";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        begins(&cx.id().id);
        let words = async {
            let mut words = 0;
            while cx.signal::<Word>().await?.0 > 0 {
                words += 1;
            }
            Ok::<u32, AppError>(words)
        };
        let (act, words) = futures::future::join(cx.call(Act { number: 1 }), words).await;
        let mut sum = act? + words?;
        cx.sleep(millis(5)).await?;
        sum += cx.step("step", async || Ok::<_, AppError>(100)).await?;
        sum += cx.blocking("blocking", || Ok::<_, AppError>(1_000)).await?;
        sum += cx.child(Small).await?;
        Ok(sum)
    }
}

#[derive(Serialize, Deserialize)]
struct Small;

impl Workflow for Small {
    const NAME: &'static str = "evict.small";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        begins(&cx.id().id);
        cx.sleep(millis(5)).await?;
        Ok(10_000)
    }
}

#[derive(Serialize, Deserialize)]
struct Notes;

impl Workflow for Notes {
    const NAME: &'static str = "evict.notes";
    type Output = Vec<u32>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<u32>, AppError> {
        begins(&cx.id().id);
        Ok(cx.call(Noted).retry(Retry::fixed(millis(100)).jitter_percent(0)).await?)
    }
}

/// The same, and hears words all the while.
#[derive(Serialize, Deserialize)]
struct NotesAmidWords;

impl Workflow for NotesAmidWords {
    const NAME: &'static str = "evict.notes-amid-words";
    type Output = Vec<u32>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<u32>, AppError> {
        let notes = cx.call(Noted).retry(Retry::fixed(millis(100)).jitter_percent(0));
        let words = async { while cx.signal::<Word>().await.is_ok() {} };
        match futures::future::select(pin!(notes.into_future()), pin!(words)).await {
            futures::future::Either::Left((notes, _)) => Ok(notes?),
            futures::future::Either::Right(_) => Err(AppError::new("no more words")),
        }
    }
}

/// Sleeps again and again, each time too shortly to be given back for it.
#[derive(Serialize, Deserialize)]
struct Naps;

impl Workflow for Naps {
    const NAME: &'static str = "evict.naps";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        for _ in 0..40 {
            cx.sleep(secs(1)).await?;
        }
        Ok(())
    }
}

fn build(home: &Home, gate: &Arc<Semaphore>, acts: &Arc<AtomicU32>) -> Builder {
    let (gate, acts) = (gate.clone(), acts.clone());
    let act = async move |call: Call<Act>| {
        acts.fetch_add(1, SeqCst);
        let _pass = gate.acquire().await;
        Ok(call.number)
    };
    let noted = async |call: Call<Noted>| {
        let mut notes: Vec<u32> = call.details().unwrap_or_default();
        notes.push(call.attempt());
        // Never stored by the pool: the next flush is seconds away.
        let _ = call.heartbeat(&notes);
        if call.attempt() < 3 { Err(AppError::new("not yet")) } else { Ok(notes) }
    };
    let builder = home.open().workflow::<Busy>().workflow::<Small>().workflow::<Notes>().workflow::<NotesAmidWords>();
    builder.activity(act).activity(noted).look_ahead(millis(5)).passivate_after(millis(10))
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

fn limit() -> Duration {
    secs(20)
}

#[test]
fn an_execution_leaves_memory_while_its_act_runs_and_is_replayed_for_each_word_that_it_hears() {
    system(async {
        for (at, home) in Home::all().into_iter().enumerate() {
            let (gate, acts) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
            let stent = build(&home, &gate, &acts).evict_always().spawn().await.unwrap();
            let id = format!("busy-{at}");
            let busy = stent.dispatch(Dispatch::new(Busy).id(&id)).await.unwrap();
            let words = AtomicU32::new(0);
            // Debug builds have a twin of each execution, which is begun along with it; and two words may come at once.
            eventually("words are heard from the log, again and again", limit(), async || {
                words.fetch_add(1, SeqCst);
                stent.signal(SendSignal::new(&id, &Word(1))).await.unwrap();
                begun(&id) >= 20
            })
            .await;
            stent.signal(SendSignal::new(&id, &Word(0))).await.unwrap();
            gate.add_permits(1);
            assert_eq!(busy.result().await.unwrap(), 11_101 + words.load(SeqCst));
            assert_eq!(acts.load(SeqCst), 1, "the act went on by itself, and was not begun again");
            assert_eq!(unended(&stent).await, []);
            stop(stent).await;
        }
    });
}

#[test]
fn what_an_attempt_has_noted_reaches_the_next_one_though_its_run_leaves_memory_in_between() {
    system(async {
        for home in Home::all() {
            for evicts in [false, true] {
                let stent = build(&home, &Arc::new(Semaphore::new(0)), &Arc::default());
                let stent = if evicts { stent.evict_always() } else { stent }.spawn().await.unwrap();
                let notes = stent.dispatch(Dispatch::new(Notes).id(format!("notes-{evicts}"))).await.unwrap();
                assert_eq!(notes.result().await.unwrap(), [1, 2, 3]);
                stop(stent).await;
            }
        }
    });
}

#[test]
fn what_an_attempt_has_noted_is_not_overtaken_by_its_run_that_hears_words_and_leaves_while_it_is_being_stored() {
    system(async {
        for home in Home::all() {
            for evicts in [false, true] {
                let stent = build(&home, &Arc::new(Semaphore::new(0)), &Arc::default());
                let stent = if evicts { stent.evict_always() } else { stent }.spawn().await.unwrap();
                for number in 0..4 {
                    let id = format!("notes-amid-words-{evicts}-{number}");
                    let notes = stent.dispatch(Dispatch::new(NotesAmidWords).id(&id)).await.unwrap();
                    let words = async {
                        loop {
                            if let Err(refused) = stent.signal(SendSignal::new(&id, &Word(1))).await {
                                return refused;
                            }
                        }
                    };
                    let (notes, refused) = futures::join!(notes.result(), words);
                    assert_eq!(notes.unwrap(), [1, 2, 3]);
                    assert!(refused.to_string().contains("has ended"), "{refused}");
                }
                stop(stent).await;
            }
        }
    });
}

#[test]
fn a_node_that_leaves_gives_a_cold_run_away_only_when_its_act_has_ended() {
    system(async {
        for home in Home::shared() {
            let (gate, acts) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
            let first = build(&home, &gate, &acts).evict_always().spawn().await.unwrap();
            first.dispatch(Dispatch::new(Busy).id("leaves")).await.unwrap();
            first.signal(SendSignal::new("leaves", &Word(0))).await.unwrap();
            eventually("the act runs", limit(), async || acts.load(SeqCst) == 1).await;
            let second = build(&home, &gate, &acts).evict_always().spawn().await.unwrap();
            let leaving = tokio::spawn(async move { first.shutdown(Shutdown::within(secs(20))).await.unwrap() });
            let busy = second.handle::<Busy>("leaves").await.unwrap().unwrap();
            gate.add_permits(1);
            assert_eq!(busy.result().await.unwrap(), 11_101);
            assert_eq!(acts.load(SeqCst), 1, "nobody began the act beside the one that ran");
            leaving.await.unwrap();
            stop(second).await;
        }
    });
}

#[test]
fn a_node_that_has_more_than_its_share_gives_away_cold_runs_as_well() {
    system(async {
        for home in Home::shared() {
            let node = async || home.open().workflow::<Naps>().evict_always().spawn().await.unwrap();
            let first = node().await;
            for number in 0..60 {
                first.dispatch(Dispatch::new(Naps).id(format!("naps-{number}"))).await.unwrap();
            }
            // Whoever has just come is not given away.
            eventually("they have been here for a while", limit(), async || {
                first.describe("naps-59").await.unwrap().is_some_and(|naps| naps.commits > 3)
            })
            .await;
            let second = node().await;
            // Those in memory at the moment at which runs are given away are a few at most.
            eventually("the other node has its share", limit(), async || second.stats().held >= 20).await;
            stop(first).await;
            stop(second).await;
        }
    });
}
