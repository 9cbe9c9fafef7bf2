//! Which calls are for the cluster and not for the owner of their run alone: those of queues that this node does not serve, and of
//! queues that have rules, wherever these were said. It lives beside the door and outlives incarnations.

use std::collections::HashSet;

use parking_lot::RwLock;

use crate::config::Config;

/// What this node serves, and what is known of queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    serves: Option<Vec<String>>,
    tags: Vec<String>,
    declared: HashSet<String>,
    /// The queues that have rules in the store, as of the last look.
    ruled: RwLock<HashSet<String>>,
}

impl Queues {
    pub(crate) fn new(config: &Config) -> Queues {
        let declared = config.queues.iter().map(|queue| queue.name.clone()).collect();
        Queues { serves: config.serves.clone(), tags: config.tags.clone(), declared, ruled: RwLock::default() }
    }

    /// Tells whether this node runs what is in a queue.
    pub(crate) fn serves(&self, queue: &str) -> bool {
        self.serves.as_ref().is_none_or(|serves| serves.iter().any(|served| served == queue))
    }

    /// Tells whether this node has these tags.
    pub(crate) fn has(&self, needs: &[String]) -> bool {
        needs.iter().all(|tag| self.tags.contains(tag))
    }

    /// Tells whether calls of a queue go through the store.
    pub(crate) fn is_shared(&self, queue: &str) -> bool {
        !self.serves(queue) || self.declared.contains(queue) || self.ruled.read().contains(queue)
    }

    /// Takes the names of the queues that have rules.
    pub(crate) fn ruled(&self, names: Vec<String>) {
        *self.ruled.write() = names.into_iter().collect();
    }
}
