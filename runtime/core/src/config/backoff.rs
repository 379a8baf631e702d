//! The pauses between attempts, as a queue or a task gives them.

use std::time::Duration;

use super::{
    bounds::{BACKOFF, BACKOFF_FACTOR},
    sheet::Table,
    value::{decimal, duration},
};
use crate::retry::RetryPolicy;

/// The inline table `backoff = { initial = "2s", max = "5m", factor = 2 }`; what it leaves out
/// comes from below: a task's from its queue, a queue's from the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackoffConfig {
    /// The bound of the first pause; each pause is drawn evenly from zero to its bound.
    pub initial: Option<Duration>,
    /// No bound grows past this.
    pub max: Option<Duration>,
    /// How much the bound grows with each attempt.
    pub factor: Option<f64>,
}

impl BackoffConfig {
    /// The policy `below`, with what this table says in its place.
    #[must_use]
    pub fn over(&self, below: &RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: below.max_attempts,
            initial: self.initial.unwrap_or(below.initial),
            max: self.max.unwrap_or(below.max),
            factor: self.factor.unwrap_or(below.factor),
            on: below.on.clone(),
        }
    }

    pub(super) fn read(table: &Table<'_, '_>) -> Self {
        let backoff = table.table("backoff", "backoff");
        Self {
            initial: backoff.read("initial", duration(BACKOFF)),
            max: backoff.read("max", duration(BACKOFF)),
            factor: backoff.read("factor", decimal(BACKOFF_FACTOR)),
        }
    }
}
