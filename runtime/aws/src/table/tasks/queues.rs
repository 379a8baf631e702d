//! What is kept about queues: that they are there, paused or not, and when they were purged.

use aws_sdk_dynamodb::types::AttributeValue;
use rhubarb_core::{
    backend::{QueueRow, Result},
    ids::QueueName,
    table::{PARTITION, SORT},
    time::Timestamp,
};

use super::DynamoTasks;
use crate::table::{
    Expression,
    access::Query,
    attributes::{damaged, n, number, text},
    keys,
};

const PAUSED: &str = "paused";
const PURGED_BEFORE: &str = "purged_before";

impl DynamoTasks {
    /// Puts a queue's row before its first task's, once a process: listings and counts begin with them.
    pub(super) async fn meet(&self, queue: &QueueName) -> Result<()> {
        if self.known().queues.contains(queue) {
            return Ok(());
        }
        let only = Expression::new().only_if(|e| format!("attribute_not_exists({})", e.name(PARTITION)));
        self.table.put("put a queue's row", keys::of(keys::QUEUES, queue.as_str()), &only).await?;
        self.known().queues.insert(queue.clone());
        Ok(())
    }

    pub(super) async fn queue_rows(&self) -> Result<Vec<QueueRow>> {
        let items = self.table.items(&Query::partition("read queues", keys::QUEUES), usize::MAX).await?;
        let row = |item| {
            let queue = QueueName::new(text(item, SORT).unwrap_or_default()).map_err(|error| damaged(&error))?;
            let paused = matches!(item.get(PAUSED), Some(AttributeValue::Bool(true)));
            Ok(QueueRow { queue, paused, purged_before: number(item, PURGED_BEFORE).map(Timestamp) })
        };
        items.iter().map(row).collect()
    }

    pub(super) async fn purged_before(&self, queue: &QueueName) -> Result<Option<Timestamp>> {
        let row = self.table.get("read a queue's row", keys::of(keys::QUEUES, queue.as_str())).await?;
        Ok(row.and_then(|row| number(&row, PURGED_BEFORE)).map(Timestamp))
    }

    pub(super) async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let change = Expression::new().set(PAUSED, AttributeValue::Bool(paused));
        self.table.update("pause a queue", keys::of(keys::QUEUES, queue.as_str()), &change).await?;
        Ok(())
    }

    pub(super) async fn set_purged(&self, queue: &QueueName) -> Result<Timestamp> {
        let now = self.table.now().await?.epoch;
        let change = Expression::new().set(PURGED_BEFORE, n(now.as_millis()));
        self.table.update("note a purge", keys::of(keys::QUEUES, queue.as_str()), &change).await?;
        Ok(now)
    }
}
