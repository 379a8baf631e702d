//! What a holder says while it works: that it lives, how far it has come, what it has printed.

use rhubarb_core::{
    backend::{Log, Renewal, Report, Result, StoreError},
    row::{Refused, Renewed},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    texts::{Payload, from_json, to_json},
    transaction::Transaction,
};

impl Transaction<'_> {
    /// Keeps a lease; the attempt of a row that was reaped meanwhile goes on.
    pub(crate) fn renew(&mut self, renewal: Renewal) -> Fallible<Renewed> {
        let Some(mut record) = self.find(renewal.id)? else { return Ok(Renewed::Lost) };
        let renewed = record.row.renew(renewal.fence, self.now);
        if matches!(renewed, Renewed::Kept { .. }) {
            if let Some(last) = &mut record.last {
                last.ended = None;
                last.ending = None;
            }
            if !self.may_regain(&record)? {
                return Ok(Renewed::Lost);
            }
            self.save(&mut record)?;
        }
        Ok(renewed)
    }

    /// Records progress, a checkpoint and output of a running attempt.
    pub(crate) fn report(&mut self, report: &Report) -> Fallible<Result<()>> {
        let Some(record) = self.find(report.id)? else { return Ok(Err(StoreError::NoTask(report.id))) };
        if !record.row.is_held_by(report.fence) {
            let refused = Refused { state: record.row.state, fence: record.row.fence };
            return Ok(Err(refused.into()));
        }
        if let Some(progress) = &report.progress {
            self.prepare("update task set progress = ?2 where seq = ?1")?
                .execute(params![record.seq, to_json(progress)?])?;
        }
        if let Some(checkpoint) = &report.checkpoint {
            self.set_aside_checkpoint(record.seq, &checkpoint.key)?;
            self.prepare("update task set checkpoint = ?2 where seq = ?1")?
                .execute(params![record.seq, to_json(checkpoint)?])?;
        }
        if let Some(log) = &report.log {
            self.put_log(record.seq, log)?;
        }
        Ok(Ok(()))
    }

    /// Writes what the last attempt printed.
    pub(crate) fn put_log(&self, seq: i64, log: &Log) -> Fallible<()> {
        if log.is_empty() { Ok(()) } else { self.put_payload(seq, Payload::Log, &to_json(log)?) }
    }

    /// Notes the blob of a checkpoint that another is about to replace: nothing names it any more.
    fn set_aside_checkpoint(&self, seq: i64, newer_key: &str) -> Fallible<()> {
        let mut select = self.prepare("select checkpoint from task where seq = ?1")?;
        let older: Option<String> = select.query_row([seq], |row| row.get(0)).optional()?.flatten();
        let Some(older) = older else { return Ok(()) };
        if from_json::<rhubarb_core::envelope::BlobRef>(&older)?.key != newer_key {
            self.prepare("insert into stray_blob(reference) values(?1)")?.execute([older])?;
        }
        Ok(())
    }
}
