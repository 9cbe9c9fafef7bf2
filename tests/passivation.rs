//! The story: somebody sends a message at the very moment at which its receiver goes to sleep, or ends. In whatever order
//! the store sees the two, the message is never slept over: the run stays awake, or is due, or the sender has a typed error.

#![cfg(feature = "sqlite")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use stent::{
    Error, SendError,
    kernel::{
        codec::Record,
        event::MessageBody,
        id::{BuildId, Digest, Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    prelude::*,
    store::{
        Batch, Item, Message, NewNode, NewRun, Outcome, Status, Store, Then, Turn, Yield, YieldReason,
        memory::MemoryStore,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use support::{Home, Rng, alone, eventually, system, unended};

mod support;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn record(number: u8) -> Record {
    Record { digest: Digest([number; 32]), body: Bytes::from(vec![number; 8]) }
}

/// What happens to one run, in some order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Move {
    /// A message of that number is sent.
    Send(u8),
    /// It goes to sleep until a message comes.
    Sleep,
    /// It goes to sleep until long after.
    SleepUntil,
    /// It ends.
    End,
    /// It is given back as one with nothing to do.
    Release,
}

fn item(of: Move, run: RunKey) -> Item {
    let then = match of {
        Move::Send(number) => {
            return Item::Send(Message {
                to: RunId::current("x"),
                message: format!("m{number}"),
                body: MessageBody::Cancel { reason: "m".into() },
                sent_at: NOW,
            });
        }
        Move::Release => {
            let why = YieldReason::Released { wake_at: None, forced: false };
            return Item::Yield(Yield { run, epoch: 1, why });
        }
        Move::Sleep => Then::Passivate { wake_at: None, seen: 0 },
        Move::SleepUntil => Then::Passivate { wake_at: Some(NOW.after(hours(1))), seen: 0 },
        Move::End => Then::End { status: Status::Completed, seen: Some(0) },
    };
    Item::Turn(Arc::new(Turn {
        run,
        start: None,
        commit_no: 1,
        prev: Some(record(0).digest),
        record: record(1),
        then,
        consumed: Vec::new(),
        settled: Vec::new(),
        tasks: Vec::new(),
        withdrawn: Vec::new(),
        starts: Vec::new(),
        tells: Vec::new(),
        published: Vec::new(),
        memos: Vec::new(),
        letters: Vec::new(),
        unowned: None,
    }))
}

/// Plays one order on a fresh store; batches are cut after the moves whose bit is set.
async fn play(mut store: Box<dyn Store>, order: &[Move], cuts: u32) {
    let incarnation = Incarnation(uuid::Uuid::from_u128(7));
    store
        .register(&NewNode {
            incarnation,
            build: BuildId(1),
            label: "test".into(),
            lease: std::time::Duration::from_secs(10),
            can: 1,
            now: NOW,
        })
        .await
        .unwrap();
    let run = store.reserve_keys(1).await.unwrap();
    let batch = |items| Batch { incarnation, now: NOW, renew: false, items, claim: None };
    let row = NewRun {
        run,
        id: RunId { id: "x".into(), run_no: 1 },
        after: Vec::new(),
        workflow: "w".into(),
        version: 1,
        priority: 0,
        queue: String::new(),
        tags: Vec::new(),
        needs: Vec::new(),
        created_at: NOW,
        wake_at: None,
        deadline: None,
        input_digest: Digest([9; 32]),
    };
    let first = Item::Turn(Arc::new(Turn {
        run,
        start: Some(Box::new(row)),
        commit_no: 0,
        prev: None,
        record: record(0),
        then: Then::Hold,
        consumed: Vec::new(),
        settled: Vec::new(),
        tasks: Vec::new(),
        withdrawn: Vec::new(),
        starts: Vec::new(),
        tells: Vec::new(),
        published: Vec::new(),
        memos: Vec::new(),
        letters: Vec::new(),
        unowned: None,
    }));
    assert_eq!(store.commit(&batch(vec![first])).await.unwrap().outcomes, [Outcome::Done]);
    let mut outcomes = Vec::new();
    let mut waiting = Vec::new();
    for (at, step) in order.iter().enumerate() {
        waiting.push(item(*step, run));
        if cuts & (1 << at) != 0 || at + 1 == order.len() {
            outcomes.extend(store.commit(&batch(std::mem::take(&mut waiting))).await.unwrap().outcomes);
        }
    }
    let row = store.reader().find("x", None).await.unwrap().unwrap();
    let unread = store.reader().inbox(run).await.unwrap().unread.len();
    let told = format!("{order:?} cut at {cuts:b}: {outcomes:?}, {row:?}");
    for (step, outcome) in order.iter().zip(&outcomes) {
        match (step, outcome) {
            (Move::Send(_), Outcome::Sent { .. })
            | (Move::Sleep | Move::SleepUntil | Move::End | Move::Release, Outcome::Done) => {}
            (Move::Send(_), Outcome::Ended(_)) => assert!(row.status.is_end(), "{told}"),
            (Move::Sleep | Move::SleepUntil | Move::End, Outcome::InboxMoved) => {
                assert!(row.owner.is_some() && unread > 0, "{told}")
            }
            _ => panic!("{told}"),
        }
    }
    let asleep = row.owner.is_none() && row.status == Status::Active && row.wake_at.is_none_or(|at| at > NOW);
    assert!(!(asleep && unread > 0), "slept over: {told}");
    assert!(!(row.status.is_end() && unread > 0), "{told}");
}

fn orders(of: &[Move]) -> Vec<Vec<Move>> {
    if of.len() < 2 {
        return vec![of.to_vec()];
    }
    (0..of.len())
        .flat_map(|at| {
            let mut rest = of.to_vec();
            let head = rest.remove(at);
            orders(&rest).into_iter().map(move |mut tail| {
                tail.insert(0, head);
                tail
            })
        })
        .collect()
}

#[test]
fn in_every_order_of_sending_and_leaving_the_store_sleeps_over_no_message() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let mut file = 0;
        for leaves in [Move::Sleep, Move::SleepUntil, Move::End, Move::Release] {
            for order in orders(&[leaves, Move::Send(1), Move::Send(2)]) {
                for cuts in 0..4 {
                    play(Box::new(MemoryStore::new()), &order, cuts).await;
                    file += 1;
                    let path = folder.path().join(format!("{file}.db"));
                    let options = SqliteOptions { durability: stent::Durability::Normal, ..Default::default() };
                    play(Box::new(SqliteStore::open(&path, options).await.unwrap()), &order, cuts).await;
                }
            }
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Word {
    word: String,
}

impl Signal for Word {
    const NAME: &'static str = "passivation.word";
}

/// Takes two words, in two waits, with a sleep between.
#[derive(Serialize, Deserialize)]
struct TwoWords;

impl Workflow for TwoWords {
    const NAME: &'static str = "passivation.two_words";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let first = cx.signal::<Word>().await?;
        cx.sleep(millis(3)).await?;
        let second = cx.signal::<Word>().await?;
        Ok(format!("{} {}", first.word, second.word))
    }
}

fn word(id: &str, word: &str) -> SendSignal {
    SendSignal::new(id, &Word { word: word.into() })
}

#[test]
fn two_waits_take_two_signals_whenever_they_come_and_however_often_the_run_sleeps() {
    system(async {
        for home in Home::all() {
            let mut rng = Rng::from_env("two waits");
            let builder = home.open().workflow::<TwoWords>().passivate_after(millis(0)).look_ahead(millis(1));
            let stent = builder.spawn().await.unwrap();
            let all = (0..150).map(|number| {
                let (stent, waits) = (&stent, [rng.between(0, 12), rng.between(0, 12)]);
                async move {
                    let id = format!("two-{number}");
                    let handle = stent.dispatch(Dispatch::new(TwoWords).id(&id)).await.unwrap();
                    tokio::time::sleep(millis(waits[0])).await;
                    stent.signal(word(&id, "one").message_id("1")).await.unwrap();
                    stent.signal(word(&id, "one").message_id("1")).await.unwrap();
                    tokio::time::sleep(millis(waits[1])).await;
                    stent.signal(word(&id, "two")).await.unwrap();
                    assert_eq!(handle.result().await.unwrap(), "one two");
                }
            });
            tokio::time::timeout(secs(30), futures::future::join_all(all)).await.expect("no message is slept over");
            assert!(unended(&stent).await.is_empty());
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// Of several who send all the while, there is always one between a run that has looked into its inbox and its end.
#[test]
fn a_run_ends_though_words_come_in_without_a_pause_and_whoever_goes_on_hears_that_it_is_over() {
    alone(async {
        for home in Home::all() {
            let stent = home.open().workflow::<TwoWords>().spawn().await.unwrap();
            let talks = async || {
                for number in 0..3_000 {
                    match stent.signal(word("talked-to", &number.to_string())).await {
                        Ok(_) => {}
                        Err(Error::Send(SendError::AlreadyEnded { .. })) => return true,
                        Err(refused) => panic!("{refused}"),
                    }
                }
                false
            };
            let run = stent.dispatch(Dispatch::new(TwoWords).id("talked-to")).await.unwrap();
            assert_eq!(futures::join!(talks(), talks(), talks()), (true, true, true));
            run.result().await.unwrap();
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Sleeper;

impl Workflow for Sleeper {
    const NAME: &'static str = "passivation.sleeper";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        Ok(cx.sleep(days(30)).await?)
    }
}

#[test]
fn a_sleeping_run_hears_a_cancel_at_once_and_the_ended_and_the_unknown_answer_with_typed_errors() {
    system(async {
        for home in Home::all() {
            let stent = home.open().workflow::<Sleeper>().passivate_after(millis(0)).spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Sleeper).id("s")).await.unwrap();
            eventually("it sleeps", secs(5), async || stent.describe("s").await.unwrap().unwrap().summary.owner.is_none()).await;
            stent.cancel(Cancel::new("s").reason("enough")).await.unwrap();
            let ended = tokio::time::timeout(secs(3), handle.result()).await.expect("at once");
            assert!(matches!(&ended, Err(RunError::Cancelled { reason }) if reason == "enough"), "{ended:?}");
            let before = stent.describe("s").await.unwrap().unwrap();
            for refused in [stent.signal(word("s", "late")).await, stent.cancel(Cancel::new("s")).await] {
                assert!(
                    matches!(&refused, Err(Error::Send(SendError::AlreadyEnded { id, status })) if id == "s" && status == "cancelled"),
                    "{refused:?}"
                );
            }
            assert_eq!(before.summary, stent.describe("s").await.unwrap().unwrap().summary);
            let unknown = stent.signal(word("nobody", "x")).await;
            assert!(matches!(&unknown, Err(Error::Send(SendError::Unknown(id))) if id == "nobody"), "{unknown:?}");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// Lets somebody else work, and waits.
#[derive(Serialize, Deserialize)]
struct Sends;

impl Workflow for Sends {
    const NAME: &'static str = "passivation.sends";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        cx.child(Sleeper).id(format!("{}-sleeper", cx.id().id)).detach().await?;
        Ok(cx.sleep(secs(3600)).await?)
    }
}

#[test]
fn a_delayed_run_that_is_cancelled_before_it_begins_ends_at_once_and_has_begun_nothing() {
    system(async {
        for home in Home::all() {
            let stent = home.open().workflow::<Sleeper>().workflow::<Sends>().spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Sends).id("later").delay(secs(3600))).await.unwrap();
            stent.cancel(Cancel::new("later").reason("not at all")).await.unwrap();
            let ended = tokio::time::timeout(secs(10), handle.result()).await.expect("at once");
            assert!(matches!(&ended, Err(RunError::Cancelled { reason }) if reason == "not at all"), "{ended:?}");
            assert!(stent.describe("later-sleeper").await.unwrap().is_none(), "its child was begun");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Endless;

impl Activity for Endless {
    const NAME: &'static str = "passivation.endless";
    type Output = ();
    type Error = AppError;
}

/// A step wins against an activity; then the run waits for a word, and may sleep.
#[derive(Serialize, Deserialize)]
struct Racer;

impl Workflow for Racer {
    const NAME: &'static str = "passivation.racer";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let step = cx.step("wins", async || {
            tokio::time::sleep(millis(60)).await;
            Ok::<_, AppError>(())
        });
        drop(cx.race(cx.call(Endless), step).await);
        Ok(cx.signal::<Word>().await?.word)
    }
}

#[test]
fn a_run_that_goes_to_sleep_first_stops_the_activity_that_nobody_waits_for() {
    alone(async {
        for home in Home::all() {
            let stopped = Arc::new(AtomicBool::new(false));
            let seen = stopped.clone();
            let stent = home
                .open()
                .workflow::<Racer>()
                .activity(async move |call: Call<Endless>| {
                    call.cancelled().await;
                    seen.store(true, SeqCst);
                    Ok(())
                })
                .passivate_after(millis(0))
                .spawn()
                .await
                .unwrap();
            let handle = stent.dispatch(Dispatch::new(Racer).id("r")).await.unwrap();
            eventually("the loser is asked to stop", secs(5), async || stopped.load(SeqCst)).await;
            stent.signal(word("r", "done")).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), "done");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}
