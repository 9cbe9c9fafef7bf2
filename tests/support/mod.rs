//! What the tests of guarantees share: seeds that are printed and can be set, one test at a time where failpoints are
//! armed, and stores that survive the runtime on top of them.

#![allow(dead_code, clippy::print_stdout, reason = "each test file uses its part; a seed is printed for whoever repeats it")]

use std::{
    future::Future,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use stent::{
    Builder, Stent,
    store::{Status, memory::MemoryStore},
};

#[cfg(feature = "postgres")]
pub(crate) mod servers;

/// A small generator (`SplitMix64`): tests need repeatable numbers, not good ones.
pub(crate) struct Rng(u64);

impl Rng {
    /// Takes the seed from `STENT_SEED`, or makes one; prints it either way.
    pub(crate) fn from_env(test: &str) -> Rng {
        let fresh = || u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or(7);
        let seed = std::env::var("STENT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(fresh);
        println!("{test}: STENT_SEED={seed}");
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

/// Failpoints and panic hooks belong to the process: tests that use them take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a test in an actor system of its own, alone in the process, and not for ever.
pub(crate) fn alone<T>(test: impl Future<Output = T>) -> T {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    #[cfg(feature = "failpoints")]
    stent::failpoints::clear();
    let result = within(Duration::from_secs(110), test);
    #[cfg(feature = "failpoints")]
    stent::failpoints::clear();
    result
}

/// Runs a test in an actor system of its own, beside others.
pub(crate) fn system<T>(test: impl Future<Output = T>) -> T {
    within(Duration::from_secs(110), test)
}

fn within<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    if std::env::var_os("STENT_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("STENT_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    actix::System::new().block_on(async {
        tokio::time::timeout(limit, test).await.unwrap_or_else(|_| panic!("stuck: the test was not over in {limit:?}"))
    })
}

/// Where a test keeps its executions; it survives the runtimes on top of it.
pub(crate) enum Home {
    Memory(MemoryStore),
    Sqlite(tempfile::TempDir),
    #[cfg(feature = "postgres")]
    Postgres(servers::Database<'static>),
}

impl Home {
    pub(crate) fn both() -> [Home; 2] {
        [Home::Memory(MemoryStore::new()), Home::sqlite()]
    }

    /// One of each store that this build has.
    pub(crate) fn all() -> Vec<Home> {
        vec![
            Home::Memory(MemoryStore::new()),
            Home::sqlite(),
            #[cfg(feature = "postgres")]
            Home::postgres(),
        ]
    }

    /// The stores on which several nodes may work at once.
    pub(crate) fn shared() -> Vec<Home> {
        vec![
            Home::Memory(MemoryStore::new()),
            Home::sqlite(),
            #[cfg(feature = "postgres")]
            Home::postgres(),
        ]
    }

    /// A fresh database on the server that all tests share.
    #[cfg(feature = "postgres")]
    pub(crate) fn postgres() -> Home {
        Home::Postgres(servers::Postgres::shared().database())
    }

    pub(crate) fn sqlite() -> Home {
        Home::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Home::Sqlite(folder) => folder.path().join("stent.db"),
            _ => panic!("this store has no file"),
        }
    }

    /// Begins to build a runtime on this store.
    pub(crate) fn open(&self) -> Builder {
        match self {
            Home::Memory(store) => Stent::open("memory:").memory(store.clone()),
            Home::Sqlite(_) => Stent::open(&format!("sqlite:{}", self.file().display())),
            #[cfg(feature = "postgres")]
            Home::Postgres(database) => Stent::open(&database.url()),
        }
    }
}

/// Tells whether executions leave memory whenever they come to rest (`STENT_EVICT=1`).
fn evicts() -> bool {
    std::env::var_os("STENT_EVICT").is_some_and(|evict| evict == "1")
}

/// Tells whether executions leave memory whenever they come to rest, so that a test which counts who is in memory has nothing to
/// count.
pub(crate) fn counts_memory(why: &str) -> bool {
    if evicts() {
        println!("takes no part with STENT_EVICT: {why}");
    }
    evicts()
}

/// Returns how many of something a test has: the second number where executions leave memory whenever they come to rest. There each step
/// costs a replay of all steps before it, so what is quick otherwise may be no more. For numbers that no guarantee depends on.
pub(crate) fn fewer<T>(usual: T, replayed: T) -> T {
    if evicts() { replayed } else { usual }
}

/// Waits until something holds, looking every few milliseconds; panics when it takes longer than `limit`.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns every run that has not ended, all pages of it.
pub(crate) async fn unended(stent: &Stent) -> Vec<stent::store::Summary> {
    let mut all = Vec::new();
    let mut list = stent::List::new().limit(1_000);
    for status in Status::ALL.into_iter().filter(|status| !status.is_end()) {
        list = list.status(status);
    }
    loop {
        let page = stent.list(list.clone()).await.unwrap();
        let Some(last) = page.last().map(|run| run.run) else { return all };
        all.extend(page);
        list = list.after(last);
    }
}
