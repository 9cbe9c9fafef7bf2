//! Several processes on one SQLite file: no server, and the same stories. What differs is the proof of death, which the
//! operating system gives at once, and that whoever is stopped in the middle of writing keeps everyone from it.

use std::time::Duration;

use crate::{
    chaos::{Fault, duration, unleash},
    checker::Expect,
    cluster::{Cluster, Job},
    node::Options,
    now,
    support::Rng,
    takeover::{HAND_OVER, LEASE, hand_over, keep_busy, killed_ahead, taken_over},
    turn,
};

/// A killed process is found dead at the next look at the others, and is given half a second to have been looked at wrongly.
const PROVED: Duration = Duration::from_millis(1_500);

fn three(options: Options) -> Cluster<'static> {
    Cluster::on_file(vec![options; 3])
}

#[test]
fn three_processes_on_one_file_under_chaos_lose_nothing_and_repeat_nothing_that_was_recorded() {
    let _turn = turn();
    let mut rng = Rng::from_env("chaos on one file");
    let mut cluster = three(Options { activities: 20, ..Options::default() });
    let chaos = unleash(&mut cluster, Job::MIXED, duration(), &Fault::OF_A_PROCESS, &mut rng, &mut |_, _| {});
    assert!(chaos.faults > 0, "{chaos:?}");
    cluster.finish(Expect::default());
}

#[test]
fn what_a_killed_process_held_goes_on_in_another_without_waiting_for_its_lease() {
    let _turn = turn();
    let mut cluster = keep_busy(three(Options { lease: Duration::from_secs(30), ..Options::default() }));
    let pid = cluster.nodes[0].pid();
    cluster.nodes[0].kill();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    let took = taken_over(&cluster, &held, pid, since);
    println!("{} executions were taken over {took:?} after kill -9, with a lease of 30 s", held.len());
    assert!(took <= PROVED, "{took:?}");
    cluster.finish(Expect::default());
}

#[test]
fn sleepers_that_a_killed_process_had_claimed_ahead_go_on_in_another_and_none_of_them_early() {
    let _turn = turn();
    killed_ahead(Cluster::on_file([Options { lease: LEASE, ahead: Duration::ZERO, ..Options::default() }]));
}

#[test]
fn what_a_frozen_process_held_goes_on_in_another_behind_its_lease_and_thawed_it_does_nothing_of_it() {
    let _turn = turn();
    let mut cluster = keep_busy(three(Options { lease: LEASE, ..Options::default() }));
    let pid = cluster.nodes[0].pid();
    cluster.nodes[0].freeze();
    let since = now();
    let held = cluster.side().held_by(pid, since);
    let took = taken_over(&cluster, &held, pid, since);
    println!("{} executions were taken over {took:?} after SIGSTOP", held.len());
    cluster.nodes[0].thaw();
    assert!(took <= LEASE + Duration::from_secs(1), "{took:?}");
    cluster.finish(Expect::default());
}

#[test]
fn what_a_leaving_process_held_goes_on_in_another_at_once() {
    let _turn = turn();
    let longest = hand_over(keep_busy(three(Options { lease: LEASE, ..Options::default() })));
    assert!(longest <= HAND_OVER, "{longest:?}");
}

#[test]
fn the_only_process_killed_and_started_at_once_goes_on_though_others_come_and_go() {
    let _turn = turn();
    let mut cluster = Cluster::on_file([Options { lease: Duration::from_secs(30), ..Options::default() }]);
    cluster.dispatch(0, Job::busy(160), 5);
    let pid = cluster.nodes[0].pid();
    cluster.until("it acts", Duration::from_secs(10), |side| side.held_by(pid, now()).len() == 5);
    let held = cluster.side().held_by(pid, now());
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    let up = now();
    let took = taken_over(&cluster, &held, pid, up);
    println!("{} executions went on {took:?} after the start", held.len());
    assert!(took <= Duration::from_secs(1), "{took:?}");
    let second = cluster.add(Options::default());
    cluster.nodes[second].stop();
    cluster.nodes.truncate(1);
    cluster.finish(Expect::default());
}

#[test]
fn what_is_due_by_the_clock_of_a_process_that_left_is_claimed_when_it_is_due_here() {
    let _turn = turn();
    // In the time of the others what it gives back is due in a second; they hear of it now, and look by themselves after five.
    let options = [1, 0, 0].map(|clock_off| Options { lease: LEASE, clock_off, ..Options::default() });
    let longest = hand_over(keep_busy(Cluster::on_file(options)));
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}
