//! Forgetting: records to tombstones, which DynamoDB deletes by their TTL.
//!
//! The row goes first, under its conditions: a task that was brought back meanwhile keeps everything. It stays in
//! the index of what is due until the items beside it are gone, so that a crash between the two leaves nothing
//! behind but blobs, which the bucket's lifecycle takes.

use rhubarb_core::{
    backend::{Result, StoreError},
    envelope::{BlobRef, Envelope},
    ids::TaskId,
    row::{Refused, State},
    time::Timestamp,
};

use super::{DynamoTasks, PAUSE, TRIES};
use crate::table::{
    Expression,
    access::Query,
    attributes::{Item, from_item, s},
    batch::pause,
    in_order,
    keys::{self, Due},
    rows::{Saved, Whole},
};

impl DynamoTasks {
    pub(super) async fn forget_some(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)> {
        let now = self.table.now().await?.epoch;
        let due = self.due(Due::Keep, now, limit).await?;
        let (mut count, mut blobs) = (0, Vec::new());
        for forgotten in in_order(due.into_iter().map(|id| self.forget_one(id)).collect()).await {
            if let Some(named) = forgotten? {
                count += 1;
                blobs.extend(named);
            }
        }
        blobs.extend(self.take_strays(limit).await?);
        Ok((count, blobs))
    }

    /// Forgets one record if its time has passed. Returns the blobs that it named.
    async fn forget_one(&self, id: TaskId) -> Result<Option<Vec<BlobRef>>> {
        let now = self.table.now().await?.epoch;
        let Some(whole) = self.table.whole(id, now).await? else { return Ok(None) };
        if whole.record.forget_at.is_none_or(|at| at > now) || !whole.record.row.state.is_settled() {
            return Ok(None);
        }
        self.forget_whole(whole, now).await
    }

    /// Forgets one failed task before its time. Returns the blobs that nothing names any more.
    pub(super) async fn discard_one(&self, id: TaskId) -> Result<Vec<BlobRef>> {
        for tried in 0..TRIES {
            let now = self.table.now().await?.epoch;
            let whole = self.table.whole(id, now).await?.filter(|whole| !whole.record.tombstone);
            let whole = whole.ok_or(StoreError::NoTask(id))?;
            let row = &whole.record.row;
            if row.state != State::Failed {
                return Err(Refused { state: row.state, fence: row.fence }.into());
            }
            if let Some(blobs) = self.forget_whole(whole, now).await? {
                return Ok(blobs);
            }
            pause(PAUSE, tried).await;
        }
        Err(self.contended("discard a task"))
    }

    /// Forgets a record, if it is still as it was read: the row first, then what is beside it.
    async fn forget_whole(&self, whole: Whole, now: Timestamp) -> Result<Option<Vec<BlobRef>>> {
        let Whole { mut record, spec, beside, .. } = whole;
        let id = record.id;
        let envelope = spec.and_then(|spec| Envelope::decode_full(&spec).ok());
        let blobs = record.blobs(envelope.as_ref());
        record.strip(beside.is_empty());
        if let Saved::Differs(_) = self.table.save(&mut record, now).await? {
            return Ok(None);
        }
        if let Some(key) = envelope.as_ref().and_then(|envelope| envelope.idempotency_key.as_ref()) {
            self.forget_key(id, keys::of(keys::key(&record.task, key), keys::KEY)).await?;
        }
        if !beside.is_empty() {
            self.table.delete_many("forget a task", &beside).await?;
            record.strip(true);
            self.table.save(&mut record, now).await?;
        }
        if record.ttl.is_some_and(|ttl| ttl.saturating_mul(1000) <= now.as_millis()) {
            self.table.delete_row(&record).await?;
        }
        Ok(Some(blobs))
    }

    /// Deletes a key that lasts until its task is settled. One with an end of its own has a TTL.
    async fn forget_key(&self, id: TaskId, key: Item) -> Result<()> {
        let mine = Expression::new().is("first", s(id.to_string()));
        let only = mine.only_if(|e| format!("attribute_not_exists({})", e.name("held_until")));
        self.table.delete("forget an idempotency key", key, &only).await?;
        Ok(())
    }

    /// Takes blobs that nothing names any more.
    async fn take_strays(&self, limit: usize) -> Result<Vec<BlobRef>> {
        let mut query = Query::partition("look for stray blobs", keys::STRAYS);
        query.page = Some(limit.clamp(1, 1000));
        let strays = self.table.items(&query, limit).await?;
        let blobs: Vec<BlobRef> = strays.iter().map(from_item).collect::<Result<_>>()?;
        let keys: Vec<Item> = strays.iter().map(keys::key_of).collect();
        self.table.delete_many("take stray blobs", &keys).await?;
        Ok(blobs)
    }
}
