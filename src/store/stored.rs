//! A run as the store keeps it, whole: what a node reads when it takes one up.

use bytes::Bytes;

use super::{Inbox, Summary, TaskRow};
use crate::{
    fast::FastSet,
    kernel::{
        codec::Record,
        id::{Attempt, CommitNo, Position, RunKey},
    },
};

/// Everything that a store keeps of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    /// Its row.
    pub summary: Summary,
    /// Its whole log.
    pub log: Vec<(CommitNo, Record)>,
    /// Its unread messages.
    pub inbox: Inbox,
    /// Kept heartbeat details.
    pub heartbeats: Vec<(Position, Attempt, Bytes)>,
    /// Its attempts in shared queues.
    pub tasks: Vec<TaskRow>,
}

impl Stored {
    pub(super) fn new(summary: Summary) -> Stored {
        Stored { summary, log: Vec::new(), inbox: Inbox::default(), heartbeats: Vec::new(), tasks: Vec::new() }
    }
}

/// Returns each run once, in the order in which they are first asked for.
pub(super) fn distinct(runs: &[RunKey]) -> Vec<RunKey> {
    let mut seen = FastSet::default();
    runs.iter().copied().filter(|run| seen.insert(*run)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_asked_for_twice_is_read_once() {
        assert_eq!(distinct(&[7, 3, 7, 3, 9].map(RunKey)), [7, 3, 9].map(RunKey));
    }
}
