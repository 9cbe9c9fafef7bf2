//! Who of the others is dead. Pure: it is told what the store shows and the boot time, and knows since when each beat stands
//! still. No clock but one's own decides, so neither a wall clock that jumps nor two that differ kill anyone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    kernel::id::Incarnation,
    store::{NodeRow, NodeState},
};

/// How long a beat must stand still although the store has a proof of death, where the proof is the process's own: it is gone.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// The same where the proof is that no session of it is left. A node that lives makes anew what was cut, and its undertaker
/// notices within a look of half a second: two and a half of them.
pub(super) const GRACE_OF_SESSIONS: Duration = Duration::from_millis(1_250);

/// What is known of the others.
#[derive(Debug)]
pub(super) struct Judge {
    seen: HashMap<Incarnation, Seen>,
    grace: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    beat: u64,
    /// The boot time at which this beat was seen first.
    since: Duration,
    /// The boot time at which it was seen first that its process is no more, with this beat.
    proved: Option<Duration>,
}

/// A sentence: the node, and the beat under which it was passed.
pub(super) type Dead = (Incarnation, u64);

impl Judge {
    pub(super) fn new(grace: Duration) -> Judge {
        Judge { seen: HashMap::new(), grace }
    }

    /// Takes what is known out of it, to look with.
    pub(super) fn take(&mut self) -> Judge {
        Judge { seen: std::mem::take(&mut self.seen), grace: self.grace }
    }

    /// Looks at all nodes; returns those of the others that are dead, and whether one is under suspicion.
    pub(super) fn judge(&mut self, me: Incarnation, now: Duration, nodes: &[NodeRow]) -> (Vec<Dead>, bool) {
        let others = || nodes.iter().filter(|node| node.incarnation != me && node.state != NodeState::Dead);
        let known: HashSet<Incarnation> = others().map(|node| node.incarnation).collect();
        self.seen.retain(|incarnation, _| known.contains(incarnation));
        let (mut dead, mut suspicion) = (Vec::new(), false);
        for node in others() {
            let fresh = Seen { beat: node.beat, since: now, proved: None };
            let seen = self.seen.entry(node.incarnation).or_insert(fresh);
            if seen.beat != node.beat {
                *seen = fresh;
            }
            seen.proved = if node.proved_dead { seen.proved.or(Some(now)) } else { None };
            suspicion |= node.proved_dead;
            let silent = now.saturating_sub(seen.since) >= node.lease;
            let proved = seen.proved.is_some_and(|since| now.saturating_sub(since) >= self.grace);
            if silent || proved {
                dead.push((node.incarnation, node.beat));
            }
        }
        (dead, suspicion)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::kernel::id::BuildId;

    const ME: Incarnation = Incarnation(Uuid::from_u128(1));
    const OTHER: Incarnation = Incarnation(Uuid::from_u128(2));

    fn node(incarnation: Incarnation, beat: u64, proved_dead: bool) -> NodeRow {
        let lease = Duration::from_secs(10);
        let state = NodeState::Live;
        NodeRow { incarnation, build: BuildId(1), label: "x".into(), state, beat, lease, held: 0, can: 0, proved_dead }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_beat_that_stands_still_for_a_lease_of_our_own_clock_is_a_death_and_nothing_earlier() {
        let mut judge = Judge::new(GRACE);
        for (now, dead) in [(0, false), (9_900, false), (10_000, true)] {
            assert_eq!(!judge.judge(ME, at(now), &[node(ME, 0, false), node(OTHER, 3, false)]).0.is_empty(), dead, "{now}");
        }
        assert!(judge.judge(ME, at(19_000), &[node(OTHER, 4, false)]).0.is_empty(), "it beats again");
        assert!(judge.judge(ME, at(28_900), &[node(OTHER, 4, false)]).0.is_empty());
        assert_eq!(judge.judge(ME, at(29_000), &[node(OTHER, 4, false)]).0, [(OTHER, 4)]);
    }

    #[test]
    fn a_proof_of_death_counts_once_the_beat_has_stood_still_for_the_grace() {
        let mut judge = Judge::new(GRACE);
        assert!(judge.judge(ME, at(0), &[node(OTHER, 3, false)]).0.is_empty());
        assert_eq!(judge.judge(ME, at(5_000), &[node(OTHER, 3, true)]), (vec![], true), "just seen");
        assert!(judge.judge(ME, at(5_400), &[node(OTHER, 4, true)]).0.is_empty(), "it has beaten since");
        assert!(judge.judge(ME, at(5_600), &[node(OTHER, 4, false)]).0.is_empty(), "its session is back");
        assert!(judge.judge(ME, at(5_700), &[node(OTHER, 4, true)]).0.is_empty());
        assert_eq!(judge.judge(ME, at(6_200), &[node(OTHER, 4, true)]).0, [(OTHER, 4)]);
    }

    #[test]
    fn nobody_judges_himself_or_the_dead() {
        let mut judge = Judge::new(GRACE);
        let mut gone = node(OTHER, 1, true);
        gone.state = NodeState::Dead;
        for now in [0, 60_000] {
            assert_eq!(judge.judge(ME, at(now), &[node(ME, 0, true), gone.clone()]), (vec![], false));
        }
    }
}
