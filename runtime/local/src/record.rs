//! A task's row as a verb sees it: loaded by number columns, changed by the core's `Row`, saved.
//!
//! Saving keeps three things true that no verb needs to think of: the counts by state; a waiting row
//! always stands in the doorbell index (with [`NEVER`] where its doorbell is not out), so that a queue's
//! waiting rows are found without a scan, and a settled one never; and who waits for the queue or
//! for the outcome is told.

use std::time::Duration;

use rhubarb_core::{
    backend::WonRow,
    envelope::BlobRef,
    ids::{FencingToken, TaskId},
    outcome::Outcome,
    permit::Permit,
    row::{AckMode, Hold, Row, State},
    time::{LeaseTime, Timestamp},
};
use rusqlite::types::Type;

use crate::{
    error::{Fallible, Fault},
    names::{Name, NameNo},
    rows::Extent,
    schema::NEVER,
};

/// The columns that [`Record::decode`] reads, in its order; what a select adds comes after.
macro_rules! columns {
    () => {
        "seq, id, task, queue, submitted, state, fence, attempt, max_attempts, flags, queued_at, not_before, expires, \
         ring_at, interruptions, snoozes, redriven, lease_boot, lease_until, lease_ms, bell_at, bell_sent, \
         bell_receives, bell_received, bell_first_received, last_fence, last_attempt, last_worker, last_started, \
         last_ended, last_outcome, settled_at, forget_at, rings, rung_at"
    };
}
pub(crate) use columns;

/// How many [`columns!`] there are.
pub(crate) const COLUMN_COUNT: usize = 35;

/// How many numbers of a row change.
pub(crate) const NUMBERS: usize = 31;

const CANCEL_ASKED: i64 = 1;
const ALONE: i64 = 2;
pub(crate) const HELD: i64 = 4;
const ACK_MESSAGE: i64 = 8;
pub(crate) const KEYED: i64 = 16;
const TOMBSTONE: i64 = 32;
const PERMIT: i64 = 64;

/// The doorbell of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bell {
    /// When it may be received; none when there is none, [`NEVER`] when a waiting row has none.
    pub(crate) at: Option<i64>,
    /// When it was rung.
    pub(crate) sent: Timestamp,
    /// How often it was received.
    pub(crate) receives: u32,
    /// When it was received last.
    pub(crate) received: Option<Timestamp>,
    /// When it was received first.
    pub(crate) first_received: Option<Timestamp>,
}

impl Bell {
    /// Rings: a new message, whatever became of an earlier one.
    pub(crate) fn ring(&mut self, at: Timestamp, now: Timestamp) {
        *self = Self { at: Some(at.as_millis()), sent: now, ..Self::default() };
    }

    /// True if a doorbell is out, received or not.
    pub(crate) fn is_out(&self) -> bool {
        self.at.is_some_and(|at| at != NEVER)
    }
}

/// What an attempt came to, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded = 1,
    Failed = 2,
    Snoozed = 3,
    Interrupted = 4,
    Cancelled = 5,
    Poisoned = 6,
    /// Reaped on the last attempt; the row's failure says so.
    Lost = 7,
    /// Reaped, and queued again.
    LostBefore = 8,
}

impl Ending {
    /// The ending of an outcome.
    pub(crate) const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Succeeded,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::Snoozed(_) => Self::Snoozed,
            Outcome::Interrupted { .. } => Self::Interrupted,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Poisoned(_) => Self::Poisoned,
        }
    }

    /// The word of a stored number.
    pub(crate) const fn word(number: i64) -> Option<&'static str> {
        Some(match number {
            1 => "succeeded",
            2 => "failed",
            3 => "snoozed",
            4 => "interrupted",
            5 => "cancelled",
            6 => "poisoned",
            7 | 8 => "lost",
            _ => return None,
        })
    }
}

/// The last attempt, as it stands in the task's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) fence: FencingToken,
    pub(crate) attempt: u32,
    pub(crate) worker: NameNo,
    pub(crate) started: Timestamp,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) ending: Option<i64>,
}

/// A task's row.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) seq: i64,
    pub(crate) id: TaskId,
    pub(crate) task: NameNo,
    pub(crate) queue: NameNo,
    pub(crate) submitted: Timestamp,
    pub(crate) row: Row,
    pub(crate) bell: Bell,
    pub(crate) last: Option<Last>,
    pub(crate) settled_at: Option<Timestamp>,
    pub(crate) forget_at: Option<Timestamp>,
    /// It has an idempotency key.
    pub(crate) keyed: bool,
    /// Only id, state and fence are left.
    pub(crate) tombstone: bool,
    /// The meters know of its permit already, though the file does not.
    pub(crate) is_counted: bool,
    pub(crate) was: Was,
}

/// What the file holds of a row.
#[derive(Clone, Debug)]
pub(crate) struct Was {
    pub(crate) row: Row,
    pub(crate) bell: Bell,
    pub(crate) settled_at: Option<Timestamp>,
    pub(crate) forget_at: Option<Timestamp>,
}

/// What decides how a row of `task` is read.
pub(crate) struct Reading<'r> {
    /// The number of this boot: leases of others have ended.
    pub(crate) boot: Option<NameNo>,
    /// Finds the name of a number.
    pub(crate) name: &'r dyn Fn(NameNo) -> Fallible<Name>,
    /// Finds what stands about a row's permits.
    pub(crate) permit: &'r dyn Fn(i64) -> Fallible<Option<Box<Permit>>>,
}

fn number<T: TryFrom<i64>>(row: &rusqlite::Row<'_>, index: usize) -> Fallible<T> {
    let value: i64 = row.get(index)?;
    T::try_from(value).map_err(|_| {
        rusqlite::Error::FromSqlConversionFailure(index, Type::Integer, format!("{value} is out of range").into())
            .into()
    })
}

fn time(row: &rusqlite::Row<'_>, index: usize) -> Fallible<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(index)?.map(Timestamp))
}

fn millis(duration: Duration) -> i64 {
    rhubarb_core::time::millis(duration)
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl Record {
    /// Reads a row of a select that begins with [`columns!`]. What is wrong with one is told with its task.
    pub(crate) fn decode(row: &rusqlite::Row<'_>, reading: &Reading<'_>) -> Fallible<Self> {
        Self::decode_columns(row, reading).map_err(|fault| fault.of_row(name_of(row)))
    }

    fn decode_columns(row: &rusqlite::Row<'_>, reading: &Reading<'_>) -> Fallible<Self> {
        let flags: i64 = row.get(9)?;
        let state = number::<u8>(row, 5)?;
        let state = State::from_number(state).ok_or_else(|| Fault::Damaged(format!("a task in state {state}")))?;
        let last = decode_last(row)?;
        let hold = match (&last, flags & HELD != 0) {
            (Some(last), true) => Some(decode_hold(row, last, flags, reading)?),
            _ => None,
        };
        let bell = Bell {
            at: row.get(20)?,
            sent: Timestamp(row.get(21)?),
            receives: number(row, 22)?,
            received: time(row, 23)?,
            first_received: time(row, 24)?,
        };
        let (queued_at, ring_at) = (Timestamp(row.get(10)?), time(row, 13)?);
        let row_of_core = Row {
            state,
            fence: FencingToken(number(row, 6)?),
            attempt: number(row, 7)?,
            max_attempts: number(row, 8)?,
            hold,
            queued_at,
            not_before: time(row, 11)?,
            expires: time(row, 12)?,
            ring_at,
            rings: number(row, 33)?,
            rung_at: time(row, 34)?.unwrap_or(ring_at.unwrap_or(queued_at)),
            cancel_asked: flags & CANCEL_ASKED != 0,
            alone: flags & ALONE != 0,
            interruptions: number(row, 14)?,
            snoozes: number(row, 15)?,
            redriven: number(row, 16)?,
            permit: if flags & PERMIT == 0 { None } else { (reading.permit)(row.get(0)?)? },
        };
        let (settled_at, forget_at) = (time(row, 31)?, time(row, 32)?);
        let (keyed, tombstone) = (flags & KEYED != 0, flags & TOMBSTONE != 0);
        Ok(Self {
            seq: row.get(0)?,
            id: TaskId::from_bytes(row.get(1)?),
            task: row.get(2)?,
            queue: row.get(3)?,
            submitted: Timestamp(row.get(4)?),
            was: Was { row: row_of_core.clone(), bell, settled_at, forget_at },
            row: row_of_core,
            bell,
            last,
            settled_at,
            forget_at,
            keyed,
            tombstone,
            is_counted: false,
        })
    }

    /// Settles the record: when, and until when it is kept.
    pub(crate) fn close(&mut self, now: Timestamp, keep: (Duration, Duration)) {
        let keep = if self.row.state == State::Failed { keep.1 } else { keep.0 };
        self.settled_at = Some(now);
        self.forget_at = Some(now.after(keep));
    }

    /// Opens a settled record again.
    pub(crate) const fn reopen(&mut self) {
        self.settled_at = None;
        self.forget_at = None;
    }

    /// Ends the last attempt.
    pub(crate) const fn end_attempt(&mut self, now: Timestamp, ending: Ending) {
        if let Some(last) = &mut self.last {
            last.ended = Some(now);
            last.ending = Some(ending as i64);
        }
    }

    /// What the holder must know.
    pub(crate) fn won(&self, checkpoint: Option<BlobRef>) -> WonRow {
        WonRow {
            fence: self.row.fence,
            attempt: self.row.attempt,
            max_attempts: self.row.max_attempts,
            alone: self.row.alone,
            submitted: self.submitted,
            queued_at: self.row.queued_at,
            started: self.last.map_or(self.row.queued_at, |last| last.started),
            checkpoint,
        }
    }

    /// What is true of it, as one number.
    pub(crate) fn flags(&self) -> i64 {
        let hold = self.row.hold.as_ref();
        let ack_message = hold.is_some_and(|hold| hold.ack == AckMode::Message);
        [
            (self.row.cancel_asked, CANCEL_ASKED),
            (self.row.alone, ALONE),
            (hold.is_some(), HELD),
            (ack_message, ACK_MESSAGE),
            (self.keyed, KEYED),
            (self.tombstone, TOMBSTONE),
            (self.row.permit.is_some(), PERMIT),
        ]
        .into_iter()
        .map(|(set, flag)| if set { flag } else { 0 })
        .sum()
    }

    /// What must be written.
    pub(crate) fn changed(&self) -> Extent {
        let (row, was) = (&self.row, &self.was.row);
        let as_kept = (row.queued_at, row.not_before, row.expires, row.ring_at)
            == (was.queued_at, was.not_before, was.expires, was.ring_at)
            && (row.interruptions, row.snoozes, row.redriven) == (was.interruptions, was.snoozes, was.redriven)
            && (row.rings, row.rung_at) == (was.rings, was.rung_at)
            && self.bell.sent == self.was.bell.sent;
        let as_claimed = (row.fence, row.attempt, row.max_attempts) == (was.fence, was.attempt, was.max_attempts)
            && row.hold == was.hold
            && self.bell == self.was.bell;
        let as_settled = (self.settled_at, self.forget_at) == (self.was.settled_at, self.was.forget_at);
        match (as_kept, as_claimed, as_settled) {
            (true, true, _) => Extent::Settlement,
            (true, false, true) => Extent::Claim,
            (true, false, false) | (false, _, _) => Extent::All,
        }
    }

    /// The columns that change, at their places less one.
    pub(crate) fn numbers(&self, boot: NameNo) -> [Option<i64>; NUMBERS] {
        let (row, bell, last, hold) = (&self.row, &self.bell, self.last, self.row.hold.as_ref());
        [
            Some(self.seq),
            Some(row.state as i64),
            Some(row.fence.0.cast_signed()),
            Some(row.attempt.into()),
            Some(row.max_attempts.into()),
            Some(self.flags()),
            Some(row.queued_at.as_millis()),
            ms(row.not_before),
            ms(row.expires),
            ms(row.ring_at),
            Some(row.interruptions.into()),
            Some(row.snoozes.into()),
            Some(row.redriven.into()),
            hold.map(|_| boot),
            hold.map(|hold| hold.until.0),
            hold.map(|hold| millis(hold.lease)),
            bell.at,
            Some(bell.sent.as_millis()),
            Some(bell.receives.into()),
            ms(bell.received),
            ms(bell.first_received),
            last.map(|last| last.fence.0.cast_signed()),
            last.map(|last| last.attempt.into()),
            last.map(|last| last.worker),
            last.map(|last| last.started.as_millis()),
            ms(last.and_then(|last| last.ended)),
            last.and_then(|last| last.ending),
            ms(self.settled_at),
            ms(self.forget_at),
            Some(row.rings.into()),
            Some(row.rung_at.as_millis()),
        ]
    }

    /// Notes that the file holds the record as it is.
    pub(crate) fn remember(&mut self) {
        let Self { settled_at, forget_at, bell, .. } = *self;
        self.was = Was { row: self.row.clone(), bell, settled_at, forget_at };
    }

    /// Makes what is true of every row's doorbell true of this one.
    pub(crate) fn tidy_bell(&mut self) {
        match self.row.state {
            State::Scheduled | State::Waiting | State::Queued | State::Retrying => {
                self.bell.at.get_or_insert(NEVER);
            }
            State::Running => self.bell.at = self.bell.at.filter(|at| *at != NEVER),
            State::Succeeded | State::Failed | State::Cancelled | State::Expired => self.bell.at = None,
        }
    }
}

/// What a row that cannot be read is called: its task, or its number where even that cannot be read.
fn name_of(row: &rusqlite::Row<'_>) -> String {
    match (row.get(1), row.get::<_, i64>(0)) {
        (Ok(id), _) => format!("task {}", TaskId::from_bytes(id)),
        (Err(_), Ok(seq)) => format!("number {seq}"),
        (Err(_), Err(_)) => "an unknown task".to_owned(),
    }
}

fn decode_last(row: &rusqlite::Row<'_>) -> Fallible<Option<Last>> {
    let Some(fence) = row.get::<_, Option<i64>>(25)? else { return Ok(None) };
    Ok(Some(Last {
        fence: FencingToken(u64::try_from(fence).unwrap_or(0)),
        attempt: number(row, 26)?,
        worker: row.get(27)?,
        started: Timestamp(row.get(28)?),
        ended: time(row, 29)?,
        ending: row.get(30)?,
    }))
}

fn decode_hold(row: &rusqlite::Row<'_>, last: &Last, flags: i64, reading: &Reading<'_>) -> Fallible<Hold> {
    let this_boot = reading.boot.is_some() && row.get::<_, Option<i64>>(17)? == reading.boot;
    Ok(Hold {
        worker: (reading.name)(last.worker)?.worker()?,
        until: if this_boot { LeaseTime(row.get(18)?) } else { LeaseTime::ENDED },
        lease: duration(row.get(19)?),
        ack: if flags & ACK_MESSAGE != 0 { AckMode::Message } else { AckMode::Lease },
        started: last.started,
    })
}

pub(crate) fn ms(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}
