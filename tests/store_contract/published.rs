//! What turns publish: rows that come with their turn or not at all, and stay.

use std::sync::Arc;

use stent::{
    kernel::{id::RunKey, payload::Payload},
    store::{Item, Outcome, Publication, Status, Successor, Then, Turn},
};

use crate::kit::*;

pub(crate) fn shows(key: &str, version: u64, value: &str) -> Publication {
    Publication { key: key.into(), version, value: Payload::encode(value, "a value").unwrap() }
}

fn publishing(turn: Turn, published: Vec<Publication>) -> Item {
    Item::Turn(Arc::new(Turn { published, ..turn }))
}

#[test]
fn the_newest_value_of_a_key_is_read_alone_and_with_all_others_and_stays_when_the_run_has_ended() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let reader = world.store.reader();
        assert_eq!(reader.published(run, None).await.unwrap(), []);
        let first = vec![shows("b", 1, "one"), shows("a", 2, ""), shows("ü \"quoted\"", 3, "x")];
        world.done(publishing(turn(run, 1, Then::Hold), first.clone())).await;
        assert_eq!(reader.published(run, None).await.unwrap(), [first[1].clone(), first[0].clone(), first[2].clone()]);
        let then = Then::End { status: Status::Completed, seen: Some(0) };
        world.done(publishing(turn(run, 2, then), vec![shows("b", 4, "two")])).await;
        assert_eq!(reader.published(run, Some("b")).await.unwrap(), [shows("b", 4, "two")]);
        assert_eq!(reader.published(run, Some("c")).await.unwrap(), []);
        assert_eq!(reader.published(run, Some("nul\0")).await.unwrap(), []);
        assert_eq!(reader.published(RunKey(99), None).await.unwrap(), []);
        assert_eq!(reader.published(run, None).await.unwrap().len(), 3);
    });
}

#[test]
fn a_refused_turn_publishes_nothing_and_a_first_turn_may() {
    on_each_store(async |world| {
        let key = world.key().await;
        let Item::Turn(begun) = start(new_run(key, "a")) else { panic!("a turn") };
        world.done(publishing((*begun).clone(), vec![shows("k", 1, "begun")])).await;
        // Its tail has moved, and one of another run in the same batch is sound.
        let other = world.started("b").await;
        let late = publishing(turn(key, 2, Then::Hold), vec![shows("k", 9, "late")]);
        let sound = publishing(turn(other, 1, Then::Hold), vec![shows("k", 2, "sound")]);
        assert_eq!(world.commit(vec![late, sound]).await, [Outcome::Conflict, Outcome::Done]);
        let reader = world.store.reader();
        assert_eq!(reader.published(key, None).await.unwrap(), [shows("k", 1, "begun")]);
        assert_eq!(reader.published(other, None).await.unwrap(), [shows("k", 2, "sound")]);
        let unfit = publishing(turn(key, 1, Then::Hold), vec![shows("nul\0", 2, "x")]);
        assert!(matches!(world.one(unfit).await, Outcome::Refused(_)));
    });
}

#[test]
fn heights_are_the_last_rows_of_the_logs_that_there_are() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        world.done(step(b, 1)).await;
        let heights = world.store.reader().heights(&[b, RunKey(99), a, b]).await.unwrap();
        assert_eq!(heights, [(a, 0), (b, 1)]);
        assert_eq!(world.store.reader().heights(&[]).await.unwrap(), []);
    });
}

#[test]
fn what_an_execution_shows_goes_along_with_the_run_that_continues_in_the_same_item() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let kept = vec![shows("k", 3, "kept"), shows("l", 5, "last")];
        world.done(publishing(turn(run, 1, Then::Hold), vec![shows("k", 3, "kept"), shows("l", 4, "first")])).await;
        let successor = Successor { run: next, record: record(next, 0), due: None, published: kept.clone() };
        let goes_on = turn(run, 2, Then::Continue(Box::new(successor)));
        world.done(publishing(goes_on, vec![shows("l", 5, "last")])).await;
        let reader = world.store.reader();
        assert_eq!(reader.published(next, None).await.unwrap(), kept);
        assert_eq!(reader.published(run, None).await.unwrap(), kept, "of the run before it can still be read");
        // From here on each has rows of its own.
        world.claim(9, 0).await;
        world.done(publishing(turn(next, 1, Then::Hold), vec![shows("k", 9, "new")])).await;
        assert_eq!(reader.published(next, Some("k")).await.unwrap(), [shows("k", 9, "new")]);
        assert_eq!(reader.published(run, Some("k")).await.unwrap(), [shows("k", 3, "kept")]);
    });
}

#[test]
fn a_refused_end_hands_nothing_on_and_a_successor_that_shows_what_makes_no_sense_is_refused() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let goes_on = |commit_no, key: &str| {
            let successor = Successor { run: next, record: record(next, 0), due: None, published: vec![shows(key, 1, "x")] };
            Item::Turn(Arc::new(turn(run, commit_no, Then::Continue(Box::new(successor)))))
        };
        assert_eq!(world.one(goes_on(5, "k")).await, Outcome::Conflict);
        assert!(matches!(world.one(goes_on(1, "nul\0")).await, Outcome::Refused(_)));
        assert_eq!(world.store.reader().published(next, None).await.unwrap(), []);
        world.done(goes_on(1, "k")).await;
        assert_eq!(world.store.reader().published(next, None).await.unwrap(), [shows("k", 1, "x")]);
    });
}
