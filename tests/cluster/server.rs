//! What happens to the server happens to all nodes at once: none gives up, and nothing is lost or repeated.

use std::time::{Duration, Instant};

use crate::{
    chaos::unleash,
    checker::Expect,
    cluster::{Cluster, Job, Place},
    node::Options,
    support::{
        Rng,
        servers::{Postgres, Stop},
    },
    turn,
};

/// Loads three nodes on a private server, and calls `harm` every so often.
fn under_load(seconds: u64, every: Duration, mut harm: impl FnMut(&Postgres, &Cluster<'_>, &mut Rng)) {
    let _turn = turn();
    let mut rng = Rng::from_env("a server in trouble");
    let server = Postgres::own();
    let mut cluster = Cluster::on(server.database(), vec![Options::default(); 3]);
    let mut last = Instant::now();
    let mut beside = |cluster: &mut Cluster<'_>, rng: &mut Rng| {
        if last.elapsed() >= every {
            harm(&server, cluster, rng);
            last = Instant::now();
        }
    };
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(seconds), &[], &mut rng, &mut beside);
    assert_eq!(chaos.gave_up, 0, "a server that comes back is no reason to give up");
    cluster.finish(Expect::default());
}

#[test]
fn a_server_that_is_restarted_fast_under_load_costs_nothing_but_time() {
    under_load(10, Duration::from_secs(3), |server, _, _| server.restart(Stop::Fast));
}

#[test]
fn a_server_that_is_stopped_at_once_under_load_costs_nothing_but_time() {
    under_load(10, Duration::from_secs(3), |server, _, rng| {
        server.stop(if rng.between(0, 1) == 0 { Stop::Immediate } else { Stop::Kill });
        // Down for shorter or longer than the lease.
        std::thread::sleep(Duration::from_millis(rng.between(0, 3_000)));
        server.start();
    });
}

#[test]
fn a_server_that_hangs_for_longer_than_the_lease_costs_nothing_but_time() {
    under_load(14, Duration::from_secs(4), |server, cluster, rng| {
        server.freeze();
        let lease = u64::try_from(cluster.nodes[0].options.lease.as_millis()).unwrap();
        std::thread::sleep(Duration::from_millis(rng.between(lease / 2, 2 * lease)));
        server.thaw();
    });
}

#[test]
fn connections_that_are_killed_under_load_are_made_again_and_nothing_is_lost() {
    under_load(10, Duration::from_millis(700), |_, cluster, _| {
        let Place::Postgres(database) = &cluster.place else { unreachable!("it is on a server") };
        database.terminate();
    });
}

#[test]
fn a_failover_that_forgets_two_seconds_leaves_every_history_whole() {
    let _turn = turn();
    let mut rng = Rng::from_env("a failover");
    let server = Postgres::own();
    let mut cluster = Cluster::on(server.database(), vec![Options::default(); 3]);
    let began = Instant::now();
    let mut copied = None;
    let mut failed_over = false;
    let mut beside = |_: &mut Cluster<'_>, _: &mut Rng| {
        if copied.is_none() && !failed_over && began.elapsed() > Duration::from_secs(3) {
            copied = Some((server.copy(), Instant::now()));
        }
        if let Some((copy, _)) = copied.take_if(|(_, at)| at.elapsed() > Duration::from_secs(2)) {
            server.fail_over_to(copy);
            failed_over = true;
        }
    };
    unleash(&mut cluster, Job::MIXED, Duration::from_secs(12), &[], &mut rng, &mut beside);
    assert!(failed_over);
    cluster.finish(Expect { may_forget: true, ..Expect::default() });
}

#[test]
fn behind_a_node_that_left_the_server_counts_no_connection() {
    let _turn = turn();
    let mut cluster = Cluster::on(Postgres::shared().database(), vec![Options::default(); 2]);
    cluster.dispatch(0, Job { signal: false, ..Job::MIXED }, 10);
    let mut left = Vec::new();
    for node in 0..2 {
        cluster.nodes[node].stop();
        let Place::Postgres(database) = &cluster.place else { unreachable!("it is on a server") };
        // The server notices the end of a connection a moment behind the process that made it.
        std::thread::sleep(Duration::from_millis(50));
        left.push(database.connections());
    }
    println!("connections after the first and the second left: {left:?}");
    assert!(left[0] > 0 && left[1] == 0, "{left:?}");
    cluster.finish(Expect::default());
}
