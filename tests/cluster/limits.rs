//! A limit of the whole cluster, counted from outside while its nodes are killed, frozen and cut off: never one more.

use std::time::Duration;

use crate::{
    chaos::{Fault, duration, unleash},
    checker::Expect,
    cluster::{Cluster, Job},
    node::Options,
    support::{Rng, servers::Postgres},
    turn,
};

/// How long what the chaos asked for may take to pass through the queue. It is asked for by the clock, and passes at the pace of
/// the machine: this is to tell a queue that stands still, not one that is slow.
const LINE: Duration = Duration::from_secs(240);

#[test]
fn a_limit_of_a_queue_is_never_exceeded_whatever_happens_to_the_nodes() {
    let _turn = turn();
    let mut rng = Rng::from_env("a limit");
    let options = Options { workflows: "queued,load", limit: 5, ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![options; 3]);
    let job = Job { workflow: "queued", ..Job::MIXED };
    let faults = [Fault::Kill, Fault::Terminate, Fault::Freeze, Fault::CutOff];
    let chaos = unleash(&mut cluster, job, duration(), &faults, &mut rng, &mut |_, _| {});
    assert!(chaos.faults > 0, "{chaos:?}");
    cluster.finish(Expect { limit: Some(5), queue: "limited", within: LINE, ..Expect::default() });
}

#[test]
fn ten_means_ten_and_one_of_a_key_means_one_on_six_nodes_that_are_killed_and_frozen() {
    let _turn = turn();
    let mut rng = Rng::from_env("ten means ten");
    let options = Options { workflows: "queued,load", limit: 10, per_key: 1, ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![options; 6]);
    let job = Job { workflow: "queued", pause_ms: 30, ..Job::MIXED };
    let chaos = unleash(&mut cluster, job, duration(), &Fault::OF_A_PROCESS, &mut rng, &mut |_, _| {});
    assert!(chaos.faults > 0, "{chaos:?}");
    cluster.finish(Expect { limit: Some(10), queue: "limited", per_key: Some(1), within: LINE, ..Expect::default() });
}
