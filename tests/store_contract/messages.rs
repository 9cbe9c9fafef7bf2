//! Inboxes: nothing is lost between a message and a run that is about to sleep or to end, and nothing is taken twice.

use std::sync::Arc;

use stent::{
    kernel::{
        event::{MessageBody, Order, Ordered, TaskEnd},
        id::{RunId, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{Item, Message, NewRun, Outcome, Status, Then, Yield, YieldReason},
};

use crate::kit::*;

fn consuming(run: RunKey, commit_no: u32, then: Then, consumed: &[u64]) -> Item {
    let mut turn = turn(run, commit_no, then);
    turn.consumed = consumed.to_vec();
    Item::Turn(Arc::new(turn))
}

#[test]
fn messages_wait_in_order_until_a_turn_takes_them() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        for (seq, message) in [(1, "x"), (2, "y"), (3, "z")] {
            assert_eq!(world.send("a", message).await, Outcome::Sent { seq, run, owner: Some(incarnation(1)) });
        }
        world.done(consuming(run, 1, Then::Hold, &[2])).await;
        let inbox = world.store.reader().inbox(run).await.unwrap();
        assert_eq!(inbox.seq, 3);
        assert_eq!(inbox.unread.iter().map(|unread| unread.seq).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(inbox.unread[1].body, signal("z"));
        assert_eq!(inbox.unread[1].sent_at, Timestamp(950));
    });
}

#[test]
fn a_turn_that_takes_what_is_not_there_writes_nothing() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.send("a", "x").await;
        let before = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(consuming(run, 1, Then::Hold, &[1, 2])).await, Outcome::MessageGone);
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        world.done(consuming(run, 1, Then::Hold, &[1])).await;
        assert_eq!(world.one(consuming(run, 2, Then::Hold, &[1])).await, Outcome::MessageGone);
    });
}

#[test]
fn a_run_neither_sleeps_nor_ends_over_a_message_it_has_not_seen() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.send("a", "x").await;
        let before = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(sleep(run, 1, None, 0)).await, Outcome::InboxMoved);
        assert_eq!(world.one(end(run, 1, 0)).await, Outcome::InboxMoved);
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        let then = Then::Passivate { wake_at: None, seen: 1 };
        world.done(consuming(run, 1, then, &[1])).await;
    });
}

#[test]
fn a_run_that_ends_whatever_has_come_leaves_nothing_unread_and_whoever_writes_later_is_told() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.send("a", "x").await;
        world.send("a", "y").await;
        let last = || Then::End { status: Status::Completed, seen: None };
        world.done(consuming(run, 1, last(), &[1])).await;
        assert_eq!(world.rows("inbox").await.len(), 0);
        let ended = Box::new(world.summary("a").await);
        assert_eq!(ended.status, Status::Completed);
        assert_eq!(world.one(consuming(run, 2, last(), &[])).await, Outcome::Conflict);
        assert_eq!(world.send("a", "z").await, Outcome::Ended(ended));
        let at_once = world.key().await;
        world.done(start_then(new_run(at_once, "b"), last())).await;
        assert_eq!(world.summary("b").await.status, Status::Completed);
    });
}

#[test]
fn a_message_to_a_sleeping_run_makes_it_due() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(sleep(run, 1, Some(50_000), 0)).await;
        assert_eq!(world.send("a", "x").await, Outcome::Sent { seq: 1, run, owner: None });
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)));
        world.now = 2_000;
        world.send("a", "y").await;
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)), "never later than it was");
    });
}

#[test]
fn a_message_in_the_batch_in_which_its_target_goes_to_sleep_wakes_it() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let outcomes = world.commit(vec![send("a", "x"), sleep(run, 1, None, 0)]).await;
        assert_eq!(outcomes, vec![Outcome::Sent { seq: 1, run, owner: None }, Outcome::Done]);
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)));
    });
}

#[test]
fn a_message_to_an_ended_or_unknown_run_is_told_so() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(end(run, 1, 0)).await;
        let ended = Box::new(world.summary("a").await);
        assert_eq!(world.send("a", "x").await, Outcome::Ended(ended));
        assert_eq!(world.send("nobody", "x").await, Outcome::Unknown);
        assert_eq!(world.rows("inbox").await.len(), 0);
    });
}

#[test]
fn a_message_for_one_run_reaches_no_run_that_follows_it() {
    on_each_store(async |world| {
        let first = world.started("a").await;
        let to = |run_no, message: &str| {
            let to = RunId { id: "a".into(), run_no };
            Item::Send(Message { to, message: message.into(), body: signal(message), sent_at: Timestamp(950) })
        };
        assert!(matches!(world.one(to(1, "x")).await, Outcome::Sent { run, .. } if run == first));
        world.done(end(first, 1, 1)).await;
        let second = world.key().await;
        let follows = NewRun { id: RunId { id: "a".into(), run_no: 2 }, after: vec![Status::Completed], ..new_run(second, "a") };
        world.done(enqueue(follows)).await;
        let current = Box::new(world.summary("a").await);
        assert_eq!(current.id.run_no, 2);
        assert_eq!(world.one(to(1, "y")).await, Outcome::Ended(current.clone()));
        assert_eq!(world.one(to(3, "y")).await, Outcome::Ended(current));
        assert_eq!(world.rows("inbox").await.len(), 0);
        assert!(matches!(world.one(to(2, "y")).await, Outcome::Sent { run, .. } if run == second));
        assert!(matches!(world.send("a", "z").await, Outcome::Sent { run, .. } if run == second));
    });
}

#[test]
fn a_message_sent_again_is_there_once() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let outcomes = world.commit(vec![send("a", "x"), send("a", "x"), send("a", "y")]).await;
        let sent = |seq| Outcome::Sent { seq, run, owner: Some(incarnation(1)) };
        assert_eq!(outcomes, vec![sent(1), Outcome::AlreadySent, sent(2)]);
        assert_eq!(world.send("a", "y").await, Outcome::AlreadySent);
        assert_eq!(world.summary("a").await.inbox_seq, 2);
    });
}

#[test]
fn a_full_inbox_refuses_until_something_was_taken() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let many = (0..=INBOX_LIMIT).map(|n| send("a", &n.to_string())).collect();
        let outcomes = world.commit(many).await;
        assert_eq!(outcomes.last(), Some(&Outcome::InboxFull));
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Sent { .. })).count(), 5);
        assert_eq!(world.send("a", "late").await, Outcome::InboxFull);
        let outcomes = world.commit(vec![send("a", "late"), consuming(run, 1, Then::Hold, &[3])]).await;
        assert_eq!(outcomes, vec![Outcome::Sent { seq: 6, run, owner: Some(incarnation(1)) }, Outcome::Done]);
        // What must not be lost, and what may be needed to empty it.
        let order = |what| MessageBody::Order(Box::new(Order { by: "ada".into(), reason: String::new(), what }));
        let output = Payload::encode(&1, "a result").unwrap();
        let end = MessageBody::Task { position: 1, attempt: 1, end: TaskEnd::Done(output), details: None };
        for (message, body, is_taken) in [
            ("pause", order(Ordered::Pause), true),
            ("go on", order(Ordered::GoOn), true),
            ("skip", order(Ordered::Skip { position: 1 }), false),
            ("end", end, true),
        ] {
            let sent = Item::Send(Message { to: current("a"), message: message.into(), body, sent_at: Timestamp(950) });
            assert_eq!(world.one(sent).await != Outcome::InboxFull, is_taken, "{message}");
        }
    });
}

#[test]
fn an_end_takes_unread_messages_and_heartbeats_with_it() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.started("b").await;
        world.commit(vec![send("a", "x"), send("b", "x"), heartbeat(run, 1, 1), heartbeat(run, 2, 1)]).await;
        world.done(end(run, 1, 1)).await;
        assert_eq!(world.rows("inbox").await.len(), 1);
        assert_eq!(world.rows("heartbeat").await.len(), 0);
        assert_eq!(world.store.reader().inbox(run).await.unwrap().seq, 1);
    });
}

#[test]
fn a_run_given_back_with_an_unread_message_is_due_at_once() {
    on_each_store(async |world| {
        let [a, b, c] = [world.started("a").await, world.started("b").await, world.started("c").await];
        world.commit(vec![send("a", "x"), send("b", "x")]).await;
        world.commit(vec![release(a, 1, None), release(b, 1, Some(9_000)), release(c, 1, None)]).await;
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)));
        assert_eq!(world.summary("b").await.wake_at, Some(Timestamp(1_000)), "whatever else it waited for");
        assert_eq!(world.summary("c").await.wake_at, None);
    });
}

#[test]
fn a_quarantined_run_keeps_messages_and_is_not_woken() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let why = YieldReason::Quarantined { reason: "it kills".into() };
        world.done(Item::Yield(Yield { run, epoch: 1, why })).await;
        assert_eq!(world.send("a", "x").await, Outcome::Sent { seq: 1, run, owner: None });
        let row = world.summary("a").await;
        assert_eq!((row.status, row.wake_at, row.reason.as_deref()), (Status::Quarantined, None, Some("it kills")));
        assert_eq!(world.store.reader().inbox(run).await.unwrap().unread.len(), 1);
        assert_eq!(world.claim(9, 9).await.claimed, vec![]);
    });
}

#[test]
fn the_last_heartbeat_of_a_call_is_kept_until_the_call_is_settled() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.commit(vec![heartbeat(run, 4, 1), heartbeat(run, 4, 2), heartbeat(run, 3, 1)]).await;
        let kept = world.store.reader().heartbeats(run).await.unwrap();
        assert_eq!(kept, vec![(3, 1, "at 1".into()), (4, 2, "at 2".into())]);
        let mut turn = turn(run, 1, Then::Hold);
        turn.settled = vec![4, 9];
        world.done(Item::Turn(Arc::new(turn))).await;
        assert_eq!(world.store.reader().heartbeats(run).await.unwrap().len(), 1);
        world.done(sleep(run, 2, None, 0)).await;
        assert_eq!(world.one(heartbeat(run, 3, 2)).await, Outcome::NotOwned);
        assert_eq!(world.one(heartbeat(RunKey(99), 3, 2)).await, Outcome::NotOwned);
    });
}
