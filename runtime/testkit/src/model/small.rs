//! A row as the search keeps it: what decides, with times counted in leases from now.
//!
//! How long a task has been available is left out: its doorbell may be taken for lost at any time when the queue is
//! empty. So more can happen here than does, never less.

use std::{sync::LazyLock, time::Duration};

use rhubarb_core::{
    ids::{FencingToken, WorkerId},
    limits::{DOORBELL_PATIENCE, Limits},
    row::{AckMode, Hold, Row, State},
    time::{LeaseTime, Now, Timestamp},
};

/// One step of time: the lease, and as long as a queue must stand empty before doorbells count as lost.
pub(super) const STEP: Duration = DOORBELL_PATIENCE;
/// Attempts of a task.
pub(super) const ATTEMPTS: u32 = 2;
/// Now, for ever: everything else moves.
pub(super) const NOW: Now = Now { epoch: Timestamp(1_800_000_000_000), lease: LeaseTime(1_000_000_000) };
/// Long ago: nothing asks how long.
const PAST: i8 = -1;

#[expect(clippy::expect_used, reason = "a constant")]
pub(super) static WORKER: LazyLock<WorkerId> = LazyLock::new(|| WorkerId::new("worker").expect("a valid name"));

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Small {
    pub(super) state: State,
    pub(super) fence: u8,
    pub(super) attempt: u8,
    /// When the lease ends, while somebody holds it or held it last.
    pub(super) until: Option<i8>,
    pub(super) not_before: Option<i8>,
    pub(super) ring_at: Option<i8>,
    pub(super) rings: u8,
    pub(super) cancel_asked: bool,
}

fn millis(steps: i8) -> i64 {
    i64::from(steps) * rhubarb_core::time::millis(STEP)
}

/// The number of whole steps until a time; zero where it has come.
fn steps(millis: i64) -> i8 {
    let steps = millis.div_euclid(rhubarb_core::time::millis(STEP));
    i8::try_from(steps.max(0)).unwrap_or(i8::MAX)
}

/// A duration in whole steps: the margins that are added to it are shorter.
pub(super) fn steps_of(time: Duration) -> i8 {
    steps(rhubarb_core::time::millis(time))
}

pub(super) fn lease_time(steps: i8) -> LeaseTime {
    LeaseTime(NOW.lease.0 + millis(steps))
}

fn time(steps: i8) -> Timestamp {
    Timestamp(NOW.epoch.0 + millis(steps))
}

fn steps_to(time: Timestamp) -> i8 {
    steps(time.0 - NOW.epoch.0)
}

impl Small {
    /// The row of a task that is accepted now.
    pub(super) fn submitted() -> Self {
        Self::of(&Row::submitted(Some(ATTEMPTS), None, None, NOW.epoch, &Limits::AWS))
    }

    /// What the search keeps of a row.
    pub(super) fn of(row: &Row) -> Self {
        Self {
            state: row.state,
            fence: row.fence.0 as u8,
            attempt: row.attempt as u8,
            until: row.hold.as_ref().map(|hold| steps(hold.until.0 - NOW.lease.0)),
            not_before: row.not_before.map(steps_to).filter(|steps| *steps > 0),
            ring_at: row.ring_at.map(steps_to),
            rings: row.rings as u8,
            cancel_asked: row.cancel_asked,
        }
    }

    /// The row itself, as the core's verbs want it.
    pub(super) fn row(self, ack: AckMode) -> Row {
        let hold =
            |until| Hold { worker: WORKER.clone(), until: lease_time(until), lease: STEP, ack, started: NOW.epoch };
        Row {
            state: self.state,
            fence: FencingToken(u64::from(self.fence)),
            attempt: u32::from(self.attempt),
            hold: self.until.map(hold),
            queued_at: time(PAST),
            not_before: self.not_before.map(time),
            ring_at: self.ring_at.map(time),
            rings: u32::from(self.rings),
            cancel_asked: self.cancel_asked,
            ..Row::submitted(Some(ATTEMPTS), None, None, NOW.epoch, &Limits::AWS)
        }
    }

    /// What is left of a row that has settled, and that nobody brings back.
    pub(super) const fn ended() -> Self {
        Self {
            state: State::Succeeded,
            fence: 0,
            attempt: 0,
            until: None,
            not_before: None,
            ring_at: None,
            rings: 0,
            cancel_asked: false,
        }
    }

    /// The same row one step of time later.
    pub(super) fn later(self) -> Self {
        Self {
            until: self.until.map(later),
            not_before: self.not_before.map(later).filter(|steps| *steps > 0),
            ring_at: self.ring_at.map(later),
            ..self
        }
    }
}

/// A time as it is one step later.
pub(super) fn later(steps: i8) -> i8 {
    (steps - 1).max(0)
}
