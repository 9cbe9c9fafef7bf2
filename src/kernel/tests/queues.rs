//! Calls in shared queues: what is put there, what its end means, and what a crash of the owner does not touch.

use super::*;
use crate::{CallError, Cx, kernel::state::Rest};

#[derive(Serialize, Deserialize)]
struct Two;

impl Workflow for Two {
    const NAME: &'static str = "two";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let shared = cx.call(act("shared")).queue("shared");
        let own = cx.call(act("own"));
        let (shared, own) = futures::join!(shared, own);
        Ok(shared? + own?)
    }
}

fn done(n: u64) -> TaskEnd {
    TaskEnd::Done(Payload::encode(&n, "a number").unwrap())
}

#[test]
fn a_call_of_a_shared_queue_is_queued_with_its_intent_and_never_started_here() {
    let mut world = World::new(&Two).handle(|_, _| value(1));
    world.settle();
    assert_eq!(world.tasks.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(world.acts_named("shared"), 0);
    let now = world.now;
    assert_eq!(world.run().rest(now), Rest::Waits { next: None }, "what is queued is somebody else's");
    world.end_task(1, done(40));
    world.settle();
    assert_eq!(world.output::<u64>(), 41);
    assert!(world.inbox.is_empty());
}

#[test]
fn a_crash_of_the_owner_leaves_what_is_queued_alone_and_takes_an_end_that_came_meanwhile() {
    for told_before in [false, true] {
        let mut world = World::new(&Two);
        world.settle();
        if told_before {
            world.end_task(1, done(40));
        }
        world.crash(false);
        if !told_before {
            assert_eq!(world.tasks.len(), 1);
            world.end_task(1, done(40));
        }
        world.settle();
        assert_eq!(world.output::<u64>(), 41);
        assert_eq!(world.facts(|fact| matches!(fact, Fact::Lost { position: 1, .. })), 0);
    }
}

#[test]
fn an_attempt_that_was_lost_with_its_worker_is_queued_again_in_the_commit_that_says_so() {
    let mut world = World::new(&Two);
    world.settle();
    world.end_task(1, TaskEnd::Lost);
    world.settle();
    assert_eq!(world.tasks.get(&1).map(|(attempt, _)| *attempt), Some(2));
    world.end_task(1, done(1));
    world.settle();
    assert_eq!(world.output::<u64>(), 2);
}

#[test]
fn a_failed_attempt_is_queued_again_for_the_time_of_its_retry() {
    let mut world = World::new(&Two);
    world.settle();
    let failure = broken("no").unwrap_err();
    world.end_task(1, TaskEnd::Failed(Box::new(failure)));
    world.turn();
    world.ack();
    let (attempt, due) = world.tasks[&1];
    assert_eq!(attempt, 2);
    assert!(due > world.now);
}

#[test]
fn an_end_of_an_attempt_that_is_not_the_current_one_is_ignored_and_recorded_as_late() {
    let mut world = World::new(&Two);
    world.settle();
    let body = MessageBody::Task { position: 1, attempt: 9, end: done(7), details: None };
    world.send("stray", body);
    world.settle();
    assert!(world.outcome().is_none());
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1);
    world.end_task(1, done(1));
    world.settle();
    assert_eq!(world.output::<u64>(), 2);
}

#[derive(Serialize, Deserialize)]
struct Raced;

impl Workflow for Raced {
    const NAME: &'static str = "raced";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let queued = cx.call(act("queued")).queue("shared");
        let kept = match cx.call(act("other")).queue("shared").at_most_once().await {
            Ok(n) => n,
            Err(CallError::MaybeDone(_)) => 100,
            Err(other) => return Err(other.into()),
        };
        drop(queued);
        Ok(kept)
    }
}

#[test]
fn what_nobody_wants_any_more_is_withdrawn_and_at_most_once_is_never_queued_twice() {
    let mut world = World::new(&Raced);
    world.settle();
    // A call that was never polled was never asked for.
    assert_eq!(world.tasks.keys().copied().collect::<Vec<_>>(), [2]);
    world.end_task(2, TaskEnd::Lost);
    world.settle();
    assert_eq!(world.output::<u64>(), 100);
    assert!(world.tasks.is_empty());
}

#[test]
fn a_cancelled_run_withdraws_what_it_had_queued() {
    let mut world = World::new(&Two);
    world.settle();
    world.cancel();
    world.settle();
    assert!(world.tasks.is_empty());
    assert!(world.aborted.contains(&1));
    assert!(matches!(world.outcome(), Some(Outcome::Cancelled { .. } | Outcome::Failed(_))), "{:?}", world.outcome());
}
