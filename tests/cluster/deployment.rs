//! Nodes that differ: in what they can run, in their version, in their clocks. Each does what it can, and no more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    chaos::{Fault, unleash},
    checker::Expect,
    cluster::{Cluster, Job},
    node::Options,
    now,
    support::{Rng, servers::Postgres},
    turn,
};

#[test]
fn clocks_that_are_ten_minutes_apart_and_time_zones_change_nothing() {
    let _turn = turn();
    let mut rng = Rng::from_env("clocks");
    let clocks = [(0, "UTC"), (600, "America/New_York"), (-600, "Asia/Kolkata")];
    let nodes = clocks.map(|(clock_off, timezone)| Options { clock_off, timezone, ..Options::default() });
    let mut cluster = Cluster::on(Postgres::shared().database(), nodes);
    let job = Job { sleep_ms: 300, ..Job::MIXED };
    unleash(&mut cluster, job, Duration::from_secs(10), &Fault::OF_A_PROCESS, &mut rng, &mut |_, _| {});
    // Ten minutes late would be as wrong as early, which the auditor looks for.
    cluster.finish(Expect { within: Duration::from_secs(30), ..Expect::default() });
}

#[test]
fn a_node_that_lacks_a_workflow_never_touches_it_and_one_that_has_it_goes_on_with_it() {
    let _turn = turn();
    let common = Options::default();
    let rare = Options { workflows: "load,rare", ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), [common.clone(), common.clone(), rare]);
    let job = Job { workflow: "rare", ..Job::busy(60) };
    cluster.dispatch(2, job, 5);
    cluster.dispatch(2, Job::busy(60), 5);
    let mut able = BTreeSet::from([cluster.nodes[2].pid()]);
    let first = cluster.nodes[2].pid();
    cluster.until("it acts", Duration::from_secs(10), |side| side.held_by(first, now()).len() == 10);
    cluster.nodes[2].kill();
    let since = now();
    let held = cluster.side().held_by(first, since);
    // The others take what they can run, and by then they would have taken the rest as well.
    cluster.until("the others take over", Duration::from_secs(20), |side| {
        held.iter().filter(|id| id.starts_with("load")).all(|id| side.taken_over(id, first, since).is_some())
    });
    std::thread::sleep(common.lease);
    let rare_since =
        |side: &crate::checker::Side| side.acts.iter().filter(|act| act.id.starts_with("rare") && act.start > since).count();
    assert_eq!(rare_since(&cluster.side()), 0, "nobody there can run it");
    cluster.nodes[2].start();
    able.insert(cluster.nodes[2].pid());
    cluster.until("it goes on", Duration::from_secs(20), |side| rare_since(side) > 0);
    cluster.all_ended(Duration::from_secs(60));
    let strangers = cluster.side().acts.into_iter().find(|act| act.id.starts_with("rare") && !able.contains(&act.pid));
    assert!(strangers.is_none(), "{strangers:?}");
    cluster.finish(Expect::default());
}

#[test]
fn a_rolling_deployment_under_load_ends_every_execution_on_its_own_version() {
    let _turn = turn();
    let mut rng = Rng::from_env("a rolling deployment");
    let old = Options { workflows: "load", build: "old", ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![old; 3]);
    let mut rolled = 0;
    let mut last = Instant::now();
    let mut able = BTreeSet::new();
    let mut beside = |cluster: &mut Cluster<'_>, rng: &mut Rng| {
        if rolled < 3 && last.elapsed() > Duration::from_secs(3) {
            let node = &mut cluster.nodes[rolled];
            node.stop();
            node.options = Options { workflows: "load,load2", build: "new", ..Options::default() };
            node.start();
            able.insert(node.pid());
            rolled += 1;
            last = Instant::now();
        }
        if rolled > 0 && rng.between(0, 9) == 0 {
            let at = usize::try_from(rng.between(0, rolled as u64 - 1)).unwrap();
            cluster.dispatch_later(at, Job { workflow: "load2", signal: false, ..Job::MIXED }, 2);
        }
    };
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(14), &[], &mut rng, &mut beside);
    assert_eq!((rolled, chaos.gave_up), (3, 0));
    let strangers = cluster.side().acts.into_iter().find(|act| act.id.starts_with("load2") && !able.contains(&act.pid));
    assert!(strangers.is_none(), "an old node touched the new version: {strangers:?}");
    cluster.finish(Expect::default());
}

#[test]
fn a_canary_with_changed_code_parks_nothing_for_the_others() {
    let _turn = turn();
    let mut rng = Rng::from_env("a canary");
    let old = Options { build: "old", ..Options::default() };
    // The same name and version, and other code: a mistake that no registration shows.
    let canary = Options { workflows: "changed", build: "canary", ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), [old.clone(), old, canary]);
    let job = Job { sleep_ms: 200, signal: false, ..Job::MIXED };
    let began = Instant::now();
    let mut blocked = 0;
    while began.elapsed() < Duration::from_secs(8) {
        let at = usize::try_from(rng.between(0, 1)).unwrap();
        // Begun on an old node; each sleeps for long enough to be claimed by any.
        cluster.dispatch(at, job, rng.between(1, 6));
        blocked = blocked.max(cluster.nodes[at].must("blocked").parse::<u32>().unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.nodes[2].stop();
    cluster.nodes.truncate(2);
    println!("at most {blocked} runs at a time were refused by the canary");
    assert!(blocked > 0, "the canary was never tempted");
    cluster.finish(Expect::default());
}
