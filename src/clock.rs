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

/// The store's time as this node knows it; it never goes back while the process lives.
///
/// The clock of an embedded store is this machine's wall clock. It may not go behind what the log has reached before the
/// process was started either: what the clock is set back by is added from then on, so that a sleep lasts as long as it was
/// asked to.
///
/// A server has a clock of its own, of which each renewal brings a sample. It was taken before the reply came, so *sample
/// plus the boot time since the reply* is a lower bound of the server's time: a timer that is due by it is due. The best
/// bound so far is kept, less what two clocks may drift apart.
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
    /// The best bound of a server's time, once there was a sample.
    bound: Option<Bound>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    /// The server's time less this machine's boot time.
    offset: i64,
    /// The boot time at which this was known.
    since: i64,
    /// So many samples in a row were far behind it: the server's clock was set back, or it is another server.
    far: u32,
}

/// A clock that is set back by less is not worth a line in the log, nor one that is off by less.
const WORTH_TELLING: i64 = 1_000_000;

/// How far two clocks may drift apart, in parts per million: quartz has 50, so 200 is ample.
const DRIFT_PPM: i64 = 200;

/// So many samples in a row that are far behind are believed.
const BELIEVED: u32 = 3;

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

    /// Takes note of a sample of the server's clock; to be called as soon as it has come. Returns by how much this machine's
    /// wall clock is ahead of it, in microseconds.
    pub fn heard(&self, sample: Timestamp) -> i64 {
        let mut reached = self.reached.lock();
        let boot = micros(self.clock.boot());
        let offset = sample.0.saturating_sub(boot);
        let fresh = Bound { offset, since: boot, far: 0 };
        reached.bound = Some(match reached.bound {
            None => {
                // What the wall clock said before is of another clock, and nothing was recorded by it.
                reached.last = 0;
                fresh
            }
            Some(known) => {
                let aged = known.aged(boot);
                if offset >= aged {
                    fresh
                } else if aged - offset < WORTH_TELLING {
                    Bound { far: 0, ..known }
                } else if known.far + 1 < BELIEVED {
                    Bound { far: known.far + 1, ..known }
                } else {
                    let by_ms = (aged - offset) / 1000;
                    tracing::warn!(by_ms, "the server's clock went back; time stands still until it is there again");
                    fresh
                }
            }
        });
        self.clock.wall().0.saturating_sub(sample.0)
    }

    /// Returns the time; never less than it returned before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let mut reached = self.reached.lock();
        let now = match reached.bound {
            Some(bound) => {
                let boot = micros(self.clock.boot());
                boot.saturating_add(bound.aged(boot))
            }
            None => {
                let now = self.clock.wall().0.saturating_add(reached.ahead);
                let back = reached.last.saturating_sub(now);
                if back > 0 {
                    reached.ahead += back;
                    if back > WORTH_TELLING {
                        tracing::warn!(by_ms = back / 1000, "the clock was set back; time goes on from where it was");
                    }
                }
                now
            }
        };
        reached.last = reached.last.max(now);
        Timestamp(reached.last)
    }
}

impl Bound {
    /// Returns the offset that is still certain at that boot time.
    fn aged(self, boot: i64) -> i64 {
        self.offset - (boot - self.since).max(0) / 1_000_000 * DRIFT_PPM
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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

    #[test]
    fn a_server_s_time_is_never_estimated_ahead_of_it_whatever_the_wall_clock_says() {
        let clock = ShiftedClock::default();
        clock.shift(600_000_000);
        let time = StoreTime::new(Arc::new(clock.clone()));
        let server = || SystemClock.wall();
        let skew = time.heard(server());
        assert!((599_000_000..601_000_000).contains(&skew), "{skew}");
        assert!(time.now() <= server());
        // A slow reply carries an old sample; the better one is kept.
        let old = server();
        std::thread::sleep(Duration::from_millis(30));
        time.heard(old);
        let estimate = time.now();
        let error = server().since(estimate);
        assert!(error < Duration::from_millis(25), "{error:?}");
    }

    #[test]
    fn a_server_whose_clock_went_back_is_believed_in_the_end_and_time_stands_still_meanwhile() {
        let time = StoreTime::new(Arc::new(SystemClock));
        time.heard(SystemClock.wall());
        let before = time.now();
        for _ in 0..BELIEVED {
            time.heard(Timestamp(before.0 - 600_000_000));
        }
        let behind = time.now();
        assert!(behind >= before && behind.since(before) < Duration::from_secs(1), "{before} {behind}");
    }
}
