//! Counters of the hot path: what the writer has done so far. They live beside the door and outlive incarnations.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that only Persistence adds to: one addition each per commit.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    rows: AtomicU64,
    items: AtomicU64,
    claims: AtomicU64,
}

/// What the writer has done since the runtime was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Transactions that were committed.
    pub commits: u64,
    /// Rows that were appended to logs.
    pub rows: u64,
    /// Items of any kind in those transactions, refused ones included.
    pub items: u64,
    /// Runs that were claimed.
    pub claims: u64,
}

impl Counters {
    pub(crate) fn committed(&self, rows: usize, items: usize, claims: usize) {
        let add = |counter: &AtomicU64, by: usize| counter.fetch_add(by as u64, Relaxed);
        add(&self.commits, 1);
        add(&self.rows, rows);
        add(&self.items, items);
        add(&self.claims, claims);
    }

    pub(crate) fn read(&self) -> Stats {
        let Counters { commits, rows, items, claims } = self;
        let now = |counter: &AtomicU64| counter.load(Relaxed);
        Stats { commits: now(commits), rows: now(rows), items: now(items), claims: now(claims) }
    }
}
