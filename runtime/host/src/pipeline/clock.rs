//! When an invocation is told to stop, and when it is killed. Pure but for the clock it is begun at.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rhubarb_core::{config::QueueConfig, limits::SETTLE_ALLOWANCE};

use super::{Held, ended::End};
use crate::attempt::{Attempt, Stop};

/// When an invocation's time is up, where the place that the host runs in gives it only so much.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From here on functions are told to stop, and nothing more is begun.
    pub tell: Instant,
    /// What still runs here is killed; the rest of the time is for settling.
    pub kill: Instant,
}

/// When an invocation must end.
#[derive(Clone, Copy)]
struct Limits {
    soft: Option<Instant>,
    hard: Instant,
}

impl Limits {
    /// A lone record has its own limits; several share one, since nobody outside sees which one runs. Where
    /// the place cuts an invocation off, the allowance to settle in is already kept back.
    fn of(queue: &QueueConfig, group: &[Held], is_cut: bool, now: Instant) -> Self {
        if let [only] = group {
            let policy = &only.attempt.policy;
            return Self { soft: Some(now + policy.soft_timeout), hard: now + policy.timeout };
        }
        let parallel = usize::try_from(queue.parallel).unwrap_or(1).max(1);
        let rounds = u32::try_from(group.len().div_ceil(parallel)).unwrap_or(u32::MAX);
        let allowance = if is_cut { Duration::ZERO } else { SETTLE_ALLOWANCE };
        Self { soft: None, hard: now + queue.timeout.saturating_mul(rounds) + allowance }
    }
}

/// Decides when a running invocation is told to stop, and when it is killed.
pub(super) struct Clock {
    limits: Limits,
    grace: Duration,
    cut: Option<Cut>,
    told_soft: bool,
    told_cut: bool,
    told_at: Option<Instant>,
}

impl Clock {
    pub(super) fn new(queue: &QueueConfig, group: &[Held], grace: Duration, cut: Option<Cut>) -> Self {
        let limits = Limits::of(queue, group, cut.is_some(), Instant::now());
        Self { limits, grace, cut, told_soft: false, told_cut: false, told_at: None }
    }

    /// When the invocation has ended, one way or another.
    pub(super) fn end(&self) -> Instant {
        self.cut.map_or(self.limits.hard, |cut| cut.kill.min(self.limits.hard))
    }

    pub(super) fn wake(&self) -> Instant {
        let soft = self.limits.soft.filter(|_| !self.told_soft);
        let kill = self.told_at.map(|at| at + self.grace);
        let cut = self.cut.map(|cut| if self.told_cut { cut.kill } else { cut.tell });
        [soft, kill, cut].into_iter().flatten().fold(self.limits.hard, Instant::min)
    }

    /// What is due now; an end means: kill it.
    pub(super) fn strike(&mut self, attempts: &[Arc<Attempt>], now: Instant) -> Option<End> {
        if let Some(cut) = self.cut {
            if now >= cut.kill && cut.kill <= self.limits.hard {
                return Some(End::Cut);
            }
            if now >= cut.tell && !self.told_cut {
                self.told_cut = true;
                attempts.iter().for_each(|attempt| attempt.stop(Stop::Shutdown));
            }
        }
        if now >= self.limits.hard {
            return Some(End::TimedOut);
        }
        if !self.told_soft && self.limits.soft.is_some_and(|soft| now >= soft) {
            self.told_soft = true;
            attempts.iter().for_each(|attempt| attempt.stop(Stop::Timeout));
        }
        let stops = || attempts.iter().filter_map(|attempt| attempt.stopped());
        // One lost record of several is only refused when it settles: the others go on.
        if stops().filter(|stop| *stop == Stop::Lost).count() == attempts.len() {
            return Some(End::Stopped);
        }
        if stops().any(|stop| matches!(stop, Stop::Requested | Stop::Shutdown)) {
            let told_at = *self.told_at.get_or_insert(now);
            let end = if self.told_cut { End::Cut } else { End::Stopped };
            return (now >= told_at + self.grace).then_some(end);
        }
        None
    }
}

/// What comes of `work` before the time of the place is up.
pub(super) async fn before<T>(cut: Option<Cut>, work: impl Future<Output = T>) -> Option<T> {
    match cut {
        None => Some(work.await),
        Some(cut) => tokio::time::timeout_at(cut.kill.into(), work).await.ok(),
    }
}
