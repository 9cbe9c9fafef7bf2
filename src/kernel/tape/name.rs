//! Under which name code runs. In the copied part of a history it is that of the run which the copy is of: keys of calls, ids of children
//! and whatever else code has made of it are facts by then, and are to come out the same in replay.

use std::cell::OnceCell;

use crate::kernel::{event::Started, fork::Forked, id::RunId};

/// A name, and the one that has taken its place.
pub(super) struct Name {
    id: RunId,
    next: OnceCell<Box<Name>>,
}

impl Name {
    /// The name under which this run's history begins.
    pub(super) fn of(run: RunId, started: &Started) -> Name {
        let id = RunId { run_no: started.copied_from.unwrap_or(run.run_no), ..run };
        Name { id, next: OnceCell::new() }
    }

    /// The name by now.
    pub(super) fn id(&self) -> &RunId {
        &self.last().id
    }

    /// From here on it is this run's own history.
    pub(super) fn fork(&self, forked: &Forked) {
        let last = self.last();
        let id = RunId { id: last.id.id.clone(), run_no: forked.run_no };
        // The last one has none.
        let _ = last.next.set(Box::new(Name { id, next: OnceCell::new() }));
    }

    fn last(&self) -> &Name {
        let mut name = self;
        while let Some(next) = name.next.get() {
            name = next;
        }
        name
    }
}
