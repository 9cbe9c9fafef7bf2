//! Forks and dead letters: a run that begins with a history is one item, letters come with their turn or not at all.

use std::sync::Arc;

use stent::{
    kernel::{
        id::{RunId, RunKey},
        time::Timestamp,
    },
    store::{
        DeadLetter, Fork, Item, Letter, LetterChange, LetterFilter, NewRun, Outcome, Redelivered, SeenLetter, Status, Then, Turn,
    },
};

use crate::{kit::*, published::shows};

pub(crate) fn letter(position: u32, at: i64) -> Letter {
    Letter {
        position,
        attempt: 3,
        commit_no: 1,
        event: position + 7,
        parked: position.is_multiple_of(2),
        activity: format!("act {}", position % 3),
        kind: if position == 1 { "app".into() } else { "timeout".into() },
        text: "what ü \"went\" wrong".into(),
        at: Timestamp(at),
    }
}

pub(crate) fn put(position: u32, at: i64) -> LetterChange {
    LetterChange::Put(letter(position, at))
}

fn lettered(turn: Turn, letters: Vec<LetterChange>) -> Item {
    Item::Turn(Arc::new(Turn { letters, ..turn }))
}

fn ended(run: RunKey, commit_no: u32, status: Status) -> Turn {
    turn(run, commit_no, Then::End { status, seen: Some(0) })
}

/// The next run of an id whose current run has ended: with so many rows of a log.
pub(crate) fn fork(run: RunKey, id: &str, run_no: u32, of: RunKey, rows: u32) -> Fork {
    let after = Status::ALL.into_iter().filter(|status| status.is_end()).collect();
    let row = NewRun { after, id: RunId { id: id.into(), run_no }, ..new_run(run, id) };
    let log = (0..rows).map(|commit_no| record(run, commit_no)).collect();
    Fork { row, log, inbox: Vec::new(), published: Vec::new(), of, undone: Vec::new() }
}

pub(crate) fn again(message: &str) -> Redelivered {
    Redelivered { message: message.into(), body: signal(message), sent_at: Timestamp(7) }
}

fn all() -> LetterFilter {
    LetterFilter { limit: 100, ..LetterFilter::default() }
}

async fn letters(world: &World, filter: LetterFilter) -> Vec<DeadLetter> {
    world.store.reader().letters(&filter).await.unwrap()
}

async fn positions(world: &World, filter: LetterFilter) -> Vec<u32> {
    letters(world, filter).await.into_iter().map(|found| found.letter.position).collect()
}

#[test]
fn a_run_with_a_history_is_there_whole_and_the_one_before_stays_as_it_ended() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(lettered(turn(run, 1, Then::Hold), vec![put(1, 5), put(2, 6), put(3, 7)])).await;
        world.done(Item::Turn(Arc::new(ended(run, 2, Status::Failed)))).await;
        let before = world.store.reader().find("a", Some(1)).await.unwrap().unwrap();
        let next = world.key().await;
        let wanted = Fork {
            inbox: vec![again("one"), again("two")],
            published: vec![shows("k", 9, "v")],
            undone: vec![2, 3, 77],
            ..fork(next, "a", 2, run, 3)
        };
        world.now = 2_000;
        world.done(Item::Fork(Box::new(wanted))).await;
        let reader = world.store.reader();
        assert_eq!(reader.find("a", Some(1)).await.unwrap().unwrap(), before);
        assert_eq!(reader.history(run, 0, 9).await.unwrap().len(), 3);
        let row = world.summary("a").await;
        assert_eq!((row.run, row.id.run_no, row.status, row.owner, row.epoch), (next, 2, Status::Active, None, 0));
        assert_eq!((row.wake_at, row.inbox_seq), (Some(Timestamp(2_000)), 2));
        let log: Vec<_> = (0..3).map(|commit_no| (commit_no, record(next, commit_no))).collect();
        assert_eq!(reader.history(next, 0, 9).await.unwrap(), log);
        let inbox = reader.inbox(next).await.unwrap();
        let unread: Vec<_> = inbox.unread.iter().map(|unread| (unread.seq, &*unread.message, unread.sent_at)).collect();
        assert_eq!(unread, [(1, "one", Timestamp(7)), (2, "two", Timestamp(7))]);
        assert_eq!(reader.published(next, None).await.unwrap(), [shows("k", 9, "v")]);
        assert_eq!(positions(world, all()).await, [1], "the letters of what it undoes are gone");
        let claimed = world.claim(9, 9).await.claimed;
        assert_eq!(claimed.len(), 1);
        assert!(!claimed[0].forced && claimed[0].summary.epoch == 1);
        // It goes on where the copy ends.
        assert_eq!(world.one(step(next, 4)).await, Outcome::Conflict);
        world.done(Item::Turn(Arc::new(Turn { consumed: vec![1, 2], ..turn(next, 3, Then::Hold) }))).await;
    });
}

#[test]
fn only_behind_the_current_run_and_its_end_and_else_nothing_of_it_is_there() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(lettered(turn(run, 1, Then::Hold), vec![put(1, 5)])).await;
        let next = world.key().await;
        let with = |fork: Fork| Item::Fork(Box::new(Fork { undone: vec![1], inbox: vec![again("m")], ..fork }));
        let snapshot = world.store.reader().snapshot().await.unwrap();
        let in_use = |outcome: &Outcome| matches!(outcome, Outcome::IdInUse(_));
        assert!(in_use(&world.one(with(fork(next, "a", 2, run, 2))).await), "it has not ended");
        assert_eq!(world.one(with(fork(next, "nobody", 2, run, 2))).await, Outcome::Unknown);
        assert!(matches!(world.one(with(fork(next, "a", 1, run, 2))).await, Outcome::Refused(_)));
        assert!(matches!(world.one(with(fork(next, "a", 2, run, 0))).await, Outcome::Refused(_)));
        assert_eq!(world.store.reader().snapshot().await.unwrap(), snapshot);
        world.done(Item::Turn(Arc::new(ended(run, 2, Status::Failed)))).await;
        let snapshot = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(with(fork(run, "a", 2, run, 2))).await, Outcome::Conflict, "a key that is taken");
        assert!(in_use(&world.one(with(fork(next, "a", 3, run, 2))).await), "not the next one");
        let full = Fork { inbox: ["a", "b", "c", "d", "e", "f"].map(again).into(), ..fork(next, "a", 2, run, 2) };
        assert_eq!(world.one(Item::Fork(Box::new(full))).await, Outcome::InboxFull);
        let twice = Fork { inbox: vec![again("a"), again("a")], ..fork(next, "a", 2, run, 2) };
        assert!(matches!(world.one(Item::Fork(Box::new(twice))).await, Outcome::Refused(_)));
        assert_eq!(world.store.reader().snapshot().await.unwrap(), snapshot);
        // Of two in one batch one is accepted.
        let other = world.key().await;
        let outcomes = world.commit(vec![with(fork(next, "a", 2, run, 2)), with(fork(other, "a", 2, run, 2))]).await;
        assert!(outcomes[0] == Outcome::Done && in_use(&outcomes[1]), "{outcomes:?}");
        assert_eq!(world.rows("run a/").await.len(), 2);
    });
}

#[test]
fn in_the_batch_of_the_end_it_is_accepted_and_a_message_finds_the_run_that_was_there_first() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let items = vec![
            Item::Fork(Box::new(fork(next, "a", 2, run, 2))),
            send("a", "late"),
            Item::Turn(Arc::new(ended(run, 1, Status::Failed))),
        ];
        let outcomes = world.commit(items).await;
        assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Done, &Outcome::Done));
        assert!(matches!(outcomes[1], Outcome::Ended(_)), "{outcomes:?}");
        assert!(matches!(world.send("a", "later").await, Outcome::Sent { run, owner: None, .. } if run == next));
    });
}

#[test]
fn a_letter_comes_with_its_turn_or_not_at_all_is_replaced_and_goes() {
    on_each_store(async |world| {
        let key = world.key().await;
        let Item::Turn(begun) = start(new_run(key, "a")) else { panic!("a turn") };
        world.done(lettered((*begun).clone(), vec![put(1, 5)])).await;
        let other = world.started("b").await;
        let late = lettered(turn(key, 2, Then::Hold), vec![put(2, 6), LetterChange::Drop(1)]);
        let sound = lettered(turn(other, 1, Then::Hold), vec![put(4, 9)]);
        assert_eq!(world.commit(vec![late, sound]).await, [Outcome::Conflict, Outcome::Done]);
        let found = letters(world, all()).await;
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].run, &*found[0].id.id, &*found[0].workflow, found[0].status), (other, "b", "flow", Status::Active));
        assert_eq!((found[1].run, &found[1].letter), (key, &letter(1, 5)));
        // It fails again, later, and ends with that.
        let newer = Letter { attempt: 9, ..letter(1, 20) };
        world.done(lettered(ended(key, 1, Status::Failed), vec![LetterChange::Put(newer.clone())])).await;
        let found = letters(world, all()).await;
        assert_eq!((found[0].letter.clone(), found[0].status), (newer, Status::Failed), "it stays when its run has ended");
        assert_eq!(found.len(), 2);
        world.done(lettered(turn(other, 2, Then::Hold), vec![LetterChange::Drop(4), LetterChange::Drop(5)])).await;
        assert_eq!(positions(world, all()).await, [1]);
        let unfit = LetterChange::Put(Letter { kind: "nul\0".into(), ..letter(7, 5) });
        assert!(matches!(world.one(lettered(turn(other, 3, Then::Hold), vec![unfit])).await, Outcome::Refused(_)));
        let seen = |run, position| SeenLetter::of(run, &letter(position, 5));
        world.done(Item::DropLetters(vec![seen(key, 1), seen(key, 9), seen(RunKey(99), 1)])).await;
        assert_eq!(positions(world, all()).await, Vec::<u32>::new());
    });
}

#[test]
fn a_letter_goes_only_as_it_was_seen_and_a_newer_failure_of_the_call_keeps_its_own() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(lettered(turn(run, 1, Then::Hold), vec![put(1, 5), put(2, 5), put(3, 5), put(4, 5)])).await;
        let listed: Vec<_> = letters(world, all()).await.iter().map(DeadLetter::seen).collect();
        // Two are retried and fail again: in a later commit, and in another place of the same one.
        let later = Letter { attempt: 4, commit_no: 2, at: Timestamp(6), ..letter(1, 6) };
        let beside = Letter { event: 99, ..letter(2, 6) };
        let again = [&later, &beside].map(|letter| LetterChange::Put(letter.clone())).into();
        world.done(lettered(turn(run, 2, Then::Hold), again)).await;
        world.done(Item::DropLetters(listed.clone())).await;
        let left: Vec<_> = letters(world, all()).await.into_iter().map(|found| found.letter).collect();
        assert_eq!(left, [beside.clone(), later.clone()]);
        // In one batch with the newer failures, before them and behind them: turns come first.
        let [third, fourth] = [letter(3, 7), letter(4, 7)].map(|letter| Letter { commit_no: 3, ..letter });
        let both = [&third, &fourth].map(|letter| LetterChange::Put(letter.clone())).into();
        let turned = lettered(turn(run, 3, Then::Hold), both);
        let (stale, seen) = (Item::DropLetters(listed), Item::DropLetters(vec![SeenLetter::of(run, &fourth)]));
        assert_eq!(world.commit(vec![stale, turned, seen]).await, [const { Outcome::Done }; 3]);
        assert_eq!(positions(world, all()).await, [3, 2, 1], "the fourth was there when it was taken out");
        world.done(Item::DropLetters([later, beside, third].iter().map(|letter| SeenLetter::of(run, letter)).collect())).await;
        assert_eq!(positions(world, all()).await, Vec::<u32>::new());
    });
}

#[test]
fn letters_are_listed_newest_first_by_each_filter_and_page_by_page() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        world.done(lettered(turn(a, 1, Then::Hold), vec![put(1, 50), put(2, 40), put(3, 40)])).await;
        world.done(lettered(turn(b, 1, Then::Hold), vec![put(4, 40), put(5, 60)])).await;
        assert_eq!(positions(world, all()).await, [5, 1, 4, 3, 2]);
        let only = |change: &dyn Fn(&mut LetterFilter)| {
            let mut filter = all();
            change(&mut filter);
            filter
        };
        assert_eq!(positions(world, only(&|f| f.kind = Some("app".into()))).await, [1]);
        assert_eq!(positions(world, only(&|f| f.activity = Some("act 2".into()))).await, [5, 2]);
        assert_eq!(positions(world, only(&|f| f.parked = Some(true))).await, [4, 2]);
        assert_eq!(positions(world, only(&|f| f.parked = Some(false))).await, [5, 1, 3]);
        assert_eq!(positions(world, only(&|f| f.since = Some(Timestamp(50)))).await, [5, 1]);
        assert_eq!(positions(world, only(&|f| f.run = Some(a))).await, [1, 3, 2]);
        assert_eq!(positions(world, only(&|f| (f.run, f.position) = (Some(a), Some(3)))).await, [3]);
        assert_eq!(positions(world, only(&|f| f.position = Some(5))).await, [5]);
        assert_eq!(positions(world, only(&|f| f.workflow = Some("flow".into()))).await.len(), 5);
        for nobody in ["other", "nul\0"] {
            assert_eq!(positions(world, only(&|f| f.workflow = Some(nobody.into()))).await, Vec::<u32>::new());
        }
        let (mut filter, mut seen) = (LetterFilter { limit: 2, ..LetterFilter::default() }, Vec::new());
        loop {
            let page = letters(world, filter.clone()).await;
            let Some(last) = page.last() else { break };
            filter.before = Some(last.place());
            seen.extend(page.iter().map(|found| found.letter.position));
        }
        assert_eq!(seen, [5, 1, 4, 3, 2]);
    });
}
