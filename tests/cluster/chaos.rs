//! The adversary: while load goes in, every seat of a cluster is killed, stopped, frozen or cut off in turn, as a seed says,
//! and comes back a while later. What it did is printed, so that a failure can be read.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, Job},
    node::Node,
    proxy::Trap,
    support::Rng,
};

/// What only a commit of turns says to the server: the name of an activity, in a row of a log.
const COMMITS: &str = "cluster.act";

/// What may happen to a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and started again later.
    Kill,
    /// SIGTERM, and started again later.
    Terminate,
    /// SIGSTOP, and SIGCONT later: shorter or longer than its lease.
    Freeze,
    /// Its connections are dropped and refused.
    CutOff,
    /// Its connections stand, and no byte goes through.
    Hold,
    /// The answer to its next COMMIT is lost with the connection.
    LoseReply,
    /// Its connection is closed at its next COMMIT, which reaches the server a second later.
    LandLate,
}

impl Fault {
    pub(crate) const OF_A_PROCESS: [Fault; 3] = [Fault::Kill, Fault::Terminate, Fault::Freeze];
    pub(crate) const ALL: [Fault; 7] =
        [Fault::Kill, Fault::Terminate, Fault::Freeze, Fault::CutOff, Fault::Hold, Fault::LoseReply, Fault::LandLate];

    fn strike(self, node: &mut Node) {
        let proxy = || node.proxy.as_ref().expect("a network to break");
        match self {
            Fault::Kill => node.kill(),
            Fault::Terminate => node.terminate(),
            Fault::Freeze => node.freeze(),
            Fault::CutOff => proxy().cut(),
            Fault::Hold => proxy().hold(),
            Fault::LoseReply => proxy().trap(Trap::LoseReply, COMMITS),
            Fault::LandLate => proxy().trap(Trap::LandLate(Duration::from_secs(1)), COMMITS),
        }
    }

    fn mend(self, node: &mut Node) {
        match self {
            Fault::Kill | Fault::LoseReply | Fault::LandLate => {}
            // One that is still in its grace is not waited for.
            Fault::Terminate => node.kill(),
            Fault::Freeze => node.thaw(),
            Fault::CutOff | Fault::Hold => node.proxy.as_ref().expect("a network to mend").heal(),
        }
    }
}

/// How long the chaos of a test lasts: `STENT_CHAOS_SECS`, or 30 s.
pub(crate) fn duration() -> Duration {
    let seconds = std::env::var("STENT_CHAOS_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    Duration::from_secs(seconds)
}

/// Something that goes on beside the faults, at every turn of the loop.
pub(crate) type Beside<'b, 'a> = &'b mut dyn FnMut(&mut Cluster<'a>, &mut Rng);

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chaos {
    pub(crate) faults: u32,
    /// How often a node left by itself, which a fault of the network or the server is no reason for.
    pub(crate) gave_up: u32,
}

/// Loads the cluster for so long, and lets the faults loose on it. A seat that is empty for no reason is filled again.
pub(crate) fn unleash<'a>(
    cluster: &mut Cluster<'a>,
    job: Job,
    duration: Duration,
    faults: &[Fault],
    rng: &mut Rng,
    beside: Beside<'_, 'a>,
) -> Chaos {
    let began = Instant::now();
    let mut wounds: Vec<Option<(Fault, Instant)>> = cluster.nodes.iter().map(|_| None).collect();
    let mut next_fault = began + Duration::from_millis(rng.between(300, 1_000));
    let mut next_load = began;
    let mut signals: Vec<(Instant, RangeInclusive<u64>)> = Vec::new();
    let mut chaos = Chaos::default();
    while began.elapsed() < duration {
        let now = Instant::now();
        wounds.resize(cluster.nodes.len(), None);
        for (node, wound) in cluster.nodes.iter_mut().zip(&mut wounds) {
            if let Some(why) = node.left()
                && !matches!(wound, Some((Fault::Terminate, _)))
            {
                chaos.gave_up += 1;
                println!("{:?} {} left by itself: {why}", began.elapsed(), node.name);
            }
            if let Some((fault, until)) = *wound {
                if now < until {
                    continue;
                }
                fault.mend(node);
                *wound = None;
            }
            if !node.runs() {
                node.begin();
            }
        }
        let able: Vec<usize> = (0..wounds.len()).filter(|at| wounds[*at].is_none() && cluster.nodes[*at].is_up()).collect();
        if !able.is_empty() && now >= next_fault && !faults.is_empty() {
            let at = able[index(rng, able.len())];
            let fault = faults[index(rng, faults.len())];
            let lease = u64::try_from(cluster.nodes[at].options.lease.as_millis()).unwrap();
            // A process is mostly restarted at once; what hangs, hangs for shorter or longer than its lease.
            let dies = matches!(fault, Fault::Kill | Fault::Terminate);
            let longest = if dies && rng.between(0, 3) > 0 { 300 } else { 2 * lease };
            let lasting = Duration::from_millis(rng.between(10, longest));
            println!("{:?} {fault:?} {} for {lasting:?}", began.elapsed(), cluster.nodes[at].name);
            fault.strike(&mut cluster.nodes[at]);
            wounds[at] = Some((fault, now + lasting));
            next_fault = now + Duration::from_millis(rng.between(200, 1_500));
            chaos.faults += 1;
            continue;
        }
        if !able.is_empty() && now >= next_load {
            let at = able[index(rng, able.len())];
            let (_, numbers) = cluster.dispatch_later(at, job, rng.between(1, 6));
            if job.signal {
                signals.push((now + Duration::from_millis(rng.between(0, 500)), numbers));
            }
            next_load = now + Duration::from_millis(rng.between(20, 200));
        }
        if !able.is_empty() && signals.first().is_some_and(|(due, _)| *due <= now) {
            let at = able[index(rng, able.len())];
            let (_, numbers) = signals.remove(0);
            cluster.signal_later(at, job, &numbers);
        }
        beside(cluster, rng);
        std::thread::sleep(Duration::from_millis(10));
    }
    for (node, wound) in cluster.nodes.iter_mut().zip(wounds) {
        if let Some((fault, _)) = wound {
            fault.mend(node);
        }
    }
    println!("{chaos:?}, {} executions asked for", cluster.jobs.len());
    chaos
}

fn index(rng: &mut Rng, len: usize) -> usize {
    usize::try_from(rng.next() % u64::try_from(len).unwrap()).unwrap()
}
