//! Whether the application's group is there: then its template was deployed, and EventBridge fires its schedules.
//!
//! It is asked for seldom, as a deployment is seldom; what was answered is kept by the process alone.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use rhubarb_core::backend::Result;

use super::eventbridge::EventBridge;

/// How long an answer holds: a group that is missing is looked for again soon after a deployment.
const fn holds(there: bool) -> Duration {
    Duration::from_secs(if there { 10 * 60 } else { 60 })
}

#[derive(Debug)]
pub(super) struct Group {
    eventbridge: EventBridge,
    answer: RwLock<Option<(bool, Instant)>>,
}

impl Group {
    pub(super) fn new(eventbridge: EventBridge) -> Self {
        Self { eventbridge, answer: RwLock::default() }
    }

    /// Whether it is there, by an answer that still holds.
    pub(super) async fn exists(&self) -> Result<bool> {
        let known = *self.answer.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((there, _)) = known.filter(|(there, asked)| asked.elapsed() < holds(*there)) {
            return Ok(there);
        }
        let there = self.eventbridge.has_group().await?;
        *self.answer.write().unwrap_or_else(PoisonError::into_inner) = Some((there, Instant::now()));
        Ok(there)
    }

    /// The last answer, however old.
    pub(super) fn was_there(&self) -> bool {
        self.answer.read().unwrap_or_else(PoisonError::into_inner).is_some_and(|(there, _)| there)
    }
}
