//! What is known about one scope: the one record that its permits are counted in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Scope, ScopeLimits, Share, Window};
use crate::time::Timestamp;

/// The count of one scope's permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// What the newest claim brought: who gives a permit back or sweeps knows no configuration.
    #[serde(default, skip_serializing_if = "ScopeLimits::is_none")]
    pub limits: ScopeLimits,
    /// Tasks that hold a permit.
    #[serde(default)]
    pub running: u32,
    /// Tasks that are parked for one.
    #[serde(default)]
    pub parked: u32,
    /// Tasks that were parked and have been called.
    #[serde(default)]
    pub called: u32,
    /// When tasks started, where there is a rate.
    #[serde(default, skip_serializing_if = "Window::is_empty")]
    pub starts: Window,
}

/// Why a task may not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The key, where it is the key's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The limits.
    pub limits: ScopeLimits,
    /// Tasks that run.
    pub running: u32,
    /// When the rate allows the next start, where it is the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
}

impl fmt::Display for Refusal {
    /// For people, after `waiting`: `for a permit: 2 of 2 of key tenant-7 are running`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match &self.key {
            Some(key) => format!("key {key}"),
            None => "this queue".to_owned(),
        };
        match (self.limits.max_running, self.limits.rate, self.next) {
            (Some(max), _, _) if self.running >= max => {
                write!(f, "for a permit: {} of {max} of {of} are running", self.running)
            }
            (_, Some(rate), Some(next)) => write!(f, "for a permit: {of} may start {rate}, the next one at {next}"),
            _ => write!(f, "for a permit of {of}, which is free: it is about to be called"),
        }
    }
}

impl Meter {
    /// One row's share becomes another.
    pub(super) fn moved(&mut self, from: Share, to: Share) {
        let count = |count: u32, from: u32, to: u32| count.saturating_add(to).saturating_sub(from);
        self.running = count(self.running, from.running, to.running);
        self.parked = count(self.parked, from.parked, to.parked);
        self.called = count(self.called, from.called, to.called);
        if let Some(rate) = self.limits.rate
            && from.slot != to.slot
        {
            if let Some(slot) = from.slot {
                self.starts.remove(rate, slot);
            }
            if let Some(slot) = to.slot {
                self.starts.add(rate, slot);
            }
        }
    }

    /// Counts a start.
    pub(super) fn started(&mut self, now: Timestamp) {
        if let Some(rate) = self.limits.rate {
            self.starts.add(rate, now);
        }
    }

    /// Forgets starts that no period reaches any more.
    pub fn prune(&mut self, now: Timestamp) {
        self.starts.prune(self.limits.rate, now);
    }

    /// True if one more task may start now.
    #[must_use]
    pub fn admits(&self, now: Timestamp) -> bool {
        let room = self.limits.max_running.is_none_or(|max| self.running < max);
        room && self.limits.rate.is_none_or(|rate| self.starts.earliest(rate, now) <= now)
    }

    /// True if more tasks run than may: only a holder that came back late could make it so, and it is refused.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.limits.max_running.is_some_and(|max| self.running > max)
    }

    /// When the task that may be called now may start; none where no one is parked, no permit is left, or the rate
    /// allows it only after the horizon.
    #[must_use]
    pub fn call_for(&self, now: Timestamp) -> Option<Timestamp> {
        let promised = self.running.saturating_add(self.called);
        if self.parked == 0 || self.limits.max_running.is_some_and(|max| promised >= max) {
            return None;
        }
        let Some(rate) = self.limits.rate else { return Some(now) };
        let at = self.starts.earliest(rate, now);
        (at.since(now) <= rate.horizon()).then_some(at)
    }

    /// When somebody must look whether a task may be called: without a rate only now or never, since each return
    /// of a permit looks itself.
    #[must_use]
    pub fn look_at(&self, now: Timestamp) -> Option<Timestamp> {
        let promised = self.running.saturating_add(self.called);
        if self.parked == 0 || self.limits.max_running.is_some_and(|max| promised >= max) {
            return None;
        }
        let Some(rate) = self.limits.rate else { return Some(now) };
        Some(self.starts.earliest(rate, now).before(rate.horizon()).max(now))
    }

    /// True if it says nothing that a new one would not.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.running == 0 && self.parked == 0 && self.called == 0 && self.starts.is_empty()
    }

    /// What a task that is parked here waits for.
    #[must_use]
    pub fn refusal(&self, scope: Scope, key: Option<&str>, now: Timestamp) -> Refusal {
        let next = self.limits.rate.map(|rate| self.starts.earliest(rate, now)).filter(|next| *next > now);
        let key = key.filter(|_| scope == Scope::Key).map(ToOwned::to_owned);
        Refusal { key, limits: self.limits, running: self.running, next }
    }
}
