//! Why this build cannot go on with a run: the report that names what was expected, what was found, and the cure.

use super::{
    id::{BuildId, CommitNo, RunId},
    tape::Misuse,
};

/// This build's code does not fit a log, or breaks the rules of durable code. Nothing is recorded; other builds may go on.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Blocked {
    /// Replay asked for something else than the log says.
    #[error(
        "{run}: the code of {workflow} version {version} asks for {found} where its log has {expected} (commit {commit_no}, event {event}); \
         the last commands were: {last}. Run the build that wrote it ({wrote}), or give changed code a new VERSION"
    )]
    Nondeterminism {
        /// Whose log.
        run: RunId,
        /// Which workflow.
        workflow: String,
        /// Which version of its code.
        version: u32,
        /// In which commit.
        commit_no: CommitNo,
        /// Which entry of it.
        event: usize,
        /// What the log has.
        expected: String,
        /// What the code asks for.
        found: String,
        /// The commands before, newest last.
        last: String,
        /// The build that wrote that commit.
        wrote: BuildId,
    },
    /// Two instances of the code, given the same log, asked for different things.
    #[error(
        "{run}: the code of {workflow} is not deterministic: given the same log twice it asked for {found} and for {expected}; \
         look for HashMap order, unbiased select, clocks and randomness, and use cx.now, cx.random, cx.uuid, cx.race instead"
    )]
    NotDeterministic {
        /// Whose log.
        run: RunId,
        /// Which workflow.
        workflow: String,
        /// What the second asked for.
        expected: String,
        /// What the first asked for.
        found: String,
    },
    /// The code broke a rule of durable code.
    #[error("{run}: workflow {workflow}: {misuse}")]
    Misuse {
        /// Whose log.
        run: RunId,
        /// Which workflow.
        workflow: String,
        /// Which rule.
        misuse: Misuse,
    },
    /// The log itself is not one of ours: it has a gap, or does not begin with a start.
    #[error("{run}: the log is not usable: {what}; restore it from a backup")]
    BadLog {
        /// Whose log.
        run: RunId,
        /// What does not fit.
        what: String,
    },
}

impl Blocked {
    /// Tells whether another build could do better: damage is damage for everyone.
    #[must_use]
    pub fn is_of_this_build(&self) -> bool {
        !matches!(self, Blocked::BadLog { .. })
    }
}
