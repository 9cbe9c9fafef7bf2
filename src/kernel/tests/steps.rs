//! Inline steps: intent first, the closure after the grant, the value only with the turn that records it.

use std::{
    cell::RefCell,
    collections::VecDeque as Queue,
    task::{Poll, Waker},
};

use super::{super::Misuse, *};
use crate::Retry;

thread_local! {
    static CALLS: RefCell<Queue<&'static str>> = const { RefCell::new(Queue::new()) };
    static DONE: RefCell<u32> = const { RefCell::new(0) };
    static IO: RefCell<(bool, Option<Waker>)> = const { RefCell::new((false, None)) };
}

fn answers(answers: &[&'static str]) {
    CALLS.with_borrow_mut(|calls| *calls = answers.iter().copied().collect());
    DONE.set(0);
    IO.set((false, None));
}

/// What a closure does: each call takes the next answer.
async fn closure() -> Result<String, AppError> {
    DONE.set(DONE.take() + 1);
    match CALLS.with_borrow_mut(Queue::pop_front).unwrap() {
        "panic" => std::panic::resume_unwind(Box::new("on purpose")),
        "error" => Err(AppError::new("no")),
        "io" => {
            std::future::poll_fn(|cx| {
                IO.with_borrow_mut(|(ready, waker)| {
                    *waker = Some(cx.waker().clone());
                    if *ready { Poll::Ready(()) } else { Poll::Pending }
                })
            })
            .await;
            Ok("read".to_owned())
        }
        "yield" => {
            let mut left = 3;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                left -= 1;
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            Ok("yielded".to_owned())
        }
        other => Ok(other.to_owned()),
    }
}

flow!(Steps, |cx| -> String {
    let borrowed = String::from("borrowed ");
    let value = cx
        .step("s", async || closure().await.map(|text| format!("{borrowed}{text}")))
        .retry(Retry::fixed(secs(1)).attempts(3))
        .await?;
    cx.call(Act(value.clone())).await?;
    Ok(value)
});

#[test]
fn a_closure_runs_after_its_intent_and_its_value_counts_with_the_record() {
    answers(&["one"]);
    let mut world = World::new(&Steps);
    assert_eq!(DONE.take(), 0, "not before the intent is durable");
    world.ack();
    assert_eq!(world.run().poll_steps().unwrap(), []);
    assert_eq!(DONE.take(), 0, "not before it is granted");
    world.start(1);
    assert_eq!(DONE.take(), 1);
    assert_eq!(world.arrived.len(), 1);
    assert_eq!(world.run().state().open.keys().count(), 1, "held back until it is recorded");
    world.turn();
    world.ack();
    answers(&[]);
    world.evict();
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed one");
    assert_eq!(DONE.take(), 0, "replay does not call it");
}

#[test]
fn each_attempt_calls_the_closure_again_and_a_panic_is_one_that_failed() {
    answers(&["error", "panic", "three"]);
    let mut world = World::new(&Steps);
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed three");
    assert_eq!(DONE.take(), 3);
}

#[test]
fn a_step_whose_node_died_is_run_again_under_the_next_attempt() {
    answers(&["one", "two"]);
    let mut world = World::new(&Steps);
    world.ack();
    world.start(1);
    world.crash(false);
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed two");
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Lost { attempt: 1, .. })), 1);
}

#[test]
fn the_wake_ups_of_a_step_are_legal_apply_no_fact_and_reach_the_host() {
    answers(&["io"]);
    let mut world = World::new(&Steps);
    world.ack();
    world.start(1);
    assert!(world.arrived.is_empty() && world.run().runs_steps());
    world.nudged.store(false, Ordering::SeqCst);
    let waker = IO.with_borrow_mut(|(ready, waker)| {
        *ready = true;
        waker.clone().unwrap()
    });
    std::thread::spawn(move || waker.wake()).join().unwrap();
    assert!(world.nudged.load(Ordering::SeqCst));
    assert!(world.run().foreign().is_none());
    world.poll_steps();
    assert_eq!(world.arrived.len(), 1);
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed read");
}

#[test]
fn a_step_that_yields_is_polled_later_and_not_at_once() {
    answers(&["yield"]);
    let mut world = World::new(&Steps);
    world.ack();
    world.start(1);
    assert!(world.arrived.is_empty() && world.nudged.load(Ordering::SeqCst));
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed yielded");
}

#[test]
fn a_step_that_ends_while_a_fact_is_applied_is_not_forgotten() {
    answers(&["io"]);
    let mut world = World::new(&Steps);
    world.ack();
    world.start(1);
    // Ready without a wake-up, and found so by the poll of an unrelated fact.
    IO.with_borrow_mut(|(ready, _)| *ready = true);
    world.nudged.store(false, Ordering::SeqCst);
    world.word("unrelated");
    world.turn();
    assert!(world.nudged.load(Ordering::SeqCst), "the host is asked to fetch the result");
    world.settle();
    assert_eq!(world.output::<String>(), "borrowed read");
}

#[test]
fn a_step_that_timed_out_is_dropped_and_holds_nothing() {
    flow!(Limited, |cx| -> bool { Ok(cx.step("s", closure).retry(Retry::never()).await.is_err()) });
    answers(&["io"]);
    let mut world = World::new(&Limited);
    world.ack();
    world.start(1);
    let late = Failure::new("timeout:start_to_close", "too slow");
    world.arrived.push_back(Arrival::Ended { position: 1, attempt: 1, result: Err(late) });
    world.turn();
    assert!(!world.run().runs_steps());
    world.settle();
    assert!(world.output::<bool>());
}

#[test]
fn an_old_attempt_gets_no_right_to_run() {
    answers(&["error", "two"]);
    let mut world = World::new(&Steps);
    world.ack();
    world.start(1);
    world.turn();
    world.ack();
    world.run().grant(1, 1);
    world.poll_steps();
    assert_eq!(DONE.take(), 1);
}

#[test]
fn a_closure_that_uses_the_context_is_reported() {
    flow!(Draws, |cx| -> u64 { Ok(cx.step("s", async || Ok::<_, AppError>(cx.random())).await?) });
    flow!(Calls, |cx| -> u64 { Ok(cx.step("s", async || Ok::<_, AppError>(cx.call(act("a")).await?)).await?) });
    for mut world in [World::new(&Draws), World::new(&Calls)] {
        world.ack();
        world.run().grant(1, 1);
        let blocked = world.run().poll_steps().unwrap_err();
        assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::CxInStep, .. }), "{blocked}");
    }
}

#[test]
fn a_blocking_step_hands_its_closure_to_the_host() {
    flow!(Hashes, |cx| -> u64 { Ok(cx.blocking("hash", || Ok::<_, AppError>(42_u64)).await?) });
    let mut world = World::new(&Hashes);
    world.ack();
    world.evict();
    world.settle();
    assert_eq!(world.output::<u64>(), 42);
    assert!(world.run().closure(1).is_none());
}
