//! Many items a request: reads of 100, deletes of 25, and what DynamoDB leaves unprocessed asked for again.
//!
//! A batch is answered in part where the table is throttled. The rest is tried again with growing, jittered
//! pauses; after [`TRIES`] in a row that brought nothing the caller is told that the store is out of reach.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, WriteRequest};
use rhubarb_core::{
    backend::{Result, StoreError},
    ids::TaskId,
    table::PARTITION,
    time::Timestamp,
};

use super::{
    Table,
    attributes::{Item, text},
    in_order, keys,
    record::Record,
};
use crate::error::store_error;

/// Keys of one read (DynamoDB: `BatchGetItem`).
const READ_MAX: usize = 100;
/// Writes of one request (DynamoDB: `BatchWriteItem`).
const WRITE_MAX: usize = 25;
/// Tries in a row that bring nothing.
const TRIES: u32 = 8;
/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);

/// A pause before another try: between half of its length and all of it, so that those who were refused together
/// do not come back together.
pub(crate) async fn pause(first: Duration, tried: u32) {
    let longest = first * 2_u32.saturating_pow(tried.min(6));
    tokio::time::sleep(longest.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
}

impl Table {
    /// Reads the rows of tasks as they are now. Those that are not there are left out.
    pub(crate) async fn rows(&self, ids: &[TaskId], now: Timestamp) -> Result<HashMap<TaskId, Record>> {
        let keys = ids.iter().map(|id| keys::of(keys::task(*id), keys::ROW)).collect();
        let mut rows = HashMap::with_capacity(ids.len());
        for item in self.read_many("read tasks", keys).await? {
            if let Some(record) = Record::decode(item, now)? {
                rows.insert(record.id, record);
            }
        }
        Ok(rows)
    }

    /// Reads items of different partitions by their keys, which may repeat, in any order.
    async fn read_many(&self, what: &str, keys: Vec<Item>) -> Result<Vec<Item>> {
        // A key that repeats is refused by the service.
        let mut seen = HashSet::new();
        let mut keys = keys;
        keys.retain(|key| seen.insert(text(key, PARTITION).map(str::to_owned)));
        let chunks: Vec<Vec<Item>> = keys.chunks(READ_MAX).map(<[Item]>::to_vec).collect();
        let reads: Vec<_> = chunks.into_iter().map(|chunk| self.read_chunk(what, chunk)).collect();
        let mut found = Vec::new();
        for items in in_order(reads).await {
            found.extend(items?);
        }
        Ok(found)
    }

    async fn read_chunk(&self, what: &str, keys: Vec<Item>) -> Result<Vec<Item>> {
        let mut found = Vec::with_capacity(keys.len());
        let (mut left, mut in_vain) = (keys, 0);
        while !left.is_empty() {
            let asked = left.len();
            let request = KeysAndAttributes::builder().set_keys(Some(left)).consistent_read(true).build();
            let request = request.map_err(|error| StoreError::unreachable(self.what(what), error))?;
            let answer = self.inner.client.batch_get_item().request_items(&self.inner.name, request).send().await;
            let answer = answer.map_err(|error| store_error(self.what(what), &error))?;
            found.extend(answer.responses.into_iter().flatten().flat_map(|(_, items)| items));
            left = answer.unprocessed_keys.into_iter().flatten().flat_map(|(_, rest)| rest.keys).collect();
            in_vain = self.after_part(what, asked, left.len(), in_vain).await?;
        }
        Ok(found)
    }

    /// Deletes items by their keys.
    pub(crate) async fn delete_many(&self, what: &str, keys: &[Item]) -> Result<()> {
        for chunk in keys.chunks(WRITE_MAX) {
            let mut left = Vec::with_capacity(chunk.len());
            for key in chunk {
                let delete = DeleteRequest::builder().set_key(Some(key.clone())).build();
                let delete = delete.map_err(|error| StoreError::unreachable(self.what(what), error))?;
                left.push(WriteRequest::builder().delete_request(delete).build());
            }
            let mut in_vain = 0;
            while !left.is_empty() {
                let asked = left.len();
                let answer = self.inner.client.batch_write_item().request_items(&self.inner.name, left).send().await;
                let answer = answer.map_err(|error| store_error(self.what(what), &error))?;
                left = answer.unprocessed_items.into_iter().flatten().flat_map(|(_, rest)| rest).collect();
                in_vain = self.after_part(what, asked, left.len(), in_vain).await?;
            }
        }
        Ok(())
    }

    /// Pauses where something was left. Returns how many tries in a row have brought nothing.
    async fn after_part(&self, what: &str, asked: usize, left: usize, in_vain: u32) -> Result<u32> {
        if left == 0 {
            return Ok(0);
        }
        let in_vain = if left < asked { 0 } else { in_vain + 1 };
        if in_vain >= TRIES {
            let cause = std::io::Error::other("the table is throttled: each try was left unprocessed");
            return Err(StoreError::unreachable(self.what(what), cause));
        }
        pause(PAUSE, in_vain).await;
        Ok(in_vain)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::{Value, json};

    use super::*;
    use crate::table::{answered::answered_by, attributes::s};

    /// A table behind a server that answers each request with what `answer` makes of it.
    fn table(answer: impl Fn(usize, Value) -> Value + Send + Sync + 'static) -> (Table, Arc<AtomicUsize>) {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let table = answered_by(move |_, body| (200, answer(count.fetch_add(1, Ordering::SeqCst), body)));
        (table, requests)
    }

    fn some_keys(count: usize) -> Vec<Item> {
        (0..count).map(|number| keys::of(format!("T#{number}"), keys::ROW)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_read_leaves_unprocessed_is_asked_for_again() {
        let (table, requests) = table(|_, body| {
            let keys = body["RequestItems"]["table"]["Keys"].as_array().unwrap();
            assert!(keys.len() <= READ_MAX);
            let (now, later) = keys.split_at(keys.len().min(60));
            let left = if later.is_empty() { json!({}) } else { json!({"table": {"Keys": later}}) };
            json!({"Responses": {"table": now}, "UnprocessedKeys": left})
        });
        let mut asked = some_keys(150);
        asked.push(asked[0].clone());
        let found = table.read_many("read", asked).await.unwrap();
        assert_eq!(found.len(), 150);
        assert_eq!(requests.load(Ordering::SeqCst), 3, "100 in two parts, 50 in one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_delete_leaves_unprocessed_is_deleted_later() {
        let (table, requests) = table(|number, body| {
            let deletes = body["RequestItems"]["table"].as_array().unwrap();
            assert!(deletes.len() <= WRITE_MAX);
            json!({"UnprocessedItems": if number == 0 { json!({"table": deletes[..5]}) } else { json!({}) }})
        });
        table.delete_many("delete", &some_keys(30)).await.unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), 3, "25, the 5 that were left, and the last 5");
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_stays_throttled_is_out_of_reach() {
        let (table, requests) = table(
            |_, body| json!({"Responses": {}, "UnprocessedKeys": {"table": {"Keys": body["RequestItems"]["table"]["Keys"]}}}),
        );
        let error = table.read_many("read tasks", some_keys(1)).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(requests.load(Ordering::SeqCst), TRIES as usize);
    }

    #[tokio::test]
    async fn a_row_that_is_none_of_ours_is_told() {
        let (table, _) = table(|_, _| json!({"Responses": {"table": [{"pk": {"S": "T#1"}, "sk": {"S": "row"}}]}}));
        let error = table.rows(&[TaskId::mint()], Timestamp(0)).await.unwrap_err();
        assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");
        assert_eq!(some_keys(1)[0][PARTITION], s("T#0"));
    }
}
