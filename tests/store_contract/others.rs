//! What a turn does to other runs: children and messages are there with its commit or not at all, and nobody sleeps, ends or
//! goes on over a message that another run's turn has put into its inbox.

use std::sync::Arc;

use stent::{
    kernel::{
        event::{MessageBody, child_message},
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{Batch, BatchAnswer, Item, NewChild, NewRun, Outcome, Status, Tell, Then, Told, Turn, Unread, Yield, YieldReason},
};

use crate::kit::*;

pub(crate) fn child(run: RunKey, id: &str, position: u32) -> NewChild {
    NewChild { position, row: new_run(run, id), record: record(run, 0) }
}

pub(crate) fn tell(to: &str, message: &str) -> Tell {
    Tell { to: RunId { id: to.into(), run_no: 1 }, message: message.into(), body: signal(message) }
}

pub(crate) fn with(turn: Turn, starts: Vec<NewChild>, tells: Vec<Tell>) -> Item {
    Item::Turn(Arc::new(Turn { starts, tells, ..turn }))
}

fn telling(run: RunKey, commit_no: u32, tells: Vec<Tell>) -> Item {
    with(turn(run, commit_no, Then::Hold), Vec::new(), tells)
}

fn consuming(run: RunKey, commit_no: u32, consumed: &[u64]) -> Item {
    Item::Turn(Arc::new(Turn { consumed: consumed.to_vec(), ..turn(run, commit_no, Then::Hold) }))
}

/// Commits items that must all be done; returns what was told.
async fn told(world: &mut World, items: Vec<Item>) -> Vec<Told> {
    let answer = answer(world, items).await;
    assert!(answer.outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{answer:?}");
    answer.told
}

async fn answer(world: &mut World, items: Vec<Item>) -> BatchAnswer {
    let batch = world.batch(items);
    world.store.commit(&batch).await.unwrap()
}

async fn unread(world: &World, run: RunKey) -> Vec<String> {
    let inbox = world.store.reader().inbox(run).await.unwrap();
    inbox.unread.into_iter().map(|unread| unread.message).collect()
}

/// What is told of a message made by `tell`, at the time of these worlds.
fn heard(run: RunKey, owned: bool, seq: u64, message: &str) -> Told {
    let unread = Unread { seq, message: message.into(), body: signal(message), sent_at: Timestamp(1_000) };
    Told { run, owner: owned.then_some(incarnation(1)), unread }
}

#[test]
fn a_child_is_begun_in_the_commit_of_its_parents_turn() {
    on_each_store(async |world| {
        let parent = world.started("parent").await;
        let [now, later] = [world.key().await, world.key().await];
        let mut delayed = child(later, "later", 2);
        delayed.row = NewRun { wake_at: Some(Timestamp(9_000)), priority: 3, tags: vec!["t".into()], ..delayed.row };
        let starts = vec![child(now, "now", 1), delayed];
        assert_eq!(told(world, vec![with(turn(parent, 1, Then::Hold), starts, vec![])]).await, []);
        let row = world.summary("now").await;
        assert_eq!((row.run, row.owner, row.epoch, row.wake_at), (now, None, 0, Some(Timestamp(1_000))));
        let row = world.summary("later").await;
        assert_eq!((row.owner, row.wake_at, row.priority), (None, Some(Timestamp(9_000)), 3));
        assert_eq!(world.store.reader().history(now, 0, 9).await.unwrap(), [(0, record(now, 0))]);
        assert_eq!(world.store.reader().history(parent, 0, 9).await.unwrap().len(), 2);
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.iter().map(|claimed| claimed.summary.run).collect::<Vec<_>>(), [now]);
        world.commit(vec![step(now, 1), step(parent, 2)]).await;
        world.now = 9_000;
        assert_eq!(world.claim(9, 9).await.claimed.len(), 1, "a priority that nobody has had before is looked for");
        assert_eq!(world.commit(vec![end(now, 2, 0), end(later, 1, 0), end(parent, 3, 0)]).await, [const { Outcome::Done }; 3]);
    });
}

#[test]
fn a_first_turn_and_a_last_one_begin_children_and_tell_as_any_other() {
    on_each_store(async |world| {
        let [parent, a, b] = [world.key().await, world.key().await, world.key().await];
        let Item::Turn(first) = start(new_run(parent, "parent")) else { panic!() };
        let first = with(Arc::unwrap_or_clone(first), vec![child(a, "a", 1)], vec![tell("a", "x"), tell("parent", "y")]);
        let first = told(world, vec![first]).await;
        assert_eq!(first, [heard(a, false, 1, "x"), heard(parent, true, 1, "y")]);
        let last = turn(parent, 1, Then::End { status: Status::Completed, seen: Some(1) });
        let last = with(last, vec![child(b, "b", 2), child(b, "a", 3)], vec![tell("a", "z"), tell("parent", "z")]);
        assert_eq!(told(world, vec![last]).await, [heard(a, false, 2, "z")], "who has ended hears nothing, be it of a refusal");
        assert_eq!(world.summary("b").await.run, b);
        assert_eq!(unread(world, parent).await.len(), 0);
    });
}

#[test]
fn a_refused_turn_begins_and_tells_nothing() {
    on_each_store(async |world| {
        let (parent, other) = (world.started("parent").await, world.started("other").await);
        let run = world.key().await;
        world.send("parent", "m").await;
        let others = |turn: Turn| with(turn, vec![child(run, "child", 1)], vec![tell("other", "x"), tell("child", "x")]);
        let before = world.store.reader().snapshot().await.unwrap();
        for _ in 0..2 {
            let asleep = Then::Passivate { wake_at: None, seen: 0 };
            let ended = Then::End { status: Status::Completed, seen: Some(0) };
            let gone = Turn { consumed: vec![7], ..turn(parent, 1, Then::Hold) };
            let refusals = [
                (others(turn(parent, 2, Then::Hold)), Outcome::Conflict),
                (others(turn(parent, 1, asleep)), Outcome::InboxMoved),
                (others(turn(parent, 1, ended)), Outcome::InboxMoved),
                (others(gone), Outcome::MessageGone),
            ];
            for (item, outcome) in refusals {
                let answer = answer(world, vec![item]).await;
                assert_eq!((answer.outcomes, answer.told), (vec![outcome], vec![]));
            }
            let batch = Batch { incarnation: incarnation(9), ..world.batch(vec![others(turn(parent, 1, Then::Hold))]) };
            let answer = world.store.commit(&batch).await.unwrap();
            assert_eq!((answer.outcomes, answer.told, answer.live), (vec![Outcome::Fenced], vec![], false));
            assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        }
        assert_eq!(told(world, vec![others(turn(parent, 1, Then::Hold)), step(other, 1)]).await.len(), 2);
    });
}

#[test]
fn a_turn_with_a_child_or_a_message_that_no_store_accepts_is_refused_as_a_whole() {
    on_each_store(async |world| {
        let parent = world.started("parent").await;
        let run = world.key().await;
        let before = world.store.reader().snapshot().await.unwrap();
        let mut second = child(run, "child", 1);
        second.row.id.run_no = 2;
        let mut queue = child(run, "child", 1);
        queue.row.queue = "\0".into();
        let bad = [
            (vec![second], vec![]),
            (vec![queue], vec![]),
            (vec![child(run, "chi\0ld", 1)], vec![]),
            (vec![child(run, "child", 1)], vec![tell("parent", "\0")]),
            (vec![child(run, "child", 1)], vec![tell("\0", "m")]),
            (vec![child(run, "child", 1)], vec![tell("parent", &"m".repeat(511))]),
        ];
        for (starts, tells) in bad {
            let answer = answer(world, vec![with(turn(parent, 1, Then::Hold), starts, tells)]).await;
            assert!(matches!(&answer.outcomes[..], [Outcome::Refused(_)]), "{answer:?}");
        }
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        // An id of a message with the longest id of a run in it is none too long.
        let named = format!("stop:{}/1/7", "r".repeat(255));
        assert_eq!(told(world, vec![telling(parent, 1, vec![tell("parent", &named)])]).await, [heard(parent, true, 1, &named)]);
    });
}

#[test]
fn an_id_in_use_is_a_message_to_the_parent_and_refuses_nothing() {
    on_each_store(async |world| {
        let (parent, taken, ended) = (world.started("parent").await, world.started("taken").await, world.started("ended").await);
        world.done(end(ended, 1, 0)).await;
        let run = world.key().await;
        let rows = world.rows("run").await.len();
        let starts = vec![child(run, "taken", 1), child(run, "ended", 2), child(taken, "key in use", 3), child(run, "free", 4)];
        let refusals: Vec<_> = starts[..3].iter().map(NewChild::refusal).collect();
        let told = told(world, vec![with(turn(parent, 1, Then::Hold), starts, vec![])]).await;
        assert_eq!(told.len(), 3);
        for (seq, (told, (message, body))) in (1..).zip(told.into_iter().zip(refusals)) {
            assert!(matches!(&body, MessageBody::Child { position, .. } if u64::from(*position) == seq));
            let unread = Unread { seq, message, body, sent_at: Timestamp(1_000) };
            assert_eq!(told, Told { run: parent, owner: Some(incarnation(1)), unread });
        }
        assert_eq!(world.rows("run").await.len(), rows + 1);
        assert_eq!(world.summary("free").await.run, run);
        assert_eq!(world.summary("taken").await.inbox_seq, 0);
        assert_eq!(world.one(sleep(parent, 2, None, 0)).await, Outcome::InboxMoved);
        world.done(consuming(parent, 2, &[1, 2, 3])).await;
        world.done(sleep(parent, 3, None, 3)).await;
    });
}

#[test]
fn a_parent_that_goes_to_sleep_with_a_child_that_cannot_be_begun_is_woken() {
    on_each_store(async |world| {
        let parent = world.started("parent").await;
        world.started("taken").await;
        let run = world.key().await;
        let asleep = turn(parent, 1, Then::Passivate { wake_at: Some(Timestamp(50_000)), seen: 0 });
        let told = told(world, vec![with(asleep, vec![child(run, "taken", 1)], vec![])]).await;
        assert_eq!(told.iter().map(|told| (told.run, told.owner)).collect::<Vec<_>>(), [(parent, None)]);
        assert_eq!(world.summary("parent").await.wake_at, Some(Timestamp(1_000)));
        assert_eq!(unread(world, parent).await, [child_message(1)]);
        assert_eq!(world.claim(9, 9).await.claimed.len(), 1);
    });
}

#[test]
fn of_two_children_of_one_id_in_a_batch_the_first_wins() {
    on_each_store(async |world| {
        let (a, b) = (world.started("a").await, world.started("b").await);
        let [first, second, third, fourth] = [world.key().await, world.key().await, world.key().await, world.key().await];
        // What is enqueued in the same batch comes before, wherever it stands.
        let items = vec![
            with(turn(a, 1, Then::Hold), vec![child(first, "x", 1), child(second, "x", 2), child(third, "y", 3)], vec![]),
            with(turn(b, 1, Then::Hold), vec![child(third, "x", 1)], vec![]),
            enqueue(new_run(fourth, "y")),
        ];
        let told = told(world, items).await;
        let all: Vec<_> = told.iter().map(|told| (told.run, told.unread.seq, told.unread.message.clone())).collect();
        assert_eq!(all, [(a, 1, child_message(2)), (a, 2, child_message(3)), (b, 1, child_message(1))]);
        assert_eq!((world.summary("x").await.run, world.summary("y").await.run), (first, fourth));
    });
}

#[test]
fn a_message_of_another_run_wakes_a_sleeper_and_is_handed_to_whom_is_owned() {
    on_each_store(async |world| {
        let (from, asleep, owned) = (world.started("from").await, world.started("asleep").await, world.started("owned").await);
        world.done(sleep(asleep, 1, Some(50_000), 0)).await;
        let told = told(world, vec![telling(from, 1, vec![tell("asleep", "x"), tell("owned", "y"), tell("asleep", "z")])]).await;
        assert_eq!(told, [heard(asleep, false, 1, "x"), heard(owned, true, 1, "y"), heard(asleep, false, 2, "z")]);
        assert_eq!(world.summary("asleep").await.wake_at, Some(Timestamp(1_000)));
        assert_eq!(world.summary("owned").await.wake_at, None);
        assert_eq!(unread(world, asleep).await, ["x", "z"]);
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.iter().map(|claimed| claimed.summary.run).collect::<Vec<_>>(), [asleep]);
        assert_eq!(world.one(sleep(asleep, 2, None, 0)).await, Outcome::InboxMoved);
        world.done(sleep(asleep, 2, None, 2)).await;
    });
}

#[test]
fn a_message_to_an_ended_an_unknown_or_another_run_of_the_id_is_dropped_without_a_word() {
    on_each_store(async |world| {
        let (from, ended, first) = (world.started("from").await, world.started("ended").await, world.started("again").await);
        world.done(end(ended, 1, 0)).await;
        let second = world.key().await;
        let mut new = NewRun { after: vec![Status::Continued], ..new_run(second, "again") };
        new.id.run_no = 2;
        let last = turn(first, 1, Then::End { status: Status::Continued, seen: Some(0) });
        world.commit(vec![Item::Turn(Arc::new(last)), start(new)]).await;
        let of_run = |run_no, message| Tell { to: RunId { id: "again".into(), run_no }, ..tell("again", message) };
        let tells = vec![tell("ended", "x"), tell("nobody", "x"), of_run(1, "x"), of_run(3, "y"), of_run(2, "z")];
        assert_eq!(told(world, vec![telling(from, 1, tells)]).await, [heard(second, true, 1, "z")]);
        assert_eq!(world.rows("inbox").await.len(), 1);
        assert_eq!(world.summary("ended").await.wake_at, None);
    });
}

#[test]
fn a_message_to_a_run_that_goes_to_sleep_in_the_same_batch_wakes_it_whatever_the_order() {
    on_each_store(async |world| {
        let (from, a, b) = (world.started("from").await, world.started("a").await, world.started("b").await);
        let tells = vec![tell("a", "x"), tell("b", "x")];
        let told = told(world, vec![sleep(a, 1, None, 0), telling(from, 1, tells), sleep(b, 1, Some(70_000), 0)]).await;
        assert_eq!(told, [heard(a, false, 1, "x"), heard(b, false, 1, "x")]);
        for id in ["a", "b"] {
            assert_eq!(world.summary(id).await.wake_at, Some(Timestamp(1_000)));
        }
        assert_eq!(world.claim(9, 9).await.claimed.len(), 2);
        world.commit(vec![step(a, 2), step(b, 2)]).await;
        assert_eq!(world.one(end(a, 3, 0)).await, Outcome::InboxMoved);
        assert_eq!(world.commit(vec![end(a, 3, 1), end(b, 3, 1)]).await, [Outcome::Done, Outcome::Done]);
    });
}

#[test]
fn a_message_to_a_run_whose_end_is_in_the_same_batch_is_dropped_whatever_the_order() {
    on_each_store(async |world| {
        let (from, a, b) = (world.started("from").await, world.started("a").await, world.started("b").await);
        let tells = vec![tell("a", "x"), tell("b", "x")];
        assert_eq!(told(world, vec![end(a, 1, 0), telling(from, 1, tells), end(b, 1, 0)]).await, []);
        assert_eq!(world.rows("inbox").await.len(), 0);
        assert_eq!((world.summary("a").await.inbox_seq, world.summary("b").await.inbox_seq), (0, 0));
    });
}

#[test]
fn a_message_to_a_run_that_is_given_back_in_the_same_batch_makes_it_due() {
    on_each_store(async |world| {
        let (from, a) = (world.started("from").await, world.started("a").await);
        let told = told(world, vec![release(a, 1, None), telling(from, 1, vec![tell("a", "x")])]).await;
        assert_eq!(told, [heard(a, false, 1, "x")], "its owner is the one behind the batch");
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)));
    });
}

#[test]
fn a_quarantined_run_keeps_what_it_is_told_and_is_not_woken() {
    on_each_store(async |world| {
        let (from, a) = (world.started("from").await, world.started("a").await);
        let why = YieldReason::Quarantined { reason: "it kills".into() };
        world.done(Item::Yield(Yield { run: a, epoch: 1, why })).await;
        assert_eq!(told(world, vec![telling(from, 1, vec![tell("a", "x")])]).await, [heard(a, false, 1, "x")]);
        assert_eq!(world.summary("a").await.wake_at, None);
        assert_eq!(unread(world, a).await, ["x"]);
    });
}

#[test]
fn a_full_inbox_takes_what_another_run_says_and_nothing_from_outside() {
    on_each_store(async |world| {
        let (from, a) = (world.started("from").await, world.started("a").await);
        let many = (0..INBOX_LIMIT).map(|n| send("a", &n.to_string())).collect();
        world.commit(many).await;
        let told = told(world, vec![telling(from, 1, vec![tell("a", "x"), tell("a", "y")])]).await;
        assert_eq!(told.iter().map(|told| told.unread.seq).collect::<Vec<_>>(), [6, 7]);
        assert_eq!(world.send("a", "late").await, Outcome::InboxFull);
        world.done(consuming(a, 1, &[1, 2])).await;
        assert_eq!(world.send("a", "late").await, Outcome::InboxFull, "it is as full as it was");
        // What is told in a batch counts for what is sent in it.
        world.done(consuming(a, 2, &[3, 4])).await;
        let filling = vec![send("a", "late"), telling(from, 2, vec![tell("a", "p"), tell("a", "q")])];
        assert_eq!(world.commit(filling).await[0], Outcome::InboxFull);
    });
}

#[test]
fn a_message_that_is_unread_already_is_not_put_in_again() {
    on_each_store(async |world| {
        let (from, other, a) = (world.started("from").await, world.started("other").await, world.started("a").await);
        let items = vec![
            send("a", "x"),
            telling(from, 1, vec![tell("a", "x"), tell("a", "x")]),
            telling(other, 1, vec![tell("a", "x"), tell("a", "y")]),
        ];
        let answer = answer(world, items).await;
        assert_eq!(answer.told, [heard(a, true, 1, "x"), heard(a, true, 2, "y")]);
        assert_eq!(answer.outcomes, [Outcome::AlreadySent, Outcome::Done, Outcome::Done]);
        assert_eq!(told(world, vec![telling(from, 2, vec![tell("a", "x")])]).await, []);
        assert_eq!(world.summary("a").await.inbox_seq, 2);
        // Once it was taken the same id is another message, also if it is taken in the same batch.
        let told = told(world, vec![telling(from, 3, vec![tell("a", "x")]), consuming(a, 1, &[1])]).await;
        assert_eq!(told, [heard(a, true, 3, "x")]);
        assert_eq!(unread(world, a).await, ["y", "x"]);
    });
}

#[test]
fn a_refusal_that_is_unread_already_is_not_put_in_again() {
    on_each_store(async |world| {
        let parent = world.started("parent").await;
        world.started("taken").await;
        let run = world.key().await;
        let again = |commit_no| with(turn(parent, commit_no, Then::Hold), vec![child(run, "taken", 1)], vec![]);
        assert_eq!(told(world, vec![again(1)]).await.len(), 1);
        assert_eq!(told(world, vec![again(2)]).await.len(), 0);
        let mut taking = turn(parent, 3, Then::Hold);
        taking.consumed = vec![1];
        let told = told(world, vec![with(taking, vec![child(run, "taken", 1)], vec![])]).await;
        assert_eq!(told.iter().map(|told| told.unread.seq).collect::<Vec<_>>(), [2]);
        assert_eq!(unread(world, parent).await, [child_message(1)]);
    });
}

#[test]
fn a_child_is_told_something_in_the_turn_that_begins_it_and_by_those_behind() {
    on_each_store(async |world| {
        let (a, b, c) = (world.started("a").await, world.started("b").await, world.started("c").await);
        let run = world.key().await;
        let starting = with(turn(b, 1, Then::Hold), vec![child(run, "child", 1)], vec![tell("child", "of b")]);
        let items = vec![
            telling(a, 1, vec![tell("child", "too early")]),
            starting,
            telling(c, 1, vec![tell("child", "of c")]),
            send("child", "sent"),
        ];
        let answer = answer(world, items).await;
        assert_eq!(answer.told, [heard(run, false, 1, "of b"), heard(run, false, 2, "of c")]);
        assert_eq!(answer.outcomes[3], Outcome::Sent { seq: 3, run, owner: None });
        assert_eq!(world.claim(9, 9).await.claimed[0].summary.inbox_seq, 3);
        assert_eq!(world.one(end(run, 1, 0)).await, Outcome::InboxMoved);
        world.done(end(run, 1, 3)).await;
    });
}

#[test]
fn whatever_is_known_of_runs_is_right_behind_a_batch_that_told_them_something() {
    on_each_store(async |world| {
        let mut runs = Vec::new();
        for id in ["from", "a", "b", "c", "d"] {
            let run = world.started(id).await;
            world.done(step(run, 1)).await;
            runs.push(run);
        }
        let [from, a, b, c, d] = runs[..] else { panic!() };
        let kid = world.key().await;
        // All at once: who tells, a child, one that goes on, one that is told only, and one that was told before.
        let items = vec![
            with(turn(from, 2, Then::Hold), vec![child(kid, "kid", 1)], ["a", "b", "c", "d"].map(|to| tell(to, "x")).into()),
            step(a, 2),
        ];
        assert_eq!(told(world, items).await.len(), 4);
        for _ in 0..2 {
            assert_eq!(world.one(sleep(a, 3, None, 0)).await, Outcome::InboxMoved);
            assert_eq!(world.one(end(b, 2, 0)).await, Outcome::InboxMoved);
            let outcomes = world.commit(vec![sleep(c, 2, None, 0), end(d, 2, 0), step(from, 4)]).await;
            assert_eq!(outcomes, [Outcome::InboxMoved, Outcome::InboxMoved, Outcome::Conflict]);
            assert!(matches!(world.one(start(new_run(RunKey(77), "kid"))).await, Outcome::IdInUse(row) if row.run == kid));
            assert_eq!(world.one(start(new_run(kid, "another"))).await, Outcome::Conflict);
        }
        assert_eq!(world.commit(vec![step(from, 3), step(a, 3), step(b, 2)]).await, [const { Outcome::Done }; 3]);
        assert_eq!(world.commit(vec![end(from, 4, 0), end(a, 4, 1), end(b, 3, 1)]).await, [const { Outcome::Done }; 3]);
        assert_eq!(world.commit(vec![sleep(c, 2, None, 1), end(d, 2, 1)]).await, [Outcome::Done, Outcome::Done]);
        assert_eq!(world.rows("inbox").await.len(), 1, "the ended left none, and c has not taken its own");
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.iter().map(|claimed| claimed.summary.run).collect::<Vec<_>>(), [kid]);
        world.done(step(kid, 1)).await;
        world.done(end(kid, 2, 0)).await;
    });
}

/// What is told before and behind a restart, on a store that is opened anew.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
async fn told_over_a_restart<S: stent::store::Store>(open: impl AsyncFn() -> S) {
    let mut world = World::new(Box::new(open().await)).await;
    let (from, a) = (world.started("from").await, world.started("a").await);
    let kid = world.key().await;
    let starting = with(turn(from, 1, Then::Hold), vec![child(kid, "kid", 1)], vec![tell("kid", "x"), tell("a", "x")]);
    assert_eq!(told(&mut world, vec![starting.clone(), sleep(a, 1, None, 0)]).await.len(), 2);
    let before = world.rows("inbox").await;
    world.store.close().await.unwrap();
    world.store = Box::new(open().await);
    world.incarnation = incarnation(2);
    world.store.retire(incarnation(1), true, &[]).await.unwrap();
    world.store.register(&node(world.incarnation, 1_000)).await.unwrap();
    assert_eq!(world.rows("inbox").await, before);
    assert_eq!(world.one(starting).await, Outcome::Conflict, "it took place");
    assert_eq!(world.claim(9, 9).await.claimed.len(), 3, "the one that was freed, the one that was woken, and the child");
    assert_eq!(told(&mut world, vec![telling(from, 2, vec![tell("kid", "x"), tell("kid", "y"), tell("a", "y")])]).await.len(), 2);
    assert_eq!(world.commit(vec![end(kid, 1, 1), sleep(a, 2, None, 1)]).await, [const { Outcome::InboxMoved }; 2]);
    assert_eq!(world.commit(vec![end(kid, 1, 2), sleep(a, 2, None, 2)]).await, [const { Outcome::Done }; 2]);
    world.store.close().await.unwrap();
}

#[test]
#[cfg(feature = "sqlite")]
fn what_was_told_is_there_behind_a_restart_on_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stent.db");
    block_on(told_over_a_restart(async || sqlite(&path).await));
}

#[test]
#[cfg(feature = "postgres")]
fn what_was_told_is_there_behind_a_restart_on_a_server() {
    let schema = Schema::fresh();
    block_on(async {
        told_over_a_restart(async || schema.open().await).await;
        schema.drop().await;
    });
}

#[test]
fn a_child_that_was_due_long_ago_is_claimed_by_the_next_poll_however_far_those_have_come() {
    on_each_store(async |world| {
        world.now = 300_000_000;
        let parent = world.started("parent").await;
        assert_eq!(world.claim(9, 9).await.claimed, []);
        let run = world.key().await;
        let mut late = child(run, "late", 1);
        late.row.wake_at = Some(Timestamp(1_000));
        told(world, vec![with(turn(parent, 1, Then::Hold), vec![late], vec![])]).await;
        assert_eq!(world.claim(9, 9).await.claimed.len(), 1);
    });
}
