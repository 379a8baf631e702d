//! Forgetting in small steps: records to tombstones, tombstones to nothing.
//!
//! A record whose time has passed loses everything but id, state and fence; the tombstone goes when no
//! message can name the task any more. Each step is one transaction over a bounded number of rows, so
//! that no writer waits long.

use rhubarb_core::{
    backend::{Result, StoreError},
    envelope::{BlobRef, Envelope},
    ids::TaskId,
    limits::TOMBSTONE_AGE,
    outcome::Output,
    row::{Refused, State},
};
use rusqlite::params;

use super::sweep::row_limit;
use crate::{
    error::Fallible,
    record::{COLUMN_COUNT, Record, columns},
    texts::{Payload, from_json},
    transaction::Transaction,
};

/// A record whose time has passed, and the blobs it names.
struct Due {
    record: Record,
    blobs: Vec<BlobRef>,
}

impl Transaction<'_> {
    /// Removes up to `limit` records, tombstones, keys and messages whose time has passed. Returns how
    /// many, and the blobs that nothing names any more.
    pub(crate) fn forget(&mut self, limit: usize) -> Fallible<(u64, Vec<BlobRef>)> {
        let mut blobs = Vec::new();
        let mut count = 0;
        for Due { record, blobs: named } in self.due_records(limit)? {
            blobs.extend(named);
            count += 1;
            self.forget_record(record)?;
        }
        let now = self.epoch();
        let oldest = now.before(self.limits().retention);
        let room = |count: u64| row_limit(limit).saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
        count += self.sweep_away(
            "delete from key where (task, key) in (select task, key from key where until <= ?1 limit ?2)",
            now.as_millis(),
            room(count),
        )?;
        // The first sent have the lowest numbers.
        count += self.sweep_away(
            "delete from message where seq in (select seq from message order by seq limit ?2) and sent <= ?1",
            oldest.as_millis(),
            room(count),
        )?;
        blobs.extend(self.take_stray_blobs(limit)?);
        Ok((count, blobs))
    }

    /// Forgets one failed task before its time. Returns the blobs that nothing names any more.
    pub(crate) fn discard(&mut self, id: TaskId) -> Fallible<Result<Vec<BlobRef>>> {
        let Some(due) = self.due_record(id)?.filter(|due| !due.record.tombstone) else {
            return Ok(Err(StoreError::NoTask(id)));
        };
        let row = &due.record.row;
        if row.state != State::Failed {
            return Ok(Err(Refused { state: row.state, fence: row.fence }.into()));
        }
        self.forget_record(due.record)?;
        Ok(Ok(due.blobs))
    }

    fn sweep_away(&self, sql: &str, until: i64, limit: i64) -> Fallible<u64> {
        let removed = self.prepare(sql)?.execute(params![until, limit])?;
        Ok(u64::try_from(removed).unwrap_or(u64::MAX))
    }

    fn due_records(&self, limit: usize) -> Fallible<Vec<Due>> {
        let mut select = self.prepare(concat!(
            "select ",
            columns!(),
            ", checkpoint, output, spec from task indexed by task_forget where forget_at <= ?1 order by forget_at limit ?2"
        ))?;
        let mut rows = select.query(params![self.epoch().as_millis(), row_limit(limit)])?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            due.push(self.with_blobs(row)?);
        }
        Ok(due)
    }

    fn due_record(&self, id: TaskId) -> Fallible<Option<Due>> {
        let mut select =
            self.prepare(concat!("select ", columns!(), ", checkpoint, output, spec from task where id = ?1"))?;
        let mut rows = select.query([&id.as_bytes()[..]])?;
        rows.next()?.map(|row| self.with_blobs(row)).transpose()
    }

    fn with_blobs(&self, row: &rusqlite::Row<'_>) -> Fallible<Due> {
        let record = self.decode(row)?;
        let text = |index: usize, payload: Option<Payload>| -> Fallible<Option<String>> {
            match (row.get(COLUMN_COUNT + index)?, payload) {
                (None, Some(payload)) => self.payload(record.seq, payload),
                (text, _) => Ok(text),
            }
        };
        let checkpoint: Option<BlobRef> = text(0, None)?.as_deref().map(from_json).transpose()?;
        let output: Option<Output> = text(1, Some(Payload::Output))?.as_deref().map(from_json).transpose()?;
        let spec = text(2, Some(Payload::Spec))?.filter(|spec| spec.contains("\"blob\""));
        let arguments = spec.and_then(|spec| Envelope::decode_full(&spec).ok()).and_then(|envelope| envelope.blob);
        let output = output.and_then(|output| match output {
            Output::Blob(blob) => Some(blob),
            Output::Inline(_) => None,
        });
        let blobs = checkpoint.into_iter().chain(output).chain(arguments).collect();
        Ok(Due { record, blobs })
    }

    fn forget_record(&mut self, mut record: Record) -> Fallible<()> {
        let seq = record.seq;
        let tombstone_until = record.settled_at.unwrap_or(record.submitted).after(TOMBSTONE_AGE);
        self.prepare("delete from payload where key between ?1 and ?1 + 3")?.execute([Payload::Spec.key(seq)])?;
        self.prepare("delete from attempt where seq = ?1")?.execute([seq])?;
        if !record.tombstone {
            // Tombstones are neither listed nor counted.
            self.count(record.queue, record.row.state, -1);
        }
        if tombstone_until <= self.epoch() {
            if record.keyed {
                self.prepare("delete from key where id = ?1")?.execute([&record.id.as_bytes()[..]])?;
            }
            self.prepare("delete from task where seq = ?1")?.execute([seq])?;
            return Ok(());
        }
        self.prepare(
            "update task set spec = null, output = null, failure = null, why = null, progress = null, \
             checkpoint = null where seq = ?1",
        )?
        .execute([seq])?;
        record.tombstone = true;
        record.forget_at = Some(tombstone_until);
        self.save(&mut record)
    }

    fn take_stray_blobs(&self, limit: usize) -> Fallible<Vec<BlobRef>> {
        let mut take = self.prepare(
            "delete from stray_blob where id in (select id from stray_blob order by id limit ?1) returning reference",
        )?;
        let mut rows = take.query([row_limit(limit)])?;
        let mut blobs = Vec::new();
        while let Some(row) = rows.next()? {
            blobs.push(from_json(&row.get::<_, String>(0)?)?);
        }
        Ok(blobs)
    }
}
