//! Ending tasks from outside, and bringing buried ones back.

use rhubarb_core::{
    backend::{Result, StoreError},
    ids::{QueueName, TaskId},
    row::{Settled, State},
};
use rusqlite::params;

use super::{submit::KEEP, sweep::row_limit};
use crate::{error::Fallible, open::Inner, record::columns, transaction::Transaction};

impl Transaction<'_> {
    /// Cancels a task, with its doorbell, or asks its holder to stop.
    pub(crate) fn cancel(&mut self, id: TaskId) -> Fallible<Result<State>> {
        let Some(mut record) = self.find(id)? else { return Ok(Err(StoreError::NoTask(id))) };
        let state = match record.row.cancel() {
            Ok(state) => state,
            Err(refused) => return Ok(Err(refused.into())),
        };
        if state.is_settled() {
            record.close(self.epoch(), KEEP);
        }
        self.save(&mut record)?;
        Ok(Ok(state))
    }

    /// Brings a failed task back, with its doorbell if `ring`.
    pub(crate) fn redrive(&mut self, id: TaskId, ring: bool) -> Fallible<Result<Settled>> {
        let Some(mut record) = self.find(id)? else { return Ok(Err(StoreError::NoTask(id))) };
        if record.row.state == State::Failed && self.spec(record.seq)?.is_none() {
            let text =
                format!("task {id} cannot be brought back: its message could not be read, or its record was forgotten");
            return Ok(Err(Inner::invalid(text)));
        }
        let settled = match record.row.redrive(self.epoch()) {
            Ok(settled) => settled,
            Err(refused) => return Ok(Err(refused.into())),
        };
        record.reopen();
        if ring {
            record.bell.ring(self.epoch(), self.epoch());
            record.row.rung(settled.fence, settled.rings);
        }
        self.save(&mut record)?;
        Ok(Ok(settled))
    }

    /// Cancels up to `limit` waiting tasks of a queue that became available at or before its purge.
    pub(crate) fn cancel_purged(&mut self, queue: &QueueName, limit: usize) -> Fallible<u64> {
        let Some(number) = self.find_number(queue.as_str())? else { return Ok(0) };
        let Some(purged_before) = self.purged_before(number)? else { return Ok(0) };
        let records = {
            // Every waiting row stands in this index; a running one may, by its hidden message.
            let mut select = self.prepare(concat!(
                "select ",
                columns!(),
                " from task indexed by task_bell where queue = ?1 and bell_at is not null and state <> 3 \
                 and queued_at <= ?2 limit ?3"
            ))?;
            let mut rows = select.query(params![number, purged_before.as_millis(), row_limit(limit)])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                records.push(self.decode(row)?);
            }
            records
        };
        let mut cancelled = 0;
        for mut record in records {
            if record.row.purge(purged_before) {
                record.close(self.epoch(), KEEP);
                self.save(&mut record)?;
                cancelled += 1;
            }
        }
        Ok(cancelled)
    }
}
