//! What is known of a run without its log: its row, and how rows are asked for.

use super::Status;
use crate::kernel::{
    id::{BuildId, Digest, Epoch, Incarnation, RunId, RunKey},
    time::Timestamp,
};

/// A run's summary row.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its key.
    pub run: RunKey,
    /// Its public name.
    pub id: RunId,
    /// The workflow's stored name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// Its stored state.
    pub status: Status,
    /// Who owns it.
    pub owner: Option<Incarnation>,
    /// Under which claim.
    pub epoch: Epoch,
    /// When it is due.
    pub wake_at: Option<Timestamp>,
    /// Higher first.
    pub priority: i32,
    /// Its queue.
    pub queue: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The tags that a node must have to run it.
    pub needs: Vec<String>,
    /// When its execution was asked for: runs of a chain that continues have that of the first.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When the whole run must have ended.
    pub deadline: Option<Timestamp>,
    /// The digest of the argument that its execution was asked for with: that of the first run of a chain.
    pub input_digest: Digest,
    /// How many messages were ever put into its inbox.
    pub inbox_seq: u64,
    /// The build that cannot run it, if one was refused.
    pub blocked_build: Option<BuildId>,
    /// Why it is blocked or quarantined.
    pub reason: Option<String>,
}

impl Summary {
    /// Takes note of its end.
    pub(crate) fn end(&mut self, status: Status, now: Timestamp) {
        self.status = status;
        self.owner = None;
        self.wake_at = None;
        self.ended_at = Some(now);
    }
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this workflow.
    pub workflow: Option<String>,
    /// Only those in one of these states; empty means any.
    pub status: Vec<Status>,
    /// Only those with this tag.
    pub tag: Option<String>,
    /// Only those older than this one (the last of the page before).
    pub before: Option<RunKey>,
    /// At most so many.
    pub limit: u32,
}
