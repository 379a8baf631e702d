//! When a failed attempt is tried again: exponential backoff with full jitter and a cap.
//!
//! Full jitter (a delay drawn evenly from zero to the exponential bound) spreads a crowd of retries
//! best of the usual schemes: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
//!
//! Which failures are tried again at all may be said by their kind ([`RetryOn`]); the others bury the task at
//! once, whatever attempts are left.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::kind_fits;

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
    /// Which failures are tried again.
    #[serde(default)]
    pub on: RetryOn,
}

/// Which failures are worth another attempt, by their [kind](crate::outcome::Failure::kind).
///
/// A name fits a kind that is the same, or whose path ends in it: `Timeout` fits `requests.Timeout` and
/// `my_crate::Timeout`. A worker that fell silent is none of these: it reports nothing, and the task is tried again
/// while attempts are left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Every failure that the function did not call fatal.
    #[default]
    Any,
    /// These alone.
    Only(Vec<String>),
    /// All but these.
    Never(Vec<String>),
}

impl RetryOn {
    /// Says whether a failure of this kind is tried again.
    #[must_use]
    pub fn allows(&self, kind: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.iter().any(|name| kind_fits(kind, name)),
            Self::Never(names) => !names.iter().any(|name| kind_fits(kind, name)),
        }
    }

    /// Says whether a failure that goes by two kinds is tried again: a rule that names either one counts.
    #[must_use]
    pub fn allows_both(&self, kind: &str, other: &str) -> bool {
        match self {
            Self::Any | Self::Only(_) => self.allows(kind) || self.allows(other),
            Self::Never(_) => self.allows(kind) && self.allows(other),
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial: Duration::from_secs(2),
            max: Duration::from_secs(300),
            factor: 2.0,
            on: RetryOn::Any,
        }
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
        let policy = RetryPolicy { max_attempts: 9, max: Duration::from_secs(60), ..RetryPolicy::default() };
        let bounds: Vec<u64> = (1..8).map(|attempt| policy.bound(attempt).as_secs()).collect();
        assert_eq!(bounds, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_failure_is_tried_again_by_its_kind() {
        let names = || vec!["Timeout".to_owned(), "my_crate::Busy".to_owned()];
        for (kind, named) in [
            ("Timeout", true),
            ("requests.exceptions.Timeout", true),
            ("other::Timeout", true),
            ("ConnectTimeout", false),
            ("my_crate::Busy", true),
            ("Busy", false),
            ("", false),
        ] {
            assert_eq!(RetryOn::Only(names()).allows(kind), named, "{kind}");
            assert_eq!(RetryOn::Never(names()).allows(kind), !named, "{kind}");
            assert!(RetryOn::Any.allows(kind));
        }
    }

    proptest! {
        #[test]
        fn no_delay_passes_its_bound_or_the_cap(attempt in 0_u32..=u32::MAX, chance in -1.0_f64..2.0, initial in 0_u64..1_000_000, max in 0_u64..10_000_000, factor in 1.0_f64..10.0) {
            let policy = RetryPolicy { max_attempts: 3, initial: Duration::from_millis(initial), max: Duration::from_millis(max), factor, on: RetryOn::Any };
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
