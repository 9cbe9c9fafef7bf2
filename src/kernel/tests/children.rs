//! Children: begun in the commit of their intent, heard of exactly once, told to stop when nobody waits for them any more.

use super::{orders::Leaf, *};
use crate::{
    ChildError, OnClose,
    kernel::event::{CURRENT_RUN, Parent},
};

flow!(One, |cx| -> u64 { Ok(cx.child(Leaf(6)).id("leaf-6").await?) });

fn leaf_of(world: &World) -> Position {
    *world.children.keys().next().expect("a child was begun")
}

fn ends(outcome: Outcome) -> String {
    flow!(Asks, |cx| -> String {
        Ok(match cx.child(Leaf(6)).await {
            Ok(output) => format!("output {output}"),
            Err(error) => format!("{error:?}"),
        })
    });
    let mut world = World::new(&Asks);
    world.ack();
    world.end_child(1, Some(outcome));
    world.settle();
    world.output()
}

#[test]
fn a_child_is_begun_in_the_commit_of_its_intent_and_its_end_is_the_answer() {
    let mut world = World::new(&One);
    let first = world.in_flight.as_ref().unwrap();
    assert_eq!(first.starts.len(), 1);
    assert_eq!(first.commit.events.iter().filter(|event| matches!(event, Event::Command(Command::Child(_)))).count(), 1);
    world.ack();
    assert_eq!((world.begun[0].id.as_str(), world.begun[0].workflow.as_str()), ("leaf-6", "leaf"));
    assert!(world.in_flight.is_none() && world.to_start.is_empty(), "it waits, and nothing runs here");
    world.evict();
    world.end_child(1, None);
    world.settle();
    assert_eq!(world.output::<u64>(), 42);
    assert!(world.told.is_empty(), "nobody is told to stop");
}

#[test]
fn without_an_id_of_its_own_it_has_that_of_the_call_and_a_long_one_is_shortened() {
    flow!(Two, |cx| -> u64 { Ok(cx.child(Leaf(1)).await? + cx.child(Leaf(2)).await?) });
    let mut world = World::new(&Two);
    world.settle();
    let ids: Vec<&str> = world.begun.iter().map(|child| child.id.as_str()).collect();
    assert_eq!(ids, ["x/1/1", "x/1/2"]);

    let input = Payload::encode(&(), "the input").unwrap();
    let started = Started {
        workflow: "w".into(),
        version: 1,
        input,
        seed: 0,
        deadline: None,
        deferred: false,
        limits: None,
        parent: None,
        retry: None,
        copied_from: None,
    };
    let tape = |id: String| crate::kernel::tape::Tape::new(RunId { id, run_no: 1 }, &started, Limits::default());
    let child = |id: String| crate::Cx::<One>::new(tape(id)).child(Leaf(1)).execution_id().to_owned();
    let (a, b) = (child("a".repeat(254)), child("b".repeat(254)));
    assert!(a.len() <= 255 && a != b && a == child("a".repeat(254)));
}

#[test]
fn every_way_to_end_is_heard_as_itself() {
    let failed = crate::activity::failure_of(&AppError::new("no stock"), Default::default(), "leaf");
    assert_eq!(ends(Outcome::Failed(failed)), "Failed(no stock)");
    assert!(ends(Outcome::Failed(Failure::new("panic", "boom"))).starts_with("Broken("));
    assert_eq!(ends(Outcome::Cancelled { reason: "enough".into() }), r#"Stopped { reason: "enough" }"#);
    assert_eq!(ends(Outcome::TimedOut), "TimedOut");
    let terminated = Outcome::Terminated { reason: "odd".into(), by: "ada".into(), skipped: Vec::new() };
    assert_eq!(ends(terminated), r#"Terminated { reason: "odd", by: "ada" }"#);
    let taken = Failure::new(crate::kernel::failure::KIND_ID_IN_USE, "taken");
    assert_eq!(ends(Outcome::Failed(taken)), r#"IdInUse("x/1/1")"#);
}

#[test]
fn a_child_that_nobody_waits_for_any_more_is_told_to_stop_in_the_same_commit() {
    flow!(Loser, |cx| -> u64 {
        let _ = cx.race(cx.child(Leaf(1)), cx.sleep(secs(5))).await;
        cx.sleep(secs(5)).await?;
        Ok(0)
    });
    let mut world = World::new(&Loser);
    world.ack();
    world.pass(secs(5));
    world.turn();
    let tells = world.in_flight.as_ref().unwrap().tells.clone();
    assert!(
        matches!(&tells[..], [Tell { to, body: MessageBody::Stop { .. }, .. }] if to.id == "x/1/1" && to.run_no == CURRENT_RUN)
    );
    // What it says afterwards comes too late, and is no fact of the code's.
    world.ack();
    world.end_child(1, Some(Outcome::Cancelled { reason: "told".into() }));
    world.settle();
    assert_eq!(world.output::<u64>(), 0);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1);
    assert_eq!(world.told.len(), 1, "once");
}

#[test]
fn the_end_and_the_cancellation_of_a_parent_stop_its_children_unless_they_are_to_be_left_alone() {
    flow!(Leaves, |cx| -> u64 {
        let mut kept = Box::pin(cx.child(Leaf(1)));
        let mut left = Box::pin(cx.child(Leaf(2)).on_close(OnClose::Abandon));
        let _ = futures::future::poll_fn(|context| {
            let _ = (kept.as_mut().poll(context), left.as_mut().poll(context));
            std::task::Poll::Ready(())
        })
        .await;
        // Nothing is dropped: the end itself finds them open.
        std::mem::forget((kept, left));
        Ok(9)
    });
    let mut world = World::new(&Leaves);
    world.settle();
    assert_eq!(world.begun.len(), 2);
    assert_eq!(world.told.iter().map(|tell| tell.to.id.as_str()).collect::<Vec<_>>(), ["x/1/1"]);

    let mut world = World::new(&One);
    world.ack();
    world.cancel();
    world.settle();
    assert!(matches!(world.outcome(), Some(Outcome::Cancelled { .. })));
    assert_eq!(world.told.iter().map(|tell| tell.to.id.as_str()).collect::<Vec<_>>(), ["leaf-6"]);
}

#[test]
fn a_detached_child_is_begun_and_not_waited_for() {
    flow!(Sends, |cx| -> String { Ok(cx.child(Leaf(1)).detach().await?) });
    let mut world = World::new(&Sends);
    assert!(world.in_flight.as_ref().unwrap().starts.iter().all(|child| !child.awaited));
    world.settle();
    assert_eq!(world.output::<String>(), "x/1/1");
    assert!(world.told.is_empty());
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn a_child_tells_its_parent_in_the_commit_of_its_end() {
    let begin = crate::registry::begin::<Leaf>();
    let parent = Parent { run: RunId { id: "p".into(), run_no: 3 }, position: 7 };
    let started = Started {
        workflow: Leaf::NAME.into(),
        version: 1,
        input: Payload::encode(&Leaf(6), "the input").unwrap(),
        seed: 1,
        deadline: None,
        deferred: false,
        limits: None,
        parent: Some(Box::new(parent.clone())),
        retry: None,
        copied_from: None,
    };
    let id = RunId { id: "p/3/7".into(), run_no: 1 };
    let (_, decision) = Run::begin(id, started, &begin, true, Timestamp(1), writer(1)).unwrap();
    let [Tell { to, message, body: MessageBody::Child { position: 7, end } }] = &decision.tells[..] else {
        panic!("{:?}", decision.tells)
    };
    assert_eq!((to, message.as_str()), (&parent.run, "stent:child:7"));
    assert!(matches!(&**end, Outcome::Completed(output) if output.decode::<u64>("x").unwrap() == 42));
}

#[test]
fn a_word_to_stop_counts_only_from_whoever_began_it() {
    flow!(Waits, |cx| -> u64 {
        cx.signal::<Word>().await?;
        Ok(1)
    });
    let stop = |n| MessageBody::Stop { parent: Parent { run: RunId { id: "p".into(), run_no: 1 }, position: n } };
    let mut world = World::new(&Waits);
    world.ack();
    world.send("stop:p/1/1", stop(1));
    world.turn();
    world.ack();
    assert!(world.outcome().is_none(), "nobody began it");
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1);

    let begin = crate::registry::begin::<Waits>();
    let parent = Some(Box::new(Parent { run: RunId { id: "p".into(), run_no: 1 }, position: 2 }));
    let input = Payload::encode(&Waits, "the input").unwrap();
    let started = Started {
        workflow: "Waits".into(),
        version: 1,
        input,
        seed: 1,
        deadline: None,
        deferred: false,
        limits: None,
        parent,
        retry: None,
        copied_from: None,
    };
    let id = RunId { id: "p/1/2".into(), run_no: 1 };
    let (mut run, first) = Run::begin(id.clone(), started, &begin, true, Timestamp(1), writer(1)).unwrap();
    run.recorded(&first.commit, codec::encode(&id, &first.commit).unwrap().digest);
    let mail = |seq, n: u32| Arrival::Message { seq, message: format!("stop:p/1/{n}"), body: stop(n) };
    run.turn(&mut VecDeque::from([mail(1, 1), mail(2, 2)]), Timestamp(2), writer(1)).unwrap();
    assert!(matches!(run.outcome(), Some(Outcome::Cancelled { reason }) if reason.contains("p/1")), "{:?}", run.outcome());
}

#[test]
fn a_second_word_of_the_same_end_changes_nothing() {
    flow!(Twice, |cx| -> u64 {
        let first = cx.child(Leaf(1)).await?;
        cx.sleep(secs(5)).await?;
        Ok(first)
    });
    let mut world = World::new(&Twice);
    world.ack();
    let position = leaf_of(&world);
    let body = MessageBody::Child { position, end: Box::new(Outcome::TimedOut) };
    world.end_child(position, None);
    world.send(&child_message(position), body);
    world.settle();
    assert_eq!(world.output::<u64>(), 7);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1);
}

#[test]
fn the_end_of_a_child_is_heard_whatever_ids_other_messages_had() {
    flow!(Hears, |cx| -> u64 {
        cx.signal::<Word>().await?;
        Ok(cx.child(Leaf(6)).await?)
    });
    let mut world = World::new(&Hears);
    world.ack();
    let word = MessageBody::Signal { name: "word".into(), payload: Payload::encode(&Word("w".into()), "word").unwrap() };
    world.send(&child_message(2), word);
    world.settle();
    assert_eq!(world.output::<u64>(), 42);
}

#[test]
fn code_that_waits_for_another_id_or_no_longer_waits_than_the_log_says_is_found() {
    flow!(Renamed, |cx| -> u64 { Ok(cx.child(Leaf(6)).id("leaf-7").await?) });
    flow!(Released, |cx| -> u64 {
        cx.child(Leaf(6)).id("leaf-6").detach().await?;
        Ok(1)
    });
    for code in [crate::registry::begin::<Renamed>(), crate::registry::begin::<Released>()] {
        let mut world = World::new(&One);
        world.ack();
        world.begin = code;
        assert!(world.replayed(1).err().expect("another command").to_string().contains("leaf-6"));
    }
}

#[test]
fn options_that_make_no_sense_are_told_and_nothing_is_begun() {
    flow!(Odd, |cx| -> Vec<String> {
        let heard = [
            cx.child(Leaf(1)).id("").await,
            cx.child(Leaf(1)).id("a\0b").await,
            cx.child(Leaf(1)).id("x".repeat(256)).await,
            cx.child(Leaf(1)).tag("").await,
            cx.child(Leaf(1)).queue(&"q".repeat(256)).await,
            cx.child(Leaf(1)).queue("q\0").await,
            cx.child(Leaf(1)).needs("").await,
            cx.child(Leaf(1)).deadline(Duration::ZERO).await,
        ];
        Ok(heard
            .into_iter()
            .map(|result| match result {
                Err(ChildError::Broken(failure)) => failure.to_string(),
                other => format!("{other:?}"),
            })
            .collect())
    });
    let mut world = World::new(&Odd);
    world.settle();
    let heard: Vec<String> = world.output();
    assert!(heard.iter().all(|text| text.contains("bytes") || text.contains("deadline of zero")), "{heard:?}");
    assert!(world.begun.is_empty());
}

#[test]
fn code_that_begins_another_child_than_the_log_says_is_found() {
    #[derive(Serialize, Deserialize)]
    struct Other;
    impl Workflow for Other {
        const NAME: &'static str = "other";
        type Output = u64;
        type Error = AppError;
        async fn run(self, _: crate::Cx<Self>) -> Result<u64, AppError> {
            Ok(1)
        }
    }
    flow!(Changed, |cx| -> u64 { Ok(cx.child(Other).await?) });
    let mut world = World::new(&One);
    world.ack();
    world.begin = crate::registry::begin::<Changed>();
    let blocked = world.replayed(1).err().expect("another workflow is another command").to_string();
    assert!(blocked.contains("leaf") && blocked.contains("other"), "{blocked}");
}
