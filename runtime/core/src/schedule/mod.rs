//! When schedules fire, and what a tick is. Pure: the clock comes in as an argument.
//!
//! A [`Rule`] says which instants a schedule names, a [`Position`] how far it has been dealt with, and a
//! [`Round`] what is to be done now. A tick is named by its schedule and its time; both make the id and the
//! idempotency key of its task, so that whoever fires it, and however often, makes one task.

mod arrive;
mod cron;
mod hosted;
mod overlap;
mod reconcile;
mod round;
mod rule;
mod tick;
mod zone;

pub use cron::Cron;
pub use hosted::{Hosted, SCHEDULED_TIME, hosted, needs_agent};
pub use overlap::{Verdict, judge};
pub use reconcile::{Reconciled, begun, reconcile, renewed};
pub use round::{LATE_MAX, Position, Round};
pub use rule::Rule;
pub use tick::{Tick, key, prepare};
pub use zone::Zone;

pub(crate) use crate::config::quoted;
pub(crate) use arrive::{arrive, is_unfilled};
use tick::key_of;

/// What is wrong with a schedule: at which key, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {what}; {fix}")]
pub struct Unfit {
    /// The key, as it is written in the configuration.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl Unfit {
    pub(crate) fn new(key: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { key, what: what.into(), fix: fix.into() }
    }
}

#[cfg(test)]
mod tests;
