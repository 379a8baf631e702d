//! Counting tasks by queue and state in the index, without reading a row.

use rhubarb_core::{
    backend::{Glance, Result, StateCount},
    ids::QueueName,
    permit::{COUNTED_MAX, Meter, PermitCounts, QueueLimits, Scope, ScopeCounts},
    row::State,
    table::{BY_STATE, SHARDS},
    time::Timestamp,
};

use super::DynamoTasks;
use crate::table::{
    access::{Query, Range},
    attributes::number,
    in_order, keys,
};

/// Of what is counted at a beat.
const COUNTED_IN_SHARD_MAX: u32 = COUNTED_MAX as u32 / SHARDS as u32;

impl DynamoTasks {
    pub(super) async fn count_all(&self) -> Result<Vec<StateCount>> {
        let queues = self.queue_rows().await?;
        let pairs = queues.iter().flat_map(|row| State::ALL.map(|state| (&row.queue, state)));
        if let Some(small) = self.small("count tasks").await? {
            let count = |(queue, state): (&QueueName, State)| {
                let (count, oldest) = small.of(queue, state);
                (count > 0).then(|| StateCount { queue: queue.clone(), state, count, oldest })
            };
            return Ok(pairs.filter_map(count).collect());
        }
        let counts = in_order(pairs.map(|(queue, state)| self.count_one(queue, state)).collect()).await;
        let counts: Result<Vec<Option<StateCount>>> = counts.into_iter().collect();
        Ok(counts?.into_iter().flatten().collect())
    }

    /// When the first queued task of each queue was accepted: one key of each shard.
    pub(super) async fn glance_all(&self, queues: &[QueueName]) -> Result<Vec<Glance>> {
        in_order(queues.iter().map(|queue| self.glance_one(queue)).collect()).await.into_iter().collect()
    }

    async fn glance_one(&self, queue: &QueueName) -> Result<Glance> {
        let mut oldest = None;
        for shard in 0..SHARDS {
            let partition = keys::state_shard(queue, State::Queued, shard);
            let mut query = Query::index("find the oldest task", BY_STATE, partition, Range::All);
            query.page = Some(1);
            let first = self.table.items(&query, 1).await?;
            let first = first.first().and_then(|item| number(item, BY_STATE.sort)).map(Timestamp);
            oldest = first.into_iter().chain(oldest).min();
        }
        Ok(Glance { states: Vec::new(), oldest })
    }

    /// Each queue's own meter, and of parked tasks those that wait for a key: all that wait but those that wait for
    /// the queue. What runs of the keys stands in a meter for each, and nothing lists those.
    pub(super) async fn permits_all(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>> {
        in_order(queues.iter().map(|(queue, limits)| self.permits_of(queue, limits)).collect())
            .await
            .into_iter()
            .collect()
    }

    async fn permits_of(&self, queue: &QueueName, limits: &QueueLimits) -> Result<PermitCounts> {
        let meter = match limits.queue.is_none() {
            true => Meter::default(),
            false => self.table.meter(&(queue.clone(), None)).await?,
        };
        let mut counts = PermitCounts::of(limits, [(Scope::Queue, &meter)]);
        if let Some(key) = &mut counts.key {
            let waiting = self.waiting_about(queue).await?;
            *key = ScopeCounts { taken: None, parked: waiting.saturating_sub(u64::from(meter.parked)) };
        }
        Ok(counts)
    }

    async fn waiting_about(&self, queue: &QueueName) -> Result<u64> {
        let mut waiting = 0;
        for shard in 0..SHARDS {
            let partition = keys::state_shard(queue, State::Waiting, shard);
            let query = Query::index("count waiting tasks", BY_STATE, partition, Range::All);
            waiting += self.table.number_of(&query, Some(COUNTED_IN_SHARD_MAX)).await?;
        }
        Ok(waiting)
    }

    async fn count_one(&self, queue: &QueueName, state: State) -> Result<Option<StateCount>> {
        let (mut count, mut oldest) = (0, None);
        for shard in 0..SHARDS {
            let partition = keys::state_shard(queue, state, shard);
            let mut query = Query::index("count tasks", BY_STATE, partition, Range::All);
            let in_shard = self.table.number_of(&query, None).await?;
            if in_shard > 0 {
                count += in_shard;
                query.page = Some(1);
                let first = self.table.items(&query, 1).await?;
                let first = first.first().and_then(|item| number(item, BY_STATE.sort)).map(Timestamp);
                oldest = first.into_iter().chain(oldest).min();
            }
        }
        Ok((count > 0).then(|| StateCount { queue: queue.clone(), state, count, oldest }))
    }
}
