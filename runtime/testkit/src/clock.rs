//! Time for tests: moved by the test, never waited for.
//!
//! A backend under test has a clock of its own; an exercise moves it through [`Clockwork`] and reads
//! it there. The in-memory backend takes a [`Clock`]: tokio's, which a test can pause, or one that is
//! moved by hand and needs no runtime.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rhubarb_core::time::{LeaseTime, Now, Timestamp, millis};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// What the clocks of tests start from: 2027-01-15T08:00:00Z.
const EPOCH: Timestamp = Timestamp(1_800_000_000_000);

/// Moves the time of a backend under test.
#[async_trait]
pub trait Clockwork: Send + Sync {
    /// Lets so much of the backend's time pass. A real service is waited for.
    async fn advance(&self, by: Duration);

    /// The backend's wall clock.
    fn now(&self) -> Timestamp;

    /// The longest time that can pass in a test. Facts that need more are left out: only a clock that
    /// can be moved shows what happens after fifteen days.
    fn reach(&self) -> Duration {
        Duration::MAX
    }

    /// True if time passes whether it is advanced or not: then facts need not wait for each other, and an
    /// exercise runs them at the same time.
    fn passes_by_itself(&self) -> bool {
        false
    }

    /// Sets the backend's wall clock alone, so many milliseconds ahead or back, as an administrator might; what
    /// leases are judged by does not notice. Returns false where nobody can.
    fn step_wall(&self, _by_ms: i64) -> bool {
        false
    }

    /// How far listings, counts and empty receives may lag behind. Within it a fact is looked at again.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed_ms: AtomicI64,
    stepped_ms: AtomicI64,
    moved: Notify,
}

impl ManualClock {
    /// A clock at its start.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.elapsed_ms.fetch_add(millis(by), Ordering::SeqCst);
        self.moved.notify_waiters();
    }

    /// Sets the wall clock alone, ahead or back.
    pub fn step_wall(&self, by_ms: i64) {
        self.stepped_ms.fetch_add(by_ms, Ordering::SeqCst);
        self.moved.notify_waiters();
    }

    /// What the wall clock says.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        Timestamp(EPOCH.0 + self.elapsed_ms() + self.stepped_ms.load(Ordering::SeqCst))
    }

    /// Milliseconds since its start.
    #[must_use]
    pub fn elapsed_ms(&self) -> i64 {
        self.elapsed_ms.load(Ordering::SeqCst)
    }
}

/// What the in-memory backend reads the time from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Tokio's clock, which a test can pause; counted from this instant.
    Tokio(Instant),
    /// One that is moved by hand.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// Tokio's clock, from now on.
    #[must_use]
    pub fn tokio() -> Self {
        Self::Tokio(Instant::now())
    }

    /// Reads the clock.
    #[must_use]
    pub fn now(&self) -> Now {
        match self {
            Self::Tokio(start) => {
                let elapsed = millis(start.elapsed());
                Now { epoch: Timestamp(EPOCH.0 + elapsed), lease: LeaseTime(elapsed) }
            }
            Self::Manual(clock) => Now { epoch: clock.wall(), lease: LeaseTime(clock.elapsed_ms()) },
        }
    }

    /// Waits until something has changed, or this time has come.
    pub(crate) async fn wait(&self, changed: Notified<'_>, until: LeaseTime) {
        match self {
            Self::Tokio(start) => {
                let until = *start + Duration::from_millis(u64::try_from(until.0).unwrap_or(0));
                // Either way the caller looks again.
                let _ = tokio::time::timeout_at(until, changed).await;
            }
            Self::Manual(clock) => {
                let moved = clock.moved.notified();
                if self.now().lease < until {
                    tokio::select! { () = changed => {}, () = moved => {} }
                }
            }
        }
    }
}

/// Tokio's paused clock as [`Clockwork`]: what `#[tokio::test(start_paused = true)]` stops.
#[derive(Clone, Debug)]
pub struct PausedTime {
    /// The backend's clock.
    pub clock: Clock,
    /// How far the backend's indexes lag.
    pub lag: Duration,
}

#[async_trait]
impl Clockwork for PausedTime {
    async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now().epoch
    }

    fn lag(&self) -> Duration {
        self.lag
    }
}

#[async_trait]
impl Clockwork for ManualClock {
    async fn advance(&self, by: Duration) {
        Self::advance(self, by);
    }

    fn now(&self) -> Timestamp {
        self.wall()
    }

    fn step_wall(&self, by_ms: i64) -> bool {
        Self::step_wall(self, by_ms);
        true
    }
}
