//! What a holder says while it works: that it lives, how far it has come, what it has printed.

use rhubarb_core::{
    backend::{Renewal, Report, Result, StoreError},
    envelope::BlobRef,
    row::Renewed,
};

use super::DynamoTasks;
use crate::table::{Expression, attributes::to_item, keys};

impl DynamoTasks {
    /// Keeps a lease: one write, without a read while nobody else has touched the row.
    pub(super) async fn renew_one(&self, renewal: Renewal) -> Result<Renewed> {
        let Renewal { id, fence } = renewal;
        let renewed = self.change(id, self.held(id, fence), |record, now| match record.row.renew(fence, now) {
            kept @ Renewed::Kept { .. } => {
                record.renewed(now);
                Ok(kept)
            }
            Renewed::Lost => Err(record.refused()),
        });
        match renewed.await {
            Ok((renewed, record)) => {
                self.hold(&record);
                Ok(renewed)
            }
            Err(StoreError::Refused(_) | StoreError::NoTask(_)) => {
                self.let_go(id, fence);
                Ok(Renewed::Lost)
            }
            Err(error) => Err(error),
        }
    }

    /// Records progress, a checkpoint and output of a running attempt.
    pub(super) async fn report_one(&self, report: &Report) -> Result<()> {
        let Report { id, fence, ref progress, ref checkpoint, ref log } = *report;
        // What is printed stands beside the row: whether the holder is the newest is read afresh.
        let known = if progress.is_some() || checkpoint.is_some() { self.held(id, fence) } else { None };
        let reported = self.change(id, known, |record, _| {
            if !record.row.is_held_by(fence) {
                return Err(record.refused());
            }
            record.progress = progress.clone().or(record.progress.take());
            let Some(newer) = checkpoint else { return Ok(None) };
            Ok(record.checkpoint.replace(newer.clone()).filter(|older| older.key != newer.key))
        });
        let (replaced, record) = reported.await?;
        self.hold(&record);
        if let Some(older) = replaced {
            self.set_aside(&older).await?;
        }
        if let Some(log) = log {
            self.table.put_log(id, fence, log, Expression::new()).await?;
        }
        Ok(())
    }

    /// Notes a blob that nothing names any more, for [`super::Tasks::forget`] to return.
    async fn set_aside(&self, blob: &BlobRef) -> Result<()> {
        let mut item = to_item(blob)?;
        item.extend(keys::of(keys::STRAYS, blob.key.as_str()));
        self.table.put("set a blob aside", item, &Expression::new()).await?;
        Ok(())
    }
}
