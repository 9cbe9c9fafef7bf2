//! The limits of one run, checked before anything is written.

use serde::{Deserialize, Serialize};

/// Limits of a run. A limit that is reached is a typed failure, never a silent loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// The largest encoded value, in bytes.
    pub payload_bytes: usize,
    /// The most bytes that the commands of one fact may have. A turn takes no further fact once its commit has half of that.
    pub item_bytes: usize,
    /// The most commands that one fact may lead to, those that give up or undo something not counted.
    pub commands_per_turn: usize,
    /// The most commits of one run.
    pub history_commits: u32,
    /// The most attempts of one call that may be lost with their nodes.
    pub lost_attempts: u32,
    /// The most message ids that a run remembers.
    pub remembered_messages: usize,
    /// The most keys under which a run publishes.
    #[serde(default = "published_keys")]
    pub published_keys: usize,
    /// The most bytes that what a run has published may have at a time, keys included.
    #[serde(default = "published_bytes")]
    pub published_bytes: usize,
}

impl Default for Limits {
    /// 2 MiB, 8 MiB, 10,000, 1,000,000, 20, 10,000, 1,000, 1 MiB.
    fn default() -> Self {
        Limits {
            payload_bytes: 2 << 20,
            item_bytes: 8 << 20,
            commands_per_turn: 10_000,
            history_commits: 1_000_000,
            lost_attempts: 20,
            remembered_messages: 10_000,
            published_keys: published_keys(),
            published_bytes: published_bytes(),
        }
    }
}

// Runs may have been recorded before there were these.
fn published_keys() -> usize {
    1_000
}

fn published_bytes() -> usize {
    1 << 20
}
