//! Counters of the hot path: what the writer has done so far. They live beside the door and outlive incarnations.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Counters; those of commits only Persistence adds to, one addition each per commit.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    rows: AtomicU64,
    items: AtomicU64,
    claims: AtomicU64,
    held: AtomicU64,
    passivated: AtomicU64,
    displaced: AtomicU64,
    skew: AtomicI64,
    taken_over: AtomicU64,
    lost_tails: AtomicU64,
    neighbours: AtomicU64,
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
    /// Executions in memory.
    pub held: u64,
    /// Executions that left memory because they only waited.
    pub passivated: u64,
    /// Those among them that had to go before their time, because memory was full and others wanted in.
    pub displaced: u64,
    /// Dispatches of this node that are recorded, or about to be, and wait in the store for a slot in memory.
    pub waiting: u64,
    /// Dispatches that nobody has answered yet.
    pub unanswered: u64,
    /// Runs that somebody here waits to see go on: for a published value, or for events.
    pub listened: u64,
    /// By how many milliseconds this machine's wall clock is ahead of the store's. It decides nothing; it is only shown.
    pub clock_skew_ms: i64,
    /// Nodes whose work this one took over.
    pub taken_over: u64,
    /// How often the server was found not to have what it had acknowledged.
    pub lost_tails: u64,
    /// Other nodes that live, as of the last look.
    pub neighbours: u64,
}

impl Counters {
    pub(crate) fn committed(&self, rows: usize, items: usize, claims: usize) {
        let add = |counter: &AtomicU64, by: usize| counter.fetch_add(by as u64, Relaxed);
        add(&self.commits, 1);
        add(&self.rows, rows);
        add(&self.items, items);
        add(&self.claims, claims);
    }

    /// Says how many executions are in memory.
    pub(crate) fn hold(&self, executions: usize) {
        self.held.store(executions as u64, Relaxed);
    }

    /// One left memory because it only waited; `early` if it would have stayed if there had been room.
    pub(crate) fn passivated(&self, early: bool) {
        self.passivated.fetch_add(1, Relaxed);
        self.displaced.fetch_add(u64::from(early), Relaxed);
    }

    pub(crate) fn held(&self) -> u32 {
        u32::try_from(self.held.load(Relaxed)).unwrap_or(u32::MAX)
    }

    /// Says by how many microseconds the wall clock is ahead; returns what was said before.
    pub(crate) fn skewed(&self, micros: i64) -> i64 {
        self.skew.swap(micros, Relaxed)
    }

    /// Says how many other nodes live.
    pub(crate) fn neighbours(&self, others: usize) {
        self.neighbours.store(others as u64, Relaxed);
    }

    /// Somebody else was heard.
    pub(crate) fn met(&self) {
        self.neighbours.fetch_max(1, Relaxed);
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.neighbours.load(Relaxed) == 0
    }

    pub(crate) fn took_over(&self) {
        self.taken_over.fetch_add(1, Relaxed);
    }

    pub(crate) fn lost_tail(&self) {
        self.lost_tails.fetch_add(1, Relaxed);
    }

    /// Returns what is counted here; what waits at the door only the door knows.
    pub(crate) fn read(&self) -> Stats {
        let Counters { commits, rows, items, claims, held, passivated, displaced, skew, taken_over, lost_tails, neighbours } =
            self;
        let now = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            commits: now(commits),
            rows: now(rows),
            items: now(items),
            claims: now(claims),
            held: now(held),
            passivated: now(passivated),
            displaced: now(displaced),
            waiting: 0,
            unanswered: 0,
            listened: 0,
            clock_skew_ms: skew.load(Relaxed) / 1000,
            taken_over: now(taken_over),
            lost_tails: now(lost_tails),
            neighbours: now(neighbours),
        }
    }
}
