//! Steps of the wall clock, and what they mean for what is stored.
//!
//! Leases are judged by the boot-time clock and notice nothing. The rest is stored by the wall clock: when a task
//! became available, when a message is visible again, when a task is to start. The store knows how far the wall
//! clock is ahead of the boot-time clock; where that has jumped, the transaction that sees it first mends what would
//! come too late or too early by the step, for all processes. What is available stays available, what is hidden
//! stays hidden for as long as it was meant to be, a retry waits for its delay, and what has a time of its own (a
//! start time, `expires`, a schedule, a window of a key) goes by the new time.
//!
//! What a step back has put into the future names itself: it says that it became available, or was sent, later than
//! now. So it is mended in steps of [`STEP_ROWS`], each of which may be repeated, and the new distance is kept only
//! after the last of them: a crash in between leaves the rest to whoever writes next. What a step ahead makes visible
//! too early cannot be told so; it is little, and one transaction with the new distance.

use std::time::Duration;

use rhubarb_core::time::Now;
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    record::{Record, columns},
    schema::NEVER,
    transaction::Transaction,
};

/// A smaller step is taken for the drift of a clock that is corrected little by little.
const STEP_MIN_MS: i64 = 5_000;
/// A step of this size is worth a word in the log.
const TOLD_FROM_MS: i64 = 60_000;
/// Rows of each kind that one transaction mends: the tasks of a long queue are mended while others are taken.
const STEP_ROWS: i64 = 2_000;

/// How far the wall clock is ahead of the boot-time clock.
const fn ahead_ms(now: Now) -> i64 {
    now.epoch.0 - now.lease.0
}

/// What one process remembers of its clocks: that most transactions need not look into the file.
#[derive(Debug, Default)]
pub(crate) struct Wall {
    /// By the last transaction, or by the last one before a step that has yet to be mended.
    ahead_ms: Option<i64>,
}

impl Wall {
    /// True if the wall clock may have stepped since the last transaction, also of another process.
    pub(crate) fn may_have_stepped(&self, now: Now) -> bool {
        self.ahead_ms.is_none_or(|known| (ahead_ms(now) - known).abs() >= STEP_MIN_MS)
    }

    /// Notes what was seen in a transaction that has been committed.
    pub(crate) const fn note(&mut self, now: Now) {
        self.ahead_ms = Some(ahead_ms(now));
    }
}

impl Transaction<'_> {
    /// Mends what a step of the wall clock has put too late or too early. Returns true when nothing is left to be
    /// mended.
    pub(crate) fn follow_wall(&mut self) -> Fallible<bool> {
        let ahead = ahead_ms(self.now);
        let mut select = self.prepare("select boot, ahead_ms from wall where only = 1")?;
        let known: Option<(i64, i64)> = select.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        // Nobody can say by how much it stepped between two boots, nor does anybody hold anything from then.
        let step = known.filter(|(boot, _)| *boot == self.boot).map(|(_, before)| ahead - before);
        if step.is_some_and(|step| step.abs() < STEP_MIN_MS) {
            return Ok(true);
        }
        match step {
            Some(step) if step > 0 => self.hide_as_before(step)?,
            Some(_) | None => {
                if !self.mend_after_step_back()? {
                    return Ok(false);
                }
            }
        }
        self.prepare(
            "insert into wall(only, boot, ahead_ms) values(1, ?1, ?2) \
             on conflict(only) do update set boot = excluded.boot, ahead_ms = excluded.ahead_ms",
        )?
        .execute(params![self.boot, ahead])?;
        if let Some(step) = step.filter(|step| step.abs() >= TOLD_FROM_MS) {
            let by = Duration::from_millis(step.unsigned_abs());
            let way = if step > 0 { "ahead" } else { "back" };
            tracing::warn!(
                clock.step_ms = step,
                "the wall clock was set {way} by {by:?}: leases and what is queued are as before, what has a start time goes by the new time"
            );
        }
        Ok(true)
    }

    /// After a step ahead: what is hidden from others while somebody holds it is hidden as long as before.
    fn hide_as_before(&mut self, step: i64) -> Fallible<()> {
        let before = self.epoch().as_millis().saturating_sub(step);
        self.prepare(
            "update message set visible_at = visible_at + ?1, received = received + ?1 where receives > 0 \
             and queue in (select queue from queue) and visible_at > ?2",
        )?
        .execute(params![step, before])?;
        self.prepare(
            "update task set bell_at = bell_at + ?1, bell_received = bell_received + ?1 where state = 3 \
             and queue in (select queue from count) and bell_at > ?2 and bell_at < ?3",
        )?
        .execute(params![step, before, NEVER])?;
        Ok(())
    }

    /// After a step back. Returns true when nothing is left.
    fn mend_after_step_back(&mut self) -> Fallible<bool> {
        let (messages, rows) = (self.mend_messages()?, self.mend_rows()?);
        // Their tasks look themselves whether they may start.
        let now = self.epoch().as_millis();
        self.prepare("update meter set look_at = ?1 where look_at > ?1")?.execute([now])?;
        // A mark of the future would cancel what comes from now on.
        self.prepare("update queue set purged_before = ?1 - 1 where purged_before >= ?1")?.execute([now])?;
        Ok(messages && rows)
    }

    /// Plain messages wait for what is left at most of their delay, or of the time that they are hidden for.
    fn mend_messages(&mut self) -> Fallible<bool> {
        let now = self.epoch().as_millis();
        let queues = {
            let mut update = self.prepare(
                "update message set visible_at = ?1 + max(visible_at - coalesce(received, sent), 0), \
                 sent = min(sent, ?1), received = min(received, ?1), first_received = min(first_received, ?1) \
                 where seq in (select seq from message indexed by message_visible \
                 where queue in (select queue from queue) and visible_at > ?1 \
                 and coalesce(received, sent) > ?1 limit ?2) returning queue",
            )?;
            let queues = update.query_map(params![now, STEP_ROWS], |row| row.get(0))?;
            queues.collect::<rusqlite::Result<Vec<i64>>>()?
        };
        let is_all = (queues.len() as i64) < STEP_ROWS;
        for queue in queues {
            self.ring(queue);
        }
        Ok(is_all)
    }

    /// Rows that wait, by what holds them up: their doorbell, or that it is yet to be rung.
    fn mend_rows(&mut self) -> Fallible<bool> {
        let rung = concat!(
            "select ",
            columns!(),
            " from task indexed by task_bell where queue in (select queue from count) and bell_at > ?1 and bell_at < ?2 \
             and queued_at > ?1 and state in (2, 4) limit ?3"
        );
        let unrung = concat!(
            "select ",
            columns!(),
            " from task indexed by task_ring where ring_at > ?1 and ring_at < ?2 and queued_at > ?1 and state in (2, 4) \
             limit ?3"
        );
        let mut is_all = true;
        for sql in [rung, unrung] {
            let records = self.put_into_the_future(sql)?;
            is_all &= (records.len() as i64) < STEP_ROWS;
            for mut record in records {
                self.mend_row(&mut record)?;
            }
        }
        Ok(is_all)
    }

    fn put_into_the_future(&self, sql: &str) -> Fallible<Vec<Record>> {
        let mut select = self.prepare(sql)?;
        let mut rows = select.query(params![self.epoch().as_millis(), NEVER, STEP_ROWS])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(self.decode(row)?);
        }
        Ok(records)
    }

    fn mend_row(&mut self, record: &mut Record) -> Fallible<()> {
        let now = self.epoch();
        if record.row.clock_set_back(now, self.limits()) && record.bell.is_out() {
            let latest = record.row.not_before.unwrap_or(now).as_millis();
            record.bell.at = record.bell.at.map(|at| at.min(latest));
            record.bell.sent = record.bell.sent.min(now);
        }
        self.save(record)
    }
}
