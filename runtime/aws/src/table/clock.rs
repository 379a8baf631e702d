//! The store's clock as this process knows it: learned from the `Date` of its answers, never from our own wall
//! clock.
//!
//! Each answer says in which second of the server's clock it was written, between the moment its request was sent
//! and the moment it came. So it bounds the distance between that clock and our monotonic one to about a second;
//! the next answers narrow the bounds, down to a few milliseconds when one comes just after a full second. A
//! process that is suspended, or moved to a machine with another monotonic clock, contradicts its bounds and starts
//! again. Nothing is kept: a crash forgets it.
//!
//! Two processes may judge one moment up to a second apart while they know little; leases are longer than that.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
        },
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{
    DateTime,
    config_bag::{ConfigBag, Storable, StoreReplace},
    date_time::Format,
};
use rhubarb_core::time::{LeaseTime, Now, Timestamp, millis};

/// What a `Date` leaves open.
const RESOLUTION_MS: i64 = 1000;
/// In so many milliseconds two clocks drift apart by one: 200 millionths, four times what a plain quartz does.
const DRIFT: i64 = 5000;
/// Bounds that are contradicted by more than this are given up: the monotonic clock has stood still.
const CONTRADICTION_MAX_MS: i64 = 2000;
/// The clock stands rather than go back so far; what goes back further was wrong before.
const STAND_MAX_MS: i64 = 1500;

/// Bounds of how far the server's clock is ahead of the monotonic one, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    low: i64,
    high: i64,
    /// When they were right.
    at: i64,
}

impl Ahead {
    /// What one answer says.
    const fn of(date: i64, sent: i64, received: i64) -> Self {
        Self { low: date - received, high: date + RESOLUTION_MS - sent, at: received }
    }

    /// These bounds at a later time: wider by the drift.
    const fn aged(self, now: i64) -> Self {
        let drift = (now - self.at) / DRIFT;
        if drift <= 0 {
            self
        } else {
            Self { low: self.low - drift, high: self.high + drift, at: self.at + drift * DRIFT }
        }
    }

    /// What these bounds and a newer answer say together.
    fn and(self, newer: Self) -> Self {
        let aged = self.aged(newer.at);
        let (low, high) = (aged.low.max(newer.low), aged.high.min(newer.high));
        if low <= high {
            return Self { low, high, at: aged.at };
        }
        if low - high > CONTRADICTION_MAX_MS {
            return newer;
        }
        // Another server of the same service, a little off: go as far as it asks, and no further.
        let width = aged.high - aged.low;
        if aged.high < newer.low {
            Self { low: newer.low, high: newer.low + width, at: newer.at }
        } else {
            Self { low: newer.high - width, high: newer.high, at: newer.at }
        }
    }

    const fn middle(self) -> i64 {
        self.low + (self.high - self.low) / 2
    }
}

#[derive(Debug, Default)]
struct Known {
    ahead: Option<Ahead>,
    last: Option<i64>,
    moved: i64,
}

impl Known {
    fn learn(&mut self, sample: Ahead) {
        self.ahead = Some(self.ahead.map_or(sample, |known| known.and(sample)));
    }

    fn now(&mut self, monotonic: i64) -> Option<i64> {
        let read = monotonic + self.ahead?.middle();
        let now = self.last.filter(|last| *last > read && *last - read <= STAND_MAX_MS).unwrap_or(read);
        self.last = Some(now);
        Some(now + self.moved)
    }
}

/// The server's clock, as its answers tell it.
#[derive(Debug)]
pub struct ServerClock {
    start: Instant,
    known: Mutex<Known>,
}

impl ServerClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), known: Mutex::default() })
    }

    /// What it says now; nothing before the first answer.
    #[must_use]
    pub fn now(&self) -> Option<Now> {
        let now = self.lock().now(self.monotonic())?;
        Some(Now { epoch: Timestamp(now), lease: LeaseTime(now) })
    }

    /// Moves it, for tests: what the table holds is judged as if so much more time had passed. Every client of
    /// that table must be moved alike.
    pub fn advance(&self, by: Duration) {
        self.lock().moved += millis(by);
    }

    fn learn(&self, date: &str, sent: i64) {
        if let Ok(date) = DateTime::from_str(date, Format::HttpDate) {
            let sample = Ahead::of(date.secs().saturating_mul(1000), sent, self.monotonic());
            self.lock().learn(sample);
        }
    }

    fn monotonic(&self) -> i64 {
        millis(self.start.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Each change is one assignment: a panic elsewhere leaves whole values behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the date of every answer of a client.
#[derive(Debug)]
pub(super) struct ReadsDate(pub(super) Arc<ServerClock>);

/// When a request was sent.
#[derive(Debug)]
struct Sent(i64);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl Intercept for ReadsDate {
    fn name(&self) -> &'static str {
        "ReadsDate"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        state.interceptor_state().store_put(Sent(self.0.monotonic()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let (Some(date), Some(sent)) = (context.response().headers().get("date"), state.load::<Sent>()) {
            self.0.learn(date, sent.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's clock at our monotonic zero.
    const EPOCH: i64 = 1_800_000_000_250;

    /// An answer that was written `half` after its request was sent, and came as long after.
    fn answer(sent: i64, half: i64) -> Ahead {
        let written = EPOCH + sent + half;
        Ahead::of(written - written.rem_euclid(1000), sent, sent + 2 * half)
    }

    fn known(samples: impl IntoIterator<Item = Ahead>) -> Known {
        let mut known = Known::default();
        samples.into_iter().for_each(|sample| known.learn(sample));
        known
    }

    #[test]
    fn one_answer_tells_the_time_to_half_a_second_and_the_round_trip() {
        for sent in (0..3000).step_by(70) {
            let now = known([answer(sent, 20)]).now(sent + 40).unwrap();
            let truth = EPOCH + sent + 40;
            assert!((now - truth).abs() <= 500 + 40, "{} ms off", now - truth);
        }
    }

    #[test]
    fn answers_spread_over_seconds_tell_it_to_a_fraction() {
        let mut known = known((0..40).map(|n| answer(n * 73, 4)));
        let now = known.now(4000).unwrap();
        assert!((now - EPOCH - 4000).abs() <= 80, "{} ms off", now - EPOCH - 4000);
    }

    #[test]
    fn the_wall_clock_of_this_machine_is_never_asked() {
        // Whatever it says, five minutes off or not: bounds come from the server and from what has passed.
        let five_minutes = 300_000;
        let samples = (0..40).map(|n| answer(n * 73, 4));
        let shifted = (0..40).map(|n| {
            let Ahead { low, high, at } = answer(n * 73, 4);
            Ahead { low: low - five_minutes, high: high - five_minutes, at: at + five_minutes }
        });
        assert_eq!(known(samples).now(4000), known(shifted).now(4000 + five_minutes));
    }

    #[test]
    fn a_slow_answer_does_not_spoil_what_is_known() {
        let mut exact = known((0..40).map(|n| answer(n * 73, 4)));
        exact.learn(answer(5000, 9000));
        let now = exact.now(24_000).unwrap();
        assert!((now - EPOCH - 24_000).abs() <= 100, "{} ms off", now - EPOCH - 24_000);
    }

    #[test]
    fn a_server_that_is_a_little_off_is_followed_a_little() {
        let mut exact = known((0..40).map(|n| answer(n * 73, 4)));
        let off = 60;
        for n in 0..20 {
            let Ahead { low, high, at } = answer(4000 + n * 73, 4);
            exact.learn(Ahead { low: low + off, high: high + off, at });
        }
        let now = exact.now(6000).unwrap();
        assert!((0..=off + 100).contains(&(now - EPOCH - 6000)), "{} ms off", now - EPOCH - 6000);
    }

    #[test]
    fn a_monotonic_clock_that_stood_still_is_noticed() {
        let mut slept = known((0..40).map(|n| answer(n * 73, 4)));
        let hour = 3_600_000;
        let Ahead { low, high, at } = answer(4000, 4);
        slept.learn(Ahead { low: low + hour, high: high + hour, at });
        let now = slept.now(4008).unwrap();
        assert!((now - EPOCH - 4008 - hour).abs() <= 520, "{} ms off", now - EPOCH - 4008 - hour);
    }

    #[test]
    fn it_never_goes_back_a_little() {
        let mut known = Known::default();
        let mut before = 0;
        for n in 0..200 {
            known.learn(answer(n * 37, 3));
            let now = known.now(n * 37 + 6).unwrap();
            assert!(now >= before);
            before = now;
        }
    }

    #[test]
    fn what_is_known_fades_by_the_drift_of_clocks() {
        let day = 24 * 3_600_000;
        let known = answer(0, 4);
        let aged = known.aged(known.at + day);
        assert_eq!(aged.high - aged.low, 1008 + 2 * day / DRIFT);
        let mut by_steps = known;
        for second in 1..=24 * 3600 {
            by_steps = by_steps.aged(known.at + second * 1000);
        }
        assert_eq!(by_steps, aged);
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        let clock = ServerClock::new();
        assert!(clock.now().is_none());
        clock.learn("not a date", 0);
        assert!(clock.now().is_none());
        clock.learn("Fri, 15 Jan 2027 08:00:00 GMT", clock.monotonic());
        let now = clock.now().unwrap();
        assert!((now.epoch.0 - 1_800_000_000_000).abs() <= 1100, "{now:?}");
    }
}
