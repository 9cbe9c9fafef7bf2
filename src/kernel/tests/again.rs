//! Runs that are tried again when they fail: as often as was said, with all that belongs to the execution, and never when they are to stop.

use super::{forks::Pays, orders::Leaf, *};
use crate::{
    Cx, Retry,
    kernel::{
        event::{Parent, RunRetry},
        fork::Point,
        state::Rest,
    },
};

/// A world whose run is tried again.
fn tried<W: Workflow>(workflow: &W, policy: Retry, deadline: Option<Duration>) -> World {
    let since = Timestamp(1_000_000);
    let started = Started {
        workflow: W::NAME.into(),
        version: W::VERSION,
        input: Payload::encode(workflow, "the input").unwrap(),
        seed: 7,
        deadline: deadline.map(|limit| since.after(limit)),
        deferred: false,
        limits: None,
        parent: None,
        retry: Some(Box::new(RunRetry { policy, failed: 0, since, at: None })),
        copied_from: None,
    };
    World::of(started, true, crate::registry::begin::<W>()).unwrap()
}

fn three_times() -> Retry {
    Retry::exponential(secs(1)).jitter_percent(0).attempts(3)
}

flow!(Fails, |cx| -> String {
    cx.count("tries", 1);
    let word = cx.signal::<Word>().await?.0;
    let error = AppError::new(format!("{word} is wrong"));
    Err(if word == "final" { error.give_up() } else { error })
});

#[test]
fn a_failed_run_begins_anew_after_its_wait_with_what_is_unread_until_it_has_no_tries_left() {
    let mut world = tried(&Fails, three_times(), None);
    for word in ["a", "b", "c"] {
        world.word(word);
    }
    world.settle();
    for (run_no, wait) in [(1, secs(1)), (2, secs(2))] {
        assert_eq!((world.id.run_no, world.outcome()), (run_no, Some(Outcome::Continued)));
        let onward = world.onward.as_ref().unwrap();
        assert_eq!(onward.at, Some(world.now.after(wait)));
        assert_eq!(onward.started.retry.as_ref().unwrap().failed, run_no);
        assert!(world.replayed(world.log.len()).is_ok());
        world.go_on();
        world.settle();
    }
    assert_eq!((world.id.run_no, world.failure().message()), (3, "c is wrong"));
    assert!(world.onward.is_none() && world.replayed(world.log.len()).is_ok());
    assert_eq!(world.value::<i64>("tries"), Some(3), "what is published goes along");
}

#[test]
fn an_error_that_is_final_is_not_tried_again_nor_is_a_run_that_is_to_stop_or_has_no_time_left() {
    let mut world = tried(&Fails, three_times(), None);
    world.word("final");
    world.settle();
    assert_eq!(world.failure().message(), "final is wrong");

    flow!(Stubborn, |cx| -> String {
        let _ = cx.sleep(secs(60)).await;
        Err(AppError::new("stubborn"))
    });
    let mut world = tried(&Stubborn, three_times(), None);
    world.ack();
    world.cancel();
    world.settle();
    assert!(world.onward.is_none() && world.outcome() != Some(Outcome::Continued), "{:?}", world.outcome());

    // The next try would begin when the deadline has passed.
    let mut world = tried(&Fails, three_times(), Some(secs(1)));
    world.word("a");
    world.turn_or_ack();
    world.turn_or_ack();
    world.settle();
    assert_eq!(world.failure().message(), "a is wrong");
}

#[test]
fn signals_wait_for_the_next_try_and_whatever_else_comes_begins_it_at_once() {
    let waiting = || {
        let mut world = tried(&Fails, three_times(), None);
        world.word("a");
        world.settle();
        // It comes to memory before its time, as a message brings it there.
        let (now, at) = (world.now, world.follow());
        assert_eq!(at, Some(now.after(secs(1))));
        world.word("b");
        world.turn_or_ack();
        world.ack();
        assert_eq!(world.facts(|fact| matches!(fact, Fact::Begun)), 0);
        assert_eq!(world.run().rest(now), Rest::Waits { next: Some(now.after(secs(1))) });
        world.evict();
        world
    };
    let mut world = waiting();
    world.pass(secs(1));
    world.arrived.push_back(Arrival::Begin);
    world.settle();
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Begun)), 1);
    assert_eq!(world.onward.as_ref().unwrap().started.retry.as_ref().unwrap().failed, 2, "it has read what had come before");

    // What has come before would be enough to fail once more, and who asked it to stop is heard all the same.
    let mut world = waiting();
    world.cancel();
    world.settle();
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Begun)), 1);
    assert_eq!((world.outcome(), world.inbox.len()), (Some(Outcome::Cancelled { reason: "enough".into() }), 0));
}

flow!(AtOnce, |_cx| -> String { Err(AppError::new("at once")) });

#[test]
fn a_run_that_fails_before_its_first_await_hears_between_its_tries_that_it_is_to_stop() {
    let stop = |deadline: bool, waits: bool| {
        let mut world = tried(&AtOnce, three_times().attempts(u32::MAX), deadline.then_some(secs(10)));
        world.settle();
        assert_eq!(world.outcome(), Some(Outcome::Continued));
        if !waits && !deadline {
            // Nobody had the time to hear it: it is found beside the beginning.
            world.cancel();
        }
        let at = world.follow().unwrap();
        match (waits, deadline) {
            // It waits in memory.
            (true, false) => {
                world.arrived.clear();
                world.cancel();
            }
            (true, true) => {
                world.arrived.clear();
                world.pass(secs(20));
            }
            (false, true) => world.pass(secs(20)),
            (false, false) => world.now = at,
        }
        world.settle();
        assert_eq!((world.id.run_no, world.failure().message()), (2, "at once"), "{deadline} {waits}");
        assert!(world.onward.is_none() && world.inbox.is_empty(), "it has heard that there is no next try");
        assert!(world.replayed(world.log.len()).is_ok());
    };
    for (deadline, waits) in [(false, false), (false, true), (true, false), (true, true)] {
        stop(deadline, waits);
    }
}

#[test]
fn a_run_that_is_to_stop_before_it_has_begun_does_nothing_of_what_it_would_have_begun_with() {
    flow!(Sends, |cx| -> String {
        let _ = cx.child(Leaf(1)).detach().await?;
        let _ = cx.signal::<Word>().await?;
        Ok("it went on".to_owned())
    });
    let later = |deadline: Option<Duration>| {
        let mut started = tried(&Sends, three_times(), deadline).run().state().started.clone();
        (started.deferred, started.retry) = (true, None);
        let mut world = World::of(started, true, crate::registry::begin::<Sends>()).unwrap();
        world.ack();
        world
    };
    let stopped = [Outcome::Cancelled { reason: "enough".into() }, Outcome::TimedOut];
    for (deadline, outcome) in [None, Some(secs(1))].into_iter().zip(stopped) {
        for taken in [false, true] {
            let mut world = later(deadline);
            world.arrived.push_back(Arrival::Begin);
            world.word("first");
            if deadline.is_some() {
                world.pass(secs(5));
            } else {
                world.cancel();
            }
            if taken {
                // Whoever takes it up comes before all else, or it would lose what it has just asked for.
                let by = writer(2).incarnation;
                world.epoch = 2;
                world.arrived.push_front(Arrival::Taken { by, epoch: 2 });
            }
            world.settle();
            assert_eq!(world.outcome().as_ref(), Some(&outcome));
            assert!(world.begun.is_empty(), "{outcome:?}: its child was begun");
            let is_claim = |event: &Event| matches!(event, Event::Fact(Fact::Claimed { .. }));
            assert_eq!(world.events().iter().position(is_claim), taken.then_some(1));
            assert!(world.replayed(world.log.len()).is_ok());
        }
    }
}

#[test]
fn what_a_failed_run_has_done_is_undone_and_its_children_are_told_before_it_begins_anew() {
    flow!(Saga, |cx| -> String {
        let both: Result<(), AppError> = cx
            .saga(async |saga| {
                saga.call(act("book")).undo_with(|_| act("cancel")).await?;
                let _ = futures::poll!(Box::pin(cx.child(Leaf(1))).as_mut());
                Err(AppError::new("no"))
            })
            .await;
        both?;
        Ok(String::new())
    });
    let mut world = tried(&Saga, three_times(), None);
    world.settle();
    assert_eq!((world.acts_named("book"), world.acts_named("cancel")), (1, 1));
    assert!(world.onward.is_some());
    assert_eq!(world.told.len(), 1, "the child is asked to stop, once");
}

#[test]
fn a_run_that_goes_on_by_itself_has_all_its_tries_anew() {
    #[derive(Serialize, Deserialize)]
    struct Both {
        fails: bool,
    }
    impl Workflow for Both {
        const NAME: &'static str = "both";
        type Output = String;
        type Error = AppError;

        async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
            let word = cx.signal::<Word>().await?.0;
            if word == "on" { Ok(cx.continue_as_new(self).await?) } else { Err(AppError::new(word)) }
        }
    }
    let mut world = tried(&Both { fails: true }, three_times().attempts(2), None);
    for word in ["a", "on", "b", "c"] {
        world.word(word);
    }
    let mut failed = Vec::new();
    world.settle();
    while let Some(onward) = &world.onward {
        failed.push((onward.at.is_some(), onward.started.retry.as_ref().unwrap().failed));
        world.go_on();
        world.settle();
    }
    assert_eq!(failed, [(true, 1), (false, 0), (true, 1)]);
    assert_eq!(world.failure().message(), "c");
}

#[test]
fn the_beginning_of_a_run_is_stored_and_read_alike_with_and_without_parent_retry_and_origin() {
    let retry = || Some(Box::new(RunRetry { policy: three_times(), failed: 2, since: Timestamp(5), at: Some(Timestamp(6)) }));
    let parent = || Some(Box::new(Parent { run: RunId { id: "p".into(), run_no: 1 }, position: 3 }));
    let all = [(None, None), (parent(), None), (None, retry()), (parent(), retry())];
    let all = all.into_iter().flat_map(|(parent, retry)| [(parent.clone(), retry.clone(), None), (parent, retry, Some(4))]);
    for (parent, retry, copied_from) in all {
        let input = Payload::encode(&1, "an input").unwrap();
        let (workflow, seed, deadline) = ("w".to_owned(), 9, Some(Timestamp(8)));
        let started =
            Started { workflow, version: 1, input, seed, deadline, deferred: true, limits: None, parent, retry, copied_from };
        let fact = Fact::Started(Box::new(started));
        assert_eq!(rmp_serde::from_slice::<Fact>(&rmp_serde::to_vec(&fact).unwrap()).unwrap(), fact);
    }
}

#[test]
fn a_run_that_was_tried_again_in_vain_has_all_its_tries_behind_a_reset() {
    let twice = three_times().attempts(2);
    for point in [Point::Start, Point::BeforeFailure(2)] {
        let world = tried(&Pays, twice.clone(), None);
        let mut world = world.handle(|what, _| if what == "charge" { broken("declined") } else { value(1) });
        world.settle();
        world.go_on();
        world.settle();
        assert_eq!((world.id.run_no, world.failure().message()), (2, "declined"));
        world.reset(point).unwrap();
        world.settle();
        assert_eq!(world.outcome(), Some(Outcome::Continued), "{point:?}");
        world.go_on();
        world.settle();
        assert_eq!((world.id.run_no, world.failure().message()), (4, "declined"));
    }
}

#[test]
fn a_signal_that_a_dropped_wait_has_never_heard_of_is_read_by_the_next_try() {
    flow!(Selects, |cx| -> String {
        let mut word = Box::pin(cx.signal::<Word>());
        assert!(futures::poll!(word.as_mut()).is_pending());
        let sleeps = cx.sleep(secs(1)).await;
        drop(word);
        sleeps?;
        Err(AppError::new("no"))
    });
    let mut world = tried(&Selects, three_times(), None);
    world.ack();
    world.word("a");
    world.turn_or_ack();
    world.pass(secs(1));
    world.settle();
    let onward = world.onward.as_ref().expect("it is tried again");
    assert_eq!(onward.inherited.unread.len(), 1);
    world.go_on();
    world.settle();
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn behind_a_reset_the_tries_have_the_time_that_is_left_there() {
    let twice = || three_times().attempts(2);
    let mut world =
        tried(&Pays, twice(), Some(secs(60))).handle(|what, _| if what == "charge" { broken("declined") } else { value(1) });
    world.settle();
    world.go_on();
    world.settle();
    assert_eq!(world.failure().message(), "declined");
    // Long behind the deadline of the run before.
    world.now = world.now.after(secs(100_000));
    world.reset(Point::BeforeFailure(2)).unwrap();
    world.settle();
    assert_eq!(world.outcome(), Some(Outcome::Continued));
}
