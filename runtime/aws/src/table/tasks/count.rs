//! Counting tasks by queue and state in the index, without reading a row.

use rhubarb_core::{
    backend::{Glance, Result, StateCount},
    ids::QueueName,
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

    async fn count_one(&self, queue: &QueueName, state: State) -> Result<Option<StateCount>> {
        let (mut count, mut oldest) = (0, None);
        for shard in 0..SHARDS {
            let partition = keys::state_shard(queue, state, shard);
            let mut query = Query::index("count tasks", BY_STATE, partition, Range::All);
            let in_shard = self.table.number_of(&query).await?;
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
