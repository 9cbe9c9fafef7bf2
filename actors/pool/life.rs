//! The life of one attempt, as a few atomics that its holders race on without a lock.
//!
//! ```text
//! queued ──start──▶ running ──settle──▶ settled      whoever settles first decides the result; the rest is not heard
//!    └──────────────settle──────────────▲
//! ```
//!
//! *Settled* says that the result stands, not that the code has stopped: an act that cannot be aborted is abandoned, goes
//! on, and keeps its slot.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use futures_util::task::AtomicWaker;

use super::{Limits, watch::Watch};
use crate::kernel::{failure::Failure, payload::Payload};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const SETTLED: u8 = 2;

/// How an attempt ended.
pub(crate) type Ending = Result<Payload, Failure>;

/// How far an attempt is, and how it ended.
#[derive(Default)]
pub(crate) struct Life {
    phase: AtomicU8,
    ending: OnceLock<Ending>,
    /// Set once: the runner is to drop the future.
    aborted: AtomicBool,
    /// The task that polls the future.
    pub(crate) task: AtomicWaker,
    pub(crate) limits: Limits,
    /// Boot time in microseconds.
    pub(crate) queued_at: u64,
    started_at: AtomicU64,
    /// Names the attempt among the alarms.
    pub(crate) seq: u64,
    /// When its alarm rings, 0 for never; changed only under the lock of the alarms.
    pub(crate) alarm: AtomicU64,
    watch: Option<Arc<Watch>>,
}

impl Life {
    /// Begins in the queue, under the eyes of the thread that minds the limits.
    pub(crate) fn watched(limits: Limits, watch: Arc<Watch>) -> Life {
        Life { limits, queued_at: watch.now(), seq: watch.next_seq(), watch: Some(watch), ..Life::default() }
    }

    pub(crate) fn watch(&self) -> Option<&Arc<Watch>> {
        self.watch.as_ref()
    }

    /// Goes from queued to running; `false` when it was settled in the queue.
    pub(crate) fn start(&self, now_micros: u64) -> bool {
        self.started_at.store(now_micros, Ordering::SeqCst);
        self.phase.compare_exchange(QUEUED, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.started_at.load(Ordering::SeqCst)
    }

    /// Decides the result; `false` when it is decided already.
    pub(crate) fn settle(&self, ending: Ending) -> bool {
        let first = self.phase.swap(SETTLED, Ordering::SeqCst) != SETTLED;
        if first {
            let _ = self.ending.set(ending);
        }
        first
    }

    /// Decides the result of an attempt that has not begun; `false` when it has.
    pub(crate) fn settle_queued(&self, ending: Ending) -> bool {
        let first = self.phase.compare_exchange(QUEUED, SETTLED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            let _ = self.ending.set(ending);
        }
        first
    }

    pub(crate) fn is_queued(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == QUEUED
    }

    pub(crate) fn is_running(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == RUNNING
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == SETTLED
    }

    /// Returns the result once it is there; a moment after it was decided.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Tells the runner to drop the future, if it is one that can be dropped.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.task.wake();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }
}
