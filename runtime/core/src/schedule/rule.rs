//! The instants that a schedule names.
//!
//! The rules for clocks that change are EventBridge Scheduler's ("Daylight savings time on EventBridge
//! Scheduler" in its User Guide): a cron tick whose local time does not exist is left out, one whose local time
//! comes twice fires once, at the first; a rate counts elapsed time, its days have 24 hours.

use std::time::Duration;

use super::{Cron, Unfit, Zone};
use crate::{
    config::{ScheduleConfig, When},
    time::{Timestamp, millis},
};

/// When a schedule fires: its compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    ticks: Ticks,
    start: Timestamp,
    end: Timestamp,
    jitter: Duration,
    salt: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ticks {
    /// Milliseconds apart, counted from `start`, or from where the schedule began.
    Rate {
        every: i64,
        from: Timestamp,
    },
    Cron {
        cron: Box<Cron>,
        zone: Zone,
    },
    At(Timestamp),
}

impl Rule {
    /// The rule of a schedule that began at `since`: a rate without a `start` counts from there.
    ///
    /// # Errors
    ///
    /// The expression, the zone or a time is not what it should be.
    pub fn new(schedule: &ScheduleConfig, since: Timestamp) -> Result<Self, Unfit> {
        let zone = Zone::named(&schedule.timezone)?;
        let start = schedule.start.map(|at| zone.instant_or_later(at));
        let end = schedule.end.map_or(Timestamp(i64::MAX), |at| zone.instant_or_later(at));
        let ticks = match &schedule.when {
            When::Rate(every) => {
                let every = millis(*every);
                if every < 1 {
                    return Err(Unfit::new("rate", "it is zero", r#"write e.g. "5 minutes""#));
                }
                Ticks::Rate { every, from: start.unwrap_or(since) }
            }
            When::Cron(text) => Ticks::Cron { cron: Box::new(Cron::parse(text)?), zone },
            When::At(local) => Ticks::At(zone.instant(*local).ok_or_else(|| {
                let what = format!("there is no {local} in {}: clocks go forward over it", schedule.timezone);
                Unfit::new("at", what, "write a time before or after the change")
            })?),
        };
        let start = start.unwrap_or(Timestamp(i64::MIN));
        Ok(Self { ticks, start, end, jitter: schedule.jitter, salt: super::tick::salt(&schedule.name) })
    }

    /// The first tick later than `after`.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        // `start` itself counts.
        let after = after.max(Timestamp(self.start.0.saturating_sub(1)));
        let next = match &self.ticks {
            Ticks::Rate { every, from } => {
                let passed = after.0.saturating_sub(from.0);
                let count = if passed < 0 { 0 } else { passed / every + 1 };
                Timestamp(count.checked_mul(*every)?.checked_add(from.0)?)
            }
            Ticks::Cron { cron, zone } => next_of(cron, zone, after)?,
            Ticks::At(at) => Some(*at).filter(|at| *at > after)?,
        };
        (next <= self.end).then_some(next)
    }

    /// The last tick later than `after` and not later than `until`.
    #[must_use]
    pub fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let is_in = |from: i64| self.next(Timestamp(from)).is_some_and(|tick| tick <= until);
        let (mut low, mut high) = (after.0, until.0);
        if low >= high || !is_in(low) {
            return None;
        }
        // There is a tick after `low` and none after `high`; both close in on the last one.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *(if is_in(middle) { &mut low } else { &mut high }) = middle;
        }
        Some(Timestamp(high))
    }

    /// When a tick is to be fired: at its time, or within the flexible window after it. The same tick always at
    /// the same instant, whoever computes it.
    #[must_use]
    pub fn due(&self, tick: Timestamp) -> Timestamp {
        let window = u64::try_from(millis(self.jitter)).unwrap_or(0);
        if window == 0 {
            return tick;
        }
        let chance = super::tick::mix(self.salt ^ u64::from_ne_bytes(tick.0.to_ne_bytes()));
        tick.after(Duration::from_millis(chance % window))
    }

    /// The flexible window.
    #[must_use]
    pub const fn jitter(&self) -> Duration {
        self.jitter
    }
}

fn next_of(cron: &Cron, zone: &Zone, after: Timestamp) -> Option<Timestamp> {
    let mut local = zone.local(after.max(Timestamp(0).before(Duration::from_secs(24 * 60 * 60))));
    loop {
        local = cron.next(local)?;
        // In the hour that comes twice the second time is not later than the first that was fired.
        if let Some(at) = zone.instant(local).filter(|at| *at > after) {
            return Some(at);
        }
    }
}
