//! One node on a file: the harness and its auditor, tried on a store that needs no server.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::{
    chaos::{Fault, unleash},
    checker::{Act, Expect, Side, judge},
    cluster::{Cluster, Job},
    node::Options,
    support::Rng,
    turn,
};

#[test]
fn a_single_node_killed_stopped_and_frozen_under_load_loses_and_repeats_nothing() {
    let _turn = turn();
    let mut rng = Rng::from_env("one node");
    let mut cluster = Cluster::on_file([Options { activities: 20, lease: Duration::from_secs(1), ..Options::default() }]);
    let chaos = unleash(&mut cluster, Job::MIXED, Duration::from_secs(8), &Fault::OF_A_PROCESS, &mut rng, &mut |_, _| {});
    assert!(chaos.faults > 0 && chaos.gave_up == 0, "{chaos:?}");
    cluster.finish(Expect::default());
}

/// What the auditor says to a side file that somebody forged.
fn verdict(cluster: &Cluster<'_>, judged: &Judged, forge: impl FnOnce(&mut Side)) -> String {
    let mut side = cluster.side();
    forge(&mut side);
    side.acts.sort_by_key(|act| act.start);
    let expect = Expect { limit: Some(judged.peak), ..Expect::default() };
    let found = catch_unwind(AssertUnwindSafe(|| judge(&judged.histories, &side, &cluster.jobs, &[], &expect)));
    match found {
        Ok(()) => "nothing".to_owned(),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

struct Judged {
    histories: std::collections::BTreeMap<String, crate::checker::History>,
    peak: usize,
}

#[test]
fn the_auditor_notices_each_kind_of_lie() {
    let _turn = turn();
    let mut cluster = Cluster::on_file([Options::default()]);
    let job = Job { signal: false, ..Job::MIXED };
    cluster.dispatch(0, job, 4);
    let (histories, side) = cluster.settle(Expect::default());
    let judged = Judged { histories, peak: side.peak(|_| None) };
    let verdict = |forge: &dyn Fn(&mut Side)| verdict(&cluster, &judged, forge);
    // As a process of another life would have written it, later.
    let again = |act: &Act, by: u128| Act { pid: 1, start: act.start + by, end: Some(act.start + by), ..act.clone() };
    let of_step = |side: &Side, step: &str| side.acts.iter().find(|act| act.step == step).unwrap().clone();

    assert_eq!(verdict(&|_| {}), "nothing");
    let lost = verdict(&|side| side.acked.extend(["load-99".to_owned()]));
    assert!(lost.contains("load-99 was acknowledged and is lost"), "{lost}");
    let twice = verdict(&|side| side.acts.push(again(&of_step(side, "#1"), 1)));
    assert!(twice.contains("this attempt was started twice"), "{twice}");
    let repeated = verdict(&|side| side.acts.push(Act { attempt: 2, ..again(&of_step(side, "#1"), 1) }));
    assert!(repeated.contains("attempt 1 was recorded as its success"), "{repeated}");
    let late = verdict(&|side| {
        let act = of_step(side, "inline");
        side.acts.push(Act { wall: act.wall + 60_000_000, ..again(&act, 60_000_000) });
    });
    assert!(late.contains("after its result was recorded"), "{late}");
    let stale = verdict(&|side| {
        let first = side.acts.iter_mut().find(|act| act.step == "#1").unwrap();
        first.fence = 1_000;
    });
    assert!(stale.contains("under an old fence"), "{stale}");
    let undone = verdict(&|side| side.acts.retain(|act| act.step != "#1"));
    assert!(undone.contains("nobody did it"), "{undone}");
    let crowded = verdict(&|side| {
        // Of a step that is in no history, so that nothing but their number is to be said against them.
        let act = Act { id: "load-1".to_owned(), step: "#99".to_owned(), attempt: 0, ..of_step(side, "#1") };
        side.acts.extend(vec![act; judged.peak + 1]);
    });
    assert!(crowded.contains("acts at once"), "{crowded}");
}
