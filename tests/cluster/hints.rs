//! Hints go over a Redis server that comes and goes; nodes die meanwhile. The end of the story is the same as without it.

use std::time::{Duration, Instant};

use crate::{
    chaos::{Fault, unleash},
    checker::Expect,
    cluster::{Cluster, Job},
    node::Options,
    support::{
        Rng,
        servers::{Postgres, Redis},
    },
    turn,
};

#[test]
fn a_redis_that_comes_and_goes_while_nodes_die_changes_nothing() {
    let _turn = turn();
    let mut rng = Rng::from_env("hints in trouble");
    let redis = Redis::own();
    let options = Options { hints: redis.url(), activities: 20, ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![options; 3]);
    let (mut last, mut up) = (Instant::now(), true);
    let mut beside = |_: &mut Cluster<'_>, _: &mut Rng| {
        if last.elapsed() >= Duration::from_millis(1_500) {
            if up {
                redis.stop()
            } else {
                redis.start()
            }
            (last, up) = (Instant::now(), !up);
        }
    };
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(10), &Fault::OF_A_PROCESS, &mut rng, &mut beside);
    assert_eq!(chaos.gave_up, 0, "hints are no reason to give up");
    cluster.finish(Expect::default());
}
