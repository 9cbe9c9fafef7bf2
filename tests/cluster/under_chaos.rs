//! Three nodes under load, and everything that can happen to a process or to its network happens to them, in any order.

use std::time::Duration;

use crate::{
    chaos::{Fault, duration, unleash},
    checker::Expect,
    cluster::{Cluster, Job},
    node::Options,
    support::{Rng, servers::Postgres},
    turn,
};

#[test]
fn three_nodes_under_chaos_lose_nothing_and_repeat_nothing_that_was_recorded() {
    let _turn = turn();
    let mut rng = Rng::from_env("chaos");
    let options = Options { activities: 20, ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![options; 3]);
    let chaos = unleash(&mut cluster, Job::MIXED, duration(), &Fault::ALL, &mut rng, &mut |_, _| {});
    assert!(chaos.faults > 0, "{chaos:?}");
    cluster.finish(Expect::default());
}

#[test]
fn what_became_of_a_commit_is_never_guessed_when_its_answer_is_lost_or_it_lands_late() {
    let _turn = turn();
    let mut rng = Rng::from_env("lost answers");
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![Options::default(); 2]);
    let faults = [Fault::LoseReply, Fault::LandLate];
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(10), &faults, &mut rng, &mut |_, _| {});
    assert_eq!(chaos.gave_up, 0, "a lost connection is no reason to give up");
    let sprung: u32 = cluster.nodes.iter().filter_map(|node| node.proxy.as_ref()).map(crate::proxy::Proxy::sprung).sum();
    assert!(sprung > 0, "a COMMIT passed by");
    cluster.finish(Expect::default());
}

#[test]
fn a_node_that_is_cut_off_or_hears_nothing_for_longer_than_its_lease_comes_back() {
    let _turn = turn();
    let mut rng = Rng::from_env("cut off");
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![Options::default(); 3]);
    let faults = [Fault::CutOff, Fault::Hold];
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(12), &faults, &mut rng, &mut |_, _| {});
    assert_eq!(chaos.gave_up, 0, "a store that cannot be reached is no reason to give up");
    cluster.finish(Expect::default());
}
