//! Nodes: the fence, registering and retiring.

use stent::{
    kernel::{id::RunKey, time::Timestamp},
    store::{Batch, ClaimRequest, Outcome},
};

use crate::kit::*;

#[test]
fn everything_of_a_retired_node_is_fenced() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let key = world.key().await;
        world.store.retire(world.incarnation, false, &[]).await.unwrap();
        let before = world.store.reader().snapshot().await.unwrap();
        let claim = ClaimRequest {
            limit: 9,
            ahead: NOT_AHEAD,
            forced_limit: 9,
            build: BUILD,
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let items = vec![step(run, 1), enqueue(new_run(key, "b")), send("a", "x"), release(run, 1, None), heartbeat(run, 1, 1)];
        let batch = Batch { claim: Some(claim), renew: true, ..world.batch(items) };
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.outcomes, vec![Outcome::Fenced; 5]);
        assert!(!answer.live && answer.claimed.is_empty());
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
    });
}

#[test]
fn a_node_that_never_registered_is_fenced() {
    on_each_store(async |world| {
        world.incarnation = incarnation(9);
        let batch = world.batch(vec![start(new_run(RunKey(1), "a"))]);
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!((answer.outcomes, answer.live), (vec![Outcome::Fenced], false));
    });
}

#[test]
fn a_new_node_frees_what_the_dead_one_owned_and_fences_it() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let asleep = world.started("b").await;
        world.done(sleep(asleep, 1, Some(70_000), 0)).await;
        let freed = world.store.register(&node(incarnation(2), 3_000)).await.unwrap();
        assert_eq!(freed, 1);
        let row = world.summary("a").await;
        assert_eq!((row.owner, row.wake_at, row.epoch), (None, Some(Timestamp(3_000)), 1));
        assert_eq!(world.summary("b").await.wake_at, Some(Timestamp(70_000)));
        let batch = world.batch(vec![step(run, 1)]);
        assert!(!world.store.commit(&batch).await.unwrap().live);
    });
}

#[test]
fn a_retired_node_frees_all_but_what_it_keeps() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        assert_eq!(world.store.retire(world.incarnation, true, &[b]).await.unwrap(), 1);
        assert_eq!(world.summary("a").await.owner, None);
        assert_eq!(world.owned().await, [b]);
        assert_eq!(world.store.retire(world.incarnation, true, &[]).await.unwrap(), 1);
        assert_eq!(world.store.retire(incarnation(9), true, &[a]).await.unwrap(), 0);
    });
}

#[cfg(feature = "postgres")]
#[test]
fn runs_whose_acts_could_not_be_stopped_stay_for_one_lease_whatever_becomes_of_the_sessions_of_their_node() {
    block_on(async {
        let schema = Schema::fresh();
        let mut a = World::new(Box::new(schema.open().await)).await;
        let mut b = World { store: Box::new(schema.open().await), incarnation: incarnation(2), now: 1_000 };
        b.store.register(&node(b.incarnation, 1_000)).await.unwrap();
        let [x, y] = [a.started("x").await, a.started("y").await];
        a.done(step(x, 1)).await;
        assert_eq!(a.store.retire(a.incarnation, true, &[y]).await.unwrap(), 1);
        a.store.close().await.unwrap();
        // Its locks are gone with its sessions. That it has left says nothing of what its process still does.
        let mut foreign = schema.foreign().await;
        let left = "SELECT count(*) FROM nodes n JOIN node_lanes l ON l.node = n.node JOIN pg_stat_activity s ON s.pid = l.pid
            WHERE n.incarnation = $1";
        while sqlx::query_scalar::<_, i64>(left).bind(a.incarnation.0).fetch_one(&mut foreign).await.unwrap() > 0 {}
        assert_eq!(b.store.sweep(Timestamp(1_000), 9).await.unwrap(), 0);
        assert_eq!(b.summary("y").await.owner, Some(a.incarnation));
        let over = 1_000 + i64::try_from(LEASE.as_micros()).unwrap();
        assert_eq!(b.store.sweep(Timestamp(over - 1), 9).await.unwrap(), 0);
        assert_eq!(b.store.sweep(Timestamp(over), 9).await.unwrap(), 1);
        b.store.close().await.unwrap();
        drop(foreign);
        schema.drop().await;
    });
}

#[test]
fn an_incarnation_lives_once() {
    on_each_store(async |world| {
        let again = node(world.incarnation, 2_000);
        assert!(world.store.register(&again).await.is_err());
        world.started("a").await;
        world.store.retire(world.incarnation, false, &[]).await.unwrap();
        assert!(world.store.register(&again).await.is_err());
        let batch = world.batch(Vec::new());
        assert!(!world.store.commit(&batch).await.unwrap().live);
    });
}

#[test]
fn a_renewal_adds_one_to_the_beat() {
    on_each_store(async |world| {
        let batch = Batch { renew: true, ..world.batch(Vec::new()) };
        world.store.commit(&batch).await.unwrap();
        world.store.commit(&batch).await.unwrap();
        assert!(world.rows("node").await[0].ends_with("live=true beat=2"));
    });
}

#[test]
fn a_node_that_is_about_to_leave_claims_nothing_and_still_writes() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        world.done(sleep(run, 1, Some(900), 0)).await;
        world.store.drain(world.incarnation).await.unwrap();
        assert_eq!(world.claim(9, 9).await.claimed, []);
        world.started("b").await;
    });
}

#[test]
fn keys_ascend_and_are_never_given_twice() {
    on_each_store(async |world| {
        let first = world.store.reserve_keys(10).await.unwrap();
        let second = world.store.reserve_keys(1).await.unwrap();
        assert!(second.0 >= first.0 + 10);
        assert!(world.store.reserve_keys(1).await.unwrap() > second);
    });
}

#[test]
fn a_closed_store_does_nothing() {
    on_each_store(async |world| {
        world.store.close().await.unwrap();
        let batch = world.batch(Vec::new());
        assert!(world.store.commit(&batch).await.is_err());
        assert!(world.store.reader().find("a", None).await.is_err());
        assert!(world.store.reader().snapshot().await.is_err());
        assert!(world.store.reserve_keys(1).await.is_err());
        world.store.close().await.unwrap();
    });
}
