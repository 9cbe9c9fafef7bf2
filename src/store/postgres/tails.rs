//! What the writer knows without looking: rows of the log that this very session has appended by the short way, or found there
//! after an answer was lost, the last of each run. Rows are never changed, so a turn that follows such a row follows the log;
//! and whether somebody else has followed it already, the key of the log tells when the turn is written. So what is
//! remembered may be old, and never wrong.

use super::home::Backend;
use crate::{
    fast::FastMap,
    kernel::id::{CommitNo, Digest, RunKey},
    store::Turn,
};

/// More runs than this are not remembered; beyond it all are forgotten, since those that matter are soon known again.
const MOST: usize = 1 << 16;

/// The rows that a session knows.
#[derive(Default)]
pub(super) struct Tails {
    /// The session. Another one may be with another server, which knows less: a failover.
    writer: Option<Backend>,
    runs: FastMap<RunKey, (CommitNo, Digest)>,
}

impl Tails {
    /// Forgets everything if this is another session.
    pub(super) fn of(&mut self, writer: Option<&Backend>) {
        if self.writer.as_ref() != writer {
            self.runs.clear();
            self.writer = writer.cloned();
        }
    }

    /// Tells whether a turn follows a row that was written here.
    pub(super) fn precede(&self, turn: &Turn) -> bool {
        self.runs.get(&turn.run).is_some_and(|(commit_no, digest)| turn.follows(*commit_no, *digest))
    }

    /// Takes note of a row that is in the log. Of a run that does not stay nothing is kept.
    pub(super) fn note(&mut self, run: RunKey, commit_no: CommitNo, digest: Digest, stays: bool) {
        if !stays {
            self.runs.remove(&run);
            return;
        }
        if self.runs.len() >= MOST && !self.runs.contains_key(&run) {
            self.runs.clear();
        }
        self.runs.insert(run, (commit_no, digest));
    }
}
