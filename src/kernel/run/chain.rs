//! How a run that continues hands over to the next one of its execution.

use super::Run;
use crate::kernel::{
    chain::{Inherited, Onward},
    event::Started,
    invariant::uphold,
    random,
};

/// Sets the seeds of a chain's runs apart from those of its children, which are mixed with small numbers.
const NEXT_RUN: u64 = 1 << 63;

impl Run {
    /// Returns how the next run begins, of one that ends to go on. Everything that was received by now is either read, or handed on.
    pub(super) fn onward(&mut self) -> Option<Box<Onward>> {
        let input = self.state.continuing.take()?;
        let unread = self.instance.unread();
        uphold!(
            ConsumedOnce,
            unread.len() == self.state.unread(),
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
        };
        Some(Box::new(Onward { started, inherited }))
    }
}
