//! Retry arithmetic: which attempt follows a failed one, and when. A policy is data in the log, so a restored call behaves
//! exactly like the live one; jitter comes from a seed, so replay needs no randomness.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{failure::Failure, time::Timestamp};

/// When and how often a failed activity is tried again.
///
/// The default is that of most peers: 1 s, doubling, at most 60 s apart, 10 % jitter, as often and as long as it takes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Retry {
    initial: Duration,
    /// Growth per attempt, in hundredths: 200 doubles.
    factor_percent: u32,
    cap: Duration,
    jitter_percent: u32,
    attempts: Option<u32>,
    total: Option<Duration>,
    /// Kinds of failure that are never tried again.
    final_kinds: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            initial: Duration::from_secs(1),
            factor_percent: 200,
            cap: Duration::from_secs(60),
            jitter_percent: 10,
            attempts: None,
            total: None,
            final_kinds: Vec::new(),
        }
    }
}

impl Retry {
    /// Never tries again.
    #[must_use]
    pub fn never() -> Retry {
        Retry::default().attempts(1)
    }

    /// Waits `initial`, then twice as long after each further failure, up to 60 s.
    #[must_use]
    pub fn exponential(initial: Duration) -> Retry {
        Retry { initial, cap: Duration::from_secs(60).max(initial), ..Retry::default() }
    }

    /// Waits the same time after each failure.
    #[must_use]
    pub fn fixed(every: Duration) -> Retry {
        Retry { initial: every, factor_percent: 100, cap: every, ..Retry::default() }
    }

    /// Limits the number of attempts, the first included. Zero counts as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Retry {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// Limits the time from the first intent to the start of the last attempt.
    #[must_use]
    pub fn total(mut self, total: Duration) -> Retry {
        self.total = Some(total);
        self
    }

    /// Limits the wait between two attempts.
    #[must_use]
    pub fn cap(mut self, cap: Duration) -> Retry {
        self.cap = cap;
        self
    }

    /// Sets by how many percent a wait may be longer, spread evenly. More than 100 counts as 100.
    #[must_use]
    pub fn jitter_percent(mut self, percent: u32) -> Retry {
        self.jitter_percent = percent.min(100);
        self
    }

    /// Never tries again after a failure of this kind (see [`Failure::kind`]).
    #[must_use]
    pub fn except(mut self, kind: impl Into<String>) -> Retry {
        self.final_kinds.push(kind.into());
        self
    }

    /// Returns when the next attempt may start, or `None` when there is none.
    ///
    /// `failed` counts the attempts that failed so far, this one included; attempts that were lost with a node do not
    /// count. `first_at` is the time of the call's intent.
    #[must_use]
    pub fn next(&self, failed: u32, failure: &Failure, first_at: Timestamp, now: Timestamp, seed: u64) -> Option<Timestamp> {
        if failure.is_final() || self.final_kinds.iter().any(|kind| kind == failure.kind()) {
            return None;
        }
        if self.attempts.is_some_and(|most| failed >= most) {
            return None;
        }
        let wait = failure.retry_after().unwrap_or_else(|| self.delay(failed, seed));
        let at = now.after(wait);
        match self.total {
            Some(total) if at > first_at.after(total) => None,
            _ => Some(at),
        }
    }

    /// Returns the wait behind the `failed`-th failure, jitter included.
    #[must_use]
    pub fn delay(&self, failed: u32, seed: u64) -> Duration {
        let factor = f64::from(self.factor_percent) / 100.0;
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let plain = (self.initial.as_secs_f64() * factor.powi(exponent)).min(self.cap.as_secs_f64());
        // The seed's upper bits as a fraction: the usual way to a float in [0, 1).
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
        let fraction = (super::random::mix(seed, u64::from(failed)) >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::try_from_secs_f64(plain * (1.0 + fraction * f64::from(self.jitter_percent) / 100.0)).unwrap_or(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn failure() -> Failure {
        Failure::new("test", "it broke")
    }

    #[test]
    fn waits_double_up_to_the_cap_and_never_shrink_below_the_plain_value() {
        let retry = Retry::exponential(Duration::from_secs(1)).cap(Duration::from_secs(5));
        for (failed, plain) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (400, 5.0)] {
            let wait = retry.delay(failed, 7).as_secs_f64();
            assert!((plain..plain * 1.1).contains(&wait), "failure {failed} waits {wait}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_wait() {
        let retry = Retry::default();
        assert_eq!(retry.delay(3, 42), retry.delay(3, 42));
        assert_ne!(retry.delay(3, 42), retry.delay(3, 43));
    }

    #[test]
    fn attempts_total_time_and_final_kinds_end_the_retrying() {
        let now = START.after(Duration::from_secs(10));
        assert_eq!(Retry::never().next(1, &failure(), START, now, 0), None);
        assert!(Retry::default().attempts(3).next(2, &failure(), START, now, 0).is_some());
        assert_eq!(Retry::default().attempts(3).next(3, &failure(), START, now, 0), None);
        assert_eq!(Retry::default().total(Duration::from_secs(10)).next(1, &failure(), START, now, 0), None);
        assert_eq!(Retry::default().except("test").next(1, &failure(), START, now, 0), None);
        assert_eq!(Retry::default().next(1, &failure().into_final(), START, now, 0), None);
    }

    #[test]
    fn a_failure_may_say_itself_when_to_try_again() {
        let failure = failure().with_retry_after(Duration::from_secs(9));
        assert_eq!(Retry::default().next(1, &failure, START, START, 0), Some(START.after(Duration::from_secs(9))));
    }
}
