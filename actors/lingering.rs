//! Acts that outlive the core that began them. Code that blocks its thread cannot be stopped; its run is not begun again
//! beside it, but once it has ended. All others go on. The table stands beside the public door and outlives incarnations.

use std::sync::Arc;

use parking_lot::Mutex;

use super::pool::Pool;
use crate::kernel::id::RunKey;

/// The pools of former lives whose code is still under way.
#[derive(Default)]
pub(crate) struct Lingering {
    pools: Mutex<Vec<Arc<Pool>>>,
}

impl Lingering {
    /// Keeps a pool that could not be stopped in time.
    pub(crate) fn add(&self, pool: Arc<Pool>) {
        self.pools.lock().push(pool);
    }

    /// Tells whether code of this run is under way in a former life.
    pub(crate) fn holds(&self, run: RunKey) -> bool {
        let mut pools = self.pools.lock();
        let mut held = false;
        pools.retain(|pool| {
            let running = pool.attempts().running();
            held |= running.contains(&run);
            !running.is_empty()
        });
        held
    }
}
