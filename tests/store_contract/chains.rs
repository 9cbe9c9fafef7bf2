//! Runs that continue: the end and the successor are one item, and what is for the execution goes along.

use std::sync::Arc;

use stent::{
    kernel::{
        event::{CURRENT_RUN, MessageBody, Outcome as End, Tell, child_message},
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{Batch, ClaimRequest, Item, Message, NewRun, Outcome, Status, Successor, Summary, Then, Turn},
};

use crate::kit::*;

fn successor(run: RunKey) -> Then {
    Then::Continue(Box::new(Successor { run, record: record(run, 0), due: None, published: Vec::new() }))
}

pub(crate) fn continues(run: RunKey, commit_no: u32, next: RunKey) -> Item {
    Item::Turn(Arc::new(turn(run, commit_no, successor(next))))
}

async fn unread(world: &World, run: RunKey) -> Vec<(u64, String)> {
    let inbox = world.store.reader().inbox(run).await.unwrap();
    inbox.unread.into_iter().map(|unread| (unread.seq, unread.message)).collect()
}

fn post(to: &str, message: &str, body: MessageBody) -> Item {
    Item::Send(Message { to: current(to), message: message.into(), body, sent_at: Timestamp(950) })
}

#[test]
fn the_end_and_the_next_run_are_one_and_its_row_is_that_of_the_run_before() {
    on_each_store(async |world| {
        let [run, next] = [world.key().await, world.key().await];
        let new = NewRun {
            priority: 3,
            queue: "q".into(),
            tags: vec!["t".into()],
            needs: vec!["gpu".into()],
            deadline: Some(Timestamp(77_000)),
            ..new_run(run, "a")
        };
        world.done(start(new)).await;
        let before = world.summary("a").await;
        world.now = 2_000;
        world.done(continues(run, 1, next)).await;
        let reader = world.store.reader();
        let ended = reader.find("a", Some(1)).await.unwrap().unwrap();
        assert_eq!((ended.status, ended.ended_at, ended.owner), (Status::Continued, Some(Timestamp(2_000)), None));
        let current = world.summary("a").await;
        let wanted = Summary {
            run: next,
            id: RunId { id: "a".into(), run_no: 2 },
            owner: None,
            epoch: 0,
            wake_at: Some(Timestamp(2_000)),
            ..before
        };
        assert_eq!(current, wanted);
        assert_eq!(reader.history(next, 0, 9).await.unwrap(), [(0, record(next, 0))]);
        assert!(world.owned().await.is_empty());
    });
}

#[test]
fn unread_messages_of_the_execution_go_along_in_their_order_and_what_is_for_the_old_run_does_not() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let kid = stent::store::NewChild { position: 4, record: record(next, 0), row: new_run(next, "a") };
        world.send("a", "one").await;
        world.send("a", "two").await;
        // An id in use: the word that it is waits in the run's own inbox, for one place in it.
        let starts = Turn { starts: vec![kid], ..turn(run, 1, Then::Hold) };
        world.done(Item::Turn(Arc::new(starts))).await;
        world.one(post("a", "retry", MessageBody::Retry { position: Some(7) })).await;
        world.one(post("a", "stop", MessageBody::Cancel { reason: "enough".into() })).await;
        assert_eq!(unread(world, run).await.len(), 5);
        world.done(heartbeat(run, 2, 1)).await;
        let last = Turn { consumed: vec![1], ..turn(run, 2, successor(next)) };
        world.done(Item::Turn(Arc::new(last))).await;
        assert_eq!(unread(world, run).await, []);
        assert_eq!(unread(world, next).await, [(2, "two".to_owned()), (5, "stop".to_owned())]);
        assert_eq!(world.summary("a").await.inbox_seq, 5, "later ones come behind them");
        assert!(world.rows("heartbeat").await.is_empty());
        assert_eq!(world.send("a", "two").await, Outcome::AlreadySent);
        assert_eq!(world.send("a", "three").await, Outcome::Sent { seq: 6, run: next, owner: None });
        for message in ["four", "five"] {
            assert!(matches!(world.send("a", message).await, Outcome::Sent { .. }));
        }
        assert_eq!(world.send("a", "six").await, Outcome::InboxFull, "what went along counts");
    });
}

#[test]
fn it_does_not_matter_that_something_has_come_meanwhile() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        world.send("a", "unseen").await;
        assert_eq!(world.one(end(run, 1, 0)).await, Outcome::InboxMoved);
        world.done(continues(run, 1, next)).await;
        assert_eq!(unread(world, next).await, [(1, "unseen".to_owned())]);
    });
}

#[test]
fn within_one_batch_everybody_else_finds_the_next_run() {
    on_each_store(async |world| {
        let [run, other] = [world.started("a").await, world.started("b").await];
        let [next, second] = [world.key().await, world.key().await];
        let mut takes = NewRun { after: Status::ALL.to_vec(), ..new_run(second, "a") };
        takes.id.run_no = 2;
        let tells = [1, 2, CURRENT_RUN].map(|run_no| Tell {
            to: RunId { id: "a".into(), run_no },
            message: format!("to {run_no}"),
            body: signal("x"),
        });
        let telling = Turn { tells: tells.to_vec(), ..turn(other, 1, Then::Hold) };
        let claim = ClaimRequest {
            limit: 5,
            ahead: NOT_AHEAD,
            forced_limit: 5,
            build: BUILD,
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let items = vec![send("a", "sent"), enqueue(takes), Item::Turn(Arc::new(telling)), continues(run, 1, next)];
        let batch = Batch { claim: Some(claim), ..world.batch(items) };
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.outcomes[0], Outcome::Sent { seq: 3, run: next, owner: None });
        assert!(matches!(&answer.outcomes[1], Outcome::IdInUse(current) if current.run == next), "{answer:?}");
        assert_eq!(answer.outcomes[2..], [Outcome::Done, Outcome::Done]);
        let told: Vec<(RunKey, &str)> = answer.told.iter().map(|told| (told.run, told.unread.message.as_str())).collect();
        assert_eq!(told, [(next, "to 2"), (next, "to 0")]);
        assert_eq!(
            answer.claimed.iter().map(|claimed| (claimed.summary.run, claimed.forced)).collect::<Vec<_>>(),
            [(next, false)]
        );
    });
}

#[test]
fn a_run_may_continue_with_its_first_turn_and_each_of_a_chain_is_found_by_its_number() {
    on_each_store(async |world| {
        let [first, second, third] = [world.key().await, world.key().await, world.key().await];
        world.done(start_then(new_run(first, "a"), successor(second))).await;
        assert_eq!(world.claim(1, 1).await.claimed[0].summary.run, second);
        world.done(continues(second, 1, third)).await;
        for (run_no, run) in [(1, first), (2, second), (3, third)] {
            assert_eq!(world.store.reader().find("a", Some(run_no)).await.unwrap().unwrap().run, run);
        }
        assert_eq!(world.summary("a").await.run, third);
        // An ordinary end closes it, and the id is free again by the rules of any other.
        assert_eq!(world.claim(1, 1).await.claimed.len(), 1);
        world.done(end(third, 1, 0)).await;
        assert!(matches!(world.send("a", "late").await, Outcome::Ended(summary) if summary.status == Status::Completed));
    });
}

#[test]
fn refused_nothing_of_it_is_there() {
    on_each_store(async |world| {
        let [run, other] = [world.started("a").await, world.started("b").await];
        let next = world.key().await;
        world.send("a", "m").await;
        let before = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(continues(run, 1, other)).await, Outcome::Conflict, "a key in use");
        assert_eq!(world.one(continues(run, 1, run)).await, Outcome::Conflict, "its own");
        assert_eq!(world.one(continues(run, 2, next)).await, Outcome::Conflict, "a gap");
        let gone = Turn { consumed: vec![9], ..turn(run, 1, successor(next)) };
        assert_eq!(world.one(Item::Turn(Arc::new(gone))).await, Outcome::MessageGone);
        let batch = Batch { incarnation: incarnation(9), ..world.batch(vec![continues(run, 1, next)]) };
        assert_eq!(world.store.commit(&batch).await.unwrap().outcomes, [Outcome::Fenced]);
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        world.done(continues(run, 1, next)).await;
        assert_eq!(world.one(step(run, 2)).await, Outcome::Conflict, "nothing follows an end");
    });
}

#[test]
fn the_end_of_a_child_reaches_the_run_that_waits_and_no_later_one_of_its_chain() {
    on_each_store(async |world| {
        let [parent, child] = [world.started("p").await, world.started("c").await];
        let next = world.key().await;
        world.done(continues(parent, 1, next)).await;
        let body = MessageBody::Child { position: 3, end: Box::new(End::TimedOut) };
        let tell = Tell { to: RunId { id: "p".into(), run_no: 1 }, message: child_message(3), body };
        let last = Turn { tells: vec![tell], ..turn(child, 1, Then::End { status: Status::TimedOut, seen: Some(0) }) };
        let batch = world.batch(vec![Item::Turn(Arc::new(last))]);
        assert_eq!(world.store.commit(&batch).await.unwrap().told, []);
        assert_eq!(unread(world, next).await, []);
    });
}

#[test]
fn a_successor_that_has_a_time_is_not_claimed_before_it_unless_something_comes() {
    on_each_store(async |world| {
        for (name, is_told) in [("a", false), ("b", true)] {
            let run = world.started(name).await;
            let next = world.key().await;
            let due = Some(Timestamp(5_000));
            let successor = Successor { run: next, record: record(next, 0), due, published: Vec::new() };
            world.now = 2_000;
            world.done(Item::Turn(Arc::new(turn(run, 1, Then::Continue(Box::new(successor)))))).await;
            assert_eq!(world.summary(name).await.wake_at, due);
            world.now = 4_999;
            assert_eq!(world.claim(9, 0).await.claimed, []);
            if is_told {
                world.send(name, "one").await;
            } else {
                world.now = 5_000;
            }
            let claimed = world.claim(9, 0).await.claimed;
            assert_eq!(claimed.iter().map(|claimed| claimed.summary.run).collect::<Vec<_>>(), [next]);
        }
    });
}

#[test]
fn a_successor_that_has_a_time_is_due_at_once_if_something_unread_goes_along() {
    on_each_store(async |world| {
        let cancel = MessageBody::Cancel { reason: "enough".into() };
        let for_the_run = MessageBody::Retry { position: Some(7) };
        for (name, body, is_consumed, wakes) in [
            ("cancelled", cancel.clone(), false, true),
            ("signalled", signal("x"), false, true),
            ("heard", cancel, true, false),
            ("of a place", for_the_run, false, false),
        ] {
            let run = world.started(name).await;
            let next = world.key().await;
            world.now = 2_000;
            world.one(post(name, "m", body)).await;
            let due = Some(Timestamp(1_000_000));
            let successor = Successor { run: next, record: record(next, 0), due, published: Vec::new() };
            let consumed = if is_consumed { vec![1] } else { Vec::new() };
            let last = Turn { consumed, ..turn(run, 1, Then::Continue(Box::new(successor))) };
            world.done(Item::Turn(Arc::new(last))).await;
            let wanted = if wakes { Some(Timestamp(2_000)) } else { due };
            assert_eq!(world.summary(name).await.wake_at, wanted, "{name}");
            let claimed = world.claim(9, 0).await.claimed;
            let claimed: Vec<RunKey> = claimed.iter().map(|claimed| claimed.summary.run).collect();
            assert_eq!(claimed, if wakes { vec![next] } else { Vec::new() }, "{name}");
        }
    });
}
