//! Every saga is settled, whatever kills its scope: against a bank with true books the balance is zero
//! in the end, or the run is parked and says which compensation is open.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::{CallError, Cx, Retry, cx::Saga};

/// What is taken and not given back, and the order in which it was given back. Taking and giving are idempotent, as
/// activities must be.
#[derive(Default)]
pub(super) struct Bank {
    pub(super) taken: BTreeSet<String>,
    pub(super) given: Vec<String>,
}

pub(super) type Books = Rc<RefCell<Bank>>;

/// Each `take` acts; one that is called `… badly` says that it failed although it acted.
pub(super) fn banker(books: &Books) -> impl FnMut(&str, Attempt) -> Ended + 'static {
    let books = books.clone();
    move |what, _| {
        let mut books = books.borrow_mut();
        match what.split_once(' ').unwrap() {
            ("take", name) if !books.given.iter().any(|given| name.starts_with(given)) => {
                books.taken.insert(name.split(' ').next().unwrap().to_owned());
                if name.ends_with("badly") { broken("no answer") } else { value(1) }
            }
            ("give", name) => {
                if books.taken.remove(name) {
                    books.given.push(name.to_owned());
                }
                value(1)
            }
            other => panic!("{other:?} after it was undone"),
        }
    }
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub(super) enum Death {
    Lives,
    Error,
    MaybeDone,
    Panic,
    Cancel,
    Deadline,
    Race,
    NestedRace,
    Limit,
}

use Death::*;

#[derive(Serialize, Deserialize)]
pub(super) struct Transfer(pub(super) Death);

impl Workflow for Transfer {
    const NAME: &'static str = "transfer";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let saga = cx.saga(async |saga| body(&cx, saga, self.0).await);
        match self.0 {
            Race | NestedRace => {
                let _ = cx.race(saga, cx.sleep(secs(5))).await;
                Err(AppError::new("too slow"))
            }
            _ => saga.await,
        }
    }
}

async fn body(cx: &Cx<Transfer>, saga: &mut Saga, death: Death) -> Result<u64, AppError> {
    saga.call(act("take a")).undo_with(|_key| act("give a")).await?;
    if death == NestedRace {
        return cx
            .saga(async |inner| {
                inner.call(act("take b")).undo_with(|_key| act("give b")).await?;
                inner.call(act("take c")).undo_with(|_key| act("give c")).await?;
                cx.sleep(secs(50)).await?;
                Ok(1)
            })
            .await;
    }
    if death == Cancel {
        // It may be cancelled with the act done: only an undo that is recorded with the intent covers that.
        saga.call(act("take b")).undo_with(|_key| act("give b")).await?;
    } else {
        cx.call(act("take b")).await?;
        saga.undo(act("give b"));
    }
    let how = if death == MaybeDone { "take c badly" } else { "take c" };
    saga.call(act(how)).undo_with(|_key| act("give c")).retry(Retry::never()).await?;
    match death {
        Lives | MaybeDone => Ok(1),
        Error => Err(AppError::new("no")),
        // A panic without the hook's noise.
        Panic => std::panic::resume_unwind(Box::new("on purpose")),
        Limit => {
            futures::future::join_all((0..50).map(|_| cx.call(act("never started")))).await;
            Ok(1)
        }
        Cancel | Deadline | Race | NestedRace => {
            cx.sleep(secs(50)).await?;
            Ok(1)
        }
    }
}

fn settled(death: Death, crash_at: Option<(usize, bool)>, seed: u64) -> Option<usize> {
    let _named = Named(seed);
    let books = Books::default();
    let limits = Limits { commands_per_turn: 30, ..Limits::default() };
    let deadline = (death == Deadline).then(|| secs(20));
    let mut world = World::with(&Transfer(death), limits, true, deadline).unwrap().handle(banker(&books));
    let mut dice = Dice::new(seed);
    let mut steps = 0;
    let mut asked = false;
    loop {
        if crash_at.is_some_and(|(at, _)| at == steps) {
            world.crash(crash_at.unwrap().1);
            world.run.as_ref()?;
        }
        // After the first, second or third act began.
        if death == Cancel && !asked && world.acts.len() as u64 > seed % 3 {
            asked = true;
            world.cancel();
        }
        if !world.step(&mut dice) {
            break;
        }
        steps += 1;
    }
    let at = format!("{death:?} with a crash at {crash_at:?}: {:?}", world.outcome());
    match (death, world.outcome().expect(&at)) {
        (Lives, Outcome::Completed(_)) => assert_eq!(books.borrow().taken.len(), 3, "{at}"),
        (Error | MaybeDone | Panic | Race | NestedRace | Limit, Outcome::Failed(_))
        | (Cancel, Outcome::Cancelled { .. })
        | (Deadline, Outcome::TimedOut) => {
            let books = books.borrow();
            assert!(books.taken.is_empty(), "{at}: still taken: {:?}", books.taken);
            let mut reversed = books.given.clone();
            reversed.sort();
            reversed.reverse();
            assert_eq!(books.given, reversed, "{at}: undone in reverse");
        }
        _ => panic!("{at}"),
    }
    assert!(world.acts.iter().all(|(what, _)| what != "never started"));
    Some(steps)
}

#[test]
fn every_saga_is_settled_whatever_kills_it_and_wherever_the_node_dies() {
    for seed in seeds(3) {
        for death in [Lives, Error, MaybeDone, Panic, Cancel, Deadline, Race, NestedRace, Limit] {
            let steps = settled(death, None, seed).unwrap();
            for at in 0..steps {
                for stored in [false, true] {
                    settled(death, Some((at, stored)), seed);
                }
            }
        }
    }
}

#[test]
fn an_exhausted_compensation_parks_by_name_and_goes_on_when_it_is_retried() {
    let books = Books::default();
    let mut honest = banker(&books);
    let mut world = World::new(&Transfer(Error)).handle(move |what, attempt| match what {
        "give b" if attempt == 1 => Err(Failure::new("closed", "the bank is closed").into_final()),
        _ => honest(what, attempt),
    });
    world.settle();
    assert_eq!(world.outcome(), None);
    let waits = world.run().state().waits();
    assert!(waits[0].starts_with("compensation act (#"), "{waits:?}");
    assert!(waits[0].contains("parked") && waits[0].contains("the bank is closed"), "{waits:?}");
    assert_eq!(books.borrow().given, ["c"]);
    // Neither a cancel nor a restart takes it off the books.
    world.cancel();
    world.settle();
    world.crash(false);
    world.settle();
    assert_eq!(world.outcome(), None);
    world.send("again", MessageBody::Retry { position: None });
    world.settle();
    assert_eq!(world.failure().message(), "no");
    assert_eq!(books.borrow().given, ["c", "b", "a"]);
}

#[test]
fn a_call_that_was_never_asked_for_is_not_undone() {
    flow!(Refused, |cx| -> u64 {
        cx.sleep(secs(1)).await.ok();
        cx.saga(async |saga| {
            let cancelled = saga.call(act("take a")).undo_with(|_key| act("give a")).await;
            assert!(matches!(cancelled, Err(CallError::Cancelled)));
            Err(AppError::new("stop"))
        })
        .await
    });
    let mut world = World::new(&Refused);
    world.ack();
    world.cancel();
    world.settle();
    assert!(matches!(world.outcome(), Some(Outcome::Cancelled { .. })));
    assert_eq!(world.acts, []);
}

#[test]
fn the_key_that_undo_with_gets_is_that_of_the_call() {
    flow!(Keys, |cx| -> u64 {
        cx.saga(async |saga| {
            saga.call(act("do")).undo_with(|key| Act(format!("undo {key}"))).await?;
            Err(AppError::new("stop"))
        })
        .await
    });
    let mut world = World::new(&Keys);
    world.settle();
    assert_eq!(world.acts, [("do".into(), 1), ("undo x/1/2".into(), 1)]);
}

#[test]
fn a_recorded_compensation_wins_over_the_one_of_changed_code() {
    thread_local!(static NAME: std::cell::Cell<&'static str> = const { std::cell::Cell::new("old") });
    flow!(Changes, |cx| -> u64 {
        cx.saga(async |saga| {
            saga.undo(act(NAME.get()));
            saga.call(act("do")).undo_with(|_key| act(NAME.get())).await?;
            Err(AppError::new("stop"))
        })
        .await
    });
    let mut world = World::new(&Changes);
    world.ack();
    NAME.set("new");
    world.evict();
    world.settle();
    assert_eq!(world.acts_named("old"), 2, "{:?}", world.acts);
    assert_eq!(world.acts_named("new"), 0);
}

#[test]
fn a_compensation_over_the_limit_fails_the_run_and_undoes_the_rest() {
    flow!(Huge, |cx| -> u64 {
        cx.saga(async |saga| {
            saga.undo(act("small"));
            saga.undo(Act("x".repeat(2000)));
            cx.sleep(secs(1)).await?;
            Ok(1)
        })
        .await
    });
    let limits = Limits { payload_bytes: 1000, ..Limits::default() };
    let mut world = World::with(&Huge, limits, true, None).unwrap();
    world.settle();
    assert_eq!(world.failure().kind(), "limit");
    assert_eq!(world.acts, [("small".into(), 1)]);
}
