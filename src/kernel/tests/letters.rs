//! Letters: one for each call that has failed for good, decided in the turn that says so, gone when the failure is dealt with.

use super::*;
use crate::{Retry, cx::OnExhausted, kernel::letter::LetterChange};

/// What each turn has done to letters: `+position parked` or `-position`.
fn changes(decision: &Decision) -> Vec<String> {
    let told = |change: &LetterChange| match change {
        LetterChange::Put(letter) => {
            assert_eq!(letter.commit_no, decision.commit.commit_no);
            let failure = &decision.commit.events[letter.event as usize];
            assert!(
                matches!(failure, Event::Fact(Fact::Failed { position, .. } | Fact::Lost { position, .. }) if *position == letter.position)
            );
            format!(
                "+{}/{} {} {} {:?} {}",
                letter.position, letter.attempt, letter.activity, letter.kind, letter.text, letter.parked
            )
        }
        LetterChange::Drop(position) => format!("-{position}"),
    };
    decision.letters.iter().map(told).collect()
}

fn settle(world: &mut World) -> Vec<String> {
    let mut all = Vec::new();
    let mut dice = Dice::new(0);
    loop {
        if let Some(decision) = &world.in_flight {
            all.extend(changes(decision));
            world.ack();
        } else if !world.step(&mut dice) {
            return all;
        }
    }
}

flow!(Gives, |cx| -> u64 {
    let tried = cx.call(act("a")).retry(Retry::fixed(secs(1)).attempts(2)).await;
    let step = cx.step("s", async || Err::<u64, _>(AppError::new("bad\0step"))).retry(Retry::never()).await;
    Ok(u64::from(tried.is_err()) + u64::from(step.is_err()))
});

flow!(Parks, |cx| -> u64 { Ok(cx.call(act("a")).retry(Retry::never()).on_exhausted(OnExhausted::Park).await?) });

#[test]
fn only_the_failure_that_is_the_last_leaves_a_letter_with_the_commit_that_says_so() {
    let mut world = World::new(&Gives).handle(|_, _| broken("no"));
    let letters = settle(&mut world);
    assert_eq!(letters, [r#"+1/2 act error "no" false"#, r#"+2/1 s error "bad step" false"#]);
    assert_eq!(world.output::<u64>(), 2);
    let mut world = World::new(&Gives).handle(|_, attempt| if attempt == 1 { broken("no") } else { value(1) });
    assert_eq!(settle(&mut world).len(), 1, "a failure that is tried again leaves none");
}

#[test]
fn a_parked_call_has_one_until_it_is_tried_again_and_another_if_it_fails_again() {
    let mut world = World::new(&Parks).handle(|_, _| broken("no"));
    assert_eq!(settle(&mut world), [r#"+1/1 act error "no" true"#]);
    world.send("r1", MessageBody::Retry { position: Some(1) });
    assert_eq!(settle(&mut world), ["-1", r#"+1/2 act error "no" true"#]);
    world.send("r2", MessageBody::Retry { position: None });
    world.handler = Box::new(|_, _| value(4));
    assert_eq!(settle(&mut world), ["-1"]);
    assert_eq!(world.output::<u64>(), 4);
}

#[test]
fn the_letter_of_a_parked_call_goes_with_the_call() {
    let mut world = World::new(&Parks).handle(|_, _| broken("no"));
    settle(&mut world);
    world.cancel();
    assert_eq!(settle(&mut world), ["-1"]);
    assert!(world.outcome().is_some());
}

#[test]
fn a_call_that_may_not_be_tried_twice_and_is_lost_leaves_one() {
    flow!(Once, |cx| -> u64 {
        let _ = cx.call(act("a")).at_most_once().await;
        cx.sleep(secs(1)).await?;
        Ok(1)
    });
    let mut world = World::new(&Once).handle(|_, _| value(1));
    world.ack();
    world.start(1);
    world.in_flight = None;
    world.arrived.clear();
    world.arrived.push_back(Arrival::Taken { by: writer(2).incarnation, epoch: 2 });
    world.epoch = 2;
    world.turn();
    let letters = changes(world.in_flight.as_ref().unwrap());
    assert_eq!(letters, [r#"+1/1 act maybe_done "lost with its node" false"#]);
}
