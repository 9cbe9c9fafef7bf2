//! What turns publish: rows that come with their turn or not at all, and stay.

use std::sync::Arc;

use stent::{
    kernel::{id::RunKey, payload::Payload},
    store::{Item, Outcome, Publication, Status, Then, Turn},
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
