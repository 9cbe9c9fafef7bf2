//! What somebody else's transaction was found to hold: ids that it is about to take, runs that it has locked. Whoever wants
//! one of these waits for nobody else's sake: it is tried apart from the rest of its batch, behind it and in a hurry, so
//! that a caller who keeps a transaction open slows those down who ask for the same and nobody besides.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::look::about;
use crate::store::{Batch, Item};

/// For how long it is remembered behind the last time that it was found so.
const MEMORY: Duration = Duration::from_secs(10);

/// More than this is not remembered.
const MOST: usize = 4_096;

#[derive(Clone, PartialEq, Eq, Hash)]
enum What {
    Run(i64),
    Id(String),
}

/// What is held, and when it was last found to be.
#[derive(Default)]
pub(super) struct Held(HashMap<What, Instant>);

impl Held {
    /// Divides items into those that nobody is known to stand in the way of, and the others; both in their order.
    pub(super) fn divide(&mut self, batch: &Batch, items: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        if self.0.is_empty() {
            return (items, Vec::new());
        }
        self.0.retain(|_, found| found.elapsed() < MEMORY);
        items.into_iter().partition(|place| !keys(&batch.items[*place]).any(|what| self.0.contains_key(&what)))
    }

    /// An item was in the way of nobody, but somebody in its.
    pub(super) fn found(&mut self, item: &Item) {
        if self.0.len() < MOST {
            self.0.extend(keys(item).map(|what| (what, Instant::now())));
        }
    }

    /// Nothing stands in the way of this item any more.
    pub(super) fn free(&mut self, item: &Item) {
        for what in keys(item) {
            self.0.remove(&what);
        }
    }
}

fn keys(item: &Item) -> impl Iterator<Item = What> {
    let (runs, ids) = about(item);
    runs.into_iter().map(What::Run).chain(ids.map(|id| What::Id(id.to_owned())))
}
