//! The only door to time. Two clocks that never mix: *wall* time for people and for what is stored, *boot* time (which
//! goes on while the machine sleeps) for leases, limits and waits. A test shifts time through a [`Clock`] of its own,
//! never through the machine's.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::kernel::time::Timestamp;

/// Where time comes from.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Returns the wall clock's time; it may jump either way.
    fn wall(&self) -> Timestamp;

    /// Returns the time since the machine was started, sleep included; it never goes back.
    fn boot(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp(chrono::Utc::now().timestamp_micros())
    }

    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A wall clock that a test moves by hand; boot time is the machine's.
#[derive(Debug, Default, Clone)]
pub struct ShiftedClock {
    micros: Arc<AtomicI64>,
}

impl ShiftedClock {
    /// Moves the wall clock by so many microseconds from the machine's, forward or back.
    pub fn shift(&self, micros: i64) {
        self.micros.store(micros, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn wall(&self) -> Timestamp {
        Timestamp(SystemClock.wall().0 + self.micros.load(Ordering::SeqCst))
    }

    fn boot(&self) -> Duration {
        SystemClock.boot()
    }
}

/// The store's time as this node knows it. The clock of an embedded store is this machine's wall clock, made to never go back:
/// neither while the process lives nor behind what the log has reached before it was started. What a clock is set back by
/// is added from then on, so that a sleep lasts as long as it was asked to.
#[derive(Debug)]
pub struct StoreTime {
    clock: Arc<dyn Clock>,
    reached: Mutex<Reached>,
}

#[derive(Debug, Default)]
struct Reached {
    /// The latest time that was given, in microseconds.
    last: i64,
    /// By how much the wall clock is behind what was reached before it was set back.
    ahead: i64,
}

/// A clock that is set back by less is not worth a line in the log.
const WORTH_TELLING: i64 = 1_000_000;

impl StoreTime {
    /// Starts from a clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> StoreTime {
        StoreTime { clock, reached: Mutex::default() }
    }

    /// Takes note of a time in the log: from here on it is past.
    pub fn reach(&self, at: Timestamp) {
        let mut reached = self.reached.lock();
        reached.last = reached.last.max(at.0);
    }

    /// Returns the time; never less than it returned before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let mut reached = self.reached.lock();
        let now = self.clock.wall().0.saturating_add(reached.ahead);
        let back = reached.last.saturating_sub(now);
        if back > 0 {
            reached.ahead += back;
            if back > WORTH_TELLING {
                tracing::warn!(by_ms = back / 1000, "the clock was set back; time goes on from where it was");
            }
        }
        reached.last = reached.last.max(now);
        Timestamp(reached.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_goes_on_behind_a_clock_that_was_set_back() {
        let clock = ShiftedClock::default();
        let time = StoreTime::new(Arc::new(clock.clone()));
        let before = time.now();
        clock.shift(-3_600_000_000);
        let behind = time.now();
        assert!(behind >= before && behind.since(before) < Duration::from_secs(60), "{before} {behind}");
        clock.shift(-3_600_000_000 + 5_000_000);
        assert!(time.now().since(behind) >= Duration::from_secs(5));
    }

    #[test]
    fn time_begins_where_the_log_ended() {
        let ahead = SystemClock.wall().after(Duration::from_secs(3600));
        let time = StoreTime::new(Arc::new(SystemClock));
        time.reach(ahead);
        assert!(time.now() >= ahead);
    }
}
