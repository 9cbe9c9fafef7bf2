//! What an operator orders, in the kernel: recorded with who and why, the same whether the run takes it itself or is not in anybody's
//! memory, and the same again in replay.

use super::{
    sagas::{Bank, Books, Death, Transfer, banker},
    *,
};
use crate::kernel::{
    event::{Ignored, Order, Ordered, Skipped},
    run::{Arrival, Ward, takes_an_order},
};

fn order(what: Ordered) -> MessageBody {
    MessageBody::Order(Box::new(Order { by: "ada".into(), reason: "because".into(), what }))
}

/// The run as its log tells it.
fn ward(world: &World) -> Ward {
    let commits = world.log.iter().enumerate().map(|(n, record)| {
        let n = u32::try_from(n).unwrap();
        (n, codec::decode(&world.id, n, record).unwrap(), record.digest)
    });
    let commits: Vec<_> = commits.collect();
    let tail = commits.last().map(|(n, _, digest)| (*n, *digest));
    let mut ward = Ward::new(world.id.clone(), world.epoch, tail);
    commits.iter().for_each(|(_, commit, _)| ward.fold(commit));
    ward
}

/// Terminates a run before one of its steps, and says what was not undone; `None` if it has ended by then.
fn terminated(death: Death, seed: u64, at: usize) -> Option<(Books, Vec<Skipped>)> {
    let _named = Named(seed);
    let books = Books::new(Bank::default().into());
    let mut world = World::new(&Transfer(death)).handle(banker(&books));
    let mut dice = Dice::new(seed);
    for step in 0..at {
        if death == Death::Cancel && step == at / 2 {
            world.cancel();
        }
        if !world.step(&mut dice) {
            return None;
        }
    }
    world.ack();
    if world.outcome().is_some() {
        return None;
    }
    // What has arrived and is not recorded comes to nothing.
    world.arrived.clear();
    let MessageBody::Order(said) = order(Ordered::Terminate) else { unreachable!() };
    let without = ward(&world).terminate("kill", &said, world.now, writer(world.epoch));
    world.send("kill", order(Ordered::Terminate));
    world.turn();
    let with = world.in_flight.as_ref().unwrap();
    assert_eq!(without.commit, with.commit, "whoever decides it");
    assert_eq!(without.tells, with.tells);
    assert!(with.settled.iter().all(|position| without.settled.contains(position)), "{:?} {:?}", with.settled, without.settled);
    world.ack();
    let begun = world.acts.len();
    world.settle();
    assert_eq!(world.acts.len(), begun, "nothing of it runs any more");
    world.evict();
    world.word("too late");
    world.turn();
    assert!(world.in_flight.is_none());
    match world.outcome() {
        Some(Outcome::Terminated { by, reason, skipped }) => {
            assert_eq!((&*by, &*reason), ("ada", "because"));
            Some((books, skipped))
        }
        other => panic!("{death:?} at {at}: {other:?}"),
    }
}

#[test]
fn a_run_is_terminated_at_any_point_alike_with_and_without_its_code_and_names_what_was_not_undone() {
    for seed in seeds(3) {
        for death in [Death::Lives, Death::Error, Death::Cancel, Death::Race, Death::NestedRace] {
            let mut named = 0;
            for at in 0.. {
                let Some((books, skipped)) = terminated(death, seed, at) else { break };
                let books = books.borrow();
                // `undo` after the fact may not be recorded yet when its act is done; `undo_with` always is.
                let unsaid = usize::from(death != Death::Cancel);
                assert!(skipped.len() + unsaid >= books.taken.len(), "{death:?} at {at}: {skipped:?}, taken: {:?}", books.taken);
                // One that has acted and is not recorded is named as well.
                assert!(skipped.len() + books.given.len() <= 4, "{death:?} at {at}: {skipped:?}, given back: {:?}", books.given);
                assert!(skipped.is_sorted_by_key(|skipped| skipped.position));
                named = named.max(skipped.len());
            }
            assert!(named >= 2, "{death:?}: {named}");
        }
    }
}

#[test]
fn orders_that_nobody_has_taken_come_before_a_later_one_in_its_own_commit() {
    let said = |what: Ordered| Order { by: "ada".into(), reason: "because".into(), what };
    let (pause, go_on) = (said(Ordered::Pause), said(Ordered::GoOn));
    let mut world = World::new(&Transfer(Death::Lives));
    world.ack();
    let taken = |world: &World, before: &[(&str, &Order)], message: &str, order: &Order| -> (Vec<String>, bool) {
        let decision = ward(world).take(before, message, order, world.now, writer(world.epoch));
        let mut paused = false;
        let facts = decision.commit.events.iter().map(|event| match event {
            Event::Fact(Fact::Received { message, body }) => {
                paused = body.order().unwrap().what == Ordered::Pause;
                format!("{message} received")
            }
            Event::Fact(Fact::Ignored { message, why }) => format!("{message} {why:?}"),
            other => panic!("{other:?}"),
        });
        (facts.collect(), paused)
    };
    let (facts, paused) = taken(&world, &[("p1", &pause), ("p2", &pause)], "g", &go_on);
    assert_eq!((facts.join(", "), paused), ("p1 received, p2 Late, g received".to_owned(), false));
    let (facts, paused) = taken(&world, &[("g1", &go_on), ("p1", &pause), ("g2", &go_on)], "p2", &pause);
    assert_eq!((facts.join(", "), paused), ("g1 Late, p1 received, g2 received, p2 received".to_owned(), true));
    world.send("p1", order(Ordered::Pause));
    world.turn_or_ack();
    world.ack();
    let (facts, _) = taken(&world, &[("p1", &pause), ("p2", &pause)], "g", &go_on);
    assert_eq!(facts.join(", "), "p1 Duplicate, p2 Late, g received");
}

#[test]
fn a_paused_run_does_not_go_on_over_a_step_that_runs_whatever_else_is_ordered_before_it() {
    let said = |what: Ordered| {
        let body = MessageBody::Order(Box::new(Order { by: "ada".into(), reason: "because".into(), what }));
        Arrival::Message { seq: 1, message: "an order".into(), body }
    };
    let (pause, go_on, end) = (|| said(Ordered::Pause), || said(Ordered::GoOn), || said(Ordered::Terminate));
    let ended = || Arrival::Due { position: 1 };
    for (waiting, at_leisure, while_one_runs) in [
        (vec![], false, false),
        (vec![ended()], false, false),
        (vec![pause()], true, true),
        (vec![go_on()], true, false),
        // The first would be taken and passed over, and the second in the same turn.
        (vec![pause(), go_on()], true, false),
        (vec![ended(), pause(), ended(), go_on(), pause()], true, false),
        (vec![go_on(), end()], true, true),
    ] {
        assert_eq!(takes_an_order(waiting.iter(), false), at_leisure, "{waiting:?}");
        assert_eq!(takes_an_order(waiting.iter(), true), while_one_runs, "{waiting:?}");
    }
}

#[test]
fn a_terminated_run_tells_its_parent_and_its_children_in_the_commit_of_its_end() {
    flow!(Mother, |cx| -> u64 {
        let child = cx.child(orders::Leaf(1));
        let abandoned = cx.child(orders::Leaf(2)).on_close(crate::OnClose::Abandon);
        futures::future::join(child, abandoned).await.0.map_err(|e| AppError::new(e.to_string()))
    });
    let mut world = World::new(&Mother);
    world.ack();
    world.send("kill", order(Ordered::Terminate));
    world.turn_or_ack();
    assert_eq!(world.told.len(), 1, "{:?}", world.told);
    assert!(matches!(&world.told[0].body, MessageBody::Stop { .. }));
    assert_eq!(world.told[0].to.id, "x/1/1");
}

#[test]
fn a_run_that_is_paused_at_any_point_keeps_still_and_ends_as_it_would_have() {
    for seed in seeds(5) {
        for at in 0..40 {
            let _named = Named(seed);
            let books = Books::new(Bank::default().into());
            let mut world = World::new(&Transfer(Death::Cancel)).handle(banker(&books));
            let mut dice = Dice::new(seed);
            let over = !(0..at).all(|_| world.step(&mut dice));
            world.ack();
            if over || world.outcome().is_some() {
                break;
            }
            // As a host does: orders go before what waits.
            let waiting = std::mem::take(&mut world.arrived);
            world.send("stay", order(Ordered::Pause));
            world.arrived.extend(waiting);
            world.turn();
            let facts = world.in_flight.as_ref().unwrap().commit.events.len();
            assert_eq!(facts, 1, "nothing but the pause");
            world.ack();
            // What comes is kept, in this memory and over a replay of the log.
            world.word("meanwhile");
            world.send("stay again", order(Ordered::Pause));
            world.turn();
            let ignored = world.in_flight.take().unwrap().commit.events;
            assert!(matches!(&ignored[..], [Event::Fact(Fact::Ignored { .. })]), "{ignored:?}");
            let acts = world.acts.len();
            world.crash(false);
            assert!(world.run().state().paused.is_some());
            assert_eq!(world.acts.len(), acts);
            // Its next owner asks for everything that is open once it goes on.
            world.send("go", order(Ordered::GoOn));
            world.turn_or_ack();
            assert!(world.run().state().paused.is_none());
            world.turn_or_ack();
            world.to_start.clear();
            let effects = world.run().open_effects(&|queue, _, _| (writer(1).is_shared)(queue));
            world.act(effects);
            world.settle_by(&mut dice);
            assert!(matches!(world.outcome(), Some(Outcome::Completed(_))), "{:?}", world.outcome());
            assert_eq!(books.borrow().taken.len(), 3);
        }
    }
}

#[test]
fn an_attempt_that_runs_is_not_tried_again_by_an_order_whatever_it_has_waited_for() {
    flow!(Twice, |cx| -> u64 {
        let often = || crate::Retry::fixed(secs(60)).jitter_percent(0);
        let (a, b) = futures::future::join(cx.call(act("a")).retry(often()), cx.call(act("b")).retry(often())).await;
        Ok(a? + b?)
    });
    let mut world = World::new(&Twice).handle(|_, attempt| if attempt == 1 { broken("not yet") } else { value(1) });
    world.ack();
    let retry = |position| order(Ordered::Retry { position });
    let ignored = |world: &World| world.facts(|fact| matches!(fact, Fact::Ignored { why: Ignored::Late, .. }));
    world.start(1);
    world.start(2);
    world.send("first", retry(None));
    world.turn_or_ack();
    assert_eq!(ignored(&world), 1, "both run");
    world.deliver(1);
    world.turn_or_ack();
    world.pass(secs(30));
    world.deliver(2);
    world.turn_or_ack();
    world.pass(secs(30));
    world.start(1);
    world.send("it runs", retry(Some(1)));
    world.turn_or_ack();
    assert_eq!(ignored(&world), 2, "its second attempt runs");
    assert!(!world.to_start.contains_key(&1), "it is not begun twice");
    world.send("the other", retry(None));
    world.turn_or_ack();
    assert_eq!(ignored(&world), 2);
    assert!(!world.to_start.contains_key(&1));
    assert!(world.to_start[&2].1 <= world.now, "the other has waited");
    world.evict();
    world.settle();
    assert_eq!(world.output::<u64>(), 2);
    assert_eq!((world.acts_named("a"), world.acts_named("b")), (2, 2));
}

#[test]
fn a_call_that_is_ended_from_outside_is_over_once_and_its_attempt_is_stopped_and_not_heard() {
    flow!(Calls, |cx| -> u64 {
        let first = cx.call(act("slow")).await?;
        cx.sleep(secs(3_600)).await?;
        Ok(first + cx.call(act("next")).retry(crate::Retry::fixed(secs(3_600))).await?)
    });
    for crashes in [false, true] {
        let mut world = World::new(&Calls).handle(|what, attempt| match (what, attempt) {
            ("next", 1) => broken("not yet"),
            _ => value(1),
        });
        world.ack();
        world.start(1);
        let complete = |end| order(Ordered::Complete { position: 1, end: Box::new(end) });
        let seven = TaskEnd::Done(value(7).unwrap());
        world.send("done", complete(seven.clone()));
        world.send("done again", complete(seven));
        let late = world.running[&1].clone();
        world.turn_or_ack();
        assert_eq!(world.aborted, [1]);
        assert_eq!(world.facts(|fact| matches!(fact, Fact::Completed { position: 1, attempt: 1, .. })), 1);
        assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1, "the second comes too late");
        world.arrived.push_back(Arrival::Ended { position: 1, attempt: late.0, result: late.1 });
        world.turn();
        assert!(world.in_flight.is_none(), "what its attempt returned is not heard");
        if crashes {
            world.crash(false);
        }
        // An hour of sleep, and one of back-off, in no time.
        world.send("skip", order(Ordered::Skip { position: 2 }));
        world.turn_or_ack();
        world.start(3);
        world.deliver(3);
        world.turn_or_ack();
        assert_eq!(world.to_start[&3].0, 2);
        assert!(world.to_start[&3].1 > world.now);
        if crashes {
            world.crash(false);
        }
        world.send("now", order(Ordered::Retry { position: None }));
        world.turn_or_ack();
        let (_, at) = world.to_start[&3];
        assert!(at <= world.now, "{at}");
        world.start(3);
        world.deliver(3);
        world.turn_or_ack();
        assert_eq!(world.output::<u64>(), 8);
        world.evict();
    }
}
