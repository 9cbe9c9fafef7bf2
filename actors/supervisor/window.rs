//! Restart intensity: how many restarts within which time are too many, and how long to wait before each. Pure.

use std::{collections::VecDeque, time::Duration};

/// The recent restarts.
#[derive(Debug)]
pub(crate) struct Window {
    most: u32,
    period: Duration,
    recent: VecDeque<Duration>,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again after this wait.
    Restart(Duration),
    /// It failed so often within the period: give up.
    Escalate(u32),
}

impl Window {
    pub(crate) fn new(most: u32, period: Duration) -> Window {
        Window { most, period, recent: VecDeque::new() }
    }

    /// Judges a failure at `now` (boot time). Waits: 50 ms, doubling, at most 5 s, up to a quarter more by `jitter`.
    pub(crate) fn failed(&mut self, now: Duration, jitter: u64) -> Verdict {
        while self.recent.front().is_some_and(|at| now.saturating_sub(*at) > self.period) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if count > self.most {
            return Verdict::Escalate(count);
        }
        Verdict::Restart(pause(count, Duration::from_secs(5), jitter))
    }
}

/// The longest pause between two looks whether a server is back.
pub(super) const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Returns how long to wait before the restart of this number: 50 ms, doubling, up to a quarter more by `jitter`.
pub(super) fn pause(count: u32, longest: Duration, jitter: u64) -> Duration {
    let plain = Duration::from_millis(50).saturating_mul(1 << (count.max(1) - 1).min(10)).min(longest);
    plain + plain / 4 * u32::try_from(jitter % 100).unwrap_or(0) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_failure_within_the_period_escalates() {
        let mut window = Window::new(5, Duration::from_secs(30));
        for second in 0..5 {
            assert!(matches!(window.failed(Duration::from_secs(second), 0), Verdict::Restart(_)));
        }
        assert_eq!(window.failed(Duration::from_secs(5), 0), Verdict::Escalate(6));
    }

    #[test]
    fn old_failures_are_forgotten_and_waits_grow_with_recent_ones() {
        let mut window = Window::new(5, Duration::from_secs(30));
        assert_eq!(window.failed(Duration::from_secs(0), 0), Verdict::Restart(Duration::from_millis(50)));
        assert_eq!(window.failed(Duration::from_secs(1), 0), Verdict::Restart(Duration::from_millis(100)));
        assert_eq!(window.failed(Duration::from_secs(100), 0), Verdict::Restart(Duration::from_millis(50)));
    }
}
