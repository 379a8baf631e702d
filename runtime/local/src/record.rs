//! A task's row as a verb sees it: loaded by number columns, changed by the core's `Row`, saved whole.
//!
//! Saving keeps three things true that no verb needs to think of: the counts by state; a waiting row
//! always stands in the doorbell index (with [`NEVER`] where its doorbell is not out), so that a queue's
//! waiting rows are found without a scan, and a settled one never; and who waits for the queue or
//! for the outcome is told.

use std::{sync::LazyLock, time::Duration};

use rhubarb_core::{
    backend::{Submission, WonRow},
    envelope::BlobRef,
    ids::{FencingToken, TaskId},
    outcome::{Failure, Outcome, Output},
    row::{AckMode, Hold, Row, State},
    time::{LeaseTime, Timestamp},
};
use rusqlite::{OptionalExtension as _, params, types::Type};

use crate::{
    error::{Fallible, Fault},
    names::{Name, NameNo},
    schema::NEVER,
    transaction::Transaction,
};

/// Texts up to this stand in the row; longer ones would make each change of the row costly.
const IN_ROW_BYTES_MAX: usize = 1024;

/// The columns that [`Record::decode`] reads, in its order; what a select adds comes after.
macro_rules! columns {
    () => {
        "seq, id, task, queue, submitted, state, fence, attempt, max_attempts, flags, queued_at, not_before, expires, \
         ring_at, interruptions, snoozes, redriven, lease_boot, lease_until, lease_ms, bell_at, bell_sent, \
         bell_receives, bell_received, bell_first_received, last_fence, last_attempt, last_worker, last_started, \
         last_ended, last_outcome, settled_at, forget_at"
    };
}
pub(crate) use columns;

/// How many [`columns!`] there are.
pub(crate) const COLUMN_COUNT: usize = 33;

const CANCEL_ASKED: i64 = 1;
const ALONE: i64 = 2;
const HELD: i64 = 4;
const ACK_MESSAGE: i64 = 8;
const KEYED: i64 = 16;
const TOMBSTONE: i64 = 32;

/// Which text of a task a row of `payload` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The envelope.
    Spec = 0,
    /// What it gave.
    Output = 1,
    /// What its last attempt printed.
    Log = 2,
}

impl Payload {
    /// The key in `payload`.
    pub(crate) const fn key(self, seq: i64) -> i64 {
        seq * 4 + self as i64
    }
}

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
    was: Was,
}

/// What the file holds of a row.
#[derive(Clone, Debug)]
struct Was {
    row: Row,
    bell: Bell,
    settled_at: Option<Timestamp>,
    forget_at: Option<Timestamp>,
}

/// What decides how a row of `task` is read.
pub(crate) struct Reading<'r> {
    /// The number of this boot: leases of others have ended.
    pub(crate) boot: Option<NameNo>,
    /// Finds the name of a number.
    pub(crate) name: &'r dyn Fn(NameNo) -> Fallible<Name>,
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
    /// Reads a row of a select that begins with [`columns!`].
    pub(crate) fn decode(row: &rusqlite::Row<'_>, reading: &Reading<'_>) -> Fallible<Self> {
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
        let row_of_core = Row {
            state,
            fence: FencingToken(number(row, 6)?),
            attempt: number(row, 7)?,
            max_attempts: number(row, 8)?,
            hold,
            queued_at: Timestamp(row.get(10)?),
            not_before: time(row, 11)?,
            expires: time(row, 12)?,
            ring_at: time(row, 13)?,
            cancel_asked: flags & CANCEL_ASKED != 0,
            alone: flags & ALONE != 0,
            interruptions: number(row, 14)?,
            snoozes: number(row, 15)?,
            redriven: number(row, 16)?,
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

    fn flags(&self) -> i64 {
        let hold = self.row.hold.as_ref();
        let ack_message = hold.is_some_and(|hold| hold.ack == AckMode::Message);
        [
            (self.row.cancel_asked, CANCEL_ASKED),
            (self.row.alone, ALONE),
            (hold.is_some(), HELD),
            (ack_message, ACK_MESSAGE),
            (self.keyed, KEYED),
            (self.tombstone, TOMBSTONE),
        ]
        .into_iter()
        .map(|(set, flag)| if set { flag } else { 0 })
        .sum()
    }

    /// What must be written.
    fn changed(&self) -> Extent {
        let (row, was) = (&self.row, &self.was.row);
        let as_kept = (row.queued_at, row.not_before, row.expires, row.ring_at)
            == (was.queued_at, was.not_before, was.expires, was.ring_at)
            && (row.interruptions, row.snoozes, row.redriven) == (was.interruptions, was.snoozes, was.redriven)
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
    fn numbers(&self, boot: NameNo) -> [Option<i64>; 29] {
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
        ]
    }

    fn remember(&mut self) {
        let Self { settled_at, forget_at, bell, .. } = *self;
        self.was = Was { row: self.row.clone(), bell, settled_at, forget_at };
    }

    fn tidy_bell(&mut self) {
        match self.row.state {
            State::Scheduled | State::Waiting | State::Queued | State::Retrying => {
                self.bell.at.get_or_insert(NEVER);
            }
            State::Running => self.bell.at = self.bell.at.filter(|at| *at != NEVER),
            State::Succeeded | State::Failed | State::Cancelled | State::Expired => self.bell.at = None,
        }
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

/// What an update writes: the fewer columns, the fewer indexes it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What a settlement changes.
    Settlement,
    /// What a claim changes, or the receipt of a doorbell.
    Claim,
    /// Every column.
    All,
}

/// Each column with its place in [`Record::numbers`].
const SETTLEMENT: &str = "update task set state = ?2, flags = ?6, last_ended = ?26, last_outcome = ?27, \
    settled_at = ?28, forget_at = ?29 where seq = ?1";
const SETTLEMENT_WITH_OUTPUT: &str = "update task set state = ?2, flags = ?6, last_ended = ?26, last_outcome = ?27, \
    settled_at = ?28, forget_at = ?29, output = ?30 where seq = ?1";
const CLAIM: &str = "update task set state = ?2, fence = ?3, attempt = ?4, max_attempts = ?5, flags = ?6, \
    lease_boot = ?14, lease_until = ?15, lease_ms = ?16, bell_at = ?17, bell_receives = ?19, bell_received = ?20, \
    bell_first_received = ?21, last_fence = ?22, last_attempt = ?23, last_worker = ?24, last_started = ?25, \
    last_ended = ?26, last_outcome = ?27 where seq = ?1";
const ALL: &str = "update task set state = ?2, fence = ?3, attempt = ?4, max_attempts = ?5, flags = ?6, \
    queued_at = ?7, not_before = ?8, expires = ?9, ring_at = ?10, interruptions = ?11, snoozes = ?12, redriven = ?13, \
    lease_boot = ?14, lease_until = ?15, lease_ms = ?16, bell_at = ?17, bell_sent = ?18, bell_receives = ?19, \
    bell_received = ?20, bell_first_received = ?21, last_fence = ?22, last_attempt = ?23, last_worker = ?24, \
    last_started = ?25, last_ended = ?26, last_outcome = ?27, settled_at = ?28, forget_at = ?29 where seq = ?1";

impl Extent {
    const fn sql(self) -> &'static str {
        match self {
            Self::Settlement => SETTLEMENT,
            Self::Claim => CLAIM,
            Self::All => ALL,
        }
    }

    /// The places of its columns.
    const fn places(self) -> &'static [usize] {
        match self {
            Self::Settlement => &[1, 2, 6, 26, 27, 28, 29],
            Self::Claim => &[1, 2, 3, 4, 5, 6, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27],
            Self::All => &[
                1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
                29,
            ],
        }
    }
}

const INSERT: &str = "insert into task(id, task, queue, submitted, state, max_attempts, flags, queued_at, not_before, \
    expires, ring_at, bell_at, bell_sent, spec) values(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
    on conflict(id) do nothing";

/// Rows of one [`Transaction::insert_many`].
pub(crate) const MANY: usize = 32;
/// Values of one of them.
const NEW_COLUMNS: usize = 10;

static INSERT_MANY: LazyLock<String> = LazyLock::new(|| {
    let row = |index: usize| {
        let place = |column: usize| format!("?{}", 1 + index * NEW_COLUMNS + column);
        let [id, task, queue, state, max_attempts] = [1, 2, 3, 4, 5].map(place);
        let [not_before, expires, ring_at, bell_at, spec] = [6, 7, 8, 9, 10].map(place);
        format!(
            "({id}, {task}, {queue}, ?1, {state}, {max_attempts}, ?1, {not_before}, {expires}, {ring_at}, {bell_at}, ?1, {spec})"
        )
    };
    let rows: Vec<String> = (0..MANY).map(row).collect();
    format!(
        "insert into task(id, task, queue, submitted, state, max_attempts, queued_at, not_before, expires, ring_at, \
         bell_at, bell_sent, spec) values {} on conflict(id) do nothing",
        rows.join(", ")
    )
});

/// A waiting task to be put, whose envelope stands in its row.
pub(crate) struct NewTask<'s> {
    pub(crate) submission: &'s Submission,
    pub(crate) task: NameNo,
    pub(crate) queue: NameNo,
    pub(crate) row: Row,
    pub(crate) bell_at: Option<Timestamp>,
}

/// True if an envelope stands in its row.
pub(crate) const fn stands_in_row(spec: &str) -> bool {
    !spec.is_empty() && spec.len() <= IN_ROW_BYTES_MAX
}

impl Transaction<'_> {
    /// The row of a task.
    pub(crate) fn find(&self, id: TaskId) -> Fallible<Option<Record>> {
        let mut select = self.prepare(concat!("select ", columns!(), " from task where id = ?1"))?;
        let mut rows = select.query([&id.as_bytes()[..]])?;
        rows.next()?.map(|row| self.decode(row)).transpose()
    }

    /// The row of a number.
    pub(crate) fn find_seq(&self, seq: i64) -> Fallible<Option<Record>> {
        let mut select = self.prepare(concat!("select ", columns!(), " from task where seq = ?1"))?;
        let mut rows = select.query([seq])?;
        rows.next()?.map(|row| self.decode(row)).transpose()
    }

    /// Reads a row of a select that begins with [`columns!`].
    pub(crate) fn decode(&self, row: &rusqlite::Row<'_>) -> Fallible<Record> {
        Record::decode(row, &Reading { boot: Some(self.boot), name: &|number| self.name(number) })
    }

    /// Puts a row where none is, without an envelope if that is empty; returns whether it did. `bell_at` is when its doorbell may be received.
    pub(crate) fn insert(&mut self, submission: &Submission, row: &Row, bell_at: Option<Timestamp>) -> Fallible<bool> {
        let task = self.number(submission.task.as_str())?;
        let queue = self.number(submission.queue.as_str())?;
        let waiting = !row.state.is_settled();
        let bell = bell_at.map(Timestamp::as_millis).or(waiting.then_some(NEVER));
        let in_row = submission.spec.len() <= IN_ROW_BYTES_MAX;
        let put = self.prepare(INSERT)?.execute(params![
            &submission.id.as_bytes()[..],
            task,
            queue,
            self.epoch().as_millis(),
            row.state as u8,
            row.max_attempts,
            if submission.key.is_some() { KEYED } else { 0 },
            row.queued_at.as_millis(),
            ms(row.not_before),
            ms(row.expires),
            ms(row.ring_at),
            bell,
            row.queued_at.as_millis(),
            (in_row && !submission.spec.is_empty()).then_some(&submission.spec),
        ])?;
        if put == 0 {
            return Ok(false);
        }
        if !in_row {
            self.put_payload(self.connection.last_insert_rowid(), Payload::Spec, &submission.spec)?;
        }
        self.count(queue, row.state, 1);
        if bell_at.is_some() {
            self.ring(queue);
        }
        Ok(true)
    }

    /// Puts [`MANY`] rows where none are, by one statement, whose cursors then stay where the next row
    /// goes. Returns the highest row number before, and whether all were put.
    pub(crate) fn insert_many(&mut self, tasks: &[NewTask<'_>; MANY]) -> Fallible<(i64, bool)> {
        let before: Option<i64> = self.prepare("select max(seq) from task")?.query_row([], |row| row.get(0))?;
        let mut insert = self.prepare(&INSERT_MANY)?;
        insert.raw_bind_parameter(1, self.epoch().as_millis())?;
        let mut place = 1;
        for NewTask { submission, task, queue, row, bell_at } in tasks {
            insert.raw_bind_parameter(place + 1, &submission.id.as_bytes()[..])?;
            let bell = ms(*bell_at).unwrap_or(NEVER);
            let numbers = [Some(*task), Some(*queue), Some(row.state as i64), Some(row.max_attempts.into())];
            let times = [ms(row.not_before), ms(row.expires), ms(row.ring_at), Some(bell)];
            for (offset, number) in (2..).zip(numbers.into_iter().chain(times)) {
                insert.raw_bind_parameter(place + offset, number)?;
            }
            insert.raw_bind_parameter(place + NEW_COLUMNS, &submission.spec)?;
            place += NEW_COLUMNS;
        }
        let put = insert.raw_execute()?;
        Ok((before.unwrap_or(0), put == MANY))
    }

    /// Writes a changed row.
    pub(crate) fn save(&mut self, record: &mut Record) -> Fallible<()> {
        record.tidy_bell();
        let extent = record.changed();
        let numbers = record.numbers(self.boot);
        let mut save = self.prepare(extent.sql())?;
        bind(&mut save, extent, &numbers)?;
        save.raw_execute()?;
        self.note_change(record);
        Ok(())
    }

    /// Writes a changed row, and what the task gave.
    pub(crate) fn save_with_output(&mut self, record: &mut Record, output: &Output) -> Fallible<()> {
        let text = to_json(output)?;
        if text.len() > IN_ROW_BYTES_MAX {
            self.put_payload(record.seq, Payload::Output, &text)?;
            return self.save(record);
        }
        record.tidy_bell();
        if record.changed() != Extent::Settlement {
            self.prepare("update task set output = ?2 where seq = ?1")?.execute(params![record.seq, text])?;
            return self.save(record);
        }
        let numbers = record.numbers(self.boot);
        let mut save = self.prepare(SETTLEMENT_WITH_OUTPUT)?;
        bind(&mut save, Extent::Settlement, &numbers)?;
        save.raw_bind_parameter(30, text)?;
        save.raw_execute()?;
        self.note_change(record);
        Ok(())
    }

    fn note_change(&mut self, record: &mut Record) {
        let (state, now) = (record.was.row.state, record.row.state);
        if state != now {
            self.count(record.queue, state, -1);
            self.count(record.queue, now, 1);
            if now.is_settled() {
                self.note_settled();
            }
        }
        if record.bell.is_out() && record.bell.at != record.was.bell.at {
            self.ring(record.queue);
        }
        record.remember();
    }

    /// Writes why a task failed, last.
    pub(crate) fn put_failure(&self, seq: i64, failure: Option<&Failure>) -> Fallible<()> {
        let text = failure.map(to_json).transpose()?;
        self.prepare("update task set failure = ?2 where seq = ?1")?.execute(params![seq, text])?;
        Ok(())
    }

    /// Writes why the last attempt was interrupted.
    pub(crate) fn put_why(&self, seq: i64, why: &Failure) -> Fallible<()> {
        self.prepare("update task set why = ?2 where seq = ?1")?.execute(params![seq, to_json(why)?])?;
        Ok(())
    }

    /// Writes a text beside the row.
    pub(crate) fn put_payload(&self, seq: i64, payload: Payload, text: &str) -> Fallible<()> {
        let put = "insert into payload(key, body) values(?1, ?2) on conflict(key) do update set body = excluded.body";
        self.prepare(put)?.execute(params![payload.key(seq), text])?;
        Ok(())
    }

    /// Reads a text that does not stand in the row.
    pub(crate) fn payload(&self, seq: i64, payload: Payload) -> Fallible<Option<String>> {
        let mut select = self.prepare("select body from payload where key = ?1")?;
        Ok(select.query_row([payload.key(seq)], |row| row.get(0)).optional()?)
    }

    /// Reads the envelope of a row; none once the record was forgotten.
    pub(crate) fn spec(&self, seq: i64) -> Fallible<Option<String>> {
        let mut select = self.prepare("select spec from task where seq = ?1")?;
        match select.query_row([seq], |row| row.get::<_, Option<String>>(0)).optional()?.flatten() {
            Some(spec) => Ok(Some(spec)),
            None => self.payload(seq, Payload::Spec),
        }
    }

    /// What an earlier attempt left.
    pub(crate) fn checkpoint(&self, seq: i64) -> Fallible<Option<BlobRef>> {
        let mut select = self.prepare("select checkpoint from task where seq = ?1")?;
        let text: Option<String> = select.query_row([seq], |row| row.get(0)).optional()?.flatten();
        text.as_deref().map(from_json).transpose()
    }
}

fn bind(save: &mut rusqlite::Statement<'_>, extent: Extent, numbers: &[Option<i64>; 29]) -> Fallible<()> {
    for place in extent.places() {
        save.raw_bind_parameter(*place, numbers[place - 1])?;
    }
    Ok(())
}

fn ms(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}

/// A value as a column keeps it.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Fallible<String> {
    serde_json::to_string(value).map_err(|error| Fault::Damaged(format!("a value that is no JSON: {error}")))
}

/// A value back from a column.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Fallible<T> {
    serde_json::from_str(text).map_err(|error| Fault::Damaged(format!("a column that cannot be read: {error}")))
}
