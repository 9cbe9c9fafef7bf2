//! How a run that continues hands over to the next one of its execution.

use super::Run;
use crate::kernel::{
    chain::{Inherited, Onward},
    event::{RunRetry, Started},
    invariant::uphold,
    random,
    time::Timestamp,
};

/// Sets the seeds of a chain's runs apart from those of its children, which are mixed with small numbers.
const NEXT_RUN: u64 = 1 << 63;

impl Run {
    /// Returns how the next run begins, of one that ends to go on. Everything that was received by now is either read, or handed on.
    pub(super) fn onward(&mut self, now: Timestamp) -> Option<Box<Onward>> {
        let (input, at) = self.state.continuing.take()?;
        let unread = self.instance.unread();
        uphold!(
            ConsumedOnce,
            // More, if one was dealt to a wait that was dropped later without having heard of it: the code's own mailbox knows.
            unread.len() >= self.state.unread(),
            "{}: a signal would be lost on the way to its next run",
            self.id
        );
        let inherited = Inherited {
            unread,
            known: self.state.remembered(),
            cancel: self.state.cancel.clone(),
            deadline_passed: self.state.deadline_passed,
            published: self.state.published.kept(),
        };
        let before = &self.state.started;
        let started = Started {
            workflow: before.workflow.clone(),
            version: before.version,
            input,
            seed: random::mix(before.seed, NEXT_RUN | u64::from(self.id.run_no)),
            deadline: before.deadline,
            deferred: true,
            limits: before.limits.clone(),
            parent: before.parent.clone(),
            retry: before.retry.as_deref().map(|retry| {
                // A run that goes on by itself has got somewhere: what follows it has all its tries.
                let (failed, since) = if at.is_some() { (retry.failed.saturating_add(1), retry.since) } else { (0, now) };
                Box::new(RunRetry { policy: retry.policy.clone(), failed, since, at })
            }),
            copied_from: None,
        };
        Some(Box::new(Onward { started, inherited, at }))
    }
}
