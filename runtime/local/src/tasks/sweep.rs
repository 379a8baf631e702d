//! What the sweep finds by the sparse indexes, and what it does about it.

use rhubarb_core::{
    backend::{DueLease, DueRing, Result, Rung, StoreError},
    ids::QueueName,
    limits::DOORBELL_AGE_MAX,
    row::{Row, Settled},
    time::Timestamp,
};
use rusqlite::params;

use super::submit::KEEP;
use crate::{
    error::Fallible,
    names::NameNo,
    permits::permit_of,
    reads::Snapshot,
    record::{COLUMN_COUNT, Ending, Reading, Record, columns},
    schema::NEVER,
    texts::Payload,
    transaction::Transaction,
};

impl Snapshot<'_> {
    /// Reads a row of a select that begins with [`columns!`].
    pub(crate) fn decode(&self, row: &rusqlite::Row<'_>) -> Fallible<Record> {
        Record::decode(
            row,
            &Reading {
                boot: self.boot,
                name: &|number| self.name(number),
                permit: &|seq| permit_of(self.connection, seq),
            },
        )
    }

    /// Reads a text that does not stand in the row.
    pub(crate) fn payload(&self, seq: i64, payload: Payload) -> Fallible<Option<String>> {
        use rusqlite::OptionalExtension as _;
        let mut select = self.prepare("select body from payload where key = ?1")?;
        Ok(select.query_row([payload.key(seq)], |row| row.get(0)).optional()?)
    }

    /// Running rows whose lease has ended: those of other boots, then by their end.
    pub(crate) fn due_leases(&self, limit: usize) -> Fallible<Vec<DueLease>> {
        let of_other_boots = concat!(
            "select ",
            columns!(),
            " from task indexed by task_lease where state = 3 and lease_boot <> ?1 order by lease_boot limit ?2"
        );
        let boot = self.boot.unwrap_or(-1);
        let mut due = self.leases(of_other_boots, &[&boot, &row_limit(limit)])?;
        let left = limit.saturating_sub(due.len());
        if left > 0 {
            let of_this_boot = concat!(
                "select ",
                columns!(),
                " from task indexed by task_lease where state = 3 and lease_boot = ?1 and lease_until <= ?2 \
                 order by lease_until limit ?3"
            );
            due.extend(self.leases(of_this_boot, &[&boot, &self.now.lease.0, &row_limit(left)])?);
        }
        Ok(due)
    }

    fn leases(&self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Fallible<Vec<DueLease>> {
        let mut select = self.prepare(sql)?;
        let mut rows = select.query(params)?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            let record = self.decode(row)?;
            if let Some(hold) = &record.row.hold {
                let queue = self.name(record.queue)?.queue()?;
                let fence = record.row.fence;
                due.push(DueLease { id: record.id, queue, fence, until: hold.until, lease: hold.lease });
            }
        }
        Ok(due)
    }

    /// Rows whose doorbell must ring now.
    pub(crate) fn due_rings(&self, limit: usize) -> Fallible<Vec<DueRing>> {
        let mut select = self.prepare(concat!(
            "select ",
            columns!(),
            ", spec from task indexed by task_ring where ring_at <= ?1 order by ring_at limit ?2"
        ))?;
        let mut rows = select.query(params![self.now.epoch.as_millis(), row_limit(limit)])?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            let record = self.decode(row)?;
            let spec = match row.get(COLUMN_COUNT)? {
                Some(spec) => spec,
                None => self.payload(record.seq, Payload::Spec)?.unwrap_or_default(),
            };
            let queue = self.name(record.queue)?.queue()?;
            let Row { fence, rings, not_before, .. } = record.row;
            due.push(DueRing { id: record.id, queue, fence, rings, not_before, spec });
        }
        Ok(due)
    }
}

impl Transaction<'_> {
    /// Brings back, or buries, one row whose lease has ended, if it is still as seen.
    pub(crate) fn reap(&mut self, lease: &DueLease) -> Fallible<Result<Settled>> {
        let Some(mut record) = self.find(lease.id)? else { return Ok(Err(StoreError::NoTask(lease.id))) };
        let settled = match record.row.reap(lease.fence, lease.until, self.now) {
            Ok(settled) => settled,
            Err(refused) => return Ok(Err(refused.into())),
        };
        if settled.state.is_settled() {
            record.close(self.epoch(), KEEP);
        }
        let ending = if settled.buried.is_some() { Ending::Lost } else { Ending::LostBefore };
        record.end_attempt(self.epoch(), ending);
        self.save(&mut record)?;
        if let Some(failure) = &settled.buried {
            self.put_failure(record.seq, Some(failure))?;
        }
        Ok(Ok(settled))
    }

    /// Notes that a doorbell is out.
    pub(crate) fn rung(&mut self, rung: Rung) -> Fallible<()> {
        if let Some(mut record) = self.find(rung.id)? {
            record.row.rung(rung.fence, rung.rings);
            self.save(&mut record)?;
        }
        Ok(())
    }

    /// Marks rows of a queue as unrung whose doorbell has been lost. Only rows without a doorbell are
    /// looked at: here it is known which they are.
    pub(crate) fn doorbells_lost(&mut self, queue: &QueueName, limit: usize) -> Fallible<u64> {
        let Some(queue) = self.find_number(queue.as_str())? else { return Ok(0) };
        let any_age = self.epoch().as_millis();
        self.mark_unrung(queue, any_age, limit, Row::doorbell_lost)
    }

    /// Marks rows of a queue as unrung whose doorbell is a message that the queue will soon forget. A row's
    /// own doorbell is never forgotten.
    pub(crate) fn doorbells_aged(&mut self, queue: &QueueName, limit: usize) -> Fallible<u64> {
        let Some(queue) = self.find_number(queue.as_str())? else { return Ok(0) };
        let rung_before = self.epoch().before(DOORBELL_AGE_MAX).as_millis();
        self.mark_unrung(queue, rung_before, limit, Row::doorbell_aged)
    }

    fn mark_unrung(
        &mut self,
        queue: NameNo,
        rung_before: i64,
        limit: usize,
        mark: impl Fn(&mut Row, Timestamp) -> bool,
    ) -> Fallible<u64> {
        let records = {
            let mut select = self.prepare(concat!(
                "select ",
                columns!(),
                " from task indexed by task_bell where queue = ?1 and bell_at = ?2 and ring_at is null \
                 and coalesce(rung_at, queued_at) <= ?3 limit ?4"
            ))?;
            let mut rows = select.query(params![queue, NEVER, rung_before, row_limit(limit)])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                records.push(self.decode(row)?);
            }
            records
        };
        let mut marked = 0;
        for mut record in records {
            if mark(&mut record.row, self.epoch()) {
                self.save(&mut record)?;
                marked += 1;
            }
        }
        Ok(marked)
    }

    /// Rings one row's doorbell, if it is as the sweep has seen it.
    pub(crate) fn ring_due(&mut self, ring: &DueRing) -> Fallible<()> {
        let Some(mut record) = self.find(ring.id)? else { return Ok(()) };
        if (record.row.fence, record.row.rings) != (ring.fence, ring.rings) || record.row.ring_at.is_none() {
            return Ok(());
        }
        let now = self.epoch();
        let latest = now.after(self.limits().delay_max);
        let at = record.row.not_before.map_or(now, |at| at.max(now).min(latest));
        record.bell.ring(at, now);
        record.row.rung(ring.fence, ring.rings);
        self.save(&mut record)
    }
}

/// A limit as SQLite takes it.
pub(crate) fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
