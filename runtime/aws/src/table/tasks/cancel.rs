//! Ending tasks from outside, and bringing buried ones back.

use rhubarb_core::{
    backend::{Result, StoreError},
    envelope::Envelope,
    ids::{QueueName, TaskId},
    row::{Settled, State},
};

use super::DynamoTasks;
use crate::table::record::KEEP;

impl DynamoTasks {
    /// Cancels a task, or asks its holder to stop.
    pub(super) async fn cancel_one(&self, id: TaskId) -> Result<State> {
        let cancelled = self.change(id, None, |record, now| {
            let state = record.row.cancel()?;
            record.close(now.epoch, KEEP);
            Ok(state)
        });
        Ok(cancelled.await?.0)
    }

    /// Brings a failed task back.
    pub(super) async fn redrive_one(&self, id: TaskId) -> Result<Settled> {
        let now = self.table.now().await?.epoch;
        let record = self.table.find(id, now).await?.ok_or(StoreError::NoTask(id))?;
        if record.row.state == State::Failed {
            let spec = self.table.spec(&record).await?;
            if spec.is_none_or(|spec| Envelope::decode_full(&spec).is_err()) {
                return Err(StoreError::Invalid(format!(
                    "task {id} cannot be brought back: its message could not be read, or its record was forgotten; \
                     enqueue it anew"
                )));
            }
        }
        let redriven = self.change(id, Some(record), |record, now| {
            let settled = record.row.redrive(now.epoch)?;
            record.reopen();
            Ok(settled)
        });
        Ok(redriven.await?.0)
    }

    /// Cancels up to `limit` waiting tasks of a queue that became available at or before its purge.
    pub(super) async fn end_purged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let Some(purge) = self.purged_before(queue).await? else { return Ok(0) };
        const WAITING: [State; 4] = [State::Queued, State::Scheduled, State::Waiting, State::Retrying];
        // What was accepted after the purge became available after it.
        self.change_waiting(queue, &WAITING, purge, limit, usize::MAX, |record, now| {
            let hit = record.row.purge(purge);
            record.close(now.epoch, KEEP);
            hit
        })
        .await
    }
}
