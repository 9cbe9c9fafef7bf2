//! The part of the tape that publishes: no position is reserved and nothing is waited for; what is checked is whether there is room.

use super::{Fault, Misuse, Tape};
use crate::kernel::{
    event::{Command, OUR_MESSAGES},
    payload::Payload,
    published::Kept,
};

/// Under which key `cx.progress` publishes.
pub(crate) const PROGRESS: &str = "stent:progress";

impl Tape {
    /// Emits a command that publishes under a key of the user's; such as are ours are refused.
    pub(crate) fn publish(&self, command: &Command) {
        if let Command::Publish { key, .. } | Command::Count { key, .. } = command
            && key.starts_with(OUR_MESSAGES)
        {
            return self.fault(Fault::Blocks(Misuse::PublishedKey(key.clone())));
        }
        self.show(command);
    }

    /// Emits a command that publishes, if its key makes sense and there is room for it.
    pub(crate) fn show(&self, command: &Command) {
        let mut inner = self.inner.borrow_mut();
        if inner.sealed {
            return;
        }
        inner.forbid_in_step();
        if let Some(fault) = inner.published.refuses(command, &self.limits) {
            inner.fault.get_or_insert(fault);
            return;
        }
        drop(inner);
        if self.command(command.clone()) {
            self.inner.borrow_mut().published.command(command);
        }
    }

    /// Takes over what the run before has published.
    pub(crate) fn inherit_published(&self, kept: &[Kept]) {
        self.inner.borrow_mut().published.inherit(kept);
    }

    /// Lets a recorded value replace the one that replayed code published.
    pub(crate) fn recorded_value(&self, key: &str, value: &Payload) {
        self.inner.borrow_mut().published.recorded(key, value);
    }
}
