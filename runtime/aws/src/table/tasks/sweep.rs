//! What the sweep finds by the indexes, and what it does about it.
//!
//! An index lags, and says only where to look: each row is read again before anything is decided.

use rhubarb_core::{
    backend::{DueLease, DueRing, Result, Rung, StoreError},
    ids::{QueueName, TaskId},
    limits::{DOORBELL_AGE_MAX, DOORBELL_PATIENCE},
    row::{Settled, State},
    table::{BY_STATE, DUE, SHARDS},
    time::{Now, Timestamp},
};

use super::DynamoTasks;
use crate::table::{
    access::{Query, Range},
    attributes::number,
    in_order,
    keys::{self, Due},
    record::{KEEP, Record},
};

/// Rows that a look for lost doorbells reads at most.
const LOOKED_AT_MAX: usize = 10_000;
/// States whose rows a doorbell brings back.
const RINGING: [State; 3] = [State::Queued, State::Retrying, State::Scheduled];
/// Entries of an index a page.
const PAGE: usize = 100;

impl DynamoTasks {
    /// Tasks that are due for a reason, the longest due first.
    pub(super) async fn due(&self, why: Due, now: Timestamp, limit: usize) -> Result<Vec<TaskId>> {
        let query = |shard| {
            let mut query = Query::index("look for what is due", DUE, why.shard(shard), Range::UpTo(now.as_millis()));
            query.page = Some(limit.clamp(1, 1000));
            query
        };
        let queries: Vec<Query> = (0..SHARDS).map(query).collect();
        let mut found = Vec::new();
        for items in in_order(queries.iter().map(|query| self.table.items(query, limit)).collect()).await {
            found.extend(items?.iter().filter_map(|item| Some((number(item, DUE.sort)?, keys::id_of(item)?))));
        }
        found.sort_unstable();
        Ok(found.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    pub(super) async fn ended_leases(&self, limit: usize) -> Result<Vec<DueLease>> {
        let now = self.table.now().await?;
        let ids = self.due(Due::Lease, now.epoch, limit).await?;
        let rows = self.table.rows(&ids, now.epoch).await?;
        let mut due: Vec<DueLease> = rows
            .into_values()
            .filter_map(|Record { id, queue, row, .. }| {
                let hold = row.hold.filter(|hold| row.state == State::Running && hold.until <= now.lease)?;
                Some(DueLease { id, queue, fence: row.fence, until: hold.until, lease: hold.lease })
            })
            .collect();
        due.sort_by_key(|lease| lease.until);
        Ok(due)
    }

    pub(super) async fn unrung(&self, limit: usize) -> Result<Vec<DueRing>> {
        let now = self.table.now().await?.epoch;
        let ids = self.due(Due::Ring, now, limit).await?;
        let rows = self.table.rows(&ids, now).await?;
        let mut due: Vec<(Timestamp, Record)> = rows
            .into_values()
            .filter_map(|record| Some((record.row.ring_at.filter(|at| *at <= now)?, record)))
            .collect();
        due.sort_by_key(|(at, _)| *at);
        let specs = in_order(due.iter().map(|(_, record)| self.table.spec(record)).collect()).await;
        let mut rings = Vec::with_capacity(due.len());
        for ((_, Record { id, queue, row, .. }), spec) in due.into_iter().zip(specs) {
            let Some(spec) = spec? else {
                tracing::warn!(task.id = %id, queue.name = %queue, "task {id} cannot be rung: its envelope is gone");
                continue;
            };
            let (fence, rings_made, not_before) = (row.fence, row.rings, row.not_before);
            rings.push(DueRing { id, queue, fence, rings: rings_made, not_before, spec });
        }
        Ok(rings)
    }

    /// Brings back, or buries, one row whose lease has ended, if it is still as seen.
    pub(super) async fn reap_one(&self, lease: &DueLease) -> Result<Settled> {
        let reaped = self.change(lease.id, None, |record, now| {
            let settled = record.row.reap(lease.fence, lease.until, now)?;
            record.lose(now.epoch);
            if let Some(failure) = &settled.buried {
                record.fail(failure.clone());
            }
            record.close(now.epoch, KEEP);
            Ok(settled)
        });
        Ok(reaped.await?.0)
    }

    /// Notes that a doorbell is out. A row that has gone needs none.
    pub(super) async fn rung_one(&self, rung: Rung) -> Result<()> {
        let noted = self.change(rung.id, None, |record, _| {
            record.row.rung(rung.fence, rung.rings);
            Ok(())
        });
        match noted.await {
            Ok(_) | Err(StoreError::NoTask(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn ring_lost(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let until = self.table.now().await?.epoch.before(DOORBELL_PATIENCE);
        let lost = |record: &mut Record, now: Now| record.row.doorbell_lost(now.epoch);
        self.change_waiting(queue, &RINGING, until, limit, LOOKED_AT_MAX, lost).await
    }

    pub(super) async fn ring_aged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let until = self.table.now().await?.epoch.before(DOORBELL_AGE_MAX);
        let aged = |record: &mut Record, now: Now| record.row.doorbell_aged(now.epoch);
        self.change_waiting(queue, &RINGING, until, limit, LOOKED_AT_MAX, aged).await
    }

    /// Changes up to `limit` rows of a queue in these states that were accepted until then, the oldest of each
    /// shard first. `change` says whether it did; at most so many rows are looked at. Returns how many it changed.
    pub(super) async fn change_waiting(
        &self,
        queue: &QueueName,
        states: &[State],
        until: Timestamp,
        limit: usize,
        look_at: usize,
        change: impl Fn(&mut Record, Now) -> bool + Send + Sync,
    ) -> Result<u64> {
        let (mut changed, mut looked_at) = (0, 0);
        for partition in self.with_any(queue, states, until).await? {
            let mut query = Query::index("look through a queue", BY_STATE, partition, Range::UpTo(until.as_millis()));
            query.page = Some(PAGE);
            let mut start = None;
            loop {
                let (items, next) = self.table.page(&query, start).await?;
                let ids: Vec<TaskId> = items.iter().filter_map(keys::id_of).collect();
                looked_at += ids.len();
                changed += self.change_some(&ids, limit - changed, &change).await?;
                if changed >= limit || looked_at >= look_at {
                    return Ok(changed as u64);
                }
                start = next;
                if start.is_none() {
                    break;
                }
            }
        }
        Ok(changed as u64)
    }

    /// Changes up to `limit` of these rows.
    async fn change_some(
        &self,
        ids: &[TaskId],
        limit: usize,
        change: &(impl Fn(&mut Record, Now) -> bool + Send + Sync),
    ) -> Result<usize> {
        let now = self.table.now().await?;
        let rows = self.table.rows(ids, now.epoch).await?;
        let wanted = rows.into_values().filter(|record| change(&mut record.clone(), now)).take(limit);
        let changes = wanted
            .map(|record| self.change(record.id, Some(record), |record: &mut Record, now| Ok(change(record, now))));
        let mut count = 0;
        for done in in_order(changes.collect()).await {
            match done {
                Ok((true, _)) => count += 1,
                // It has changed, or gone, since it was read.
                Ok((false, _)) | Err(StoreError::NoTask(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}
