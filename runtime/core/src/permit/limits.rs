//! What a queue allows.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// At most so many starts in any period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Starts.
    pub count: u32,
    /// The period.
    #[serde(rename = "period_ms", with = "period_ms")]
    pub period: Duration,
}

mod period_ms {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(period: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(crate::time::millis(*period))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(deserializer)?.max(1)))
    }
}

impl fmt::Display for Rate {
    /// As it is written in the configuration: `100/minute`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];
        match known.into_iter().find(|(_, seconds)| self.period == Duration::from_secs(*seconds)) {
            Some((word, _)) => write!(f, "{}/{word}", self.count),
            None => write!(f, "{}/{}s", self.count, self.period.as_secs_f64()),
        }
    }
}

/// The limits of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeLimits {
    /// At most so many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// At most so many starts in a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl ScopeLimits {
    /// True if nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.max_running.is_none() && self.rate.is_none()
    }
}

/// The limits of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Of all its tasks together.
    pub queue: ScopeLimits,
    /// Of those of one concurrency key together; tasks without a key have none.
    pub key: ScopeLimits,
}

impl QueueLimits {
    /// No limits.
    pub const NONE: Self = {
        let none = ScopeLimits { max_running: None, rate: None };
        Self { queue: none, key: none }
    };

    /// True if nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.queue.is_none() && self.key.is_none()
    }
}
