//! The store's clocks: the wall clock, and the boot-time clock that leases are judged by.
//!
//! The boot-time clock counts on while the machine sleeps and is not moved when somebody sets the
//! wall clock. It means nothing after a restart, so a lease end is stored with the boot it belongs to:
//! one of another boot has ended.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rhubarb_core::time::{LeaseTime, Now, Timestamp};
use tokio::sync::{Notify, futures::OwnedNotified};

/// What the clocks say, and which boot the lease clock belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Both clocks.
    pub now: Now,
    /// The boot.
    pub boot: Arc<str>,
}

/// Where a store reads the time. Every process that opens one store must read the same clocks.
pub trait Clock: Send + Sync {
    /// Reads the clocks.
    fn read(&self) -> Reading;

    /// Completes when the clock is moved by hand after this call; none for a clock that nobody moves.
    fn moved(&self) -> Option<OwnedNotified> {
        None
    }
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot: Arc<str>,
}

impl SystemClock {
    /// Reads which boot this is. Where the system does not say, the time since the boot is taken from
    /// the wall clock, which names the boot about as well.
    #[must_use]
    pub fn new() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| booted_at(), |id| id.trim().to_owned());
        Self { boot: boot.into() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        let now = Now { epoch: Timestamp::from_system(SystemTime::now()), lease: LeaseTime(boot_time_ms()) };
        Reading { now, boot: Arc::clone(&self.boot) }
    }
}

fn boot_time_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

fn booted_at() -> String {
    let minute = (Timestamp::from_system(SystemTime::now()).as_millis() - boot_time_ms()) / 60_000;
    format!("minute {minute}")
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    reading: Mutex<Reading>,
    moved: Arc<Notify>,
}

impl ManualClock {
    /// A clock at a fixed point.
    #[must_use]
    pub fn new() -> Self {
        let now = Now { epoch: Timestamp(1_800_000_000_000), lease: LeaseTime(1_000_000) };
        Self { reading: Mutex::new(Reading { now, boot: "boot 1".into() }), moved: Arc::default() }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, time: Duration) {
        self.change(|reading| {
            reading.now.epoch = reading.now.epoch.after(time);
            reading.now.lease = reading.now.lease.after(time);
        });
    }

    /// Sets the wall clock alone, as an administrator might.
    pub fn set_wall(&self, epoch: Timestamp) {
        self.change(|reading| reading.now.epoch = epoch);
    }

    /// Restarts the machine: another boot, its clock near zero.
    pub fn reboot(&self) {
        self.change(|reading| {
            reading.now.lease = LeaseTime(5_000);
            reading.boot = format!("{}+", reading.boot).into();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_waiters();
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn read(&self) -> Reading {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn moved(&self) -> Option<OwnedNotified> {
        Some(Arc::clone(&self.moved).notified_owned())
    }
}
