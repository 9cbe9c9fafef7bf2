//! What one node held goes on at another: soon after it died or hangs, at once when it leaves, and never beside it.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    checker::{Expect, Side},
    cluster::{Cluster, Job, Place},
    node::Options,
    now,
    proxy::Trap,
    support::servers::{Postgres, until},
    turn,
};

pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Within so long behind the end of the lease others must act.
const TAKEOVER: Duration = Duration::from_secs(1);

/// So long after its last act here an execution of a node that leaves acts elsewhere.
pub(crate) const HAND_OVER: Duration = Duration::from_millis(200);

/// Starts three nodes that all have something to do for about ten seconds.
fn busy() -> Cluster<'static> {
    let options = Options { lease: LEASE, ..Options::default() };
    keep_busy(Cluster::on(Postgres::shared().database(), vec![options; 3]))
}

/// Gives three nodes something to do for about ten seconds, and waits until they do it.
pub(crate) fn keep_busy(mut cluster: Cluster<'static>) -> Cluster<'static> {
    for node in 0..3 {
        cluster.dispatch(node, Job { pause_ms: 100, ..Job::busy(80) }, 5);
    }
    let pids: Vec<u32> = cluster.nodes.iter().map(crate::node::Node::pid).collect();
    cluster.until("each node acts", Duration::from_secs(20), |side| {
        let at = now();
        pids.iter().all(|pid| side.held_by(*pid, at).len() >= 3)
    });
    cluster
}

/// Waits until all of these acted elsewhere, and returns how long that took, from a moment on.
pub(crate) fn taken_over(cluster: &Cluster<'_>, held: &BTreeSet<String>, from: u32, since: u128) -> Duration {
    let elsewhere = |side: &Side| held.iter().all(|id| side.taken_over(id, from, since).is_some());
    let side = cluster.until("all are taken over", 5 * (LEASE + TAKEOVER), elsewhere);
    let last = held.iter().map(|id| side.taken_over(id, from, since).unwrap().start).max().unwrap();
    Duration::from_micros(u64::try_from(last - since).unwrap())
}

/// Sleepers are put to sleep by the first node, which claims nothing before it is due, and claimed ahead by the second one,
/// which is killed then.
pub(crate) fn killed_ahead(mut cluster: Cluster<'static>) {
    let count = 20;
    cluster.dispatch(0, Job { sleep_ms: 12_000, ..Job::busy(1) }, count);
    let ahead = Options { ahead: Duration::from_secs(10), ..cluster.nodes[0].options.clone() };
    let second = cluster.add(ahead);
    until("the second node holds most of them", Duration::from_secs(15), || {
        // The balance may send some of them away again.
        cluster.nodes[second].must("held").parse::<u64>().unwrap() > count / 2
    });
    cluster.nodes[second].kill();
    cluster.all_ended(Duration::from_secs(30));
    cluster.finish(Expect::default());
}

#[test]
fn sleepers_that_a_killed_node_had_claimed_ahead_go_on_elsewhere_and_none_of_them_early() {
    let _turn = turn();
    let options = Options { lease: LEASE, ahead: Duration::ZERO, ..Options::default() };
    killed_ahead(Cluster::on(Postgres::shared().database(), [options]));
}

#[test]
fn what_a_killed_node_held_goes_on_elsewhere_within_its_lease_and_a_second() {
    let _turn = turn();
    let mut cluster = busy();
    let pid = cluster.nodes[0].pid();
    cluster.nodes[0].kill();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    let took = taken_over(&cluster, &held, pid, since);
    println!("{} executions were taken over {took:?} after kill -9", held.len());
    assert!(took <= LEASE + TAKEOVER, "{took:?}");
    cluster.finish(Expect::default());
}

#[test]
fn what_a_frozen_node_held_goes_on_elsewhere_within_its_lease_and_a_second_and_thawed_it_does_nothing_of_it() {
    let _turn = turn();
    let mut cluster = busy();
    let pid = cluster.nodes[0].pid();
    cluster.nodes[0].freeze();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    let took = taken_over(&cluster, &held, pid, since);
    println!("{} executions were taken over {took:?} after SIGSTOP", held.len());
    cluster.nodes[0].thaw();
    assert!(took <= LEASE + TAKEOVER, "{took:?}");
    cluster.finish(Expect::default());
}

#[test]
fn a_node_that_is_frozen_inside_its_commit_is_taken_over_within_its_lease_and_a_second() {
    let _turn = turn();
    let mut cluster = busy();
    let pid = cluster.nodes[0].pid();
    cluster.nodes[0].proxy.as_ref().unwrap().trap(Trap::Withhold, "commit");
    // Turns are one statement, which commits itself; a message goes in by a transaction of several.
    cluster.signal_later(0, Job { pause_ms: 100, ..Job::busy(80) }, &(1..=5));
    let proxy = cluster.nodes[0].proxy.as_ref().unwrap();
    until("it is at its COMMIT", Duration::from_secs(10), || proxy.sprung() == 1);
    cluster.nodes[0].freeze();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    let took = taken_over(&cluster, &held, pid, since);
    println!("{} executions were taken over {took:?} after a freeze inside a COMMIT", held.len());
    assert!(took <= LEASE + TAKEOVER, "{took:?}");
    // The COMMIT arrives now, of a node that is long dead.
    cluster.nodes[0].proxy.as_ref().unwrap().heal();
    cluster.nodes[0].thaw();
    cluster.finish(Expect::default());
}

#[test]
fn what_a_leaving_node_held_goes_on_elsewhere_at_once() {
    let _turn = turn();
    let longest = hand_over(busy());
    assert!(longest <= HAND_OVER, "{longest:?}");
}

/// Lets the first node leave; returns the longest time for which an execution that it held did not act.
pub(crate) fn hand_over(mut cluster: Cluster<'static>) -> Duration {
    let pid = cluster.nodes[0].pid();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    cluster.nodes[0].stop();
    println!("it left {:?} after SIGTERM", Duration::from_micros(u64::try_from(now() - since).unwrap()));
    taken_over(&cluster, &held, pid, since);
    let side = cluster.side();
    let gaps = held.iter().map(|id| {
        let last = side.acts.iter().filter(|act| act.id == *id && act.pid == pid).filter_map(|act| act.end).max().unwrap();
        let next = side.taken_over(id, pid, last).expect("it goes on").start;
        Duration::from_micros(u64::try_from(next - last).unwrap())
    });
    let longest = gaps.max().unwrap();
    println!("the longest of {} gaps is {longest:?}", held.len());
    cluster.finish(Expect::default());
    longest
}

#[test]
fn the_only_node_killed_and_started_at_once_goes_on_within_two_seconds_whatever_its_lease() {
    let _turn = turn();
    let options = Options { lease: Duration::from_secs(30), ..Options::default() };
    let mut cluster = Cluster::on(Postgres::shared().database(), [options]);
    cluster.dispatch(0, Job::busy(160), 5);
    let pid = cluster.nodes[0].pid();
    cluster.until("it acts", Duration::from_secs(10), |side| side.held_by(pid, now()).len() == 5);
    // The server's locks prove a death once it has been up for long enough for everybody to have come back.
    let Place::Postgres(database) = &cluster.place else { unreachable!("it is a server") };
    let up = "select clock_timestamp() - pg_postmaster_start_time() > interval '5 seconds'";
    until("the server has been up for a while", Duration::from_secs(20), || database.sql(up) == "t");
    let held = cluster.side().held_by(pid, now());
    cluster.nodes[0].kill();
    std::thread::sleep(Duration::from_millis(100));
    cluster.nodes[0].start();
    let up = now();
    let took = taken_over(&cluster, &held, pid, up);
    println!("{} executions went on {took:?} after the start", held.len());
    assert!(took <= Duration::from_secs(2), "{took:?}");
    cluster.finish(Expect::default());
}

#[test]
fn idle_nodes_whose_connections_are_all_cut_bury_nobody() {
    let _turn = turn();
    let options = Options { lease: Duration::from_secs(10), ..Options::default() };
    let cluster = Cluster::on(Postgres::shared().database(), vec![options; 3]);
    let Place::Postgres(database) = &cluster.place else { unreachable!("it is on a server") };
    let up = "select clock_timestamp() - pg_postmaster_start_time() > interval '6 seconds'";
    until("the server's locks prove a death", Duration::from_secs(20), || database.sql(up) == "t");
    for _ in 0..4 {
        assert!(database.terminate() > 0);
        std::thread::sleep(Duration::from_millis(2_600));
        assert_eq!(database.sql("select count(*) from stent.nodes where state < 3"), "3", "each lives");
    }
    cluster.finish(Expect::default());
}
