//! When tasks started, as far as a rate needs to know it.
//!
//! A period is cut into slices, and each start counts in its slice as long as any moment of it may be less than a
//! period ago. So the rate is kept in every period, wherever it begins; the price is that a start may wait for one
//! slice longer than it must. Starts that are promised to called tasks stand in slices to come.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rate;
use crate::time::{Timestamp, millis};

/// Slices of a period: at full load a rate is kept to one part in so many below what is allowed.
const SLICES: i64 = 60;

/// Starts by slice: when the slice began, and how many; oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Window(Vec<(i64, u32)>);

impl Rate {
    /// The period, rounded up to whole slices: else its first start would leave a slice too early.
    fn period_ms(&self) -> i64 {
        let (period, slice) = (millis(self.period).max(1), self.slice_ms());
        (period + slice - 1) / slice * slice
    }

    fn slice_ms(&self) -> i64 {
        (millis(self.period) / SLICES).max(1)
    }

    /// How far ahead starts are promised: a period, a minute at most.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        self.period.min(Duration::from_secs(60))
    }
}

impl Window {
    /// True if it knows of no start.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts a start.
    pub(super) fn add(&mut self, rate: Rate, at: Timestamp) {
        let slice = slice_of(rate, at);
        match self.0.binary_search_by_key(&slice, |(slice, _)| *slice) {
            Ok(place) => self.0[place].1 = self.0[place].1.saturating_add(1),
            Err(place) => self.0.insert(place, (slice, 1)),
        }
    }

    /// Takes a start back that was promised.
    pub(super) fn remove(&mut self, rate: Rate, at: Timestamp) {
        let slice = slice_of(rate, at);
        if let Ok(place) = self.0.binary_search_by_key(&slice, |(slice, _)| *slice) {
            self.0[place].1 = self.0[place].1.saturating_sub(1);
            if self.0[place].1 == 0 {
                self.0.remove(place);
            }
        }
    }

    /// Forgets what no period reaches any more.
    pub(super) fn prune(&mut self, rate: Option<Rate>, now: Timestamp) {
        let Some(rate) = rate else {
            self.0.clear();
            return;
        };
        let oldest = now.as_millis() - rate.period_ms() - rate.slice_ms();
        self.0.retain(|(slice, _)| *slice > oldest);
    }

    /// Starts in the period up to `now`, at most.
    #[must_use]
    pub fn started(&self, rate: Rate, now: Timestamp) -> u32 {
        self.sum(slice_of(rate, now) - rate.period_ms(), rate)
    }

    /// The first moment from `now` on at which one more start keeps the rate, also with all that are promised.
    #[must_use]
    pub fn earliest(&self, rate: Rate, now: Timestamp) -> Timestamp {
        let leaves = |slice: i64| Timestamp(slice + rate.period_ms() + rate.slice_ms());
        let mut moments = self.0.iter().map(|(slice, _)| leaves(*slice)).filter(|moment| *moment > now);
        let mut at = now;
        while !self.fits(rate, at) {
            // What was promised last leaves last; nothing stands in the way after it.
            match moments.next() {
                Some(moment) => at = moment,
                None => return at,
            }
        }
        at
    }

    /// True if one more start then keeps the rate in every period that it falls into.
    fn fits(&self, rate: Rate, at: Timestamp) -> bool {
        let slice = slice_of(rate, at);
        let earlier = self.0.iter().map(|(begin, _)| *begin);
        let reaching = earlier.filter(|begin| *begin <= slice && *begin >= slice - rate.period_ms());
        reaching.chain([slice]).all(|from| self.sum(from, rate) < rate.count)
    }

    /// Starts that may lie within one period of the slice `from`, later ones only.
    fn sum(&self, from: i64, rate: Rate) -> u32 {
        let until = from.saturating_add(rate.period_ms());
        let within = self.0.iter().filter(|(slice, _)| (from..=until).contains(slice));
        within.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

fn slice_of(rate: Rate, at: Timestamp) -> i64 {
    at.as_millis() - at.as_millis().rem_euclid(rate.slice_ms())
}
