//! Attempts of calls: retried, lost, never twice, parked and set going again; only the current one is believed.

use super::*;
use crate::{CallError, Retry, cx::OnExhausted};

flow!(Thrice, |cx| -> u64 { Ok(cx.call(act("a")).retry(Retry::fixed(secs(1)).attempts(3)).await?) });

flow!(Once, |cx| -> String {
    Ok(match cx.call(act("a")).at_most_once().await {
        Err(CallError::MaybeDone(_)) => "maybe done".to_owned(),
        Err(other) => other.to_string(),
        Ok(n) => n.to_string(),
    })
});

flow!(Parks, |cx| -> u64 {
    let first = cx.call(act("a")).retry(Retry::never()).on_exhausted(OnExhausted::Park);
    let second = cx.call(act("b"));
    let (a, b) = futures::join!(first, second);
    Ok(a? + b?)
});

fn retry_of(position: Option<Position>) -> MessageBody {
    MessageBody::Retry { position }
}

#[test]
fn a_failed_attempt_is_followed_by_a_recorded_intent_and_never_before_its_time() {
    let mut world = World::new(&Thrice).handle(|_, attempt| if attempt < 3 { broken("no") } else { value(9) });
    world.settle();
    assert_eq!(world.output::<u64>(), 9);
    assert_eq!(world.acts, [("a".into(), 1), ("a".into(), 2), ("a".into(), 3)]);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Failed { .. })), 2);
}

#[test]
fn exhausted_attempts_give_the_typed_error_to_the_code() {
    let mut world = World::new(&Thrice).handle(|_, _| broken("no"));
    world.settle();
    assert_eq!(world.acts.len(), 3);
    assert!(matches!(world.outcome(), Some(Outcome::Failed(failure)) if failure.message() == "no"));
}

#[test]
fn attempts_lost_with_a_node_do_not_use_up_the_budget_of_retries() {
    let mut world = World::new(&Thrice).handle(|_, attempt| if attempt == 7 { value(1) } else { broken("no") });
    world.ack();
    world.start(1);
    for _ in 0..4 {
        world.crash(false);
        world.start(1);
    }
    world.settle();
    assert_eq!(world.output::<u64>(), 1);
    assert_eq!(world.acts.last(), Some(&("a".into(), 7)), "four lost, then the three of the budget: {:?}", world.acts);
}

#[test]
fn a_call_that_is_lost_too_often_fails_by_name() {
    let limits = Limits { lost_attempts: 2, ..Limits::default() };
    let mut world = World::with(&Thrice, limits, true, None).unwrap();
    world.ack();
    for _ in 0..3 {
        world.start(1);
        world.crash(false);
    }
    world.settle();
    assert!(matches!(world.outcome(), Some(Outcome::Failed(failure)) if failure.message().contains("lost attempt 3")));
    assert_eq!(world.acts.len(), 3);
}

#[test]
fn an_at_most_once_call_never_starts_twice() {
    let mut world = World::new(&Once);
    world.ack();
    world.start(1);
    world.crash(false);
    world.settle();
    assert_eq!(world.output::<String>(), "maybe done");
    assert_eq!(world.acts.len(), 1);

    let mut world = World::new(&Once).handle(|_, _| broken("no"));
    world.settle();
    assert_eq!(world.output::<String>(), "no");
    assert_eq!(world.acts.len(), 1);
}

#[test]
fn an_at_most_once_call_that_was_let_go_on_is_in_doubt_again_when_it_is_lost_again() {
    let mut world = World::new(&Once);
    world.ack();
    world.start(1);
    world.crash(false);
    world.settle();
    world.reset(crate::kernel::fork::Point::BeforeFailure(1)).unwrap();
    world.ack();
    world.start(1);
    world.crash(false);
    world.settle();
    assert_eq!(world.acts, [("a".into(), 2)]);
    assert_eq!(world.output::<String>(), "maybe done");
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn a_parked_call_waits_by_name_and_goes_on_with_the_next_attempt() {
    let mut world = World::new(&Parks).handle(|what, attempt| if what == "a" && attempt == 1 { broken("no") } else { value(1) });
    world.ack();
    world.start(1);
    world.start(2);
    world.deliver(1);
    world.turn();
    world.ack();
    world.evict();
    assert!(world.open().contains("Parked"));
    assert!(world.run().state().waits()[0].contains("parked until it is retried by hand; last: no"));
    // `b` is under way: the retry of the parked call must not start it again (the world refuses that).
    world.send("r1", retry_of(None));
    world.turn();
    let effects = world.in_flight.as_ref().unwrap().effects.clone();
    assert_eq!(effects, [Effect::Start { position: 1, attempt: 2, at: None }]);
    world.settle();
    assert_eq!(world.output::<u64>(), 2);
    assert_eq!((world.acts_named("a"), world.acts_named("b")), (2, 1));
}

#[test]
fn a_retry_of_something_that_is_not_parked_is_ignored_by_name() {
    let mut world = World::new(&Parks);
    world.ack();
    world.send("r1", retry_of(Some(2)));
    world.settle();
    assert_eq!(world.output::<u64>(), 2);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { why: super::super::event::Ignored::Late, .. })), 1);
}

#[test]
fn late_and_double_results_are_not_recorded() {
    let mut world = World::new(&Thrice).handle(|_, _| broken("no"));
    world.ack();
    world.start(1);
    let late = Arrival::Ended { position: 1, attempt: 1, result: value(5) };
    world.deliver(1);
    world.arrived.push_back(late.clone());
    world.turn();
    world.ack();
    world.arrived.push_back(late);
    world.arrived.push_back(Arrival::Ended { position: 77, attempt: 1, result: value(5) });
    world.turn();
    assert!(world.in_flight.is_none(), "nothing came of it");
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Completed { .. } | Fact::Failed { .. })), 1);
}

#[test]
fn a_double_message_is_taken_once() {
    flow!(Two, |cx| -> (Word, Word) { Ok((cx.signal().await?, cx.signal().await?)) });
    let mut world = World::new(&Two);
    world.word("a");
    world.word("a");
    world.settle();
    world.word("a");
    world.settle();
    assert_eq!(world.outcome(), None);
    world.evict();
    world.word("b");
    world.settle();
    assert_eq!(world.output::<(Word, Word)>(), (Word("a".into()), Word("b".into())));
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 2);
}

#[test]
fn an_activity_that_the_owner_itself_does_not_hold_was_never_begun_and_is_not_lost() {
    let mut world = World::new(&Parks);
    world.ack();
    world.start(1);
    world.start(2);
    world.evict();
    world.arrived.push_back(Arrival::Reopened { held: BTreeSet::from([1]) });
    world.turn();
    assert!(world.in_flight.is_none(), "nothing happened, so there is nothing to record");
}

#[test]
fn a_retried_attempt_that_was_due_is_lost_like_a_first_one() {
    let mut world = World::new(&Thrice).handle(|_, _| broken("no"));
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn();
    world.ack();
    world.pass(secs(5));
    world.start(1);
    world.evict();
    world.arrived.push_back(Arrival::Taken { by: crate::kernel::id::Incarnation(uuid::Uuid::from_u128(2)), epoch: 2 });
    world.turn();
    let events = &world.in_flight.as_ref().unwrap().commit.events;
    assert!(matches!(events[..], [Event::Fact(Fact::Claimed { .. }), Event::Fact(Fact::Lost { attempt: 2, .. })]), "{events:?}");
}

#[test]
fn a_turn_takes_no_more_than_fits_into_a_commit() {
    let limits = Limits { item_bytes: 4000, payload_bytes: 1500, ..Limits::default() };
    flow!(Wide, |cx| -> u64 {
        let all = futures::future::join_all((0..10).map(|n| cx.call(Act(n.to_string())))).await;
        Ok(all.len() as u64)
    });
    let mut world = World::with(&Wide, limits, true, None).unwrap();
    world.ack();
    for position in 1..=10 {
        let big = Err(Failure::new("big", "x".repeat(1000)).into_final());
        world.arrived.push_back(Arrival::Ended { position, attempt: 1, result: big });
    }
    world.to_start.clear();
    world.turn();
    assert_eq!((world.in_flight.as_ref().unwrap().commit.events.len(), world.arrived.len()), (2, 8));
    world.settle();
    assert_eq!(world.output::<u64>(), 10);
    assert_eq!(world.log.len(), 6);
}

#[test]
fn calls_whose_futures_were_leaked_are_stopped_at_the_end() {
    flow!(Leaks, |cx| -> u64 {
        let mut leaked = Box::pin(cx.call(act("a")));
        let _ = futures::poll!(&mut leaked);
        std::mem::forget(leaked);
        Ok(1)
    });
    let mut world = World::new(&Leaks);
    let decision = world.in_flight.as_ref().unwrap();
    assert_eq!((&decision.effects[..], &decision.settled[..]), (&[Effect::Abort { position: 1 }][..], &[1][..]));
    world.settle();
    assert_eq!(world.output::<u64>(), 1);
}
