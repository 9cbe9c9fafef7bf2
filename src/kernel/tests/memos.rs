//! Calls that share their results: what a run asks for and lets go, and what it makes of what it is told. The log alone says it.

use super::*;
use crate::{
    CallError, Memo,
    kernel::{
        fork::{Point, Spot},
        memo::{Kept, MemoStep, MemoWord},
    },
};

flow!(Shares, |cx| -> u64 { Ok(cx.call(act("tea")).memo(Memo::key("tea").ttl(secs(60))).await?) });

/// What a commit in flight does about keys, in short.
fn steps(world: &World) -> Vec<String> {
    let short = |step: &MemoStep| match step {
        MemoStep::Ask(ask) => format!("ask {ask}"),
        MemoStep::Keep(kept, until) => format!("keep {} until {:?}", kept.run, until.map(|until| until.0)),
        MemoStep::Leave => "leave".to_owned(),
    };
    let entries = world.in_flight.iter().flat_map(|decision| &decision.memos);
    entries.map(|entry| format!("#{} {}", entry.position, short(&entry.step))).collect()
}

fn tell(world: &mut World, position: Position, ask: u32, word: MemoWord) {
    let message = word.message(position, ask);
    world.send(&message, MessageBody::Memo { position, ask, word });
    world.turn();
}

fn another() -> MemoWord {
    let output = Payload::encode(&99_u64, "a value").unwrap();
    MemoWord::Value(Box::new(Kept { output, run: RunId { id: "other".into(), run_no: 2 }, position: 9 }))
}

fn begun<W: Workflow>(workflow: &W) -> World {
    let mut world = World::new(workflow);
    assert_eq!(steps(&world), ["#1 ask 1"]);
    world.ack();
    assert!(world.to_start.is_empty() && world.acts.is_empty(), "it waits for its turn");
    world.evict();
    world
}

#[test]
fn a_call_is_made_once_it_is_granted_and_its_result_is_kept() {
    let mut world = begun(&Shares);
    tell(&mut world, 1, 1, MemoWord::Granted);
    assert_eq!(steps(&world), Vec::<String>::new());
    world.ack();
    world.evict();
    world.start(1);
    world.deliver(1);
    world.turn();
    let until = world.now.after(secs(60)).0;
    assert_eq!(steps(&world), [format!("#1 keep x/1 until Some({until})")]);
    world.settle();
    assert_eq!((world.output::<u64>(), world.acts.len()), (1, 1));
}

#[test]
fn a_value_is_the_result_of_the_call_and_needs_no_act() {
    let mut world = begun(&Shares);
    tell(&mut world, 1, 1, another());
    assert_eq!(steps(&world), Vec::<String>::new(), "who told it has taken the question out");
    world.settle();
    assert_eq!((world.output::<u64>(), world.acts.len()), (99, 0));
    // Replay has all it needs.
    world.evict();
    assert_eq!(world.output::<u64>(), 99);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Completed { .. })), 0);
}

#[test]
fn a_holder_that_is_revoked_asks_again_and_what_it_was_told_before_comes_too_late() {
    let mut world = begun(&Shares);
    tell(&mut world, 1, 1, MemoWord::Granted);
    world.ack();
    assert_eq!(world.to_start.len(), 1);
    // Nobody had the run: what it has begun was lost with its node.
    world.crash(false);
    tell(&mut world, 1, 1, MemoWord::Revoked);
    assert_eq!(steps(&world), ["#1 leave", "#1 ask 2"]);
    world.ack();
    world.evict();
    let late = |fact: &Fact| matches!(fact, Fact::Ignored { .. });
    for word in [MemoWord::Granted, MemoWord::Revoked, another()] {
        tell(&mut world, 1, 1, word);
        world.ack();
    }
    assert_eq!(world.facts(late), 3);
    tell(&mut world, 1, 2, another());
    world.settle();
    assert_eq!((world.output::<u64>(), world.acts.len()), (99, 0));
}

#[test]
fn a_result_that_waits_in_the_inbox_of_a_run_whose_key_was_taken_away_comes_too_late() {
    let mut world = begun(&Shares);
    tell(&mut world, 1, 1, MemoWord::Granted);
    world.ack();
    // Its attempt has ended while it was paused, and then nobody had the run while others waited.
    let end = TaskEnd::Done(value(1).unwrap());
    world.send("kept", MessageBody::Task { position: 1, attempt: 1, end, details: None });
    world.word("meanwhile");
    tell(&mut world, 1, 1, MemoWord::Revoked);
    assert_eq!(steps(&world), ["#1 leave", "#1 ask 2"]);
    world.ack();
    assert!(world.inbox.is_empty(), "{:?}", world.inbox);
    world.evict();
    tell(&mut world, 1, 2, another());
    world.settle();
    assert_eq!(world.output::<u64>(), 99, "what counts under the key is what all others have");
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Completed { .. })), 0);
}

#[test]
fn whoever_gives_up_lets_go_also_before_it_has_asked() {
    flow!(Impatient, |cx| -> u64 {
        let call = cx.call(act("tea")).memo(Memo::key("tea"));
        Ok(match cx.race(call, cx.sleep(secs(5))).await {
            crate::cx::Either::First(tea) => tea?,
            crate::cx::Either::Second(_) => 0,
        })
    });
    let mut world = World::new(&Impatient);
    assert_eq!(steps(&world).len(), 1);
    world.ack();
    world.pass(secs(5));
    world.turn();
    assert_eq!(steps(&world).iter().filter(|step| step.ends_with("leave")).count(), 1, "{:?}", steps(&world));
    world.settle();
    assert_eq!(world.output::<u64>(), 0);

    flow!(Fickle, |cx| -> u64 {
        let mut call = Box::pin(cx.call(act("tea")).memo(Memo::key("tea")));
        let _ = futures::poll!(&mut call);
        drop(call);
        Ok(7)
    });
    let world = World::new(&Fickle);
    assert_eq!(steps(&world), Vec::<String>::new());
}

#[test]
fn a_failure_is_nobody_elses_and_a_parked_call_asks_again_when_it_is_retried() {
    flow!(Parks, |cx| -> u64 {
        let call = cx.call(act("tea")).memo(Memo::key("tea")).retry(crate::Retry::never());
        Ok(call.on_exhausted(crate::OnExhausted::Park).await?)
    });
    let mut fails = true;
    let mut world = World::new(&Parks)
        .handle(move |what, _| if std::mem::take(&mut fails) { broken("no tea") } else { super::value(what.len() as u64) });
    world.ack();
    tell(&mut world, 1, 1, MemoWord::Granted);
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn();
    assert_eq!(steps(&world), ["#1 leave"]);
    world.ack();
    world.evict();
    world.send("again", MessageBody::Retry { position: None });
    world.turn();
    assert_eq!(steps(&world), ["#1 ask 2"]);
    world.ack();
    assert!(world.to_start.is_empty());
    tell(&mut world, 1, 2, MemoWord::Granted);
    world.settle();
    assert_eq!((world.output::<u64>(), world.acts.len()), (3, 2));

    flow!(Tries, |cx| -> String {
        match cx.call(act("tea")).memo(Memo::key("tea")).retry(crate::Retry::never()).await {
            Ok(tea) => Ok(tea.to_string()),
            Err(error) => Ok(error.to_string()),
        }
    });
    let mut world = World::new(&Tries).handle(|_, _| broken("no tea"));
    world.ack();
    tell(&mut world, 1, 1, MemoWord::Granted);
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn();
    assert_eq!(steps(&world), ["#1 leave"]);
}

#[test]
fn what_cannot_be_shared_is_refused_by_name() {
    flow!(Wrong, |cx| -> Vec<String> {
        let mut why = Vec::new();
        let mut note = |result: Result<u64, CallError<crate::AppError>>| match result {
            Err(CallError::Broken(failure)) => why.push(failure.message().to_owned()),
            other => why.push(format!("{other:?}")),
        };
        note(cx.call(act("a")).memo(Memo::key("a").ttl(std::time::Duration::ZERO)).await);
        note(cx.call(act("a")).memo(Memo::key("a").scope("s".repeat(256))).await);
        note(cx.call(act("a")).memo(Memo::key(&Unfit)).await);
        let undone = cx.saga(async |saga| saga.call(act("a")).undo_with(|_| act("b")).memo(Memo::key("a")).await).await;
        note(undone);
        Ok(why)
    });
    struct Unfit;
    impl serde::Serialize for Unfit {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is no key"))
        }
    }
    let mut world = World::new(&Wrong);
    world.settle();
    let why: Vec<String> = world.output();
    for (why, part) in why.iter().zip(["ttl", "scope", "it is no key", "compensation"]) {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(why.len(), 4);
}

#[test]
fn a_shared_call_that_is_open_where_a_history_is_left_is_made_for_the_new_run_alone() {
    flow!(Tea, |cx| -> u64 {
        let tea = cx.call(act("tea")).memo(Memo::key("tea")).await?;
        Ok(tea + cx.call(act("cup")).await?)
    });
    for word in [MemoWord::Granted, another()] {
        let ended = || {
            let mut world = World::new(&Tea);
            world.ack();
            world.send(&word.message(1, 1), MessageBody::Memo { position: 1, ask: 1, word: word.clone() });
            world.settle();
            assert!(matches!(world.outcome(), Some(Outcome::Completed(_))));
            world
        };
        let mut left = 0;
        for Spot { commit, event } in ended().spots().into_iter().filter(|spot| *spot != Spot { commit: 0, event: 0 }) {
            for point in [Point::Before(commit, event), Point::BeforeCall(2)] {
                let mut world = ended();
                if world.reset(point).is_ok() {
                    left += 1;
                    world.settle();
                    assert!(matches!(world.outcome(), Some(Outcome::Completed(_))), "{point:?}: it waits for {}", world.open());
                    assert!(world.replayed(world.log.len()).is_ok());
                }
            }
        }
        assert!(left > 2);
    }
}

#[test]
fn before_the_call_behind_a_shared_value_that_value_is_heard_again_and_its_act_is_not_made() {
    flow!(Tea, |cx| -> u64 {
        let tea = cx.call(act("tea")).memo(Memo::key("tea")).await?;
        Ok(tea + cx.call(act("cup")).await?)
    });
    let mut world = World::new(&Tea);
    world.ack();
    tell(&mut world, 1, 1, another());
    world.settle();
    assert_eq!(world.output::<u64>(), 100);
    world.reset(Point::BeforeCall(2)).unwrap();
    world.settle();
    assert_eq!((world.output::<u64>(), world.acts.len()), (100, 1), "only the cup is new");
}
