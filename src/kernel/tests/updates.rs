//! Updates: checked once, applied once, answered from the log; and the conditions that wait for what they change.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::*;
use crate::{
    Cx, Update,
    kernel::{
        event::{Ignored, Reply},
        failure::{KIND_CODEC, KIND_ERROR, KIND_LIMIT, KIND_PANIC, KIND_UNANSWERED},
        tape::{Inquiry, Misuse, Told},
    },
};

/// Adds to a sum, which it returns.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Add(u64);

impl Update for Add {
    const NAME: &'static str = "add";
    type Answer = u64;
    type Error = AppError;
}

/// The name of that, the shape of another.
#[derive(Serialize, Deserialize)]
struct WrongAdd(String);

impl Update for WrongAdd {
    const NAME: &'static str = "add";
    type Answer = u64;
    type Error = AppError;
}

/// An update that does as it is told.
#[derive(Serialize, Deserialize)]
struct Do(String);

impl Update for Do {
    const NAME: &'static str = "do";
    type Answer = String;
    type Error = AppError;
}

fn body<U: Update>(update: &U) -> MessageBody {
    MessageBody::Update { name: U::NAME.into(), payload: Payload::encode(update, "an update").unwrap() }
}

fn check<U: Update>(world: &World, message: &str, update: &U) -> Result<Told, Failure> {
    let payload = Payload::encode(update, "an update").unwrap();
    let check = Inquiry::Check { message: message.into(), name: U::NAME, payload };
    world.run.as_ref().unwrap().inquire(&check)
}

/// What the log says of an update: its answer, or why it was refused.
fn answer(world: &World, message: &str) -> Option<Result<u64, String>> {
    world.events().into_iter().find_map(|event| match event {
        Event::Command(Command::Answered { message: of, reply }) if of == message => Some(match *reply {
            Reply::Done(answer) => Ok(answer.decode("an answer").unwrap()),
            Reply::Failed(failure) => Err(failure.kind().to_owned()),
        }),
        Event::Fact(Fact::Refused { message: of, failure }) if of == message => Some(Err(failure.kind().to_owned())),
        _ => None,
    })
}

thread_local! {
    static CHECKED: Cell<u32> = const { Cell::new(0) };
    static APPLIED: Cell<u32> = const { Cell::new(0) };
}

flow!(Sums, |cx| -> Vec<u64> {
    let sum = Rc::new(RefCell::new(Vec::new()));
    let (seen, added) = (sum.clone(), sum.clone());
    cx.on_update(
        move |add: &Add| {
            CHECKED.set(CHECKED.get() + 1);
            let full = seen.borrow().iter().sum::<u64>() + add.0 > 10;
            if full { Err(AppError::new("too much")) } else { Ok(()) }
        },
        move |add: Add| {
            APPLIED.set(APPLIED.get() + 1);
            added.borrow_mut().push(add.0);
            added.borrow().iter().sum()
        },
    );
    cx.until(|| sum.borrow().iter().sum::<u64>() == 10).await?;
    let all = sum.borrow().clone();
    Ok(all)
});

fn sums() -> World {
    World::with(&Sums, Limits::default(), false, None).unwrap()
}

#[test]
fn an_update_is_checked_and_applied_once_and_replay_applies_it_without_a_check() {
    CHECKED.set(0);
    let mut world = sums();
    world.send("a", body(&Add(4)));
    world.settle();
    assert_eq!(answer(&world, "a"), Some(Ok(4)));
    // The same id again has no effect, whatever it says.
    world.send("a", body(&Add(5)));
    world.settle();
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { why: Ignored::Duplicate, .. })), 1);
    assert_eq!(check(&world, "a", &Add(5)), Ok(Told::SeeLog));
    assert_eq!(CHECKED.get(), 1);
    APPLIED.set(0);
    world.evict();
    assert_eq!((CHECKED.get(), APPLIED.get()), (1, 1), "replay applies and does not check");
    world.send("b", body(&Add(6)));
    world.settle();
    assert_eq!(world.output::<Vec<u64>>(), [4, 6]);
    assert_eq!(check(&world, "c", &Add(1)), Ok(Told::SeeLog), "it has ended");
    world.replayed(world.log.len()).unwrap();
}

#[test]
fn what_is_rejected_changes_nothing_and_one_that_is_checked_before_leaves_no_event() {
    let mut world = sums();
    world.send("a", body(&Add(8)));
    world.settle();
    let events = world.events().len();
    let rejected = check(&world, "b", &Add(3)).unwrap_err();
    assert_eq!((rejected.kind(), rejected.message()), (KIND_ERROR, "too much"));
    assert_eq!(check(&world, "b", &Add(2)), Ok(Told::Fits));
    assert_eq!(check(&world, "b", &Do(String::new())).unwrap_err().kind(), KIND_UNANSWERED);
    assert_eq!(check(&world, "b", &WrongAdd("3".into())).unwrap_err().kind(), KIND_CODEC);
    assert_eq!(world.events().len(), events);
    // It fitted when it was sent, and does not when its turn comes.
    world.send("b", body(&Add(1)));
    world.send("c", body(&Add(2)));
    world.settle();
    assert_eq!((answer(&world, "b"), answer(&world, "c")), (Some(Ok(9)), Some(Err(KIND_ERROR.into()))));
    world.evict();
    // A refusal stays: later it would fit.
    assert_eq!(check(&world, "c", &Add(1)), Ok(Told::SeeLog));
    world.send("d", body(&Add(1)));
    world.settle();
    assert_eq!(world.output::<Vec<u64>>(), [8, 1, 1]);
    world.replayed(world.log.len()).unwrap();
}

flow!(Does, |cx| -> Vec<String> {
    let done = Rc::new(RefCell::new(Vec::new()));
    let (does, inside) = (done.clone(), cx.clone());
    cx.on_update(
        |Do(what): &Do| if what == "bad check" { panic!("the check is broken") } else { Ok(()) },
        move |Do(what): Do| {
            does.borrow_mut().push(what.clone());
            match what.as_str() {
                "panic" => panic!("half of it is done"),
                "meddle" => inside.random().to_string(),
                "long" => "x".repeat(3 << 20),
                _ => what,
            }
        },
    );
    let words = async {
        while done.borrow().iter().all(|what| what != "end") {
            let Word(word) = cx.signal().await?;
            done.borrow_mut().push(word);
        }
        Ok::<_, AppError>(())
    };
    let told = async {
        cx.saga(async |saga| {
            saga.call(act("act")).undo_with(|_| act("undo")).await?;
            cx.until(|| done.borrow().len() >= 4).await?;
            Ok::<_, AppError>(())
        })
        .await
    };
    let (a, b) = futures::join!(words, told);
    a?;
    b?;
    let all = done.borrow().clone();
    Ok(all)
});

#[test]
fn updates_and_signals_are_taken_in_the_order_in_which_they_were_sent() {
    let mut world = World::new(&Does);
    world.word("1");
    world.send("2", body(&Do("2".into())));
    world.word("3");
    world.send("4", body(&Do("4".into())));
    world.word("end");
    world.settle();
    assert_eq!(world.output::<Vec<String>>(), ["1", "2", "3", "4", "end"]);
    world.evict();
}

#[test]
fn a_check_that_panics_refuses_and_an_answer_that_is_too_long_is_told_as_such() {
    let mut world = World::new(&Does);
    world.send("a", body(&Do("bad check".into())));
    world.send("b", body(&Do("long".into())));
    world.settle();
    assert_eq!(answer(&world, "a"), Some(Err(KIND_PANIC.into())));
    assert_eq!(answer(&world, "b"), Some(Err(KIND_LIMIT.into())));
    world.evict();
    assert_eq!(world.outcome(), None);
}

#[test]
fn an_update_whose_code_panics_fails_the_run_and_what_it_has_done_is_undone() {
    let mut world = World::new(&Does);
    world.settle();
    world.send("a", body(&Do("panic".into())));
    world.settle();
    assert_eq!(answer(&world, "a"), Some(Err(KIND_PANIC.into())));
    let failure = world.failure();
    assert!(failure.kind() == KIND_PANIC && failure.message().contains("half of it is done"), "{failure}");
    assert_eq!(world.acts_named("undo"), 1);
    world.replayed(world.log.len()).unwrap();
}

#[test]
fn an_update_that_uses_the_context_is_found_at_the_first_run() {
    let mut world = World::new(&Does);
    world.settle();
    world.send("a", body(&Do("meddle".into())));
    let blocked = world.try_turn().unwrap_err();
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::CxInHandler, .. }), "{blocked}");
}

#[test]
fn a_condition_that_uses_the_context_is_found_at_the_first_run() {
    flow!(Looks, |cx| -> u64 {
        cx.until(|| cx.random() == 0).await?;
        Ok(1)
    });
    let Err(blocked) = World::with(&Looks, Limits::default(), false, None).map(drop) else { panic!("it is not found") };
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::CxInHandler, .. }), "{blocked}");
}

#[test]
fn code_that_takes_an_update_no_more_does_not_fit_its_log() {
    #[derive(Serialize, Deserialize)]
    struct NoMore;
    impl Workflow for NoMore {
        const NAME: &'static str = "Sums";
        type Output = u64;
        type Error = AppError;

        async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
            cx.until(|| false).await?;
            Ok(1)
        }
    }
    let mut world = sums();
    world.send("a", body(&Add(4)));
    world.settle();
    world.begin = crate::registry::begin::<NoMore>();
    let Err(blocked) = world.replayed(world.log.len()) else { panic!("it fits") };
    let text = blocked.to_string();
    assert!(text.contains("asks for nothing") && text.contains("the answer to the update of id \"a\""), "{text}");
}

#[test]
fn answers_that_differ_from_run_to_run_are_found_at_the_first_run() {
    thread_local! {
        static CALLS: Cell<u64> = const { Cell::new(0) };
    }
    flow!(Unsteady, |cx| -> u64 {
        cx.on_update(|_: &Add| Ok(()), |_: Add| CALLS.replace(CALLS.get() + 1));
        Ok(cx.call(act("a")).await?)
    });
    let mut world = World::new(&Unsteady);
    world.ack();
    world.send("a", body(&Add(4)));
    let blocked = world.try_turn().unwrap_err();
    assert!(matches!(blocked, Blocked::NotDeterministic { .. }), "{blocked}");
}

#[test]
fn a_condition_is_met_by_whoever_changes_the_state_and_nothing_is_recorded_of_it() {
    // Each waits for the one behind it, through what is polled alone (`map`) and what is polled together (`join!`).
    flow!(Chained, |cx| -> Vec<usize> {
        let (met, count) = (RefCell::new(Vec::new()), Cell::new(0));
        let chain = cx.map(0..5_usize, async |n| {
            cx.until(|| count.get() >= 5 - n).await?;
            met.borrow_mut().push(n);
            count.set(count.get() + 1);
            Ok::<_, AppError>(())
        });
        let last = async {
            cx.sleep(secs(1)).await?;
            count.set(1);
            Ok::<_, AppError>(())
        };
        let (a, b) = futures::join!(chain, last);
        a?;
        b?;
        Ok(met.into_inner())
    });
    let mut world = World::new(&Chained);
    world.settle();
    assert_eq!(world.output::<Vec<usize>>(), [4, 3, 2, 1, 0]);
    assert_eq!(
        world.commands(|command| !matches!(command, Command::Sleep { .. } | Command::End { .. })),
        0,
        "nothing is recorded"
    );
    world.replayed(world.log.len()).unwrap();
}

#[test]
fn a_wait_for_a_condition_has_a_limit_and_hears_of_cancellation() {
    flow!(Limited, |cx| -> (bool, bool, bool) {
        let open = Rc::new(Cell::new(false));
        let opens = open.clone();
        cx.on_update(|_: &Add| Ok(()), move |_: Add| u64::from(opens.replace(true)));
        let first = cx.until(|| open.get()).within(secs(5)).await?;
        let second = cx.until(|| open.get()).within(secs(5)).await?;
        let stopped = cx.race(cx.until(|| false), cx.sleep(hours(1))).await;
        let shielded = cx.shielded(cx.until(|| open.get())).await;
        Ok((first, second, shielded.is_ok() && matches!(stopped, crate::cx::Either::First(Err(_)))))
    });
    fn hours(n: u64) -> std::time::Duration {
        secs(n * 3_600)
    }
    for evict in [false, true] {
        let mut world = World::new(&Limited);
        world.ack();
        world.pass(secs(5));
        world.turn();
        world.ack();
        // The condition and the end of the time are noticed together: it counts.
        world.send("a", body(&Add(1)));
        world.pass(secs(5));
        world.turn();
        world.ack();
        if evict {
            world.evict();
        }
        world.cancel();
        world.turn();
        world.ack();
        assert_eq!(world.output::<(bool, bool, bool)>(), (false, true, true));
        world.replayed(world.log.len()).unwrap();
    }
}

#[test]
fn a_loop_of_conditions_that_hold_is_stopped() {
    flow!(Loops, |cx| -> u64 {
        loop {
            cx.until(|| true).await?;
        }
    });
    let Err(blocked) = World::with(&Loops, Limits::default(), false, None).map(drop) else { panic!("it goes on") };
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::Spins(_), .. }), "{blocked}");
}

#[test]
fn updates_survive_crashes_at_any_point_with_one_answer_each() {
    for seed in seeds(150) {
        let _named = Named(seed);
        let mut dice = Dice::new(seed);
        let mut world = World::with(&Sums, Limits::default(), dice.below(2) == 0, None).unwrap();
        let (mut sent, mut answers) = (0, BTreeMap::new());
        for _ in 0..2_000 {
            if world.outcome().is_some() && world.in_flight.is_none() {
                break;
            }
            if dice.below(4) == 0 {
                let id = if dice.below(3) == 0 { dice.below(sent + 1) } else { sent + 1 };
                sent = sent.max(id);
                world.send(&format!("u{id}"), body(&Add(1 + dice.below(3) as u64)));
            }
            if dice.below(10) == 0 && !world.log.is_empty() {
                let stored = dice.below(2) == 0;
                world.crash(stored);
            } else if dice.below(6) == 0 && world.in_flight.is_none() {
                world.evict();
            }
            world.step(&mut dice);
            for (id, answer) in (0..=sent).filter_map(|id| Some((id, answer(&world, &format!("u{id}"))?))) {
                assert_eq!(answers.entry(id).or_insert_with(|| answer.clone()), &answer, "u{id} was answered twice");
            }
        }
        assert_eq!(world.output::<Vec<u64>>().iter().sum::<u64>(), 10);
        let applied = world.commands(|command| matches!(command, Command::Answered { .. }));
        assert_eq!(applied, answers.values().filter(|answer| answer.is_ok()).count(), "each once");
        world.replayed(world.log.len()).unwrap();
    }
}
