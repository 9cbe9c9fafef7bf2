//! How many statements went to the database, as the driver tells them. It tells only whom who listens when the store is opened, and that
//! costs more than many a statement, so a workload that wants to know asks for it before anything else is set up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::store::shown::TARGET;

static SENT: AtomicU64 = AtomicU64::new(0);

struct Counting;

impl<S: tracing::Subscriber> Layer<S> for Counting {
    fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        SENT.fetch_add(1, Relaxed);
    }
}

/// Shows on stderr what the filter lets through, and counts statements.
pub(in crate::cli) fn count_and_show(filter: EnvFilter) {
    let shown = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter);
    let counted = Counting.with_filter(Targets::new().with_target(TARGET, tracing::Level::DEBUG));
    // A logger that somebody set before us stays; then nothing is counted, and the workload says so.
    let _ = tracing_subscriber::registry().with(shown).with(counted).try_init();
}

/// Returns how many were sent so far.
pub(super) fn sent() -> u64 {
    SENT.load(Relaxed)
}
