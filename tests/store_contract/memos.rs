//! Shared results: what a turn asks for, keeps and leaves is there with its commit or not at all; a question is answered once, by whoever has
//! seen its key as it is; and what there is to do about keys is found by looking.

use std::sync::Arc;

use stent::{
    kernel::{
        event::{MessageBody, Tell},
        id::{RunId, RunKey},
        memo::{Kept, MEMO_KEY_BYTES, MemoKey, MemoWord},
        payload::Payload,
        time::Timestamp,
    },
    store::{
        Item, MemoAsk, MemoChange, MemoEntry, MemoFound, MemoRow, MemoStep, MemoThen, Outcome, Status, Then, Turn, YieldReason,
    },
};

use crate::{kit::*, others::tell};

pub(crate) const KEY: MemoKey = MemoKey([0xe9; MEMO_KEY_BYTES]);

pub(crate) fn key(number: u8) -> MemoKey {
    MemoKey([number; MEMO_KEY_BYTES])
}

pub(crate) fn kept(text: &str) -> Kept {
    let output = Payload::encode(text, "a value").unwrap();
    Kept { output, run: RunId { id: "a".into(), run_no: 1 }, position: 1 }
}

pub(crate) fn entry(key: MemoKey, position: u32, step: MemoStep) -> MemoEntry {
    MemoEntry { key, position, step }
}

fn sharing(run: RunKey, commit_no: u32, then: Then, memos: Vec<MemoEntry>) -> Item {
    Item::Turn(Arc::new(Turn { memos, ..turn(run, commit_no, then) }))
}

fn asking(run: RunKey, commit_no: u32, key: MemoKey, ask: u32) -> Item {
    sharing(run, commit_no, Then::Hold, vec![entry(key, 1, MemoStep::Ask(ask))])
}

pub(crate) fn ask(run: RunKey, ask: u32) -> MemoAsk {
    MemoAsk { run, position: 1, ask }
}

pub(crate) fn change(key: MemoKey, seen: Option<i64>, then: MemoThen, taken: Vec<MemoAsk>) -> MemoChange {
    MemoChange { key, seen, then, taken, unowned: None, tells: Vec::new() }
}

pub(crate) fn item(change: MemoChange) -> Item {
    Item::Memo(Box::new(change))
}

fn grant(key: MemoKey, to: MemoAsk, stamp: i64) -> Item {
    item(change(key, None, MemoThen::Held(to, stamp), vec![to]))
}

async fn found(world: &World, key: MemoKey) -> MemoFound {
    world.store.reader().memo(key, 9).await.unwrap()
}

async fn work(world: &World, now: i64, stuck: i64) -> Vec<MemoKey> {
    world.store.reader().memo_work(Timestamp(now), Timestamp(stuck), 9).await.unwrap()
}

fn held(key: MemoKey, by: MemoAsk, stamp: i64) -> Option<MemoRow> {
    Some(MemoRow { key, stamp, holder: Some(by), kept: None, until: None })
}

#[test]
fn of_all_who_answer_one_question_one_is_accepted() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        assert_eq!(found(world, KEY).await, MemoFound::default());
        world.done(asking(b, 1, KEY, 1)).await;
        world.done(asking(a, 1, KEY, 3)).await;
        assert_eq!(found(world, KEY).await.asks, [ask(a, 3), ask(b, 1)], "in the order of their runs");
        assert_eq!(world.one(grant(KEY, ask(a, 2), 5)).await, Outcome::Conflict, "it asks for the third time");
        let both = vec![grant(KEY, ask(a, 3), 5), grant(KEY, ask(b, 1), 6)];
        assert_eq!(world.commit(both).await, [Outcome::Done, Outcome::Conflict]);
        assert_eq!(found(world, KEY).await, MemoFound { row: held(KEY, ask(a, 3), 5), asks: vec![ask(b, 1)] });
        assert_eq!(world.one(grant(KEY, ask(a, 3), 7)).await, Outcome::Conflict, "it is answered");
        assert_eq!(world.one(item(change(KEY, Some(4), MemoThen::Gone, vec![]))).await, Outcome::Conflict);
        // Another key is another matter.
        world.done(asking(a, 2, key(1), 4)).await;
        assert_eq!(found(world, KEY).await.asks, [ask(b, 1)]);
        world.done(grant(key(1), ask(a, 4), 8)).await;
        assert_eq!(world.store.reader().memo_keys(key(0), key(0xff), 9).await.unwrap(), [(key(1), 8), (KEY, 5)]);
        assert_eq!(world.store.reader().memo_keys(key(2), key(0xff), 9).await.unwrap(), [(KEY, 5)]);
        assert_eq!(world.store.reader().memo_keys(key(0), key(0xff), 1).await.unwrap(), [(key(1), 8)]);
    });
}

#[test]
fn the_holder_keeps_its_result_with_its_turn_and_nobody_else_does() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        world.done(asking(a, 1, KEY, 1)).await;
        world.done(grant(KEY, ask(a, 1), 5)).await;
        let until = Some(Timestamp(5_000));
        let keeps = |run, commit_no| sharing(run, commit_no, Then::Hold, vec![entry(KEY, 1, MemoStep::Keep(kept("tea"), until))]);
        world.done(keeps(b, 1)).await;
        assert_eq!(found(world, KEY).await.row, held(KEY, ask(a, 1), 5), "it is not the holder");
        assert_eq!(world.one(keeps(a, 3)).await, Outcome::Conflict);
        assert_eq!(found(world, KEY).await.row, held(KEY, ask(a, 1), 5), "a turn that is refused keeps nothing");
        world.done(keeps(a, 2)).await;
        let row = found(world, KEY).await.row.unwrap();
        assert_eq!((row.holder, row.kept.clone(), row.until), (None, Some(kept("tea")), until));
        assert_ne!(row.stamp, 5);
        // A value is told, and stays; whoever has seen the key as it was before is refused.
        world.done(asking(b, 2, KEY, 1)).await;
        assert_eq!(world.one(item(change(KEY, Some(5), MemoThen::Stays, vec![ask(b, 1)]))).await, Outcome::Conflict);
        world.done(item(change(KEY, Some(row.stamp), MemoThen::Stays, vec![ask(b, 1)]))).await;
        assert_eq!(found(world, KEY).await, MemoFound { row: Some(row.clone()), asks: vec![] });
        world.done(item(change(KEY, Some(row.stamp), MemoThen::Gone, vec![]))).await;
        assert_eq!(found(world, KEY).await, MemoFound::default());
    });
}

#[test]
fn who_leaves_neither_asks_nor_holds_in_the_same_commit() {
    on_each_store(async |world| {
        let [a, b, c] = [world.started("a").await, world.started("b").await, world.started("c").await];
        for run in [a, b, c] {
            world.done(asking(run, 1, KEY, 1)).await;
        }
        world.done(grant(KEY, ask(a, 1), 5)).await;
        let ends = Then::End { status: Status::Failed, seen: Some(0) };
        // Its end is accepted, and its question is gone; that of a turn that is refused is not.
        let leaves = |run, commit_no, then| sharing(run, commit_no, then, vec![entry(KEY, 1, MemoStep::Leave)]);
        assert_eq!(world.commit(vec![leaves(b, 2, ends.clone()), leaves(c, 3, ends)]).await, [Outcome::Done, Outcome::Conflict]);
        assert_eq!(found(world, KEY).await, MemoFound { row: held(KEY, ask(a, 1), 5), asks: vec![ask(c, 1)] });
        // In one turn it may let go and ask again.
        let again = vec![entry(KEY, 1, MemoStep::Leave), entry(KEY, 1, MemoStep::Ask(2))];
        world.done(sharing(a, 2, Then::Hold, again)).await;
        assert_eq!(found(world, KEY).await, MemoFound { row: None, asks: vec![ask(a, 2), ask(c, 1)] });
        // A change in the batch of such a turn finds it done.
        world.done(item(change(KEY, None, MemoThen::Held(ask(a, 2), 7), vec![ask(a, 2)]))).await;
        let batch = vec![
            item(change(KEY, None, MemoThen::Held(ask(c, 1), 9), vec![ask(c, 1)])),
            sharing(a, 3, Then::Hold, vec![entry(KEY, 1, MemoStep::Leave)]),
        ];
        assert_eq!(world.commit(batch).await, [Outcome::Done, Outcome::Done]);
        assert_eq!(found(world, KEY).await, MemoFound { row: held(KEY, ask(c, 1), 9), asks: vec![] });
    });
}

#[test]
fn an_answer_tells_runs_in_its_own_commit_and_takes_nothing_from_one_that_is_owned() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        world.done(asking(a, 1, KEY, 1)).await;
        let word = MemoWord::Value(Box::new(kept("tea")));
        let body = MessageBody::Memo { position: 1, ask: 1, word: word.clone() };
        let tells =
            |id: &str| vec![Tell { to: RunId { id: id.into(), run_no: 1 }, message: word.message(1, 1), body: body.clone() }];
        let answer = MemoChange { tells: tells("a"), ..change(KEY, None, MemoThen::Held(ask(a, 1), 5), vec![ask(a, 1)]) };
        let batch = world.batch(vec![item(answer.clone()), sleep(a, 2, None, 0)]);
        let done = world.store.commit(&batch).await.unwrap();
        assert_eq!((done.told.len(), done.told[0].run, done.told[0].owner), (1, a, None), "{done:?}");
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(1_000)), "behind everything else: it is woken");
        let inbox = world.store.reader().inbox(a).await.unwrap();
        assert_eq!((inbox.unread.len(), &inbox.unread[0].body), (1, &body));
        let batch = world.batch(vec![item(answer)]);
        let refused = world.store.commit(&batch).await.unwrap();
        assert_eq!((refused.outcomes, refused.told.len()), (vec![Outcome::Conflict], 0));

        let free =
            |run| MemoChange { unowned: Some(run), tells: vec![tell("b", "m")], ..change(KEY, Some(5), MemoThen::Gone, vec![]) };
        assert_eq!(world.one(item(free(b))).await, Outcome::Conflict, "somebody has it");
        assert_eq!(world.store.reader().inbox(b).await.unwrap().unread.len(), 0);
        world.done(release(b, 1, None)).await;
        world.done(item(free(b))).await;
        assert_eq!((found(world, KEY).await.row, world.store.reader().inbox(b).await.unwrap().unread.len()), (None, 1));
        // Nobody owns a run that there is not.
        world.done(asking(b, 1, KEY, 1)).await;
        world.done(grant(KEY, ask(b, 1), 5)).await;
        world.done(item(MemoChange { tells: vec![], ..free(RunKey(777)) })).await;
    });
}

#[test]
fn a_look_finds_the_questions_that_can_be_answered_and_the_values_that_count_no_more() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        assert_eq!(work(world, 1_000, 900).await, []);
        world.done(asking(a, 1, KEY, 1)).await;
        world.done(asking(b, 1, key(3), 1)).await;
        assert_eq!(work(world, 1_000, 900).await, [key(3), KEY]);
        assert_eq!(world.store.reader().memo_work(Timestamp(1_000), Timestamp(900), 1).await.unwrap(), [key(3)]);
        world.done(grant(KEY, ask(a, 1), 5)).await;
        world.done(grant(key(3), ask(b, 1), 6)).await;
        assert_eq!(work(world, 1_000, 900).await, []);
        // Somebody waits for one whose holder is there, or asleep, or has just been given back; and then nobody has taken it up.
        let c = world.started("c").await;
        world.done(asking(c, 1, KEY, 1)).await;
        assert_eq!(work(world, 1_000, 900).await, []);
        world.done(sleep(a, 2, None, 0)).await;
        assert_eq!(work(world, 1_000, 900).await, [], "a message will wake it");
        world.send("a", "m").await;
        assert_eq!(work(world, 1_000, 999).await, [], "it is due at a thousand");
        assert_eq!(work(world, 2_000, 1_000).await, [KEY]);
        world.claim(1, 9).await;
        assert_eq!(work(world, 2_000, 1_000).await, []);
        let epoch = world.summary("a").await.epoch;
        let why = YieldReason::Quarantined { reason: "it is not well".into() };
        world.done(Item::Yield(stent::store::Yield { run: a, epoch, why })).await;
        assert_eq!(work(world, 1_000, 0).await, [KEY], "nobody takes it up");
        // Nobody waits for the other; its value counts for its time.
        let keep = MemoStep::Keep(kept("tea"), Some(Timestamp(3_000)));
        world.done(sharing(b, 2, Then::Hold, vec![entry(key(3), 1, keep)])).await;
        assert_eq!(work(world, 2_999, 0).await, [KEY]);
        assert_eq!(work(world, 3_000, 0).await, [key(3), KEY]);
        world.done(asking(b, 3, key(3), 2)).await;
        assert_eq!(work(world, 1_000, 0).await, [key(3), KEY], "there is a value to be told");
    });
}
