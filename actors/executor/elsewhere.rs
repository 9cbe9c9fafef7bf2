//! Which of the runs that somebody here waits for, and that are not here, are looked at when: hints tell their ends, and this is for
//! hints that were lost. It costs the store a fixed number of looks, however many runs are waited for: one a second over some
//! of them, in turn, while there are other nodes; and one a minute once there are none and each has been looked at since,
//! for then nobody is left who could end them.

use crate::kernel::id::RunKey;

/// So many ends are asked for at once: one statement.
pub(super) const MOST: usize = 1_000;

/// With nobody else there, only every so many ticks is one for looking.
const QUIET: u32 = 60;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Those up to this one have had their turn.
    behind: Option<RunKey>,
    /// All have had their turn since nobody else is there.
    settled: bool,
    was_alone: bool,
    /// Ticks to go until the next look.
    rest: u32,
}

impl Elsewhere {
    /// Something may have ended without a word: all are looked at again, from the next tick on.
    pub(super) fn stir(&mut self) {
        (self.behind, self.settled, self.rest) = (None, false, 0);
    }

    /// One tick: returns the runs to be looked at, of those that `waited` returns, in any order.
    pub(super) fn turn(&mut self, alone: bool, waited: impl FnOnce() -> Vec<RunKey>) -> Vec<RunKey> {
        if std::mem::replace(&mut self.was_alone, alone) != alone {
            // Whoever ended them may have died since, or left without a word.
            self.stir();
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Vec::new();
        }
        let mut runs = waited();
        runs.retain(|run| self.behind.is_none_or(|behind| *run > behind));
        if runs.len() > MOST {
            runs.select_nth_unstable(MOST);
            runs.truncate(MOST);
            self.behind = runs.iter().max().copied();
        } else {
            self.behind = None;
            self.settled = alone;
        }
        self.rest = if self.settled { QUIET - 1 } else { 0 };
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Ticks for so long; returns what each look was at.
    fn looks(elsewhere: &mut Elsewhere, alone: bool, ticks: u32, waited: i64) -> Vec<Vec<RunKey>> {
        // Not in order, as a map gives them.
        let waited = || (1..=waited).rev().map(RunKey).collect::<Vec<_>>();
        (0..ticks).map(|_| elsewhere.turn(alone, waited)).filter(|look| !look.is_empty()).collect()
    }

    #[test]
    fn the_looks_of_an_hour_are_as_many_for_ten_runs_as_for_a_hundred_thousand() {
        for (alone, least, most) in [(false, 3_600, 3_600), (true, 60, 160)] {
            for waited in [10, 1_000, 1_001, 100_000] {
                let made = looks(&mut Elsewhere::default(), alone, 3_600, waited);
                assert!((least..=most).contains(&made.len()), "alone: {alone}, {waited}: {}", made.len());
                assert!(made.iter().all(|look| look.len() <= MOST));
            }
        }
    }

    #[test]
    fn everyone_has_a_turn_beside_others_and_again_when_they_are_gone_or_something_stirs() {
        let all: BTreeSet<_> = (1..=2_500).map(RunKey).collect();
        let mut elsewhere = Elsewhere::default();
        let mut turns = |alone, stirs: bool| {
            if stirs {
                elsewhere.stir();
            }
            looks(&mut elsewhere, alone, 3, 2_500).concat().into_iter().collect::<BTreeSet<_>>()
        };
        assert_eq!(turns(false, false), all);
        assert_eq!(turns(false, false), all, "in turn");
        assert_eq!(turns(true, false), all, "the others are gone");
        assert!(turns(true, false).is_empty(), "and nobody is left");
        assert_eq!(turns(true, true), all);
        assert_eq!(turns(false, false), all, "somebody has come");
    }
}
