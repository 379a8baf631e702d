//! What a small index holds, by one request.
//!
//! Each queue, state and shard is a partition of the index by state, and most are empty: asked one by one, six queues
//! are over two hundred requests. So one request reads the whole of it where that is little, and only a larger one is
//! asked by partition. As an index does, it lags.

use std::collections::HashMap;

use rhubarb_core::{
    backend::Result,
    ids::QueueName,
    row::State,
    table::{BY_STATE, SHARDS},
    time::Timestamp,
};

use super::DynamoTasks;
use crate::table::{
    attributes::{number, text},
    keys,
};

/// Entries that one request reads: below the 1 MB that DynamoDB answers at most, and for fewer read units than a request
/// to each partition of six queues takes.
const ENTRIES_MAX: i32 = 5_000;

/// How many tasks each partition holds, and when the first of them was accepted.
#[derive(Debug, Default)]
pub(super) struct Small(HashMap<String, (u64, Timestamp)>);

impl Small {
    /// How many tasks of a queue are in a state, and when the first of them was accepted.
    pub(super) fn of(&self, queue: &QueueName, state: State) -> (u64, Option<Timestamp>) {
        let shards = (0..SHARDS).filter_map(|shard| self.0.get(&keys::state_shard(queue, state, shard)));
        shards
            .fold((0, None), |(count, oldest), (more, first)| (count + more, oldest.into_iter().chain([*first]).min()))
    }

    /// Whether a partition holds a task that was accepted until then.
    fn has_any(&self, partition: &str, until: Timestamp) -> bool {
        self.0.get(partition).is_some_and(|(_, first)| *first <= until)
    }
}

impl DynamoTasks {
    /// What the index by state holds; none where that is more than one request tells.
    pub(super) async fn small(&self, what: &str) -> Result<Option<Small>> {
        let Some(entries) = self.table.whole_index(what, BY_STATE, ENTRIES_MAX).await? else { return Ok(None) };
        let mut small = Small::default();
        for entry in &entries {
            let (name, at) = (text(entry, BY_STATE.partition), number(entry, BY_STATE.sort).map(Timestamp));
            let (Some(name), Some(at)) = (name, at) else { continue };
            let (count, first) = small.0.entry(name.to_owned()).or_insert((0, at));
            *count += 1;
            *first = at.min(*first);
        }
        Ok(Some(small))
    }

    /// The partitions of these states of a queue that may hold a task accepted until then.
    pub(super) async fn with_any(&self, queue: &QueueName, states: &[State], until: Timestamp) -> Result<Vec<String>> {
        let all = states.iter().flat_map(|state| (0..SHARDS).map(|shard| keys::state_shard(queue, *state, shard)));
        let Some(small) = self.small("look through a queue").await? else { return Ok(all.collect()) };
        Ok(all.filter(|partition| small.has_any(partition, until)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    use rhubarb_core::backend::{StateCount, Tasks as _};
    use serde_json::{Value, json};

    use super::*;
    use crate::table::answered::answered_by;

    const QUEUES: usize = 6;

    /// The counts of six queues where a scan of the index is answered so, and the requests that they took. Each
    /// partition that is asked for holds a task.
    async fn counted(scanned: Value) -> (Vec<StateCount>, u64) {
        let requests = Arc::new(AtomicU64::new(0));
        let asked = Arc::clone(&requests);
        let table = answered_by(move |operation, body| {
            asked.fetch_add(1, SeqCst);
            let queues = (0..QUEUES).map(|number| json!({"pk": {"S": "QUEUES"}, "sk": {"S": format!("q{number}")}}));
            let answer = match (operation, body["Select"] == "COUNT", body["IndexName"].is_null()) {
                ("Scan", ..) => scanned.clone(),
                (_, true, _) => json!({"Count": 1}),
                (_, false, true) => json!({"Items": queues.collect::<Vec<Value>>()}),
                (_, false, false) => json!({"Items": [{"submitted": {"N": "7"}}]}),
            };
            (200, answer)
        });
        let counts = DynamoTasks::new(table).count().await.unwrap();
        (counts, requests.load(SeqCst))
    }

    fn entry(partition: &str, at: i64) -> Value {
        json!({"state_shard": {"S": partition}, "submitted": {"N": at.to_string()}})
    }

    #[tokio::test]
    async fn a_small_table_is_counted_by_two_requests() {
        let queue = QueueName::new("q3").unwrap();
        let [first, last] = [0, SHARDS - 1].map(|shard| keys::state_shard(&queue, State::Queued, shard));
        let entries = [entry(&last, 5), entry(&first, 9), entry(&last, 6), entry("gone#queued#0", 1)];
        let (counts, requests) = counted(json!({"Items": entries})).await;
        let expected = StateCount { queue, state: State::Queued, count: 3, oldest: Some(Timestamp(5)) };
        assert_eq!((counts, requests), (vec![expected], 2));
    }

    #[tokio::test]
    async fn a_table_that_one_request_does_not_tell_is_counted_by_partition() {
        let (counts, requests) = counted(json!({"Items": [], "LastEvaluatedKey": entry("x", 1)})).await;
        assert_eq!(counts.len(), QUEUES * State::ALL.len());
        let (count, oldest) = (u64::from(SHARDS), Some(Timestamp(7)));
        assert!(counts.iter().all(|of| (of.count, of.oldest) == (count, oldest)), "{counts:?}");
        let partitions = (QUEUES * State::ALL.len()) as u64 * count;
        assert_eq!(requests, 2 + 2 * partitions, "each for its number and its first");
    }
}
