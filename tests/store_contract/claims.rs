//! Claims and giving back.

use stent::{
    kernel::{
        id::{BuildId, RunKey},
        time::Timestamp,
    },
    store::{Batch, BatchAnswer, ClaimRequest, Item, NewRun, Outcome, Yield, YieldReason},
};

use crate::kit::*;

fn ids(answer: &BatchAnswer) -> Vec<&str> {
    answer.claimed.iter().map(|claimed| claimed.summary.id.id.as_str()).collect()
}

async fn queued(world: &mut World, id: &str, priority: i32, wake_at: i64) -> RunKey {
    let run = world.key().await;
    world.done(enqueue(NewRun { priority, wake_at: Some(Timestamp(wake_at)), ..new_run(run, id) })).await;
    run
}

#[test]
fn a_claim_takes_what_is_due_by_priority_then_time_then_key() {
    on_each_store(async |world| {
        for (id, priority, wake_at) in
            [("late", 0, 500), ("tie-1", 0, 400), ("tie-2", 0, 400), ("high", 3, 900), ("low", -1, 1), ("future", 9, 1_001)]
        {
            queued(world, id, priority, wake_at).await;
        }
        assert_eq!(ids(&world.claim(3, 0).await), ["high", "tie-1", "tie-2"]);
        assert_eq!(ids(&world.claim(9, 0).await), ["late", "low"]);
        assert_eq!(world.store.reader().next_wake(Timestamp(i64::MIN)).await.unwrap(), Some(Timestamp(1_001)));
    });
}

#[test]
fn whoever_has_waited_for_long_enough_is_overtaken_by_nobody() {
    on_each_store(async |world| {
        world.now = 30_000_000;
        queued(world, "old", 0, 1).await;
        queued(world, "urgent", 1, 10_000_000).await;
        queued(world, "later", 1, 10_000_002).await;
        assert_eq!(ids(&world.claim(9, 0).await), ["urgent", "old", "later"]);
    });
}

#[test]
fn a_claimed_run_is_owned_under_the_next_epoch_and_no_longer_due() {
    on_each_store(async |world| {
        let run = queued(world, "a", 0, 1).await;
        let answer = world.claim(1, 1).await;
        let claimed = &answer.claimed[0];
        assert_eq!((claimed.summary.owner, claimed.summary.epoch), (Some(world.incarnation), 1));
        assert_eq!((claimed.summary.wake_at, claimed.forced, claimed.claims), (None, false, 1));
        assert_eq!(world.summary("a").await, claimed.summary);
        assert_eq!(world.owned().await, [run]);
        assert_eq!(ids(&world.claim(1, 1).await), [""; 0]);
    });
}

#[test]
fn a_claim_ahead_takes_what_is_due_soon_behind_what_is_due_and_begins_nothing_early() {
    on_each_store(async |world| {
        for (id, wake_at) in [("late", 1_601), ("soon", 1_600), ("sooner", 1_300), ("due", 1_000)] {
            let run = world.started(id).await;
            world.done(sleep(run, 1, Some(wake_at), 0)).await;
        }
        // Whoever claims it begins it.
        queued(world, "delayed", 0, 1_200).await;
        let ahead = std::time::Duration::from_micros(600);
        assert_eq!(ids(&world.claim_ahead(0, 9, ahead).await), [""; 0]);
        assert_eq!(ids(&world.claim_ahead(1, 9, ahead).await), ["due"], "what is due comes first");
        let answer = world.claim_ahead(9, 9, ahead).await;
        assert_eq!(ids(&answer), ["sooner", "soon"]);
        assert_eq!(answer.claimed.iter().map(|claimed| claimed.due.0).collect::<Vec<_>>(), [1_300, 1_600]);
        assert_eq!(world.summary("soon").await, answer.claimed[1].summary);
        assert_eq!(answer.claimed[1].summary.owner, Some(world.incarnation));
        world.now = 1_200;
        assert_eq!(ids(&world.claim_ahead(9, 9, NOT_AHEAD).await), ["delayed"]);
        let run = world.summary("soon").await.run;
        world.done(release(run, 2, Some(1_600))).await;
        assert_eq!(ids(&world.claim_ahead(9, 9, NOT_AHEAD).await), [""; 0], "given back, it is due when it was");
        assert_eq!(ids(&world.claim_ahead(9, 9, ahead).await), ["soon", "late"]);
    });
}

#[test]
fn claims_are_counted_until_the_run_makes_progress() {
    on_each_store(async |world| {
        let run = queued(world, "a", 0, 1).await;
        for claims in 1..=3 {
            assert_eq!(world.claim(1, 1).await.claimed[0].claims, claims);
            world.done(release(run, claims.into(), Some(1))).await;
        }
        world.done(Item::Progressed(vec![run, RunKey(99)])).await;
        assert_eq!(world.claim(1, 1).await.claimed[0].claims, 1);
        world.done(sleep(run, 1, Some(1), 0)).await;
        assert_eq!(world.claim(1, 1).await.claimed[0].claims, 1, "a turn that sleeps is progress too");
    });
}

#[test]
fn only_workflows_of_this_node_are_claimed() {
    on_each_store(async |world| {
        for (id, workflow, version) in [("a", "flow", 2), ("b", "other", 1), ("c", "flow", 1)] {
            let run = world.key().await;
            world.done(enqueue(NewRun { workflow: workflow.into(), version, ..new_run(run, id) })).await;
        }
        assert_eq!(ids(&world.claim(9, 9).await), ["c"]);
    });
}

#[test]
fn a_blocked_run_is_claimed_by_other_builds_only() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let why = YieldReason::Blocked { build: BUILD, reason: "it differs".into() };
        world.done(Item::Yield(Yield { run, epoch: 1, why })).await;
        assert_eq!(ids(&world.claim(9, 9).await), [""; 0]);
        assert_eq!(world.send("a", "x").await, Outcome::Sent { seq: 1, run, owner: None });
        let row = world.summary("a").await;
        assert_eq!((row.blocked_build, row.reason.as_deref()), (Some(BUILD), Some("it differs")));
        let claim = ClaimRequest {
            limit: 9,
            ahead: NOT_AHEAD,
            forced_limit: 9,
            build: BuildId(8),
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let batch = Batch { claim: Some(claim.clone()), ..world.batch(Vec::new()) };
        assert_eq!(ids(&world.store.commit(&batch).await.unwrap()), ["a"]);
        // Two that cannot run it do not hand it to and fro, and whoever says that it cannot has not died of it.
        let why = YieldReason::Blocked { build: BuildId(8), reason: "it differs here too".into() };
        world.done(Item::Yield(Yield { run, epoch: 2, why })).await;
        assert_eq!(ids(&world.claim(9, 9).await), [""; 0]);
        world.now += 5_000_000;
        let claimed = world.claim(9, 9).await;
        assert_eq!((ids(&claimed), claimed.claimed[0].claims), (vec!["a"], 1));
    });
}

#[test]
fn a_run_put_to_sleep_by_another_build_wakes_by_a_message_although_it_was_blocked_once() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let why = YieldReason::Blocked { build: BuildId(8), reason: "it differs".into() };
        world.done(Item::Yield(Yield { run, epoch: 1, why })).await;
        assert_eq!(ids(&world.claim(9, 9).await), ["a"]);
        world.done(sleep(run, 1, None, 0)).await;
        world.send("a", "x").await;
        assert_eq!(ids(&world.claim(9, 9).await), ["a"]);
    });
}

#[test]
fn runs_freed_by_a_crash_are_claimed_by_force_and_only_so_many_at_once() {
    on_each_store(async |world| {
        for id in ["a", "b", "c"] {
            world.started(id).await;
        }
        world.now = 2_000;
        world.incarnation = incarnation(2);
        assert_eq!(world.store.register(&node(world.incarnation, world.now)).await.unwrap(), 3);
        queued(world, "d", -5, 1).await;
        let first = world.claim(9, 2).await;
        assert_eq!(ids(&first), ["a", "b", "d"]);
        assert_eq!(first.claimed.iter().map(|claimed| claimed.forced).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(first.claimed[0].summary.epoch, 2);
        let run = first.claimed[0].summary.run;
        world.done(release(run, 2, Some(1))).await;
        let second = world.claim(9, 0).await;
        assert_eq!((ids(&second), second.claimed[0].forced), (vec!["a"], false), "told once");
        let why = YieldReason::Released { wake_at: Some(Timestamp(1)), forced: true };
        world.done(Item::Yield(Yield { run, epoch: 3, why })).await;
        assert_eq!(ids(&world.claim(9, 0).await), [""; 0]);
        assert_eq!(ids(&world.claim(1, 9).await), ["a"]);
    });
}

#[test]
fn a_claim_sees_what_its_own_batch_has_made_due() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let key = world.key().await;
        let claim = ClaimRequest {
            limit: 9,
            ahead: NOT_AHEAD,
            forced_limit: 9,
            build: BUILD,
            workflows: vec![("flow".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let items = vec![sleep(run, 1, Some(10), 0), enqueue(new_run(key, "b"))];
        let batch = Batch { claim: Some(claim), renew: true, ..world.batch(items) };
        let answer = world.store.commit(&batch).await.unwrap();
        assert_eq!(answer.outcomes, [Outcome::Done, Outcome::Done]);
        assert_eq!(ids(&answer), ["a", "b"]);
        assert_eq!(world.owned().await, [run, key]);
    });
}

#[test]
fn only_the_owner_under_its_own_epoch_gives_a_run_back() {
    on_each_store(async |world| {
        let run = world.started("a").await;
        let before = world.store.reader().snapshot().await.unwrap();
        assert_eq!(world.one(release(run, 2, None)).await, Outcome::NotOwned);
        assert_eq!(world.one(release(RunKey(99), 1, None)).await, Outcome::NotOwned);
        assert_eq!(world.store.reader().snapshot().await.unwrap(), before);
        let outcomes = world.commit(vec![release(run, 1, None), release(run, 1, None)]).await;
        assert_eq!(outcomes, [Outcome::Done, Outcome::NotOwned]);
    });
}
