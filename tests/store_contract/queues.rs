//! Shared queues: a task is written with its turn, taken by one node within its queue's limits, and ended once.

use std::sync::Arc;

use bytes::Bytes;
use stent::{
    kernel::{
        event::{MessageBody, TaskEnd},
        id::{Incarnation, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{EndTask, Item, NewTask, Outcome, Queue, TaskKey, TaskRequest, Turn},
};

use crate::kit::*;

pub(crate) fn task(run: RunKey, position: u32, queue: &str) -> NewTask {
    NewTask {
        key: TaskKey { run, position, attempt: 1 },
        queue: queue.into(),
        lane: String::new(),
        priority: 0,
        activity: "act".into(),
        needs: Vec::new(),
        due_at: Timestamp(1_000 + i64::from(position)),
        start_by: None,
        body: Bytes::from(format!("body {position}")),
    }
}

fn placed(run: RunKey, commit_no: u32, tasks: Vec<NewTask>) -> Item {
    Item::Turn(Arc::new(Turn { tasks, ..turn(run, commit_no, stent::store::Then::Hold) }))
}

fn withdrawn(run: RunKey, commit_no: u32, positions: Vec<u32>) -> Item {
    Item::Turn(Arc::new(Turn { withdrawn: positions, ..turn(run, commit_no, stent::store::Then::Hold) }))
}

pub(crate) fn ended(key: TaskKey, by: Option<Incarnation>) -> Item {
    let end = TaskEnd::Done(Payload::encode(&7_u32, "a number").unwrap());
    let body = MessageBody::Task { position: key.position, attempt: key.attempt, end, details: None };
    Item::EndTask(Box::new(EndTask { key, by, body }))
}

impl World {
    fn wish(&self, limit: u32) -> TaskRequest {
        TaskRequest {
            by: self.incarnation,
            now: Timestamp(self.now + 1_000_000),
            limit,
            activities: vec!["act".into()],
            queues: None,
            tags: Vec::new(),
        }
    }

    async fn take_by(&mut self, request: TaskRequest) -> Vec<u32> {
        let taken = self.store.take_tasks(request).await.unwrap();
        taken.tasks.iter().map(|task| task.key.position).collect()
    }

    pub(crate) async fn take(&mut self, limit: u32) -> Vec<u32> {
        self.take_by(self.wish(limit)).await
    }
}

#[test]
fn a_task_goes_with_its_turn_is_taken_once_and_its_end_is_in_the_inbox_once() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(placed(run, 1, vec![task(run, 1, "q")])).await;
        let taken = world.store.take_tasks(world.wish(9)).await.unwrap();
        assert_eq!((taken.tasks.len(), &taken.tasks[0].body[..]), (1, &b"body 1"[..]));
        assert!(world.take(9).await.is_empty(), "it is taken");
        let key = taken.tasks[0].key;
        assert_eq!(world.one(ended(key, None)).await, Outcome::NotOwned, "somebody has it");
        let answer = world.one(ended(key, Some(world.incarnation))).await;
        assert_eq!(answer, Outcome::Sent { seq: 1, run, owner: Some(world.incarnation) });
        assert_eq!(world.one(ended(key, Some(world.incarnation))).await, Outcome::NotOwned, "it ends once");
        let inbox = world.store.reader().inbox(run).await.unwrap();
        assert!(matches!(&inbox.unread[..], [unread] if unread.message == "stent:task:1/1"));
        assert!(world.store.reader().tasks(run).await.unwrap().is_empty());
    });
}

#[test]
fn a_refused_turn_leaves_no_task_behind() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        assert_eq!(world.one(placed(run, 7, vec![task(run, 1, "q")])).await, Outcome::Conflict);
        assert!(world.take(9).await.is_empty());
    });
}

#[test]
fn an_end_wakes_a_run_that_sleeps_and_is_told_in_spite_of_a_full_inbox() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(placed(run, 1, vec![task(run, 1, "q")])).await;
        for number in 0..INBOX_LIMIT {
            world.send("a", &format!("m{number}")).await;
        }
        world.done(sleep(run, 2, None, u64::from(INBOX_LIMIT))).await;
        assert_eq!(world.take(9).await, [1]);
        let key = TaskKey { run, position: 1, attempt: 1 };
        let answer = world.one(ended(key, Some(world.incarnation))).await;
        assert_eq!(answer, Outcome::Sent { seq: u64::from(INBOX_LIMIT) + 1, run, owner: None });
        assert_eq!(world.summary("a").await.wake_at, Some(Timestamp(world.now)));
    });
}

#[test]
fn what_is_withdrawn_goes_at_once_or_keeps_its_permit_until_its_worker_lets_go() {
    on_each_store(async |world| {
        world.store.declare_queues(&[Queue::named("q").concurrency(1)]).await.unwrap();
        let run = world.started("a").await;
        world.done(placed(run, 1, vec![task(run, 1, "q"), task(run, 2, "q"), task(run, 3, "q")])).await;
        assert_eq!(world.take(9).await, [1]);
        world.done(withdrawn(run, 2, vec![1, 2])).await;
        assert!(world.take(9).await.is_empty(), "the code of 1 may still be at it");
        let held = world.store.reader().held_tasks(world.incarnation).await.unwrap();
        assert!(matches!(&held[..], [row] if row.dropped && row.key.position == 1));
        let key = TaskKey { run, position: 1, attempt: 1 };
        assert_eq!(world.one(ended(key, Some(world.incarnation))).await, Outcome::Done, "nobody wants to know");
        assert_eq!(world.take(9).await, [3]);
        assert!(world.store.reader().inbox(run).await.unwrap().unread.is_empty());
    });
}

#[test]
fn the_end_of_a_task_whose_run_has_ended_is_told_to_nobody() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(placed(run, 1, vec![task(run, 1, "q")])).await;
        assert_eq!(world.take(9).await, [1]);
        world.done(end(run, 2, 0)).await;
        let key = TaskKey { run, position: 1, attempt: 1 };
        assert_eq!(world.one(ended(key, Some(world.incarnation))).await, Outcome::Done);
    });
}

#[test]
fn limits_priority_and_due_time_decide_who_is_taken() {
    on_each_store(async |world| {
        world.store.declare_queues(&[Queue::named("q").concurrency(3)]).await.unwrap();
        let run = world.started("a").await;
        let urgent = NewTask { priority: 5, ..task(run, 4, "q") };
        let later = NewTask { due_at: Timestamp(50_000_000), priority: 900, ..task(run, 5, "q") };
        let tasks = vec![task(run, 1, "q"), task(run, 2, "q"), task(run, 3, "q"), urgent, later];
        world.done(placed(run, 1, tasks)).await;
        assert_eq!(world.take(2).await, [4, 1]);
        assert_eq!(world.take(9).await, [2], "three at once");
        assert!(world.take(9).await.is_empty());
        let key = TaskKey { run, position: 4, attempt: 1 };
        world.one(ended(key, Some(world.incarnation))).await;
        assert_eq!(world.take(9).await, [3]);
    });
}

#[test]
fn a_key_at_its_limit_holds_up_nobody_and_fair_keys_take_turns() {
    on_each_store(async |world| {
        world.store.declare_queues(&[Queue::named("limited").per_key(1), Queue::named("fair").fair()]).await.unwrap();
        let run = world.started("a").await;
        let keyed = |position, queue, lane: &str| NewTask { lane: lane.into(), ..task(run, position, queue) };
        let mut tasks: Vec<NewTask> = (1..=5).map(|position| keyed(position, "limited", "a")).collect();
        tasks.extend([keyed(6, "limited", "b"), keyed(7, "limited", "c")]);
        tasks.extend((11..=15).map(|position| keyed(position, "fair", "a")));
        tasks.extend([keyed(16, "fair", "b"), keyed(17, "fair", "c"), keyed(18, "fair", "c")]);
        world.done(placed(run, 1, tasks)).await;
        let only = |queue: &str, wish: TaskRequest| TaskRequest { queues: Some(vec![queue.into()]), ..wish };
        assert_eq!(world.take_by(only("limited", world.wish(9))).await, [1, 6, 7]);
        assert!(world.take_by(only("limited", world.wish(9))).await.is_empty());
        assert_eq!(world.take_by(only("fair", world.wish(4))).await, [11, 16, 17, 12]);
        assert_eq!(world.take_by(only("fair", world.wish(2))).await, [18, 13], "the turn went on behind a");
    });
}

#[test]
fn a_node_is_given_only_what_it_has_serves_and_is_tagged_for() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let tasks = vec![
            NewTask { activity: "other".into(), ..task(run, 1, "q") },
            NewTask { needs: vec!["gpu".into()], ..task(run, 2, "q") },
            task(run, 3, "elsewhere"),
            task(run, 4, "q"),
        ];
        world.done(placed(run, 1, tasks)).await;
        let wish = TaskRequest { queues: Some(vec!["q".into()]), ..world.wish(9) };
        assert_eq!(world.take_by(wish).await, [4]);
        let wish = TaskRequest { tags: vec!["gpu".into(), "x".into()], ..world.wish(9) };
        assert_eq!(world.take_by(wish).await, [3, 2], "queue by queue");
    });
}

#[test]
fn a_rate_limits_starts_and_a_paused_queue_starts_nothing() {
    on_each_store(async |world| {
        world.store.declare_queues(&[Queue::named("q").rate(2, std::time::Duration::from_secs(1))]).await.unwrap();
        let run = world.started("a").await;
        world.done(placed(run, 1, (1..=6).map(|position| task(run, position, "q")).collect())).await;
        assert_eq!(world.take(9).await, [1, 2]);
        assert!(world.take(9).await.is_empty());
        world.now += 500_000;
        assert_eq!(world.take(9).await, [3]);
        world.store.pause_queue("q", true).await.unwrap();
        world.now += 5_000_000;
        assert!(world.take(9).await.is_empty());
        world.store.declare_queues(&[Queue::named("q").rate(2, std::time::Duration::from_secs(1))]).await.unwrap();
        assert!(world.take(9).await.is_empty(), "rules that are written again resume nothing");
        world.store.pause_queue("q", false).await.unwrap();
        assert_eq!(world.take(9).await, [4, 5]);
        let queues = world.store.reader().queues().await.unwrap();
        let [queue] = &queues[..] else { panic!("{queues:?}") };
        assert_eq!((queue.waiting, queue.running, queue.paused), (1, 5, false));
    });
}

#[test]
fn what_nobody_starts_in_time_and_what_a_node_that_left_had_is_stale() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let hasty = NewTask { start_by: Some(Timestamp(2_000)), ..task(run, 1, "q") };
        world.done(placed(run, 1, vec![task(run, 2, "q"), hasty])).await;
        let stale = world.store.reader().stale_tasks(Timestamp(1_999), 9).await.unwrap();
        assert!(stale.is_empty());
        let stale = world.store.reader().stale_tasks(Timestamp(2_000), 9).await.unwrap();
        assert!(matches!(&stale[..], [one] if one.key.position == 1 && one.by.is_none()));
        assert_eq!(world.take(9).await, [1, 2]);
        let reader = world.store.reader();
        assert!(reader.stale_tasks(Timestamp(2_000), 9).await.unwrap().is_empty());
        let before = world.incarnation;
        world.store.retire(before, true, &[]).await.unwrap();
        let stale = reader.stale_tasks(Timestamp(2_000), 9).await.unwrap();
        assert_eq!(
            stale.iter().map(|stale| (stale.key.position, stale.by)).collect::<Vec<_>>(),
            [(1, Some(before)), (2, Some(before))]
        );
        world.incarnation = incarnation(2);
        world.store.register(&node(world.incarnation, 3_000)).await.unwrap();
        let answer = world.one(ended(stale[0].key, stale[0].by)).await;
        assert!(matches!(answer, Outcome::Sent { owner: None, .. }), "{answer:?}");
    });
}

#[test]
fn tasks_are_placed_without_a_turn_only_by_the_owner_and_details_are_kept_for_the_next_attempt() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        assert_eq!(world.one(Item::PlaceTasks(run, 9, vec![task(run, 1, "q")])).await, Outcome::NotOwned);
        world.done(Item::PlaceTasks(run, 1, vec![task(run, 1, "q")])).await;
        let key = TaskKey { run, position: 1, attempt: 1 };
        assert_eq!(world.one(Item::BeatTask(key, Bytes::from_static(b"x"))).await, Outcome::NotOwned);
        assert_eq!(world.take(9).await, [1]);
        world.done(Item::PlaceTasks(run, 1, vec![task(run, 1, "q")])).await;
        assert!(world.take(9).await.is_empty(), "who has it keeps it: the attempt is the same");
        world.done(Item::BeatTask(key, Bytes::from_static(b"half"))).await;
        world.one(ended(key, Some(world.incarnation))).await;
        let inbox = world.store.reader().inbox(run).await.unwrap();
        let [unread] = &inbox.unread[..] else { panic!("{inbox:?}") };
        assert!(matches!(&unread.body, MessageBody::Task { details: Some(details), .. } if &details[..] == b"half"));
    });
}

#[test]
fn a_node_that_drains_or_is_dead_takes_nothing() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(placed(run, 1, vec![task(run, 1, "q")])).await;
        world.store.drain(world.incarnation).await.unwrap();
        assert!(world.take(9).await.is_empty());
        world.store.retire(world.incarnation, true, &[]).await.unwrap();
        assert!(world.take(9).await.is_empty());
    });
}
