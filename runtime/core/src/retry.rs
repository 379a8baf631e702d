//! When a failed attempt is tried again: exponential backoff with full jitter and a cap.
//!
//! Full jitter (a delay drawn evenly from zero to the exponential bound) spreads a crowd of retries
//! best of the usual schemes: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a task is tried, and how long it waits between attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, at least one.
    pub max_attempts: u32,
    /// The bound of the first retry's delay.
    pub initial: Duration,
    /// No bound grows past this.
    pub max: Duration,
    /// How much the bound grows with each attempt, at least 1.
    pub factor: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, initial: Duration::from_secs(2), max: Duration::from_secs(300), factor: 2.0 }
    }
}

impl RetryPolicy {
    /// The longest delay after failed attempt number `attempt` (from 1).
    #[must_use]
    pub fn bound(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        if seconds.is_finite() && seconds < self.max.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            self.max
        }
    }

    /// The delay after failed attempt number `attempt`, with `chance` drawn evenly from 0 to 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        self.bound(attempt).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bound_doubles_and_stops_at_the_cap() {
        let policy =
            RetryPolicy { max_attempts: 9, initial: Duration::from_secs(2), max: Duration::from_secs(60), factor: 2.0 };
        let bounds: Vec<u64> = (1..8).map(|attempt| policy.bound(attempt).as_secs()).collect();
        assert_eq!(bounds, [2, 4, 8, 16, 32, 60, 60]);
    }

    proptest! {
        #[test]
        fn no_delay_passes_its_bound_or_the_cap(attempt in 0_u32..=u32::MAX, chance in -1.0_f64..2.0, initial in 0_u64..1_000_000, max in 0_u64..10_000_000, factor in 1.0_f64..10.0) {
            let policy = RetryPolicy { max_attempts: 3, initial: Duration::from_millis(initial), max: Duration::from_millis(max), factor };
            let delay = policy.delay(attempt, chance);
            prop_assert!(delay <= policy.bound(attempt));
            prop_assert!(policy.bound(attempt) <= policy.max);
        }

        #[test]
        fn the_bound_never_shrinks(attempt in 1_u32..1000, factor in 1.0_f64..10.0) {
            let policy = RetryPolicy { factor, ..RetryPolicy::default() };
            prop_assert!(policy.bound(attempt) <= policy.bound(attempt + 1));
        }
    }
}
