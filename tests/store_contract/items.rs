//! Turns: the fence of the tail, ids, and what becomes of a run.

use std::sync::Arc;

use stent::{
    kernel::{
        codec::Record,
        id::{Digest, RunKey},
        time::Timestamp,
    },
    store::{Item, NewRun, Outcome, Status, Then, Turn},
};

use crate::kit::*;

#[test]
fn what_was_committed_is_read_back_in_order() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        world.done(step(run, 2)).await;
        let all = world.store.reader().history(run, 0, 100).await.unwrap();
        assert_eq!(all, vec![(0, record(run, 0)), (1, record(run, 1)), (2, record(run, 2))]);
        assert_eq!(world.store.reader().history(run, 1, 1).await.unwrap(), vec![(1, record(run, 1))]);
        assert_eq!(world.store.reader().history(RunKey(99), 0, 9).await.unwrap(), vec![]);
    });
}

#[test]
fn a_log_is_read_back_byte_by_byte_whatever_its_rows_hold_and_however_long_they_are() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let mut written = vec![(0, record(run, 0))];
        // Each byte in each neighbourhood, text that is none, nothing but ends of texts; around the length from which on rows are told apart.
        let bodies = [
            (0..=255).collect(),
            vec![0],
            vec![0; 2_047],
            vec![0xff; 2_048],
            vec![b','; 2_049],
            vec![0xc3; 100_000],
            b"\xef\xbb\xbf\x00'\"".to_vec(),
            (0..=255).rev().cycle().take(5_000).collect(),
        ];
        for (commit_no, body) in (1..).zip(bodies) {
            let digest = Digest(*blake3::hash(&body).as_bytes());
            let record = Record { digest, body: body.into() };
            let prev = written.last().map(|(_, before): &(u32, Record)| before.digest);
            world.done(Item::Turn(Arc::new(Turn { prev, record: record.clone(), ..turn(run, commit_no, Then::Hold) }))).await;
            written.push((commit_no, record));
        }
        let reader = world.store.reader();
        assert_eq!(reader.history(run, 0, 100).await.unwrap(), written);
        assert_eq!(reader.run(run).await.unwrap().unwrap().log, written);
        for (from, limit) in [(1, 3), (3, 2), (5, 1), (6, 9), (8, 1), (9, 5)] {
            let page = written.iter().skip(from).take(limit);
            let read = reader.history(run, u32::try_from(from).unwrap(), u32::try_from(limit).unwrap()).await.unwrap();
            assert!(read.iter().eq(page), "{limit} from {from} on");
        }
    });
}

#[test]
fn a_started_run_is_owned_by_who_started_it_under_epoch_1() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let row = world.summary("a").await;
        assert_eq!((row.run, row.owner, row.epoch), (run, Some(world.incarnation), 1));
        assert_eq!((row.status, row.wake_at), (Status::Active, None));
    });
}

#[test]
fn an_append_is_refused_unless_it_names_the_last_row() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(step(run, 1)).await;
        let before = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(step(run, 1)).await, Outcome::Conflict, "the same row again");
        assert_eq!(world.one(step(run, 3)).await, Outcome::Conflict, "a gap");
        let mut other = turn(run, 2, Then::Hold);
        other.prev = Some(record(run, 0).digest);
        assert_eq!(world.one(Item::Turn(Arc::new(other))).await, Outcome::Conflict, "another digest");
        let mut none = turn(run, 2, Then::Hold);
        none.prev = None;
        assert_eq!(world.one(Item::Turn(Arc::new(none))).await, Outcome::Conflict, "no digest");
        assert_eq!(world.one(step(RunKey(99), 1)).await, Outcome::Conflict, "no such run");
        assert_eq!(world.one(step(RunKey(99), 0)).await, Outcome::Conflict, "no such run, from the beginning");
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
    });
}

#[test]
fn nothing_is_appended_to_a_run_that_has_ended() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(end(run, 1, 0)).await;
        assert_eq!(world.one(step(run, 2)).await, Outcome::Conflict);
        let row = world.summary("a").await;
        assert_eq!((row.status, row.owner, row.ended_at), (Status::Completed, None, Some(Timestamp(1_000))));
    });
}

#[test]
fn an_id_is_given_once_and_the_loser_sees_the_winner() {
    on_each_store(async |world| {
        let [first, second, third] = [world.key().await, world.key().await, world.key().await];
        let outcomes = world.commit(vec![start(new_run(first, "a")), start(new_run(second, "a"))]).await;
        let winner = Box::new(world.summary("a").await);
        assert_eq!(outcomes, vec![Outcome::Done, Outcome::IdInUse(winner.clone())]);
        assert_eq!(world.one(enqueue(new_run(third, "a"))).await, Outcome::IdInUse(winner));
        world.done(end(first, 1, 0)).await;
        let ended = Box::new(world.summary("a").await);
        assert_eq!(ended.status, Status::Completed);
        assert_eq!(world.one(start(new_run(second, "a"))).await, Outcome::IdInUse(ended));
        assert_eq!(world.rows("run").await.len(), 1);
        assert_eq!(world.rows("event").await.len(), 2);
    });
}

#[test]
fn a_key_is_given_once() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        assert_eq!(world.one(start(new_run(run, "b"))).await, Outcome::Conflict);
        assert_eq!(world.one(enqueue(new_run(run, "b"))).await, Outcome::Conflict);
    });
}

#[test]
fn the_next_run_follows_only_the_current_one_and_only_after_the_named_ends() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let second = |run_no, after: &[Status]| {
            let mut new = NewRun { after: after.to_vec(), ..new_run(next, "a") };
            new.id.run_no = run_no;
            start(new)
        };
        let refused = |outcome| matches!(outcome, Outcome::IdInUse(_));
        assert!(refused(world.one(second(2, &[Status::Completed, Status::Active])).await), "it has not ended");
        world.done(end(run, 1, 0)).await;
        assert!(refused(world.one(second(2, &[Status::Failed])).await), "it has ended otherwise");
        assert!(refused(world.one(second(3, &[Status::Completed])).await), "it is not the one before");
        world.done(second(2, &[Status::Failed, Status::Completed])).await;
        assert_eq!(world.summary("a").await.run, next);
        assert_eq!(world.store.reader().find("a", Some(1)).await.unwrap().unwrap().run, run);
        let mut orphan = NewRun { after: vec![Status::Completed], ..new_run(RunKey(77), "nobody") };
        orphan.id.run_no = 2;
        assert_eq!(world.one(start(orphan)).await, Outcome::Unknown);
    });
}

#[test]
fn a_run_goes_on_as_the_next_one_within_one_batch() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let next = world.key().await;
        let mut new = NewRun { after: vec![Status::Continued], ..new_run(next, "a") };
        new.id.run_no = 2;
        let last = turn(run, 1, Then::End { status: Status::Continued, seen: Some(0) });
        let outcomes = world.commit(vec![Item::Turn(Arc::new(last)), start(new), send("a", "m")]).await;
        assert_eq!(outcomes[..2], [Outcome::Done, Outcome::Done]);
        assert_eq!(outcomes[2], Outcome::Sent { seq: 1, run: next, owner: Some(incarnation(1)) });
    });
}

#[test]
fn a_run_that_sleeps_is_owned_by_nobody_and_due_when_it_said() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(sleep(run, 1, Some(5_000), 0)).await;
        let row = world.summary("a").await;
        assert_eq!((row.owner, row.wake_at), (None, Some(Timestamp(5_000))));
        assert_eq!(world.store.reader().next_wake(Timestamp(i64::MIN)).await.unwrap(), Some(Timestamp(5_000)));
    });
}

#[test]
fn the_first_turn_may_sleep_or_end_at_once() {
    on_each_store(async |world| {
        let [a, b] = [world.key().await, world.key().await];
        world.done(start_then(new_run(a, "a"), Then::Passivate { wake_at: Some(Timestamp(7)), seen: 0 })).await;
        world.done(start_then(new_run(b, "b"), Then::End { status: Status::Failed, seen: Some(0) })).await;
        let (a, b) = (world.summary("a").await, world.summary("b").await);
        assert_eq!((a.owner, a.wake_at, a.epoch), (None, Some(Timestamp(7)), 1));
        assert_eq!((b.status, b.owner, b.ended_at), (Status::Failed, None, Some(Timestamp(1_000))));
    });
}

#[test]
fn an_enqueued_run_is_owned_by_nobody_and_due() {
    on_each_store(async |world| {
        let [a, b] = [world.key().await, world.key().await];
        world.done(enqueue(new_run(a, "a"))).await;
        world.done(enqueue(NewRun { wake_at: Some(Timestamp(9_000)), ..new_run(b, "b") })).await;
        let (a, b) = (world.summary("a").await, world.summary("b").await);
        assert_eq!((a.owner, a.epoch, a.wake_at), (None, 0, Some(Timestamp(1_000))));
        assert_eq!(b.wake_at, Some(Timestamp(9_000)));
        assert_eq!(world.store.reader().history(b.run, 0, 9).await.unwrap().len(), 1);
    });
}

#[test]
fn what_no_store_can_keep_is_refused_alone() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let other = world.key().await;
        let nul = NewRun { workflow: "fl\0w".into(), ..new_run(other, "b") };
        let no_end = turn(run, 1, Then::End { status: Status::Paused, seen: Some(0) });
        let items = vec![
            start(nul),
            Item::Turn(Arc::new(no_end)),
            start(new_run(other, &"x".repeat(256))),
            send("a", "m\0"),
            send("a", "m"),
        ];
        let outcomes = world.commit(items).await;
        for refused in &outcomes[..4] {
            assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
        }
        assert_eq!(outcomes[4], Outcome::Sent { seq: 1, run, owner: Some(incarnation(1)) });
        assert_eq!(world.rows("run").await.len(), 1);
    });
}

#[test]
fn texts_come_back_as_they_went_in() {
    on_each_store(async |world| {
        let run = world.key().await;
        let odd = "q\"u\\o\n\u{1}\u{7f}t/e 'é 😀 {[null]}";
        let new = NewRun {
            workflow: odd.into(),
            queue: "12".into(),
            tags: vec![odd.into(), String::new(), "1".into()],
            ..new_run(run, odd)
        };
        world.done(start(new.clone())).await;
        let row = world.summary(odd).await;
        assert_eq!((row.id, row.workflow, row.queue, row.tags), (new.id, new.workflow, new.queue, new.tags));
        assert_eq!(world.send(odd, odd).await, Outcome::Sent { seq: 1, run, owner: Some(incarnation(1)) });
        assert_eq!(world.send(odd, odd).await, Outcome::AlreadySent);
        assert_eq!(world.store.reader().inbox(run).await.unwrap().unread[0].message, odd);
    });
}
